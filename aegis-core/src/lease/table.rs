//! The structure that holds tuples: which (origin, egress IP, port) is taken, by whom, and until when.
//!
//! Everything shared is in the words and tags of a [`Memory`], by index, so that one design serves threads and
//! processes. No lock is held anywhere: every step is one atomic operation, and whoever stops between two of them
//! stops nobody else. What is read from there is checked before it is used: other processes may have written anything.
//!
//! ```text
//! header | quarantines | owners | workers | granules | origins | pages | quotas | two indices     tags of the pages
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicU64, Ordering::SeqCst};
use crate::time::Time;

use super::config::{self, Config};
use super::map::{
    CHECKSUM, CLOCK, CONFIG, HASH_KEY, HEADER, MAGIC, Map, ORIGIN_COUNTERS, PROFILE_COUNT, Size, TABLE_ID,
    WORKER_STRIDE,
};
use super::page::{FULL, Page};
use super::pages::PageRef;
use super::quarantine::{PROFILE_WORDS, Quarantine};
use super::records::FIRST_ORIGIN;
use super::tag::{OwnerNumber, QUANTUM_MS};
use super::{Heap, Memory, Seed, grant};

/// The last moment in milliseconds.
const END_OF_TIME: u64 = 1 << 54;

/// A table's first word: what it is, and the version of its layout.
const MARK: u64 = u64::from_le_bytes(*b"aegisLT5");

/// The structure that holds tuples; shared by all workers of a machine.
#[derive(Debug)]
pub struct Table<M: Memory = Heap> {
    memory: M,
    pub(super) map: Map,
    pub(super) config: Config,
    id: u32,
    owner: OwnerNumber,
    shared: bool,
    /// 1 while a thread of this process takes over what a dead one held.
    pub(super) recovering: AtomicU64,
}

impl Table {
    /// A table in memory of this process. `seed` keys the hashing of origins and names the table.
    ///
    /// # Errors
    /// As [`Table::create`].
    pub fn new(config: Config, seed: Seed) -> Result<Self> {
        config.check()?;
        Self::of_this_process(config, Heap::zeroed(Map::new(&config).size)?, seed)
    }
}

impl<M: Memory> Table<M> {
    /// As [`Table::new`], in zeroed `memory` that no other process sees.
    pub(crate) fn of_this_process(config: Config, memory: M, seed: Seed) -> Result<Self> {
        let mut table = Self::create(config, memory, seed, 1)?;
        table.shared = false;
        Ok(table)
    }

    /// Memory that a table of this configuration needs.
    ///
    /// # Errors
    /// A number of the configuration is out of its range.
    pub fn size(config: &Config) -> Result<Size> {
        config.check()?;
        Ok(Map::new(config).size)
    }

    /// A new table in zeroed `memory` that nobody else uses yet. `owner` names this process among all that ever use the
    /// table, and is not 0: `aegis-net` has such a number.
    ///
    /// # Errors
    /// A number of the configuration is out of its range; the memory is too small or not zeroed.
    pub fn create(config: Config, memory: M, seed: Seed, owner: u64) -> Result<Self> {
        config.check()?;
        let map = Map::new(&config);
        check_size(&memory, map.size)?;
        let words = memory.words();
        if words[..HEADER].iter().any(|word| word.load(SeqCst) != 0) {
            return Err(Error::input(
                "the memory for a new lease table is not zeroed; clear it, or give another",
            ));
        }
        for (at, value) in (CONFIG..).zip(config.to_words()) {
            words[at].store(value, SeqCst);
        }
        for (at, part) in [HASH_KEY, HASH_KEY + 1, TABLE_ID].into_iter().zip(seed.chunks_exact(8)) {
            words[at].store(u64::from_le_bytes(part.try_into().expect("chunks of 8 bytes")), SeqCst);
        }
        for (slot, quarantine) in [config.quarantine, config.unshared_quarantine].into_iter().enumerate() {
            for (at, span) in (map.profiles + slot * PROFILE_WORDS..).zip(quarantine.to_words()) {
                words[at].store(span, SeqCst);
            }
        }
        words[PROFILE_COUNT].store(2, SeqCst);
        words[ORIGIN_COUNTERS].store(FIRST_ORIGIN.into(), SeqCst);
        words[CHECKSUM].store(checksum(words), SeqCst);
        let mut table = Self::over(memory, map, config);
        table.init_records();
        table.owner = table.join(owner)?;
        table.words()[MAGIC].store(MARK, SeqCst);
        Ok(table)
    }

