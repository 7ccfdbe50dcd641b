//! The table as bytes, for programs that are not written in Rust: the values of BPF maps.
//!
//! Integers are little-endian and at multiples of their size. Sections begin at multiples of 8, in this order and without
//! gaps other than zeros; what is called zero here is zero. A table has one image, and other bytes are refused.
//!
//! | offset | size | what |
//! |---:|---:|---|
//! | 0 | 4 | `AEGT` |
//! | 4 | 2 | version: 1 |
//! | 6 | 1 | port shift: `port >> shift` is the granule |
//! | 7 | 1 | zero |
//! | 8 | 8 | epoch |
//! | 16 | 8 | length of the image |
//! | 24 | 4 | egress addresses |
//! | 28 | 4 | zero |
//! | 32 | 32 | index of the IPv4 addresses |
//! | 64 | 32 | index of the IPv6 numbers |
//! | 96 | 80 | the ten sections: offset (4) and number of entries (4) of each |
//! | 176 | | the sections |
//! | length - 4 | 4 | CRC-32 (IEEE) of everything before it |
//!
//! | section | entry | what |
//! |---:|---:|---|
//! | 0 | 4 | displacements of the addresses |
//! | 1 | 4 | address of each row; 0 where there is none |
//! | 2 | 4 | cells: rows of `65536 >> shift` |
//! | 3 | 12 | ports that stayed behind: address (4), port (2), zero (2), machine (4); ascending |
//! | 4 | 12 | second owners: address (4), granule (2), zero (2), machine (4); ascending |
//! | 5 | 8 | machines: position of its data center (4), next hop (4; zero, for the loader to fill in) |
//! | 6 | 16 | IPv6 prefixes: the high half of the first (8) and of the last address (8); ascending, apart |
//! | 7 | 4 | displacements of the IPv6 numbers |
//! | 8 | 4 | IPv6 number of each row: data center << 16 \| machine; 0 where there is none |
//! | 9 | 4 | machine of each row |
//!
//! A *machine* is its position in section 5 plus one; 0 is nobody. A *cell* is a machine in the low 30 bits; bit 31 says
//! that the granule has entries in section 3, bit 30 that it has one in section 4. An *index* says at which row a key is:
//!
//! | offset | size | what |
//! |---:|---:|---|
//! | 0 | 8 | bucket multiplier `b` |
//! | 8 | 8 | row multiplier `r` |
//! | 16 | 4 | first key |
//! | 20 | 4 | rows `n` |
//! | 24 | 4 | bucket shift `s` |
//! | 28 | 4 | zero |
//!
//! ```text
//! no displacements:  row = key - first; none if it is not below n
//! else:              sum = (((key * r) >> 32) * n >> 32) + displacements[(key * b) >> s]     (key * r, key * b: modulo 2^64)
//!                    row = sum < n ? sum : sum - n; none if another key is there
//!
//! owner(address, port):        cell = cells[row << (16 - shift) | port >> shift]
//!                              bit 31 and (address, port) in section 3: the machine there; else that of the cell
//! second owner(address, port): bit 31 and (address, port) in section 3: the machine of the cell
//!                              else bit 30: the machine of (address, port >> shift) in section 4
//! owner(IPv6 address, port):   port 0, or bits 96 to 127 are 0: nobody. The high half is inside an entry of section 6, and
//!                              bits 64 to 95 are a number with a row: the machine of the row
//! ```

mod check;
#[cfg(test)]
mod tests;
mod write;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::table::{HAS_HOLDOUTS, HAS_SECOND, MACHINE, Table};
use super::v6;
use crate::epoch::{DataCenterIndex, Epoch, MachineIndex, Owner};
use crate::error::{Error, ErrorKind, Result};
use crate::net::canonical_ip;
use crate::slices::V6Fields;
use crate::snapshot::Snapshot;

