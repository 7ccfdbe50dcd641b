use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::draft::{Draft, HandedOver};
use super::{Busy, Record, Reply, Report, RouterReport, Settings, retarget};
use crate::epoch::layout::Parts;
use crate::epoch::{Departure, Epoch, Holdout, Layout, NumberedMachine, Previous, Standing};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{MachineId, RouterId};
use crate::time::Time;

/// Decides when ownership changes. There may be several: what they agree on is in the [`Record`].
///
/// Whenever the version of [`record`](Self::record) has changed: store it where it is compared and swapped, and only then
/// send what the call has returned. If another controller was faster, send nothing and [`reload`](Self::reload).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Controller {
    settings: Settings,
    pub(super) record: Record,
    /// The last renewal of each machine that this controller has seen, and when.
    pub(super) renewals: BTreeMap<MachineId, (u64, Seen)>,
    /// What owners have said is open, by drain.
    busy: BTreeMap<Place, Vec<u16>>,
    /// When this controller first saw a drain, or an owner that went.
    pub(super) first_seen: BTreeMap<Place, Seen>,
    /// Leaving machines of which nothing is open.
    idle: BTreeSet<MachineId>,
    /// What routers steer by.
    routers: BTreeMap<RouterId, Epoch>,
    #[cfg(test)]
    pub(super) fault: Option<super::Fault>,
}

/// A granule, since an epoch.
type Place = (Ipv4Addr, u16, Epoch);

/// When a controller saw something in the record for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Seen {
    pub(super) at: Time,
    /// It has written it itself, and cannot know that the write took place: another controller's may have, later, and
    /// with the same number.
    is_own: bool,
}

impl Controller {
    /// A controller that has just started, or has just become the one in charge. As far as it knows every machine has
    /// a whole tenure before it.
    pub fn new(settings: Settings, record: Record, now: Time) -> Self {
        let mut controller = Self {
            settings,
            record,
            renewals: BTreeMap::new(),
            busy: BTreeMap::new(),
            first_seen: BTreeMap::new(),
            idle: BTreeSet::new(),
            routers: BTreeMap::new(),
            #[cfg(test)]
            fault: None,
        };
        controller.observe(now, false);
        controller
    }

    /// What has been agreed on.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Another controller has changed the record: this is what it says. `now` is no earlier than when it was read.
    pub fn reload(&mut self, record: Record, now: Time) {
        // What this controller has written may never have been stored, and what has that number may be newer.
        #[cfg(test)]
        let trusts = self.fault == Some(super::Fault::TrustsLostSwaps);
        #[cfg(not(test))]
        let trusts = false;
        self.renewals.retain(|_, (_, seen)| !seen.is_own || trusts);
        self.first_seen.retain(|_, seen| !seen.is_own);
        // The machine may have come back and left again meanwhile.
        self.idle.clear();
        self.record = record;
        self.observe(now, false);
    }

    /// A machine reports: its tenure is renewed, and what it says is open may let handovers complete.
    ///
    /// # Errors
    /// The machine is not in the layout in force; it has a later layout, so that this record is not the last one; or it
    /// says that ports are open in a granule which they are not in. Nothing has changed.
    pub fn report(&mut self, report: &Report, now: Time) -> Result<Reply> {
        let layout = Arc::clone(&self.record.layout);
        let Some(index) = layout.machine_index(&report.machine) else {
            return Err(Error::input(format!(
                "machine {} reports, but the layout of epoch {} does not have it; add it to the fleet",
                report.machine,
                layout.epoch()
            )));
        };
        if let Some(epoch) = report.epoch.filter(|epoch| *epoch > layout.epoch()) {
            let fault = format!(
                "machine {} has the layout of epoch {epoch}, but the record is at {}: another controller is ahead, or the \
                 record was lost; read the last one",
                report.machine,
                layout.epoch()
            );
            return Err(Error::new(ErrorKind::Reload, fault));
        }
        for Busy { address, granule, ports, .. } in &report.busy {
            let strays = |port: &&u16| layout.cut().granule_of(**port) != Some(*granule);
            if let Some(port) = ports.iter().find(strays) {
                return Err(Error::input(format!(
                    "machine {} reports port {port} of {address} as open in granule {granule}, where it is not",
                    report.machine
                )));
            }
        }
        self.record.version += 1;
        let renewal = self.record.version;
        self.record.renewals.insert(report.machine.clone(), renewal);
        self.record.longest_tenure = self.record.longest_tenure.max(self.settings.tenure);
        self.renewals.insert(report.machine.clone(), (renewal, Seen { at: now, is_own: true }));
        self.hear(report, &layout, index);
        self.advance(now)?;
        let layout = &self.record.layout;
        Ok(Reply {
            machine: report.machine.clone(),
            boot: report.boot,
            sent: report.sent,
            tenure: self.settings.tenure,
            epoch: layout.epoch(),
            layout: (report.epoch != Some(layout.epoch())).then(|| Arc::clone(layout)),
        })
    }

