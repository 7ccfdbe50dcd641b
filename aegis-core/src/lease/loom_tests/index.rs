//! The index of keys: one item each, whoever inserts, removes or dies.

use std::sync::Arc;

use crate::sync::{AtomicU64, Ordering::SeqCst};

use super::super::index::{Found, Index, Inserted};
use super::{both, with_switches};

const HASH: u64 = 0xabcd << 48;
const CONFIRMED: u64 = 1 << 63;

/// An index in which all items have the same key.
struct Keys {
    index: Index,
    words: Box<[AtomicU64]>,
}

impl Keys {
    fn new() -> Arc<Self> {
        let words = (0..Index::WINDOW).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { index: Index { first: 0, windows: 1 }, words })
    }

    /// Again with another stamp if it was taken away, as whoever makes records and pages does.
    fn insert(&self, item: u32) -> Inserted {
        let attempts = (0..).map(|attempt: u64| attempt << 4 | u64::from(item));
        let mut inserted = attempts.map(|stamp| self.index.insert(&self.words, HASH, item, stamp, |_| true));
        inserted.find(|inserted| *inserted != Inserted::Again).expect("attempts do not end")
    }

    fn find(&self) -> Option<Found> {
        self.index.find(&self.words, HASH, |_| true)
    }

    fn item(&self) -> Option<u32> {
        self.find().map(Found::item)
    }

    /// An item whose inserter died between its two steps.
    fn insert_half(&self, item: u32) {
        assert_eq!(self.insert(item), Inserted::New);
        for word in self.words.iter().filter(|word| word.load(SeqCst) != 0) {
            word.fetch_and(!CONFIRMED, SeqCst);
        }
        assert_eq!(self.find(), None);
    }
}

/// The item that the key has, says who inserted `item`.
fn answer(inserted: Inserted, item: u32) -> u32 {
    match inserted {
        Inserted::New => item,
        Inserted::Exists(found) => found.item(),
        Inserted::Full | Inserted::Again => panic!("there is room"),
    }
}

#[test]
fn loom_of_two_items_of_one_key_one_wins_and_both_find_it() {
    with_switches(3, || {
        let keys = Keys::new();
        let theirs = Arc::clone(&keys);
        let (one, other) = both(move || theirs.insert(1), || keys.insert(2));
        assert!((one == Inserted::New) ^ (other == Inserted::New), "{one:?} {other:?}");
        assert_eq!(answer(one, 1), answer(other, 2));
        assert_eq!(keys.item(), Some(answer(one, 1)));
    });
}

#[test]
fn loom_of_three_items_of_one_key_one_wins() {
    with_switches(2, || {
        let keys = Keys::new();
        let theirs = [1, 2].map(|item| (Arc::clone(&keys), item));
        let threads = theirs.map(|(keys, item)| loom::thread::spawn(move || answer(keys.insert(item), item)));
        let mine = answer(keys.insert(3), 3);
        let theirs = threads.map(|thread| thread.join().unwrap());
        assert_eq!((theirs, keys.item()), ([mine; 2], Some(mine)));
    });
}

#[test]
fn loom_an_item_inserted_while_another_is_removed_is_found_or_was_refused() {
    with_switches(3, || {
        let keys = Keys::new();
        assert_eq!(keys.insert(1), Inserted::New);
        let theirs = Arc::clone(&keys);
        let (removed, inserted) = both(
            move || theirs.find().is_some_and(|found| theirs.index.remove(&theirs.words, found)),
            || keys.insert(2),
        );
        match inserted {
            // The one who removes may have found the new one.
            Inserted::New => assert!(keys.item() == Some(2) || removed),
            Inserted::Exists(found) => assert_eq!((found.item(), removed, keys.item()), (1, true, None)),
            Inserted::Full | Inserted::Again => panic!("there is room"),
        }
    });
}

#[test]
fn loom_what_a_dead_one_began_to_insert_is_completed_or_gone() {
    with_switches(3, || {
        let keys = Keys::new();
        keys.insert_half(1);
        let theirs = Arc::clone(&keys);
        let (one, other) = both(move || theirs.insert(2), || keys.insert(3));
        let item = answer(one, 2);
        assert_eq!((answer(other, 3), keys.item()), (item, Some(item)));
    });
}

#[test]
fn loom_what_is_settled_for_a_dead_one_is_his_or_is_never_completed() {
    with_switches(3, || {
        let keys = Keys::new();
        keys.insert_half(1);
        let theirs = Arc::clone(&keys);
        let (published, inserted) = both(
            move || {
                theirs.index.settle(&theirs.words, HASH, 1, |_| true);
                theirs.index.find(&theirs.words, HASH, |item| item == 1).is_some()
            },
            || keys.insert(2),
        );
        assert_eq!(keys.item(), Some(answer(inserted, 2)));
        assert_eq!(keys.item() == Some(1), published, "or the item is given away, and found too");
    });
}
