//! Not the mean but the worst of a hundred, and of a thousand.

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
