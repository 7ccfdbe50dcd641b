//! How one source is chosen and taken: draw, and if that does not find a free one, count and draw a rank.

use crate::sync::Ordering::SeqCst;

use super::choice::Choice;
use super::grant::At;
use super::granules::Verdict;
use super::handle::{MOST_STASHED, SMALL_POOL};
use super::home::{Home, Single, What};
use super::page::{Candidates, Page, Preference};
use super::pages::{NoPage, PageRef};
use super::pool::Source;
use super::release::End;
use super::slot::Slot;
use super::table::Table;
use super::tag::{Class, OwnerNumber, Tag};
use super::tally::Event;
use super::target::Target;
use super::{AcquireError, Lease, Memory};

pub(super) type Acquired<T = Lease> = Result<T, AcquireError>;

/// Random draws before the free ports are counted. At 80 % full 15 draws miss once in 28 times; more draws would
/// cost more than the count they save.
const DRAWS: u32 = 15;

/// Random draws among resting ports before all of the older generation are written down.
const DRAWS_BEFORE_STASH: u32 = 1;

/// Rounds that find something which then is gone: each has seen somebody else succeed. So many in a row mean that the
/// table's memory says what is not true.
pub(super) const ROUNDS: u32 = 1 << 16;

/// What acquires: all of a worker but its table, so that both can be borrowed at once.
#[derive(Debug)]
pub(super) struct Hand {
    owner: OwnerNumber,
    pub(super) number: u16,
    generation: u8,
    doubts: u64,
    choice: Choice,
    /// What the last count found, source by source.
    counts: Vec<Candidates>,
    /// It left out egress IPs that have reached the limit towards the origin.
    limited: bool,
}

impl Hand {
    pub(super) fn new(owner: OwnerNumber, number: u16, mut choice: Choice) -> Self {
        // The number may have had another owner: its last generations are unlikely to come again at once.
        let generation = choice.below(256) as u8;
        Self { owner, number, generation, doubts: 0, choice, counts: Vec::new(), limited: false }
    }

