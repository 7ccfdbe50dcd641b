//! What one acquire looks at: a pool's sources towards one origin, their pages, and what is known of them.

use crate::net::{Origin, Protocol};
use crate::sync::{AtomicU64, Ordering::SeqCst};
use crate::time::Time;

use super::acquire::{Acquired, ROUNDS};
use super::handle::Stash;
use super::page::Page;
use super::pages::{NoPage, PageRef};
use super::pool::{Pool, Source, Sources};
use super::records::Record;
use super::slot::Slot;
use super::table::Table;
use super::tally::Event;
use super::{AcquireError, Lease, Memory};

/// What one acquire looks at.
pub(super) struct Target<'a, M: Memory> {
    pub(super) table: &'a Table<M>,
    pub(super) pool: &'a Pool,
    pub(super) sources: &'a Sources,
    /// `None`: towards all.
    pub(super) origin: Option<&'a Origin>,
    pub(super) protocol: Protocol,
    pub(super) record: Record,
    pub(super) pages: &'a mut [PageRef],
    pub(super) stash: Option<&'a mut Stash>,
    pub(super) now: Time,
}

impl<'a, M: Memory> Target<'a, M> {
    #[inline]
    pub(super) fn new(
        table: &'a Table<M>,
        pool: &'a Pool,
        sources: &'a Sources,
        origin: Option<&'a Origin>,
        record: Record,
        now: Time,
    ) -> Self {
        let protocol = origin.map_or(Protocol::Udp, Origin::protocol);
        Self { table, pool, sources, origin, protocol, record, pages: &mut [], stash: None, now }
    }
}

impl<'a, M: Memory> Target<'a, M> {
    /// May the machine grant at all at this moment?
    #[inline(always)]
    pub(super) fn check_tenure(&self) -> Acquired<()> {
        if self.table.has_tenure(self.now) { Ok(()) } else { Err(AcquireError::TenureOver) }
    }

    /// The page of a source, if there is one, and a view of it.
    #[inline(always)]
    pub(super) fn view(&mut self, source: usize) -> Option<(PageRef, Page<'a>)> {
        let table = self.table;
        if let Some(&known) = self.pages.get(source).filter(|known| known.life != 0) {
            let page = table.page(known.index);
            if page.life() == known.life {
                return Some((known, page));
            }
        }
        let found = self.look_up(source)?;
        Some((found, table.page(found.index)))
    }

    pub(super) fn record_of(&self, source: usize) -> Record {
        self.sources.list()[source].record(self.record, self.protocol)
    }

    /// The page of a source, if there is one.
    #[inline]
    pub(super) fn page(&mut self, source: usize) -> Option<PageRef> {
        Some(self.view(source)?.0)
    }

