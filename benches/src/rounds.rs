//! Measuring side by side: all contenders of a row take turns, so that whatever slows the machine slows them all.

use std::time::{Duration, Instant};

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Turns of every contender.
    pub rounds: usize,
    /// Length of one turn.
    pub turn: Duration,
}

impl Effort {
    /// For a table that is kept.
    pub const FULL: Self = Self { rounds: 101, turn: Duration::from_millis(2) };
    /// Shows only that everything runs.
    pub const QUICK: Self = Self { rounds: 5, turn: Duration::from_micros(200) };
}

/// One contender's result.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Who.
    pub name: &'static str,
    /// Nanoseconds for one operation, median over the rounds.
    pub nanos: f64,
    /// The same divided by the first contender's of the same round, median over the rounds.
    pub ratio: f64,
}

struct Runner<'a> {
    name: &'static str,
    run: Box<dyn FnMut(u64, u64) + 'a>,
    operations: u64,
    nanos: Vec<f64>,
}

/// Contenders that take turns; the first one is what the others are compared with.
#[derive(Default)]
pub struct Race<'a>(Vec<Runner<'a>>);

impl core::fmt::Debug for Race<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|runner| runner.name)).finish()
    }
}

impl<'a> Race<'a> {
    /// Enters a contender; `run(n, ms)` does `n` operations at `ms` milliseconds since the start of the race.
    pub fn enter(&mut self, name: &'static str, run: impl FnMut(u64, u64) + 'a) {
        self.0.push(Runner { name, run: Box::new(run), operations: 1, nanos: Vec::new() });
    }

    /// Runs it.
    pub fn run(mut self, effort: Effort) -> Vec<Measured> {
        let start = Instant::now();
        let ms = || u64::try_from(start.elapsed().as_millis()).expect("a race is short");
        for runner in &mut self.0 {
            // Operations in a turn, found by doubling; this also warms up.
            loop {
                let took = time(|| (runner.run)(runner.operations, ms()));
                if took >= effort.turn / 2 || runner.operations >= 1 << 30 {
                    break;
                }
                runner.operations *= 2;
            }
        }
        let contenders = self.0.len();
        for round in 0..effort.rounds {
            // Another one begins each time, so that nobody always follows the same neighbour's interruption.
            for turn in 0..contenders {
                let runner = &mut self.0[(round + turn) % contenders];
                let took = time(|| (runner.run)(runner.operations, ms()));
                runner.nanos.push(took.as_nanos() as f64 / runner.operations as f64);
            }
        }
        let first = self.0.first().map(|runner| runner.nanos.clone()).unwrap_or_default();
        self.0
            .into_iter()
            .map(|Runner { name, nanos, .. }| {
                let ratio = median(nanos.iter().zip(&first).map(|(mine, first)| mine / first).collect());
                Measured { name, nanos: median(nanos), ratio }
            })
            .collect()
    }
}

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_the_first_is_the_measure() {
        let mut turns = [0u32; 2];
        let (left, right) = turns.split_at_mut(1);
        let mut race = Race::default();
        race.enter("first", |n, _| left[0] += u32::from(core::hint::black_box(n) > 0));
        race.enter("second", |n, _| right[0] += u32::from(core::hint::black_box(n) > 0));
        let measured = race.run(Effort { rounds: 3, turn: Duration::from_nanos(1) });
        assert_eq!((measured[0].name, measured[1].name), ("first", "second"));
        assert!((measured[0].ratio - 1.0).abs() < f64::EPSILON);
        assert!(turns.iter().all(|&n| n >= 4), "every contender has every turn: {turns:?}");
    }

    #[test]
    fn the_median_is_not_moved_by_one_interruption() {
        assert!((median(vec![3.0, 9e9, 1.0]) - 3.0).abs() < f64::EPSILON);
    }
}
