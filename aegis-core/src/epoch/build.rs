//! A layout from the fleet, the inventory and the operator's policy.

use core::net::Ipv4Addr;

use ipnet::Ipv6Net;

use super::assign::Assignment;
use super::handovers::Handovers;
use super::layout::Parts;
use super::members::Members;
use super::{Epoch, Layout, Row};
use crate::error::{Error, ErrorKind, Result};
use crate::fleet::Fleet;
use crate::inventory::{Holding, Inventory};
use crate::limits::{DEFAULT_DATA_CENTERS_PER_ADDRESS, MAX_GRANULES_PER_LAYOUT};
use crate::slices::Cut;

/// What the operator decides about every layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayoutPolicy {
    /// How every IPv4 address is cut.
    pub cut: Cut,
    /// How many data centers may have a slice of one IPv4 address; at least 1.
    pub data_centers_per_address: u8,
    /// Most granules of one IPv4 address that one machine may own, at least 1; what this leaves over is unassigned.
    pub max_granules_per_machine: Option<u16>,
}

impl Default for LayoutPolicy {
    /// The default cut, four data centers, no limit per machine.
    fn default() -> Self {
        Self {
            cut: Cut::default(),
            data_centers_per_address: DEFAULT_DATA_CENTERS_PER_ADDRESS,
            max_granules_per_machine: None,
        }
    }
}

impl Layout {
    /// The layout of `epoch`: every IPv4 egress address cut for the data centers of its holding and their machines, by
    /// weight; and a number in IPv6 addresses for every data center and machine of the global partition.
    ///
    /// A machine's share of an address is its exact quota rounded down or up, and over many addresses the roundings
    /// even out: with more machines than granules, machines take turns from address to address. Numbers are kept from
    /// `previous`. The same input in any order gives the same layout.
    ///
    /// # Errors
    /// `epoch` is not after that of `previous`; a holding lists no data center, an unknown one, one without machines
    /// or in a separate partition, or more than the policy allows; an IPv6 egress prefix longer than `/64`; more data
    /// centers, machines or granules than a layout may have.
    pub fn build(
        fleet: &Fleet,
        inventory: &Inventory,
        policy: &LayoutPolicy,
        previous: Option<&Self>,
        epoch: Epoch,
    ) -> Result<Self> {
        if let Some(previous) = previous.filter(|p| p.epoch() >= epoch) {
            return Err(Error::input(format!(
                "epoch {epoch} does not come after {}, the epoch of the previous layout",
                previous.epoch()
            )));
        }
        if policy.data_centers_per_address == 0 || policy.max_granules_per_machine == Some(0) {
            return Err(Error::input(
                "a policy of 0 data centers per address, or of 0 granules per machine, assigns nothing; use 1 or more",
            ));
        }
        let members = Members::new(fleet, previous)?;
        let rows = rows(fleet, inventory, policy, &members)?;
        let Members { data_centers, machines, .. } = members;
        let parts = Parts {
            epoch,
            cut: policy.cut.clone(),
            data_centers_per_address: policy.data_centers_per_address,
            data_centers,
            machines,
            rows,
            v6_prefixes: v6_prefixes(inventory)?,
            handovers: Handovers::default(),
        };
        Self::try_from(parts)
            .map_err(|e| Error::new(ErrorKind::Bug, format!("built a layout that breaks a rule: {e}")))
    }
}

/// Every IPv4 egress address with the owners of its granules.
fn rows(fleet: &Fleet, inventory: &Inventory, policy: &LayoutPolicy, members: &Members) -> Result<Vec<Row>> {
    let mut assignment = Assignment::new(&policy.cut, policy.max_granules_per_machine, members)?;
    let most = MAX_GRANULES_PER_LAYOUT / usize::from(policy.cut.granule().granules_per_address());
    let mut rows = Vec::new();
    for (address, holding) in inventory.egress_v4() {
        if rows.len() == most {
            return Err(Error::input(format!(
                "more than {most} IPv4 egress addresses in granules of {} ports; use larger granules, or fewer \
                 addresses",
                policy.cut.granule()
            )));
        }
        let sites = sites_of(address, holding, fleet, policy, members)?;
        rows.push(Row { address, owners: assignment.owners(&sites) });
    }
    Ok(rows)
}

/// The positions of the data centers that get a slice of `address`, ascending.
fn sites_of(
    address: Ipv4Addr,
    holding: &Holding,
    fleet: &Fleet,
    policy: &LayoutPolicy,
    members: &Members,
) -> Result<Vec<usize>> {
    let mut sites = Vec::with_capacity(holding.data_centers.len());
    for id in &holding.data_centers {
        let site = members.data_centers.binary_search_by(|d| d.id.cmp(id));
        let fault = match site {
            Ok(site) if !members.weights[site].is_empty() => {
                sites.push(site);
                continue;
            }
            Ok(_) => "which has no machines; add one, or take it off the list",
            Err(_) if fleet.data_center(id).is_some() => {
                "which is in a separate partition and gets no global addresses; take it off the list"
            }
            Err(_) => "which does not exist; correct its code, or add it to the fleet",
        };
        return Err(Error::input(format!("holding {} lists data center {id}, {fault}", holding.id)));
    }
    sites.sort_unstable();
    sites.dedup();
    let (listed, most) = (sites.len(), usize::from(policy.data_centers_per_address));
    if !(1..=most).contains(&listed) {
        return Err(Error::input(format!(
            "holding {} lists {listed} data centers for {address}; list 1 to {most}",
            holding.id
        )));
    }
    Ok(sites)
}

/// The IPv6 egress prefixes, ascending.
fn v6_prefixes(inventory: &Inventory) -> Result<Vec<Ipv6Net>> {
    let mut prefixes = Vec::new();
    for (prefix, holding) in inventory.egress_v6() {
        if prefix.prefix_len() > 64 {
            return Err(Error::input(format!(
                "IPv6 egress prefix {prefix} of holding {} is longer than /64; owners are read from 64 host bits",
                holding.id
            )));
        }
        prefixes.push(prefix);
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    Ok(prefixes)
}
