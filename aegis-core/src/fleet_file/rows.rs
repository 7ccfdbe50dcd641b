//! What may be written: the tables and keys of the file, in the order in which its reader needs them.

use core::net::SocketAddr;
use core::num::NonZeroU8;

use ipnet::IpNet;
use serde::Deserialize;

use super::Policy;
use crate::error::{Error, Result};
use crate::id::{AccountId, DataCenterId, HoldingId, MachineId, OriginId, PoolId, ZoneId};
use crate::inventory::{AddressState, Direction, Right, prefix};
use crate::net::Protocol;
use crate::tenancy::EnabledBy;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Rows {
    pub(super) policy: Policy,
    pub(super) data_center: Vec<DataCenterRow>,
    pub(super) machine: Vec<MachineRow>,
    pub(super) account: Vec<AccountRow>,
    pub(super) holding: Vec<HoldingRow>,
    pub(super) pool: Vec<PoolRow>,
    pub(super) zone: Vec<ZoneRow>,
    pub(super) delegation: Vec<DelegationRow>,
    pub(super) origin: Vec<OriginRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DataCenterRow {
    pub(super) id: DataCenterId,
    pub(super) city: Box<str>,
    pub(super) latitude: f64,
    pub(super) longitude: f64,
    #[serde(default = "global")]
    pub(super) partition: Box<str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MachineRow {
    pub(super) id: MachineId,
    pub(super) data_center: DataCenterId,
    #[serde(default = "one")]
    pub(super) weight: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountRow {
    pub(super) id: AccountId,
    pub(super) name: Box<str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldingRow {
    pub(super) id: HoldingId,
    pub(super) account: AccountId,
    pub(super) right: Right,
    pub(super) prefix: Prefix,
    /// Exactly these; or else the layout chooses, and one of the next three is there.
    pub(super) data_centers: Option<Vec<DataCenterId>>,
    pub(super) pinned_data_centers: Option<Vec<DataCenterId>>,
    pub(super) forbidden_data_centers: Option<Vec<DataCenterId>>,
    pub(super) data_center_count: Option<NonZeroU8>,
    #[serde(default)]
    pub(super) serves: Direction,
    #[serde(default = "active")]
    pub(super) state: AddressState,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolRow {
    pub(super) id: PoolId,
    pub(super) account: AccountId,
    pub(super) prefixes: Vec<Prefix>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ZoneRow {
    pub(super) id: ZoneId,
    pub(super) account: AccountId,
    pub(super) pool: Option<PoolId>,
    #[serde(default)]
    pub(super) enabled_by: EnabledBy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DelegationRow {
    pub(super) prefix: Prefix,
    pub(super) from: AccountId,
    pub(super) to: AccountId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OriginRow {
    pub(super) id: OriginId,
    pub(super) account: AccountId,
    #[serde(default = "tcp")]
    pub(super) protocol: Protocol,
    pub(super) address: Address,
}

/// A prefix in its one spelling, whose error shows the text and how to write it.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Prefix(pub(super) IpNet);

impl TryFrom<String> for Prefix {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let prefix = text.parse().map_err(|_| {
            Error::input(format!(
                "{text:?} is not a prefix; write it like \"192.0.2.1/32\" or \"2001:db8::/64\""
            ))
        })?;
        prefix::canonical(prefix).map(Self).map_err(Error::input)
    }
}

/// An ip:port whose error shows the text and how to write it.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Address(pub(super) SocketAddr);

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse().map(Self).map_err(|_| {
            let expected = "write it like \"203.0.113.10:443\" or \"[2001:db8::10]:443\"";
            Error::input(format!("{text:?} is not an ip:port; {expected}"))
        })
    }
}

fn global() -> Box<str> {
    "global".into()
}

fn one() -> u32 {
    1
}

fn active() -> AddressState {
    AddressState::Active
}

fn tcp() -> Protocol {
    Protocol::Tcp
}
