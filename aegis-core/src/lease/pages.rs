//! Which page is a (record, granule)'s? Made when first needed, and used again for another when it is empty.
//!
//! The first page of a record is named by its home word, the others are found through an index. Both name a page before it
//! grants anything, and a page ends its life before they forget it: so there is never a second page for the same tuples.

use crate::sync::Ordering::SeqCst;
use crate::time::Time;

use super::home::{Home, Single, What};
use super::index::{Found, Inserted};
use super::map::{PAGE_HAND, PAGES_FULL};
use super::page::{Identity, Page, Shape};
use super::pool::GranuleSlot;
use super::records::Record;
use super::slot::Slot;
use super::table::Table;
use super::tag::{Deadline, QUANTUM_MS};
use super::{AcquireError, Memory};

/// A page, and the life in which it is somebody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct PageRef {
    pub(super) index: u32,
    /// 0: no page.
    pub(super) life: u64,
}

/// Why there is no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoPage {
    /// The record has become another origin's.
    Stale,
    /// No page can be had.
    NoRoom,
    /// The table's memory is not what it should be.
    Corrupt,
}

impl From<NoPage> for AcquireError {
    fn from(reason: NoPage) -> Self {
        match reason {
            NoPage::Stale | NoPage::NoRoom => Self::TooManyOrigins,
            NoPage::Corrupt => Self::Corrupt,
        }
    }
}

/// Pages that whoever makes a page looks at, to give back the empty ones.
const TIDY_STEPS: u32 = 2;

impl Record {
    pub(super) const fn page(self, granule: GranuleSlot) -> Identity {
        Identity::new(self.index, self.incarnation, granule.0)
    }
}

/// Both numbers are ours, not an attacker's: mixing is enough, no keyed hash is needed.
fn hash(identity: Identity) -> u64 {
    let mut hash = identity.0;
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ hash >> 33).wrapping_mul(factor);
    }
    hash ^ hash >> 33
}

impl<M: Memory> Table<M> {
    fn is_page(&self, index: u32, identity: Identity) -> bool {
        index < self.map.pages.capacity && self.page(index).identity() == identity
    }

    fn find_other(&self, identity: Identity) -> Option<Found> {
        self.map.page_index.find(self.words(), hash(identity), |index| self.is_page(index, identity))
    }

    /// The page of a record's granule, if there is one.
    #[inline]
    pub(super) fn find_page(&self, record: Record, granule: GranuleSlot) -> Option<PageRef> {
        let identity = record.page(granule);
        let word = self.home(record.index).load(SeqCst);
        let Home::Pages { first, .. } = Home::of(word, Time::ZERO) else { return None };
        let (index, life) = match self.is_page(first, identity) {
            true => (first, self.publish_first(record.index, word, first)),
            false => self.publish_other(identity, self.find_other(identity)?),
        };
        let page = self.page(index);
        // A page that has ended is as good as none: it was empty.
        (Page::is_used(life) && page.identity() == identity && self.is_current(record))
            .then_some(PageRef { index, life: Page::remembered(life) })
    }

    /// Publishes a record's first page, which was found through that home word; its life. No other life of the page has
    /// the same word.
    fn publish_first(&self, record: u32, word: u64, first: u32) -> u64 {
        self.page(first).publish(|| self.home(record).load(SeqCst) == word)
    }

    /// Publishes a page that was found through the index; which it is, and its life.
    fn publish_other(&self, identity: Identity, found: Found) -> (u32, u64) {
        let index = found.item();
        (index, self.page(index).publish(|| self.find_other(identity) == Some(found)))
    }

