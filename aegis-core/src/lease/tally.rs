//! What was granted and refused, counted where no other worker writes, and never lost.
//!
//! ```text
//! a worker's entries --64 at a time--> words of the page --when the page is given back--> words of its granule
//! ```
//!
//! An entry is one word, what is counted and how often, so that it is never half written. The worker alone writes it, by
//! plain loads and stores. What moves on is taken away first and added afterwards, and who reads begins where it arrives:
//! so nothing is ever counted twice, and what is on its way is seen a moment later. A kill between the two instructions
//! loses what was on its way: up to 64 of an entry, or what one page has counted.
//!
//! Nothing here decides what is granted. Loom would only multiply the orders that it explores, so there it is left out.

use core::net::IpAddr;

use crate::net::Origin;
use crate::sync::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::Memory;
use super::map::{GRANULE_COUNTED, REASONS, WORKER_ENTRIES};
use super::page::{Identity, Page};
use super::pages::PageRef;
use super::pool::GranuleSlot;
use super::quota::QuotaSlot;
use super::table::Table;

/// What is counted for a page, and a granule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Granted,
    /// Refused, because no tuple was free.
    Exhausted,
    /// Refused, because of the limit towards the origin.
    OriginLimit,
}

impl Event {
    pub(super) const ALL: [Self; 3] = [Self::Granted, Self::Exhausted, Self::OriginLimit];
}

/// A page's counter: `uses of the page << 48 | number`. The number of uses changes when the page is given back, so that
/// nobody adds to another's counter who was stopped since he looked whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counted(pub(super) u64);

const NUMBER: u64 = (1 << 48) - 1;

impl Counted {
    pub(super) const fn number(self) -> u64 {
        self.0 & NUMBER
    }

    const fn uses(self) -> u64 {
        self.0 >> 48
    }

    const fn plus(self, more: u64) -> Self {
        Self(self.0 & !NUMBER | self.0.wrapping_add(more) & NUMBER)
    }

    const fn next_use(self) -> Self {
        Self((self.0 & !NUMBER).wrapping_add(NUMBER + 1))
    }
}

/// What an entry counts: `page << 38 | granule << 20 | uses of the page << 8 | kind << 6`. In the low bits is how often.
///
/// Of the uses there are 12 bits. An entry that waits until its page was given back a multiple of 4,096 times, and is the
/// same granule's again, is counted for another origin of the same egress IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key(u64);

const OFTEN: u64 = 0b11_1111;
const USES: u64 = 0xfff;
/// Of a key that is about no page.
const NO_PAGE: u64 = 3;
/// In the place of the page: the events of a granule, then refusals of a user.
const USERS: u32 = 16;

impl Key {
    const fn new(kind: u64, page: u32, granule: u32, uses: u64) -> Self {
        Self((page as u64) << 38 | (granule as u64) << 20 | (uses & USES) << 8 | kind << 6)
    }

    const fn of_page(event: Event, page: u32, granule: GranuleSlot, uses: u64) -> Self {
        Self::new(event as u64, page, granule.0, uses)
    }

    const fn of_granule(event: Event, granule: GranuleSlot) -> Self {
        Self::new(NO_PAGE, event as u32, granule.0, 0)
    }

    const fn of_user(user: QuotaSlot, reason: u8) -> Self {
        Self::new(NO_PAGE, USERS + reason as u32, user.number as u32, 0)
    }

    const fn counts(self) -> Counts {
        let (page, granule) = ((self.0 >> 38) as u32, (self.0 >> 20) as u32 & 0x3_ffff);
        match (self.0 >> 6) & 3 {
            NO_PAGE if page >= USERS => Counts::User(granule, page - USERS),
            NO_PAGE if (page as usize) < Event::ALL.len() => {
                Counts::Granule(Event::ALL[page as usize], GranuleSlot(granule))
            }
            NO_PAGE => Counts::Nothing,
            kind => Counts::Page {
                event: Event::ALL[kind as usize],
                page,
                granule: GranuleSlot(granule),
                uses: self.0 >> 8 & USES,
            },
        }
    }
}

