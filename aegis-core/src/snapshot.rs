//! What readers use while writers replace it: immutable snapshots, swapped whole.
//!
//! A reader never waits, and what it holds is of one epoch. It keeps its snapshot and asks with one atomic load whether
//! there is a newer one, which costs a nanosecond where taking a new [`Arc`] costs several.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use crate::error::{Error, ErrorKind, Result};

/// Something immutable that belongs to an epoch: of two, the one with the larger epoch is in force.
pub trait Snapshot {
    /// The number of the epoch.
    fn epoch(&self) -> u64;
}

/// The snapshot in force: a handle, cheap to clone; any thread may publish.
#[derive(Debug)]
pub struct Published<T>(Arc<ArcSwap<T>>);

/// What one thread reads: the snapshot in force, kept, and looked at again whenever it is asked for.
///
/// It keeps an old snapshot in memory until it is asked again.
#[derive(Clone, Debug)]
pub struct Reader<T>(Cache<Arc<ArcSwap<T>>, Arc<T>>);

impl<T: Snapshot> Published<T> {
    /// Begins with a first snapshot.
    pub fn new(first: impl Into<Arc<T>>) -> Self {
        Self(Arc::new(ArcSwap::new(first.into())))
    }

    /// Puts a newer snapshot in force, and gives back the one before. It is freed when the last reader has moved on.
    ///
    /// # Errors
    /// [`ErrorKind::Reload`], naming both epochs: it is not newer than the one in force, which stays.
    pub fn publish(&self, next: impl Into<Arc<T>>) -> Result<Arc<T>> {
        let next = next.into();
        let mut current = self.0.load();
        loop {
            let (old, new) = (current.epoch(), next.epoch());
            if new <= old {
                let fault = if new == old { "is in force already" } else { "is older" };
                return Err(Error::new(
                    ErrorKind::Reload,
                    format!("epoch {new} {fault}: the epoch in force is {old}; publish a later one"),
                ));
            }
            // Another writer may have been faster: then look again, so that the epoch never goes back.
            let found = self.0.compare_and_swap(&*current, Arc::clone(&next));
            if Arc::ptr_eq(&found, &current) {
                return Ok(Arc::clone(&found));
            }
            current = found;
        }
    }

    /// The snapshot in force, to keep for a while.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// A reader, for one thread to keep.
    pub fn reader(&self) -> Reader<T> {
        Reader(Cache::new(Arc::clone(&self.0)))
    }
}

impl<T> Clone for Published<T> {
    /// The same snapshot in force, not a copy of it.
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Reader<T> {
    /// The snapshot in force. Take it once for questions that belong together: the next call may give a newer one.
    #[inline]
    pub fn get(&mut self) -> &Arc<T> {
        self.0.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbered(u64);

    impl Snapshot for Numbered {
        fn epoch(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn an_epoch_never_goes_back_and_has_one_snapshot() {
        let published = Published::new(Numbered(7));
        let mut reader = published.reader();
        for (epoch, fault) in
            [(7, "epoch 7 is in force already"), (6, "epoch 6 is older: the epoch in force is 7")]
        {
            let e = published.publish(Numbered(epoch)).err().unwrap();
            assert_eq!(e.kind(), ErrorKind::Reload);
            assert!(e.message().contains(fault), "{e}");
            assert_eq!(reader.get().epoch(), 7);
        }
        let kept = Arc::clone(reader.get());
        assert_eq!(published.clone().publish(Numbered(9)).unwrap().epoch(), 7);
        assert_eq!((reader.get().epoch(), published.load().epoch(), kept.epoch()), (9, 9, 7));
    }

    #[test]
    fn of_writers_that_race_the_latest_epoch_wins() {
        let rounds = if cfg!(miri) { 20 } else { 2_000 };
        let published = Published::new(Numbered(0));
        let accepted: u64 = std::thread::scope(|scope| {
            let writer = |first: u64| {
                let published = &published;
                scope.spawn(move || {
                    let epochs = (0..rounds).map(|n| first + 2 * n);
                    epochs.filter(|epoch| published.publish(Numbered(*epoch)).is_ok()).count() as u64
                })
            };
            let writers = [writer(1), writer(2)];
            let mut reader = published.reader();
            let mut last = 0;
            while last < 2 * rounds {
                let epoch = reader.get().epoch();
                assert!(epoch >= last, "{epoch} after {last}");
                last = epoch;
                if writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                    assert_eq!(reader.get().epoch(), 2 * rounds, "the last epoch was refused");
                    break;
                }
            }
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        assert!((rounds..=2 * rounds).contains(&accepted), "{accepted}");
    }
}
