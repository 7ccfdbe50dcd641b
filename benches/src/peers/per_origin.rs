//! One structure of free ports for every origin.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;

use super::Granted;
use crate::contender::{Beside, Contender, Scene};
use crate::cores::Apart;
use crate::ours::Access;
use crate::random::Random;

/// The free ports towards one origin, shared by threads.
pub trait Shared {
    /// All ports are free.
    fn new(ports: core::ops::Range<u32>) -> Self;
    /// Takes one; `random` is there for those that want it.
    fn take(&self, random: &mut Random) -> Option<u16>;
    /// Gives it back.
    fn give(&self, port: u16);
}

/// A ring of free ports: HAProxy's idea (`port_range`), on a queue that has no ABA fault. First in, first out: a
/// released port comes again as late as possible, and anyone can predict it.
#[derive(Debug)]
pub struct Ring(ArrayQueue<u16>);

impl Shared for Ring {
    fn new(ports: core::ops::Range<u32>) -> Self {
        let ring = ArrayQueue::new(ports.len());
        for port in ports {
            ring.push(port as u16).expect("made for that many");
        }
        Self(ring)
    }

    #[inline]
    fn take(&self, _: &mut Random) -> Option<u16> {
        self.0.pop()
    }

    #[inline]
    fn give(&self, port: u16) {
        self.0.push(port).expect("made for that many");
    }
}

/// A stack of free ports behind a mutex: the released port comes again at once.
#[derive(Debug)]
pub struct Stack(Mutex<Vec<u16>>);

impl Shared for Stack {
    fn new(ports: core::ops::Range<u32>) -> Self {
        Self(Mutex::new(ports.map(|port| port as u16).collect()))
    }

    #[inline]
    fn take(&self, _: &mut Random) -> Option<u16> {
        self.0.lock().pop()
    }

    #[inline]
    fn give(&self, port: u16) {
        self.0.lock().push(port);
    }
}

/// A bare bitmap, a random word and its first free bit: the floor for claiming a bit, not a peer. At 80 % full its
/// likeliest port is several times as likely as the mean.
#[derive(Debug)]
pub struct Bitmap {
    lo: u16,
    words: Box<[AtomicU64]>,
}

impl Shared for Bitmap {
    fn new(ports: core::ops::Range<u32>) -> Self {
        let words = ports.len().div_ceil(64);
        let word = |at: usize| {
            // Bits past the last port are taken for ever.
            let rest = ports.len() - at * 64;
            AtomicU64::new(if rest < 64 { u64::MAX << rest } else { 0 })
        };
        Self { lo: ports.start as u16, words: (0..words).map(word).collect() }
    }

    #[inline]
    fn take(&self, random: &mut Random) -> Option<u16> {
        let start = random.below(self.words.len() as u32) as usize;
        for at in (start..self.words.len()).chain(0..start) {
            loop {
                let bit = self.words[at].load(SeqCst).trailing_ones();
                if bit == 64 {
                    break;
                }
                if self.words[at].fetch_or(1 << bit, SeqCst) & 1 << bit == 0 {
                    return Some(self.lo + at as u16 * 64 + bit as u16);
                }
            }
        }
        None
    }

    #[inline]
    fn give(&self, port: u16) {
        let nth = port - self.lo;
        self.words[usize::from(nth / 64)].fetch_and(!(1 << (nth % 64)), SeqCst);
    }
}

/// One [`Shared`] for every origin, by index or looked up by ip:port in a `HashMap` with the default hasher (not a
/// concurrent one: in favour of the peer).
#[derive(Debug)]
pub struct PerOrigin<S> {
    scene: Scene,
    /// Apart, or two threads with an origin each would share a cache line by chance.
    by_index: Arc<[Apart<S>]>,
    by_address: Option<HashMap<SocketAddrV4, u32>>,
    random: Random,
}

impl<S: Shared> PerOrigin<S> {
    /// All ports of the scene are free towards every origin.
    pub fn new(scene: Scene, access: Access) -> Self {
        let lo = u32::from(scene.lo());
        let by_index = (0..scene.origins).map(|_| Apart(S::new(lo..lo + scene.ports()))).collect();
        let by_address = match access {
            Access::Handle => None,
            Access::Lookup => Some((0..scene.origins).map(|nth| (scene.origin(nth), nth)).collect()),
        };
        Self { scene, by_index, by_address, random: Random::new(3) }
    }
}

impl<S: Shared> Contender for PerOrigin<S> {
    type Lease = Granted;

    #[inline]
    fn acquire(&mut self, origin: u32) -> Option<Granted> {
        let index = match &self.by_address {
            None => origin,
            Some(map) => *map.get(&self.scene.origin(origin))?,
        };
        let port = self.by_index[index as usize].0.take(&mut self.random)?;
        Some(Granted { origin: index, port })
    }

    #[inline]
    fn release(&mut self, granted: Granted) {
        self.by_index[granted.origin as usize].0.give(granted.port);
    }

    fn port(&self, granted: &Granted) -> u16 {
        granted.port
    }
}

impl<S: Shared + Send + Sync> Beside for PerOrigin<S> {
    fn beside(&self, nth: u64) -> Self {
        let (by_index, by_address) = (Arc::clone(&self.by_index), self.by_address.clone());
        Self { scene: self.scene, by_index, by_address, random: Random::new(100 + nth) }
    }
}
