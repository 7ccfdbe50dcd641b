//! Every sequence of up to eight changes, on three accounts with a zone each, against a naive model.
//!
//! Accounts a, b and c have a zone each. One leased address and one BYOIP block belong to a at first; pools are made of
//! the leased address, of the whole block and of its lower half, and the whole block or either half of it is delegated.
//!
//! There are more than 10^20 sequences. But whether a change is accepted, and what it leads to, depends on the state only
//! and not on the way there: the registry has no memory besides its inventory and tenancy. So all states that can be
//! reached are visited, shortest way first, and in each of them every change is tried: that is every sequence, in some
//! 22,000 states and five million changes. The test keeps the registry's state beside the model's and compares both, so a
//! hidden memory would show as two registries of one model state.

use std::collections::BTreeMap;

use aegis_core::id::{AccountId, HoldingId, PoolId, ZoneId};
use aegis_core::inventory::{AddressState, Direction, Holding, Inventory, Pool, Right};
use aegis_core::tenancy::{
    Account, Actor, AuditEvent, Change, Delegation, EnabledBy, Registry, Revoke, Subject, Tenancy, Zone,
};
use aegis_core::time::Time;
use ipnet::IpNet;

const LONGEST: usize = 8;

const ACCOUNTS: [&str; 3] = ["a", "b", "c"];
const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-c"];
const HOLDINGS: [&str; 2] = ["lease", "block"];
const PARTS: [(&str, Half); 3] =
    [("198.51.100.0/24", BOTH), ("198.51.100.0/25", LOWER), ("198.51.100.128/25", UPPER)];
const POOLS: [(&str, Of); 3] =
    [("rented", Of::Lease), ("whole", Of::Block(BOTH)), ("half", Of::Block(LOWER))];

// ---- the model -----------------------------------------------------------------------------------------------------

/// Which halves of the block: one bit each.
type Half = u8;
const LOWER: Half = 1;
const UPPER: Half = 2;
const BOTH: Half = LOWER | UPPER;

/// An index into one of the lists above. The zone of account n is zone n.
type Nth = usize;
/// `None`: the operator.
type Who = Option<Nth>;

#[derive(Clone, Copy, PartialEq)]
enum Of {
    Lease,
    Block(Half),
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Enable { zone: Nth, pool: Nth },
    Disable { zone: Nth },
    Delegate { part: Nth, from: Nth, to: Nth },
    Revoke { part: Nth, from: Nth, to: Nth, force: bool },
    Transfer { holding: Nth, to: Nth },
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Model {
    /// Of the lease and of the block.
    owner: [Nth; 2],
    /// By part and account.
    delegated: [[bool; 3]; 3],
    /// The pool of each zone.
    pool: [Option<Nth>; 3],
}

impl Model {
    fn covered(&self, account: Nth) -> Half {
        (0..3).filter(|part| self.delegated[*part][account]).fold(0, |all, part| all | PARTS[part].1)
    }

    fn parent(&self, pool: Nth) -> Nth {
        self.owner[usize::from(POOLS[pool].1 != Of::Lease)]
    }

    /// May the zone leave from the pool, if nobody but the operator objects?
    fn legal(&self, zone: Nth, pool: Nth) -> bool {
        match POOLS[pool].1 {
            Of::Lease => true,
            Of::Block(halves) => zone == self.owner[1] || self.covered(zone) & halves == halves,
        }
    }

    fn may(&self, who: Who, zone: Nth, pool: Nth, parent_may: bool) -> bool {
        let Some(account) = who else { return true };
        match POOLS[pool].1 {
            // Leased: on zones of the parent the parent may, on zones of others only the operator.
            Of::Lease => zone == self.owner[0] && account == zone,
            // BYOIP: who has the zone; and the parent may always take its addresses back.
            Of::Block(_) => account == zone || parent_may && account == self.owner[1],
        }
    }

