//! Connections that leave from leased ports.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use aegis_core::edge::{Edge, Zone};
use aegis_core::error::Result;
use aegis_core::lease::Conflict;
use aegis_core::net::{Origin, Protocol};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::leased::{Guard, Leased, LeasedTcp};
use crate::recipe::{self, Refusal};
use crate::waiting::{self, Waiter, Waiting};
use crate::workers::{Forked, Workers};
use crate::{ConnectError, Sweeper, SweeperThread, TcpStream, UdpSocket, clock};

/// Opens connections from the machine's egress addresses. All threads share one.
///
/// Where the kernel says that a stranger has the leased port or tuple, the dialer tells the edge (which parks it)
/// and goes on with another lease.
///
/// After `fork` the child needs an edge and a dialer of its own, both made in the child. The parent's dialer is
/// refused there ([`ConnectError::Forked`]): it would repeat the parent's choices. The parent's edge would too, and
/// is not recognised.
#[derive(Debug)]
pub struct Dialer {
    workers: Workers,
    waiting: Arc<Waiting>,
}

impl Dialer {
    /// A dial goes on through this many conflicts with strangers, each of which costs some microseconds. Whatever
    /// it met is parked, so the next dial starts where this one stopped.
    pub const TRIES: u32 = 64;

    /// A dialer over the machine's edge. It attaches one worker now, and at most one per processor later.
    ///
    /// # Errors
    /// All of the edge's workers are attached; the operating system gives no random numbers.
    pub fn new(edge: Arc<Edge>) -> Result<Self> {
        Ok(Self { workers: Workers::new(edge)?, waiting: Arc::default() })
    }

    /// The edge.
    pub fn edge(&self) -> &Arc<Edge> {
        self.workers.edge()
    }

    /// Compares what is held with the kernel's sockets, in a thread of its own, as long as the result lives: see
    /// [`Sweeper`]. Without it a connection whose end nobody knows costs its tuple for more than a minute.
    ///
    /// ```no_run
    /// # fn f(dialer: aegis_net::Dialer) -> std::io::Result<()> {
    /// let _sweeper = dialer.sweep_every(std::time::Duration::from_millis(100))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Sweeper::new`] and [`Sweeper::spawn`].
    pub fn sweep_every(&self, interval: Duration) -> io::Result<SweeperThread> {
        Sweeper::new(Arc::clone(self.edge().leases()))?.spawn(interval)
    }

