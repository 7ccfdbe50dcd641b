//! Where the words of a lease table live: memory that the caller gives, addressed by index.

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
    pub fn zeroed(size: super::Size) -> Self {
        Self { words: zeroed(size.words), tags: zeroed(size.tags) }
    }
}

#[cfg(not(loom))]
fn zeroed<T: bytemuck::Zeroable>(len: usize) -> Box<[T]> {
    bytemuck::allocation::zeroed_slice_box(len)
}

#[cfg(loom)]
fn zeroed<T: Default>(len: usize) -> Box<[T]> {
    (0..len).map(|_| T::default()).collect()
}

impl Memory for Heap {
    fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    fn tags(&self) -> &[AtomicU16] {
        &self.tags
    }
}
