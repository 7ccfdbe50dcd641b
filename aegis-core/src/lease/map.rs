//! How much a lease table holds, and where everything is in its words.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use crate::error::{Error, Result};

use super::arena::Arena;
use super::page::{self, Page};
use super::quarantine::Quarantine;
use super::tag::MAX_WORKERS;

/// How much a lease table can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Most ports in one granule.
    pub granule_ports: u32,
    /// Most granules, over all epochs.
    pub granules: u32,
    /// Most origins with state at a time.
    pub origins: u32,
    /// Most pages: one for each granule and origin that are used together.
    pub pages: u32,
    /// Most workers at a time, at most 127.
    pub workers: u8,
    /// How long released tuples are held, and rest.
    pub quarantine: Quarantine,
    /// A port that a stranger blocks is tried again after this time. Each try costs a failed `bind`.
    pub park_port: Duration,
    /// A tuple that a stranger has is tried again after this time. Short, because the stranger may be ourselves: a
    /// connection that the peer closed first is not quite gone (LAST_ACK) until the peer's last answer.
    pub park_tuple: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            granule_ports: crate::limits::DEFAULT_GRANULE_PORTS,
            granules: 4_096,
            origins: 65_536,
            pages: 65_536,
            workers: 64,
            quarantine: Quarantine::default(),
            park_port: Duration::from_secs(60),
            park_tuple: Duration::from_secs(2),
        }
    }
}

/// Memory that a table needs: numbers of words and of tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// 64-bit words.
    pub words: usize,
    /// 16-bit tags.
    pub tags: usize,
}

// Header words.
pub(super) const HASH_KEY: usize = 0;
pub(super) const TABLE_ID: usize = 2;
/// The latest time that anyone has seen, in milliseconds, at most a quantum behind.
pub(super) const CLOCK: usize = 3;
pub(super) const ORIGIN_COUNTERS: usize = 4;
pub(super) const PAGE_COUNTERS: usize = 6;
pub(super) const GRANULE_COUNT: usize = 8;
/// 1 while somebody adds granules.
pub(super) const GRANULE_ADDER: usize = 9;
pub(super) const HEADER: usize = 16;

// A worker's words; padded so that no two workers share a cache line, wherever the memory starts.
pub(super) const WORKER_STRIDE: usize = 16;
pub(super) const WORKER_ATTACHED: usize = 0;
/// `page << 32 | offset + 1` while a port is taken but its tag is not set yet.
pub(super) const WORKER_INTENT: usize = 1;
pub(super) const WORKER_GRANTED: usize = 2;

// A granule's words: address (2), ports, state and parked page.
pub(super) const GRANULE_STRIDE: usize = 4;
pub(super) const GRANULE_RANGE: usize = 2;
pub(super) const GRANULE_STATE: usize = 3;

// In the state word: the state in the low byte, above it the page of ports parked for every origin, plus one.
pub(super) const STATE: u64 = 0xff;
pub(super) const OWNED: u64 = 1;
pub(super) const DRAINING: u64 = 2;

// An origin's words: address (2), port and protocol, hint that free tuples are scarce.
pub(super) const ORIGIN_STRIDE: usize = 4;
pub(super) const ORIGIN_PORT: usize = 2;
pub(super) const ORIGIN_SCARCE: usize = 3;

/// Places of all parts, from the configuration alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    pub(super) workers: usize,
    pub(super) granules: usize,
    pub(super) origin_slots: usize,
    pub(super) origin_mask: u64,
    pub(super) origins: Arena,
    pub(super) page_slots: usize,
    pub(super) page_mask: u64,
    pub(super) pages: Arena,
    pub(super) size: Size,
}

impl Map {
    pub(super) fn new(config: &Config) -> Self {
        let slots = |records: u32| (records as usize * 2).next_power_of_two();
        let workers = HEADER;
        let granules = workers + config.workers as usize * WORKER_STRIDE;
        let origin_slots = granules + config.granules as usize * GRANULE_STRIDE;
        let origins = Arena {
            counters: ORIGIN_COUNTERS,
            first: origin_slots + slots(config.origins),
            stride: ORIGIN_STRIDE,
            capacity: config.origins.saturating_add(1),
        };
        let page_slots = origins.first + origins.words();
        let pages = Arena {
            counters: PAGE_COUNTERS,
            first: page_slots + slots(config.pages) * 2,
            stride: page::HEADER + Page::state_words(config.granule_ports),
            capacity: config.pages,
        };
        let size = Size {
            words: pages.first + pages.words(),
            tags: config.pages as usize * config.granule_ports as usize,
        };
        Self {
            workers,
            granules,
            origin_slots,
            origin_mask: slots(config.origins) as u64 - 1,
            origins,
            page_slots,
            page_mask: slots(config.pages) as u64 - 1,
            pages,
            size,
        }
    }
}

pub(super) fn check(config: &Config) -> Result<()> {
    let Config { granule_ports, granules, origins, pages, workers, .. } = *config;
    if !(1..=crate::limits::MAX_GRANULE_PORTS).contains(&granule_ports) {
        return Err(Error::input(format!(
            "a lease table for granules of {granule_ports} ports; expected 1 to {}",
            crate::limits::MAX_GRANULE_PORTS
        )));
    }
    for (what, value) in [("granules", granules), ("origins", origins), ("pages", pages)] {
        if !(1..=1 << 28).contains(&value) {
            return Err(Error::input(format!("a lease table for {value} {what}; expected 1 to {}", 1 << 28)));
        }
    }
    if !(1..=MAX_WORKERS).contains(&workers) {
        return Err(Error::input(format!(
            "a lease table for {workers} workers; expected 1 to {MAX_WORKERS}"
        )));
    }
    for (what, park) in [("ports", config.park_port), ("tuples", config.park_tuple)] {
        if park > Quarantine::MAX {
            return Err(Error::input(format!("{what} parked for {park:?}; at most {:?}", Quarantine::MAX)));
        }
    }
    Ok(())
}

/// An address as two words; IPv4 in its mapped form, so that one address has one key.
pub(super) fn ip_words(ip: IpAddr) -> [u64; 2] {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

pub(super) fn words_ip(high: u64, low: u64) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))).to_canonical()
}
