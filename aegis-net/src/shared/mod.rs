//! Memory of a lease table that several processes have at once.

mod file;
mod layout;
mod memfd;
mod namespaces;
mod region;

use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU64};

use aegis_core::error::{Error, ErrorKind, Result};
use aegis_core::lease::{Memory, Size};

use layout::Layout;
use namespaces::Namespaces;
use region::{Mapping, Region};

/// Memory for one lease table, shared by processes: whatever one of them writes, all see, and nothing of it is lost
/// when one is killed. No process ever holds a lock on it.
///
/// | made by | for | whoever may write it |
/// |---|---|---|
/// | [`Shared::memfd`] | children and whoever is sent the descriptor | has been given the descriptor |
/// | [`Shared::file`] | processes that know a path | is this user (or root) |
/// | [`Shared::create_in`] | programs that share memory already, such as nginx | is part of the program |
///
/// All of them are trusted: they can write what they want into the table. What is checked on opening finds
/// accidents, and nothing that the memory says makes this code read or write outside of it.
///
/// Bytes 0 to 63 are a header (`AEGISSHM`, version, numbers of words and tags with their complements, process and time
/// namespace); then come the words, and from the next multiple of 64 the tags. Whoever opens a region checks the
/// header against the real length, and keeps its own copy of the numbers.
///
/// ```
/// use std::sync::atomic::Ordering::SeqCst;
///
/// use aegis_core::lease::{Memory, Size};
/// use aegis_net::Shared;
///
/// let ours = Shared::memfd(Size { words: 1_000, tags: 1_000 })?;
/// let descriptor = ours.descriptor().expect("a memfd has one").try_clone_to_owned()?;
/// // ... in the process that was given the descriptor:
/// let theirs = Shared::from_fd(descriptor)?;
/// theirs.words()[7].store(1, SeqCst);
/// assert_eq!(ours.words()[7].load(SeqCst), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Shared {
    region: Region,
    descriptor: Option<OwnedFd>,
}

impl Shared {
    /// Zeroed memory without a name (a memfd), sealed so that nobody can change its length.
    ///
    /// A forked child has it. For another program pass a duplicate of the [descriptor](Self::descriptor): as its
    /// standard input, or over a Unix socket.
    ///
    /// Memory that nobody touches costs address space only. So the machine may run out of it later: then the kernel
    /// kills a process, as with any memory.
    ///
    /// # Errors
    /// The process may not have another descriptor, or so much address space; memfds are forbidden here.
    pub fn memfd(size: Size) -> Result<Self> {
        let layout = Layout::new(size)?;
        let descriptor = memfd::create(layout.len)?;
        let region = map(&descriptor, layout.len, "a memfd")?.create(layout, Namespaces::here())?;
        Ok(Self { region, descriptor: Some(descriptor) })
    }

    /// The memory that [`Shared::memfd`] has made in another process.
    ///
    /// # Errors
    /// The descriptor is no memfd; its length is not sealed; what is in it is not a lease table's memory, or damaged,
    /// or was made in another process or time namespace.
    pub fn from_fd(descriptor: OwnedFd) -> Result<Self> {
        let len = memfd::sealed_len(&descriptor)?;
        let region = open(&descriptor, len, "the memfd")?;
        Ok(Self { region, descriptor: Some(descriptor) })
    }

    /// A private file as memory: made if there is none, else opened. Processes that start at once agree on one, and
    /// nobody sees half of it. It is not locked: a lock would not keep anybody from cutting it off.
    ///
    /// `path` must be on a tmpfs (`/dev/shm`, `/run`): a lease table's times count from the start of the machine, and a
    /// disk would write it out again and again. The file belongs to this user and has mode 0600. All of its memory
    /// is taken at once, so that a full file system is an error here.
    ///
    /// While processes have it nobody may
    /// - shorten it: they would be killed by SIGBUS;
    /// - remove or replace it: the next one that starts would make a lease table of its own, and grant what is in use.
    ///
    /// # Errors
    /// No room; a file of another size, a symbolic link, another's file, one that others can use, one with a second
    /// name; damaged contents; a file system that is not a tmpfs.
    pub fn file(path: impl AsRef<Path>, size: Size) -> Result<Self> {
        Self::prepared_file(path, size, |_| Ok(()))
    }

    /// As [`Shared::file`]; if it is made, `prepare` fills it before anybody else can see it. Of several processes
    /// that start at once each may prepare one, and one of them is taken. If a process is killed meanwhile nothing
    /// is left.
    ///
    /// # Errors
    /// As [`Shared::file`], and those of `prepare`.
    pub fn prepared_file(
        path: impl AsRef<Path>,
        size: Size,
        mut prepare: impl FnMut(Self) -> Result<()>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let layout = Layout::new(size)?;
        // If somebody removes the file between our look and our link we look again; but not for ever.
        for _ in 0..16 {
            if let Some((file, len)) = file::open_private(path)? {
                return Self::existing(path, file, len, layout);
            }
            let new = file::nameless(path, layout.len)?;
            let region = map(&new, layout.len, path.display())?.create(layout, Namespaces::here())?;
            prepare(Self { region, descriptor: None })?;
            file::publish(new, path)?;
        }
        Err(Error::new(
            ErrorKind::Machine,
            format!("{} is removed again and again; find out by whom", path.display()),
        ))
    }

