//! Are these bytes the image of a table? Everything a lookup relies on, and every byte that could be otherwise.

use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};

use super::{
    ADDRESSES, CELLS, CHECKSUM, DIRECTORY, DISPLACEMENTS, ENTRY_SIZES, HEADER, HOLDOUTS, Image, MACHINES,
    MAGIC, SECOND_OWNERS, Sections, V4_INDEX, V6_DISPLACEMENTS, V6_INDEX, V6_MACHINES, V6_NUMBERS,
    V6_PREFIXES, VERSION, u32_at, u64_at,
};
use crate::limits::{MAX_GRANULE_PORTS, MIN_GRANULE_PORTS};
use crate::soft_unicast::row_index::RowIndex;
use crate::soft_unicast::table::{HAS_HOLDOUTS, HAS_SECOND, MACHINE};

type Check<T = ()> = Result<T, String>;

/// The frame: magic, version, length, checksum, and where the sections are.
pub(super) fn sections(bytes: &[u8]) -> Check<Sections> {
    if bytes.len() < HEADER + CHECKSUM {
        return Err(format!("truncated: it ends at byte {}, inside its header", bytes.len()));
    }
    if bytes[..4] != MAGIC {
        return Err(format!("bytes 0 to 3 are {:?}", bytes[..4].escape_ascii().to_string()));
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != VERSION {
        return Err(format!("version {version}; this library understands version {VERSION}"));
    }
    let length = u64_at(bytes, 16);
    if length != bytes.len() as u64 {
        return Err(format!("{} bytes; its header says {length}", bytes.len()));
    }
    let end = bytes.len() - CHECKSUM;
    let (checksum, computed) = (u32_at(bytes, end), crc32fast::hash(&bytes[..end]));
    if checksum != computed {
        return Err(format!("damaged: the checksum is {checksum:08x}, computed {computed:08x}"));
    }
    let mut sections = [(0, 0); ENTRY_SIZES.len()];
    // In 64 bits, so that hostile numbers cannot wrap around.
    let mut next = HEADER as u64;
    for (nth, (section, size)) in sections.iter_mut().zip(ENTRY_SIZES).enumerate() {
        let at = DIRECTORY + 8 * nth;
        let (offset, count) = (u64::from(u32_at(bytes, at)), u64::from(u32_at(bytes, at + 4)));
        let last = offset + count * size as u64;
        if offset != next || last > end as u64 {
            return Err(format!(
                "section {nth} of {count} entries is at byte {offset}; it belongs at {next}"
            ));
        }
        next = last.next_multiple_of(8);
        // The checksum is no padding, even where it is zero.
        let padding = bytes[..end].get(last as usize..next as usize);
        if padding.is_none_or(|zeros| zeros.iter().any(|byte| *byte != 0)) {
            return Err(format!("section {nth} is not followed by zeros"));
        }
        *section = (offset as usize, count as usize);
    }
    if next != end as u64 {
        return Err(format!("{} bytes from byte {next} on belong to nothing", end as u64 - next));
    }
    Ok(sections)
}

/// What is in the sections.
pub(super) fn content(image: &Image) -> Check {
    let shift = image.port_shift();
    if !(MIN_GRANULE_PORTS.ilog2()..=MAX_GRANULE_PORTS.ilog2()).contains(&shift) {
        return Err(format!("granules of 2^{shift} ports"));
    }
    if image.bytes[7] != 0 || [28, V4_INDEX + 28, V6_INDEX + 28].iter().any(|at| image.u32_at(*at) != 0) {
        return Err("a byte of the header that must be zero is not".into());
    }
    check_machines(image)?;
    check_v6(image)?;
    let addresses = check_addresses(image)?;
    check_cells(image, &addresses)?;
    check_overlay(image, HOLDOUTS, shift, HAS_HOLDOUTS)?;
    check_overlay(image, SECOND_OWNERS, 0, HAS_SECOND)
}

fn count(image: &Image, section: usize) -> usize {
    image.sections[section].1
}

fn check_machines(image: &Image) -> Check {
    if count(image, MACHINES) >= MACHINE as usize {
        return Err("more machines than a cell can name".into());
    }
    for nth in 0..count(image, MACHINES) {
        if image.word(MACHINES, nth, 0) > u16::MAX.into() || image.word(MACHINES, nth, 4) != 0 {
            return Err(format!("machine {nth} has an impossible data center, or a next hop"));
        }
    }
    Ok(())
}

/// An index, if it is the one that these keys get.
fn check_index(image: &Image, at: usize, displacements: usize, keys_in: usize, keys: &[u32]) -> Check {
    // Of two equal keys there is no index, however long one looks for it.
    if keys.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(format!("the index at byte {at} has a key twice"));
    }
    let index = RowIndex {
        first: image.u32_at(at + 16),
        rows: image.u32_at(at + 20),
        multipliers: (image.u64_at(at), image.u64_at(at + 8)),
        bucket_shift: image.u32_at(at + 24),
        displacements: image.words(displacements).collect(),
        keys: image.words(keys_in).collect(),
    };
    if index == RowIndex::new(keys) {
        Ok(())
    } else {
        Err(format!("the index at byte {at} is not that of its keys"))
    }
}

