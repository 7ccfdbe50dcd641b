//! How long is a released tuple kept back? The presets, for every way to close; origins with times of their own; what
//! ends a hold early; shares of dead machines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aegis_core::lease::{
    AcquireError, Closed, Config, HalfClosed, Lease, Method, Pool, PoolKey, Quarantine, ReleaseError, Spans,
    Table, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    preset: Vec<Preset>,
}

/// Spans in milliseconds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Preset {
    source: String,
    name: String,
    timestamps: bool,
    fin_timeout: u64,
    unshared: bool,
    active: u64,
    passive: u64,
    reset: u64,
    connect_failed: u64,
    half_closed: u64,
    udp: u64,
    tcp_taken_over: u64,
    udp_taken_over: u64,
}

impl Preset {
    fn all() -> Vec<Self> {
        let file: File = toml::from_str(include_str!("../testdata/vectors/quarantine.toml")).unwrap();
        file.preset
    }

    fn spans(&self) -> Spans {
        let fin_timeout = Duration::from_millis(self.fin_timeout);
        match (&*self.name, self.unshared) {
            ("linux", false) => Spans::linux(self.timestamps, fin_timeout),
            ("linux", true) => Spans::linux_unshared(fin_timeout),
            ("azure", _) => Spans::azure(),
            ("rfc6888", _) => Spans::rfc6888(),
            (other, _) => panic!("preset {other} in {}", self.source),
        }
    }

    fn expected(&self, protocol: Protocol, closed: Closed) -> u64 {
        match (protocol, closed) {
            (_, Closed::Unused) => 0,
            (Protocol::Tcp, Closed::TakenOver) => self.tcp_taken_over,
            (Protocol::Udp, Closed::TakenOver) => self.udp_taken_over,
            (Protocol::Udp, _) => self.udp,
            (_, Closed::Active) => self.active,
            (_, Closed::Passive) => self.passive,
            (_, Closed::Reset) => self.reset,
            (_, Closed::ConnectFailed) => self.connect_failed,
            (_, Closed::HalfClosed | Closed::Unknown | Closed::UdpIdle) => self.half_closed,
            (_, other) => panic!("{other:?} has no column yet"),
        }
    }
}

const START: u64 = 10_000;

fn at(ms: u64) -> Time {
    Time::from_millis(START + ms)
}

fn origin(protocol: Protocol) -> Origin {
    Origin::new(protocol, "203.0.113.1:443".parse().unwrap()).unwrap()
}

fn other(n: u16) -> Origin {
    Origin::new(Protocol::Tcp, SocketAddr::from(([203, 0, 113, 9], 1_000 + n))).unwrap()
}

/// A table with these rules and so many ports.
fn share(method: Method, quarantine: Quarantine, ports: u16) -> (Arc<Table>, Pool, Worker) {
    let config = Config {
        granules: 2,
        origins: 16,
        pages: 16,
        quarantine,
        unshared_quarantine: quarantine,
        ..Config::default()
    };
    let table = Arc::new(Table::new(config, [3; 32]).unwrap());
    let range = PortRange::new(10_000, 10_000 + (ports - 1)).unwrap();
    let slots = table.add_granules(method, [("192.0.2.1".parse().unwrap(), range)]).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let worker = Worker::attach(Arc::clone(&table), [9; 32]).unwrap();
    (table, pool, worker)
}

/// Rules by `hold` alone.
fn hold(hold: Spans) -> Quarantine {
    Quarantine::new(hold, Spans::ZERO).unwrap()
}

/// Refused until `ms` after the start, granted from then on (deadlines round up to a quarter of a second).
fn is_held_until(worker: &mut Worker, pool: &Pool, to: &Origin, ms: u64, what: &str) -> Lease {
    if ms > 0 {
        let early = worker.acquire_to(pool, to, at(ms - 1));
        assert_eq!(early, Err(AcquireError::Exhausted), "{what}: before {ms} ms");
    }
    let lease = worker.acquire_to(pool, to, at(ms.next_multiple_of(250)));
    lease.unwrap_or_else(|error| panic!("{what}: {error} after {ms} ms"))
}