    /// The page of a record's granule, made if there is none.
    #[cold]
    pub(super) fn page_or_new(
        &self,
        record: Record,
        granule: GranuleSlot,
        now: Time,
        slot: Slot<'_>,
    ) -> Result<PageRef, NoPage> {
        let identity = record.page(granule);
        let home = self.home(record.index);
        // Every round that fails has seen somebody else's succeed, if the memory is sound.
        for _ in 0..1 << 16 {
            let word = home.load(SeqCst);
            if !self.is_current(record) {
                return Err(NoPage::Stale);
            }
            match Home::of(word, now) {
                Home::Closed => return Err(NoPage::Stale),
                Home::Empty { incarnation } if incarnation != record.incarnation => {
                    return Err(NoPage::Stale);
                }
                Home::Empty { .. } => self.first_page(record, word, granule, None, now, slot)?,
                Home::Single(single) if single.incarnation != record.incarnation as u8 => {
                    return Err(NoPage::Stale);
                }
                Home::Single(single) if single.what.is_over(now) => {
                    self.first_page(record, word, granule, None, now, slot)?;
                }
                Home::Single(single) => {
                    let its_own = GranuleSlot(single.granule);
                    self.first_page(record, word, its_own, Some(single), now, slot)?;
                }
                Home::Pages { first, .. } if first >= self.map.pages.capacity => {
                    return Err(NoPage::Corrupt);
                }
                Home::Pages { first, others, .. } if self.is_page(first, identity) => {
                    let page = self.page(first);
                    let life = self.publish_first(record.index, word, first);
                    // Once more, after the life: it may be that of another's stay.
                    if !self.is_page(first, identity) {
                        continue;
                    }
                    if Page::is_used(life) {
                        return Ok(PageRef { index: first, life: Page::remembered(life) });
                    }
                    if !Page::is_free(life) {
                        continue;
                    }
                    if others == 0 {
                        self.forget_first(record, word, first, life);
                    } else if home.load(SeqCst) == word {
                        // Once more, after the life: whoever forgets the page gives it another life first.
                        page.reopen(life);
                    }
                }
                Home::Pages { first, others, version } => {
                    if let Some(found) = self.find_other(identity) {
                        let (index, life) = self.publish_other(identity, found);
                        if !self.is_page(index, identity) {
                            continue;
                        }
                        if Page::is_used(life) {
                            return Ok(PageRef { index, life: Page::remembered(life) });
                        }
                        if Page::is_free(life) {
                            let _ = self.page(index).abandon(life) && self.bury_other(record.index, found);
                        }
                        continue;
                    }
                    let more = Home::with_others(first, others + 1, version).word();
                    if home.compare_exchange(word, more, SeqCst, SeqCst).is_ok() {
                        // Now the record cannot go. It may have gone before.
                        let made = if self.is_current(record) {
                            self.other_page(identity, now, slot)
                        } else {
                            Err(NoPage::Stale)
                        };
                        match made {
                            Ok(true) => {}
                            Ok(false) => self.one_other_less(record.index),
                            Err(error) => {
                                self.one_other_less(record.index);
                                return Err(error);
                            }
                        }
                    }
                }
            }
        }
        Err(NoPage::Corrupt)
    }

    /// Publishes a page as the record's first one, with the tuple that the home word held until now.
    fn first_page(
        &self,
        record: Record,
        word: u64,
        granule: GranuleSlot,
        single: Option<Single>,
        now: Time,
        slot: Slot<'_>,
    ) -> Result<(), NoPage> {
        let index = self.fresh_page(record.page(granule), now, slot)?;
        let page = self.page(index);
        let life = page.life();
        if let Some(single) = single {
            // In sound memory the offset is one of the granule's.
            if single.offset >= page.ports() {
                self.drop_page(index, life, slot);
                return Err(NoPage::Corrupt);
            }
            // Named, so that a port that was taken here is told from one of somebody who knew the page earlier.
            let intent = slot.intent(index);
            intent.names(single.offset);
            if page.take(single.offset).is_none() {
                // That one is about to put it back.
                intent.is_done();
                self.drop_page(index, life, slot);
                return Ok(());
            }
            page.set_tag(single.offset, single.what.tag());
            intent.is_done();
            match single.what {
                What::Live(_) => {}
                What::Parked(until) => {
                    page.park();
                    page.kept_until(until, || now);
                }
                What::Held(until) => drop(page.kept_until(until, || now)),
                What::Resting(until) => {
                    page.kept_until(until, || now);
                    page.give_resting(single.offset);
                }
            }
        }
        // Another version for every life of the page: whoever saw an earlier life end must not take this one away.
        let version = ((life >> 2) as u32).wrapping_mul(0x9e37_79b1);
        let pages = Home::Pages { first: index, others: 0, version }.word();
        if self.home(record.index).compare_exchange(word, pages, SeqCst, SeqCst).is_ok() {
            page.publish_life(life);
            slot.has_page(None);
        } else {
            self.drop_page(index, life, slot);
        }
        Ok(())
    }

