//! Worker processes over one lease table, killed at random moments. Nobody is granted what another one has, the others
//! go on, and in the end nothing is lost. The workers are this program again, in a role that the environment names.
//!
//! `AEGIS_KILLS=10000` for the long form.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use aegis_core::lease::{
    AcquireError, Closed, Config, Lease, Memory, Pool, PoolKey, Quarantine, Size, Spans, Table, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;
use aegis_net::{Process, RecoveredAll, Shared, Sweeper, clock};

const ROLE: &str = "AEGIS_TEST_ROLE";
/// Number and generation of a worker, and its place.
const NAME: &str = "AEGIS_TEST_NAME";

/// Workers at a time.
const WORKERS: usize = 4;
/// Granules of 64 ports.
const GRANULES: u16 = 2;
const PORTS: usize = 64 * GRANULES as usize;
/// These are dialled all the time.
const HOT: usize = 6;
/// All that are dialled: several times more than the table has room for, so that records are used again.
const ORIGINS: usize = 1_000;

/// A worker that is killed in the few instructions between taking a page or record away and giving it to the others
/// loses it, which no tuple suffers from: it happens in less than one of so many kills.
const KILLS_FOR_A_LOSS: u32 = 20;

/// The smallest table that the claims need, and what may be lost on top.
const PAGES: u32 = 64;
const RECORDS: u32 = 300;

fn config(kills: u32) -> Config {
    // Short, so that what the dead leave does not fill the table. Longer than a recovery takes.
    let hold = Spans { half_closed: Duration::from_millis(500), ..Spans::ZERO };
    let rest = Spans { passive: Duration::from_millis(500), ..Spans::ZERO };
    let quarantine = Quarantine::new(hold, rest).unwrap();
    Config {
        granule_ports: 64,
        granules: 2,
        origins: RECORDS + kills / KILLS_FOR_A_LOSS,
        pages: PAGES + kills / KILLS_FOR_A_LOSS,
        workers: 16,
        quarantine,
        ..Config::default()
    }
}

fn origin(number: usize) -> Origin {
    let number = u16::try_from(number).unwrap();
    let [high, low] = number.to_be_bytes();
    Origin::new(Protocol::Tcp, SocketAddr::from(([198, 51, high, low], 443))).unwrap()
}

fn pool<M: Memory>(table: &Table<M>, granules: u16, ports: u16) -> Pool {
    let ip = "192.0.2.1".parse().unwrap();
    let range = |n: u16| PortRange::new(2_048 + n * ports, 2_047 + (n + 1) * ports).unwrap();
    let slots = (0..granules).map(|n| table.add_granule(ip, range(n)).unwrap());
    table.pool(PoolKey(0), slots.collect::<Vec<_>>()).unwrap()
}

/// What the processes tell each other, in the same memory behind the table.
struct Board {
    memory: Shared,
    first: usize,
}

const BOARD_WORDS: usize = 16 + WORKERS + ORIGINS * PORTS;

impl Board {
    fn word(&self, at: usize) -> &AtomicU64 {
        &self.memory.words()[self.first + at]
    }

    /// Workers of an earlier generation shall stop.
    fn generation(&self) -> &AtomicU64 {
        self.word(0)
    }

    /// A tuple that was granted twice, plus 1.
    fn granted_twice(&self) -> &AtomicU64 {
        self.word(1)
    }

    fn progress(&self, place: usize) -> &AtomicU64 {
        self.word(16 + place)
    }

    /// The number of the worker that has a tuple.
    fn holder(&self, tuple: usize) -> &AtomicU64 {
        self.word(16 + WORKERS + tuple)
    }

    fn forget(&self, worker: u64) {
        for tuple in 0..ORIGINS * PORTS {
            let holder = self.holder(tuple);
            if holder.load(SeqCst) == worker {
                holder.store(0, SeqCst);
            }
        }
    }
}

/// `size` with a board behind it.
fn with_board(size: Size) -> Size {
    Size { words: size.words + BOARD_WORDS, ..size }
}

