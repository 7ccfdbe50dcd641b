//! Reports at the edges: capacity, bounds, limits of zones that go, memory that holds anything.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};

use aegis_core::bundle::Bundle;
use aegis_core::edge::{Edge, Rules};
use aegis_core::epoch::Epoch;
use aegis_core::fleet_file::FleetFile;
use aegis_core::lease::{Closed, Config, Heap, Memory, Size, Table};
use aegis_core::net::{Origin, Protocol};
use aegis_core::time::Time;
use aegis_core::usage::{Of, Outbox, Period, Record, Refused, Rollup, Subject, Then};

const M: u64 = 60_000;
const START: u64 = 1_736_467_500_000;

fn origin(n: u16) -> Origin {
    Origin::new(Protocol::Tcp, ([203, 0, 113, 7], 1_000 + n).into()).unwrap()
}

fn steady(origin: u16, period: Period, ports: u32) -> Record {
    Record {
        subject: Subject::Source {
            egress_ip: IpAddr::from([192, 0, 2, 1]),
            origin: Some(self::origin(origin)),
            account: None,
            zone: None,
        },
        port_millis: u64::from(ports) * period.millis(),
        min: ports,
        max: ports,
        live: ports,
        held: 0,
        resting: 0,
        parked: 0,
        capacity: 100,
        granted: 1,
        refused: Refused::default(),
    }
}

fn outbox() -> Outbox {
    Outbox::new("m".parse().unwrap(), "fra".parse().unwrap(), 7, None, 99)
}

#[test]
fn an_address_has_its_ports_whichever_origin_they_are_used_for() {
    let (mut rollup, mut outbox) = (Rollup::default(), outbox());
    for n in 0..5 {
        let period = Period::new(START + n * M, START + (n + 1) * M).unwrap();
        let _ = rollup
            .add(outbox.push(1, period, vec![steady(n as u16, period, 50)], Then::GoesOn).unwrap())
            .unwrap();
    }
    let all = Period::new(START, START + 5 * M).unwrap();
    let s = &rollup.summaries(Of::Sources, &[], all, 5 * M).unwrap()[0];
    assert_eq!(s.capacity, 100.0);
    assert_eq!(s.avg_utilization, Some(10.0)); // each of five origins: 50 of 100 for a fifth of the time
}

#[test]
fn bounds_stay_in_order_where_a_slow_clock_makes_periods_overlap() {
    let (mut rollup, mut outbox) = (Rollup::default(), outbox());
    for n in 0..10 {
        let start = START + n * (M - 10);
        let period = Period::new(start, start + M).unwrap();
        let _ =
            rollup.add(outbox.push(1, period, vec![steady(0, period, 100)], Then::GoesOn).unwrap()).unwrap();
    }
    let all = Period::new(START, START + 5 * M).unwrap();
    let s = &rollup.summaries(Of::Sources, &[], all, 5 * M).unwrap()[0];
    assert!(s.max_at_least <= s.max_at_most, "{} <= {}", s.max_at_least, s.max_at_most);
}

#[test]
fn a_high_water_mark_is_claimed_of_no_bucket_that_may_not_have_had_it() {
    let (mut rollup, mut outbox) = (Rollup::default(), outbox());
    let period = Period::new(START + 4 * M, START + 6 * M).unwrap();
    // All 100 in the first minute, none in the second: it can not be told apart.
    let record = Record { port_millis: 100 * M, min: 0, max: 100, live: 0, ..steady(0, period, 0) };
    let _ = rollup.add(outbox.push(1, period, vec![record], Then::GoesOn).unwrap()).unwrap();
    let all = Period::new(START, START + 10 * M).unwrap();
    let s = rollup.summaries(Of::Sources, &[], all, 5 * M).unwrap();
    assert!(s[1].max_at_least <= 50, "{}", s[1].max_at_least);
}

const FLEET: &str = r#"
    data_center = [{ id = "fra", city = "Frankfurt", latitude = 50.11, longitude = 8.68 }]
    machine = [{ id = "m", data_center = "fra" }@MORE@]
    account = [{ id = "acme", name = "Acme" }]
    holding = [{ id = "h", account = "acme", right = "leased", prefix = "192.0.2.1/32", data_centers = ["fra"] }]
    pool = [{ id = "p", account = "acme", prefixes = ["192.0.2.1/32"] }]
    zone = [@A@
        { id = "b.example", account = "acme", pool = "p" },
    ]
"#;
const A: &str = r#"{ id = "a.example", account = "acme", pool = "p" },"#;

fn bundle(a: bool, epoch: u64) -> Bundle {
    let text = FLEET.replace("@A@", if a { A } else { "" }).replace("@MORE@", "");
    let fleet = FleetFile::parse("fleet.toml", &text).unwrap();
    let layout = fleet.layout(None, Epoch::new(epoch)).unwrap();
    fleet.bundle(&"m".parse().unwrap(), &layout).unwrap()
}

