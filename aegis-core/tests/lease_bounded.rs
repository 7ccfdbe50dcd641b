//! Somebody makes the proxy dial more origins than the table has room for: rest is forgotten, what is live or held never.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use aegis_core::lease::{
    AcquireError, Closed, Config, OriginHandle, Pool, PoolKey, Quarantine, Spans, Table, Tuple, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;

const NOW: Time = Time::from_millis(1_000);
/// Once there was no room nobody searches again for a quarter of a second.
const A_LITTLE_LATER: Duration = Duration::from_millis(250);

/// The `n`th of millions of origins.
fn nth(n: u32) -> Origin {
    let ip = IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + n / 4));
    Origin::new(Protocol::Tcp, SocketAddr::new(ip, 443 + (n % 4) as u16)).unwrap()
}

fn world(origins: u32, pages: u32, ports: u16, quarantine: Quarantine) -> (Arc<Table>, Pool, Worker) {
    let config = Config { granules: 2, granule_ports: 64, origins, pages, quarantine, ..Config::default() };
    let table = Arc::new(Table::new(config, [3; 32]).unwrap());
    let range = PortRange::new(5_000, 5_000 + (ports - 1)).unwrap();
    let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
    let pool = table.pool(PoolKey(1), [granule]).unwrap();
    let worker = Worker::attach(Arc::clone(&table), [9; 32]).unwrap();
    (table, pool, worker)
}

fn only_rest() -> Quarantine {
    Quarantine::new(Spans::ZERO, Spans::azure()).unwrap()
}

#[test]
fn three_hundred_thousand_origins_pass_through_a_table_of_a_thousand() {
    let (table, pool, mut worker) = world(1_000, 8, 64, only_rest());
    // Some stay live, some are held for ever: a half of the room.
    let live: Vec<_> = (0..400).map(|n| worker.acquire_to(&pool, &nth(n), NOW).unwrap()).collect();
    for n in 0..300_000 {
        let origin = nth(1_000 + n);
        let lease = worker.acquire_to(&pool, &origin, NOW).unwrap();
        assert_eq!(table.tuple(&lease).unwrap().origin, origin);
        table.release(lease, Closed::Active, NOW).unwrap();
    }
    for (n, lease) in (0..).zip(live) {
        assert_eq!(table.explain(&pool, &nth(n), NOW).live, 1, "{n}");
        assert_eq!(table.tuple(&lease).unwrap().origin, nth(n));
        table.release(lease, Closed::Reset, NOW).unwrap();
    }
}

#[test]
fn what_is_held_is_not_forgotten_in_a_flood() {
    let hold =
        Quarantine::new(Spans { half_closed: Duration::from_secs(600), ..Spans::ZERO }, Spans::azure())
            .unwrap();
    let (table, pool, mut worker) = world(100, 60, 2, hold);
    // Fifty origins have one held tuple, and ten have two, in pages.
    for n in 0..60 {
        let leases: Vec<_> =
            (0..1 + n / 50).map(|_| worker.acquire_to(&pool, &nth(n), NOW).unwrap()).collect();
        for lease in leases {
            table.release(lease, Closed::HalfClosed, NOW).unwrap();
        }
    }
    for n in 0..20_000 {
        let lease = worker.acquire_to(&pool, &nth(1_000 + n), NOW).unwrap();
        table.release(lease, Closed::Active, NOW).unwrap();
    }
    for n in 0..60 {
        assert_eq!(table.explain(&pool, &nth(n), NOW).held, 1 + n / 50, "origin {n}");
    }
    for n in 50..60 {
        assert_eq!(worker.acquire_to(&pool, &nth(n), NOW), Err(AcquireError::Exhausted));
    }
    // The holds end by themselves, and then the room is anybody's.
    let after = NOW + Duration::from_secs(600);
    let _live: Vec<_> = (0..100).map(|n| worker.acquire_to(&pool, &nth(5_000 + n), after).unwrap()).collect();
}

