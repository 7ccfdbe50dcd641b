//! The async sockets keep what the blocking ones promise, also when a future is dropped halfway.
#![cfg(feature = "tokio")]

mod common;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use aegis_core::edge::AcquireError;
use aegis_core::lease::{self, Closed, Spans};
use aegis_core::net::Protocol;
use aegis_net::tokio::{TcpStream, UdpSocket};
use aegis_net::{ConnectError, clock};
use common::{Share, Silent, closed_origin, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(60), test).await.expect("it hangs") });
}

/// A connect from one of the share's ports.
async fn connect(share: &Share, origin: SocketAddr) -> Result<TcpStream, ConnectError> {
    share.narrow(Protocol::Tcp, origin);
    TcpStream::connect(&share.dialer, &share.zone, origin).await
}

fn udp(share: &Share, origin: SocketAddr) -> Result<UdpSocket, ConnectError> {
    share.narrow(Protocol::Udp, origin);
    UdpSocket::connect(&share.dialer, &share.zone, origin)
}

async fn origin() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn a_connection_leaves_from_its_leased_port_and_is_active_after_an_orderly_end() {
    run(async {
        let (listener, address) = origin().await;
        let share = Share::telling();
        let mut stream = connect(&share, address).await.unwrap();
        let (mut accepted, seen) = listener.accept().await.unwrap();
        assert_eq!((seen, stream.source()), (share.first(), share.first()));
        assert_eq!((stream.origin().address(), stream.pool()), (address, share.zone.pool_key().unwrap()));
        assert_eq!(share.tcp(address).live, 1);

        let origin = async {
            let mut got = String::new();
            accepted.read_to_string(&mut got).await.unwrap();
            accepted.write_all(got.to_uppercase().as_bytes()).await.unwrap();
            drop(accepted);
        };
        let client = async {
            stream.write_all(b"ping").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut got = String::new();
            stream.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "PING");
            drop(stream);
        };
        tokio::join!(origin, client);
        assert_eq!(share.ended(Protocol::Tcp, address), Closed::Active);
    });
}

#[test]
fn an_orderly_end_that_the_peer_began_is_passive() {
    run(async {
        let (listener, address) = origin().await;
        let share = Share::telling();
        let mut stream = connect(&share, address).await.unwrap();
        drop(listener.accept().await.unwrap());
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        // What hyper does in the end.
        stream.shutdown().await.unwrap();
        drop(stream);
        assert_eq!(share.ended(Protocol::Tcp, address), Closed::Passive);
    });
}

#[test]
fn a_refused_connect_gives_its_tuple_back() {
    run(async {
        let (share, address) = (Share::telling(), closed_origin());
        let error = connect(&share, address).await.unwrap_err();
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(share.ended(Protocol::Tcp, address), Closed::ConnectFailed);
    });
}

#[test]
fn a_connect_that_is_dropped_halfway_is_closed_and_gives_its_tuple_back() {
    run(async {
        let silent = Silent::new();
        let share = Share::telling();
        let connect = connect(&share, silent.address);
        let early = timeout(Duration::from_millis(50), async {
            tokio::join!(connect, async { assert_eq!(share.tcp(silent.address).live, 1) }).0
        });
        early.await.expect_err("the origin is silent");
        assert_eq!(share.ended(Protocol::Tcp, silent.address), Closed::ConnectFailed);
        std::net::TcpListener::bind(share.first()).expect("the socket is closed");
    });
}

#[test]
fn a_connect_that_is_never_polled_leases_nothing() {
    run(async {
        let (share, address) = (Share::of(64), closed_origin());
        drop(connect(&share, address));
        assert_eq!(share.dialer.edge().usage(clock::now()), []);
    });
}

#[test]
fn connects_cancelled_at_any_moment_never_leave_a_tuple_behind() {
    let (listener, address) = common::origin();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let share = Share::holding(Spans::ZERO);
    run(async {
        for round in 0..1_000 {
            let connect = connect(&share, address);
            tokio::pin!(connect);
            // After no, one or several turns of the runtime.
            let turns = async {
                for _ in 0..round % 4 {
                    tokio::task::yield_now().await;
                }
            };
            let stream = tokio::select! {
                biased;
                stream = &mut connect => Some(stream.unwrap()),
                () = turns => None,
            };
            if let Some(stream) = stream {
                stream.reset();
            }
        }
    });
    let used = share.tcp(address);
    assert_eq!((used.live, used.held, used.parked), (0, 0, 0), "{used}");
}

#[test]
fn a_task_that_is_aborted_gives_its_tuple_back() {
    run(async {
        let (listener, address) = origin().await;
        let share = std::sync::Arc::new(Share::telling());
        let task = tokio::spawn({
            let share = share.clone();
            async move {
                let mut stream = connect(&share, address).await.unwrap();
                stream.write_all(b"here").await.unwrap();
                stream.read_exact(&mut [0]).await.unwrap();
            }
        });
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.read_exact(&mut [0; 4]).await.unwrap();
        task.abort();
        task.await.unwrap_err();
        assert_eq!(share.ended(Protocol::Tcp, address), Closed::HalfClosed);
    });
}

#[test]
fn an_exhausted_pool_is_an_answer_and_not_a_wait() {
    run(async {
        let (_listener, address) = origin().await;
        let share = Share::of(1);
        let stream = connect(&share, address).await.unwrap();
        let error = connect(&share, address).await.unwrap_err();
        assert!(
            matches!(
                error,
                ConnectError::NoLease { error: AcquireError::Lease(lease::AcquireError::Exhausted), .. }
            ),
            "{error}"
        );
        stream.close(Closed::Passive);
        assert_eq!(share.tcp(address).live, 0);
    });
}

#[test]
fn a_udp_flow_leaves_from_its_leased_port() {
    run(async {
        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let share = Share::telling();
        let socket = udp(&share, address).unwrap();
        socket.send(b"ping").await.unwrap();
        let mut buf = [0; 4];
        let (_, seen) = server.recv_from(&mut buf).await.unwrap();
        assert_eq!((&buf, seen), (b"ping", share.first()));
        server.send_to(b"pong", seen).await.unwrap();
        assert_eq!(socket.recv(&mut buf).await.unwrap(), 4);
        drop(socket);
        assert_eq!(share.ended(Protocol::Udp, address), Closed::UdpIdle);
    });
}

#[test]
fn a_connect_outside_of_a_runtime_loses_no_tuple() {
    let (listener, address) = common::origin();
    let share = Share::telling();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| udp(&share, address).map(drop)));
    assert!(panicked.is_err());
    eventually(|| share.explain(Protocol::Udp, address).live == 0);
    drop(listener);
}
