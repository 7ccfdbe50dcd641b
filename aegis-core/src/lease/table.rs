//! The structure that holds tuples: which (origin, egress IP, port) is taken, by whom, and until when.
//!
//! Everything shared is in the words and tags of a [`Memory`], by index, so that one design serves threads and
//! processes. No lock is held anywhere: every step is one atomic operation, and whoever stops between two of them
//! stops nobody else.
//!
//! ```text
//! header | workers | granules | origin slots, origin records | page slots, pages     tags of the pages
//! ```

use core::hash::Hasher;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

use siphasher::sip::SipHasher13;

use crate::error::{Error, ErrorKind, Result};
use crate::net::{Origin, PortRange, Protocol};
use crate::sync::{AtomicU64, Ordering::SeqCst};
use crate::time::Time;

use super::arena::Arena;
use super::page::{self, Page};
use super::pool::{GranuleSlot, Pool, PoolKey, Source};
use super::quarantine::{Closed, Millis, Quarantine};
use super::tag::{Class, Deadline, MAX_WORKERS, QUANTUM_MS, Tag};
use super::{AcquireError, Conflict, Explanation, Heap, Lease, Memory, Rejected, ReleaseError, Seed, Usage};

/// How much a lease table can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Most ports in one granule.
    pub granule_ports: u32,
    /// Most granules, over all epochs.
    pub granules: u32,
    /// Most origins with state at a time.
    pub origins: u32,
    /// Most pages: one for each granule and origin that are used together.
    pub pages: u32,
    /// Most workers at a time, at most 127.
    pub workers: u8,
    /// How long released tuples are held, and rest.
    pub quarantine: Quarantine,
    /// A port that a stranger blocks is tried again after this time. Each try costs a failed `bind`.
    pub park_port: Duration,
    /// A tuple that a stranger has is tried again after this time. Short, because the stranger may be ourselves: a
    /// connection that the peer closed first is not quite gone (LAST_ACK) until the peer's last answer.
    pub park_tuple: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            granule_ports: crate::limits::DEFAULT_GRANULE_PORTS,
            granules: 4_096,
            origins: 65_536,
            pages: 65_536,
            workers: 64,
            quarantine: Quarantine::default(),
            park_port: Duration::from_secs(60),
            park_tuple: Duration::from_secs(2),
        }
    }
}

/// Memory that a table needs: numbers of words and of tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// 64-bit words.
    pub words: usize,
    /// 16-bit tags.
    pub tags: usize,
}

// Header words.
const HASH_KEY: usize = 0;
const TABLE_ID: usize = 2;
/// The latest time that anyone has seen, in milliseconds, at most a quantum behind.
const CLOCK: usize = 3;
const ORIGIN_COUNTERS: usize = 4;
const PAGE_COUNTERS: usize = 6;
const GRANULE_COUNT: usize = 8;
/// 1 while somebody adds granules.
const GRANULE_ADDER: usize = 9;
const HEADER: usize = 16;

// A worker's words; padded so that no two workers share a cache line, wherever the memory starts.
pub(super) const WORKER_STRIDE: usize = 16;
pub(super) const WORKER_ATTACHED: usize = 0;
/// `page << 32 | offset + 1` while a port is taken but its tag is not set yet.
pub(super) const WORKER_INTENT: usize = 1;
pub(super) const WORKER_GRANTED: usize = 2;

// A granule's words: address (2), ports, state and parked page.
const GRANULE_STRIDE: usize = 4;
const GRANULE_RANGE: usize = 2;
const GRANULE_STATE: usize = 3;

// An origin's words: address (2), port and protocol, hint that free tuples are scarce.
const ORIGIN_STRIDE: usize = 4;
const ORIGIN_PORT: usize = 2;
const ORIGIN_SCARCE: usize = 3;

/// The origin record that stands for "every origin": its pages hold ports that strangers have.
const EVERY_ORIGIN: u32 = 0;

/// Most ports of a pool on one machine: a random draw has 32 bits, and four of them are spare.
const MAX_POOL_PORTS: u64 = 1 << 28;

/// The last moment in milliseconds.
const END_OF_TIME: u64 = 1 << 54;

/// May the table grant from a granule?
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GranuleState {
    /// It belongs to this machine.
    Owned,
    /// It is leaving: live leases stay, no new ones are granted.
    Draining,
}

/// Places of all parts, from the configuration alone.
#[derive(Clone, Copy, Debug)]
struct Map {
    workers: usize,
    granules: usize,
    origin_slots: usize,
    origin_mask: u64,
    origins: Arena,
    page_slots: usize,
    page_mask: u64,
    pages: Arena,
    size: Size,
}

