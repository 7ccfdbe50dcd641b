//! Does the kernel agree? Tuples that are held here may be long gone there, and tuples that live there may be unknown here.
//!
//! In this order, so that nothing is freed that was opened in between: first remember what is held ([`Table::held`]), then
//! read the kernel's sockets, then reconcile.
//!
//! A hold is told from a later one of the same tuple by its deadline. Several processes may reconcile at once, and a tuple
//! whose hold one of them has ended may be granted, closed and held again before the others are done. So a hold is not
//! listed while another one that begins now may get the same deadline: for half a second after it began, and for a moment
//! when as much of it is left as a shorter kind of hold lasts.

use core::net::SocketAddr;

use crate::net::Protocol;
use crate::sync::Ordering::SeqCst;
use crate::time::Time;

use super::granules::Known;
use super::half_closed::ALONE_AFTER_MS;
use super::home::{Home, Single, What};
use super::page::Page;
use super::quarantine::span_at;
use super::records::{FIRST_ORIGIN, Record};
use super::release::{End, Place};
use super::slot::Slot;
use super::table::Table;
use super::tag::{Class, Deadline, QUANTUM_MS, Tag};
use super::{Closed, GranuleSlot, Memory, Method, Tuple};

/// A reconcile must be done within so many milliseconds.
const RECONCILE_MS: u64 = 1_000;

/// Until then holds get deadlines at most so many steps later than now; one more, because clocks may be a step ahead.
pub(super) const RECONCILE_STEPS: u64 = RECONCILE_MS / QUANTUM_MS + 1;

/// A tuple that is held, as of the moment when somebody looked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The protocol.
    pub protocol: Protocol,
    /// The source ip:port.
    pub source: SocketAddr,
    /// Towards which origin; `None`: the source is used towards all of them.
    pub origin: Option<SocketAddr>,
    /// How the port was chosen: it decides whether the kernel lets a new socket take the tuple from TIME_WAIT.
    pub method: Method,
    place: Place,
    /// When somebody looked.
    listed: Time,
}

/// What became of a tuple that lives in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adoption {
    /// It was free or at rest here: nobody is granted it until its hold ends.
    Held,
    /// It was live, held or parked here already.
    Known,
    /// Its source is not in any granule of this table.
    Outside,
    /// There is no room for it; others may be granted it.
    NoRoom,
}

impl<M: Memory> Table<M> {
    /// The tuples that are held now, but for those whose hold has just begun (less than half a second ago) and some others
    /// that will be listed a second later. Reconcile within a second.
    pub fn held(&self, now: Time) -> Vec<Held> {
        let now = self.clock(now);
        let mut held = Vec::new();
        for record in FIRST_ORIGIN..self.map.origins.used(self.words()) {
            let word = self.home(record).load(SeqCst);
            let Home::Single(Single { granule, offset, what: What::Held(until), .. }) = Home::of(word, now)
            else {
                continue;
            };
            let granule = GranuleSlot(granule);
            let profile = self.profile_of(record, granule).into();
            if self.is_listed(until, profile, self.protocol_of(record), now) {
                held.extend(self.held_at(record, granule, offset, Place::Home { record, word }, now));
            }
        }
        for index in 0..self.map.pages.used(self.words()) {
            let page = self.page(index);
            // No deadline, no hold.
            if page.due() == u64::MAX {
                continue;
            }
            // The life first: if it is still the same afterwards, so is whose the page is.
            let life = page.life();
            let (identity, base) = (page.identity(), page.base());
            let (profile, protocol) = (page.profile(), page.protocol());
            let (record, granule) = (identity.record(), GranuleSlot(identity.granule()));
            for offset in 0..page.ports().min(self.config.granule_ports) {
                let tag = page.tag(offset);
                let is_listed = tag.class() == Class::Held
                    && page.is_taken(offset)
                    && Page::is_open(life)
                    && page.life() == life
                    && record < self.map.origins.capacity
                    && self.is_listed(tag.deadline(base), profile, protocol, now);
                if is_listed {
                    held.extend(self.held_at(
                        record,
                        granule,
                        offset,
                        Place::Page { index, offset, tag },
                        now,
                    ));
                }
            }
        }
        held
    }

    /// Not if it is over, nor if a hold that begins now, or soon, or by a clock that is a step behind, may have that deadline
    /// too.
    fn is_listed(&self, until: Deadline, profile: usize, protocol: Protocol, now: Time) -> bool {
        !until.passed(now)
            && !self
                .hold_spans(profile, protocol)
                .any(|span| until.is_near(Self::deadline_after(now, span), 1, RECONCILE_STEPS))
    }

