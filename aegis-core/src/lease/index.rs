//! Where is the item of a key? An open hash table that several threads and processes insert into and remove from
//! without a lock, and that two of them never make disagree.
//!
//! A key may be in any slot of four *windows* of 16 slots, and nowhere else: so a removed item leaves no tombstone, and
//! ten million keys that came and went leave no trace.
//!
//! ```text
//! slot   63         62..39   38..26        25..0
//!        confirmed  stamp    fingerprint   item + 1      0: empty
//! ```
//!
//! *Insertion has two steps*, because two threads may insert the same key into different slots: a slot is filled
//! tentatively, then all its windows are searched for the same key, and only if there is no other is the slot confirmed.
//! Of two tentative ones the first slot wins, and whoever meets it completes it: nobody waits for anybody. Both cannot
//! be confirmed: each would have searched after it was there, and each would have missed the other.
//!
//! The *stamp* tells two stays of the same item in the same slot apart, so that nobody who was stopped for long removes
//! the second for the first.

use crate::sync::{AtomicU64, Ordering::SeqCst};

/// Items that an index can name.
pub(super) const MAX_ITEMS: u32 = (1 << ITEM_BITS) - 2;

const ITEM_BITS: u32 = 26;
const ITEM: u64 = (1 << ITEM_BITS) - 1;
const FINGERPRINT_BITS: u32 = 13;
const STAMP_SHIFT: u32 = ITEM_BITS + FINGERPRINT_BITS;
const STAMP: u64 = (1 << (63 - STAMP_SHIFT)) - 1;
const CONFIRMED: u64 = 1 << 63;

/// Where the slots are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Index {
    pub(super) first: usize,
    /// A power of two.
    pub(super) windows: u64,
}

/// A confirmed slot, as it was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    at: usize,
    value: u64,
}

impl Found {
    #[inline]
    pub(super) fn item(self) -> u32 {
        item(self.value)
    }
}

/// What became of an insertion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inserted {
    /// The item is the key's.
    New,
    /// The key has another item.
    Exists(Found),
    /// All its windows are full.
    Full,
    /// Somebody took it away, perhaps after others had found and used it: is the item still the caller's?
    Again,
}

/// What became of a tentative slot.
enum Resolved {
    Confirmed,
    Lost(Found),
    Gone,
}

#[inline]
const fn item(value: u64) -> u32 {
    (value & ITEM) as u32 - 1
}

#[inline]
const fn fingerprint(hash: u64) -> u64 {
    (hash >> (64 - FINGERPRINT_BITS)) << ITEM_BITS
}

impl Index {
    /// Slots of a window: two cache lines.
    pub(super) const WINDOW: usize = if cfg!(any(loom, shuttle)) { 4 } else { 16 };

    /// Windows for so many items at half of the slots: at that fill about one key in a billion finds all its windows full.
    pub(super) fn windows_for(items: u32) -> u64 {
        (u64::from(items) * 2).div_ceil(Self::WINDOW as u64).next_power_of_two()
    }

    /// Slots where a key may be.
    #[inline]
    fn slots(&self, hash: u64) -> impl Iterator<Item = usize> {
        let mask = self.windows - 1;
        // In a small index some may be the same: then it is searched twice, which does no harm.
        let windows =
            [hash, hash >> 24, hash.rotate_right(12), hash.rotate_right(37)].map(|hash| hash & mask);
        let start = (hash >> 47) as usize;
        let first = self.first;
        windows.into_iter().flat_map(move |window| {
            (0..Self::WINDOW)
                .map(move |step| first + window as usize * Self::WINDOW + (start + step) % Self::WINDOW)
        })
    }

    /// Is that a slot that may be the key's?
    #[inline]
    fn may_be(value: u64, hash: u64) -> bool {
        const MASK: u64 = ((1 << FINGERPRINT_BITS) - 1) << ITEM_BITS;
        value & ITEM != 0 && value & MASK == fingerprint(hash)
    }

    /// The item of a key; `same` says whether an item is that key's.
    #[inline]
    pub(super) fn find(
        &self,
        words: &[AtomicU64],
        hash: u64,
        mut same: impl FnMut(u32) -> bool,
    ) -> Option<Found> {
        self.slots(hash).find_map(|at| {
            let value = words[at].load(SeqCst);
            (value & CONFIRMED != 0 && Self::may_be(value, hash) && same(item(value)))
                .then_some(Found { at, value })
        })
    }

