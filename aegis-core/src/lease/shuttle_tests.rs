//! Whole tables used by several threads, in many orders drawn at random: `make shuttle`.
//!
//! Where loom tries every order of a few steps, this tries some orders of thousands: origins and pages are used again,
//! holds end early, granules leave and come back, all at once.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test knows more than the core does"
)]

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};

use crate::net::{Origin, PortRange, Protocol};
use crate::time::Time;

use super::{
    AcquireError, Closed, Config, GranuleSlot, GranuleState, Lease, OriginHandle, Pool, PoolKey, Quarantine,
    Spans, Table, Worker,
};

const THREADS: u8 = 3;
const ORIGINS: u16 = 4;
const PORTS: u16 = 2;
const STEPS: u32 = 12;

/// Fewer records and pages than origins and granules: what ends is used again.
fn config() -> Config {
    let hold = Spans { half_closed: Duration::from_millis(1_000), ..Spans::ZERO };
    let rest = Spans { active: Duration::from_millis(700), ..Spans::ZERO };
    Config {
        granule_ports: PORTS.into(),
        granules: 2,
        origins: 3,
        pages: 3,
        workers: THREADS.into(),
        quotas: 0,
        quarantine: Quarantine::new(hold, rest).unwrap(),
        ..Config::default()
    }
}

fn origin(n: u16) -> Origin {
    Origin::new(Protocol::Tcp, SocketAddr::from(([203, 0, 113, 7], 1_000 + n))).unwrap()
}

/// What everybody knows, without the checker's knowing that they talk about it.
#[derive(Default)]
struct Ledger {
    live: BTreeSet<(Origin, SocketAddr)>,
    now: u64,
}

struct Scene {
    table: Arc<Table>,
    granules: [GranuleSlot; 2],
    pool: Pool,
    ledger: Mutex<Ledger>,
}

impl Scene {
    fn new() -> Self {
        let table = Arc::new(Table::new(config(), [7; 32]).unwrap());
        let granules = [2_000, 3_000].map(|lo| {
            let range = PortRange::new(lo, lo + PORTS - 1).unwrap();
            table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap()
        });
        let pool = table.pool(PoolKey(1), granules).unwrap();
        Self { table, granules, pool, ledger: Mutex::default() }
    }

    fn now(&self) -> Time {
        Time::from_millis(1_000 + self.ledger.lock().unwrap().now)
    }

    fn granted(&self, lease: &Lease, to: &Origin) {
        let tuple = self.table.tuple(lease).unwrap();
        assert_eq!(tuple.origin, *to);
        let new = self.ledger.lock().unwrap().live.insert((*to, tuple.source));
        assert!(new, "{tuple:?} was granted twice");
    }

    fn about_to_end(&self, lease: &Lease) {
        let tuple = self.table.tuple(lease).unwrap();
        assert!(self.ledger.lock().unwrap().live.remove(&(tuple.origin, tuple.source)));
    }
}

/// A few random steps of one thread.
fn work(scene: &Scene, number: u8, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ u64::from(number) << 56);
    let mut pick = |n: u32| rng.next_u32() % n;
    let mut worker = Worker::attach(Arc::clone(&scene.table), [number; 32]).unwrap();
    let mut leases: Vec<Lease> = Vec::new();
    let mut handle: Option<OriginHandle> = None;
    let mut half_closed = None;
    for _ in 0..STEPS {
        let now = scene.now();
        match pick(10) {
            0..=3 => {
                let to = origin(pick(ORIGINS.into()) as u16);
                let acquired = worker.acquire_to(&scene.pool, &to, now);
                leases.extend(acquired.ok().inspect(|lease| scene.granted(lease, &to)));
            }
            4 => {
                let to = origin(pick(ORIGINS.into()) as u16);
                let handle = match &mut handle {
                    Some(handle) => handle,
                    none => match worker.origin(&scene.pool, to) {
                        Ok(new) => none.insert(new),
                        Err(error) => {
                            assert_eq!(error, AcquireError::TooManyOrigins);
                            continue;
                        }
                    },
                };
                let to = *handle.origin();
                let acquired = worker.acquire(handle, now);
                leases.extend(acquired.ok().inspect(|lease| scene.granted(lease, &to)));
            }
            5..=7 if !leases.is_empty() => {
                let lease = leases.swap_remove(pick(leases.len() as u32) as usize);
                scene.about_to_end(&lease);
                match pick(3) {
                    0 => half_closed = Some(scene.table.half_close(lease, now).unwrap()),
                    1 => worker.release(lease, Closed::Active, now).unwrap(),
                    _ => worker.release(lease, Closed::Reset, now).unwrap(),
                }
            }
            8 => {
                if let Some(half_closed) = half_closed.take() {
                    let _ = scene.table.peer_closed(half_closed, now);
                }
                let held = scene.table.held(now);
                let _ = scene.table.reconcile(&held, now, |tuple| tuple.source.port() % 2 == 0);
            }
            9 if number == 0 => {
                let granule = scene.granules[pick(2) as usize];
                let state = [GranuleState::Owned, GranuleState::Draining][pick(2) as usize];
                scene.table.set_state(granule, state);
            }
            _ => scene.ledger.lock().unwrap().now += 250 * u64::from(pick(4)),
        }
    }
    for lease in leases {
        scene.about_to_end(&lease);
        worker.release(lease, Closed::Reset, scene.now()).unwrap();
    }
}

/// In the end every tuple is there, for as many origins as there is room.
fn nothing_is_lost(scene: &Scene) {
    let now = scene.now() + Duration::from_secs(10);
    for granule in scene.granules {
        scene.table.set_state(granule, GranuleState::Owned);
    }
    let mut worker = Worker::attach(Arc::clone(&scene.table), [99; 32]).unwrap();
    for to in [0, 1, 2, 3].map(origin) {
        let all: Vec<_> = (0..2 * PORTS).map(|_| worker.acquire_to(&scene.pool, &to, now).unwrap()).collect();
        let sources: BTreeSet<_> = all.iter().map(|lease| scene.table.source(lease).unwrap()).collect();
        assert_eq!(sources.len(), all.len());
        assert_eq!(worker.acquire_to(&scene.pool, &to, now), Err(AcquireError::Exhausted));
        for lease in all {
            worker.release(lease, Closed::Reset, now).unwrap();
        }
    }
}

fn explore(scheduler: impl Scheduler + 'static) {
    let config = shuttle::Config::new();
    let seeds = Arc::new(std::sync::atomic::AtomicU64::new(0));
    shuttle::Runner::new(scheduler, config).run(move || {
        let seed = seeds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let scene = Arc::new(Scene::new());
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let scene = Arc::clone(&scene);
                shuttle::thread::spawn(move || work(&scene, number, seed))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        nothing_is_lost(&scene);
    });
}

/// `AEGIS_SHUTTLE_RUNS=1000000` for the long form.
fn runs() -> usize {
    std::env::var("AEGIS_SHUTTLE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(20_000)
}

#[test]
fn shuttle_threads_that_do_everything_at_once_never_share_a_tuple_in_random_orders() {
    explore(RandomScheduler::new(runs()));
}

#[test]
fn shuttle_threads_that_do_everything_at_once_never_share_a_tuple_with_few_long_stops() {
    explore(PctScheduler::new(3, runs()));
}
