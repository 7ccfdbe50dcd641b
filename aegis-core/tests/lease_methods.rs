//! Four ways to choose a port, two address families: what each promises about who else may have the same source.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aegis_core::lease::{
    AcquireError, Closed, CompleteError, Config, Lease, Method, Pool, PoolKey, ReleaseError, Table, Tuple,
    Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;

const NOW: Time = Time::from_millis(1_000);

fn range(lo: u16, hi: u16) -> PortRange {
    PortRange::new(lo, hi).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tcp(text: &str) -> Origin {
    Origin::new(Protocol::Tcp, text.parse().unwrap()).unwrap()
}

fn udp(text: &str) -> Origin {
    Origin::new(Protocol::Udp, text.parse().unwrap()).unwrap()
}

/// The `n`th of many origins.
fn nth(n: u16) -> Origin {
    Origin::new(Protocol::Tcp, SocketAddr::new(ip("203.0.113.7"), 1_000 + n)).unwrap()
}

/// A table, a pool of these granules of 192.0.2.1, and a worker.
fn world(granules: &[(Method, PortRange)]) -> (Arc<Table>, Pool, Worker) {
    let config = Config { granules: 8, origins: 256, pages: 256, ..Config::default() };
    let table = Arc::new(Table::new(config, [3; 32]).unwrap());
    let slots: Vec<_> = granules
        .iter()
        .flat_map(|&(method, range)| table.add_granules(method, [(ip("192.0.2.1"), range)]).unwrap())
        .collect();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let worker = Worker::attach(Arc::clone(&table), [9; 32]).unwrap();
    (table, pool, worker)
}

#[test]
fn a_unique_port_has_one_lease_whatever_the_origin() {
    let (table, pool, mut worker) = world(&[(Method::Unique, range(5_000, 5_007))]);
    let mut seen = BTreeSet::new();
    let mut leases = Vec::new();
    for n in 0..8 {
        let lease = worker.acquire_to(&pool, &nth(n), NOW).unwrap();
        assert!(seen.insert(table.source(&lease).unwrap()), "the same source twice");
        leases.push(lease);
    }
    for n in 0..20 {
        assert_eq!(worker.acquire_to(&pool, &nth(n), NOW), Err(AcquireError::Exhausted));
    }
    let source = table.source(&leases[3]).unwrap();
    assert_eq!(worker.acquire_exactly(&pool, source, &nth(30), NOW), Err(AcquireError::InUse));
    table.release(leases.swap_remove(3), Closed::Reset, NOW).unwrap();
    let again = worker.acquire_to(&pool, &nth(30), NOW).unwrap();
    assert_eq!(table.source(&again), Ok(source));
}

#[test]
fn a_unique_lease_is_for_no_single_origin() {
    let (table, pool, mut worker) = world(&[(Method::Unique, range(5_000, 5_000))]);
    let lease = worker.acquire_to(&pool, &nth(1), NOW).unwrap();
    assert_eq!(table.tuple(&lease), Err(ReleaseError::Stale));
    assert_eq!(table.source(&lease), Ok(SocketAddr::new(ip("192.0.2.1"), 5_000)));
    // UDP has its own ports.
    let other = worker.acquire_to(&pool, &udp("203.0.113.7:53"), NOW).unwrap();
    assert_eq!(table.source(&other), table.source(&lease));
    assert_eq!(
        worker.acquire_to(&pool, &udp("203.0.113.8:53"), NOW),
        Err(AcquireError::Exhausted),
        "one UDP socket has it"
    );
}

#[test]
fn a_unique_port_waits_for_time_wait_even_with_timestamps() {
    let (table, pool, mut worker) = world(&[(Method::Unique, range(5_000, 5_000))]);
    let lease = worker.acquire_to(&pool, &nth(1), NOW).unwrap();
    table.release(lease, Closed::Active, NOW).unwrap();
    let free = NOW + Duration::from_secs(69);
    let early = Time::from_millis(free.as_millis() - 1);
    assert_eq!(worker.acquire_to(&pool, &nth(2), early), Err(AcquireError::Exhausted));
    let _lease = worker.acquire_to(&pool, &nth(2), free).unwrap();
}

#[test]
fn an_explicit_port_is_used_towards_every_origin_at_once() {
    let (table, pool, mut worker) = world(&[(Method::Explicit, range(65_535, 65_535))]);
    for n in 0..200 {
        let lease = worker.acquire_to(&pool, &nth(n), NOW).unwrap();
        assert_eq!(
            table.tuple(&lease),
            Ok(Tuple { source: SocketAddr::new(ip("192.0.2.1"), 65_535), origin: nth(n) })
        );
        assert_eq!(worker.acquire_to(&pool, &nth(n), NOW), Err(AcquireError::Exhausted));
    }
}

#[test]
fn an_unconnected_udp_port_is_one_sockets_and_no_tuple_is_ever_made_of_it() {
    let (table, pool, mut worker) =
        world(&[(Method::Explicit, range(4_000, 4_003)), (Method::UnconnectedUdp, range(6_000, 6_003))]);
    assert_eq!((pool.capacity(false), pool.unconnected_capacity(false)), (4, 4));
    let ports = |table: &Table, leases: &[Lease]| -> BTreeSet<u16> {
        leases.iter().map(|lease| table.source(lease).unwrap().port()).collect()
    };
    let mut sockets: Vec<_> =
        (0..4).map(|_| worker.acquire_unconnected(&pool, false, NOW).unwrap()).collect();
    assert_eq!(ports(&table, &sockets), (6_000..=6_003).collect());
    assert_eq!(worker.acquire_unconnected(&pool, false, NOW), Err(AcquireError::Exhausted));
    for origin in [udp("203.0.113.1:53"), udp("203.0.113.2:53"), tcp("203.0.113.1:53")] {
        let tuples: Vec<_> = (0..4).map(|_| worker.acquire_to(&pool, &origin, NOW).unwrap()).collect();
        assert_eq!(ports(&table, &tuples), (4_000..=4_003).collect());
        assert_eq!(worker.acquire_to(&pool, &origin, NOW), Err(AcquireError::Exhausted));
        let source = SocketAddr::new(ip("192.0.2.1"), 6_000);
        assert_eq!(worker.acquire_exactly(&pool, source, &origin, NOW), Err(AcquireError::NoShare));
    }
    table.release(sockets.remove(0), Closed::UdpIdle, NOW).unwrap();
    assert_eq!(worker.acquire_unconnected(&pool, false, NOW), Err(AcquireError::Exhausted));
    let _again = worker.acquire_unconnected(&pool, false, NOW + Duration::from_secs(65)).unwrap();
    assert_eq!(worker.acquire_unconnected(&pool, true, NOW), Err(AcquireError::NoShare));
}

#[test]
fn a_pool_without_granules_of_a_method_says_so() {
    let (_, explicit, mut worker) = world(&[(Method::Explicit, range(4_000, 4_003))]);
    assert_eq!(worker.acquire_unconnected(&explicit, false, NOW), Err(AcquireError::NoShare));
    assert_eq!(worker.acquire_range(&explicit, &nth(1), NOW).err(), Some(AcquireError::NoShare));
    let (_, kernel, mut worker) = world(&[(Method::KernelRange, range(4_000, 4_003))]);
    assert_eq!(worker.acquire_to(&kernel, &nth(1), NOW), Err(AcquireError::NoShare));
}

#[test]
fn one_granule_has_one_method() {
    let (table, ..) = world(&[(Method::Explicit, range(4_000, 4_003))]);
    let again = table.add_granules(Method::KernelRange, [(ip("192.0.2.1"), range(4_000, 4_003))]);
    let error = again.unwrap_err();
    for word in ["192.0.2.1", "4000-4003", "KernelRange", "Explicit"] {
        assert!(error.message().contains(word), "{error}");
    }
}

#[test]
fn a_port_outside_the_range_is_refused_and_changes_nothing() {
    let (table, pool, mut worker) = world(&[(Method::KernelRange, range(7_000, 7_003))]);
    let leased = worker.acquire_range(&pool, &nth(1), NOW).unwrap();
    assert_eq!((leased.source_ip(), leased.range()), (ip("192.0.2.1"), range(7_000, 7_003)));
    assert_eq!((*leased.origin(), leased.pool()), (nth(1), PoolKey(1)));
    for port in [0, 6_999, 7_004, 65_535] {
        let refused = worker.complete(&leased, port, NOW);
        assert_eq!(refused, Err(CompleteError::Outside { port, range: range(7_000, 7_003) }));
    }
    let explained = table.explain(&pool, &nth(1), NOW);
    assert_eq!((explained.live, explained.held, table.granted()), (0, 0, 0));
    // The range was not used up by that.
    for port in [7_000, 7_003] {
        let lease = worker.complete(&leased, port, NOW).unwrap();
        let source = SocketAddr::new(ip("192.0.2.1"), port);
        assert_eq!(table.tuple(&lease), Ok(Tuple { source, origin: nth(1) }));
    }
    assert_eq!(table.explain(&pool, &nth(1), NOW).live, 2);
}

#[test]
fn the_kernels_choice_of_a_held_port_ends_the_hold() {
    let (table, pool, mut worker) = world(&[(Method::KernelRange, range(7_000, 7_003))]);
    let leased = worker.acquire_range(&pool, &nth(1), NOW).unwrap();
    let lease = worker.complete(&leased, 7_001, NOW).unwrap();
    table.release(lease, Closed::Active, NOW).unwrap();
    assert_eq!(table.explain(&pool, &nth(1), NOW).held, 1, "the kernel itself keeps it in TIME_WAIT");
    let lease = worker.complete(&leased, 7_001, NOW).unwrap();
    let explained = table.explain(&pool, &nth(1), NOW);
    assert_eq!((explained.live, explained.held), (1, 0));
    table.release(lease, Closed::Passive, NOW).unwrap();
}

#[test]
fn the_kernels_choice_of_a_live_port_makes_the_old_lease_stale() {
    let (table, pool, mut worker) = world(&[(Method::KernelRange, range(7_000, 7_003))]);
    let leased = worker.acquire_range(&pool, &nth(1), NOW).unwrap();
    let old = worker.complete(&leased, 7_002, NOW).unwrap();
    let new = worker.complete(&leased, 7_002, NOW).unwrap();
    assert_eq!(table.explain(&pool, &nth(1), NOW).live, 1);
    let rejected = table.release(old, Closed::Reset, NOW).unwrap_err();
    assert_eq!(rejected.error, ReleaseError::Stale);
    assert_eq!(table.explain(&pool, &nth(1), NOW).live, 1, "the new one is untouched");
    table.release(new, Closed::Reset, NOW).unwrap();
    assert_eq!(table.explain(&pool, &nth(1), NOW).live, 0);
}

#[test]
fn a_range_is_exhausted_when_every_port_is_live_or_held_and_only_towards_that_origin() {
    let (table, pool, mut worker) = world(&[(Method::KernelRange, range(7_000, 7_003))]);
    let leased = worker.acquire_range(&pool, &nth(1), NOW).unwrap();
    let mut leases: Vec<_> =
        (7_000..=7_003).map(|port| worker.complete(&leased, port, NOW).unwrap()).collect();
    assert_eq!(worker.acquire_range(&pool, &nth(1), NOW).err(), Some(AcquireError::Exhausted));
    let other = worker.acquire_range(&pool, &nth(2), NOW).unwrap();
    let _lease = worker.complete(&other, 7_000, NOW).unwrap();
    table.release(leases.remove(0), Closed::Active, NOW).unwrap();
    assert_eq!(worker.acquire_range(&pool, &nth(1), NOW).err(), Some(AcquireError::Exhausted));
    worker.acquire_range(&pool, &nth(1), NOW + Duration::from_secs(69)).map(drop).unwrap();
}

#[test]
fn ranges_are_chosen_among_all_granules_that_have_a_port() {
    let (_, pool, mut worker) =
        world(&[(Method::KernelRange, range(7_000, 7_003)), (Method::KernelRange, range(8_000, 8_003))]);
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        seen.insert(worker.acquire_range(&pool, &nth(1), NOW).unwrap().range());
    }
    assert_eq!(seen.len(), 2);
    let first = loop {
        let leased = worker.acquire_range(&pool, &nth(1), NOW).unwrap();
        if leased.range().lo() == 7_000 {
            break leased;
        }
    };
    let _live: Vec<_> = (7_000..=7_003).map(|port| worker.complete(&first, port, NOW).unwrap()).collect();
    for _ in 0..100 {
        assert_eq!(worker.acquire_range(&pool, &nth(1), NOW).unwrap().range().lo(), 8_000);
    }
}