#[test]
fn every_preset_holds_every_way_to_close_for_as_long_as_the_vectors_say() {
    for preset in Preset::all() {
        let method = if preset.unshared { Method::Unique } else { Method::Explicit };
        for protocol in Protocol::ALL {
            for closed in Closed::ALL {
                let what = format!("{}: {protocol} {closed:?}", preset.source);
                // One port: the tuple is in the origin's home word. Two: it is in a page.
                for ports in [1, 2] {
                    let (table, pool, mut worker) = share(method, hold(preset.spans()), ports);
                    let origin = origin(protocol);
                    let mut leases: Vec<_> =
                        (0..ports).map(|_| worker.acquire_to(&pool, &origin, at(0)).unwrap()).collect();
                    table.release(leases.remove(0), closed, at(0)).unwrap();
                    let expected = preset.expected(protocol, closed);
                    let _lease = is_held_until(&mut worker, &pool, &origin, expected, &what);
                }
            }
        }
    }
}

#[test]
fn rest_is_never_the_cause_of_a_refusal() {
    for preset in Preset::all() {
        let rules = Quarantine::new(Spans::ZERO, preset.spans()).unwrap();
        for protocol in Protocol::ALL {
            for closed in Closed::ALL {
                for ports in [1, 2, 40] {
                    let (table, pool, mut worker) = share(Method::Explicit, rules, ports);
                    let origin = origin(protocol);
                    for round in 0..3 {
                        let leases: Vec<_> =
                            (0..ports).map(|_| worker.acquire_to(&pool, &origin, at(0)).unwrap()).collect();
                        assert_eq!(
                            worker.acquire_to(&pool, &origin, at(0)),
                            Err(AcquireError::Exhausted),
                            "round {round}"
                        );
                        for lease in leases {
                            worker.release(lease, closed, at(0)).unwrap();
                        }
                        let explained = table.explain(&pool, &origin, at(0));
                        let rests = if preset.expected(protocol, closed) == 0 { 0 } else { ports.into() };
                        assert_eq!((explained.live, explained.held, explained.resting), (0, 0, rests));
                    }
                }
            }
        }
    }
}

#[test]
fn a_hold_comes_before_a_rest_and_is_not_followed_by_one() {
    let rules =
        Quarantine::new(Spans::all(Duration::from_secs(10)), Spans::all(Duration::from_secs(100))).unwrap();
    let (table, pool, mut worker) = share(Method::Explicit, rules, 2);
    let origin = origin(Protocol::Tcp);
    let lease = worker.acquire_to(&pool, &origin, at(0)).unwrap();
    table.release(lease, Closed::Reset, at(0)).unwrap();
    let explained = table.explain(&pool, &origin, at(9_999));
    assert_eq!((explained.held, explained.resting, explained.first_free), (1, 0, Some(at(10_000))));
    let explained = table.explain(&pool, &origin, at(10_000));
    assert_eq!((explained.held, explained.resting), (0, 0));
}

#[test]
fn an_origin_has_the_quarantine_that_was_set_for_it_and_no_other_has() {
    for ports in [1, 2] {
        let (table, pool, mut worker) = share(Method::Explicit, hold(Spans::ZERO), ports);
        let to = origin(Protocol::Tcp);
        let long = hold(Spans::all(Duration::from_secs(100)));
        let take = |worker: &mut Worker, to: &Origin| -> Vec<_> {
            (0..ports).map(|_| worker.acquire_to(&pool, to, at(0)).unwrap()).collect()
        };
        // Its tuples exist already, in the home word or in a page: the release counts.
        let mut leases = take(&mut worker, &to);
        let mut others = take(&mut worker, &other(1));
        table.set_quarantine(&to, Some(&long), at(0)).unwrap();
        table.release(leases.remove(0), Closed::Reset, at(0)).unwrap();
        table.release(others.remove(0), Closed::Reset, at(0)).unwrap();
        let _lease = is_held_until(&mut worker, &pool, &other(1), 0, "another origin");
        let lease = is_held_until(&mut worker, &pool, &to, 100_000, "this origin");
        // Taken away: releases from now on go by the table's rules again.
        table.set_quarantine(&to, None, at(100_000)).unwrap();
        table.release(lease, Closed::Reset, at(100_000)).unwrap();
        let _lease = worker.acquire_to(&pool, &to, at(100_000)).unwrap();
    }
}

