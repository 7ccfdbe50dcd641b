//! The structure that holds tuples: which (origin, egress IP, port) is taken, by whom, and until when.
//!
//! Everything shared is in the words and tags of a [`Memory`], by index, so that one design serves threads and
//! processes. No lock is held anywhere: every step is one atomic operation, and whoever stops between two of them
//! stops nobody else.
//!
//! ```text
//! header | workers | granules | origin slots, origin records | page slots, pages     tags of the pages
//! ```

use crate::error::{Error, Result};
use crate::net::Origin;
use crate::sync::{AtomicU64, Ordering::SeqCst};
use crate::time::Time;

use super::map::{
    CLOCK, Config, HASH_KEY, HEADER, Map, ORIGIN_COUNTERS, ORIGIN_SCARCE, OWNED, STATE, Size, TABLE_ID,
    WORKER_GRANTED, WORKER_STRIDE, check,
};
use super::page::{FULL, Page};
use super::pool::{GranuleSlot, Pool, Source};
use super::quarantine::{Closed, Millis};
use super::tag::{Class, Deadline, QUANTUM_MS, Tag};
use super::{Conflict, Explanation, Heap, Lease, Memory, Rejected, ReleaseError, Seed, Usage};

/// The origin record that stands for "every origin": its pages hold ports that strangers have.
const EVERY_ORIGIN: u32 = 0;

/// The last moment in milliseconds.
const END_OF_TIME: u64 = 1 << 54;

/// The structure that holds tuples; shared by all workers of a machine.
#[derive(Debug)]
pub struct Table<M: Memory = Heap> {
    memory: M,
    pub(super) map: Map,
    pub(super) config: Config,
    quarantine: Millis,
    id: u32,
}

impl Table {
    /// A table in memory of this process. `seed` keys the hashing of origins and names the table.
    ///
    /// # Errors
    /// As [`Table::in_memory`].
    pub fn new(config: Config, seed: Seed) -> Result<Self> {
        check(&config)?;
        Self::in_memory(config, Heap::zeroed(Map::new(&config).size)?, seed)
    }
}

impl<M: Memory> Table<M> {
    /// Memory that a table of this configuration needs.
    ///
    /// # Errors
    /// A number of the configuration is out of its range.
    pub fn size(config: &Config) -> Result<Size> {
        check(config)?;
        Ok(Map::new(config).size)
    }

    /// A new table in zeroed `memory`.
    ///
    /// # Errors
    /// A number of the configuration is out of its range; the memory is too small.
    pub fn in_memory(config: Config, memory: M, seed: Seed) -> Result<Self> {
        check(&config)?;
        let map = Map::new(&config);
        let (words, tags) = (memory.words(), memory.tags());
        if words.len() < map.size.words || tags.len() < map.size.tags {
            return Err(Error::input(format!(
                "memory of {} words and {} tags for a lease table that needs {} and {}",
                words.len(),
                tags.len(),
                map.size.words,
                map.size.tags
            )));
        }
        if words[..HEADER].iter().any(|word| word.load(SeqCst) != 0) {
            return Err(Error::input(
                "the memory for a new lease table is not zeroed; clear it, or give another",
            ));
        }
        for (at, part) in [HASH_KEY, HASH_KEY + 1, TABLE_ID].into_iter().zip(seed.chunks_exact(8)) {
            words[at].store(u64::from_le_bytes(part.try_into().expect("chunks of 8 bytes")), SeqCst);
        }
        // Record 0 stands for every origin.
        words[ORIGIN_COUNTERS].store(1, SeqCst);
        let id = words[TABLE_ID].load(SeqCst) as u32;
        Ok(Self { memory, map, config, quarantine: config.quarantine.millis(), id })
    }

    /// Gives a lease back. `closed` says how the connection ended, so that the tuple is held or rests as long as
    /// it must.
    ///
    /// # Errors
    /// The lease is not of this table, or has ended already; it comes back, and nothing has changed.
    pub fn release(&self, lease: Lease, closed: Closed, now: Time) -> core::result::Result<(), Rejected> {
        let now = self.clock(now);
        let (page, tag) = match self.live(&lease) {
            Ok(found) => found,
            Err(error) => return Err(Rejected { error, lease }),
        };
        let offset = u32::from(lease.offset);
        if page.is_due(now) {
            self.sweep(page, now);
        }
        let protocol = lease.origin().protocol();
        let (hold, rest) = self.quarantine[protocol as usize][closed as usize];
        // A hold comes before a rest.
        let span = if hold != 0 { hold } else { rest };
        let until = Deadline::after(Time::from_millis(now.as_millis().saturating_add(span)));
        let next = match (hold, rest) {
            (1.., _) => Tag::held(until),
            (0, 1..) => Tag::resting(until),
            (0, 0) => Tag::NONE,
        };
        if span != 0 {
            // Before the tag, so that whoever dies after it leaves a deadline that a sweep will see.
            self.kept_until(page, until);
        }
        if !page.swap_tag(offset, tag, next) {
            return Err(Rejected { error: ReleaseError::Stale, lease });
        }
        match (hold, rest) {
            (1.., _) => {}
            (0, 1..) => page.give_resting(offset),
            (0, 0) => self.give_free(page, offset),
        }
        Ok(())
    }

