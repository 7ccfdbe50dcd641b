//! Equal records in the table's words: a bump counter, and a list of records given back.
//!
//! A record that was given back keeps its words but the first, which links the list.

use crate::sync::{AtomicU64, Ordering::SeqCst};

/// Where the records are, and where their two counters are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arena {
    /// The word that counts the records ever handed out; the head of the free list is the next one.
    pub(super) counters: usize,
    /// The first word of the first record.
    pub(super) first: usize,
    /// Words in a record.
    pub(super) stride: usize,
    /// Records.
    pub(super) capacity: u32,
}

impl Arena {
    /// The words of a record below the capacity.
    #[inline]
    pub(super) fn record<'a>(&self, words: &'a [AtomicU64], index: u32) -> &'a [AtomicU64] {
        let at = self.first + index as usize * self.stride;
        &words[at..at + self.stride]
    }

    /// How many records were ever handed out.
    pub(super) fn used(&self, words: &[AtomicU64]) -> u32 {
        words[self.counters].load(SeqCst).min(self.capacity.into()) as u32
    }

    /// A record that nobody else has; `None` if there is none.
    pub(super) fn take(&self, words: &[AtomicU64]) -> Option<u32> {
        let head = &words[self.counters + 1];
        let mut seen = head.load(SeqCst);
        // Shared memory may hold anything: a head that is no record ends the list.
        while let Some(index) = (seen as u32).checked_sub(1).filter(|&index| index < self.capacity) {
            // If somebody else takes the record first this is garbage, and the exchange fails by the count above.
            let next = self.record(words, index)[0].load(SeqCst) & 0xffff_ffff;
            match head.compare_exchange(seen, bumped(seen) | next, SeqCst, SeqCst) {
                Ok(_) => return Some(index),
                Err(now) => seen = now,
            }
        }
        words[self.counters]
            .fetch_update(SeqCst, SeqCst, |used| (used < u64::from(self.capacity)).then(|| used + 1))
            .ok()
            .map(|used| used as u32)
    }

    /// Gives back a record that nobody else knows.
    pub(super) fn give(&self, words: &[AtomicU64], index: u32) {
        let head = &words[self.counters + 1];
        let mut seen = head.load(SeqCst);
        loop {
            self.record(words, index)[0].store(seen & 0xffff_ffff, SeqCst);
            match head.compare_exchange(seen, bumped(seen) | u64::from(index + 1), SeqCst, SeqCst) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

/// The change count in the upper half, one higher, and an empty lower half.
const fn bumped(head: u64) -> u64 {
    ((head >> 32).wrapping_add(1)) << 32
}
