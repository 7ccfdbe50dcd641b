//! How do the rights change? Inventory and tenancy together, changed one step at a time by somebody who may.

use ipnet::IpNet;

use super::audit::{AuditEvent, Change, Subject};
use super::permission::{Action, Actor, Role, owner_may, who_may};
use super::{Delegation, EnabledBy, Tenancy, Zone, check_account, delegated};
use crate::error::{Error, ErrorKind, Item, Refusal, Result};
use crate::id::{AccountId, PoolId, ZoneId};
use crate::inventory::{Inventory, Pool, prefix};
use crate::time::Time;

/// An inventory and the tenancy over it, as they change.
///
/// Every change is made by an [`Actor`] who may make it, at a moment that the caller says, and returns what has changed.
/// A refused one changes nothing, names both parties, and is [`ErrorKind::Forbidden`] if somebody else may make it. To
/// ask for what is so already is no change and no event, if the actor could have made it so. After every change the
/// tenancy is one that [`Tenancy::new`] would accept over the inventory.
///
/// ```
/// use aegis_core::{fleet_file::FleetFile, tenancy::{Actor, Delegation, Revoke}, time::Time};
///
/// let fleet = FleetFile::parse("fleet.toml", include_str!("../../examples/fleet.toml"))?;
/// let mut registry = fleet.registry()?;
/// let globex = Actor::Account("globex".parse()?);
/// let delegation: Delegation = fleet.tenancy.delegations()[0].clone();
///
/// let refused = registry.revoke(&globex, &delegation, Revoke::IfUnused, Time::ZERO).unwrap_err();
/// assert!(refused.message().contains("zone \"pay.initech.example\" of account \"initech\" leaves from it"));
///
/// let events = registry.revoke(&globex, &delegation, Revoke::Force, Time::from_millis(61_007))?;
/// assert_eq!(
///     events[0].to_string(),
///     "61.007s account \"globex\": disable zone \"pay.initech.example\" of account \"initech\": \
///      pool \"globex-partners\" -> normal egress, by force of the end of the delegation of 198.51.100.8/30 \
///      from account \"globex\" to account \"initech\""
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registry {
    pub(super) inventory: Inventory,
    pub(super) tenancy: Tenancy,
    pub(super) max_data_centers: u8,
}

/// How to revoke a delegation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Revoke {
    /// Only if no zone needs it.
    IfUnused,
    /// In any case: the zones that need it are disabled.
    Force,
}

impl Registry {
    /// A registry that begins with these. Holdings that are added later are announced from at most `max_data_centers`
    /// data centers each.
    ///
    /// # Errors
    /// They do not belong together: as [`Inventory::new`] and [`Tenancy::new`].
    pub fn new(inventory: Inventory, tenancy: Tenancy, max_data_centers: u8) -> Result<Self> {
        let (holdings, pools) = (inventory.holdings().cloned(), inventory.pools().cloned());
        let inventory = Inventory::new(holdings, pools, max_data_centers)?;
        tenancy.check(&inventory)?;
        Ok(Self { inventory, tenancy, max_data_centers })
    }

    /// The holdings and pools, as they are now.
    pub const fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The accounts, zones and delegations, as they are now: what gives a [`Grant`](super::Grant).
    pub const fn tenancy(&self) -> &Tenancy {
        &self.tenancy
    }

    /// Inventory and tenancy, as they are now.
    pub fn into_parts(self) -> (Inventory, Tenancy) {
        (self.inventory, self.tenancy)
    }

