//! Replays of synthetic days on one thread, by the processor time that it takes: of a job of seconds a busy machine would
//! measure its neighbours.

use std::time::Duration;

use aegis_core::epoch::{Epoch, Layout, LayoutPolicy};
use aegis_core::fleet::{Coordinates, DataCenter, Fleet, Latencies, Machine, Partition, Reach};
use aegis_core::inventory::{AddressState, Choice, DataCenters, Direction, Holding, Inventory, Pool, Right};
use aegis_core::net::{Origin, Protocol};
use aegis_core::plan::replay::{Curve, Day, Demand, Lasting, Paths, Replay, Reuse, Settings, Trace};
use aegis_core::time::Time;

use crate::layouts::peak;

/// How large a network, and how much happens there.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Data centers, each an ingress.
    pub sites: usize,
    /// Machines.
    pub machines: usize,
    /// Egress addresses (a power of two), each at four data centers.
    pub addresses: u32,
    /// Origins, less and less popular.
    pub origins: u8,
    /// Connections a second.
    pub per_second: f64,
    /// How long they last on average.
    pub mean: Duration,
    /// Simulated time.
    pub hours: u64,
    /// Are records requests, of which some find a connection that is kept idle for 10 s?
    pub keeps_alive: bool,
}

impl Load {
    const SMALL: Self = Self {
        name: "small",
        sites: 4,
        machines: 31,
        addresses: 1,
        origins: 4,
        per_second: 116.0,
        mean: Duration::from_secs(60),
        hours: 24,
        keeps_alive: false,
    };
    const LARGE: Self =
        Self { name: "large", sites: 330, machines: 10_000, addresses: 256, origins: 100, ..Self::SMALL };

    /// What is measured: about ten million records each.
    pub const ALL: [Self; 4] = [
        Self::SMALL,
        Self::LARGE,
        Self { name: "busy", per_second: 2_800.0, mean: Duration::from_secs(100), hours: 1, ..Self::LARGE },
        Self { name: "keep-alive", keeps_alive: true, ..Self::LARGE },
    ];

    /// A hundredth of the time.
    #[must_use]
    pub fn quick(self) -> Self {
        Self { per_second: self.per_second / 100.0, ..self }
    }
}

/// How fast it was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    /// Openings and closings in a second of processor time, the best round.
    pub events: f64,
    /// Records of the synthetic day in such a second, without a replay.
    pub records: f64,
    /// Connections open at a time, at most.
    pub live: u32,
    /// Records that were refused.
    pub refused: u64,
    /// Records that needed no connection.
    pub reused: u64,
    /// The largest resident set, in MiB.
    pub peak: f64,
}

/// The best of so many rounds.
///
/// # Panics
/// The world is not a possible one.
pub fn measure(load: Load, rounds: usize) -> Speed {
    let fleet = fleet(load);
    let (inventory, pool) = inventory(load.addresses);
    let policy = LayoutPolicy::default();
    let layout = Layout::build(&fleet, &inventory, &policy, None, Epoch::new(1)).expect("all fits");
    let (paths, origins) = paths(&fleet, load.origins);
    let until = Time::from_millis(load.hours * 3_600_000);
    let reuse = if load.keeps_alive { Reuse::KeepAlive(Duration::from_secs(10)) } else { Reuse::Never };
    let settings = Settings { until, reuse, ..Settings::default() };
    let place = |at: &DataCenter| {
        let ingress = paths.ingress(&at.id).expect("known");
        (ingress, at.coordinates, load.per_second / load.sites as f64)
    };
    let popular = |(rank, origin): (u32, &Origin)| (paths.target(origin).expect("known"), 10_000 / rank);
    let demand = Demand {
        curve: if load.hours < 24 { Curve::FLAT } else { Curve::EVENING },
        lasting: Lasting::Exponential { mean: load.mean },
        ingresses: fleet.data_centers().map(place).collect(),
        origins: (1..).zip(&origins).map(popular).collect(),
        ..Demand::default()
    };
    let mut speed = Speed::default();
    for _ in 0..rounds {
        let day = || Day::new(&demand, Time::ZERO, [1; 32]).expect("possible");
        let start = processor_time();
        let records = day().take_while(|record| record.start < until).count();
        speed.records = speed.records.max(records as f64 / (processor_time() - start));
        let start = processor_time();
        let replay = Replay::new(&fleet, &layout, &pool, &paths, &settings).expect("possible");
        let outcome = replay.run(day().map(Ok), &mut ()).expect("possible");
        let events = outcome.totals.events() as f64 / (processor_time() - start);
        speed.events = speed.events.max(events);
        speed.live = outcome.intervals.iter().map(|interval| interval.live).max().unwrap_or(0);
        (speed.refused, speed.reused) = (outcome.totals.refused, outcome.totals.reused);
    }
    speed.peak = peak();
    speed
}

