//! Every committed input keeps every promise, without a fuzzer.

use std::path::Path;

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
