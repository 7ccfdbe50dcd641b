//! The random generator of a worker.
//!
//! RFC 6056 section 3.3.2 (algorithm 2, random with re-draw) with one repair: where re-drawing does not find a free
//! port soon, the table counts the free ones and draws a rank, so that the choice stays exactly uniform and no free
//! port is ever missed. The linear search of algorithm 1 is not used: section 5 shows that it prefers ports behind a
//! run of used ones, some of them 500 times over.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// A seed for a worker's generator: 32 bytes that nobody else knows, from the operating system outside of tests.
pub type Seed = [u8; 32];

/// A stream of unpredictable numbers (ChaCha with 8 rounds).
#[derive(Debug)]
pub(super) struct Choice(ChaCha8Rng);

impl Choice {
    pub(super) fn new(seed: Seed) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// A number below `n` (1 to 2^28), all equally likely (Lemire's method).
    #[inline]
    pub(super) fn below(&mut self, n: u32) -> u32 {
        let mut product = u64::from(self.0.next_u32()) * u64::from(n);
        if (product as u32) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u32) < threshold {
                product = u64::from(self.0.next_u32()) * u64::from(n);
            }
        }
        (product >> 32) as u32
    }
}
