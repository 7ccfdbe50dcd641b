//! Which record is an origin's? Found through a keyed hash, made when first needed, and used again for another origin
//! when nothing is left in it.

use core::hash::Hasher;
use core::net::SocketAddr;

use siphasher::sip::SipHasher13;

use crate::net::{Origin, Protocol};
use crate::sync::{AtomicU64, Ordering::SeqCst};
use crate::time::Time;

use super::home::{Home, Single, What};
use super::index::{Found, Inserted};
use super::map::{
    HASH_KEY, ORIGIN_HAND, ORIGIN_HOME, ORIGIN_PORT, ORIGIN_SCARCE, ORIGINS_FULL, ip_words, words_ip,
};
use super::slot::Slot;
use super::table::Table;
use super::tag::QUANTUM_MS;
use super::{AcquireError, Memory};

/// The first records stand for no single origin: ports that strangers have towards every origin, by protocol; and
/// 2-tuples, which are used towards all, by protocol.
pub(super) const FIRST_ORIGIN: u32 = 4;

/// Port and protocol in an origin's third word; above them the quarantine (plus one) and the incarnation.
const KEY: u64 = 0x1_ffff;
const PROFILE_SHIFT: u32 = 24;

/// A record and the incarnation in which it is an origin's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) index: u32,
    pub(super) incarnation: u32,
}

impl Record {
    /// Ports that strangers have towards every origin.
    pub(super) const fn parked(protocol: Protocol) -> Self {
        Self { index: protocol as u32, incarnation: 0 }
    }

    /// Sources that are used towards all origins at once.
    pub(super) const fn any_origin(protocol: Protocol) -> Self {
        Self { index: 2 + protocol as u32, incarnation: 0 }
    }
}

impl<M: Memory> Table<M> {
    /// Makes the records that stand for no single origin.
    pub(super) fn init_records(&self) {
        for protocol in Protocol::ALL {
            for record in [Record::parked(protocol), Record::any_origin(protocol)] {
                let words = self.record_words(record.index);
                words[ORIGIN_PORT].store((protocol as u64) << 16, SeqCst);
                words[ORIGIN_HOME].store(Home::Empty { incarnation: 0 }.word(), SeqCst);
            }
        }
    }

    #[inline]
    pub(super) fn record_words(&self, record: u32) -> &[AtomicU64] {
        self.map.origins.record(self.words(), record)
    }

    /// Where the record's tuples are.
    #[inline]
    pub(super) fn home(&self, record: u32) -> &AtomicU64 {
        &self.record_words(record)[ORIGIN_HOME]
    }

    /// `until << 8 | pool`: no tuple is free towards this origin before that millisecond. 0: not known.
    #[inline]
    pub(super) fn scarce(&self, record: u32) -> &AtomicU64 {
        &self.record_words(record)[ORIGIN_SCARCE]
    }

    /// The record as it is now.
    pub(super) fn record_now(&self, index: u32) -> Record {
        Record { index, incarnation: (self.record_words(index)[ORIGIN_PORT].load(SeqCst) >> 32) as u32 }
    }

    /// Is the record still the same origin's?
    #[inline]
    pub(super) fn is_current(&self, record: Record) -> bool {
        self.record_now(record.index) == record
    }

    pub(super) fn protocol_of(&self, record: u32) -> Protocol {
        if self.record_words(record)[ORIGIN_PORT].load(SeqCst) >> 16 & 1 == 0 {
            Protocol::Tcp
        } else {
            Protocol::Udp
        }
    }

    /// The quarantine that was set for the origin.
    pub(super) fn own_profile(&self, record: u32) -> Option<u8> {
        ((self.record_words(record)[ORIGIN_PORT].load(SeqCst) >> PROFILE_SHIFT) as u8 & 0x7f).checked_sub(1)
    }

