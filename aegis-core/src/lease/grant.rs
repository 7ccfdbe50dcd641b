//! The run-time grant of one source ip:port.

use core::net::{IpAddr, SocketAddr};

use crate::net::Origin;

use super::ReleaseError;
use super::pool::PoolKey;
use super::tag::Tag;

/// The right to use one source ip:port towards one origin, until it is released.
///
/// It cannot be copied, so in Rust a lease ends once. A lease that is dropped stays live: nobody knows how its
/// connection ended. `aegis-net` has sockets that release their lease after they close.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lease that is not released stays in use"]
pub struct Lease {
    pub(super) origin: Origin,
    pub(super) source_ip: IpAddr,
    pub(super) source_port: u16,
    pub(super) offset: u16,
    pub(super) tag: Tag,
    pub(super) page: u32,
    pub(super) pool: PoolKey,
    pub(super) table: u32,
}

impl Lease {
    /// Bind the socket here.
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.source_ip, self.source_port)
    }

    /// Connect the socket there.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The egress pool: part of the key of every connection pool.
    pub fn pool(&self) -> PoolKey {
        self.pool
    }
}

/// A lease that was not accepted back, and why. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Rejected {
    /// Why.
    pub error: ReleaseError,
    /// The lease as it was given.
    pub lease: Lease,
}

/// What the kernel said about a leased tuple.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Conflict {
    /// `EADDRINUSE` at `bind`: a stranger blocks the port towards every origin. The port is parked.
    PortInUse,
    /// `EADDRNOTAVAIL` at `connect`: a stranger has this tuple. The tuple is parked.
    TupleInUse,
    /// `EADDRNOTAVAIL` at `bind`: the address is not on this host. That is the machine's fault, so nothing is
    /// parked.
    NoSuchAddress,
}
