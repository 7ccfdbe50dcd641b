//! What a table says about itself: counts, never reports.

use core::fmt;
use core::net::IpAddr;

use crate::net::{Origin, PortRange};
use crate::time::Time;

use super::page::Counts;
use super::pool::PoolKey;

/// The use of one granule towards one origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Source address.
    pub egress_ip: IpAddr,
    /// Source ports of the granule.
    pub ports: PortRange,
    /// Towards which origin; `None`: ports that strangers hold towards every origin.
    pub origin: Option<Origin>,
    /// Leases.
    pub live: u32,
    /// Released tuples that must not be granted yet.
    pub held: u32,
    /// Ports or tuples that strangers on the host have.
    pub parked: u32,
    /// Released tuples that may be granted, but are not preferred.
    pub resting: u32,
    /// Most live + held at one time over all granules of this egress IP towards this origin, as sampled: at one in
    /// 64 acquires, when a pool turns out full, and at every read.
    pub peak: u32,
    /// Acquires refused for want of a free tuple, charged to one granule of the pool each.
    pub refused: u64,
}

/// Why a pool is exhausted towards an origin, or how near it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Which pool.
    pub pool: PoolKey,
    /// Towards which origin.
    pub origin: Origin,
    /// Ports of this machine's shares.
    pub capacity: u32,
    /// Leases.
    pub live: u32,
    /// Released tuples that must not be granted yet.
    pub held: u32,
    /// Released tuples that may be granted, but are not preferred.
    pub resting: u32,
    /// Tuples that strangers on the host have.
    pub parked: u32,
    /// When the first held tuple comes free.
    pub first_free: Option<Time>,
}

impl Explanation {
    pub(super) fn new(pool: PoolKey, origin: Origin, capacity: u32) -> Self {
        Self { pool, origin, capacity, live: 0, held: 0, resting: 0, parked: 0, first_free: None }
    }

    pub(super) fn add(&mut self, counts: &Counts) {
        self.live += counts.live;
        self.held += counts.held;
        self.resting += counts.resting;
        self.parked += counts.parked;
        self.first_free = match (self.first_free, counts.first_free) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, origin, capacity, live, held, resting, parked, first_free } = self;
        write!(
            f,
            "pool {} to {origin}: {live} live, {held} held, {resting} resting, {parked} parked of {capacity} ports",
            pool.0
        )?;
        match first_free {
            Some(time) => write!(f, "; the first held tuple comes free at {time}"),
            None => Ok(()),
        }
    }
}