enum Counts {
    Page {
        event: Event,
        page: u32,
        granule: GranuleSlot,
        uses: u64,
    },
    Granule(Event, GranuleSlot),
    /// Refusals of a user, and for which reason.
    User(u32, u32),
    /// What no worker writes.
    Nothing,
}

/// Entries of grants, then of refusals, then of refusals of users: what happens in one acquire is never in each other's way.
const GRANTS: usize = 64;
const REFUSALS: usize = 16;
/// Where those of users begin.
const USERS_FIRST: usize = if cfg!(loom) { 0 } else { GRANTS + REFUSALS };
/// Entries of a worker.
pub(super) const ENTRIES: usize = if cfg!(loom) { 0 } else { USERS_FIRST + REFUSALS };

/// How much was granted and refused from one egress IP: a counter, or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tally {
    /// What counts it; `None`: what is counted for a whole granule.
    pub(crate) cell: Option<Cell>,
    /// Source address.
    pub(crate) egress_ip: IpAddr,
    /// Towards which origin. `None`: origins with one connection at a time, what is forgotten or was idle for a while, and
    /// ports that are used towards all origins.
    pub(crate) origin: Option<Origin>,
    /// Leases granted; acquires refused for want of a free tuple; by the limit towards one origin.
    pub(crate) numbers: [u64; Event::ALL.len()],
}

/// One use of a page: it counts up as long as it lasts. Then all of its number is the granule's, and it never comes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Cell {
    pub(crate) page: u32,
    pub(crate) uses: u16,
}

impl<M: Memory> Table<M> {
    fn entries(&self, worker: u16) -> &[AtomicU64] {
        &self.worker_words(worker)[WORKER_ENTRIES..][..ENTRIES]
    }

    /// Counts once in the entry at `place`; true if it was written down where others read it, or others were in its way.
    #[inline(always)]
    fn count(&self, worker: u16, place: usize, key: Key) -> bool {
        if cfg!(loom) {
            return false;
        }
        let entry = &self.worker_words(worker)[WORKER_ENTRIES + place];
        // One writer: no locked instruction is needed.
        let seen = entry.load(Relaxed);
        if seen & !OFTEN == key.0 && seen & OFTEN != OFTEN {
            entry.store(seen + 1, Relaxed);
            return false;
        }
        self.count_on(entry, seen, key);
        true
    }

    #[cold]
    fn count_on(&self, entry: &AtomicU64, seen: u64, key: Key) {
        if seen & !OFTEN == key.0 {
            entry.store(key.0, Relaxed);
            self.add(key, OFTEN + 1);
            return;
        }
        // Another's entry. Ours is counted in its page, which is at hand, and the other's page is not; but sometimes the
        // entry changes hands, so that it is the busier one's.
        let number = self.add(key, 1);
        if seen & OFTEN == 0 || number % 16 == 0 {
            entry.store(key.0, Relaxed);
            self.add(Key(seen & !OFTEN), seen & OFTEN);
        }
    }

    /// A lease of a port in a page was granted: true if its high-water mark is to be sampled.
    #[inline(always)]
    pub(super) fn count_granted(&self, worker: u16, index: u32) -> bool {
        let header = self.map.pages.record(self.words(), index);
        let granule = GranuleSlot(Page::identity_of(header).granule());
        let key = page_key(Event::Granted, index, Page::counted_of(header, Event::Granted), granule);
        self.count(worker, index as usize % GRANTS, key) && self.page(index).is_sample_due()
    }

    /// A lease was granted that is in no page.
    pub(super) fn count_granted_at_home(&self, worker: u16, granule: GranuleSlot) {
        self.count(worker, granule.0 as usize % GRANTS, Key::of_granule(Event::Granted, granule));
    }

    /// An acquire was refused, charged to a page of that granule, if there is one and it is still in that life.
    #[inline]
    pub(super) fn count_refused(
        &self,
        worker: u16,
        event: Event,
        page: Option<PageRef>,
        granule: GranuleSlot,
    ) {
        let of_page = |PageRef { index, life }: PageRef| {
            let header = self.map.pages.record(self.words(), index);
            let key = page_key(event, index, Page::counted_of(header, event), granule);
            // After the counter: so its number of uses is that of this life.
            (Page::life_of(header) == life).then_some((index, key))
        };
        let (mixed, key) =
            page.and_then(of_page).unwrap_or_else(|| (granule.0, Key::of_granule(event, granule)));
        self.count(worker, GRANTS + (mixed as usize + event as usize) % REFUSALS, key);
    }

