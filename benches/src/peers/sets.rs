//! Concurrent sets of the tuples in use: draw a port, try to insert the tuple, draw again.

use core::hash::BuildHasher;
use std::hash::RandomState;
use std::net::Ipv4Addr;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::Mutex;

use super::Granted;
use crate::contender::{Beside, Contender, Scene};
use crate::random::Random;

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

/// A set of tuples cut by hash into shards, each a `hashbrown` table behind a mutex; one keyed hash for both.
#[derive(Debug)]
pub struct Sharded<const N: usize> {
    hasher: RandomState,
    shards: Box<[Shard]>,
}

/// On a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Shard(Mutex<HashTable<Tuple>>);

/// One `hashbrown` table behind one mutex.
pub type Hashbrown = Sharded<1>;

impl<const N: usize> Sharded<N> {
    #[inline]
    fn shard(&self, hash: u64) -> &Mutex<HashTable<Tuple>> {
        // The table looks at the top 7 bits and the low ones.
        &self.shards[(hash >> 40) as usize % N].0
    }
}

impl<const N: usize> Set for Sharded<N> {
    fn with_capacity(tuples: usize) -> Self {
        let shard = || Shard(Mutex::new(HashTable::with_capacity(tuples / N)));
        Self { hasher: RandomState::new(), shards: (0..N).map(|_| shard()).collect() }
    }

    #[inline]
    fn insert(&self, tuple: Tuple) -> bool {
        let hash = self.hasher.hash_one(tuple);
        let mut table = self.shard(hash).lock();
        match table.entry(hash, |other| *other == tuple, |other| self.hasher.hash_one(other)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(tuple);
                true
            }
        }
    }

    #[inline]
    fn remove(&self, tuple: &Tuple) {
        let hash = self.hasher.hash_one(tuple);
        if let Ok(entry) = self.shard(hash).lock().find_entry(hash, |other| other == tuple) {
            entry.remove();
        }
    }
}

/// Draws a port, tries to insert the tuple, draws again; after 128 tries searches from a random port on.
#[derive(Debug)]
pub struct Sets<S> {
    set: Arc<S>,
    scene: Scene,
    random: Random,
}

impl<S: Set> Sets<S> {
    /// Room for every tuple of the scene.
    pub fn new(scene: Scene) -> Self {
        Self::with_room_for(scene, (scene.origins * scene.ports()) as usize)
    }

    /// Room for some tuples at first.
    pub fn with_room_for(scene: Scene, tuples: usize) -> Self {
        Self { set: Arc::new(S::with_capacity(tuples)), scene, random: Random::new(2) }
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

    fn port(&self, granted: &Granted) -> u16 {
        granted.port
    }
}

impl<S: Set + Send + Sync> Beside for Sets<S> {
    fn beside(&self, nth: u64) -> Self {
        Self { set: Arc::clone(&self.set), scene: self.scene, random: Random::new(100 + nth) }
    }
}
