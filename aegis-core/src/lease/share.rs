//! What the machine may grant from, as of one epoch, and until when.
//!
//! Several processes may be told of several epochs at once, and any of them may be stopped between two steps. So whoever
//! changes a granule looks at its state, then whether his epoch is still the latest, and changes what he has seen: a later
//! epoch is told before anything is changed for it, so he sees that, or it comes after him and changes the granule again.
//! Every change counts in the state, so that what was changed to and fro is not taken for what was seen. And a granule is
//! known before it is looked which epoch is the latest: whoever tells the table of a later one sees it and drains it, or is
//! seen.

use core::net::IpAddr;

use crate::error::{Error, ErrorKind, Result};
use crate::net::{PortRange, Protocol};
use crate::sync::Ordering::SeqCst;
use crate::time::Time;

use super::granules::{Known, with_not_before, with_state};
use super::map::{DRAINING, EPOCH, OWNED, STATE, TENURE};
use super::pool::GranuleSlot;
use super::table::Table;
use super::{GranuleState, Memory, Method};

/// How long a connect may take whose port the kernel chooses.
pub(super) const CONNECT_MS: u64 = 60_000;

/// A granule, or a part of one, that the machine has something to do with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Share {
    /// May it be granted from? If it drains it is known to the table all the same, so that connections there can be adopted
    /// and are told of ([`Table::busy_ports`]).
    pub state: GranuleState,
    /// The egress address.
    pub ip: IpAddr,
    /// The ports.
    pub range: PortRange,
    /// How they are chosen.
    pub method: Method,
    /// Those among them that are still open at the owner before.
    pub withheld: Vec<u16>,
    /// The owner before is dead, and nobody knows what he had open: the epoch since which it is not his any more.
    pub after_death: Option<u64>,
}

/// Has the table heard already that the owner before has died?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Death {
    Known,
    News,
}

impl Death {
    /// `latest` is the last epoch that the table was told before.
    fn of(share: &Share, latest: u64) -> Option<Self> {
        share.after_death.map(|since| if latest < since { Self::News } else { Self::Known })
    }
}

impl<M: Memory> Table<M> {
    /// From now on exactly these shares are granted from, if they do not drain: those of `epoch`. All other granules drain:
    /// once this returns nothing is granted from them, by nobody who is stopped halfway either.
    ///
    /// A granule that comes from a dead machine rests as its quarantine says, from when it came. Where the kernel chooses
    /// the port a granule with withheld ports drains until there are none.
    ///
    /// # Errors
    /// [`ErrorKind::Reload`]: the table has been told a later epoch, which stays in force; the others as
    /// [`Table::add_granules`], before anything has changed.
    pub fn apply(&self, epoch: u64, shares: &[Share], now: Time) -> Result<Vec<GranuleSlot>> {
        let now = self.clock(now);
        if self.epoch() > epoch {
            return Err(self.too_late(epoch));
        }
        let slots = self.know(shares)?;
        let latest = self.words()[EPOCH].fetch_max(epoch, SeqCst);
        if latest > epoch {
            return Err(self.too_late(epoch));
        }
        // Drain first, so that nobody grants from the old and the new at once. The list is read after the epoch is told.
        let mut kept = slots.clone();
        kept.sort_unstable();
        for slot in self.granule_slots().filter(|slot| kept.binary_search(slot).is_err()) {
            self.drain(slot, epoch, now);
        }
        let mut ours = Vec::new();
        for (share, &slot) in shares.iter().zip(&slots) {
            let lo = u32::from(share.range.lo());
            let withheld = share.withheld.iter().filter(|port| share.range.contains(**port));
            let offsets: Vec<u32> = withheld.map(|port| u32::from(*port) - lo).collect();
            self.withhold(slot, &offsets, epoch);
            let waits = share.method == Method::KernelRange && !offsets.is_empty();
            if share.state == GranuleState::Draining || waits {
                self.drain(slot, epoch, now);
            } else if self.own(slot, epoch, Death::of(share, latest), now) {
                ours.push(slot);
            }
        }
        self.look_again(&ours);
        if self.epoch() > epoch { Err(self.too_late(epoch)) } else { Ok(slots) }
    }

    /// Makes the granules known that are not yet; nothing is granted from those before they are applied.
    ///
    /// # Errors
    /// As [`Table::apply`], but for the epoch.
    pub(crate) fn know(&self, shares: &[Share]) -> Result<Vec<GranuleSlot>> {
        let mut known = Known::of(self);
        let place = |share: &Share| (crate::net::canonical_ip(share.ip), share.range, share.method);
        self.check_granules(&known, shares.iter().map(place))?;
        let mut slots = Vec::with_capacity(shares.len());
        for share in shares {
            let (ip, range, method) = place(share);
            slots.push(self.append_granule(&mut known, ip, range, method, DRAINING)?);
        }
        Ok(slots)
    }

