//! The one file that names atomics. Under `cfg(loom)` the model checker's atomics take their place.

#[cfg(loom)]
mod model;

#[cfg(loom)]
pub use model::{AtomicU16, AtomicU64};
#[cfg(all(loom, test))]
pub(crate) use model::{MemoryModel, with_memory_model};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU16, AtomicU64};

pub(crate) use std::sync::atomic::Ordering;