fn check_v6(image: &Image) -> Check {
    let mut least = Some(0);
    for nth in 0..count(image, V6_PREFIXES) {
        let at = image.entry(V6_PREFIXES, nth);
        let (first, last) = (image.u64_at(at), image.u64_at(at + 8));
        if first > last || least.is_none_or(|least| first < least) {
            return Err(format!("IPv6 prefix {nth} is empty, out of order or not apart from the one before"));
        }
        // Neighbours would have been merged.
        least = last.checked_add(2);
    }
    let rows = count(image, V6_MACHINES);
    let hashed = count(image, V6_NUMBERS) != 0;
    if rows != image.u32_at(V6_INDEX + 20) as usize || (hashed && count(image, V6_NUMBERS) != rows) {
        return Err(format!("{rows} machines at the rows of the IPv6 numbers"));
    }
    let first = image.u32_at(V6_INDEX + 16);
    let mut numbers = Vec::new();
    let mut seen = vec![false; count(image, MACHINES)];
    let mut sites = BTreeMap::new();
    for (row, machine) in (0..).zip(image.words(V6_MACHINES)) {
        let number = if hashed { image.word(V6_NUMBERS, row as usize, 0) } else { first.wrapping_add(row) };
        if machine == 0 {
            if hashed && number != 0 {
                return Err(format!("IPv6 number {number:#x} has no machine"));
            }
            continue;
        }
        let position = (machine - 1) as usize;
        let is_new = seen.get_mut(position).is_some_and(|seen| !core::mem::replace(seen, true));
        if !is_new || number >> 16 == 0 || number & 0xffff == 0 {
            return Err(format!("IPv6 number {number:#x} is not a number of machine {position}"));
        }
        let site = image.word(MACHINES, position, 0);
        if *sites.entry(number >> 16).or_insert(site) != site {
            return Err(format!("IPv6 number {number:#x} is of another data center"));
        }
        numbers.push(number);
    }
    if let Some(position) = seen.iter().position(|seen| !seen) {
        return Err(format!("machine {position} has no IPv6 number"));
    }
    if sites.values().collect::<BTreeSet<_>>().len() != sites.len() {
        return Err("a data center has two IPv6 numbers".into());
    }
    numbers.sort_unstable();
    check_index(image, V6_INDEX, V6_DISPLACEMENTS, V6_NUMBERS, &numbers)
}