    /// An acquire of a user was refused; for which reason is the caller's number, below [`REASONS`].
    pub(super) fn count_refused_user(&self, worker: u16, user: QuotaSlot, reason: u8) {
        let mixed = usize::from(user.number) * 5 + usize::from(reason);
        self.count(worker, USERS_FIRST + mixed % REFUSALS, Key::of_user(user, reason));
    }

    /// Adds to what is counted for all workers; how much it is then.
    fn add(&self, key: Key, more: u64) -> u64 {
        // A release, so that who reads it sees that the entry is empty.
        let add = |word: &AtomicU64| word.fetch_add(more, SeqCst).wrapping_add(more);
        match key.counts() {
            Counts::Page { event, page, granule, uses } => {
                match self.add_to_page(event, page, granule, uses, more) {
                    Some(number) => number,
                    // The page was given back: so were those that it had counted.
                    None => self.granule_counter(granule, event).map_or(0, add),
                }
            }
            Counts::Granule(event, granule) => self.granule_counter(granule, event).map_or(0, add),
            Counts::User(user, reason) => self.refusals(user).get(reason as usize).map_or(0, add),
            Counts::Nothing => 0,
        }
    }

    fn add_to_page(
        &self,
        event: Event,
        page: u32,
        granule: GranuleSlot,
        uses: u64,
        more: u64,
    ) -> Option<u64> {
        let page = (page < self.map.pages.capacity).then(|| self.page(page))?;
        let word = page.counted(event);
        let mut seen = Counted(word.load(SeqCst));
        while seen.uses() & USES == uses && page.identity().granule() == granule.0 {
            match word.compare_exchange(seen.0, seen.plus(more).0, SeqCst, SeqCst) {
                Ok(_) => return Some(seen.plus(more).number()),
                Err(now) => seen = Counted(now),
            }
        }
        None
    }

    /// Moves on what a page has counted that ends; it bears its identity still, and nobody else gives it back.
    pub(super) fn fold_page(&self, index: u32) {
        if cfg!(loom) {
            return;
        }
        let page = self.page(index);
        let granule = GranuleSlot(page.identity().granule());
        for event in Event::ALL {
            let word = page.counted(event);
            let before = word.fetch_update(SeqCst, SeqCst, |seen| Some(Counted(seen).next_use().0));
            let number = before.map_or(0, |before| Counted(before).number());
            if let Some(counter) = self.granule_counter(granule, event).filter(|_| number != 0) {
                counter.fetch_add(number, SeqCst);
            }
        }
    }

    /// Moves on what is in the entries of a worker that is attached no longer.
    pub(super) fn flush_entries(&self, worker: u16) {
        for entry in self.entries(worker) {
            let seen = entry.swap(0, SeqCst);
            if seen & OFTEN != 0 {
                self.add(Key(seen & !OFTEN), seen & OFTEN);
            }
        }
    }

    fn granule_counter(&self, granule: GranuleSlot, event: Event) -> Option<&AtomicU64> {
        (granule.0 < self.map.granules.capacity)
            .then(|| &self.granule_words(granule)[GRANULE_COUNTED + event as usize])
    }

    fn refusals(&self, user: u32) -> &[AtomicU64] {
        let at = self.map.refusals + user as usize * REASONS;
        if user < self.config.quotas.into() { &self.words()[at..at + REASONS] } else { &[] }
    }

