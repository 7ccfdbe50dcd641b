//! Ports of a granule that its owner must not grant, because they are still open at the owner before (holdouts).
//!
//! One bit a port, in words of 48 bits whose upper 16 count how often they were written: a process that was stopped with an
//! older list does not put it in the place of a newer one, for the same reason as with a granule's state.

use crate::sync::Ordering::SeqCst;

use super::Memory;
use super::map::{GRANULE_WITHHELD, WITHHELD_PORTS};
use super::pool::GranuleSlot;
use super::table::Table;

/// Ports in one word.
const PORTS: u32 = 48;

/// Words for a granule of so many ports.
pub(super) const fn words_for(ports: u32) -> usize {
    ports.div_ceil(PORTS) as usize
}

impl<M: Memory> Table<M> {
    /// Must not be granted, though the granule is ours.
    pub(super) fn is_withheld(&self, granule: GranuleSlot, offset: u32) -> bool {
        let word = &self.granule_words(granule)[GRANULE_WITHHELD + (offset / PORTS) as usize];
        word.load(SeqCst) >> (offset % PORTS) & 1 == 1
    }

    /// Exactly these ports (offsets) are withheld from `epoch` on, unless a later epoch has been told already.
    pub(super) fn withhold(&self, granule: GranuleSlot, offsets: &[u32], epoch: u64) {
        let words = &self.granule_words(granule)[GRANULE_WITHHELD..];
        let flag = self.state_word(granule);
        if !offsets.is_empty() {
            flag.fetch_or(WITHHELD_PORTS, SeqCst);
        }
        // Without the flag the words are what they were when it was last set: nobody reads them.
        if flag.load(SeqCst) & WITHHELD_PORTS == 0 {
            return;
        }
        for (number, word) in (0..).zip(words) {
            let of = |offset: &&u32| **offset / PORTS == number;
            let bits = offsets.iter().filter(of).fold(0, |bits, offset| bits | 1 << (offset % PORTS));
            loop {
                let seen = word.load(SeqCst);
                if self.epoch() != epoch {
                    return;
                }
                let next = (seen >> PORTS).wrapping_add(1) << PORTS | bits;
                if word.compare_exchange(seen, next, SeqCst, SeqCst).is_ok() {
                    break;
                }
            }
        }
        // The flag stays when the last port goes: it costs a look at a word, and taking it away at the wrong moment a wrong
        // grant.
    }
}
