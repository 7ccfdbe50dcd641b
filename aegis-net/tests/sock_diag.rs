//! What the kernel lists, against real sockets on loopback.

mod common;

use std::io::Read;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use aegis_core::net::{PortRange, Protocol};
use aegis_net::sock_diag::{Filter, SockDiag, Socket, State};
use common::{Silent, egress_ip, eventually, fresh_ports, netns, origin};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with, sockopt,
};

/// Says on the real stderr, which the test runner does not keep to itself, what was not tested.
macro_rules! skipped {
    ($($what:tt)*) => {{
        let _ = writeln!(std::io::stderr(), "SKIPPED {}", format_args!($($what)*));
    }};
}

/// A socket as the recipe makes it, bound.
fn bound(source: SocketAddr) -> OwnedFd {
    let family = if source.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    sockopt::set_socket_reuseport(&socket, true).unwrap();
    bind(&socket, &source).unwrap();
    socket
}

fn dial(source: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = bound(source);
    connect(&socket, &to).unwrap();
    TcpStream::from(socket)
}

/// Of this copy of the tests: others, and remains of earlier runs, have other addresses.
fn ours(ports: PortRange) -> Filter {
    Filter::new([ports]).sources([egress_ip(), "::".parse().unwrap(), "::1".parse().unwrap()])
}

fn list(ports: PortRange) -> Vec<Socket> {
    SockDiag::new().unwrap().list(&ours(ports)).unwrap()
}

/// The only socket of these ports.
fn only(ports: PortRange) -> Socket {
    let sockets = list(ports);
    let [socket] = sockets[..] else { panic!("{sockets:#?}") };
    socket
}

fn state(ports: PortRange, state: State) -> Socket {
    eventually(|| list(ports).iter().any(|socket| socket.state == state));
    only(ports)
}

fn first(ports: PortRange) -> SocketAddr {
    SocketAddr::new(egress_ip(), ports.lo())
}

#[test]
fn a_connection_is_seen_in_every_state_of_its_life() {
    let ports = fresh_ports(1);
    let (listener, address) = origin();
    let stream = dial(first(ports), address);
    let (mut accepted, _) = listener.accept().unwrap();
    let socket = only(ports);
    assert_eq!((socket.protocol, socket.source), (Protocol::Tcp, first(ports)));
    assert_eq!((socket.peer, socket.state), (Some(address), State::Established));
    assert_eq!((socket.expires, socket.uid), (None, rustix::process::getuid().as_raw()));
    assert_ne!(socket.inode, 0);

    // We close first: the kernel keeps the remains, without a program, and says for how long.
    drop(stream);
    let socket = state(ports, State::FinWait2);
    assert!(socket.expires.is_some_and(|left| left <= Duration::from_secs(3600)), "{socket:?}");
    assert_eq!((socket.peer, socket.inode), (Some(address), 0));
    assert_eq!(accepted.read(&mut [0; 1]).unwrap(), 0);
    drop(accepted);
    let left = state(ports, State::TimeWait).expires.unwrap();
    assert!(left > Duration::from_secs(30) && left <= Duration::from_secs(61), "{left:?}");
}

#[test]
fn a_connection_that_the_origin_closes_first_leaves_nothing() {
    let ports = fresh_ports(1);
    let (listener, address) = origin();
    let mut stream = dial(first(ports), address);
    drop(listener.accept().unwrap());
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(only(ports).state, State::CloseWait);
    drop(stream);
    eventually(|| list(ports).is_empty());
}

#[test]
fn an_unanswered_syn_is_seen() {
    let ports = fresh_ports(1);
    let silent = Silent::new();
    let socket = bound(first(ports));
    rustix::io::ioctl_fionbio(&socket, true).unwrap();
    assert!(connect(&socket, &silent.address).is_err());
    let seen = only(ports);
    assert_eq!((seen.state, seen.peer, seen.expires), (State::SynSent, Some(silent.address), None));
    drop(socket);
    eventually(|| list(ports).is_empty());
}

