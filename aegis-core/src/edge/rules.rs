//! Who may use how much of a machine's shares: limits, ports reserved for one zone, ports for unconnected sockets.

use std::collections::BTreeMap;

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::id::{AccountId, PoolId, ZoneId};
use crate::lease::{Memory, Method, QuotaSlot, Table};

/// Rules for those who use one machine's shares. By default there are none: first come, first served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Most live connections of an account on this machine, towards all origins together.
    pub accounts: BTreeMap<AccountId, u32>,
    /// Most live connections of a zone on this machine, towards all origins together.
    pub zones: BTreeMap<ZoneId, u32>,
    /// Ports of its pool, in each address family, that only this zone uses, beside those that it shares: so many
    /// connections to every origin are left to it, whatever others do.
    pub reserved: BTreeMap<ZoneId, u32>,
    /// Ports of a pool, in each address family, that only unconnected UDP sockets use.
    pub unconnected_udp: BTreeMap<PoolId, u32>,
    /// How ports are chosen and shared.
    pub method: Method,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            accounts: BTreeMap::new(),
            zones: BTreeMap::new(),
            reserved: BTreeMap::new(),
            unconnected_udp: BTreeMap::new(),
            method: Method::Explicit,
        }
    }
}

impl Rules {
    /// Refuses rules for names that the bundle does not have: they are slips.
    pub(super) fn check_names(&self, bundle: &Bundle) -> Result<()> {
        check_names(bundle, self)
    }

    /// Quotas that a lease table needs for them.
    pub(super) fn quotas(&self) -> u16 {
        (self.accounts.len() + self.zones.len()).min(u16::MAX.into()) as u16
    }

    /// Accounts first: a zone's quota has its account's as parent.
    pub(super) fn set_quotas<M: Memory>(&self, bundle: &Bundle, table: &Table<M>) -> Result<Quotas> {
        let mut quotas = Quotas::default();
        let first_zone = self.accounts.len().min(u16::MAX.into()) as u16;
        let mut next = 0;
        let mut set = |limit: u32, parent| {
            let slot = table.set_quota(next, limit, parent)?;
            next += 1;
            Ok::<_, Error>(slot)
        };
        for (account, limit) in &self.accounts {
            quotas.accounts.insert(account.clone(), set(*limit, None)?);
        }
        for (zone, limit) in &self.zones {
            let grant = bundle.grants().iter().find(|grant| grant.zone == *zone);
            let account = match grant {
                Some(grant) => quotas.accounts.get(&grant.account).copied(),
                // What it has still counts for the account that it was of, until it ends.
                None => table.quota_parent(first_zone.saturating_add(quotas.zones.len() as u16)),
            };
            quotas.zones.insert(zone.clone(), set(*limit, account)?);
        }
        Ok(quotas)
    }
}

/// The quotas of a lease table by whose they are.
#[derive(Default)]
pub(super) struct Quotas {
    accounts: BTreeMap<AccountId, QuotaSlot>,
    zones: BTreeMap<ZoneId, QuotaSlot>,
}

impl Quotas {
    pub(super) fn account(&self, account: &AccountId) -> Option<QuotaSlot> {
        self.accounts.get(account).copied()
    }

    pub(super) fn zone(&self, zone: &ZoneId) -> Option<QuotaSlot> {
        self.zones.get(zone).copied()
    }
}

fn check_names(bundle: &Bundle, rules: &Rules) -> Result<()> {
    let zones = || bundle.grants().iter().map(|grant| &grant.zone);
    let unknown = |what: &str, name: &dyn core::fmt::Display| {
        Err(Error::input(format!("a rule for {what} {name}, which this machine's bundle does not have")))
    };
    if let Some(zone) =
        rules.zones.keys().chain(rules.reserved.keys()).find(|zone| zones().all(|z| z != *zone))
    {
        return unknown("zone", zone);
    }
    if let Some(account) =
        rules.accounts.keys().find(|account| bundle.grants().iter().all(|grant| grant.account != **account))
    {
        return unknown("account", account);
    }
    if let Some(pool) =
        rules.unconnected_udp.keys().find(|pool| bundle.pools().iter().all(|known| known.id != **pool))
    {
        return unknown("pool", pool);
    }
    Ok(())
}
