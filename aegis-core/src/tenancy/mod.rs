//! Who may use the egress addresses? Accounts, zones and delegations; the answer is a [`Grant`].
//!
//! A [`Tenancy`] is checked as a whole; a [`Registry`] changes one, step by step, for an [`Actor`] who may
//! ([`ZONE_RULES`], [`OWNER_MAY`]), and returns what has changed as [`AuditEvent`]s.

use core::fmt;
use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Item, Refusal, Result, unique};
use crate::id::{AccountId, PoolId, ZoneId};
use crate::inventory::{Direction, Inventory, Pool, Right, prefix};

mod audit;
mod permission;
mod property;
mod registry;

pub use audit::{AuditEvent, Change, Subject};
pub use permission::{Action, Actor, OWNER_MAY, Role, ZONE_RULES, ZoneOf, ZoneRule, owner_may, who_may};
pub use registry::{Registry, Revoke};

/// A customer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Account {
    /// Unique in the tenancy.
    pub id: AccountId,
    /// For people.
    pub name: Box<str>,
}

/// A customer's site or domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Zone {
    /// Unique in the tenancy.
    pub id: ZoneId,
    /// The account it belongs to.
    pub account: AccountId,
    /// The addresses it leaves from; `None` while dedicated egress is disabled.
    pub pool: Option<PoolId>,
    /// By whose right it leaves from there; of its account while it does not.
    #[serde(default)]
    pub enabled_by: EnabledBy,
}

/// By whose right a zone leaves from its pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnabledBy {
    /// Its account's, whose pool it is or to which all of it is delegated.
    #[default]
    Account,
    /// The operator's, who lends the leased addresses of another account.
    Operator,
}

/// Lets the zones of another account leave from (part of) a BYOIP prefix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Delegation {
    /// The prefix or a part of it; no host bits.
    pub prefix: IpNet,
    /// The account that brought the prefix.
    pub from: AccountId,
    /// The account whose zones may use it.
    pub to: AccountId,
}

impl fmt::Display for Delegation {
    /// `198.51.100.0/24 from account "acme" to account "globex"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from account \"{}\" to account \"{}\"", self.prefix, self.from, self.to)
    }
}

/// The permission of one zone to leave from one pool. Only a [`Tenancy`] makes one, so whoever holds it has asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct Grant {
    zone: ZoneId,
    account: AccountId,
    pool: PoolId,
}

impl Grant {
    /// The zone that may leave.
    pub fn zone(&self) -> &ZoneId {
        &self.zone
    }

    /// The account of the zone. The pool may be of another account, which has then delegated it, or, if it is leased,
    /// the operator has lent it.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// The pool that it may leave from.
    pub fn pool(&self) -> &PoolId {
        &self.pool
    }
}

/// Why a zone gets no [`Grant`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum GrantError {
    /// There is no such zone.
    #[error("there is no such zone")]
    UnknownZone,
    /// Dedicated egress is disabled for the zone: use the normal egress of the network.
    #[error("dedicated egress is disabled for this zone; use the normal egress")]
    NotDedicated,
}

impl GrantError {
    /// What the caller can do.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::UnknownZone => ErrorKind::Input,
            Self::NotDedicated => ErrorKind::NormalEgress,
        }
    }
}

/// The accounts, zones and delegations. Every account and pool named exists, and every zone may use its pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tenancy {
    accounts: BTreeMap<AccountId, Account>,
    zones: BTreeMap<ZoneId, Zone>,
    delegations: Vec<Delegation>,
}

impl Tenancy {
    /// The tenancy of these accounts, zones and delegations, given in any order.
    ///
    /// A zone may use a pool of its own account. It may use that of another account only if the pool is BYOIP and
    /// delegations to the zone's account cover all of it, or if it is leased and the operator has enabled it
    /// ([`EnabledBy::Operator`]).
    ///
    /// # Errors
    /// An id or delegation given twice; a zone, holding or delegation of an unknown account; an unknown pool; a
    /// zone that may not use its pool, or that says so of the operator without need; a delegated prefix with host
    /// bits, outside the holdings of the account that delegates it (so that nothing is delegated on, or back), leased,
    /// or for ingress; a delegation to the account itself.
    pub fn new(
        inventory: &Inventory,
        accounts: impl IntoIterator<Item = Account>,
        zones: impl IntoIterator<Item = Zone>,
        delegations: impl IntoIterator<Item = Delegation>,
    ) -> Result<Self> {
        Ok(Self::build(inventory, accounts, zones, delegations)?)
    }

