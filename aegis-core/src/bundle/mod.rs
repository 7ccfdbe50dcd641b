//! What must one machine be told?
//!
//! A [`Bundle`] is everything that a machine needs of one epoch: the layout, which zones may leave from which pools,
//! and how far the addresses have come. It travels as canonical bytes or as JSON; both are checked when read, so that
//! a damaged or foreign file never takes the place of the bundle in force.

mod check;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::epoch::form::Form;
use crate::epoch::{Epoch, Layout, LayoutParts};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{AccountId, MachineId, PoolId, ZoneId};
use crate::inventory::{AddressState, Inventory};
use crate::tenancy::Grant;

const FORM: Form = Form { magic: *b"AEGB", name: "bundle", version: 2 };

/// What one machine needs of one epoch, in one order: equal bundles have equal bytes.
///
/// The machine is in the layout; every grant names a pool of the bundle; every prefix of a pool is cut by the layout
/// and has a state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Bundle {
    machine: MachineId,
    v6_addresses: u32,
    grants: Vec<ZoneGrant>,
    pools: Vec<PoolAddresses>,
    addresses: Vec<(IpNet, AddressState)>,
    layout: Layout,
}

/// A bundle as it is written, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    machine: MachineId,
    v6_addresses: u32,
    grants: Vec<ZoneGrant>,
    pools: Vec<PoolAddresses>,
    addresses: Vec<(IpNet, AddressState)>,
    layout: LayoutParts,
}

/// A zone may leave from a pool: the written form of a [`Grant`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneGrant {
    /// The zone.
    pub zone: ZoneId,
    /// The account of the zone.
    pub account: AccountId,
    /// The pool.
    pub pool: PoolId,
}

impl From<&Grant> for ZoneGrant {
    fn from(grant: &Grant) -> Self {
        Self { zone: grant.zone().clone(), account: grant.account().clone(), pool: grant.pool().clone() }
    }
}

/// The addresses of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolAddresses {
    /// The pool.
    pub id: PoolId,
    /// Its prefixes, ascending and disjoint.
    pub prefixes: Vec<IpNet>,
}

impl TryFrom<Parts> for Bundle {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let Parts { machine, v6_addresses, grants, pools, addresses, layout } = parts;
        let layout = Layout::try_from(layout)?;
        let bundle = Self { machine, v6_addresses, grants, pools, addresses, layout };
        bundle.check().map_err(|fault| Error::new(ErrorKind::Reload, fault))?;
        Ok(bundle)
    }
}

impl Bundle {
    /// The bundle of `machine`: all pools of the inventory that `layout` was built from, and the zones that may use
    /// them. In IPv6 the machine uses `v6_addresses` addresses of each prefix
    /// ([`DEFAULT_V6_ADDRESSES`](crate::limits::DEFAULT_V6_ADDRESSES)).
    ///
    /// # Errors
    /// The layout does not know the machine; a zone has two grants, or one for an unknown pool; a pool has an address
    /// that the layout does not cut (it was built from another inventory); `v6_addresses` is 0 or more than
    /// [`MAX_V6_ADDRESSES`](crate::limits::MAX_V6_ADDRESSES).
    pub fn new(
        machine: MachineId,
        layout: Layout,
        inventory: &Inventory,
        grants: impl IntoIterator<Item = ZoneGrant>,
        v6_addresses: u32,
    ) -> Result<Self> {
        let mut grants: Vec<ZoneGrant> = grants.into_iter().collect();
        grants.sort_unstable();
        let pools = inventory
            .pools()
            .map(|pool| {
                let mut prefixes = pool.prefixes.clone();
                prefixes.sort_unstable();
                PoolAddresses { id: pool.id.clone(), prefixes }
            })
            .collect();
        let v4 = inventory.egress_v4().map(|(_, holding)| holding);
        let v6 = inventory.egress_v6().map(|(_, holding)| holding);
        let mut addresses: Vec<_> = v4.chain(v6).map(|holding| (holding.prefix, holding.state)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let bundle = Self { machine, v6_addresses, grants, pools, addresses, layout };
        bundle.check().map_err(Error::input)?;
        Ok(bundle)
    }

    /// The epoch of the layout.
    pub const fn epoch(&self) -> Epoch {
        self.layout.epoch()
    }

    /// The machine that it is for.
    pub const fn machine(&self) -> &MachineId {
        &self.machine
    }

    /// Who owns what.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The pool of each zone with dedicated egress, in zone order.
    pub fn grants(&self) -> &[ZoneGrant] {
        &self.grants
    }

    /// The pools, in id order.
    pub fn pools(&self) -> &[PoolAddresses] {
        &self.pools
    }

    /// How far the addresses have come, by disjoint prefixes, ascending. Every address of a pool is in one of them.
    pub fn addresses(&self) -> &[(IpNet, AddressState)] {
        &self.addresses
    }

    /// How many IPv6 addresses of each prefix the machine uses, at least 1.
    pub const fn v6_addresses(&self) -> u32 {
        self.v6_addresses
    }

    /// The canonical bytes: equal bundles have equal bytes on every platform.
    pub fn to_bytes(&self) -> Vec<u8> {
        FORM.write_bytes(self)
    }

    /// Reads [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    /// [`ErrorKind::Reload`] for anything else, saying what is wrong and at which byte: foreign, truncated, damaged,
    /// written by a newer version, not canonical, or breaking a rule.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        FORM.read_bytes::<Parts, Self>(bytes)
    }

    /// The JSON form: the same content, for people and other languages.
    pub fn to_json(&self) -> String {
        FORM.write_json(self)
    }

    /// Reads [`to_json`](Self::to_json), with the same checks as the bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Reload`], with line and column where there is one.
    pub fn from_json(text: &str) -> Result<Self> {
        FORM.read_json::<Parts, Self>(text)
    }
}
