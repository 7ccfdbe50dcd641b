use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The number of a layout. It only grows: of two layouts the one with the larger epoch is in force.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Epoch(u64);

impl Epoch {
    /// Epoch number `number`.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Epoch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self).map_err(|_| Error::input(format!("{text:?} is not an epoch; write a number")))
    }
}

/// A machine, by its position in the machine list of one layout. Another layout may number differently.
///
/// Stored plus one, so that `Option<MachineIndex>` is one 32-bit word whose 0 says *nobody*: the cell of every owner
/// table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct MachineIndex(NonZeroU32);

impl MachineIndex {
    /// The machine at `position` (from 0); none for a position of 2^32 - 1 or more.
    pub const fn new(position: usize) -> Option<Self> {
        if position >= u32::MAX as usize {
            return None;
        }
        match NonZeroU32::new(position as u32 + 1) {
            Some(cell) => Some(Self(cell)),
            None => None,
        }
    }

    /// The position, from 0.
    pub const fn get(self) -> usize {
        (self.0.get() - 1) as usize
    }

    /// The word that an owner table stores.
    pub(crate) const fn cell(machine: Option<Self>) -> u32 {
        match machine {
            Some(machine) => machine.0.get(),
            None => 0,
        }
    }

    /// What a word of an owner table says; 0 says *nobody*.
    pub(crate) const fn from_cell(cell: u32) -> Option<Self> {
        match NonZeroU32::new(cell) {
            Some(cell) => Some(Self(cell)),
            None => None,
        }
    }
}

impl fmt::Debug for MachineIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineIndex({})", self.get())
    }
}

impl TryFrom<u32> for MachineIndex {
    type Error = Error;

    fn try_from(position: u32) -> Result<Self> {
        Self::new(position as usize).ok_or_else(|| {
            Error::input(format!("machine position {position}; the last one is {}", u32::MAX - 1))
        })
    }
}

impl From<MachineIndex> for u32 {
    fn from(index: MachineIndex) -> Self {
        index.0.get() - 1
    }
}

/// A data center, by its position in the data center list of one layout.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DataCenterIndex(u16);

impl DataCenterIndex {
    /// The data center at `position` (from 0); none for a position above 65,535.
    pub const fn new(position: usize) -> Option<Self> {
        if position > u16::MAX as usize {
            return None;
        }
        Some(Self(position as u16))
    }

    /// The position, from 0.
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// Who owns a port of an egress address, at which epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Owner {
    /// The machine.
    pub machine: MachineIndex,
    /// Its data center.
    pub data_center: DataCenterIndex,
    /// The epoch of the layout that says so; the two indices are positions in that layout.
    pub epoch: Epoch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_costs_no_space() {
        assert_eq!(size_of::<Option<MachineIndex>>(), 4);
        assert_eq!(size_of::<Owner>(), 16);
        assert_eq!(MachineIndex::new(7).unwrap().get(), 7);
        assert_eq!(MachineIndex::new(u32::MAX as usize), None);
        assert!(MachineIndex::try_from(u32::MAX).unwrap_err().message().contains("4294967295"));
    }
}
