//! Where an origin's tuples are, in one word: nowhere, one of them in the word itself, or in pages.
//!
//! ```text
//! 63..62
//!   00   closed: the record is nobody's, or about to be
//!   01   empty       31..0 the record's incarnation
//!   10   one tuple   61..44 granule   43..29 offset   28..26 class   25..18 incarnation
//!                    17..0 tag if live, else deadline
//!   11   pages       61..44 others    43..26 version  25..0 the first page
//! ```
//!
//! An origin with one tuple has no page: 40 bytes instead of 4,700. The second one makes a page, filled in private and
//! published by one exchange of this word. Pages of other granules are found through the index of pages; they are
//! counted here, so that a record goes only when none is left. The *version* changes with that count, so that nobody
//! who was stopped for long takes one moment without other pages for another.

use crate::time::Time;

use super::tag::{Deadline, Tag};

/// Granules that a table can name.
pub(super) const MAX_GRANULES: u32 = (1 << GRANULE_BITS) - 512;

const GRANULE_BITS: u32 = 18;
const OFFSET_BITS: u32 = 15;
const TIME_BITS: u32 = 18;
const INCARNATION_SHIFT: u32 = 18;
const PAGE_BITS: u32 = 26;
const VERSION_BITS: u32 = 18;
const OTHERS: u32 = (1 << 18) - 1;

/// One tuple in a home word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Single {
    pub(super) granule: u32,
    pub(super) offset: u32,
    /// Of the record, its low bits: an equal tuple of another origin is another word.
    pub(super) incarnation: u8,
    pub(super) what: What,
}

/// What a tuple is that is not free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// Live, with this tag.
    Live(Tag),
    Held(Deadline),
    Parked(Deadline),
    Resting(Deadline),
}

impl What {
    /// When it ends by itself.
    pub(super) fn deadline(self) -> Option<Deadline> {
        match self {
            Self::Live(_) => None,
            Self::Held(until) | Self::Parked(until) | Self::Resting(until) => Some(until),
        }
    }

    /// The tag that says this in a page.
    pub(super) fn tag(self) -> Tag {
        match self {
            Self::Live(tag) => tag,
            Self::Held(until) => Tag::held(until),
            Self::Parked(until) => Tag::parked(until),
            Self::Resting(until) => Tag::resting(until),
        }
    }

    /// Has it ended by itself?
    pub(super) fn is_over(self, now: Time) -> bool {
        self.deadline().is_some_and(|until| until.passed(now))
    }
}

/// What a home word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Home {
    Closed,
    /// Nothing is in use. Whoever fills it says for which incarnation of the record, so that nobody who was stopped for
    /// long fills one that has become another origin's.
    Empty {
        incarnation: u32,
    },
    Single(Single),
    Pages {
        first: u32,
        others: u32,
        version: u32,
    },
}

impl Home {
    pub(super) const CLOSED: u64 = 0;

    /// What the word says; deadlines are those nearest to `now`.
    #[inline]
    pub(super) fn of(word: u64, now: Time) -> Self {
        let bits = |at: u32, len: u32| (word >> at) as u32 & ((1 << len) - 1);
        match word >> 62 {
            0 => Self::Closed,
            1 => Self::Empty { incarnation: word as u32 },
            2 => {
                let until = || Deadline::near(word & ((1 << TIME_BITS) - 1), TIME_BITS, now);
                let what = match bits(26, 3) {
                    0 => What::Resting(until()),
                    1 => What::Held(until()),
                    2 => What::Parked(until()),
                    _ => What::Live(Tag(word as u16)),
                };
                Self::Single(Single {
                    granule: bits(44, GRANULE_BITS),
                    offset: bits(29, OFFSET_BITS),
                    incarnation: bits(INCARNATION_SHIFT, 8) as u8,
                    what,
                })
            }
            _ => Self::Pages {
                first: bits(0, PAGE_BITS),
                others: bits(44, 18),
                version: bits(26, VERSION_BITS),
            },
        }
    }

    pub(super) fn word(self) -> u64 {
        match self {
            Self::Closed => Self::CLOSED,
            Self::Empty { incarnation } => 1 << 62 | u64::from(incarnation),
            Self::Single(Single { granule, offset, incarnation, what }) => {
                let (class, low) = match what {
                    What::Resting(until) => (0, until.low(TIME_BITS)),
                    What::Held(until) => (1, until.low(TIME_BITS)),
                    What::Parked(until) => (2, until.low(TIME_BITS)),
                    What::Live(tag) => (4, u64::from(tag.0)),
                };
                2 << 62
                    | u64::from(granule) << 44
                    | u64::from(offset) << 29
                    | class << 26
                    | u64::from(incarnation) << INCARNATION_SHIFT
                    | low
            }
            Self::Pages { first, others, version } => {
                let version = version & ((1 << VERSION_BITS) - 1);
                3 << 62 | u64::from(others & OTHERS) << 44 | u64::from(version) << 26 | u64::from(first)
            }
        }
    }

    /// The same pages with another number of others.
    pub(super) fn with_others(first: u32, others: u32, version: u32) -> Self {
        Self::Pages { first, others, version: version.wrapping_add(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tag::OwnerNumber;
    use super::*;

    #[test]
    fn a_home_word_says_again_what_it_was_made_of() {
        let now = Time::from_millis(9_000_000_000);
        let until = Deadline::after(now + core::time::Duration::from_secs(69));
        let tag = Tag::live(OwnerNumber(126), 255);
        let single =
            |what| Home::Single(Single { granule: MAX_GRANULES, offset: 32_767, incarnation: 0xa5, what });
        for home in [
            Home::Closed,
            Home::Empty { incarnation: u32::MAX },
            single(What::Live(tag)),
            single(What::Held(until)),
            single(What::Parked(until)),
            single(What::Resting(until)),
            Home::Pages { first: (1 << 26) - 1, others: OTHERS, version: 5 },
            Home::Pages { first: 0, others: 0, version: (1 << 18) - 1 },
        ] {
            assert_eq!(Home::of(home.word(), now), home, "{home:?}");
        }
    }

    #[test]
    fn a_deadline_is_understood_for_seventeen_hours_after_it_has_passed() {
        let until = Deadline::after(Time::from_millis(69_000));
        let home = Home::Single(Single { granule: 1, offset: 1, incarnation: 1, what: What::Held(until) });
        for hours in [0, 1, 17] {
            let now = Time::from_millis(hours * 3_600_000);
            let Home::Single(Single { what, .. }) = Home::of(home.word(), now) else { panic!() };
            assert_eq!(what, What::Held(until), "after {hours} hours");
        }
    }
}
