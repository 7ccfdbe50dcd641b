//! Who acquires: a thread or process with its own random generator, words and counters.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::net::{Origin, PortRange, Protocol};
use crate::sync::Ordering::SeqCst;
use crate::time::Time;

use super::acquire::{Acquired, Hand};
use super::choice::{Choice, Seed};
use super::handle::{OriginHandle, Remembered};
use super::map::WORKER_OWNER;
use super::pool::{Pool, PoolKey, Sources, Use};
use super::quota::QuotaSlot;
use super::records::Record;
use super::share::CONNECT_MS;
use super::slot::Slot;
use super::table::Table;
use super::target::Target;
use super::{AcquireError, Closed, GranuleSlot, Heap, Lease, Memory, Rejected, Tuple};

/// A thread or process that acquires. Not shared: each has its own.
///
/// After `fork` the child must attach a worker of its own: the parent's generator would repeat itself.
#[derive(Debug)]
pub struct Worker<M: Memory = Heap> {
    table: Arc<Table<M>>,
    hand: Hand,
    remembered: Remembered,
}

/// The right to connect once from a range of ports, of which the kernel chooses one: set `IP_LOCAL_PORT_RANGE` to it, and
/// complete the lease with the port that it was.
///
/// It keeps nothing from others: the kernel is who says whether a port is free. Dropped, it leaves nothing behind.
#[derive(Clone, Debug)]
#[must_use = "complete it after connect"]
pub struct RangeLease {
    source_ip: core::net::IpAddr,
    range: PortRange,
    origin: Origin,
    pool: Pool,
    granule: GranuleSlot,
    /// Later it cannot be completed: the granule may be another machine's by then.
    until: Time,
    /// The machine's tenure when the range was leased.
    tenure: Time,
}

impl RangeLease {
    /// Bind the socket to this address, port 0.
    pub fn source_ip(&self) -> core::net::IpAddr {
        self.source_ip
    }

    /// The ports that the kernel may choose among.
    pub fn range(&self) -> PortRange {
        self.range
    }

    /// Connect the socket there.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The egress pool: part of the key of every connection pool.
    pub fn pool(&self) -> PoolKey {
        self.pool.key()
    }
}

/// Why a lease of a range was not completed. The socket is still open: close it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// The kernel chose a port outside the range, as it does when `IP_LOCAL_PORT_RANGE` is not supported, or lies outside
    /// of `net.ipv4.ip_local_port_range`. Answers to that port go to another machine.
    #[error(
        "the kernel chose port {port} outside {range}: close the socket, and check net.ipv4.ip_local_port_range"
    )]
    Outside {
        /// The kernel's choice.
        port: u16,
        /// The range that was leased.
        range: PortRange,
    },
    /// The connect took longer than a granule waits for before it may be another machine's; or the machine's tenure ended
    /// meanwhile, and the granule does not grant (again).
    #[error("the connect took longer than a minute, or than the machine's tenure: close the socket")]
    TooLate,
    /// No lease could be made of it.
    #[error(transparent)]
    Refused(#[from] AcquireError),
}

impl<M: Memory> Worker<M> {
    /// Attaches a worker to a table. `seed` must be nobody else's.
    ///
    /// # Errors
    /// As many workers as the table was made for are attached.
    pub fn attach(table: Arc<Table<M>>, seed: Seed) -> Result<Self> {
        let owner = u64::from(table.owner().0) + 1;
        let free = (0..table.config().workers).find(|&number| {
            let attached = &table.worker_words(number)[WORKER_OWNER];
            attached.compare_exchange(0, owner, SeqCst, SeqCst).is_ok()
        });
        let Some(number) = free else {
            return Err(Error::new(
                ErrorKind::Wait,
                format!("all {} workers of the lease table are attached; drop one", table.config().workers),
            ));
        };
        let hand = Hand::new(table.owner(), number, Choice::new(seed));
        Ok(Self { table, hand, remembered: Remembered::default() })
    }

    /// The table.
    pub fn table(&self) -> &Arc<Table<M>> {
        &self.table
    }

    /// Looks an origin up once, for many acquires.
    ///
    /// # Errors
    /// [`AcquireError`], but never `Exhausted`.
    pub fn origin(&self, pool: &Pool, origin: Origin) -> Acquired<OriginHandle> {
        let sources = sources(&self.table, pool, Use::Chosen, origin.ip().is_ipv6())?;
        let record = self.table.origin_or_new(&origin, self.table.clock(Time::ZERO), self.slot())?;
        Ok(OriginHandle::new(pool.clone(), origin, record, sources))
    }

