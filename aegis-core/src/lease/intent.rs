//! What somebody was about to do with a port, so that whoever finds him dead knows where to look.
//!
//! A port that is taken and has no tag is nobody's: a claim, release or sweep was between its two steps. Each says before
//! which port it will change, in a word of its own.

use crate::sync::{AtomicU64, Ordering::Release};

/// The place for one intention, and the page that it is about.
#[derive(Clone, Copy)]
pub(super) struct Intent<'a> {
    word: Option<&'a AtomicU64>,
    page: u32,
}

impl<'a> Intent<'a> {
    pub(super) fn new(word: &'a AtomicU64, page: u32) -> Self {
        Self { word: Some(word), page }
    }

    /// For memory that nobody survives.
    pub(super) const fn nobody_asks() -> Self {
        Self { word: None, page: 0 }
    }

    /// The port that is changed next.
    #[inline]
    pub(super) fn names(self, offset: u32) {
        if let Some(word) = self.word {
            // Release, and the change itself is a locked operation: whoever sees the change sees this.
            word.store(u64::from(self.page) << 32 | u64::from(offset + 1), Release);
        }
    }

    /// Nothing is left half done.
    #[inline]
    pub(super) fn is_done(self) {
        if let Some(word) = self.word {
            word.store(0, Release);
        }
    }

    /// The page and port that a word names.
    pub(super) fn read(word: u64) -> Option<(u32, u32)> {
        (word as u32).checked_sub(1).map(|offset| ((word >> 32) as u32, offset))
    }
}
