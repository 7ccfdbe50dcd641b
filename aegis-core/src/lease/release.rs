//! How a lease ends: given back, disputed, or its hold ended early.

use core::net::SocketAddr;
use core::time::Duration;

use crate::net::Protocol;
use crate::sync::{AtomicU64, Ordering::SeqCst};
use crate::time::Time;

use super::grant::At;
use super::home::{Home, Single, What};
use super::map::PARKED_PORTS;
use super::page::Page;
use super::pool::GranuleSlot;
use super::quarantine::span_at;
use super::records::Record;
use super::slot::Slot;
use super::table::Table;
use super::tag::{Class, Deadline, Tag};
use super::{Closed, Conflict, Lease, Memory, Rejected, ReleaseError, Tuple};

/// What becomes of a tuple that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Free,
    Resting(Deadline),
    Held(Deadline),
    Parked(Deadline),
}

impl End {
    fn tag(self) -> Tag {
        match self {
            Self::Free => Tag::NONE,
            Self::Resting(until) => Tag::resting(until),
            Self::Held(until) => Tag::held(until),
            Self::Parked(until) => Tag::parked(until),
        }
    }

    fn what(self) -> Option<What> {
        match self {
            Self::Free => None,
            Self::Resting(until) => Some(What::Resting(until)),
            Self::Held(until) => Some(What::Held(until)),
            Self::Parked(until) => Some(What::Parked(until)),
        }
    }
}

impl<M: Memory> Table<M> {
    /// Gives a lease back. `closed` says how the connection ended, so that the tuple is held or rests as long as
    /// it must.
    ///
    /// # Errors
    /// The lease is not of this table, or has ended already; it comes back, and nothing has changed.
    pub fn release(&self, lease: Lease, closed: Closed, now: Time) -> Result<(), Rejected> {
        self.with_slot(|slot| self.release_by(lease, closed, now, slot, None))
    }

    #[inline]
    pub(super) fn release_by(
        &self,
        lease: Lease,
        closed: Closed,
        now: Time,
        slot: Slot<'_>,
        worker: Option<u16>,
    ) -> Result<(), Rejected> {
        let now = self.clock(now);
        let end = |profile, protocol| self.end_of(profile, protocol, closed, now);
        match self.end(&lease, now, slot, worker, end) {
            Ok(_) => Ok(()),
            Err(error) => Err(Rejected { error, lease }),
        }
    }

    /// Ends a lease that the kernel refused, and remembers why.
    ///
    /// # Errors
    /// As [`Table::release`].
    pub fn conflict(&self, lease: Lease, cause: Conflict, now: Time) -> Result<(), Rejected> {
        self.with_slot(|slot| {
            let now = self.clock(now);
            let park = |span: Duration| Deadline::after(now + span);
            let end = match cause {
                Conflict::PortInUse => End::Parked(park(self.config.park_port)),
                Conflict::TupleInUse => End::Parked(park(self.config.park_tuple)),
                Conflict::NoSuchAddress => End::Free,
            };
            let whose = self.whose(&lease);
            if let Err(error) = self.end(&lease, now, slot, None, |_, _| end) {
                return Err(Rejected { error, lease });
            }
            if let (Conflict::PortInUse, End::Parked(until), Ok((record, granule, _))) = (cause, end, whose) {
                let protocol = self.protocol_of(record);
                self.park_everywhere(granule, protocol, lease.offset(), until, now, slot);
            }
            Ok(())
        })
    }

    /// Which source ip:port and origin a lease is for. A lease of a source that is used towards all origins has none.
    ///
    /// # Errors
    /// The lease is not of this table, or has ended already.
    pub fn tuple(&self, lease: &Lease) -> Result<Tuple, ReleaseError> {
        let (record, _, source) = self.whose(lease)?;
        let origin = self.origin_of(record).ok_or(ReleaseError::Stale)?;
        Ok(Tuple { source, origin })
    }

    /// Which source ip:port a lease is for: bind the socket there.
    ///
    /// # Errors
    /// As [`Table::tuple`].
    #[inline]
    pub fn source(&self, lease: &Lease) -> Result<SocketAddr, ReleaseError> {
        Ok(self.whose(lease)?.2)
    }