    /// Lets a zone leave from a pool, or from another one than before. It has a right to all addresses of the pool then;
    /// leases are granted from those that are active.
    ///
    /// # Errors
    /// The actor, zone or pool is unknown; nobody may use the pool for the zone, because not all of it is delegated to
    /// the zone's account; [`ErrorKind::Forbidden`]: the actor may not enable it there, or not disable it where it is.
    pub fn enable(&mut self, who: &Actor, zone: &ZoneId, pool: &PoolId, at: Time) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let (before, pool) = (self.zone(zone)?, self.pool(pool)?);
        let enabled_by = self.tenancy.right_to_use(pool, &before.account).map_err(|reason| {
            Refusal::new(Item::named("zone", zone), "pool", reason).against(Item::named("pool", &pool.id))
        })?;
        self.may_on_zone(who, Action::Enable, before, pool)?;
        match &before.pool {
            Some(now) if *now == pool.id => return Ok(Vec::new()),
            // Another pool takes the place of this one, which the operator may have chosen.
            Some(now) => self.may_on_zone(who, Action::Disable, before, self.pool(now)?)?,
            None => {}
        }
        let after = Zone { pool: Some(pool.id.clone()), enabled_by, ..before.clone() };
        Ok(vec![self.put_zone(who, Action::Enable, after, None, at)])
    }

    /// Lets a zone leave from the normal egress again.
    ///
    /// # Errors
    /// The actor or zone is unknown; [`ErrorKind::Forbidden`].
    pub fn disable(&mut self, who: &Actor, zone: &ZoneId, at: Time) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let before = self.zone(zone)?;
        let Some(pool) = &before.pool else {
            if *who != Actor::Operator && !who.is(&before.account) {
                return Err(forbidden(who, Action::Disable, &named(before), &before.account.clone()));
            }
            return Ok(Vec::new());
        };
        self.may_on_zone(who, Action::Disable, before, self.pool(pool)?)?;
        let after = disabled(before);
        Ok(vec![self.put_zone(who, Action::Disable, after, None, at)])
    }

    /// May the actor see how a zone uses its pool? Of a zone without dedicated egress there is nothing to see.
    ///
    /// # Errors
    /// The actor or zone is unknown; the zone has no pool; [`ErrorKind::Forbidden`].
    pub fn read_analytics(&self, who: &Actor, zone: &ZoneId) -> Result<()> {
        self.known(who)?;
        let zone = self.zone(zone)?;
        let Some(pool) = &zone.pool else {
            return Err(Error::new(
                ErrorKind::NormalEgress,
                format!("{} has no dedicated egress, and so no use of a pool", named(zone)),
            ));
        };
        self.may_on_zone(who, Action::ReadAnalytics, zone, self.pool(pool)?)
    }

    /// Lets the zones of another account leave from (part of) a BYOIP prefix.
    ///
    /// # Errors
    /// The actor or an account is unknown; it is delegated already; the prefix has host bits, is no part of one holding
    /// of the account that delegates it, is leased or for ingress; a delegation to the account itself, back to the owner
    /// or on to a third account; [`ErrorKind::Forbidden`]: the actor is not the account that delegates.
    pub fn delegate(&mut self, who: &Actor, delegation: Delegation, at: Time) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        self.may_own(who, Action::Delegate, &delegation.from, || delegation.to_string())?;
        let delegation = self.tenancy.admit(Item::Only("delegation"), delegation, &self.inventory)?;
        let place = self.tenancy.delegations.partition_point(|other| *other < delegation);
        self.tenancy.delegations.insert(place, delegation.clone());
        Ok(vec![event(who, Action::Delegate, Subject::Delegation(Change::added(delegation)), at)])
    }

    /// Ends a delegation. What other delegations still cover stays in use.
    ///
    /// The zones that are disabled by force come first in the events, so that at no time a zone is enabled without a
    /// right.
    ///
    /// # Errors
    /// The actor is unknown; there is no such delegation; zones need it, and [`Revoke::IfUnused`] was asked;
    /// [`ErrorKind::Forbidden`]: the actor is not the account that delegates.
    pub fn revoke(
        &mut self,
        who: &Actor,
        delegation: &Delegation,
        how: Revoke,
        at: Time,
    ) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let refuse = |reason: String| Error::input(format!("delegation: {reason}"));
        let prefix = prefix::canonical(delegation.prefix).map_err(refuse)?;
        let delegation = Delegation { prefix, ..delegation.clone() };
        self.may_own(who, Action::Revoke, &delegation.from, || format!("the delegation of {delegation}"))?;
        let Some(place) = self.tenancy.delegations.iter().position(|other| *other == delegation) else {
            return Err(refuse(self.not_delegated(&delegation)));
        };
        let rest = || self.tenancy.delegations.iter().filter(|other| **other != delegation);
        let users: Vec<Zone> = self
            .tenancy
            .zones()
            .filter(|zone| zone.account == delegation.to)
            .filter(|zone| {
                let pool = zone.pool.as_ref().and_then(|id| self.inventory.pool(id));
                pool.is_some_and(|pool| pool.account == delegation.from && needs(pool, zone, rest()))
            })
            .cloned()
            .collect();
        if how == Revoke::IfUnused && !users.is_empty() {
            return Err(refuse(format!(
                "{} leaves from it; {delegation} cannot be revoked: disable what uses it first, or revoke by force",
                list(&users)
            )));
        }
        let because = || Some(delegation.clone());
        let mut events: Vec<_> = users
            .iter()
            .map(|zone| self.put_zone(who, Action::Disable, disabled(zone), because(), at))
            .collect();
        self.tenancy.delegations.remove(place);
        events.push(event(who, Action::Revoke, Subject::Delegation(Change::removed(delegation)), at));
        Ok(events)
    }

    /// Makes a zone known, without dedicated egress.
    ///
    /// # Errors
    /// The actor or account is unknown; there is such a zone; [`ErrorKind::Forbidden`].
    pub fn add_zone(
        &mut self,
        who: &Actor,
        id: &ZoneId,
        account: &AccountId,
        at: Time,
    ) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let item = Item::named("zone", id);
        check_account(&self.tenancy.accounts, item.clone(), "account", account)?;
        let zone =
            Zone { id: id.clone(), account: account.clone(), pool: None, enabled_by: EnabledBy::Account };
        self.may_own(who, Action::AddZone, account, || named(&zone))?;
        if let Some(twin) = self.tenancy.zone(id) {
            let reason = format!("there is one with this id already, of account \"{}\"", twin.account);
            return Err(Refusal::new(item, "id", reason).into());
        }
        Ok(vec![self.put_zone(who, Action::AddZone, zone, None, at)])
    }

    /// Forgets a zone, whatever it leaves from.
    ///
    /// # Errors
    /// The actor or zone is unknown; [`ErrorKind::Forbidden`].
    pub fn remove_zone(&mut self, who: &Actor, id: &ZoneId, at: Time) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let zone = self.zone(id)?.clone();
        self.may_own(who, Action::RemoveZone, &zone.account, || named(&zone))?;
        self.tenancy.zones.remove(id);
        Ok(vec![event(who, Action::RemoveZone, Subject::Zone(Change::removed(zone)), at)])
    }

    /// Refuses an actor of an unknown account.
    pub(super) fn known(&self, who: &Actor) -> Result<()> {
        match who {
            Actor::Account(id) if self.tenancy.account(id).is_none() => {
                Err(Error::input(format!("account \"{id}\", which asks for it, does not exist")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses an actor who is neither the operator nor an owner that may do this to what is its own.
    pub(super) fn may_own(
        &self,
        who: &Actor,
        action: Action,
        owner: &AccountId,
        what: impl Fn() -> String,
    ) -> Result<()> {
        if *who == Actor::Operator || who.is(owner) && owner_may(action) {
            return Ok(());
        }
        if owner_may(action) {
            return Err(forbidden(who, action, &what(), owner));
        }
        let message = format!("{who} may not {} {}; only the operator may", action.verb(), what());
        Err(Error::new(ErrorKind::Forbidden, message))
    }

    fn may_on_zone(&self, who: &Actor, action: Action, zone: &Zone, pool: &Pool) -> Result<()> {
        let roles = who_may(action, pool.right, self.tenancy.zone_of(pool, &zone.account));
        let plays = |role: &Role| match role {
            Role::Operator => *who == Actor::Operator,
            Role::Parent => who.is(&pool.account),
            Role::ZoneAccount => who.is(&zone.account),
        };
        if roles.iter().any(plays) {
            return Ok(());
        }
        let names: Vec<_> = roles
            .iter()
            .map(|role| match role {
                Role::Operator => Actor::Operator.to_string(),
                Role::Parent => Actor::Account(pool.account.clone()).to_string(),
                Role::ZoneAccount => Actor::Account(zone.account.clone()).to_string(),
            })
            .collect();
        let message = format!(
            "{who} may not {} {} on {} pool \"{}\" of account \"{}\"; only {} may",
            action.verb(),
            named(zone),
            pool.right,
            pool.id,
            pool.account,
            names.join(" or "),
        );
        Err(Error::new(ErrorKind::Forbidden, message))
    }

    fn zone(&self, id: &ZoneId) -> Result<&Zone> {
        self.tenancy.zone(id).ok_or_else(|| unknown("zone", id))
    }

    pub(super) fn pool(&self, id: &PoolId) -> Result<&Pool> {
        self.inventory.pool(id).ok_or_else(|| unknown("pool", id))
    }

    /// Puts a zone in the place of what it was.
    fn put_zone(
        &mut self,
        who: &Actor,
        what: Action,
        after: Zone,
        because: Option<Delegation>,
        at: Time,
    ) -> AuditEvent {
        let before = self.tenancy.zones.insert(after.id.clone(), after.clone());
        let subject = Subject::Zone(Change { before, after: Some(after) });
        AuditEvent { because, ..event(who, what, subject, at) }
    }

    /// Why there is nothing to revoke, and what was perhaps meant.
    fn not_delegated(&self, delegation: &Delegation) -> String {
        let near = |other: &&Delegation| {
            (&other.from, &other.to) == (&delegation.from, &delegation.to)
                && prefix::overlap(other.prefix, delegation.prefix)
        };
        let near: Vec<IpNet> = self.tenancy.delegations.iter().filter(near).map(|d| d.prefix).collect();
        let hint = match &near[..] {
            [] => String::new(),
            [one, ..] => format!("; {one} is, and is revoked as a whole"),
        };
        format!("there is none of {delegation}{hint}")
    }
}

/// Does a zone that uses the pool lose its right with no more than these delegations?
fn needs<'a>(pool: &Pool, zone: &Zone, rest: impl Iterator<Item = &'a Delegation>) -> bool {
    // What the operator lends needs none.
    zone.enabled_by == EnabledBy::Account && !delegated(rest, pool, &zone.account)
}

fn disabled(zone: &Zone) -> Zone {
    Zone { pool: None, enabled_by: EnabledBy::Account, ..zone.clone() }
}

pub(super) fn event(who: &Actor, what: Action, subject: Subject, at: Time) -> AuditEvent {
    AuditEvent { at, who: who.clone(), what, subject, because: None }
}

pub(super) fn unknown(kind: &str, id: impl core::fmt::Display) -> Error {
    Error::input(format!("{kind} \"{id}\" does not exist"))
}

fn forbidden(who: &Actor, action: Action, what: &str, owner: &AccountId) -> Error {
    let message =
        format!("{who} may not {} {what}; only account \"{owner}\" or the operator may", action.verb());
    Error::new(ErrorKind::Forbidden, message)
}

fn named(zone: &Zone) -> String {
    format!("zone \"{}\" of account \"{}\"", zone.id, zone.account)
}

/// The first of them by name, and how many more: `zone "a" of account "b" (and 3 more)`.
pub(super) fn list(zones: &[Zone]) -> String {
    match zones {
        [] => "no zone".into(),
        [one] => named(one),
        [first, rest @ ..] => format!("{} (and {} more)", named(first), rest.len()),
    }
}
