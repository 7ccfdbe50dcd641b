//! Which cores threads run on, and how far apart those are.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::rounds::median;

/// The cores that this process may use.
pub fn cores() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

/// Keeps the calling thread on one of some cores: two threads that share a core measure nothing. Where it is
/// forbidden the thread runs anywhere.
pub(crate) fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    let _ = sched_setaffinity(None, &set);
}

/// On cache lines of its own, the neighbour that is fetched along included.
#[derive(Default, Debug)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

/// Nanoseconds for a write on one core to be seen on another: one atomic handed back and forth.
pub fn core_to_core(one: usize, other: usize, trips: u64) -> f64 {
    let ball = &Apart(AtomicU64::new(0));
    let play = move |core: usize, mine: u64| {
        pin(&[core]);
        for trip in 0..trips {
            while ball.0.load(SeqCst) != trip * 2 + mine {
                core::hint::spin_loop();
            }
            ball.0.store(trip * 2 + mine + 1, SeqCst);
        }
    };
    let nanos = (0..11).map(|_| {
        ball.0.store(0, SeqCst);
        thread::scope(|scope| {
            let opponent = scope.spawn(move || play(other, 1));
            let player = scope.spawn(move || {
                let start = Instant::now();
                play(one, 0);
                start.elapsed()
            });
            opponent.join().expect("it only counts");
            player.join().expect("it only counts").as_nanos() as f64 / (trips * 2) as f64
        })
    });
    median(nanos.collect())
}
