//! Ours, as a user would call it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aegis_core::lease::{
    Closed, Config, Lease, OriginHandle, Pool, PoolKey, Quarantine, Spans, Table, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;

use crate::contender::{Contender, Scene};

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
        let config = Config {
            granule_ports: u32::from(scene.granule),
            granules: u32::from(scene.granules),
            origins: scene.origins,
            pages: scene.origins * u32::from(scene.granules) + 1,
            workers: 2,
            quarantine: match resting {
                Resting::Default => Quarantine::default(),
                Resting::Off => Quarantine::new(Spans::ZERO, Spans::ZERO).expect("zero is short enough"),
            },
            ..Config::default()
        };
        let table = Arc::new(Table::new(config, [7; 32]).expect("the configuration is in range"));
        let granules: Vec<_> = (1..=scene.granules)
            .map(|nth| {
                let lo = nth * scene.granule;
                let range = PortRange::new(lo, lo + (scene.granule - 1)).expect("granules run forwards");
                table.add_granule(IpAddr::V4(Scene::egress()), range).expect("the table has room for it")
            })
            .collect();
        let pool = table.pool(PoolKey(0), granules).expect("the granules are of this table");
        let worker = Worker::attach(Arc::clone(&table), [9; 32]).expect("the first worker finds a place");
        let origins: Vec<_> = (0..scene.origins)
            .map(|nth| {
                Origin::new(Protocol::Tcp, SocketAddr::V4(scene.origin(nth))).expect("a unicast address")
            })
            .collect();
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
        self.table.release(lease, Closed::Active, self.now).expect("every lease is released once");
    }

    fn port(lease: &Lease) -> u16 {
        lease.source().port()
    }

    fn set_time(&mut self, ms: u64) {
        self.now = Time::from_millis(1_000 + ms);
    }
}