#[test]
fn listeners_and_bound_sockets_have_no_peer() {
    let ports = fresh_ports(3);
    let [a, b, c] = [0, 1, 2].map(|n| SocketAddr::new(egress_ip(), ports.lo() + n));
    let (_listener, _datagram) = (TcpListener::bind(a).unwrap(), UdpSocket::bind(b).unwrap());
    let _bound = bound(c);
    let mut seen: Vec<_> = list(ports).into_iter().map(|s| (s.source, s.protocol, s.state, s.peer)).collect();
    seen.sort();
    let mut expected = vec![(a, Protocol::Tcp, State::Listen, None), (b, Protocol::Udp, State::Bound, None)];
    // Linux before 6.8 does not show the third.
    expected.extend((seen.len() == 3).then_some((c, Protocol::Tcp, State::Bound, None)));
    assert_eq!(seen, expected);
    let connected = ours(ports).connected();
    assert_eq!(SockDiag::new().unwrap().list(&connected).unwrap(), []);
}

#[test]
fn connected_udp_has_a_peer() {
    let ports = fresh_ports(1);
    let origin = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind(first(ports)).unwrap();
    socket.connect(origin.local_addr().unwrap()).unwrap();
    let seen = only(ports);
    assert_eq!((seen.protocol, seen.state), (Protocol::Udp, State::Established));
    assert_eq!(seen.peer, Some(origin.local_addr().unwrap()));

    let mut kernel = SockDiag::new().unwrap();
    let (source, peer) = (first(ports), seen.peer.unwrap());
    assert_eq!(kernel.find(Protocol::Udp, source, peer).unwrap(), Some(seen));
    assert_eq!(kernel.find(Protocol::Udp, source, first(fresh_ports(1))).unwrap(), None);
    assert_eq!(kernel.find(Protocol::Tcp, source, peer).unwrap(), None);
}

#[test]
fn a_mapped_socket_is_an_ipv4_one_and_a_real_ipv6_one_is_not() {
    let ports = fresh_ports(2);
    let mapped: SocketAddr = format!("[::ffff:{}]:{}", egress_ip(), ports.lo()).parse().unwrap();
    let (_listener, address) = origin();
    let to: SocketAddr = format!("[::ffff:127.0.0.1]:{}", address.port()).parse().unwrap();
    let _stream = dial(mapped, to);
    let seen = only(ports);
    assert_eq!((seen.source, seen.peer), (first(ports), Some(address)));

    // Found by its IPv4 address, in the kernel's filter too.
    let mut kernel = SockDiag::new().unwrap();
    assert_eq!(kernel.list(&Filter::new([ports]).sources([egress_ip()])).unwrap(), [seen]);
    assert_eq!(kernel.find(Protocol::Tcp, mapped, to).unwrap(), Some(seen));
    assert_eq!(kernel.find(Protocol::Tcp, first(ports), address).unwrap(), Some(seen));

    let v6 = SocketAddr::new("::1".parse().unwrap(), ports.hi());
    let Ok(_listener) = TcpListener::bind(v6) else { return skipped!("half a test: no IPv6") };
    let _stream = dial(SocketAddr::new(v6.ip(), 0), v6);
    let seen = list(PortRange::new(ports.hi(), ports.hi()).unwrap());
    // The listener, and the connection that nobody has accepted.
    assert!(seen.len() == 2 && seen.iter().all(|socket| socket.source == v6), "{seen:?}");
    let peer = seen.iter().find_map(|socket| socket.peer).unwrap();
    assert_eq!(kernel.find(Protocol::Tcp, v6, peer).unwrap().unwrap().state, State::Established);
}

