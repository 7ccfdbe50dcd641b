//! What is still open in a granule that grants nothing new? A machine that hands a granule over must say so, and must
//! not overlook anything.
//!
//! Whoever claims takes the port first and looks at the granule's state then. So once the state says *draining*, a port
//! that may still be granted is taken already, and is seen here, also before it has a tag.

use core::net::IpAddr;
use std::collections::BTreeSet;

use crate::net::{PortRange, Protocol};
use crate::sync::Ordering::SeqCst;
use crate::time::Time;

use super::home::{Home, Single, What};
use super::page::Page;
use super::pool::GranuleSlot;
use super::records::FIRST_ORIGIN;
use super::table::Table;
use super::tag::Class;
use super::{Memory, Method};

impl<M: Memory> Table<M> {
    /// The ports in `range` of `ip` that are live or held, towards any origin, ascending.
    ///
    /// Where the kernel chooses the port ([`Method::KernelRange`]) a connect may be under way of which nothing is known
    /// yet: all ports of such a granule count for a minute after it began to drain.
    pub fn busy_ports(&self, ip: IpAddr, range: PortRange, now: Time) -> Vec<u16> {
        let now = self.clock(now);
        let ip = crate::net::canonical_ip(ip);
        let granules: Vec<_> = self
            .granule_slots()
            .filter_map(|slot| {
                let (its, ports, method) = self.granule(slot)?;
                (its == ip && ports.overlaps(range)).then_some((slot, ports, method))
            })
            .collect();
        let mut busy = BTreeSet::new();
        for &(slot, ports, method) in &granules {
            if method == Method::KernelRange && self.has_not_before(slot, Protocol::Tcp, now) {
                busy.extend(ports.ports());
            }
        }
        self.each_busy(now, |slot, offset| {
            if let Some((_, ports, _)) = granules.iter().find(|(other, ..)| *other == slot) {
                busy.extend(u16::try_from(u32::from(ports.lo()) + offset));
            }
        });
        busy.into_iter().filter(|port| range.contains(*port)).collect()
    }

    /// Is nothing live or held, on any address?
    pub fn is_idle(&self, now: Time) -> bool {
        let mut is_idle = true;
        self.each_busy(self.clock(now), |_, _| is_idle = false);
        is_idle
    }

    /// Visits every tuple that is live or held, or taken and without a tag yet.
    fn each_busy(&self, now: Time, mut visit: impl FnMut(GranuleSlot, u32)) {
        // Home words first: a tuple moves from there into a page, never back.
        for record in FIRST_ORIGIN..self.map.origins.used(self.words()) {
            if let Home::Single(Single { granule, offset, what, .. }) =
                Home::of(self.home(record).load(SeqCst), now)
            {
                if matches!(what, What::Live(_)) || matches!(what, What::Held(until) if !until.passed(now)) {
                    visit(GranuleSlot(granule), offset);
                }
            }
        }
        for page in (0..self.map.pages.used(self.words())).map(|index| self.page(index)) {
            if !Page::is_open(page.life()) {
                // One that is closing is empty, or whoever claims there opens it again, and looks at the state then.
                continue;
            }
            let (granule, base) = (GranuleSlot(page.identity().granule()), page.base());
            for offset in 0..page.ports().min(self.config.granule_ports) {
                if !page.is_taken(offset) {
                    continue;
                }
                let tag = page.tag(offset);
                let is_over = match tag.class() {
                    Class::Parked => true,
                    Class::Held => tag.deadline(base).passed(now),
                    Class::Live | Class::NotTaken => false,
                };
                if !is_over {
                    visit(granule, offset);
                }
            }
        }
    }
}
