//! What is reported is what happened: against counts that the tests keep themselves.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use aegis_core::bundle::Bundle;
use aegis_core::edge::{AcquireError, Edge, Rules};
use aegis_core::epoch::Epoch;
use aegis_core::fleet_file::FleetFile;
use aegis_core::lease::{
    self, Closed, Config, Heap, Lease, Memory, OriginHandle, Pool, PoolKey, Quarantine, Size, Spans, Table,
    Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;
use aegis_core::usage::{
    self, Added, Dimension, Meter, Of, Outbox, Period, Record, Refused, Rollup, Subject, Then, Whose,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const NOBODY: fn(IpAddr) -> Whose = |_| Whose::default();

fn origin(n: u16) -> Origin {
    Origin::new(Protocol::Tcp, ([203, 0, 113, 7], 1_000 + n).into()).unwrap()
}

fn ip(n: u16) -> IpAddr {
    IpAddr::from([192, 0, 2, n as u8])
}

fn no_quarantine() -> Quarantine {
    Quarantine::new(Spans::ZERO, Spans::ZERO).unwrap()
}

/// So many granules of so many ports, two of each address.
fn table(config: Config) -> (Arc<Table>, Pool) {
    let config = Config { quarantine: no_quarantine(), ..config };
    let table = Arc::new(Table::new(config, [7; 32]).unwrap());
    let ports = config.granule_ports as u16;
    let granules = (0..config.granules as u16).map(|n| {
        let lo = 4_096 + n % 2 * ports;
        table.add_granule(ip(n / 2), PortRange::new(lo, lo + ports - 1).unwrap()).unwrap()
    });
    let pool = table.pool(PoolKey(1), granules.collect::<Vec<_>>()).unwrap();
    (table, pool)
}

fn source_of(record: &Record) -> (IpAddr, Option<Origin>) {
    match record.subject {
        Subject::Source { egress_ip, origin, .. } => (egress_ip, origin),
        Subject::Zone { .. } => panic!("{record:?} is of no address"),
    }
}

/// What is known to have happened.
#[derive(Default)]
struct Truth {
    granted: BTreeMap<IpAddr, u64>,
    granted_to: BTreeMap<(IpAddr, Origin), u64>,
    exhausted: u64,
    origin_limit: u64,
}

/// Origins and pages are far fewer than are dialled, so that they are used again all the time.
fn random_world(seed: u64) -> (Truth, Vec<Record>, u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut pick = move |n: u32| rng.next_u32() % n;
    let per_origin = if pick(2) == 0 { 0 } else { 5 };
    let config = Config {
        granule_ports: 4,
        granules: 4,
        origins: 6,
        pages: 5,
        workers: 4,
        per_origin,
        ..Config::default()
    };
    let (table, pool) = table(config);
    let attach = |seed: u32| Worker::attach(Arc::clone(&table), [seed as u8; 32]).unwrap();
    let mut workers: Vec<_> = (0..3).map(attach).collect();
    let mut now = 0;
    let mut meter = Meter::start(&table, &[], Time::from_millis(now));
    let (mut truth, mut records, mut leases) = (Truth::default(), Vec::new(), Vec::<Lease>::new());
    // Time integral over all addresses, and what was seen last.
    let (mut integral, mut last, mut occupied) = (0, 0, 0);
    for nth in 0..20_000u32 {
        let at = Time::from_millis(now);
        match pick(100) {
            0..48 => {
                let to = origin(pick(3 + nth / 500 % 30) as u16);
                match workers[pick(3) as usize].acquire_to(&pool, &to, at) {
                    Ok(lease) => {
                        let from = table.source(&lease).unwrap().ip();
                        *truth.granted.entry(from).or_default() += 1;
                        *truth.granted_to.entry((from, to)).or_default() += 1;
                        leases.push(lease);
                    }
                    Err(lease::AcquireError::Exhausted) => truth.exhausted += 1,
                    Err(lease::AcquireError::OriginLimit) => truth.origin_limit += 1,
                    Err(error) => assert_eq!(error, lease::AcquireError::TooManyOrigins),
                }
            }
            48..95 if !leases.is_empty() => {
                let lease = leases.swap_remove(pick(leases.len() as u32) as usize);
                table.release(lease, Closed::Reset, at).unwrap();
            }
            95 => {
                drop(workers.swap_remove(pick(3) as usize));
                workers.push(attach(nth));
            }
            // Back, too.
            96 => now = (now + u64::from(pick(50))).saturating_sub(5),
            97 | 98 => {
                // What has ended is measured until now.
                integral += occupied * now.saturating_sub(last);
                last = last.max(now);
                occupied = leases.len() as u64;
                match pick(3) {
                    0 => records.extend(meter.close(&table, &[], at, NOBODY).records),
                    _ => meter.sample(&table, &[], at),
                }
            }
            _ => {}
        }
    }
    drop(workers);
    integral += occupied * now.saturating_sub(last);
    records.extend(meter.close(&table, &[], Time::from_millis(now), NOBODY).records);
    // Nothing is left, and the meter's own rows agree.
    assert!(meter.close(&table, &[], Time::from_millis(now), NOBODY).records.iter().all(|r| r.granted == 0));
    assert_eq!(meter.rows().iter().map(|row| u64::from(row.live)).sum::<u64>(), leases.len() as u64);
    (truth, records, integral)
}

#[test]
fn reports_sum_to_the_truth_while_pages_and_origins_are_forgotten_and_workers_come_and_go() {
    let mut of_origins = 0;
    for seed in 0..40 {
        let (truth, records, integral) = random_world(seed);
        let mut granted = BTreeMap::<_, u64>::new();
        let mut granted_to = BTreeMap::<_, u64>::new();
        let mut refused = Refused::default();
        for record in &records {
            let (egress_ip, origin) = source_of(record);
            *granted.entry(egress_ip).or_default() += record.granted;
            if let Some(origin) = origin {
                *granted_to.entry((egress_ip, origin)).or_default() += record.granted;
            }
            refused += record.refused;
            assert!(record.min <= record.live + record.held && record.live + record.held <= record.max);
        }
        assert_eq!(granted, truth.granted, "seed {seed}");
        assert_eq!((refused.exhausted, refused.origin_limit), (truth.exhausted, truth.origin_limit));
        assert_eq!(refused.total(), truth.exhausted + truth.origin_limit);
        for (to, granted) in granted_to {
            let truth = truth.granted_to.get(&to).copied().unwrap_or(0);
            assert!(granted <= truth, "seed {seed}: {granted} of {truth} for {to:?}");
            of_origins += granted;
        }
        assert_eq!(records.iter().map(|record| record.port_millis).sum::<u64>(), integral, "seed {seed}");
    }
    // Not all without an origin.
    assert!(of_origins > 10_000, "{of_origins}");
}

#[test]
fn an_origin_that_stays_in_use_is_granted_exactly_what_is_reported_of_it() {
    let config =
        Config { granule_ports: 64, granules: 2, origins: 8, pages: 8, workers: 2, ..Config::default() };
    let (table, pool) = table(config);
    let mut workers = [1, 2].map(|n| Worker::attach(Arc::clone(&table), [n; 32]).unwrap());
    let [first, second] = [0; 2].map(|_| workers[0].acquire_to(&pool, &origin(1), Time::ZERO).unwrap());
    let mut meter = Meter::start(&table, &[], Time::ZERO);
    for round in 1..200u64 {
        for _ in 0..round {
            let worker = &mut workers[(round % 2) as usize];
            let lease = worker.acquire_to(&pool, &origin(1), Time::ZERO).unwrap();
            worker.release(lease, Closed::Reset, Time::ZERO).unwrap();
        }
        let records = meter.close(&table, &[], Time::ZERO, NOBODY).records;
        let of: Vec<_> =
            records.iter().filter(|r| r.granted != 0).map(|r| (source_of(r).1, r.granted)).collect();
        assert_eq!(of, [(Some(origin(1)), round)]);
    }
    assert_eq!(meter.rows().iter().map(|row| row.granted).sum::<u64>(), 199 * 200 / 2);
    drop((first, second));
}

/// Some ports of one granule, filled and emptied by two workers, and the true high-water mark.
struct Tide {
    table: Arc<Table>,
    workers: Vec<(Worker, OriginHandle)>,
    /// Where as many pages lie between that its entries are the same ones.
    other: Option<OriginHandle>,
    leases: Vec<Lease>,
}

impl Tide {
    fn new(collides: bool) -> Self {
        let config = Config {
            granule_ports: 2_048,
            granules: 1,
            origins: 128,
            pages: 128,
            workers: 4,
            ..Config::default()
        };
        let (table, pool) = table(config);
        let mut workers: Vec<_> =
            (1..3).map(|n| Worker::attach(Arc::clone(&table), [n; 32]).unwrap()).collect();
        let mut others = Vec::new();
        // The second connection to an origin makes its page.
        for n in 0..=64 {
            others.extend([0; 2].map(|_| workers[0].acquire_to(&pool, &origin(n), Time::ZERO).unwrap()));
        }
        let handle = |n: u16| workers[0].origin(&pool, origin(n)).unwrap();
        let other = collides.then(|| handle(64));
        let handles = [handle(0), handle(0)];
        let workers = workers.into_iter().zip(handles).collect();
        others.drain(2..).for_each(|lease| table.release(lease, Closed::Reset, Time::ZERO).unwrap());
        Self { table, workers, other, leases: others }
    }

    fn one_more(&mut self, worker: usize) {
        let (worker, handle) = &mut self.workers[worker];
        self.leases.push(worker.acquire(handle, Time::ZERO).unwrap());
        if let Some(other) = &mut self.other {
            let lease = worker.acquire(other, Time::ZERO).unwrap();
            worker.release(lease, Closed::Reset, Time::ZERO).unwrap();
        }
    }

    fn one_less(&mut self) {
        let lease = self.leases.pop().unwrap();
        self.table.release(lease, Closed::Reset, Time::ZERO).unwrap();
    }
}

#[test]
fn the_high_water_mark_of_an_interval_is_missed_by_fewer_than_64_grants_for_each_worker_and_128_more() {
    for collides in [false, true] {
        let mut tide = Tide::new(collides);
        let mut meter = Meter::start(&tide.table, &[], Time::ZERO);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut worst = 0;
        for _ in 0..300 {
            let mut high = tide.leases.len();
            for _ in 0..rng.next_u32() % 6 {
                let up = 1 + rng.next_u32() as usize % 1_000;
                let down = rng.next_u32() as usize % 1_000;
                for _ in 0..up.min(2_000 - tide.leases.len()) {
                    tide.one_more((rng.next_u32() % 2) as usize);
                }
                high = high.max(tide.leases.len());
                for _ in 0..down.min(tide.leases.len() - 2) {
                    tide.one_less();
                }
            }
            let records = meter.close(&tide.table, &[], Time::ZERO, NOBODY).records;
            let record = records.iter().find(|r| source_of(r).1 == Some(origin(0))).unwrap();
            let missed = high.checked_sub(record.max as usize).expect("never more than there were");
            worst = worst.max(missed);
            assert!(missed < 64 * 2 + 128, "{missed} of {high}, collides: {collides}");
            assert_eq!(record.live as usize, tide.leases.len());
        }
        assert!(worst > 0, "a bound that is never needed");
    }
}

#[test]
fn a_mark_that_was_reported_is_not_reported_again() {
    let mut tide = Tide::new(false);
    let mut meter = Meter::start(&tide.table, &[], Time::ZERO);
    (0..1_500).for_each(|_| tide.one_more(0));
    (0..1_400).for_each(|_| tide.one_less());
    let max = |meter: &mut Meter, tide: &Tide| {
        let records = meter.close(&tide.table, &[], Time::ZERO, NOBODY).records;
        records.iter().find(|r| source_of(r).1 == Some(origin(0))).unwrap().max
    };
    assert!((1_502 - 192..=1_502).contains(&max(&mut meter, &tide)));
    assert_eq!(max(&mut meter, &tide), 102);
}

#[test]
fn what_two_threads_do_while_a_third_reports_is_reported_once() {
    let config =
        Config { granule_ports: 8, granules: 4, origins: 12, pages: 10, workers: 2, ..Config::default() };
    let (table, pool) = table(config);
    let mut meter = Meter::start(&table, &[], Time::ZERO);
    let done = AtomicBool::new(false);
    let (granted, records) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2u8)
            .map(|n| {
                let (table, pool) = (&table, &pool);
                scope.spawn(move || {
                    let mut worker = Worker::attach(Arc::clone(table), [n; 32]).unwrap();
                    let mut rng = ChaCha8Rng::seed_from_u64(n.into());
                    let (mut granted, mut leases) = (BTreeMap::<IpAddr, u64>::new(), Vec::new());
                    for nth in 0..200_000u32 {
                        let to = origin((rng.next_u32() % if nth % 1_000 < 500 { 2 } else { 40 }) as u16);
                        if let Ok(lease) = worker.acquire_to(pool, &to, Time::ZERO) {
                            *granted.entry(table.source(&lease).unwrap().ip()).or_default() += 1;
                            leases.push(lease);
                        }
                        if leases.len() > 12 || rng.next_u32() % 2 == 0 && !leases.is_empty() {
                            let lease = leases.swap_remove(rng.next_u32() as usize % leases.len());
                            worker.release(lease, Closed::Reset, Time::ZERO).unwrap();
                        }
                    }
                    granted
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut records = Vec::new();
            while !done.load(SeqCst) {
                records.extend(meter.close(&table, &[], Time::ZERO, NOBODY).records);
            }
            // What was on its way is not any more.
            records.extend(meter.close(&table, &[], Time::ZERO, NOBODY).records);
            records
        });
        let mut granted = BTreeMap::<IpAddr, u64>::new();
        for thread in threads {
            for (ip, more) in thread.join().unwrap() {
                *granted.entry(ip).or_default() += more;
            }
        }
        done.store(true, SeqCst);
        (granted, reader.join().unwrap())
    });
    let mut reported = BTreeMap::<IpAddr, u64>::new();
    for record in &records {
        *reported.entry(source_of(record).0).or_default() += record.granted;
    }
    assert_eq!(reported, granted);
    assert_eq!(table.granted(), granted.values().sum::<u64>());
}

#[test]
fn a_load_counts_from_sample_to_sample_and_time_that_goes_back_adds_nothing() {
    let config =
        Config { granule_ports: 8, granules: 1, origins: 2, pages: 2, workers: 1, ..Config::default() };
    let (table, pool) = table(config);
    let at = Time::from_millis;
    let mut worker = Worker::attach(Arc::clone(&table), [1; 32]).unwrap();
    let mut meter = Meter::start(&table, &[], at(1_000));
    let lease = worker.acquire_to(&pool, &origin(1), at(1_000)).unwrap();
    for ms in [2_000, 500, 2_000, 2_500, 400] {
        meter.sample(&table, &[], at(ms));
    }
    worker.release(lease, Closed::Reset, at(2_500)).unwrap();
    let records = meter.close(&table, &[], at(3_000), NOBODY).records;
    // Seen at 2 s for the first time, and for the last time at 2.5 s.
    let [counted, used] = &records[..] else { panic!("{records:?}") };
    assert_eq!((source_of(counted).1, counted.granted, counted.port_millis), (None, 1, 0));
    assert_eq!((source_of(used).1, used.granted, used.port_millis), (Some(origin(1)), 0, 1_000));
    assert_eq!((used.min, used.max, used.live), (0, 1, 0));
    // An address with nothing open says how many ports it has.
    let idle = meter.close(&table, &[], at(4_500), NOBODY);
    let [record] = &idle.records[..] else { panic!("{idle:?}") };
    assert_eq!((source_of(record), record.capacity, record.port_millis), ((ip(0), None), 8, 0));
    assert_eq!(idle.length, Duration::from_millis(1_500));
}

// From here on with zones.

const FLEET: &str = r#"
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
        { id = "a.example", account = "acme", pool = "p" },
        { id = "b.example", account = "acme", pool = "p" },
        { id = "g.example", account = "globex", pool = "q" },
    ]
