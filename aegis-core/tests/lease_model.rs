//! The lease table against an executable specification: a naive model made of ordered sets.

#![expect(clippy::disallowed_methods, reason = "the core starts no threads; its tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aegis_core::lease::{
    AcquireError, Closed, Config, Conflict, GranuleSlot, GranuleState, HalfClosed, Held, Lease, Pool,
    PoolKey, Quarantine, ReleaseError, Spans, Table, Tuple as Leased, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;
use aegis_core::usage;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

type Tuple = (Origin, SocketAddr);

/// What a tuple is when it is not free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Live,
    Held(u64),
    Parked(u64),
    Resting(u64),
    /// Resting while its port was parked for every origin: whether it still rests depends on whether it was tried.
    FreeOrResting(u64),
}

/// The specification: every tuple that is not free, and the ports parked for every origin.
#[derive(Default)]
struct Model {
    tuples: BTreeMap<Tuple, State>,
    parked_ports: BTreeMap<(Protocol, SocketAddr), u64>,
    /// Which hold of its tuple it is, by number, and since when.
    holds: BTreeMap<Tuple, (u64, u64)>,
    /// Resting tuples of the older generation, per origin.
    old: BTreeMap<Origin, BTreeSet<SocketAddr>>,
}

/// Deadlines are rounded up to quarters of a second.
fn deadline(now: u64, span: Duration) -> u64 {
    (now + span.as_millis() as u64).div_ceil(250) * 250
}

impl Model {
    fn forget_past(&mut self, now: u64) {
        self.tuples.retain(|_, state| match state {
            State::Live => true,
            State::Held(until) | State::Parked(until) => *until > now,
            State::Resting(until) | State::FreeOrResting(until) => *until > now,
        });
        self.parked_ports.retain(|_, until| *until > now);
    }

    fn hold(&mut self, key: Tuple, now: u64, until: u64, number: u64) {
        self.tuples.insert(key, State::Held(until));
        self.holds.insert(key, (number, now));
    }

    /// Is the tuple held, and is it that hold?
    fn is_hold(&self, key: &Tuple, number: u64) -> bool {
        matches!(self.tuples.get(key), Some(State::Held(_))) && self.holds[key].0 == number
    }

    fn state(&self, origin: &Origin, source: SocketAddr) -> Option<State> {
        self.tuples.get(&(*origin, source)).copied()
    }

    /// May be granted by the rules; ports parked for every origin may not.
    fn grantable(&self, origin: &Origin, source: SocketAddr) -> bool {
        !self.parked_ports.contains_key(&(origin.protocol(), source))
            && matches!(self.state(origin, source), None | Some(State::Resting(_) | State::FreeOrResting(_)))
    }
}

