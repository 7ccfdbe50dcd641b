//! Who acquires: a thread or process with its own random generator, owner number and counters.

use core::net::SocketAddr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::net::Origin;
use crate::sync::{
    AtomicU64,
    Ordering::{Relaxed, Release, SeqCst},
};
use crate::time::Time;

use super::choice::{Choice, Seed};
use super::granules::is_owned;
use super::map::{WORKER_ATTACHED, WORKER_GRANTED, WORKER_INTENT};
use super::page::{Candidates, Page, Preference};
use super::pool::{Pool, Sources};
use super::table::{Table, Verdict};
use super::tag::{Tag, WorkerNumber};
use super::{AcquireError, Heap, Lease, Memory};

/// Random draws before the free ports are counted. At 80 % full 15 draws miss once in 28 times; more draws would
/// cost more than the count they save.
const DRAWS: u32 = 15;

/// An [`OriginHandle`] remembers pages of pools up to this many granules.
const REMEMBERED: usize = 64;

/// A thread or process that acquires. Not shared: each has its own.
///
/// After `fork` the child must attach a worker of its own: the parent's generator would repeat itself.
#[derive(Debug)]
pub struct Worker<M: Memory = Heap> {
    table: Arc<Table<M>>,
    hand: Hand,
}

/// All of a worker but its table, so that both can be borrowed at once.
#[derive(Debug)]
struct Hand {
    number: WorkerNumber,
    generation: u8,
    doubts: u64,
    choice: Choice,
    /// What the last count found, source by source.
    counts: Vec<Candidates>,
}

/// One origin as seen from one pool: spares a worker the look-up at every acquire.
#[derive(Clone, Debug)]
pub struct OriginHandle {
    pool: Pool,
    origin: Origin,
    record: u32,
    /// Page index + 1 of each source, as far as known.
    pages: Box<[u32]>,
}

impl OriginHandle {
    /// The origin.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// What one acquire looks at.
struct Target<'a, M: Memory> {
    table: &'a Table<M>,
    pool: &'a Pool,
    sources: &'a Sources,
    origin: &'a Origin,
    record: u32,
    pages: &'a mut [u32],
    now: Time,
}

type Acquired<T = Lease> = core::result::Result<T, AcquireError>;

impl<M: Memory> Worker<M> {
    /// Attaches a worker to a table. `seed` must be nobody else's.
    ///
    /// # Errors
    /// As many workers as the table was made for are attached.
    pub fn attach(table: Arc<Table<M>>, seed: Seed) -> Result<Self> {
        let free = (0..table.config().workers).find(|&number| {
            let attached = &table.worker_words(number)[WORKER_ATTACHED];
            attached.compare_exchange(0, 1, SeqCst, SeqCst).is_ok()
        });
        let Some(number) = free else {
            return Err(Error::new(
                ErrorKind::Wait,
                format!("all {} workers of the lease table are attached; drop one", table.config().workers),
            ));
        };
        let mut choice = Choice::new(seed);
        // The number may have had another owner: its last generations are unlikely to come again at once.
        let generation = choice.below(256) as u8;
        let hand = Hand { number: WorkerNumber(number), generation, doubts: 0, choice, counts: Vec::new() };
        Ok(Self { table, hand })
    }

    /// The table.
    pub fn table(&self) -> &Arc<Table<M>> {
        &self.table
    }

    /// Looks an origin up once, for many acquires.
    ///
    /// # Errors
    /// [`AcquireError`], but never `Exhausted`.
    pub fn origin(&self, pool: &Pool, origin: Origin) -> Acquired<OriginHandle> {
        let sources = self.sources(pool, &origin)?;
        let remembered = if sources.list().len() <= REMEMBERED { sources.list().len() } else { 0 };
        let record = self.table.origin_or_new(&origin)?;
        Ok(OriginHandle { record, pages: vec![0; remembered].into(), pool: pool.clone(), origin })
    }

