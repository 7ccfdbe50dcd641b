//! How much may one origin, one zone, one account have?

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use aegis_core::ErrorKind;
use aegis_core::lease::{
    AcquireError, Closed, Config, Conflict, Lease, Method, Pool, PoolKey, Quarantine, Spans, Table, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;

const NOW: Time = Time::from_millis(1_000);

fn nth(n: u16) -> Origin {
    Origin::new(Protocol::Tcp, SocketAddr::from(([203, 0, 113, 7], 1_000 + n))).unwrap()
}

fn egress(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

fn range(lo: u16, hi: u16) -> PortRange {
    PortRange::new(lo, hi).unwrap()
}

/// Two egress IPs, the first with two granules; `holds` says whether a released tuple is held for a minute.
fn world(per_origin: u32, holds: bool) -> (Arc<Table>, Pool) {
    let hold = Spans::all(Duration::from_secs(if holds { 60 } else { 0 }));
    let config = Config {
        granules: 4,
        origins: 64,
        pages: 64,
        quotas: 8,
        per_origin,
        quarantine: Quarantine::new(hold, Spans::ZERO).unwrap(),
        ..Config::default()
    };
    let table = Arc::new(Table::new(config, [3; 32]).unwrap());
    let granules = [
        (egress(1), range(4_000, 4_007)),
        (egress(1), range(5_000, 5_007)),
        (egress(2), range(4_000, 4_007)),
    ];
    let slots = table.add_granules(Method::Explicit, granules).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    (table, pool)
}

fn worker(table: &Arc<Table>) -> Worker {
    Worker::attach(Arc::clone(table), [9; 32]).unwrap()
}

fn by_ip(table: &Table, leases: &[Lease]) -> BTreeMap<IpAddr, usize> {
    let mut counts = BTreeMap::new();
    for lease in leases {
        *counts.entry(table.source(lease).unwrap().ip()).or_default() += 1;
    }
    counts
}

#[test]
fn while_one_egress_ip_is_at_its_limit_the_other_is_used() {
    for _ in 0..20 {
        let (table, pool) = world(3, false);
        let mut worker = worker(&table);
        let leases: Vec<_> = (0..6).map(|_| worker.acquire_to(&pool, &nth(1), NOW).unwrap()).collect();
        assert_eq!(by_ip(&table, &leases), BTreeMap::from([(egress(1), 3), (egress(2), 3)]));
        for _ in 0..3 {
            assert_eq!(worker.acquire_to(&pool, &nth(1), NOW), Err(AcquireError::OriginLimit));
        }
        // Another origin has limits of its own.
        for _ in 0..6 {
            let _lease = worker.acquire_to(&pool, &nth(2), NOW).unwrap();
        }
    }
}

#[test]
fn a_release_makes_room_under_the_limit_on_the_same_egress_ip() {
    let (table, pool) = world(3, false);
    let mut worker = worker(&table);
    let mut handle = worker.origin(&pool, nth(1)).unwrap();
    let mut leases: Vec<_> = (0..6).map(|_| worker.acquire(&mut handle, NOW).unwrap()).collect();
    for round in 0..50 {
        let lease = leases.swap_remove(round % 6);
        let ip = table.source(&lease).unwrap().ip();
        table.release(lease, Closed::Reset, NOW).unwrap();
        let again = worker.acquire(&mut handle, NOW).unwrap();
        assert_eq!(table.source(&again).unwrap().ip(), ip);
        leases.push(again);
        assert_eq!(worker.acquire(&mut handle, NOW), Err(AcquireError::OriginLimit));
    }
}

#[test]
fn what_is_held_counts_for_the_limit_of_an_origin() {
    let (table, pool) = world(3, true);
    let mut worker = worker(&table);
    for _ in 0..6 {
        let lease = worker.acquire_to(&pool, &nth(1), NOW).unwrap();
        table.release(lease, Closed::Active, NOW).unwrap();
    }
    assert_eq!(worker.acquire_to(&pool, &nth(1), NOW), Err(AcquireError::OriginLimit));
    let _lease = worker.acquire_to(&pool, &nth(1), NOW + Duration::from_secs(60)).unwrap();
}

#[test]
fn one_source_by_name_is_under_the_limit_too() {
    let (table, pool) = world(2, false);
    let mut worker = worker(&table);
    let source = |port| SocketAddr::new(egress(1), port);
    let _a = worker.acquire_exactly(&pool, source(4_000), &nth(1), NOW).unwrap();
    let _b = worker.acquire_exactly(&pool, source(5_000), &nth(1), NOW).unwrap();
    let refused = worker.acquire_exactly(&pool, source(5_001), &nth(1), NOW);
    assert_eq!(refused, Err(AcquireError::OriginLimit), "both granules of the address count");
    assert_eq!(table.explain(&pool, &nth(1), NOW).live, 2, "nothing is left of the refused one");
    let _c = worker.acquire_exactly(&pool, SocketAddr::new(egress(2), 4_001), &nth(1), NOW).unwrap();
}

#[test]
fn a_range_of_the_kernel_is_refused_at_the_limit_and_says_why() {
    let config = Config { granules: 4, origins: 16, pages: 16, per_origin: 2, ..Config::default() };
    let table = Arc::new(Table::new(config, [3; 32]).unwrap());
    let slots = table.add_granules(Method::KernelRange, [(egress(1), range(4_000, 4_007))]).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let mut worker = worker(&table);
    let leased = worker.acquire_range(&pool, &nth(1), NOW).unwrap();
    for port in [4_000, 4_001] {
        let _lease = worker.complete(&leased, port, NOW).unwrap();
    }
    assert_eq!(worker.acquire_range(&pool, &nth(1), NOW).err(), Some(AcquireError::OriginLimit));
    worker.acquire_range(&pool, &nth(2), NOW).map(drop).unwrap();
}

#[test]
fn a_range_of_the_kernel_is_refused_before_the_connect_where_a_quota_is_used_up() {
    let (table, _) = world(0, false);
    let slots = table.add_granules(Method::KernelRange, [(egress(3), range(4_000, 4_007))]).unwrap();
    let quota = table.set_quota(0, 1, None).unwrap();
    let pool = table.pool(PoolKey(2), slots).unwrap().under(quota);
    let mut worker = worker(&table);
    let leased = worker.acquire_range(&pool, &nth(1), NOW).unwrap();
    assert_eq!(table.quota_used(quota), 0, "it counts when it is completed");
    let lease = worker.complete(&leased, 4_003, NOW).unwrap();
    assert_eq!(worker.acquire_range(&pool, &nth(1), NOW).err(), Some(AcquireError::QuotaReached));
    assert_eq!(table.quota_used(quota), 1);
    worker.release(lease, Closed::Unused, NOW).unwrap();
    let _again = worker.acquire_range(&pool, &nth(1), NOW).unwrap();
}

#[test]
fn a_zone_and_its_account_are_refused_each_by_its_own_name() {
    let (table, pool) = world(0, false);
    let account = table.set_quota(0, 5, None).unwrap();
    let [first, second] = [1, 2].map(|number| table.set_quota(number, 3, Some(account)).unwrap());
    let mut worker = worker(&table);
    let mut leases: Vec<_> =
        (0..3).map(|n| worker.acquire_to(&pool.under(first), &nth(n), NOW).unwrap()).collect();
    let refused = worker.acquire_to(&pool.under(first), &nth(9), NOW).unwrap_err();
    assert_eq!((refused, refused.kind()), (AcquireError::QuotaReached, ErrorKind::Wait));
    leases.extend((0..2).map(|n| worker.acquire_to(&pool.under(second), &nth(n), NOW).unwrap()));
    let refused = worker.acquire_to(&pool.under(second), &nth(9), NOW).unwrap_err();
    assert_eq!((refused, refused.kind()), (AcquireError::ParentQuotaReached, ErrorKind::Wait));
    let used = |table: &Table| [account, first, second].map(|quota| table.quota_used(quota));
    assert_eq!(used(&table), [5, 3, 2], "a refusal counts nothing");
    // A release gives back to both; held or not, the lease is over.
    table.release(leases.remove(0), Closed::Reset, NOW).unwrap();
    assert_eq!(used(&table), [4, 2, 2]);
    leases.push(worker.acquire_to(&pool.under(second), &nth(9), NOW).unwrap());
    for lease in leases {
        table.release(lease, Closed::Reset, NOW).unwrap();
    }
    assert_eq!(used(&table), [0, 0, 0]);
    // Without a quota nothing is counted.
    let _lease = worker.acquire_to(&pool, &nth(1), NOW).unwrap();
    assert_eq!(used(&table), [0, 0, 0]);
}

#[test]
fn every_way_a_lease_ends_or_is_not_granted_gives_its_count_back() {
    let (table, pool) = world(0, true);
    let quota = table.set_quota(0, 100, None).unwrap();
    let pool = pool.under(quota);
    let mut worker = worker(&table);
    for closed in Closed::ALL {
        let lease = worker.acquire_to(&pool, &nth(1), NOW).unwrap();
        assert_eq!(table.quota_used(quota), 1);
        worker.release(lease, closed, NOW).unwrap();
        assert_eq!(table.quota_used(quota), 0, "{closed:?}");
    }
    for cause in [Conflict::NoSuchAddress, Conflict::TupleInUse, Conflict::PortInUse] {
        let lease = worker.acquire_to(&pool, &nth(2), NOW).unwrap();
        table.conflict(lease, cause, NOW).unwrap();
        assert_eq!(table.quota_used(quota), 0, "{cause:?}");
    }
    // The parked port is none of the other 23's.
    let leases: Vec<_> = (0..23).map(|_| worker.acquire_to(&pool, &nth(3), NOW).unwrap()).collect();
    assert_eq!(worker.acquire_to(&pool, &nth(3), NOW), Err(AcquireError::Exhausted));
    let taken = table.source(&leases[0]).unwrap();
    assert_eq!(worker.acquire_exactly(&pool, taken, &nth(3), NOW), Err(AcquireError::InUse));
    let nowhere = SocketAddr::new(egress(9), 1);
    assert_eq!(worker.acquire_exactly(&pool, nowhere, &nth(3), NOW), Err(AcquireError::NoShare));
    assert_eq!(table.quota_used(quota), 23);
}

#[test]
fn a_quota_can_be_raised_and_lowered_while_leases_live() {
    let (table, pool) = world(0, false);
    let quota = table.set_quota(0, 2, None).unwrap();
    let pool = pool.under(quota);
    let mut worker = worker(&table);
    let mut leases: Vec<_> = (0..2).map(|n| worker.acquire_to(&pool, &nth(n), NOW).unwrap()).collect();
    assert_eq!(worker.acquire_to(&pool, &nth(3), NOW), Err(AcquireError::QuotaReached));
    assert_eq!(table.set_quota(0, 3, None).unwrap(), quota);
    leases.push(worker.acquire_to(&pool, &nth(3), NOW).unwrap());
    table.set_quota(0, 1, None).unwrap();
    for left in [2, 1] {
        table.release(leases.pop().unwrap(), Closed::Reset, NOW).unwrap();
        assert_eq!(worker.acquire_to(&pool, &nth(4), NOW), Err(AcquireError::QuotaReached), "{left} left");
    }
    table.release(leases.pop().unwrap(), Closed::Reset, NOW).unwrap();
    let _lease = worker.acquire_to(&pool, &nth(4), NOW).unwrap();
    let refused = |number, parent| table.set_quota(number, 1, parent).unwrap_err().message().to_owned();
    assert!(refused(8, None).contains("quota 8"));
    assert!(refused(5, None).contains("the next one is 1"));
    assert!(refused(0, Some(quota)).contains("parent 0"));
}

#[test]
fn one_tenant_cannot_starve_another() {
    let (table, pool) = world(0, false);
    let [greedy, modest] = [0, 1].map(|number| table.set_quota(number, 12, None).unwrap());
    let mut worker = worker(&table);
    let mut leases = Vec::new();
    while let Ok(lease) = worker.acquire_to(&pool.under(greedy), &nth(1), NOW) {
        leases.push(lease);
    }
    assert_eq!(leases.len(), 12, "half of the 24 ports");
    for _ in 0..12 {
        leases.push(worker.acquire_to(&pool.under(modest), &nth(1), NOW).unwrap());
    }
}

#[test]
fn threads_together_never_have_more_than_the_quota_and_lose_no_count() {
    let (table, pool) = world(0, false);
    let account = table.set_quota(0, 5, None).unwrap();
    let zones = [1, 2].map(|number| table.set_quota(number, 4, Some(account)).unwrap());
    // Counted after the grant and before the release: never more than there really are.
    let granted: [AtomicU64; 2] = Default::default();
    std::thread::scope(|scope| {
        for n in 0..4u8 {
            let (table, pool, granted) = (&table, &pool, &granted);
            scope.spawn(move || {
                let zone = usize::from(n % 2);
                let pool = pool.under(zones[zone]);
                let mut worker = Worker::attach(Arc::clone(table), [n; 32]).unwrap();
                let mut mine = Vec::new();
                for round in 0..50_000u32 {
                    match worker.acquire_to(&pool, &nth(round as u16 % 5), NOW) {
                        Ok(lease) => {
                            let now = granted[zone].fetch_add(1, SeqCst) + 1;
                            assert!(now <= 4, "{now} in one zone");
                            let all = granted[0].load(SeqCst) + granted[1].load(SeqCst);
                            // Both are read one after the other: one release may lie between for each other thread.
                            assert!(all <= 5 + 3, "{all} in the account");
                            mine.push(lease);
                        }
                        Err(error) => assert!(
                            matches!(error, AcquireError::QuotaReached | AcquireError::ParentQuotaReached),
                            "{error}"
                        ),
                    }
                    if mine.len() > (round as usize + usize::from(n)) % 4 {
                        granted[zone].fetch_sub(1, SeqCst);
                        worker.release(mine.pop().unwrap(), Closed::Reset, NOW).unwrap();
                    }
                }
                for lease in mine {
                    granted[zone].fetch_sub(1, SeqCst);
                    worker.release(lease, Closed::Reset, NOW).unwrap();
                }
            });
        }
    });
    for quota in [account, zones[0], zones[1]] {
        assert_eq!(table.quota_used(quota), 0);
    }
    assert!(table.granted() > 1_000);
}
