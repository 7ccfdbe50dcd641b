//! Two threads, and what counting costs on one and on two.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use aegis_benches::{
    Access, Beside, Bitmap, Churn, Counted, DashSet, Effort, FourShared, HaproxyRing, OnesOwn, Ours,
    PerOrigin, Race, Resting, Ring, Scaled, Scene, Sets, Sharded, Stack, Threaded, core_to_core, cores,
};

use crate::pairs::{ALL_SHARES, ONE_SHARE};
use crate::table::{Cells, Row, Run, Table, nanos};

const COLUMNS: [&str; 8] = [
    "ours",
    "ours, rest off",
    "mutexed stack",
    "ring",
    "HAProxy's ring",
    "64-shard set",
    "dashmap",
    "bare bitmap (floor)",
];

/// An origin for each thread.
const TWO_ORIGINS: Scene = Scene { origins: 2, ..ONE_SHARE };

pub(crate) fn table() -> Table {
    let rows = [
        ("one origin, 2,048 ports", ONE_SHARE),
        ("one origin, 63,488 ports (31 shares)", ALL_SHARES),
        ("an origin each, 2,048 ports", TWO_ORIGINS),
    ];
    let row = |(name, scene)| -> Row {
        (format!("2 threads, {name}, 50 % full"), Box::new(move |run| cells(&race(scene, run)?)))
    };
    Table {
        cells: "nanoseconds a pair of each thread (times ours); throughput of both against one alone",
        columns: COLUMNS.to_vec(),
        rows: rows.map(row).into(),
        note: Some(Box::new(latency)),
    }
}

fn two_cores() -> Result<(usize, usize), String> {
    match cores()[..] {
        [one, other, ..] => Ok((one, other)),
        _ => Err("it needs two cores".into()),
    }
}

fn latency(run: &Run) -> String {
    match two_cores() {
        Ok((one, other)) => {
            let nanos = core_to_core(one, other, if run.quick { 1_000 } else { 100_000 });
            format!(
                "From core {one} to core {other}, one atomic handed back and forth: {nanos:.0} ns one way."
            )
        }
        Err(reason) => format!("!! SKIPPED core-to-core latency: {reason}"),
    }
}

fn cells(measured: &[Scaled]) -> Cells {
    let cell = |m: &Scaled| match m.name == COLUMNS[0] {
        true => format!("**{}**; {:.2}", nanos(m.together), m.gain),
        false => format!("{} ({:.2}x); {:.2}", nanos(m.together), m.ratio, m.gain),
    };
    Ok(measured.iter().map(cell).collect())
}

fn race(scene: Scene, run: &Run) -> Result<Vec<Scaled>, String> {
    two_cores()?;
    let access = Access::Handle;
    let mut race = Threaded::default();
    race.enter(COLUMNS[0], Ours::new(scene, access, Resting::Default), scene, 50);
    race.enter(COLUMNS[1], Ours::new(scene, access, Resting::Off), scene, 50);
    race.enter(COLUMNS[2], PerOrigin::<Stack>::new(scene, access), scene, 50);
    race.enter(COLUMNS[3], PerOrigin::<Ring>::new(scene, access), scene, 50);
    race.enter(COLUMNS[4], PerOrigin::<HaproxyRing>::new(scene, access), scene, 50);
    race.enter(COLUMNS[5], Sets::<Sharded<64>>::new(scene), scene, 50);
    race.enter(COLUMNS[6], Sets::<DashSet>::new(scene), scene, 50);
    race.enter(COLUMNS[7], PerOrigin::<Bitmap>::new(scene, access), scene, 50);
    Ok(race.run(run.effort))
}

pub(crate) fn accounting() -> Table {
    fn row<C: Beside>(new: impl Fn() -> C, run: &Run) -> Cells {
        two_cores()?;
        let mut race = Threaded::default();
        race.enter("nothing", new(), TWO_ORIGINS, 50);
        race.enter("one's own", Counted::<C, OnesOwn>::new(new()), TWO_ORIGINS, 50);
        race.enter("shared", Counted::<C, FourShared>::new(new()), TWO_ORIGINS, 50);
        let measured = race.run(run.effort);
        let more = |m: &Scaled| format!("{:+.1} / {:+.1}", m.more.0, m.more.1);
        let nothing = format!("{} / {}", nanos(measured[0].alone), nanos(measured[0].together));
        Ok([nothing].into_iter().chain(measured[1..].iter().map(more)).collect())
    }
    let bitmap = || PerOrigin::<Bitmap>::new(TWO_ORIGINS, Access::Handle);
    let ours = || Ours::new(TWO_ORIGINS, Access::Handle, Resting::Default);
    Table {
        cells: "nanoseconds a pair on one thread / on each of two, an origin each",
        columns: vec!["without", "one counter of its own more (as ours counts)", "four shared counters more"],
        rows: vec![
            ("accounting beside a bare bitmap".into(), Box::new(move |run| row(bitmap, run))),
            ("accounting beside ours, which has its own already".into(), Box::new(move |run| row(ours, run))),
        ],
        note: None,
    }
}

/// The same worker with nobody beside it, and while another thread samples the use of the table every 10 ms.
pub(crate) fn beside_a_reader() -> Table {
    const COLUMNS: [&str; 2] = ["nobody", "a meter that samples every 10 ms"];
    fn row(scene: Scene, run: &Run) -> Cells {
        two_cores()?;
        let ours = Ours::new(scene, Access::Handle, Resting::Default);
        let mut sample = ours.meter();
        let churn = std::cell::RefCell::new(Churn::new(ours, scene, scene.ports() / 2));
        let (reads, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        // Turns of several samples each.
        let effort =
            if run.quick { run.effort } else { Effort { rounds: 61, turn: Duration::from_millis(50) } };
        let measured = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    if reads.load(SeqCst) {
                        sample();
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            let mut race = Race::default();
            for (name, beside) in COLUMNS.into_iter().zip([false, true]) {
                let (churn, reads) = (&churn, &reads);
                race.enter(name, move |n, ms| {
                    reads.store(beside, SeqCst);
                    churn.borrow_mut().set_time(ms);
                    churn.borrow_mut().pairs(n);
                });
            }
            let measured = race.run(effort);
            is_over.store(true, SeqCst);
            measured
        });
        crate::pairs::cells(&COLUMNS, &measured)
    }
    let rows = [("2,048 ports", ONE_SHARE), ("63,488 ports (31 shares)", ALL_SHARES)];
    let row = |(name, scene)| -> Row {
        (
            format!("accounting: acquire + release, {name}, 50 % full, beside"),
            Box::new(move |run| row(scene, run)),
        )
    };
    Table {
        cells: "nanoseconds (times those with nobody beside)",
        columns: COLUMNS.to_vec(),
        rows: rows.map(row).into(),
        note: None,
    }
}
