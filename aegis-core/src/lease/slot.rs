//! The words where a worker says what it is about to do, for whoever finds it dead.

use crate::sync::{AtomicU64, Ordering::SeqCst};

use super::intent::Intent;
use super::map::{WORKER_INTENT, WORKER_PAGE, WORKER_RECORD, WORKER_SWEEP};

/// A worker's words, or none where nobody would ask: in memory of one process.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a>(Option<&'a [AtomicU64]>);

impl<'a> Slot<'a> {
    pub(super) const NONE: Self = Self(None);

    pub(super) const fn new(words: &'a [AtomicU64]) -> Self {
        Self(Some(words))
    }

    /// For a claim or a release in a page.
    #[inline]
    pub(super) fn intent(self, page: u32) -> Intent<'a> {
        self.at(WORKER_INTENT, page)
    }

    /// For a sweep of a page.
    #[inline]
    pub(super) fn sweep(self, page: u32) -> Intent<'a> {
        self.at(WORKER_SWEEP, page)
    }

    #[inline]
    fn at(self, word: usize, page: u32) -> Intent<'a> {
        self.0.map_or(Intent::nobody_asks(), |words| Intent::new(&words[word], page))
    }

    /// A page that is ours alone in that life, until it is published or given back.
    pub(super) fn has_page(self, page: Option<(u32, u64)>) {
        self.has(WORKER_PAGE, page.map(|(index, life)| (index, life as u32)));
    }

    /// An origin record that is ours alone in that incarnation, until it is published or given back.
    pub(super) fn has_record(self, record: Option<(u32, u32)>) {
        self.has(WORKER_RECORD, record);
    }

    fn has(self, word: usize, item: Option<(u32, u32)>) {
        if let Some(words) = self.0 {
            let value = item.map_or(0, |(item, time)| u64::from(time) << 32 | (u64::from(item) + 1));
            words[word].store(value, SeqCst);
        }
    }
}
