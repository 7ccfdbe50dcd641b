use core::fmt;

use crate::id::{AccountId, PoolId, ZoneId};
use crate::lease::PoolKey;
use crate::snapshot::Published;

use super::state::State;

/// A zone of an edge: what its connections are leased from, as of the epoch in force. Cheap to clone, and valid as long
/// as the edge.
#[derive(Clone)]
pub struct Zone {
    id: ZoneId,
    number: u32,
    edge: Published<State>,
}

impl Zone {
    pub(super) const fn new(id: ZoneId, number: u32, edge: Published<State>) -> Self {
        Self { id, number, edge }
    }

    /// Its id.
    pub fn id(&self) -> &ZoneId {
        &self.id
    }

    /// The account that it belongs to; none if it has no dedicated egress any more.
    pub fn account(&self) -> Option<AccountId> {
        Some(self.edge.load().zone(self, &self.edge).ok()?.account.clone())
    }

    /// The pool that it leaves from; none if it has no dedicated egress any more.
    pub fn pool_id(&self) -> Option<PoolId> {
        Some(self.edge.load().zone(self, &self.edge).ok()?.pool_id.clone())
    }

    /// The identity of the pool in this edge: a part of the key of every connection pool. It stays the same from epoch to
    /// epoch; none if the zone has no dedicated egress any more.
    pub fn pool_key(&self) -> Option<PoolKey> {
        Some(self.edge.load().zone(self, &self.edge).ok()?.pool.key())
    }

    /// Ports that this machine can use towards one origin of that family.
    pub fn capacity(&self, ipv6: bool) -> u32 {
        self.edge.load().zone(self, &self.edge).map_or(0, |zone| zone.pool.capacity(ipv6))
    }

    #[inline]
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    #[inline]
    pub(super) fn is_of(&self, edge: &Published<State>) -> bool {
        self.edge.is(edge)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Zone").field(&self.id).finish()
    }
}