impl Map {
    fn new(config: &Config) -> Self {
        let slots = |records: u32| (records as usize * 2).next_power_of_two();
        let workers = HEADER;
        let granules = workers + config.workers as usize * WORKER_STRIDE;
        let origin_slots = granules + config.granules as usize * GRANULE_STRIDE;
        let origins = Arena {
            counters: ORIGIN_COUNTERS,
            first: origin_slots + slots(config.origins),
            stride: ORIGIN_STRIDE,
            capacity: config.origins.saturating_add(1),
        };
        let page_slots = origins.first + origins.words();
        let pages = Arena {
            counters: PAGE_COUNTERS,
            first: page_slots + slots(config.pages) * 2,
            stride: page::HEADER + Page::state_words(config.granule_ports),
            capacity: config.pages,
        };
        let size = Size {
            words: pages.first + pages.words(),
            tags: config.pages as usize * config.granule_ports as usize,
        };
        Self {
            workers,
            granules,
            origin_slots,
            origin_mask: slots(config.origins) as u64 - 1,
            origins,
            page_slots,
            page_mask: slots(config.pages) as u64 - 1,
            pages,
            size,
        }
    }
}

/// The structure that holds tuples; shared by all workers of a machine.
#[derive(Debug)]
pub struct Table<M: Memory = Heap> {
    memory: M,
    map: Map,
    config: Config,
    quarantine: Millis,
    id: u64,
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

fn check(config: &Config) -> Result<()> {
    let Config { granule_ports, granules, origins, pages, workers, .. } = *config;
    if !(1..=crate::limits::MAX_GRANULE_PORTS).contains(&granule_ports) {
        return Err(Error::input(format!(
            "a lease table for granules of {granule_ports} ports; expected 1 to {}",
            crate::limits::MAX_GRANULE_PORTS
        )));
    }
    for (what, value) in [("granules", granules), ("origins", origins), ("pages", pages)] {
        if !(1..=1 << 28).contains(&value) {
            return Err(Error::input(format!("a lease table for {value} {what}; expected 1 to {}", 1 << 28)));
        }
    }
    if !(1..=MAX_WORKERS).contains(&workers) {
        return Err(Error::input(format!(
            "a lease table for {workers} workers; expected 1 to {MAX_WORKERS}"
        )));
    }
    for (what, park) in [("ports", config.park_port), ("tuples", config.park_tuple)] {
        if park > Quarantine::MAX {
            return Err(Error::input(format!("{what} parked for {park:?}; at most {:?}", Quarantine::MAX)));
        }
    }
    Ok(())
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
        let id = words[TABLE_ID].load(SeqCst);
        Ok(Self { memory, map, config, quarantine: config.quarantine.millis(), id })
    }

    /// Tells the table of a granule; the same granule again is the same slot.
    ///
    /// # Errors
    /// As [`Table::add_granules`].
    pub fn add_granule(&self, ip: IpAddr, range: PortRange) -> Result<GranuleSlot> {
        Ok(self.add_granules([(ip, range)])?[0])
    }

    /// Tells the table of granules, in any order, and returns their slots in the same order. A granule that it knows
    /// already keeps its slot.
    ///
    /// # Errors
    /// A range overlaps another granule of the address without being it; it has more ports than the table was made
    /// for; it contains port 0; there are too many granules; another thread adds granules at this moment. Then none is
    /// added.
    pub fn add_granules(
        &self,
        granules: impl IntoIterator<Item = (IpAddr, PortRange)>,
    ) -> Result<Vec<GranuleSlot>> {
        let adder = &self.words()[GRANULE_ADDER];
        if adder.swap(1, SeqCst) != 0 {
            return Err(Error::new(
                ErrorKind::Wait,
                "another thread adds granules to the lease table; try again",
            ));
        }
        let added = self.add_granules_alone(granules);
        adder.store(0, SeqCst);
        added
    }