    /// A lease of a free source ip:port of the pool towards the origin, chosen uniformly among all free ones; if
    /// there are none, among the longest resting ones.
    ///
    /// # Errors
    /// [`AcquireError`]; never `Exhausted` while a tuple is free or resting.
    #[inline]
    pub fn acquire(&mut self, handle: &mut OriginHandle, now: Time) -> Acquired {
        acquire(&self.table, &mut self.hand, handle, now)
    }

    /// As [`Worker::acquire`], with the origin looked up.
    ///
    /// # Errors
    /// [`AcquireError`]; never `Exhausted` while a tuple is free or resting.
    #[inline]
    pub fn acquire_to(&mut self, pool: &Pool, origin: &Origin, now: Time) -> Acquired {
        let table = &*self.table;
        // Most connections go to an origin that others have just gone to.
        if let Some(handle) = self.remembered.find(pool, origin) {
            return acquire(table, &mut self.hand, handle, now);
        }
        let sources = sources(table, pool, Use::Chosen, origin.ip().is_ipv6())?;
        let slot = table.slot_of(self.hand.number);
        let now = table.clock(now);
        let record = table.origin_or_new(origin, now, slot)?;
        if let Some(handle) = self.remembered.seen_again(pool, origin, record, sources) {
            return acquire(table, &mut self.hand, handle, now);
        }
        self.hand.acquire(&mut Target::new(table, pool, sources, Some(origin), record, now))
    }

    /// A lease of exactly this source ip:port of the pool towards the origin, if it is free or resting.
    ///
    /// # Errors
    /// [`AcquireError::InUse`]: it is live, held or parked; [`AcquireError::NoShare`]: it is outside this machine's
    /// shares of the pool; the others as [`Worker::acquire`].
    pub fn acquire_exactly(
        &mut self,
        pool: &Pool,
        source: SocketAddr,
        origin: &Origin,
        now: Time,
    ) -> Acquired {
        let table = &*self.table;
        let sources = sources(table, pool, Use::Chosen, origin.ip().is_ipv6())?;
        let (index, offset) = sources.find(source).ok_or(AcquireError::NoShare)?;
        let now = table.clock(now);
        let record = table.origin_or_new(origin, now, self.slot())?;
        let mut target = Target::new(table, pool, sources, Some(origin), record, now);
        self.hand.acquire_exactly(&mut target, index, offset)
    }

    /// A lease of a free source ip:port for an unconnected UDP socket: nobody else uses it, towards any destination.
    ///
    /// # Errors
    /// As [`Worker::acquire`]; [`AcquireError::NoShare`] if the pool has no granules for such sockets.
    pub fn acquire_unconnected(&mut self, pool: &Pool, ipv6: bool, now: Time) -> Acquired {
        let table = &*self.table;
        let sources = sources(table, pool, Use::Unconnected, ipv6)?;
        let now = table.clock(now);
        let record = Record::any_origin(Protocol::Udp);
        self.hand.acquire(&mut Target::new(table, pool, sources, None, record, now))
    }

    /// A range of ports of the pool in which the kernel will find a free one towards the origin.
    ///
    /// # Errors
    /// [`AcquireError::Exhausted`]: as far as the table knows, every port is live, held or parked; the others as
    /// [`Worker::acquire`].
    pub fn acquire_range(&mut self, pool: &Pool, origin: &Origin, now: Time) -> Acquired<RangeLease> {
        let table = &*self.table;
        let sources = sources(table, pool, Use::KernelRange, origin.ip().is_ipv6())?;
        if let Some(quota) = pool.quota() {
            // Only a look: it counts when it is completed.
            table.count_quota(quota)?;
            table.uncount(quota.number + 1, table.owner());
        }
        let now = table.clock(now);
        let record = table.origin_or_new(origin, now, self.slot())?;
        let mut target = Target::new(table, pool, sources, Some(origin), record, now);
        // Before the source is chosen, which looks whether the tenure still lasts.
        let tenure = table.tenure();
        let source = self.hand.choose_source(&mut target)?;
        let source = &sources.list()[source];
        let (source_ip, range, _) = table.granule(source.granule).ok_or(AcquireError::Corrupt)?;
        let granule = source.granule;
        let until = now + Duration::from_millis(CONNECT_MS);
        Ok(RangeLease { source_ip, range, origin: *origin, pool: pool.clone(), granule, until, tenure })
    }

