//! Who waits for a free tuple gets the one that another gives back, or learns why there was none.

mod common;

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use aegis_core::edge::AcquireError;
use aegis_core::lease::{self, Closed, Spans};
use aegis_core::net::Protocol;
use aegis_net::ConnectError;
use common::{Share, origin};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(30);

/// A share whose one port is in use.
fn full() -> (Share, TcpListener, aegis_net::TcpStream) {
    let (listener, address) = origin();
    let share = Share::of(1);
    let stream = share.connect(address).unwrap();
    (share, listener, stream)
}

#[test]
fn a_waiter_gets_the_tuple_that_another_thread_gives_back() {
    let (share, listener, stream) = full();
    let address = listener.local_addr().unwrap();
    let source = stream.source();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| share.dialer.connect_waiting(&share.zone, address, LONG));
        thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        stream.reset();
        assert_eq!(waiter.join().unwrap().unwrap().source(), source);
    });
}

#[test]
fn many_waiters_get_one_tuple_in_turn() {
    let (share, listener, stream) = full();
    let address = listener.local_addr().unwrap();
    stream.reset();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    share.dialer.connect_waiting(&share.zone, address, LONG).unwrap().reset();
                }
            });
        }
    });
    assert_eq!(share.tcp(address).live, 0);
}

#[test]
fn a_hold_that_ends_is_waited_for() {
    let (listener, address) = origin();
    let share = Share::holding(Spans { active: Duration::from_millis(600), ..Spans::ZERO });
    share.connect(address).unwrap().close(Closed::Active);
    assert_eq!(share.tcp(address).held, 1);
    share.dialer.connect_waiting(&share.zone, address, LONG).unwrap();
    drop(listener);
}

#[test]
fn when_the_time_is_over_the_refusal_says_what_is_in_use() {
    let (share, listener, _stream) = full();
    let address = listener.local_addr().unwrap();
    let start = Instant::now();
    let timeout = Duration::from_millis(120);
    let error = share.dialer.connect_waiting(&share.zone, address, timeout).unwrap_err();
    assert!(start.elapsed() >= timeout, "it has given up too early");
    let ConnectError::NoLease { error, explanation } = error else { panic!("{error}") };
    assert_eq!(error, AcquireError::Lease(lease::AcquireError::Exhausted));
    assert_eq!(explanation.live, 64);
    assert!(share.dialer.connect_waiting(&share.zone, address, Duration::ZERO).is_err());
}

#[test]
fn what_waiting_does_not_mend_is_refused_at_once() {
    let share = Share::of(1);
    let error = share.dialer.connect_waiting(&share.zone, "[2001:db8::1]:443".parse().unwrap(), LONG);
    let error = error.unwrap_err();
    assert!(matches!(error, ConnectError::NoLease { .. }), "{error}");
    let closed = common::closed_origin();
    let error = share.dialer.connect_waiting(&share.zone, closed, LONG).unwrap_err();
    assert!(matches!(error, ConnectError::Failed { .. }), "{error}");
    assert_eq!(share.explain(Protocol::Tcp, closed).live, 0);
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use std::future::Future;

    use aegis_net::tokio::TcpStream;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn a_waiting_task_gets_the_tuple_that_another_gives_back() {
        run(async {
            let (share, listener, stream) = full();
            let address = listener.local_addr().unwrap();
            let source = stream.source();
            let waiter = TcpStream::connect_waiting(&share.dialer, &share.zone, address, LONG);
            let releaser = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.reset();
            };
            let (connected, ()) = tokio::join!(waiter, releaser);
            assert_eq!(connected.unwrap().source(), source);
        });
    }

    #[test]
    fn a_waiting_task_is_refused_when_its_time_is_over() {
        run(async {
            let (share, listener, _stream) = full();
            let address = listener.local_addr().unwrap();
            let timeout = Duration::from_millis(120);
            let waiter = TcpStream::connect_waiting(&share.dialer, &share.zone, address, timeout);
            let error = waiter.await.unwrap_err();
            let ConnectError::NoLease { explanation, .. } = error else { panic!("{error}") };
            assert_eq!(explanation.live, 64);
        });
    }

    #[test]
    fn a_task_that_stops_waiting_is_forgotten() {
        run(async {
            let (share, listener, stream) = full();
            let address = listener.local_addr().unwrap();
            let waiter = TcpStream::connect_waiting(&share.dialer, &share.zone, address, LONG);
            let gave_up = tokio::time::timeout(Duration::from_millis(20), waiter).await;
            assert!(gave_up.is_err());
            stream.reset();
            share.connect(address).unwrap();
        });
    }
}
