//! The granules that a lease table knows: their ports, their state, how ports are chosen there, and pools made of them.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::net::{PortRange, Protocol};
use crate::sync::{AtomicU64, Ordering::SeqCst};
use crate::time::Time;

use super::grant::MAX_POOL;
use super::map::{
    CHANGE, CHANGES, DRAINING, GRANULE_COUNT, GRANULE_SHAPE, GRANULE_STATE, NOT_BEFORE_BITS,
    NOT_BEFORE_SHIFT, OWNED, PARKED_PORTS, STATE, WITHHELD_PORTS, ip_words, words_ip,
};
use super::page::Page;
use super::pool::{GranuleSlot, Pool, PoolKey};
use super::quarantine::span_at;
use super::records::Record;
use super::slot::Slot;
use super::table::Table;
use super::tag::{Class, Deadline, Tag};
use super::{Closed, Memory};

/// Most ports of a pool on one machine: a random draw has 32 bits, and four of them are spare.
const MAX_POOL_PORTS: u64 = 1 << 28;

/// May the table grant from a granule?
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GranuleState {
    /// It belongs to this machine.
    Owned,
    /// It is leaving: live leases stay, no new ones are granted.
    Draining,
}

/// How the ports of a granule are chosen and shared: one way for each granule, because in one network namespace the
/// kernel skips every port that somebody has bound explicitly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Method {
    /// The table chooses; a port is used towards every origin at once (4-tuples). The default.
    Explicit,
    /// The table chooses; a port is used towards one origin at a time, because the proxy's sockets cannot share a bound
    /// port (2-tuple-unique; nginx as shipped).
    Unique,
    /// The kernel chooses inside the granule (`IP_LOCAL_PORT_RANGE`) and the lease is completed afterwards.
    KernelRange,
    /// Ports for unconnected UDP sockets, each used by one socket towards any destination.
    UnconnectedUdp,
}

impl Method {
    const ALL: [Self; 4] = [Self::Explicit, Self::Unique, Self::KernelRange, Self::UnconnectedUdp];

    /// Is a port used towards every origin by one lease?
    pub(super) const fn is_wildcard(self) -> bool {
        matches!(self, Self::Unique | Self::UnconnectedUdp)
    }

    /// The quarantine where none is set for the origin.
    const fn profile(self) -> u8 {
        match self {
            Self::Explicit | Self::UnconnectedUdp => 0,
            Self::Unique | Self::KernelRange => 1,
        }
    }
}

/// In a granule's state word: the moment before which ports of a protocol are not granted, if there is one.
const fn not_before(protocol: Protocol, from: Deadline) -> u64 {
    let low = from.low(NOT_BEFORE_BITS);
    // 0 says that there is none: one step later will do.
    (if low == 0 { 1 } else { low }) << not_before_shift(protocol)
}

const fn not_before_mask(protocol: Protocol) -> u64 {
    ((1 << NOT_BEFORE_BITS) - 1) << not_before_shift(protocol)
}

const fn not_before_shift(protocol: Protocol) -> u32 {
    NOT_BEFORE_SHIFT + NOT_BEFORE_BITS * protocol as u32
}

/// A state word whose ports of a protocol are not granted before that moment.
pub(super) const fn with_not_before(word: u64, protocol: Protocol, from: Deadline) -> u64 {
    word & !not_before_mask(protocol) | not_before(protocol, from)
}

/// A state word with another state, or the same state anew: never the same word.
pub(super) const fn with_state(word: u64, state: u64) -> u64 {
    word & !(STATE | CHANGES) | state | word.wrapping_add(CHANGE) & CHANGES
}

/// What the granule says about a port that was just claimed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    Grant,
    NotOwned,
    Parked(Tag),
}

impl<M: Memory> Table<M> {
    /// Tells the table of a granule whose ports it chooses itself; the same granule again is the same slot.
    ///
    /// # Errors
    /// As [`Table::add_granules`].
    pub fn add_granule(&self, ip: IpAddr, range: PortRange) -> Result<GranuleSlot> {
        Ok(self.add_granules(Method::Explicit, [(ip, range)])?[0])
    }

    /// Tells the table of granules, in any order, and returns their slots in the same order. A granule that it knows
    /// already keeps its slot; several processes may tell it of the same ones at once.
    ///
    /// # Errors
    /// A range overlaps another granule of the address without being it, or is known with another method; it has more
    /// ports than the table was made for; it contains port 0; there are too many granules. Then none is added, but of
    /// several errors at once only what comes before the first is.
    pub fn add_granules(
        &self,
        method: Method,
        granules: impl IntoIterator<Item = (IpAddr, PortRange)>,
    ) -> Result<Vec<GranuleSlot>> {
        let mut known = Known::of(self);
        let granules: Vec<_> =
            granules.into_iter().map(|(ip, range)| (crate::net::canonical_ip(ip), range)).collect();
        self.check_granules(&known, granules.iter().map(|&(ip, range)| (ip, range, method)))?;
        let mut slots = Vec::new();
        for (ip, range) in granules {
            slots.push(self.append_granule(&mut known, ip, range, method, OWNED)?);
        }
        Ok(slots)
    }

