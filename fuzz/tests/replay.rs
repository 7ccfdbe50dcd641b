//! Every committed input keeps every promise, without a fuzzer.

use std::path::Path;

use aegis_core::epoch::Epoch;
use aegis_core::fleet_file::FleetFile;
use aegis_core::net::{Origin, Protocol};
use aegis_core::usage::{Outbox, Period, Record, Refused, Subject, Then, write_ndjson};

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
fn traces_are_read_or_refused_and_replayed_without_a_loss() {
    replay("trace", aegis_fuzz::trace);
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

#[test]
fn reports_are_read_or_refused_and_counted_once() {
    replay("report", aegis_fuzz::report);
}

/// Seeds that are refused would test little: the good ones are as they are written now. `AEGIS_REWRITE_SEEDS=1` writes
/// them.
#[test]
fn the_seeds_of_reports_are_of_the_form_that_is_read() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join("report");
    let millis = 1_736_467_500_000;
    let record = |subject, ports: u32, length: u64| Record {
        subject,
        port_millis: u64::from(ports) * length,
        min: ports / 2,
        max: ports,
        live: ports,
        held: 0,
        resting: 7,
        parked: 1,
        capacity: 2_048,
        granted: 9,
        refused: Refused { exhausted: 3, quota: 1, ..Refused::default() },
    };
    let source = |ip: &str, origin: Option<&str>| Subject::Source {
        egress_ip: ip.parse().unwrap(),
        origin: origin.map(|origin| Origin::new(Protocol::Udp, origin.parse().unwrap()).unwrap()),
        account: Some("acme".parse().unwrap()),
        zone: Some("www.acme.example".parse().unwrap()),
    };
    let zone = Subject::Zone { zone: "www.acme.example".parse().unwrap(), account: "acme".parse().unwrap() };
    let mut outbox =
        Outbox::new("sjc-m01".parse().unwrap(), "sjc".parse().unwrap(), millis, Some(millis - 1), 2);
    let mut push = |start: u64, length: u64, subjects: &[Subject], then| {
        let period = Period::new(millis + start, millis + start + length).unwrap();
        let records = subjects.iter().map(|subject| record(subject.clone(), 600, length)).collect();
        outbox.push(1, period, records, then).unwrap().clone()
    };
    let four = source("192.0.2.1", Some("203.0.113.150:443"));
    let six = source("2001:db8::1", Some("[2001:db8:1::2]:443"));
    let one = push(0, 60_000, std::slice::from_ref(&four), Then::GoesOn);
    let spans = push(60_000, 999_999, &[four, source("192.0.2.1", None), six, zone], Then::GoesOn);
    let nothing = push(1_059_999, 1, &[], Then::Ends);
    for (name, reports) in [
        ("one-record", vec![&one]),
        ("spans-buckets", vec![&spans]),
        ("nothing-to-report", vec![&nothing]),
        ("twice-and-out-of-order", vec![&nothing, &one, &one]),
    ] {
        let mut text = String::new();
        write_ndjson(&mut text, reports).unwrap();
        for (name, text) in
            [(name.to_owned(), text.clone()), (format!("{name}-truncated"), text[..text.len() - 9].into())]
        {
            let path = corpus.join(&name);
            if std::env::var_os("AEGIS_REWRITE_SEEDS").is_some() {
                std::fs::create_dir_all(&corpus).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            assert!(
                std::fs::read_to_string(&path).unwrap() == text,
                "{name} is not what would be written now"
            );
        }
    }
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
