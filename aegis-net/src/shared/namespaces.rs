//! Who may share: processes that see the same process numbers and the same clock.

use std::fs::metadata;
use std::os::unix::fs::MetadataExt;

use aegis_core::error::{Error, Result};

/// The namespaces that a lease table's contents depend on, by inode; zero is unknown.
///
/// In another process namespace a living process looks dead and its leases would be granted again; in another time
/// namespace the clock is shifted and holds would end early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Namespaces {
    pub(super) process: u64,
    pub(super) time: u64,
}

impl Namespaces {
    /// Those of this process. Without `/proc` they are unknown, and nothing is refused.
    pub(super) fn here() -> Self {
        let inode = |path| metadata(path).map_or(0, |found| found.ino());
        Self { process: inode("/proc/self/ns/pid"), time: inode("/proc/self/ns/time") }
    }

    /// # Errors
    /// They are known to be others.
    pub(super) fn check(self, here: Self) -> Result<()> {
        for (kind, of, here) in [("process", self.process, here.process), ("time", self.time, here.time)] {
            if of != here && of != 0 && here != 0 {
                return Err(Error::input(format!(
                    "it was made in {kind} namespace {of}, and this process is in {here}; share a lease table \
                     within one container, or between containers with common namespaces"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_namespace_is_no_other() {
        let (known, unknown) = (Namespaces { process: 3, time: 4 }, Namespaces { process: 0, time: 0 });
        for (of, here) in [(known, unknown), (unknown, known), (unknown, unknown), (known, known)] {
            of.check(here).unwrap();
        }
        known.check(Namespaces { process: 3, time: 5 }).unwrap_err();
    }
}
