//! Threads on the same structure: how many pairs all of them do, against one of them alone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::contender::{Beside, Churn, Scene};
use crate::cores::{Apart, cores, pin};
use crate::rounds::{Effort, median};

/// Pairs between two looks at the clock.
const STRIDE: u64 = 64;

/// Does pairs for a turn on as many threads as it is told, and gives the nanoseconds a pair of each thread.
type Turn<'a> = Box<dyn FnMut(usize, Duration, u64) -> f64 + 'a>;

/// One contender's result.
#[derive(Clone, Debug)]
pub struct Scaled {
    /// Who.
    pub name: &'static str,
    /// Nanoseconds for a pair on one thread alone, median.
    pub alone: f64,
    /// Nanoseconds for a pair of each thread when all run, median.
    pub together: f64,
    /// Throughput of all against that of one in the same round, median.
    pub gain: f64,
    /// `together` against the first contender's of the same round, median.
    pub ratio: f64,
    /// What `alone` and `together` are above the first contender's of the same round, medians.
    pub more: (f64, f64),
}

/// Contenders that take turns, each on one thread and then on all.
#[derive(Default)]
pub struct Threaded<'a>(Vec<(&'static str, Turn<'a>)>);

impl core::fmt::Debug for Threaded<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Threads that run at a time.
pub const THREADS: usize = 2;

impl<'a> Threaded<'a> {
    /// Enters a contender. The threads' origins are the scene's: one for all, or one for each.
    pub fn enter<C: Beside + 'a>(&mut self, name: &'static str, contender: C, scene: Scene, percent: u32) {
        let mut churns = churns(contender, scene, percent);
        self.0
            .push((name, Box::new(move |threads, turn, ms| pairs_at_once(&mut churns[..threads], turn, ms))));
    }

    /// Runs it.
    pub fn run(mut self, effort: Effort) -> Vec<Scaled> {
        let start = Instant::now();
        let mut results = vec![Vec::new(); self.0.len()];
        for round in 0..effort.rounds {
            for turn in 0..self.0.len() {
                let who = (round + turn) % self.0.len();
                let mut on = |threads| {
                    let ms = start.elapsed().as_millis() as u64;
                    (self.0[who].1)(threads, effort.turn, ms)
                };
                results[who].push((on(1), on(THREADS)));
            }
        }
        let less_first = |mine: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| {
            median(mine.iter().zip(&results[0]).map(|(mine, first)| of(mine) - of(first)).collect())
        };
        let summary = |(name, mine): (&'static str, &Vec<(f64, f64)>)| Scaled {
            name,
            alone: median(mine.iter().map(|turn| turn.0).collect()),
            together: median(mine.iter().map(|turn| turn.1).collect()),
            gain: median(mine.iter().map(|(alone, all)| THREADS as f64 * alone / all).collect()),
            ratio: median(mine.iter().zip(&results[0]).map(|(mine, first)| mine.1 / first.1).collect()),
            more: (less_first(mine, |turn| turn.0), less_first(mine, |turn| turn.1)),
        };
        self.0.iter().map(|turn| turn.0).zip(&results).map(summary).collect()
    }
}

/// A churn for each thread; together they fill the origins to `percent`.
pub(crate) fn churns<C: Beside>(contender: C, scene: Scene, percent: u32) -> Vec<Apart<Churn<C>>> {
    let threads = THREADS as u32;
    let leases = scene.ports() * percent / 100;
    let others: Vec<_> = (1..THREADS as u64).map(|nth| contender.beside(nth)).collect();
    let all = [contender].into_iter().chain(others).zip(0..);
    all.map(|(contender, nth)| {
        Apart(if scene.origins == 1 {
            Churn::towards(contender, scene, 0..1, leases / threads)
        } else {
            Churn::towards(contender, scene, nth..nth + 1, leases)
        })
    })
    .collect()
}

/// Lets a thread on a core of its own loose on each churn. Everyone goes on until the first has done a turn.
pub(crate) fn pairs_at_once<C: Beside>(churns: &mut [Apart<Churn<C>>], turn: Duration, ms: u64) -> f64 {
    let (ready, done) = (&AtomicUsize::new(0), &AtomicBool::new(false));
    let (threads, cores) = (churns.len(), &cores());
    let speed: f64 = thread::scope(|scope| {
        let started: Vec<_> = churns
            .iter_mut()
            .enumerate()
            .map(|(nth, Apart(churn))| {
                scope.spawn(move || {
                    pin(&[cores[nth % cores.len()]]);
                    churn.set_time(ms);
                    ready.fetch_add(1, SeqCst);
                    while ready.load(SeqCst) != threads {
                        thread::yield_now();
                    }
                    let (start, mut pairs) = (Instant::now(), 0);
                    while !done.load(Relaxed) {
                        churn.pairs(STRIDE);
                        pairs += STRIDE;
                        if nth == 0 && start.elapsed() >= turn {
                            done.store(true, Relaxed);
                        }
                    }
                    pairs as f64 / start.elapsed().as_nanos() as f64
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().expect("a contender does not panic")).sum()
    });
    threads as f64 / speed
}