    /// Ends a lease that the kernel refused, and remembers why.
    ///
    /// # Errors
    /// As [`Table::release`].
    pub fn conflict(&self, lease: Lease, cause: Conflict, now: Time) -> core::result::Result<(), Rejected> {
        let now = self.clock(now);
        let (page, tag) = match self.live(&lease) {
            Ok(found) => found,
            Err(error) => return Err(Rejected { error, lease }),
        };
        let offset = u32::from(lease.offset);
        let park = match cause {
            Conflict::PortInUse => self.config.park_port,
            Conflict::TupleInUse | Conflict::NoSuchAddress => self.config.park_tuple,
        };
        let until = Deadline::after(now + park);
        if page.is_due(now) {
            self.sweep(page, now);
        }
        match cause {
            Conflict::PortInUse | Conflict::TupleInUse => {
                page.park();
                self.kept_until(page, until);
                if !page.swap_tag(offset, tag, Tag::parked(until)) {
                    page.unpark();
                    return Err(Rejected { error: ReleaseError::Stale, lease });
                }
                if cause == Conflict::PortInUse {
                    self.park_everywhere(GranuleSlot(page.identity() as u32), offset, until, now);
                }
            }
            Conflict::NoSuchAddress => {
                if !page.swap_tag(offset, tag, Tag::NONE) {
                    return Err(Rejected { error: ReleaseError::Stale, lease });
                }
                self.give_free(page, offset);
            }
        }
        Ok(())
    }

    /// The page and tag of a lease that is live here.
    #[inline]
    fn live(&self, lease: &Lease) -> core::result::Result<(Page<'_>, Tag), ReleaseError> {
        if lease.table != self.id || lease.page >= self.map.pages.capacity {
            return Err(ReleaseError::Foreign);
        }
        let page = self.page(lease.page);
        if page.has_tag(u32::from(lease.offset), lease.tag) {
            Ok((page, lease.tag))
        } else {
            Err(ReleaseError::Stale)
        }
    }

    fn park_everywhere(&self, granule: GranuleSlot, offset: u32, until: Deadline, now: Time) {
        // If there is no room for the page the tuple alone stays parked: other origins find out by themselves.
        let Some(index) = self.page_or_new(EVERY_ORIGIN, granule) else { return };
        let page = self.page(index);
        if page.is_due(now) {
            page.sweep(now);
        }
        if page.take(offset).is_some() {
            page.park();
            self.kept_until(page, until);
            page.set_tag(offset, Tag::parked(until));
        }
        let state = self.state_word(granule);
        let _ = state.fetch_update(SeqCst, SeqCst, |w| Some(w & STATE | u64::from(index + 1) << 8));
    }

    /// After a claim: may the port be granted, by the granule's state word? If a stranger has it, until when is it
    /// parked?
    #[inline]
    pub(super) fn verdict(&self, state: &AtomicU64, offset: u32, now: Time) -> Verdict {
        match state.load(SeqCst) {
            OWNED => Verdict::Grant,
            word if word & STATE != OWNED => Verdict::NotOwned,
            word => self.verdict_of_parked(word, offset, now),
        }
    }

    #[cold]
    fn verdict_of_parked(&self, word: u64, offset: u32, now: Time) -> Verdict {
        let page = self.page((word >> 8) as u32 - 1);
        if page.is_due(now) {
            page.sweep(now);
        }
        match page.tag(offset) {
            tag if tag.class() == Class::Parked => Verdict::Parked(tag),
            _ => Verdict::Grant,
        }
    }

    pub(super) fn park_tuple(&self, page: Page<'_>, offset: u32, tag: Tag, now: Time) {
        page.park();
        self.kept_until(page, tag.deadline(Deadline::after(now)));
        page.set_tag(offset, tag);
    }

    #[inline]
    pub(super) fn give_free(&self, page: Page<'_>, offset: u32) {
        page.give_free(offset);
        self.not_scarce(page);
    }

    pub(super) fn sweep(&self, page: Page<'_>, now: Time) {
        if page.sweep(now) {
            self.not_scarce(page);
        }
    }

    /// A tuple of the page comes free, or stops resting, at `until`.
    #[inline]
    fn kept_until(&self, page: Page<'_>, until: Deadline) {
        if page.kept_until(until) {
            // Free tuples may come back earlier than the hint says.
            self.not_scarce(page);
        }
    }

