//! Which source may this connection take? `README.md` beside this file: how the table is built.
//!
//! A [`Table`] holds the tuples of one machine; each thread or process attaches a [`Worker`] to it and acquires
//! [`Lease`]s from a [`Pool`] towards an origin. A lease is one atomic operation on a bitmap word; the choice is
//! uniform over all free tuples (see `choice`), and no free tuple is ever missed.

mod acquire;
mod arena;
mod busy;
mod choice;
mod config;
mod error;
mod grant;
mod granules;
mod half_closed;
mod handle;
mod home;
mod index;
mod intent;
#[cfg(loom)]
#[cfg(test)]
mod loom_tests;
mod map;
mod memory;
mod owner;
mod page;
mod pages;
mod pool;
mod quarantine;
mod quota;
mod reconcile;
mod records;
mod release;
mod share;
#[cfg(shuttle)]
#[cfg(test)]
mod shuttle_tests;
mod slot;
mod table;
mod tag;
mod tally;
mod target;
mod usage;
mod users;
mod withheld;
mod worker;

pub use choice::Seed;
pub use config::Config;
pub use error::{AcquireError, ReleaseError};
pub use grant::{Conflict, Lease, Rejected, Tuple};
pub use granules::{GranuleState, Method};
pub use half_closed::HalfClosed;
pub use handle::OriginHandle;
pub(crate) use map::REASONS;
pub use map::Size;
pub use memory::{Heap, Memory};
pub use owner::Recovered;
pub use pool::{GranuleSlot, Pool, PoolKey};
pub use quarantine::{Closed, DEFAULT_FIN_TIMEOUT, Quarantine, Spans};
pub use quota::QuotaSlot;
pub use reconcile::{Adoption, Held};
pub use share::Share;
pub use table::Table;
pub(crate) use tally::Cell;
pub use usage::{Explanation, Usage};
pub use worker::{CompleteError, RangeLease, Worker};