#[test]
fn without_room_a_new_origin_is_refused_and_the_known_ones_are_not() {
    let hold = Quarantine::new(Spans { half_closed: Duration::from_secs(60), ..Spans::ZERO }, Spans::azure())
        .unwrap();
    let (table, pool, mut worker) = world(8, 16, 64, hold);
    let mut leases: Vec<_> = (0..8).map(|n| worker.acquire_to(&pool, &nth(n), NOW).unwrap()).collect();
    for n in 8..20 {
        assert_eq!(worker.acquire_to(&pool, &nth(n), NOW), Err(AcquireError::TooManyOrigins));
        assert_eq!(worker.origin(&pool, nth(n)).err(), Some(AcquireError::TooManyOrigins));
    }
    let more: Vec<_> = (0..8).map(|n| worker.acquire_to(&pool, &nth(n), NOW).unwrap()).collect();
    // A held one makes no room; one that rests does.
    let now = NOW + A_LITTLE_LATER;
    table.release(leases.remove(0), Closed::HalfClosed, now).unwrap();
    for lease in more {
        table.release(lease, Closed::Unused, now).unwrap();
    }
    assert_eq!(worker.acquire_to(&pool, &nth(9), now), Err(AcquireError::TooManyOrigins));
    let now = now + A_LITTLE_LATER;
    table.release(leases.remove(0), Closed::Active, now).unwrap();
    let lease = worker.acquire_to(&pool, &nth(9), now).unwrap();
    assert_eq!(table.tuple(&lease).unwrap().origin, nth(9));
    assert_eq!(table.explain(&pool, &nth(0), now).held, 1);
}

#[test]
fn a_few_pages_serve_many_origins_one_after_the_other() {
    for closed in [Closed::Unused, Closed::Active] {
        let (table, pool, mut worker) = world(100, 4, 64, only_rest());
        for n in 0..5_000 {
            let origin = nth(n % 777);
            let leases = [0; 3].map(|_| worker.acquire_to(&pool, &origin, NOW).unwrap());
            let sources: BTreeSet<_> = leases.iter().map(|lease| table.tuple(lease).unwrap()).collect();
            assert_eq!(sources.len(), 3);
            for lease in leases {
                table.release(lease, closed, NOW).unwrap();
            }
        }
    }
}

#[test]
fn when_every_page_is_in_use_origins_have_one_connection_each() {
    let (table, pool, mut worker) = world(100, 4, 64, only_rest());
    let mut pairs: Vec<_> =
        (0..4).map(|n| [0, 1].map(|_| worker.acquire_to(&pool, &nth(n), NOW).unwrap())).collect();
    for n in 4..90 {
        let _first = worker.acquire_to(&pool, &nth(n), NOW).unwrap();
        assert_eq!(worker.acquire_to(&pool, &nth(n), NOW), Err(AcquireError::TooManyOrigins), "{n}");
        // Nothing is lost by the refusal.
        assert_eq!(table.explain(&pool, &nth(n), NOW).live, 1);
    }
    for lease in pairs.pop().unwrap() {
        table.release(lease, Closed::Active, NOW).unwrap();
    }
    let _second = worker.acquire_to(&pool, &nth(50), NOW + A_LITTLE_LATER).unwrap();
    assert_eq!(table.explain(&pool, &nth(50), NOW).live, 2);
}

#[test]
fn an_origin_whose_pages_are_all_empty_makes_room_for_the_next() {
    let (table, first, mut worker) = world(4, 64, 4, only_rest());
    let second =
        table.add_granule("192.0.2.2".parse().unwrap(), PortRange::new(5_000, 5_003).unwrap()).unwrap();
    let slot =
        table.add_granule("192.0.2.1".parse().unwrap(), PortRange::new(5_000, 5_003).unwrap()).unwrap();
    let pool = table.pool(PoolKey(2), [slot, second]).unwrap();
    drop(first);
    for closed in [Closed::Unused, Closed::Active] {
        let all: Vec<_> = (0..4 * 8).map(|n| worker.acquire_to(&pool, &nth(n / 8), NOW).unwrap()).collect();
        for lease in all {
            table.release(lease, closed, NOW).unwrap();
        }
        let lease = worker.acquire_to(&pool, &nth(100), NOW).unwrap();
        table.release(lease, Closed::Unused, NOW).unwrap();
    }
}

#[test]
fn a_handle_outlives_the_eviction_of_its_origin() {
    let (table, pool, mut worker) = world(8, 4, 4, only_rest());
    let mut handles: Vec<OriginHandle> = (0..40).map(|n| worker.origin(&pool, nth(n)).unwrap()).collect();
    let mut taken: BTreeSet<Tuple> = BTreeSet::new();
    let mut live = std::collections::VecDeque::new();
    for round in 0..20_000usize {
        let n = round * 7 % 40;
        if let Ok(lease) = worker.acquire(&mut handles[n], NOW) {
            let tuple = table.tuple(&lease).unwrap();
            assert_eq!(tuple.origin, nth(n as u32), "a lease towards another origin");
            assert!(taken.insert(tuple), "{tuple} twice");
            live.push_back(lease);
        }
        if live.len() > 3 {
            let lease = live.pop_front().unwrap();
            assert!(taken.remove(&table.tuple(&lease).unwrap()));
            table.release(lease, Closed::ALL[round % 4], NOW).unwrap();
        }
    }
    assert!(table.granted() > 15_000, "{}", table.granted());
}