    /// False if the record has become another origin's, or is about to.
    pub(super) fn set_own_profile(&self, record: Record, profile: Option<u8>) -> bool {
        let bits = u64::from(profile.map_or(0, |profile| profile + 1)) << PROFILE_SHIFT;
        let word = &self.record_words(record.index)[ORIGIN_PORT];
        let is_its = |w: u64| (w >> 32) as u32 == record.incarnation;
        let set =
            word.fetch_update(SeqCst, SeqCst, |w| is_its(w).then_some(w & !(0x7f << PROFILE_SHIFT) | bits));
        set.is_ok() && self.home(record.index).load(SeqCst) != Home::CLOSED
    }

    fn hash(&self, key: [u64; 3]) -> u64 {
        let words = self.words();
        let mut hasher =
            SipHasher13::new_with_keys(words[HASH_KEY].load(SeqCst), words[HASH_KEY + 1].load(SeqCst));
        for word in key {
            hasher.write_u64(word);
        }
        hasher.finish()
    }

    /// Is that record of this key?
    #[inline]
    fn has_key(&self, record: u32, [high, low, port]: [u64; 3]) -> bool {
        if !(FIRST_ORIGIN..self.map.origins.capacity).contains(&record) {
            return false;
        }
        let words = self.record_words(record);
        words[ORIGIN_PORT].load(SeqCst) & KEY == port
            && words[0].load(SeqCst) == high
            && words[1].load(SeqCst) == low
    }

    fn find_key(&self, hash: u64, key: [u64; 3]) -> Option<Found> {
        self.map.origin_index.find(self.words(), hash, |record| self.has_key(record, key))
    }

    /// The record of an origin in use.
    pub(super) fn find_origin(&self, origin: &Origin) -> Option<Record> {
        let key = origin_key(origin);
        let found = self.find_key(self.hash(key), key)?;
        self.record_of(found, key)
    }

    /// The record that was found, unless it has become another origin's meanwhile.
    #[inline]
    fn record_of(&self, found: Found, key: [u64; 3]) -> Option<Record> {
        // Who uses a record again changes the incarnation first: so key and incarnation belong together if the
        // incarnation was the same before and after.
        let record = self.record_now(found.item());
        (self.has_key(record.index, key) && self.is_current(record)).then_some(record)
    }

    pub(super) fn origin_or_new(
        &self,
        origin: &Origin,
        now: Time,
        slot: Slot<'_>,
    ) -> Result<Record, AcquireError> {
        let key = origin_key(origin);
        let hash = self.hash(key);
        if let Some(record) = self.find_key(hash, key).and_then(|found| self.record_of(found, key)) {
            if self.home(record.index).load(SeqCst) != Home::CLOSED {
                return Ok(record);
            }
        }
        self.new_origin(hash, key, now, slot)
    }

    #[cold]
    fn new_origin(
        &self,
        hash: u64,
        key: [u64; 3],
        now: Time,
        slot: Slot<'_>,
    ) -> Result<Record, AcquireError> {
        let mut fresh = None;
        let found = loop {
            if let Some(found) = self.find_key(hash, key) {
                match self.record_of(found, key) {
                    Some(record) if self.home(record.index).load(SeqCst) != Home::CLOSED => {
                        break Ok(record);
                    }
                    // Somebody is taking it away, or was: finish that.
                    Some(_) => self.bury_record(found),
                    None => {}
                }
                continue;
            }
            // Others may have completed our insertion, used the record, and taken it away since. If not, it gets another
            // incarnation: somebody who was stopped might still complete the insertion of before.
            let record = match fresh.filter(|&fresh| self.retract(fresh)) {
                Some(Record { index, .. }) => *fresh.insert(self.write_record(index, key, slot)),
                None => match self.fresh_record(key, now, slot) {
                    Some(record) => *fresh.insert(record),
                    None => break Err(AcquireError::TooManyOrigins),
                },
            };
            let stamp = u64::from(record.incarnation);
            let inserted = self
                .map
                .origin_index
                .insert(self.words(), hash, record.index, stamp, |other| self.has_key(other, key));
            match inserted {
                Inserted::New => {
                    fresh = None;
                    break Ok(record);
                }
                Inserted::Exists(_) | Inserted::Again => {}
                // The few slots where the key may be are others': their records count as room.
                Inserted::Full if self.evict_near(hash, now, slot) => {}
                Inserted::Full => break Err(AcquireError::TooManyOrigins),
            }
        };
        if let Some(unused) = fresh.filter(|&fresh| self.retract(fresh)) {
            self.map.origins.give(self.words(), unused.index);
        }
        slot.has_record(None);
        found
    }