    /// As [`Tenancy::new`], for a caller that can say where the item at fault stands.
    pub(crate) fn build(
        inventory: &Inventory,
        accounts: impl IntoIterator<Item = Account>,
        zones: impl IntoIterator<Item = Zone>,
        delegations: impl IntoIterator<Item = Delegation>,
    ) -> Result<Self, Refusal> {
        let mut tenancy =
            Self { accounts: unique("account", accounts, |account| &account.id)?, ..Self::default() };
        tenancy.check_holdings(inventory)?;
        // A pool is of the account of its holdings: the inventory has seen to that.
        for delegation in delegations {
            let item = Item::Nth("delegation", tenancy.delegations.len());
            let delegation = tenancy.admit(item, delegation, inventory)?;
            tenancy.delegations.push(delegation);
        }
        tenancy.delegations.sort_unstable();
        tenancy.zones = unique("zone", zones, |zone| &zone.id)?;
        for zone in tenancy.zones.values() {
            tenancy.check_zone(zone, inventory)?;
        }
        Ok(tenancy)
    }

    /// All accounts, by id.
    pub fn accounts(&self) -> impl ExactSizeIterator<Item = &Account> {
        self.accounts.values()
    }

    /// All zones, by id.
    pub fn zones(&self) -> impl ExactSizeIterator<Item = &Zone> {
        self.zones.values()
    }

    /// All delegations, by prefix.
    pub fn delegations(&self) -> &[Delegation] {
        &self.delegations
    }

    /// The account with this id.
    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// The zone with this id.
    pub fn zone(&self, id: &ZoneId) -> Option<&Zone> {
        self.zones.get(id)
    }

    /// May this zone leave from dedicated addresses, and from which?
    ///
    /// # Errors
    /// The zone is unknown, or has no dedicated egress.
    pub fn grant(&self, zone: &ZoneId) -> Result<Grant, GrantError> {
        let zone = self.zones.get(zone).ok_or(GrantError::UnknownZone)?;
        let pool = zone.pool.clone().ok_or(GrantError::NotDedicated)?;
        Ok(Grant { zone: zone.id.clone(), account: zone.account.clone(), pool })
    }

    /// The grants of all zones with dedicated egress, by zone.
    pub fn grants(&self) -> impl Iterator<Item = Grant> {
        self.zones.keys().filter_map(|zone| self.grant(zone).ok())
    }

    /// Is it still right over another inventory?
    fn check(&self, inventory: &Inventory) -> Result<(), Refusal> {
        self.check_holdings(inventory)?;
        for (index, delegation) in self.delegations.iter().enumerate() {
            self.check_delegation(&Item::Nth("delegation", index), delegation, inventory)?;
        }
        self.zones.values().try_for_each(|zone| self.check_zone(zone, inventory))
    }

    fn check_holdings(&self, inventory: &Inventory) -> Result<(), Refusal> {
        inventory.holdings().try_for_each(|holding| {
            check_account(&self.accounts, Item::named("holding", &holding.id), "account", &holding.account)
        })
    }

    /// Checks a new delegation, and brings it into its one spelling.
    fn admit(
        &self,
        item: Item,
        mut delegation: Delegation,
        inventory: &Inventory,
    ) -> Result<Delegation, Refusal> {
        delegation.prefix = prefix::canonical(delegation.prefix)
            .map_err(|reason| Refusal::new(item.clone(), "prefix", reason))?;
        self.check_delegation(&item, &delegation, inventory)?;
        if let Some(twin) = self.delegations.iter().position(|other| *other == delegation) {
            let Delegation { prefix, from, to } = delegation;
            let reason = format!("{prefix} is delegated from \"{from}\" to \"{to}\" twice");
            return Err(Refusal::new(item, "prefix", reason).against(Item::Nth("delegation", twin)));
        }
        Ok(delegation)
    }