"#;

const ZONES: [&str; 3] = ["a.example", "b.example", "g.example"];

fn bundle() -> Bundle {
    let fleet = FleetFile::parse("fleet.toml", FLEET).unwrap();
    let layout = fleet.layout(None, Epoch::new(1)).unwrap();
    fleet.bundle(&"m".parse().unwrap(), &layout).unwrap()
}

fn edge(rules: &Rules) -> Edge {
    let config = Config { origins: 64, pages: 256, workers: 4, ..Config::default() };
    Edge::with_rules(&bundle(), config, [1; 32], rules).unwrap()
}

fn live<M: Memory>(edge: &Edge<M>) -> Vec<(u32, u64)> {
    edge.zones().iter().map(|zone| (zone.live, zone.granted)).collect()
}

#[test]
fn live_and_granted_of_a_zone_are_exact_whoever_releases() {
    let mut rules = Rules::default();
    // One zone is counted for its limit as well.
    rules.zones.insert("b.example".parse().unwrap(), 100_000);
    let edge = edge(&rules);
    let zones = ZONES.map(|zone| edge.zone(&zone.parse().unwrap()).unwrap());
    let left: Vec<(usize, Lease)> = std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::channel::<(usize, Lease)>();
        let threads: Vec<_> = (0..2u8)
            .map(|n| {
                let (edge, zones, send) = (&edge, &zones, send.clone());
                scope.spawn(move || {
                    let mut worker = edge.worker([n; 32]).unwrap();
                    for nth in 0..30_000usize {
                        let zone = nth % 3;
                        let lease =
                            worker.acquire(&zones[zone], &origin(nth as u16 % 7), Time::ZERO).unwrap();
                        match nth % 5 {
                            0..2 => worker.release(lease, Closed::Reset, Time::ZERO).unwrap(),
                            2 => edge.release(lease, Closed::Active, Time::ZERO).unwrap(),
                            _ => send.send((zone, lease)).unwrap(),
                        }
                    }
                })
            })
            .collect();
        drop(send);
        // A thread without a worker releases what comes, but for some.
        let mut left = Vec::new();
        for (nth, (zone, lease)) in receive.into_iter().enumerate() {
            match nth % 100 {
                0 => left.push((zone, lease)),
                _ => edge.release(lease, Closed::Reset, Time::ZERO).unwrap(),
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        left
    });
    let is_left = |zone| left.iter().filter(|(of, _)| *of == zone).count() as u32;
    assert_eq!(live(&edge), [0, 1, 2].map(|zone| (is_left(zone), 20_000)));
    // By a worker that granted nothing.
    let mut worker = edge.worker([9; 32]).unwrap();
    left.into_iter().for_each(|(_, lease)| worker.release(lease, Closed::Reset, Time::ZERO).unwrap());
    assert_eq!(live(&edge), [(0, 20_000); 3]);
}

