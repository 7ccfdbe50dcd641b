//! When does what end? A timing wheel of two levels in steps of a millisecond.
//!
//! Level 0 has a bucket for each millisecond of the current window of 65 s, level 1 one for each of the windows of the
//! next 49 days. An entry moves at most once, from level 1 to 0 when its window begins; a heap would cost 20 cache misses
//! for each of a million entries. Entries of one millisecond come in the order in which they were scheduled.

/// Bits of a millisecond's place in its window, and of a window's place in level 1.
const BITS: u32 = 16;
const PLACES: usize = 1 << BITS;
const NOWHERE: u32 = u32::MAX;

/// Nothing may be scheduled further ahead: what is due then might be taken for something a turn of level 1 earlier.
pub(super) const MOST_AHEAD: u64 = ((PLACES as u64) - 1) << BITS;

/// A place for an entry; its number is the caller's until it is removed.
pub(super) type Slot = u32;

#[derive(Clone, Copy)]
struct Entry {
    due: u64,
    next: Slot,
    prev: Slot,
}

/// What an entry costs.
#[cfg(test)]
pub(super) const ENTRY_BYTES: usize = size_of::<Entry>();

/// The first entry of each bucket, each a ring; and a bit for each bucket that has some.
struct Level {
    first: Box<[Slot]>,
    full: Box<[u64]>,
}

impl Level {
    fn new() -> Self {
        Self { first: vec![NOWHERE; PLACES].into(), full: vec![0; PLACES / 64].into() }
    }

    /// The first full bucket among `from..=to`.
    fn full_from(&self, from: usize, to: usize) -> Option<usize> {
        let mut bits = self.full[from / 64] & (u64::MAX << (from % 64));
        for word in from / 64..=to / 64 {
            if bits != 0 {
                let bucket = word * 64 + bits.trailing_zeros() as usize;
                return (bucket <= to).then_some(bucket);
            }
            bits = self.full.get(word + 1).copied().unwrap_or(0);
        }
        None
    }
}

pub(super) struct Calendar {
    entries: Vec<Entry>,
    free: Vec<Slot>,
    /// By the milliseconds of the window of `at`; by windows.
    levels: [Level; 2],
    /// Nothing is due before.
    at: u64,
    /// No later than the first window of level 1 that has entries; `u64::MAX` if none has.
    next_window: u64,
}

impl Calendar {
    pub(super) fn new(at: u64) -> Self {
        let levels = [Level::new(), Level::new()];
        Self { entries: Vec::new(), free: Vec::new(), levels, at, next_window: u64::MAX }
    }

