//! Which addresses exist, by what right?

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::{AccountId, DataCenterId, HoldingId, PoolId};

/// By what right a prefix is used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// The operator owns it, the customer rents it.
    Leased,
    /// The customer brought it (bring your own IP).
    Byoip,
}

/// How far an address has come; leases are granted from [`AddressState::Active`] ones only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressState {
    /// Assigned to an account, not yet in BGP.
    Allocated,
    /// In BGP, not yet allowed by the origin's firewall.
    Announced,
    /// Allowed by the origin's firewall, not yet used.
    Allowlisted,
    /// In use.
    Active,
    /// Serves its live connections to the end, grants nothing new.
    Retiring,
}

/// The right to use a prefix.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holding {
    /// Unique in the inventory.
    pub id: HoldingId,
    /// The account that owns the lease or brought the prefix.
    pub account: AccountId,
    /// By what right.
    pub right: Right,
    /// The prefix; no host bits.
    pub prefix: IpNet,
    /// The data centers that announce it, in order of their codes. IPv4 only: IPv6 is announced everywhere in the
    /// global partition.
    pub data_centers: Vec<DataCenterId>,
    /// How far its addresses have come.
    pub state: AddressState,
}

/// The egress addresses that zones may leave from: parts of holdings of one account and one right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// Unique in the inventory.
    pub id: PoolId,
    /// The account whose holdings it is made of.
    pub account: AccountId,
    /// Leased or BYOIP, never both.
    pub right: Right,
    /// Prefixes, each inside one holding, disjoint, in order. May mix IPv4 and IPv6.
    pub prefixes: Vec<IpNet>,
}

/// The holdings and the pools made of them. Holdings are disjoint; every prefix of a pool lies inside one holding.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory {
    holdings: BTreeMap<HoldingId, Holding>,
    pools: BTreeMap<PoolId, Pool>,
}