    /// The record and granule that a live lease is of, and its source.
    #[inline]
    pub(super) fn whose(&self, lease: &Lease) -> Result<(u32, GranuleSlot, SocketAddr), ReleaseError> {
        let (record, granule) = match self.locate(lease)? {
            At::Page(index) => {
                let identity = self.page(index).identity();
                (identity.record(), GranuleSlot(identity.granule()))
            }
            At::Home(record) => match Home::of(self.home(record).load(SeqCst), Time::ZERO) {
                Home::Single(single) => (record, GranuleSlot(single.granule)),
                // It has moved since the look before.
                _ => return self.whose(lease),
            },
        };
        let (ip, range, _) = self.granule(granule).ok_or(ReleaseError::Stale)?;
        let port = range.lo().checked_add(lease.offset() as u16).filter(|port| *port <= range.hi());
        let port = port.ok_or(ReleaseError::Stale)?;
        (record < self.map.origins.capacity)
            .then_some((record, granule, SocketAddr::new(ip, port)))
            .ok_or(ReleaseError::Stale)
    }

    /// Where a live lease is now.
    #[inline]
    fn locate(&self, lease: &Lease) -> Result<At, ReleaseError> {
        if lease.table() != self.id() {
            return Err(ReleaseError::Foreign);
        }
        let in_page = |index: u32| {
            (index < self.map.pages.capacity && self.page(index).has_tag(lease.offset(), lease.tag()))
                .then_some(At::Page(index))
                .ok_or(ReleaseError::Stale)
        };
        match lease.at() {
            At::Page(index) => in_page(index),
            At::Home(record) if record < self.map.origins.capacity => {
                match Home::of(self.home(record).load(SeqCst), Time::ZERO) {
                    Home::Single(Single { offset, what: What::Live(tag), .. })
                        if offset == lease.offset() && tag == lease.tag() =>
                    {
                        Ok(At::Home(record))
                    }
                    Home::Pages { first, .. } => in_page(first),
                    _ => Err(ReleaseError::Stale),
                }
            }
            At::Home(_) => Err(ReleaseError::Foreign),
        }
    }

    /// Ends a live lease as `decide` says, which gets the number of the quarantine and the protocol. It may be a worker of
    /// this process who does it.
    #[inline]
    pub(super) fn end(
        &self,
        lease: &Lease,
        now: Time,
        slot: Slot<'_>,
        worker: Option<u16>,
        decide: impl Fn(usize, Protocol) -> End,
    ) -> Result<At, ReleaseError> {
        if lease.table() != self.id() {
            return Err(ReleaseError::Foreign);
        }
        let ended = match lease.at() {
            At::Page(index) => self.end_page_lease(index, lease, now, slot, &decide)?,
            At::Home(_) => self.end_home_lease(lease, now, slot, &decide)?,
        };
        if lease.quota() != 0 {
            self.uncount(lease.quota(), lease.tag().owner());
            self.end_user(worker, lease.quota(), lease.tag().owner());
        }
        Ok(ended)
    }

    #[inline(always)]
    fn end_page_lease(
        &self,
        index: u32,
        lease: &Lease,
        now: Time,
        slot: Slot<'_>,
        decide: &impl Fn(usize, Protocol) -> End,
    ) -> Result<At, ReleaseError> {
        if index >= self.map.pages.capacity || lease.offset() >= self.config.granule_ports {
            return Err(ReleaseError::Foreign);
        }
        let page = self.page(index);
        // No look before: the exchange of the tag fails if the lease has ended.
        let end = decide(page.profile(), page.protocol());
        match self.end_in_page(index, page, lease.offset(), lease.tag(), end, now, slot) {
            true => Ok(At::Page(index)),
            false => Err(ReleaseError::Stale),
        }
    }

    #[cold]
    fn end_home_lease(
        &self,
        lease: &Lease,
        now: Time,
        slot: Slot<'_>,
        decide: &impl Fn(usize, Protocol) -> End,
    ) -> Result<At, ReleaseError> {
        loop {
            match self.locate(lease)? {
                At::Page(index) => return self.end_page_lease(index, lease, now, slot, decide),
                At::Home(record) => {
                    if self.end_in_home(record, lease, decide).is_some() {
                        return Ok(At::Home(record));
                    }
                }
            }
        }
    }