    #[inline]
    fn slot<'a, M: Memory>(&self, table: &'a Table<M>) -> Slot<'a> {
        table.slot_of(self.number)
    }

    #[inline]
    pub(super) fn acquire<M: Memory>(&mut self, target: &mut Target<'_, M>) -> Acquired {
        target.check_tenure()?;
        if target.pool.is_limited() || target.table.config().per_origin != 0 {
            return self.acquire_limited(target);
        }
        let lease = match self.draw_from_stash(target) {
            Some(lease) => lease,
            None => self.draw(target)?,
        };
        self.count_granted(target, &lease, true);
        Ok(lease)
    }

    /// As [`Hand::acquire`], where limits are set.
    #[cold]
    fn acquire_limited<M: Memory>(&mut self, target: &mut Target<'_, M>) -> Acquired {
        // Counted first, so that nothing has to be undone when the quota is reached.
        self.under_quota(target, |hand, target| match target.table.config().per_origin {
            // Draws would not know which egress IPs have reached their limit.
            1.. => hand.search(target),
            0 => match hand.draw_from_stash(target) {
                Some(lease) => Ok(lease),
                None => hand.draw(target),
            },
        })
    }

    fn under_quota<M: Memory>(
        &mut self,
        target: &mut Target<'_, M>,
        acquire: impl FnOnce(&mut Self, &mut Target<'_, M>) -> Acquired,
    ) -> Acquired {
        if let Some(quota) = target.pool.quota() {
            target.table.count_quota(quota)?;
        }
        let lease = acquire(self, target);
        match (&lease, target.pool.quota()) {
            (Ok(lease), _) => self.count_granted(target, lease, true),
            (Err(_), Some(quota)) => target.table.uncount(quota.number + 1, self.owner),
            (Err(_), None) => {}
        }
        lease
    }

    /// A lease is about to be handed out: one more of its user, if it does not take the place of another.
    #[inline(always)]
    fn count_granted<M: Memory>(&self, target: &Target<'_, M>, lease: &Lease, more: bool) {
        // One that is in its origin's home word was counted there.
        if let At::Page(index) = lease.at() {
            if target.table.count_granted(self.number, index) {
                target.sample_page(index);
            }
        }
        if let Some(quota) = target.pool.quota() {
            target.table.count_user(self.number, quota, more);
        }
    }

    #[inline]
    fn draw<M: Memory>(&mut self, target: &mut Target<'_, M>) -> Acquired {
        let now = target.now;
        let mut full_is_ruled_out = false;
        // Most pools have one granule, and draws from a few often meet the same one: look its page up once.
        let mut known = None;
        for nth in 0..DRAWS {
            let drawn = self.choice.below(target.sources.ports());
            let (source, offset) = target.sources.locate(drawn);
            let (found, page) = match known {
                Some((seen, found, page)) if seen == source => (found, page),
                _ => {
                    let (found, page) = match target.view(source) {
                        Some(found) => found,
                        None => match self.take_home(target, source, offset)? {
                            Some(lease) => return Ok(lease),
                            None => match target.view(source) {
                                Some(found) => found,
                                None => break,
                            },
                        },
                    };
                    if page.is_due(now) {
                        target.table.sweep(found.index, page, now, self.slot(target.table));
                    }
                    known = Some((source, found, page));
                    (found, page)
                }
            };
            let wanted = match page.peek(offset) {
                Some(Preference::Free) => true,
                Some(Preference::Old) => target.is_scarce(),
                Some(Preference::Young) | None => false,
            };
            if wanted {
                if let Some(lease) = self.claim(target, source, page, found, offset) {
                    return Ok(lease);
                }
            }
            if nth == DRAWS_BEFORE_STASH && target.sources.ports() <= SMALL_POOL && target.can_stash() {
                break;
            }
            if !full_is_ruled_out {
                // Only now, because most first draws succeed.
                if target.is_full() {
                    return Err(target.refuse(self.number));
                }
                full_is_ruled_out = true;
            }
        }
        self.search(target)
    }

    /// For an origin that has no page for this source: takes the source in the origin's home word, or makes the page.
    #[cold]
    fn take_home<M: Memory>(
        &mut self,
        target: &mut Target<'_, M>,
        source: usize,
        offset: u32,
    ) -> Acquired<Option<Lease>> {
        let table = target.table;
        let slot = self.slot(table);
        let place = &target.sources.list()[source];
        for _ in 0..ROUNDS {
            let word = table.home(target.record.index).load(SeqCst);
            let home = Home::of(word, target.now);
            // After the word, so that it is not another origin's.
            if !table.is_current(target.record) {
                target.renew(slot)?;
                continue;
            }
            if place.is_wildcard || !table.grants(place.granule, target.protocol, target.now) {
                return target.make_page(source, slot);
            }
            let vacant = match home {
                Home::Empty { incarnation } => incarnation == target.record.incarnation,
                Home::Single(single) if single.incarnation != target.record.incarnation as u8 => false,
                Home::Single(single) if single.what.is_over(target.now) => true,
                Home::Single(Single { what: What::Resting(_), .. }) => match target.make_page(source, slot) {
                    // No page is to be had: rest is forgotten.
                    Err(AcquireError::TooManyOrigins) => true,
                    made => return made,
                },
                Home::Closed => false,
                Home::Single(_) | Home::Pages { .. } => return target.make_page(source, slot),
            };
            if !vacant {
                target.renew(slot)?;
                continue;
            }
            match self.claim_home(target, place, word, offset) {
                Ok(lease) => return Ok(Some(lease)),
                Err(Missed::Changed) => {}
                Err(Missed::NotThisOne) => return target.make_page(source, slot),
            }
        }
        Err(AcquireError::Corrupt)
    }

    /// Takes a source as the only tuple of its origin.
    fn claim_home<M: Memory>(
        &mut self,
        target: &Target<'_, M>,
        place: &Source,
        word: u64,
        offset: u32,
    ) -> Result<Lease, Missed> {
        let table = target.table;
        let tag = self.next_tag();
        let incarnation = target.record.incarnation as u8;
        let single = Single { granule: place.granule.0, offset, incarnation, what: What::Live(tag) };
        let home = table.home(target.record.index);
        if home.compare_exchange(word, Home::Single(single).word(), SeqCst, SeqCst).is_err() {
            return Err(Missed::Changed);
        }
        let lease = self.lease(target, At::Home(target.record.index), offset, tag);
        let slot = self.slot(table);
        // Claim, then look: as with a port in a page. A word with a tuple that has ended does not say of which
        // incarnation it is; with a live one the record cannot go.
        if !table.is_current(target.record) {
            let _ = table.end(&without_quota(&lease), target.now, slot, None, |_, _| End::Free);
            return Err(Missed::Changed);
        }
        match table.verdict(place.granule, target.protocol, offset, target.now, slot) {
            Verdict::Grant => {
                table.count_granted_at_home(self.number, place.granule);
                Ok(lease)
            }
            Verdict::NotOwned | Verdict::Parked(_) => {
                let lease = without_quota(&lease);
                let _ = table.end(&lease, target.now, slot, None, |_, _| End::Free);
                Err(Missed::NotThisOne)
            }
        }
    }

    fn next_tag(&mut self) -> Tag {
        self.generation = self.generation.wrapping_add(1);
        Tag::live(self.owner, self.generation)
    }

    #[inline(always)]
    fn lease<M: Memory>(&self, target: &Target<'_, M>, at: At, offset: u32, tag: Tag) -> Lease {
        let quota = target.pool.quota().map_or(0, |quota| quota.number + 1);
        Lease::new(at, offset, tag, target.table.id(), target.pool.key(), quota)
    }

    /// Takes one port, if it still can be had.
    #[inline(always)]
    fn claim<M: Memory>(
        &mut self,
        target: &mut Target<'_, M>,
        source: usize,
        page: Page<'_>,
        found: PageRef,
        offset: u32,
    ) -> Option<Lease> {
        let table = target.table;
        let place = &target.sources.list()[source];
        let slot = self.slot(table);
        let intent = slot.intent(found.index);
        // Named before the claim, so that whoever finds a port taken but not tagged knows where to look.
        intent.names(offset);
        let Some(taken) = page.take(offset) else {
            intent.is_done();
            return None;
        };
        if page.life() != found.life {
            let identity = place.record(target.record, target.protocol).page(place.granule);
            match page.settle(identity) {
                Some(life) => target.remember(source, PageRef { life, ..found }),
                None => {
                    page.put_back(offset, taken);
                    intent.is_done();
                    target.forget(source);
                    return None;
                }
            }
        }
        let lease = match table.verdict(place.granule, target.protocol, offset, target.now, slot) {
            Verdict::Grant => {
                let tag = self.next_tag();
                page.set_tag(offset, tag);
                Some(self.lease(target, At::Page(found.index), offset, tag))
            }
            Verdict::NotOwned => {
                page.put_back(offset, taken);
                None
            }
            Verdict::Parked(tag) => {
                table.park_tuple(page, offset, tag, target.now);
                None
            }
        };
        intent.is_done();
        lease
    }

    /// A port that was resting in the older generation when all of them were written down, and still is.
    #[inline(always)]
    fn draw_from_stash<M: Memory>(&mut self, target: &mut Target<'_, M>) -> Option<Lease> {
        loop {
            let scarce = target.stash.as_deref()?.scarce;
            if scarce == 0 {
                return None;
            }
            // Anything that may have brought a free port back has changed the hint.
            let stands = target.hint().is_some_and(|hint| hint.load(SeqCst) == scarce)
                && target.now.as_millis() < scarce >> 8;
            let stash = target.stash.as_deref_mut()?;
            if !stands {
                stash.ports.clear();
                stash.scarce = 0;
                return None;
            }
            let len = stash.ports.len() as u32;
            if len == 0 {
                return None;
            }
            let (source, offset) = stash.ports.swap_remove(self.choice.below(len) as usize);
            let (source, offset) = (usize::from(source), u32::from(offset));
            let flips = stash.flips[source];
            let (found, page) = target.view(source)?;
            if page.flips() == flips && page.peek(offset) == Some(Preference::Old) {
                if let Some(lease) = self.claim(target, source, page, found, offset) {
                    return Some(lease);
                }
            }
        }
    }

    /// Counts what there is and draws a rank, so that a free tuple is found if there is one.
    #[cold]
    fn search<M: Memory>(&mut self, target: &mut Target<'_, M>) -> Acquired {
        let mut doubt = None;
        // No page can be made for a granule that has none: its ports are out of reach.
        let mut no_room = false;
        for _ in 0..ROUNDS {
            let total = self.count(target, no_room);
            let (class, among) = match (total, doubt) {
                (Candidates { free: 1.., .. }, _) => (Preference::Free, total.free),
                (Candidates { old: 1.., .. }, _) => (Preference::Old, total.old),
                (Candidates { young: 1.., .. }, _) => {
                    // The older generation is used up in every page: the younger one takes its place.
                    self.flip(target);
                    continue;
                }
                _ if no_room => return Err(AcquireError::TooManyOrigins),
                _ if self.limited => {
                    target.count_refused(self.number, Event::OriginLimit, 0);
                    return Err(AcquireError::OriginLimit);
                }
                (_, None) => {
                    let token = self.token();
                    target.each_granting_page(|page| page.doubt_full(token));
                    doubt = Some(token);
                    continue;
                }
                (_, Some(token)) => {
                    target.mark_full(token);
                    if let Some(found) = target.page(0) {
                        target.sample(0, target.table.page(found.index));
                    }
                    return Err(target.refuse(self.number));
                }
            };
            if doubt.take().is_some() {
                target.each_granting_page(|page| page.clear_doubt());
            }
            if class == Preference::Old && !target.is_scarce() {
                target.set_scarce();
            }
            let lease = match class {
                Preference::Old if among <= MOST_STASHED && target.can_stash() => {
                    self.fill_stash(target);
                    self.draw_from_stash(target)
                }
                _ => {
                    let rank = self.choice.below(among);
                    let (source, rank) = self.source_of(class, rank);
                    let found = match target.page_or_new(source, self.slot(target.table)) {
                        Ok(found) => found,
                        Err(NoPage::Corrupt) => return Err(AcquireError::Corrupt),
                        Err(NoPage::Stale) => {
                            target.renew(self.slot(target.table))?;
                            continue;
                        }
                        Err(NoPage::NoRoom) => {
                            no_room = true;
                            continue;
                        }
                    };
                    let page = target.table.page(found.index);
                    // If it fails somebody else was faster, or the port is a stranger's: count again.
                    page.select(class, rank)
                        .filter(|&offset| target.has(source, offset))
                        .and_then(|offset| self.claim(target, source, page, found, offset))
                        .and_then(|lease| self.within_limit(target, source, lease))
                        .inspect(|_| target.sample(source, page))
                }
            };
            if let Some(lease) = lease {
                return Ok(lease);
            }
        }
        Err(AcquireError::Corrupt)
    }

    /// The source that has the `rank`th port of a class, and the port's rank there.
    fn source_of(&self, class: Preference, mut rank: u32) -> (usize, u32) {
        let source = self.counts.iter().position(|count| {
            let here = count.of(class);
            let inside = rank < here;
            rank -= if inside { 0 } else { here };
            inside
        });
        (source.expect("the rank is below the sum of the counts"), rank)
    }

    /// Writes down all ports of the older generation.
    fn fill_stash<M: Memory>(&mut self, target: &mut Target<'_, M>) {
        let scarce = target.hint().map_or(0, |hint| hint.load(SeqCst));
        let Some(stash) = target.stash.take() else { return };
        stash.ports.clear();
        stash.flips.clear();
        for source in 0..target.sources.list().len() {
            let count = self.counts[source];
            stash.flips.push(count.flips);
            if count.old == 0 {
                continue;
            }
            if let Some((_, page)) = target.view(source) {
                page.each(Preference::Old, |offset| {
                    if target.has(source, offset) {
                        stash.ports.push((source as u16, offset as u16));
                    }
                });
            }
        }
        stash.scarce = scarce;
        target.stash = Some(stash);
    }

    /// Sweeps what is due and counts, source by source; returns the sum.
    fn count<M: Memory>(&mut self, target: &mut Target<'_, M>, no_room: bool) -> Candidates {
        self.counts.clear();
        self.limited = false;
        let limit = target.table.config().per_origin;
        let mut total = Candidates::default();
        if limit != 0 {
            // The limit counts all pages of an egress IP: what is held too long there is in the way here.
            for source in 0..target.sources.list().len() {
                let Some(found) = target.page(source) else { continue };
                let page = target.table.page(found.index);
                if page.is_due(target.now) {
                    target.table.sweep(found.index, page, target.now, self.slot(target.table));
                }
            }
        }
        for source in 0..target.sources.list().len() {
            let count = match target.page(source) {
                _ if !target.grants_from(source) => Candidates::default(),
                _ if limit != 0 && target.occupied(source) >= limit => {
                    self.limited = true;
                    Candidates::default()
                }
                Some(found) => {
                    let page = target.table.page(found.index);
                    if page.is_due(target.now) {
                        target.table.sweep(found.index, page, target.now, self.slot(target.table));
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

    fn flip<M: Memory>(&self, target: &mut Target<'_, M>) {
        for (source, count) in self.counts.iter().enumerate() {
            if let Some(found) = target.page(source) {
                target.table.page(found.index).flip(count.flips);
            }
        }
    }

    /// Odd, and different for every doubt of every worker.
    fn token(&mut self) -> u64 {
        self.doubts += 1;
        self.doubts << 17 | u64::from(self.number) << 1 | 1
    }

    pub(super) fn acquire_exactly<M: Memory>(
        &mut self,
        target: &mut Target<'_, M>,
        source: usize,
        offset: u32,
    ) -> Acquired {
        target.check_tenure()?;
        if !target.grants_from(source) {
            return Err(AcquireError::NoShare);
        }
        self.under_quota(target, |hand, target| {
            for _ in 0..ROUNDS {
                let (found, page) = hand.page_for(target, source)?;
                if let Some(lease) = hand.claim(target, source, page, found, offset) {
                    let Some(lease) = hand.within_limit(target, source, lease) else {
                        target.count_refused(hand.number, Event::OriginLimit, source);
                        return Err(AcquireError::OriginLimit);
                    };
                    return Ok(lease);
                }
                // A page that has ended meanwhile says nothing of the port.
                let identity = target.sources.list()[source].record(target.record, target.protocol);
                let granule = target.sources.list()[source].granule;
                if page.settle(identity.page(granule)).is_some() {
                    return Err(AcquireError::InUse);
                }
            }
            Err(AcquireError::Corrupt)
        })
    }

    /// Takes back a lease that is one too many towards its origin from its egress IP.
    #[inline]
    fn within_limit<M: Memory>(
        &mut self,
        target: &Target<'_, M>,
        source: usize,
        lease: Lease,
    ) -> Option<Lease> {
        let limit = target.table.config().per_origin;
        if limit == 0 || target.occupied(source) <= limit {
            return Some(lease);
        }
        // Claim, then look: nothing was sent from it.
        let lease = without_quota(&lease);
        let _ = target.table.end(&lease, target.now, self.slot(target.table), None, |_, _| End::Free);
        None
    }

    /// The page of a source, swept.
    fn page_for<'t, M: Memory>(
        &mut self,
        target: &mut Target<'t, M>,
        source: usize,
    ) -> Acquired<(PageRef, Page<'t>)> {
        let table = target.table;
        let slot = self.slot(table);
        for _ in 0..ROUNDS {
            match target.page_or_new(source, slot) {
                Ok(found) => {
                    let page = table.page(found.index);
                    if page.is_due(target.now) {
                        table.sweep(found.index, page, target.now, slot);
                    }
                    return Ok((found, page));
                }
                Err(NoPage::Stale) => target.renew(slot)?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(AcquireError::Corrupt)
    }

    /// A lease of a tuple that the kernel says lives: whatever it was here. Only one that is live already may be refused.
    pub(super) fn take_living<M: Memory>(
        &mut self,
        target: &mut Target<'_, M>,
        source: usize,
        offset: u32,
        only_one: bool,
    ) -> Acquired {
        let table = target.table;
        let slot = self.slot(table);
        let place = target.sources.list()[source];
        for _ in 0..ROUNDS {
            let (found, page) = self.page_for(target, source)?;
            let identity = place.record(target.record, target.protocol).page(place.granule);
            let intent = slot.intent(found.index);
            intent.names(offset);
            let mut counts = true;
            let tag = if let Some(taken) = page.take(offset) {
                if page.settle(identity).is_none() {
                    page.put_back(offset, taken);
                    intent.is_done();
                    target.forget(source);
                    continue;
                }
                let tag = self.next_tag();
                page.set_tag(offset, tag);
                Some(tag)
            } else {
                let before = page.tag(offset);
                let may = match before.class() {
                    Class::Live => !only_one,
                    Class::Held | Class::Parked => true,
                    Class::NotTaken => false,
                };
                let tag = self.next_tag();
                // The tag before, so that it is not that of another's page.
                if may && page.settle(identity).is_some() && page.swap_tag(offset, before, tag) {
                    if before.class() == Class::Parked {
                        page.unpark();
                    }
                    counts = before.class() != Class::Live || before.owner() != self.owner;
                    Some(tag)
                } else if before.class() == Class::Live && page.settle(identity).is_some() {
                    intent.is_done();
                    return Err(AcquireError::InUse);
                } else {
                    None
                }
            };
            intent.is_done();
            if let Some(tag) = tag {
                // It exists, so no limit is in its way; but it counts, in place of the one that it ends.
                if let Some(quota) = target.pool.quota().filter(|_| counts) {
                    table.count_anyway(quota);
                }
                let lease = self.lease(target, At::Page(found.index), offset, tag);
                self.count_granted(target, &lease, counts);
                return Ok(lease);
            }
        }
        Err(AcquireError::InUse)
    }

    /// A source in which some port is free or rests, each as likely as it has such ports.
    pub(super) fn choose_source<M: Memory>(&mut self, target: &mut Target<'_, M>) -> Acquired<usize> {
        target.check_tenure()?;
        let total = self.count(target, false);
        let among = total.free + total.old + total.young;
        if among == 0 {
            return Err(match self.limited {
                true => {
                    target.count_refused(self.number, Event::OriginLimit, 0);
                    AcquireError::OriginLimit
                }
                false => target.refuse(self.number),
            });
        }
        let mut rank = self.choice.below(among);
        let source = self.counts.iter().position(|count| {
            let here = count.free + count.old + count.young;
            let inside = rank < here;
            rank -= if inside { 0 } else { here };
            inside
        });
        Ok(source.expect("the rank is below the sum of the counts"))
    }
}

/// Why the only tuple of an origin was not taken.
enum Missed {
    /// The home word has changed.
    Changed,
    /// The port is a stranger's, or its granule is leaving.
    NotThisOne,
}

/// The lease as it is before it counts for a quota.
fn without_quota(lease: &Lease) -> Lease {
    Lease::new(lease.at(), lease.offset(), lease.tag(), lease.table(), lease.pool(), 0)
}