    /// Publishes a page through the index; false if there is one already.
    fn other_page(&self, identity: Identity, now: Time, slot: Slot<'_>) -> Result<bool, NoPage> {
        let index = self.fresh_page(identity, now, slot)?;
        let life = self.page(index).life();
        let inserted = self
            .map
            .page_index
            .insert(self.words(), hash(identity), index, life >> 2, |other| self.is_page(other, identity));
        match inserted {
            Inserted::New => {
                self.page(index).publish_life(life);
                slot.has_page(None);
                Ok(true)
            }
            Inserted::Exists(_) | Inserted::Again => {
                // If others have completed, used and ended it, they have counted it out.
                Ok(!self.drop_page(index, life, slot))
            }
            Inserted::Full => {
                self.drop_page(index, life, slot);
                // The few slots where it may be are others': empty pages, or such with only resting ports, make room.
                let room = self
                    .map
                    .page_index
                    .confirmed(self.words(), hash(identity))
                    .any(|found| self.end_page(found.item(), true, now, slot));
                if room { Ok(false) } else { Err(NoPage::NoRoom) }
            }
        }
    }

    /// An empty page that nobody else knows.
    fn fresh_page(&self, identity: Identity, now: Time, slot: Slot<'_>) -> Result<u32, NoPage> {
        self.tidy_pages(now, TIDY_STEPS, false, slot);
        let words = self.words();
        let mut taken = self.map.pages.take(words);
        if taken.is_none() && now.as_millis() >= words[PAGES_FULL].load(SeqCst) {
            self.tidy_pages(now, self.map.pages.used(words), true, slot);
            taken = self.map.pages.take(words);
            if taken.is_none() {
                words[PAGES_FULL].store(now.as_millis() + QUANTUM_MS, SeqCst);
            }
        }
        let index = taken.ok_or(NoPage::NoRoom)?;
        slot.has_page(Some((index, self.page(index).next_private_life())));
        self.page(index).open(identity, self.shape(identity.record(), GranuleSlot(identity.granule()))?);
        Ok(index)
    }

    fn shape(&self, record: u32, granule: GranuleSlot) -> Result<Shape, NoPage> {
        let ports = self.granule_ports(granule).ok_or(NoPage::Corrupt)?;
        Ok(Shape { ports, protocol: self.protocol_of(record), profile: self.profile_of(record, granule) })
    }

    /// Gives back a page in that life, in which it was not published; unless others have found it, used it and given it
    /// back since: then false.
    fn drop_page(&self, index: u32, life: u64, slot: Slot<'_>) -> bool {
        let ours = self.page(index).abandon(life);
        if ours {
            // What was copied there is still where it came from.
            self.page(index).clear();
            self.map.pages.give(self.words(), index);
        }
        slot.has_page(None);
        ours
    }

    /// Replaces a first page that has ended by nothing; `word` is from before that `life` was seen. True if the page has
    /// been given back by this.
    fn forget_first(&self, record: Record, word: u64, first: u32, life: u64) -> bool {
        let empty = Home::Empty { incarnation: record.incarnation }.word();
        // Another life first: whoever goes on with a page that has ended does so only in the life that he saw, and looks
        // at the home word after it. So he fails here, or the exchange of the word does.
        let forgotten = self.page(first).abandon(life)
            && self.home(record.index).compare_exchange(word, empty, SeqCst, SeqCst).is_ok();
        if forgotten {
            self.fold_page(first);
            self.map.pages.give(self.words(), first);
        }
        forgotten
    }

