//! What is moving while a layout is in force: granules that drain, ports that stayed behind, owners that went.
//!
//! ```text
//!             Draining                        Holdout, Previous
//! owned(A) -> draining(A, to B) -> owned(B) without the ports still open at A -> owned(B)
//! ```
//! Sparse lists beside the rows of the layout, because little moves at a time.

use core::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Epoch, MachineIndex};

/// A granule that leaves its owner: he grants nothing new there, and nobody else does yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draining {
    /// The egress address.
    pub address: Ipv4Addr,
    /// The granule, `port >> shift`.
    pub granule: u16,
    /// Who gets it; nobody if it is being given up.
    pub to: Option<MachineIndex>,
    /// The first epoch in which its owner granted nothing new: it tells this drain from others of the same granule.
    pub since: Epoch,
}

/// A port that is still open (or held) at a machine that has handed its granule over: packets for it go there, and the
/// new owner does not grant it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holdout {
    /// The egress address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// Where it is open.
    pub machine: MachineIndex,
    /// The drain that it was left over from.
    pub since: Epoch,
}

/// How a granule left its owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Departure {
    /// He handed it over and has said what is still open.
    HandedOver,
    /// He is dead: nobody knows what he had open there.
    Died,
}

/// Who owned a granule before: while routers may still have an older layout, a packet of an unknown flow is passed on to
/// him once (second chance).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    /// The egress address.
    pub address: Ipv4Addr,
    /// The granule, `port >> shift`.
    pub granule: u16,
    /// Who had it.
    pub machine: MachineIndex,
    /// How he lost it.
    pub departure: Departure,
    /// The first epoch in which it was another's.
    pub since: Epoch,
}

/// All that is moving, in order of address and granule or port.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handovers {
    pub(super) draining: Vec<Draining>,
    pub(super) holdouts: Vec<Holdout>,
    pub(super) previous: Vec<Previous>,
}

impl Handovers {
    /// Granules that leave their owners.
    pub fn draining(&self) -> &[Draining] {
        &self.draining
    }

    /// Ports that stayed behind.
    pub fn holdouts(&self) -> &[Holdout] {
        &self.holdouts
    }

    /// Owners that went, until every router knows.
    pub fn previous(&self) -> &[Previous] {
        &self.previous
    }

    /// Is nothing moving?
    pub fn is_empty(&self) -> bool {
        self.draining.is_empty() && self.holdouts.is_empty() && self.previous.is_empty()
    }

    /// The drain of a granule.
    pub fn draining_of(&self, address: Ipv4Addr, granule: u16) -> Option<&Draining> {
        find(&self.draining, (address, granule), |d| (d.address, d.granule))
    }

    /// Where a port that stayed behind is open.
    pub fn holdout_of(&self, address: Ipv4Addr, port: u16) -> Option<&Holdout> {
        find(&self.holdouts, (address, port), |h| (h.address, h.port))
    }

    /// The ports of an address from `lo` to `hi` that stayed behind.
    pub(crate) fn holdouts_in(&self, address: Ipv4Addr, lo: u16, hi: u16) -> &[Holdout] {
        let first = self.holdouts.partition_point(|h| (h.address, h.port) < (address, lo));
        let behind = &self.holdouts[first..];
        &behind[..behind.partition_point(|h| (h.address, h.port) <= (address, hi))]
    }

    /// The owner before.
    pub fn previous_of(&self, address: Ipv4Addr, granule: u16) -> Option<&Previous> {
        find(&self.previous, (address, granule), |p| (p.address, p.granule))
    }

    /// Every machine named.
    pub(super) fn machines_mut(&mut self) -> impl Iterator<Item = &mut MachineIndex> {
        let to = self.draining.iter_mut().filter_map(|d| d.to.as_mut());
        let holdouts = self.holdouts.iter_mut().map(|h| &mut h.machine);
        to.chain(holdouts).chain(self.previous.iter_mut().map(|p| &mut p.machine))
    }

    /// Brings the lists into their order.
    pub(super) fn sort(&mut self) {
        self.draining.sort_unstable_by_key(|d| (d.address, d.granule));
        self.holdouts.sort_unstable_by_key(|h| (h.address, h.port));
        self.previous.sort_unstable_by_key(|p| (p.address, p.granule));
    }
}

/// The item with this key in a list that is ascending by it.
fn find<T>(list: &[T], key: (Ipv4Addr, u16), key_of: impl Fn(&T) -> (Ipv4Addr, u16)) -> Option<&T> {
    list.binary_search_by_key(&key, key_of).ok().map(|at| &list[at])
}
