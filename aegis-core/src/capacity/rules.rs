//! How much may be used? Two rules, each a setting of its own.

use core::fmt;
use core::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::limits::{PLANNING_FRACTION_PERCENT, RECOMMENDED_CONNECTIONS};

/// A whole percentage, 1 to 100.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u32")]
pub struct Percent(u32);

impl Percent {
    /// `percent` hundredths.
    ///
    /// # Errors
    /// 0, which everything reaches, and more than 100, which nothing does: there are no more ports than are provisioned.
    pub fn new(percent: u32) -> Result<Self> {
        Self::try_from(i64::from(percent))
    }

    /// Hundredths, 1 to 100.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// So much of `whole`, rounded down.
    pub const fn of(self, whole: u64) -> u64 {
        // In 128 bits, where the product fits; the result is at most `whole`.
        (whole as u128 * self.0 as u128 / 100) as u64
    }

    /// Is this percentage of `whole` more than `part`? Exact, and false where `whole` is 0.
    pub(super) const fn exceeds(self, part: u64, whole: u64) -> bool {
        (part as u128 * 100) < (whole as u128 * self.0 as u128)
    }
}

impl TryFrom<i64> for Percent {
    type Error = Error;

    // Wider than the type, so that a file with -5 or 300 is answered by this message and not by a parser's.
    fn try_from(percent: i64) -> Result<Self> {
        match u32::try_from(percent) {
            Ok(percent @ 1..=100) => Ok(Self(percent)),
            _ => Err(Error::input(format!("{percent} percent is out of range; expected 1 to 100"))),
        }
    }
}

impl From<Percent> for u32 {
    fn from(percent: Percent) -> Self {
        percent.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// The two rules. Neither follows from the other, so setting one leaves the other alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// How much of the ports provisioned to plan with; [`PLANNING_FRACTION_PERCENT`] unless set.
    pub planning_percent: Percent,
    /// Concurrent connections that are recommended at most from one egress IP to one origin ip:port, by all machines
    /// together; [`RECOMMENDED_CONNECTIONS`] unless set.
    pub recommended_connections: NonZeroU32,
}

impl Default for Rules {
    fn default() -> Self {
        const { assert!(0 < PLANNING_FRACTION_PERCENT && PLANNING_FRACTION_PERCENT <= 100) };
        const RECOMMENDED: NonZeroU32 = NonZeroU32::new(RECOMMENDED_CONNECTIONS).expect("not 0");
        Self { planning_percent: Percent(PLANNING_FRACTION_PERCENT), recommended_connections: RECOMMENDED }
    }
}

/// How many of `ports` to plan with: the planning fraction ([`PLANNING_FRACTION_PERCENT`]) of them, rounded down.
///
/// The recommended number of connections per egress IP and origin ([`RECOMMENDED_CONNECTIONS`]) is a setting of its own
/// and does not follow from this.
pub const fn planned_ports(ports: u64) -> u64 {
    Percent(PLANNING_FRACTION_PERCENT).of(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_rules_are_set_apart_from_each_other() {
        let rules: Rules = toml::from_str("planning_percent = 50").unwrap();
        assert_eq!(
            (rules.planning_percent.of(65_535), rules.recommended_connections.get()),
            (32_767, 40_000)
        );
        let rules: Rules = toml::from_str("recommended_connections = 1000").unwrap();
        assert_eq!((rules.planning_percent.of(65_535), rules.recommended_connections.get()), (52_428, 1_000));
        let again: Rules = serde_json::from_str(&serde_json::to_string(&rules).unwrap()).unwrap();
        assert_eq!(again, rules);
        assert!(toml::from_str::<Rules>("recommended_connections = 0").is_err());
        assert!(
            toml::from_str::<Rules>("planing_percent = 5")
                .unwrap_err()
                .to_string()
                .contains("planing_percent")
        );
    }

    #[test]
    fn percentages_are_1_to_100_and_round_down_without_overflow() {
        for text in ["0", "101", "-1", "4294967297"] {
            let e = toml::from_str::<Rules>(&format!("planning_percent = {text}")).unwrap_err().to_string();
            assert!(e.contains(&format!("{text} percent is out of range; expected 1 to 100")), "{e}");
        }
        assert!(Percent::new(0).is_err());
        assert_eq!(Percent::new(100).unwrap().of(u64::MAX), u64::MAX);
        assert_eq!(planned_ports(u32::MAX.into()), 3_435_973_836);
        assert_eq!(planned_ports(u64::MAX), u64::MAX / 5 * 4);
        let eighty = Percent::new(80).unwrap();
        assert!(eighty.exceeds(79, 100) && !eighty.exceeds(80, 100) && !eighty.exceeds(0, 0));
        assert!(Percent::new(100).unwrap().exceeds(u64::MAX - 1, u64::MAX));
    }
}
