//! How much a lease table holds, and by which rules. Written into the table's memory, so that every process that opens
//! it goes by the same ones.

use core::time::Duration;

use crate::error::{Error, Result};
use crate::time::millis_up;

use super::index;
use super::quarantine::Quarantine;

/// How much a lease table can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Most ports in one granule.
    pub granule_ports: u32,
    /// Most granules, over all epochs.
    pub granules: u32,
    /// Most origins with state at a time. An origin with one tuple costs 56 bytes. Past it the rest of origins that
    /// have nothing else is forgotten, then [`TooManyOrigins`](super::AcquireError::TooManyOrigins).
    pub origins: u32,
    /// Most pages: one for each granule and origin that have been used together by two connections at a time.
    pub pages: u32,
    /// Most workers at a time, in all processes.
    pub workers: u16,
    /// Most quotas.
    pub quotas: u16,
    /// Most tuples that are live or held at a time towards one origin from one egress IP; 0: as many as there are
    /// ports. Where a port is used by one lease towards all origins (2-tuple-unique, unconnected UDP) it is the most
    /// towards all of them.
    pub per_origin: u32,
    /// How long released tuples are held, and rest, on granules where we choose the port.
    pub quarantine: Quarantine,
    /// The same for granules whose sockets cannot share a bound port or whose ports the kernel chooses: it refuses those
    /// in TIME_WAIT.
    pub unshared_quarantine: Quarantine,
    /// A port that a stranger blocks is tried again after this time. Each try costs a failed `bind`.
    pub park_port: Duration,
    /// A tuple that a stranger has is tried again after this time. Short, because the stranger may be ourselves: a
    /// connection that the peer closed first is not quite gone (LAST_ACK) until the peer's last answer.
    pub park_tuple: Duration,
}

/// Most workers of a table.
const MAX_WORKERS: u16 = 1_024;

impl Default for Config {
    fn default() -> Self {
        Self {
            granule_ports: crate::limits::DEFAULT_GRANULE_PORTS,
            granules: 4_096,
            origins: 65_536,
            pages: 65_536,
            workers: 64,
            // Each costs memory for every owner, and Miri minutes.
            quotas: if cfg!(miri) { 4 } else { 256 },
            per_origin: 0,
            quarantine: Quarantine::default(),
            unshared_quarantine: Quarantine::unshared(),
            park_port: Duration::from_secs(60),
            park_tuple: Duration::from_secs(2),
        }
    }
}

/// The numbers of a [`Config`] as words. The quarantines are kept with the others of the table.
pub(super) const WORDS: usize = 4;

impl Config {
    pub(super) fn check(&self) -> Result<()> {
        let Self { granule_ports, granules, origins, pages, workers, .. } = *self;
        if !(1..=crate::limits::MAX_GRANULE_PORTS).contains(&granule_ports) {
            return Err(Error::input(format!(
                "a lease table for granules of {granule_ports} ports; expected 1 to {}",
                crate::limits::MAX_GRANULE_PORTS
            )));
        }
        for (what, value, most) in [
            ("granules", granules, super::home::MAX_GRANULES),
            ("origins", origins, index::MAX_ITEMS - super::records::FIRST_ORIGIN),
            ("pages", pages, index::MAX_ITEMS),
            ("workers", u32::from(workers), u32::from(MAX_WORKERS)),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::input(format!("a lease table for {value} {what}; expected 1 to {most}")));
            }
        }
        for (what, park) in [("ports", self.park_port), ("tuples", self.park_tuple)] {
            if park > Quarantine::MAX {
                return Err(Error::input(format!(
                    "{what} parked for {park:?}; at most {:?}",
                    Quarantine::MAX
                )));
            }
        }
        Ok(())
    }

    pub(super) fn to_words(self) -> [u64; WORDS] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [
            pair(self.granule_ports, self.granules),
            pair(self.origins, self.pages),
            pair(u32::from(self.workers) | u32::from(self.quotas) << 16, self.per_origin),
            pair(millis_up(self.park_port) as u32, millis_up(self.park_tuple) as u32),
        ]
    }

    /// The configuration that was written, unless no table can have it.
    pub(super) fn from_words(words: [u64; WORDS], quarantines: [Quarantine; 2]) -> Result<Self> {
        let [ports, records, workers, parks] = words;
        let (low, high) = (|word: u64| word as u32, |word: u64| (word >> 32) as u32);
        let [quarantine, unshared_quarantine] = quarantines;
        let config = Self {
            granule_ports: low(ports),
            granules: high(ports),
            origins: low(records),
            pages: high(records),
            workers: workers as u16,
            quotas: (workers >> 16) as u16,
            per_origin: high(workers),
            quarantine,
            unshared_quarantine,
            park_port: Duration::from_millis(low(parks).into()),
            park_tuple: Duration::from_millis(high(parks).into()),
        };
        config.check()?;
        Ok(config)
    }
}