    /// A lease of a free source ip:port of the pool towards the origin, chosen uniformly among all free ones; if
    /// there are none, among the longest resting ones.
    ///
    /// # Errors
    /// [`AcquireError`]; never `Exhausted` while a tuple is free or resting.
    #[inline]
    pub fn acquire(&mut self, handle: &mut OriginHandle, now: Time) -> Acquired {
        let OriginHandle { pool, origin, record, pages } = handle;
        let sources = self.sources(pool, origin)?;
        let table = &*self.table;
        let now = table.clock(now);
        self.hand.acquire(&mut Target { table, pool, sources, origin, record: *record, pages, now })
    }

    /// As [`Worker::acquire`], with the origin looked up.
    ///
    /// # Errors
    /// [`AcquireError`]; never `Exhausted` while a tuple is free or resting.
    pub fn acquire_to(&mut self, pool: &Pool, origin: &Origin, now: Time) -> Acquired {
        let sources = self.sources(pool, origin)?;
        let record = self.table.origin_or_new(origin)?;
        let table = &*self.table;
        let now = table.clock(now);
        self.hand.acquire(&mut Target { table, pool, sources, origin, record, pages: &mut [], now })
    }

    /// A lease of exactly this source ip:port of the pool towards the origin, if it is free or resting.
    ///
    /// # Errors
    /// [`AcquireError::InUse`]: it is live, held or parked; [`AcquireError::NoShare`]: it is outside this machine's
    /// shares of the pool; the others as [`Worker::acquire`].
    pub fn acquire_exactly(
        &mut self,
        pool: &Pool,
        source: SocketAddr,
        origin: &Origin,
        now: Time,
    ) -> Acquired {
        let sources = self.sources(pool, origin)?;
        let (index, offset) = sources.find(source).ok_or(AcquireError::NoShare)?;
        let record = self.table.origin_or_new(origin)?;
        let table = &*self.table;
        let now = table.clock(now);
        let mut target = Target { table, pool, sources, origin, record, pages: &mut [], now };
        if !target.grants_from(index) {
            return Err(AcquireError::NoShare);
        }
        let page = target.page_or_new(index).ok_or(AcquireError::TooManyOrigins)?;
        if table.page(page).is_due(now) {
            table.sweep(table.page(page), now);
        }
        self.hand.claim(&target, index, table.page(page), page, offset).ok_or(AcquireError::InUse)
    }

    #[inline]
    fn sources<'a>(&self, pool: &'a Pool, origin: &Origin) -> Acquired<&'a Sources> {
        if pool.table() != self.table.id() {
            return Err(AcquireError::ForeignPool);
        }
        let sources = pool.sources(origin.ip().is_ipv6());
        if sources.ports() == 0 { Err(AcquireError::NoShare) } else { Ok(sources) }
    }
}

impl Hand {
    #[inline]
    fn acquire<M: Memory>(&mut self, target: &mut Target<'_, M>) -> Acquired {
        let now = target.now;
        let mut full_is_ruled_out = false;
        // Most pools have one granule, and draws from a few often meet the same one: look its page up once.
        let mut known = None;
        for _ in 0..DRAWS {
            let (drawn, sample) = self.choice.draw(target.sources.ports());
            let (source, offset) = target.sources.locate(drawn);
            let (index, page) = match known {
                Some((seen, index, page)) if seen == source => (index, page),
                _ => {
                    let Some(index) = target.page_or_new(source) else { break };
                    let page = target.table.page(index);
                    if page.is_due(now) {
                        target.table.sweep(page, now);
                    }
                    known = Some((source, index, page));
                    (index, page)
                }
            };
            let wanted = match page.peek(offset) {
                Some(Preference::Free) => true,
                Some(Preference::Old) => target.is_scarce(),
                Some(Preference::Young) | None => false,
            };
            if wanted {
                if let Some(lease) = self.claim(target, source, page, index, offset) {
                    if sample {
                        target.sample(source, page);
                    }
                    return Ok(lease);
                }
            }
            if !full_is_ruled_out {
                // Only now, because most first draws succeed.
                if target.is_full() {
                    return Err(target.refuse());
                }
                full_is_ruled_out = true;
            }
        }
        self.search(target)
    }

