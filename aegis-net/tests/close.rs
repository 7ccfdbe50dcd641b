//! The socket closes first; then the lease goes back as what the kernel says about the connection.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use aegis_core::lease::{Closed, Spans};
use aegis_core::net::Protocol;
use aegis_net::{ConnectError, TcpStream};
use common::{Share, eventually, origin};

/// How a connection ends that goes through `story`, by its stream and the origin's.
fn ended(story: impl FnOnce(TcpStream, std::net::TcpStream)) -> Closed {
    let (listener, address) = origin();
    let share = Share::telling();
    let stream = share.connect(address).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    assert_eq!(share.tcp(address).live, 1);
    story(stream, accepted);
    share.ended(Protocol::Tcp, address)
}

fn read_to_end(mut stream: &TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
}

#[test]
fn dropped_while_the_peer_is_open_it_is_half_closed() {
    assert_eq!(ended(|stream, _peer| drop(stream)), Closed::HalfClosed);
    let half = |stream: TcpStream, _peer| {
        stream.shutdown(Shutdown::Write).unwrap();
        drop(stream);
    };
    assert_eq!(ended(half), Closed::HalfClosed);
    let deaf = |stream: TcpStream, _peer| {
        stream.shutdown(Shutdown::Read).unwrap();
        drop(stream);
    };
    assert_eq!(ended(deaf), Closed::HalfClosed, "not to listen is not to be left");
}

#[test]
fn a_half_closed_tuple_is_held_by_default() {
    let (listener, address) = origin();
    let share = Share::of(1);
    let stream = share.connect(address).unwrap();
    let _peer = listener.accept().unwrap();
    drop(stream);
    assert_eq!(share.tcp(address).held, 1);
    let error = share.connect(address).unwrap_err().to_string();
    assert!(error.contains("63 live, 1 held") && error.contains("comes free at"), "{error}");
}

#[test]
fn after_the_peer_has_closed_first_it_is_passive() {
    let passive = |stream: TcpStream, peer| {
        drop(peer);
        read_to_end(&stream);
        drop(stream);
    };
    assert_eq!(ended(passive), Closed::Passive);
    let orderly = |stream: TcpStream, peer| {
        drop(peer);
        read_to_end(&stream);
        stream.shutdown(Shutdown::Both).unwrap();
        drop(stream);
    };
    assert_eq!(
        ended(orderly),
        Closed::Passive,
        "the socket is over by then, and does not tell who was first"
    );
}

#[test]
fn after_we_have_closed_first_and_the_peer_too_it_is_active() {
    let active = |stream: TcpStream, peer| {
        stream.shutdown(Shutdown::Write).unwrap();
        drop(peer);
        read_to_end(&stream);
        drop(stream);
    };
    assert_eq!(ended(active), Closed::Active);
}

#[test]
fn bytes_that_nobody_has_read_make_it_a_reset() {
    let unread = |stream: TcpStream, mut peer: std::net::TcpStream| {
        peer.write_all(b"unread").unwrap();
        eventually(|| rustix::io::ioctl_fionread(&stream).unwrap() == 6);
        drop(stream);
        let error = peer.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the kernel really resets");
    };
    assert_eq!(ended(unread), Closed::Reset);
}

#[test]
fn a_reset_by_either_side_is_a_reset() {
    let ours = |stream: TcpStream, mut peer: std::net::TcpStream| {
        stream.reset();
        peer.read(&mut [0]).unwrap_err();
    };
    assert_eq!(ended(ours), Closed::Reset);
    let theirs = |mut stream: TcpStream, peer: std::net::TcpStream| {
        stream.write_all(b"unread").unwrap();
        peer.peek(&mut [0]).unwrap();
        drop(peer);
        stream.read(&mut [0]).unwrap_err();
        drop(stream);
    };
    assert_eq!(ended(theirs), Closed::Reset);
}

#[test]
fn who_knows_how_it_ended_says_so() {
    for closed in [Closed::Active, Closed::Passive, Closed::HalfClosed] {
        assert_eq!(ended(|stream, _peer| stream.close(closed)), closed);
    }
}

/// Two threads dial from one port as fast as they can. If a lease went back before its socket closed, the other
/// thread would be granted the tuple, the kernel would refuse it, and it would be parked.
///
/// By resets, because those are over when `close` returns; after a FIN the kernel keeps the tuple for a round trip.
#[test]
fn no_lease_goes_back_before_its_socket_is_closed() {
    let (listener, address) = origin();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let share = Share::holding(Spans::ZERO);
    let connected = AtomicU32::new(0);
    let dial = || {
        while connected.load(Relaxed) < 1_000 {
            match share.connect(address) {
                Ok(stream) => {
                    connected.fetch_add(1, Relaxed);
                    stream.reset();
                }
                Err(ConnectError::NoLease { explanation, .. }) => {
                    assert_eq!(explanation.parked, 0, "{explanation}");
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(dial);
        scope.spawn(dial);
    });
    assert_eq!(share.tcp(address).parked, 0);
}

#[test]
fn a_stream_that_threads_share_ends_with_the_last_of_them() {
    let (listener, address) = origin();
    let share = Share::telling();
    let stream = std::sync::Arc::new(share.connect(address).unwrap());
    let (mut peer, _): (_, SocketAddr) = listener.accept().unwrap();
    let reader = std::thread::spawn({
        let stream = stream.clone();
        move || (&*stream).read_exact(&mut [0; 4]).unwrap()
    });
    (&*stream).write_all(b"ping").unwrap();
    drop(stream);
    assert_eq!(share.tcp(address).live, 1);
    peer.read_exact(&mut [0; 4]).unwrap();
    peer.write_all(b"pong").unwrap();
    reader.join().unwrap();
    eventually(|| share.tcp(address).live == 0);
    assert_eq!(share.ended(Protocol::Tcp, address), Closed::HalfClosed);
}
