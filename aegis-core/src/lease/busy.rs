//! What is still open in a granule that grants nothing new? A machine that hands a granule over must say so, and must
//! not overlook anything.
//!
//! Whoever claims takes the port first and looks at the granule's state then. So once the state says *draining*, a port
//! that may still be granted is taken already, and is seen here, also before it has a tag.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

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
        self.busy_ports_of(&[(ip, range)], now).pop().expect("an answer to each")
    }

    /// [`busy_ports`](Self::busy_ports) of many ranges, in their order, in one walk through the table.
    pub fn busy_ports_of(&self, asked: &[(IpAddr, PortRange)], now: Time) -> Vec<Vec<u16>> {
        let now = self.clock(now);
        let asked: Vec<_> = asked.iter().map(|(ip, range)| (crate::net::canonical_ip(*ip), *range)).collect();
        let mut granules = BTreeMap::new();
        let mut busy = BTreeSet::new();
        for slot in self.granule_slots() {
            let Some((ip, ports, method)) = self.granule(slot) else { continue };
            if asked.iter().any(|(other, range)| *other == ip && ports.overlaps(*range)) {
                granules.insert(slot, (ip, ports.lo()));
                if method == Method::KernelRange && self.has_not_before(slot, Protocol::Tcp, now) {
                    busy.extend(ports.ports().map(|port| (ip, port)));
                }
            }
        }
        self.each_busy(
            now,
            |slot| granules.contains_key(&slot),
            |slot, offset| {
                if let Some((ip, lo)) = granules.get(&slot) {
                    busy.extend(u16::try_from(u32::from(*lo) + offset).map(|port| (*ip, port)));
                }
            },
        );
        let inside = |(ip, range): &(IpAddr, PortRange)| {
            busy.range((*ip, range.lo())..=(*ip, range.hi())).map(|(_, port)| *port).collect()
        };
        asked.iter().map(inside).collect()
    }

    /// Is nothing live or held, on any address?
    pub fn is_idle(&self, now: Time) -> bool {
        let mut is_idle = true;
        self.each_busy(self.clock(now), |_| true, |_, _| is_idle = false);
        is_idle
    }

    /// Visits every tuple of the granules that are asked for that is live or held, or taken and without a tag yet.
    fn each_busy(
        &self,
        now: Time,
        is_asked: impl Fn(GranuleSlot) -> bool,
        mut visit: impl FnMut(GranuleSlot, u32),
    ) {
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
            // Only one that has ended is empty for certain, for whoever claims there looks at the state after it is in use
            // again. One that is closing is looked at by somebody who does not know yet whether it is empty; and one that
            // seems private may be what a home word leads to already, with a tuple that came from there: in both whoever
            // is at it may be stopped, or dead.
            if Page::is_free(page.life()) {
                continue;
            }
            let (granule, base) = (GranuleSlot(page.identity().granule()), page.base());
            if !is_asked(granule) {
                continue;
            }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::page::Shape;
    use super::super::{Config, PoolKey, Worker};
    use super::*;
    use crate::net::Origin;

    const NOW: Time = Time::from_millis(1_000);

    #[test]
    fn a_page_hides_nothing_while_somebody_is_stopped_who_publishes_it_or_looks_whether_it_is_empty() {
        let config =
            Config { granule_ports: 4, granules: 1, origins: 4, pages: 2, workers: 2, ..Config::default() };
        let table = Arc::new(Table::new(config, [7; 32]).unwrap());
        let ip = "192.0.2.1".parse().unwrap();
        let range = PortRange::new(5_000, 5_003).unwrap();
        let granule = table.add_granule(ip, range).unwrap();
        let pool = table.pool(PoolKey(1), [granule]).unwrap();
        let mut worker = Worker::attach(Arc::clone(&table), [1; 32]).unwrap();
        let origin = Origin::new(Protocol::Tcp, ([203, 0, 113, 7], 443).into()).unwrap();
        let leases = [0; 2].map(|_| worker.acquire_to(&pool, &origin, NOW).unwrap());
        let mut open: Vec<u16> = leases.iter().map(|lease| table.source(lease).unwrap().port()).collect();
        open.sort_unstable();
        let page = table.page(0);
        assert_eq!(table.busy_ports(ip, range, NOW), open);
        // Between the two steps of `Page::ended`.
        page.begin_to_end();
        assert_eq!(table.busy_ports(ip, range, NOW), open, "closing");
        assert!(!table.is_idle(NOW));
        // Between the exchange of the home word and `Page::publish_life`.
        page.open(page.identity(), Shape { ports: 4, protocol: Protocol::Tcp, profile: 0 });
        assert_eq!(table.busy_ports(ip, range, NOW), open, "not published yet");
        assert!(!table.is_idle(NOW));
    }
}
