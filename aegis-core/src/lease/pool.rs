//! What a worker chooses among: the shares of one pool that this machine may grant from.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::net::{PortRange, Protocol};

use super::granules::Method;
use super::quota::QuotaSlot;
use super::records::Record;

/// The identity of an egress pool inside one edge. A connection pool must key on it: a connection opened for one
/// tenant's pool must never be reused for another's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolKey(pub u32);

/// A granule that a lease table knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GranuleSlot(pub(super) u32);

/// One granule as a source of tuples.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) granule: GranuleSlot,
    pub(super) ip: IpAddr,
    /// Is a port used towards every origin by one lease?
    pub(super) is_wildcard: bool,
    pub(super) lo: u16,
    /// Ports of all sources before this one.
    pub(super) first: u32,
}

/// The sources of one address family, in order of address and port.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Sources {
    list: Box<[Source]>,
    ports: u32,
    /// Ports of every source, if it is the same power of two for all.
    shift: Option<u32>,
    /// Are the ports used towards every origin by one lease, if it is the same for all?
    is_wildcard: Option<bool>,
}

impl Sources {
    fn new(mut granules: Vec<(GranuleSlot, IpAddr, PortRange, Method)>) -> Self {
        granules.sort_unstable_by_key(|&(_, ip, range, _)| (ip, range));
        granules.dedup();
        let mut ports = 0;
        let list: Box<[Source]> = granules
            .iter()
            .map(|&(granule, ip, range, method)| {
                let first = ports;
                ports += range.len();
                Source { granule, ip, is_wildcard: method.is_wildcard(), lo: range.lo(), first }
            })
            .collect();
        let len = granules.first().map_or(0, |g| g.2.len());
        let equal = len.is_power_of_two() && granules.iter().all(|g| g.2.len() == len);
        let wildcard = list.first().is_some_and(|s| s.is_wildcard);
        let is_wildcard = list.iter().all(|s| s.is_wildcard == wildcard).then_some(wildcard);
        Self { list, ports, shift: equal.then(|| len.trailing_zeros()), is_wildcard }
    }

    /// Are the ports used towards every origin by one lease, if it is the same for all sources?
    #[inline]
    pub(super) fn is_wildcard(&self) -> Option<bool> {
        self.is_wildcard
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
pub struct Pool {
    inner: Arc<Inner>,
    quota: Option<QuotaSlot>,
}

#[derive(PartialEq, Eq, Debug)]
struct Inner {
    table: u32,
    key: PoolKey,
    /// By use, each for IPv4 and IPv6.
    sources: [[Sources; 2]; 3],
}

/// What a source is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// A connection whose port the table chooses.
    Chosen,
    /// A connection whose port the kernel chooses.
    KernelRange,
    /// An unconnected UDP socket.
    Unconnected,
}

impl Use {
    const fn of(method: Method) -> Self {
        match method {
            Method::Explicit | Method::Unique => Self::Chosen,
            Method::KernelRange => Self::KernelRange,
            Method::UnconnectedUdp => Self::Unconnected,
        }
    }
}

impl Pool {
    pub(super) fn new(
        table: u32,
        key: PoolKey,
        granules: Vec<(GranuleSlot, IpAddr, PortRange, Method)>,
    ) -> Self {
        let of = |wanted: Use, ipv6: bool| {
            let some = granules.iter().filter(|g| Use::of(g.3) == wanted && g.1.is_ipv6() == ipv6);
            Sources::new(some.copied().collect())
        };
        let sources = [Use::Chosen, Use::KernelRange, Use::Unconnected]
            .map(|wanted| [of(wanted, false), of(wanted, true)]);
        Self { inner: Arc::new(Inner { table, key, sources }), quota: None }
    }

    /// The same pool, whose leases count for a quota.
    #[must_use]
    pub fn under(&self, quota: QuotaSlot) -> Self {
        Self { inner: Arc::clone(&self.inner), quota: Some(quota) }
    }

    /// The same pool as `before`, if it has the same shares: whoever has looked up something for that one need not do
    /// so again.
    #[must_use]
    pub fn unless_same(self, before: &Self) -> Self {
        let is_same = self.quota == before.quota && self.inner == before.inner;
        if is_same { before.clone() } else { self }
    }

    /// The pool's identity.
    pub fn key(&self) -> PoolKey {
        self.inner.key
    }

    /// How many ports a single origin of that family can be reached from: the capacity towards it.
    pub fn capacity(&self, ipv6: bool) -> u32 {
        self.sources(Use::Chosen, ipv6).ports + self.sources(Use::KernelRange, ipv6).ports
    }

    /// How many unconnected UDP sockets of that family there can be.
    pub fn unconnected_capacity(&self, ipv6: bool) -> u32 {
        self.sources(Use::Unconnected, ipv6).ports
    }

    #[inline]
    pub(super) fn table(&self) -> u32 {
        self.inner.table
    }

    #[inline]
    pub(super) fn quota(&self) -> Option<QuotaSlot> {
        self.quota
    }

    #[inline]
    pub(super) fn sources(&self, wanted: Use, ipv6: bool) -> &Sources {
        &self.inner.sources[wanted as usize][usize::from(ipv6)]
    }

    /// Has the quota a limit, or its parent?
    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.quota.is_some_and(|quota| quota.is_limited)
    }

    /// Are both the same pool, used by the same?
    #[inline]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) && self.quota == other.quota
    }
}

impl Source {
    /// The record that a tuple of this source is in, if `record` is its origin's.
    #[inline]
    pub(super) fn record(&self, record: Record, protocol: Protocol) -> Record {
        if self.is_wildcard { Record::any_origin(protocol) } else { record }
    }
}
