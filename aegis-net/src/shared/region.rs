//! One region of memory that several processes have, and all pointers into it.

use std::io;
use std::os::fd::AsFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{
    AtomicU16, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use aegis_core::error::{Error, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::layout::{HEADER_WORDS, Layout};
use super::namespaces::Namespaces;

/// Readable and writable bytes that stay where they are while this lives.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// We have mapped it, so we unmap it.
    ours: bool,
}

impl Mapping {
    /// The first `len` bytes of a file, shared with all who map it.
    pub(super) fn of(file: impl AsFd, len: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses a place that nothing else has, and nobody but this value has its address.
        // Covered by `tests/shared.rs`.
        let start =
            unsafe { mmap(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at zero unless it is told to");
        Ok(Self { start, len, ours: true })
    }

    /// Memory of the host program.
    ///
    /// # Safety
    /// The `len` bytes at `start` are readable and writable as long as this lives, and changed by atomic operations
    /// only.
    ///
    /// # Errors
    /// It is misaligned, or too short for a header.
    pub(super) unsafe fn at(start: *mut u8, len: usize) -> Result<Self> {
        let refuse = |what: String| {
            Err(Error::input(format!("the memory for a lease table {what}; give it other memory")))
        };
        let aligned = |start: &NonNull<u8>| start.cast::<AtomicU64>().is_aligned();
        let Some(start) = NonNull::new(start).filter(aligned) else {
            return refuse(format!("starts at {start:p}, which is not a multiple of 8"));
        };
        if len < size_of::<[AtomicU64; HEADER_WORDS]>() || isize::try_from(len).is_err() {
            return refuse(format!("has {len} bytes, and even its header takes 64"));
        }
        Ok(Self { start, len, ours: false })
    }

    /// Where `count` values begin at byte `at`. Only zeroed memory and atomics come here, for which every bit
    /// pattern is a value.
    fn array<T>(&self, at: usize, count: usize) -> NonNull<[T]> {
        let end = size_of::<T>().checked_mul(count).and_then(|bytes| bytes.checked_add(at));
        assert!(end.is_some_and(|end| end <= self.len), "a layout is checked against the length");
        let first = self.start.as_ptr().wrapping_add(at).cast::<T>();
        let first = NonNull::new(first).expect("inside of the mapping, which is not at zero");
        assert!(
            first.is_aligned(),
            "the start is aligned for words, and words and tags are multiples of it away"
        );
        NonNull::slice_from_raw_parts(first, count)
    }

    fn header(&self) -> &[AtomicU64] {
        let header = self.array(0, HEADER_WORDS);
        // SAFETY: `array` has checked bounds and alignment; the mapping lives as long as `self`; whatever the bytes
        // are, they are atomics. Covered by `a_region_is_split_into_words_and_tags` under Miri.
        unsafe { header.as_ref() }
    }

    /// Writes the header into zeroed memory, the magic last: whoever sees it sees all of it. A process that is
    /// killed before leaves memory for which this can be done again.
    ///
    /// # Errors
    /// The memory is not zeroed, or holds a region already.
    pub(super) fn create(self, layout: Layout, namespaces: Namespaces) -> Result<Region> {
        if layout.len > self.len {
            return Err(Error::input(format!(
                "{} words and {} tags take {} bytes, but there are {}; give more memory or make the lease table \
                 smaller",
                layout.size.words, layout.size.tags, layout.len, self.len
            )));
        }
        let header = self.header();
        let values = layout.header(namespaces);
        for (index, (word, &value)) in header.iter().zip(&values).enumerate() {
            // Relaxed: nobody else may be here yet; if somebody is, this finds it out or not.
            let found = word.load(Relaxed);
            if found != 0 && (index == 0 || found != value) {
                return Err(Error::input(format!(
                    "the memory for a new lease table is not zeroed: its word {index} is {found:#x}; zero it, or \
                     open the lease table that it holds"
                )));
            }
        }
        for (word, &value) in header.iter().zip(&values).skip(1) {
            // Relaxed: ordered by the magic.
            word.store(value, Relaxed);
        }
        // Release: the rest of the header comes before it.
        header[0].store(values[0], Release);
        Ok(self.split(layout))
    }

    /// The region that is here.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub(super) fn open(self, here: Namespaces) -> Result<Region> {
        // Each word is read once, so that what is checked is what is used. Acquire: the magic is read first, and
        // the rest of the header came before it.
        let mut header = [0; HEADER_WORDS];
        for (value, word) in header.iter_mut().zip(self.header()) {
            *value = word.load(Acquire);
        }
        let layout = Layout::read(header, self.len, here)?;
        Ok(self.split(layout))
    }

    fn split(self, layout: Layout) -> Region {
        Region {
            words: self.array(layout.words_at, layout.size.words),
            tags: self.array(layout.tags_at, layout.size.tags),
            layout,
            _mapping: self,
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.ours {
            // SAFETY: we have mapped these bytes, and every reference into them was borrowed from this value.
            // Covered by `a_dropped_region_is_unmapped`.
            let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
            debug_assert!(unmapped.is_ok(), "it is mapped: {unmapped:?}");
        }
    }
}

/// A mapping with a valid header: its words and tags.
#[derive(Debug)]
pub(super) struct Region {
    words: NonNull<[AtomicU64]>,
    tags: NonNull<[AtomicU16]>,
    layout: Layout,
    _mapping: Mapping,
}

// SAFETY: it is memory that no thread has more right to than another; its address is the process's.
// Covered by `threads_share_a_region` under Miri.
unsafe impl Send for Region {}
// SAFETY: only atomics can be reached through it. Covered by `threads_share_a_region` under Miri.
unsafe impl Sync for Region {}

impl Region {
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: made by `array`, which has checked bounds and alignment, from the mapping that `self` keeps; the
        // length is our own copy. Covered by `a_region_is_split_into_words_and_tags` under Miri.
        unsafe { self.words.as_ref() }
    }

    #[inline]
    pub(super) fn tags(&self) -> &[AtomicU16] {
        // SAFETY: as in `words`, with the same test.
        unsafe { self.tags.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use aegis_core::lease::Size;

    use super::*;

    const HERE: Namespaces = Namespaces { process: 1, time: 2 };

    fn layout() -> Layout {
        Layout::new(Size { words: 3, tags: 5 }).unwrap()
    }

    /// Zeroed memory for a mapping; its length in bytes.
    fn buffer(words: usize) -> (Vec<AtomicU64>, usize) {
        ((0..words).map(|_| AtomicU64::new(0)).collect(), words * 8)
    }

    fn at(buffer: &mut [AtomicU64], offset: usize, len: usize) -> Result<Mapping> {
        let start = buffer.as_mut_ptr().cast::<u8>().wrapping_add(offset);
        // SAFETY: the tests keep the buffer while they have the mapping, and change nothing else meanwhile.
        unsafe { Mapping::at(start, len) }
    }

    #[test]
    fn a_region_is_split_into_words_and_tags() {
        let (mut memory, len) = buffer(32);
        let region = at(&mut memory, 0, len).unwrap().create(layout(), HERE).unwrap();
        assert_eq!((region.words().len(), region.tags().len()), (3, 5));
        region.words()[2].store(u64::MAX, Relaxed);
        region.tags()[0].store(u16::MAX, Relaxed);
        region.tags()[4].store(7, Relaxed);
        drop(region);
        let again = at(&mut memory, 0, len).unwrap().open(HERE).unwrap();
        assert_eq!(again.words().iter().map(|word| word.load(Relaxed)).collect::<Vec<_>>(), [0, 0, u64::MAX]);
        assert_eq!(
            again.tags().iter().map(|tag| tag.load(Relaxed)).collect::<Vec<_>>(),
            [65_535, 0, 0, 0, 7]
        );
    }

    #[test]
    fn threads_share_a_region() {
        let (mut memory, len) = buffer(32);
        let region = at(&mut memory, 0, len).unwrap().create(layout(), HERE).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| region.words()[0].fetch_add(1, Relaxed));
                scope.spawn(|| region.tags()[0].fetch_add(1, Relaxed));
            }
        });
        assert_eq!((region.words()[0].load(Relaxed), region.tags()[0].load(Relaxed)), (2, 2));
    }

    #[test]
    fn memory_that_is_misaligned_or_short_is_refused() {
        let (mut memory, len) = buffer(32);
        assert!(at(&mut memory, 4, len - 4).unwrap_err().to_string().contains("not a multiple of 8"));
        assert!(at(&mut memory, 0, 63).unwrap_err().to_string().contains("has 63 bytes"));
        // SAFETY: nothing is at zero, and it is refused.
        let nowhere = unsafe { Mapping::at(null_mut(), len) };
        assert!(nowhere.unwrap_err().to_string().contains("starts at 0x0"));
        let error =
            at(&mut memory, 0, layout().len - 1).unwrap().create(layout(), HERE).unwrap_err().to_string();
        assert!(error.contains("3 words and 5 tags take 138 bytes, but there are 137"), "{error}");
    }

    #[test]
    fn a_living_region_is_never_created_over() {
        let (mut memory, len) = buffer(32);
        assert!(at(&mut memory, 0, len).unwrap().open(HERE).unwrap_err().to_string().contains("create"));
        drop(at(&mut memory, 0, len).unwrap().create(layout(), HERE).unwrap());
        let error = at(&mut memory, 0, len).unwrap().create(layout(), HERE).unwrap_err().to_string();
        assert!(error.contains("not zeroed: its word 0 is 0x"), "{error}");
        memory[0].store(0, Relaxed);
        memory[5].store(9, Relaxed);
        let error = at(&mut memory, 0, len).unwrap().create(layout(), HERE).unwrap_err().to_string();
        assert!(error.contains("not zeroed: its word 5 is 0x9"), "{error}");
    }

    #[test]
    fn a_creator_that_was_killed_is_succeeded_at_every_step() {
        let values = layout().header(HERE);
        for written in 1..HEADER_WORDS {
            let (mut memory, len) = buffer(32);
            for index in 1..=written {
                memory[index].store(values[index], Relaxed);
            }
            at(&mut memory, 0, len).unwrap().open(HERE).unwrap_err();
            drop(at(&mut memory, 0, len).unwrap().create(layout(), HERE).unwrap());
            at(&mut memory, 0, len).unwrap().open(HERE).unwrap();
        }
    }
}
