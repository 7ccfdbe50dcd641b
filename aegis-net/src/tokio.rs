//! The same sockets for async code, with the same guarantees: the socket closes first, then the lease goes back,
//! also when a connecting future is dropped halfway.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::{net, time};
use aegis_core::edge::Zone;
use aegis_core::lease::{Closed, PoolKey};
use aegis_core::net::{Origin, Protocol};

use crate::dialer::failed;

use crate::leased::{Leased, LeasedTcp, about_lease};
use crate::{ConnectError, Dialer, waiting};

/// An async TCP connection from a leased ip:port; when dropped it does what
/// [`aegis_net::TcpStream`](crate::TcpStream) does.
///
/// There is no `into_split` (`tokio::io::split` serves), for the reason that there is no `try_clone`.
#[derive(Debug)]
pub struct TcpStream(LeasedTcp<net::TcpStream>);

about_lease!(TcpStream, |this| this.0.leased());

impl TcpStream {
    /// Connects to `origin` from a leased ip:port of the zone's pool.
    ///
    /// Dropping the future ends the attempt: the socket closes, then the lease goes back. For a deadline wrap it
    /// in `tokio::time::timeout`.
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled.
    pub async fn connect(dialer: &Dialer, zone: &Zone, origin: SocketAddr) -> Result<Self, ConnectError> {
        Self::finish(dialer.start(zone, Protocol::Tcp, origin)?, origin).await
    }

    /// As [`TcpStream::connect`], and if every tuple towards the origin is in use it waits for one that comes free, as
    /// [`Dialer::connect_waiting`] does. `timeout` is for both together.
    ///
    /// # Errors
    /// [`ConnectError`]; [`ConnectError::NoLease`] with what was in use when the time was over;
    /// [`ConnectError::Failed`] with `TimedOut` if it was over later.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn connect_waiting(
        dialer: &Dialer,
        zone: &Zone,
        origin: SocketAddr,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let deadline = Instant::now().checked_add(timeout);
        let leased = match dialer.start(zone, Protocol::Tcp, origin) {
            Err(refusal) if waiting::pause(&refusal, deadline).is_some() => {
                let waiter = dialer.wait_for(origin, Waker::noop().clone())?;
                loop {
                    // Once in line: what came free just before woke nobody.
                    match dialer.start(zone, Protocol::Tcp, origin) {
                        Err(refusal) => match waiting::pause(&refusal, deadline) {
                            // Woken or not, the next try tells.
                            Some(pause) => drop(time::timeout(pause, poll_fn(|cx| waiter.poll(cx))).await),
                            None => return Err(refusal),
                        },
                        Ok(leased) => break leased,
                    }
                }
            }
            started => started?,
        };
        let source_address = leased.source();
        let connecting = Self::finish(leased, origin);
        let Some(deadline) = deadline else { return connecting.await };
        let connected = time::timeout_at(deadline.into(), connecting).await;
        connected.unwrap_or_else(|_| Err(failed(source_address, origin, io::ErrorKind::TimedOut.into())))
    }

    async fn finish(leased: Leased<OwnedFd>, origin: SocketAddr) -> Result<Self, ConnectError> {
        let source_address = leased.source();
        // From here on the stream knows how to end, whenever this future is dropped.
        let connected = async {
            let tcp = LeasedTcp::new(leased.map(|socket| net::TcpStream::from_std(socket.into()))?);
            tcp.socket().writable().await?;
            tcp.connected(net::TcpStream::take_error)
        };
        connected.await.map(Self).map_err(|error| failed(source_address, origin, error))
    }

    /// As [`aegis_net::TcpStream::close`](crate::TcpStream::close).
    pub fn close(self, closed: Closed) {
        self.0.close(closed);
    }

    /// As [`aegis_net::TcpStream::reset`](crate::TcpStream::reset).
    pub fn reset(self) {
        self.0.reset();
    }

    /// As [`std::net::TcpStream::set_nodelay`].
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.0.socket().set_nodelay(nodelay)
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut net::TcpStream> {
        Pin::new(self.get_mut().0.socket_mut())
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.socket().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.will_shut();
        self.inner().poll_shutdown(cx)
    }
}

/// An async UDP socket from a leased ip:port, connected to its origin; when dropped it does what
/// [`aegis_net::UdpSocket`](crate::UdpSocket) does.
#[derive(Debug)]
pub struct UdpSocket(Leased<net::UdpSocket>);

about_lease!(UdpSocket, |this| this.0);

impl UdpSocket {
    /// A UDP socket that is bound to a leased ip:port of the zone's pool and connected to `origin`. Nothing waits.
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled.
    pub fn connect(dialer: &Dialer, zone: &Zone, origin: SocketAddr) -> Result<Self, ConnectError> {
        let leased = dialer.start(zone, Protocol::Udp, origin)?;
        let source_address = leased.source();
        let registered = leased.map(|socket| net::UdpSocket::from_std(socket.into()));
        registered.map(Self).map_err(|error| failed(source_address, origin, error))
    }

    /// Sends a datagram to the origin.
    ///
    /// # Errors
    /// The operating system's; `ConnectionRefused` answers an earlier datagram.
    pub async fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        self.0.socket.send(datagram).await
    }

    /// Receives a datagram from the origin; what does not fit into `buf` is lost.
    ///
    /// # Errors
    /// The operating system's; `ConnectionRefused` answers an earlier datagram.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.socket.recv(buf).await
    }
}
