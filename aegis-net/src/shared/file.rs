//! A private file that its user's processes map: whoever comes first makes it, at once and whole.

use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use aegis_core::error::{Error, ErrorKind, Result};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, Stat, StatFs, fallocate, fchmod, fstat, fstatfs,
    linkat, open, statfs,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::os_error;

/// The files of these systems are gone after a restart of the machine. `include/uapi/linux/magic.h`
const VOLATILE: [u64; 2] = [0x0102_1994 /* tmpfs */, 0x8584_58f6 /* ramfs */];

/// Opens the file at `path` if it is private to this user.
///
/// # Errors
/// There is none (`Ok(None)`), or others could read it, write it, or had a hand in what it is.
pub(super) fn open_private(path: &Path) -> Result<Option<(OwnedFd, usize)>> {
    // Not blocking: somebody may have put a pipe or a device there.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => {
            return Err(refused(path, "is a symbolic link, or its directory is a loop of them"));
        }
        Err(error) => return Err(os_error(path.display(), error)),
    };
    let stat = fstat(&file).map_err(|e| os_error(path.display(), e))?;
    check_private(path, &stat)?;
    check_volatile(path, fstatfs(&file))?;
    let len = usize::try_from(stat.st_size).map_err(|_| refused(path, "has no length"))?;
    Ok(Some((file, len)))
}

fn check_private(path: &Path, stat: &Stat) -> Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(refused(path, format!("is no regular file but {kind:?}")));
    }
    let us = geteuid().as_raw();
    if stat.st_uid != us {
        return Err(refused(path, format!("belongs to user {}, and this process is user {us}", stat.st_uid)));
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(refused(path, format!("has mode {mode:04o}, so others can use it, instead of 0600")));
    }
    if stat.st_nlink != 1 {
        return Err(refused(path, format!("has {} names instead of one", stat.st_nlink)));
    }
    Ok(())
}

/// A lease table's times count from the start of the machine, and so do its processes' start times.
fn check_volatile(path: &Path, file_system: rustix::io::Result<StatFs>) -> Result<()> {
    let kind = file_system.map_err(|e| os_error(path.display(), e))?.f_type;
    // Its type differs from architecture to architecture; all magic numbers have 32 bits.
    let kind = kind as u64 & 0xffff_ffff;
    if VOLATILE.contains(&kind) {
        return Ok(());
    }
    Err(Error::input(format!(
        "{}: its file system (type {kind:#x}) outlives a restart of the machine, and what a lease table says does \
         not; use a tmpfs, such as /dev/shm or /run",
        path.display()
    )))
}

/// A file of `len` zero bytes in the directory of `path`, without a name: if we are killed it is gone. All of it
/// is there (allocated), so a full file system is an error now and not a SIGBUS later.
pub(super) fn nameless(path: &Path, len: usize) -> Result<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(refused(path, "is no name of a file")),
    };
    // Asked first, because on other file systems the next step may fail with something that explains less.
    check_volatile(path, statfs(directory))?;
    let file = open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
        .map_err(|e| os_error(format!("a file in {}", directory.display()), e))?;
    // Whatever the umask has left of it.
    fchmod(&file, Mode::RUSR | Mode::WUSR).map_err(|e| os_error(path.display(), e))?;
    fallocate(&file, FallocateFlags::empty(), 0, len as u64)
        .map_err(|e| os_error(format!("{len} bytes for {}", path.display()), e))?;
    Ok(file)
}

/// Gives the file its name, unless another has it: false.
pub(super) fn publish(file: impl AsFd, path: &Path) -> Result<bool> {
    let file = file.as_fd();
    // By descriptor this needs a privilege, or Linux 6.10; by /proc it needs /proc.
    let linked = linkat(file, "", CWD, path, AtFlags::EMPTY_PATH).or_else(|error| match error {
        Errno::EXIST => Err(error),
        _ => linkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), CWD, path, AtFlags::SYMLINK_FOLLOW),
    });
    match linked {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(os_error(path.display(), error)),
    }
}

/// What is at `path` is not a file that we would map.
fn refused(path: &Path, why: impl Display) -> Error {
    Error::new(
        ErrorKind::Input,
        format!("{} {why}; remove it, or name another file for the lease table", path.display()),
    )
}
