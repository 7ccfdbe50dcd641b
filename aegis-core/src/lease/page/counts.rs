//! How much is in a page, and what happened there.

use crate::sync::{AtomicU64, Ordering::SeqCst};
use crate::time::Time;

use super::super::tag::Class;
use super::super::tally::{Counted, Event};
use super::{COUNTED, LOW, PARKED_ONE, PEAK, Page, SHAPE, halves, ones};

/// Exact counts of one page, as far as other threads stand still.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(in crate::lease) struct Counts {
    pub(in crate::lease) live: u32,
    pub(in crate::lease) held: u32,
    pub(in crate::lease) parked: u32,
    pub(in crate::lease) resting: u32,
    /// The earliest moment at which a held tuple comes free.
    pub(in crate::lease) first_free: Option<Time>,
}

impl<'a> Page<'a> {
    /// Counts a parked port: before its tag says so, because whoever ends the park counts it out.
    pub(in crate::lease) fn park(self) {
        self.header[SHAPE].fetch_add(PARKED_ONE, SeqCst);
    }

    pub(in crate::lease) fn unpark(self) {
        // Never below none: the page may have got another life since the port was counted.
        let _ = self.header[SHAPE].fetch_update(SeqCst, SeqCst, |w| w.checked_sub(PARKED_ONE));
    }

    /// Parked ports.
    pub(in crate::lease) fn parked(self) -> u32 {
        (self.header[SHAPE].load(SeqCst) >> 32) as u32
    }

    /// Ports live or held: a population count, so that no acquire pays for a shared counter.
    pub(in crate::lease) fn occupied(self) -> u32 {
        let taken = self.state_words().map(|(_, word, past)| halves(word.load(SeqCst) & !past));
        let taken: u32 = taken.map(|(low, high)| (low & high).count_ones()).sum();
        taken.saturating_sub(self.parked())
    }

    /// Raises the sampled high-water mark.
    pub(in crate::lease) fn raise_peak(self, occupied: u32) {
        let sampled = self.grants_in_64s() << 32;
        let raised = |peak: u64| sampled | (peak & LOW).max(occupied.into());
        let peak = self.header[PEAK].load(SeqCst);
        if raised(peak) != peak {
            let _ = self.header[PEAK].fetch_update(SeqCst, SeqCst, |peak| Some(raised(peak)));
        }
    }

    pub(in crate::lease) fn peak(self) -> u32 {
        self.header[PEAK].load(SeqCst) as u32
    }

    /// The mark, for who reports it: a new one begins.
    pub(in crate::lease) fn take_peak(self) -> u32 {
        self.header[PEAK].fetch_and(!LOW, SeqCst) as u32
    }

    /// Have 64 grants or more been written down since the high-water mark was sampled?
    pub(in crate::lease) fn is_sample_due(self) -> bool {
        self.grants_in_64s() != self.header[PEAK].load(SeqCst) >> 32
    }

    fn grants_in_64s(self) -> u64 {
        Counted(self.counted(Event::Granted).load(SeqCst)).number() >> 6 & LOW
    }

    /// The word that counts what happened in this page, as a [`Counted`].
    #[inline]
    pub(in crate::lease) fn counted(self, event: Event) -> &'a AtomicU64 {
        Self::counted_of(self.header, event)
    }

    /// The same, from the page's words.
    #[inline]
    pub(in crate::lease) fn counted_of(header: &[AtomicU64], event: Event) -> &AtomicU64 {
        &header[COUNTED + event as usize]
    }

    /// Counts every port by looking at its tag.
    pub(in crate::lease) fn counts(self, now: Time) -> Counts {
        let base = self.base();
        let mut counts = Counts::default();
        for (first, word, past) in self.state_words() {
            let (low, high) = halves(word.load(SeqCst) & !past);
            for bit in ones(low | high) {
                let offset = first + bit;
                let tag = self.tag(offset);
                let taken = low & high & 1 << bit != 0;
                match tag.class() {
                    Class::Live if taken => counts.live += 1,
                    Class::Held if taken => {
                        let until = tag.deadline(base).time();
                        if until > now {
                            counts.held += 1;
                            counts.first_free = Some(counts.first_free.map_or(until, |t| t.min(until)));
                        }
                    }
                    Class::Parked if taken => counts.parked += 1,
                    Class::NotTaken if !taken && !tag.deadline(base).passed(now) => counts.resting += 1,
                    // Taken without a tag yet: an acquire is between its two steps.
                    Class::NotTaken if taken => counts.live += 1,
                    _ => {}
                }
            }
        }
        counts
    }
}