#[test]
fn a_wildcard_listener_says_whether_it_leaves_ipv4_alone() {
    for v6_only in [false, true] {
        let Ok(socket) = socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        else {
            return skipped!("a_wildcard_listener_says_whether_it_leaves_ipv4_alone: no IPv6");
        };
        sockopt::set_ipv6_v6only(&socket, v6_only).unwrap();
        // The kernel knows a port that no other test, and no remains of one, has on any address.
        bind(&socket, &SocketAddr::new("::".parse().unwrap(), 0)).unwrap();
        listen(&socket, 1).unwrap();
        let port = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap().port();
        let ports = PortRange::new(port, port).unwrap();
        let seen = only(ports);
        assert_eq!((seen.state, seen.v6_only), (State::Listen, v6_only));
        assert_eq!(seen.covers(egress_ip()), !v6_only);
        assert!(seen.covers("2001:db8::1".parse().unwrap()));
    }
}

#[test]
fn only_the_ports_addresses_and_protocols_asked_for_are_listed() {
    let ports = fresh_ports(64);
    let (ip, other): (IpAddr, IpAddr) = (egress_ip(), "127.0.0.1".parse().unwrap());
    let _sockets: Vec<_> =
        ports.ports().flat_map(|port| [ip, other].map(|ip| UdpSocket::bind((ip, port)).unwrap())).collect();
    let range = |lo: u16, hi: u16| PortRange::new(ports.lo() + lo, ports.lo() + hi).unwrap();
    let mut kernel = SockDiag::new().unwrap();
    let mut count = |filter: Filter| kernel.list(&filter).unwrap().len();
    let both = |ranges: Vec<PortRange>| Filter::new(ranges).sources([ip, other]);
    assert_eq!(count(both(vec![ports])), 128);
    // Overlapping, out of order, and single ports.
    let ranges = || vec![range(40, 45), range(3, 3), range(10, 19), range(15, 24)];
    assert_eq!(count(both(ranges())), 2 * (6 + 1 + 15));
    assert_eq!(count(Filter::new(ranges()).sources([ip])), 6 + 1 + 15);
    assert_eq!(count(Filter::new(ranges()).sources([other, ip, other])), 2 * (6 + 1 + 15));
    // Sockets of others may be among them, without addresses.
    assert!(count(Filter::new(ranges())) >= 2 * (6 + 1 + 15));
    assert_eq!(count(Filter::new([ports]).sources(["192.0.2.1".parse().unwrap()])), 0);
    assert_eq!(count(Filter::new([ports]).sources([ip]).protocol(Protocol::Tcp)), 0);
    assert_eq!(count(Filter::new([])), 0);
    // Every second port: as many ranges as the kernel is asked about, and more with the addresses.
    assert_eq!(count(both((0..32).map(|n| range(2 * n, 2 * n)).collect())), 64);
}

#[test]
fn find_sees_one_connection_and_takes_no_listener_for_it() {
    let ports = fresh_ports(2);
    let (listener, address) = origin();
    let stream = dial(first(ports), address);
    let mut kernel = SockDiag::new().unwrap();
    let mut find = |source, peer| kernel.find(Protocol::Tcp, source, peer).unwrap();
    assert_eq!(find(first(ports), address).unwrap().state, State::Established);
    let second = SocketAddr::new(egress_ip(), ports.hi());
    assert_eq!(find(second, address), None);
    // From the origin's side it is the listener that a packet from `second` would meet.
    assert_eq!(find(address, second), None);
    let (accepted, _) = listener.accept().unwrap();
    drop(stream);
    eventually(|| find(first(ports), address).unwrap().state == State::FinWait2);
    drop(accepted);
    eventually(|| find(first(ports), address).unwrap().state == State::TimeWait);
    let v6 = "[::1]:1".parse().unwrap();
    let error = kernel.find(Protocol::Tcp, first(ports), v6).unwrap_err();
    assert!(error.to_string().contains("[::1]:1"), "{error}");
}

/// Connections, and tuples that have none, in turn; more than the kernel is asked for at once.
fn mixture(sources: &[SocketAddr], peer: SocketAddr) -> Vec<(SocketAddr, SocketAddr)> {
    let nobody = SocketAddr::new(peer.ip(), 1);
    (0..150).map(|n| (sources[n % sources.len()], if n % 3 == 1 { nobody } else { peer })).collect()
}