#[test]
fn a_pool_of_256_v6_addresses_uses_every_port_of_every_address() {
    let config = Config { granules: 256, origins: 16, pages: 512, granule_ports: 4, ..Config::default() };
    let table = Arc::new(Table::new(config, [3; 32]).unwrap());
    let address = |n: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, n));
    let slots =
        table.add_granules(Method::Explicit, (0..256).map(|n| (address(n), range(2_048, 2_051)))).unwrap();
    let pool = table.pool(PoolKey(6), slots).unwrap();
    let mut worker = Worker::attach(Arc::clone(&table), [9; 32]).unwrap();
    let origin = tcp("[2001:db8:ffff::1]:443");
    let mut handle = worker.origin(&pool, origin).unwrap();
    let mut seen = BTreeSet::new();
    let mut leases = Vec::new();
    for _ in 0..1_024 {
        let lease = worker.acquire(&mut handle, NOW).unwrap();
        assert!(seen.insert(table.source(&lease).unwrap()));
        leases.push(lease);
    }
    assert_eq!(worker.acquire(&mut handle, NOW), Err(AcquireError::Exhausted));
    assert_eq!(seen.iter().map(SocketAddr::ip).collect::<BTreeSet<_>>().len(), 256);
    assert_eq!(worker.acquire_to(&pool, &nth(1), NOW), Err(AcquireError::NoShare));
    let last = table.source(&leases[1_000]).unwrap();
    table.release(leases.swap_remove(1_000), Closed::Unused, NOW).unwrap();
    let again = worker.acquire_to(&pool, &origin, NOW).unwrap();
    assert_eq!(table.source(&again), Ok(last), "the only free one of 1,024 is found");
}