    /// The state after, or `None` if it must be refused.
    fn apply(&self, who: Who, op: Op) -> Option<Self> {
        let mut next = self.clone();
        let is = |account: Nth| who.is_none() || who == Some(account);
        match op {
            Op::Enable { zone, pool } => {
                let leaves = self.pool[zone].filter(|now| *now != pool);
                let allowed = self.legal(zone, pool)
                    && self.may(who, zone, pool, false)
                    && leaves.is_none_or(|now| self.may(who, zone, now, true));
                next.pool[zone] = allowed.then_some(Some(pool))?;
            }
            Op::Disable { zone } => {
                let allowed = self.pool[zone].map_or(is(zone), |pool| self.may(who, zone, pool, true));
                next.pool[zone] = allowed.then_some(None)?;
            }
            Op::Delegate { part, from, to } => {
                let allowed = is(from) && from == self.owner[1] && to != from && !self.delegated[part][to];
                next.delegated[part][to] = allowed.then_some(true)?;
            }
            Op::Revoke { part, from, to, force } => {
                if !(is(from) && from == self.owner[1] && self.delegated[part][to]) {
                    return None;
                }
                next.delegated[part][to] = false;
                if next.pool[to].is_some_and(|pool| !next.legal(to, pool)) {
                    next.pool[to] = force.then_some(None)?;
                }
            }
            Op::Transfer { holding, to } => {
                let made_of_it = |pool: &Nth| usize::from(POOLS[*pool].1 != Of::Lease) == holding;
                let used = self.pool.iter().flatten().any(made_of_it);
                let delegated = holding == 1 && self.delegated.iter().flatten().any(|delegated| *delegated);
                let same = to == self.owner[holding];
                next.owner[holding] = (who.is_none() && (same || !used && !delegated)).then_some(to)?;
            }
        }
        Some(next)
    }
}

// ---- the real one --------------------------------------------------------------------------------------------------

fn name<T: std::str::FromStr<Err = aegis_core::Error>>(text: &str) -> T {
    text.parse().unwrap()
}

/// The names, made once.
struct Names {
    actors: Vec<Actor>,
    accounts: Vec<AccountId>,
    zones: Vec<ZoneId>,
    pools: Vec<PoolId>,
    holdings: Vec<HoldingId>,
    parts: Vec<IpNet>,
}

impl Names {
    fn new() -> Self {
        let accounts: Vec<AccountId> = ACCOUNTS.map(name).into();
        Self {
            actors: [Actor::Operator]
                .into_iter()
                .chain(accounts.iter().cloned().map(Actor::Account))
                .collect(),
            zones: ZONES.map(name).into(),
            pools: POOLS.map(|(pool, _)| name(pool)).into(),
            holdings: HOLDINGS.map(name).into(),
            parts: PARTS.map(|(part, _)| part.parse().unwrap()).into(),
            accounts,
        }
    }

    fn delegation(&self, part: Nth, from: Nth, to: Nth) -> Delegation {
        Delegation {
            prefix: self.parts[part],
            from: self.accounts[from].clone(),
            to: self.accounts[to].clone(),
        }
    }

    /// What the registry holds, in the model's terms.
    fn seen(&self, registry: &Registry) -> Model {
        let nth = |account: &AccountId| self.accounts.iter().position(|known| known == account).unwrap();
        let mut model = Model {
            owner: [0, 1].map(|n| nth(&registry.inventory().holding(&self.holdings[n]).unwrap().account)),
            delegated: Default::default(),
            pool: Default::default(),
        };
        for delegation in registry.tenancy().delegations() {
            assert_eq!(nth(&delegation.from), model.owner[1], "delegated by somebody else than the owner");
            let part = self.parts.iter().position(|part| *part == delegation.prefix).unwrap();
            model.delegated[part][nth(&delegation.to)] = true;
        }
        for grant in registry.tenancy().grants() {
            let zone = self.zones.iter().position(|known| known == grant.zone()).unwrap();
            assert_eq!(nth(grant.account()), zone);
            model.pool[zone] = self.pools.iter().position(|known| known == grant.pool());
        }
        for (n, pool) in self.pools.iter().enumerate() {
            let parent = &registry.inventory().pool(pool).unwrap().account;
            assert_eq!(nth(parent), model.parent(n), "a pool of somebody else than the owner of its holding");
        }
        model
    }

