//! A socket together with its lease: the socket closes first, then the lease goes back.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aegis_core::edge::Edge;
use aegis_core::lease::{Closed, Lease, PoolKey, Tuple};
use aegis_core::net::{Origin, Protocol};
use rustix::net::sockopt;

use crate::clock;
use crate::tcp_state::TcpState;
use crate::waiting::Waiting;

/// Gives its lease back when it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    edge: Arc<Edge>,
    waiting: Arc<Waiting>,
    /// Taken only by the end of the guard.
    lease: Option<Lease>,
    tuple: Tuple,
    closed: Closed,
}

impl Guard {
    /// Until there is a socket nothing was sent from the port.
    pub(crate) fn new(edge: Arc<Edge>, waiting: Arc<Waiting>, lease: Lease, tuple: Tuple) -> Self {
        Self { edge, waiting, lease: Some(lease), tuple, closed: Closed::Unused }
    }

    /// The connect has failed: something may have been sent.
    pub(crate) fn connect_failed(mut self) {
        self.closed = Closed::ConnectFailed;
    }

    pub(crate) fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    fn pool(&self) -> PoolKey {
        self.lease.as_ref().expect("taken only by the end of the guard").pool()
    }

    /// Ends the lease in another way than by a release.
    pub(crate) fn into_lease(mut self) -> Lease {
        self.lease.take().expect("taken only by the end of the guard")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            // The lease is this edge's and ends only here, so it is refused only if somebody else has cleared the
            // table's memory; then there is nothing left to give back.
            let _ = self.edge.release(lease, self.closed, clock::now());
            self.waiting.released(&self.tuple.origin);
        }
    }
}

/// A socket and its lease. Fields are dropped in their order: never take a value of this type apart.
#[derive(Debug)]
pub(crate) struct Leased<S> {
    pub(crate) socket: S,
    guard: Guard,
}

impl<S> Leased<S> {
    pub(crate) fn new(socket: S, mut guard: Guard) -> Self {
        guard.closed = match guard.tuple().origin.protocol() {
            Protocol::Tcp => Closed::Unknown,
            Protocol::Udp => Closed::UdpIdle,
        };
        Self { socket, guard }
    }

    /// The same socket as another type. If that fails `convert` has closed it.
    pub(crate) fn map<T>(self, convert: impl FnOnce(S) -> io::Result<T>) -> io::Result<Leased<T>> {
        let Self { socket, guard } = self;
        let socket = convert(socket)?;
        Ok(Leased { socket, guard })
    }

    pub(crate) fn source(&self) -> SocketAddr {
        self.guard.tuple().source
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.guard.tuple().origin
    }

    pub(crate) fn pool(&self) -> PoolKey {
        self.guard.pool()
    }
}

/// A TCP socket and its lease. Dropped, it asks the kernel how the connection ends, closes, and gives the lease
/// back with the answer.
#[derive(Debug)]
pub(crate) struct LeasedTcp<S: AsFd> {
    leased: Leased<S>,
    stage: Stage,
    /// Set when we shut our side: how the connection ends if all goes well.
    shut: OnceLock<Closed>,
}

/// How far a TCP socket has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nobody has had it yet.
    Connecting,
    /// Somebody has it.
    Connected,
    /// Somebody had it, and told how it ended.
    Told,
}

impl<S: AsFd> LeasedTcp<S> {
    /// A stream that is connecting.
    pub(crate) fn new(leased: Leased<S>) -> Self {
        Self { leased, stage: Stage::Connecting, shut: OnceLock::new() }
    }

    /// The stream once its socket can be written, unless an error is why it can.
    pub(crate) fn connected(
        mut self,
        take_error: fn(&S) -> io::Result<Option<io::Error>>,
    ) -> io::Result<Self> {
        match take_error(self.socket())? {
            None => {
                self.stage = Stage::Connected;
                Ok(self)
            }
            Some(error) => Err(error),
        }
    }

