//! By which rules is a day replayed?

use core::num::NonZeroU32;
use core::time::Duration;

use crate::error::{Error, Result};
use crate::exit::SpillOver;
use crate::lease::{Quarantine, Seed};
use crate::limits::{DEFAULT_V6_ADDRESSES, MAX_V6_ADDRESSES};
use crate::time::Time;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest time that is replayed, and that a connection may last.
pub(super) const LONGEST: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// So late anything may be: of Unix time in milliseconds it is the year 10889, and what is larger is another unit.
pub(super) const LATEST_MS: u64 = 1 << 48;

/// How a replay is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Nothing starts before.
    pub from: Time,
    /// The replay ends then, whatever is still open; averages are over the time from `from`. At most 31 days later.
    pub until: Time,
    /// How long ports are held after a close. What rests may be granted, so it makes no difference here.
    pub quarantine: Quarantine,
    /// What a record is: a connection, or a request that may find one.
    pub reuse: Reuse,
    /// Where a connection may go when the best data center for it is full, or nearly. It may go to all machines of that
    /// one in any case.
    pub spill_over: SpillOver,
    /// How often the use is told: 1 s to 24 h, in whole milliseconds.
    pub interval: Duration,
    /// IPv6 source addresses that each machine uses of its block.
    pub v6_addresses: u32,
    /// The same seed gives the same outcome. No secret.
    pub seed: Seed,
}

impl Default for Settings {
    /// A day from [`Time::ZERO`] in intervals of a minute, of connections that do not spill over.
    fn default() -> Self {
        Self {
            from: Time::ZERO,
            until: Time::ZERO + DAY,
            quarantine: Quarantine::default(),
            reuse: Reuse::Never,
            spill_over: SpillOver::Never,
            interval: Duration::from_secs(60),
            v6_addresses: DEFAULT_V6_ADDRESSES,
            seed: [0; 32],
        }
    }
}

/// When does a request need a connection of its own?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reuse {
    /// Always: records are connections.
    Never,
    /// The first of so many requests from one machine to one origin; the connection lasts as long as that request.
    Ratio(NonZeroU32),
    /// When no connection from its machine to its origin is idle. A connection is closed after being idle for so long
    /// (up to 24 h); the one that was used last is used next.
    KeepAlive(Duration),
}

impl Settings {
    pub(super) fn check(&self) -> Result<()> {
        let span = self.until.since(self.from);
        if span.is_zero() || span > LONGEST {
            return Err(Error::input(format!(
                "a replay from {} until {}; it must end after it begins, and at most 31 days later",
                self.from, self.until
            )));
        }
        if self.until.as_millis() > LATEST_MS {
            return Err(Error::input(format!(
                "a replay until {}; count milliseconds from the Unix epoch or later",
                self.until
            )));
        }
        let second = Duration::from_secs(1);
        if !(second..=DAY).contains(&self.interval) || self.interval.subsec_nanos() % 1_000_000 != 0 {
            return Err(Error::input(format!(
                "intervals of {:?}; expected 1 s to 24 h in whole milliseconds",
                self.interval
            )));
        }
        if let Reuse::KeepAlive(idle) = self.reuse {
            if idle > DAY {
                return Err(Error::input(format!("connections kept idle for {idle:?}; at most 24 h")));
            }
        }
        if self.v6_addresses > MAX_V6_ADDRESSES {
            return Err(Error::input(format!(
                "{} IPv6 addresses of each machine; at most {MAX_V6_ADDRESSES}",
                self.v6_addresses
            )));
        }
        Ok(())
    }
}
