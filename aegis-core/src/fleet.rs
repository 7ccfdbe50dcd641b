//! Which places and machines exist?

use core::fmt;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::{DataCenterId, MachineId};

/// A place on Earth in millionths of a degree (WGS 84), so that it compares and serialises exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Coordinates {
    latitude_e6: i32,
    longitude_e6: i32,
}

/// The part of the network that a data center belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Partition {
    /// The global network.
    Global,
    /// A network of its own, which gets no global addresses.
    Separate(Box<str>),
}

/// A site with machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DataCenter {
    /// Short code, unique in the fleet.
    pub id: DataCenterId,
    /// The location: data centers of one city are one location.
    pub city: Box<str>,
    /// Where it is.
    pub coordinates: Coordinates,
    /// The network it belongs to.
    pub partition: Partition,
}

/// A server that opens connections.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Unique in the whole fleet.
    pub id: MachineId,
    /// Where it is.
    pub data_center: DataCenterId,
    /// Its part of the ports of its data center, relative to the other machines there; never 0.
    pub weight: u32,
}

/// The data centers and machines that exist. Ids are unique and every machine's data center exists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fleet {
    data_centers: BTreeMap<DataCenterId, DataCenter>,
    machines: BTreeMap<MachineId, Machine>,
}
