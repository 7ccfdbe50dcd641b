//! What a table says about itself: counts, never reports.

use core::fmt;
use core::net::IpAddr;

use crate::net::{Origin, PortRange};
use crate::time::Time;

use super::Memory;
use super::home::{Home, Single, What};
use super::page::{Counts, Page};
use super::pool::{GranuleSlot, Pool, PoolKey, Use};
use super::records::FIRST_ORIGIN;
use super::table::Table;
use crate::sync::Ordering::SeqCst;

/// The use of one granule towards one origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Source address.
    pub egress_ip: IpAddr,
    /// Source ports of the granule.
    pub ports: PortRange,
    /// Towards which origin; `None`: ports that are used towards all of them, or that strangers hold towards all.
    pub origin: Option<Origin>,
    /// Leases.
    pub live: u32,
    /// Released tuples that must not be granted yet.
    pub held: u32,
    /// Ports or tuples that strangers on the host have.
    pub parked: u32,
    /// Released tuples that may be granted, but are not preferred.
    pub resting: u32,
    /// Most live + held at one time over all granules of this egress IP towards this origin since it was last reported, as
    /// sampled: whenever so many leases were granted in a granule that its counter passes a multiple of 64, when a pool
    /// turns out full, and at every read. It is too low by fewer than 64 for each worker, and 128 more, in each granule.
    pub peak: u32,
}

/// What a tuple in a home word counts.
fn single(what: What, now: Time) -> Counts {
    let mut counts = Counts::default();
    match what {
        What::Live(_) => counts.live = 1,
        _ if what.is_over(now) => {}
        What::Held(until) => (counts.held, counts.first_free) = (1, Some(until.time())),
        What::Parked(_) => counts.parked = 1,
        What::Resting(_) => counts.resting = 1,
    }
    counts
}

impl<M: Memory> Table<M> {
    /// What is in use towards one origin, and when the first held tuple comes free.
    pub fn explain(&self, pool: &Pool, origin: &Origin, now: Time) -> Explanation {
        let now = self.clock(now);
        let ipv6 = origin.ip().is_ipv6();
        let mut explanation = Explanation::new(pool.key(), *origin, pool.capacity(ipv6));
        if pool.table() != self.id() {
            return explanation;
        }
        let record = self.find_origin(origin);
        for sources in [Use::Chosen, Use::KernelRange].map(|wanted| pool.sources(wanted, ipv6)) {
            for source in sources.list() {
                let Some(record) = (match source.is_wildcard {
                    true => Some(super::records::Record::any_origin(origin.protocol())),
                    false => record,
                }) else {
                    continue;
                };
                match Home::of(self.home(record.index).load(SeqCst), now) {
                    Home::Single(Single { granule, what, .. }) if granule == source.granule.0 => {
                        explanation.add(&single(what, now));
                    }
                    Home::Pages { .. } => {
                        if let Some(page) = self.find_page(record, source.granule) {
                            explanation.add(&self.page(page.index).counts(now));
                        }
                    }
                    _ => {}
                }
            }
        }
        explanation
    }

    /// The use of every (granule, origin) in use, and of every port parked for all origins.
    ///
    /// Reads without stopping anyone: the counts of one page are as of one short moment, those of different pages
    /// of different ones. Reading samples the high-water marks too.
    pub fn usage(&self, now: Time) -> impl Iterator<Item = Usage> {
        let now = self.clock(now);
        let singles = FIRST_ORIGIN..self.map.origins.used(self.words());
        let pages = 0..self.map.pages.used(self.words());
        let singles = singles.filter_map(move |record| self.single_usage(record, now));
        singles.chain(pages.filter_map(move |index| self.page_usage(index, now)))
    }

    fn single_usage(&self, record: u32, now: Time) -> Option<Usage> {
        let Home::Single(Single { granule, what, .. }) = Home::of(self.home(record).load(SeqCst), now) else {
            return None;
        };
        let counts = single(what, now);
        let peak = counts.live + counts.held;
        self.row(record, GranuleSlot(granule), &counts, peak)
    }

    fn page_usage(&self, index: u32, now: Time) -> Option<Usage> {
        let page = self.page(index);
        let identity = page.identity();
        if !Page::is_open(page.life()) || identity.record() >= self.map.origins.capacity {
            return None;
        }
        let counts = page.counts(now);
        page.raise_peak(counts.live + counts.held);
        self.row(identity.record(), GranuleSlot(identity.granule()), &counts, page.peak())
    }

    /// The high-water marks, for who reports them: they begin again with the next sample.
    pub(crate) fn take_peaks(&self) -> impl Iterator<Item = (IpAddr, Option<Origin>, u32)> {
        (0..self.map.pages.used(self.words())).filter_map(|index| {
            let page = self.page(index);
            let (life, identity) = (page.life(), page.identity());
            let peak = page.take_peak();
            if peak == 0 || !Page::is_open(life) || identity.record() >= self.map.origins.capacity {
                return None;
            }
            let row =
                self.row(identity.record(), GranuleSlot(identity.granule()), &Counts::default(), peak)?;
            // The same life after the origin, so that it is that one's.
            (page.life() == life).then_some((row.egress_ip, row.origin, peak))
        })
    }

    fn row(&self, record: u32, granule: GranuleSlot, counts: &Counts, peak: u32) -> Option<Usage> {
        let (egress_ip, ports, _) = self.granule(granule)?;
        let Counts { live, held, parked, resting, .. } = *counts;
        let origin = self.origin_of(record);
        Some(Usage { egress_ip, ports, origin, live, held, parked, resting, peak })
    }

    /// The sum of live and held over the pages of one egress IP towards one origin.
    pub(super) fn occupied(&self, record: super::records::Record, row: &[super::pool::Source]) -> u32 {
        let pages = row.iter().filter_map(|source| self.find_page(record, source.granule));
        pages.map(|page| self.page(page.index).occupied()).sum()
    }
}

/// Why a pool is exhausted towards an origin, or how near it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Which pool.
    pub pool: PoolKey,
    /// Towards which origin.
    pub origin: Origin,
    /// Ports of this machine's shares.
    pub capacity: u32,
    /// Leases.
    pub live: u32,
    /// Released tuples that must not be granted yet.
    pub held: u32,
    /// Released tuples that may be granted, but are not preferred.
    pub resting: u32,
    /// Tuples that strangers on the host have.
    pub parked: u32,
    /// When the first held tuple comes free.
    pub first_free: Option<Time>,
}

impl Explanation {
    pub(super) fn new(pool: PoolKey, origin: Origin, capacity: u32) -> Self {
        Self { pool, origin, capacity, live: 0, held: 0, resting: 0, parked: 0, first_free: None }
    }

    pub(super) fn add(&mut self, counts: &Counts) {
        self.live += counts.live;
        self.held += counts.held;
        self.resting += counts.resting;
        self.parked += counts.parked;
        self.first_free = match (self.first_free, counts.first_free) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, origin, capacity, live, held, resting, parked, first_free } = self;
        write!(
            f,
            "pool {} to {origin}: {live} live, {held} held, {resting} resting, {parked} parked of {capacity} ports",
            pool.0
        )?;
        match first_free {
            Some(time) => write!(f, "; the first held tuple comes free at {time}"),
            None => Ok(()),
        }
    }
}