    /// The table that another process has created in `memory`; `owner` as in [`Table::create`].
    ///
    /// # Errors
    /// [`ErrorKind::Reload`]: there is no lease table in the memory, or one of another version or size, or a damaged
    /// one; [`ErrorKind::Wait`]: as many processes use it as can.
    pub fn open(memory: M, owner: u64) -> Result<Self> {
        let refused = |why: String| {
            Error::new(ErrorKind::Reload, format!("{why}; create a new lease table in other memory"))
        };
        let words = memory.words();
        let Some(mark) = words.get(..HEADER).map(|header| header[MAGIC].load(SeqCst)) else {
            return Err(refused(format!("memory of {} words holds no lease table", words.len())));
        };
        if mark != MARK {
            return Err(refused(format!(
                "no lease table of this version: the memory begins with {mark:#018x}, expected {MARK:#018x}"
            )));
        }
        let (found, expected) = (words[CHECKSUM].load(SeqCst), checksum(words));
        if found != expected {
            return Err(refused(format!(
                "the lease table is damaged: its checksum is {found:#x}, expected {expected:#x}"
            )));
        }
        let read = |at: usize| words.get(at).map_or(0, |word| word.load(SeqCst));
        let quarantine = |slot: usize| {
            Quarantine::from_words(core::array::from_fn(|at| read(HEADER + slot * PROFILE_WORDS + at)))
        };
        let numbers = core::array::from_fn::<_, { config::WORDS }, _>(|at| read(CONFIG + at));
        let config = quarantine(0)
            .and_then(|first| Config::from_words(numbers, [first, quarantine(1)?]))
            .map_err(|error| refused(format!("the lease table is damaged: {}", error.message())))?;
        let map = Map::new(&config);
        check_size(&memory, map.size).map_err(|error| refused(error.message().to_owned()))?;
        let mut table = Self::over(memory, map, config);
        table.owner = table.join(owner)?;
        Ok(table)
    }

    /// A table that has not joined the others yet.
    fn over(memory: M, map: Map, config: Config) -> Self {
        let id = memory.words()[TABLE_ID].load(SeqCst) as u32 & grant::MAX_TABLE;
        Self { memory, map, config, id, owner: OwnerNumber(0), shared: true, recovering: AtomicU64::new(0) }
    }

    /// The memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// How much the table can hold, and by which rules.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Never goes back, whatever the callers' clocks do. One that runs far ahead stops time for the others until they
    /// catch up: holds then last longer, never shorter.
    #[inline]
    pub(super) fn clock(&self, now: Time) -> Time {
        let clock = &self.words()[CLOCK];
        let seen = clock.load(SeqCst).min(END_OF_TIME);
        // Beyond the end no deadline could be told: in half a million years.
        let now = now.as_millis().min(END_OF_TIME).max(seen);
        if now - seen >= QUANTUM_MS {
            clock.fetch_max(now, SeqCst);
        }
        Time::from_millis(now)
    }

    #[inline]
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// This process's number in the tags.
    #[inline]
    pub(super) fn owner(&self) -> OwnerNumber {
        self.owner
    }

    /// Do other processes use the memory, who would ask what a dead one was about to do?
    #[inline]
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    #[inline]
    pub(super) fn worker_words(&self, worker: u16) -> &[AtomicU64] {
        let at = self.map.workers + usize::from(worker) * WORKER_STRIDE;
        &self.words()[at..at + WORKER_STRIDE]
    }

    /// Can nothing be granted from this page? A few loads, without a view of all of it.
    #[inline]
    pub(super) fn is_full(&self, page: PageRef, now: Time) -> bool {
        let pages = &self.map.pages;
        let header = &self.words()[pages.first + page.index as usize * pages.stride..];
        Page::says_full(&header[FULL], now) && Page::life_of(header) == page.life
    }

    /// A page below the capacity.
    #[inline]
    pub(super) fn page(&self, index: u32) -> Page<'_> {
        let ports = self.config.granule_ports as usize;
        let tags = index as usize * ports;
        Page::new(self.map.pages.record(self.words(), index), &self.memory.tags()[tags..tags + ports])
    }
}

fn check_size(memory: &impl Memory, size: Size) -> Result<()> {
    let (words, tags) = (memory.words().len(), memory.tags().len());
    if words < size.words || tags < size.tags {
        return Err(Error::input(format!(
            "memory of {words} words and {tags} tags for a lease table that needs {} and {}",
            size.words, size.tags
        )));
    }
    Ok(())
}

/// Of what nobody changes. It finds accidents, not forgers.
fn checksum(words: &[AtomicU64]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    let constants = (CONFIG..=TABLE_ID).chain(HEADER..HEADER + 2 * PROFILE_WORDS);
    for word in constants.filter_map(|at| words.get(at)) {
        hasher.update(&word.load(SeqCst).to_le_bytes());
    }
    1 << 32 | u64::from(hasher.finalize())
}
