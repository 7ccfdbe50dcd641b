//! How a socket is opened so that it really leaves from its leased ip:port.
//!
//! Each step is there because Linux silently does something else without it. [`Dialer`](crate::Dialer) follows the
//! recipe for you; [`begin`] is for those who bring their own event loop.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use aegis_core::error::ErrorKind;
use aegis_core::lease::{Conflict, RangeLease, Tuple};
use aegis_core::net::Protocol;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, connect, getsockname, sockopt};

/// Why a leased ip:port could not be used. The socket is closed already.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The kernel disagrees with the lease table: tell the table (`conflict`).
    #[error("{}", describe(*.conflict, *.source_address))]
    Conflict {
        /// What the kernel said, in the words of the lease table.
        conflict: Conflict,
        /// The leased ip:port.
        source_address: SocketAddr,
    },
    /// No socket, or it could not be prepared: the machine is short of something, or forbids it.
    #[error("no socket for {source_address}: {error}")]
    Socket {
        /// The leased ip:port.
        source_address: SocketAddr,
        /// What the operating system said.
        error: io::Error,
    },
    /// The connection could not be opened: the origin or the path to it refused.
    #[error(transparent)]
    Connect(io::Error),
}

impl Refusal {
    /// What the caller can do: with a conflict over a port or tuple, take another lease (`Wait`).
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Conflict { conflict: Conflict::PortInUse | Conflict::TupleInUse, .. }
            | Self::Connect(_) => ErrorKind::Wait,
            Self::Conflict { conflict: Conflict::NoSuchAddress, .. } | Self::Socket { .. } => {
                ErrorKind::Machine
            }
        }
    }

    pub(crate) fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::Conflict { .. } => io::ErrorKind::AddrNotAvailable,
            Self::Socket { error, .. } | Self::Connect(error) => error.kind(),
        }
    }
}

/// Opens a socket at a leased source and starts to connect it to the lease's origin.
///
/// The socket is non-blocking. A UDP socket is connected when this returns. A TCP socket is connected or still
/// connecting: wait until it is writable, then read its error (`SO_ERROR`). Close it before the lease is released:
/// a tuple that is granted while a socket still has it is refused by the kernel, or worse.
///
/// # Errors
/// [`Refusal`]. No conflict is ever found later than here. (For IPv6 the kernel does not say that an address is not
/// on the host; connections from it time out.)
pub fn begin(tuple: &Tuple) -> Result<OwnedFd, Refusal> {
    let source_address = tuple.source;
    let conflict = |conflict| Refusal::Conflict { conflict, source_address };
    let failed = |error: Errno| Refusal::Socket { source_address, error: error.into() };

    let socket = prepare(tuple).map_err(failed)?;
    bind(&socket, &source_address).map_err(|error| match error {
        Errno::ADDRINUSE => conflict(Conflict::PortInUse),
        Errno::ADDRNOTAVAIL => conflict(Conflict::NoSuchAddress),
        error => failed(error),
    })?;
    match connect(&socket, &tuple.origin.address()) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(Errno::ADDRNOTAVAIL) => return Err(conflict(Conflict::TupleInUse)),
        Err(error) => return Err(Refusal::Connect(error.into())),
    }
    // A connection from any other port would have its answers delivered to another machine. Something may have been
    // sent by now, so it is a connect that failed.
    let bound =
        getsockname(&socket).and_then(SocketAddr::try_from).map_err(|e| Refusal::Connect(e.into()))?;
    if bound != source_address {
        let error = format!("the kernel chose {bound} instead of the leased {source_address}");
        return Err(Refusal::Connect(io::Error::other(error)));
    }
    if tuple.origin.protocol() == Protocol::Udp {
        discard_queued(&socket).map_err(|error| Refusal::Connect(error.into()))?;
    }
    Ok(socket)
}

