//! The one file that names atomics. Under `cfg(loom)`, and in tests under `cfg(shuttle)`, those of the two checkers take
//! their place.

#[cfg(loom)]
mod model;

#[cfg(loom)]
pub use model::{AtomicU16, AtomicU64};
#[cfg(all(loom, test))]
pub(crate) use model::{MemoryModel, with_memory_model};
#[cfg(all(shuttle, test))]
pub use shuttle::sync::atomic::{AtomicU16, AtomicU64};
#[cfg(not(any(loom, all(shuttle, test))))]
pub use std::sync::atomic::{AtomicU16, AtomicU64};

pub(crate) use std::sync::atomic::Ordering;
