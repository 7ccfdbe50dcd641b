//! What the fuzz targets do with their input. Each body panics where a promise of `aegis-core` is broken, and runs on
//! a stable compiler as well: `tests/replay.rs` feeds it the committed corpora.

use std::path::Path;

#[path = "../../aegis-core/tests/handover/world.rs"]
mod handover;
mod input;
mod lease_memory;
mod lease_ops;
mod owners;
mod parsers;

pub use handover::handover;
pub use lease_memory::lease_memory;
pub use lease_ops::lease_ops;
pub use owners::{image, lookup};
pub use parsers::{bundle, fleet_file, report, trace};

/// Runs a target's body on files, for example on what the fuzzer left in `artifacts`.
///
/// # Errors
/// A file cannot be read.
pub fn replay(target: fn(&[u8]), files: impl IntoIterator<Item = impl AsRef<Path>>) -> std::io::Result<()> {
    files.into_iter().try_for_each(|file| {
        target(&std::fs::read(file)?);
        Ok(())
    })
}
