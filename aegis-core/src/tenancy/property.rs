//! The part of the registry that is about property: accounts, holdings and the pools made of them.
//!
//! These changes are rare, so each builds the inventory anew and checks the tenancy over it: what a file may not say,
//! no sequence of changes leads to.

use ipnet::IpNet;

use super::audit::{AuditEvent, Change, Subject};
use super::permission::{Action, Actor};
use super::registry::{Registry, event, list, unknown};
use super::{Account, Delegation, Zone, check_account};
use crate::error::{Item, Refusal, Result};
use crate::id::{AccountId, HoldingId, PoolId};
use crate::inventory::{AddressState, Direction, Holding, Inventory, Pool, prefix};
use crate::time::Time;

impl Registry {
    /// Takes in a customer.
    ///
    /// # Errors
    /// There is an account with this id; [`ErrorKind::Forbidden`](crate::error::ErrorKind::Forbidden): only the operator
    /// may.
    pub fn add_account(&mut self, who: &Actor, account: Account, at: Time) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let id = &account.id;
        self.may_own(who, Action::AddAccount, id, || format!("account \"{id}\""))?;
        if let Some(twin) = self.tenancy.account(id) {
            let reason = format!("there is one with this id already, named {:?}", twin.name);
            return Err(Refusal::new(Item::named("account", id), "id", reason).into());
        }
        self.tenancy.accounts.insert(id.clone(), account.clone());
        Ok(vec![event(who, Action::AddAccount, Subject::Account(Change::added(account)), at)])
    }

    /// Lets a customer go that has nothing here any more.
    ///
    /// # Errors
    /// The account is unknown, or has zones or holdings, or something is delegated to it (pools and what it delegates
    /// are of its holdings); [`ErrorKind::Forbidden`](crate::error::ErrorKind::Forbidden): only the operator may.
    pub fn remove_account(&mut self, who: &Actor, id: &AccountId, at: Time) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let account = self.tenancy.account(id).ok_or_else(|| unknown("account", id))?.clone();
        self.may_own(who, Action::RemoveAccount, id, || format!("account \"{id}\""))?;
        let zone = self.tenancy.zones().find(|zone| zone.account == *id);
        let holding = self.inventory.holdings().find(|holding| holding.account == *id);
        let delegation = self.tenancy.delegations.iter().find(|delegation| delegation.to == *id);
        let left = zone
            .map(|zone| format!("zone \"{}\"", zone.id))
            .or(holding.map(|holding| format!("holding \"{}\"", holding.id)))
            .or(delegation.map(|delegation| format!("the delegation of {delegation}")));
        if let Some(left) = left {
            let reason = format!("it still has {left}; remove that first");
            return Err(Refusal::new(Item::named("account", id), "id", reason).into());
        }
        self.tenancy.accounts.remove(id);
        Ok(vec![event(who, Action::RemoveAccount, Subject::Account(Change::removed(account)), at)])
    }

    /// Leases a prefix to an account, or takes in one that it brought. It begins as allocated. Whether its data centers
    /// exist is not known here.
    ///
    /// # Errors
    /// As [`Inventory::new`]; the account is unknown; another state than allocated;
    /// [`ErrorKind::Forbidden`](crate::error::ErrorKind::Forbidden): only the operator may.
    pub fn add_holding(&mut self, who: &Actor, holding: Holding, at: Time) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let id = holding.id.clone();
        self.may_own(who, Action::AddHolding, &holding.account, || format!("holding \"{id}\""))?;
        let item = Item::named("holding", &id);
        if holding.state != AddressState::Allocated {
            let reason = format!(
                "it would begin as {}; a new holding begins as {}, because nobody has announced or allowlisted it yet",
                holding.state,
                AddressState::Allocated
            );
            return Err(Refusal::new(item, "state", reason).into());
        }
        check_account(&self.tenancy.accounts, item, "account", &holding.account)?;
        let holdings = self.inventory.holdings().cloned().chain([holding]);
        let inventory = Inventory::build(holdings, self.inventory.pools().cloned(), self.max_data_centers)?;
        let added = inventory.holding(&id).expect("it was added").clone();
        self.inventory = inventory;
        Ok(vec![event(who, Action::AddHolding, Subject::Holding(Change::added(added)), at)])
    }

    /// Ends the right to use a prefix.
    ///
    /// # Errors
    /// The holding is unknown; a pool is made of it; some of it is delegated; it is active or retiring, and so may have
    /// live connections; [`ErrorKind::Forbidden`](crate::error::ErrorKind::Forbidden): only the operator may.
    pub fn remove_holding(&mut self, who: &Actor, id: &HoldingId, at: Time) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let holding = self.holding(id)?.clone();
        self.may_own(who, Action::RemoveHolding, &holding.account, || format!("holding \"{id}\""))?;
        let refuse = |field, reason: String| Refusal::new(Item::named("holding", id), field, reason);
        if let Some(pool) = self.pools_of(&holding).next() {
            let reason = format!("pool \"{}\" of account \"{}\" is made of it", pool.id, pool.account);
            return Err(refuse("prefix", format!("{reason}; remove the pool first")).into());
        }
        self.not_delegated_by(&holding)?;
        if matches!(holding.state, AddressState::Active | AddressState::Retiring) {
            let reason = format!(
                "it is {}; live connections would be cut: retire and withdraw it first",
                holding.state
            );
            return Err(refuse("state", reason).into());
        }
        let rest = self.inventory.holdings().filter(|other| other.id != *id).cloned();
        self.inventory = Inventory::build(rest, self.inventory.pools().cloned(), self.max_data_centers)?;
        Ok(vec![event(who, Action::RemoveHolding, Subject::Holding(Change::removed(holding)), at)])
    }

    /// Gives a holding to another account, and the pools that are made of it.
    ///
    /// # Errors
    /// The holding or account is unknown; zones leave from it; some of it is delegated; a pool has addresses of another
    /// holding too; it is allowlisted or further, which is true of the origins of its present account only;
    /// [`ErrorKind::Forbidden`](crate::error::ErrorKind::Forbidden): only the operator may.
    pub fn transfer(
        &mut self,
        who: &Actor,
        id: &HoldingId,
        to: &AccountId,
        at: Time,
    ) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let before = self.holding(id)?.clone();
        self.may_own(who, Action::Transfer, &before.account, || format!("holding \"{id}\""))?;
        check_account(&self.tenancy.accounts, Item::named("holding", id), "account", to)?;
        if before.account == *to {
            return Ok(Vec::new());
        }
        let refuse = |reason: String| {
            let reason =
                format!("{reason}; it cannot go from account \"{}\" to account \"{to}\"", before.account);
            Refusal::new(Item::named("holding", id), "account", reason)
        };
        let pools: Vec<Pool> = self.pools_of(&before).cloned().collect();
        for pool in &pools {
            let users = self.users(&pool.id);
            if !users.is_empty() {
                let reason = format!("{} leaves from it by pool \"{}\"", list(&users), pool.id);
                return Err(refuse(reason).into());
            }
            if let Some(prefix) = pool.prefixes.iter().find(|prefix| !before.prefix.contains(*prefix)) {
                let reason = format!("pool \"{}\" has {prefix} of another holding too", pool.id);
                return Err(refuse(reason).into());
            }
        }
        if !matches!(before.state, AddressState::Allocated | AddressState::Announced) {
            let owner = &before.account;
            let reason =
                format!("it is {} for the origins of account \"{owner}\": withdraw it first", before.state);
            return Err(refuse(reason).into());
        }
        self.not_delegated_by(&before)?;
        let after = Holding { account: to.clone(), ..before.clone() };
        let moved = pools.iter().map(|pool| Pool { account: to.clone(), ..pool.clone() });
        let mut events =
            vec![event(who, Action::Transfer, Subject::Holding(Change::changed(before, after.clone())), at)];
        events.extend(pools.iter().zip(moved.clone()).map(|(before, after)| {
            event(who, Action::Transfer, Subject::Pool(Change::changed(before.clone(), after)), at)
        }));
        self.inventory = self.with(&[after], &moved.collect::<Vec<_>>())?;
        Ok(events)
    }

    /// Says how far the addresses of a holding have come ([`AddressState::next`]).
    ///
    /// The account says what its origins allow and what is used; only the operator routes: whatever begins or ends as
    /// allocated.
    ///
    /// # Errors
    /// The holding is unknown; it cannot become this at once;
    /// [`ErrorKind::Forbidden`](crate::error::ErrorKind::Forbidden).
    pub fn set_state(
        &mut self,
        who: &Actor,
        id: &HoldingId,
        state: AddressState,
        at: Time,
    ) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let before = self.holding(id)?;
        let action = Action::of_step(before.state, state);
        self.may_own(who, action, &before.account, || format!("holding \"{id}\" to {state}"))?;
        if before.state == state {
            return Ok(Vec::new());
        }
        before
            .state
            .step(state)
            .map_err(|reason| Refusal::new(Item::named("holding", id), "state", reason))?;
        self.put_holding(who, action, Holding { state, ..before.clone() }, at)
    }

    /// Says whether a BYOIP block serves egress or ingress.
    ///
    /// # Errors
    /// The holding is unknown or leased; a pool is made of it or some of it is delegated, and it is to serve ingress;
    /// [`ErrorKind::Forbidden`](crate::error::ErrorKind::Forbidden).
    pub fn set_serves(
        &mut self,
        who: &Actor,
        id: &HoldingId,
        serves: Direction,
        at: Time,
    ) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let before = self.holding(id)?;
        self.may_own(who, Action::SetServes, &before.account, || format!("holding \"{id}\" to {serves}"))?;
        if before.serves == serves {
            return Ok(Vec::new());
        }
        if serves == Direction::Ingress {
            if let Some(pool) = self.pools_of(before).next() {
                let reason = format!(
                    "pool \"{}\" of account \"{}\" is made of it; a block serves egress or ingress, never both: remove the \
                     pool first",
                    pool.id, pool.account
                );
                return Err(Refusal::new(Item::named("holding", id), "serves", reason).into());
            }
            self.not_delegated_by(before)?;
        }
        self.put_holding(who, Action::SetServes, Holding { serves, ..before.clone() }, at)
    }

    /// Makes a pool of holdings.
    ///
    /// # Errors
    /// As [`Inventory::new`]; the account is unknown; [`ErrorKind::Forbidden`](crate::error::ErrorKind::Forbidden).
    pub fn add_pool(&mut self, who: &Actor, pool: Pool, at: Time) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let id = pool.id.clone();
        check_account(&self.tenancy.accounts, Item::named("pool", &id), "account", &pool.account)?;
        self.may_own(who, Action::AddPool, &pool.account, || {
            format!("pool \"{id}\" of account \"{}\"", pool.account)
        })?;
        let pools = self.inventory.pools().cloned().chain([pool]);
        self.inventory = Inventory::build(self.inventory.holdings().cloned(), pools, self.max_data_centers)?;
        let added = self.pool(&id)?.clone();
        Ok(vec![event(who, Action::AddPool, Subject::Pool(Change::added(added)), at)])
    }

    /// Gives a pool other addresses. Zones go on leaving from it, if they may use all of them.
    ///
    /// # Errors
    /// As [`Inventory::new`] and [`Tenancy::new`](super::Tenancy::new); the pool is unknown;
    /// [`ErrorKind::Forbidden`](crate::error::ErrorKind::Forbidden).
    pub fn change_pool(
        &mut self,
        who: &Actor,
        id: &PoolId,
        prefixes: Vec<IpNet>,
        at: Time,
    ) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let before = self.pool(id)?.clone();
        self.may_own(who, Action::ChangePool, &before.account, || {
            format!("pool \"{id}\" of account \"{}\"", before.account)
        })?;
        let inventory = self.with(&[], &[Pool { prefixes, ..before.clone() }])?;
        let after = inventory.pool(id).expect("it was put there").clone();
        if before == after {
            return Ok(Vec::new());
        }
        self.inventory = inventory;
        Ok(vec![event(who, Action::ChangePool, Subject::Pool(Change::changed(before, after)), at)])
    }

    /// Gives a pool up.
    ///
    /// # Errors
    /// The pool is unknown; zones leave from it; [`ErrorKind::Forbidden`](crate::error::ErrorKind::Forbidden).
    pub fn remove_pool(&mut self, who: &Actor, id: &PoolId, at: Time) -> Result<Vec<AuditEvent>> {
        self.known(who)?;
        let pool = self.pool(id)?.clone();
        self.may_own(who, Action::RemovePool, &pool.account, || {
            format!("pool \"{id}\" of account \"{}\"", pool.account)
        })?;
        let users = self.users(id);
        if !users.is_empty() {
            let reason = format!(
                "{} leaves from it, a pool of account \"{}\"; disable that first",
                list(&users),
                pool.account
            );
            return Err(Refusal::new(Item::named("pool", id), "id", reason).into());
        }
        let rest = self.inventory.pools().filter(|other| other.id != *id).cloned();
        self.inventory = Inventory::build(self.inventory.holdings().cloned(), rest, self.max_data_centers)?;
        Ok(vec![event(who, Action::RemovePool, Subject::Pool(Change::removed(pool)), at)])
    }

    fn holding(&self, id: &HoldingId) -> Result<&Holding> {
        self.inventory.holding(id).ok_or_else(|| unknown("holding", id))
    }

    fn pools_of(&self, holding: &Holding) -> impl Iterator<Item = &Pool> {
        let held = holding.prefix;
        self.inventory.pools().filter(move |pool| pool.prefixes.iter().any(|prefix| held.contains(prefix)))
    }

    fn users(&self, pool: &PoolId) -> Vec<Zone> {
        self.tenancy.zones().filter(|zone| zone.pool.as_ref() == Some(pool)).cloned().collect()
    }

    /// Refuses a holding of which something is delegated.
    fn not_delegated_by(&self, holding: &Holding) -> Result<(), Refusal> {
        let of = |delegation: &&Delegation| prefix::overlap(holding.prefix, delegation.prefix);
        match self.tenancy.delegations.iter().find(of) {
            None => Ok(()),
            Some(delegation) => {
                let reason = format!("{delegation} is delegated; revoke that first");
                Err(Refusal::new(Item::named("holding", &holding.id), "prefix", reason))
            }
        }
    }

    fn put_holding(
        &mut self,
        who: &Actor,
        what: Action,
        after: Holding,
        at: Time,
    ) -> Result<Vec<AuditEvent>> {
        let before = self.holding(&after.id)?.clone();
        self.inventory = self.with(core::slice::from_ref(&after), &[])?;
        Ok(vec![event(who, what, Subject::Holding(Change::changed(before, after)), at)])
    }

    /// The inventory with these in the place of what has their ids, if the tenancy is right over it.
    fn with(&self, holdings: &[Holding], pools: &[Pool]) -> Result<Inventory, Refusal> {
        let holdings =
            self.inventory.holdings().map(|old| holdings.iter().find(|new| new.id == old.id).unwrap_or(old));
        let pools =
            self.inventory.pools().map(|old| pools.iter().find(|new| new.id == old.id).unwrap_or(old));
        let inventory = Inventory::build(holdings.cloned(), pools.cloned(), self.max_data_centers)?;
        self.tenancy.check(&inventory)?;
        Ok(inventory)
    }
}