    /// How long tuples are held (milliseconds): for every way to close after which they are, and after a peer's close that
    /// came at once.
    pub(super) fn hold_spans(&self, profile: usize, protocol: Protocol) -> impl Iterator<Item = u64> {
        let spans = Closed::ALL.into_iter().map(move |closed| self.spans(profile, span_at(protocol, closed)));
        let holds = spans.map(|span| span & 0xffff_ffff).filter(|&hold| hold != 0);
        holds.chain([ALONE_AFTER_MS])
    }

    fn held_at(
        &self,
        record: u32,
        granule: GranuleSlot,
        offset: u32,
        place: Place,
        listed: Time,
    ) -> Option<Held> {
        let (ip, range, method) = self.granule(granule)?;
        let port = u16::try_from(u32::from(range.lo()) + offset).ok().filter(|port| *port <= range.hi())?;
        Some(Held {
            protocol: self.protocol_of(record),
            source: SocketAddr::new(ip, port),
            origin: self.origin_of(record).map(|origin| origin.address()),
            method,
            place,
            listed,
        })
    }

    /// Ends a hold early, because the kernel has nothing of it any more; the tuple rests as if it had been reset. False if
    /// it is not what it was, or was listed more than a second ago.
    pub fn end_hold_early(&self, held: &Held, now: Time) -> bool {
        let now = self.clock(now);
        if now.as_millis() > held.listed.as_millis() + RECONCILE_MS {
            return false;
        }
        let profile = match held.place {
            Place::Page { index, .. } => self.page(index).profile(),
            Place::Home { record, word } => match Home::of(word, now) {
                Home::Single(single) => self.profile_of(record, GranuleSlot(single.granule)).into(),
                _ => return false,
            },
        };
        let end = match self.spans(profile, span_at(held.protocol, Closed::Reset)) >> 32 {
            0 => End::Free,
            rest => End::Resting(Self::deadline_after(now, rest)),
        };
        self.with_slot(|slot| self.end_hold(held.place, end, now, slot))
    }

    /// Ends the holds that the kernel knows nothing of: `held` was read before the kernel was asked, and `is_alive` says
    /// whether it has a tuple. Returns how many have ended.
    pub fn reconcile(&self, held: &[Held], now: Time, mut is_alive: impl FnMut(&Held) -> bool) -> usize {
        held.iter().filter(|tuple| !is_alive(tuple) && self.end_hold_early(tuple, now)).count()
    }

    /// Holds tuples that are alive in the kernel and free here, as after a restart without the old table: nobody is
    /// granted them until a reconcile finds them gone, or the time for half-closed connections is over and nobody has
    /// adopted them again.
    pub fn adopt(
        &self,
        tuples: impl IntoIterator<Item = Tuple>,
        now: Time,
    ) -> impl Iterator<Item = (Tuple, Adoption)> {
        let now = self.clock(now);
        let known = Known::of(self);
        tuples.into_iter().map(move |tuple| {
            let adoption = self.with_slot(|slot| self.adopt_one(&known, &tuple, now, slot));
            (tuple, adoption)
        })
    }

    fn adopt_one(&self, known: &Known, tuple: &Tuple, now: Time, slot: Slot<'_>) -> Adoption {
        let Some((granule, method, offset)) = known.locate(tuple.source) else { return Adoption::Outside };
        let protocol = tuple.origin.protocol();
        // The record may become another origin's between two steps: then once more.
        for _ in 0..100 {
            let record = if method.is_wildcard() {
                Record::any_origin(protocol)
            } else {
                match self.origin_or_new(&tuple.origin, now, slot) {
                    Ok(record) => record,
                    Err(_) => return Adoption::NoRoom,
                }
            };
            let Ok(found) = self.page_or_new(record, granule, now, slot) else { return Adoption::NoRoom };
            let page = self.page(found.index);
            if page.is_due(now) {
                self.sweep(found.index, page, now, slot);
            }
            let End::Held(until) = self.end_of(page.profile(), protocol, Closed::Unknown, now) else {
                return Adoption::Known;
            };
            let intent = slot.intent(found.index);
            intent.names(offset);
            let Some(taken) = page.take(offset) else {
                intent.is_done();
                if page.tag(offset).class() == Class::NotTaken {
                    // Claimed at this moment, and perhaps about to be put back.
                    continue;
                }
                return Adoption::Known;
            };
            if page.settle(record.page(granule)).is_some() {
                self.kept_until(page, until);
                page.set_tag(offset, Tag::held(until));
                intent.is_done();
                return Adoption::Held;
            }
            page.put_back(offset, taken);
            intent.is_done();
        }
        Adoption::NoRoom
    }
}