#[test]
fn a_quarantine_set_before_the_first_connection_counts_for_it() {
    let (table, pool, mut worker) = share(Method::Explicit, hold(Spans::ZERO), 2);
    let to = origin(Protocol::Tcp);
    table.set_quarantine(&to, Some(&hold(Spans::azure())), at(0)).unwrap();
    let leases: Vec<_> = (0..2).map(|_| worker.acquire_to(&pool, &to, at(0)).unwrap()).collect();
    for lease in leases {
        table.release(lease, Closed::ConnectFailed, at(0)).unwrap();
    }
    let _lease = is_held_until(&mut worker, &pool, &to, 30_000, "connect failed");
}

#[test]
fn a_quarantine_of_an_origin_outlives_a_flood_of_other_origins() {
    let (table, pool, mut worker) = share(Method::Explicit, hold(Spans::ZERO), 1);
    let to = origin(Protocol::Tcp);
    table.set_quarantine(&to, Some(&hold(Spans::rfc6888())), at(0)).unwrap();
    for n in 0..1_000 {
        let lease = worker.acquire_to(&pool, &other(n), at(0)).unwrap();
        table.release(lease, Closed::Reset, at(0)).unwrap();
    }
    let lease = worker.acquire_to(&pool, &to, at(0)).unwrap();
    table.release(lease, Closed::Reset, at(0)).unwrap();
    let _lease = is_held_until(&mut worker, &pool, &to, 120_000, "after 1,000 other origins");
}

#[test]
fn a_table_knows_64_different_quarantines_and_the_same_one_once() {
    let (table, ..) = share(Method::Explicit, hold(Spans::ZERO), 1);
    let rules = |seconds| hold(Spans::all(Duration::from_secs(seconds)));
    for _ in 0..3 {
        // One is the table's own (all zero), used for both kinds of granules.
        for seconds in 1..=62 {
            table.set_quarantine(&other(1), Some(&rules(seconds)), at(0)).unwrap();
        }
    }
    let error = table.set_quarantine(&other(1), Some(&rules(99)), at(0)).unwrap_err();
    assert!(error.message().contains("64"), "{error}");
    table.set_quarantine(&other(2), Some(&rules(62)), at(0)).unwrap();
}

/// A half-closed connection whose tuple is in the home word (`ports` 1) or in a page; all others are live.
fn half_closed(timestamps: bool, ports: u16) -> (Arc<Table>, Pool, Worker, HalfClosed) {
    let rules = hold(Spans::linux(timestamps, Duration::from_secs(60)));
    let (table, pool, mut worker) = share(Method::Explicit, rules, ports);
    let to = origin(Protocol::Tcp);
    let mut leases: Vec<_> = (0..ports).map(|_| worker.acquire_to(&pool, &to, at(0)).unwrap()).collect();
    let half_closed = table.half_close(leases.remove(0), at(0)).unwrap();
    assert_eq!(worker.acquire_to(&pool, &to, at(0)), Err(AcquireError::Exhausted));
    (table, pool, worker, half_closed)
}

#[test]
fn the_peers_close_ends_a_half_closed_hold_where_timestamps_are_on() {
    let to = origin(Protocol::Tcp);
    for ports in [1, 2] {
        let (table, pool, mut worker, half_closed) = half_closed(true, ports);
        assert_eq!(worker.acquire_to(&pool, &to, at(5_000)), Err(AcquireError::Exhausted));
        assert!(table.peer_closed(half_closed, at(5_000)));
        let _lease = worker.acquire_to(&pool, &to, at(5_000)).unwrap();
    }
}

#[test]
fn the_peers_close_starts_time_wait_where_timestamps_are_off() {
    for ports in [1, 2] {
        let (table, pool, mut worker, half_closed) = half_closed(false, ports);
        assert!(table.peer_closed(half_closed, at(5_000)));
        let to = origin(Protocol::Tcp);
        let _lease = is_held_until(&mut worker, &pool, &to, 74_000, "69 s after the peer's close");
    }
}

#[test]
fn the_peers_close_ends_a_hold_in_a_page_also_if_it_began_in_the_home_word() {
    let rules = hold(Spans::linux(true, Duration::from_secs(60)));
    let (table, pool, mut worker) = share(Method::Explicit, rules, 2);
    let to = origin(Protocol::Tcp);
    let first = worker.acquire_to(&pool, &to, at(0)).unwrap();
    let half_closed = table.half_close(first, at(0)).unwrap();
    let _second = worker.acquire_to(&pool, &to, at(0)).unwrap();
    assert_eq!(worker.acquire_to(&pool, &to, at(1_000)), Err(AcquireError::Exhausted));
    assert!(table.peer_closed(half_closed, at(1_000)));
    let _again = worker.acquire_to(&pool, &to, at(1_000)).unwrap();
}

