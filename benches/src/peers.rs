//! What people use instead, each built so that it is correct and as fast as it honestly can be.
//!
//! None of them keeps a quarantine, an owner, a high-water mark or a way to drain; the sets and the stack and the
//! rings are shared by threads as ours is. Those that choose by chance use the harness's fast generator.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;

use crate::contender::{Contender, Scene};
use crate::ours::Access;
use crate::random::Random;

/// A port towards an origin, as the peers' users must remember it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    origin: u32,
    port: u16,
}

// ---- sets of 4-tuples

/// Random ports tried before a set is searched from end to end, so that it never refuses falsely.
const TRIES: u32 = 128;

/// The key of a connection: 12 bytes, the least that names one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    source: (Ipv4Addr, u16),
    origin: (Ipv4Addr, u16),
}

/// A concurrent set of the tuples in use, with its default hasher (keyed, as origins are chosen by strangers).
pub trait Set {
    /// For how many tuples it is made.
    fn with_capacity(tuples: usize) -> Self;
    /// False if it was there.
    fn insert(&self, tuple: Tuple) -> bool;
    /// Takes it out.
    fn remove(&self, tuple: &Tuple);
}

/// `dashmap::DashSet`.
pub type DashSet = dashmap::DashSet<Tuple>;
/// `papaya::HashSet`.
pub type PapayaSet = papaya::HashSet<Tuple>;
/// `scc::HashSet`.
pub type SccSet = scc::HashSet<Tuple>;

impl Set for DashSet {
    fn with_capacity(tuples: usize) -> Self {
        Self::with_capacity(tuples)
    }

    #[inline]
    fn insert(&self, tuple: Tuple) -> bool {
        dashmap::DashSet::insert(self, tuple)
    }

    #[inline]
    fn remove(&self, tuple: &Tuple) {
        dashmap::DashSet::remove(self, tuple);
    }
}

impl Set for PapayaSet {
    fn with_capacity(tuples: usize) -> Self {
        Self::with_capacity(tuples)
    }

    #[inline]
    fn insert(&self, tuple: Tuple) -> bool {
        self.pin().insert(tuple)
    }

    #[inline]
    fn remove(&self, tuple: &Tuple) {
        self.pin().remove(tuple);
    }
}

impl Set for SccSet {
    fn with_capacity(tuples: usize) -> Self {
        Self::with_capacity(tuples)
    }

    #[inline]
    fn insert(&self, tuple: Tuple) -> bool {
        self.insert_sync(tuple).is_ok()
    }

    #[inline]
    fn remove(&self, tuple: &Tuple) {
        self.remove_sync(tuple);
    }
}

/// Draws a port, tries to insert the tuple, draws again; after 128 tries searches from a random port on.
#[derive(Debug)]
pub struct Sets<S> {
    set: S,
    scene: Scene,
    random: Random,
}

impl<S: Set> Sets<S> {
    /// Room for every tuple of the scene.
    pub fn new(scene: Scene) -> Self {
        let set = S::with_capacity((scene.origins * scene.ports()) as usize);
        Self { set, scene, random: Random::new(2) }
    }

    #[inline]
    fn tuple(&self, granted: Granted) -> Tuple {
        let origin = self.scene.origin(granted.origin);
        Tuple { source: (Scene::egress(), granted.port), origin: (*origin.ip(), origin.port()) }
    }

    #[inline]
    fn try_nth(&self, origin: u32, nth: u32) -> Option<Granted> {
        let granted = Granted { origin, port: self.scene.lo() + nth as u16 };
        self.set.insert(self.tuple(granted)).then_some(granted)
    }
}

impl<S: Set> Contender for Sets<S> {
    type Lease = Granted;

    #[inline]
    fn acquire(&mut self, origin: u32) -> Option<Granted> {
        let ports = self.scene.ports();
        for _ in 0..TRIES {
            let nth = self.random.below(ports);
            if let Some(granted) = self.try_nth(origin, nth) {
                return Some(granted);
            }
        }
        let start = self.random.below(ports);
        (start..ports).chain(0..start).find_map(|nth| self.try_nth(origin, nth))
    }

    #[inline]
    fn release(&mut self, granted: Granted) {
        let tuple = self.tuple(granted);
        self.set.remove(&tuple);
    }

    fn port(granted: &Granted) -> u16 {
        granted.port
    }
}

// ---- one structure per origin

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
        assert_eq!(ports.len() % 64, 0, "whole words");
        Self { lo: ports.start as u16, words: (0..ports.len() / 64).map(|_| AtomicU64::new(0)).collect() }
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

/// Nothing at all: what the loop itself costs.
#[derive(Debug)]
pub struct Empty;

impl Contender for Empty {
    type Lease = Granted;

    #[inline]
    fn acquire(&mut self, origin: u32) -> Option<Granted> {
        Some(Granted { origin, port: 0 })
    }

    #[inline]
    fn release(&mut self, granted: Granted) {
        core::hint::black_box(granted);
    }

    fn port(granted: &Granted) -> u16 {
        granted.port
    }
}

/// One [`Shared`] for every origin, by index or looked up by ip:port in a `HashMap` with the default hasher (not a
/// concurrent one: in favour of the peer).
#[derive(Debug)]
pub struct PerOrigin<S> {
    scene: Scene,
    by_index: Vec<S>,
    by_address: Option<HashMap<SocketAddrV4, u32>>,
    random: Random,
}

impl<S: Shared> PerOrigin<S> {
    /// All ports of the scene are free towards every origin.
    pub fn new(scene: Scene, access: Access) -> Self {
        let lo = u32::from(scene.lo());
        let by_index = (0..scene.origins).map(|_| S::new(lo..lo + scene.ports())).collect();
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
        let port = self.by_index[index as usize].take(&mut self.random)?;
        Some(Granted { origin: index, port })
    }

    #[inline]
    fn release(&mut self, granted: Granted) {
        self.by_index[granted.origin as usize].give(granted.port);
    }

    fn port(granted: &Granted) -> u16 {
        granted.port
    }
}
