//! The 16-bit tag beside every port: who holds it while it is taken, until when it rests or is held afterwards.

use crate::time::Time;

/// Deadlines are kept in steps of this many milliseconds, rounded up.
pub(super) const QUANTUM_MS: u64 = 250;

/// Deadlines are stored modulo this many quanta (2,048 s).
const WINDOW: u64 = 1 << DEADLINE_BITS;
const DEADLINE_BITS: u32 = 13;
const DEADLINE_MASK: u16 = (1 << DEADLINE_BITS) - 1;

/// A deadline may lie this far before the base it is read against (a releaser that was stopped in between).
const SLACK: u64 = 1_000;

/// The longest hold or rest in milliseconds: window less slack, and a little less for rounding.
pub(super) const MAX_QUARANTINE_MS: u64 = (WINDOW - SLACK - 192) * QUANTUM_MS;

/// One port's tag.
///
/// ```text
/// 1 ooooooo gggggggg   live: owner number, generation
/// 010 ddddddddddddd    held until d (the tuple must not be granted)
/// 011 ddddddddddddd    parked until d (a stranger on the host has it)
/// 000 ddddddddddddd    not taken; resting until d if the state says so
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag(pub(super) u16);

/// What a tag says, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Live,
    Held,
    Parked,
    NotTaken,
}

impl Tag {
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn live(owner: OwnerNumber, generation: u8) -> Self {
        Self(0x8000 | (owner.0 as u16) << 8 | generation as u16)
    }

    /// Whose the tag of a live port is.
    pub(super) const fn owner(self) -> OwnerNumber {
        OwnerNumber((self.0 >> 8) as u8 & 0x7f)
    }

    pub(super) const fn held(deadline: Deadline) -> Self {
        Self(0x4000 | deadline.low_bits())
    }

    pub(super) const fn parked(deadline: Deadline) -> Self {
        Self(0x6000 | deadline.low_bits())
    }

    pub(super) const fn resting(deadline: Deadline) -> Self {
        Self(deadline.low_bits())
    }

    pub(super) const fn class(self) -> Class {
        match self.0 >> DEADLINE_BITS {
            0b010 => Class::Held,
            0b011 => Class::Parked,
            0b100.. => Class::Live,
            _ => Class::NotTaken,
        }
    }

    /// The deadline of a tag that has one, read against the earliest deadline that the page can hold.
    pub(super) const fn deadline(self, base: Deadline) -> Deadline {
        let first = base.0.saturating_sub(SLACK);
        Deadline(first + ((self.0 & DEADLINE_MASK) as u64).wrapping_sub(first) % WINDOW)
    }
}

/// An owner's number in the tags: 0 to 126. An owner is a process: what dies, dies together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OwnerNumber(pub(super) u8);

/// The number of different [`OwnerNumber`]s.
/// Few where a model checker makes every atomic anew for every order of steps.
pub(super) const MAX_OWNERS: u8 = if cfg!(any(loom, shuttle)) { 3 } else { 127 };

/// A moment in whole quanta, rounded up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Deadline(u64);

impl Deadline {
    pub(super) const fn after(time: Time) -> Self {
        Self(time.as_millis().div_ceil(QUANTUM_MS))
    }

    /// Has `now` reached it?
    pub(super) const fn passed(self, now: Time) -> bool {
        self.time().as_millis() <= now.as_millis()
    }

    pub(super) const fn time(self) -> Time {
        Time::from_millis(self.0.saturating_mul(QUANTUM_MS))
    }

    const fn low_bits(self) -> u16 {
        (self.0 % WINDOW) as u16
    }

    /// So many steps later.
    pub(super) const fn later(self, steps: u64) -> Self {
        Self(self.0 + steps)
    }

    /// Is it at most `before` steps before `other`, and at most `after` steps after it?
    pub(super) const fn is_near(self, other: Self, before: u64, after: u64) -> bool {
        self.0 + before >= other.0 && self.0 <= other.0 + after
    }

    /// The low `bits` bits.
    pub(super) const fn low(self, bits: u32) -> u64 {
        self.0 & ((1 << bits) - 1)
    }

    /// The deadline with these low bits that is at most the longest quarantine ahead of `now`.
    pub(super) const fn near(low: u64, bits: u32, now: Time) -> Self {
        let window = 1 << bits;
        let first = Self::after(now).0.saturating_sub(window - WINDOW);
        Self(first + low.wrapping_sub(first) % window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_survives_the_tag_at_any_distance_up_to_the_longest_quarantine() {
        for base_ms in [0, 1, 249, 250, 2_047_999, 2_048_000, 86_400_000 * 365] {
            let base = Deadline::after(Time::from_millis(base_ms));
            for ahead in [0, 1, 250, 69_000, MAX_QUARANTINE_MS - 1, MAX_QUARANTINE_MS] {
                let deadline = Deadline::after(Time::from_millis(base_ms + ahead));
                for tag in [Tag::held(deadline), Tag::parked(deadline), Tag::resting(deadline)] {
                    assert_eq!(tag.deadline(base), deadline, "base {base_ms} ahead {ahead}");
                }
                assert!(deadline.time().as_millis() >= base_ms + ahead, "never early");
            }
        }
    }

    #[test]
    fn classes_do_not_mix() {
        let d = Deadline(WINDOW - 1);
        assert_eq!(Tag::live(OwnerNumber(MAX_OWNERS - 1), 255).class(), Class::Live);
        assert_eq!(Tag::live(OwnerNumber(0), 0).class(), Class::Live);
        assert_eq!(Tag::held(d).class(), Class::Held);
        assert_eq!(Tag::parked(d).class(), Class::Parked);
        assert_eq!(Tag::resting(d).class(), Class::NotTaken);
        assert_eq!(Tag::NONE.class(), Class::NotTaken);
    }
}