const MAGIC: [u8; 4] = *b"AEGT";
const VERSION: u16 = 1;
const V4_INDEX: usize = 32;
const V6_INDEX: usize = 64;
const DIRECTORY: usize = 96;
const HEADER: usize = DIRECTORY + 8 * ENTRY_SIZES.len();
const CHECKSUM: usize = 4;

const DISPLACEMENTS: usize = 0;
const ADDRESSES: usize = 1;
const CELLS: usize = 2;
const HOLDOUTS: usize = 3;
const SECOND_OWNERS: usize = 4;
const MACHINES: usize = 5;
const V6_PREFIXES: usize = 6;
const V6_DISPLACEMENTS: usize = 7;
const V6_NUMBERS: usize = 8;
const V6_MACHINES: usize = 9;

/// Bytes of an entry of each section.
const ENTRY_SIZES: [usize; 10] = [4, 4, 4, 12, 12, 8, 16, 4, 4, 4];

/// A [`Table`] as bytes, checked, so that whoever reads them need not. It answers as the table does, from the bytes
/// alone; ids are not in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    bytes: Box<[u8]>,
    sections: Sections,
}

/// Offset and number of entries of each section.
type Sections = [(usize, usize); ENTRY_SIZES.len()];

impl Image {
    /// The image of `table`.
    pub fn new(table: &Table) -> Self {
        let bytes = write::image(table);
        let sections = check::sections(&bytes).expect("what was written can be read");
        Self { bytes: bytes.into(), sections }
    }