    /// What is in the slots where a key may be, whoever's it is.
    pub(super) fn confirmed(&self, words: &[AtomicU64], hash: u64) -> impl Iterator<Item = Found> {
        self.slots(hash).filter_map(|at| {
            let value = words[at].load(SeqCst);
            (value & CONFIRMED != 0 && value & ITEM != 0).then_some(Found { at, value })
        })
    }

    /// Makes `item` the key's, unless the key has one. `stamp` is another for every stay of the item.
    pub(super) fn insert(
        &self,
        words: &[AtomicU64],
        hash: u64,
        item: u32,
        stamp: u64,
        mut same: impl FnMut(u32) -> bool,
    ) -> Inserted {
        let value = (stamp & STAMP) << STAMP_SHIFT | fingerprint(hash) | u64::from(item + 1);
        loop {
            if let Some((at, other)) = self.other(words, hash, None, &mut same) {
                // Completed here, if it is tentative: whoever began it may be dead.
                match self.resolve(words, hash, at, other, &mut same) {
                    Resolved::Confirmed => return Inserted::Exists(Found { at, value: other | CONFIRMED }),
                    Resolved::Lost(found) => return Inserted::Exists(found),
                    Resolved::Gone => continue,
                }
            }
            let placed = self.slots(hash).find(|&at| {
                words[at].load(SeqCst) == 0 && words[at].compare_exchange(0, value, SeqCst, SeqCst).is_ok()
            });
            let Some(at) = placed else { return Inserted::Full };
            match self.resolve(words, hash, at, value, &mut same) {
                Resolved::Confirmed => return Inserted::New,
                Resolved::Lost(found) => return Inserted::Exists(found),
                Resolved::Gone => return Inserted::Again,
            }
        }
    }

    /// A slot of the same key other than `but`: a confirmed one if there is one, else the first.
    fn other(
        &self,
        words: &[AtomicU64],
        hash: u64,
        but: Option<usize>,
        same: &mut impl FnMut(u32) -> bool,
    ) -> Option<(usize, u64)> {
        let mut first = None;
        for at in self.slots(hash).filter(|&at| Some(at) != but) {
            let value = words[at].load(SeqCst);
            if !Self::may_be(value, hash) || !same(item(value)) {
                continue;
            }
            if value & CONFIRMED != 0 {
                return Some((at, value));
            }
            first = match first {
                Some((before, _)) if before < at => first,
                _ => Some((at, value)),
            };
        }
        first
    }

    /// Confirms a slot, or takes it away for another of the same key. Anybody may, any number of times.
    fn resolve(
        &self,
        words: &[AtomicU64],
        hash: u64,
        at: usize,
        value: u64,
        same: &mut impl FnMut(u32) -> bool,
    ) -> Resolved {
        if value & CONFIRMED != 0 {
            return Resolved::Lost(Found { at, value });
        }
        let confirmed = |seen| seen == value | CONFIRMED;
        loop {
            let Some((other, theirs)) = self.other(words, hash, Some(at), same) else {
                return match words[at].compare_exchange(value, value | CONFIRMED, SeqCst, SeqCst) {
                    Ok(_) => Resolved::Confirmed,
                    Err(seen) if confirmed(seen) => Resolved::Confirmed,
                    Err(_) => Resolved::Gone,
                };
            };
            if theirs & CONFIRMED != 0 || other < at {
                return match words[at].compare_exchange(value, 0, SeqCst, SeqCst) {
                    Err(seen) if confirmed(seen) => Resolved::Confirmed,
                    _ if theirs & CONFIRMED != 0 => Resolved::Lost(Found { at: other, value: theirs }),
                    _ => Resolved::Gone,
                };
            }
            // If it fails it was confirmed or taken away: look again.
            let _ = words[other].compare_exchange(theirs, 0, SeqCst, SeqCst);
        }
    }

    /// Confirms the tentative slots of an item, or takes them away: whoever began them is dead.
    pub(super) fn settle(&self, words: &[AtomicU64], hash: u64, of: u32, mut same: impl FnMut(u32) -> bool) {
        for at in self.slots(hash) {
            let value = words[at].load(SeqCst);
            if value & CONFIRMED == 0 && Self::may_be(value, hash) && item(value) == of {
                self.resolve(words, hash, at, value, &mut same);
            }
        }
    }

    /// Removes a slot that was found; true for the one who did, who owns the item from then on.
    pub(super) fn remove(&self, words: &[AtomicU64], found: Found) -> bool {
        words[found.at].compare_exchange(found.value, 0, SeqCst, SeqCst).is_ok()
    }
}