    fn check_delegation(
        &self,
        item: &Item,
        Delegation { prefix, from, to }: &Delegation,
        inventory: &Inventory,
    ) -> Result<(), Refusal> {
        check_account(&self.accounts, item.clone(), "from", from)?;
        check_account(&self.accounts, item.clone(), "to", to)?;
        let refuse = |field, reason| Refusal::new(item.clone(), field, reason);
        if from == to {
            let reason =
                format!("account \"{from}\" delegates {prefix} to itself; its zones may use it already");
            return Err(refuse("to", reason));
        }
        let holding =
            inventory.holding_of(prefix.network()).filter(|holding| holding.prefix.contains(prefix));
        let Some(holding) = holding else {
            return Err(refuse("prefix", format!("{prefix} lies in no holding of account \"{from}\"")));
        };
        let (id, owner) = (&holding.id, &holding.account);
        let (field, reason) = if owner != from && owner == to {
            let reason = format!(
                "{prefix} is of holding \"{id}\" of account \"{owner}\": account \"{from}\" cannot delegate it back to \
                 its owner; the owner revokes the delegation"
            );
            ("to", reason)
        } else if owner != from {
            let reason = format!(
                "{prefix} is of holding \"{id}\" of account \"{owner}\": account \"{from}\" cannot delegate it on to \
                 account \"{to}\"; only the owner delegates"
            );
            ("from", reason)
        } else if holding.right != Right::Byoip {
            let reason =
                format!("{prefix} is of holding \"{id}\", which is leased; only BYOIP can be delegated");
            ("prefix", reason)
        } else if holding.serves != Direction::Egress {
            let reason = format!(
                "{prefix} is of holding \"{id}\", which serves {}: no zone can leave from it",
                holding.serves
            );
            ("prefix", reason)
        } else {
            return Ok(());
        };
        Err(refuse(field, reason).against(Item::named("holding", id)))
    }

    fn check_zone(&self, zone: &Zone, inventory: &Inventory) -> Result<(), Refusal> {
        let item = || Item::named("zone", &zone.id);
        check_account(&self.accounts, item(), "account", &zone.account)?;
        let Some(id) = &zone.pool else {
            if zone.enabled_by == EnabledBy::Operator {
                let reason = "enabled_by says that the operator has enabled it, but it has no pool";
                return Err(Refusal::new(item(), "enabled_by", reason));
            }
            return Ok(());
        };
        let Some(pool) = inventory.pool(id) else {
            return Err(Refusal::new(item(), "pool", format!("pool \"{id}\" does not exist")));
        };
        let (field, reason) = match (self.right_to_use(pool, &zone.account), zone.enabled_by) {
            (Err(reason), _) => ("pool", reason),
            (Ok(needed), given) if needed == given => return Ok(()),
            (Ok(EnabledBy::Operator), _) => {
                let (owner, user) = (&pool.account, &zone.account);
                let reason = format!(
                    "pool \"{id}\" is leased to account \"{owner}\"; zones of account \"{user}\" may not use it unless \
                     the operator enables it"
                );
                ("pool", reason)
            }
            (Ok(EnabledBy::Account), _) => {
                let reason = format!(
                    "account \"{}\" may use pool \"{id}\" without the operator; remove enabled_by",
                    zone.account
                );
                ("enabled_by", reason)
            }
        };
        Err(Refusal::new(item(), field, reason).against(Item::named("pool", id)))
    }

    /// Whose zones are those of `account`, seen from the pool?
    fn zone_of(&self, pool: &Pool, account: &AccountId) -> ZoneOf {
        if *account == pool.account {
            ZoneOf::Parent
        } else if delegated(&self.delegations, pool, account) {
            ZoneOf::Delegate
        } else {
            ZoneOf::Other
        }
    }

    /// By whose right zones of `account` can use the pool.
    ///
    /// # Errors
    /// By nobody's; says why.
    fn right_to_use(&self, pool: &Pool, account: &AccountId) -> Result<EnabledBy, String> {
        match who_may(Action::Enable, pool.right, self.zone_of(pool, account)) {
            [] => Err(format!(
                "pool \"{}\" is of account \"{}\", which has not delegated all of it to account \"{account}\"",
                pool.id, pool.account
            )),
            [Role::Operator] => Ok(EnabledBy::Operator),
            _ => Ok(EnabledBy::Account),
        }
    }
}

/// Do delegations to `account` cover every address of the pool? (Only BYOIP is ever delegated.)
fn delegated<'a>(
    delegations: impl IntoIterator<Item = &'a Delegation>,
    pool: &Pool,
    account: &AccountId,
) -> bool {
    // Together: two delegated halves cover a pool of the whole.
    let to = delegations.into_iter().filter(|delegation| delegation.to == *account);
    let covered = IpNet::aggregate(&to.map(|delegation| delegation.prefix).collect());
    pool.prefixes.iter().all(|prefix| covered.iter().any(|block| block.contains(prefix)))
}

/// Refuses an `item` whose `field` names an unknown account.
pub(crate) fn check_account(
    accounts: &BTreeMap<AccountId, Account>,
    item: Item,
    field: &'static str,
    id: &AccountId,
) -> Result<(), Refusal> {
    if accounts.contains_key(id) {
        return Ok(());
    }
    Err(Refusal::new(item, field, format!("account \"{id}\" does not exist")))
}

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod tests;