#[test]
fn many_are_found_in_their_order_and_as_each_by_itself() {
    let ports = fresh_ports(50);
    let (_listener, address) = origin();
    // Every second port has a connection.
    let sources: Vec<_> = ports.ports().map(|port| SocketAddr::new(egress_ip(), port)).collect();
    let _streams: Vec<_> = sources.iter().step_by(2).map(|source| dial(*source, address)).collect();
    let mut tuples = mixture(&sources, address);
    let mut connected = 50;
    let v6 = TcpListener::bind("[::1]:0").map(|listener| {
        let address = listener.local_addr().unwrap();
        let stream = dial(SocketAddr::new(address.ip(), 0), address);
        let source = stream.local_addr().unwrap();
        let both = tuples.iter().zip(mixture(&[source, SocketAddr::new(source.ip(), 1)], address));
        tuples = both.flat_map(|(v4, v6)| [*v4, v6]).collect();
        connected += 50;
        (listener, stream)
    });
    if v6.is_err() {
        skipped!("half a test: no IPv6");
    }
    // From the other end: a connection that nobody has accepted, and the listener, which is none.
    tuples.extend([(address, sources[0]), (address, sources[1])]);
    let mapped =
        |address: SocketAddr| format!("[::ffff:{}]:{}", address.ip(), address.port()).parse().unwrap();
    tuples.push((mapped(sources[0]), mapped(address)));
    connected += 2;

    let mut kernel = SockDiag::new().unwrap();
    for (protocol, connected) in [(Protocol::Tcp, connected), (Protocol::Udp, 0)] {
        let mut seen = Vec::new();
        kernel.find_each(protocol, &tuples, |at, socket| seen.push((at, socket))).unwrap();
        let find = |(at, &(source, peer))| (at, kernel.find(protocol, source, peer).unwrap());
        assert_eq!(seen, tuples.iter().enumerate().map(find).collect::<Vec<_>>(), "{protocol}");
        assert_eq!(seen.iter().filter(|(_, socket)| socket.is_some()).count(), connected, "{protocol}");
    }
    kernel.find_each(Protocol::Tcp, &[], |_, _| panic!("nothing was asked for")).unwrap();
}

#[test]
fn one_impossible_tuple_among_many_is_named_and_nothing_is_asked() {
    let (_listener, address) = origin();
    let source = first(fresh_ports(1));
    let _stream = dial(source, address);
    let mut tuples = mixture(&[source], address);
    tuples[70].1 = "[2001:db8::7]:443".parse().unwrap();
    let mut kernel = SockDiag::new().unwrap();
    let error = kernel.find_each(Protocol::Tcp, &tuples, |_, _| panic!("it was asked")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("[2001:db8::7]:443"), "{error}");
    assert!(kernel.find(Protocol::Tcp, source, address).unwrap().is_some());
}

#[test]
fn a_panic_among_many_leaves_no_answer_for_the_next() {
    let (_listener, address) = origin();
    let source = first(fresh_ports(1));
    let _stream = dial(source, address);
    let tuples = mixture(&[source], address);
    let mut kernel = SockDiag::new().unwrap();
    let stop = |at, _| assert!(at < 70, "on purpose");
    let half = std::panic::AssertUnwindSafe(|| kernel.find_each(Protocol::Tcp, &tuples, stop));
    assert!(std::panic::catch_unwind(half).is_err());
    let mut found = Vec::new();
    kernel.find_each(Protocol::Tcp, &tuples, |at, socket| found.push((at, socket.is_some()))).unwrap();
    assert_eq!(found, (0..150).map(|n| (n, n % 3 != 1)).collect::<Vec<_>>());
}

#[test]
fn a_panic_half_way_leaves_nothing_for_the_next_list() {
    // More than the kernel gives at a time.
    let ports = fresh_ports(512);
    let _sockets: Vec<_> = ports.ports().map(|port| UdpSocket::bind((egress_ip(), port)).unwrap()).collect();
    let mut kernel = SockDiag::new().unwrap();
    let filter = ours(ports);
    let half = std::panic::AssertUnwindSafe(|| kernel.for_each(&filter, |_| panic!("on purpose")));
    assert!(std::panic::catch_unwind(half).is_err());
    assert_eq!(kernel.list(&filter).unwrap().len(), 512);
}