    /// Closes a record that nobody has used; false if somebody has.
    fn retract(&self, Record { index, incarnation }: Record) -> bool {
        let ours = Home::Empty { incarnation }.word();
        self.home(index).compare_exchange(ours, Home::CLOSED, SeqCst, SeqCst).is_ok()
    }

    fn fresh_record(&self, key: [u64; 3], now: Time, slot: Slot<'_>) -> Option<Record> {
        let index = match self.map.origins.take(self.words()) {
            Some(index) if index >= FIRST_ORIGIN => index,
            _ => self.evict(now, slot)?,
        };
        Some(self.write_record(index, key, slot))
    }

    /// Makes a record that is nobody's an origin's.
    fn write_record(&self, index: u32, key: [u64; 3], slot: Slot<'_>) -> Record {
        let words = self.record_words(index);
        let incarnation = self.record_now(index).incarnation.wrapping_add(1);
        slot.has_record(Some((index, incarnation)));
        let [high, low, port] = key;
        // First the incarnation without a port, which is nobody's key; the port last: whoever sees the new incarnation
        // and a port that fits sees the address that belongs to them.
        words[ORIGIN_PORT].store(u64::from(incarnation) << 32, SeqCst);
        words[ORIGIN_HOME].store(Home::Empty { incarnation }.word(), SeqCst);
        words[0].store(high, SeqCst);
        words[1].store(low, SeqCst);
        words[ORIGIN_PORT].store(u64::from(incarnation) << 32 | port, SeqCst);
        words[ORIGIN_SCARCE].store(0, SeqCst);
        Record { index, incarnation }
    }

    /// Finishes what somebody began who closed a record.
    fn bury_record(&self, found: Found) {
        if self.map.origin_index.remove(self.words(), found) {
            self.map.origins.give(self.words(), found.item());
        }
    }

    /// Takes a record away from an origin that has nothing live and nothing held. Rest is forgotten: somebody needs the
    /// room.
    #[cold]
    fn evict(&self, now: Time, slot: Slot<'_>) -> Option<u32> {
        let words = self.words();
        let used = self.map.origins.used(words).checked_sub(FIRST_ORIGIN).filter(|&used| used != 0)?;
        if now.as_millis() < words[ORIGINS_FULL].load(SeqCst) {
            return None;
        }
        // An origin whose pages are all empty is in the way as well: the last page ends after the others.
        for round in 0..3 {
            if round != 0 {
                self.tidy_pages(now, self.map.pages.used(words), true, slot);
            }
            for _ in 0..used {
                let turn = words[ORIGIN_HAND].fetch_add(1, SeqCst) % u64::from(used);
                let index = FIRST_ORIGIN + turn as u32;
                if self.own_profile(index).is_some() {
                    continue;
                }
                // A record that is being inserted has no confirmed slot: it is left alone. The slot is the one from before the
                // record was closed: if it is gone somebody else has finished that, and the record may be in use again.
                let hash = self.hash(self.key_of(index));
                let found = self.map.origin_index.find(words, hash, |record| record == index);
                let gone = found.is_some_and(|found| {
                    self.vacate(index, now, slot) && self.map.origin_index.remove(words, found)
                });
                if gone {
                    return Some(index);
                }
            }
        }
        // Many may ask in vain now: they need not all search.
        words[ORIGINS_FULL].store(now.as_millis() + QUANTUM_MS, SeqCst);
        None
    }