    /// The latest epoch that the table was told of; 0: none.
    pub fn epoch(&self) -> u64 {
        self.words()[EPOCH].load(SeqCst)
    }

    /// Nothing is granted from `until` on, until that is set anew: the machine's tenure. `None`: there is none, which is
    /// how a table begins. It never goes back.
    pub fn set_tenure(&self, until: Option<Time>) {
        let tenure = &self.words()[TENURE];
        match until {
            Some(until) => drop(tenure.fetch_max(until.as_millis().max(1), SeqCst)),
            None => tenure.store(0, SeqCst),
        }
    }

    /// Until when anything is granted; the end of time, if there is no tenure.
    pub(super) fn tenure(&self) -> Time {
        match self.words()[TENURE].load(SeqCst) {
            0 => Time::from_millis(u64::MAX),
            until => Time::from_millis(until),
        }
    }

    /// May anything be granted now?
    #[inline]
    pub(super) fn has_tenure(&self, now: Time) -> bool {
        let until = self.words()[TENURE].load(SeqCst);
        until == 0 || now.as_millis() < until
    }

    fn too_late(&self, epoch: u64) -> Error {
        Error::new(
            ErrorKind::Reload,
            format!("epoch {epoch} comes too late: the lease table was told epoch {}", self.epoch()),
        )
    }

    /// It grants nothing any more.
    fn drain(&self, slot: GranuleSlot, epoch: u64, now: Time) {
        let Some((_, _, method)) = self.granule(slot) else { return };
        let by_kernel = method == Method::KernelRange;
        // Who has just been given the range may be ahead of the time at which this epoch began to be applied.
        let until = || Self::deadline_after(self.clock(now), CONNECT_MS);
        let was = self.change(slot, epoch, |word| match word & STATE {
            // In one step: nobody sees it drain without that moment.
            OWNED if by_kernel => with_not_before(with_state(word, DRAINING), Protocol::Tcp, until()),
            _ => with_state(word, DRAINING),
        });
        if by_kernel && was == Some(OWNED) {
            // Once more, for who was given it between the look at the clock and the step.
            self.set_not_before(slot, Protocol::Tcp, until());
        }
    }

    /// It is ours. True if it was not before.
    ///
    /// After a death it rests if it was not owned, whyever that is: also if somebody was killed who had only told the epoch.
    /// If it was owned, then only if the death is `news`: it was another's meanwhile.
    fn own(&self, slot: GranuleSlot, epoch: u64, death: Option<Death>, now: Time) -> bool {
        let is_owned = || self.state_word(slot).load(SeqCst) & STATE == OWNED;
        if death.is_some_and(|death| death == Death::News || !is_owned()) {
            self.rest_after_death(slot, now);
        }
        self.change(slot, epoch, |word| with_state(word, OWNED)) == Some(DRAINING)
    }

    /// What `next` makes of the state word, unless a later epoch has been told: see above. The state before.
    fn change(&self, slot: GranuleSlot, epoch: u64, next: impl Fn(u64) -> u64) -> Option<u64> {
        let state = self.state_word(slot);
        loop {
            let word = state.load(SeqCst);
            if self.epoch() != epoch {
                return None;
            }
            if state.compare_exchange(word, next(word), SeqCst, SeqCst).is_ok() {
                return Some(word & STATE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Config, PoolKey, Worker};
    use super::*;
    use crate::net::Origin;

    /// Who applies an epoch was stopped after he had read his clock.
    #[test]
    fn a_range_that_was_leased_just_before_its_granule_drains_is_busy_until_it_cannot_be_completed() {
        let seconds = |seconds: u64| Time::from_millis(seconds * 1_000);
        let config =
            Config { granule_ports: 4, granules: 1, origins: 4, pages: 2, workers: 2, ..Config::default() };
        let table = Arc::new(Table::new(config, [7; 32]).unwrap());
        let (ip, range) = ("192.0.2.1".parse().unwrap(), PortRange::new(5_000, 5_003).unwrap());
        let (state, method) = (GranuleState::Owned, Method::KernelRange);
        let share = Share { state, ip, range, method, withheld: Vec::new(), after_death: None };
        let slots = table.apply(1, &[share], seconds(1)).unwrap();
        let pool = table.pool(PoolKey(1), slots.clone()).unwrap();
        let mut worker = Worker::attach(Arc::clone(&table), [1; 32]).unwrap();
        let origin = Origin::new(Protocol::Tcp, ([203, 0, 113, 7], 443).into()).unwrap();
        let leased = worker.acquire_range(&pool, &origin, seconds(31)).unwrap();
        table.words()[EPOCH].store(2, SeqCst);
        table.drain(slots[0], 2, seconds(1));
        assert_eq!(table.busy_ports(ip, range, seconds(90)).len(), 4, "a connect may be under way");
        worker.complete(&leased, 5_000, seconds(90)).map(drop).unwrap();
    }
}