struct World {
    rng: ChaCha8Rng,
    table: Arc<Table>,
    workers: Vec<Worker>,
    granules: Vec<(GranuleSlot, IpAddr, PortRange, GranuleState)>,
    pool: Pool,
    origins: Vec<Origin>,
    quarantine: Quarantine,
    parks: [Duration; 2],
    /// Half of the worlds have strangers that block whole ports.
    ports_are_parked: bool,
    model: Model,
    leases: Vec<Lease>,
    /// Half-closed connections whose end nobody has told of yet, and which hold of which tuple they began.
    half_closed: Vec<(HalfClosed, Tuple, u64)>,
    /// What was held at some moment, and which hold it was.
    seen_held: Vec<(Held, u64, u64)>,
    holds_begun: u64,
    now: u64,
    granted: u64,
    refused: u64,
    /// Leases granted from each address, and refusals for want of a free tuple.
    counted: BTreeMap<IpAddr, u64>,
    exhausted: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut pick = |n: u32| rng.next_u32() % n;
        let spans = |pick: &mut dyn FnMut(u32) -> u32| {
            let mut span = || Duration::from_millis([0, 0, 1, 249, 900, 5_000, 69_000][pick(7) as usize]);
            Spans {
                active: span(),
                passive: span(),
                reset: span(),
                connect_failed: span(),
                half_closed: span(),
                udp: span(),
                ..Spans::ZERO
            }
        };
        let quarantine = match pick(4) {
            0 => Quarantine::new(Spans::ZERO, Spans::ZERO).unwrap(),
            1 => Quarantine::default(),
            _ => Quarantine::new(spans(&mut pick), spans(&mut pick)).unwrap(),
        };
        let parks = [0, 1].map(|_| Duration::from_millis([400, 3_000, 60_000][pick(3) as usize]));
        let [park_port, park_tuple] = parks;
        let config = Config {
            granule_ports: 70,
            granules: 8,
            origins: 8,
            pages: 64,
            workers: 4,
            quarantine,
            park_port,
            park_tuple,
            ..Config::default()
        };
        let table = Arc::new(Table::new(config, [seed as u8; 32]).unwrap());
        let granules: Vec<_> = (0..1 + pick(4))
            .map(|n| {
                let ip: IpAddr = format!("192.0.2.{}", n / 2).parse().unwrap();
                let len = [1, 3, 6, 31, 32, 33, 64, 70][pick(8) as usize];
                let lo = 2_000 + 100 * (n as u16) + pick(20) as u16;
                let range = PortRange::new(lo, lo + len - 1).unwrap();
                (table.add_granule(ip, range).unwrap(), ip, range, GranuleState::Owned)
            })
            .collect();
        let origins = (0..1 + pick(3))
            .map(|n| {
                let protocol = if n == 1 { Protocol::Udp } else { Protocol::Tcp };
                Origin::new(protocol, format!("198.51.100.{}:443", n / 2 + 1).parse().unwrap()).unwrap()
            })
            .collect();
        let pool = table.pool(PoolKey(5), granules.iter().map(|g| g.0)).unwrap();
        let workers =
            (0..3).map(|n| Worker::attach(Arc::clone(&table), [n ^ seed as u8; 32]).unwrap()).collect();
        Self {
            rng,
            table,
            workers,
            granules,
            pool,
            origins,
            quarantine,
            parks,
            ports_are_parked: seed % 2 == 0,
            model: Model::default(),
            leases: Vec::new(),
            half_closed: Vec::new(),
            seen_held: Vec::new(),
            holds_begun: 0,
            now: 1_000,
            granted: 0,
            refused: 0,
            counted: BTreeMap::new(),
            exhausted: 0,
        }
    }

    fn pick(&mut self, n: usize) -> usize {
        self.rng.next_u32() as usize % n
    }

    fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    fn sources(&self) -> impl Iterator<Item = SocketAddr> {
        let owned = self.granules.iter().filter(|g| g.3 == GranuleState::Owned);
        owned.flat_map(|g| g.2.ports().map(|port| SocketAddr::new(g.1, port)))
    }

    fn acquire(&mut self) {
        let worker = self.pick(3);
        let origin = self.pick(self.origins.len());
        let origin = self.origins[origin];
        self.model.forget_past(self.now);
        let now = self.time();
        match self.workers[worker].acquire_to(&self.pool, &origin, now) {
            Ok(lease) => {
                let Leased { source, origin: its } = self.table.tuple(&lease).unwrap();
                assert_eq!(its, origin);
                assert!(self.sources().any(|s| s == source), "{source} is outside the owned shares");
                assert!(
                    self.model.grantable(&origin, source),
                    "{source} to {origin} granted while {:?}, parked {:?}",
                    self.model.state(&origin, source),
                    self.model.parked_ports.get(&(origin.protocol(), source))
                );
                self.check_preference(&origin, source);
                self.model.tuples.insert((origin, source), State::Live);
                self.granted += 1;
                *self.counted.entry(source.ip()).or_default() += 1;
                self.leases.push(lease);
            }
            Err(error) => {
                let free: Vec<_> = self.sources().filter(|s| self.model.grantable(&origin, *s)).collect();
                assert!(free.is_empty(), "{error} while free: {free:?}");
                let owned = self.granules.iter().any(|g| g.3 == GranuleState::Owned);
                assert_eq!(error, if owned { AcquireError::Exhausted } else { AcquireError::NoShare });
                self.refused += 1;
                self.exhausted += u64::from(owned);
            }
        }
    }

    /// A resting tuple is granted only if none is free, and then of the oldest generation.
    fn check_preference(&mut self, origin: &Origin, source: SocketAddr) {
        let resting = |model: &Model, s| matches!(model.state(origin, s), Some(State::Resting(_)));
        if !resting(&self.model, source) {
            self.model.old.entry(*origin).or_default().remove(&source);
            return;
        }
        let free = self.sources().find(|&s| {
            !self.model.parked_ports.contains_key(&(origin.protocol(), s))
                && self.model.state(origin, s).is_none()
        });
        assert_eq!(free, None, "resting {source} was preferred");
        let all: BTreeSet<_> = self.sources().filter(|&s| resting(&self.model, s)).collect();
        let old = self.model.old.entry(*origin).or_default();
        old.retain(|s| all.contains(s));
        if old.is_empty() {
            *old = all;
        }
        // With several granules a change of generation in one may come early where another was drained meanwhile;
        // and a grant that the model cannot tell from a free tuple may have been the first of a generation.
        let unclear = self.granules.len() > 1 || self.ports_are_parked;
        assert!(unclear || old.contains(&source), "{source} is not of the oldest generation");
        old.remove(&source);
    }

    fn acquire_exactly(&mut self) {
        let origin = self.pick(self.origins.len());
        let origin = self.origins[origin];
        self.model.forget_past(self.now);
        let granule = self.pick(self.granules.len());
        let (_, ip, range, state) = self.granules[granule];
        // One past either end now and then.
        let port = range.lo() - 1 + self.pick(range.len() as usize + 2) as u16;
        let source = SocketAddr::new(ip, port);
        let now = self.time();
        match self.workers[0].acquire_exactly(&self.pool, source, &origin, now) {
            Ok(lease) => {
                assert_eq!(self.table.tuple(&lease), Ok(Leased { source, origin }));
                assert_eq!(state, GranuleState::Owned);
                assert!(range.contains(port) && self.model.grantable(&origin, source), "{source}");
                *self.counted.entry(source.ip()).or_default() += 1;
                self.model.tuples.insert((origin, source), State::Live);
                self.model.old.entry(origin).or_default().remove(&source);
                self.leases.push(lease);
            }
            Err(AcquireError::NoShare) => assert!(!self.sources().any(|s| s == source), "{source}"),
            Err(AcquireError::InUse) => assert!(!self.model.grantable(&origin, source), "{source}"),
            Err(error) => panic!("{source}: {error}"),
        }
    }

    fn release(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let index = self.pick(self.leases.len());
        let lease = self.leases.swap_remove(index);
        let closed = Closed::ALL[self.pick(Closed::ALL.len())];
        let leased = self.table.tuple(&lease).unwrap();
        let key = (leased.origin, leased.source);
        let hold = self.quarantine.hold(key.0.protocol(), closed);
        let rest = self.quarantine.rest(key.0.protocol(), closed);
        let now = self.time();
        self.holds_begun += 1;
        let number = self.holds_begun;
        match self.pick(2) {
            _ if closed == Closed::HalfClosed => {
                let half_closed = self.table.half_close(lease, now).unwrap();
                self.half_closed.push((half_closed, key, number));
            }
            0 => self.table.release(lease, closed, now).unwrap(),
            _ => self.workers[1].release(lease, closed, now).unwrap(),
        }
        if !hold.is_zero() {
            self.model.hold(key, self.now, deadline(self.now, hold), number);
        } else if !rest.is_zero() {
            self.model.forget_past(self.now);
            let parked = self.model.parked_ports.contains_key(&(key.0.protocol(), key.1));
            let state = if parked { State::FreeOrResting } else { State::Resting };
            self.model.tuples.insert(key, state(deadline(self.now, rest)));
        } else {
            self.model.tuples.remove(&key);
        }
    }

    fn conflict(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let index = self.pick(self.leases.len());
        let lease = self.leases.swap_remove(index);
        let Leased { origin, source } = self.table.tuple(&lease).unwrap();
        let cause = match self.pick(4) {
            0 if self.ports_are_parked => Conflict::PortInUse,
            1 => Conflict::NoSuchAddress,
            _ => Conflict::TupleInUse,
        };
        self.table.conflict(lease, cause, self.time()).unwrap();
        let until = deadline(self.now, self.parks[usize::from(cause != Conflict::PortInUse)]);
        match cause {
            Conflict::NoSuchAddress => drop(self.model.tuples.remove(&(origin, source))),
            _ => drop(self.model.tuples.insert((origin, source), State::Parked(until))),
        }
        if cause == Conflict::PortInUse {
            // A second conflict on a parked port does not move its time.
            self.model.forget_past(self.now);
            self.model.parked_ports.entry((origin.protocol(), source)).or_insert(until);
            for ((to, tuple), state) in &mut self.model.tuples {
                let same = *tuple == source && to.protocol() == origin.protocol();
                match *state {
                    State::Resting(until) if same => *state = State::FreeOrResting(until),
                    _ => {}
                }
            }
        }
    }

    /// What a tuple that was held is afterwards, whose connection turned out to have ended like that.
    fn after_hold(&mut self, key: Tuple, hold: Duration, rest: Duration) {
        if !hold.is_zero() {
            self.holds_begun += 1;
            self.model.hold(key, self.now, deadline(self.now, hold), self.holds_begun);
        } else if !rest.is_zero() {
            let parked = self.model.parked_ports.contains_key(&(key.0.protocol(), key.1));
            let state = if parked { State::FreeOrResting } else { State::Resting };
            self.model.tuples.insert(key, state(deadline(self.now, rest)));
        } else {
            self.model.tuples.remove(&key);
        }
    }

    /// Holds that begin now, by every way to close, or because a peer's close came at once.
    fn holds_from_now(&self, protocol: Protocol) -> impl Iterator<Item = (Duration, u64)> {
        let spans = Closed::ALL.map(|closed| self.quarantine.hold(protocol, closed));
        spans
            .into_iter()
            .chain([Duration::from_millis(500)])
            .filter(|span| !span.is_zero())
            .map(|span| (span, deadline(self.now, span)))
    }

    /// Somebody tells that the peer of a half-closed connection has closed too, perhaps when the tuple has long been
    /// another connection's.
    fn peer_closed(&mut self) {
        if self.half_closed.is_empty() {
            return;
        }
        self.model.forget_past(self.now);
        let index = self.pick(self.half_closed.len());
        let (half_closed, key, number) = self.half_closed.swap_remove(index);
        let protocol = key.0.protocol();
        let whole = self.quarantine.hold(protocol, Closed::HalfClosed);
        let ended = self.table.peer_closed(half_closed, self.time());
        if !self.model.is_hold(&key, number) {
            assert!(!ended, "{key:?}: the hold of another connection was ended");
            return;
        }
        let Some(State::Held(until)) = self.model.state(&key.0, key.1) else { unreachable!() };
        let is_late =
            self.holds_from_now(protocol).any(|(span, deadline)| span < whole && until <= deadline + 250);
        assert_eq!(ended, !is_late, "{key:?}");
        if !ended {
            return;
        }
        let hold = self.quarantine.hold(protocol, Closed::Active);
        let alone = deadline(self.model.holds[&key].1, Duration::from_millis(500));
        if hold.is_zero() && alone > self.now {
            self.holds_begun += 1;
            self.model.hold(key, self.now, alone, self.holds_begun);
        } else {
            self.after_hold(key, hold, self.quarantine.rest(protocol, Closed::Active));
        }
    }

    /// What is held now, as somebody remembers it who is about to ask the kernel.
    fn see_held(&mut self) {
        let held = self.table.held(self.time());
        let seen: BTreeMap<Tuple, Held> = held
            .into_iter()
            .map(|held| ((Origin::new(held.protocol, held.origin.unwrap()).unwrap(), held.source), held))
            .collect();
        for key in seen.keys() {
            let state = self.model.state(&key.0, key.1);
            assert!(matches!(state, Some(State::Held(_))), "{key:?} is {state:?}");
        }
        for (key, state) in &self.model.tuples {
            let State::Held(until) = state else { continue };
            let may_be_mistaken = self
                .holds_from_now(key.0.protocol())
                .any(|(_, deadline)| (deadline.saturating_sub(250)..=deadline + 1_250).contains(until));
            assert_eq!(seen.contains_key(key), !may_be_mistaken, "{key:?} until {until} at {}", self.now);
        }
        self.seen_held =
            seen.into_iter().map(|(key, held)| (held, self.model.holds[&key].0, self.now)).collect();
    }

    /// The kernel knows nothing of a tuple that was held when somebody looked.
    fn end_hold_early(&mut self) {
        self.model.forget_past(self.now);
        if self.seen_held.is_empty() || self.pick(4) == 0 {
            self.see_held();
        }
        if self.seen_held.is_empty() {
            return;
        }
        let index = self.pick(self.seen_held.len());
        let (held, number, seen) = self.seen_held.swap_remove(index);
        if self.now > seen + 1_000 {
            return;
        }
        let key = (Origin::new(held.protocol, held.origin.unwrap()).unwrap(), held.source);
        let ended = self.table.end_hold_early(&held, self.time());
        assert_eq!(ended, self.model.is_hold(&key, number), "{key:?}");
        assert!(!self.table.end_hold_early(&held, self.time()), "once");
        if ended {
            self.after_hold(key, Duration::ZERO, self.quarantine.rest(key.0.protocol(), Closed::Reset));
        }
    }

    fn drain(&mut self) {
        let index = self.pick(self.granules.len());
        let granule = &mut self.granules[index];
        granule.3 = match granule.3 {
            GranuleState::Owned => GranuleState::Draining,
            GranuleState::Draining => GranuleState::Owned,
        };
        self.table.set_state(granule.0, granule.3);
    }

    fn check_counts(&mut self) {
        self.model.forget_past(self.now);
        for origin in self.origins.clone() {
            let explained = self.table.explain(&self.pool, &origin, self.time());
            let count = |wanted: fn(&State) -> bool| {
                self.model.tuples.iter().filter(|((o, _), state)| *o == origin && wanted(state)).count()
                    as u32
            };
            assert_eq!(explained.live, count(|s| *s == State::Live), "live, {origin}");
            assert_eq!(explained.held, count(|s| matches!(s, State::Held(_))), "held, {origin}");
            let resting = count(|s| matches!(s, State::Resting(_)));
            let unclear = count(|s| matches!(s, State::FreeOrResting(_)));
            assert!(
                (resting..=resting + unclear).contains(&explained.resting),
                "{origin}: {} resting, expected {resting} to {}",
                explained.resting,
                resting + unclear
            );
            let first =
                self.model.tuples.iter().filter(|((o, _), _)| *o == origin).filter_map(|(_, s)| match s {
                    State::Held(until) => Some(Time::from_millis(*until)),
                    _ => None,
                });
            assert_eq!(explained.first_free, first.min(), "first held tuple, {origin}");
        }
        let rows = usage::read(&self.table, self.time());
        let mut counted = BTreeMap::new();
        for row in rows.iter().filter(|row| row.granted != 0) {
            *counted.entry(row.egress_ip).or_default() += row.granted;
        }
        assert_eq!(counted, self.counted, "granted, by address");
        assert_eq!(rows.iter().map(|row| row.refused).sum::<u64>(), self.exhausted, "refused");
    }

    fn run(&mut self, operations: u64) {
        // Long phases of filling and of emptying, so that every level is seen.
        let mut filling = true;
        for operation in 0..operations {
            if operation % 400 == 0 {
                filling = self.pick(2) == 0;
                self.check_counts();
            }
            match self.pick(100) {
                0 if self.pick(4) == 0 => self.drain(),
                1 => self.conflict(),
                10 => self.acquire_exactly(),
                12 if self.pick(4) == 0 => self.peer_closed(),
                13 | 14 => self.end_hold_early(),
                2..=9 => self.now += [0, 1, 10, 100, 250, 1_000, 7_000][self.pick(7)],
                11 if self.pick(40) == 0 => {
                    self.now += [70_000, 1_000_000, 3_000_000, 100_000_000][self.pick(4)];
                }
                n if (n < 60) == filling => self.acquire(),
                _ => self.release(),
            }
        }
        self.check_counts();
    }
}

