//! The ports of one granule towards one origin: two bits of state and a tag for each.
//!
//! A state word holds 32 ports: bit `i` and bit `i + 32` are port `i`.
//!
//! ```text
//! 00 free     01, 10 resting (one of two generations)     11 taken: live, held or parked, see the tag
//! ```
//!
//! Taking a port is one `fetch_or` of both bits: it changes nothing if the port was taken already, and its answer
//! says whose the port is. Whoever took a port owns its tag until it gives the port back.

use core::time::Duration;

use crate::net::Protocol;
use crate::sync::{AtomicU16, AtomicU64, Ordering::SeqCst};
use crate::time::Time;

use super::intent::Intent;
use super::tag::{Class, Deadline, QUANTUM_MS, Tag};

mod counts;

pub(super) use counts::Counts;

/// Ports in a state word.
pub(super) const PORTS_PER_WORD: u32 = 32;

/// Words before the state words.
pub(super) const HEADER: usize = 10;

/// Whose the page is: see [`identity`].
const IDENTITY: usize = 0;
/// `version << 2 | state`: another number for every time that the page was in use.
const LIFE: usize = 1;
/// No deadline in the page is earlier (milliseconds).
const DUE: usize = 2;
/// Odd: somebody is making sure that the page is full. Even: full until this half millisecond. 0: not known to be.
pub(super) const FULL: usize = 3;
/// Bit 0: the state (minus one) that ports released now get. It flips when the older generation is used up.
const YOUNG: usize = 4;
/// `parked ports << 32 | protocol << 22 | quarantine profile << 16 | ports`.
const SHAPE: usize = 5;
/// `sampled at that many times 64 grants << 32 | most ports live or held at one time since it was last reported`, for all
/// pages of the same egress IP and origin, as sampled.
const PEAK: usize = 6;
/// What was granted and refused, a word for each [`Event`]: see [`Counted`].
const COUNTED: usize = 7;

// States of a page's life. A page is zeroed before its first life.
const FREE: u64 = 0;
const OPEN: u64 = 1;
const CLOSING: u64 = 2;
/// Not published yet, or published by somebody who was stopped since.
const PRIVATE: u64 = 3;
const LIFE_STATE: u64 = 3;

const PARKED_ONE: u64 = 1 << 32;
const PROTOCOL: u64 = 1 << 22;
const PROFILE_SHIFT: u32 = 16;
const PROFILE: u64 = 0x3f << PROFILE_SHIFT;
const PORTS: u64 = 0xffff;

/// Whose a page is: origin record (26 bits), the record's incarnation (20 bits), granule (18 bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity(pub(super) u64);

impl Identity {
    pub(super) const fn new(record: u32, incarnation: u32, granule: u32) -> Self {
        Self((record as u64) << 38 | (incarnation as u64 & 0xf_ffff) << 18 | granule as u64)
    }

    pub(super) const fn record(self) -> u32 {
        (self.0 >> 38) as u32
    }

    pub(super) const fn granule(self) -> u32 {
        self.0 as u32 & 0x3_ffff
    }
}

/// How a page is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) ports: u32,
    pub(super) protocol: Protocol,
    pub(super) profile: u8,
}

impl Shape {
    fn word(self) -> u64 {
        let Self { ports, protocol, profile } = self;
        u64::from(ports) | u64::from(profile) << PROFILE_SHIFT | (PROTOCOL * (protocol as u64))
    }
}

const LOW: u64 = 0xffff_ffff;

/// A port was taken that was free or resting: what it was, as its two bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    before: u64,
}

/// Which ports a choice is among.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Preference {
    Free,
    /// Resting, older generation.
    Old,
    /// Resting, younger generation.
    Young,
}

impl Preference {
    /// The ports of the class in a state word.
    #[inline]
    fn ports(self, word: u64, young: u64) -> u32 {
        let (low, high) = halves(word);
        match (self, young) {
            (Self::Free, _) => !(low | high),
            (Self::Young, 1) | (Self::Old, 2) => low & !high,
            _ => high & !low,
        }
    }
}

/// How many ports a choice has in each class.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Candidates {
    pub(super) free: u32,
    pub(super) old: u32,
    pub(super) young: u32,
    /// How often the generations had changed.
    pub(super) flips: u64,
}