    /// Can all of them be added to what is known?
    pub(super) fn check_granules(
        &self,
        known: &Known,
        granules: impl IntoIterator<Item = (IpAddr, PortRange, Method)>,
    ) -> Result<()> {
        let mut planned = known.clone();
        for (ip, range, method) in granules {
            if planned.find(ip, range, method)?.is_none() {
                self.check_granule(ip, range, planned.count)?;
                planned.add(ip, range, method, GranuleSlot(u32::MAX));
            }
        }
        Ok(())
    }

    /// The slot of a granule, made in that state if the table does not know it yet.
    pub(super) fn append_granule(
        &self,
        known: &mut Known,
        ip: IpAddr,
        range: PortRange,
        method: Method,
        state: u64,
    ) -> Result<GranuleSlot> {
        let mut fresh = None;
        loop {
            if let Some(slot) = known.find(ip, range, method)? {
                if let Some(unused) = fresh {
                    self.map.granules.give(self.words(), unused);
                }
                return Ok(slot);
            }
            self.check_granule(ip, range, known.count)?;
            let slot = match fresh {
                Some(slot) => slot,
                None => *fresh.insert(self.map.granules.take(self.words()).ok_or_else(|| {
                    Error::input(format!("granule {ip} {range}: the lease table has no room for it"))
                })?),
            };
            let words = self.granule_words(GranuleSlot(slot));
            for (word, value) in words.iter().zip(ip_words(ip)) {
                word.store(value, SeqCst);
            }
            let ports = u64::from(range.lo()) << 16 | u64::from(range.hi());
            words[GRANULE_SHAPE].store((method as u64) << 32 | ports, SeqCst);
            words[GRANULE_STATE].store(state, SeqCst);
            // Published by this one exchange. If another process was faster, its granule is looked at first: it may be
            // the same, or overlap.
            let place = &self.words()[self.map.granule_list + known.count as usize];
            if place.compare_exchange(0, u64::from(slot + 1), SeqCst, SeqCst).is_ok() {
                fresh = None;
            }
            self.words()[GRANULE_COUNT].fetch_max(u64::from(known.count + 1), SeqCst);
            self.read_granules(known);
        }
    }

    /// Adds the granules that have come since to what is known.
    fn read_granules(&self, known: &mut Known) {
        while known.count < self.config.granules {
            let place = &self.words()[self.map.granule_list + known.count as usize];
            // A place that says anything is taken, also if it names no granule.
            let slot = match place.load(SeqCst) {
                0 => return,
                value => GranuleSlot((value as u32).wrapping_sub(1)),
            };
            match self.granule(slot) {
                Some((ip, range, method)) => known.add(ip, range, method, slot),
                None => known.count += 1,
            }
        }
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

    /// The slots of all granules that the table knows.
    pub(super) fn granule_slots(&self) -> impl Iterator<Item = GranuleSlot> {
        (0..self.config.granules as usize).map_while(|at| {
            let slot = self.words()[self.map.granule_list + at].load(SeqCst) as u32;
            slot.checked_sub(1).map(GranuleSlot)
        })
    }

    /// The granules that the table knows, and what may be done with them.
    pub fn granules(&self) -> impl Iterator<Item = (IpAddr, PortRange, GranuleState)> {
        self.granule_slots().filter_map(|slot| {
            let (ip, range, _) = self.granule(slot)?;
            Some((ip, range, self.state(slot)))
        })
    }

    /// The parts of granules that the table knows, and how ports are chosen there.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (IpAddr, PortRange, Method)> {
        self.granule_slots().filter_map(|slot| self.granule(slot))
    }

    /// Sets what may be done with a granule. Once this returns `Draining` no acquire that starts later, and none
    /// that is stopped halfway, grants from it: acquire claims first and looks at the state then.
    pub fn set_state(&self, granule: GranuleSlot, state: GranuleState) {
        if self.granule(granule).is_none() {
            return;
        }
        let word = self.state_word(granule);
        let value = match state {
            GranuleState::Owned => OWNED,
            GranuleState::Draining => DRAINING,
        };
        let _ = word.fetch_update(SeqCst, SeqCst, |w| Some(with_state(w, value)));
        if state == GranuleState::Owned {
            self.look_again(&[granule]);
        }
    }

    /// The granule came from a machine that died, and what that one had open is unknown: its ports are granted only after
    /// the time that the quarantine says, by protocol.
    pub fn take_over(&self, granule: GranuleSlot, now: Time) {
        self.rest_after_death(granule, self.clock(now));
        self.set_state(granule, GranuleState::Owned);
    }