#[test]
fn threads_that_recycle_each_others_origins_and_pages_get_no_tuple_twice() {
    recycle(6);
}

#[test]
fn threads_that_recycle_each_others_origins_get_no_tuple_twice_while_pages_are_plenty() {
    recycle(1_000);
}

fn recycle(pages: u32) {
    const ORIGINS: usize = 48;
    const PORTS: usize = 4;
    let (table, pool, first) = world(16, pages, PORTS as u16, only_rest());
    drop(first);
    let taken: Vec<AtomicBool> = (0..ORIGINS * PORTS).map(|_| AtomicBool::new(false)).collect();
    let place = |tuple: &Tuple| {
        let origin = (0..ORIGINS).find(|&n| nth(n as u32) == tuple.origin).expect("one of ours");
        origin * PORTS + usize::from(tuple.source.port() - 5_000)
    };
    let clock = AtomicU64::new(1_000);
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for n in 0..4u8 {
            let (table, pool, taken, clock, refused) = (&table, &pool, &taken, &clock, &refused);
            scope.spawn(move || {
                let mut worker = Worker::attach(Arc::clone(table), [n; 32]).unwrap();
                let mut handles: Vec<Option<OriginHandle>> = (0..ORIGINS).map(|_| None).collect();
                let mut mine = Vec::new();
                let mut random = u64::from(n) + 1;
                for round in 0..150_000u64 {
                    // xorshift64
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let which = random as usize % ORIGINS;
                    let now = Time::from_millis(match round % 64 {
                        0 => clock.fetch_add(10, SeqCst),
                        _ => clock.load(SeqCst),
                    });
                    let origin = nth(which as u32);
                    let acquired = match random >> 32 & 1 {
                        0 => worker.acquire_to(pool, &origin, now),
                        _ => match &mut handles[which] {
                            Some(handle) => worker.acquire(handle, now),
                            none => match worker.origin(pool, origin) {
                                Ok(handle) => worker.acquire(none.insert(handle), now),
                                Err(error) => Err(error),
                            },
                        },
                    };
                    match acquired {
                        Ok(lease) => {
                            let tuple = table.tuple(&lease).unwrap();
                            assert_eq!(tuple.origin, origin);
                            assert!(!taken[place(&tuple)].swap(true, SeqCst), "{tuple} twice");
                            mine.push(lease);
                        }
                        Err(AcquireError::TooManyOrigins | AcquireError::Exhausted) => {
                            refused.fetch_add(1, SeqCst);
                        }
                        Err(error) => panic!("{error}"),
                    }
                    if mine.len() > 3 || (random >> 40) % 3 == 0 && !mine.is_empty() {
                        let lease = mine.swap_remove((random >> 48) as usize % mine.len());
                        assert!(taken[place(&table.tuple(&lease).unwrap())].swap(false, SeqCst));
                        let closed = Closed::ALL[(random >> 56) as usize % 3];
                        worker.release(lease, closed, now).unwrap();
                    }
                }
                for lease in mine {
                    assert!(taken[place(&table.tuple(&lease).unwrap())].swap(false, SeqCst));
                    worker.release(lease, Closed::Unused, Time::ZERO).unwrap();
                }
            });
        }
    });
    assert!(table.granted() > 50_000, "granted {}, refused {refused:?}", table.granted());
    let after = Time::from_millis(clock.load(SeqCst)) + Duration::from_secs(1);
    for n in 0..ORIGINS as u32 {
        assert_eq!(table.explain(&pool, &nth(n), after).live, 0);
    }
}

#[test]
fn a_handle_whose_record_is_another_origins_now_takes_nothing_of_it() {
    let (table, pool, mut worker) = world(1, 4, 4, only_rest());
    let mut handle = worker.origin(&pool, nth(0)).unwrap();
    let lease = worker.acquire(&mut handle, NOW).unwrap();
    table.release(lease, Closed::Active, NOW).unwrap();
    // The only record becomes another origin's, and that one's only tuple rests until its time is over.
    let lease = worker.acquire_to(&pool, &nth(1), NOW).unwrap();
    table.release(lease, Closed::Active, NOW).unwrap();
    let later = NOW + Duration::from_secs(100);
    let lease = worker.acquire(&mut handle, later).unwrap();
    assert_eq!(table.tuple(&lease).unwrap().origin, nth(0));
    assert_eq!(worker.acquire_to(&pool, &nth(1), later), Err(AcquireError::TooManyOrigins));
}
