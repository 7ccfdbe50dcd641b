//! Who may use how much of a machine's shares: limits, ports reserved for one zone, ports for unconnected sockets.

use core::net::IpAddr;
use std::collections::BTreeMap;

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::id::{AccountId, PoolId, ZoneId};
use crate::inventory::AddressState;
use crate::lease::{Memory, Method, QuotaSlot, Table};
use crate::net::PortRange;

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
    /// Quotas that a lease table needs for them.
    pub(super) fn quotas(&self) -> u16 {
        (self.accounts.len() + self.zones.len()).min(u16::MAX.into()) as u16
    }

    /// Accounts first: a zone's quota has its account's as parent.
    pub(super) fn set_quotas<M: Memory>(&self, bundle: &Bundle, table: &Table<M>) -> Result<Quotas> {
        let mut quotas = Quotas::default();
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
            let account = grant.and_then(|grant| quotas.accounts.get(&grant.account).copied());
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

type Part = (IpAddr, PortRange);

/// One pool's part of a machine's shares, divided.
#[derive(Default)]
pub(super) struct PoolDivision {
    pub(super) shared: Vec<Part>,
    pub(super) reserved: BTreeMap<ZoneId, Vec<Part>>,
    pub(super) unconnected: Vec<Part>,
    /// There are shares that are not active (yet, or any more): IPv4, IPv6.
    pub(super) inactive: [bool; 2],
}

/// A machine's shares, pool by pool.
pub(super) struct Division(BTreeMap<PoolId, PoolDivision>);

impl Division {
    pub(super) fn new(bundle: &Bundle, rules: &Rules) -> Result<Self> {
        check_names(bundle, rules)?;
        let granules = granules(bundle);
        let mut pools = BTreeMap::new();
        for pool in bundle.pools() {
            let mut division = PoolDivision::default();
            for &(ip, range) in &granules {
                if pool.prefixes.iter().any(|prefix| prefix.contains(&ip)) {
                    match state_of(bundle, ip) {
                        AddressState::Active => division.shared.push((ip, range)),
                        _ => division.inactive[usize::from(ip.is_ipv6())] = true,
                    }
                }
            }
            for ipv6 in [false, true] {
                if let Some(&ports) = rules.unconnected_udp.get(&pool.id) {
                    let taken = take(&mut division.shared, ipv6, ports)
                        .ok_or_else(|| too_many("unconnected UDP sockets", &pool.id, ports))?;
                    division.unconnected.extend(taken);
                }
                for grant in bundle.grants().iter().filter(|grant| grant.pool == pool.id) {
                    if let Some(&ports) = rules.reserved.get(&grant.zone) {
                        let taken = take(&mut division.shared, ipv6, ports)
                            .ok_or_else(|| too_many(&format!("zone {}", grant.zone), &pool.id, ports))?;
                        division.reserved.entry(grant.zone.clone()).or_default().extend(taken);
                    }
                }
            }
            pools.insert(pool.id.clone(), division);
        }
        Ok(Self(pools))
    }

    pub(super) fn pools(&self) -> impl Iterator<Item = (&PoolId, &PoolDivision)> {
        self.0.iter()
    }

    /// Every part: a granule, or what is left of one.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.0.values().flat_map(|pool| {
            pool.shared.iter().chain(&pool.unconnected).chain(pool.reserved.values().flatten())
        })
    }
}

fn too_many(for_whom: &str, pool: &PoolId, ports: u32) -> Error {
    Error::input(format!(
        "{ports} ports of pool {pool} for {for_whom}: this machine has fewer that are active and not given away; \
         reserve fewer"
    ))
}

/// Takes ports of one family off the end; nothing to take from is fine, too little is not.
fn take(parts: &mut Vec<Part>, ipv6: bool, ports: u32) -> Option<Vec<Part>> {
    let mut taken = Vec::new();
    let mut left = ports;
    if !parts.iter().any(|(ip, _)| ip.is_ipv6() == ipv6) {
        return Some(taken);
    }
    while left != 0 {
        let at = parts.iter().rposition(|(ip, _)| ip.is_ipv6() == ipv6)?;
        let (ip, range) = parts[at];
        if range.len() <= left {
            left -= range.len();
            taken.push(parts.remove(at));
        } else {
            let first = range.hi() - (left as u16 - 1);
            parts[at].1 = PortRange::new(range.lo(), first - 1).expect("some are left");
            taken.push((ip, PortRange::new(first, range.hi()).expect("some are taken")));
            left = 0;
        }
    }
    Some(taken)
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

fn state_of(bundle: &Bundle, ip: IpAddr) -> AddressState {
    let found = bundle.addresses().iter().find(|(prefix, _)| prefix.contains(&ip));
    found.map_or(AddressState::Allocated, |&(_, state)| state)
}

/// The shares of the bundle's machine, granule by granule.
///
/// In IPv6 every address of the machine is its own, so one granule of each is plenty: 256 addresses make half a million
/// ports towards one origin. All granules of each would only spread an origin's connections over more pages.
fn granules(bundle: &Bundle) -> Vec<Part> {
    let layout = bundle.layout();
    let v4 = layout.shares_of(bundle.machine()).map(|(ip, range)| (IpAddr::V4(ip), range));
    let usable: Vec<PortRange> =
        layout.cut().granules().filter_map(|index| layout.cut().range(index)).collect();
    let v6 = layout.v6_addresses_of(bundle.machine(), bundle.v6_addresses());
    let v6 = v6.zip(usable.into_iter().cycle()).map(|(ip, range)| (IpAddr::V6(ip), range));
    v4.chain(v6).collect()
}