    #[inline]
    fn not_scarce(&self, page: Page<'_>) {
        let scarce = self.scarce((page.identity() >> 32) as u32);
        if scarce.load(SeqCst) != 0 {
            scarce.store(0, SeqCst);
        }
    }

    /// `until << 8 | pool`: no tuple is free towards this origin before that millisecond. 0: not known.
    #[inline]
    pub(super) fn scarce(&self, origin: u32) -> &AtomicU64 {
        &self.map.origins.record(self.words(), origin)[ORIGIN_SCARCE]
    }

    /// What is in use towards one origin, and when the first held tuple comes free.
    pub fn explain(&self, pool: &Pool, origin: &Origin, now: Time) -> Explanation {
        let now = self.clock(now);
        let sources = pool.sources(origin.ip().is_ipv6());
        let mut explanation = Explanation::new(pool.key(), *origin, sources.ports());
        if let Some(record) = self.find_origin(origin).filter(|_| pool.table() == self.id) {
            for (index, _) in sources.list().iter().enumerate() {
                if let Some(page) = self.find_page(record, sources.list()[index].granule) {
                    explanation.add(&self.page(page).counts(now));
                }
            }
        }
        explanation
    }

    /// The use of every (granule, origin) that was ever used, and of every port parked for all origins, in the
    /// order of their first use.
    ///
    /// Reads without stopping anyone: the counts of one page are as of one short moment, those of different pages
    /// of different ones. Reading samples the high-water marks too.
    pub fn usage(&self, now: Time) -> impl Iterator<Item = Usage> {
        let now = self.clock(now);
        (0..self.map.pages.used(self.words())).filter_map(move |index| self.page_usage(index, now))
    }

    fn page_usage(&self, index: u32, now: Time) -> Option<Usage> {
        let page = self.page(index);
        let (record, granule) = ((page.identity() >> 32) as u32, GranuleSlot(page.identity() as u32));
        // A page that lost the race for its slot waits in the free list: it is not the one that the slot names.
        if self.find_page(record, granule) != Some(index) {
            return None;
        }
        let (ip, range) = self.granule(granule);
        let origin = match record {
            EVERY_ORIGIN => None,
            _ => Some(self.origin_of(record)?),
        };
        let counts = page.counts(now);
        page.raise_peak(counts.live + counts.held);
        Some(Usage {
            egress_ip: ip,
            ports: range,
            origin,
            live: counts.live,
            held: counts.held,
            parked: counts.parked,
            resting: counts.resting,
            peak: page.peak(),
            refused: page.refused(),
        })
    }

    /// Leases granted by all workers since the table was made.
    pub fn granted(&self) -> u64 {
        (0..self.config.workers).map(|w| self.worker_words(w)[WORKER_GRANTED].load(SeqCst)).sum()
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Never goes back, whatever the callers' clocks do. One that runs far ahead stops time for the others until they
    /// catch up: holds then last longer, never shorter.
    #[inline]
    pub(super) fn clock(&self, now: Time) -> Time {
        let clock = &self.words()[CLOCK];
        let seen = clock.load(SeqCst);
        // Beyond the end no deadline could be told: in half a million years.
        let now = now.as_millis().min(END_OF_TIME).max(seen);
        if now - seen >= QUANTUM_MS {
            clock.fetch_max(now, SeqCst);
        }
        Time::from_millis(now)
    }

    #[inline]
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    #[inline]
    pub(super) fn worker_words(&self, worker: u8) -> &[AtomicU64] {
        let at = self.map.workers + worker as usize * WORKER_STRIDE;
        &self.words()[at..at + WORKER_STRIDE]
    }

    /// Can nothing be granted from this page? One load, without a view of all of it.
    #[inline]
    pub(super) fn is_full(&self, index: u32, now: Time) -> bool {
        let pages = &self.map.pages;
        Page::says_full(&self.words()[pages.first + index as usize * pages.stride + FULL], now)
    }

    #[inline]
    pub(super) fn page(&self, index: u32) -> Page<'_> {
        let ports = self.config.granule_ports as usize;
        let tags = index as usize * ports;
        Page::new(self.map.pages.record(self.words(), index), &self.memory.tags()[tags..tags + ports])
    }

    /// The sum of live and held over the pages of one egress IP towards one origin.
    pub(super) fn occupied(&self, origin: u32, row: &[Source]) -> u32 {
        let pages = row.iter().filter_map(|s| self.find_page(origin, s.granule));
        pages.map(|page| self.page(page).occupied()).sum()
    }
}

/// What the granule says about a port that was just claimed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    Grant,
    NotOwned,
    Parked(Tag),
}
