//! What the demo prints and writes at the end.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;
use crate::play::Outcome;

/// Prints how full the shares are, and writes the usage into `out`.
pub(crate) fn full_shares(outcome: &Outcome, out: &Path) -> Result<()> {
    let mut json_lines = String::new();
    for machine in &outcome.machines {
        for line in machine.json_lines.lines() {
            let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line)?;
            row.insert("machine".into(), machine.id.as_str().into());
            json_lines.push_str(&serde_json::to_string(&row)?);
            json_lines.push('\n');
        }
        std::fs::write(out.join(format!("{}.openmetrics", machine.id)), &machine.open_metrics)?;
    }
    std::fs::write(out.join("usage.jsonl"), json_lines)?;

    println!();
    println!("The next connection of a full share is refused:");
    println!("  {}", outcome.refusal);
    println!();
    table(outcome);
    println!();
    println!("Usage of every machine: {0}/usage.jsonl and {0}/MACHINE.openmetrics", out.display());
    println!();
    Ok(())
}

/// Prints the verdict; true if all was right.
pub(crate) fn verdict(outcome: &Outcome) -> bool {
    let mut violations = outcome.violations.clone();
    let sum = |of: fn(&crate::messages::Seen) -> u32| outcome.origins.iter().map(of).sum::<u32>();
    let (connections, right, wrong) = (sum(|s| s.connections), sum(|s| s.right), sum(|s| s.wrong));
    let duplicates = sum(|s| s.duplicates);
    let rechecked: u64 = outcome.origins.iter().map(|seen| seen.rechecked).sum();
    violations.extend(outcome.origins.iter().filter_map(|seen| seen.first_wrong.clone()));
    violations.extend(outcome.origins.iter().filter_map(|seen| seen.first_astray.clone()));
    if duplicates > 0 {
        violations.push(format!("{duplicates} connections came from a source that was in use"));
    }
    for violation in &violations {
        println!("VIOLATION: {violation}");
    }
    println!();
    let fine = violations.is_empty() && wrong == 0;
    println!(
        "{}: {connections} connections of {} machines, owner lookups {right} right {wrong} wrong, {rechecked} looked up \
         again {} wrong, {duplicates} duplicates, {} violations, {:.1} s",
        if fine { "ALL RIGHT" } else { "WRONG" },
        outcome.played,
        sum(|s| s.astray),
        violations.len(),
        outcome.took.as_secs_f64()
    );
    fine
}

/// One row for each egress IP and origin: all machines together.
fn table(outcome: &Outcome) {
    #[derive(Default)]
    struct Sum {
        live: u32,
        held: u32,
        parked: u32,
        peak: u32,
        capacity: u32,
        refused: u64,
    }
    let mut sums = BTreeMap::<(String, String), Sum>::new();
    for row in outcome.machines.iter().flat_map(|machine| &machine.rows) {
        let Some((protocol, address)) = &row.origin else { continue };
        let sum = sums.entry((row.egress_ip.to_string(), format!("{protocol} {address}"))).or_default();
        sum.live += row.live;
        sum.held += row.held;
        sum.parked += row.parked;
        sum.peak += row.peak;
        sum.capacity += row.capacity;
        sum.refused += row.refused;
    }
    let line = "-".repeat(96);
    println!(
        "{:<15} {:<24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "egress IP", "origin", "in use", "parked", "peak", "capacity", "percent", "refused"
    );
    println!("{line}");
    for ((egress_ip, origin), sum) in sums {
        let percent = 100.0 * f64::from(sum.live + sum.held) / f64::from(sum.capacity.max(1));
        println!(
            "{egress_ip:<15} {origin:<24} {:>8} {:>8} {:>8} {:>8} {percent:>8.2} {:>8}",
            sum.live + sum.held,
            sum.parked,
            sum.peak,
            sum.capacity,
            sum.refused
        );
    }
    println!("{line}");
}
