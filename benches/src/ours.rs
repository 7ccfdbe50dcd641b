//! Ours, as a user would call it. The one file here that names the lease table.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aegis_core::lease::{
    Closed, Config, Lease, OriginHandle, Pool, PoolKey, Quarantine, Spans, Table, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;
use aegis_core::usage::Meter;
use aegis_net::{clock, recipe};

use crate::contender::{Beside, Contender, Scene};

/// How the origin is named at an acquire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// By a handle that was made once.
    Handle,
    /// By ip:port, looked up every time.
    Lookup,
}

/// Do released ports rest?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resting {
    /// As configured by default: 65 s after an orderly close.
    Default,
    /// No hold and no rest.
    Off,
}

/// Threads that share a table here, at most.
const WORKERS: u16 = 8;

/// A lease table with one worker and one pool.
#[derive(Debug)]
pub struct Ours {
    table: Arc<Table>,
    worker: Worker,
    pool: Pool,
    access: Access,
    origins: Vec<Origin>,
    handles: Vec<OriginHandle>,
    now: Time,
}

impl Ours {
    /// A table just large enough for the scene.
    ///
    /// # Panics
    /// The scene is impossible.
    pub fn new(scene: Scene, access: Access, resting: Resting) -> Self {
        let quarantine = match resting {
            Resting::Default => Quarantine::default(),
            Resting::Off => Quarantine::new(Spans::ZERO, Spans::ZERO).expect("zero is short enough"),
        };
        let config = Config { workers: WORKERS, quarantine, ..large_enough(scene) };
        let (table, pool) = table(config, scene, Scene::egress());
        let origins: Vec<_> = (0..scene.origins).map(|nth| tcp(scene.origin(nth))).collect();
        Self::attach(table, pool, access, origins, 0)
    }

    /// Looks at the use of the table, as who reports it does each second.
    pub fn meter(&self) -> impl FnMut() + Send + use<> {
        let (table, now) = (Arc::clone(&self.table), self.now);
        let mut meter = Meter::start(&table, &[], now);
        move || meter.sample(&table, &[], now)
    }

    fn attach(table: Arc<Table>, pool: Pool, access: Access, origins: Vec<Origin>, nth: u64) -> Self {
        let worker = attach(&table, nth);
        let handles = match access {
            Access::Handle => {
                origins.iter().map(|&o| worker.origin(&pool, o).expect("room for every origin")).collect()
            }
            Access::Lookup => Vec::new(),
        };
        Self { table, worker, pool, access, origins, handles, now: Time::from_millis(1_000) }
    }
}

impl Contender for Ours {
    type Lease = Lease;

    #[inline]
    fn acquire(&mut self, origin: u32) -> Option<Lease> {
        match self.access {
            Access::Handle => self.worker.acquire(&mut self.handles[origin as usize], self.now).ok(),
            Access::Lookup => {
                self.worker.acquire_to(&self.pool, &self.origins[origin as usize], self.now).ok()
            }
        }
    }

    #[inline]
    fn release(&mut self, lease: Lease) {
        self.worker.release(lease, Closed::Active, self.now).expect("every lease is released once");
    }

    fn port(&self, lease: &Lease) -> u16 {
        self.table.source(lease).map_or(0, |source| source.port())
    }

    fn set_time(&mut self, ms: u64) {
        self.now = Time::from_millis(1_000 + ms);
    }
}

impl Beside for Ours {
    fn beside(&self, nth: u64) -> Self {
        Self::attach(Arc::clone(&self.table), self.pool.clone(), self.access, self.origins.clone(), 1 + nth)
    }
}

/// A lease table that remembers nothing outside itself, so that the memory of the process is the table's.
#[derive(Debug)]
pub(crate) struct Bare {
    table: Arc<Table>,
    worker: Worker,
    pool: Pool,
    scene: Scene,
    now: Time,
}

impl Bare {
    /// A table just large enough for the scene.
    pub(crate) fn sized_for(scene: Scene) -> Self {
        Self::with(large_enough(scene), scene)
    }

    /// A table of the default configuration, which knows nothing of how many origins will come.
    pub(crate) fn by_default(scene: Scene) -> Self {
        Self::with(Config::default(), scene)
    }