    /// The state after these events, as they tell it; each begins where the one before has ended.
    fn told(&self, mut model: Model, events: &[AuditEvent]) -> Model {
        fn nth<T: PartialEq>(all: &[T], one: &T) -> Nth {
            all.iter().position(|known| known == one).unwrap()
        }
        for event in events {
            match &event.subject {
                Subject::Zone(Change { before: Some(before), after: Some(after) }) => {
                    let pool = |zone: &Zone| zone.pool.as_ref().map(|pool| nth(&self.pools, pool));
                    let told = &mut model.pool[nth(&self.zones, &after.id)];
                    assert_eq!(pool(before), *told);
                    *told = pool(after);
                }
                Subject::Delegation(Change { before, after }) => {
                    let one = before.as_ref().or(after.as_ref()).unwrap();
                    let told =
                        &mut model.delegated[nth(&self.parts, &one.prefix)][nth(&self.accounts, &one.to)];
                    assert_eq!(before.is_some(), *told);
                    *told = after.is_some();
                }
                Subject::Holding(Change { before: Some(before), after: Some(after) }) => {
                    let told = &mut model.owner[nth(&self.holdings, &after.id)];
                    assert_eq!(nth(&self.accounts, &before.account), *told);
                    *told = nth(&self.accounts, &after.account);
                }
                // Goes with its holding.
                Subject::Pool(Change { before: Some(_), after: Some(_) }) => {}
                other => panic!("no change here makes {other}"),
            }
        }
        model
    }

