//! How long single acquires take while the shares of the machine change.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aegis_core::bundle::Bundle;
use aegis_core::edge::{Edge, Zone};
use aegis_core::epoch::{Epoch, Layout};
use aegis_core::fleet_file::FleetFile;
use aegis_core::id::MachineId;
use aegis_core::lease::{Closed, Config};
use aegis_core::net::{Origin, Protocol};
use aegis_core::time::Time;

use crate::Times;

/// What the other thread does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meanwhile {
    /// Nothing.
    Sleeps,
    /// It builds layouts and bundles, as below, and does not apply them.
    Builds,
    /// It applies a bundle in which the machine's share has another size, a thousand times a second at most.
    Applies,
}

impl Meanwhile {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Sleeps, Self::Builds, Self::Applies];
}

/// An edge whose machine's share grows and shrinks.
struct Changing {
    fleets: [FleetFile; 2],
    edge: Edge,
    last: Layout,
}

impl Changing {
    fn new() -> Self {
        let fleets = [["1", "3"], ["3", "1"]].map(|[a, b]| {
            let text = include_str!("../../aegis-core/tests/data/two_machines.toml");
            let text = text.replace("WEIGHT_A", a).replace("WEIGHT_B", b);
            FleetFile::parse("two_machines.toml", &text).expect("the file is right")
        });
        let last = fleets[0].layout(None, Epoch::new(1)).expect("all fits");
        let bundle = fleets[0].bundle(&machine(), &last).expect("the machine is in it");
        let config = Config { origins: 256, pages: 4_096, workers: 2, granules: 4_096, ..Config::default() };
        let edge = Edge::new(&bundle, config, [1; 32]).expect("the configuration is right");
        Self { fleets, edge, last }
    }

    /// The bundle of the next epoch.
    fn next(&self, last: &mut Layout) -> Bundle {
        let epoch = last.epoch().get() + 1;
        let fleet = &self.fleets[(epoch % 2) as usize];
        *last = fleet.layout(Some(last), Epoch::new(epoch)).expect("all fits");
        fleet.bundle(&machine(), last).expect("the machine is in it")
    }

    fn zone(&self) -> (Zone, Origin) {
        let zone = self.edge.zone(&"www.example".parse().expect("a name")).expect("it has a grant");
        (zone, Origin::new(Protocol::Tcp, ([203, 0, 113, 1], 443).into()).expect("an origin"))
    }
}

fn machine() -> MachineId {
    "a".parse().expect("a name")
}

/// Times of the first acquire after a bundle was applied, by the same thread.
///
/// # Panics
/// The fleet that is written down here is wrong.
pub fn first_after(rounds: usize) -> Times {
    let mut changing = Changing::new();
    let (zone, origin) = changing.zone();
    let mut worker = changing.edge.worker([2; 32]).expect("there is room");
    let mut times = Times::default();
    for _ in 0..rounds {
        for _ in 0..100 {
            let lease = worker.acquire(&zone, &origin, Time::ZERO).expect("most ports are free");
            worker.release(lease, Closed::Passive, Time::ZERO).expect("it is live");
        }
        let mut last = changing.last.clone();
        changing.edge.apply(&changing.next(&mut last), Time::ZERO).expect("it is later");
        changing.last = last;
        let begun = Instant::now();
        let lease = worker.acquire(&zone, &origin, Time::ZERO).expect("most ports are free");
        times.push(u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX));
        worker.release(lease, Closed::Passive, Time::ZERO).expect("it is live");
    }
    times
}

/// Times of single acquires, releases included, for so long; and how often a bundle was applied.
///
/// # Panics
/// The fleet that is written down here is wrong.
pub fn slowest(meanwhile: Meanwhile, span: Duration) -> (Times, u64) {
    let changing = Changing::new();
    let edge = &changing.edge;
    let (done, applied) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut times = Times::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = changing.last.clone();
            while !done.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                if meanwhile == Meanwhile::Sleeps {
                    continue;
                }
                let bundle = changing.next(&mut last);
                if meanwhile == Meanwhile::Applies {
                    edge.apply(&bundle, Time::ZERO).expect("it is later");
                    applied.fetch_add(1, Relaxed);
                }
            }
        });
        let (zone, origin) = changing.zone();
        let mut worker = edge.worker([2; 32]).expect("there is room");
        let begun = Instant::now();
        let mut before = begun;
        while before - begun < span {
            if let Ok(lease) = worker.acquire(&zone, &origin, Time::ZERO) {
                worker.release(lease, Closed::Passive, Time::ZERO).expect("it is live");
            }
            let now = Instant::now();
            times.push(u32::try_from((now - before).as_nanos()).unwrap_or(u32::MAX));
            before = now;
        }
        done.store(true, Relaxed);
    });
    (times, applied.into_inner())
}
