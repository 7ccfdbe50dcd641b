//! The one file that names atomics. Under `cfg(loom)` the model checker's atomics take their place.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU16, AtomicU64};
#[cfg(not(loom))]
#[expect(clippy::disallowed_types, reason = "this is the file that names them")]
pub use std::sync::atomic::{AtomicU16, AtomicU64};

#[expect(unused_imports, reason = "the lease table is the first user")]
pub(crate) use std::sync::atomic::Ordering;
