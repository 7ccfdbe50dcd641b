use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::limits::{DEFAULT_GRANULE_PORTS, MAX_GRANULE_PORTS, MIN_GRANULE_PORTS};

/// How many ports a granule has: a power of two from 64 to 32,768.
///
/// Granules are aligned, so a granule is one range for `IP_LOCAL_PORT_RANGE`, one interval of nftables, and one shift
/// for a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct GranuleSize {
    shift: u8,
}

impl GranuleSize {
    /// Granules of exactly `ports` ports.
    ///
    /// # Errors
    /// Not a power of two, or outside 64 to 32,768.
    pub fn new(ports: u32) -> Result<Self> {
        if !ports.is_power_of_two() || !(MIN_GRANULE_PORTS..=MAX_GRANULE_PORTS).contains(&ports) {
            return Err(Error::input(format!(
                "granule size {ports}; use a power of two from {MIN_GRANULE_PORTS} to {MAX_GRANULE_PORTS} ports"
            )));
        }
        Ok(Self { shift: ports.trailing_zeros() as u8 })
    }

    /// The smallest granules with at least `ports` ports.
    ///
    /// # Errors
    /// More than 32,768 ports.
    pub fn at_least(ports: u32) -> Result<Self> {
        if ports > MAX_GRANULE_PORTS {
            return Err(Error::input(format!(
                "no granule has {ports} ports; the largest has {MAX_GRANULE_PORTS}"
            )));
        }
        Self::new(ports.next_power_of_two().max(MIN_GRANULE_PORTS))
    }

    /// Ports per granule.
    pub const fn ports(self) -> u32 {
        1 << self.shift
    }

    /// `port >> shift` is the index of the granule that a port lies in.
    pub const fn shift(self) -> u32 {
        self.shift as u32
    }

    /// Granules in the whole port space of an address, the unusable ones included: 2 to 1,024.
    pub const fn granules_per_address(self) -> u16 {
        1 << (16 - self.shift)
    }
}

impl Default for GranuleSize {
    /// 2,048 ports.
    fn default() -> Self {
        Self::new(DEFAULT_GRANULE_PORTS).expect("the default is a power of two inside the limits")
    }
}

impl fmt::Display for GranuleSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.ports(), f)
    }
}

impl FromStr for GranuleSize {
    type Err = Error;

    /// A number of ports: `"2048"`.
    fn from_str(text: &str) -> Result<Self> {
        let ports = text.parse().map_err(|_| {
            Error::input(format!("{text:?} is not a granule size; write ports, like \"2048\""))
        })?;
        Self::new(ports)
    }
}

impl TryFrom<u32> for GranuleSize {
    type Error = Error;

    fn try_from(ports: u32) -> Result<Self> {
        Self::new(ports)
    }
}

impl From<GranuleSize> for u32 {
    fn from(size: GranuleSize) -> Self {
        size.ports()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_inside_the_limits_are_sizes() {
        let sizes: Vec<u32> = (0..=70_000).filter(|p| GranuleSize::new(*p).is_ok()).collect();
        assert_eq!(sizes, [64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768]);
        for ports in sizes {
            let size = GranuleSize::new(ports).unwrap();
            assert_eq!(size.to_string().parse::<GranuleSize>().unwrap(), size);
            assert_eq!(u32::from(size.granules_per_address()) * size.ports(), 65_536);
        }
        assert!(GranuleSize::new(100).unwrap_err().message().contains("100"));
        assert!("2k".parse::<GranuleSize>().unwrap_err().message().contains("\"2k\""));
    }

    #[test]
    fn a_minimum_is_rounded_up() {
        for (minimum, ports) in [(0, 64), (50, 64), (64, 64), (65, 128), (32_768, 32_768)] {
            assert_eq!(GranuleSize::at_least(minimum).unwrap().ports(), ports);
        }
        assert!(GranuleSize::at_least(32_769).is_err());
        assert!(GranuleSize::at_least(u32::MAX).is_err());
    }
}
