//! What an edge holds of one epoch. It is replaced whole; numbers of zones and keys of pools go on from one to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::bundle::Bundle;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::id::{AccountId, PoolId, ZoneId};
use crate::lease::{self, Memory, Method, Pool, PoolKey};
use crate::net::Origin;
use crate::snapshot::{Published, Snapshot};
use crate::soft_unicast;

use super::division::{Division, Part};
use super::{AcquireError, Rules, Zone};

/// What an edge holds of one epoch.
#[derive(Debug)]
pub(super) struct State {
    pub(super) epoch: Epoch,
    pub(super) owners: Arc<soft_unicast::Table>,
    /// By number; none if the zone has no grant in this epoch.
    zones: Vec<Option<ZoneState>>,
    /// Of every zone and pool that ever was.
    numbers: BTreeMap<ZoneId, u32>,
    keys: BTreeMap<PoolId, PoolKey>,
    /// The state before, until there is one after this: so that a worker that moves on is never the last who has it, and
    /// frees all of it in the middle of an acquire.
    before: ArcSwapOption<Self>,
}

/// A zone that may leave from here.
#[derive(Clone, Debug)]
pub(super) struct ZoneState {
    pub(super) account: AccountId,
    pub(super) pool_id: PoolId,
    pub(super) pool: Pool,
    /// It has a limit of its own, so that this is what its leases count for first.
    limited: bool,
    /// The machine has shares of the pool that are not active (yet, or any more): IPv4, IPv6.
    inactive: [bool; 2],
}

impl Snapshot for State {
    fn epoch(&self) -> u64 {
        self.epoch.get()
    }
}

impl State {
    /// The state after `before`. The lease table knows all parts of the division.
    pub(super) fn new<M: Memory>(
        before: Option<&Arc<Self>>,
        bundle: &Bundle,
        rules: &Rules,
        division: &Division,
        leases: &lease::Table<M>,
    ) -> Result<Self> {
        let mut keys = before.map_or_else(BTreeMap::new, |before| before.keys.clone());
        let mut numbers = before.map_or_else(BTreeMap::new, |before| before.numbers.clone());
        let slots = |parts: &[Part]| {
            let of = |method: Method| {
                let parts = parts.iter().filter(move |part| part.method == method);
                leases.add_granules(method, parts.map(|part| (part.ip, part.range)))
            };
            let mut slots = of(rules.method)?;
            if rules.method != Method::UnconnectedUdp {
                slots.extend(of(Method::UnconnectedUdp)?);
            }
            Ok::<_, crate::Error>(slots)
        };
        let mut pools = BTreeMap::new();
        for (id, divided) in division.pools() {
            let next = PoolKey(keys.len() as u32);
            let key = *keys.entry(id.clone()).or_insert(next);
            let mut shared = slots(&divided.shared)?;
            shared.extend(slots(&divided.unconnected)?);
            pools.insert(id, (key, shared, divided));
        }
        let quotas = rules.set_quotas(bundle, leases)?;
        let mut zones = vec![None; numbers.len()];
        for grant in bundle.grants() {
            let (key, shared, divided) =
                pools.get(&grant.pool).expect("a bundle has every pool that it grants");
            let mut granules = shared.clone();
            if let Some(own) = divided.reserved.get(&grant.zone) {
                granules.extend(slots(own)?);
            }
            let mut pool = leases.pool(*key, granules)?;
            if let Some(quota) = quotas.zone(&grant.zone).or_else(|| quotas.account(&grant.account)) {
                pool = pool.under(quota);
            }
            let old = before.and_then(|before| before.zones[before.number(&grant.zone)? as usize].as_ref());
            let zone = ZoneState {
                account: grant.account.clone(),
                pool_id: grant.pool.clone(),
                pool: old.map_or_else(|| pool.clone(), |old| pool.clone().unless_same(&old.pool)),
                limited: rules.zones.contains_key(&grant.zone),
                inactive: divided.inactive,
            };
            let next = numbers.len() as u32;
            let number = *numbers.entry(grant.zone.clone()).or_insert(next) as usize;
            zones.resize(zones.len().max(number + 1), None);
            zones[number] = Some(zone);
        }
        Ok(Self {
            epoch: bundle.epoch(),
            owners: Arc::new(soft_unicast::Table::new(bundle.layout())),
            zones,
            numbers,
            keys,
            before: ArcSwapOption::new(before.cloned()),
        })
    }

    /// There is a state after this one.
    pub(super) fn forget_before(&self) {
        self.before.store(None);
    }

    /// The number of a zone that has a grant.
    pub(super) fn number(&self, id: &ZoneId) -> Option<u32> {
        let number = *self.numbers.get(id)?;
        self.zones[number as usize].as_ref().map(|_| number)
    }

    /// What a zone of this edge, whose states are published in `mine`, leaves from.
    #[inline]
    pub(super) fn zone(&self, zone: &Zone, mine: &Published<Self>) -> Result<&ZoneState, AcquireError> {
        if !zone.is_of(mine) {
            return Err(AcquireError::ForeignZone);
        }
        let state = self.zones.get(zone.number() as usize);
        state.and_then(Option::as_ref).ok_or(AcquireError::NotDedicated)
    }
}

impl ZoneState {
    /// What a refusal of the lease table means for the zone.
    pub(super) fn refusal(&self, error: lease::AcquireError, origin: &Origin) -> AcquireError {
        self.refusal_in(error, origin.ip().is_ipv6())
    }

    pub(super) fn refusal_in(&self, error: lease::AcquireError, ipv6: bool) -> AcquireError {
        match error {
            lease::AcquireError::NoShare if self.inactive[usize::from(ipv6)] => AcquireError::NotActive,
            lease::AcquireError::QuotaReached if self.limited => AcquireError::ZoneLimit,
            lease::AcquireError::QuotaReached | lease::AcquireError::ParentQuotaReached => {
                AcquireError::AccountLimit
            }
            error => error.into(),
        }
    }
}
