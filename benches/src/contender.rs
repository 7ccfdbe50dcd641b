//! What is measured: a thing that grants ports towards origins, and the loops that exercise it.

use core::hint::black_box;
use core::ops::Range;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::random::Random;

/// The ground that every contender of one row is built on.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Ports in a granule.
    pub granule: u16,
    /// Granules of the one egress address.
    pub granules: u16,
    /// Origins.
    pub origins: u32,
}

impl Scene {
    /// Ports towards one origin.
    pub fn ports(self) -> u32 {
        u32::from(self.granule) * u32::from(self.granules)
    }

    /// The first port: the granule of port 0 is not used.
    pub fn lo(self) -> u16 {
        self.granule
    }

    /// The address of an origin.
    pub fn origin(self, index: u32) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from_bits(0xc612_0000 + index), 443)
    }

    /// The one egress address.
    pub fn egress() -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 7)
    }
}

/// Grants ports towards origins, each port at most once at a time towards one origin.
pub trait Contender {
    /// What the user keeps while the connection lives.
    type Lease;

    /// A free port towards an origin; `None` only if there is none.
    fn acquire(&mut self, origin: u32) -> Option<Self::Lease>;

    /// Gives it back.
    fn release(&mut self, lease: Self::Lease);

    /// The port granted.
    fn port(&self, lease: &Self::Lease) -> u16;

    /// Milliseconds since the start of the run; called between loops.
    fn set_time(&mut self, _ms: u64) {}
}

/// A contender that threads share.
pub trait Beside: Contender<Lease: Send> + Send + Sized {
    /// The same ports for another thread, whose choice is `nth`'s.
    fn beside(&self, nth: u64) -> Self;
}

/// Fills every origin to the given number of leases; the leases of one origin stand together.
///
/// # Panics
/// A lease is refused although a port is free: the contender is broken.
pub fn fill<C: Contender>(contender: &mut C, scene: Scene, leases: u32) -> Vec<C::Lease> {
    fill_towards(contender, 0..scene.origins, leases)
}

fn fill_towards<C: Contender>(contender: &mut C, origins: Range<u32>, leases: u32) -> Vec<C::Lease> {
    let mut live = Vec::with_capacity(origins.len() * leases as usize + 1);
    for origin in origins {
        for _ in 0..leases {
            live.push(contender.acquire(origin).expect("a port is free"));
        }
    }
    live
}

/// Steady state: as many connections end as begin.
#[derive(Debug)]
pub struct Churn<C: Contender> {
    contender: C,
    origins: Range<u32>,
    live: Vec<Option<C::Lease>>,
    per_origin: u32,
    random: Random,
}

impl<C: Contender> Churn<C> {
    /// `leases` live towards every origin.
    pub fn new(contender: C, scene: Scene, leases: u32) -> Self {
        Self::towards(contender, scene, 0..scene.origins, leases)
    }

    /// `leases` live towards each of some origins.
    pub fn towards(mut contender: C, scene: Scene, origins: Range<u32>, leases: u32) -> Self {
        let live = fill_towards(&mut contender, origins.clone(), leases).into_iter().map(Some).collect();
        let pairs = origins.len() as u64 * u64::from(scene.ports()) * 3;
        let mut churn = Self { contender, origins, live, per_origin: leases, random: Random::new(1) };
        // No port is fresh any more: what has rested, what has been pushed in order is churned through.
        churn.pairs(pairs);
        churn
    }

    /// Ends a random connection and begins one to the same origin, `n` times.
    pub fn pairs(&mut self, n: u64) {
        let mut random = self.random.clone();
        let (first, origins) = (self.origins.start, self.origins.len() as u32);
        for _ in 0..n {
            let nth = random.below(origins);
            let origin = first + nth;
            if self.per_origin == 0 {
                let lease = black_box(self.contender.acquire(black_box(origin)).expect("a port is free"));
                self.contender.release(lease);
                continue;
            }
            let at = (nth * self.per_origin + random.below(self.per_origin)) as usize;
            let ended = self.live[at].take().expect("every place is filled again");
            self.contender.release(ended);
            let lease = self.contender.acquire(black_box(origin)).expect("a port is free");
            self.live[at] = Some(black_box(lease));
        }
        self.random = random;
    }

    /// Tells the contender the time.
    pub fn set_time(&mut self, ms: u64) {
        self.contender.set_time(ms);
    }
}

/// Asks a full contender, `n` times.
///
/// # Panics
/// It grants.
pub fn refusal<C: Contender>(contender: &mut C, n: u64) {
    for _ in 0..n {
        assert!(black_box(contender.acquire(black_box(0))).is_none(), "every port is in use");
    }
}
