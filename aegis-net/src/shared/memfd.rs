//! Memory without a name, for processes that are given its descriptor. Its length is sealed: no process can cut it
//! off under the others, which would kill them with SIGBUS.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aegis_core::error::{Error, Result};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;

use super::os_error;

/// A sealed memfd of `len` zero bytes. Bytes that nobody touches take no memory.
pub(super) fn create(len: usize) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Where `vm.memfd_noexec` asks for it nothing else is allowed; before Linux 6.3 nobody knows the flag.
    let fd = match memfd_create("aegis-leases", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("aegis-leases", flags),
        other => other,
    };
    let fd = fd.map_err(|e| os_error("a memfd for a lease table", e))?;
    ftruncate(&fd, len as u64).map_err(|e| os_error(format!("a memfd of {len} bytes"), e))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&fd, seals).map_err(|e| os_error("the seals of a memfd", e))?;
    Ok(fd)
}

/// The length of a memfd, which is sealed.
///
/// # Errors
/// It is something else, or somebody could still change its length.
pub(super) fn sealed_len(fd: impl AsFd) -> Result<usize> {
    let fd = fd.as_fd();
    let number = fd.as_raw_fd();
    let expected = "a lease table's memory is a memfd that `Shared::memfd` has made; pass its descriptor";
    let seals = fcntl_get_seals(fd)
        .map_err(|e| Error::input(format!("descriptor {number} has no seals ({e}); {expected}")))?;
    let missing = (SealFlags::SHRINK | SealFlags::GROW) - seals;
    if !missing.is_empty() {
        let missing: Vec<_> = missing.iter_names().map(|(name, _)| name).collect();
        return Err(Error::input(format!(
            "descriptor {number} is not sealed against {}, so its length could change; {expected}",
            missing.join(" and ")
        )));
    }
    let stat = fstat(fd).map_err(|e| os_error(format!("descriptor {number}"), e))?;
    usize::try_from(stat.st_size)
        .map_err(|_| Error::input(format!("descriptor {number} has {} bytes; {expected}", stat.st_size)))
}
