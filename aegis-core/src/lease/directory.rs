//! Which record is an origin's, and which page is an (origin, granule)'s? Two open hash tables in the table's words.

use core::hash::Hasher;
use core::net::SocketAddr;

use siphasher::sip::SipHasher13;

use crate::net::{Origin, Protocol};
use crate::sync::{AtomicU64, Ordering::SeqCst};

use super::map::{HASH_KEY, ORIGIN_PORT, ORIGIN_SCARCE, ip_words, words_ip};
use super::pool::GranuleSlot;
use super::table::Table;
use super::{AcquireError, Memory};

impl<M: Memory> Table<M> {
    fn hash(&self, key: [u64; 3]) -> u64 {
        let words = self.words();
        let mut hasher =
            SipHasher13::new_with_keys(words[HASH_KEY].load(SeqCst), words[HASH_KEY + 1].load(SeqCst));
        for word in key {
            hasher.write_u64(word);
        }
        hasher.finish()
    }

    /// Visits the slots where `key` may be until `visit` answers.
    fn probe<T>(&self, hash: u64, mut visit: impl FnMut(&AtomicU64) -> Option<T>) -> Option<T> {
        (0..=self.map.origin_mask).find_map(|step| {
            let at = (hash.wrapping_add(step) & self.map.origin_mask) as usize;
            visit(&self.words()[self.map.origin_slots + at])
        })
    }

    /// The record of a slot, if it is of that key.
    fn record_if(&self, slot: u64, hash: u64, key: [u64; 3]) -> Option<u32> {
        if slot >> 32 != hash >> 32 {
            return None;
        }
        let record = slot as u32 - 1;
        let words = self.map.origins.record(self.words(), record);
        words.iter().zip(key).all(|(word, part)| word.load(SeqCst) == part).then_some(record)
    }

    pub(super) fn find_origin(&self, origin: &Origin) -> Option<u32> {
        let key = origin_key(origin);
        let hash = self.hash(key);
        self.probe(hash, |slot| match slot.load(SeqCst) {
            0 => Some(None),
            slot => self.record_if(slot, hash, key).map(Some),
        })?
    }

    pub(super) fn origin_or_new(&self, origin: &Origin) -> Result<u32, AcquireError> {
        let key = origin_key(origin);
        let hash = self.hash(key);
        let mut fresh = None;
        let found = self.probe(hash, |slot| {
            let mut seen = slot.load(SeqCst);
            if seen == 0 {
                let Some(record) = fresh.or_else(|| self.map.origins.take(self.words())) else {
                    return Some(Err(AcquireError::TooManyOrigins));
                };
                let words = self.map.origins.record(self.words(), record);
                for (word, part) in words.iter().zip(key) {
                    word.store(part, SeqCst);
                }
                words[ORIGIN_SCARCE].store(0, SeqCst);
                let value = hash >> 32 << 32 | u64::from(record + 1);
                match slot.compare_exchange(0, value, SeqCst, SeqCst) {
                    Ok(_) => {
                        fresh = None;
                        return Some(Ok(record));
                    }
                    Err(other) => (fresh, seen) = (Some(record), other),
                }
            }
            self.record_if(seen, hash, key).map(Ok)
        });
        if let Some(unused) = fresh {
            self.map.origins.give(self.words(), unused);
        }
        found.unwrap_or(Err(AcquireError::TooManyOrigins))
    }

    pub(super) fn origin_of(&self, record: u32) -> Option<Origin> {
        let words = self.map.origins.record(self.words(), record);
        let ip = words_ip(words[0].load(SeqCst), words[1].load(SeqCst));
        let port = words[ORIGIN_PORT].load(SeqCst);
        let protocol = if port >> 16 & 1 == 0 { Protocol::Tcp } else { Protocol::Udp };
        Origin::new(protocol, SocketAddr::new(ip, port as u16)).ok()
    }

    // ---- directory: pages. A slot is two words: key, then page index + 1.

    #[inline]
    fn page_slot(&self, origin: u32, granule: GranuleSlot, insert: bool) -> Option<&AtomicU64> {
        // Both numbers are ours, not an attacker's: mixing is enough, no keyed hash is needed.
        let key = u64::from(origin + 1) << 32 | u64::from(granule.0);
        let hash = (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        for step in 0..=self.map.page_mask {
            let at = self.map.page_slots + 2 * (hash.wrapping_add(step) & self.map.page_mask) as usize;
            let [slot, value] = &self.words()[at..at + 2] else { return None };
            let mut seen = slot.load(SeqCst);
            if seen == 0 {
                if !insert {
                    return None;
                }
                seen = slot.compare_exchange(0, key, SeqCst, SeqCst).map_or_else(|other| other, |_| key);
            }
            if seen == key {
                return Some(value);
            }
        }
        None
    }

    #[inline]
    pub(super) fn find_page(&self, origin: u32, granule: GranuleSlot) -> Option<u32> {
        let value = self.page_slot(origin, granule, false)?.load(SeqCst);
        (value as u32).checked_sub(1)
    }

    pub(super) fn page_or_new(&self, origin: u32, granule: GranuleSlot) -> Option<u32> {
        if let Some(index) = self.find_page(origin, granule) {
            return Some(index);
        }
        let index = self.map.pages.take(self.words())?;
        let page = self.page(index);
        page.init(u64::from(origin) << 32 | u64::from(granule.0), self.granule(granule).1);
        let Some(value) = self.page_slot(origin, granule, true) else {
            self.map.pages.give(self.words(), index);
            return None;
        };
        // Whoever dies before this leaves a key without a page, which the next one fills.
        match value.compare_exchange(0, u64::from(index + 1), SeqCst, SeqCst) {
            Ok(_) => Some(index),
            Err(other) => {
                self.map.pages.give(self.words(), index);
                Some(other as u32 - 1)
            }
        }
    }
}

fn origin_key(origin: &Origin) -> [u64; 3] {
    let [high, low] = ip_words(origin.ip());
    let protocol = match origin.protocol() {
        Protocol::Tcp => 0,
        Protocol::Udp => 1 << 16,
    };
    [high, low, u64::from(origin.port()) | protocol]
}