/// The address of each row, where one is sure to be there.
fn check_addresses(image: &Image) -> Check<Vec<Option<u32>>> {
    let rows = image.u32_at(V4_INDEX + 20) as usize;
    let addresses = image.u32_at(24) as usize;
    let keys: Vec<u32> = image.words(ADDRESSES).collect();
    if count(image, CELLS) as u64 != (rows as u64) << (16 - image.port_shift()) {
        return Err(format!("{} cells for {rows} rows", count(image, CELLS)));
    }
    let wrong = || format!("{addresses} addresses do not fit {rows} rows");
    if keys.is_empty() {
        // An index of one block is made of its first and last address and of how many there are.
        let first = image.u32_at(V4_INDEX + 16);
        let last = rows.checked_sub(1).map(|n| first.checked_add(n as u32).ok_or_else(wrong)).transpose()?;
        let least = if rows > 1 { 2 } else { rows };
        if !(least..=rows).contains(&addresses) {
            return Err(wrong());
        }
        let mut block: Vec<u32> = last.map(|last| (first..=last).collect()).unwrap_or_default();
        block.drain(1.min(block.len())..block.len().min(1 + rows - addresses));
        check_index(image, V4_INDEX, DISPLACEMENTS, ADDRESSES, &block)?;
        return Ok((0..rows as u32).map(|row| Some(first + row)).collect());
    }
    if keys.len() != rows {
        return Err(format!("{} addresses of {rows} rows", keys.len()));
    }
    let mut present: Vec<u32> = keys.iter().copied().filter(|key| *key != 0).collect();
    // A key of 0 is an address only if it is counted.
    let has_zero = match addresses.checked_sub(present.len()) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(wrong()),
    };
    present.extend(has_zero.then_some(0));
    present.sort_unstable();
    check_index(image, V4_INDEX, DISPLACEMENTS, ADDRESSES, &present)?;
    let zero_row = image.find(V4_INDEX, DISPLACEMENTS, ADDRESSES, 0).filter(|_| has_zero);
    let address = |(row, key): (usize, &u32)| (*key != 0 || zero_row == Some(row)).then_some(*key);
    Ok(keys.iter().enumerate().map(address).collect())
}

fn check_cells(image: &Image, addresses: &[Option<u32>]) -> Check {
    let (per_row, machines) = (16 - image.port_shift(), count(image, MACHINES) as u32);
    let (mut flagged, mut used, mut last_used) = ([0_usize; 2], 0, None);
    for (nth, cell) in image.words(CELLS).enumerate() {
        let row = nth >> per_row;
        if cell & MACHINE > machines || (cell != 0 && addresses[row].is_none()) {
            return Err(format!("cell {nth} names machine {}, or belongs to no address", cell & MACHINE));
        }
        flagged[0] += usize::from(cell & HAS_HOLDOUTS != 0);
        flagged[1] += usize::from(cell & HAS_SECOND != 0);
        if cell != 0 && last_used.replace(row) != Some(row) {
            used += 1;
        }
    }
    if used > image.u32_at(24) {
        return Err(format!("{used} rows are used, more than there are addresses"));
    }
    let mut granules = BTreeSet::new();
    for nth in 0..count(image, HOLDOUTS) {
        let (address, port) = image.overlay_key(HOLDOUTS, nth);
        granules.insert((address, port >> image.port_shift()));
    }
    if flagged != [granules.len(), count(image, SECOND_OWNERS)] {
        return Err("cells are marked for more or fewer entries than there are".into());
    }
    Ok(())
}

/// Section 3 or 4: in order, and each entry marked in its cell. `shift` makes a granule of what it is about.
fn check_overlay(image: &Image, section: usize, shift: u32, mark: u32) -> Check {
    let mut last: Option<(Ipv4Addr, u16)> = None;
    for nth in 0..count(image, section) {
        let (key, machine) = (image.overlay_key(section, nth), image.word(section, nth, 8));
        let fault = |fault| Err(format!("entry {nth} of section {section} {fault}"));
        if image.word(section, nth, 4) > u16::MAX.into() || last.is_some_and(|last| last >= key) {
            return fault("is out of order");
        }
        last = Some(key);
        let granule = u32::from(key.1) >> shift;
        if granule >= 0x1_0000 >> image.port_shift() {
            return fault("is about no granule");
        }
        let port = (granule << image.port_shift()) as u16;
        let cell = image.cell(key.0, port).filter(|cell| cell & mark != 0);
        let Some(cell) = cell else { return fault("is not marked in its cell") };
        if machine == 0 || machine as usize > count(image, MACHINES) || machine == cell & MACHINE {
            return fault("names no machine, or the owner itself");
        }
    }
    Ok(())
}