#[test]
fn every_refusal_of_a_zone_is_counted_by_its_reason() {
    let mut rules = Rules::default();
    rules.zones.insert("a.example".parse().unwrap(), 3);
    rules.accounts.insert("acme".parse().unwrap(), 5);
    let edge = edge(&rules);
    let [a, b, g] = ZONES.map(|zone| edge.zone(&zone.parse().unwrap()).unwrap());
    let mut worker = edge.worker([1; 32]).unwrap();
    let mut meter = edge.meter(Time::ZERO);
    let mut times = |zone, n: u32| -> (Vec<Lease>, Vec<AcquireError>) {
        let acquired: Vec<_> = (0..n).map(|_| worker.acquire(zone, &origin(1), Time::ZERO)).collect();
        (acquired.into_iter()).fold((vec![], vec![]), |(mut leases, mut errors), acquired| {
            match acquired {
                Ok(lease) => leases.push(lease),
                Err(error) => errors.push(error),
            }
            (leases, errors)
        })
    };
    let (of_a, errors) = times(&a, 103);
    assert_eq!((of_a.len(), errors), (3, vec![AcquireError::ZoneLimit; 100]));
    let (of_b, errors) = times(&b, 72);
    assert_eq!((of_b.len(), errors), (2, vec![AcquireError::AccountLimit; 70]));
    let capacity = g.capacity(false);
    let (of_g, errors) = times(&g, capacity + 500);
    assert_eq!((of_g.len() as u32, errors.len()), (capacity, 500));
    edge.set_tenure(Time::from_millis(1));
    let late = worker.acquire(&g, &origin(2), Time::from_millis(1_000));
    assert_eq!(late, Err(lease::AcquireError::TenureOver.into()));
    // A connection to an address family that the machine has no share of.
    let six = Origin::new(Protocol::Tcp, "[2001:db8::1]:443".parse().unwrap()).unwrap();
    assert_eq!(worker.acquire(&g, &six, Time::ZERO), Err(lease::AcquireError::NoShare.into()));
    let records = edge.report(&mut meter, Time::from_millis(1_000)).records;
    let zones: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.subject {
            Subject::Zone { zone, account } => {
                Some((zone.as_str(), account.as_str(), record.live, record.granted, record.refused))
            }
            Subject::Source { .. } => None,
        })
        .collect();
    let none = Refused::default();
    let of_g = Refused { exhausted: 500, tenure_over: 1, no_share: 1, ..none };
    assert_eq!(
        zones,
        [
            ("a.example", "acme", 3, 3, Refused { quota: 100, ..none }),
            ("b.example", "acme", 2, 2, Refused { account_quota: 70, ..none }),
            ("g.example", "globex", capacity, u64::from(capacity), of_g),
        ]
    );
    // Whose addresses they are, as far as they are somebody's alone.
    let whose: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.subject {
            Subject::Source { account, zone, origin: Some(_), .. } => {
                Some((account.as_ref().unwrap().as_str(), zone.as_ref().map(|zone| zone.as_str())))
            }
            _ => None,
        })
        .collect();
    assert_eq!(whose, [("acme", None), ("globex", Some("g.example"))]);
    // And nothing of it once more.
    let again = edge.report(&mut meter, Time::from_millis(2_000)).records;
    assert!(again.iter().all(|record| record.granted == 0 && record.refused == none), "{again:?}");
}

