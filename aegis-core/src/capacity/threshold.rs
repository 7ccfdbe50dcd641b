//! From when on must somebody know?

use core::fmt;
use core::num::NonZeroU64;
use core::time::Duration;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::load::{Dimension, Group};
use super::rules::Percent;
use crate::error::{Error, Result};
use crate::limits::DEFAULT_ALARM_HOLD_SECONDS;

/// How much is too much. Nothing in use never is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Of the ports provisioned. Anything in use reaches it where none are.
    Percent(Percent),
    /// Live and held connections.
    Count(NonZeroU64),
}

impl Level {
    /// Is `in_use` at or above it?
    pub const fn is_reached(self, in_use: u64, provisioned: u64) -> bool {
        match self {
            Self::Percent(percent) => in_use > 0 && !percent.exceeds(in_use, provisioned),
            Self::Count(count) => in_use >= count.get(),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => percent.fmt(f),
            Self::Count(count) => write!(f, "{count} connections"),
        }
    }
}

/// When an alarm is raised, and when it is cleared.
///
/// It is raised when a group's use has been at or above the level for the time that it must last, and cleared when it is
/// below the clearing level and the alarm has been raised for the hold. The hold delays the all-clear and never an
/// alarm: so one group has at most one alarm in each hold, and none comes late.
///
/// Operators write it so (all but `name` and one of `percent` and `count` may be left out):
///
/// ```
/// # let threshold: aegis_core::capacity::Threshold = toml::from_str(r#"
/// name = "nearly full in Frankfurt"
/// by = ["egress_ip", "origin"]     # an alarm for each; without it, one for the sum of all
/// only = { data_center = "fra" }   # all, if left out
/// percent = 80                     # of the ports provisioned; or count = 40000
/// clear_below = 75                 # in the same unit; the level itself, if left out
/// lasting_seconds = 120            # 0, if left out: then the peak between two samples counts too
/// hold_seconds = 3600              # 300, if left out
/// # "#).unwrap();
/// # assert_eq!(threshold.name(), "nearly full in Frankfurt");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Threshold {
    name: Box<str>,
    pub(super) by: BTreeSet<Dimension>,
    pub(super) only: Group,
    pub(super) level: Level,
    pub(super) clear_below: Level,
    lasting_seconds: u32,
    hold_seconds: u32,
}

impl Threshold {
    /// Alarms as soon as the sum of all loads reaches `level`, cleared as soon as it is below again and the default hold
    /// ([`DEFAULT_ALARM_HOLD_SECONDS`]) is over.
    ///
    /// # Errors
    /// An empty name: alarms are told apart by it.
    pub fn new(name: &str, level: Level) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::input(format!("the threshold of {level} has an empty name; give it one")));
        }
        Ok(Self {
            name: name.into(),
            by: BTreeSet::new(),
            only: Group::default(),
            level,
            clear_below: level,
            lasting_seconds: 0,
            hold_seconds: DEFAULT_ALARM_HOLD_SECONDS,
        })
    }

    /// The same, for each group by these dimensions.
    #[must_use]
    pub fn by(mut self, dimensions: impl IntoIterator<Item = Dimension>) -> Self {
        self.by = dimensions.into_iter().collect();
        self
    }

    /// The same, for loads that have every value that `selector` has.
    #[must_use]
    pub fn only(mut self, selector: Group) -> Self {
        self.only = selector;
        self
    }

    /// The same, but an alarm is not cleared before the use is below `level`.
    ///
    /// # Errors
    /// Above the level that raises it (it would be cleared at once), or a percentage for a count.
    pub fn clear_below(mut self, level: Level) -> Result<Self> {
        let is_above = match (level, self.level) {
            (Level::Percent(clear), Level::Percent(level)) => clear > level,
            (Level::Count(clear), Level::Count(level)) => clear > level,
            (clear, level) => {
                return Err(
                    self.fault(format!("clears below {clear}, but its level is {level}; give both alike"))
                );
            }
        };
        if is_above {
            let raised = self.level;
            return Err(
                self.fault(format!("clears below {level}, above its level; expected {raised} at most"))
            );
        }
        self.clear_below = level;
        Ok(self)
    }

    /// The same, but the use must have been at or above the level in every sample of `span`, rounded up to whole seconds.
    /// If it must not last at all, the peak between two samples counts too.
    #[must_use]
    pub fn lasting(mut self, span: Duration) -> Self {
        self.lasting_seconds = seconds_up(span);
        self
    }

    /// The same, but an alarm stays raised for `span` at least, rounded up to whole seconds.
    #[must_use]
    pub fn hold(mut self, span: Duration) -> Self {
        self.hold_seconds = seconds_up(span);
        self
    }

    /// What its alarms are told apart by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How much is too much.
    pub const fn level(&self) -> Level {
        self.level
    }

    pub(super) const fn lasting_span(&self) -> Duration {
        Duration::from_secs(self.lasting_seconds as u64)
    }

    pub(super) const fn hold_span(&self) -> Duration {
        Duration::from_secs(self.hold_seconds as u64)
    }

    fn fault(&self, reason: impl fmt::Display) -> Error {
        Error::input(format!("threshold {:?} {reason}", self.name))
    }
}

fn seconds_up(span: Duration) -> u32 {
    u32::try_from(span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0))).unwrap_or(u32::MAX)
}

/// How a threshold is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Box<str>,
    #[serde(default)]
    by: BTreeSet<Dimension>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<i64>,
    clear_below: Option<i64>,
    #[serde(default)]
    lasting_seconds: u32,
    #[serde(default = "default_hold")]
    hold_seconds: u32,
    // The last, because TOML writes tables after plain values.
    #[serde(default)]
    only: Group,
}

