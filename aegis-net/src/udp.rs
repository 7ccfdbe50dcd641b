//! UDP sockets that give their lease back.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use aegis_core::lease::PoolKey;
use aegis_core::net::Origin;

use crate::leased::{Leased, about_lease};

/// A blocking UDP socket from a leased ip:port, connected to its origin.
///
/// Dropped, it closes its socket and then gives the lease back as `UdpIdle`. As with
/// [`TcpStream`](crate::TcpStream) there is no `try_clone`; threads share one in an `Arc`.
///
/// Only the lease table protects a UDP flow: the kernel lets any program with the same options and user take its
/// packets.
#[derive(Debug)]
pub struct UdpSocket(pub(crate) Leased<std::net::UdpSocket>);

about_lease!(UdpSocket, |this| this.0);

impl UdpSocket {
    /// Sends a datagram to the origin.
    ///
    /// # Errors
    /// The operating system's; `ConnectionRefused` answers an earlier datagram.
    pub fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        self.0.socket.send(datagram)
    }

    /// Receives a datagram from the origin; what does not fit into `buf` is lost.
    ///
    /// # Errors
    /// The operating system's; `ConnectionRefused` answers an earlier datagram.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.socket.recv(buf)
    }

    /// As [`std::net::UdpSocket::set_read_timeout`].
    ///
    /// # Errors
    /// A timeout of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.socket.set_read_timeout(timeout)
    }

    /// As [`std::net::UdpSocket::set_write_timeout`].
    ///
    /// # Errors
    /// A timeout of zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.socket.set_write_timeout(timeout)
    }
}
