//! What an edge holds of one epoch. It is replaced whole; numbers of zones and keys of pools go on from one to the next.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ipnet::IpNet;

use crate::bundle::{Bundle, PoolAddresses};
use crate::epoch::Epoch;
use crate::error::Result;
use crate::id::{AccountId, PoolId, ZoneId};
use crate::lease::{self, Memory, Method, Pool, PoolKey, QuotaSlot};
use crate::net::Origin;
use crate::snapshot::{Published, Snapshot};
use crate::soft_unicast;
use crate::usage::{Refused, Whose, ZoneUsage};

use super::division::{Division, Part};
use super::{AcquireError, Rules, Zone};

/// What an edge holds of one epoch.
#[derive(Debug)]
pub(super) struct State {
    pub(super) epoch: Epoch,
    pub(super) owners: Arc<soft_unicast::Table>,
    /// By number; none if the zone has no grant in this epoch.
    zones: Vec<Option<ZoneState>>,
    /// Where every zone is counted, also one that has no grant any more or another account.
    counted: BTreeMap<(ZoneId, AccountId), Counted>,
    /// Of every zone and pool that ever was.
    numbers: BTreeMap<ZoneId, u32>,
    keys: BTreeMap<PoolId, PoolKey>,
    /// Whose an egress IP is.
    whose: Vec<(IpNet, Whose)>,
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
    /// Where what it does is counted.
    pub(super) user: Option<QuotaSlot>,
    /// The machine has shares of the pool that are not active (yet, or any more): IPv4, IPv6.
    inactive: [bool; 2],
}

/// Where the lease table counts what a zone does.
#[derive(Clone, Debug)]
struct Counted {
    /// None: the lease table has no room for it.
    user: Option<QuotaSlot>,
    /// The zone's.
    number: u32,
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
        let mut counted = before.map_or_else(BTreeMap::new, |before| before.counted.clone());
        for grant in bundle.grants() {
            let (key, shared, divided) =
                pools.get(&grant.pool).expect("a bundle has every pool that it grants");
            let mut granules = shared.clone();
            if let Some(own) = divided.reserved.get(&grant.zone) {
                granules.extend(slots(own)?);
            }
            let mut pool = leases.pool(*key, granules)?;
            // Without a limit of its own the zone is counted all the same, if there is room for it.
            let account = quotas.account(&grant.account);
            // Another account's zone is another user: what the zone has still counts for the account that it was of.
            let name = || format!("{}/{}", grant.account, grant.zone);
            let user = quotas.zone(&grant.zone).or_else(|| leases.user(&name(), account));
            if let Some(quota) = user.or(account) {
                pool = pool.under(quota);
            }
            let old = before.and_then(|before| before.zones[before.number(&grant.zone)? as usize].as_ref());
            let zone = ZoneState {
                account: grant.account.clone(),
                pool_id: grant.pool.clone(),
                pool: old.map_or_else(|| pool.clone(), |old| pool.clone().unless_same(&old.pool)),
                user,
                limited: rules.zones.contains_key(&grant.zone),
                inactive: divided.inactive,
            };
            let next = numbers.len() as u32;
            let number = *numbers.entry(grant.zone.clone()).or_insert(next) as usize;
            zones.resize(zones.len().max(number + 1), None);
            zones[number] = Some(zone);
            let place = (grant.zone.clone(), grant.account.clone());
            if quotas.zone(&grant.zone).is_some() && !counted.contains_key(&place) {
                // A zone with a limit is counted in one place, whoever it belongs to.
                counted.retain(|(zone, _), _| *zone != grant.zone);
            }
            counted.insert(place, Counted { user, number: number as u32 });
        }
        Ok(Self {
            epoch: bundle.epoch(),
            owners: Arc::new(soft_unicast::Table::new(bundle.layout())),
            zones,
            numbers,
            keys,
            counted,
            whose: whose(bundle),
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

    /// What every zone did that the lease table counts.
    pub(super) fn zone_usage<M: Memory>(&self, leases: &lease::Table<M>) -> Vec<ZoneUsage> {
        let of = |((zone, account), Counted { user, number }): (&(ZoneId, AccountId), &Counted)| {
            let user = (*user)?;
            let counts = leases.user_counts(user);
            let granted = self.zones[*number as usize].as_ref().filter(|granted| granted.account == *account);
            let ports = |pool: &Pool| pool.capacity(false).saturating_add(pool.capacity(true));
            let capacity = granted.map_or(0, |granted| ports(&granted.pool));
            Some(ZoneUsage {
                zone: zone.clone(),
                account: account.clone(),
                live: counts.live,
                capacity,
                granted: counts.granted,
                refused: Refused::from_reasons(counts.refused),
                user: Some(user),
            })
        };
        self.counted.iter().filter_map(of).collect()
    }

    /// Whose an egress IP is.
    pub(super) fn whose(&self, ip: IpAddr) -> Whose {
        let found = self.whose.iter().find(|(prefix, _)| prefix.contains(&ip));
        found.map_or_else(Whose::default, |(_, whose)| whose.clone())
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

/// Whose every prefix is, as far as a bundle says it: by the zones that may use it.
fn whose(bundle: &Bundle) -> Vec<(IpNet, Whose)> {
    let of = |pool: &PoolAddresses| {
        let mut grants = bundle.grants().iter().filter(|grant| grant.pool == pool.id);
        let Some(first) = grants.next() else { return Whose::default() };
        let (mut account, mut zone) = (Some(first.account.clone()), Some(first.zone.clone()));
        for grant in grants {
            zone = None;
            account = account.filter(|account| *account == grant.account);
        }
        Whose { account, zone }
    };
    let pools = bundle.pools().iter().map(|pool| (pool, of(pool)));
    let prefixes = |(pool, whose): (&PoolAddresses, Whose)| -> Vec<_> {
        pool.prefixes.iter().map(|prefix| (*prefix, whose.clone())).collect()
    };
    pools.flat_map(prefixes).collect()
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