    fn existing(path: &Path, file: OwnedFd, len: usize, expected: Layout) -> Result<Self> {
        let region = open(&file, len, path.display())?;
        let found = region.layout();
        if found != expected {
            return Err(Error::input(format!(
                "{} is for {} words and {} tags, and {} words and {} tags were asked for; use the configuration \
                 that it was made with, or remove it once no process has it",
                path.display(),
                found.size.words,
                found.size.tags,
                expected.size.words,
                expected.size.tags
            )));
        }
        Ok(Self { region, descriptor: None })
    }

    /// Makes a lease table's memory in `len` bytes of the host program's, which are zero. One process does this,
    /// before any other [opens](Self::open_in) it. If it is killed meanwhile, do it again.
    ///
    /// Nothing but the 64 bytes of the header is touched, and nothing is ever unmapped or freed.
    ///
    /// # Errors
    /// `start` is not a multiple of 8; there are too few bytes; the header's bytes are not zero, as when a lease
    /// table lives there already.
    ///
    /// # Safety
    /// - The `len` bytes at `start` stay readable and writable as long as the result lives.
    /// - Meanwhile nobody reads or writes them except through a `Shared`, in this process or another.
    pub unsafe fn create_in(start: *mut u8, len: usize, size: Size) -> Result<Self> {
        let layout = Layout::new(size)?;
        // SAFETY: the caller's promise is the same. Covered by `host_memory_is_created_then_opened`.
        let mapping = unsafe { Mapping::at(start, len) }?;
        Ok(Self { region: mapping.create(layout, Namespaces::here())?, descriptor: None })
    }

    /// The lease table's memory that [`Shared::create_in`] has made in these bytes, in this process or another.
    /// The address may be another one there.
    ///
    /// # Errors
    /// `start` is not a multiple of 8; the bytes do not hold a lease table's memory (yet), or it is damaged, or was
    /// made in another process or time namespace.
    ///
    /// # Safety
    /// As [`Shared::create_in`].
    pub unsafe fn open_in(start: *mut u8, len: usize) -> Result<Self> {
        // SAFETY: the caller's promise is the same. Covered by `host_memory_is_created_then_opened`.
        let mapping = unsafe { Mapping::at(start, len) }?;
        let region = mapping.open(Namespaces::here()).map_err(|e| e.at("the host program's memory"))?;
        Ok(Self { region, descriptor: None })
    }

    /// So many bytes [`Shared::create_in`] needs.
    ///
    /// # Errors
    /// So much does not fit into an address space.
    pub fn bytes(size: Size) -> Result<usize> {
        Ok(Layout::new(size)?.len)
    }

    /// How many words and tags there are.
    pub fn size(&self) -> Size {
        self.region.layout().size
    }

    /// The descriptor of a memfd, to be passed on: a program that is given a duplicate of it opens it with
    /// [`Shared::from_fd`]. It is closed on exec.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }
}

impl Memory for Shared {
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        self.region.words()
    }

    #[inline]
    fn tags(&self) -> &[AtomicU16] {
        self.region.tags()
    }
}

/// The region that fills a file or memfd of `len` bytes.
fn open(file: &OwnedFd, len: usize, name: impl Display) -> Result<Region> {
    // The header itself must be there.
    let least = Layout::new(Size { words: 0, tags: 0 })?.len;
    if len < least {
        return Err(Error::input(format!(
            "{name} has {len} bytes, and even the header of a lease table's memory takes {least}; create it anew"
        )));
    }
    let region = map(file, len, &name)?.open(Namespaces::here()).map_err(|e| e.at(&name))?;
    let Layout { size, len: expected, .. } = region.layout();
    if len != expected {
        return Err(Error::new(
            ErrorKind::Reload,
            format!(
                "{name} has {len} bytes instead of {expected} for {} words and {} tags; create it anew",
                size.words, size.tags
            ),
        ));
    }
    Ok(region)
}

fn map(file: &OwnedFd, len: usize, name: impl Display) -> Result<Mapping> {
    Mapping::of(file, len).map_err(|e| os_error(format!("{len} bytes of {name} as memory"), e))
}

/// What the operating system refuses is the machine's matter: a limit, a permission, a full file system.
fn os_error(what: impl Display, error: impl Into<std::io::Error>) -> Error {
    Error::new(ErrorKind::Machine, format!("{what}: {}", error.into()))
}
