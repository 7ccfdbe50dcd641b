//! A proxy that never says how its connections ended loses no capacity; and what is still there in the kernel stays
//! held. In network namespaces, so that sysctls can be set and strangers stay away.

mod common;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aegis_core::error::ErrorKind;
use aegis_core::lease::{Closed, Config};
use aegis_core::net::PortRange;
use aegis_net::sock_diag::{Filter, SockDiag, State};
use aegis_net::{Sweeper, Swept, clock};
use common::{Share, eventually, netns, origin};

/// A share of 2,048 ports.
fn share() -> Share {
    let ports = PortRange::new(2_048, 4_095).unwrap();
    Share::at(Ipv4Addr::new(127, 66, 0, 1).into(), ports, Config::default())
}

fn sweep(share: &Share) -> Swept {
    // A sweep leaves holds alone that began less than half a second ago.
    thread::sleep(Duration::from_millis(600));
    Sweeper::new(Arc::clone(share.dialer.edge().leases())).unwrap().sweep(clock::now()).unwrap()
}

/// An origin that closes as soon as its client has.
fn closing_origin() -> SocketAddr {
    let (listener, address) = origin();
    thread::spawn(move || serve(&listener));
    address
}

fn serve(listener: &TcpListener) {
    // It ends with the process.
    while let Ok((mut accepted, _)) = listener.accept() {
        let _ = accepted.read(&mut [0]);
    }
}

/// Dials `rate` times a second, each time closing before the origin does and saying nothing about it. Returns how many
/// dials there were, and how many were refused for want of a tuple.
fn churn(share: &Share, origin: SocketAddr, rate: u32, seconds: u64) -> (u32, u32) {
    let (start, end) = (Instant::now(), Duration::from_secs(seconds));
    let (mut dials, mut refused) = (0, 0);
    while start.elapsed() < end {
        match share.dialer.connect(&share.zone, origin) {
            Ok(stream) => stream.close(Closed::Unknown),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Wait, "{error}");
                refused += 1;
            }
        }
        dials += 1;
        let next = start + Duration::from_secs(1) * dials / rate;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    (dials, refused)
}

#[test]
fn a_proxy_that_never_says_how_connections_end_loses_no_capacity() {
    netns::in_fresh("a_proxy_that_never_says_how_connections_end_loses_no_capacity", || {
        let (share, origin) = (share(), closing_origin());
        let sweeper = share.dialer.sweep_every(Duration::from_millis(100)).unwrap();
        let (dials, refused) = churn(&share, origin, 2_000, 4);
        let report = sweeper.report();
        eprintln!("{dials} dials in 4 s, {refused} refused; {report:?}");
        assert_eq!((refused, report.failed), (0, 0), "{report:?}");
        assert!(dials > 2_048, "{dials} dials fit into the share without any sweep");
        assert!(report.ended > u64::from(dials) - 2_048, "{report:?}");
    });
}

#[test]
fn without_a_sweeper_it_is_refused_after_one_connection_from_each_port() {
    netns::in_fresh("without_a_sweeper_it_is_refused_after_one_connection_from_each_port", || {
        let (share, origin) = (share(), closing_origin());
        let mut connected = 0;
        // Faster than the oldest hold ends.
        while let Ok(stream) = share.dialer.connect(&share.zone, origin) {
            stream.close(Closed::Unknown);
            connected += 1;
            assert!(connected <= 2_048, "one was granted twice");
        }
        assert_eq!(connected, 2_048);
        // And one sweep gives all of them back.
        eventually(|| sweep(&share).kept == 0 && share.tcp(origin).held == 0);
        let _stream = share.dialer.connect(&share.zone, origin).unwrap();
        assert_eq!((share.tcp(origin).held, share.tcp(origin).live), (0, 1));
    });
}

/// The kernel's state of the one socket of this source.
fn state(source: SocketAddr) -> Option<State> {
    let filter = Filter::new([PortRange::new(source.port(), source.port()).unwrap()]).sources([source.ip()]);
    let sockets = SockDiag::new().unwrap().list(&filter).unwrap();
    assert!(sockets.len() <= 1, "{sockets:?}");
    sockets.first().map(|socket| socket.state)
}

#[test]
fn a_half_closed_tuple_stays_held_until_the_peer_closes_too() {
    netns::in_fresh("a_half_closed_tuple_stays_held_until_the_peer_closes_too", || {
        let (share, (listener, address)) = (share(), origin());
        let stream = share.dialer.connect(&share.zone, address).unwrap();
        let source = stream.source();
        let (peer, _) = listener.accept().unwrap();
        stream.close(Closed::Unknown);
        eventually(|| state(source) == Some(State::FinWait2));
        let kept = Swept { kept: 1, ..Swept::default() };
        assert_eq!(sweep(&share), kept);
        assert_eq!(share.tcp(address).held, 1);
        drop(peer);
        eventually(|| state(source) == Some(State::TimeWait));
        assert_eq!(sweep(&share), Swept { ended: 1, ..Swept::default() });
        assert_eq!((share.tcp(address).held, share.tcp(address).resting), (0, 1));
    });
}

#[test]
fn without_timestamps_time_wait_is_waited_for() {
    netns::in_fresh("without_timestamps_time_wait_is_waited_for", || {
        netns::sysctl("net.ipv4.tcp_timestamps", "0");
        let (share, (listener, address)) = (share(), origin());
        let stream = share.dialer.connect(&share.zone, address).unwrap();
        let source = stream.source();
        let (peer, _) = listener.accept().unwrap();
        stream.close(Closed::Unknown);
        eventually(|| state(source) == Some(State::FinWait2));
        drop(peer);
        eventually(|| state(source) == Some(State::TimeWait));
        assert_eq!(sweep(&share), Swept { kept: 1, ..Swept::default() });
    });
}

#[test]
fn a_reset_leaves_nothing_and_the_holds_of_udp_are_for_late_answers() {
    netns::in_fresh("a_reset_leaves_nothing_and_the_holds_of_udp_are_for_late_answers", || {
        let (share, (listener, address)) = (share(), origin());
        let stream = share.dialer.connect(&share.zone, address).unwrap();
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        let peer = listener.accept().unwrap();
        stream.close(Closed::Unknown);
        drop(share.dialer.udp(&share.zone, address).unwrap());
        assert_eq!(sweep(&share), Swept { ended: 1, not_tcp: 1, ..Swept::default() });
        assert_eq!(share.explain(aegis_core::net::Protocol::Udp, address).held, 1);
        drop(peer);
    });
}