    fn add_granules_alone(
        &self,
        granules: impl IntoIterator<Item = (IpAddr, PortRange)>,
    ) -> Result<Vec<GranuleSlot>> {
        let before = self.words()[GRANULE_COUNT].load(SeqCst) as u32;
        let mut known: BTreeMap<(IpAddr, u16), (PortRange, GranuleSlot)> = (0..before)
            .map(|slot| {
                let (ip, range) = self.granule(GranuleSlot(slot));
                ((ip, range.lo()), (range, GranuleSlot(slot)))
            })
            .collect();
        let mut count = before;
        let mut slots = Vec::new();
        for (ip, range) in granules {
            let ip = crate::net::canonical_ip(ip);
            // Only the last granule that begins at or before the end of this one can overlap it: all others are
            // disjoint already.
            let near = known.range(..=(ip, range.hi())).next_back().filter(|((other, _), _)| *other == ip);
            let slot = match near {
                Some((_, (other, slot))) if *other == range => *slot,
                Some((_, (other, _))) if other.overlaps(range) => {
                    return Err(Error::input(format!(
                        "granule {ip} {range} overlaps granule {other} of the table"
                    )));
                }
                _ => {
                    self.check_granule(ip, range, count)?;
                    count += 1;
                    known.insert((ip, range.lo()), (range, GranuleSlot(count - 1)));
                    GranuleSlot(count - 1)
                }
            };
            slots.push(slot);
        }
        for ((ip, _), (range, slot)) in known {
            if slot.0 >= before {
                let words = self.granule_words(slot);
                for (word, value) in words.iter().zip(ip_words(ip)) {
                    word.store(value, SeqCst);
                }
                words[GRANULE_RANGE].store(u64::from(range.lo()) << 16 | u64::from(range.hi()), SeqCst);
                words[GRANULE_STATE].store(OWNED, SeqCst);
            }
        }
        self.words()[GRANULE_COUNT].store(u64::from(count), SeqCst);
        Ok(slots)
    }

    fn check_granule(&self, ip: IpAddr, range: PortRange, count: u32) -> Result<()> {
        let fault = if range.contains(0) {
            "port 0 is no source port".to_owned()
        } else if range.len() > self.config.granule_ports {
            format!(
                "{} ports are too many for a lease table made for granules of at most {}",
                range.len(),
                self.config.granule_ports
            )
        } else if count >= self.config.granules {
            format!("one granule too many for a lease table made for {}", self.config.granules)
        } else {
            return Ok(());
        };
        Err(Error::input(format!("granule {ip} {range}: {fault}")))
    }

    /// The granules that the table knows, and what may be done with them.
    pub fn granules(&self) -> impl Iterator<Item = (IpAddr, PortRange, GranuleState)> {
        (0..self.words()[GRANULE_COUNT].load(SeqCst) as u32).map(GranuleSlot).map(|slot| {
            let (ip, range) = self.granule(slot);
            (ip, range, self.state(slot))
        })
    }

    /// Sets what may be done with a granule. Once this returns `Draining` no acquire that starts later, and none
    /// that is stopped halfway, grants from it: acquire claims first and looks at the state then.
    pub fn set_state(&self, granule: GranuleSlot, state: GranuleState) {
        let word = &self.granule_words(granule)[GRANULE_STATE];
        let value = match state {
            GranuleState::Owned => OWNED,
            GranuleState::Draining => DRAINING,
        };
        let _ = word.fetch_update(SeqCst, SeqCst, |w| Some(w & !STATE | value));
        if state == GranuleState::Owned {
            // While it was draining, its free ports did not count.
            for page in (0..self.map.pages.used(self.words())).map(|index| self.page(index)) {
                if page.identity() as u32 == granule.0 {
                    page.clear_doubt();
                }
            }
            for record in 0..self.map.origins.used(self.words()) {
                self.scarce(record).store(0, SeqCst);
            }
        }
    }

    #[inline]
    pub(super) fn state(&self, granule: GranuleSlot) -> GranuleState {
        match self.granule_words(granule)[GRANULE_STATE].load(SeqCst) & STATE {
            OWNED => GranuleState::Owned,
            _ => GranuleState::Draining,
        }
    }

