use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};

use aegis_core::lease::{
    Closed, Config, Conflict, GranuleState, HalfClosed, Lease, Memory, Method, OriginHandle, Pool, PoolKey,
    Size, Table, Tuple, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;

use crate::input::Input;

/// Hostile memory: another process writes anything anywhere between two operations. Whatever it says: no panic, no end of
/// an operation that does not come, and no source outside the granules as long as the memory still lists those.
pub fn lease_memory(input: &[u8]) {
    let mut input = Input(input);
    let mut world = World::new(&mut input);
    // Every operation may have to try some ten thousand times before it gives up.
    for _ in 0..200 {
        let Some(operation) = input.next() else { break };
        world.step(operation, &mut input);
    }
}

#[derive(Clone, Debug)]
struct Plain(Arc<(Vec<AtomicU64>, Vec<AtomicU16>)>);

impl Plain {
    fn zeroed(size: Size) -> Self {
        let words = (0..size.words).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new((words, (0..size.tags).map(|_| AtomicU16::new(0)).collect())))
    }
}

impl Memory for Plain {
    fn words(&self) -> &[AtomicU64] {
        &self.0.0
    }

    fn tags(&self) -> &[AtomicU16] {
        &self.0.1
    }
}

struct World {
    memory: Plain,
    table: Arc<Table<Plain>>,
    worker: Worker<Plain>,
    pools: [Pool; 2],
    granules: BTreeSet<(IpAddr, PortRange)>,
    handle: Option<OriginHandle>,
    leases: Vec<Lease>,
    half_closed: Option<HalfClosed>,
    /// Words that are not zero: a change there is worth more than one in the void.
    used: Vec<usize>,
    now: u64,
}