    /// Takes a record away that is in the way of a key in the index.
    #[cold]
    fn evict_near(&self, hash: u64, now: Time, slot: Slot<'_>) -> bool {
        self.map.origin_index.confirmed(self.words(), hash).any(|found| {
            let index = found.item();
            let gone = (FIRST_ORIGIN..self.map.origins.capacity).contains(&index)
                && self.own_profile(index).is_none()
                && self.vacate(index, now, slot)
                && self.map.origin_index.remove(self.words(), found);
            if gone {
                self.map.origins.give(self.words(), index);
            }
            gone
        })
    }

    /// Closes a record that has nothing live and nothing held.
    fn vacate(&self, index: u32, now: Time, slot: Slot<'_>) -> bool {
        let home = self.home(index);
        if let Home::Pages { first, others: 0, .. } = Home::of(home.load(SeqCst), now) {
            self.end_page(first, true, now, slot);
        }
        // Only now, because somebody may have taken a tuple since the page ended.
        let word = home.load(SeqCst);
        let vacant = match Home::of(word, now) {
            Home::Empty { .. } => true,
            Home::Single(Single { what, .. }) => what.is_over(now) || matches!(what, What::Resting(_)),
            // By somebody else who is about to remove it from the index, or was killed before.
            Home::Closed => return true,
            Home::Pages { .. } => false,
        };
        vacant && home.compare_exchange(word, Home::CLOSED, SeqCst, SeqCst).is_ok()
    }

    fn key_of(&self, index: u32) -> [u64; 3] {
        let words = self.record_words(index);
        [words[0].load(SeqCst), words[1].load(SeqCst), words[ORIGIN_PORT].load(SeqCst) & KEY]
    }

    /// A record that a dead worker had to itself: back to the others, unless it had published it.
    ///
    /// `incarnation` is the record's with the dead one: since he published it somebody may have evicted it, and may not
    /// have published it yet.
    pub(super) fn give_back_record(&self, index: u32, incarnation: u32) {
        if !(FIRST_ORIGIN..self.map.origins.used(self.words())).contains(&index) {
            return;
        }
        let port = &self.record_words(index)[ORIGIN_PORT];
        let before = port.load(SeqCst);
        if ((before >> 32) as u32).wrapping_add(1) == incarnation {
            // He had taken it, and not even begun to write it. As written by nobody: whoever is killed here leaves nothing
            // that would be given back twice.
            let nobodys = u64::from(incarnation) << 32;
            if port.compare_exchange(before, nobodys, SeqCst, SeqCst).is_ok() {
                self.map.origins.give(self.words(), index);
            }
            return;
        }
        let key = self.key_of(index);
        // What he had begun to publish is published, or can never be.
        let same = |record| self.has_key(record, key);
        self.map.origin_index.settle(self.words(), self.hash(key), index, same);
        let published =
            self.map.origin_index.find(self.words(), self.hash(key), |record| record == index).is_some();
        // The word of an empty record says whose it is: another's is left alone.
        let empty = Home::Empty { incarnation }.word();
        if !published && self.home(index).compare_exchange(empty, Home::CLOSED, SeqCst, SeqCst).is_ok() {
            self.map.origins.give(self.words(), index);
        }
    }

    /// The origin of a record; `None` if it stands for no single one.
    pub(super) fn origin_of(&self, record: u32) -> Option<Origin> {
        if record < FIRST_ORIGIN {
            return None;
        }
        let [high, low, port] = self.key_of(record);
        Origin::new(self.protocol_of(record), SocketAddr::new(words_ip(high, low), port as u16)).ok()
    }
}

fn origin_key(origin: &Origin) -> [u64; 3] {
    let [high, low] = ip_words(origin.ip());
    [high, low, u64::from(origin.port()) | (origin.protocol() as u64) << 16]
}