    /// The pool `key`, made of these granules in any order.
    ///
    /// # Errors
    /// A granule that is not of this table; more than 2^28 ports.
    pub fn pool(&self, key: PoolKey, granules: impl IntoIterator<Item = GranuleSlot>) -> Result<Pool> {
        let mut sources = Vec::new();
        for slot in granules {
            let count = self.words()[GRANULE_COUNT].load(SeqCst);
            if u64::from(slot.0) >= count {
                return Err(Error::input(format!(
                    "granule {} of another lease table; this one has {count}",
                    slot.0
                )));
            }
            let (ip, range) = self.granule(slot);
            sources.push((slot, ip, range));
        }
        let ports: u64 = sources.iter().map(|(_, _, range)| u64::from(range.len())).sum();
        if ports > MAX_POOL_PORTS {
            return Err(Error::input(format!(
                "pool {} has {ports} ports here; at most {MAX_POOL_PORTS} are supported",
                key.0
            )));
        }
        Ok(Pool::new(self.id(), key, sources))
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
        if !page.swap_tag(offset, tag, next) {
            return Err(Rejected { error: ReleaseError::Stale, lease });
        }
        if span == 0 {
            self.give_free(page, offset);
            return Ok(());
        }
        if hold == 0 {
            page.give_resting(offset);
        }
        self.kept_until(page, until);
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
                if !page.swap_tag(offset, tag, Tag::parked(until)) {
                    page.unpark();
                    return Err(Rejected { error: ReleaseError::Stale, lease });
                }
                self.kept_until(page, until);
                if cause == Conflict::PortInUse {
                    self.park_everywhere(lease.granule, offset, until, now);
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
        if lease.table != self.id() || lease.page >= self.map.pages.used(self.words()) {
            return Err(ReleaseError::Foreign);
        }
        let page = self.page(lease.page);
        if u32::from(lease.offset) >= page.ports() || page.tag(u32::from(lease.offset)) != lease.tag {
            return Err(ReleaseError::Stale);
        }
        Ok((page, lease.tag))
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
            page.set_tag(offset, Tag::parked(until));
            self.kept_until(page, until);
        }
        let state = &self.granule_words(granule)[GRANULE_STATE];
        let _ = state.fetch_update(SeqCst, SeqCst, |w| Some(w & STATE | u64::from(index + 1) << 8));
    }

