//! The one file that names atomics. Under `cfg(loom)` the model checker's atomics take their place.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU16, AtomicU64};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU16, AtomicU64};

pub(crate) use std::sync::atomic::Ordering;
