//! Workers for threads that come and go: a worker belongs to one thread at a time, a dialer to all of them.

use std::sync::Arc;
use std::thread::available_parallelism;

use aegis_core::edge::{Edge, Worker};
use aegis_core::error::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex};

use crate::{ForkGuard, clock};

/// A stash of workers; it grows while threads find it empty, up to the number of processors.
///
/// An acquire takes less than a microsecond and never waits, so more workers than processors would not help.
///
/// In a forked child there are none: theirs would choose as the parent's do, and from a copy of the parent's table.
#[derive(Debug)]
pub(crate) struct Workers {
    made: ForkGuard,
    edge: Arc<Edge>,
    stash: Mutex<Stash>,
    returned: Condvar,
}

/// This process is a child of the one that the workers belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Forked;

#[derive(Debug)]
struct Stash {
    idle: Vec<Worker>,
    /// So many more may be attached.
    attachable: usize,
}

impl Workers {
    /// Attaches the first worker, so that whoever waits for one waits for something.
    pub(crate) fn new(edge: Arc<Edge>) -> Result<Self> {
        let first = attach(&edge)?;
        let processors = available_parallelism().map_or(1, usize::from);
        let stash = Mutex::new(Stash { idle: vec![first], attachable: processors - 1 });
        Ok(Self { made: ForkGuard::new(), edge, stash, returned: Condvar::new() })
    }

    pub(crate) fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// Calls `f` with a worker that nobody else uses meanwhile. If `f` panics its worker is detached, and another may
    /// be attached in its place: a half-done acquire is not handed on.
    ///
    /// # Errors
    /// This is a forked child. It finds out before it takes the lock, which another thread of the parent may have
    /// held, and here nobody would ever unlock.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Worker) -> T) -> Result<T, Forked> {
        if self.made.is_child() {
            return Err(Forked);
        }
        let mut borrowed = Borrowed { workers: self, worker: Some(self.take()), done: false };
        let result = f(borrowed.worker.as_mut().expect("taken when it is dropped"));
        borrowed.done = true;
        Ok(result)
    }

    fn take(&self) -> Worker {
        let mut stash = self.stash.lock();
        loop {
            if let Some(worker) = stash.idle.pop() {
                return worker;
            }
            if stash.attachable == 0 {
                self.returned.wait(&mut stash);
                continue;
            }
            stash.attachable -= 1;
            drop(stash);
            // If this fails others have taken the edge's workers: make do with what we have.
            if let Ok(worker) = attach(&self.edge) {
                return worker;
            }
            stash = self.stash.lock();
        }
    }
}

impl Drop for Workers {
    /// A child leaves its parent's workers attached: they are not its own.
    fn drop(&mut self) {
        if self.made.is_child() {
            std::mem::forget(std::mem::take(&mut self.stash.get_mut().idle));
        }
    }
}

/// A worker on its way back.
struct Borrowed<'a> {
    workers: &'a Workers,
    worker: Option<Worker>,
    done: bool,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let worker = self.worker.take().filter(|_| self.done);
        let mut stash = self.workers.stash.lock();
        match worker {
            Some(worker) => stash.idle.push(worker),
            None => stash.attachable += 1,
        }
        drop(stash);
        self.workers.returned.notify_one();
    }
}

fn attach(edge: &Arc<Edge>) -> Result<Worker> {
    let seed = clock::seed().map_err(|e| Error::new(ErrorKind::Machine, format!("no random seed: {e}")))?;
    edge.worker(seed)
}
