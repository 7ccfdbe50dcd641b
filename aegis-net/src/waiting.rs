//! Who waits for a free tuple, and who wakes him.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use aegis_core::error::ErrorKind;
use aegis_core::net::Origin;
use parking_lot::Mutex;

use crate::{ConnectError, clock};

/// Releases by other processes, the ends of holds, and quotas that come free are found by looking so often.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// A hold that ends now may need a moment more to be seen.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Those who wait for a tuple. A release wakes one of them, and costs one load if there is none.
///
/// The first who waits for the release's origin is woken; if nobody does, the first of all, who may wait for a quota.
/// It may find that somebody else was faster, so no order is promised.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    count: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    /// By origin, then by arrival.
    waiters: BTreeMap<(Origin, u64), Entry>,
}

#[derive(Debug)]
struct Entry {
    woken: bool,
    waker: Waker,
}

impl Waiting {
    /// A tuple towards this origin was given back.
    #[inline]
    pub(crate) fn released(&self, origin: &Origin) {
        // SeqCst: a waiter counts itself before it looks for a tuple, and the tuple was given back before this load.
        // One of the two sees the other.
        if self.count.load(SeqCst) != 0 {
            self.wake(origin);
        }
    }

    #[cold]
    fn wake(&self, origin: &Origin) {
        let mut list = self.list.lock();
        let asleep = |waiter: &(&_, &mut Entry)| !waiter.1.woken;
        let range = (*origin, 0)..=(*origin, u64::MAX);
        let key = list.waiters.range_mut(range).find(asleep).map(|(key, _)| *key);
        let key = key.or_else(|| list.waiters.iter_mut().find(asleep).map(|(key, _)| *key));
        let Some(entry) = key.and_then(|key| list.waiters.get_mut(&key)) else { return };
        entry.woken = true;
        let waker = entry.waker.clone();
        drop(list);
        waker.wake();
    }

    /// Waits in line from now on.
    pub(crate) fn enter(self: &Arc<Self>, origin: Origin, waker: Waker) -> Waiter {
        let mut list = self.list.lock();
        let key = (origin, list.next);
        list.next += 1;
        list.waiters.insert(key, Entry { woken: false, waker });
        drop(list);
        self.count.fetch_add(1, SeqCst);
        Waiter { waiting: Arc::clone(self), key }
    }
}

/// One who waits. Dropped, it leaves the line; a wake that it had no use for goes to the next.
#[derive(Debug)]
pub(crate) struct Waiter {
    waiting: Arc<Waiting>,
    key: (Origin, u64),
}

impl Waiter {
    /// Was it woken since it was asked last?
    fn was_woken(&self) -> bool {
        let mut list = self.waiting.list.lock();
        list.waiters.get_mut(&self.key).is_some_and(|entry| std::mem::take(&mut entry.woken))
    }

    /// Waits until it is woken, but not longer than `pause`. Only in the thread whose waker it has.
    pub(crate) fn block(&self, pause: Duration) {
        let end = Instant::now() + pause;
        while !self.was_woken() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut list = self.waiting.list.lock();
        let Some(entry) = list.waiters.get_mut(&self.key) else { return Poll::Ready(()) };
        if std::mem::take(&mut entry.woken) {
            return Poll::Ready(());
        }
        entry.waker.clone_from(cx.waker());
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiting.count.fetch_sub(1, SeqCst);
        let entry = self.waiting.list.lock().waiters.remove(&self.key);
        if entry.is_some_and(|entry| entry.woken) {
            self.waiting.released(&self.key.0);
        }
    }
}

/// Wakes this thread.
pub(crate) fn this_thread() -> Waker {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    Waker::from(Arc::new(Unpark(thread::current())))
}

/// How long to wait before the next try after this refusal; `None` if waiting is no use, or the time is over. No deadline
/// is for ever.
pub(crate) fn pause(refusal: &ConnectError, deadline: Option<Instant>) -> Option<Duration> {
    let ConnectError::NoLease { error, explanation } = refusal else { return None };
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if error.kind() != ErrorKind::Wait || left.is_some_and(|left| left.is_zero()) {
        return None;
    }
    let first_free = explanation.first_free.map(|time| time.since(clock::now()).max(SHORTEST_PAUSE));
    let pause = first_free.map_or(LONGEST_PAUSE, |span| span.min(LONGEST_PAUSE));
    Some(left.map_or(pause, |left| left.min(pause)))
}
