//! The hot paths cost no more instructions than they did. Counted by callgrind, so no busy machine disturbs it.
//!
//! Skipped, loudly, where valgrind or the release build is missing.

#![expect(clippy::print_stdout, reason = "the counts are for whoever changes a limit")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_benches::count::{COUNTED, LOOPS};

/// Instructions that one operation of each loop may take: what it took when this was written, and 5 %.
///
/// Too many? Find out why (`callgrind_annotate`) before you raise a limit, and say it in the commit. Fewer? Lower the
/// limit: `cargo test -p aegis-benches --test instructions -- --nocapture` prints what to write here. A new compiler
/// may move all of them a little.
const LIMITS: [(&str, u64); LOOPS.len()] = [
    ("handle, 0 % full", 800),
    ("handle, 50 % full", 837),
    ("handle, 80 % full", 848),
    ("handle, 99 % full", 1_155),
    ("handle, 50 % full, rest off", 906),
    ("ip:port, 50 % full", 907),
    ("refusal, 2,048 ports", 345),
    ("refusal, 63,488 ports", 1_510),
    ("owner, independent", 31),
];

const OPERATIONS: u64 = 10_240;

#[test]
fn the_hot_paths_cost_no_more_instructions_than_they_did() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        let _ = writeln!(std::io::stderr(), "!! SKIPPED instruction counts: there is no valgrind");
        return;
    }
    let Some(program) = release_build() else {
        let _ = writeln!(std::io::stderr(), "!! SKIPPED instruction counts: the release build failed");
        return;
    };
    assert_eq!(LIMITS.map(|limit| limit.0), LOOPS, "a limit for every loop");
    let mut faults = Vec::new();
    for (name, limit) in LIMITS {
        let instructions = count(&program, name) / OPERATIONS;
        let line = format!("{name:28} {instructions:6} instructions, limit {limit}");
        println!("{line}; five percent more are {}", instructions + instructions.div_ceil(20));
        if instructions > limit {
            faults.push(line);
        }
    }
    assert!(faults.is_empty(), "more than they may be:\n{}", faults.join("\n"));
}

/// What users run: a test build has assertions that the hot paths would pay for.
fn release_build() -> Option<PathBuf> {
    let tested = Path::new(env!("CARGO_BIN_EXE_aegis-benches"));
    // target/debug/aegis-benches, or target/TRIPLE/debug/aegis-benches.
    let target = tested.parent()?.parent()?;
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--release", "--bin", "aegis-benches", "--target-dir"]).arg(target);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    build.status().ok()?.success().then(|| target.join("release").join("aegis-benches"))
}

fn count(program: &Path, name: &str) -> u64 {
    let out = std::env::temp_dir().join(format!("aegis-callgrind-{}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED}*"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["--child", "count", name, &OPERATIONS.to_string()])
        .output()
        .expect("valgrind was there a moment ago");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    let profile = std::fs::read_to_string(&out).expect("callgrind writes a profile");
    std::fs::remove_file(&out).expect("it is ours");
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    let counted = totals.and_then(|totals| totals.trim().parse().ok()).unwrap_or(0);
    assert!(counted > OPERATIONS, "{name}: nothing was counted in {COUNTED}: {said}");
    counted
}
