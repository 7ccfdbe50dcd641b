//! What machines, routers and a controller tell each other. Any of it may be lost, late, reordered or come twice.

use core::net::Ipv4Addr;
use core::time::Duration;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::epoch::{Epoch, Layout};
use crate::id::{MachineId, RouterId};
use crate::time::Time;

/// What a machine says again and again, well within its tenure: it is alive, which layout it has applied, and what is
/// still open where it grants nothing new.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Who says it.
    pub machine: MachineId,
    /// Which start of the machine's software: no two starts have the same.
    pub boot: u64,
    /// When, by the machine's clock; it comes back in the reply.
    pub sent: Time,
    /// The layout that it has applied.
    pub epoch: Option<Epoch>,
    /// What is open in granules that drain, and in those where ports stayed behind.
    pub busy: Vec<Busy>,
    /// Nothing at all is open on this machine, in IPv4 and IPv6.
    pub is_idle: bool,
}

/// The ports of a granule that are live or held at a machine that grants nothing new there.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Busy {
    /// The egress address.
    pub address: Ipv4Addr,
    /// The granule, `port >> shift`.
    pub granule: u16,
    /// The drain since which it grants nothing new there.
    pub since: Epoch,
    /// The ports, ascending.
    pub ports: Vec<u16>,
}

/// The answer to a [`Report`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// For whom.
    pub machine: MachineId,
    /// For which start of its software.
    pub boot: u64,
    /// [`Report::sent`] of the report.
    pub sent: Time,
    /// How long after `sent`, by the machine's own clock, the machine may grant.
    pub tenure: Duration,
    /// Only with a layout of this epoch or a later one.
    pub epoch: Epoch,
    /// The layout in force, if the machine has another.
    pub layout: Option<Arc<Layout>>,
}

/// What a router says: which layout it steers by.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RouterReport {
    /// Which router.
    pub router: RouterId,
    /// The epoch of its table.
    pub epoch: Epoch,
}