#[test]
fn what_is_measured_can_be_reported_whatever_another_clock_says() {
    let edge = edge(&Rules::default());
    let zone = edge.zone(&"a.example".parse().unwrap()).unwrap();
    let mut worker = edge.worker([1; 32]).unwrap();
    let mut meter = edge.meter(Time::ZERO);
    let mut outbox = Outbox::new("m".parse().unwrap(), "fra".parse().unwrap(), 1, None, 10);
    let mut rollup = Rollup::default();
    let mut leases = Vec::new();
    // The wall clock is a little too fast.
    for (nth, wall) in [(1, 1_000_000_060_010), (2, 1_000_000_120_020)] {
        leases.extend((0..100).map(|_| worker.acquire(&zone, &origin(nth), Time::ZERO).unwrap()));
        edge.sample(&mut meter, Time::from_millis(u64::from(nth - 1) * 60_000));
        let measured = edge.report(&mut meter, Time::from_millis(u64::from(nth) * 60_000));
        let period = Period::ending(wall, measured.length).unwrap();
        let report = outbox.push(1, period, measured.records, Then::GoesOn).unwrap();
        assert_eq!(rollup.add(report).unwrap(), Added::New);
    }
    let all = Period::new(999_999_900_000, 1_000_000_500_000).unwrap();
    let by_ip = rollup.summaries(Of::Sources, &[Dimension::EgressIp], all, all.millis()).unwrap();
    let seen: Vec<_> = by_ip.iter().map(|sum| (sum.port_millis, sum.granted)).collect();
    // 100 towards one origin for two minutes, and towards another for one; the other address is idle.
    assert_eq!(seen, [(100 * 3 * 60_000, 200), (0, 0)]);
    let capacity: Vec<_> = by_ip.iter().map(|sum| sum.avg_utilization).collect();
    assert!(capacity[0] > Some(0.0) && capacity[1] == Some(0.0), "{capacity:?}");
}