impl Candidates {
    pub(super) fn of(&self, class: Preference) -> u32 {
        match class {
            Preference::Free => self.free,
            Preference::Old => self.old,
            Preference::Young => self.young,
        }
    }
}

/// A view of one page in the table's memory.
#[derive(Clone, Copy)]
pub(super) struct Page<'a> {
    header: &'a [AtomicU64; HEADER],
    states: &'a [AtomicU64],
    tags: &'a [AtomicU16],
}

impl<'a> Page<'a> {
    /// State words of a page for that many ports.
    pub(super) const fn words_for(ports: u32) -> usize {
        ports.div_ceil(PORTS_PER_WORD) as usize
    }

    /// A view of `HEADER + words_for(ports)` words and `ports` tags.
    #[inline]
    pub(super) fn new(words: &'a [AtomicU64], tags: &'a [AtomicU16]) -> Self {
        let (header, states) = words.split_first_chunk().expect("a page begins with its header");
        Self { header, states, tags }
    }

    /// Begins a life of a page that nobody else knows, with every port free. It grants nothing until
    /// [`Page::publish`].
    ///
    /// Somebody who was stopped may still claim a port for an owner of long ago, find that the page is not his any
    /// more, and give the port back. So the state words are left as they are: a page that ended has nothing taken in
    /// them but what somebody is about to put back.
    pub(super) fn open(self, identity: Identity, shape: Shape) {
        for word in [FULL, PEAK] {
            self.header[word].store(0, SeqCst);
        }
        self.header[SHAPE].store(shape.word(), SeqCst);
        self.header[DUE].store(u64::MAX, SeqCst);
        self.header[IDENTITY].store(identity.0, SeqCst);
        self.header[LIFE].store(next_life(self.life(), PRIVATE), SeqCst);
    }

    /// Lets a page be used that was found where everybody finds it. Anybody may, any number of times. `is_linked` is asked
    /// after a look at the page's life: is it still found there? Else the page may be private again, for somebody who
    /// has not shown it to anybody.
    pub(super) fn publish(self, is_linked: impl FnOnce() -> bool) -> u64 {
        let life = self.life();
        if life & LIFE_STATE == PRIVATE && is_linked() {
            self.publish_life(life);
        }
        self.life()
    }

    /// The same, by who has made it: `life` is from before anybody could find it.
    pub(super) fn publish_life(self, life: u64) {
        let _ = self.header[LIFE].compare_exchange(life, next_life(life, OPEN), SeqCst, SeqCst);
    }

    /// The life that [`Page::open`] would begin now.
    pub(super) fn next_private_life(self) -> u64 {
        next_life(self.life(), PRIVATE)
    }

    /// Frees the ports of a page that was never published: those with a tag, and those that rest. One that is taken
    /// without a tag is about to be put back by somebody who knew the page earlier.
    pub(super) fn clear(self) {
        self.header[SHAPE].fetch_and(u64::from(u32::MAX), SeqCst);
        for offset in 0..self.ports() {
            let (word, bit) = self.word(offset);
            let both = (1 | 1 << 32) << bit;
            let seen = word.load(SeqCst) & both;
            if seen == 0 {
                continue;
            }
            if seen != both {
                // Unless somebody takes it at this moment, who will put it back as it was.
                let _ = word.fetch_update(SeqCst, SeqCst, |w| (w & both == seen).then_some(w & !both));
            } else if self.tag(offset).class() != Class::NotTaken {
                self.set_tag(offset, Tag::NONE);
                word.fetch_and(!both, SeqCst);
            }
        }
    }

    /// Ends a life in which the page was not published, or makes another one of a life that has ended; false if the page
    /// is in another life by now. Whoever succeeds, and no one else, may give the page back once nothing leads to it.
    pub(super) fn abandon(self, life: u64) -> bool {
        self.header[LIFE].compare_exchange(life, next_life(life, FREE), SeqCst, SeqCst).is_ok()
    }

    /// The number of the page's life, and its state.
    #[inline]
    pub(super) fn life(self) -> u64 {
        self.header[LIFE].load(SeqCst)
    }

    /// The same, from the page's words.
    #[inline]
    pub(super) fn life_of(header: &[AtomicU64]) -> u64 {
        header[LIFE].load(SeqCst)
    }

    /// Is that a life in which ports are granted?
    pub(super) const fn is_open(life: u64) -> bool {
        life & LIFE_STATE == OPEN
    }