    /// Writes down from when on each protocol is granted from a granule that came from a dead machine.
    pub(super) fn rest_after_death(&self, granule: GranuleSlot, now: Time) {
        let Some((_, _, method)) = self.granule(granule) else { return };
        for protocol in Protocol::ALL {
            let spans = self.spans(method.profile().into(), span_at(protocol, Closed::TakenOver));
            let hold = spans & 0xffff_ffff;
            if hold != 0 {
                self.set_not_before(granule, protocol, Self::deadline_after(now, hold));
            }
        }
    }

    /// Nothing of the protocol is granted from the granule before that moment.
    pub(super) fn set_not_before(&self, granule: GranuleSlot, protocol: Protocol, from: Deadline) {
        let word = self.state_word(granule);
        let _ = word.fetch_update(SeqCst, SeqCst, |w| Some(with_not_before(w, protocol, from)));
    }

    /// Is there such a moment, and is it still to come?
    pub(super) fn has_not_before(&self, granule: GranuleSlot, protocol: Protocol, now: Time) -> bool {
        let low =
            (self.state_word(granule).load(SeqCst) & not_before_mask(protocol)) >> not_before_shift(protocol);
        low != 0 && !Deadline::near(low, NOT_BEFORE_BITS, now).passed(now)
    }

    /// While granules granted nothing, their free ports did not count.
    pub(super) fn look_again(&self, granules: &[GranuleSlot]) {
        if granules.is_empty() {
            return;
        }
        let mut granules = granules.to_vec();
        granules.sort_unstable();
        for page in (0..self.map.pages.used(self.words())).map(|index| self.page(index)) {
            if granules.binary_search(&GranuleSlot(page.identity().granule())).is_ok() {
                page.clear_doubt();
            }
        }
        for record in 0..self.map.origins.used(self.words()) {
            self.scarce(record).store(0, SeqCst);
        }
    }

    pub(super) fn state(&self, granule: GranuleSlot) -> GranuleState {
        match self.state_word(granule).load(SeqCst) & STATE {
            OWNED => GranuleState::Owned,
            _ => GranuleState::Draining,
        }
    }

    /// May ports of the granule be granted?
    #[inline]
    pub(super) fn grants(&self, granule: GranuleSlot, protocol: Protocol, now: Time) -> bool {
        match self.state_word(granule).load(SeqCst) {
            word if word & !CHANGES == OWNED => true,
            word => word & STATE == OWNED && !self.is_not_yet(word, granule, protocol, now),
        }
    }

    #[cold]
    fn is_not_yet(&self, word: u64, granule: GranuleSlot, protocol: Protocol, now: Time) -> bool {
        let mask = not_before_mask(protocol);
        if word & mask == 0 {
            return false;
        }
        let low = (word & mask) >> not_before_shift(protocol);
        if !Deadline::near(low, NOT_BEFORE_BITS, now).passed(now) {
            return true;
        }
        // Only if it is still that moment: the granule may be taken over a second time.
        if self.state_word(granule).compare_exchange(word, word & !mask, SeqCst, SeqCst).is_ok() {
            self.look_again(&[granule]);
        }
        false
    }

    /// After a claim: may the port be granted, by the granule's state word? If a stranger has it, until when is it
    /// parked?
    #[inline]
    pub(super) fn verdict(
        &self,
        granule: GranuleSlot,
        protocol: Protocol,
        offset: u32,
        now: Time,
        slot: Slot<'_>,
    ) -> Verdict {
        match self.state_word(granule).load(SeqCst) {
            word if word & !CHANGES == OWNED => Verdict::Grant,
            word if word & STATE != OWNED || self.is_not_yet(word, granule, protocol, now) => {
                Verdict::NotOwned
            }
            word => self.verdict_of_port(word, granule, protocol, offset, now, slot),
        }
    }

    /// The verdict in a granule of which some ports are not to be granted.
    #[cold]
    fn verdict_of_port(
        &self,
        word: u64,
        granule: GranuleSlot,
        protocol: Protocol,
        offset: u32,
        now: Time,
        slot: Slot<'_>,
    ) -> Verdict {
        if word & WITHHELD_PORTS != 0 && self.is_withheld(granule, offset) {
            // Tried again now and then, as what strangers have.
            return Verdict::Parked(Tag::parked(Deadline::after(now + self.config.park_tuple)));
        }
        let flag = PARKED_PORTS << protocol as u32;
        if word & flag == 0 {
            return Verdict::Grant;
        }
        let Some(found) = self.find_page(Record::parked(protocol), granule) else { return Verdict::Grant };
        let page: Page<'_> = self.page(found.index);
        if page.is_due(now) {
            page.sweep(now, slot.sweep(found.index));
        }
        if page.parked() == 0 {
            // Whoever parks a port counts it first and sets the flag last: so one of us sees the other.
            self.state_word(granule).fetch_and(!flag, SeqCst);
            if page.parked() != 0 {
                self.state_word(granule).fetch_or(flag, SeqCst);
            }
        }
        match page.tag(offset) {
            tag if tag.class() == Class::Parked => Verdict::Parked(tag),
            _ => Verdict::Grant,
        }
    }

