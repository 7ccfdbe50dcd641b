//! What people use instead, each built so that it is correct and as fast as it honestly can be.
//!
//! None of them keeps a quarantine, an owner, a high-water mark or a way to drain; all are shared by threads as ours
//! is. Those that choose by chance use the harness's fast generator.

mod haproxy;
mod per_origin;
mod sets;

pub use haproxy::HaproxyRing;
pub use per_origin::{Bitmap, PerOrigin, Ring, Shared, Stack};
pub use sets::{DashSet, Hashbrown, PapayaSet, SccSet, Set, Sets, Sharded};

use crate::contender::Contender;

/// A port towards an origin, as the peers' users must remember it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    origin: u32,
    port: u16,
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

    fn port(&self, granted: &Granted) -> u16 {
        granted.port
    }
}
