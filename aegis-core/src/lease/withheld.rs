//! Ports of a granule that its owner must not grant, because they are still open at the owner before (holdouts).
//!
//! One bit a port, in words of 48 bits whose upper 16 say of which epoch they are: a process that was stopped with an older
//! list does not put it in the place of a newer one.

use crate::sync::Ordering::SeqCst;

use super::map::{GRANULE_WITHHELD, WITHHELD_PORTS};
use super::pool::GranuleSlot;
use super::table::Table;
use super::{Memory, share};

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
            let _ = word.fetch_update(SeqCst, SeqCst, |old| {
                let is_newer = share::is_at_least(epoch, old >> PORTS, u64::BITS - PORTS);
                is_newer.then_some(bits | share::stamp(epoch, u64::BITS - PORTS) << PORTS)
            });
        }
        // The flag stays when the last port goes: it costs a look at a word, and taking it away at the wrong moment a wrong
        // grant.
    }
}
