use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aegis_core::lease::{
    AcquireError, Closed, Config, Conflict, GranuleSlot, GranuleState, Lease, Pool, PoolKey, Quarantine,
    ReleaseError, Spans, Table, Tuple, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;

use crate::input::Input;

/// A sequence of operations on a small lease table, against a model that knows which tuples must not be granted and
/// nothing else: no tuple is granted twice, none while it is held or parked, none outside an owned granule; and
/// nobody is refused while one is left.
pub fn lease_ops(input: &[u8]) {
    let mut input = Input(input);
    let mut world = World::new(&mut input);
    while let Some(operation) = input.next() {
        world.step(operation, &mut input);
    }
    world.check_counts();
}

/// Why a tuple must not be granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    Live,
    Held(u64),
    Parked(u64),
}

struct Granule {
    slot: GranuleSlot,
    ip: IpAddr,
    range: PortRange,
    state: GranuleState,
}

struct World {
    table: Arc<Table>,
    quarantine: Quarantine,
    park_port: Duration,
    park_tuple: Duration,
    granules: Vec<Granule>,
    /// Pools, and how many of the granules (from the first) each has: they share some.
    pools: Vec<(Pool, usize)>,
    origins: Vec<Origin>,
    workers: Vec<Worker>,
    attached: u8,
    leases: Vec<Lease>,
    now: u64,
    taken: BTreeMap<(Origin, SocketAddr), Taken>,
    parked_ports: BTreeMap<(Protocol, SocketAddr), u64>,
}