#[test]
fn a_mixed_pool_leaves_from_the_origins_address_family() {
    let config = Config { granules: 4, origins: 16, pages: 64, ..Config::default() };
    let table = Arc::new(Table::new(config, [3; 32]).unwrap());
    let addresses = [ip("192.0.2.1"), ip("2001:db8::1")];
    let slots = table.add_granules(Method::Explicit, addresses.map(|ip| (ip, range(2_048, 2_063)))).unwrap();
    let pool = table.pool(PoolKey(1), slots).unwrap();
    let mut worker = Worker::attach(Arc::clone(&table), [9; 32]).unwrap();
    for (origin, from) in
        [(tcp("198.51.100.1:443"), addresses[0]), (tcp("[2001:db8:1::1]:443"), addresses[1])]
    {
        for _ in 0..16 {
            let lease = worker.acquire_to(&pool, &origin, NOW).unwrap();
            assert_eq!(table.source(&lease).unwrap().ip(), from);
        }
        assert_eq!(worker.acquire_to(&pool, &origin, NOW), Err(AcquireError::Exhausted));
    }
}

#[test]
fn a_mapped_address_is_the_v4_address_as_origin_and_as_source() {
    let (table, pool, mut worker) = world(&[(Method::Explicit, range(4_000, 4_000))]);
    let lease = worker.acquire_to(&pool, &tcp("[::ffff:203.0.113.1]:443"), NOW).unwrap();
    assert_eq!(table.tuple(&lease).unwrap().origin, tcp("203.0.113.1:443"));
    assert_eq!(worker.acquire_to(&pool, &tcp("203.0.113.1:443"), NOW), Err(AcquireError::Exhausted));
    let mapped = SocketAddr::new(IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped()), 4_000);
    let exactly = worker.acquire_exactly(&pool, mapped, &nth(9), NOW).unwrap();
    assert_eq!(table.source(&exactly).unwrap(), SocketAddr::new(ip("192.0.2.1"), 4_000));
    let error = table.add_granule(mapped.ip(), range(4_000, 4_001)).unwrap_err();
    assert!(error.message().contains("4000-4000"), "one address, one set of granules: {error}");
}

#[test]
fn no_lease_can_be_asked_for_towards_what_is_no_destination() {
    for text in ["203.0.113.1:0", "0.0.0.0:443", "[::]:443", "224.0.0.1:443", "[ff02::1]:443"] {
        assert!(Origin::new(Protocol::Tcp, text.parse().unwrap()).is_err(), "{text}");
    }
}
