//! What would a day be like? Requests at random, more of them in the evening of where they come in.
//!
//! A Poisson process whose rate changes every five minutes; records are made one by one, in order. The same seed gives
//! the same day on every platform with IEEE 754 arithmetic in 64 bits (all but 32-bit x86 without SSE2).

use core::time::Duration;

use crate::error::{Error, Result};
use crate::fleet::Coordinates;
use crate::lease::{Closed, Seed};
use crate::time::Time;

use super::paths::{Ingress, Target};
use super::settings::LATEST_MS;
use super::trace::Record;
use super::variates::{Random, Weighted, exp};

const HOUR_MS: i64 = 60 * 60 * 1_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// As long the rates stay the same.
const STEP_MS: u64 = 5 * 60 * 1_000;
/// Weights of data centers are in these parts of a request a second.
const MILLIONTHS: f64 = 1e6;
/// Most requests a second, on average: what is above is another unit, and keeps sums of weights below 2^64.
const MOST_PER_SECOND: f64 = 1e7;

/// How much happens in each hour of local time, in the middle of it; between two of them it changes evenly. Only the
/// proportions count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Curve(pub [u16; 24]);

impl Curve {
    /// The same all day.
    pub const FLAT: Self = Self([1; 24]);
    /// A day of a consumer's network: most at nine in the evening, a quarter of that at five in the morning. An
    /// assumption: give your own where you have measured it.
    pub const EVENING: Self = Self([
        68, 52, 42, 38, 38, 38, 46, 58, 74, 86, 94, 98, 100, 102, 104, 106, 110, 114, 122, 134, 146, 150,
        132, 98,
    ]);

    /// Relative to the average, at a moment of local time (in milliseconds; any day).
    fn at(&self, local_ms: i64) -> f64 {
        // From the middle of one hour to the middle of the next.
        let since = (local_ms - HOUR_MS / 2).rem_euclid(DAY_MS);
        let (hour, part) = ((since / HOUR_MS) as usize, (since % HOUR_MS) as f64 / HOUR_MS as f64);
        let [from, to] = [hour, (hour + 1) % 24].map(|hour| f64::from(self.0[hour]));
        let sum: u32 = self.0.iter().map(|factor| u32::from(*factor)).sum();
        (from + (to - from) * part) * 24.0 / f64::from(sum)
    }
}

/// How long connections or requests last; what would be longer than 31 days lasts 31 days.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Lasting {
    /// Exponential.
    Exponential {
        /// The average.
        mean: Duration,
    },
    /// Log-normal: many short ones, some long ones.
    LogNormal {
        /// Half are shorter.
        median: Duration,
        /// The standard deviation of the logarithm, 0 to 5.
        sigma: f64,
    },
    /// Pareto, with a heavy tail: for an `alpha` of 1 there is no mean.
    Pareto {
        /// The shortest.
        least: Duration,
        /// The smaller, the heavier the tail: 0.1 to 100.
        alpha: f64,
    },
}

impl Lasting {
    fn check(&self) -> Result<()> {
        let (what, value, range) = match *self {
            Self::Exponential { .. } => return Ok(()),
            Self::LogNormal { sigma, .. } => ("sigma", sigma, 0.0..=5.0),
            Self::Pareto { alpha, .. } => ("alpha", alpha, 0.1..=100.0),
        };
        // A NaN is in no range.
        if range.contains(&value) {
            return Ok(());
        }
        let (least, most) = range.into_inner();
        Err(Error::input(format!("durations with {what} {value}; expected {least} to {most}")))
    }

    #[inline]
    fn draw(&self, random: &mut Random) -> u32 {
        let (scale, factor) = match *self {
            Self::Exponential { mean } => (mean, random.exponential()),
            Self::LogNormal { median, sigma } => (median, exp(sigma * random.normal())),
            Self::Pareto { least, alpha } => (least, exp(random.exponential() / alpha)),
        };
        // The cast saturates; `as_secs_f64` is a quotient and a sum, the same everywhere.
        ((scale.as_secs_f64() * 1e3 * factor).round() as u32).min(Record::LONGEST_MS)
    }
}

/// What is asked of the network on a synthetic day.
#[derive(Clone, PartialEq, Debug)]
pub struct Demand {
    /// By local time.
    pub curve: Curve,
    /// How long they last.
    pub lasting: Lasting,
    /// How they close.
    pub closed: Closed,
    /// Where they enter (local time follows from the longitude), and how many per second on a day's average.
    pub ingresses: Vec<(Ingress, Coordinates, f64)>,
    /// Where they go: of each ingress the same part, by weight.
    pub origins: Vec<(Target, u32)>,
}

