//! How fast the hot paths are, next to what people use instead, measured in the same run.
//!
//! Everything that is measured stands behind [`Contender`], so that ours and the peers do the same work in the same
//! loop, and so that one test can check that none of them is broken. The binary prints the Markdown table; the
//! bench target `statistics` gives the same contenders to criterion.
#![forbid(unsafe_code)]

mod contender;
mod lookup;
mod ours;
mod peers;
mod random;
mod rounds;

pub use contender::{Churn, Contender, Scene, fill, refusal};
pub use lookup::{
    BATCH, Hashed, Lookup, Packet, Question, SoftUnicast, Sorted, StdHashed, ask, layout, packets,
};
pub use ours::{Access, Ours, Resting};
pub use peers::{Bitmap, DashSet, Empty, PapayaSet, PerOrigin, Ring, SccSet, Set, Sets, Shared, Stack};
pub use random::Random;
pub use rounds::{Effort, Measured, Race};
