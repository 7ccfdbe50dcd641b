//! The granules that a lease table knows: their ports, their state, and pools made of them.

use core::net::IpAddr;
use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};
use crate::net::PortRange;
use crate::sync::{AtomicU64, Ordering::SeqCst};

use super::Memory;
use super::map::{
    DRAINING, GRANULE_ADDER, GRANULE_COUNT, GRANULE_RANGE, GRANULE_STATE, GRANULE_STRIDE, OWNED, STATE,
    ip_words, words_ip,
};
use super::pool::{GranuleSlot, Pool, PoolKey};
use super::table::Table;

/// Most ports of a pool on one machine: a random draw has 32 bits, and four of them are spare.
const MAX_POOL_PORTS: u64 = 1 << 28;

/// May the table grant from a granule with this state word?
#[inline]
pub(super) fn is_owned(state: &AtomicU64) -> bool {
    state.load(SeqCst) & STATE == OWNED
}

/// May the table grant from a granule?
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GranuleState {
    /// It belongs to this machine.
    Owned,
    /// It is leaving: live leases stay, no new ones are granted.
    Draining,
}

impl<M: Memory> Table<M> {
    /// Tells the table of a granule; the same granule again is the same slot.
    ///
    /// # Errors
    /// As [`Table::add_granules`].
    pub fn add_granule(&self, ip: IpAddr, range: PortRange) -> Result<GranuleSlot> {
        Ok(self.add_granules([(ip, range)])?[0])
    }

    /// Tells the table of granules, in any order, and returns their slots in the same order. A granule that it knows
    /// already keeps its slot.
    ///
    /// # Errors
    /// A range overlaps another granule of the address without being it; it has more ports than the table was made
    /// for; it contains port 0; there are too many granules; another thread adds granules at this moment. Then none is
    /// added.
    pub fn add_granules(
        &self,
        granules: impl IntoIterator<Item = (IpAddr, PortRange)>,
    ) -> Result<Vec<GranuleSlot>> {
        let adder = &self.words()[GRANULE_ADDER];
        if adder.swap(1, SeqCst) != 0 {
            return Err(Error::new(
                ErrorKind::Wait,
                "another thread adds granules to the lease table; try again",
            ));
        }
        let added = self.add_granules_alone(granules);
        adder.store(0, SeqCst);
        added
    }

    fn add_granules_alone(
        &self,
        granules: impl IntoIterator<Item = (IpAddr, PortRange)>,
    ) -> Result<Vec<GranuleSlot>> {
        let before = self.words()[GRANULE_COUNT].load(SeqCst) as u32;
        let mut known: BTreeMap<(IpAddr, u16), (PortRange, GranuleSlot)> = (0..before)
            .map(|slot| {
                let (ip, range) = self.granule(GranuleSlot(slot));
                ((ip, range.lo()), (range, GranuleSlot(slot)))
            })
            .collect();
        let mut count = before;
        let mut slots = Vec::new();
        for (ip, range) in granules {
            let ip = crate::net::canonical_ip(ip);
            // Only the last granule that begins at or before the end of this one can overlap it: all others are
            // disjoint already.
            let near = known.range(..=(ip, range.hi())).next_back().filter(|((other, _), _)| *other == ip);
            let slot = match near {
                Some((_, (other, slot))) if *other == range => *slot,
                Some((_, (other, _))) if other.overlaps(range) => {
                    return Err(Error::input(format!(
                        "granule {ip} {range} overlaps granule {other} of the table"
                    )));
                }
                _ => {
                    self.check_granule(ip, range, count)?;
                    count += 1;
                    known.insert((ip, range.lo()), (range, GranuleSlot(count - 1)));
                    GranuleSlot(count - 1)
                }
            };
            slots.push(slot);
        }
        for ((ip, _), (range, slot)) in known {
            if slot.0 >= before {
                let words = self.granule_words(slot);
                for (word, value) in words.iter().zip(ip_words(ip)) {
                    word.store(value, SeqCst);
                }
                words[GRANULE_RANGE].store(u64::from(range.lo()) << 16 | u64::from(range.hi()), SeqCst);
                words[GRANULE_STATE].store(OWNED, SeqCst);
            }
        }
        self.words()[GRANULE_COUNT].store(u64::from(count), SeqCst);
        Ok(slots)
    }

