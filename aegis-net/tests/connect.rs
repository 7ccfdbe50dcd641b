//! A connection leaves from its lease, and nothing is left behind when it does not.

mod common;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use aegis_core::ErrorKind;
use aegis_core::lease::{Closed, Config, PoolKey, Table, Worker};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_net::{ConnectError, clock, recipe};
use common::{Share, Silent, closed_origin, egress_ip, fresh_ports, origin};

#[test]
fn a_connection_leaves_from_its_leased_port() {
    let (listener, address) = origin();
    let share = Share::of(8);
    let mut stream = share.connect(address).unwrap();
    let (mut accepted, seen) = listener.accept().unwrap();
    assert_eq!(seen, stream.source());
    assert!(seen.ip() == share.ip && share.ports.contains(seen.port()), "{seen}");
    assert_eq!((stream.origin().address(), stream.pool()), (address, share.zone.pool_key().unwrap()));

    stream.write_all(b"ping").unwrap();
    let mut buf = [0; 4];
    accepted.read_exact(&mut buf).unwrap();
    accepted.write_all(&buf).unwrap();
    stream.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"ping");
}

#[test]
fn one_port_carries_connections_to_many_origins_at_once() {
    let share = Share::of(1);
    let origins: Vec<_> = (0..20).map(|_| origin()).collect();
    let streams: Vec<_> = origins.iter().map(|(_, address)| share.connect(*address).unwrap()).collect();
    for ((listener, _), stream) in origins.iter().zip(&streams) {
        assert_eq!(listener.accept().unwrap().1, share.first());
        assert_eq!(stream.source(), share.first());
    }
}

#[test]
fn a_udp_flow_leaves_from_its_leased_port_and_its_socket_goes_before_its_lease() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let share = Share::telling();
    let socket = share.udp(address).unwrap();
    socket.send(b"ping").unwrap();
    let mut buf = [0; 8];
    let (len, seen) = server.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..len], seen), (&b"ping"[..], share.first()));
    server.send_to(b"pong", seen).unwrap();
    assert_eq!(socket.recv(&mut buf).unwrap(), 4);

    assert_eq!(share.explain(Protocol::Udp, address).live, 1);
    assert_eq!(share.tcp(address).live, 0);
    drop(socket);
    assert_eq!(share.ended(Protocol::Udp, address), Closed::UdpIdle);
    UdpSocket::bind(share.first()).expect("the socket is closed");
}

#[test]
fn a_lease_of_an_ipv6_address_is_opened_by_the_same_recipe() {
    let tcp = TcpListener::bind("[::1]:0").unwrap();
    let udp = UdpSocket::bind("[::1]:0").unwrap();
    // Only ::1 is surely local: a port that the kernel has just given away is nobody else's.
    let port = UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    let table = Arc::new(Table::new(Config::default(), clock::seed().unwrap()).unwrap());
    let ip = "::1".parse().unwrap();
    let granule = table.add_granule(ip, PortRange::new(port, port).unwrap()).unwrap();
    let pool = table.pool(PoolKey(0), [granule]).unwrap();
    let mut worker = Worker::attach(table, clock::seed().unwrap()).unwrap();
    let mut begin = |protocol, address: SocketAddr| {
        let origin = Origin::new(protocol, address).unwrap();
        let lease = worker.acquire_to(&pool, &origin, clock::now()).unwrap();
        recipe::begin(&worker.table().tuple(&lease).unwrap()).unwrap()
    };

    let _connecting = begin(Protocol::Tcp, tcp.local_addr().unwrap());
    assert_eq!(tcp.accept().unwrap().1, SocketAddr::new(ip, port));
    let connected = UdpSocket::from(begin(Protocol::Udp, udp.local_addr().unwrap()));
    connected.send(b"x").unwrap();
    assert_eq!(udp.recv_from(&mut [0]).unwrap().1, SocketAddr::new(ip, port));
}

#[test]
fn an_origin_of_a_family_without_a_share_is_for_another_exit() {
    let share = Share::of(64);
    let error = share.connect("[::1]:80".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OtherExit, "{error}");
}

#[test]
fn a_refused_connect_gives_its_tuple_back() {
    let address = closed_origin();
    let share = Share::of(1);
    for _ in 0..10 {
        let error = share.connect(address).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&share.first().to_string()) && text.contains(&address.to_string()), "{text}");
        assert_eq!(error.kind(), ErrorKind::Wait);
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(share.tcp(address).live, 0);
    }
    let share = Share::telling();
    share.connect(address).unwrap_err();
    assert_eq!(share.ended(Protocol::Tcp, address), Closed::ConnectFailed);
}

#[test]
fn a_connect_that_takes_too_long_is_closed_and_gives_its_tuple_back() {
    let silent = Silent::new();
    let share = Share::telling();
    share.narrow(Protocol::Tcp, silent.address);
    let start = Instant::now();
    let timeout = Duration::from_millis(150);
    let error = share.dialer.connect_timeout(&share.zone, silent.address, timeout).unwrap_err();
    assert!((timeout..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(error.to_string().ends_with("timed out"), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    assert_eq!(share.ended(Protocol::Tcp, silent.address), Closed::ConnectFailed);
    TcpListener::bind(share.first()).expect("the socket is closed");
}

#[test]
fn a_timeout_that_is_not_needed_changes_nothing() {
    let (listener, address) = origin();
    let share = Share::of(2);
    for timeout in [Duration::from_secs(5), Duration::MAX] {
        let mut stream = share.dialer.connect_timeout(&share.zone, address, timeout).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        // It blocks again: the answer comes late.
        let answer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            accepted.write_all(b"x").unwrap();
        });
        stream.read_exact(&mut [0]).unwrap();
        answer.join().unwrap();
    }
}

#[test]
fn an_exhausted_pool_says_what_is_in_use() {
    let (_listener, address) = origin();
    let share = Share::of(64);
    let streams: Vec<_> = (0..64).map(|_| share.connect(address).unwrap()).collect();
    let error = share.connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Wait);
    let text = error.to_string();
    assert!(text.contains("in use") && text.contains("64 live, 0 held"), "{text}");
    assert!(text.contains("of 64 ports") && text.contains(&address.to_string()), "{text}");
    let ConnectError::NoLease { explanation, .. } = error else { panic!("{error:?}") };
    assert_eq!(*explanation, share.tcp(address));
    drop(streams);
}

#[test]
fn an_address_that_is_no_destination_is_refused_before_anything_is_leased() {
    let share = Share::of(64);
    let error = share.dialer.connect(&share.zone, SocketAddr::from(([0, 0, 0, 0], 80))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("unspecified"), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn many_threads_share_the_only_worker() {
    let (_listener, address) = origin();
    let ports = fresh_ports(64);
    let share = Share::at(egress_ip(), ports, Config { workers: 1, ..Config::default() });
    let error = aegis_net::Dialer::new(share.dialer.edge().clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Wait, "the only worker is taken: {error}");
    let barrier = Barrier::new(8);
    let mut sources: Vec<_> = std::thread::scope(|scope| {
        let dial = || {
            barrier.wait();
            (0..8).map(|_| share.connect(address).unwrap()).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(dial)).collect();
        let streams: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        streams.iter().map(|stream| stream.source().port()).collect()
    });
    sources.sort_unstable();
    assert_eq!(sources, ports.ports().collect::<Vec<_>>());
}
