//! Not the mean but the worst of a hundred, and of a thousand.

use std::time::Duration;

use aegis_benches::apply::{Meanwhile, first_after, slowest};
use aegis_benches::{
    Access, Churn, Contender, DashSet, Empty, Ours, PapayaSet, Resting, SccSet, Sets, Sharded, Tails,
};

use crate::pairs::ONE_SHARE;
use crate::table::{Cells, Run, Table, nanos};

const COLUMNS: [&str; 7] =
    ["ours", "ours, rest off", "64-shard set", "dashmap", "scc", "papaya", "empty loop (subtracted)"];

pub(crate) fn table() -> Table {
    Table {
        cells: "nanoseconds, median / p99 / p99.9 of single pairs",
        columns: COLUMNS.to_vec(),
        rows: vec![("tail, 2,048 ports, 99 % full".into(), Box::new(row))],
        note: None,
    }
}

fn row(run: &Run) -> Cells {
    fn churn<C: Contender>(contender: C, leases: u32) -> Churn<C> {
        Churn::new(contender, ONE_SHARE, leases)
    }
    let leases = ONE_SHARE.ports() * 99 / 100;
    let access = Access::Handle;
    let mut tails = Tails::default();
    tails.enter(COLUMNS[0], churn(Ours::new(ONE_SHARE, access, Resting::Default), leases));
    tails.enter(COLUMNS[1], churn(Ours::new(ONE_SHARE, access, Resting::Off), leases));
    tails.enter(COLUMNS[2], churn(Sets::<Sharded<64>>::new(ONE_SHARE), leases));
    tails.enter(COLUMNS[3], churn(Sets::<DashSet>::new(ONE_SHARE), leases));
    tails.enter(COLUMNS[4], churn(Sets::<SccSet>::new(ONE_SHARE), leases));
    tails.enter(COLUMNS[5], churn(Sets::<PapayaSet>::new(ONE_SHARE), leases));
    tails.enter(COLUMNS[6], churn(Empty, leases));
    let mut measured = if run.quick { tails.run(5, 200) } else { tails.run(200, 1_000) };
    // What a look at the clock and the loop cost without anything to measure.
    let empty = measured.last_mut().map_or(0.0, |(_, times)| times.quantile(0.5));
    let cell = |(name, mut times): (&str, aegis_benches::Times)| {
        let less = if name == COLUMNS[6] { 0.0 } else { empty };
        [0.5, 0.99, 0.999].map(|share| nanos((times.quantile(share) - less).max(0.0))).join(" / ")
    };
    Ok(measured.into_iter().map(cell).collect())
}

/// Single acquires on an edge whose bundles change.
pub(crate) fn while_applied() -> Table {
    Table {
        cells: "nanoseconds, median / p99.9 / p99.99 of single acquires and releases",
        columns: vec![
            "another thread sleeps",
            "builds layouts",
            "builds and applies them",
            "applied, times a second",
        ],
        rows: vec![
            ("acquire while a bundle is applied".into(), Box::new(|run| while_applied_row(run, false))),
            (
                "acquire while a bundle is applied: longer than 10 us, of a million".into(),
                Box::new(|run| while_applied_row(run, true)),
            ),
        ],
        note: Some(Box::new(|run| {
            let mut times = first_after(if run.quick { 10 } else { 5_000 });
            let [median, most] = [0.5, 0.99].map(|share| nanos(times.quantile(share)));
            format!(
                "The first acquire after a bundle was applied, by the same thread: median {median}, p99 {most} ns."
            )
        })),
    }
}

fn while_applied_row(run: &Run, longer: bool) -> Cells {
    let span = Duration::from_millis(if run.quick { 20 } else { 5_000 });
    let mut cells = Vec::new();
    let mut often = 0;
    for meanwhile in Meanwhile::ALL {
        let (mut times, applied) = slowest(meanwhile, span);
        often = applied * 1_000 / span.as_millis() as u64;
        cells.push(match longer {
            true => format!("{:.1}", times.longer_than(10_000)),
            false => [0.5, 0.999, 0.9999].map(|share| nanos(times.quantile(share))).join(" / "),
        });
    }
    cells.push(often.to_string());
    Ok(cells)
}
