//! What a lease table grants from as epochs come and go: shares, withheld ports, dead owners, tenures, what is busy.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use aegis_core::ErrorKind;
use aegis_core::lease::{
    AcquireError, Closed, CompleteError, Config, Conflict, GranuleState, Lease, Method, Pool, PoolKey, Share,
    Table, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NOW: Time = Time::from_millis(1_000_000);

fn after(seconds: u64) -> Time {
    NOW + Duration::from_secs(seconds)
}

fn range(lo: u16) -> PortRange {
    PortRange::new(lo, lo + 63).unwrap()
}

fn share(lo: u16) -> Share {
    Share {
        state: GranuleState::Owned,
        ip: IP,
        range: range(lo),
        method: Method::Explicit,
        withheld: Vec::new(),
        after_death: None,
    }
}

fn draining(lo: u16) -> Share {
    Share { state: GranuleState::Draining, ..share(lo) }
}

fn origin(protocol: Protocol, n: u8) -> Origin {
    Origin::new(protocol, (Ipv4Addr::new(203, 0, 113, n), 443).into()).unwrap()
}

fn tcp(n: u8) -> Origin {
    origin(Protocol::Tcp, n)
}

fn table() -> Arc<Table> {
    let config =
        Config { granule_ports: 64, granules: 16, origins: 256, pages: 256, workers: 8, ..Config::default() };
    Arc::new(Table::new(config, [7; 32]).unwrap())
}

/// Everything that the table grants towards an origin, until it refuses.
fn drain_pool(worker: &mut Worker, pool: &Pool, origin: &Origin, now: Time) -> (Vec<Lease>, AcquireError) {
    let mut leases = Vec::new();
    loop {
        match worker.acquire_to(pool, origin, now) {
            Ok(lease) => leases.push(lease),
            Err(error) => return (leases, error),
        }
    }
}

fn ports(table: &Table, leases: &[Lease]) -> BTreeSet<u16> {
    leases.iter().map(|lease| table.source(lease).unwrap().port()).collect()
}

#[test]
fn what_is_not_a_share_any_more_drains_and_its_leases_stay() {
    let table = table();
    let slots = table.apply(1, &[share(4_096), share(8_192)], NOW).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let mut worker = Worker::attach(table.clone(), [1; 32]).unwrap();
    let (old, error) = drain_pool(&mut worker, &pool, &tcp(1), NOW);
    assert_eq!((old.len(), error), (128, AcquireError::Exhausted));
    let slots = table.apply(2, &[share(8_192), share(16_384)], NOW).unwrap();
    let states: Vec<_> = table.granules().map(|(_, range, state)| (range.lo(), state)).collect();
    let (owned, gone) = (GranuleState::Owned, GranuleState::Draining);
    assert_eq!(states, [(4_096, gone), (8_192, owned), (16_384, owned)]);
    // The old pool still works where its granules are ours.
    let (granted, _) = drain_pool(&mut worker, &pool, &tcp(2), NOW);
    assert_eq!(ports(&table, &granted), range(8_192).ports().collect());
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let (granted, _) = drain_pool(&mut worker, &pool, &tcp(1), NOW);
    assert_eq!(ports(&table, &granted), range(16_384).ports().collect(), "the others are live");
    for lease in old {
        table.release(lease, Closed::Reset, NOW).unwrap();
    }
    let error =
        worker.acquire_to(&pool, &tcp(3), NOW).map(|lease| table.source(&lease).unwrap().port() >= 8_192);
    assert_eq!(error, Ok(true));
    // It comes back, as free as it is.
    table.apply(3, &[share(4_096)], NOW).unwrap();
    let pool = table.pool(PoolKey(1), table.apply(3, &[share(4_096)], NOW).unwrap()).unwrap();
    assert_eq!(drain_pool(&mut worker, &pool, &tcp(1), NOW).0.len(), 64);
}

#[test]
fn an_epoch_that_goes_back_is_refused_and_changes_nothing() {
    let table = table();
    table.apply(7, &[share(4_096)], NOW).unwrap();
    let error = table.apply(6, &[share(8_192)], NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Reload);
    assert!(error.message().contains("epoch 6 comes too late: the lease table was told epoch 7"), "{error}");
    let states: Vec<_> = table.granules().map(|(_, range, state)| (range.lo(), state)).collect();
    assert_eq!(states, [(4_096, GranuleState::Owned)]);
    let wrong = Share { range: PortRange::new(4_100, 4_110).unwrap(), ..share(4_096) };
    let error = table.apply(8, &[wrong], NOW).unwrap_err();
    assert!(error.message().contains("4100-4110 overlaps granule 4096-4159"), "{error}");
    assert_eq!(table.epoch(), 7, "what is wrong in itself is not told");
    table.apply(7, &[share(4_096)], NOW).unwrap();
}

#[test]
fn a_withheld_port_is_granted_to_nobody_until_it_is_not_withheld_any_more() {
    let table = table();
    let withheld = vec![4_096, 4_100, 4_143, 4_144, 4_159];
    let slots = table.apply(1, &[Share { withheld: withheld.clone(), ..share(4_096) }], NOW).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let mut worker = Worker::attach(table.clone(), [1; 32]).unwrap();
    let others: BTreeSet<u16> = range(4_096).ports().filter(|port| !withheld.contains(port)).collect();
    for (n, protocol) in [(1, Protocol::Tcp), (2, Protocol::Tcp), (1, Protocol::Udp)] {
        let (granted, error) = drain_pool(&mut worker, &pool, &origin(protocol, n), NOW);
        assert_eq!((ports(&table, &granted), error), (others.clone(), AcquireError::Exhausted));
        // Later the parked tuples are tried again, and are still not granted.
        let (more, error) = drain_pool(&mut worker, &pool, &origin(protocol, n), after(10));
        assert_eq!((more.len(), error), (0, AcquireError::Exhausted));
    }
    // One origin with one tuple has no page: the same holds there.
    for n in 3..200 {
        let lease = worker.acquire_to(&pool, &tcp(n), after(10)).unwrap();
        assert!(others.contains(&table.source(&lease).unwrap().port()));
    }
    table.apply(2, &[Share { withheld: vec![4_159], ..share(4_096) }], after(10)).unwrap();
    let (granted, _) = drain_pool(&mut worker, &pool, &tcp(1), after(20));
    assert_eq!(ports(&table, &granted), BTreeSet::from([4_096, 4_100, 4_143, 4_144]));
    table.apply(3, &[share(4_096)], after(20)).unwrap();
    let (granted, _) = drain_pool(&mut worker, &pool, &tcp(1), after(30));
    assert_eq!(ports(&table, &granted), BTreeSet::from([4_159]));
}

#[test]
fn after_a_death_tcp_is_granted_at_once_and_udp_after_two_minutes_from_when_it_came() {
    let table = table();
    let dead = Share { after_death: Some(1), ..share(4_096) };
    let slots = table.apply(1, std::slice::from_ref(&dead), NOW).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let mut worker = Worker::attach(table.clone(), [1; 32]).unwrap();
    assert!(worker.acquire_to(&pool, &tcp(1), NOW).is_ok());
    let udp = origin(Protocol::Udp, 1);
    assert_eq!(worker.acquire_to(&pool, &udp, after(119)), Err(AcquireError::NoShare));
    // The layout says for a while that the owner before has died: that does not begin anew.
    table.apply(2, &[dead], after(60)).unwrap();
    assert_eq!(worker.acquire_to(&pool, &udp, after(119)), Err(AcquireError::NoShare));
    assert!(worker.acquire_to(&pool, &udp, after(121)).is_ok());
    // It was another's for a while, who died, and this machine has never heard of that epoch: it rests all the same.
    let dead = Share { after_death: Some(7), ..share(4_096) };
    table.apply(9, std::slice::from_ref(&dead), after(200)).unwrap();
    assert_eq!(worker.acquire_to(&pool, &udp, after(319)), Err(AcquireError::NoShare));
    table.apply(10, &[dead], after(310)).unwrap();
    assert!(worker.acquire_to(&pool, &udp, after(321)).is_ok());
}

/// The epoch of the death was told, and nothing came of it yet: somebody was killed, or the granule was not active.
#[test]
fn a_granule_rests_after_a_death_whenever_it_becomes_ours() {
    let table = table();
    table.apply(1, &[Share { after_death: Some(1), ..draining(4_096) }], NOW).unwrap();
    let dead = Share { after_death: Some(1), ..share(4_096) };
    let slots = table.apply(2, std::slice::from_ref(&dead), after(10)).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let mut worker = Worker::attach(table.clone(), [1; 32]).unwrap();
    let udp = origin(Protocol::Udp, 1);
    assert_eq!(worker.acquire_to(&pool, &udp, after(129)), Err(AcquireError::NoShare));
    assert!(worker.acquire_to(&pool, &udp, after(131)).is_ok());
}

#[test]
fn a_machine_whose_tenure_is_over_grants_nothing_until_it_is_renewed() {
    let table = table();
    let slots = table.apply(1, &[share(4_096)], NOW).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let mut worker = Worker::attach(table.clone(), [1; 32]).unwrap();
    let mut handle = worker.origin(&pool, tcp(1)).unwrap();
    assert!(worker.acquire(&mut handle, NOW).is_ok(), "without a tenure there is no end");
    table.set_tenure(Some(after(10)));
    assert!(worker.acquire(&mut handle, after(9)).is_ok());
    for _ in 0..2 {
        assert_eq!(worker.acquire(&mut handle, after(10)), Err(AcquireError::TenureOver));
        assert_eq!(worker.acquire_to(&pool, &tcp(2), after(10)), Err(AcquireError::TenureOver));
        let source = (Ipv4Addr::new(192, 0, 2, 1), 4_100).into();
        assert_eq!(worker.acquire_exactly(&pool, source, &tcp(3), after(10)), Err(AcquireError::TenureOver));
        // A clock that lags behind another worker's does not bring it back.
        assert_eq!(worker.acquire(&mut handle, after(9)), Err(AcquireError::TenureOver));
    }
    table.set_tenure(Some(after(5)));
    assert_eq!(worker.acquire(&mut handle, after(10)), Err(AcquireError::TenureOver), "it never goes back");
    table.set_tenure(Some(after(20)));
    assert!(worker.acquire(&mut handle, after(10)).is_ok());
}

#[test]
fn busy_is_what_is_live_or_held_and_nothing_else() {
    let table = table();
    let slots = table.apply(1, &[share(4_096), share(8_192)], NOW).unwrap();
    let pool = table.pool(PoolKey(1), [slots[0]]).unwrap();
    let mut worker = Worker::attach(table.clone(), [1; 32]).unwrap();
    assert!(table.is_idle(NOW));
    assert!(table.busy_ports(IP, range(4_096), NOW).is_empty());
    let at = |table: &Table, lease: &Lease| table.source(lease).unwrap().port();
    let mut busy = BTreeSet::new();
    // One tuple in its origin's word; then many in pages, of two protocols.
    let single = worker.acquire_to(&pool, &tcp(9), NOW).unwrap();
    busy.insert(at(&table, &single));
    assert_eq!(table.busy_ports(IP, range(4_096), NOW), busy.iter().copied().collect::<Vec<_>>());
    assert!(!table.is_idle(NOW));
    for (n, closed) in [
        (1, None),
        (2, Some(Closed::HalfClosed)),
        (3, Some(Closed::Reset)),
        (4, Some(Closed::Passive)),
        (5, Some(Closed::UdpIdle)),
    ] {
        let protocol = if n == 5 { Protocol::Udp } else { Protocol::Tcp };
        for _ in 0..3 {
            let lease = worker.acquire_to(&pool, &origin(protocol, n), NOW).unwrap();
            let port = at(&table, &lease);
            if let Some(closed) = closed {
                table.release(lease, closed, NOW).unwrap();
            }
            if matches!(closed, None | Some(Closed::HalfClosed | Closed::UdpIdle)) {
                busy.insert(port);
            }
        }
    }
    let parked = worker.acquire_to(&pool, &tcp(6), NOW).unwrap();
    let parked_port = at(&table, &parked);
    table.conflict(parked, Conflict::PortInUse, NOW).unwrap();
    assert_eq!(table.busy_ports(IP, range(4_096), NOW), busy.iter().copied().collect::<Vec<_>>());
    assert!(busy.contains(&parked_port) || !table.busy_ports(IP, range(4_096), NOW).contains(&parked_port));
    assert!(table.busy_ports(IP, range(8_192), NOW).is_empty());
    // Holds end by themselves, live leases do not.
    let later = table.busy_ports(IP, range(4_096), after(200));
    assert_eq!(later.len(), 4);
    assert!(later.contains(&at(&table, &single)));
    let one = PortRange::new(later[0], later[0]).unwrap();
    assert_eq!(table.busy_ports(IP, one, after(200)), [later[0]]);
}

#[test]
fn where_the_kernel_chooses_a_granule_is_busy_as_long_as_a_connect_may_take() {
    let table = table();
    let kernel = Share { method: Method::KernelRange, ..share(4_096) };
    let slots = table.apply(1, std::slice::from_ref(&kernel), NOW).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let mut worker = Worker::attach(table.clone(), [1; 32]).unwrap();
    let early = worker.acquire_range(&pool, &tcp(1), NOW).unwrap();
    let late = worker.acquire_range(&pool, &tcp(1), NOW).unwrap();
    table.apply(2, &[Share { state: GranuleState::Draining, ..kernel.clone() }], NOW).unwrap();
    assert_eq!(worker.acquire_range(&pool, &tcp(1), NOW).err(), Some(AcquireError::NoShare));
    assert_eq!(table.busy_ports(IP, range(4_096), after(59)).len(), 64, "a connect may be under way");
    let lease = worker.complete(&early, 4_100, after(59)).unwrap();
    assert_eq!(table.busy_ports(IP, range(4_096), after(61)), [4_100]);
    assert_eq!(worker.complete(&late, 4_101, after(61)).unwrap_err(), CompleteError::TooLate);
    table.release(lease, Closed::Reset, after(61)).unwrap();
    assert!(table.busy_ports(IP, range(4_096), after(61)).is_empty());
    // With a port that stayed behind it is not ours yet: the kernel does not know of it.
    table.apply(3, &[Share { withheld: vec![4_100], ..kernel.clone() }], after(200)).unwrap();
    assert_eq!(worker.acquire_range(&pool, &tcp(1), after(200)).err(), Some(AcquireError::NoShare));
    table.apply(4, &[kernel], after(200)).unwrap();
    assert!(worker.acquire_range(&pool, &tcp(1), after(200)).is_ok());
}

/// A machine that was away, or reports seldom, skips as many epochs as others needed.
#[test]
fn an_epoch_that_is_far_from_the_last_is_told_like_any_other() {
    for distance in [1, 1_022, 1_023, 1_024, 1_500, 2_046, 2_047, 2_048, 32_767, 40_000, 65_535, 1 << 40] {
        let table = table();
        let apply = |nth: u64, share: Share| table.apply(1 + nth * distance, &[share], NOW).unwrap();
        let state = || table.granules().map(|(.., state)| state).next().unwrap();
        let withheld = Share { withheld: vec![4_096], ..share(4_096) };
        let pool = table.pool(PoolKey(1), apply(0, withheld)).unwrap();
        let mut worker = Worker::attach(table.clone(), [1; 32]).unwrap();
        apply(1, draining(4_096));
        assert_eq!(state(), GranuleState::Draining, "{distance} later");
        let others = Share { withheld: vec![4_097, 4_159], ..share(4_096) };
        apply(2, others);
        assert_eq!(state(), GranuleState::Owned, "{distance} later");
        let (granted, _) = drain_pool(&mut worker, &pool, &tcp(1), NOW);
        let all = range(4_096).ports().filter(|port| ![4_097, 4_159].contains(port)).collect();
        assert_eq!(ports(&table, &granted), all, "{distance} later");
    }
}

#[test]
fn a_range_is_not_completed_after_the_tenure_unless_its_granule_still_grants() {
    let table = table();
    let kernel = Share { method: Method::KernelRange, ..share(4_096) };
    let slots = table.apply(1, std::slice::from_ref(&kernel), NOW).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let mut worker = Worker::attach(table.clone(), [1; 32]).unwrap();
    table.set_tenure(Some(after(10)));
    let leased = worker.acquire_range(&pool, &tcp(1), NOW).unwrap();
    worker.complete(&leased, 4_096, after(9)).map(drop).unwrap();
    assert_eq!(worker.complete(&leased, 4_097, after(10)).unwrap_err(), CompleteError::TooLate);
    table.set_tenure(Some(after(30)));
    worker.complete(&leased, 4_098, after(20)).map(drop).unwrap();
    // While the machine was taken for dead the granule went to another.
    table.apply(2, &[], after(21)).unwrap();
    assert_eq!(worker.complete(&leased, 4_099, after(22)).unwrap_err(), CompleteError::TooLate);
}

/// Threads acquire while a granule drains: once `apply` has returned nothing is granted there, and all that was is busy.
#[test]
fn what_was_granted_before_the_drain_is_busy_and_nothing_is_granted_after_it() {
    let rounds = if cfg!(miri) { 2 } else { 300 };
    for round in 0..rounds {
        let table = table();
        let slots = table.apply(1, &[share(4_096), share(8_192)], NOW).unwrap();
        let pool = table.pool(PoolKey(1), slots).unwrap();
        let drained = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..2_u8)
                .map(|n| {
                    let (table, pool, drained) = (table.clone(), &pool, &drained);
                    scope.spawn(move || {
                        let mut worker =
                            Worker::attach(table.clone(), [n + (round % 100) as u8; 32]).unwrap();
                        let mut live = Vec::new();
                        let mut after_the_drain = 0;
                        while after_the_drain < 20 {
                            let is_after = drained.load(SeqCst);
                            after_the_drain += u32::from(is_after);
                            let Ok(lease) = worker.acquire_to(pool, &tcp(n + 1), NOW) else { continue };
                            let port = table.source(&lease).unwrap().port();
                            assert!(!is_after || port >= 8_192, "{port} after the drain");
                            if port < 8_192 && live.len() < 10 {
                                live.push((port, lease));
                            } else {
                                worker.release(lease, Closed::Reset, NOW).unwrap();
                            }
                        }
                        live
                    })
                })
                .collect();
            (0..5_000).for_each(|_| std::hint::spin_loop());
            table.apply(2, &[draining(4_096), share(8_192)], NOW).unwrap();
            drained.store(true, SeqCst);
            let busy = table.busy_ports(IP, range(4_096), NOW);
            for worker in workers {
                for (port, _) in worker.join().unwrap() {
                    assert!(busy.contains(&port), "{port} is live and not in {busy:?}");
                }
            }
        });
    }
}

/// Two threads tell the table of epochs in turn, each in its own order: what holds at the end is the last epoch.
#[test]
fn of_epochs_told_at_once_the_last_one_holds() {
    let rounds = if cfg!(miri) { 2 } else { 200 };
    for _ in 0..rounds {
        let table = table();
        // Odd epochs own the first granule, even ones the second and third.
        let shares = |epoch: u64| match epoch % 2 {
            1 => vec![share(4_096)],
            _ => vec![share(8_192), Share { withheld: vec![16_384], ..share(16_384) }],
        };
        std::thread::scope(|scope| {
            for first in [1, 2] {
                let table = &table;
                scope.spawn(move || {
                    for epoch in (first..=20).step_by(2) {
                        let _ = table.apply(epoch, &shares(epoch), NOW);
                    }
                });
            }
        });
        assert_eq!(table.epoch(), 20);
        let owned: BTreeSet<u16> = table
            .granules()
            .filter(|(.., state)| *state == GranuleState::Owned)
            .map(|(_, range, _)| range.lo())
            .collect();
        assert_eq!(owned, BTreeSet::from([8_192, 16_384]));
    }
}