    /// Has that life ended?
    pub(super) const fn is_free(life: u64) -> bool {
        life & LIFE_STATE == FREE
    }

    /// The life under which a page in use is remembered. One that is about to end is remembered under a life that it never
    /// has, so that whoever claims a port in it settles first whose the page is.
    pub(super) const fn remembered(life: u64) -> u64 {
        if life & LIFE_STATE == CLOSING { life ^ CLOSING ^ OPEN } else { life }
    }

    /// Is it used, by somebody who found it?
    pub(super) const fn is_used(life: u64) -> bool {
        matches!(life & LIFE_STATE, OPEN | CLOSING)
    }

    /// Ends the page's life if no port is taken, and none rests or rest may be forgotten. Nobody else is in the way:
    /// whoever claims a port looks at the life afterwards, and revives a page that is closing. Answers the life that the
    /// page has then, also if it had ended before.
    pub(super) fn ended(self, life: u64, forget_rest: bool) -> Option<u64> {
        let closing = match life & LIFE_STATE {
            FREE => return Some(life),
            // By somebody else who is at it, or was killed: whoever is faster ends it.
            CLOSING => life,
            OPEN => {
                let closing = next_life(life, CLOSING);
                self.header[LIFE].compare_exchange(life, closing, SeqCst, SeqCst).ok()?;
                closing
            }
            _ => return None,
        };
        let empty = self.state_words().all(|(_, word, past)| {
            let seen = word.load(SeqCst);
            let (low, high) = halves(seen & !past);
            match (low & high, low | high) {
                (0, 0) => true,
                (0, _) if forget_rest => word.compare_exchange(seen, seen & past, SeqCst, SeqCst).is_ok(),
                _ => false,
            }
        });
        let next = next_life(closing, if empty { FREE } else { OPEN });
        let done = self.header[LIFE].compare_exchange(closing, next, SeqCst, SeqCst).is_ok();
        (done && empty).then_some(next)
    }

    /// The first step of [`Page::ended`], by somebody who is stopped then.
    #[cfg(test)]
    pub(super) fn begin_to_end(self) {
        self.header[LIFE].store(next_life(self.life(), CLOSING), SeqCst);
    }

    /// After a claim in a page whose life is not the one that was expected: is the page still `identity`'s? Then this is
    /// its life.
    #[cold]
    pub(super) fn settle(self, identity: Identity) -> Option<u64> {
        loop {
            let life = self.life();
            if self.identity() != identity || matches!(life & LIFE_STATE, FREE | PRIVATE) {
                return None;
            }
            if Self::is_open(life) {
                // With the port taken the page cannot end, so this stays true.
                return Some(life);
            }
            let _ = self.header[LIFE].compare_exchange(life, next_life(life, OPEN), SeqCst, SeqCst);
        }
    }

    /// Goes on with a page that had ended, but was not given away.
    pub(super) fn reopen(self, life: u64) {
        let _ = self.header[LIFE].compare_exchange(life, next_life(life, OPEN), SeqCst, SeqCst);
    }

    /// Number of ports.
    #[inline]
    pub(super) fn ports(self) -> u32 {
        // Other processes may have written anything.
        ((self.header[SHAPE].load(SeqCst) & PORTS) as u32).min(self.tags.len() as u32)
    }

    /// The state words of the page's ports, and the bits of the last one that are past the last port. What is there is no
    /// one's: a page for few ports may have been one for many.
    #[inline]
    fn own_words(self) -> (&'a [AtomicU64], u64) {
        let ports = self.ports();
        (&self.states[..Self::words_for(ports)], past_end(ports))
    }

    /// The same one by one: the first port of each, the word, and its bits past the last port.
    #[inline]
    fn state_words(self) -> impl Iterator<Item = (u32, &'a AtomicU64, u64)> {
        let (words, past_last) = self.own_words();
        words.iter().enumerate().map(move |(at, word)| {
            let past = if at + 1 == words.len() { past_last } else { 0 };
            (at as u32 * PORTS_PER_WORD, word, past)
        })
    }

    #[inline]
    pub(super) fn identity(self) -> Identity {
        Identity(self.header[IDENTITY].load(SeqCst))
    }

    #[inline]
    pub(super) fn protocol(self) -> Protocol {
        if self.header[SHAPE].load(SeqCst) & PROTOCOL == 0 { Protocol::Tcp } else { Protocol::Udp }
    }

