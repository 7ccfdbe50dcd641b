//! What a worker chooses among: the shares of one pool that this machine may grant from.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::net::PortRange;

/// The identity of an egress pool inside one edge. A connection pool must key on it: a connection opened for one
/// tenant's pool must never be reused for another's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolKey(pub u32);

/// A granule that a lease table knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GranuleSlot(pub(super) u32);

/// One granule as a source of tuples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) granule: GranuleSlot,
    pub(super) ip: IpAddr,
    pub(super) lo: u16,
    /// Ports of all sources before this one.
    pub(super) first: u32,
}

/// The sources of one address family, in order of address and port.
#[derive(Debug, Default)]
pub(super) struct Sources {
    list: Box<[Source]>,
    ports: u32,
    /// Ports of every source, if it is the same power of two for all.
    shift: Option<u32>,
}

impl Sources {
    fn new(mut granules: Vec<(GranuleSlot, IpAddr, PortRange)>) -> Self {
        granules.sort_unstable_by_key(|&(_, ip, range)| (ip, range));
        granules.dedup();
        let mut ports = 0;
        let list = granules
            .iter()
            .map(|&(granule, ip, range)| {
                let first = ports;
                ports += range.len();
                Source { granule, ip, lo: range.lo(), first }
            })
            .collect();
        let len = granules.first().map_or(0, |g| g.2.len());
        let equal = len.is_power_of_two() && granules.iter().all(|g| g.2.len() == len);
        Self { list, ports, shift: equal.then(|| len.trailing_zeros()) }
    }

    pub(super) fn list(&self) -> &[Source] {
        &self.list
    }

    /// All ports of all sources.
    pub(super) fn ports(&self) -> u32 {
        self.ports
    }

    /// The ports of one source.
    pub(super) fn ports_of(&self, index: usize) -> u32 {
        self.list.get(index + 1).map_or(self.ports, |next| next.first) - self.list[index].first
    }

    /// The source of the `n`th port, and the port's offset there; `n` is below `ports`.
    #[inline]
    pub(super) fn locate(&self, n: u32) -> (usize, u32) {
        if let Some(shift) = self.shift {
            let index = (n >> shift) as usize;
            return (index, n & ((1 << shift) - 1));
        }
        let index = self.list.partition_point(|s| s.first <= n) - 1;
        (index, n - self.list[index].first)
    }

    /// The source that holds an address and port, and the port's offset there.
    pub(super) fn find(&self, source: SocketAddr) -> Option<(usize, u32)> {
        let ip = crate::net::canonical_ip(source.ip());
        let index = self.list.partition_point(|s| (s.ip, s.lo) <= (ip, source.port())).checked_sub(1)?;
        let offset = u32::from(source.port() - self.list[index].lo.min(source.port()));
        (self.list[index].ip == ip && offset < self.ports_of(index)).then_some((index, offset))
    }

    /// The sources with the same address as source `index`.
    pub(super) fn row(&self, index: usize) -> core::ops::Range<usize> {
        let ip = self.list[index].ip;
        let start = self.list[..index].iter().rposition(|s| s.ip != ip).map_or(0, |i| i + 1);
        let end = self.list[index..].iter().position(|s| s.ip != ip).map_or(self.list.len(), |i| index + i);
        start..end
    }
}

/// The shares of one pool that this machine may grant from; made by `Table::pool`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: u32,
    key: PoolKey,
    v4: Sources,
    v6: Sources,
}

impl Pool {
    pub(super) fn new(table: u32, key: PoolKey, granules: Vec<(GranuleSlot, IpAddr, PortRange)>) -> Self {
        let (v4, v6) = granules.into_iter().partition(|g| g.1.is_ipv4());
        Self(Arc::new(Inner { table, key, v4: Sources::new(v4), v6: Sources::new(v6) }))
    }

    /// The pool's identity.
    pub fn key(&self) -> PoolKey {
        self.0.key
    }

    /// How many ports a single origin of that family can be reached from: the capacity towards it.
    pub fn capacity(&self, ipv6: bool) -> u32 {
        self.sources(ipv6).ports
    }

    #[inline]
    pub(super) fn table(&self) -> u32 {
        self.0.table
    }

    #[inline]
    pub(super) fn sources(&self, ipv6: bool) -> &Sources {
        if ipv6 { &self.0.v6 } else { &self.0.v4 }
    }
}
