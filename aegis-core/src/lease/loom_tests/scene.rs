//! A tiny table for whole acquires and releases.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::net::{Origin, PortRange, Protocol};
use crate::sync::{AtomicU16, AtomicU64};
use crate::time::Time;

use super::super::{
    AcquireError, Closed, Config, GranuleSlot, Heap, Lease, Memory, Pool, PoolKey, Quarantine, Spans, Table,
    Worker,
};
use super::at;

/// Memory of two processes.
#[derive(Clone)]
pub(super) struct Shared(Arc<Heap>);

impl Memory for Shared {
    fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }

    fn tags(&self) -> &[AtomicU16] {
        self.0.tags()
    }
}

pub(super) struct Scene<M: Memory = Heap> {
    pub(super) table: Arc<Table<M>>,
    pub(super) granule: GranuleSlot,
    pub(super) pool: Pool,
}

/// One granule of so many ports; two workers, and room for one origin per worker.
pub(super) fn config(ports: u16) -> Config {
    let hold = Spans { half_closed: Duration::from_secs(5), ..Spans::ZERO };
    Config {
        granule_ports: u32::from(ports),
        granules: 1,
        origins: 2,
        pages: 2,
        workers: 2,
        quotas: 0,
        quarantine: Quarantine::new(hold, Spans::ZERO).unwrap(),
        ..Config::default()
    }
}

impl Scene {
    pub(super) fn new(ports: u16) -> Self {
        Self::of(config(ports))
    }

    pub(super) fn of(config: Config) -> Self {
        Self::with(Table::new(config, [7; 32]).unwrap())
    }
}

impl Scene<Shared> {
    /// The scene of one process, and the table of another.
    pub(super) fn shared(config: Config) -> (Self, Arc<Table<Shared>>) {
        let memory = Shared(Arc::new(Heap::zeroed(Table::<Heap>::size(&config).unwrap()).unwrap()));
        let table = Table::create(config, memory.clone(), [7; 32], MINE).unwrap();
        let scene = Self::with(table);
        (scene, Arc::new(Table::open(memory, THEIRS).unwrap()))
    }
}

/// Processes.
pub(super) const MINE: u64 = 1;
pub(super) const THEIRS: u64 = 2;

impl<M: Memory> Scene<M> {
    fn with(table: Table<M>) -> Self {
        let ports = table.config().granule_ports as u16;
        let table = Arc::new(table);
        let range = PortRange::new(1_000, 999 + ports).unwrap();
        let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
        let pool = table.pool(PoolKey(1), [granule]).unwrap();
        Self { table, granule, pool }
    }

    pub(super) fn worker(&self, seed: u8) -> Worker<M> {
        Worker::attach(Arc::clone(&self.table), [seed; 32]).unwrap()
    }

    /// Live and held tuples, as a scan of all pages sees them.
    pub(super) fn in_use(&self, now: Time) -> u32 {
        self.table.usage(now).map(|usage| usage.live + usage.held).sum()
    }

    /// A lease is of the origin that it was asked for.
    pub(super) fn check(&self, lease: &Lease, origin: &Origin) -> SocketAddr {
        let tuple = self.table.tuple(lease).expect("it is live");
        assert_eq!(tuple.origin, *origin, "or it is another's tuple");
        tuple.source
    }

    /// Nobody else has a tuple of these leases, and all others are to be had: leases all that are left towards the
    /// origin. `lost`: ports that are held.
    pub(super) fn fill(&self, worker: &mut Worker<M>, origin: &Origin, leases: Vec<Lease>, lost: usize) {
        let ports = self.pool.capacity(false) as usize;
        let mut sources: BTreeSet<_> = leases.iter().map(|lease| self.check(lease, origin)).collect();
        for _ in sources.len() + lost..ports {
            let lease = worker.acquire_to(&self.pool, origin, at(1)).expect("there is a port");
            sources.insert(self.check(&lease, origin));
        }
        assert_eq!(sources.len() + lost, ports, "every tuple has one owner");
        let more = worker.acquire_to(&self.pool, origin, at(1));
        // Without a page to be had it cannot be told whether more is free.
        assert!(matches!(more, Err(AcquireError::Exhausted | AcquireError::TooManyOrigins)), "{more:?}");
    }

    /// Makes an empty page for the granule and the origin.
    pub(super) fn make_page(&self, worker: &mut Worker<M>, origin: &Origin) {
        let lease = worker.acquire_exactly(&self.pool, source(0), origin, at(1)).unwrap();
        worker.release(lease, Closed::Unused, at(1)).unwrap();
    }
}

/// A port of the scene's granule.
pub(super) fn source(offset: u16) -> SocketAddr {
    SocketAddr::new("192.0.2.1".parse().unwrap(), 1_000 + offset)
}

pub(super) fn origin() -> Origin {
    Origin::new(Protocol::Tcp, "198.51.100.1:443".parse().unwrap()).unwrap()
}

pub(super) fn another() -> Origin {
    Origin::new(Protocol::Tcp, "198.51.100.2:443".parse().unwrap()).unwrap()
}
