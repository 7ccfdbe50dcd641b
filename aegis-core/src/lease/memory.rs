//! Where the words of a lease table live: memory that the caller gives, addressed by index.

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicU16, AtomicU64};

/// Memory for one lease table: zeroed 64-bit words, and zeroed 16-bit tags.
///
/// In one process this is a [`Heap`]; worker processes share a mapping. The table never keeps a reference into it.
pub trait Memory: Send + Sync {
    /// The words.
    fn words(&self) -> &[AtomicU64];
    /// The tags.
    fn tags(&self) -> &[AtomicU16];
}

/// Memory of this process alone. Untouched parts cost address space only.
#[derive(Debug)]
pub struct Heap {
    words: Box<[AtomicU64]>,
    tags: Box<[AtomicU16]>,
}

impl Heap {
    /// Zeroed memory of the given size.
    ///
    /// # Errors
    /// The process cannot have that much.
    pub fn zeroed(size: super::Size) -> Result<Self> {
        let short = || {
            Error::new(
                ErrorKind::Machine,
                format!(
                    "no memory for a lease table of {} words and {} tags; make it smaller",
                    size.words, size.tags
                ),
            )
        };
        Ok(Self { words: zeroed(size.words).ok_or_else(short)?, tags: zeroed(size.tags).ok_or_else(short)? })
    }
}

#[cfg(not(any(loom, all(shuttle, test))))]
fn zeroed<T: bytemuck::Zeroable>(len: usize) -> Option<Box<[T]>> {
    bytemuck::allocation::try_zeroed_slice_box(len).ok()
}

#[cfg(any(loom, all(shuttle, test)))]
fn zeroed<T: Default>(len: usize) -> Option<Box<[T]>> {
    Some((0..len).map(|_| T::default()).collect())
}

impl Memory for Heap {
    fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    fn tags(&self) -> &[AtomicU16] {
        &self.tags
    }
}
