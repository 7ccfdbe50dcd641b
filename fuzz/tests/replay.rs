//! Every committed input keeps every promise, without a fuzzer.

use std::path::Path;

use aegis_core::epoch::Epoch;
use aegis_core::fleet_file::FleetFile;

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "no corpus in {}", folder.display());
    for file in files {
        println!("{}", file.display());
        aegis_fuzz::replay(target, [file]).unwrap();
    }
}

#[test]
fn fleet_files_are_read_or_refused() {
    replay("fleet_file", aegis_fuzz::fleet_file);
}

#[test]
fn bundles_are_canonical_or_refused() {
    replay("bundle", aegis_fuzz::bundle);
}

#[test]
fn images_are_canonical_or_refused() {
    replay("image", aegis_fuzz::image);
}

#[test]
fn table_batches_and_image_answer_as_the_layout() {
    replay("lookup", aegis_fuzz::lookup);
}

#[test]
fn the_lease_table_grants_nothing_twice_and_refuses_nobody_falsely() {
    replay("lease_ops", aegis_fuzz::lease_ops);
}

#[test]
fn hostile_memory_panics_nobody_and_hangs_nobody() {
    replay("lease_memory", aegis_fuzz::lease_memory);
}

#[test]
fn handovers_never_let_two_machines_grant_a_port() {
    replay("handover", aegis_fuzz::handover);
}

/// Bundles that are accepted, what is wrong in one place, and what is another file: as they are written now. Seeds of a
/// form that nobody reads any more would test nothing. `AEGIS_REWRITE_SEEDS=1` writes them.
#[test]
fn the_seeds_of_bundles_are_of_the_form_that_is_read() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let made = |file: &str| {
        let text = std::fs::read_to_string(corpus.join("fleet_file").join(file)).unwrap();
        let file = FleetFile::parse(file, &text).unwrap();
        let layout = file.layout(None, Epoch::new(1)).unwrap();
        (file.bundle(&"fra-m01".parse().unwrap(), &layout).unwrap().to_bytes(), layout.to_bytes())
    };
    let ((v4, layout), (both, _)) = (made("one-address.toml"), made("everything.toml"));
    let change = |at: usize, by: u8| {
        let mut bytes = v4.clone();
        bytes[at] = bytes[at].wrapping_add(by);
        bytes
    };
    for (name, bytes) in [
        ("v4", v4.clone()),
        ("v4-and-v6", both),
        ("layout-not-bundle", layout),
        ("v4-damaged", change(v4.len() / 2, 1)),
        ("v4-newer-version", change(4, 1)),
        ("v4-truncated", v4[..v4.len() / 2].to_vec()),
    ] {
        let path = corpus.join("bundle").join(name);
        if std::env::var_os("AEGIS_REWRITE_SEEDS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == bytes, "{name} is not what would be written now");
    }
}

/// What the fuzzer does, for those who have none: `AEGIS_RANDOM_INPUTS=100000` for more.
fn random_inputs(length: usize, target: fn(&[u8])) {
    let inputs: u64 = std::env::var("AEGIS_RANDOM_INPUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    for seed in 1..=inputs {
        // xorshift64: the input's name in a failure is its seed.
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut input = vec![0; length];
        for byte in &mut input {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            *byte = (random >> 32) as u8;
        }
        println!("seed {seed}");
        target(&input);
    }
}

#[test]
fn random_changes_of_the_memory_panic_nobody() {
    random_inputs(600, aegis_fuzz::lease_memory);
}

#[test]
fn random_layouts_have_one_owner_whoever_is_asked() {
    random_inputs(400, aegis_fuzz::lookup);
}
