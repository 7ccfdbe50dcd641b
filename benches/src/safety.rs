//! More threads than cores on a few ports: does anyone get a port that is in use, or none although one is free?
//!
//! A thread that is stopped between two steps is what breaks such structures, and threads are stopped all the time
//! when there are more of them than cores.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::contender::{Beside, Scene};
use crate::cores::{Apart, cores, pin};

/// Threads.
pub const CROWD: u32 = 4;
/// Cores that they share.
pub const CORES: usize = 2;

/// What was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Leases granted and released.
    pub pairs: u64,
    /// Ports granted while somebody had them.
    pub duplicates: u64,
    /// Refusals; a port was free at every moment of every one.
    pub refusals: u64,
    /// A thread was refused for a second on end: the ports are lost.
    pub stuck: bool,
    /// How long it took.
    pub took: Duration,
}

/// Does `pairs` pairs, or as many as there is time for. Every thread holds its part of the ports and gives one back
/// before it takes another, so a refusal is always false.
pub fn crowd<C: Beside>(contender: C, scene: Scene, pairs: u64, most: Duration) -> Seen {
    let holders: Box<[Apart<AtomicU32>]> = (0..scene.ports()).map(|_| Apart::default()).collect();
    let (duplicates, refusals, done) = (&AtomicU64::new(0), &AtomicU64::new(0), &AtomicU64::new(0));
    let (stuck, holders) = (&AtomicBool::new(false), &holders);
    let cores = cores();
    let cores = &cores[..CORES.min(cores.len())];
    let others: Vec<_> = (1..u64::from(CROWD)).map(|nth| contender.beside(nth)).collect();
    let start = Instant::now();
    thread::scope(|scope| {
        for mut contender in [contender].into_iter().chain(others) {
            scope.spawn(move || {
                pin(cores);
                let holder = |port: u16| &holders[usize::from(port - scene.lo())].0;
                let mut live = VecDeque::new();
                let mut mine = 0;
                'pairs: for nth in 0..pairs / u64::from(CROWD) {
                    if nth % 1_024 == 0 {
                        contender.set_time(start.elapsed().as_millis() as u64);
                        if start.elapsed() > most || stuck.load(Relaxed) {
                            break;
                        }
                    }
                    if live.len() == (scene.ports() / CROWD) as usize {
                        let lease = live.pop_front().expect("it holds some");
                        holder(contender.port(&lease)).fetch_sub(1, SeqCst);
                        contender.release(lease);
                    }
                    let mut refused_since = None;
                    let lease = loop {
                        if let Some(lease) = contender.acquire(0) {
                            break lease;
                        }
                        refusals.fetch_add(1, Relaxed);
                        if refused_since.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(1) {
                            stuck.store(true, Relaxed);
                            break 'pairs;
                        }
                        thread::yield_now();
                    };
                    if holder(contender.port(&lease)).fetch_add(1, SeqCst) != 0 {
                        duplicates.fetch_add(1, Relaxed);
                    }
                    live.push_back(lease);
                    mine += 1;
                }
                done.fetch_add(mine, Relaxed);
            });
        }
    });
    Seen {
        pairs: done.load(Relaxed),
        duplicates: duplicates.load(Relaxed),
        refusals: refusals.load(Relaxed),
        stuck: stuck.load(Relaxed),
        took: start.elapsed(),
    }
}