    /// Completes a lease of a range with the port that the kernel chose. The kernel's word counts: what was held here
    /// is not there any more, and a lease whose socket is closed but which was not released yet ends by this.
    ///
    /// # Errors
    /// [`CompleteError`]: the socket must be closed; nothing was leased.
    pub fn complete(
        &mut self,
        range: &RangeLease,
        port: u16,
        now: Time,
    ) -> core::result::Result<Lease, CompleteError> {
        if !range.range.contains(port) {
            return Err(CompleteError::Outside { port, range: range.range });
        }
        let at = self.table.clock(now);
        // A dead machine's granules are others' before a minute is over. Where the granule is granted from again it was
        // nobody else's meanwhile, or is not any more.
        let grants = || {
            let (table, protocol) = (&self.table, range.origin.protocol());
            let is_known = table.granule(range.granule).is_some();
            is_known && table.has_tenure(at) && table.grants(range.granule, protocol, at)
        };
        if at >= range.until || at >= range.tenure && !grants() {
            return Err(CompleteError::TooLate);
        }
        let source = SocketAddr::new(range.source_ip, port);
        Ok(self.take(&range.pool, Use::KernelRange, source, &range.origin, now, false)?)
    }

    /// A lease of a tuple whose connection exists already, as after a hot upgrade: also where its granule is draining, and
    /// where it was held until now.
    ///
    /// # Errors
    /// [`AcquireError::InUse`]: it is another lease's; [`AcquireError::NoShare`]: its source is not in the pool; the
    /// others as [`Worker::acquire`].
    pub fn adopt(&mut self, pool: &Pool, tuple: &Tuple, now: Time) -> Acquired {
        self.take(pool, Use::Chosen, tuple.source, &tuple.origin, now, true)
    }

    fn take(
        &mut self,
        pool: &Pool,
        wanted: Use,
        source: SocketAddr,
        origin: &Origin,
        now: Time,
        only_one: bool,
    ) -> Acquired {
        let table = &*self.table;
        let sources = sources(table, pool, wanted, origin.ip().is_ipv6())?;
        let (index, offset) = sources.find(source).ok_or(AcquireError::NoShare)?;
        let now = table.clock(now);
        let record = table.origin_or_new(origin, now, self.slot())?;
        let mut target = Target::new(table, pool, sources, Some(origin), record, now);
        self.hand.take_living(&mut target, index, offset, only_one)
    }

    /// Gives a lease back, as [`Table::release`]: cheaper where several processes share the table.
    ///
    /// # Errors
    /// As [`Table::release`].
    #[inline]
    pub fn release(&mut self, lease: Lease, closed: Closed, now: Time) -> core::result::Result<(), Rejected> {
        self.table.release_by(lease, closed, now, self.slot(), Some(self.hand.number))
    }

    /// Counts an acquire of a user that was refused, for a reason that is the caller's number.
    #[inline]
    pub(crate) fn count_refused(&self, user: QuotaSlot, reason: u8) {
        self.table.count_refused_user(self.hand.number, user, reason);
    }

    #[inline]
    fn slot(&self) -> Slot<'_> {
        self.table.slot_of(self.hand.number)
    }
}

#[inline]
fn acquire<M: Memory>(table: &Table<M>, hand: &mut Hand, handle: &mut OriginHandle, now: Time) -> Acquired {
    let OriginHandle { pool, origin, record, pages, stash, was_refused } = handle;
    let sources = sources(table, pool, Use::Chosen, origin.ip().is_ipv6())?;
    let now = table.clock(now);
    let mut target = Target::new(table, pool, sources, Some(origin), *record, now);
    target.pages = pages;
    target.stash = Some(stash);
    let acquired = match *was_refused && target.is_full() {
        true => Err(target.refuse(hand.number)),
        false => hand.acquire(&mut target),
    };
    *was_refused = acquired.is_err();
    *record = target.record;
    acquired
}

#[inline]
fn sources<'a, M: Memory>(
    table: &Table<M>,
    pool: &'a Pool,
    wanted: Use,
    ipv6: bool,
) -> Acquired<&'a Sources> {
    if pool.table() != table.id() {
        return Err(AcquireError::ForeignPool);
    }
    let sources = pool.sources(wanted, ipv6);
    if sources.ports() == 0 { Err(AcquireError::NoShare) } else { Ok(sources) }
}

impl<M: Memory> Drop for Worker<M> {
    fn drop(&mut self) {
        self.table.flush_worker(self.hand.number, self.table.owner());
        let words = self.table.worker_words(self.hand.number);
        words[WORKER_OWNER].store(0, SeqCst);
    }
}
