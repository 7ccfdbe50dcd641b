//! Memory for the lease tables of thousands of machines.

use core::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::lease::{Heap, Memory, Size};
use crate::sync::{AtomicU16, AtomicU64};

/// Most tables in one piece of memory. Many, because glibc clears what it has had before of all that is below 32 MiB.
const MOST_TABLES: usize = 256;

/// Memory that is taken from the system in large pieces, so that what no table touches costs address space only: in a
/// piece as small as one table, an allocator clears each byte, which is ten times what a table touches in a day.
pub(super) struct Store {
    heap: Option<Arc<Heap>>,
    taken: Size,
    /// Tables that are not made yet.
    left: usize,
}

impl Store {
    pub(super) const fn new(tables: usize) -> Self {
        Self { heap: None, taken: Size { words: 0, tags: 0 }, left: tables }
    }

    /// Zeroed memory for another table.
    ///
    /// # Errors
    /// As [`Heap::zeroed`].
    pub(super) fn part(&mut self, size: Size) -> Result<Part> {
        let Size { words, tags } = self.taken;
        let (words, tags) = (words..words.saturating_add(size.words), tags..tags.saturating_add(size.tags));
        let fits = |heap: &&Arc<Heap>| words.end <= heap.words().len() && tags.end <= heap.tags().len();
        let part = match self.heap.as_ref().filter(fits) {
            Some(heap) => Part { heap: Arc::clone(heap), words, tags },
            None => {
                let of_all = |of_one: usize| of_one.saturating_mul(self.left.clamp(1, MOST_TABLES));
                let heap = Heap::zeroed(Size { words: of_all(size.words), tags: of_all(size.tags) })?;
                Part { heap: Arc::new(heap), words: 0..size.words, tags: 0..size.tags }
            }
        };
        self.taken = Size { words: part.words.end, tags: part.tags.end };
        self.heap = Some(Arc::clone(&part.heap));
        self.left = self.left.saturating_sub(1);
        Ok(part)
    }
}

/// That of one table.
pub(super) struct Part {
    heap: Arc<Heap>,
    words: Range<usize>,
    tags: Range<usize>,
}

impl Memory for Part {
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        &self.heap.words()[self.words.clone()]
    }

    #[inline]
    fn tags(&self) -> &[AtomicU16] {
        &self.heap.tags()[self.tags.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tables_have_a_word_or_a_tag_in_common() {
        let mut store = Store::new(7);
        let sizes = [(3, 5), (1, 1), (2, 0), (7, 9), (1, 1), (1, 1), (0, 0), (300, 2), (1, 400), (1, 1)];
        let parts = sizes.map(|(words, tags)| (store.part(Size { words, tags }).unwrap(), words, tags));
        let words =
            parts.iter().flat_map(|(part, ..)| part.words().iter().map(|word| word as *const _ as usize));
        let tags = parts.iter().flat_map(|(part, ..)| part.tags().iter().map(|tag| tag as *const _ as usize));
        let mut all: Vec<usize> = words.chain(tags).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(count, sizes.iter().map(|(words, tags)| words + tags).sum::<usize>());
    }
}
