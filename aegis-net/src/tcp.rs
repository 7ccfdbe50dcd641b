//! TCP streams that give their lease back.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use aegis_core::lease::{Closed, PoolKey};
use aegis_core::net::Origin;

use crate::leased::{LeasedTcp, about_lease};

/// A blocking TCP connection from a leased ip:port.
///
/// Dropped, it closes its socket and *then* gives the lease back, as the kernel says the connection ends:
///
/// | when it is dropped | the lease goes back as |
/// |---|---|
/// | the peer has closed first | [`Closed::Passive`] |
/// | bytes are there that nobody has read: the kernel sends a reset | [`Closed::Reset`] |
/// | reset, or timed out | [`Closed::Reset`] |
/// | we shut our side first, and the peer has closed too | [`Closed::Active`] |
/// | anything else: we close, the peer has not yet | [`Closed::HalfClosed`] |
///
/// What happens after the look and before the close can only make the answer too careful. The last row is held for
/// a minute: to have the tuple back at once let the peer close first, read to the end, or use
/// [`reset`](Self::reset).
///
/// After [`Closed::Passive`] the kernel itself needs the tuple for one more round trip (LAST_ACK). A dial that is
/// granted it within that time is refused, parks it, and goes on with another lease.
///
/// There is no `try_clone`: while one descriptor of a connection lives, closing another one frees nothing, and the
/// lease would go back too early. `&TcpStream` reads and writes too, so threads can share one in an `Arc`.
#[derive(Debug)]
pub struct TcpStream(pub(crate) LeasedTcp<std::net::TcpStream>);

about_lease!(TcpStream, |this| this.0.leased());

impl TcpStream {
    /// Shuts down reading, writing or both. The lease goes on.
    ///
    /// # Errors
    /// The connection is over.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.0.will_shut();
        }
        self.0.socket().shutdown(how)
    }

    /// Closes, and gives the lease back as `closed`: for callers who know how the connection ended.
    ///
    /// Say less rather than more: a tuple given back too early breaks a connection that the origin still has.
    pub fn close(self, closed: Closed) {
        self.0.close(closed);
    }

    /// Resets the connection: unsent bytes are lost, the origin sees an error, and the tuple is free at once.
    pub fn reset(self) {
        self.0.reset();
    }

    /// As [`std::net::TcpStream::set_read_timeout`].
    ///
    /// # Errors
    /// A timeout of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.socket().set_read_timeout(timeout)
    }

    /// As [`std::net::TcpStream::set_write_timeout`].
    ///
    /// # Errors
    /// A timeout of zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.socket().set_write_timeout(timeout)
    }

    /// As [`std::net::TcpStream::set_nodelay`].
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.0.socket().set_nodelay(nodelay)
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.socket().read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.0.socket().read_vectored(bufs)
    }
}

impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.socket().write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.socket().write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(bufs)
    }
}

impl Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
