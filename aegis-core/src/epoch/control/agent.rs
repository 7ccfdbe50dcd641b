use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Busy, Reply, Report};
use crate::epoch::{Epoch, Layout};
use crate::id::MachineId;
use crate::net::PortRange;
use crate::time::Time;

/// What speaks for a machine: it knows which layout the machine has applied, and until when it may grant.
///
/// In this order, again and again: [`report`](Self::report) is sent; the answer goes to [`receive`](Self::receive); a
/// layout that comes back is put in force on the machine (granules that drain grant nothing any more, in every thread and
/// process) and then told to [`applied`](Self::applied). What is open is read after that, for the next report.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Agent {
    machine: MachineId,
    boot: u64,
    layout: Option<Arc<Layout>>,
    /// Until when it may grant, with the layout that it has.
    pub(super) until: Time,
    /// A tenure that counts as soon as a layout of that epoch is applied.
    pub(super) ahead: Option<(Epoch, Time)>,
    #[cfg(test)]
    pub(super) fault: Option<super::Fault>,
}

impl Agent {
    /// The agent of a machine whose software has just started: it may not grant yet. `boot` is a number that no other
    /// start has, for example a random one.
    pub const fn new(machine: MachineId, boot: u64) -> Self {
        Self {
            machine,
            boot,
            layout: None,
            until: Time::ZERO,
            ahead: None,
            #[cfg(test)]
            fault: None,
        }
    }

    /// The machine.
    pub const fn machine(&self) -> &MachineId {
        &self.machine
    }

    /// The layout that the machine has applied.
    pub const fn layout(&self) -> Option<&Arc<Layout>> {
        self.layout.as_ref()
    }

    /// Takes the answer to a report, however late. What comes back is a newer layout: put it in force, then say so to
    /// [`applied`](Self::applied).
    pub fn receive(&mut self, reply: &Reply) -> Option<Arc<Layout>> {
        if reply.machine != self.machine || reply.boot != self.boot {
            return None;
        }
        let until = reply.sent + reply.tenure;
        if self.has(reply.epoch) {
            self.until = self.until.max(until);
        } else {
            self.ahead = self.ahead.max(Some((reply.epoch, until)));
        }
        let layout = reply.layout.as_ref()?;
        self.is_newer(layout).then(|| Arc::clone(layout))
    }

    /// The layout is in force on the machine: no thread or process grants from what it drains, and will not by any look
    /// at the layout before. An older one than the last changes nothing.
    pub fn applied(&mut self, layout: Arc<Layout>) {
        if !self.is_newer(&layout) {
            return;
        }
        self.layout = Some(layout);
        if let Some((_, until)) = self
            .ahead
            .take_if(|(epoch, _)| self.layout.as_ref().is_some_and(|layout| layout.epoch() >= *epoch))
        {
            self.until = self.until.max(until);
        }
    }

    /// Until when, by the machine's clock, it may grant: its tenure. `Time::ZERO`: not at all.
    pub const fn granting_until(&self) -> Time {
        self.until
    }

    /// May the machine grant `port` of `ip` now?
    pub fn may_grant(&self, ip: IpAddr, port: u16, now: Time) -> bool {
        now < self.until && self.layout.as_ref().is_some_and(|layout| layout.grants(&self.machine, ip, port))
    }

    /// The granules that [`report`](Self::report) will ask for, in its order: where there are many, look at all of them
    /// at once before.
    pub fn asks(&self) -> Vec<(IpAddr, PortRange)> {
        let Some(layout) = &self.layout else { return Vec::new() };
        let range = |(address, granule, _)| Some((IpAddr::V4(address), layout.cut().range(granule)?));
        asked(layout, &self.machine).into_iter().filter_map(range).collect()
    }

    /// What to send now. `busy` says which ports of an address are live or held on the machine; it is asked only for
    /// granules where nothing new is granted, and only after the layout that says so was applied. `is_idle`: nothing at
    /// all is open.
    ///
    /// Ports that a restarted machine takes over from before must be known to `busy` by then.
    pub fn report(
        &self,
        now: Time,
        is_idle: bool,
        mut busy: impl FnMut(Ipv4Addr, PortRange) -> Vec<u16>,
    ) -> Report {
        let mut report = Report {
            machine: self.machine.clone(),
            boot: self.boot,
            sent: now,
            epoch: None,
            busy: Vec::new(),
            is_idle,
        };
        let Some(layout) = &self.layout else { return report };
        report.epoch = Some(layout.epoch());
        for (address, granule, since) in asked(layout, &self.machine) {
            let Some(range) = layout.cut().range(granule) else { continue };
            let mut ports = busy(address, range);
            ports.sort_unstable();
            ports.dedup();
            report.busy.push(Busy { address, granule, since, ports });
        }
        report
    }

    fn has(&self, epoch: Epoch) -> bool {
        #[cfg(test)]
        if self.fault == Some(super::Fault::NoEpochs) {
            return true;
        }
        self.layout.as_ref().is_some_and(|layout| layout.epoch() >= epoch)
    }

    fn is_newer(&self, layout: &Layout) -> bool {
        #[cfg(test)]
        if self.fault == Some(super::Fault::NoEpochs) {
            return true;
        }
        self.layout.as_ref().is_none_or(|mine| mine.epoch() < layout.epoch())
    }
}

/// The granules in which a machine grants nothing new and the controller waits for what is open.
fn asked(layout: &Layout, machine: &MachineId) -> BTreeSet<(Ipv4Addr, u16, Epoch)> {
    let Some(me) = layout.machine_index(machine) else { return BTreeSet::new() };
    let owner = |address, granule: u16| layout.row(address)?.owners()[usize::from(granule)];
    let moving = layout.handovers();
    let draining = moving
        .draining()
        .iter()
        .filter(|d| owner(d.address, d.granule) == Some(me))
        .map(|d| (d.address, d.granule, d.since));
    let behind = moving.holdouts().iter().filter(|h| h.machine == me).filter_map(|h| {
        let granule = layout.cut().granule_of(h.port)?;
        Some((h.address, granule, h.since))
    });
    draining.chain(behind).collect()
}
