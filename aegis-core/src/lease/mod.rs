//! Which source may this connection take?
//!
//! A [`Table`] holds the tuples of one machine; each thread or process attaches a [`Worker`] to it and acquires
//! [`Lease`]s from a [`Pool`] towards an origin. A lease is one atomic operation on a bitmap word; the choice is
//! uniform over all free tuples (see `choice`), and no free tuple is ever missed.

mod arena;
mod choice;
mod directory;
mod error;
mod grant;
mod granules;
#[cfg(loom)]
#[cfg(test)]
mod loom_tests;
mod map;
mod memory;
mod page;
mod pool;
mod quarantine;
mod table;
mod tag;
mod usage;
mod worker;

pub use choice::Seed;
pub use error::{AcquireError, ReleaseError};
pub use grant::{Conflict, Lease, Rejected};
pub use granules::GranuleState;
pub use map::{Config, Size};
pub use memory::{Heap, Memory};
pub use pool::{GranuleSlot, Pool, PoolKey};
pub use quarantine::{Closed, DEFAULT_FIN_TIMEOUT, Quarantine, Spans};
pub use table::Table;
pub use usage::{Explanation, Usage};
pub use worker::{OriginHandle, Worker};
