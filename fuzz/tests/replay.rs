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
fn the_lease_table_grants_nothing_twice_and_refuses_nobody_falsely() {
    replay("lease_ops", aegis_fuzz::lease_ops);
}
