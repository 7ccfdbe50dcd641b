//! Which reports have come, and which are missing?

use core::hash::{Hash, Hasher};
use std::collections::BTreeMap;

use siphasher::sip::SipHasher13;

use super::report::{Counted, Key, Report, Then};
use crate::id::MachineId;

/// Can a missing report still come?
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outlook {
    /// A later report of the same boot has come; the machine may send this one again.
    MayCome,
    /// The machine has dropped it, or a later boot has begun, or it was said that the boot has ended: nobody will
    /// send it again. If a copy that was under way still comes, it counts, and the gap closes.
    Lost,
}

/// Consecutive intervals of a boot that have not come.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gap {
    /// Whose.
    pub machine: MachineId,
    /// In which boot.
    pub boot: u64,
    /// The first interval that is missing.
    pub first: u64,
    /// The last. `None`: the boot did not end in order after the interval before. What it had not sent is lost: the
    /// time to the crash, perhaps whole intervals, perhaps boots after it of which nothing came.
    pub last: Option<u64>,
    /// Where what is known before it ends, in milliseconds since 1970; none if nothing is.
    pub after: Option<u64>,
    /// Where what is known after it starts; none if nothing is known after it.
    pub before: Option<u64>,
    /// Whether it may still come.
    pub outlook: Outlook,
    /// What the missing intervals hold together; none where no later report of the boot tells it.
    pub counted: Option<Counted>,
}

/// One interval that has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// Tells one content from another: the same key with another content is refused.
    fingerprint: u64,
    start: u64,
    end: u64,
    /// Totals since boot before this interval, and after it.
    totals: [Counted; 2],
    oldest_unsent: u64,
    boot_before: Option<u64>,
    then: Then,
}

impl Seen {
    pub(super) fn of(report: &Report) -> Self {
        let mut hasher = SipHasher13::new();
        report.hash(&mut hasher);
        let header = report.header();
        let before = header.since_boot.minus(Counted::of(report.records()));
        Self {
            fingerprint: hasher.finish(),
            start: header.period.start(),
            end: header.period.end(),
            totals: [before.expect("a report has no totals below its own"), header.since_boot],
            oldest_unsent: header.oldest_unsent,
            boot_before: header.boot_before,
            then: header.then,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Boot {
    /// By interval.
    seen: BTreeMap<u64, Seen>,
    /// What came before this interval is forgotten.
    from: u64,
}

impl Boot {
    fn starts(&self) -> Option<u64> {
        self.seen.values().map(|seen| seen.start).min()
    }

    fn ends(&self) -> Option<u64> {
        self.seen.values().map(|seen| seen.end).max()
    }
}

/// The boots of one machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Boots {
    boots: BTreeMap<u64, Boot>,
    /// It was said that nothing more of this boot and those before will come.
    closed: Option<u64>,
    /// The latest boot that is forgotten.
    forgotten: Option<u64>,
}

/// Whether an interval has come before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    No,
    Same,
    Other,
}

impl Boots {
    pub(super) fn known(&self, key: &Key, seen: &Seen) -> Known {
        match self.boots.get(&key.boot).and_then(|boot| boot.seen.get(&key.interval)) {
            None => Known::No,
            Some(known) if known.fingerprint == seen.fingerprint => Known::Same,
            Some(_) => Known::Other,
        }
    }

    pub(super) fn insert(&mut self, key: &Key, seen: Seen) {
        self.boots.entry(key.boot).or_default().seen.insert(key.interval, seen);
    }

    pub(super) fn close(&mut self, boot: u64) {
        self.closed = self.closed.max(Some(boot));
    }

    /// Forgets what starts before `floor`, but for what is needed to see gaps after it.
    pub(super) fn forget_before(&mut self, floor: u64) {
        let mut later_is_kept = true;
        let mut forgotten = self.forgotten;
        for (number, boot) in self.boots.iter_mut().rev() {
            let first_kept = boot.seen.iter().find(|(_, seen)| seen.start >= floor).map(|(nth, _)| *nth);
            // The one before stays: a gap may follow it. Of a boot before one that is kept the last stays, for the same
            // reason; and of the latest boot, or its next report would look like the first that has come.
            if first_kept.is_none() && !later_is_kept {
                boot.seen.clear();
                forgotten = forgotten.max(Some(*number));
                continue;
            }
            let before = first_kept.map_or(u64::MAX, |first| first.saturating_sub(1));
            if let Some((&anchor, _)) = boot.seen.range(..=before).next_back() {
                boot.seen = boot.seen.split_off(&anchor);
                boot.from = boot.from.max(anchor);
            }
            later_is_kept = first_kept.is_some();
        }
        self.forgotten = forgotten;
        self.boots.retain(|_, boot| !boot.seen.is_empty());
    }

    /// Adds what is missing, in the order of boots and intervals.
    pub(super) fn gaps(&self, machine: &MachineId, gaps: &mut Vec<Gap>) {
        let mut boots = self.boots.iter().peekable();
        let mut known_until = None;
        while let Some((&number, boot)) = boots.next() {
            let next_starts = boots.peek().and_then(|(_, next)| next.starts());
            let over = boots.peek().is_some() || self.closed >= Some(number);
            let mut missing = |boot, first, last, after, before, outlook, counted| {
                let machine = machine.clone();
                gaps.push(Gap { machine, boot, first, last, after, before, outlook, counted });
            };
            let told = boot.seen.values().find_map(|seen| seen.boot_before);
            if let Some(before) = told.filter(|b| Some(*b) > self.forgotten && !self.boots.contains_key(b)) {
                missing(before, 0, None, known_until, boot.starts(), Outlook::Lost, None);
            }
            let unsent = boot.seen.values().map(|seen| seen.oldest_unsent).max().unwrap_or(0);
            let (mut next, mut after, mut total) = (boot.from, None, Counted::NONE);
            let mut last_then = Then::Ends;
            for (&interval, seen) in boot.seen.range(boot.from..) {
                let before = Some(seen.start);
                let counted = seen.totals[0].minus(total);
                match unsent.clamp(next, interval) {
                    _ if next == interval => {}
                    from if over || from == interval => {
                        missing(number, next, Some(interval - 1), after, before, Outlook::Lost, counted);
                    }
                    from if from == next => {
                        missing(number, next, Some(interval - 1), after, before, Outlook::MayCome, counted);
                    }
                    // What each of the two holds cannot be told yet.
                    from => {
                        missing(number, next, Some(from - 1), after, before, Outlook::Lost, None);
                        missing(number, from, Some(interval - 1), after, before, Outlook::MayCome, None);
                    }
                }
                (next, after, total) = (interval.saturating_add(1), Some(seen.end), seen.totals[1]);
                last_then = seen.then;
            }
            if over && last_then == Then::GoesOn {
                missing(number, next, None, after, next_starts, Outlook::Lost, None);
            }
            known_until = boot.ends();
        }
        if let Some(boot) = self.closed.filter(|b| Some(*b) > self.forgotten && !self.boots.contains_key(b)) {
            let before = self.boots.range(boot..).find_map(|(_, next)| next.starts());
            let after = self.boots.range(..boot).rev().find_map(|(_, boot)| boot.ends());
            let machine = machine.clone();
            let (outlook, counted) = (Outlook::Lost, None);
            gaps.push(Gap { machine, boot, first: 0, last: None, after, before, outlook, counted });
        }
    }
}
