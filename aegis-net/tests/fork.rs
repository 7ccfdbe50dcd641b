//! What a forked child may do with what its parent had made. A program of its own, with one thread: a child of a
//! process with several could find locks that nobody unlocks.

mod common;

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use aegis_core::error::ErrorKind;
use aegis_core::lease::{Memory, Size};
use aegis_net::{ConnectError, Dialer, Process, Shared, clock};
use common::{Share, origin};

/// Runs `child` in a forked child; panics if it does.
fn in_child(child: impl FnOnce()) {
    // SAFETY: this process has one thread, so the child has all of it.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        // The panic's message is on stderr already.
        let code = i32::from(catch_unwind(AssertUnwindSafe(child)).is_err());
        std::process::exit(code);
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call; the child is ours and nobody else waits for it.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert!(waited == pid && status == 0, "the child failed: status {status:#x}");
}

fn a_child_is_refused_its_parents_dialer_and_the_parent_goes_on() {
    let (listener, address) = origin();
    let share = Share::of(64);
    let before = share.connect(address).unwrap();
    in_child(|| {
        for result in [share.connect(address).map(drop), share.udp(address).map(drop)] {
            let error = result.unwrap_err();
            assert!(matches!(error, ConnectError::Forked), "{error}");
            assert!(error.to_string().contains("made before fork; make an edge and a dialer"), "{error}");
            assert_eq!(error.kind(), ErrorKind::Reload);
        }
        in_child(|| assert!(matches!(share.connect(address), Err(ConnectError::Forked)), "a child's child"));
    });
    let after = share.connect(address).unwrap();
    assert_ne!(before.source(), after.source());
    drop(listener);
}

fn a_child_leaves_from_a_dialer_of_its_own() {
    let (listener, address) = origin();
    let parents = Share::of(64);
    let mut stream = parents.connect(address).unwrap();
    in_child(|| {
        let own = Share::of(64);
        let mut stream = own.connect(address).unwrap();
        stream.write_all(b"child").unwrap();
    });
    stream.write_all(b"parent").unwrap();
    drop(stream);
    for expected in ["parent", "child"] {
        let mut heard = String::new();
        listener.accept().unwrap().0.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, expected);
    }
}

fn a_child_that_drops_the_dialer_leaves_the_parents_workers_attached() {
    let (_listener, address) = origin();
    let share = Share::of(64);
    share.udp(address).unwrap();
    let edge = Arc::clone(share.dialer.edge());
    let attach_all = || std::iter::from_fn(|| edge.worker(clock::seed().unwrap()).ok()).collect::<Vec<_>>();
    let free = attach_all().len();
    let Share { dialer, .. } = share;
    let mut dialer: Option<Dialer> = Some(dialer);
    in_child(|| {
        drop(dialer.take());
        assert_eq!(attach_all().len(), free, "in the child");
    });
    drop(dialer);
    assert!(attach_all().len() > free, "in the parent they are given back");
}

fn a_child_shares_the_parents_memory_and_is_another_process() {
    let shared = Shared::memfd(Size { words: 8, tags: 8 }).unwrap();
    let me = Process::me();
    in_child(|| {
        use std::sync::atomic::Ordering::SeqCst;
        assert!(Process::me() != me && me.is_alive());
        shared.words()[0].store(Process::me().token(), SeqCst);
    });
    let token = shared.words()[0].load(std::sync::atomic::Ordering::SeqCst);
    let child = Process::from_token(token).unwrap();
    assert!(child != me && !child.is_alive(), "it has ended");
}

/// The first thread of the child ends; another goes on until the parent has seen that the process lives.
fn a_process_lives_while_one_of_its_threads_does() {
    use std::sync::atomic::Ordering::SeqCst;
    let shared = Shared::memfd(Size { words: 8, tags: 8 }).unwrap();
    let parent = Process::me();
    // SAFETY: this process has one thread, so the child has all of it.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while shared.words()[1].load(SeqCst) == 0 && parent.is_alive() {
                    std::thread::yield_now();
                }
                std::process::exit(0);
            });
            shared.words()[0].store(Process::me().token(), SeqCst);
            // SAFETY: it ends this thread only; the other one keeps nothing of its stack but what stays mapped.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
    }
    common::eventually(|| shared.words()[0].load(SeqCst) != 0);
    let child = Process::from_token(shared.words()[0].load(SeqCst)).unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
    common::eventually(|| state().contains(") Z "));
    assert!(child.is_alive(), "{}", state());
    shared.words()[1].store(1, SeqCst);
    common::eventually(|| !child.is_alive());
    // SAFETY: nobody wants the status; the child is ours and nobody else waits for it.
    let waited = unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    assert_eq!(waited, pid);
}

fn main() {
    let tests: [(&str, fn()); 5] = [
        (
            "a_child_is_refused_its_parents_dialer_and_the_parent_goes_on",
            a_child_is_refused_its_parents_dialer_and_the_parent_goes_on,
        ),
        ("a_child_leaves_from_a_dialer_of_its_own", a_child_leaves_from_a_dialer_of_its_own),
        (
            "a_child_that_drops_the_dialer_leaves_the_parents_workers_attached",
            a_child_that_drops_the_dialer_leaves_the_parents_workers_attached,
        ),
        (
            "a_child_shares_the_parents_memory_and_is_another_process",
            a_child_shares_the_parents_memory_and_is_another_process,
        ),
        ("a_process_lives_while_one_of_its_threads_does", a_process_lives_while_one_of_its_threads_does),
    ];
    for (name, test) in tests {
        test();
        eprintln!("test {name} ... ok");
    }
}