#[test]
fn the_account_of_a_zone_that_loses_its_grant_gets_its_leases_back() {
    let mut rules = Rules::default();
    rules.accounts.insert("acme".parse().unwrap(), 5);
    rules.zones.insert("a.example".parse().unwrap(), 3);
    let config = Config { origins: 64, pages: 256, workers: 4, ..Config::default() };
    let edge = Edge::with_rules(&bundle(true, 1), config, [1; 32], &rules).unwrap();
    let [a, b] = ["a.example", "b.example"].map(|z| edge.zone(&z.parse().unwrap()).unwrap());
    let mut worker = edge.worker([1; 32]).unwrap();
    let leases: Vec<_> = (0..3).map(|_| worker.acquire(&a, &origin(1), Time::ZERO).unwrap()).collect();
    edge.apply(&bundle(false, 2), Time::ZERO).unwrap();
    leases.into_iter().for_each(|l| worker.release(l, Closed::Reset, Time::ZERO).unwrap());
    let got = (0..5).filter_map(|_| worker.acquire(&b, &origin(1), Time::ZERO).ok()).count();
    assert_eq!(got, 5);
}

#[derive(Clone, Debug)]
struct Shared(Arc<(Vec<AtomicU64>, Vec<AtomicU16>)>);
impl Shared {
    fn zeroed(size: Size) -> Self {
        let words = (0..size.words).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new((words, (0..size.tags).map(|_| AtomicU16::new(0)).collect())))
    }
}
impl Memory for Shared {
    fn words(&self) -> &[AtomicU64] {
        &self.0.0
    }
    fn tags(&self) -> &[AtomicU16] {
        &self.0.1
    }
}
fn config() -> Config {
    Config { granules: 64, origins: 64, pages: 64, workers: 4, quotas: 8, ..Config::default() }
}

#[test]
fn counters_are_read_whatever_another_process_wrote() {
    let memory = Shared::zeroed(Table::<Heap>::size(&config()).unwrap());
    let edge = Edge::over(
        &bundle(true, 1),
        Table::create(config(), memory.clone(), [7; 32], 11).unwrap(),
        &Rules::default(),
        Time::ZERO,
    )
    .unwrap();
    let mut meter = edge.meter(Time::ZERO);
    // Every word in turn, besides all others that were zero.
    let before: Vec<u64> = memory.0.0.iter().map(|w| w.load(SeqCst)).collect();
    for (w, seen) in memory.0.0.iter().zip(&before) {
        if *seen == 0 {
            w.store(u64::MAX, SeqCst);
        }
    }
    let caught = |f: &mut dyn FnMut()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_ok();
    let all = [
        caught(&mut || drop(edge.zones())),
        caught(&mut || drop(edge.usage(Time::ZERO))),
        caught(&mut || _ = edge.leases().granted()),
        caught(&mut || drop(edge.report(&mut meter, Time::from_millis(1)))),
    ];
    assert_eq!(all, [true; 4]);
}