    /// A router says which layout it steers by; the answer is a newer one.
    ///
    /// # Errors
    /// The settings do not know it; nothing has changed.
    pub fn router_report(&mut self, report: &RouterReport, now: Time) -> Result<Option<Arc<Layout>>> {
        if !self.settings.routers.contains(&report.router) {
            return Err(Error::input(format!(
                "router {} reports, but is not in the settings; handovers would not wait for it",
                report.router
            )));
        }
        let epoch = self.routers.entry(report.router.clone()).or_insert(report.epoch);
        *epoch = report.epoch.max(*epoch);
        self.advance(now)?;
        let layout = &self.record.layout;
        Ok((report.epoch < layout.epoch()).then(|| Arc::clone(layout)))
    }

    /// Time has passed: a tenure, a deadline or a rest may be over.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn tick(&mut self, now: Time) -> Result<()> {
        self.advance(now)
    }

    /// Machines whose tenure is over on every clock: take them out of the fleet, build a layout without them and
    /// [`retarget`](Self::retarget), or wait for them to come back.
    pub fn dead(&self, now: Time) -> impl Iterator<Item = &MachineId> {
        let machines = self.record.layout.machines().iter().map(|machine| &machine.id);
        machines.filter(move |id| self.died_at(id).is_some_and(|at| at <= now))
    }

    /// From now on the fleet goes towards `target`, a layout that was built after the one in force: granules that nobody
    /// has are its new owners' at once, those of a dead machine too, all others drain.
    ///
    /// # Errors
    /// `target` is not newer than the layout in force, is on the move itself, or cuts addresses otherwise; or a machine has
    /// another data center or number than in force (its IPv6 addresses would change hands at once), or the number of one
    /// that is still leaving. Build `target` with the layout in force as the previous one. Nothing has changed.
    pub fn retarget(&mut self, target: &Layout, now: Time) -> Result<()> {
        let parts = retarget::towards(&self.record.layout, target)?;
        // Checked once as it is, so that a fault of the target is not taken for ours.
        Layout::try_from(parts.clone()).map_err(|error| {
            Error::input(format!(
                "the layout in force cannot go towards that of epoch {}: {error}",
                target.epoch()
            ))
        })?;
        self.commit(Draft::over(parts), now)
    }

    /// Remembers what a machine says is open.
    fn hear(&mut self, report: &Report, layout: &Layout, index: crate::epoch::MachineIndex) {
        for said in &report.busy {
            let moving = layout.handovers();
            let since = |since: Epoch| {
                #[cfg(test)]
                if self.fault == Some(super::Fault::NoEpochs) {
                    return true;
                }
                since == said.since
            };
            let owner = |address| layout.row(address)?.owners().get(usize::from(said.granule)).copied()?;
            let drain = moving.draining_of(said.address, said.granule);
            let draining =
                drain.filter(|d| since(d.since) && owner(said.address) == Some(index)).map(|d| d.since);
            let behind = || {
                let range = layout.cut().range(said.granule)?;
                let holdouts = moving.holdouts_in(said.address, range.lo(), range.hi());
                holdouts.iter().find(|h| h.machine == index && since(h.since)).map(|h| h.since)
            };
            if let Some(since) = draining.or_else(behind) {
                let place = (said.address, said.granule, since);
                match self.busy.entry(place) {
                    // What is open there only gets less: of two reports, whichever came first, both are right.
                    std::collections::btree_map::Entry::Occupied(mut known) => {
                        let said: BTreeSet<u16> = said.ports.iter().copied().collect();
                        known.get_mut().retain(|port| said.contains(port));
                    }
                    std::collections::btree_map::Entry::Vacant(new) => {
                        // In order and each once, whatever was sent.
                        let said: BTreeSet<u16> = said.ports.iter().copied().collect();
                        new.insert(said.into_iter().collect());
                    }
                }
            }
        }
        let leaves = layout.machines()[index.get()].standing == Standing::Leaving;
        if report.is_idle && leaves && report.epoch == Some(layout.epoch()) {
            self.idle.insert(report.machine.clone());
        } else {
            self.idle.remove(&report.machine);
        }
    }

    /// Does what has become possible.
    fn advance(&mut self, now: Time) -> Result<()> {
        let layout = Arc::clone(&self.record.layout);
        let next = layout.epoch().get().checked_add(1);
        let next = next.ok_or_else(|| Error::input(format!("no epoch comes after {}", layout.epoch())))?;
        let next = Epoch::new(next);
        // Most reports change nothing, and a large layout takes long to copy.
        if self.is_anything_possible(layout.as_parts(), next, now) {
            self.commit(Draft::of(&layout, next), now)?;
        }
        Ok(())
    }

    /// Would a draft of that epoch change anything? It may say yes in vain, never no.
    fn is_anything_possible(&self, parts: &Parts, epoch: Epoch, now: Time) -> bool {
        let moving = &parts.handovers;
        let mut is_closed = self.closed(parts.cut.granule().shift(), now);
        !self.completed(parts, epoch, now).is_empty()
            || moving.holdouts().iter().any(|holdout| is_closed(holdout, &parts.machines))
            || moving.previous().iter().any(|previous| self.is_known_to_all(previous, now))
            || parts.machines.iter().any(|m| m.standing == Standing::Leaving && self.is_gone(&m.id, now))
    }

    /// Does in a draft what has become possible, and puts it in force if anything has changed.
    fn commit(&mut self, mut draft: Draft, now: Time) -> Result<()> {
        // All is decided before anything moves: lists are searched while they are in order.
        let completed = self.completed(draft.parts(), draft.parts().epoch, now);
        draft.hand_over(&completed);
        self.forget(&mut draft, now);
        if let Some(layout) = draft.finish()? {
            self.record.layout = Arc::new(layout);
            self.record.version += 1;
            let layout = &self.record.layout;
            self.record.renewals.retain(|id, _| layout.machine_index(id).is_some());
            for machine in layout.machines() {
                self.record.renewals.entry(machine.id.clone()).or_insert(self.record.version);
            }
            self.observe(now, true);
        }
        Ok(())
    }

    /// The drains that can complete in the layout of `epoch`.
    fn completed(&self, parts: &Parts, epoch: Epoch, now: Time) -> Vec<HandedOver<'_>> {
        let mut completed = Vec::new();
        for &drain in parts.handovers.draining() {
            let Some(owner) = parts.owner(drain.address, drain.granule) else { continue };
            let mut complete = |busy, departure| completed.push(HandedOver { drain, busy, departure });
            let previous = parts.handovers.previous_of(drain.address, drain.granule);
            if self.died_at(&parts.machines[owner.get()].id).is_some_and(|at| at <= now) {
                // A rest after another death does not matter, but routers do: see below.
                if previous.is_none_or(|previous| self.routers_know(previous, now)) {
                    complete(&[], Departure::Died);
                }
                continue;
            }
            // One change of a granule at a time, or a router that is behind would send to the owner before the last.
            if previous.is_some() {
                continue;
            }
            let place = (drain.address, drain.granule, drain.since);
            #[cfg(test)]
            if self.fault == Some(super::Fault::CompletesEarly) && epoch > drain.since {
                complete(&[], Departure::HandedOver);
                continue;
            }
            #[cfg(not(test))]
            let _ = epoch;
            let Some(busy) = self.busy.get(&place) else { continue };
            let is_late =
                self.first_seen.get(&place).is_some_and(|seen| seen.at + self.settings.drain <= now);
            if busy.is_empty() || is_late {
                complete(busy, Departure::HandedOver);
            }
        }
        completed
    }

    /// Takes what is over out of a draft.
    fn forget(&self, draft: &mut Draft, now: Time) {
        let shift = draft.parts().cut.granule().shift();
        draft.forget_holdouts(self.closed(shift, now));
        draft.forget_previous(|previous| self.is_known_to_all(previous, now));
        draft.forget_machines(|id| self.is_gone(id, now));
    }

    /// Is a port closed at last?
    fn closed(&self, shift: u32, now: Time) -> impl FnMut(&Holdout, &[NumberedMachine]) -> bool {
        // Ports of one granule are neighbours, and stayed behind at one machine.
        let mut last = None;
        move |holdout, machines| {
            let said = self.busy.get(&(holdout.address, holdout.port >> shift, holdout.since));
            let has_closed = said.is_some_and(|ports| ports.binary_search(&holdout.port).is_err());
            let died = match last {
                Some((machine, died)) if machine == holdout.machine => died,
                _ => self.died_at(&machines[holdout.machine.get()].id),
            };
            last = Some((holdout.machine, died));
            // What a dead machine had open may be UDP.
            has_closed || died.is_some_and(|at| at + self.settings.udp_rest <= now)
        }
    }

    /// Does no router steer by an owner before any more?
    fn is_known_to_all(&self, previous: &Previous, now: Time) -> bool {
        let Some(first_seen) = self.first_seen_of(previous) else { return false };
        let rest = match previous.departure {
            Departure::HandedOver => Time::ZERO,
            // Its new owner must hear of the death before that is forgotten, or until it does not matter any more.
            Departure::Died => first_seen + self.settings.udp_rest,
        };
        rest <= now && self.routers_know(previous, now)
    }

    /// Do all routers know that an owner went, or was that waited for long enough?
    fn routers_know(&self, previous: &Previous, now: Time) -> bool {
        let knows = |router| self.routers.get(router).is_some_and(|epoch| *epoch >= previous.since);
        let waited = |seen: Time| seen + self.settings.routers_patience <= now;
        self.settings.routers.iter().all(knows) || self.first_seen_of(previous).is_some_and(waited)
    }

    /// When this controller first saw that an owner had gone.
    fn first_seen_of(&self, previous: &Previous) -> Option<Time> {
        let place = (previous.address, previous.granule, previous.since);
        self.first_seen.get(&place).map(|seen| seen.at)
    }

    /// Has a leaving machine gone?
    fn is_gone(&self, id: &MachineId, now: Time) -> bool {
        // The next machine of that number has its IPv6 addresses: late answers for a dead one must have ended.
        let rested = |at: Time| at + self.settings.udp_rest <= now;
        self.idle.contains(id) || self.died_at(id).is_some_and(rested)
    }

    /// When the tenure of a machine is over on every clock.
    fn died_at(&self, id: &MachineId) -> Option<Time> {
        let (renewal, seen) = self.renewals.get(id)?;
        let is_last = self.record.renewals.get(id) == Some(renewal);
        let tenure = self.settings.tenure.max(self.record.longest_tenure);
        is_last.then(|| seen.at + tenure + self.settings.margin)
    }

    /// Looks at what the record says now, and forgets what is over.
    fn observe(&mut self, now: Time, is_own: bool) {
        let layout = Arc::clone(&self.record.layout);
        let seen = Seen { at: now, is_own };
        for (machine, renewal) in &self.record.renewals {
            match self.renewals.get(machine) {
                Some((known, _)) if known == renewal => {}
                _ => drop(self.renewals.insert(machine.clone(), (*renewal, seen))),
            }
        }
        self.renewals.retain(|id, _| layout.machine_index(id).is_some());
        self.idle.retain(|id| {
            let index = layout.machine_index(id);
            index.is_some_and(|index| layout.machines()[index.get()].standing == Standing::Leaving)
        });
        let moving = layout.handovers();
        let shift = layout.cut().granule().shift();
        let drains = moving.draining().iter().map(|d| (d.address, d.granule, d.since));
        let behind = moving.holdouts().iter().map(|h| (h.address, h.port >> shift, h.since));
        let open: BTreeSet<Place> = drains.chain(behind).collect();
        self.busy.retain(|place, _| open.contains(place));
        let previous = moving.previous().iter().map(|p| (p.address, p.granule, p.since));
        let places: BTreeSet<Place> = open.into_iter().chain(previous).collect();
        self.first_seen.retain(|place, _| places.contains(place));
        for place in places {
            self.first_seen.entry(place).or_insert(seen);
        }
    }
}