/// Opens a socket at a leased range of ports, of which the kernel chooses one, and starts to connect it to the lease's
/// origin. Returns the socket and the port.
///
/// Complete the lease with that port ([`Worker::complete`](aegis_core::lease::Worker::complete)). If that is refused, as
/// when the kernel chose a port outside the range, close the socket at once: answers to it go to another machine. The
/// kernel does so silently where the range is not inside `net.ipv4.ip_local_port_range`.
///
/// The socket is as that of [`begin`]. (What strangers may have sent a UDP socket before `connect` is discarded.)
///
/// # Errors
/// [`Refusal`], with port 0 in the source address. [`Conflict::TupleInUse`]: as the kernel sees it no port of the range
/// is free towards the origin; there is no lease to tell the table of. [`Refusal::Socket`] with `ENOPROTOOPT`: the
/// kernel has no `IP_LOCAL_PORT_RANGE` (before 6.3).
pub fn begin_range(range: &RangeLease) -> Result<(OwnedFd, u16), Refusal> {
    // Port 0: the kernel chooses, and with NO_PORT only at connect, when it knows the whole tuple.
    let source_address = SocketAddr::new(range.source_ip(), 0);
    let conflict = |conflict| Refusal::Conflict { conflict, source_address };
    let failed = |error: io::Error| Refusal::Socket { source_address, error };
    let origin = range.origin();

    let socket = unbound(source_address.ip(), origin.protocol()).map_err(|error| failed(error.into()))?;
    crate::sockopt::set_bind_address_no_port(&socket).map_err(failed)?;
    crate::sockopt::set_local_port_range(&socket, range.range()).map_err(failed)?;
    bind(&socket, &source_address).map_err(|error| match error {
        Errno::ADDRNOTAVAIL => conflict(Conflict::NoSuchAddress),
        error => failed(error.into()),
    })?;
    match connect(&socket, &origin.address()) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(Errno::ADDRNOTAVAIL) => return Err(conflict(Conflict::TupleInUse)),
        Err(error) => return Err(Refusal::Connect(error.into())),
    }
    let bound =
        getsockname(&socket).and_then(SocketAddr::try_from).map_err(|e| Refusal::Connect(e.into()))?;
    if origin.protocol() == Protocol::Udp {
        discard_queued(&socket).map_err(|error| Refusal::Connect(error.into()))?;
    }
    Ok((socket, bound.port()))
}

/// A socket with every option that must be set before `bind` to a port of our choice.
fn prepare(tuple: &Tuple) -> rustix::io::Result<OwnedFd> {
    let socket = unbound(tuple.source.ip(), tuple.origin.protocol())?;
    // Sockets share a source port if all have REUSEADDR; REUSEPORT keeps `bind` fast when thousands do.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    Ok(socket)
}

/// A socket for a source address.
fn unbound(source_ip: IpAddr, protocol: Protocol) -> rustix::io::Result<OwnedFd> {
    let family = match source_ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    // An inherited descriptor would keep the tuple in use after we close ours.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if family == AddressFamily::INET6 {
        // A local route makes the host accept packets for an address; IPv6 wants FREEBIND as well before it lets
        // us bind to one, and then asks for no route at all. IPv4 is content with the route, so there it stays
        // off: `bind` tells us when the route is missing.
        sockopt::set_ipv6_freebind(&socket, true)?;
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// Between `bind` and `connect` a UDP socket takes packets from anyone. They are not the origin's: away with them.
fn discard_queued(socket: &OwnedFd) -> rustix::io::Result<()> {
    loop {
        match rustix::net::recv(socket, &mut [0; 1], RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn describe(conflict: Conflict, source: SocketAddr) -> String {
    match conflict {
        Conflict::PortInUse => format!("another program on this host has {source}"),
        Conflict::TupleInUse => {
            format!("another program on this host has a connection from {source} to the origin")
        }
        Conflict::NoSuchAddress => {
            let (ip, bits) = (source.ip(), if source.is_ipv4() { 32 } else { 128 });
            format!(
                "the egress address {ip} is not on this host; \
                 add it, or its prefix: ip route add local {ip}/{bits} dev lo"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_strangers_sent_before_connect_is_not_taken_for_the_origins() {
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let origin = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        for _ in 0..3 {
            stranger.send_to(b"forged", address).unwrap();
        }
        socket.connect(origin.local_addr().unwrap()).unwrap();
        let socket = OwnedFd::from(socket);
        discard_queued(&socket).unwrap();
        origin.send_to(b"real", address).unwrap();
        let mut buf = [0; 8];
        let len = UdpSocket::from(socket).recv(&mut buf).unwrap();
        assert_eq!(&buf[..len], b"real");
    }
}
