//! Why there is no connection, and what to do about it.

use std::io;
use std::net::SocketAddr;

use aegis_core::edge::AcquireError;
use aegis_core::error::{Error, ErrorKind};
use aegis_core::lease::Explanation;

use crate::recipe::Refusal;

/// Why there is no connection. Nothing is left behind: the socket is closed and the lease has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The origin's address is no destination.
    #[error(transparent)]
    Origin(Error),
    /// The zone has no dedicated egress any more, or is another edge's.
    #[error(transparent)]
    Zone(AcquireError),
    /// No lease was granted.
    #[error("{error} ({explanation})")]
    NoLease {
        /// Why.
        error: AcquireError,
        /// What is in use towards the origin, and when the first held tuple comes free.
        explanation: Box<Explanation>,
    },
    /// This process was forked from the one that made the dialer. The child has a copy of the lease table and of the
    /// generators, so it would leave from the ports that its parent leaves from.
    #[error(
        "this dialer was made before fork; make an edge and a dialer of its own in the child, with ports of its own, \
         or share the table"
    )]
    Forked,
    /// Other programs on this host had every leased tuple that was tried. Those are parked now, and the next call
    /// tries others. Reserve the shares: `net.ipv4.ip_local_reserved_ports`.
    #[error("{tries} leases in a row met a conflict; the last: {last}")]
    Strangers {
        /// How many leases.
        tries: u32,
        /// The last conflict.
        last: Refusal,
    },
    /// The machine is not set up for it, or is short of something; the message says what.
    #[error(transparent)]
    Machine(Refusal),
    /// The origin, or the path to it, did not accept the connection in time.
    #[error("connect from {source_address} to {origin}: {error}")]
    Failed {
        /// The leased ip:port.
        source_address: SocketAddr,
        /// The origin's.
        origin: SocketAddr,
        /// What the operating system said; `TimedOut` if the caller's time was over.
        error: io::Error,
    },
}

impl ConnectError {
    /// What the caller can do. [`ConnectError::Forked`] is `Reload`: what the child has is out of date.
    /// [`ConnectError::Failed`] is `Wait`: another try may succeed, as with any connection.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Origin(error) => error.kind(),
            Self::Zone(error) | Self::NoLease { error, .. } => error.kind(),
            Self::Strangers { last: refusal, .. } | Self::Machine(refusal) => refusal.kind(),
            Self::Forked => ErrorKind::Reload,
            Self::Failed { .. } => ErrorKind::Wait,
        }
    }
}

impl From<ConnectError> for io::Error {
    /// Without a lease the kind is `AddrNotAvailable`, which is what the kernel says when it runs out of ports.
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::Origin(_) => io::ErrorKind::InvalidInput,
            ConnectError::Zone(_) | ConnectError::NoLease { .. } => io::ErrorKind::AddrNotAvailable,
            ConnectError::Strangers { last: refusal, .. } | ConnectError::Machine(refusal) => {
                refusal.io_kind()
            }
            ConnectError::Forked => io::ErrorKind::Unsupported,
            ConnectError::Failed { error, .. } => error.kind(),
        };
        Self::new(kind, error)
    }
}
