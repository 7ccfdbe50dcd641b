//! Connections that we have closed and the origin has not: their tuples are held until it has closed too.

use core::cell::Cell;

use crate::time::Time;

use super::quarantine::span_at;
use super::records::Record;
use super::release::End;
use super::table::Table;
use super::tag::{Deadline, QUANTUM_MS};
use super::{Closed, GranuleSlot, Lease, Memory, Rejected};

/// A tuple that is held because the origin has not closed yet; for [`Table::peer_closed`]. Dropped, it leaves the hold as
/// it is.
///
/// It names this hold and no other: the tuple may be granted again, and half-closed again, before somebody tells of the
/// first connection's end.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "give it to `peer_closed` when the origin has closed, or release the lease as half-closed instead"]
pub struct HalfClosed {
    table: u32,
    record: Record,
    granule: GranuleSlot,
    offset: u32,
    begun: Time,
    /// `None`: nothing is held by the origin's quarantine.
    until: Option<Deadline>,
}

/// A hold that began longer ago than this has a deadline that no later one of the same kind has: one step of deadlines,
/// and another one that the table's clock may be behind.
pub(super) const ALONE_AFTER_MS: u64 = 2 * QUANTUM_MS;

impl<M: Memory> Table<M> {
    /// Gives a lease back whose connection we have closed and the origin has not, where somebody will tell when it has:
    /// as a release with [`Closed::HalfClosed`], which can be ended by [`Table::peer_closed`].
    ///
    /// # Errors
    /// As [`Table::release`].
    pub fn half_close(&self, lease: Lease, now: Time) -> Result<HalfClosed, Rejected> {
        let now = self.clock(now);
        let (record, granule, _) = match self.whose(&lease) {
            Ok(whose) => whose,
            Err(error) => return Err(Rejected { error, lease }),
        };
        // It stays this one's while the lease is live.
        let record = self.record_now(record);
        let until = Cell::new(None);
        let ended = self.with_slot(|slot| {
            self.end(&lease, now, slot, None, |profile, protocol| {
                let end = self.end_of(profile, protocol, Closed::HalfClosed, now);
                until.set(match end {
                    End::Held(until) => Some(until),
                    _ => None,
                });
                end
            })
        });
        let (table, offset, until) = (self.id(), lease.offset(), until.get());
        match ended {
            Ok(_) => Ok(HalfClosed { table, record, granule, offset, begun: now, until }),
            Err(error) => Err(Rejected { error, lease }),
        }
    }

    /// The origin has closed a half-closed connection too: with TCP timestamps its hold ends (half a second after it began
    /// if it is younger than that), without them it becomes that of TIME_WAIT. False if the tuple is not held any more, or
    /// for another connection, or if so little of the hold is left that it may be another's.
    pub fn peer_closed(&self, half_closed: HalfClosed, now: Time) -> bool {
        let now = self.clock(now);
        let HalfClosed { table, record, granule, offset, begun, until } = half_closed;
        // One that is over has ended by itself; long afterwards another hold may look like it.
        let Some(until) = until.filter(|until| table == self.id() && !until.passed(now)) else {
            return false;
        };
        let Some(place) = self.held_place(record, granule, offset, until, now) else { return false };
        let (profile, protocol) =
            (self.profile_of(record.index, granule).into(), self.protocol_of(record.index));
        let whole = self.spans(profile, span_at(protocol, Closed::HalfClosed)) & 0xffff_ffff;
        let mut shorter = self.hold_spans(profile, protocol).filter(|&span| span < whole);
        if shorter.any(|span| until.is_near(Self::deadline_after(now, span), u64::MAX >> 1, 1)) {
            // So late that it may be a hold of another kind, which began after this one had ended.
            return false;
        }
        let alone = Self::deadline_after(begun, ALONE_AFTER_MS);
        let end = match self.end_of(profile, protocol, Closed::Active, now) {
            End::Free | End::Resting(_) if !alone.passed(now) => End::Held(alone),
            end => end,
        };
        self.with_slot(|slot| self.end_hold(place, end, now, slot))
    }
}
