//! How are addresses cut, and how far may they spread? The `[policy]` table.

use serde::{Deserialize, Serialize};

use crate::error::{Item, Refusal};
use crate::limits;
use crate::net::PortRange;

/// The settings that hold for the whole fleet. A key that is left out has its default.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Ports of one granule: a power of two, 64 to 32,768. Default 2,048.
    pub granule_ports: u32,
    /// Connections may leave from ports of this range. Default all.
    pub usable: PortRange,
    /// Except from these. Default 0-2047, the first granule. Port 0 is reserved or not usable, always.
    pub reserved: Vec<PortRange>,
    /// How many data centers may announce one IPv4 address, at least 1. Default 4.
    pub data_centers_per_address: u8,
    /// The most granules of one address that one machine gets, at least 1; `None` (the default) for no limit.
    pub max_granules_per_machine: Option<u16>,
    /// IPv6 source addresses that one machine uses of its block, at least 1. Default 256.
    pub v6_addresses_per_machine: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            granule_ports: limits::DEFAULT_GRANULE_PORTS,
            usable: PortRange::ALL,
            reserved: vec![PortRange::new(0, 2_047).expect("0 is not above 2047")],
            data_centers_per_address: limits::DEFAULT_DATA_CENTERS_PER_ADDRESS,
            max_granules_per_machine: None,
            v6_addresses_per_machine: limits::DEFAULT_V6_ADDRESSES,
        }
    }
}

impl Policy {
    /// Refuses settings under which no connection could leave.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let refuse = |field, reason: String| Err(Refusal::new(Item::Only("policy"), field, reason));
        let (min, max) = (limits::MIN_GRANULE_PORTS, limits::MAX_GRANULE_PORTS);
        let granule = self.granule_ports;
        if !granule.is_power_of_two() || !(min..=max).contains(&granule) {
            return refuse(
                "granule_ports",
                format!("a granule of {granule} ports; use a power of two from {min} to {max}"),
            );
        }
        if self.usable.contains(0) && !self.reserved.iter().any(|range| range.contains(0)) {
            return refuse(
                "reserved",
                "port 0 is never usable; reserve it, for example with \"0-2047\"".into(),
            );
        }
        if !self.has_whole_granule() {
            let usable = self.usable;
            return refuse(
                "reserved",
                format!("no granule of {granule} ports lies in {usable} outside the reserved ports"),
            );
        }
        for (field, is_zero) in [
            ("data_centers_per_address", self.data_centers_per_address == 0),
            ("max_granules_per_machine", self.max_granules_per_machine == Some(0)),
            ("v6_addresses_per_machine", self.v6_addresses_per_machine == 0),
        ] {
            if is_zero {
                return refuse(field, format!("{field} 0 would leave nothing to use; use 1 or more"));
            }
        }
        Ok(())
    }

    fn has_whole_granule(&self) -> bool {
        let last = (self.granule_ports - 1) as u16; // Checked: at most 32,767.
        (0..=u16::MAX).step_by(usize::from(last) + 1).any(|lo| {
            let granule =
                PortRange::new(lo, lo + last).expect("granules are aligned: none passes the last port");
            let usable = self.usable.contains(granule.lo()) && self.usable.contains(granule.hi());
            usable && !self.reserved.iter().any(|range| range.overlaps(granule))
        })
    }
}