    /// Gives a port that has `tag` its end; false if it has another tag by now.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "one place for a step that must be the same everywhere")]
    pub(super) fn end_in_page(
        &self,
        index: u32,
        page: Page<'_>,
        offset: u32,
        tag: Tag,
        end: End,
        now: Time,
        slot: Slot<'_>,
    ) -> bool {
        if page.is_due(now) {
            self.sweep(index, page, now, slot);
        }
        if let End::Resting(until) | End::Held(until) | End::Parked(until) = end {
            // Before the tag, so that whoever dies after it leaves a deadline that a sweep will see.
            self.kept_until(page, until);
        }
        if let End::Parked(_) = end {
            page.park();
        }
        let intent = slot.intent(index);
        intent.names(offset);
        let ended = page.swap_tag(offset, tag, end.tag());
        match end {
            End::Free if ended => self.give_free(page, offset),
            End::Resting(_) if ended => page.give_resting(offset),
            End::Parked(_) if !ended => page.unpark(),
            _ => {}
        }
        if ended && tag.class() == Class::Parked {
            page.unpark();
        }
        intent.is_done();
        ended
    }

    /// The same for a tuple in a home word; `None` if the word has changed.
    fn end_in_home(
        &self,
        record: u32,
        lease: &Lease,
        decide: &impl Fn(usize, Protocol) -> End,
    ) -> Option<()> {
        let home = self.home(record);
        let word = home.load(SeqCst);
        let Home::Single(single) = Home::of(word, Time::ZERO) else { return None };
        if single.offset != lease.offset() || single.what != What::Live(lease.tag()) {
            return None;
        }
        let granule = GranuleSlot(single.granule);
        let protocol = self.protocol_of(record);
        let end = decide(self.profile_of(record, granule).into(), protocol);
        self.change_single(record, home, word, single, end).then_some(())
    }

    fn change_single(&self, record: u32, home: &AtomicU64, word: u64, single: Single, end: End) -> bool {
        let next = match end.what() {
            Some(what) => Home::Single(Single { what, ..single }),
            None => Home::Empty { incarnation: self.record_now(record).incarnation },
        };
        home.compare_exchange(word, next.word(), SeqCst, SeqCst).is_ok()
    }

    /// Gives a tuple that is held its end; false if it is not what it was. In a home word or in a page.
    pub(super) fn end_hold(&self, place: Place, end: End, now: Time, slot: Slot<'_>) -> bool {
        match place {
            Place::Page { index, offset, tag } => {
                self.end_in_page(index, self.page(index), offset, tag, end, now, slot)
            }
            Place::Home { record, word } => {
                let Home::Single(single) = Home::of(word, now) else { return false };
                self.change_single(record, self.home(record), word, single, end) || {
                    let moved = self.moved_to(record, single, now);
                    moved.is_some_and(|place| self.end_hold(place, end, now, slot))
                }
            }
        }
    }

    /// Where a held tuple is now that was in a home word.
    fn moved_to(&self, record: u32, single: Single, now: Time) -> Option<Place> {
        let What::Held(until) = single.what else { return None };
        let record = self.record_now(record);
        let place = self.held_place(record, GranuleSlot(single.granule), single.offset, until, now)?;
        (record.incarnation as u8 == single.incarnation && matches!(place, Place::Page { .. }))
            .then_some(place)
    }

    /// Where a tuple is that may be held until that moment.
    pub(super) fn held_place(
        &self,
        record: Record,
        granule: GranuleSlot,
        offset: u32,
        until: Deadline,
        now: Time,
    ) -> Option<Place> {
        let word = self.home(record.index).load(SeqCst);
        let incarnation = record.incarnation as u8;
        let held = Single { granule: granule.0, offset, incarnation, what: What::Held(until) };
        match Home::of(word, now) {
            Home::Single(single) if single == held && self.is_current(record) => {
                Some(Place::Home { record: record.index, word })
            }
            Home::Pages { .. } => {
                let page = self.find_page(record, granule)?;
                Some(Place::Page { index: page.index, offset, tag: Tag::held(until) })
            }
            _ => None,
        }
    }

