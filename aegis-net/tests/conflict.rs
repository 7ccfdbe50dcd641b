//! Strangers on the host have ports and tuples that the lease table thinks free.

mod common;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use aegis_core::ErrorKind;
use aegis_core::edge::AcquireError;
use aegis_core::lease::{self, Config, Conflict};
use aegis_core::net::Protocol;
use aegis_net::recipe::Refusal;
use aegis_net::{ConnectError, Dialer};
use common::{Share, closed_origin, egress_ip, fresh_ports, origin, ports_around};
use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, socket, sockopt};

/// A stranger's TCP socket at `address`.
fn stranger(address: SocketAddr, shares: bool) -> (OwnedFd, SocketAddr) {
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&fd, shares).unwrap();
    sockopt::set_socket_reuseport(&fd, shares).unwrap();
    bind(&fd, &address).unwrap();
    let address = getsockname(&fd).unwrap().try_into().unwrap();
    (fd, address)
}

fn exhausted(error: &ConnectError) -> bool {
    matches!(error, ConnectError::NoLease { error: AcquireError::Lease(lease::AcquireError::Exhausted), .. })
}

/// All ports but `taken` carry connections; `taken` is parked for every origin.
fn dials_around(taken: u16) {
    let (_listener, address) = origin();
    let share = Share::at(egress_ip(), ports_around(taken), Config::default());
    let streams: Vec<_> = (0..3).map(|_| share.connect(address).unwrap()).collect();
    assert!(streams.iter().all(|stream| stream.source().port() != taken));
    let error = share.connect(address).unwrap_err();
    assert!(exhausted(&error), "{error}");
    let used = share.tcp(address);
    assert_eq!((used.live, used.parked), (3, 1), "{used}");

    // Another origin does not even try the port: the kernel's word holds for all of them.
    let (_other, address) = origin();
    let streams: Vec<_> = (0..3).map(|_| share.connect(address).unwrap()).collect();
    assert!(streams.iter().all(|stream| stream.source().port() != taken));
}

#[test]
fn a_strangers_listener_on_the_wildcard_blocks_a_port_for_every_origin() {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    dials_around(listener.local_addr().unwrap().port());
}

#[test]
fn a_strangers_socket_that_does_not_share_blocks_its_port() {
    let (_fd, address) = stranger(SocketAddr::new(egress_ip(), fresh_ports(4).hi()), false);
    dials_around(address.port());
}

#[test]
fn a_strangers_connection_blocks_its_tuple_and_no_other() {
    let (_listener, address) = origin();
    let share = Share::of(2);
    let (fd, _) = stranger(share.first(), true);
    connect(&fd, &address).unwrap();

    let stream = share.connect(address).unwrap();
    assert_eq!(stream.source().port(), share.ports.hi());
    let error = share.connect(address).unwrap_err();
    assert!(exhausted(&error), "{error}");
    let used = share.tcp(address);
    assert_eq!((used.live, used.parked), (1, 1), "{used}");

    let (_other, address) = origin();
    let _streams = [share.connect(address).unwrap(), share.connect(address).unwrap()];
    assert_eq!(share.tcp(address).parked, 0);
}

#[test]
fn a_udp_port_that_a_stranger_has_is_parked() {
    let share = Share::of(2);
    let _stranger = std::net::UdpSocket::bind(share.first()).unwrap();
    let address = closed_origin();
    let socket = share.udp(address).unwrap();
    assert_eq!(socket.source().port(), share.ports.hi());
    let error = share.udp(address).unwrap_err();
    assert!(exhausted(&error), "{error}");
    assert_eq!(share.explain(Protocol::Udp, address).parked, 1);
}

#[test]
fn an_address_that_is_not_on_this_host_is_an_error_that_says_what_to_do() {
    let (_listener, address) = origin();
    let ip: IpAddr = "192.0.2.1".parse().unwrap();
    let share = Share::at(ip, fresh_ports(64), Config::default());
    for protocol in Protocol::ALL {
        let error = match protocol {
            Protocol::Tcp => share.connect(address).unwrap_err(),
            Protocol::Udp => share.udp(address).unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Machine);
        assert_eq!(
            error.to_string(),
            "the egress address 192.0.2.1 is not on this host; \
             add it, or its prefix: ip route add local 192.0.2.1/32 dev lo"
        );
        let refusal = Conflict::NoSuchAddress;
        assert!(matches!(
            error,
            ConnectError::Machine(Refusal::Conflict { conflict, .. }) if conflict == refusal
        ));
        let used = share.explain(protocol, address);
        assert_eq!((used.live, used.held, used.parked), (0, 0, 0), "{used}");
    }
}

#[test]
fn a_dial_gives_up_after_so_many_strangers_and_the_next_goes_on_from_there() {
    let (_listener, address) = origin();
    let share = Share::of(70);
    let _strangers: Vec<_> =
        share.ports.ports().map(|port| stranger(SocketAddr::new(share.ip, port), false)).collect();
    let error = share.connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Wait);
    let text = error.to_string();
    assert!(text.starts_with("64 leases in a row") && text.contains("another program"), "{text}");
    assert!(matches!(error, ConnectError::Strangers { tries: Dialer::TRIES, .. }));
    assert_eq!(share.tcp(address).parked, 64);
    let error = share.connect(address).unwrap_err();
    assert!(exhausted(&error), "{error}");
    assert_eq!(share.tcp(address).parked, 70);
}
