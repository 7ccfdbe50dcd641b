//! How long single pairs take, not their mean.

use std::time::Instant;

use crate::contender::{Churn, Contender};

/// Times in nanoseconds.
#[derive(Clone, Default, Debug)]
pub struct Times(Vec<u32>);

impl Times {
    /// Adds one.
    pub fn push(&mut self, nanos: u32) {
        self.0.push(nanos);
    }

    /// How many are longer, in a million.
    pub fn longer_than(&self, nanos: u32) -> f64 {
        let longer = self.0.iter().filter(|time| **time > nanos).count();
        longer as f64 * 1e6 / self.0.len().max(1) as f64
    }

    /// The time that a share of all does not exceed; 0 if there is none at all.
    pub fn quantile(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let at = (self.0.len() as f64 * share) as usize;
        self.0.get(at.min(self.0.len().saturating_sub(1))).copied().map_or(0.0, f64::from)
    }
}

/// Pairs that are timed one by one, in turns with those of others.
type Turn<'a> = Box<dyn FnMut(u32, u64, &mut Times) + 'a>;

/// Contenders whose pairs are timed one by one.
#[derive(Default)]
pub struct Tails<'a>(Vec<(&'static str, Turn<'a>)>);

impl core::fmt::Debug for Tails<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl<'a> Tails<'a> {
    /// Enters a contender.
    pub fn enter<C: Contender + 'a>(&mut self, name: &'static str, mut churn: Churn<C>) {
        self.0.push((
            name,
            Box::new(move |pairs, ms, times| {
                churn.set_time(ms);
                // The end of one pair is the beginning of the next: one look at the clock for each.
                let mut last = Instant::now();
                for _ in 0..pairs {
                    churn.pairs(1);
                    let now = Instant::now();
                    times.push(u32::try_from((now - last).as_nanos()).unwrap_or(u32::MAX));
                    last = now;
                }
            }),
        ));
    }

    /// Times `rounds` turns of `pairs` each.
    pub fn run(mut self, rounds: usize, pairs: u32) -> Vec<(&'static str, Times)> {
        let start = Instant::now();
        let mut times = vec![Times::default(); self.0.len()];
        for round in 0..rounds {
            for turn in 0..self.0.len() {
                let who = (round + turn) % self.0.len();
                (self.0[who].1)(pairs, start.elapsed().as_millis() as u64, &mut times[who]);
            }
        }
        self.0.iter().map(|turn| turn.0).zip(times).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_not_exceeded_by_its_share() {
        let mut times = Times((1..=1_000).rev().collect());
        let quantiles = [0.5, 0.99, 0.999, 1.0].map(|share| times.quantile(share) as u32);
        assert_eq!(quantiles, [501, 991, 1_000, 1_000]);
        assert!(Times::default().quantile(0.5) < 1.0);
    }
}