    fn check_granule(&self, ip: IpAddr, range: PortRange, count: u32) -> Result<()> {
        let fault = if range.contains(0) {
            "port 0 is no source port".to_owned()
        } else if range.len() > self.config.granule_ports {
            format!(
                "{} ports are too many for a lease table made for granules of at most {}",
                range.len(),
                self.config.granule_ports
            )
        } else if count >= self.config.granules {
            format!("one granule too many for a lease table made for {}", self.config.granules)
        } else {
            return Ok(());
        };
        Err(Error::input(format!("granule {ip} {range}: {fault}")))
    }

    /// The granules that the table knows, and what may be done with them.
    pub fn granules(&self) -> impl Iterator<Item = (IpAddr, PortRange, GranuleState)> {
        (0..self.words()[GRANULE_COUNT].load(SeqCst) as u32).map(GranuleSlot).map(|slot| {
            let (ip, range) = self.granule(slot);
            (ip, range, self.state(slot))
        })
    }

    /// Sets what may be done with a granule. Once this returns `Draining` no acquire that starts later, and none
    /// that is stopped halfway, grants from it: acquire claims first and looks at the state then.
    pub fn set_state(&self, granule: GranuleSlot, state: GranuleState) {
        let word = self.state_word(granule);
        let value = match state {
            GranuleState::Owned => OWNED,
            GranuleState::Draining => DRAINING,
        };
        let _ = word.fetch_update(SeqCst, SeqCst, |w| Some(w & !STATE | value));
        if state == GranuleState::Owned {
            // While it was draining, its free ports did not count.
            for page in (0..self.map.pages.used(self.words())).map(|index| self.page(index)) {
                if page.identity() as u32 == granule.0 {
                    page.clear_doubt();
                }
            }
            for record in 0..self.map.origins.used(self.words()) {
                self.scarce(record).store(0, SeqCst);
            }
        }
    }

    pub(super) fn state(&self, granule: GranuleSlot) -> GranuleState {
        if is_owned(self.state_word(granule)) { GranuleState::Owned } else { GranuleState::Draining }
    }

    #[inline]
    pub(super) fn state_word(&self, granule: GranuleSlot) -> &AtomicU64 {
        &self.words()[self.map.granules + granule.0 as usize * GRANULE_STRIDE + GRANULE_STATE]
    }

    /// The pool `key`, made of these granules in any order.
    ///
    /// # Errors
    /// A granule that is not of this table; more than 2^28 ports.
    pub fn pool(&self, key: PoolKey, granules: impl IntoIterator<Item = GranuleSlot>) -> Result<Pool> {
        let mut sources = Vec::new();
        for slot in granules {
            let count = self.words()[GRANULE_COUNT].load(SeqCst);
            if u64::from(slot.0) >= count {
                return Err(Error::input(format!(
                    "granule {} of another lease table; this one has {count}",
                    slot.0
                )));
            }
            let (ip, range) = self.granule(slot);
            sources.push((slot, ip, range));
        }
        let ports: u64 = sources.iter().map(|(_, _, range)| u64::from(range.len())).sum();
        if ports > MAX_POOL_PORTS {
            return Err(Error::input(format!(
                "pool {} has {ports} ports here; at most {MAX_POOL_PORTS} are supported",
                key.0
            )));
        }
        Ok(Pool::new(self.id(), key, sources))
    }

    #[inline]
    pub(super) fn granule_words(&self, granule: GranuleSlot) -> &[AtomicU64] {
        let at = self.map.granules + granule.0 as usize * GRANULE_STRIDE;
        &self.words()[at..at + GRANULE_STRIDE]
    }

    pub(super) fn granule(&self, granule: GranuleSlot) -> (IpAddr, PortRange) {
        let words = self.granule_words(granule);
        let ports = words[GRANULE_RANGE].load(SeqCst);
        let range = PortRange::new((ports >> 16) as u16, ports as u16).expect("written from a range");
        (words_ip(words[0].load(SeqCst), words[1].load(SeqCst)), range)
    }
}
