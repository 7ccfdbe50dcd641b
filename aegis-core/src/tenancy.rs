//! Who may use the egress addresses? Accounts, zones and delegations; the answer is a [`Grant`].

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Item, Refusal, Result, unique};
use crate::id::{AccountId, PoolId, ZoneId};
use crate::inventory::{Inventory, Pool, Right, prefix};

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

    /// The account of the zone. The pool may be of another account, which has then delegated it.
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
    /// delegations to the zone's account cover all of it.
    ///
    /// # Errors
    /// An id or delegation given twice; a zone, holding or delegation of an unknown account; an unknown pool; a
    /// zone that may not use its pool; a delegated prefix with host bits, outside the holdings of the account that
    /// delegates it, or leased; a delegation to the account itself.
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
        for holding in inventory.holdings() {
            check_account(
                &tenancy.accounts,
                Item::named("holding", &holding.id),
                "account",
                &holding.account,
            )?;
        }
        // A pool is of the account of its holdings: the inventory has seen to that.
        for delegation in delegations {
            let delegation = tenancy.admit(delegation, inventory)?;
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

    fn admit(&self, mut delegation: Delegation, inventory: &Inventory) -> Result<Delegation, Refusal> {
        let item = || Item::Nth("delegation", self.delegations.len());
        check_account(&self.accounts, item(), "from", &delegation.from)?;
        check_account(&self.accounts, item(), "to", &delegation.to)?;
        let refuse = |field, reason| Refusal::new(item(), field, reason);
        let prefix = prefix::canonical(delegation.prefix).map_err(|reason| refuse("prefix", reason))?;
        delegation.prefix = prefix;
        let Delegation { from, to, .. } = &delegation;
        if from == to {
            let reason =
                format!("account \"{from}\" delegates {prefix} to itself; its zones may use it already");
            return Err(refuse("to", reason));
        }
        if let Some(twin) = self.delegations.iter().position(|other| *other == delegation) {
            let reason = format!("{prefix} is delegated from \"{from}\" to \"{to}\" twice");
            return Err(refuse("prefix", reason).against(Item::Nth("delegation", twin)));
        }
        let holding =
            inventory.holding_of(prefix.network()).filter(|holding| holding.prefix.contains(&prefix));
        let Some(holding) = holding.filter(|holding| holding.account == *from) else {
            return Err(refuse("prefix", format!("{prefix} lies in no holding of account \"{from}\"")));
        };
        if holding.right != Right::Byoip {
            let reason = format!(
                "{prefix} is of holding \"{}\", which is leased; only BYOIP can be delegated",
                holding.id
            );
            return Err(refuse("prefix", reason).against(Item::named("holding", &holding.id)));
        }
        Ok(delegation)
    }

    fn check_zone(&self, zone: &Zone, inventory: &Inventory) -> Result<(), Refusal> {
        let item = || Item::named("zone", &zone.id);
        check_account(&self.accounts, item(), "account", &zone.account)?;
        let Some(id) = &zone.pool else { return Ok(()) };
        let Some(pool) = inventory.pool(id) else {
            return Err(Refusal::new(item(), "pool", format!("pool \"{id}\" does not exist")));
        };
        if zone.account == pool.account || self.delegated(pool, &zone.account) {
            return Ok(());
        }
        let (owner, user) = (&pool.account, &zone.account);
        let reason = match pool.right {
            Right::Leased => format!(
                "pool \"{id}\" is leased to account \"{owner}\"; zones of account \"{user}\" may not use it"
            ),
            Right::Byoip => format!(
                "pool \"{id}\" is of account \"{owner}\", which has not delegated all of it to account \"{user}\""
            ),
        };
        Err(Refusal::new(item(), "pool", reason).against(Item::named("pool", id)))
    }

    /// Do delegations to `account` cover every address of the pool? (Only BYOIP is ever delegated.)
    fn delegated(&self, pool: &Pool, account: &AccountId) -> bool {
        // Together: two delegated halves cover a pool of the whole.
        let to = self.delegations.iter().filter(|delegation| delegation.to == *account);
        let covered = IpNet::aggregate(&to.map(|delegation| delegation.prefix).collect());
        pool.prefixes.iter().all(|prefix| covered.iter().any(|block| block.contains(prefix)))
    }
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
mod tests {
    use super::*;
    use crate::inventory::{AddressState, Holding};

    /// Account `acme` leases 192.0.2.1 (pool `rented`) and brought 198.51.100.0/24 (pool `whole`, and `ends` of its
    /// first and last address).
    fn inventory() -> Inventory {
        let holding = |id: &str, right, prefix: &str| Holding {
            id: id.parse().unwrap(),
            account: "acme".parse().unwrap(),
            right,
            prefix: prefix.parse().unwrap(),
            data_centers: vec!["fra".parse().unwrap()].into(),
            state: AddressState::Active,
        };
        let pool = |id: &str, right, prefixes: &[&str]| Pool {
            id: id.parse().unwrap(),
            account: "acme".parse().unwrap(),
            right,
            prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        };
        let (leased, byoip) = ((Right::Leased, "192.0.2.1/32"), (Right::Byoip, "198.51.100.0/24"));
        Inventory::new(
            [holding("lease", leased.0, leased.1), holding("block", byoip.0, byoip.1)],
            [
                pool("rented", leased.0, &[leased.1]),
                pool("whole", byoip.0, &[byoip.1]),
                pool("ends", byoip.0, &["198.51.100.0/32", "198.51.100.255/32"]),
            ],
            4,
        )
        .unwrap()
    }

    fn tenancy(zones: &[(&str, &str, Option<&str>)], delegations: &[(&str, &str, &str)]) -> Result<Tenancy> {
        let account = |id: &str| Account { id: id.parse().unwrap(), name: id.into() };
        let zone = |&(id, account, pool): &(&str, &str, Option<&str>)| Zone {
            id: id.parse().unwrap(),
            account: account.parse().unwrap(),
            pool: pool.map(|pool| pool.parse().unwrap()),
        };
        let delegation = |&(prefix, from, to): &(&str, &str, &str)| Delegation {
            prefix: prefix.parse().unwrap(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
        };
        let accounts = [account("acme"), account("globex"), account("initech")];
        Tenancy::new(&inventory(), accounts, zones.iter().map(zone), delegations.iter().map(delegation))
    }

    #[test]
    fn a_grant_says_zone_account_and_pool() {
        let tenancy = tenancy(&[("shop", "acme", Some("rented")), ("blog", "globex", None)], &[]).unwrap();
        let grant = tenancy.grant(&"shop".parse().unwrap()).unwrap();
        assert_eq!(
            (grant.zone().as_str(), grant.account().as_str(), grant.pool().as_str()),
            ("shop", "acme", "rented")
        );
        assert_eq!(tenancy.grants().collect::<Vec<_>>(), [grant]);
        let blog = tenancy.grant(&"blog".parse().unwrap()).unwrap_err();
        assert_eq!((blog, blog.kind()), (GrantError::NotDedicated, ErrorKind::NormalEgress));
        let none = tenancy.grant(&"none".parse().unwrap()).unwrap_err();
        assert_eq!((none, none.kind()), (GrantError::UnknownZone, ErrorKind::Input));
    }

    #[test]
    fn a_foreign_zone_uses_a_pool_only_when_all_of_it_is_delegated() {
        let foreign = &[("blog", "globex", Some("whole"))][..];
        let ends = &[("blog", "globex", Some("ends"))][..];
        let halves = [("198.51.100.0/25", "acme", "globex"), ("198.51.100.128/25", "acme", "globex")];
        assert!(tenancy(foreign, &[("198.51.100.0/24", "acme", "globex")]).is_ok());
        assert!(tenancy(foreign, &halves).is_ok());
        assert!(tenancy(ends, &halves).is_ok());
        assert!(tenancy(ends, &halves[..1]).is_err(), "one end is not both");
        assert!(tenancy(foreign, &[("198.51.100.0/24", "acme", "initech")]).is_err(), "delegated to a third");
        for not_enough in [&[][..], &halves[..1], &halves[1..]] {
            let message = tenancy(foreign, not_enough).unwrap_err().to_string();
            assert!(message.contains("zone \"blog\": pool \"whole\" is of account \"acme\""), "{message}");
            assert!(message.contains("not delegated all of it to account \"globex\""), "{message}");
        }
        let message = tenancy(&[("blog", "globex", Some("rented"))], &halves).unwrap_err().to_string();
        assert!(message.contains("pool \"rented\" is leased to account \"acme\""), "{message}");
    }

    #[test]
    fn refusals_name_both_parties() {
        let whole = ("198.51.100.0/24", "acme", "globex");
        for (zones, delegations, message) in [
            (&[("z", "nobody", None)][..], &[][..], "zone \"z\": account \"nobody\" does not exist"),
            (&[("z", "acme", Some("none"))], &[], "zone \"z\": pool \"none\" does not exist"),
            (&[("z", "acme", None), ("z", "globex", None)], &[], "zone \"z\": this id is defined twice"),
            (
                &[],
                &[("198.51.100.0/24", "nobody", "globex")],
                "delegation 1: account \"nobody\" does not exist",
            ),
            (
                &[],
                &[("198.51.100.0/24", "acme", "nobody")],
                "delegation 1: account \"nobody\" does not exist",
            ),
            (&[], &[("198.51.100.0/24", "acme", "acme")], "delegates 198.51.100.0/24 to itself"),
            (
                &[],
                &[whole, whole],
                "delegation 2: 198.51.100.0/24 is delegated from \"acme\" to \"globex\" twice",
            ),
            (&[], &[("198.51.100.0/23", "acme", "globex")], "lies in no holding of account \"acme\""),
            (&[], &[("198.51.100.0/24", "globex", "acme")], "lies in no holding of account \"globex\""),
            (&[], &[("198.51.100.1/24", "acme", "globex")], "host bits"),
            (&[], &[("192.0.2.1/32", "acme", "globex")], "holding \"lease\", which is leased"),
        ] {
            let e = tenancy(zones, delegations).unwrap_err().to_string();
            assert!(e.contains(message), "{e}");
        }
        let e = Tenancy::new(&inventory(), [], [], []).unwrap_err().to_string();
        assert_eq!(e, "holding \"block\": account \"acme\" does not exist");
    }
}
