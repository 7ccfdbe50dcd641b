//! Records: no one is handed out twice.

use std::sync::Arc;

use loom::cell::UnsafeCell;

use crate::sync::AtomicU64;

use super::super::arena::Arena;
use super::{both, in_any_order};

struct Records {
    arena: Arena,
    words: Box<[AtomicU64]>,
    /// The checker objects to two owners of one cell at a time.
    cells: Vec<UnsafeCell<()>>,
}

impl Records {
    fn new(capacity: u32) -> Arc<Self> {
        let arena = Arena { counters: 0, first: 2, stride: 1, capacity };
        let words = (0..2 + arena.stride * capacity as usize).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { arena, words, cells: (0..capacity).map(|_| UnsafeCell::new(())).collect() })
    }

    fn take(&self) -> Option<u32> {
        let index = self.arena.take(&self.words)?;
        self.cells[index as usize].with_mut(|_| ());
        Some(index)
    }

    fn give(&self, index: u32) {
        self.arena.give(&self.words, index);
    }
}

#[test]
fn loom_two_threads_never_get_the_same_new_record() {
    in_any_order(|| {
        let records = Records::new(3);
        let theirs = Arc::clone(&records);
        let (one, other) = both(move || [theirs.take(), theirs.take()], || records.take());
        let mut all = [one[0], one[1], other].map(|index| index.expect("there are three"));
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(records.take(), None);
        assert_eq!(records.arena.used(&records.words), 3);
    });
}

#[test]
fn loom_the_last_record_is_handed_out_once() {
    in_any_order(|| {
        let records = Records::new(1);
        let theirs = Arc::clone(&records);
        let (one, other) = both(move || theirs.take(), || records.take());
        assert!(one.is_some() ^ other.is_some());
    });
}

#[test]
fn loom_records_given_back_come_again_once_each() {
    in_any_order(|| {
        let records = Records::new(2);
        let mine = [records.take().unwrap(), records.take().unwrap()];
        let theirs = Arc::clone(&records);
        both(move || theirs.give(mine[0]), || records.give(mine[1]));
        let mut again = [records.take().unwrap(), records.take().unwrap()];
        again.sort_unstable();
        assert_eq!(again, [0, 1]);
        assert_eq!(records.take(), None);
    });
}

/// The head of the list is the same record as before, but what followed it is somebody's by now.
#[test]
fn loom_a_head_that_went_and_came_back_is_not_taken_for_the_old_one() {
    in_any_order(|| {
        let records = Records::new(2);
        let mine = [records.take().unwrap(), records.take().unwrap()];
        records.give(mine[0]);
        records.give(mine[1]);
        let theirs = Arc::clone(&records);
        let (one, other) = both(
            move || theirs.take(),
            || {
                let first = records.take();
                let second = records.take();
                if let (Some(first), Some(_)) = (first, second) {
                    records.give(first);
                    return second;
                }
                first
            },
        );
        // The other thread ends with one record, or had to do with the one that was left.
        let mut all: Vec<u32> = [one, other, records.take()].into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1], "every record has one owner");
    });
}