const METHODS: [Method; 4] = [Method::Explicit, Method::Unique, Method::KernelRange, Method::UnconnectedUdp];

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let config = Config {
            granule_ports: 40,
            granules: 6,
            origins: 4,
            pages: 5,
            workers: 3,
            quotas: 2,
            per_origin: input.below_many(3) as u32 * 20,
            ..Config::default()
        };
        let memory = Plain::zeroed(Table::<Plain>::size(&config).expect("a small table"));
        let table = Table::create(config, memory.clone(), [1; 32], 7).expect("zeroed memory");
        let mut slots = Vec::new();
        let mut granules = BTreeSet::new();
        for (n, method) in (0..).zip(METHODS) {
            let range = PortRange::new(5_000 + n * 100, 5_000 + n * 100 + [39, 0, 32, 7][n as usize])
                .expect("forwards");
            let ip = IpAddr::from([192, 0, 2, 1]);
            granules.insert((ip, range));
            slots.extend(table.add_granules(method, [(ip, range)]).expect("disjoint"));
        }
        let quota = table.set_quota(0, 30, None).expect("the first");
        let zone = table.set_quota(1, 20, Some(quota)).expect("the second");
        let pool = table.pool(PoolKey(3), slots).expect("granules of this table");
        let table = Arc::new(table);
        let worker = Worker::attach(Arc::clone(&table), [2; 32]).expect("the first of three");
        let used = (0..memory.words().len()).filter(|&at| memory.words()[at].load(SeqCst) != 0).collect();
        let pools = [pool.under(zone), pool];
        Self {
            memory,
            table,
            worker,
            pools,
            granules,
            handle: None,
            leases: Vec::new(),
            half_closed: None,
            used,
            now: 1_000,
        }
    }

    fn origin(input: &mut Input<'_>) -> Origin {
        let n = input.below_many(12);
        let protocol = Protocol::ALL[n % 2];
        Origin::new(protocol, SocketAddr::from(([203, 0, 113, 1], 443 + n as u16 / 2)))
            .expect("a unicast address")
    }

    fn tuple(input: &mut Input<'_>) -> Tuple {
        let source = SocketAddr::from(([192, 0, 2, 1], 4_990 + input.below_many(400) as u16));
        Tuple { source, origin: Self::origin(input) }
    }

    fn keep(&mut self, lease: Lease) {
        let sound = self.table.granules().map(|(ip, range, _)| (ip, range)).eq(self.granules.iter().copied());
        if let (true, Ok(source)) = (sound, self.table.source(&lease)) {
            let inside =
                |(ip, range): &(IpAddr, PortRange)| *ip == source.ip() && range.contains(source.port());
            assert!(self.granules.iter().any(inside), "{source} is in no granule");
        }
        self.leases.push(lease);
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        let now = Time::from_millis(self.now);
        let pool = self.pools[usize::from(operation >> 7)].clone();
        match operation % 24 {
            0..=3 => {
                if let Ok(lease) = self.worker.acquire_to(&pool, &Self::origin(input), now) {
                    self.keep(lease);
                }
            }
            4 => self.handle = self.worker.origin(&pool, Self::origin(input)).ok(),
            5 => {
                if let Some(Ok(lease)) = self.handle.as_mut().map(|handle| self.worker.acquire(handle, now)) {
                    self.keep(lease);
                }
            }
            6 => {
                if let Ok(lease) = self.worker.acquire_unconnected(&pool, false, now) {
                    self.keep(lease);
                }
            }
            7 => {
                if let Ok(range) = self.worker.acquire_range(&pool, &Self::origin(input), now) {
                    let port = range.range().lo().saturating_add(input.below_many(41) as u16);
                    if let Ok(lease) = self.worker.complete(&range, port, now) {
                        self.keep(lease);
                    }
                }
            }
            8 => {
                let Tuple { source, origin } = Self::tuple(input);
                if let Ok(lease) = self.worker.acquire_exactly(&pool, source, &origin, now) {
                    self.keep(lease);
                }
            }
            9 => {
                if let Ok(lease) = self.worker.adopt(&pool, &Self::tuple(input), now) {
                    self.keep(lease);
                }
            }
            10..=12 if !self.leases.is_empty() => {
                let lease = self.leases.swap_remove(input.below_many(self.leases.len()));
                let _ = self.table.tuple(&lease);
                let closed = Closed::ALL[input.below_many(Closed::ALL.len())];
                let _ = match operation % 24 {
                    10 if closed == Closed::HalfClosed => {
                        self.table.half_close(lease, now).map(|half_closed| {
                            self.half_closed.replace(half_closed);
                        })
                    }
                    10 => self.table.release(lease, closed, now),
                    11 => self.worker.release(lease, closed, now),
                    _ => self.table.conflict(lease, Conflict::PortInUse, now),
                };
            }
            13 => self.now += self.now.min(input.number() % 3_000_000),
            14 => {
                if let Some(half_closed) = self.half_closed.take() {
                    let _ = self.table.peer_closed(half_closed, now);
                }
                let _ = self.table.adopt([Self::tuple(input)], now).count();
            }
            15 => {
                let held = self.table.held(now);
                let _ = self.table.reconcile(&held, now, |tuple| tuple.source.port() % 3 == 0);
            }
            16 => {
                let _ = self.table.explain(&pool, &Self::origin(input), now);
                let _ = self.table.usage(now).count();
                let _ = (self.table.granted(), self.table.owners());
            }
            17 => self.other(input, now),
            // A change in the header, in a word that was used at the beginning, anywhere, or in a tag.
            18 => self.change(input, |_, input| input.below_many(48)),
            19 => self.change(input, |world, input| world.used[input.below_many(world.used.len())]),
            20 | 21 => self.change(input, |world, input| input.below_many(world.memory.words().len())),
            22 => {
                let tag = &self.memory.tags()[input.below_many(self.memory.tags().len())];
                tag.store(input.number() as u16, SeqCst);
            }
            _ => {
                // Of what is used now.
                let words = self.memory.words();
                self.used = (0..words.len()).filter(|&at| words[at].load(SeqCst) != 0).collect();
                if self.used.is_empty() {
                    self.used.push(0);
                }
            }
        }
    }

    fn change(&mut self, input: &mut Input<'_>, choose: impl FnOnce(&Self, &mut Input<'_>) -> usize) {
        let at = choose(self, input);
        let word = &self.memory.words()[at];
        match input.below_many(3) {
            0 => drop(word.fetch_xor(1 << input.below_many(64), SeqCst)),
            1 => word.store(input.number(), SeqCst),
            _ => word
                .store(self.memory.words()[input.below_many(self.memory.words().len())].load(SeqCst), SeqCst),
        }
    }

    /// Another process comes, and perhaps dies.
    fn other(&mut self, input: &mut Input<'_>, now: Time) {
        let token = 8 + input.below_many(3) as u64;
        if let Ok(other) = Table::open(self.memory.clone(), token) {
            let ip = IpAddr::from([192, 0, 2, 1 + input.below_many(2) as u8]);
            let _ = other.add_granule(ip, PortRange::new(5_000, 5_039).expect("forwards"));
            let other = Arc::new(other);
            if let Ok(mut worker) = Worker::attach(Arc::clone(&other), [3; 32]) {
                if other.granules().next().is_some() {
                    let _ = worker.acquire_to(&self.pools[0], &Self::origin(input), now).map(drop);
                }
            }
        }
        let _ = self.table.recover(token, now, |token| token % 2 == 0);
        let _ = self.table.set_quota(1, input.below_many(50) as u32, None);
        let first = self.granules.first().expect("there are four").1;
        if let Ok(slot) = self.table.add_granule(IpAddr::from([192, 0, 2, 1]), first) {
            let draining = input.below_many(2) == 0;
            self.table.set_state(slot, if draining { GranuleState::Draining } else { GranuleState::Owned });
            if !draining {
                self.table.take_over(slot, now);
            }
        }
        let rules = aegis_core::lease::Quarantine::default();
        let _ = self.table.set_quarantine(&Self::origin(input), Some(&rules), now);
    }
}