    /// Which quarantine its ports have.
    #[inline]
    pub(super) fn profile(self) -> usize {
        (self.header[SHAPE].load(SeqCst) >> PROFILE_SHIFT) as usize & 0x3f
    }

    pub(super) fn set_profile(self, profile: u8) {
        let profile = u64::from(profile) << PROFILE_SHIFT;
        let _ = self.header[SHAPE].fetch_update(SeqCst, SeqCst, |w| Some(w & !PROFILE | profile));
    }

    #[inline]
    fn word(self, offset: u32) -> (&'a AtomicU64, u32) {
        (&self.states[(offset / PORTS_PER_WORD) as usize], offset % PORTS_PER_WORD)
    }

    #[inline]
    pub(super) fn tag(self, offset: u32) -> Tag {
        Tag(self.tags[offset as usize].load(SeqCst))
    }

    /// Is this the tag of the port? False for a port past the end.
    #[inline]
    pub(super) fn has_tag(self, offset: u32, tag: Tag) -> bool {
        self.tags.get(offset as usize).is_some_and(|found| found.load(SeqCst) == tag.0)
    }

    /// Sets the tag of a port that the caller has just taken.
    #[inline]
    pub(super) fn set_tag(self, offset: u32, tag: Tag) {
        // Release: a thread that reads the tag sees everything that led to it. Nothing needs a full fence here: the
        // port is ours since the `fetch_or` that took it.
        self.tags[offset as usize].store(tag.0, crate::sync::Ordering::Release);
    }

    /// Replaces the tag of a taken port; false if it was not `from` any more. Of all who try, one succeeds.
    #[inline]
    pub(super) fn swap_tag(self, offset: u32, from: Tag, to: Tag) -> bool {
        self.tags[offset as usize].compare_exchange(from.0, to.0, SeqCst, SeqCst).is_ok()
    }

    /// Is the port live, held or parked, or about to be?
    #[inline]
    pub(super) fn is_taken(self, offset: u32) -> bool {
        let (word, bit) = self.word(offset);
        let state = word.load(SeqCst) >> bit;
        state & 1 != 0 && state >> 32 & 1 != 0
    }

    /// What the port is now, if it is not taken: a cheap look before [`Page::take`].
    #[inline]
    pub(super) fn peek(self, offset: u32) -> Option<Preference> {
        let (word, bit) = self.word(offset);
        let state = word.load(SeqCst) >> bit;
        match (state & 1) | (state >> 31 & 2) {
            0 => Some(Preference::Free),
            3 => None,
            resting if resting == self.young() => Some(Preference::Young),
            _ => Some(Preference::Old),
        }
    }

    /// Takes the port; `None` if it is taken already.
    #[inline]
    pub(super) fn take(self, offset: u32) -> Option<Taken> {
        let (word, bit) = self.word(offset);
        let both = (1 | 1 << 32) << bit;
        // SeqCst: the caller checks the granule's state next, and a drain that it does not see must see this.
        let before = word.fetch_or(both, SeqCst) & both;
        (before != both).then_some(Taken { before })
    }

    /// Undoes [`Page::take`]: a port that rested does so in the same generation as before, and its tag still says until
    /// when.
    #[cold]
    pub(super) fn put_back(self, offset: u32, taken: Taken) {
        let (word, bit) = self.word(offset);
        word.fetch_and(!(((1 | 1 << 32) << bit) & !taken.before), SeqCst);
        self.not_full();
    }

    /// Gives back a port that the caller owns: free at once.
    #[inline]
    pub(super) fn give_free(self, offset: u32) {
        let (word, bit) = self.word(offset);
        word.fetch_and(!((1 | 1 << 32) << bit), SeqCst);
        self.not_full();
    }

    /// Gives back a port that the caller owns: it rests in the younger generation, until the deadline in its tag.
    #[inline]
    pub(super) fn give_resting(self, offset: u32) {
        let (word, bit) = self.word(offset);
        let clear = if self.young() == 1 { 1 << 32 } else { 1 };
        word.fetch_and(!(clear << bit), SeqCst);
        self.not_full();
    }

