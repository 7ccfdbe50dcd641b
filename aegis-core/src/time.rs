//! Integer time. The core reads no clock: `now` is an argument everywhere.

use core::fmt;
use core::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment in whole milliseconds since an origin that the caller chooses and keeps.
///
/// For leases use a clock that never goes back and counts suspend (`CLOCK_BOOTTIME`); `aegis-net` has one. A
/// moment before an earlier one is not an error: time then stands still inside the lease table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// The origin of the clock.
    pub const ZERO: Self = Self(0);

    /// The moment `ms` milliseconds after the origin of the clock.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the origin of the clock.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Duration> for Time {
    type Output = Self;

    /// Adds a span, rounded up to whole milliseconds; saturates at the end of time.
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis_up(span)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000, self.0 % 1_000)
    }
}

/// Whole milliseconds of a span, rounded up: a hold may last longer than asked for, never shorter.
pub(crate) fn millis_up(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_round_up_and_saturate() {
        assert_eq!(Time::ZERO + Duration::from_micros(1), Time::from_millis(1));
        assert_eq!(Time::from_millis(u64::MAX) + Duration::from_secs(1), Time::from_millis(u64::MAX));
        assert_eq!(Time::from_millis(5).since(Time::from_millis(9)), Duration::ZERO);
        assert_eq!(Time::from_millis(61_007).to_string(), "61.007s");
    }
}
