//! The next layout, while it is being made: what one granule, port or machine may do next. Nothing is in force before
//! the whole draft has passed the checks of a layout.

use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};

use crate::epoch::layout::Parts;
use crate::epoch::{
    DataCenterIndex, Departure, Draining, Epoch, Handovers, Holdout, Layout, MachineIndex, NumberedMachine,
    Previous, Standing,
};
use crate::error::{Error, ErrorKind, Result};

/// A granule that its owner has handed over, or that a dead one had; the ports in `busy` stay behind.
pub(super) struct HandedOver<'a> {
    pub(super) drain: Draining,
    pub(super) busy: &'a [u16],
    pub(super) departure: Departure,
}

/// A copy of the layout in force, to be changed.
pub(super) struct Draft {
    parts: Parts,
    changed: bool,
}

impl Draft {
    /// The draft of `epoch`, which is later than that of `layout`.
    pub(super) fn of(layout: &Layout, epoch: Epoch) -> Self {
        let mut parts = layout.parts();
        parts.epoch = epoch;
        Self { parts, changed: false }
    }

    pub(super) const fn over(parts: Parts) -> Self {
        Self { parts, changed: true }
    }

    pub(super) const fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The layout, if anything has changed.
    pub(super) fn finish(mut self) -> Result<Option<Layout>> {
        if !self.changed {
            return Ok(None);
        }
        self.parts.handovers.sort();
        let moving = &self.parts.handovers;
        let in_use = |address: Ipv4Addr| {
            moving.holdouts.iter().any(|h| h.address == address)
                || moving.previous.iter().any(|p| p.address == address)
        };
        // A row of nobody answers as no row does.
        self.parts.rows.retain(|row| row.owners.iter().any(Option::is_some) || in_use(row.address));
        Layout::try_from(self.parts).map(Some).map_err(|error| {
            Error::new(ErrorKind::Bug, format!("a handover has made a layout that breaks a rule: {error}"))
        })
    }

    /// These granules go to where they drain to, all at once: thousands may, and lists are not walked for each of them.
    pub(super) fn hand_over(&mut self, gone: &[HandedOver]) {
        let epoch = self.parts.epoch;
        let shift = self.parts.cut.granule().shift();
        // By address and granule: whom each has gone to.
        let mut new_owners = BTreeMap::new();
        let mut previous = Vec::new();
        let mut behind = Vec::new();
        for HandedOver { drain, busy, departure } in gone {
            let Draining { address, granule, to, since } = *drain;
            let Ok(at) = self.parts.rows.binary_search_by_key(&address, |row| row.address) else { continue };
            let owner = &mut self.parts.rows[at].owners[usize::from(granule)];
            let Some(machine) = core::mem::replace(owner, to) else { continue };
            new_owners.insert((address, granule), to);
            previous.push(Previous { address, granule, machine, departure: *departure, since: epoch });
            behind.extend(busy.iter().map(|&port| Holdout { address, port, machine, since }));
        }
        if new_owners.is_empty() {
            return;
        }
        self.changed = true;
        let moving = &mut self.parts.handovers;
        moving.draining.retain(|d| !new_owners.contains_key(&(d.address, d.granule)));
        // What the new owner left there before is his own again.
        moving.holdouts.retain(|h| {
            new_owners.get(&(h.address, h.port >> shift)).is_none_or(|to| Some(h.machine) != *to)
        });
        let known: BTreeSet<_> = moving.holdouts.iter().map(|h| (h.address, h.port)).collect();
        moving.holdouts.extend(behind.into_iter().filter(|h| !known.contains(&(h.address, h.port))));
        moving.previous.retain(|p| !new_owners.contains_key(&(p.address, p.granule)));
        moving.previous.extend(previous);
    }

    /// Ports that are closed at last.
    pub(super) fn forget_holdouts(&mut self, mut is_over: impl FnMut(&Holdout, &[NumberedMachine]) -> bool) {
        let Parts { handovers: Handovers { holdouts, .. }, machines, .. } = &mut self.parts;
        let before = holdouts.len();
        holdouts.retain(|holdout| !is_over(holdout, machines));
        self.changed |= holdouts.len() != before;
    }

    /// Owners that no router steers by any more.
    pub(super) fn forget_previous(&mut self, is_over: impl Fn(&Previous) -> bool) {
        let before = self.parts.handovers.previous.len();
        self.parts.handovers.previous.retain(|previous| !is_over(previous));
        self.changed |= self.parts.handovers.previous.len() != before;
    }

    /// Takes out leaving machines of which nothing is named any more and that are gone, and data centers that are empty
    /// then.
    pub(super) fn forget_machines(&mut self, is_gone: impl Fn(&crate::id::MachineId) -> bool) {
        let leaving = |m: &NumberedMachine| m.standing == Standing::Leaving && is_gone(&m.id);
        if !self.parts.machines.iter().any(leaving) {
            return;
        }
        let mut named = vec![false; self.parts.machines.len()];
        for machine in self.parts.rows.iter().flat_map(|row| row.owners.iter().flatten()) {
            named[machine.get()] = true;
        }
        self.parts.handovers.machines_mut().for_each(|machine| named[machine.get()] = true);
        let stays: Vec<bool> =
            self.parts.machines.iter().zip(&named).map(|(m, named)| *named || !leaving(m)).collect();
        if stays.iter().all(|stays| *stays) {
            return;
        }
        self.changed = true;
        let mut emptied = vec![false; self.parts.data_centers.len()];
        for (machine, stays) in self.parts.machines.iter().zip(&stays) {
            emptied[machine.data_center.get()] |= !stays;
        }
        for (machine, stays) in self.parts.machines.iter().zip(&stays) {
            emptied[machine.data_center.get()] &= !stays;
        }
        self.renumber(&stays, &emptied.iter().map(|emptied| !emptied).collect::<Vec<_>>());
    }

    /// Keeps only some machines and data centers; nothing that goes is named.
    fn renumber(&mut self, machines: &[bool], data_centers: &[bool]) {
        let places = |stays: &[bool]| -> Vec<usize> {
            let count = |next: &mut usize, stays: &bool| {
                let place = *next;
                *next += usize::from(*stays);
                Some(place)
            };
            stays.iter().scan(0, count).collect()
        };
        let (new_machine, new_site) = (places(machines), places(data_centers));
        let place = |m: MachineIndex| MachineIndex::new(new_machine[m.get()]).expect("positions only shrink");
        for owner in self.parts.rows.iter_mut().flat_map(|row| row.owners.iter_mut().flatten()) {
            *owner = place(*owner);
        }
        self.parts.handovers.machines_mut().for_each(|machine| *machine = place(*machine));
        for row in &mut self.parts.rows {
            row.data_centers.retain(|site| data_centers[site.get()]);
            for site in &mut row.data_centers {
                *site = DataCenterIndex::new(new_site[site.get()]).expect("positions only shrink");
            }
        }
        let mut stays = machines.iter();
        self.parts.machines.retain(|_| stays.next() == Some(&true));
        for machine in &mut self.parts.machines {
            let site = DataCenterIndex::new(new_site[machine.data_center.get()]);
            machine.data_center = site.expect("positions only shrink");
        }
        let mut stays = data_centers.iter();
        self.parts.data_centers.retain(|_| stays.next() == Some(&true));
    }
}