    /// A port has a new deadline; true if it is now the earliest one of the page. `now` is the time at this moment: whoever
    /// was stopped since he looked at it must not move the page's base so far back that the deadlines of others are not
    /// understood.
    #[inline]
    pub(super) fn kept_until(self, until: Deadline, now: impl FnOnce() -> Time) -> bool {
        let due = until.time().as_millis();
        let earliest = due < self.due();
        if earliest {
            self.header[DUE].fetch_min(due.max(now().as_millis()), SeqCst);
        }
        self.not_full();
        earliest
    }

    /// No deadline in the page is earlier (milliseconds).
    #[inline]
    pub(super) fn due(self) -> u64 {
        self.header[DUE].load(SeqCst)
    }

    /// The state (1 or 2) of the younger generation.
    #[inline]
    fn young(self) -> u64 {
        1 + (self.header[YOUNG].load(SeqCst) & 1)
    }

    /// How often the generations have changed.
    #[inline]
    pub(super) fn flips(self) -> u64 {
        self.header[YOUNG].load(SeqCst)
    }

    /// The younger generation becomes the older one, unless that has happened since `seen` was counted.
    pub(super) fn flip(self, seen: u64) {
        // If it fails somebody else has flipped it, which is as good.
        let _ = self.header[YOUNG].compare_exchange(seen, seen.wrapping_add(1), SeqCst, SeqCst);
    }

    /// Ports by class; the resting ones only if none is free, since nobody asks for them otherwise. A port that
    /// changes meanwhile may be counted in any class, but one that can be granted all the time is never missed.
    pub(super) fn candidates(self) -> Candidates {
        let (words, past) = self.own_words();
        let Some((last, whole)) = words.split_last() else { return Candidates::default() };
        loop {
            let flips = self.header[YOUNG].load(SeqCst);
            let (mut free, mut not_taken) = (0, 0);
            // Two words in one population count.
            let mut add = |first: u64, second: u64| {
                let low = first & LOW | second << 32;
                let high = first >> 32 | second & !LOW;
                free += (!(low | high)).count_ones();
                not_taken += (!(low & high)).count_ones();
            };
            let mut pairs = whole.chunks_exact(2);
            for pair in &mut pairs {
                add(pair[0].load(SeqCst), pair[1].load(SeqCst));
            }
            // A missing one is all taken.
            let odd = pairs.remainder().first().map_or(u64::MAX, |word| word.load(SeqCst));
            add(odd, last.load(SeqCst) | past);
            if free != 0 || not_taken == 0 {
                return Candidates { free, flips, ..Candidates::default() };
            }
            let (mut ones, mut twos) = (0, 0);
            for (_, word, past) in self.state_words() {
                let (low, high) = halves(word.load(SeqCst) | past);
                ones += (low & !high).count_ones();
                twos += (high & !low).count_ones();
            }
            if ones + twos != 0 {
                let (young, old) = if flips & 1 == 0 { (ones, twos) } else { (twos, ones) };
                return Candidates { free, old, young, flips };
            }
            // What was resting has become free, or was taken, between the two looks.
        }
    }

    /// Visits the offsets of all ports of a class.
    pub(super) fn each(self, class: Preference, mut visit: impl FnMut(u32)) {
        let young = self.young();
        for (first, word, past) in self.state_words() {
            for bit in ones(class.ports(word.load(SeqCst) | past, young)) {
                visit(first + bit);
            }
        }
    }

    /// The offset of the `rank`th port of a class, if there still are that many.
    pub(super) fn select(self, class: Preference, mut rank: u32) -> Option<u32> {
        let young = self.young();
        for (first, word, past) in self.state_words() {
            let mut ports = class.ports(word.load(SeqCst) | past, young);
            let count = ports.count_ones();
            if rank < count {
                for _ in 0..rank {
                    ports &= ports - 1;
                }
                return Some(first + ports.trailing_zeros());
            }
            rank -= count;
        }
        None
    }

    #[cfg(all(loom, test))]
    pub(super) fn is_full(self, now: Time) -> bool {
        Self::says_full(&self.header[FULL], now)
    }

    /// Nothing can be granted here at `now`, says the page's word [`FULL`].
    #[inline]
    pub(super) fn says_full(word: &AtomicU64, now: Time) -> bool {
        let full = word.load(SeqCst);
        full != 0 && full & 1 == 0 && now.as_millis() < full >> 1
    }

