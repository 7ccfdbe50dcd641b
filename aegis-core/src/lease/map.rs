//! Where everything is in a table's words.

use core::net::{IpAddr, Ipv6Addr};

use super::Config;
use super::arena::Arena;
use super::index::Index;
use super::page::{self, Page};
use super::quarantine::{MAX_PROFILES, PROFILE_WORDS};
use super::records::FIRST_ORIGIN;
use super::tag::MAX_OWNERS;
use super::{tally, withheld};

/// Memory that a table needs: numbers of words and of tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// 64-bit words.
    pub words: usize,
    /// 16-bit tags.
    pub tags: usize,
}

// Header words. The first is written last: whoever sees it sees all of the table.
pub(super) const MAGIC: usize = 0;
/// Checksum of what no one changes: configuration, hash key, table id.
pub(super) const CHECKSUM: usize = 1;
pub(super) const CONFIG: usize = 2;
pub(super) const HASH_KEY: usize = 6;
pub(super) const TABLE_ID: usize = 8;
/// The latest time that anyone has seen, in milliseconds, at most a quantum behind.
pub(super) const CLOCK: usize = 9;
/// Quarantine profiles in use.
pub(super) const PROFILE_COUNT: usize = 10;
/// Granules that the table knows.
pub(super) const GRANULE_COUNT: usize = 11;
pub(super) const QUOTA_COUNT: usize = 12;
/// The latest epoch whose shares the table was told; 0: none.
pub(super) const EPOCH: usize = 13;
/// Until when anything may be granted (milliseconds); 0: there is no such moment.
pub(super) const TENURE: usize = 14;
// From here on words that change at work, in cache lines of their own.
pub(super) const ORIGIN_COUNTERS: usize = 16;
pub(super) const PAGE_COUNTERS: usize = 18;
pub(super) const GRANULE_COUNTERS: usize = 20;
/// Where the next search for a record to use again begins.
pub(super) const ORIGIN_HAND: usize = 22;
pub(super) const PAGE_HAND: usize = 23;
/// No record, or page, can be used again before that moment (milliseconds).
pub(super) const ORIGINS_FULL: usize = 24;
pub(super) const PAGES_FULL: usize = 25;
pub(super) const HEADER: usize = 32;

// An owner's words.
pub(super) const OWNER_STRIDE: usize = 2;
/// Who it is; 0: nobody.
pub(super) const OWNER_TOKEN: usize = 0;
/// `recoverer + 1` while its leases are taken over.
pub(super) const OWNER_RECOVERER: usize = 1;

// A worker's words; padded so that no two workers share a cache line, wherever the memory starts.
pub(super) const WORKER_STRIDE: usize = WORKER_ENTRIES + tally::ENTRIES + 8;
/// `owner + 1`; 0: nobody's.
pub(super) const WORKER_OWNER: usize = 0;
/// `page << 32 | offset + 1` while a port is taken but its tag is not set yet, or the other way round.
pub(super) const WORKER_INTENT: usize = 1;
/// The same for a sweep, which may happen during a claim.
pub(super) const WORKER_SWEEP: usize = 2;
/// `page + 1` while a page is neither published nor given back.
pub(super) const WORKER_PAGE: usize = 3;
/// The same for an origin record.
pub(super) const WORKER_RECORD: usize = 4;
/// What it has counted lately: see `tally`.
pub(super) const WORKER_ENTRIES: usize = 8;

// A granule's words: address (2), ports and method, state, what was granted and refused (3); then its withheld ports.
pub(super) const GRANULE_SHAPE: usize = 2;
pub(super) const GRANULE_STATE: usize = 3;
pub(super) const GRANULE_COUNTED: usize = 4;
pub(super) const GRANULE_WITHHELD: usize = 7;

// In the state word: the state; a bit for each protocol: some port is parked towards every origin; a bit: some port is
// withheld; how often the state was set, so that it is not the same word again; and for each protocol the moment before which nothing is
// granted, because the granule came from a dead machine.
pub(super) const STATE: u64 = 0b11;
pub(super) const OWNED: u64 = 1;
pub(super) const DRAINING: u64 = 2;
pub(super) const PARKED_PORTS: u64 = 0b100;
pub(super) const WITHHELD_PORTS: u64 = 0b1_0000;
pub(super) const CHANGE: u64 = 1 << 5;
pub(super) const CHANGES: u64 = 0b111_1111_1111 * CHANGE;
pub(super) const NOT_BEFORE_SHIFT: u32 = 16;
/// A deadline is understood for 48 days after it has passed; then it may seem to be up to half an hour ahead once.
pub(super) const NOT_BEFORE_BITS: u32 = 24;