#[test]
fn ports_that_were_given_away_are_no_capacity() {
    let one = FLEET.replace("@A@", A).replace("@MORE@", "");
    let two = FLEET.replace("@A@", A).replace("@MORE@", r#", { id = "n", data_center = "fra" }"#);
    let parse = |text: &str| FleetFile::parse("fleet.toml", text).unwrap();
    let (one, two) = (parse(&one), parse(&two));
    let before = one.layout(None, Epoch::new(1)).unwrap();
    let after = two.layout(Some(&before), Epoch::new(2)).unwrap();
    let m = "m".parse().unwrap();
    let edge = Edge::with_rules(
        &one.bundle(&m, &before).unwrap(),
        Config { origins: 64, pages: 256, workers: 4, ..Config::default() },
        [1; 32],
        &Rules::default(),
    )
    .unwrap();
    let zone = edge.zone(&"b.example".parse().unwrap()).unwrap();
    let mut meter = edge.meter(Time::ZERO);
    edge.apply(&two.bundle(&m, &after).unwrap(), Time::ZERO).unwrap();
    assert!(edge.is_idle(Time::from_millis(1)));
    let day = Time::from_millis(86_000_000);
    let capacity: Vec<_> = edge.report(&mut meter, day).records.iter().map(|r| r.capacity).collect();
    assert_eq!(capacity.iter().sum::<u32>(), zone.capacity(false));
}

#[test]
fn a_zone_that_comes_back_is_not_counted_again_by_another_boot() {
    let memory = Shared::zeroed(Table::<Heap>::size(&config()).unwrap());
    let over = |table, bundle: &Bundle| Edge::over(bundle, table, &Rules::default(), Time::ZERO).unwrap();
    let first = over(Table::create(config(), memory.clone(), [7; 32], 11).unwrap(), &bundle(true, 1));
    let a = first.zone(&"a.example".parse().unwrap()).unwrap();
    let mut meter = first.meter(Time::ZERO);
    let mut worker = first.worker([1; 32]).unwrap();
    for _ in 0..1_000 {
        let lease = worker.acquire(&a, &origin(1), Time::ZERO).unwrap();
        worker.release(lease, Closed::Reset, Time::from_millis(1)).unwrap();
    }
    let granted = |records: &[Record]| {
        records.iter().filter(|r| matches!(r.subject, Subject::Zone { .. })).map(|r| r.granted).sum::<u64>()
    };
    assert_eq!(granted(&first.report(&mut meter, Time::from_millis(60_000)).records), 1_000);
    // Another process meters from now on; the zone has no grant for a while.
    let second = over(Table::open(memory, 22).unwrap(), &bundle(false, 2));
    let mut meter = second.meter(Time::from_millis(60_000));
    second.apply(&bundle(true, 3), Time::from_millis(60_000)).unwrap();
    assert_eq!(granted(&second.report(&mut meter, Time::from_millis(120_000)).records), 0);
}

const TWO: &str = r#"
    data_center = [{ id = "fra", city = "Frankfurt", latitude = 50.11, longitude = 8.68 }]
    machine = [{ id = "m", data_center = "fra" }]
    account = [{ id = "acme", name = "Acme" }, { id = "globex", name = "Globex" }]
    holding = [
        { id = "h", account = "acme", right = "leased", prefix = "192.0.2.1/32", data_centers = ["fra"] },
        { id = "g", account = "globex", right = "leased", prefix = "192.0.2.2/32", data_centers = ["fra"] },
    ]
    pool = [
        { id = "p", account = "acme", prefixes = ["192.0.2.1/32"] },
        { id = "q", account = "globex", prefixes = ["192.0.2.2/32"] },
    ]
    zone = [
        { id = "a.example", @OF@ },
        { id = "b.example", account = "acme", pool = "p" },
        { id = "g.example", account = "globex", pool = "q" },
    ]
"#;

#[test]
fn the_account_that_a_zone_leaves_gets_its_leases_back() {
    let bundle = |of: &str, epoch| {
        let fleet = FleetFile::parse("fleet.toml", &TWO.replace("@OF@", of)).unwrap();
        fleet.bundle(&"m".parse().unwrap(), &fleet.layout(None, Epoch::new(epoch)).unwrap()).unwrap()
    };
    let mut rules = Rules::default();
    rules.accounts.insert("acme".parse().unwrap(), 5);
    rules.accounts.insert("globex".parse().unwrap(), 5);
    let config = Config { origins: 64, pages: 256, workers: 4, ..Config::default() };
    let edge =
        Edge::with_rules(&bundle(r#"account = "acme", pool = "p""#, 1), config, [1; 32], &rules).unwrap();
    let [a, b, g] = ["a.example", "b.example", "g.example"].map(|z| edge.zone(&z.parse().unwrap()).unwrap());
    let mut worker = edge.worker([1; 32]).unwrap();
    let leases: Vec<_> = (0..3).map(|_| worker.acquire(&a, &origin(1), Time::ZERO).unwrap()).collect();
    edge.apply(&bundle(r#"account = "globex", pool = "q""#, 2), Time::ZERO).unwrap();
    let of_g: Vec<_> = (0..5).map(|_| worker.acquire(&g, &origin(1), Time::ZERO).unwrap()).collect();
    leases.into_iter().for_each(|l| worker.release(l, Closed::Reset, Time::ZERO).unwrap());
    let got = (0..5).filter_map(|_| worker.acquire(&b, &origin(1), Time::ZERO).ok()).count();
    let more_of_g = (0..5).filter_map(|_| worker.acquire(&g, &origin(1), Time::ZERO).ok()).count();
    drop(of_g);
    assert_eq!((got, more_of_g), (5, 0));
}

#[test]
fn what_a_report_cannot_hold_is_not_lost_unseen() {
    let edge = Edge::with_rules(
        &bundle(true, 1),
        Config { origins: 64, pages: 256, workers: 4, ..Config::default() },
        [1; 32],
        &Rules::default(),
    )
    .unwrap();
    let zone = edge.zone(&"a.example".parse().unwrap()).unwrap();
    let mut worker = edge.worker([1; 32]).unwrap();
    let mut meter = edge.meter(Time::ZERO);
    let (mut rollup, mut outbox) = (Rollup::default(), outbox());
    let leases: Vec<_> = (0..10).map(|_| worker.acquire(&zone, &origin(1), Time::ZERO).unwrap()).collect();
    let mut said = 0;
    // The machine is suspended for 25 hours.
    for hours in [25, 26] {
        let measured = edge.report(&mut meter, Time::from_millis(hours * 60 * M));
        let period = Period::ending(START + hours * 60 * M, measured.length).unwrap();
        match outbox.push(1, period, measured.records, Then::GoesOn) {
            Ok(report) => {
                let _ = rollup.add(report).unwrap();
                said = report.header().since_boot.sources.granted;
            }
            Err(error) => assert!(error.message().contains("day"), "{error}"),
        }
    }
    drop(leases);
    // Nothing was sent of a day and more, but it is known that it is missing, and what it held.
    assert_eq!((said, rollup.gaps().len()), (10, 1));
}