    /// Removes a page that has ended from the index; true if it has been given back by this.
    fn bury_other(&self, record: u32, found: Found) -> bool {
        let removed = self.map.page_index.remove(self.words(), found);
        if removed {
            self.one_other_less(record);
            self.fold_page(found.item());
            self.map.pages.give(self.words(), found.item());
        }
        removed
    }

    fn one_other_less(&self, record: u32) {
        let _ = self.home(record).fetch_update(SeqCst, SeqCst, |word| match Home::of(word, Time::ZERO) {
            Home::Pages { first, others: others @ 1.., version } => {
                Some(Home::with_others(first, others - 1, version).word())
            }
            _ => None,
        });
    }

    /// Ends a page that is empty, or has only resting ports if those may be forgotten; and finishes what somebody began
    /// who was killed at that. True if it has been given back.
    pub(super) fn end_page(&self, index: u32, forget_rest: bool, now: Time, slot: Slot<'_>) -> bool {
        if index >= self.map.pages.capacity {
            return false;
        }
        let page = self.page(index);
        let (life, identity) = (page.life(), page.identity());
        let record = identity.record();
        if record >= self.map.origins.capacity {
            return false;
        }
        if Page::is_open(life) && page.is_due(now) {
            page.sweep(now, slot.sweep(index));
        }
        let record = self.record_now(record);
        let word = self.home(record.index).load(SeqCst);
        match Home::of(word, now) {
            Home::Pages { first, others: 0, .. } if first == index => {
                page.ended(life, forget_rest).is_some_and(|life| self.forget_first(record, word, first, life))
            }
            Home::Pages { first, .. } if first != index => {
                // Before it ends: afterwards the same tuples may have another page, which is found instead.
                let found = self.find_other(identity).filter(|found| found.item() == index);
                found.is_some_and(|found| {
                    page.ended(life, forget_rest).is_some_and(|life| page.abandon(life))
                        && self.bury_other(record.index, found)
                })
            }
            _ => false,
        }
    }

    /// Looks at some pages and gives back those that are empty.
    pub(super) fn tidy_pages(&self, now: Time, steps: u32, forget_rest: bool, slot: Slot<'_>) {
        let words = self.words();
        let used = u64::from(self.map.pages.used(words));
        for _ in 0..steps.min(used as u32) {
            let index = words[PAGE_HAND].fetch_add(1, SeqCst) % used;
            self.end_page(index as u32, forget_rest, now, slot);
        }
    }

    /// A page that a dead worker had to itself: back to the others, unless it had published it.
    ///
    /// `life` is the lower half of the page's life with the dead one: since he published it the page may have ended, and
    /// may be somebody else's who has not published it yet.
    pub(super) fn give_back_page(&self, index: u32, life: u32) {
        if index >= self.map.pages.used(self.words()) {
            return;
        }
        let page = self.page(index);
        let (now, identity) = (page.life(), page.identity());
        if page.next_private_life() as u32 == life {
            // He had taken it, and not even opened it.
            if page.abandon(now) {
                self.map.pages.give(self.words(), index);
            }
            return;
        }
        if now as u32 != life {
            return;
        }
        // What he had begun to publish is published, or can never be.
        let same = |other| self.is_page(other, identity);
        self.map.page_index.settle(self.words(), hash(identity), index, same);
        let record = identity.record();
        let published = record < self.map.origins.capacity
            && (matches!(Home::of(self.home(record).load(SeqCst), Time::ZERO),
                Home::Pages { first, .. } if first == index)
                || self.find_other(identity).is_some_and(|found| found.item() == index));
        if !published && page.abandon(now) {
            page.clear();
            self.map.pages.give(self.words(), index);
        }
    }

    /// No deadline that can be in the page is before this.
    pub(super) fn deadline_after(now: Time, span_ms: u64) -> Deadline {
        Deadline::after(Time::from_millis(now.as_millis().saturating_add(span_ms)))
    }
}