// An origin's words: address (2), port and protocol and more, home, hint that free tuples are scarce.
pub(super) const ORIGIN_STRIDE: usize = 5;
pub(super) const ORIGIN_PORT: usize = 2;
pub(super) const ORIGIN_HOME: usize = 3;
pub(super) const ORIGIN_SCARCE: usize = 4;

// A quota's words.
pub(super) const QUOTA_STRIDE: usize = 4;
pub(super) const QUOTA_LIMIT: usize = 0;
/// `parent + 1`; 0: none.
pub(super) const QUOTA_PARENT: usize = 1;
/// Who it is of, as a hash; 0: nobody was named.
pub(super) const QUOTA_NAME: usize = 2;
/// For every quota, refusals by so many reasons.
pub(crate) const REASONS: usize = 16;

// What a user was granted, and what of it is live, which may be less than nothing where others' leases are released; by
// worker, and by owner for workers that are gone.
pub(super) const USER_STRIDE: usize = 2;
pub(super) const USER_GRANTED: usize = 0;
pub(super) const USER_LIVE: usize = 1;

/// Records of granules beyond those that are configured.
const SPARE_GRANULES: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 256 };

/// Places of all parts, from the configuration alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    pub(super) profiles: usize,
    pub(super) owners: usize,
    pub(super) workers: usize,
    /// `record + 1` of every granule that the table knows, in the order in which it came to know them.
    pub(super) granule_list: usize,
    pub(super) granules: Arena,
    pub(super) quotas: usize,
    /// For every owner: how much of every quota it uses.
    pub(super) quota_counts: usize,
    pub(super) quota_stride: usize,
    /// For every quota, refusals by reason.
    pub(super) refusals: usize,
    /// For every worker, and then for every owner: what every user was granted.
    pub(super) users: usize,
    pub(super) origin_index: Index,
    pub(super) origins: Arena,
    pub(super) page_index: Index,
    pub(super) pages: Arena,
    pub(super) size: Size,
}

impl Map {
    pub(super) fn new(config: &Config) -> Self {
        let mut at = HEADER;
        let mut part = |words: usize| {
            let first = at;
            at += words.next_multiple_of(8);
            first
        };
        let profiles = part(MAX_PROFILES * PROFILE_WORDS);
        let owners = part(MAX_OWNERS as usize * OWNER_STRIDE);
        let workers = part(usize::from(config.workers) * WORKER_STRIDE);
        let granule_list = part(config.granules as usize);
        let mut arena = |counters, stride, capacity: u32| Arena {
            counters,
            first: part(stride * capacity as usize),
            stride,
            capacity,
        };
        // Two processes may add the same granule at once: then one record is left over.
        let granule_words = GRANULE_WITHHELD + withheld::words_for(config.granule_ports);
        let granules = arena(GRANULE_COUNTERS, granule_words, config.granules.saturating_add(SPARE_GRANULES));
        let origins = arena(ORIGIN_COUNTERS, ORIGIN_STRIDE, config.origins + FIRST_ORIGIN);
        let page_words = page::HEADER + Page::words_for(config.granule_ports);
        let pages = arena(PAGE_COUNTERS, page_words, config.pages);
        let quotas = part(usize::from(config.quotas) * QUOTA_STRIDE);
        let quota_stride = usize::from(config.quotas).next_multiple_of(8);
        let quota_counts = part(quota_stride * MAX_OWNERS as usize);
        let refusals = part(REASONS * usize::from(config.quotas));
        // A stride of whole cache lines, and one between two workers.
        let users = part((usize::from(config.workers) + MAX_OWNERS as usize) * users_stride(config));
        let mut index = |items: u32| {
            let windows = Index::windows_for(items);
            Index { first: part(windows as usize * Index::WINDOW), windows }
        };
        let origin_index = index(config.origins);
        let page_index = index(config.pages);
        let tags = config.pages as usize * config.granule_ports as usize;
        let size = Size { words: at, tags };
        Self {
            profiles,
            owners,
            workers,
            granule_list,
            granules,
            quotas,
            quota_counts,
            quota_stride,
            refusals,
            users,
            origin_index,
            origins,
            page_index,
            pages,
            size,
        }
    }
}

/// Words of one worker's, or owner's, counts of all users.
pub(super) fn users_stride(config: &Config) -> usize {
    match config.quotas {
        0 => 0,
        quotas => (usize::from(quotas) * USER_STRIDE).next_multiple_of(8) + 8,
    }
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