    /// After a claim: may the port be granted? If a stranger has it, until when is it parked?
    #[inline]
    pub(super) fn verdict(&self, granule: GranuleSlot, offset: u32, now: Time) -> Verdict {
        let word = self.granule_words(granule)[GRANULE_STATE].load(SeqCst);
        if word == OWNED {
            return Verdict::Grant;
        }
        if word & STATE != OWNED {
            return Verdict::NotOwned;
        }
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
        page.set_tag(offset, tag);
        self.kept_until(page, tag.deadline(Deadline::after(now)));
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
        if let Some(record) = self.find_origin(origin) {
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
    pub(super) fn id(&self) -> u64 {
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

    #[inline]
    fn granule_words(&self, granule: GranuleSlot) -> &[AtomicU64] {
        let at = self.map.granules + granule.0 as usize * GRANULE_STRIDE;
        &self.words()[at..at + GRANULE_STRIDE]
    }

    fn granule(&self, granule: GranuleSlot) -> (IpAddr, PortRange) {
        let words = self.granule_words(granule);
        let ports = words[GRANULE_RANGE].load(SeqCst);
        let range = PortRange::new((ports >> 16) as u16, ports as u16).expect("written from a range");
        (words_ip(words[0].load(SeqCst), words[1].load(SeqCst)), range)
    }

    #[inline]
    pub(super) fn page(&self, index: u32) -> Page<'_> {
        let ports = self.config.granule_ports as usize;
        let tags = index as usize * ports;
        Page::new(self.map.pages.record(self.words(), index), &self.memory.tags()[tags..tags + ports])
    }

    // ---- directory: origins

    fn hash(&self, key: [u64; 3]) -> u64 {
        let words = self.words();
        let mut hasher =
            SipHasher13::new_with_keys(words[HASH_KEY].load(SeqCst), words[HASH_KEY + 1].load(SeqCst));
        for word in key {
            hasher.write_u64(word);
        }
        hasher.finish()
    }

    /// Visits the slots where `key` may be until `visit` answers.
    fn probe<T>(&self, hash: u64, mut visit: impl FnMut(&AtomicU64) -> Option<T>) -> Option<T> {
        (0..=self.map.origin_mask).find_map(|step| {
            let at = (hash.wrapping_add(step) & self.map.origin_mask) as usize;
            visit(&self.words()[self.map.origin_slots + at])
        })
    }

    /// The record of a slot, if it is of that key.
    fn record_if(&self, slot: u64, hash: u64, key: [u64; 3]) -> Option<u32> {
        if slot >> 32 != hash >> 32 {
            return None;
        }
        let record = slot as u32 - 1;
        let words = self.map.origins.record(self.words(), record);
        words.iter().zip(key).all(|(word, part)| word.load(SeqCst) == part).then_some(record)
    }

    fn find_origin(&self, origin: &Origin) -> Option<u32> {
        let key = origin_key(origin);
        let hash = self.hash(key);
        self.probe(hash, |slot| match slot.load(SeqCst) {
            0 => Some(None),
            slot => self.record_if(slot, hash, key).map(Some),
        })?
    }

    pub(super) fn origin_or_new(&self, origin: &Origin) -> core::result::Result<u32, AcquireError> {
        let key = origin_key(origin);
        let hash = self.hash(key);
        let mut fresh = None;
        let found = self.probe(hash, |slot| {
            let mut seen = slot.load(SeqCst);
            if seen == 0 {
                let Some(record) = fresh.or_else(|| self.map.origins.take(self.words())) else {
                    return Some(Err(AcquireError::TooManyOrigins));
                };
                let words = self.map.origins.record(self.words(), record);
                for (word, part) in words.iter().zip(key) {
                    word.store(part, SeqCst);
                }
                words[ORIGIN_SCARCE].store(0, SeqCst);
                let value = hash >> 32 << 32 | u64::from(record + 1);
                match slot.compare_exchange(0, value, SeqCst, SeqCst) {
                    Ok(_) => {
                        fresh = None;
                        return Some(Ok(record));
                    }
                    Err(other) => (fresh, seen) = (Some(record), other),
                }
            }
            self.record_if(seen, hash, key).map(Ok)
        });
        if let Some(unused) = fresh {
            self.map.origins.give(self.words(), unused);
        }
        found.unwrap_or(Err(AcquireError::TooManyOrigins))
    }

    fn origin_of(&self, record: u32) -> Option<Origin> {
        let words = self.map.origins.record(self.words(), record);
        let ip = words_ip(words[0].load(SeqCst), words[1].load(SeqCst));
        let port = words[ORIGIN_PORT].load(SeqCst);
        let protocol = if port >> 16 & 1 == 0 { Protocol::Tcp } else { Protocol::Udp };
        Origin::new(protocol, SocketAddr::new(ip, port as u16)).ok()
    }

    // ---- directory: pages. A slot is two words: key, then page index + 1.

    #[inline]
    fn page_slot(&self, origin: u32, granule: GranuleSlot, insert: bool) -> Option<&AtomicU64> {
        // Both numbers are ours, not an attacker's: mixing is enough, no keyed hash is needed.
        let key = u64::from(origin + 1) << 32 | u64::from(granule.0);
        let hash = (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        for step in 0..=self.map.page_mask {
            let at = self.map.page_slots + 2 * (hash.wrapping_add(step) & self.map.page_mask) as usize;
            let [slot, value] = &self.words()[at..at + 2] else { return None };
            let mut seen = slot.load(SeqCst);
            if seen == 0 {
                if !insert {
                    return None;
                }
                seen = slot.compare_exchange(0, key, SeqCst, SeqCst).map_or_else(|other| other, |_| key);
            }
            if seen == key {
                return Some(value);
            }
        }
        None
    }

    #[inline]
    pub(super) fn find_page(&self, origin: u32, granule: GranuleSlot) -> Option<u32> {
        let value = self.page_slot(origin, granule, false)?.load(SeqCst);
        (value as u32).checked_sub(1)
    }

    pub(super) fn page_or_new(&self, origin: u32, granule: GranuleSlot) -> Option<u32> {
        if let Some(index) = self.find_page(origin, granule) {
            return Some(index);
        }
        let index = self.map.pages.take(self.words())?;
        let page = self.page(index);
        page.init(u64::from(origin) << 32 | u64::from(granule.0), self.granule(granule).1);
        let Some(value) = self.page_slot(origin, granule, true) else {
            self.map.pages.give(self.words(), index);
            return None;
        };
        // Whoever dies before this leaves a key without a page, which the next one fills.
        match value.compare_exchange(0, u64::from(index + 1), SeqCst, SeqCst) {
            Ok(_) => Some(index),
            Err(other) => {
                self.map.pages.give(self.words(), index);
                Some(other as u32 - 1)
            }
        }
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

// The granule's state word: state in the low byte, above it the page of ports parked for every origin, plus one.
const STATE: u64 = 0xff;
const OWNED: u64 = 1;
const DRAINING: u64 = 2;

fn origin_key(origin: &Origin) -> [u64; 3] {
    let [high, low] = ip_words(origin.ip());
    let protocol = match origin.protocol() {
        Protocol::Tcp => 0,
        Protocol::Udp => 1 << 16,
    };
    [high, low, u64::from(origin.port()) | protocol]
}

/// An address as two words; IPv4 in its mapped form, so that one address has one key.
fn ip_words(ip: IpAddr) -> [u64; 2] {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

fn words_ip(high: u64, low: u64) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))).to_canonical()
}
