//! The run-time grant of one source ip:port.

use core::fmt;
use core::net::SocketAddr;
use core::num::NonZeroU64;

use crate::net::Origin;

use super::ReleaseError;
use super::pool::PoolKey;
use super::tag::Tag;

/// The right to use one source ip:port, until it is released.
///
/// It cannot be copied, so in Rust a lease ends once. A lease that is dropped stays live: nobody knows how its
/// connection ended. `aegis-net` has sockets that release their lease after they close.
///
/// Two words: it travels in registers. [`Table::tuple`](super::Table::tuple) says which source ip:port and origin it is.
#[derive(PartialEq, Eq)]
#[must_use = "a lease that is not released stays in use"]
pub struct Lease {
    /// `in home << 57 | page or record << 31 | offset << 16 | tag`. A live tag is not zero.
    at: NonZeroU64,
    /// `table << 40 | pool << 16 | quota + 1`.
    of: u64,
}

/// Where a lease is in its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// In the home word of that record, unless it has moved to a page since.
    Home(u32),
    /// In that page.
    Page(u32),
}

const OFFSET_SHIFT: u32 = 16;
const INDEX_SHIFT: u32 = 31;
const INDEX: u32 = (1 << 26) - 1;
const IN_HOME: u64 = 1 << 57;

/// Tables, pools and quotas that a lease can name.
pub(super) const MAX_TABLE: u32 = (1 << 24) - 1;
pub(super) const MAX_POOL: u32 = (1 << 24) - 1;

impl Lease {
    #[inline]
    pub(super) fn new(at: At, offset: u32, tag: Tag, table: u32, pool: PoolKey, quota: u16) -> Self {
        let (flag, index) = match at {
            At::Home(record) => (IN_HOME, record),
            At::Page(page) => (0, page),
        };
        let at =
            flag | u64::from(index) << INDEX_SHIFT | u64::from(offset) << OFFSET_SHIFT | u64::from(tag.0);
        Self {
            at: NonZeroU64::new(at).expect("a live tag is not zero"),
            of: u64::from(table) << 40 | u64::from(pool.0) << 16 | u64::from(quota),
        }
    }

    #[inline]
    pub(super) fn at(&self) -> At {
        let index = (self.at.get() >> INDEX_SHIFT) as u32 & INDEX;
        if self.at.get() & IN_HOME == 0 { At::Page(index) } else { At::Home(index) }
    }

    #[inline]
    pub(super) fn offset(&self) -> u32 {
        (self.at.get() >> OFFSET_SHIFT) as u32 & 0x7fff
    }

    #[inline]
    pub(super) fn tag(&self) -> Tag {
        Tag(self.at.get() as u16)
    }

    #[inline]
    pub(super) fn table(&self) -> u32 {
        (self.of >> 40) as u32
    }

    /// The quota that it counts for, plus one; 0: none.
    #[inline]
    pub(super) fn quota(&self) -> u16 {
        self.of as u16
    }

    /// The egress pool: part of the key of every connection pool.
    pub fn pool(&self) -> PoolKey {
        PoolKey((self.of >> 16) as u32 & MAX_POOL)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("at", &self.at())
            .field("offset", &self.offset())
            .field("tag", &self.tag())
            .field("table", &self.table())
            .field("pool", &self.pool())
            .field("quota", &self.quota())
            .finish()
    }
}

/// What a lease grants, or what the kernel has: a source ip:port, and the origin that it is used towards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tuple {
    /// Bind the socket here.
    pub source: SocketAddr,
    /// Connect the socket there.
    pub origin: Origin,
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.source, self.origin)
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