    fn with(config: Config, scene: Scene) -> Self {
        let (table, pool) = table(config, scene, Scene::egress());
        let worker = attach(&table, 0);
        Self { table, worker, pool, scene, now: Time::from_millis(1_000) }
    }

    /// Why the last acquire towards the origin gave nothing.
    pub(crate) fn reason(&mut self, origin: u32) -> String {
        let refused = self.worker.acquire_to(&self.pool, &tcp(self.scene.origin(origin)), self.now);
        refused.map_or_else(|error| error.to_string(), |_| "none: it is granted now".into())
    }
}

impl Contender for Bare {
    type Lease = Lease;

    fn acquire(&mut self, origin: u32) -> Option<Lease> {
        self.worker.acquire_to(&self.pool, &tcp(self.scene.origin(origin)), self.now).ok()
    }

    fn release(&mut self, lease: Lease) {
        self.worker.release(lease, Closed::Active, self.now).expect("every lease is released once");
    }

    fn port(&self, lease: &Lease) -> u16 {
        self.table.source(lease).map_or(0, |source| source.port())
    }

    fn set_time(&mut self, ms: u64) {
        self.now = Time::from_millis(1_000 + ms);
    }
}

/// Leases that are really bound and connected: by real time, towards one real origin.
#[derive(Debug)]
pub(crate) struct Dialled {
    table: Arc<Table>,
    worker: Worker,
    handle: OriginHandle,
}

impl Dialled {
    /// The ports of the scene at a local address, towards a listener.
    ///
    /// # Panics
    /// The scene is impossible.
    pub(crate) fn new(scene: Scene, egress: Ipv4Addr, origin: SocketAddrV4) -> Self {
        let (table, pool) = table(large_enough(scene), scene, egress);
        let worker = attach(&table, 0);
        let handle = worker.origin(&pool, tcp(origin)).expect("room for one origin");
        Self { table, worker, handle }
    }

    /// A lease, and what to bind to.
    ///
    /// # Panics
    /// A lease is refused.
    pub(crate) fn acquire(&mut self) -> (Lease, SocketAddr) {
        let lease = self.worker.acquire(&mut self.handle, clock::now()).expect("a port is free");
        let source = self.table.source(&lease).expect("granted a moment ago");
        (lease, source)
    }

    /// A socket that connects from the lease's source, by the recipe of `aegis-net`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn begin(&self, lease: &Lease) -> io::Result<OwnedFd> {
        recipe::begin(&self.table.tuple(lease).map_err(io::Error::other)?).map_err(io::Error::other)
    }

    /// Gives the lease of a connection back that was reset.
    ///
    /// # Panics
    /// It is given back twice.
    pub(crate) fn release(&self, lease: Lease) {
        self.table.release(lease, Closed::Reset, clock::now()).expect("every lease is released once");
    }
}

/// What [`Dialled`] grants.
pub(crate) type DialledLease = Lease;

fn large_enough(scene: Scene) -> Config {
    Config {
        granule_ports: u32::from(scene.granule),
        granules: u32::from(scene.granules),
        origins: scene.origins,
        pages: scene.origins * u32::from(scene.granules) + 1,
        workers: 2,
        ..Config::default()
    }
}

fn table(config: Config, scene: Scene, egress: Ipv4Addr) -> (Arc<Table>, Pool) {
    let table = Arc::new(Table::new(config, [7; 32]).expect("the configuration is in range"));
    let granules: Vec<_> = (0..scene.granules)
        .map(|nth| {
            let lo = scene.lo() + nth * scene.granule;
            let range = PortRange::new(lo, lo + (scene.granule - 1)).expect("granules run forwards");
            table.add_granule(IpAddr::V4(egress), range).expect("the table has room for it")
        })
        .collect();
    let pool = table.pool(PoolKey(0), granules).expect("the granules are of this table");
    (table, pool)
}

/// Seeds are the same in every run, so that instructions can be counted.
fn attach(table: &Arc<Table>, nth: u64) -> Worker {
    let mut seed = [9; 32];
    seed[0] = nth as u8;
    Worker::attach(Arc::clone(table), seed).expect("a place for every thread")
}

#[inline]
fn tcp(address: SocketAddrV4) -> Origin {
    Origin::new(Protocol::Tcp, SocketAddr::V4(address)).expect("a unicast address")
}
