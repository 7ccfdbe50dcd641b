//! More threads than cores on a few ports.

use std::time::Duration;

use aegis_benches::safety::{CROWD, Seen, crowd};
use aegis_benches::{Access, Beside, Bitmap, HaproxyRing, Ours, PerOrigin, Resting, Ring, Scene, Stack};

use crate::table::{Cells, Row, Run, Table, grouped};

const COLUMNS: [&str; 6] =
    ["ours", "ours, rest off", "mutexed stack", "ring", "HAProxy's ring", "bare bitmap"];

pub(crate) fn table() -> Table {
    let row = |ports: u16| -> Row {
        let name = format!("{CROWD} threads on 2 cores, {ports} ports");
        (name, Box::new(move |run| cells(Scene { granule: ports, granules: 1, origins: 1 }, run)))
    };
    Table {
        cells: "ports granted twice / false refusals (pairs done)",
        columns: COLUMNS.to_vec(),
        rows: vec![row(16), row(64)],
        note: None,
    }
}

fn cells(scene: Scene, run: &Run) -> Cells {
    let access = Access::Handle;
    Ok(vec![
        cell(Ours::new(scene, access, Resting::Default), scene, run),
        cell(Ours::new(scene, access, Resting::Off), scene, run),
        cell(PerOrigin::<Stack>::new(scene, access), scene, run),
        cell(PerOrigin::<Ring>::new(scene, access), scene, run),
        cell(PerOrigin::<HaproxyRing>::new(scene, access), scene, run),
        cell(PerOrigin::<Bitmap>::new(scene, access), scene, run),
    ])
}

fn cell<C: Beside>(contender: C, scene: Scene, run: &Run) -> String {
    // Whoever asks for a number waits for it; otherwise the slow ones do what they can.
    let most = if run.pairs.is_some() { Duration::MAX } else { Duration::from_secs(5) };
    let pairs = run.pairs.unwrap_or(if run.quick { 100_000 } else { 10_000_000 });
    let Seen { pairs, duplicates, refusals, stuck, .. } = crowd(contender, scene, pairs, most);
    let stuck = if stuck { ", then no port comes back" } else { "" };
    format!("{} / {} ({}{stuck})", grouped(duplicates), grouped(refusals), grouped(pairs))
}
