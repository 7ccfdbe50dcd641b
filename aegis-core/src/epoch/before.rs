//! Who had what in the previous layout, in the words of the new one.

use core::net::Ipv4Addr;

use super::members::{Members, positions};
use super::{Layout, MachineIndex, Row};
use crate::slices::Cut;

/// The previous layout: its members by their positions in the new one, its granules by those of the new cut.
pub(super) struct Previous<'a> {
    layout: &'a Layout,
    machines: Vec<Option<MachineIndex>>,
    /// The data center of a machine: where it is now, or where it was if it is gone.
    sites: Vec<Option<usize>>,
    data_centers: Vec<Option<usize>>,
    /// How many bits longer and shorter the number of a granule is now.
    finer: u32,
    coarser: u32,
}

/// One address of the previous layout.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    previous: &'a Previous<'a>,
    row: &'a Row,
}

impl<'a> Previous<'a> {
    /// `layout` as the new `members` see it, in granules of `cut`.
    pub(super) fn new(layout: &'a Layout, members: &Members, cut: &Cut) -> Self {
        let data_centers = positions(
            layout.data_centers().iter().map(|d| &d.id),
            members.data_centers.iter().map(|d| &d.id),
        );
        let machines =
            positions(layout.machines().iter().map(|m| &m.id), members.machines.iter().map(|m| &m.id));
        let machines: Vec<_> = machines.into_iter().map(|m| m.and_then(MachineIndex::new)).collect();
        let sites = layout
            .machines()
            .iter()
            .zip(&machines)
            .map(|(old, now)| match now {
                Some(now) => Some(members.machines[now.get()].data_center.get()),
                None => data_centers[old.data_center.get()],
            })
            .collect();
        let (old, new) = (layout.cut().granule().shift(), cut.granule().shift());
        Self {
            layout,
            machines,
            sites,
            data_centers,
            finer: old.saturating_sub(new),
            coarser: new.saturating_sub(old),
        }
    }

    /// The address as it was; none if it is new.
    pub(super) fn row(&'a self, address: Ipv4Addr) -> Option<Before<'a>> {
        self.layout.row(address).map(|row| Before { previous: self, row })
    }
}

impl Before<'_> {
    /// The owner of each granule that is usable now, if it is still a member.
    ///
    /// With larger granules than before it is the machine that had most of the ports (the first in a tie). So moves
    /// are as few as possible while granules stay as they are or become smaller, and a few more when they become
    /// larger.
    pub(super) fn owners(self, usable: &[bool]) -> Vec<Option<MachineIndex>> {
        let Previous { machines, finer, coarser, .. } = self.previous;
        let old = |granule: usize| self.row.owners().get(granule)?.and_then(|old| machines[old.get()]);
        let owner = |granule: usize| {
            if *coarser == 0 {
                return old(granule >> finer);
            }
            let mut parts: Vec<_> = (granule << coarser..(granule + 1) << coarser)
                .filter_map(old)
                .map(|machine| (machine, 0))
                .collect();
            for n in 0..parts.len() {
                parts[n].1 = parts.iter().filter(|(machine, _)| *machine == parts[n].0).count();
            }
            parts.iter().rev().max_by_key(|(_, count)| *count).map(|(machine, _)| *machine)
        };
        usable.iter().enumerate().map(|(granule, usable)| usable.then(|| owner(granule)).flatten()).collect()
    }

    /// The data centers that announced the address and still exist, those first that would keep most granules.
    pub(super) fn sites(self) -> Vec<usize> {
        let Previous { sites, data_centers, .. } = self.previous;
        let mut ranked: Vec<(usize, usize)> = Vec::new();
        let mut add = |site: usize, granules: usize| match ranked.iter_mut().find(|(_, at)| *at == site) {
            Some((count, _)) => *count += granules,
            None => ranked.push((granules, site)),
        };
        self.row.owners().iter().flatten().filter_map(|old| sites[old.get()]).for_each(|site| add(site, 1));
        self.row
            .data_centers()
            .iter()
            .filter_map(|old| data_centers[old.get()])
            .for_each(|site| add(site, 0));
        ranked.sort_unstable_by_key(|(count, site)| (core::cmp::Reverse(*count), *site));
        ranked.into_iter().map(|(_, site)| site).collect()
    }
}
