//! How fast the hot paths are, next to what people use instead, measured in the same run.
//!
//! Everything that is measured stands behind [`Contender`], so that ours and the peers do the same work in the same
//! loop, and so that one test can check that none of them is broken. The binary prints the Markdown tables; the
//! bench target `statistics` gives the same contenders to criterion.
//!
//! | module | what is in it |
//! |---|---|
//! | `contender`, `ours`, `peers` | who is measured |
//! | `rounds`, `threads`, `tail` | how: in turns; on two threads; pair by pair |
//! | `counting`, [`safety`], [`memory`], [`connect`] | the cost of counters; duplicates; resident memory; real connections |
//! | `lookup` | owners of returning packets |
//! | [`reports`] | reports of use: rolled up, written, read |
//! | [`replay`] | what-if replays of synthetic days |
//! | [`layouts`], [`apply`] | layouts of a large network; acquires while one is applied |
//! | [`exits`] | where a request leaves |
//! | [`placements`] | plans for a large network |
//! | [`count`] | fixed loops for counting instructions |
#![deny(unsafe_code)]

pub mod apply;
pub mod connect;
mod contender;
mod cores;
pub mod count;
mod counting;
pub mod exits;
mod kernel;
pub mod layouts;
mod lookup;
pub mod memory;
mod ours;
mod peers;
pub mod placements;
mod random;
pub mod replay;
pub mod reports;
mod rounds;
pub mod safety;
mod tail;
mod threads;
#[path = "../../aegis-core/tests/world/mod.rs"]
mod world;

pub use contender::{Beside, Churn, Contender, Scene, fill, refusal};
pub use cores::{core_to_core, cores};
pub use counting::{Counted, Counters, FourShared, OnesOwn};
pub use lookup::{
    BATCH, BareArray, Hashed, HashedV6, Lookup, LookupV6, Packet, Question, Size, SoftUnicast, Sorted,
    Spread, StdHashed, Trie, ask, ask_v6, layout, layout_v6, packets, packets_v6,
};
pub use ours::{Access, Ours, Resting};
pub use peers::{
    Bitmap, DashSet, Empty, HaproxyRing, Hashbrown, PapayaSet, PerOrigin, Ring, SccSet, Set, Sets, Sharded,
    Shared, Stack,
};
pub use random::Random;
pub use rounds::{Effort, Measured, Race};
pub use tail::{Tails, Times};
pub use threads::{Scaled, THREADS, Threaded};