/// Lines of a trace read in a second of processor time.
///
/// # Panics
/// Never: the trace is a right one.
pub fn lines_a_second(lines: u32) -> f64 {
    let fleet = fleet(Load::SMALL);
    let (paths, origins) = paths(&fleet, 4);
    let mut text = vec!["start_ms,duration_ms,ingress,origin,protocol,closed".to_owned()];
    text.extend((0..lines).map(|n| {
        let origin = origins[n as usize % 4].address();
        format!("{},{},d{:03},{origin},tcp,passive", n * 3, n % 60_000, n % 4)
    }));
    let start = processor_time();
    let sum: u64 = Trace::new(&paths, &text).map(|record| u64::from(record.expect("right").lasts_ms)).sum();
    std::hint::black_box(sum);
    f64::from(lines) / (processor_time() - start)
}

/// Of this thread, in seconds.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn fleet(load: Load) -> Fleet {
    // Places all over the Earth, by the golden angle.
    let site = |n: usize| DataCenter {
        id: format!("d{n:03}").parse().expect("a name"),
        city: "a city".into(),
        coordinates: Coordinates::new(
            (n as f64 / load.sites as f64 * 2.0 - 1.0).asin().to_degrees(),
            (n as f64 * 137.507_764).rem_euclid(360.0) - 180.0,
        )
        .expect("on earth"),
        partition: Partition::Global,
    };
    let sites: Vec<DataCenter> = (0..load.sites).map(site).collect();
    let machine = |n: usize| Machine {
        id: format!("m{n:06}").parse().expect("a name"),
        data_center: sites[n % load.sites].id.clone(),
        weight: 1,
    };
    let machines: Vec<Machine> = (0..load.machines).map(machine).collect();
    Fleet::new(sites, machines).expect("names are unique")
}

fn inventory(addresses: u32) -> (Inventory, Vec<ipnet::IpNet>) {
    let prefix = format!("198.18.0.0/{}", 32 - addresses.ilog2()).parse().expect("a prefix");
    let right = if addresses < 256 { Right::Leased } else { Right::Byoip };
    let account: aegis_core::id::AccountId = "acme".parse().expect("a name");
    let holding = Holding {
        id: "h".parse().expect("a name"),
        account: account.clone(),
        right,
        prefix,
        data_centers: DataCenters::Chosen(Choice::default()),
        serves: Direction::Egress,
        state: AddressState::Active,
    };
    let pool = Pool { id: "p".parse().expect("a name"), account, right, prefixes: vec![prefix] };
    (Inventory::new([holding], [pool], 4).expect("one holding, one pool"), vec![prefix])
}

fn paths(fleet: &Fleet, count: u8) -> (Paths, Vec<Origin>) {
    let origin = |n| Origin::new(Protocol::Tcp, ([203, 0, 113, n], 443).into()).expect("a right one");
    let origins: Vec<Origin> = (1..=count).map(origin).collect();
    let reach = |n: usize| {
        let nearest = fleet.data_centers().nth(n % fleet.data_centers().len()).expect("one of them");
        Reach::estimated(fleet, nearest.coordinates)
    };
    let reached = origins.iter().enumerate().map(|(n, origin)| (*origin, reach(7 * n)));
    (Paths::new(Latencies::estimated(fleet), reached).expect("possible"), origins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ones_are_measured() {
        for load in Load::ALL {
            let load = Load { machines: load.machines.min(660), per_second: 2.0, hours: 1, ..load };
            let speed = measure(load, 1);
            assert!(speed.events > 0.0 && speed.live > 0 && speed.refused == 0, "{load:?}: {speed:?}");
        }
        assert!(lines_a_second(100) > 0.0);
    }
}
