//! A layout from the fleet, the inventory and the operator's policy.

use ipnet::Ipv6Net;

use super::assign::Assignment;
use super::before::Previous;
use super::handovers::Handovers;
use super::layout::Parts;
use super::members::Members;
use super::sites::{Announced, announced};
use super::{DataCenterIndex, Epoch, Layout, Row};
use crate::error::{Error, ErrorKind, Result};
use crate::fleet::Fleet;
use crate::inventory::Inventory;
use crate::limits::{DEFAULT_DATA_CENTERS_PER_ADDRESS, MAX_GRANULES_PER_LAYOUT};
use crate::slices::Cut;

/// What the operator decides about every layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayoutPolicy {
    /// How every IPv4 address is cut.
    pub cut: Cut,
    /// How many data centers may have a slice of one IPv4 address; at least 1.
    pub data_centers_per_address: u8,
    /// Most granules of one IPv4 address that one machine may own, at least 1. What this takes from heavy machines goes
    /// to the others by weight; what nobody may own is unassigned.
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
    /// even out: with more machines than granules, machines take turns from address to address. A data center's slice
    /// is rounded likewise. A machine of weight 0 has no share.
    ///
    /// From `previous` as few granules of each address move as such roundings allow, and one more where somebody is
    /// owed more than two granules more than another who has one; without a change nothing moves right after a first layout.
    /// Data centers that a holding leaves to the layout stay. If granules become larger, those moves are few, but not
    /// always the fewest. Numbers in IPv6 addresses stay, and are not given again before all others were.
    ///
    /// The same input in any order gives the same layout.
    ///
    /// # Errors
    /// `epoch` is not after that of `previous`; a holding lists or pins no data center, an unknown one, one without
    /// machines or with drained ones only, or one in a separate partition, or more than the policy allows; it forbids
    /// an unknown one, or so many that too few are left; an IPv6 egress prefix longer than `/64`; more data centers,
    /// machines or granules than a layout may have.
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
        let rows = rows(fleet, inventory, policy, &members, previous)?;
        let Members { data_centers, last_data_center_number, machines, .. } = members;
        let parts = Parts {
            epoch,
            cut: policy.cut.clone(),
            data_centers_per_address: policy.data_centers_per_address,
            data_centers,
            last_data_center_number,
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
fn rows(
    fleet: &Fleet,
    inventory: &Inventory,
    policy: &LayoutPolicy,
    members: &Members,
    previous: Option<&Layout>,
) -> Result<Vec<Row>> {
    let previous = previous.map(|previous| Previous::new(previous, members, &policy.cut));
    let previous = previous.as_ref();
    let most = MAX_GRANULES_PER_LAYOUT / usize::from(policy.cut.granule().granules_per_address());
    let announced = announced(fleet, inventory, policy, members, previous, most)?;
    let mut assignment = Assignment::new(&policy.cut, policy.max_granules_per_machine, members)?;
    let row = |Announced { address, sites }| {
        let owners = assignment.owners(&sites, previous.and_then(|previous| previous.row(address)));
        let index = |site| DataCenterIndex::new(site).expect("every data center has a 16-bit number");
        Row { address, data_centers: sites.into_iter().map(index).collect(), owners }
    };
    Ok(announced.into_iter().map(row).collect())
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