    /// Does the source have a port there? What a page says comes from memory that others write to; this does not.
    #[inline]
    pub(super) fn has(&self, source: usize, offset: u32) -> bool {
        offset < self.sources.ports_of(source)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn look_up(&mut self, source: usize) -> Option<PageRef> {
        self.forget(source);
        let found = self.table.find_page(self.record_of(source), self.sources.list()[source].granule)?;
        self.remember(source, found);
        Some(found)
    }

    /// The page of a source, made if there is none.
    pub(super) fn page_or_new(&mut self, source: usize, slot: Slot<'_>) -> Result<PageRef, NoPage> {
        if let Some(found) = self.page(source) {
            return Ok(found);
        }
        let record = self.record_of(source);
        let found = self.table.page_or_new(record, self.sources.list()[source].granule, self.now, slot)?;
        self.remember(source, found);
        Ok(found)
    }

    /// Sees to it that the source has a page; `None`, so that the caller goes on there.
    pub(super) fn make_page(&mut self, source: usize, slot: Slot<'_>) -> Acquired<Option<Lease>> {
        for _ in 0..ROUNDS {
            match self.page_or_new(source, slot) {
                Ok(_) => return Ok(None),
                Err(NoPage::Stale) => self.renew(slot)?,
                // Other sources of the pool may have pages: the search will see.
                Err(NoPage::NoRoom) if self.has_a_page() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Err(AcquireError::Corrupt)
    }

    pub(super) fn has_a_page(&mut self) -> bool {
        (0..self.sources.list().len()).any(|source| self.page(source).is_some())
    }

    /// The record has become another origin's: looks ours up again.
    pub(super) fn renew(&mut self, slot: Slot<'_>) -> Acquired<()> {
        if let Some(origin) = self.origin {
            self.record = self.table.origin_or_new(origin, self.now, slot)?;
        }
        self.pages.fill(PageRef::default());
        if let Some(stash) = self.stash.as_deref_mut() {
            stash.scarce = 0;
        }
        Ok(())
    }

    pub(super) fn remember(&mut self, source: usize, page: PageRef) {
        if let Some(known) = self.pages.get_mut(source) {
            *known = page;
        }
    }

    pub(super) fn forget(&mut self, source: usize) {
        self.remember(source, PageRef::default());
    }

    /// Is the page of every source that may be granted from known to be full?
    #[inline]
    pub(super) fn is_full(&mut self) -> bool {
        let now = self.now;
        (0..self.sources.list().len()).all(|source| {
            let page = match self.pages.get(source) {
                Some(known) if known.life != 0 => Some(*known),
                _ => self.look_up(source),
            };
            page.is_some_and(|page| self.table.is_full(page, now)) || !self.grants_from(source)
        })
    }

    /// Second half of marking every page full that may be granted from.
    pub(super) fn mark_full(&mut self, token: u64) {
        for source in 0..self.sources.list().len() {
            if !self.grants_from(source) {
                continue;
            }
            if let Some((known, page)) = self.view(source) {
                page.mark_full(token);
                if page.life() != known.life {
                    // It is another origin's by now, of which nobody has counted anything.
                    page.clear_doubt();
                }
            }
        }
    }

    /// Not those of granules that are leaving: they may come back, and then their free ports count.
    pub(super) fn each_granting_page(&mut self, mut visit: impl FnMut(Page<'_>)) {
        for source in 0..self.sources.list().len() {
            if self.grants_from(source) {
                if let Some(found) = self.page(source) {
                    visit(self.table.page(found.index));
                }
            }
        }
    }

    pub(super) fn each_page(&mut self, mut visit: impl FnMut(Page<'_>)) {
        for source in 0..self.sources.list().len() {
            if let Some(found) = self.page(source) {
                visit(self.table.page(found.index));
            }
        }
    }

    pub(super) fn grants_from(&self, source: usize) -> bool {
        self.table.grants(self.sources.list()[source].granule, self.protocol, self.now)
    }

    /// Where it is kept that no tuple is free: in the record of the pool's tuples, if they have one in common.
    #[inline]
    pub(super) fn hint(&self) -> Option<&AtomicU64> {
        self.sources.is_wildcard().map(|wildcard| {
            let record = if wildcard { Record::any_origin(self.protocol) } else { self.record };
            self.table.scarce(record.index)
        })
    }

    /// Is it known that no tuple of the pool is free towards the origin, so that resting ones are as good?
    #[inline]
    pub(super) fn is_scarce(&self) -> bool {
        let scarce = self.hint().map_or(0, |hint| hint.load(SeqCst));
        scarce as u8 == self.pool.key().0 as u8 && self.now.as_millis() < scarce >> 8
    }

    /// May ports be drawn in advance? Only if anything that brings free ones back can be seen.
    pub(super) fn can_stash(&self) -> bool {
        self.stash.is_some() && self.is_scarce()
    }

    /// Remembers it until the first rest or hold ends. One pool per origin is remembered, by the low byte of its
    /// key: a hint that is missing or wrong changes what is preferred, never what may be granted.
    pub(super) fn set_scarce(&mut self) {
        let mut until = u64::MAX >> 8;
        self.each_page(|page| until = until.min(page.due()));
        if let Some(hint) = self.hint() {
            hint.store(until << 8 | u64::from(self.pool.key().0 as u8), SeqCst);
        }
    }

    /// The sources of one egress IP, and the record that their tuples are in.
    pub(super) fn row(&self, source: usize) -> (Record, &[Source]) {
        (self.record_of(source), &self.sources.list()[self.sources.row(source)])
    }

    /// Raises the high-water mark of one egress IP towards the origin.
    #[cold]
    pub(super) fn sample(&self, source: usize, page: Page<'_>) {
        let (record, row) = self.row(source);
        let occupied = match row.len() {
            1 => page.occupied(),
            _ => self.table.occupied(record, row),
        };
        page.raise_peak(occupied);
    }

    /// The same, for one of the sources' pages.
    #[cold]
    #[inline(never)]
    pub(super) fn sample_page(&self, index: u32) {
        let page = self.table.page(index);
        let granule = page.identity().granule();
        if let Some(source) = self.sources.list().iter().position(|source| source.granule.0 == granule) {
            self.sample(source, page);
        }
    }

    /// Tuples that are live or held towards the origin from the egress IP of a source.
    pub(super) fn occupied(&self, source: usize) -> u32 {
        let (record, row) = self.row(source);
        self.table.occupied(record, row)
    }

    /// No tuple is free. Counted by that worker, for the first source of the pool.
    pub(super) fn refuse(&mut self, worker: u16) -> AcquireError {
        if !(0..self.sources.list().len()).any(|source| self.grants_from(source)) {
            return AcquireError::NoShare;
        }
        self.count_refused(worker, Event::Exhausted, 0);
        AcquireError::Exhausted
    }

    /// Charges a refusal to a source.
    pub(super) fn count_refused(&mut self, worker: u16, event: Event, source: usize) {
        if let Some(granule) = self.sources.list().get(source).map(|source| source.granule) {
            let known = self.pages.get(source).copied().filter(|known| known.life != 0);
            let page = known.or_else(|| self.look_up(source));
            self.table.count_refused(worker, event, page, granule);
        }
    }
}
