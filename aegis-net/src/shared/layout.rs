//! Where a region's header, words and tags are, and what the header must say. Pure: numbers in, numbers out.

use std::sync::atomic::{AtomicU16, AtomicU64};

use aegis_core::error::{Error, ErrorKind, Result};
use aegis_core::lease::Size;

use super::namespaces::Namespaces;

/// The first 64 bytes: magic, version, words, tags, the complements of both, process and time namespace.
pub(super) const HEADER_WORDS: usize = 8;

/// Words and tags start a cache line of their own.
const LINE: usize = 64;

/// Reads as `AEGISSHM` in every byte order.
const MAGIC: u64 = u64::from_ne_bytes(*b"AEGISSHM");

/// A number of another byte order is no version either.
const VERSION: u64 = 1;

/// Where everything is, from the numbers of words and tags alone: header, then words, then tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) size: Size,
    pub(super) words_at: usize,
    pub(super) tags_at: usize,
    /// Bytes in all.
    pub(super) len: usize,
}

impl Layout {
    /// # Errors
    /// So much does not fit into an address space.
    pub(super) fn new(size: Size) -> Result<Self> {
        Self::checked(size).ok_or_else(|| {
            Error::input(format!(
                "{} words and {} tags do not fit into an address space; make the lease table smaller",
                size.words, size.tags
            ))
        })
    }

    fn checked(size: Size) -> Option<Self> {
        let words_at = HEADER_WORDS * size_of::<AtomicU64>();
        let words_end = size.words.checked_mul(size_of::<AtomicU64>())?.checked_add(words_at)?;
        let tags_at = words_end.checked_next_multiple_of(LINE)?;
        let len = size.tags.checked_mul(size_of::<AtomicU16>())?.checked_add(tags_at)?;
        // No object is larger, so that differences of addresses have room.
        (isize::try_from(len).is_ok()).then_some(Self { size, words_at, tags_at, len })
    }

    /// What the header of such a region says.
    pub(super) fn header(&self, namespaces: Namespaces) -> [u64; HEADER_WORDS] {
        let (words, tags) = (self.size.words as u64, self.size.tags as u64);
        [MAGIC, VERSION, words, tags, !words, !tags, namespaces.process, namespaces.time]
    }

    /// What a header says. Anybody may have written it, so nothing of it is believed before it is checked, also
    /// against the `len` bytes that are really there.
    ///
    /// # Errors
    /// It is no header, or of another version, or damaged, or says more than there is.
    pub(super) fn read(header: [u64; HEADER_WORDS], len: usize, here: Namespaces) -> Result<Self> {
        let [magic, version, words, tags, not_words, not_tags, process, time] = header;
        if magic == 0 {
            return Err(Error::input(
                "it starts with zeros instead of \"AEGISSHM\"; create the lease table's memory first",
            ));
        }
        if magic != MAGIC {
            let found = magic.to_ne_bytes().escape_ascii().to_string();
            return Err(Error::input(format!(
                "it starts with \"{found}\" instead of \"AEGISSHM\", so it is no lease table's memory; name another"
            )));
        }
        if version != VERSION {
            return Err(Error::new(
                ErrorKind::Reload,
                format!("its layout is version {version}, and this library reads {VERSION}; create it anew"),
            ));
        }
        if (not_words, not_tags) != (!words, !tags) {
            return Err(Error::new(
                ErrorKind::Reload,
                format!(
                    "its header is damaged: {words} words with complement {not_words:#x}, {tags} tags with \
                     complement {not_tags:#x}; create it anew"
                ),
            ));
        }
        let too_large = || {
            let message = format!("its header says {words} words and {tags} tags, but it has {len} bytes");
            Error::new(ErrorKind::Reload, format!("{message}; create it anew"))
        };
        let size = Size {
            words: usize::try_from(words).map_err(|_| too_large())?,
            tags: usize::try_from(tags).map_err(|_| too_large())?,
        };
        let layout = Self::checked(size).filter(|layout| layout.len <= len).ok_or_else(too_large)?;
        Namespaces { process, time }.check(here)?;
        Ok(layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { words: 9, tags: 5 };
    const HERE: Namespaces = Namespaces { process: 11, time: 12 };

    #[test]
    fn words_come_first_and_tags_start_a_cache_line() {
        let expected = Layout { size: SIZE, words_at: 64, tags_at: 192, len: 202 };
        assert_eq!(Layout::new(SIZE).unwrap(), expected);
        let empty = Layout::new(Size { words: 0, tags: 0 }).unwrap();
        assert_eq!((empty.words_at, empty.tags_at, empty.len), (64, 64, 64));
        for words in 0..100 {
            for tags in 0..100 {
                let layout = Layout::new(Size { words, tags }).unwrap();
                assert!(layout.words_at + 8 * words <= layout.tags_at && layout.tags_at % 64 == 0);
                assert_eq!(layout.len, layout.tags_at + 2 * tags);
            }
        }
    }

    #[test]
    fn sizes_without_room_are_named() {
        for (words, tags) in [
            (usize::MAX, 0),
            (0, usize::MAX),
            (usize::MAX / 8, 0),
            (isize::MAX as usize / 8, 1),
            (0, isize::MAX as usize / 2),
        ] {
            let error = Layout::new(Size { words, tags }).unwrap_err().to_string();
            assert!(error.contains(&format!("{words} words and {tags} tags")), "{error}");
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let layout = Layout::new(SIZE).unwrap();
        assert_eq!(Layout::read(layout.header(HERE), layout.len, HERE).unwrap(), layout);
        assert_eq!(Layout::read(layout.header(HERE), layout.len + 999, HERE).unwrap(), layout);
    }

    #[test]
    fn a_hostile_header_is_refused_and_named() {
        let layout = Layout::new(SIZE).unwrap();
        let refused = |change: &dyn Fn(&mut [u64; HEADER_WORDS]), len, expected: &str| {
            let mut header = layout.header(HERE);
            change(&mut header);
            let error = Layout::read(header, len, HERE).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let len = layout.len;
        refused(&|h| h[0] = 0, len, "starts with zeros");
        refused(&|h| h[0] = u64::from_ne_bytes(*b"\x7fELF\"\0 z"), len, r#"starts with "\x7fELF\"\x00 z""#);
        refused(&|h| h[1] = 2, len, "version 2");
        refused(&|h| h[1] = VERSION.swap_bytes(), len, "version 72057594037927936");
        refused(&|h| h[2] = 8, len, "8 words with complement 0xfffffffffffffff6");
        refused(&|h| h[5] = 0, len, "5 tags with complement 0x0");
        refused(&|_| {}, len - 1, "9 words and 5 tags, but it has 201 bytes");
        refused(&|_| {}, 0, "but it has 0 bytes");
        for huge in [u64::MAX, u64::MAX / 8, 1 << 61, 1 << 60, i64::MAX as u64 / 2] {
            let words = |h: &mut [u64; HEADER_WORDS]| (h[2], h[4]) = (huge, !huge);
            refused(&words, usize::MAX, &format!("{huge} words and 5 tags"));
            let tags = |h: &mut [u64; HEADER_WORDS]| (h[3], h[5]) = (huge, !huge);
            refused(&tags, 1 << 40, &format!("9 words and {huge} tags"));
        }
        refused(&|h| h[6] = 13, len, "process namespace 13, and this process is in 11");
        refused(&|h| h[7] = 13, len, "time namespace 13, and this process is in 12");
    }
}