    /// Takes one port, if it still can be had.
    #[inline]
    fn claim<M: Memory>(
        &mut self,
        target: &Target<'_, M>,
        source: usize,
        page: Page<'_>,
        index: u32,
        offset: u32,
    ) -> Option<Lease> {
        let table = target.table;
        let source = &target.sources.list()[source];
        let state = table.state_word(source.granule);
        if !is_owned(state) {
            return None;
        }
        let words = table.worker_words(self.number.0);
        // Written before the claim, so that whoever finds a port taken but not tagged knows where to look.
        words[WORKER_INTENT].store(u64::from(index) << 32 | u64::from(offset + 1), Release);
        let lease = page.take(offset).and_then(|taken| match table.verdict(state, offset, target.now) {
            Verdict::Grant => {
                self.generation = self.generation.wrapping_add(1);
                let tag = Tag::live(self.number, self.generation);
                page.set_tag(offset, tag);
                Some(Lease {
                    origin: *target.origin,
                    source_ip: source.ip,
                    source_port: source.lo + offset as u16,
                    offset: offset as u16,
                    tag,
                    page: index,
                    pool: target.pool.key(),
                    table: table.id(),
                })
            }
            Verdict::NotOwned => {
                page.put_back(offset, taken);
                None
            }
            Verdict::Parked(tag) => {
                table.park_tuple(page, offset, tag, target.now);
                None
            }
        });
        words[WORKER_INTENT].store(0, Release);
        if lease.is_some() {
            add_one(&words[WORKER_GRANTED]);
        }
        lease
    }

    /// Counts what there is and draws a rank, so that a free tuple is found if there is one.
    #[cold]
    fn search<M: Memory>(&mut self, target: &mut Target<'_, M>) -> Acquired {
        let mut doubt = None;
        // No page can be made for a granule that has none: its ports are out of reach.
        let mut no_room = false;
        loop {
            let total = self.count(target, no_room);
            let (class, among) = match (total, doubt) {
                (Candidates { free: 1.., .. }, _) => (Preference::Free, total.free),
                (Candidates { old: 1.., .. }, _) => (Preference::Old, total.old),
                (Candidates { young: 1.., .. }, _) => (Preference::Young, total.young),
                _ if no_room => return Err(AcquireError::TooManyOrigins),
                (_, None) => {
                    let token = self.token();
                    target.each_page(|page| page.doubt_full(token));
                    doubt = Some(token);
                    continue;
                }
                (_, Some(token)) => {
                    target.each_page(|page| page.mark_full(token));
                    if let Some(index) = target.page(0) {
                        target.sample(0, target.table.page(index));
                    }
                    return Err(target.refuse());
                }
            };
            if doubt.take().is_some() {
                target.each_page(|page| page.clear_doubt());
            }
            if class != Preference::Free && !target.is_scarce() {
                target.set_scarce();
            }
            let mut rank = self.choice.below(among);
            let source = self.counts.iter().position(|count| {
                let here = count.of(class);
                let inside = rank < here;
                rank -= if inside { 0 } else { here };
                inside
            });
            let source = source.expect("the rank is below the sum of the counts");
            let Some(index) = target.page_or_new(source) else {
                no_room = true;
                continue;
            };
            let page = target.table.page(index);
            // If it fails somebody else was faster, or the port is a stranger's: count again.
            let lease =
                page.select(class, rank).and_then(|offset| self.claim(target, source, page, index, offset));
            if let Some(lease) = lease {
                if class == Preference::Young {
                    self.flip(target);
                }
                target.sample(source, page);
                return Ok(lease);
            }
        }
    }

    /// Sweeps what is due and counts, source by source; returns the sum.
    fn count<M: Memory>(&mut self, target: &mut Target<'_, M>, no_room: bool) -> Candidates {
        self.counts.clear();
        let mut total = Candidates::default();
        for source in 0..target.sources.list().len() {
            let count = match target.page(source) {
                _ if !target.grants_from(source) => Candidates::default(),
                Some(index) => {
                    let page = target.table.page(index);
                    if page.is_due(target.now) {
                        target.table.sweep(page, target.now);
                    }
                    page.candidates()
                }
                None if no_room => Candidates::default(),
                None => Candidates { free: target.sources.ports_of(source), ..Candidates::default() },
            };
            total.free += count.free;
            total.old += count.old;
            total.young += count.young;
            self.counts.push(count);
        }
        total
    }