const fn default_hold() -> u32 {
    DEFAULT_ALARM_HOLD_SECONDS
}

impl TryFrom<Written> for Threshold {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let Written { name, by, percent, count, clear_below, lasting_seconds, hold_seconds, only } = written;
        let fault = |reason: &str| Error::input(format!("threshold {name:?} {reason}"));
        let to_percent =
            |n| Percent::try_from(n).map(Level::Percent).map_err(|e| fault(&format!("is not usable: {e}")));
        let to_count = |n: i64| {
            let count = u64::try_from(n).ok().and_then(NonZeroU64::new);
            let reason = || format!("is about {n} connections; expected 1 or more");
            count.map(Level::Count).ok_or_else(|| fault(&reason()))
        };
        let (level, clear_below) = match (percent, count) {
            (Some(percent), None) => (to_percent(percent)?, clear_below.map(to_percent).transpose()?),
            (None, Some(count)) => (to_count(count)?, clear_below.map(to_count).transpose()?),
            (None, None) => return Err(fault("has no level; give it a percent or a count")),
            (Some(_), Some(_)) => return Err(fault("has a percent and a count; make two thresholds of it")),
        };
        let threshold = Self::new(&name, level)?.by(by).only(only);
        let threshold = threshold.clear_below(clear_below.unwrap_or(level))?;
        Ok(Self { lasting_seconds, hold_seconds, ..threshold })
    }
}

impl From<Threshold> for Written {
    fn from(threshold: Threshold) -> Self {
        let Threshold { name, by, only, level, clear_below, lasting_seconds, hold_seconds } = threshold;
        let number = |level| match level {
            Level::Percent(percent) => i64::from(percent.get()),
            // What no file can say is more than there are connections.
            Level::Count(count) => i64::try_from(count.get()).unwrap_or(i64::MAX),
        };
        let (percent, count) = match level {
            Level::Percent(_) => (Some(number(level)), None),
            Level::Count(_) => (None, Some(number(level))),
        };
        let clear_below = Some(number(clear_below));
        Self { name, by, percent, count, clear_below, lasting_seconds, hold_seconds, only }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(percent: u32) -> Level {
        Level::Percent(Percent::new(percent).unwrap())
    }

    fn count(count: u64) -> Level {
        Level::Count(NonZeroU64::new(count).unwrap())
    }

    #[test]
    fn a_level_is_reached_at_it_exactly_and_never_by_nothing() {
        for (level, in_use, provisioned, reached) in [
            (percent(80), 79, 100, false),
            (percent(80), 80, 100, true),
            // 80 % of 2,047 are 1,637.6.
            (percent(80), 1_637, 2_047, false),
            (percent(80), 1_638, 2_047, true),
            (percent(100), u64::MAX - 1, u64::MAX, false),
            (percent(1), 0, 0, false),
            (percent(100), 1, 0, true),
            (count(5), 4, 0, false),
            (count(5), 5, 0, true),
        ] {
            assert_eq!(level.is_reached(in_use, provisioned), reached, "{in_use} of {provisioned}, {level}");
        }
    }

    #[test]
    fn a_threshold_is_written_as_it_is_read() {
        let text = r#"{"name":"n","percent":80}"#;
        let short: Threshold = serde_json::from_str(text).unwrap();
        assert_eq!((short.clear_below, short.lasting_span()), (percent(80), Duration::ZERO));
        assert_eq!(short.hold_span(), Duration::from_secs(300));
        let long = Threshold::new("l", count(40_000)).unwrap().clear_below(count(39_000)).unwrap();
        let long = long.by([Dimension::EgressIp, Dimension::Origin]).lasting(Duration::from_millis(1_500));
        let long = long.hold(Duration::MAX).only(toml::from_str("data_center = \"fra\"").unwrap());
        assert_eq!((long.lasting_seconds, long.hold_seconds), (2, u32::MAX));
        for threshold in [short, long] {
            assert_eq!(
                toml::from_str::<Threshold>(&toml::to_string(&threshold).unwrap()).unwrap(),
                threshold
            );
            let json = serde_json::to_string(&threshold).unwrap();
            assert_eq!(serde_json::from_str::<Threshold>(&json).unwrap(), threshold);
        }
    }

    #[test]
    fn refusals_name_the_threshold_and_the_value() {
        for (text, words) in [
            ("percent = 0", "threshold \"n\" is not usable: 0 percent is out of range; expected 1 to 100"),
            ("percent = 101", "101 percent is out of range"),
            ("count = 0", "threshold \"n\" is about 0 connections; expected 1 or more"),
            ("count = -4", "is about -4 connections"),
            ("", "has no level"),
            ("percent = 5\ncount = 5", "make two thresholds of it"),
            ("percent = 80\nclear_below = 81", "clears below 81 %, above its level; expected 80 % at most"),
            ("count = 5\nclear_below = 6", "clears below 6 connections, above its level"),
            ("count = 5\nclear_below = 0", "is about 0 connections"),
            ("percent = 5\nholding_seconds = 5", "holding_seconds"),
            ("percent = 5\nby = [\"pool\"]", "pool"),
        ] {
            let e = toml::from_str::<Threshold>(&format!("name = \"n\"\n{text}")).unwrap_err().to_string();
            assert!(e.contains(words), "{text}: {e}");
        }
        assert!(Threshold::new("", percent(5)).unwrap_err().message().contains("5 % has an empty name"));
        let mixed = Threshold::new("n", percent(5)).unwrap().clear_below(count(5)).unwrap_err();
        assert!(mixed.message().contains("give both alike"), "{mixed}");
    }
}