    fn apply(&self, registry: &mut Registry, who: Who, op: Op) -> aegis_core::Result<Vec<AuditEvent>> {
        let who = &self.actors[who.map_or(0, |nth| nth + 1)];
        let at = Time::from_millis(1);
        match op {
            Op::Enable { zone, pool } => registry.enable(who, &self.zones[zone], &self.pools[pool], at),
            Op::Disable { zone } => registry.disable(who, &self.zones[zone], at),
            Op::Delegate { part, from, to } => registry.delegate(who, self.delegation(part, from, to), at),
            Op::Revoke { part, from, to, force } => {
                let how = if force { Revoke::Force } else { Revoke::IfUnused };
                registry.revoke(who, &self.delegation(part, from, to), how, at)
            }
            Op::Transfer { holding, to } => {
                registry.transfer(who, &self.holdings[holding], &self.accounts[to], at)
            }
        }
    }
}

/// Nothing is allowlisted yet, because what is does not change its owner. States do not touch grants.
fn start() -> Registry {
    let holding = |id: &str, right, prefix: &str| Holding {
        id: name(id),
        account: name("a"),
        right,
        prefix: prefix.parse().unwrap(),
        data_centers: vec![name("fra")].into(),
        serves: Direction::Egress,
        state: AddressState::Announced,
    };
    let pool = |id: &str, right, prefix: &str| Pool {
        id: name(id),
        account: name("a"),
        right,
        prefixes: vec![prefix.parse().unwrap()],
    };
    let inventory = Inventory::new(
        [holding("lease", Right::Leased, "192.0.2.1/32"), holding("block", Right::Byoip, PARTS[0].0)],
        [
            pool("rented", Right::Leased, "192.0.2.1/32"),
            pool("whole", Right::Byoip, PARTS[0].0),
            pool("half", Right::Byoip, PARTS[1].0),
        ],
        4,
    )
    .unwrap();
    let accounts = ACCOUNTS.map(|id| Account { id: name(id), name: id.into() });
    let zones = [0, 1, 2].map(|n| Zone {
        id: name(ZONES[n]),
        account: name(ACCOUNTS[n]),
        pool: None,
        enabled_by: EnabledBy::Account,
    });
    let tenancy = Tenancy::new(&inventory, accounts, zones, []).unwrap();
    Registry::new(inventory, tenancy, 4).unwrap()
}

fn every_op() -> Vec<Op> {
    let mut ops = Vec::new();
    for zone in 0..3 {
        ops.push(Op::Disable { zone });
        ops.extend((0..3).map(|pool| Op::Enable { zone, pool }));
    }
    for (from, to) in (0..3).flat_map(|from| (0..3).map(move |to| (from, to))) {
        // To itself nothing can be delegated, whichever part it is.
        for part in 0..if from == to { 1 } else { 3 } {
            ops.push(Op::Delegate { part, from, to });
            ops.extend([false, true].map(|force| Op::Revoke { part, from, to, force }));
        }
    }
    ops.extend((0..6).map(|n| Op::Transfer { holding: n / 3, to: n % 3 }));
    ops
}

/// Whatever the model thinks: no grant outside parent, delegates and what the operator lends.
fn safe(registry: &Registry) {
    for grant in registry.tenancy().grants() {
        let pool = registry.inventory().pool(grant.pool()).unwrap();
        let to = |ip: &str| {
            let ip: std::net::IpAddr = ip.parse().unwrap();
            let mut all = registry.tenancy().delegations().iter();
            all.any(|delegation| delegation.to == *grant.account() && delegation.prefix.contains(&ip))
        };
        // One address of each half stands for it: everything is delegated by halves.
        let (lower, upper) = ("198.51.100.1", "198.51.100.200");
        let delegated = match pool.id.as_str() {
            "whole" => to(lower) && to(upper),
            "half" => to(lower),
            _ => registry.tenancy().zone(grant.zone()).unwrap().enabled_by == EnabledBy::Operator,
        };
        assert!(*grant.account() == pool.account || delegated, "{grant:?} without a right");
    }
    let tenancy = registry.tenancy();
    let parts = (tenancy.accounts().cloned(), tenancy.zones().cloned(), tenancy.delegations().to_vec());
    let whole = Tenancy::new(registry.inventory(), parts.0, parts.1, parts.2);
    assert_eq!(whole.as_ref(), Ok(tenancy), "a state that no file may say");
}

#[test]
fn no_sequence_of_changes_lets_a_zone_outside_parent_and_delegates_leave() {
    let (names, ops) = (Names::new(), every_op());
    let whos = [None, Some(0), Some(1), Some(2)];
    let first = start();
    let mut reached = BTreeMap::from([(names.seen(&first), first.clone())]);
    let mut front = vec![first];
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    for length in 1..=LONGEST {
        let mut next_front = Vec::new();
        for registry in front {
            let model = names.seen(&registry);
            let mut tried = registry.clone();
            for (who, op) in whos.iter().flat_map(|who| ops.iter().map(move |op| (*who, *op))) {
                let said = || format!("{who:?} {op:?} in {model:?} at length {length}");
                let expected = model.apply(who, op);
                match names.apply(&mut tried, who, op) {
                    Err(error) => {
                        refused += 1;
                        assert_eq!(expected, None, "{}: {error}", said());
                        assert_eq!(tried, registry, "{} is refused, and has changed something", said());
                    }
                    Ok(events) => {
                        accepted += 1;
                        let seen = names.seen(&tried);
                        assert_eq!(Some(&seen), expected.as_ref(), "{}", said());
                        assert_eq!(names.told(model.clone(), &events), seen, "{}: {events:?}", said());
                        let disabled = events
                            .iter()
                            .filter(|e| e.because.is_some() && matches!(e.subject, Subject::Zone(_)));
                        let forced = matches!(op, Op::Revoke { .. }) && seen.pool != model.pool;
                        assert_eq!(disabled.count(), usize::from(forced), "{}: {events:?}", said());
                        if let Some(same) = reached.get(&seen) {
                            assert_eq!(*same, tried, "{}: a memory that the model has not", said());
                        } else {
                            safe(&tried);
                            reached.insert(seen, tried.clone());
                            next_front.push(tried.clone());
                        }
                        tried.clone_from(&registry);
                    }
                }
            }
        }
        front = next_front;
    }
    let tried = (reached.len(), accepted, refused);
    assert!(tried.0 > 20_000 && accepted > 500_000 && refused > 4_000_000, "too little was tried: {tried:?}");
}
