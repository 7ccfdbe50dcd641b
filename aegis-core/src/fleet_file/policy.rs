//! How are addresses cut, and how far may they spread? The `[policy]` table.

use serde::{Deserialize, Serialize};

use crate::epoch::LayoutPolicy;
use crate::error::{Error, Item, Refusal, Result};
use crate::limits;
use crate::net::PortRange;
use crate::slices::{Cut, GranuleSize};

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
    /// What of it layouts are built by.
    ///
    /// # Errors
    /// The granules cannot be cut so.
    pub fn layout(&self) -> Result<LayoutPolicy> {
        Ok(LayoutPolicy {
            cut: self.cut()?,
            data_centers_per_address: self.data_centers_per_address,
            max_granules_per_machine: self.max_granules_per_machine,
        })
    }

    /// How every IPv4 address is cut.
    pub(super) fn cut(&self) -> Result<Cut, Refusal> {
        let refuse = |field, error: &Error| Refusal::new(Item::Only("policy"), field, error.message());
        let granule = GranuleSize::new(self.granule_ports).map_err(|e| refuse("granule_ports", &e))?;
        Cut::new(granule, self.usable, self.reserved.iter().copied()).map_err(|e| refuse("reserved", &e))
    }

    /// Refuses settings under which no connection could leave.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        self.cut()?;
        for (field, is_zero) in [
            ("data_centers_per_address", self.data_centers_per_address == 0),
            ("max_granules_per_machine", self.max_granules_per_machine == Some(0)),
            ("v6_addresses_per_machine", self.v6_addresses_per_machine == 0),
        ] {
            if is_zero {
                let reason = format!("{field} 0 would leave nothing to use; use 1 or more");
                return Err(Refusal::new(Item::Only("policy"), field, reason));
            }
        }
        Ok(())
    }
}
