//! Which data centers announce a holding?

use core::num::NonZeroU8;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::DataCenterId;

/// Where the addresses of a holding are announced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DataCenters {
    /// In every data center of the global partition: IPv6, and only IPv6.
    Global,
    /// In exactly these, in order of their codes: IPv4 only.
    Listed(Vec<DataCenterId>),
    /// In those that the layout chooses, address by address, as the customer allows: IPv4 only.
    Chosen(Choice),
}

impl From<Vec<DataCenterId>> for DataCenters {
    fn from(list: Vec<DataCenterId>) -> Self {
        Self::Listed(list)
    }
}

/// What a customer says about the data centers of an IPv4 address; the layout chooses the others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The data centers that the customer has a wish about. One map, so that none is pinned and forbidden at once.
    pub wishes: BTreeMap<DataCenterId, Wish>,
    /// How many data centers announce each address, pinned ones included. None: as many as the policy allows and the
    /// fleet has.
    pub count: Option<NonZeroU8>,
}

/// A customer's wish about one data center.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// It announces every address of the holding.
    Pinned,
    /// It announces none.
    Forbidden,
}

impl Choice {
    /// The pinned data centers, by code.
    pub fn pinned(&self) -> impl Iterator<Item = &DataCenterId> {
        self.wishes.iter().filter(|(_, wish)| **wish == Wish::Pinned).map(|(id, _)| id)
    }

    /// May this one be chosen?
    pub fn allows(&self, id: &DataCenterId) -> bool {
        self.wishes.get(id) != Some(&Wish::Forbidden)
    }
}