    /// Every counter of what was granted and refused, since the table was made. A counter may come more than once, with parts
    /// of its number.
    ///
    /// Nobody is stopped: what was on its way meanwhile is missing until the next time, up to 64 of a worker, or what a page
    /// has counted that is given back at this moment.
    pub(crate) fn tallies(&self) -> Vec<Tally> {
        let mut tallies = Vec::new();
        // From where counts arrive to where they begin, so that none is seen twice.
        for granule in (0..self.map.granules.used(self.words())).map(GranuleSlot) {
            tallies.extend(self.tally_granule(granule, |event| {
                self.granule_counter(granule, event).map_or(0, |word| word.load(SeqCst))
            }));
        }
        for index in 0..self.map.pages.used(self.words()) {
            for event in Event::ALL {
                tallies.extend(self.tally_page(index, event));
            }
        }
        for entry in (0..self.config.workers).flat_map(|worker| self.entries(worker)) {
            let seen = entry.load(SeqCst);
            let often = seen & OFTEN;
            let only = |event: Event| move |of: Event| if of == event { often } else { 0 };
            tallies.extend(match Key(seen).counts() {
                _ if often == 0 => None,
                Counts::Granule(event, granule) => self.tally_granule(granule, only(event)),
                Counts::Page { event, page, granule, uses } => {
                    let found = self
                        .whose_count(page, event)
                        .filter(|(of, counted)| counted.uses() & USES == uses && of.granule() == granule.0);
                    match found {
                        Some((of, counted)) => self.tally(page, of, counted, only(event)),
                        None => self.tally_granule(granule, only(event)),
                    }
                }
                Counts::User(..) | Counts::Nothing => None,
            });
        }
        tallies
    }

    fn tally_granule(&self, granule: GranuleSlot, number: impl Fn(Event) -> u64) -> Option<Tally> {
        let numbers = Event::ALL.map(number);
        if numbers == [0; 3] {
            return None;
        }
        let (egress_ip, ..) = self.granule(granule)?;
        Some(Tally { cell: None, egress_ip, origin: None, numbers })
    }

    fn tally_page(&self, index: u32, event: Event) -> Option<Tally> {
        let (of, counted) = self.whose_count(index, event).filter(|(_, counted)| counted.number() != 0)?;
        self.tally(index, of, counted, |of| if of == event { counted.number() } else { 0 })
    }

    fn tally(
        &self,
        index: u32,
        of: Identity,
        counted: Counted,
        number: impl Fn(Event) -> u64,
    ) -> Option<Tally> {
        let mut tally = self.tally_granule(GranuleSlot(of.granule()), number)?;
        tally.cell = Some(Cell { page: index, uses: counted.uses() as u16 });
        if of.record() < self.map.origins.capacity {
            let origin = self.origin_of(of.record());
            // After the origin, so that it is the one of that incarnation.
            let record = self.record_now(of.record());
            tally.origin = origin.filter(|_| record.page(GranuleSlot(of.granule())) == of);
        }
        Some(tally)
    }

    /// A page's counter, and whose it is.
    fn whose_count(&self, index: u32, event: Event) -> Option<(Identity, Counted)> {
        let page = (index < self.map.pages.capacity).then(|| self.page(index))?;
        let counted = Counted(page.counted(event).load(SeqCst));
        let identity = page.identity();
        // The page gets another identity only after another number of uses.
        let after = Counted(page.counted(event).load(SeqCst));
        (after.uses() == counted.uses()).then_some((identity, counted))
    }

    /// Leases granted by all workers since the table was made.
    pub fn granted(&self) -> u64 {
        self.tallies().iter().map(|tally| tally.numbers[0]).fold(0, u64::wrapping_add)
    }

    /// Acquires of a user that were refused, by the number of the reason.
    pub(super) fn refused_user(&self, user: QuotaSlot) -> [u64; REASONS] {
        let words = self.refusals(user.number.into());
        let mut refused =
            core::array::from_fn(|reason| words.get(reason).map_or(0, |word| word.load(SeqCst)));
        for entry in (0..self.config.workers).flat_map(|worker| &self.entries(worker)[USERS_FIRST..]) {
            let seen = entry.load(SeqCst);
            match Key(seen).counts() {
                Counts::User(of, reason) if of == u32::from(user.number) && (reason as usize) < REASONS => {
                    refused[reason as usize] = refused[reason as usize].wrapping_add(seen & OFTEN);
                }
                _ => {}
            }
        }
        refused
    }
}

#[inline(always)]
fn page_key(event: Event, index: u32, counted: &AtomicU64, granule: GranuleSlot) -> Key {
    Key::of_page(event, index, granule, Counted(counted.load(SeqCst)).uses())
}