#[test]
fn late_news_of_a_peers_close_leaves_the_hold_of_the_next_connection_alone() {
    let to = origin(Protocol::Tcp);
    for ports in [1, 2] {
        let (table, pool, mut worker, old) = half_closed(true, ports);
        // 60 s of FIN_WAIT2 and a seventh more, in quarters of a second.
        let lease = is_held_until(&mut worker, &pool, &to, 68_750, "nobody told of the peer's close");
        let new = table.half_close(lease, at(68_750)).unwrap();
        assert!(!table.peer_closed(old, at(68_800)), "another connection's hold");
        assert_eq!(worker.acquire_to(&pool, &to, at(80_000)), Err(AcquireError::Exhausted));
        assert!(table.peer_closed(new, at(80_000)));
        let _lease = worker.acquire_to(&pool, &to, at(80_000)).unwrap();
    }
}

#[test]
fn the_peers_close_right_after_ours_ends_the_hold_half_a_second_later() {
    let (table, pool, mut worker, half_closed) = half_closed(true, 2);
    assert!(table.peer_closed(half_closed, at(3)));
    let _lease = is_held_until(&mut worker, &pool, &origin(Protocol::Tcp), 500, "two steps of deadlines");
}

#[test]
fn a_foreign_or_stale_lease_is_not_half_closed() {
    let (table, pool, mut worker) = share(Method::Explicit, hold(Spans::azure()), 2);
    let other = Table::new(Config::default(), [9; 32]).unwrap();
    let to = origin(Protocol::Tcp);
    let lease = worker.acquire_to(&pool, &to, at(0)).unwrap();
    let rejected = other.half_close(lease, at(0)).unwrap_err();
    assert_eq!(rejected.error, ReleaseError::Foreign);
    assert_eq!(table.explain(&pool, &to, at(0)).live, 1);
    let half_closed = table.half_close(rejected.lease, at(0)).unwrap();
    assert!(!other.peer_closed(half_closed, at(5_000)), "another table's");
    assert_eq!(table.explain(&pool, &to, at(0)).held, 1);
}

#[test]
fn a_dead_machines_share_grants_tcp_at_once_and_udp_after_two_minutes() {
    let (table, pool, mut worker) = share(Method::Explicit, Quarantine::default(), 4);
    let range = PortRange::new(10_000, 10_003).unwrap();
    let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
    table.take_over(granule, at(0));
    let _tcp = worker.acquire_to(&pool, &origin(Protocol::Tcp), at(0)).unwrap();
    let udp = origin(Protocol::Udp);
    for ms in [0, 60_000, 119_999] {
        assert_eq!(worker.acquire_to(&pool, &udp, at(ms)), Err(AcquireError::NoShare), "{ms}");
    }
    let _udp: Vec<_> = (0..4).map(|_| worker.acquire_to(&pool, &udp, at(120_000)).unwrap()).collect();
    assert_eq!(worker.acquire_to(&pool, &udp, at(120_000)), Err(AcquireError::Exhausted));
}

#[test]
fn a_share_taken_over_under_azures_times_waits_for_both_protocols() {
    let (table, pool, mut worker) = share(Method::Explicit, hold(Spans::azure()), 4);
    let range = PortRange::new(10_000, 10_003).unwrap();
    let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
    table.take_over(granule, at(0));
    for protocol in Protocol::ALL {
        assert_eq!(worker.acquire_to(&pool, &origin(protocol), at(119_999)), Err(AcquireError::NoShare));
    }
    for protocol in Protocol::ALL {
        let _lease = worker.acquire_to(&pool, &origin(protocol), at(120_000)).unwrap();
    }
}

#[test]
fn a_share_taken_over_a_second_time_waits_from_then_on() {
    let (table, pool, mut worker) = share(Method::Explicit, Quarantine::default(), 4);
    let range = PortRange::new(10_000, 10_003).unwrap();
    let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
    let udp = origin(Protocol::Udp);
    for begun in [0, 100_000, 500_000, 5_000_000_000] {
        table.take_over(granule, at(begun));
        assert_eq!(worker.acquire_to(&pool, &udp, at(begun + 119_999)), Err(AcquireError::NoShare));
    }
    let _lease = worker.acquire_to(&pool, &udp, at(5_000_120_000)).unwrap();
}
