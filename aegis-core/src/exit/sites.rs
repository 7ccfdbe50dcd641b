use core::ops::Range;
use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::fleet::{Fleet, Partition};
use crate::id::{DataCenterId, MachineId};

/// What one machine has of the pool: its shares of all addresses of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Share {
    machine: MachineId,
    data_center: DataCenterId,
    position: usize,
    ports: u64,
    site_ports: u64,
    /// Where its part of the site's draws ends; it begins where that of the share before ends.
    end: u64,
}

impl Share {
    /// Who has it.
    pub fn machine(&self) -> &MachineId {
        &self.machine
    }

    /// Where that machine is.
    pub fn data_center(&self) -> &DataCenterId {
        &self.data_center
    }

    /// Where it is in [`Sites::shares`]: for callers that keep what is in use in a list of their own.
    pub fn position(&self) -> usize {
        self.position
    }

    /// How many ports; at least 1. Towards one origin that is how many connections.
    pub fn ports(&self) -> u64 {
        self.ports
    }

    /// How many ports all machines of this data center have. Who knows only what a whole data center has in use
    /// takes `in_use * ports / site_ports` for each of them.
    pub fn site_ports(&self) -> u64 {
        self.site_ports
    }
}

/// A data center with shares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Site {
    pub(super) data_center: DataCenterId,
    pub(super) city: Box<str>,
    shares: Range<usize>,
}

/// Who holds shares of a pool: at least one machine, all in the global network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sites {
    /// By data center, so that the lower of two indices is the lower of two ids.
    sites: Vec<Site>,
    /// By data center and machine.
    shares: Vec<Share>,
}

/// Ports, and how often to draw it beside others.
type Part = (u64, u64);

impl Sites {
    /// The machines that hold ports of the pool, and how many: in any order, a machine once for each address if that
    /// is easier (they add up). Machines with 0 ports, and data centers with no other machines, are no candidates.
    ///
    /// # Errors
    /// An unknown machine; one in a separate network; nobody holds any port.
    pub fn new(fleet: &Fleet, shares: impl IntoIterator<Item = (MachineId, u32)>) -> Result<Self> {
        let mut parts: BTreeMap<MachineId, Part> = BTreeMap::new();
        for (machine, ports) in shares {
            let (of_machine, draws) = parts.entry(machine).or_default();
            *of_machine += u64::from(ports);
            *draws = *of_machine;
        }
        Self::build(fleet, parts)
    }

    /// For IPv6: all machines of the global network whose weight is not 0, each with `ports` ports (its addresses times
    /// the ports of an address). Which machine of a data center is chosen goes by their weights.
    ///
    /// # Errors
    /// There is no such machine, or no port.
    pub fn everywhere(fleet: &Fleet, ports: u32) -> Result<Self> {
        let machines = fleet.machines().filter(|machine| {
            let place = fleet.data_center(&machine.data_center);
            machine.weight > 0 && place.is_some_and(|place| place.partition == Partition::Global)
        });
        Self::build(
            fleet,
            machines.map(|machine| (machine.id.clone(), (ports.into(), machine.weight.into()))).collect(),
        )
    }

    fn build(fleet: &Fleet, parts: BTreeMap<MachineId, Part>) -> Result<Self> {
        let mut by_site: BTreeMap<&DataCenterId, Vec<(MachineId, Part)>> = BTreeMap::new();
        for (id, part) in parts {
            let machine = fleet.machine(&id).ok_or_else(|| {
                Error::input(format!("machine {id} has a share of the pool, but there is no such machine"))
            })?;
            if part.0 > 0 {
                by_site.entry(&machine.data_center).or_default().push((id, part));
            }
        }
        let mut all = Self { sites: Vec::new(), shares: Vec::new() };
        for (id, members) in by_site {
            let place = fleet.data_center(id).ok_or_else(|| unknown(id))?;
            if let Partition::Separate(network) = &place.partition {
                return Err(Error::input(format!(
                    "machine {} in {id} has a share of the pool, but the network {network} gets no global addresses; \
                     take the share away",
                    members[0].0
                )));
            }
            let first = all.shares.len();
            let site_ports = members.iter().map(|(_, (ports, _))| ports).sum();
            let mut end = 0;
            for (machine, (ports, draws)) in members {
                end += draws;
                let (data_center, position) = (id.clone(), all.shares.len());
                all.shares.push(Share { machine, data_center, position, ports, site_ports, end });
            }
            let shares = first..all.shares.len();
            all.sites.push(Site { data_center: id.clone(), city: place.city.clone(), shares });
        }
        if all.sites.is_empty() {
            return Err(Error::input("no machine holds a port of the pool; give a share to at least one"));
        }
        Ok(all)
    }

    /// All shares, by data center and machine.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The data centers that hold slices of the pool, in order.
    pub fn data_centers(&self) -> impl ExactSizeIterator<Item = &DataCenterId> {
        self.sites.iter().map(|site| &site.data_center)
    }

    pub(super) fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The shares at a site, by machine; never none.
    pub(super) fn at(&self, site: usize) -> &[Share] {
        &self.shares[self.sites[site].shares.clone()]
    }
}

/// Two different ones of the shares of a site, drawn by their weights; which is said by `number`. The same if there is
/// only one.
pub(super) fn draw(shares: &[Share], number: u64) -> (usize, usize) {
    let begin = |nth: usize| if nth == 0 { 0 } else { shares[nth - 1].end };
    let all = begin(shares.len());
    let nth = |draw: u64| shares.partition_point(|share| share.end <= draw);
    let first = nth(below(all, mix(number)));
    let (from, to) = (begin(first), shares[first].end);
    let rest = all - (to - from);
    if rest == 0 {
        return (first, first);
    }
    // A draw from all but the first: what lies behind its part is moved up by it.
    let draw = below(rest, mix(mix(number)));
    (first, nth(if draw < from { draw } else { draw + (to - from) }))
}

/// `random` as a number below `limit`.
fn below(limit: u64, random: u64) -> u64 {
    ((u128::from(limit) * u128::from(random)) >> 64) as u64 // Less than `limit`: it fits.
}

/// Spreads numbers that are near each other, as small or badly hashed ones are (splitmix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(super) fn unknown(id: &DataCenterId) -> Error {
    Error::input(format!("there is no data center {id}"))
}