/// The table and the board in the memory that a descriptor names.
fn open(descriptor: impl rustix::fd::AsFd) -> (Arc<Table<Shared>>, Board) {
    let memory = || Shared::from_fd(rustix::io::dup(&descriptor).unwrap()).unwrap();
    let table = Table::open(memory(), Process::me().token()).unwrap();
    let first = Table::<Shared>::size(table.config()).unwrap().words;
    (Arc::new(table), Board { memory: memory(), first })
}

/// Without a role there is nothing to do.
#[test]
fn another_process() {
    match env::var(ROLE).as_deref() {
        Ok("worker") => work(),
        Ok("hoarder") => hoard(),
        Ok(role) => panic!("no role is called {role}"),
        Err(_) => {}
    }
}

/// A generator for the test itself.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

fn work() {
    let name = env::var(NAME).unwrap();
    let numbers: Vec<u64> = name.split(' ').map(|number| number.parse().unwrap()).collect();
    let &[me, generation, place] = &numbers[..] else { panic!("{name}") };
    let (table, board) = open(io::stdin());
    let pool = pool(&table, GRANULES, 64);
    let mut worker = Worker::attach(Arc::clone(&table), clock::seed().unwrap()).unwrap();
    let mut dice = Dice(me.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut leases: Vec<(Lease, usize)> = Vec::new();
    let progress = board.progress(place as usize);
    let give_back = |worker: &mut Worker<Shared>, leases: &mut Vec<(Lease, usize)>, dice: &mut Dice| {
        if leases.is_empty() {
            return;
        }
        let (lease, tuple) = leases.swap_remove(dice.below(leases.len()));
        // Before the release: from then on it may be another's.
        board.holder(tuple).store(0, SeqCst);
        let closed = match dice.below(2_000) {
            // Seldom: what is held is not used for half a second, and would soon fill the table.
            0 => Closed::Unknown,
            n if n % 3 == 0 => Closed::Passive,
            n if n % 3 == 1 => Closed::Reset,
            _ => Closed::Unused,
        };
        worker.release(lease, closed, clock::now()).unwrap();
    };
    while board.generation().load(SeqCst) <= generation {
        progress.fetch_add(1, SeqCst);
        if dice.below(25) < leases.len() {
            give_back(&mut worker, &mut leases, &mut dice);
            continue;
        }
        let number = if dice.below(2) == 0 { dice.below(HOT) } else { HOT + dice.below(ORIGINS - HOT) };
        match worker.acquire_to(&pool, &origin(number), clock::now()) {
            Ok(lease) => {
                let port = table.source(&lease).unwrap().port();
                let tuple = number * PORTS + usize::from(port - 2_048);
                if let Err(other) = board.holder(tuple).compare_exchange(0, me, SeqCst, SeqCst) {
                    board.granted_twice().store(tuple as u64 + 1, SeqCst);
                    panic!("origin {number}, port {port}: granted to {me} while {other} has it");
                }
                leases.push((lease, tuple));
            }
            Err(AcquireError::Exhausted | AcquireError::TooManyOrigins) => {
                give_back(&mut worker, &mut leases, &mut dice);
            }
            Err(error) => panic!("{error}"),
        }
    }
    // Half of them are left, as by a worker that ends before its connections do.
    while leases.len() > 5 {
        give_back(&mut worker, &mut leases, &mut dice);
    }
    std::mem::forget(worker);
}

struct Pack {
    table: Arc<Table<Shared>>,
    board: Board,
    sweeper: Sweeper<Shared>,
    /// By place: number and process.
    workers: Vec<(u64, Child)>,
    next: u64,
    generation: u64,
    recovered: RecoveredAll,
}

impl Pack {
    fn new(kills: u32) -> Self {
        let config = config(kills);
        let size = Table::<Shared>::size(&config).unwrap();
        let memory = Shared::memfd(with_board(size)).unwrap();
        let second = Shared::from_fd(memory.descriptor().unwrap().try_clone_to_owned().unwrap()).unwrap();
        let table = Table::create(config, memory, clock::seed().unwrap(), Process::me().token()).unwrap();
        let table = Arc::new(table);
        let sweeper = Sweeper::new(Arc::clone(&table)).unwrap();
        let board = Board { memory: second, first: size.words };
        let recovered = RecoveredAll::default();
        let mut pack = Self { table, board, sweeper, workers: Vec::new(), next: 1, generation: 0, recovered };
        pack.workers = (0..WORKERS).map(|place| pack.start(place)).collect();
        pack
    }

    fn start(&mut self, place: usize) -> (u64, Child) {
        let number = self.next;
        self.next += 1;
        let child = process("worker", &self.table, &format!("{number} {} {place}", self.generation));
        (number, child)
    }

    fn bury(&mut self, places: &[usize]) {
        for &place in places {
            self.workers[place].1.kill().unwrap();
        }
        for &place in places {
            self.workers[place].1.wait().unwrap();
            self.board.forget(self.workers[place].0);
        }
        self.recover();
    }

    fn recover(&mut self) {
        let start = Instant::now();
        loop {
            let RecoveredAll { processes, found } = self.sweeper.recover_dead(clock::now());
            self.recovered.processes += processes;
            self.recovered.found.leases += found.leases;
            self.recovered.found.half_done += found.half_done;
            self.recovered.found.unclear += found.unclear;
            if processes == 0 {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "never clear: {found:?}");
        }
    }

    /// All workers but these do something.
    fn others_go_on(&self, but: &[usize]) {
        let others = (0..WORKERS).filter(|place| !but.contains(place));
        let before: Vec<_> = others.map(|place| (place, self.board.progress(place).load(SeqCst))).collect();
        let start = Instant::now();
        for (place, before) in before {
            while self.board.progress(place).load(SeqCst) == before {
                assert_eq!(self.board.granted_twice().load(SeqCst), 0, "a tuple was granted twice");
                assert!(start.elapsed() < Duration::from_secs(20), "worker {place} has stopped");
                thread::yield_now();
            }
        }
    }

    /// Old and new workers at once, then only new ones.
    fn reload(&mut self) {
        self.generation += 1;
        let new: Vec<_> = (0..WORKERS).map(|place| self.start(place)).collect();
        thread::sleep(Duration::from_millis(20));
        self.end_old();
        self.workers = new;
    }

    fn end_old(&mut self) {
        self.board.generation().store(self.generation, SeqCst);
        for (number, mut child) in std::mem::take(&mut self.workers) {
            assert!(child.wait().unwrap().success(), "a worker has failed");
            self.board.forget(number);
        }
        self.recover();
    }
}

/// This program in another role; its input is the table's memory.
fn process(role: &str, table: &Table<Shared>, name: &str) -> Child {
    let memory = table.memory().descriptor().unwrap().try_clone_to_owned().unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "another_process", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(NAME, name).stdin(memory).stdout(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn whoever_is_killed_the_others_go_on_and_nothing_is_lost_or_granted_twice() {
    let kills: u32 = env::var("AEGIS_KILLS").map_or(300, |kills| kills.parse().unwrap());
    let start = Instant::now();
    let mut pack = Pack::new(kills);
    let mut dice = Dice(u64::from_le_bytes(clock::seed().unwrap()[..8].try_into().unwrap()) | 1);
    let mut killed = 0;
    while killed < kills {
        thread::sleep(Duration::from_micros(dice.below(6_000) as u64));
        let first = dice.below(WORKERS);
        let mut places = vec![first];
        if dice.below(8) == 0 {
            places.push((first + 1) % WORKERS);
        }
        pack.bury(&places);
        pack.others_go_on(&places);
        killed += places.len() as u32;
        for place in places {
            pack.workers[place] = pack.start(place);
        }
        if dice.below(50) == 0 {
            pack.reload();
        }
    }
    pack.generation += 1;
    pack.end_old();
    assert_eq!(pack.board.granted_twice().load(SeqCst), 0, "a tuple was granted twice");
    let (granted, elapsed) = (pack.table.granted(), start.elapsed());
    eprintln!("{killed} killed in {elapsed:.1?}, {granted} leases granted, {:?}", pack.recovered);
    assert!(pack.recovered.found.leases > 0);
    assert_eq!(pack.table.owners(), [Process::me().token()], "all numbers of the dead can be used again");
    nothing_is_lost(&pack.table);
}

/// Once all holds are over every port is granted once towards every origin, and every page and record is there.
fn nothing_is_lost(table: &Arc<Table<Shared>>) {
    let pool = pool(table, GRANULES, 64);
    let mut worker = Worker::attach(Arc::clone(table), clock::seed().unwrap()).unwrap();
    let later = clock::now() + Duration::from_secs(600);
    for number in 0..ORIGINS {
        let leases = all(&mut worker, &pool, number, later);
        assert_eq!(leases.len(), PORTS, "origin {number}");
        release_all(table, leases, later);
    }
    // As many pages at once as there must be: two for each origin.
    let origins = PAGES as usize / usize::from(GRANULES);
    let leases: Vec<_> = (0..origins).flat_map(|number| all(&mut worker, &pool, number, later)).collect();
    assert_eq!(leases.len(), origins * PORTS, "a page is lost");
    release_all(table, leases, later);
    let one = |number| worker.acquire_to(&pool, &origin(number), later);
    let leases = (0..RECORDS as usize - 4).map(one).collect::<Result<Vec<_>, _>>();
    release_all(table, leases.expect("a record is lost"), later);
}

/// Every lease towards an origin that there is.
fn all(worker: &mut Worker<Shared>, pool: &Pool, number: usize, now: Time) -> Vec<Lease> {
    let mut ports = [false; PORTS];
    let mut leases = Vec::new();
    loop {
        match worker.acquire_to(pool, &origin(number), now) {
            Ok(lease) => {
                let port = usize::from(worker.table().source(&lease).unwrap().port() - 2_048);
                assert!(!std::mem::replace(&mut ports[port], true), "port {port} twice");
                leases.push(lease);
            }
            Err(AcquireError::Exhausted) => return leases,
            Err(error) => panic!("origin {number}, after {} leases: {error}", leases.len()),
        }
    }
}

fn release_all(table: &Table<Shared>, leases: Vec<Lease>, now: Time) {
    for lease in leases {
        table.release(lease, Closed::Unused, now).unwrap();
    }
}

const HOARD: usize = 50_000;
/// So many of them towards origins of which each takes all ports.
const CROWDED: usize = 12;

fn hoard_config() -> Config {
    Config { granule_ports: 2_048, granules: 1, origins: 32_768, pages: 64, ..Config::default() }
}

fn hoard() {
    let (table, board) = open(io::stdin());
    let pool = pool(&table, 1, 2_048);
    let mut worker = Worker::attach(Arc::clone(&table), clock::seed().unwrap()).unwrap();
    let crowded = (0..CROWDED).flat_map(|number| std::iter::repeat_n(number, 2_048));
    for number in crowded.chain(CROWDED..).take(HOARD) {
        // Dropped, it stays live.
        let _ = worker.acquire_to(&pool, &origin(number), clock::now()).unwrap();
    }
    board.progress(0).store(1, SeqCst);
    loop {
        thread::park();
    }
}

#[test]
fn fifty_thousand_leases_of_a_killed_process_are_found() {
    let size = Table::<Shared>::size(&hoard_config()).unwrap();
    let memory = Shared::memfd(with_board(size)).unwrap();
    let second = Shared::from_fd(memory.descriptor().unwrap().try_clone_to_owned().unwrap()).unwrap();
    let board = Board { memory: second, first: size.words };
    let table = Arc::new(
        Table::create(hoard_config(), memory, clock::seed().unwrap(), Process::me().token()).unwrap(),
    );
    let mut child = process("hoarder", &table, "");
    while board.progress(0).load(SeqCst) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it has failed");
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut sweeper = Sweeper::new(Arc::clone(&table)).unwrap();
    let start = Instant::now();
    let all = sweeper.recover_dead(clock::now());
    eprintln!("{HOARD} leases of a killed process recovered in {:.1?}", start.elapsed());
    assert_eq!((all.processes, all.found.leases, all.found.unclear), (1, HOARD as u64, 0), "{all:?}");
    assert_eq!(table.granted(), HOARD as u64, "what it had counted is lost");
    let start = Instant::now();
    let swept = sweeper.sweep(clock::now()).unwrap();
    eprintln!("and their holds ended by a sweep in {:.1?}", start.elapsed());
    assert_eq!(swept.ended, HOARD, "{swept:?}");
}
