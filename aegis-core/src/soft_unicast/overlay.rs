//! What differs from the rows: ports that stayed behind, second owners. Little moves at a time, so these are sorted
//! lists beside the rows, and a bit in the cell of a granule says whether it is in one.

use core::net::Ipv4Addr;

use crate::epoch::{Layout, MachineIndex};

/// (address, port or granule) -> machine, ascending.
#[derive(Default)]
pub(super) struct Overlay {
    keys: Box<[u64]>,
    machines: Box<[MachineIndex]>,
}

impl Overlay {
    fn new(items: impl IntoIterator<Item = (Ipv4Addr, u16, MachineIndex)>) -> Self {
        // Later items of one key take the place of earlier ones.
        let items: std::collections::BTreeMap<u64, MachineIndex> =
            items.into_iter().map(|(address, at, machine)| (key(address, at), machine)).collect();
        Self { keys: items.keys().copied().collect(), machines: items.values().copied().collect() }
    }

    /// Where the ports are open that stayed behind.
    pub(super) fn holdouts(layout: &Layout) -> Self {
        Self::new(layout.handovers().holdouts().iter().map(|h| (h.address, h.port, h.machine)))
    }

    /// The other machine that may know a flow of a granule: the owner before, or else the one that it goes to.
    pub(super) fn second_owners(layout: &Layout) -> Self {
        let (moving, cut) = (layout.handovers(), layout.cut());
        let next = moving.draining().iter().filter_map(|d| Some((d.address, d.granule, d.to?)));
        let previous = moving.previous().iter().map(|p| (p.address, p.granule, p.machine));
        // Of what is not usable a layout may say who had it, but not that anybody is asked.
        Self::new(next.chain(previous).filter(|(_, granule, _)| cut.range(*granule).is_some()))
    }

    #[cold]
    pub(super) fn get(&self, address: Ipv4Addr, at: u16) -> Option<MachineIndex> {
        self.keys.binary_search(&key(address, at)).ok().map(|at| self.machines[at])
    }

    /// All of it, ascending.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (Ipv4Addr, u16, MachineIndex)> {
        self.keys.iter().zip(&self.machines).map(|(key, machine)| {
            let (address, at) = ((key >> 16) as u32, *key as u16);
            (Ipv4Addr::from_bits(address), at, *machine)
        })
    }
}

fn key(address: Ipv4Addr, at: u16) -> u64 {
    u64::from(address.to_bits()) << 16 | u64::from(at)
}