impl Default for Demand {
    /// Nothing yet, of 10 s on average, most in the evening, closed by the peer.
    fn default() -> Self {
        Self {
            curve: Curve::EVENING,
            lasting: Lasting::Exponential { mean: Duration::from_secs(10) },
            closed: Closed::Passive,
            ingresses: Vec::new(),
            origins: Vec::new(),
        }
    }
}

/// A synthetic day: records in order, without end.
pub struct Day {
    demand: Demand,
    random: Random,
    origins: Weighted,
    ingresses: Weighted,
    /// Requests in a millisecond, now.
    rate: f64,
    /// When the rates change.
    step_end: u64,
    at: f64,
}

impl Day {
    /// From a moment on. Time counts from midnight UTC.
    ///
    /// # Errors
    /// Rates that are negative, not numbers, above ten million per second together or all 0; weights or a curve of zeros
    /// only; a shape of the durations out of its range.
    pub fn new(demand: &Demand, from: Time, seed: Seed) -> Result<Self> {
        demand.lasting.check()?;
        let mut sum = 0.0;
        for (ingress, _, per_second) in &demand.ingresses {
            sum += per_second;
            // Each by itself, because a negative one could hide in the sum.
            if !(0.0..=MOST_PER_SECOND).contains(per_second) || sum > MOST_PER_SECOND {
                return Err(Error::input(format!(
                    "{per_second} requests per second at the ingress in place {}; expected 0 to {MOST_PER_SECOND}, and \
                     no more of all together",
                    ingress.0
                )));
            }
        }
        if from.as_millis() > LATEST_MS {
            return Err(Error::input(format!(
                "a synthetic day from {from} on; count from the Unix epoch or later"
            )));
        }
        let nothing =
            |what: &str| Error::input(format!("a synthetic day whose {what} are all 0; give one more"));
        if demand.curve.0.iter().all(|factor| *factor == 0) {
            return Err(nothing("hours"));
        }
        if demand.ingresses.len() > 1 << 16 || demand.origins.len() > 1 << 16 {
            return Err(Error::input(
                "a synthetic day with more than 65,536 ingresses or origins; add some up",
            ));
        }
        let weights: Vec<u64> = demand.origins.iter().map(|(_, weight)| (*weight).into()).collect();
        let origins = Weighted::new(&weights).ok_or_else(|| nothing("weights of origins"))?;
        if demand.ingresses.iter().all(|(.., per_second)| *per_second * MILLIONTHS < 1.0) {
            return Err(nothing("rates"));
        }
        let (start, ingresses) = (from.as_millis(), Weighted::new(&[1]).expect("not 0"));
        let mut day = Self {
            demand: demand.clone(),
            random: Random::new(seed),
            origins,
            ingresses,
            rate: 0.0,
            step_end: start,
            at: start as f64,
        };
        day.step();
        Ok(day)
    }

    /// The next rates.
    fn step(&mut self) {
        let begin = self.step_end;
        self.step_end = (begin / STEP_MS + 1) * STEP_MS;
        self.at = begin as f64;
        let middle = (begin / STEP_MS * STEP_MS + STEP_MS / 2) as i64;
        let weight = |(_, at, per_second): &(Ingress, Coordinates, f64)| {
            // 15 degrees are an hour.
            let local = middle + (at.longitude() * HOUR_MS as f64 / 15.0).round() as i64;
            (per_second * self.demand.curve.at(local) * MILLIONTHS).round() as u64
        };
        let weights: Vec<u64> = self.demand.ingresses.iter().map(weight).collect();
        self.rate = weights.iter().sum::<u64>() as f64 / (MILLIONTHS * 1e3);
        if let Some(ingresses) = Weighted::new(&weights) {
            self.ingresses = ingresses;
        }
    }
}

impl Iterator for Day {
    type Item = Record;

    #[inline]
    fn next(&mut self) -> Option<Record> {
        // A Poisson process forgets: at a change of rates it may begin anew.
        loop {
            // At a rate of 0 it is infinite, which is past every end.
            self.at += self.random.exponential() / self.rate;
            if self.at < self.step_end as f64 {
                break;
            }
            self.step();
        }
        let (ingress, ..) = self.demand.ingresses[self.ingresses.draw(&mut self.random)];
        let (target, _) = self.demand.origins[self.origins.draw(&mut self.random)];
        let lasts_ms = self.demand.lasting.draw(&mut self.random);
        Some(Record {
            start: Time::from_millis(self.at as u64),
            lasts_ms,
            ingress,
            target,
            closed: self.demand.closed,
        })
    }
}