    #[inline]
    fn not_full(self) {
        // Pairs with `mark_full`: this load comes after the port was given back. Either it sees the mark and takes
        // it away, or the marker's second look sees the port.
        if self.header[FULL].load(SeqCst) != 0 {
            self.header[FULL].store(0, SeqCst);
        }
    }

    /// First half of marking the page full: says who is about to look a second time. `token` is odd and unique.
    pub(super) fn doubt_full(self, token: u64) {
        self.header[FULL].store(token, SeqCst);
    }

    /// Second half, after a second look found nothing: the mark stands unless something was given back meanwhile.
    ///
    /// A process that dies between the halves leaves a mark that refuses nobody.
    pub(super) fn mark_full(self, token: u64) {
        let until = self.header[DUE].load(SeqCst).min(u64::MAX >> 1) << 1;
        let _ = self.header[FULL].compare_exchange(token, until, SeqCst, SeqCst);
    }

    /// Takes back a doubt: the second look found something.
    pub(super) fn clear_doubt(self) {
        self.header[FULL].store(0, SeqCst);
    }

    /// No deadline in the page is earlier.
    #[inline]
    pub(super) fn base(self) -> Deadline {
        Deadline::after(Time::from_millis(self.due()))
    }

    #[inline]
    pub(super) fn is_due(self, now: Time) -> bool {
        self.due() <= now.as_millis()
    }

    /// Ends every hold, park and rest whose time has passed. Returns true if a port became free.
    #[cold]
    pub(super) fn sweep(self, now: Time, intent: Intent<'_>) -> bool {
        let due = self.due();
        let base = Deadline::after(Time::from_millis(due));
        // A release that we overlook here has read the old time and left it: so look again soon, whatever we find.
        let soon = Deadline::after(now + Duration::from_millis(QUANTUM_MS));
        let mut next = soon;
        let mut freed = false;
        for (first, word, past) in self.state_words() {
            let seen = word.load(SeqCst);
            let (low, high) = halves(seen & !past);
            let mut rested = 0u64;
            for bit in ones(low | high) {
                let offset = first + bit;
                let tag = self.tag(offset);
                if self.due() != due {
                    // Another sweep has moved it: a tag from after that is not told from one of long ago.
                    intent.is_done();
                    return freed;
                }
                let deadline = tag.deadline(base);
                let taken = low & high & 1 << bit != 0;
                match (taken, tag.class()) {
                    (true, Class::Live | Class::NotTaken)
                    | (false, Class::Live | Class::Held | Class::Parked) => {}
                    _ if !deadline.passed(now) => next = next.min(deadline),
                    (true, class) => {
                        intent.names(offset);
                        // Whoever changes the tag owns the port; nobody touches a taken port without one.
                        if self.swap_tag(offset, tag, Tag::NONE) {
                            if class == Class::Parked {
                                self.unpark();
                            }
                            self.give_free(offset);
                            freed = true;
                        }
                    }
                    (false, _) => rested |= (1 | 1 << 32) << bit,
                }
            }
            // One exchange for all of the word, so that a port taken meanwhile stays taken; if it fails the next sweep
            // sees them again.
            if rested != 0 {
                let seen = word.load(SeqCst) & !rested | seen & rested;
                if word.compare_exchange(seen, seen & !rested, SeqCst, SeqCst).is_ok() {
                    self.not_full();
                    freed = true;
                }
            }
        }
        intent.is_done();
        // Only now, so that whoever dies in here leaves the page due. If it fails, a release or another sweep has set
        // a time that is as good.
        let _ = self.header[DUE].compare_exchange(due, next.time().as_millis(), SeqCst, SeqCst);
        freed
    }

    /// Whose the page is, from its words.
    #[inline]
    pub(super) fn identity_of(header: &[AtomicU64]) -> Identity {
        Identity(header[IDENTITY].load(SeqCst))
    }
}

const fn next_life(life: u64, state: u64) -> u64 {
    ((life >> 2).wrapping_add(1)) << 2 | state
}

/// The bits of the last state word of ports past the end.
const fn past_end(ports: u32) -> u64 {
    let inside = match ports % PORTS_PER_WORD {
        0 => PORTS_PER_WORD,
        some => some,
    };
    let past = LOW & (LOW << inside);
    past | past << 32
}

/// The two state planes of a word.
#[inline]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// The positions of the set bits.
fn ones(mut bits: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        (bit < 32).then_some(bit)
    })
}