#[test]
fn the_table_agrees_with_the_model_over_millions_of_operations() {
    // `AEGIS_MODEL_OPERATIONS=1000000000 cargo test --release -p aegis-core --test lease_model` runs the long form.
    let operations: u64 =
        std::env::var("AEGIS_MODEL_OPERATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000_000);
    let (mut granted, mut refused) = (0, 0);
    for seed in 0.. {
        let mut world = World::new(seed);
        world.run(10_000);
        granted += world.granted;
        refused += world.refused;
        if (seed + 1) * 10_000 >= operations {
            break;
        }
    }
    assert!(granted > operations / 10 && refused > operations / 100, "granted {granted}, refused {refused}");
}

fn one_share(ports: u16, quarantine: Quarantine) -> (Arc<Table>, Pool, Origin) {
    let config = Config { quarantine, pages: 64, origins: 16, ..Config::default() };
    let table = Arc::new(Table::new(config, [3; 32]).unwrap());
    let range = PortRange::new(65_535 - (ports - 1), 65_535).unwrap();
    let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
    let pool = table.pool(PoolKey(1), [granule]).unwrap();
    (table, pool, Origin::new(Protocol::Tcp, "198.51.100.1:443".parse().unwrap()).unwrap())
}

fn no_quarantine() -> Quarantine {
    Quarantine::new(Spans::ZERO, Spans::ZERO).unwrap()
}

#[test]
fn every_port_up_to_the_last_is_granted_once_and_the_next_is_refused() {
    for ports in [1, 6, 63, 64, 65, 1_000, 2_048] {
        let (table, pool, origin) = one_share(ports, no_quarantine());
        let mut worker = Worker::attach(Arc::clone(&table), [9; 32]).unwrap();
        let mut handle = worker.origin(&pool, origin).unwrap();
        let mut leases = Vec::new();
        let mut seen = BTreeSet::new();
        for _ in 0..ports {
            let lease = worker.acquire(&mut handle, Time::ZERO).unwrap();
            assert!(seen.insert(table.source(&lease).unwrap().port()));
            leases.push(lease);
        }
        assert_eq!((seen.first(), seen.last()), (Some(&(65_535 - (ports - 1))), Some(&65_535)));
        for _ in 0..3 {
            assert_eq!(worker.acquire(&mut handle, Time::ZERO), Err(AcquireError::Exhausted));
        }
        let explained = table.explain(&pool, &origin, Time::ZERO);
        assert_eq!((explained.live, explained.capacity), (ports.into(), ports.into()));
        let usage: Vec<_> = table.usage(Time::ZERO).collect();
        assert_eq!((usage[0].live, usage[0].peak), (ports.into(), ports.into()));
        let refused: u64 = usage::read(&table, Time::ZERO).iter().map(|row| row.refused).sum();
        assert_eq!((table.granted(), refused), (ports.into(), 3));
        // The same ports again, towards another origin.
        let other = Origin::new(Protocol::Tcp, "198.51.100.1:444".parse().unwrap()).unwrap();
        for _ in 0..ports {
            let lease = worker.acquire_to(&pool, &other, Time::ZERO).unwrap();
            assert!(!seen.insert(table.source(&lease).unwrap().port()), "only these ports exist");
        }
        table.release(leases.pop().unwrap(), Closed::Reset, Time::ZERO).unwrap();
        let _again = worker.acquire(&mut handle, Time::ZERO).unwrap();
        assert_eq!(worker.acquire(&mut handle, Time::ZERO), Err(AcquireError::Exhausted));
    }
}

#[test]
fn a_foreign_lease_comes_back_and_changes_nothing() {
    let (table, pool, origin) = one_share(4, no_quarantine());
    let other = Arc::new(Table::new(Config::default(), [4; 32]).unwrap());
    let mut worker = Worker::attach(Arc::clone(&table), [9; 32]).unwrap();
    let lease = worker.acquire_to(&pool, &origin, Time::ZERO).unwrap();
    let rejected = other.release(lease, Closed::Reset, Time::ZERO).unwrap_err();
    assert_eq!(rejected.error, ReleaseError::Foreign);
    assert_eq!(table.explain(&pool, &origin, Time::ZERO).live, 1);
    table.release(rejected.lease, Closed::Reset, Time::ZERO).unwrap();
    assert_eq!(table.explain(&pool, &origin, Time::ZERO).live, 0);
    let mut stranger = Worker::attach(other, [1; 32]).unwrap();
    assert_eq!(stranger.acquire_to(&pool, &origin, Time::ZERO), Err(AcquireError::ForeignPool));
}

#[test]
fn time_that_goes_back_stands_still() {
    let hold = Spans::all(Duration::from_secs(10));
    let (table, pool, origin) = one_share(1, Quarantine::new(hold, Spans::ZERO).unwrap());
    let mut worker = Worker::attach(Arc::clone(&table), [9; 32]).unwrap();
    let late = Time::from_millis(100_000_000);
    let lease = worker.acquire_to(&pool, &origin, late).unwrap();
    table.release(lease, Closed::HalfClosed, Time::from_millis(5)).unwrap();
    assert_eq!(worker.acquire_to(&pool, &origin, Time::from_millis(50_000)), Err(AcquireError::Exhausted));
    assert_eq!(
        worker.acquire_to(&pool, &origin, late + Duration::from_millis(9_999)),
        Err(AcquireError::Exhausted)
    );
    let explained = table.explain(&pool, &origin, late);
    assert_eq!((explained.held, explained.first_free), (1, Some(late + Duration::from_secs(10))));
    let _lease = worker.acquire_to(&pool, &origin, late + Duration::from_secs(10)).unwrap();
}

#[test]
fn a_table_without_room_for_an_origin_says_so_and_keeps_what_it_has() {
    let config = Config { origins: 2, pages: 2, ..Config::default() };
    let table = Arc::new(Table::new(config, [3; 32]).unwrap());
    let range = PortRange::new(2_048, 4_095).unwrap();
    let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
    let pool = table.pool(PoolKey(1), [granule]).unwrap();
    let mut worker = Worker::attach(Arc::clone(&table), [9; 32]).unwrap();
    let origin =
        |n: u16| Origin::new(Protocol::Tcp, SocketAddr::new("198.51.100.1".parse().unwrap(), n)).unwrap();
    let _a = worker.acquire_to(&pool, &origin(1), Time::ZERO).unwrap();
    let _b = worker.acquire_to(&pool, &origin(2), Time::ZERO).unwrap();
    assert_eq!(worker.acquire_to(&pool, &origin(3), Time::ZERO), Err(AcquireError::TooManyOrigins));
    let _c = worker.acquire_to(&pool, &origin(2), Time::ZERO).unwrap();
}

#[test]
fn four_threads_get_no_port_twice_and_no_refusal_while_one_is_free() {
    for (ports, each) in [(16, 4), (64, 16), (2_048, 500)] {
        let (table, pool, origin) = one_share(ports, no_quarantine());
        let taken: Arc<Vec<_>> =
            Arc::new((0..65_536).map(|_| std::sync::atomic::AtomicBool::new(false)).collect());
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let (table, pool, taken) = (Arc::clone(&table), pool.clone(), Arc::clone(&taken));
                std::thread::spawn(move || {
                    use std::sync::atomic::Ordering::SeqCst;
                    let mut worker = Worker::attach(Arc::clone(&table), [n; 32]).unwrap();
                    let mut handle = worker.origin(&pool, origin).unwrap();
                    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(n));
                    let mut mine: Vec<Lease> = Vec::new();
                    for _ in 0..500_000 {
                        if mine.len() < each && (mine.is_empty() || rng.next_u32() % 8 > 2) {
                            // The four hold fewer leases than there are ports: one is always free.
                            let lease = worker.acquire(&mut handle, Time::ZERO).unwrap();
                            let source = table.source(&lease).unwrap();
                            let twice = taken[usize::from(source.port())].swap(true, SeqCst);
                            assert!(!twice, "{source} granted twice");
                            mine.push(lease);
                        } else {
                            let lease = mine.swap_remove(rng.next_u32() as usize % mine.len());
                            taken[usize::from(table.source(&lease).unwrap().port())].store(false, SeqCst);
                            table.release(lease, Closed::Reset, Time::ZERO).unwrap();
                        }
                    }
                    for lease in mine {
                        taken[usize::from(table.source(&lease).unwrap().port())].store(false, SeqCst);
                        table.release(lease, Closed::Reset, Time::ZERO).unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(table.explain(&pool, &origin, Time::ZERO).live, 0);
        assert!(table.granted() > 900_000);
    }
}

#[test]
fn nothing_is_granted_from_a_granule_that_was_drained_while_threads_acquire() {
    let (table, pool, origin) = one_share(64, no_quarantine());
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let epoch = Arc::new(std::sync::atomic::AtomicU64::new(0));
    use std::sync::atomic::Ordering::SeqCst;
    let threads: Vec<_> = (0..3)
        .map(|n| {
            let (table, pool) = (Arc::clone(&table), pool.clone());
            let (stop, epoch) = (Arc::clone(&stop), Arc::clone(&epoch));
            std::thread::spawn(move || {
                let mut worker = Worker::attach(Arc::clone(&table), [n; 32]).unwrap();
                let mut granted = 0u64;
                while !stop.load(SeqCst) {
                    // Odd epochs: drained, and nobody sets it back before the epoch is even again.
                    let before = epoch.load(SeqCst);
                    match worker.acquire_to(&pool, &origin, Time::ZERO) {
                        Ok(lease) => {
                            assert!(
                                before % 2 == 0 || epoch.load(SeqCst) != before,
                                "granted while the granule was drained from beginning to end"
                            );
                            granted += 1;
                            table.release(lease, Closed::Reset, Time::ZERO).unwrap();
                        }
                        Err(error) => assert!(
                            error == AcquireError::NoShare || error == AcquireError::Exhausted,
                            "{error}"
                        ),
                    }
                }
                granted
            })
        })
        .collect();
    let granule =
        table.add_granule("192.0.2.1".parse().unwrap(), PortRange::new(65_472, 65_535).unwrap()).unwrap();
    for _ in 0..3_000 {
        table.set_state(granule, GranuleState::Draining);
        epoch.fetch_add(1, SeqCst);
        std::thread::yield_now();
        epoch.fetch_add(1, SeqCst);
        table.set_state(granule, GranuleState::Owned);
        std::thread::yield_now();
    }
    stop.store(true, SeqCst);
    let granted: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert!(granted > 1_000, "{granted}");
}

/// Pearson's chi-square statistic of equally likely cells, as a standard normal (Wilson and Hilferty 1931).
fn chi_square_z(counts: &[u64]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let chi2: f64 = counts.iter().map(|&n| (n as f64 - expected).powi(2) / expected).sum();
    let freedom = (counts.len() - 1) as f64;
    let part = 2.0 / (9.0 * freedom);
    ((chi2 / freedom).cbrt() - (1.0 - part)) / part.sqrt()
}

#[test]
fn the_choice_is_uniform_over_the_free_ports_at_every_fill() {
    // p > 0.001 in both tails: neither lumpy nor too even.
    let normal = |z: f64, what: &str| assert!(z.abs() < 3.3, "{what}: z = {z:.2}");
    for (granules, fill) in [(1u16, 0), (1, 1_024), (1, 1_638), (1, 2_008), (3, 4_000), (3, 6_100)] {
        let config = Config { quarantine: no_quarantine(), pages: 64, origins: 16, ..Config::default() };
        let table = Arc::new(Table::new(config, [3; 32]).unwrap());
        let slots: Vec<_> = (0..granules)
            .map(|n| {
                let range = PortRange::new(2_048 * (n + 1), 2_048 * (n + 1) + 2_047).unwrap();
                table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap()
            })
            .collect();
        let pool = table.pool(PoolKey(1), slots).unwrap();
        let origin = Origin::new(Protocol::Tcp, "198.51.100.1:443".parse().unwrap()).unwrap();
        let mut worker = Worker::attach(Arc::clone(&table), [fill as u8; 32]).unwrap();
        let mut handle = worker.origin(&pool, origin).unwrap();
        let kept: Vec<_> = (0..fill).map(|_| worker.acquire(&mut handle, Time::ZERO).unwrap()).collect();
        let mut counts = vec![0u64; 65_536];
        for _ in 0..1_000_000 {
            let lease = worker.acquire(&mut handle, Time::ZERO).unwrap();
            counts[usize::from(table.source(&lease).unwrap().port())] += 1;
            table.release(lease, Closed::Reset, Time::ZERO).unwrap();
        }
        let used: BTreeSet<_> = kept.iter().map(|lease| table.source(lease).unwrap().port()).collect();
        let free: Vec<_> = (2_048..2_048 * (granules + 1))
            .filter(|port| !used.contains(port))
            .map(|port| counts[usize::from(port)])
            .collect();
        assert_eq!(free.iter().sum::<u64>(), 1_000_000);
        normal(chi_square_z(&free), &format!("{granules} granules, {fill} used"));
    }
}

#[test]
fn the_choice_is_uniform_inside_the_oldest_generation_of_resting_ports() {
    let rest = Spans::all(Duration::from_secs(65));
    let (table, pool, origin) = one_share(64, Quarantine::new(Spans::ZERO, rest).unwrap());
    let mut worker = Worker::attach(Arc::clone(&table), [77; 32]).unwrap();
    let mut handle = worker.origin(&pool, origin).unwrap();
    let mut counts = vec![vec![0u64; 64]; 4];
    for round in 0..80_000 {
        // Each generation is all 64 ports: the nth choice of a generation is uniform over the ports.
        for nth in 0..64 {
            let lease = worker.acquire(&mut handle, Time::ZERO).unwrap();
            if round > 0 && nth % 20 == 0 {
                counts[nth / 20][usize::from(table.source(&lease).unwrap().port() - 65_472)] += 1;
            }
            table.release(lease, Closed::Active, Time::ZERO).unwrap();
        }
    }
    for (nth, counts) in counts.iter().enumerate() {
        let z = chi_square_z(counts);
        assert!(z.abs() < 3.3, "choice {} of a generation: z = {z:.2}", nth * 20);
    }
}
