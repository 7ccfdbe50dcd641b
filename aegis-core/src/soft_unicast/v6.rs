//! Whose an IPv6 address is, read from its bits.

use core::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::row_index::RowIndex;
use crate::epoch::{Layout, MachineIndex, NumberedMachine};
use crate::slices::V6Fields;

/// The IPv6 half of a table.
pub(super) struct V6Owners {
    /// The [`runs`] of the egress prefixes.
    pub(super) firsts: Box<[u64]>,
    pub(super) lasts: Box<[u64]>,
    /// Data center number and machine number, in one word, to a row.
    pub(super) index: RowIndex,
    /// Whose the numbers are, at their rows: the cells of [`MachineIndex`].
    pub(super) machines: Box<[u32]>,
}

impl V6Owners {
    pub(super) fn new(layout: &Layout) -> Self {
        let runs = runs(layout.v6_prefixes());
        let numbers: Vec<(u32, u32)> = numbers(layout)
            .into_iter()
            .map(|(number, position)| (number, MachineIndex::cell(MachineIndex::new(position))))
            .collect();
        let index = RowIndex::new(&numbers.iter().map(|(number, _)| *number).collect::<Vec<_>>());
        let mut machines = vec![0; index.rows()];
        for (number, machine) in numbers {
            machines[index.row(number).expect("the index is of these numbers")] = machine;
        }
        Self {
            firsts: runs.iter().map(|run| run.0).collect(),
            lasts: runs.iter().map(|run| run.1).collect(),
            index,
            machines: machines.into(),
        }
    }

    #[inline]
    pub(super) fn owner(&self, ip: Ipv6Addr, port: u16) -> Option<MachineIndex> {
        let fields = V6Fields::parse(ip)?;
        let high = (ip.to_bits() >> 64) as u64;
        let below = self.firsts.partition_point(|first| *first <= high);
        let inside = port != 0 && self.lasts[below.checked_sub(1)?] >= high;
        let row = self.index.row(number(fields.data_center.get(), fields.machine.get()))?;
        if inside { MachineIndex::from_cell(self.machines[row]) } else { None }
    }
}

/// The key of a machine: its data center's number, then its own.
pub(super) fn number(data_center: u16, machine: u16) -> u32 {
    u32::from(data_center) << 16 | u32::from(machine)
}

/// The number of every machine and its position, ascending.
pub(super) fn numbers(layout: &Layout) -> Vec<(u32, usize)> {
    let of =
        |m: &NumberedMachine| number(layout.data_centers()[m.data_center.get()].number.get(), m.number.get());
    let mut numbers: Vec<_> = layout.machines().iter().map(of).zip(0..).collect();
    numbers.sort_unstable();
    numbers
}

/// The prefixes, merged: the first and the last `/64` of each, as its high 64 bits. Ascending, and apart.
pub(super) fn runs(prefixes: &[Ipv6Net]) -> Vec<(u64, u64)> {
    let high = |ip: Ipv6Addr| (ip.to_bits() >> 64) as u64;
    let mut runs: Vec<_> = prefixes.iter().map(|p| (high(p.network()), high(p.broadcast()))).collect();
    runs.sort_unstable();
    runs.dedup_by(|next, run| {
        let touches = run.1.checked_add(1).is_none_or(|after| next.0 <= after);
        if touches {
            run.1 = run.1.max(next.1);
        }
        touches
    });
    runs
}

/// Is a `/64` inside one of the runs?
pub(super) fn is_inside(runs: &[(u64, u64)], high: u64) -> bool {
    let below = runs.partition_point(|run| run.0 <= high);
    below.checked_sub(1).is_some_and(|at| runs[at].1 >= high)
}
