//! A whole share of real connections towards two origins, closed in every way and opened again: the kernel agrees with
//! every grant, and no origin sees a reset that nobody asked for. In a network namespace.

mod common;

use std::io::Write;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;

use aegis_core::lease::Config;
use aegis_core::net::PortRange;
use aegis_net::sock_diag::{Filter, SockDiag, State};
use aegis_net::{Sweeper, TcpStream, clock};
use common::{Share, eventually, netns, origin};
use rustix::process::{Resource, getrlimit, setrlimit};

const PORTS: usize = 2_048;
const ORIGINS: usize = 2;

type Peer = std::net::TcpStream;

/// Both ends of 2,048 connections to each origin are open at once.
fn raise_descriptors() -> bool {
    let needed = (PORTS * ORIGINS * 2 + 200) as u64;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        limit.current = Some(limit.maximum.map_or(needed, |maximum| maximum.min(needed)));
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.is_none_or(|current| current >= needed)
}

fn fill(
    share: &Share,
    (listener, address): &(TcpListener, SocketAddr),
    count: usize,
) -> Vec<(TcpStream, Peer)> {
    let connect = |_| {
        let stream = share.dialer.connect(&share.zone, *address).unwrap();
        let (peer, seen) = listener.accept().unwrap();
        assert_eq!(seen, stream.source());
        (stream, peer)
    };
    let streams = (0..count).map(connect).collect();
    assert_eq!(share.tcp(*address).parked, 0, "the kernel has refused a grant");
    streams
}

/// What the origin reads: the end, or an error.
fn end_at(mut peer: &Peer) -> Result<usize, ErrorKind> {
    peer.read(&mut [0]).map_err(|error| error.kind())
}

/// Nothing of the share is on its way any more: acknowledgements are quick, but not there at once.
fn calm(share: &Share) {
    let filter = Filter::new([share.ports]).sources([share.ip]).connected();
    let passing = [State::FinWait1, State::LastAck, State::Closing, State::SynSent];
    eventually(|| {
        let sockets = SockDiag::new().unwrap().list(&filter).unwrap();
        !sockets.iter().any(|socket| passing.contains(&socket.state))
    });
}

#[test]
fn the_kernel_agrees_with_every_grant_and_no_origin_is_reset() {
    netns::in_fresh("the_kernel_agrees_with_every_grant_and_no_origin_is_reset", || {
        if !raise_descriptors() {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED the_kernel_agrees_with_every_grant_and_no_origin_is_reset: too few descriptors"
            );
            return;
        }
        let ports = PortRange::new(2_048, 4_095).unwrap();
        let share = Share::at(Ipv4Addr::new(127, 66, 0, 1).into(), ports, Config::default());
        let origins = [origin(), origin()];
        let mut sweeper = Sweeper::new(Arc::clone(share.dialer.edge().leases())).unwrap();
        for round in 0..2 {
            let mut half_closed = Vec::new();
            let open: Vec<_> = origins.iter().map(|origin| fill(&share, origin, PORTS)).collect();
            for (_, address) in &origins {
                assert!(share.dialer.connect(&share.zone, *address).is_err(), "one more than there are");
            }
            for (n, (mut stream, peer)) in open.into_iter().flatten().enumerate() {
                match n % 4 {
                    // We first, then the origin.
                    0 => {
                        stream.shutdown(Shutdown::Write).unwrap();
                        assert_eq!(end_at(&peer), Ok(0));
                        drop(peer);
                        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
                    }
                    // The origin first.
                    1 => {
                        drop(peer);
                        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
                    }
                    2 => {
                        stream.reset();
                        assert_eq!(end_at(&peer), Err(ErrorKind::ConnectionReset));
                    }
                    // We, and the origin later.
                    _ => {
                        drop(stream);
                        half_closed.push(peer);
                    }
                }
            }
            calm(&share);
            // A sweep leaves holds alone that began less than half a second ago.
            std::thread::sleep(std::time::Duration::from_millis(600));
            // All but the half-closed are there again, and none of those is disturbed.
            let again: Vec<_> = origins.iter().map(|origin| fill(&share, origin, PORTS * 3 / 4)).collect();
            assert_eq!(sweeper.sweep(clock::now()).unwrap().ended, 0, "the origin has not closed yet");
            for (_, address) in &origins {
                assert!(share.dialer.connect(&share.zone, *address).is_err(), "the rest is held");
            }
            assert!(half_closed.iter().all(|peer| end_at(peer) == Ok(0)), "an origin was reset");
            drop(half_closed);
            for (stream, peer) in again.into_iter().flatten() {
                stream.reset();
                assert_eq!(end_at(&peer), Err(ErrorKind::ConnectionReset));
            }
            // The origins have closed: the holds are for nothing.
            calm(&share);
            let swept = sweeper.sweep(clock::now()).unwrap();
            assert_eq!((swept.ended, swept.kept), (PORTS * ORIGINS / 4, 0), "round {round}");
        }
    });
}