    /// What becomes of a tuple whose connection has closed like that.
    #[inline]
    pub(super) fn end_of(&self, profile: usize, protocol: Protocol, closed: Closed, now: Time) -> End {
        let spans = self.spans(profile, span_at(protocol, closed));
        let (hold, rest) = (spans & 0xffff_ffff, spans >> 32);
        match (hold, rest) {
            // A hold comes before a rest.
            (1.., _) => End::Held(Self::deadline_after(now, hold)),
            (0, 1..) => End::Resting(Self::deadline_after(now, rest)),
            (0, 0) => End::Free,
        }
    }

    fn park_everywhere(
        &self,
        granule: GranuleSlot,
        protocol: Protocol,
        offset: u32,
        until: Deadline,
        now: Time,
        slot: Slot<'_>,
    ) {
        // If there is no room for the page the tuple alone stays parked: other origins find out by themselves.
        let Ok(found) = self.page_or_new(Record::parked(protocol), granule, now, slot) else { return };
        let page = self.page(found.index);
        if page.is_due(now) {
            page.sweep(now, slot.sweep(found.index));
        }
        let intent = slot.intent(found.index);
        intent.names(offset);
        if let Some(taken) = page.take(offset) {
            if page.settle(Record::parked(protocol).page(granule)).is_none() {
                // It was empty, and has become another's.
                page.put_back(offset, taken);
                intent.is_done();
                return;
            }
            page.park();
            self.kept_until(page, until);
            page.set_tag(offset, Tag::parked(until));
        }
        intent.is_done();
        self.state_word(granule).fetch_or(PARKED_PORTS << protocol as u32, SeqCst);
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

    pub(super) fn sweep(&self, index: u32, page: Page<'_>, now: Time, slot: Slot<'_>) {
        if page.sweep(now, slot.sweep(index)) {
            self.not_scarce(page);
        }
    }

    /// A tuple of the page comes free, or stops resting, at `until`.
    #[inline]
    pub(super) fn kept_until(&self, page: Page<'_>, until: Deadline) {
        if page.kept_until(until, || self.clock(Time::ZERO)) {
            // Free tuples may come back earlier than the hint says.
            self.not_scarce(page);
        }
    }

    #[inline]
    pub(super) fn not_scarce(&self, page: Page<'_>) {
        let record = page.identity().record();
        if record < self.map.origins.capacity {
            let scarce = self.scarce(record);
            if scarce.load(SeqCst) != 0 {
                scarce.store(0, SeqCst);
            }
        }
    }
}

/// Where a tuple is, and what it was when somebody looked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Home { record: u32, word: u64 },
    Page { index: u32, offset: u32, tag: Tag },
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{AcquireError, Config, PoolKey, Quarantine, Spans, Worker};
    use super::*;
    use crate::net::{Origin, PortRange};

    /// Somebody is stopped between the look at the time and the note of his deadline, for longer than deadlines are
    /// understood before the page's base.
    #[test]
    fn a_deadline_of_long_ago_ends_no_hold_of_others() {
        let hold = Spans { half_closed: Quarantine::MAX, ..Spans::ZERO };
        let quarantine = Quarantine::new(hold, Spans::ZERO).unwrap();
        let config = Config {
            granule_ports: 4,
            granules: 1,
            origins: 4,
            pages: 2,
            workers: 2,
            quotas: 0,
            quarantine,
            ..Config::default()
        };
        let table = Arc::new(Table::new(config, [7; 32]).unwrap());
        let range = PortRange::new(5_000, 5_001).unwrap();
        let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
        let pool = table.pool(PoolKey(1), [granule]).unwrap();
        let mut worker = Worker::attach(Arc::clone(&table), [1; 32]).unwrap();
        let origin = Origin::new(Protocol::Tcp, ([203, 0, 113, 7], 443).into()).unwrap();
        let at = Time::from_millis;
        let leases = [0; 2].map(|_| worker.acquire_to(&pool, &origin, at(1_000)).unwrap());
        for lease in leases {
            worker.release(lease, Closed::HalfClosed, at(1_000_000)).unwrap();
        }
        table.kept_until(table.page(0), Deadline::after(at(2_000)));
        for ms in [1_000_000, 1_001_000, 1_600_000] {
            assert_eq!(worker.acquire_to(&pool, &origin, at(ms)), Err(AcquireError::Exhausted), "{ms}");
        }
    }
}