    #[inline]
    pub(super) fn state_word(&self, granule: GranuleSlot) -> &AtomicU64 {
        &self.granule_words(granule)[GRANULE_STATE]
    }

    /// The pool `key`, made of these granules in any order.
    ///
    /// # Errors
    /// A granule that is not of this table; more than 2^28 ports; a key of more than 24 bits.
    pub fn pool(&self, key: PoolKey, granules: impl IntoIterator<Item = GranuleSlot>) -> Result<Pool> {
        if key.0 > MAX_POOL {
            return Err(Error::input(format!("pool key {}; at most {MAX_POOL} is possible", key.0)));
        }
        let mut sources = Vec::new();
        for slot in granules {
            let Some((ip, range, method)) = self.granule(slot) else {
                return Err(Error::input(format!("granule {} of another lease table", slot.0)));
            };
            sources.push((slot, ip, range, method));
        }
        let ports: u64 = sources.iter().map(|(_, _, range, _)| u64::from(range.len())).sum();
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
        self.map.granules.record(self.words(), granule.0)
    }

    /// What a granule is; `None` if there is none of that number, or none that a table can have.
    pub(super) fn granule(&self, granule: GranuleSlot) -> Option<(IpAddr, PortRange, Method)> {
        if granule.0 >= self.map.granules.capacity {
            return None;
        }
        let words = self.granule_words(granule);
        let shape = words[GRANULE_SHAPE].load(SeqCst);
        let range = PortRange::new((shape >> 16) as u16, shape as u16).ok()?;
        if range.contains(0) || range.len() > self.config.granule_ports {
            return None;
        }
        let method = *Method::ALL.get((shape >> 32) as usize)?;
        Some((words_ip(words[0].load(SeqCst), words[1].load(SeqCst)), range, method))
    }

    pub(super) fn granule_ports(&self, granule: GranuleSlot) -> Option<u32> {
        Some(self.granule(granule)?.1.len())
    }

    /// The number of the quarantine of a record's tuples in a granule.
    pub(super) fn profile_of(&self, record: u32, granule: GranuleSlot) -> u8 {
        let by_method = || self.granule(granule).map_or(0, |(_, _, method)| method.profile());
        self.own_profile(record).unwrap_or_else(by_method)
    }
}

/// The granules of a table, by address and first port.
#[derive(Clone, Default)]
pub(super) struct Known {
    granules: BTreeMap<(IpAddr, u16), (PortRange, Method, GranuleSlot)>,
    count: u32,
}

impl Known {
    /// All granules of a table.
    pub(super) fn of<M: Memory>(table: &Table<M>) -> Self {
        let mut known = Self::default();
        table.read_granules(&mut known);
        known
    }

    fn add(&mut self, ip: IpAddr, range: PortRange, method: Method, slot: GranuleSlot) {
        self.granules.insert((ip, range.lo()), (range, method, slot));
        self.count += 1;
    }

    /// The slot of a granule that is known; an error if another one overlaps it.
    pub(super) fn find(&self, ip: IpAddr, range: PortRange, method: Method) -> Result<Option<GranuleSlot>> {
        // Only the last granule that begins at or before the end of this one can overlap it: all others are disjoint
        // already.
        let near =
            self.granules.range(..=(ip, range.hi())).next_back().filter(|((other, _), _)| *other == ip);
        match near {
            Some((_, (other, its, slot))) if *other == range && *its == method => Ok(Some(*slot)),
            Some((_, (other, its, _))) if *other == range => Err(Error::input(format!(
                "granule {ip} {range} as {method:?}; the lease table has it as {its:?}"
            ))),
            Some((_, (other, ..))) if other.overlaps(range) => {
                Err(Error::input(format!("granule {ip} {range} overlaps granule {other} of the table")))
            }
            _ => Ok(None),
        }
    }

    /// The granule that has a source, and the port's offset there.
    pub(super) fn locate(&self, source: SocketAddr) -> Option<(GranuleSlot, Method, u32)> {
        let ip = crate::net::canonical_ip(source.ip());
        let ((other, lo), (range, method, slot)) = self.granules.range(..=(ip, source.port())).next_back()?;
        (*other == ip && range.contains(source.port()))
            .then(|| (*slot, *method, u32::from(source.port() - lo)))
    }
}
