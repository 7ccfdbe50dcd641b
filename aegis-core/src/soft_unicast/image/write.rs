use super::{
    ADDRESSES, CELLS, CHECKSUM, DIRECTORY, DISPLACEMENTS, ENTRY_SIZES, HEADER, HOLDOUTS, MACHINES, MAGIC,
    SECOND_OWNERS, V4_INDEX, V6_DISPLACEMENTS, V6_INDEX, V6_MACHINES, V6_NUMBERS, V6_PREFIXES, VERSION,
};
use crate::epoch::MachineIndex;
use crate::soft_unicast::overlay::Overlay;
use crate::soft_unicast::row_index::RowIndex;
use crate::soft_unicast::table::Table;

/// The bytes of a table, as the module says.
pub(super) fn image(table: &Table) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[6] = table.port_shift as u8;
    put(&mut bytes, 8, &table.epoch.get().to_le_bytes());
    put(&mut bytes, 24, &table.addresses.to_le_bytes());
    index(&mut bytes, V4_INDEX, &table.index);
    index(&mut bytes, V6_INDEX, &table.v6.index);

    section(&mut bytes, DISPLACEMENTS, words(&table.index.displacements));
    section(&mut bytes, ADDRESSES, words(&table.index.keys));
    section(&mut bytes, CELLS, words(&table.cells));
    section(&mut bytes, HOLDOUTS, overlay(&table.holdouts));
    section(&mut bytes, SECOND_OWNERS, overlay(&table.second_owners));
    let machines = table.data_centers_of.iter().map(|data_center| pair(data_center.get() as u32, 0));
    section(&mut bytes, MACHINES, machines);
    let runs = table.v6.firsts.iter().zip(&table.v6.lasts);
    section(&mut bytes, V6_PREFIXES, runs.map(|(first, last)| wide(*first, *last)));
    section(&mut bytes, V6_DISPLACEMENTS, words(&table.v6.index.displacements));
    section(&mut bytes, V6_NUMBERS, words(&table.v6.index.keys));
    section(&mut bytes, V6_MACHINES, words(&table.v6.machines));

    let length = bytes.len() + CHECKSUM;
    put(&mut bytes, 16, &(length as u64).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn index(bytes: &mut [u8], at: usize, index: &RowIndex) {
    put(bytes, at, &index.multipliers.0.to_le_bytes());
    put(bytes, at + 8, &index.multipliers.1.to_le_bytes());
    put(bytes, at + 16, &index.first.to_le_bytes());
    put(bytes, at + 20, &index.rows.to_le_bytes());
    put(bytes, at + 24, &index.bucket_shift.to_le_bytes());
}

/// Appends a section, and says in the directory where it is.
fn section<const SIZE: usize>(
    bytes: &mut Vec<u8>,
    number: usize,
    entries: impl ExactSizeIterator<Item = [u8; SIZE]>,
) {
    debug_assert_eq!(SIZE, ENTRY_SIZES[number]);
    let small = |n: usize| u32::try_from(n).expect("the limits keep an image below 4 GiB").to_le_bytes();
    let (offset, count) = (small(bytes.len()), small(entries.len()));
    put(bytes, DIRECTORY + 8 * number, &offset);
    put(bytes, DIRECTORY + 8 * number + 4, &count);
    bytes.reserve(entries.len() * SIZE + 8);
    entries.for_each(|entry| bytes.extend(entry));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn words(words: &[u32]) -> impl ExactSizeIterator<Item = [u8; 4]> {
    words.iter().map(|word| word.to_le_bytes())
}

fn overlay(overlay: &Overlay) -> impl ExactSizeIterator<Item = [u8; 12]> {
    overlay.iter().map(|(address, at, machine)| {
        let mut entry = [0; 12];
        put(&mut entry, 0, &address.to_bits().to_le_bytes());
        put(&mut entry, 4, &at.to_le_bytes());
        put(&mut entry, 8, &MachineIndex::cell(Some(machine)).to_le_bytes());
        entry
    })
}

fn pair(a: u32, b: u32) -> [u8; 8] {
    (u64::from(a) | u64::from(b) << 32).to_le_bytes()
}

fn wide(a: u64, b: u64) -> [u8; 16] {
    (u128::from(a) | u128::from(b) << 64).to_le_bytes()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
