//! Is this process a forked child of the one that asked first?

use std::io;
use std::process;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Tells a forked child from the process that made the guard, at the cost of a load: for whatever must not be used
/// in both, such as a random generator that would repeat itself.
///
/// The guard is a word that the kernel sets to zero in every child (`MADV_WIPEONFORK`, Linux 4.14). Where it does not,
/// the process number is asked for, which costs a system call; a distant descendant could by chance have the same
/// number. A child of `vfork`, or of `clone` with common memory, is the same process to it.
///
/// ```
/// let guard = aegis_net::ForkGuard::new();
/// assert!(!guard.is_child());
/// ```
#[derive(Debug)]
pub struct ForkGuard(Witness);

#[derive(Debug)]
enum Witness {
    Wiped(Page),
    Pid(u32),
}

impl ForkGuard {
    /// A guard of this process.
    pub fn new() -> Self {
        Self(Page::new().map_or_else(|_| Witness::Pid(process::id()), Witness::Wiped))
    }

    /// This process is not the one that made the guard, but a child of it, or a child's child.
    #[inline]
    pub fn is_child(&self) -> bool {
        match &self.0 {
            // Relaxed: the kernel wipes it before the child runs.
            Witness::Wiped(page) => page.word().load(Relaxed) == 0,
            Witness::Pid(pid) => process::id() != *pid,
        }
    }
}

impl Default for ForkGuard {
    fn default() -> Self {
        Self::new()
    }
}

/// The kernel rounds this up to a page.
const LEN: usize = size_of::<AtomicU64>();

/// A word in a page of its own: 1 here, 0 in children.
#[derive(Debug)]
struct Page(NonNull<AtomicU64>);

// SAFETY: it is memory that no thread has more right to than another. Covered by `threads_share_a_guard`.
unsafe impl Send for Page {}
// SAFETY: only an atomic can be reached through it. Covered by `threads_share_a_guard`.
unsafe impl Sync for Page {}

impl Page {
    fn new() -> io::Result<Self> {
        // SAFETY: the kernel chooses a place that nothing else has. Covered by `a_child_knows_that_it_is_one`.
        let start = unsafe {
            mmap_anonymous(null_mut(), LEN, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }?;
        let word = NonNull::new(start.cast()).expect("the kernel maps nothing at zero unless it is told to");
        let page = Self(word);
        // SAFETY: the page is ours and nobody else has its address; in a child it becomes zero, which is a value of
        // its word. Covered by `a_child_knows_that_it_is_one`.
        unsafe { madvise(start, LEN, Advice::LinuxWipeOnFork) }?;
        page.word().store(1, Relaxed);
        Ok(page)
    }

    #[inline]
    fn word(&self) -> &AtomicU64 {
        // SAFETY: the page starts with the word and is mapped as long as `self` lives, in children too.
        // Covered by `a_child_knows_that_it_is_one`.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: we have mapped it, and no reference to the word is left. Covered by `a_guard_leaves_no_mapping`.
        let unmapped = unsafe { munmap(self.0.as_ptr().cast(), LEN) };
        debug_assert!(unmapped.is_ok(), "it is mapped: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `child` says in a forked child. It may only do what a signal handler may: other threads of the test may
    /// have held locks.
    fn in_child(child: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child calls nothing that takes a lock or memory, and ends without running destructors.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            let answer = i32::from(child());
            // SAFETY: it ends the child and touches nothing.
            unsafe { libc::_exit(answer) };
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call; the child is ours and nobody else waits for it.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert!(waited == pid && libc::WIFEXITED(status), "the child ended with status {status}");
        libc::WEXITSTATUS(status) == 1
    }

    #[test]
    fn a_child_knows_that_it_is_one() {
        let wiped = ForkGuard::new();
        assert!(matches!(wiped.0, Witness::Wiped(_)), "this kernel wipes");
        let pid = ForkGuard(Witness::Pid(process::id()));
        for guard in [wiped, pid] {
            assert!(!guard.is_child());
            assert!(in_child(|| guard.is_child()), "{guard:?}");
            assert!(in_child(|| in_child(|| guard.is_child())), "{guard:?}: a child's child");
            assert!(!guard.is_child(), "{guard:?}: the parent is still none");
        }
    }

    #[test]
    fn threads_share_a_guard() {
        let guard = ForkGuard::new();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert!(!guard.is_child()));
            }
        });
    }

    /// Whether something is mapped at `address`.
    fn is_mapped(address: usize) -> bool {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("this system has /proc");
        maps.lines().any(|line| {
            let (start, rest) = line.split_once('-').expect("a range comes first");
            let (end, _) = rest.split_once(' ').expect("the range ends with a space");
            let bound = |text| usize::from_str_radix(text, 16).expect("bounds are hexadecimal");
            (bound(start)..bound(end)).contains(&address)
        })
    }

    /// Threads of other tests may map something at the place that was just left: a page that stays is there each time.
    #[test]
    fn a_guard_leaves_no_mapping() {
        let leaves_none = || {
            let guard = ForkGuard::new();
            let Witness::Wiped(page) = &guard.0 else { panic!("this kernel wipes") };
            let address = page.0.as_ptr() as usize;
            assert!(is_mapped(address));
            drop(guard);
            !is_mapped(address)
        };
        assert!((0..100).any(|_| leaves_none()));
    }
}