/// What a mapping of several processes is, in one.
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

#[test]
fn a_process_that_dies_takes_its_live_leases_along_and_leaves_what_it_was_granted() {
    let config = Config { granules: 64, origins: 64, pages: 64, workers: 4, quotas: 8, ..Config::default() };
    let memory = Shared::zeroed(Table::<Heap>::size(&config).unwrap());
    let (bundle, rules) = (bundle(), Rules::default());
    let over = |table| Edge::over(&bundle, table, &rules, Time::ZERO).unwrap();
    let mine = over(Table::create(config, memory.clone(), [7; 32], 11).unwrap());
    let theirs = over(Table::open(memory, 22).unwrap());
    let (a, its_a) = (
        mine.zone(&"a.example".parse().unwrap()).unwrap(),
        theirs.zone(&"a.example".parse().unwrap()).unwrap(),
    );
    let mut meter = mine.meter(Time::ZERO);
    let mut worker = mine.worker([1; 32]).unwrap();
    let mut its_worker = theirs.worker([2; 32]).unwrap();
    let mut its: Vec<_> =
        (0..50).map(|_| its_worker.acquire(&its_a, &origin(1), Time::ZERO).unwrap()).collect();
    let own: Vec<_> = (0..7).map(|_| worker.acquire(&a, &origin(1), Time::ZERO).unwrap()).collect();
    assert_eq!(live(&mine), [(57, 57), (0, 0), (0, 0)]);
    // One process releases what the other was granted.
    mine.release(its.pop().unwrap(), Closed::Reset, Time::ZERO).unwrap();
    worker.release(its.pop().unwrap(), Closed::Reset, Time::ZERO).unwrap();
    assert_eq!(live(&mine)[0], (55, 57));
    // It dies with all that it had counted and not written down.
    std::mem::forget(its_worker);
    let recovered = mine.leases().recover(22, Time::ZERO, |_| false).unwrap();
    assert_eq!((recovered.leases, recovered.unclear), (48, 0));
    assert_eq!(live(&mine)[0], (7, 57));
    let rows = usage::read(mine.leases(), Time::ZERO);
    assert_eq!(rows.iter().map(|row| row.granted).sum::<u64>(), 57);
    // Its place is another's, who counts from there.
    let third = mine.worker([3; 32]).unwrap();
    let records = mine.report(&mut meter, Time::ZERO).records;
    let of_zone = records.iter().find(|r| matches!(r.subject, Subject::Zone { .. })).unwrap();
    assert_eq!((of_zone.live, of_zone.granted), (7, 57));
    drop((third, worker));
    own.into_iter().for_each(|lease| mine.release(lease, Closed::Reset, Time::ZERO).unwrap());
    assert_eq!(live(&mine)[0], (0, 57));
}