    pub(crate) fn leased(&self) -> &Leased<S> {
        &self.leased
    }

    pub(crate) fn socket(&self) -> &S {
        &self.leased.socket
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn socket_mut(&mut self) -> &mut S {
        &mut self.leased.socket
    }

    /// Call this just before our side of the connection is shut. A closed socket does not tell who was first.
    pub(crate) fn will_shut(&self) {
        self.shut.get_or_init(|| match TcpState::of(self.socket()) {
            TcpState::PeerClosed => Closed::Passive,
            TcpState::Over => Closed::Reset,
            _ => Closed::Active,
        });
    }

    pub(crate) fn close(mut self, closed: Closed) {
        self.leased.guard.closed = closed;
        self.stage = Stage::Told;
    }

    pub(crate) fn reset(self) {
        if self.will_reset() {
            self.close(Closed::Reset);
        }
    }

    /// Makes the close a reset. If this could fail, `drop` would still find out what is true.
    fn will_reset(&self) -> bool {
        sockopt::set_socket_linger(self.socket(), Some(Duration::ZERO)).is_ok()
    }

    /// How the connection will have ended once the socket is closed. Whatever happens between this look and the
    /// close makes the tuple free sooner, never later.
    fn ending(&self) -> Closed {
        let state = TcpState::of(self.socket());
        if state != TcpState::Over && rustix::io::ioctl_fionread(self.socket()).is_ok_and(|unread| unread > 0)
        {
            return Closed::Reset;
        }
        match state {
            TcpState::Connecting => Closed::ConnectFailed,
            TcpState::PeerOpen => Closed::HalfClosed,
            TcpState::PeerClosed => Closed::Passive,
            TcpState::BothClosed => Closed::Active,
            TcpState::Over => self.shut.get().copied().unwrap_or(Closed::Reset),
            TcpState::Unknown => Closed::Unknown,
        }
    }
}

impl<S: AsFd> Drop for LeasedTcp<S> {
    fn drop(&mut self) {
        self.leased.guard.closed = match self.stage {
            // It may be connected by now. Nobody has used it, so a reset harms nobody and frees the tuple.
            Stage::Connecting if self.will_reset() => Closed::ConnectFailed,
            Stage::Connecting | Stage::Connected => self.ending(),
            Stage::Told => return,
        };
    }
}

/// What every leased socket tells about itself; `$leased` is the way from the type to its `Leased`.
macro_rules! about_lease {
    ($type:ty, |$this:ident| $leased:expr) => {
        impl $type {
            /// The leased ip:port that the socket is bound to.
            #[doc(alias = "local_addr")]
            pub fn source(&self) -> SocketAddr {
                let $this = self;
                $leased.source()
            }

            /// Where it is connected to.
            #[doc(alias = "peer_addr")]
            pub fn origin(&self) -> &Origin {
                let $this = self;
                $leased.origin()
            }

            /// The egress pool: a connection pool must key on it, or a connection of one tenant's pool is used
            /// for another's.
            pub fn pool(&self) -> PoolKey {
                let $this = self;
                $leased.pool()
            }
        }

        impl AsFd for $type {
            /// For socket options. A duplicate keeps the tuple in use after this socket has closed: do not keep one.
            fn as_fd(&self) -> BorrowedFd<'_> {
                let $this = self;
                $leased.socket.as_fd()
            }
        }

        impl AsRawFd for $type {
            /// As [`AsFd::as_fd`].
            fn as_raw_fd(&self) -> RawFd {
                self.as_fd().as_raw_fd()
            }
        }
    };
}
pub(crate) use about_lease;

/// A lease ends once, by type.
///
/// ```compile_fail,E0382
/// fn twice(stream: aegis_net::TcpStream) {
///     stream.reset();
///     stream.close(aegis_core::lease::Closed::Passive);
/// }
/// ```
#[cfg(doctest)]
struct EndsOnce;