    /// The older generation is used up in every page: the younger one takes its place.
    fn flip<M: Memory>(&self, target: &mut Target<'_, M>) {
        for (source, count) in self.counts.iter().enumerate() {
            if let Some(index) = target.page(source) {
                target.table.page(index).flip(count.flips);
            }
        }
    }

    /// Odd, and different for every doubt of every worker.
    fn token(&mut self) -> u64 {
        self.doubts += 1;
        self.doubts << 8 | u64::from(self.number.0) << 1 | 1
    }
}

impl<M: Memory> Drop for Worker<M> {
    fn drop(&mut self) {
        self.table.worker_words(self.hand.number.0)[WORKER_ATTACHED].store(0, SeqCst);
    }
}

impl<M: Memory> Target<'_, M> {
    /// The page of a source, if there is one.
    #[inline]
    fn page(&mut self, source: usize) -> Option<u32> {
        match self.pages.get(source) {
            Some(&known @ 1..) => Some(known - 1),
            _ => self.look_up(source),
        }
    }

    #[cold]
    fn look_up(&mut self, source: usize) -> Option<u32> {
        let page = self.table.find_page(self.record, self.sources.list()[source].granule)?;
        Some(self.remember(source, page))
    }

    /// The page of a source; `None` if the table has no room for it.
    #[inline]
    fn page_or_new(&mut self, source: usize) -> Option<u32> {
        match self.page(source) {
            Some(page) => Some(page),
            None => self.new_page(source),
        }
    }

    #[cold]
    fn new_page(&mut self, source: usize) -> Option<u32> {
        let page = self.table.page_or_new(self.record, self.sources.list()[source].granule)?;
        Some(self.remember(source, page))
    }

    fn remember(&mut self, source: usize, page: u32) -> u32 {
        if let Some(known) = self.pages.get_mut(source) {
            *known = page + 1;
        }
        page
    }

    /// Is there a page for every source, and is each known to be full?
    #[inline]
    fn is_full(&mut self) -> bool {
        let now = self.now;
        (0..self.sources.list().len())
            .all(|source| self.page(source).is_some_and(|page| self.table.is_full(page, now)))
    }

    fn each_page(&mut self, mut visit: impl FnMut(Page<'_>)) {
        for source in 0..self.sources.list().len() {
            if let Some(page) = self.page(source) {
                visit(self.table.page(page));
            }
        }
    }

    fn grants_from(&self, source: usize) -> bool {
        is_owned(self.table.state_word(self.sources.list()[source].granule))
    }

    /// Is it known that no tuple of the pool is free towards the origin, so that resting ones are as good?
    fn is_scarce(&self) -> bool {
        let scarce = self.table.scarce(self.record).load(SeqCst);
        scarce as u8 == self.pool.key().0 as u8 && self.now.as_millis() < scarce >> 8
    }

    /// Remembers it until the first rest or hold ends. One pool per origin is remembered, by the low byte of its
    /// key: a hint that is missing or wrong changes what is preferred, never what may be granted.
    fn set_scarce(&mut self) {
        let mut until = u64::MAX >> 8;
        self.each_page(|page| until = until.min(page.due()));
        self.table.scarce(self.record).store(until << 8 | u64::from(self.pool.key().0 as u8), SeqCst);
    }

    /// Raises the high-water mark of one egress IP towards the origin.
    #[cold]
    fn sample(&self, source: usize, page: Page<'_>) {
        let row = self.sources.row(source);
        let occupied = match row.len() {
            1 => page.occupied(),
            _ => self.table.occupied(self.record, &self.sources.list()[row]),
        };
        page.raise_peak(occupied);
    }

    fn refuse(&mut self) -> AcquireError {
        if !(0..self.sources.list().len()).any(|source| self.grants_from(source)) {
            return AcquireError::NoShare;
        }
        if let Some(index) = self.page(0) {
            self.table.page(index).count_refusal();
        }
        AcquireError::Exhausted
    }
}

/// Counters have one writer: no locked instruction is needed.
#[inline]
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}
