//! HAProxy's ring of free ports, step by step as its `port_range` does it.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::SeqCst};

use super::Shared;
use crate::random::Random;

/// A ring of free ports as HAProxy has one for every (source, destination): one place more than ports, indices that
/// wrap, and no counter of the laps.
///
/// Two faults follow, and `safety` counts both. Whoever reads an index and its port, is stopped while the others go
/// once around, and then swaps the index, takes a port that is in use (ABA). Whoever is stopped between reserving a
/// place and publishing it hides all ports that others give back meanwhile: a false refusal.
#[derive(Debug)]
pub struct HaproxyRing {
    ports: Box<[AtomicU16]>,
    get: AtomicU32,
    /// Places reserved by those who give back.
    put_head: AtomicU32,
    /// Places that may be read.
    put_tail: AtomicU32,
}

impl HaproxyRing {
    #[inline]
    fn next(&self, at: u32) -> u32 {
        if at as usize + 1 == self.ports.len() { 0 } else { at + 1 }
    }
}

impl Shared for HaproxyRing {
    fn new(ports: core::ops::Range<u32>) -> Self {
        let len = ports.len() as u32;
        let places = ports.map(|port| port as u16).chain([0]);
        Self {
            ports: places.map(AtomicU16::new).collect(),
            get: AtomicU32::new(0),
            put_head: AtomicU32::new(len),
            put_tail: AtomicU32::new(len),
        }
    }

    #[inline]
    fn take(&self, _: &mut Random) -> Option<u16> {
        let mut get = self.get.load(SeqCst);
        loop {
            if self.put_tail.load(SeqCst) == get {
                return None;
            }
            let port = self.ports[get as usize].load(SeqCst);
            match self.get.compare_exchange(get, self.next(get), SeqCst, SeqCst) {
                Ok(_) => return Some(port),
                Err(seen) => get = seen,
            }
        }
    }

    #[inline]
    fn give(&self, port: u16) {
        let mut put = self.put_head.load(SeqCst);
        while let Err(seen) = self.put_head.compare_exchange(put, self.next(put), SeqCst, SeqCst) {
            put = seen;
        }
        self.ports[put as usize].store(port, SeqCst);
        // Whoever has reserved before us publishes before us.
        while self.put_tail.load(SeqCst) != put {
            core::hint::spin_loop();
        }
        self.put_tail.store(self.next(put), SeqCst);
    }
}