    /// Checks the bytes of an image: frame, checksum, bounds, order, every index, and that no other bytes say the same.
    ///
    /// # Errors
    /// [`ErrorKind::Reload`], saying what is wrong: foreign, truncated, damaged, of another version, or not what a
    /// table is written as.
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Result<Self> {
        let bytes = bytes.into();
        let fault = |fault| Error::new(ErrorKind::Reload, format!("not a valid table image: {fault}"));
        let sections = check::sections(&bytes).map_err(fault)?;
        let image = Self { bytes, sections };
        check::content(&image).map_err(fault)?;
        Ok(image)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The epoch of the layout.
    pub fn epoch(&self) -> Epoch {
        Epoch::new(self.u64_at(8))
    }

    /// As [`Table::owner`].
    pub fn owner(&self, ip: IpAddr, port: u16) -> Option<Owner> {
        let machine = match canonical_ip(ip) {
            IpAddr::V4(ip) => {
                let cell = self.cell(ip, port)?;
                let held_out = if cell & HAS_HOLDOUTS == 0 { None } else { self.overlay(HOLDOUTS, ip, port) };
                held_out.unwrap_or(cell & MACHINE)
            }
            IpAddr::V6(ip) => self.owner_v6(ip, port)?,
        };
        self.owner_at(machine)
    }

    /// As [`Table::second_owner`].
    pub fn second_owner(&self, ip: IpAddr, port: u16) -> Option<Owner> {
        let IpAddr::V4(ip) = canonical_ip(ip) else { return None };
        let cell = self.cell(ip, port)?;
        let machine = if cell & HAS_HOLDOUTS != 0 && self.overlay(HOLDOUTS, ip, port).is_some() {
            cell & MACHINE
        } else if cell & HAS_SECOND != 0 {
            self.overlay(SECOND_OWNERS, ip, port >> self.port_shift())?
        } else {
            return None;
        };
        self.owner_at(machine)
    }

    fn cell(&self, ip: Ipv4Addr, port: u16) -> Option<u32> {
        let row = self.find(V4_INDEX, DISPLACEMENTS, ADDRESSES, ip.to_bits())?;
        let shift = self.port_shift();
        Some(self.word(CELLS, row << (16 - shift) | usize::from(port >> shift), 0))
    }

    fn owner_v6(&self, ip: Ipv6Addr, port: u16) -> Option<u32> {
        let fields = V6Fields::parse(ip).filter(|_| port != 0)?;
        let high = (ip.to_bits() >> 64) as u64;
        let first = |nth| self.u64_at(self.entry(V6_PREFIXES, nth));
        let at = self.search(V6_PREFIXES, |nth| first(nth) <= high).checked_sub(1)?;
        let last = self.u64_at(self.entry(V6_PREFIXES, at) + 8);
        let number = v6::number(fields.data_center.get(), fields.machine.get());
        let row = self.find(V6_INDEX, V6_DISPLACEMENTS, V6_NUMBERS, number)?;
        (high <= last).then(|| self.word(V6_MACHINES, row, 0))
    }

    /// The row of a key, as the module says.
    fn find(&self, index: usize, displacements: usize, keys: usize, key: u32) -> Option<usize> {
        let rows = self.u32_at(index + 20);
        if self.sections[displacements].1 == 0 {
            let row = key.wrapping_sub(self.u32_at(index + 16));
            return (row < rows).then_some(row as usize);
        }
        let times = |multiplier: u64| u64::from(key).wrapping_mul(multiplier);
        let bucket = times(self.u64_at(index)) >> self.u32_at(index + 24);
        let start = ((times(self.u64_at(index + 8)) >> 32) * u64::from(rows)) >> 32;
        let sum = start as u32 + self.word(displacements, bucket as usize, 0);
        let row = if sum < rows { sum } else { sum - rows } as usize;
        (self.word(keys, row, 0) == key).then_some(row)
    }

    /// The machine of an entry of section 3 or 4.
    fn overlay(&self, section: usize, ip: Ipv4Addr, at: u16) -> Option<u32> {
        let key = (ip, at);
        let nth = self.search(section, |nth| self.overlay_key(section, nth) < key);
        let found = nth < self.sections[section].1 && self.overlay_key(section, nth) == key;
        found.then(|| self.word(section, nth, 8))
    }

    fn overlay_key(&self, section: usize, nth: usize) -> (Ipv4Addr, u16) {
        (Ipv4Addr::from_bits(self.word(section, nth, 0)), self.word(section, nth, 4) as u16)
    }

    fn owner_at(&self, machine: u32) -> Option<Owner> {
        let machine = MachineIndex::from_cell(machine)?;
        let data_center = DataCenterIndex::new(self.word(MACHINES, machine.get(), 0) as usize)?;
        Some(Owner { machine, data_center, epoch: self.epoch() })
    }

    fn port_shift(&self) -> u32 {
        u32::from(self.bytes[6])
    }

    /// How many entries come before the first one that is not `before`.
    fn search(&self, section: usize, before: impl Fn(usize) -> bool) -> usize {
        let (mut low, mut high) = (0, self.sections[section].1);
        while low < high {
            let middle = low.midpoint(high);
            if before(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Where entry `nth` of a section begins.
    fn entry(&self, section: usize, nth: usize) -> usize {
        self.sections[section].0 + nth * ENTRY_SIZES[section]
    }

    fn word(&self, section: usize, nth: usize, at: usize) -> u32 {
        self.u32_at(self.entry(section, nth) + at)
    }

    fn words(&self, section: usize) -> impl Iterator<Item = u32> {
        (0..self.sections[section].1).map(move |nth| self.word(section, nth, 0))
    }

    fn u32_at(&self, offset: usize) -> u32 {
        u32_at(&self.bytes, offset)
    }

    fn u64_at(&self, offset: usize) -> u64 {
        u64_at(&self.bytes, offset)
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let word = bytes[offset..].first_chunk().expect("checked against the length");
    u32::from_le_bytes(*word)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let word = bytes[offset..].first_chunk().expect("checked against the length");
    u64::from_le_bytes(*word)
}

impl Snapshot for Image {
    fn epoch(&self) -> u64 {
        Self::epoch(self).get()
    }
}

impl core::fmt::Debug for Image {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Image")
            .field("epoch", &self.epoch())
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}