    /// Connects to `origin` from a leased ip:port of the zone's pool, and waits as long as the kernel does.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(&self, zone: &Zone, origin: SocketAddr) -> Result<TcpStream, ConnectError> {
        self.connect_until(zone, origin, None)
    }

    /// As [`Dialer::connect`], but gives up after `timeout`. The unfinished connection is closed before its lease
    /// goes back, so no late answer meets the tuple's next owner.
    ///
    /// # Errors
    /// [`ConnectError`]; [`ConnectError::Failed`] with `TimedOut` when the time is over.
    pub fn connect_timeout(
        &self,
        zone: &Zone,
        origin: SocketAddr,
        timeout: Duration,
    ) -> Result<TcpStream, ConnectError> {
        // A deadline beyond the end of time is none.
        self.connect_until(zone, origin, Instant::now().checked_add(timeout))
    }

    /// As [`Dialer::connect_timeout`], and if every tuple towards the origin is in use it waits for one that comes free.
    /// `timeout` is for both together.
    ///
    /// It is woken by connections of this dialer that end, and looks by itself every 50 ms, for those of other
    /// processes and for holds that end. Of several who wait, nobody knows who is first.
    ///
    /// # Errors
    /// [`ConnectError`]; [`ConnectError::NoLease`] with what was in use when the time was over. Only a want that passes
    /// by itself is waited for ([`ErrorKind::Wait`](aegis_core::error::ErrorKind::Wait)).
    pub fn connect_waiting(
        &self,
        zone: &Zone,
        origin: SocketAddr,
        timeout: Duration,
    ) -> Result<TcpStream, ConnectError> {
        let deadline = Instant::now().checked_add(timeout);
        let leased = match self.start(zone, Protocol::Tcp, origin) {
            Err(refusal) if waiting::pause(&refusal, deadline).is_some() => {
                let waiter = self.wait_for(origin, waiting::this_thread())?;
                loop {
                    // Once in line: what came free just before woke nobody.
                    match self.start(zone, Protocol::Tcp, origin) {
                        Err(refusal) => match waiting::pause(&refusal, deadline) {
                            Some(pause) => waiter.block(pause),
                            None => return Err(refusal),
                        },
                        Ok(leased) => break leased,
                    }
                }
            }
            started => started?,
        };
        Self::finish(leased, origin, deadline)
    }

    /// In line for a tuple towards a TCP origin.
    pub(crate) fn wait_for(&self, origin: SocketAddr, waker: Waker) -> Result<Waiter, ConnectError> {
        let origin = Origin::new(Protocol::Tcp, origin).map_err(ConnectError::Origin)?;
        Ok(self.waiting.enter(origin, waker))
    }

    /// A UDP socket that is bound to a leased ip:port of the zone's pool and connected to `origin`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn udp(&self, zone: &Zone, origin: SocketAddr) -> Result<UdpSocket, ConnectError> {
        let leased = self.start(zone, Protocol::Udp, origin)?;
        let source_address = leased.source();
        let blocking = leased.map(|socket| {
            let socket = std::net::UdpSocket::from(socket);
            socket.set_nonblocking(false)?;
            Ok(socket)
        });
        blocking.map(UdpSocket).map_err(|error| failed(source_address, origin, error))
    }

    fn connect_until(
        &self,
        zone: &Zone,
        origin: SocketAddr,
        deadline: Option<Instant>,
    ) -> Result<TcpStream, ConnectError> {
        Self::finish(self.start(zone, Protocol::Tcp, origin)?, origin, deadline)
    }

    /// Waits until it is connected.
    fn finish(
        leased: Leased<OwnedFd>,
        origin: SocketAddr,
        deadline: Option<Instant>,
    ) -> Result<TcpStream, ConnectError> {
        let source_address = leased.source();
        let leased = leased.map(|socket| Ok(std::net::TcpStream::from(socket)));
        let connected = leased.and_then(|leased| {
            let tcp = LeasedTcp::new(leased);
            wait(tcp.socket(), deadline)?;
            tcp.connected(std::net::TcpStream::take_error)
        });
        connected
            .and_then(|tcp| tcp.socket().set_nonblocking(false).map(|()| TcpStream(tcp)))
            .map_err(|error| failed(source_address, origin, error))
    }

    /// A leased socket that is connected (UDP), or connected or still connecting (TCP). It does not block.
    pub(crate) fn start(
        &self,
        zone: &Zone,
        protocol: Protocol,
        origin: SocketAddr,
    ) -> Result<Leased<OwnedFd>, ConnectError> {
        let origin = Origin::new(protocol, origin).map_err(ConnectError::Origin)?;
        let edge = self.edge();
        let mut tries = 1;
        loop {
            let now = clock::now();
            let acquired = self.workers.with(|worker| worker.acquire(zone, &origin, now));
            let lease = acquired.map_err(|Forked| ConnectError::Forked)?.map_err(|error| {
                match edge.explain(zone, &origin, now).map(Box::new) {
                    Some(explanation) => ConnectError::NoLease { error, explanation },
                    None => ConnectError::Zone(error),
                }
            })?;
            let tuple = edge.tuple(&lease).expect("granted a moment ago");
            let guard = Guard::new(edge.clone(), Arc::clone(&self.waiting), lease, tuple);
            let refusal = match recipe::begin(guard.tuple()) {
                Ok(socket) => return Ok(Leased::new(socket, guard)),
                Err(refusal) => refusal,
            };
            match refusal {
                Refusal::Conflict { conflict, .. } => {
                    // The lease is live and of this edge: it is not rejected.
                    let _ = edge.conflict(guard.into_lease(), conflict, clock::now());
                    if conflict == Conflict::NoSuchAddress {
                        return Err(ConnectError::Machine(refusal));
                    }
                    if tries == Self::TRIES {
                        return Err(ConnectError::Strangers { tries, last: refusal });
                    }
                }
                Refusal::Socket { .. } => return Err(ConnectError::Machine(refusal)),
                Refusal::Connect(error) => {
                    let source_address = guard.tuple().source;
                    guard.connect_failed();
                    return Err(failed(source_address, origin.address(), error));
                }
            }
            tries += 1;
        }
    }
}

pub(crate) fn failed(source_address: SocketAddr, origin: SocketAddr, error: io::Error) -> ConnectError {
    ConnectError::Failed { source_address, origin, error }
}

/// Waits until a connecting socket is connected or has failed.
fn wait(socket: impl AsFd, deadline: Option<Instant>) -> io::Result<()> {
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // More seconds than the kernel can count are for ever.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