/// Deadlines are rounded up to quarters of a second.
fn deadline(now: u64, span: Duration) -> u64 {
    (now + span.as_millis() as u64).div_ceil(250) * 250
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let mut spans = || Spans {
            active: Duration::from_millis(input.pick(&[0, 1, 900, 69_000])),
            passive: Duration::from_millis(input.pick(&[0, 250, 5_000])),
            ..Spans::all(Duration::from_millis(input.pick(&[0, 700, 60_000, 1_700_000])))
        };
        let quarantine = Quarantine::new(spans(), spans()).expect("no span is longer than the longest");
        let [park_port, park_tuple] = input.pick(&[[400, 700], [60_000, 2_000]]).map(Duration::from_millis);
        let config = Config {
            granule_ports: 40,
            granules: 3,
            origins: 3,
            // One of each granule for each origin, and for what is parked of each protocol.
            pages: 3 * (3 + 2),
            workers: 2,
            quarantine,
            park_port,
            park_tuple,
            ..Config::default()
        };
        let table = Arc::new(Table::new(config, [1; 32]).expect("a small table"));
        let granules: Vec<_> = (0..1 + input.below(3) as u16)
            .map(|n| {
                let ip = IpAddr::from([192, 0, 2, (n / 2) as u8]);
                let lo = 65_400 + n * 40;
                let range = PortRange::new(lo, lo + input.pick(&[0, 1, 4, 31, 32, 39])).expect("forwards");
                let slot = table.add_granule(ip, range).expect("disjoint and small enough");
                Granule { slot, ip, range, state: GranuleState::Owned }
            })
            .collect();
        let pools = [1, granules.len()]
            .into_iter()
            .zip(1..)
            .map(|(count, key)| {
                let slots = granules[..count].iter().map(|granule| granule.slot);
                (table.pool(PoolKey(key), slots).expect("granules of this table"), count)
            })
            .collect();
        let origins = [(Protocol::Tcp, 443), (Protocol::Udp, 443), (Protocol::Tcp, 8_443)]
            .map(|(protocol, port)| {
                Origin::new(protocol, SocketAddr::from(([203, 0, 113, 1], port))).expect("a unicast address")
            })
            .into();
        let mut world = Self {
            table,
            quarantine,
            park_port,
            park_tuple,
            granules,
            pools,
            origins,
            workers: Vec::new(),
            attached: 0,
            leases: Vec::new(),
            now: 0,
            taken: BTreeMap::new(),
            parked_ports: BTreeMap::new(),
        };
        world.attach();
        world.attach();
        world
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        match operation % 16 {
            0..=6 => self.acquire(input),
            7..=10 => self.release(input),
            11 => self.conflict(input),
            12 => self.now += input.pick(&[1, 249, 250, 1_000, 70_000, 3_000_000, 1 << 40]),
            13 => self.drain(input),
            14 => {
                self.workers.swap_remove(input.below(self.workers.len()));
                self.attach();
            }
            _ => self.check_counts(),
        }
    }

    fn attach(&mut self) {
        self.attached = self.attached.wrapping_add(1);
        let worker = Worker::attach(Arc::clone(&self.table), [self.attached; 32]);
        self.workers.push(worker.expect("never more than two"));
    }

    fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    fn forget_past(&mut self) {
        let now = self.now;
        self.taken.retain(|_, taken| match *taken {
            Taken::Live => true,
            Taken::Held(until) | Taken::Parked(until) => until > now,
        });
        self.parked_ports.retain(|_, until| *until > now);
    }

    /// Every source that the first `count` granules may grant.
    fn sources(&self, count: usize) -> impl Iterator<Item = SocketAddr> {
        let owned = self.granules[..count].iter().filter(|granule| granule.state == GranuleState::Owned);
        owned.flat_map(|granule| granule.range.ports().map(|port| SocketAddr::new(granule.ip, port)))
    }

    fn may_grant(&self, origin: Origin, source: SocketAddr) -> bool {
        !self.taken.contains_key(&(origin, source))
            && !self.parked_ports.contains_key(&(origin.protocol(), source))
    }

    fn acquire(&mut self, input: &mut Input<'_>) {
        self.forget_past();
        let worker = input.below(self.workers.len());
        let origin = input.pick(&self.origins);
        let (pool, count) = self.pools[input.below(self.pools.len())].clone();
        let now = self.time();
        let worker = &mut self.workers[worker];
        let answer = if input.below(2) == 0 {
            worker.acquire_to(&pool, &origin, now)
        } else {
            worker.origin(&pool, origin).and_then(|mut handle| worker.acquire(&mut handle, now))
        };
        match answer {
            Ok(lease) => {
                let leased = self.table.tuple(&lease).expect("a live lease of this table");
                assert_eq!((leased.origin, lease.pool()), (origin, pool.key()));
                let source = leased.source;
                assert!(self.sources(count).any(|s| s == source), "{source} is not in an owned granule");
                assert!(
                    self.may_grant(origin, source),
                    "{source} to {origin} is {:?}",
                    self.taken.get(&(origin, source))
                );
                self.taken.insert((origin, source), Taken::Live);
                self.leases.push(lease);
            }
            Err(AcquireError::NoShare) => assert_eq!(self.sources(count).next(), None),
            Err(error) => {
                assert_eq!(error, AcquireError::Exhausted);
                let left: BTreeSet<_> =
                    self.sources(count).filter(|source| self.may_grant(origin, *source)).collect();
                assert!(left.is_empty(), "refused while {left:?} may be granted");
            }
        }
    }

    fn some_lease(&mut self, input: &mut Input<'_>) -> Option<Lease> {
        let count = self.leases.len();
        (count > 0).then(|| self.leases.swap_remove(input.below(count)))
    }

    fn release(&mut self, input: &mut Input<'_>) {
        let Some(lease) = self.some_lease(input) else { return };
        let closed = input.pick(&Closed::ALL);
        let Tuple { origin, source } = self.table.tuple(&lease).expect("a live lease of this table");
        let key = (origin, source);
        self.table.release(lease, closed, self.time()).expect("a live lease of this table");
        let hold = self.quarantine.hold(key.0.protocol(), closed);
        if hold.is_zero() {
            self.taken.remove(&key);
        } else {
            self.taken.insert(key, Taken::Held(deadline(self.now, hold)));
        }
    }

    fn conflict(&mut self, input: &mut Input<'_>) {
        let Some(lease) = self.some_lease(input) else { return };
        let cause = input.pick(&[Conflict::TupleInUse, Conflict::PortInUse, Conflict::NoSuchAddress]);
        let Tuple { origin, source } = self.table.tuple(&lease).expect("a live lease of this table");
        self.table.conflict(lease, cause, self.time()).expect("a live lease of this table");
        let span = match cause {
            Conflict::NoSuchAddress => {
                self.taken.remove(&(origin, source));
                return;
            }
            Conflict::TupleInUse => self.park_tuple,
            Conflict::PortInUse => self.park_port,
        };
        let until = deadline(self.now, span);
        self.taken.insert((origin, source), Taken::Parked(until));
        if cause == Conflict::PortInUse {
            // A second conflict on a parked port does not move its time.
            self.forget_past();
            self.parked_ports.entry((origin.protocol(), source)).or_insert(until);
        }
    }

    fn drain(&mut self, input: &mut Input<'_>) {
        let index = input.below(self.granules.len());
        let granule = &mut self.granules[index];
        granule.state = match granule.state {
            GranuleState::Owned => GranuleState::Draining,
            GranuleState::Draining => GranuleState::Owned,
        };
        self.table.set_state(granule.slot, granule.state);
    }

    /// The table counts what the model knows; a lease of another table is nobody's here.
    fn check_counts(&mut self) {
        self.forget_past();
        let (pool, count) = self.pools.last().expect("two pools");
        assert_eq!(*count, self.granules.len());
        for origin in &self.origins {
            let explained = self.table.explain(pool, origin, self.time());
            let of = |wanted: fn(&Taken) -> bool| {
                self.taken.iter().filter(|((o, _), taken)| o == origin && wanted(taken)).count() as u32
            };
            assert_eq!(explained.live, of(|taken| *taken == Taken::Live), "live to {origin}");
            assert_eq!(explained.held, of(|taken| matches!(taken, Taken::Held(_))), "held to {origin}");
        }
        let other = Table::new(Config { granules: 1, origins: 1, pages: 1, ..Config::default() }, [2; 32]);
        let other = other.expect("a small table");
        if let Some(lease) = self.leases.pop() {
            let rejected = other.release(lease, Closed::Reset, self.time()).expect_err("a foreign lease");
            assert_eq!(rejected.error, ReleaseError::Foreign);
            self.leases.push(rejected.lease);
        }
    }
}