    /// A new entry.
    pub(super) fn insert(&mut self, due: u64) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { due, next: NOWHERE, prev: NOWHERE });
            // 2^32 entries would be 200 GB: memory ends before.
            (self.entries.len() - 1) as Slot
        });
        self.schedule(slot, due);
        slot
    }

    /// Schedules an entry that was popped or cancelled, and not removed.
    pub(super) fn schedule(&mut self, slot: Slot, due: u64) {
        debug_assert!((self.at..=self.at + MOST_AHEAD).contains(&due), "{due} from {}", self.at);
        self.entries[slot as usize].due = due;
        let (level, bucket) = self.place(due);
        if level == 1 {
            self.next_window = self.next_window.min(due >> BITS);
        }
        let first = self.levels[level].first[bucket];
        if first == NOWHERE {
            self.levels[level].first[bucket] = slot;
            self.levels[level].full[bucket / 64] |= 1 << (bucket % 64);
            self.link(slot, slot);
        } else {
            let last = self.entries[first as usize].prev;
            self.link(last, slot);
            self.link(slot, first);
        }
    }

    /// Takes a scheduled entry out, to be scheduled again or removed.
    pub(super) fn cancel(&mut self, slot: Slot) {
        let Entry { due, next, prev } = self.entries[slot as usize];
        let (level, bucket) = self.place(due);
        let level = &mut self.levels[level];
        if next == slot {
            level.first[bucket] = NOWHERE;
            level.full[bucket / 64] &= !(1 << (bucket % 64));
            return;
        }
        if level.first[bucket] == slot {
            level.first[bucket] = next;
        }
        self.link(prev, next);
    }

    /// The number of an entry that was popped or cancelled may be used again.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.free.push(slot);
    }

    /// The next entry that is due at `limit` or before, and when it is; `limit` never goes back.
    pub(super) fn pop(&mut self, limit: u64) -> Option<(u64, Slot)> {
        loop {
            let window = self.at >> BITS;
            let last = if limit >> BITS == window { low(limit) } else { PLACES - 1 };
            if let Some(bucket) = self.levels[0].full_from(low(self.at), last) {
                let slot = self.levels[0].first[bucket];
                self.at = window << BITS | bucket as u64;
                self.cancel(slot);
                return Some((self.at, slot));
            }
            if self.next_window > limit >> BITS {
                self.at = self.at.max(limit);
                return None;
            }
            self.open(self.next_window);
        }
    }

    /// Begins a window: moves its entries to level 0, in their order.
    fn open(&mut self, window: u64) {
        self.at = window << BITS;
        let bucket = low(window);
        self.levels[1].full[bucket / 64] &= !(1 << (bucket % 64));
        let first = core::mem::replace(&mut self.levels[1].first[bucket], NOWHERE);
        self.next_window = match self.levels[1].full_from(bucket, PLACES - 1) {
            Some(found) => window + (found - bucket) as u64,
            None => match self.levels[1].full_from(0, bucket) {
                Some(found) => window + (found + PLACES - bucket) as u64,
                None => u64::MAX,
            },
        };
        let mut slot = first;
        while slot != NOWHERE {
            let Entry { due, next, .. } = self.entries[slot as usize];
            self.schedule(slot, due);
            slot = if next == first { NOWHERE } else { next };
        }
    }

    fn place(&self, due: u64) -> (usize, usize) {
        if due >> BITS == self.at >> BITS { (0, low(due)) } else { (1, low(due >> BITS)) }
    }

    fn link(&mut self, prev: Slot, next: Slot) {
        self.entries[prev as usize].next = next;
        self.entries[next as usize].prev = prev;
    }
}

const fn low(value: u64) -> usize {
    (value & (PLACES as u64 - 1)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Cancel(usize),
        PopUntil(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let ahead = prop_oneof![0..4_u64, 0..70_000_u64, 0..MOST_AHEAD + 1, Just(MOST_AHEAD)];
        let forward = prop_oneof![8 => 0..50_000_u64, 1 => 0..MOST_AHEAD, 1 => Just(20 * MOST_AHEAD)];
        let step = prop_oneof![
            4 => ahead.prop_map(Step::Insert),
            1 => any::<usize>().prop_map(Step::Cancel),
            1 => forward.prop_map(Step::PopUntil),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn entries_come_when_they_are_due_and_in_the_order_in_which_they_were_scheduled(
            start in 0..1_u64 << 41,
            steps in steps(),
        ) {
            let mut calendar = Calendar::new(start);
            // By due time and by when it was scheduled.
            let mut model = BTreeMap::new();
            let (mut now, mut scheduled) = (start, 0);
            for step in steps {
                match step {
                    Step::Insert(ahead) => {
                        model.insert((now + ahead, scheduled), calendar.insert(now + ahead));
                    }
                    Step::Cancel(nth) if !model.is_empty() => {
                        let key = *model.keys().nth(nth % model.len()).unwrap();
                        let slot = model.remove(&key).unwrap();
                        calendar.cancel(slot);
                        calendar.remove(slot);
                    }
                    Step::Cancel(_) => {}
                    Step::PopUntil(forward) => {
                        now += forward;
                        while let Some((&(due, nth), &slot)) = model.iter().next().filter(|(key, _)| key.0 <= now) {
                            model.remove(&(due, nth));
                            prop_assert_eq!(calendar.pop(now), Some((due, slot)));
                            calendar.remove(slot);
                        }
                        prop_assert_eq!(calendar.pop(now), None);
                    }
                }
                scheduled += 1;
            }
            prop_assert!(calendar.entries.len() - calendar.free.len() == model.len());
        }
    }
}
