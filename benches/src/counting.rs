//! What usage counting costs: a contender with counters, against the same without.
//!
//! Ours cannot be built without its counters, so their cost is not a difference of two builds of ours. It counts as
//! [`OnesOwn`] does: a word that only one worker writes. How many leases are live is a population count, at read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::contender::{Beside, Contender};
use crate::cores::Apart;

/// Counts what begins and ends.
pub trait Counters: Send {
    /// For the first thread.
    fn new() -> Self;
    /// For another thread.
    fn beside(&self) -> Self;
    /// A lease was granted.
    fn granted(&self);
    /// A lease was released.
    fn released(&self);
}

/// A counter that one thread writes and others may read: a load and a store, no locked operation.
#[derive(Debug)]
pub struct OnesOwn(Box<Apart<AtomicU64>>);

impl Counters for OnesOwn {
    fn new() -> Self {
        Self(Box::default())
    }

    fn beside(&self) -> Self {
        Self::new()
    }

    #[inline]
    fn granted(&self) {
        self.0.0.store(self.0.0.load(Relaxed) + 1, Relaxed);
    }

    #[inline]
    fn released(&self) {}
}

/// Granted, released, live of the origin and live of the account, shared by all threads.
#[derive(Debug)]
pub struct FourShared(Arc<[AtomicU64; 4]>);

impl Counters for FourShared {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn beside(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    #[inline]
    fn granted(&self) {
        self.0[0].fetch_add(1, Relaxed);
        self.0[2].fetch_add(1, Relaxed);
    }

    #[inline]
    fn released(&self) {
        self.0[1].fetch_add(1, Relaxed);
        self.0[3].fetch_sub(1, Relaxed);
    }
}

/// A contender with counters.
#[derive(Debug)]
pub struct Counted<C, K> {
    contender: C,
    counters: K,
}

impl<C, K: Counters> Counted<C, K> {
    /// Nothing is counted yet.
    pub fn new(contender: C) -> Self {
        Self { contender, counters: K::new() }
    }
}

impl<C: Contender, K: Counters> Contender for Counted<C, K> {
    type Lease = C::Lease;

    #[inline]
    fn acquire(&mut self, origin: u32) -> Option<C::Lease> {
        let lease = self.contender.acquire(origin)?;
        self.counters.granted();
        Some(lease)
    }

    #[inline]
    fn release(&mut self, lease: C::Lease) {
        self.counters.released();
        self.contender.release(lease);
    }

    fn port(&self, lease: &C::Lease) -> u16 {
        self.contender.port(lease)
    }

    fn set_time(&mut self, ms: u64) {
        self.contender.set_time(ms);
    }
}

impl<C: Beside, K: Counters> Beside for Counted<C, K> {
    fn beside(&self, nth: u64) -> Self {
        Self { contender: self.contender.beside(nth), counters: self.counters.beside() }
    }
}