/// Prints times, and asserts none.
#[test]
fn thousands_of_tuples_are_all_listed() {
    for (open, count) in [(true, 10_000), (false, 10_000), (false, 50_000)] {
        let test = "thousands_of_tuples_are_all_listed";
        let Some(()) = netns::in_fresh(test, move || list_thousands(open, count)) else { return };
    }
}

fn nth_source(n: usize) -> SocketAddr {
    let ip = [127, 66, 0, u8::try_from(n / 2_048).unwrap()];
    (ip, 2_048 + (n % 2_048) as u16).into()
}

/// Connections that are open, or in TIME_WAIT, which need no descriptors.
fn list_thousands(open: bool, count: usize) {
    if open && !descriptors(count as u64 + 500) {
        return skipped!("{count} open connections: too few descriptors");
    }
    netns::sysctl("net.ipv4.tcp_max_tw_buckets", "200000");
    // Connections that nobody accepts need no second descriptor.
    netns::sysctl("net.core.somaxconn", "65535");
    let listener = bound(([127, 0, 0, 1], 443).into());
    listen(&listener, 65_535).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let ports = PortRange::new(2_048, 4_095).unwrap();
    let connect = |n: usize| {
        let stream = dial(nth_source(n), address);
        // We close first, then the origin.
        let accepted = (!open).then(|| listener.accept().unwrap());
        let stream = open.then_some(stream);
        drop(accepted);
        stream
    };
    let _streams: Vec<_> = (0..count).map(connect).collect();

    let mut kernel = SockDiag::new().unwrap();
    let ips = (0..=u8::try_from(count / 2_048).unwrap()).map(|n| IpAddr::from([127, 66, 0, n]));
    let filters = [
        ("ports", Filter::new([ports])),
        ("ports, connected", Filter::new([ports]).connected()),
        ("ports, connected tcp", Filter::new([ports]).connected().protocol(Protocol::Tcp)),
        ("ports and addresses", Filter::new([ports]).connected().sources(ips)),
        ("other ports", Filter::new([PortRange::new(5_000, 6_000).unwrap()])),
    ];
    let state = if open { State::Established } else { State::TimeWait };
    for (name, filter) in &filters {
        let expected = if *name == "other ports" { 0 } else { count };
        let (mut best, mut most) = (Duration::MAX, 0);
        for _ in 0..5 {
            let (mut seen, start) = (0, Instant::now());
            kernel
                .for_each(filter, |socket| {
                    assert_eq!((socket.peer, socket.state), (Some(address), state));
                    seen += 1;
                })
                .unwrap();
            best = best.min(start.elapsed());
            assert!(seen <= expected, "{name}: {seen}");
            most = most.max(seen);
        }
        // A list goes on where the last part ended, by position; so it overlooks one where sockets of other namespaces, in
        // the same place of the kernel's table, have gone meanwhile.
        assert_eq!(most, expected, "{name}: the longest of five lists");
        eprintln!("{count} {state}, {name}: {best:?}");
    }
    let tuples: Vec<_> = (0..count).map(|n| (nth_source(n), address)).collect();
    let start = Instant::now();
    for (source, peer) in &tuples[..1_000] {
        kernel.find(Protocol::Tcp, *source, *peer).unwrap().unwrap();
    }
    eprintln!("{count} {state}, find one: {:?}", start.elapsed() / 1_000);
    let (mut found, start) = (0, Instant::now());
    kernel.find_each(Protocol::Tcp, &tuples, |_, socket| found += usize::from(socket.is_some())).unwrap();
    eprintln!("{count} {state}, find each: {:?}", start.elapsed());
    assert_eq!(found, count);
}

/// So many descriptors for this process, if it may have them.
fn descriptors(count: u64) -> bool {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.is_none_or(|current| current >= count)
}
