//! Several processes over the same memory: one releases what another was granted, one takes over what a dead one held, and
//! nobody opens what is no lease table.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use aegis_core::ErrorKind;
use aegis_core::lease::{
    AcquireError, Adoption, Closed, Config, Conflict, GranuleState, Memory, Pool, PoolKey, Quarantine,
    ReleaseError, Size, Spans, Table, Tuple, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;

const NOW: Time = Time::from_millis(1_000);
const HALF_CLOSED: Duration = Duration::from_secs(60);
/// Holds of `NOW` are listed by then.
const LATER: Time = Time::from_millis(1_500);

/// What a mapping of several processes is, in one.
#[derive(Clone, Debug)]
struct Shared(Arc<(Vec<AtomicU64>, Vec<AtomicU16>)>);

impl Shared {
    fn zeroed(size: Size) -> Self {
        Self(Arc::new((
            (0..size.words).map(|_| AtomicU64::new(0)).collect(),
            (0..size.tags).map(|_| AtomicU16::new(0)).collect(),
        )))
    }
}

impl Memory for Shared {
    fn words(&self) -> &[AtomicU64] {
        &self.0.0
    }

    fn tags(&self) -> &[AtomicU16] {
        &self.0.1
    }
}

type Process = Arc<Table<Shared>>;

fn config() -> Config {
    let hold = Spans { half_closed: HALF_CLOSED, ..Spans::ZERO };
    Config {
        granule_ports: 32,
        granules: 4,
        origins: 16,
        pages: 16,
        workers: 8,
        quotas: 4,
        quarantine: Quarantine::new(hold, Spans::ZERO).unwrap(),
        ..Config::default()
    }
}

fn create(token: u64) -> (Process, Shared) {
    let memory = Shared::zeroed(Table::<Shared>::size(&config()).unwrap());
    (Arc::new(Table::create(config(), memory.clone(), [7; 32], token).unwrap()), memory)
}

fn open(memory: &Shared, token: u64) -> Process {
    Arc::new(Table::open(memory.clone(), token).unwrap())
}

fn pool(table: &Process, ports: u16) -> Pool {
    let range = PortRange::new(5_000, 5_000 + (ports - 1)).unwrap();
    let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
    table.pool(PoolKey(1), [granule]).unwrap()
}

fn worker(table: &Process, seed: u8) -> Worker<Shared> {
    Worker::attach(Arc::clone(table), [seed; 32]).unwrap()
}

fn nth(n: u16) -> Origin {
    Origin::new(Protocol::Tcp, SocketAddr::from(([203, 0, 113, 7], 1_000 + n))).unwrap()
}

#[test]
fn what_one_process_was_granted_no_other_is_and_every_one_can_release_it() {
    let (a, memory) = create(11);
    let b = open(&memory, 22);
    assert_eq!((a.own_token(), b.own_token(), a.owners()), (11, 22, vec![11, 22]));
    assert_eq!(a.config(), b.config());
    let (pool_a, pool_b) = (pool(&a, 8), pool(&b, 8));
    let (mut of_a, mut of_b) = (worker(&a, 1), worker(&b, 2));
    let mut sources = BTreeSet::new();
    let mut leases = Vec::new();
    for n in 0..8 {
        let lease = match n % 2 {
            0 => of_a.acquire_to(&pool_a, &nth(1), NOW),
            _ => of_b.acquire_to(&pool_b, &nth(1), NOW),
        }
        .unwrap();
        assert!(sources.insert(a.source(&lease).unwrap()));
        leases.push(lease);
    }
    assert_eq!(of_a.acquire_to(&pool_a, &nth(1), NOW), Err(AcquireError::Exhausted));
    for (n, lease) in leases.into_iter().enumerate() {
        // Each by the process that did not ask for it.
        assert_eq!(a.tuple(&lease), b.tuple(&lease));
        if n % 2 == 0 { b.release(lease, Closed::Reset, NOW) } else { a.release(lease, Closed::Reset, NOW) }
            .unwrap();
    }
    assert_eq!((a.explain(&pool_a, &nth(1), NOW).live, b.explain(&pool_b, &nth(1), NOW).live), (0, 0));
    assert_eq!(a.granted(), 8);
}

#[test]
fn a_dead_process_is_taken_over_with_exactly_what_it_held() {
    let (a, memory) = create(11);
    let dead = open(&memory, 22);
    let (pool_a, pool_dead) = (pool(&a, 8), pool(&dead, 8));
    let quota = a.set_quota(0, 100, None).unwrap();
    let (mut of_a, mut of_dead) = (worker(&a, 1), worker(&dead, 2));
    let under = |pool: &Pool| pool.under(quota);
    // Origin 1: one lease, in the home word. Origin 2: pages, with a lease of each. Origin 3: the living one's alone.
    let _home = of_dead.acquire_to(&under(&pool_dead), &nth(1), NOW).unwrap();
    let _theirs = [0; 3].map(|_| of_dead.acquire_to(&under(&pool_dead), &nth(2), NOW).unwrap());
    let ours = [0; 2].map(|_| of_a.acquire_to(&under(&pool_a), &nth(2), NOW).unwrap());
    let alone = of_a.acquire_to(&under(&pool_a), &nth(3), NOW).unwrap();
    assert_eq!(a.quota_used(quota), 7);
    // It is killed: nothing of it is dropped.
    std::mem::forget((of_dead, dead));
    let recovered = a.recover(22, NOW, |_| true).unwrap();
    assert_eq!((recovered.leases, recovered.half_done, recovered.unclear), (4, 0, 0));
    assert_eq!(a.quota_used(quota), 3);
    let counts = |n| {
        let explained = a.explain(&pool_a, &nth(n), NOW);
        (explained.live, explained.held)
    };
    assert_eq!((counts(1), counts(2), counts(3)), ((0, 1), (2, 3), (1, 0)));
    assert_eq!((a.owners(), a.recover(22, NOW, |_| true)), (vec![11], None));
    for lease in ours.into_iter().chain([alone]) {
        a.release(lease, Closed::Reset, NOW).unwrap();
    }
    // What is held comes free by itself, or when the kernel has nothing of it.
    let held = a.held(NOW);
    assert_eq!(held.len(), 4);
    assert_eq!(a.reconcile(&held, NOW, |tuple| tuple.origin == Some(nth(1).address())), 3);
    assert_eq!((counts(1), counts(2)), ((0, 1), (0, 0)));
    assert_eq!(a.explain(&pool_a, &nth(1), NOW + HALF_CLOSED + Duration::from_millis(1_750)).held, 0);
}

#[test]
fn a_port_that_a_dead_process_was_just_taking_is_held_too() {
    let (a, memory) = create(11);
    let dead = open(&memory, 22);
    let (pool_a, pool_dead) = (pool(&a, 8), pool(&dead, 8));
    // The worker's first word says whose it is: the one that attaching changed. What it is about to do is the next.
    let before: Vec<u64> = memory.words().iter().map(|word| word.load(SeqCst)).collect();
    let mut of_dead = worker(&dead, 2);
    let at = (0..before.len()).find(|&at| memory.words()[at].load(SeqCst) != before[at]).unwrap();
    let _pair = [0; 2].map(|_| of_dead.acquire_to(&pool_dead, &nth(1), NOW).unwrap());
    // It dies between the claim of the second port and its tag.
    let tag = memory.tags().iter().rposition(|tag| tag.load(SeqCst) != 0).unwrap();
    memory.tags()[tag].store(0, SeqCst);
    memory.words()[at + 1].store((tag as u64 / 32) << 32 | (tag as u64 % 32 + 1), SeqCst);
    std::mem::forget((of_dead, dead));
    let recovered = a.recover(22, NOW, |_| true).unwrap();
    assert_eq!((recovered.leases, recovered.half_done, recovered.unclear), (1, 1, 0));
    assert_eq!(a.explain(&pool_a, &nth(1), NOW).held, 2);
    // Its worker's place is free again.
    let _all: Vec<_> = (0..8).map(|n| worker(&a, n)).collect();
}

/// Where a worker's words are: what changes when it attaches is the first of them.
fn attached(memory: &Shared, table: &Process, seed: u8) -> (Worker<Shared>, usize) {
    let before: Vec<u64> = memory.words().iter().map(|word| word.load(SeqCst)).collect();
    let worker = worker(table, seed);
    (worker, (0..before.len()).find(|&at| memory.words()[at].load(SeqCst) != before[at]).unwrap())
}

/// Takes the tag of the last port that has one away, as of somebody who died before he set it; what he had written down.
fn without_its_tag(memory: &Shared) -> u64 {
    let tag = memory.tags().iter().rposition(|tag| tag.load(SeqCst) != 0).unwrap();
    memory.tags()[tag].store(0, SeqCst);
    (tag as u64 / 32) << 32 | (tag as u64 % 32 + 1)
}

#[test]
fn a_port_that_two_dead_processes_were_just_taking_is_held_once() {
    let (a, memory) = create(11);
    let (first, second) = (open(&memory, 22), open(&memory, 33));
    let (pool_a, pool_first) = (pool(&a, 8), pool(&first, 8));
    let (mut of_first, at_first) = attached(&memory, &first, 2);
    let (of_second, at_second) = attached(&memory, &second, 3);
    let _pair = [0; 2].map(|_| of_first.acquire_to(&pool_first, &nth(1), NOW).unwrap());
    let intent = without_its_tag(&memory);
    for at in [at_first, at_second] {
        memory.words()[at + 1].store(intent, SeqCst);
    }
    std::mem::forget((of_first, of_second, first, second));
    // While the other is thought to live it may be between its two steps.
    let unclear = a.recover(22, NOW, |_| true).unwrap();
    assert_eq!((unclear.leases, unclear.half_done, unclear.unclear), (1, 0, 1));
    let recovered = a.recover(22, NOW, |_| false).unwrap();
    assert_eq!((recovered.leases, recovered.half_done, recovered.unclear), (0, 1, 0));
    let recovered = a.recover(33, NOW, |_| false).unwrap();
    assert_eq!((recovered.leases, recovered.half_done, recovered.unclear), (0, 0, 0));
    assert_eq!((a.explain(&pool_a, &nth(1), NOW).held, a.owners()), (2, vec![11]));
}

#[test]
fn who_died_while_taking_over_another_does_not_seem_to_be_at_it_for_ever() {
    let (a, memory) = create(11);
    let before: Vec<u64> = memory.words().iter().map(|word| word.load(SeqCst)).collect();
    let (dead, helper) = (open(&memory, 22), open(&memory, 33));
    let deads = (0..before.len()).find(|&at| memory.words()[at].load(SeqCst) != before[at]).unwrap();
    // The helper, owner 2, dies at it; and its number becomes a new process's, which lives.
    memory.words()[deads + 1].store(3, SeqCst);
    std::mem::forget((dead, helper));
    assert!(a.recover(33, NOW, |_| false).is_some());
    let new = open(&memory, 44);
    assert_eq!(a.owners(), [11, 22, 44]);
    assert!(a.recover(22, NOW, |token| token == 44).is_some());
    assert_eq!(new.owners(), [11, 44]);
}

#[test]
fn a_page_that_was_just_taken_is_given_back_once_however_often_its_taker_is_taken_over() {
    let (a, memory) = create(11);
    let pool_a = pool(&a, 8);
    let mut of_a = worker(&a, 1);
    // Whoever takes over writes nothing down that he has done; so he may die right after it, and another does it again.
    for round in 0..3 {
        let dead = open(&memory, 22);
        let (of_dead, at) = attached(&memory, &dead, 2);
        // It had taken page 0 in its first life, and not opened it. Word 18 counts the pages ever taken.
        if round == 0 {
            memory.words()[18].store(1, SeqCst);
        }
        memory.words()[at + 3].store(7 << 32 | 1, SeqCst);
        std::mem::forget((of_dead, dead));
        assert!(a.recover(22, NOW, |_| false).is_some());
    }
    // Two origins with two leases each have a page each: not the same.
    let leases: Vec<_> = (0..4).map(|n| of_a.acquire_to(&pool_a, &nth(1 + n / 2), NOW).unwrap()).collect();
    let sources: Vec<_> = leases.iter().map(|lease| a.tuple(lease).unwrap()).collect();
    assert_eq!(
        sources.iter().map(|tuple| (tuple.source, tuple.origin.port())).collect::<BTreeSet<_>>().len(),
        4
    );
    for n in 1..=2 {
        assert_eq!(a.explain(&pool_a, &nth(n), NOW).live, 2);
    }
}

#[test]
fn nobody_takes_over_himself_or_what_a_living_process_is_taking_over() {
    let (a, memory) = create(11);
    let dead = open(&memory, 22);
    let before: Vec<u64> = memory.words().iter().map(|word| word.load(SeqCst)).collect();
    let third = open(&memory, 33);
    // The place beside a process's token says who is taking it over: here the third, which is owner 2.
    let thirds = (0..before.len()).find(|&at| memory.words()[at].load(SeqCst) != before[at]).unwrap();
    let recoverer = &memory.words()[thirds - 1];
    assert_eq!(a.recover(11, NOW, |_| true), None);
    assert_eq!(a.recover(99, NOW, |_| true), None, "nobody");
    assert_eq!(a.recover(0, NOW, |_| true), None);
    recoverer.store(3, SeqCst);
    assert_eq!(a.recover(22, NOW, |token| token == 33), None);
    assert_eq!(recoverer.load(SeqCst), 3);
    assert!(a.recover(22, NOW, |_| false).is_some(), "it died meanwhile: its work is finished by another");
    assert_eq!(a.owners(), [11, 33]);
    drop((dead, third));
}

#[test]
fn the_number_of_a_dead_process_is_used_again_and_numbers_run_out() {
    let (a, memory) = create(1);
    for round in 0..3 {
        let all: Vec<_> = (2..=127).map(|token| open(&memory, token)).collect();
        assert_eq!(a.owners().len(), 127, "round {round}");
        let error = Table::open(memory.clone(), 500).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Wait);
        assert!(error.message().contains("127"), "{error}");
        std::mem::forget(all);
        for token in 2..=127 {
            assert!(a.recover(token, NOW, |_| false).is_some(), "{token}");
        }
        assert_eq!(a.owners(), [1]);
    }
    assert!(Table::open(memory, 0).unwrap_err().message().contains("owner 0"));
}

#[test]
fn memory_that_holds_no_such_table_is_refused_with_what_was_found() {
    let (_, memory) = create(1);
    let good: Vec<u64> = memory.words().iter().map(|word| word.load(SeqCst)).collect();
    let copy = |words: usize, tags: usize| {
        let copy = Shared::zeroed(Size { words, tags });
        for (word, value) in copy.words().iter().zip(&good) {
            word.store(*value, SeqCst);
        }
        copy
    };
    let refused = |memory: Shared, what: &[&str]| {
        let error = Table::open(memory, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Reload, "{error}");
        for word in what {
            assert!(error.message().contains(word), "{word}: {error}");
        }
    };
    let (words, tags) = (good.len(), memory.tags().len());
    Table::open(copy(words, tags), 2).unwrap();
    refused(Shared::zeroed(Size { words, tags }), &["0x0000000000000000", &format!("{:#018x}", good[0])]);
    refused(copy(7, tags), &["7 words"]);
    refused(copy(words - 1, tags), &[&(words - 1).to_string(), &words.to_string()]);
    refused(copy(words, tags - 1), &[&(tags - 1).to_string(), &tags.to_string()]);
    // Another version of the layout, another checksum, another number of ports, another quarantine.
    for (at, what) in [(0, "version"), (1, "checksum"), (2, "checksum"), (6, "checksum"), (32, "checksum")] {
        let damaged = copy(words, tags);
        damaged.words()[at].fetch_xor(1 << 8, SeqCst);
        let found = format!("{:x}", if at > 1 { good[1] } else { good[at] ^ 1 << 8 });
        refused(damaged, &[what, &found]);
    }
}

#[test]
fn what_the_kernel_has_and_the_table_does_not_is_held_when_it_is_adopted() {
    let (a, _) = create(1);
    let pool = pool(&a, 8);
    let mut worker = worker(&a, 1);
    let tuple = |port: u16, n| Tuple { source: SocketAddr::from(([192, 0, 2, 1], port)), origin: nth(n) };
    let live = worker.acquire_to(&pool, &nth(1), NOW).unwrap();
    let known = a.tuple(&live).unwrap();
    let tuples = [tuple(5_000, 2), tuple(5_007, 2), known, tuple(5_008, 2), tuple(4_999, 2)];
    let adopted: Vec<_> = a.adopt(tuples, NOW).map(|(_, adoption)| adoption).collect();
    use Adoption::{Held, Known, Outside};
    assert_eq!(adopted, [Held, Held, Known, Outside, Outside]);
    assert_eq!(a.explain(&pool, &nth(2), NOW).held, 2);
    let free: Vec<_> = (0..6).map(|_| worker.acquire_to(&pool, &nth(2), NOW).unwrap()).collect();
    assert_eq!(worker.acquire_to(&pool, &nth(2), NOW), Err(AcquireError::Exhausted));
    // Again: nothing changes. The kernel has lost one of them meanwhile.
    assert_eq!(a.adopt([tuple(5_000, 2)], NOW).next().unwrap().1, Known);
    let held = a.held(LATER);
    assert_eq!(held.len(), 2);
    assert_eq!(a.reconcile(&held, LATER, |tuple| tuple.source.port() == 5_000), 1);
    let lease = worker.acquire_to(&pool, &nth(2), NOW).unwrap();
    assert_eq!(a.source(&lease).unwrap().port(), 5_007);
    // An old list ends nothing that is live now.
    assert_eq!(a.reconcile(&held[..], LATER, |tuple| tuple.source.port() == 5_000), 0);
    assert_eq!(a.tuple(&lease), Ok(tuple(5_007, 2)));
    drop(free);
}

#[test]
fn a_hold_ends_early_once_and_only_if_it_is_still_the_same() {
    for ports in [1, 2] {
        let (a, _) = create(1);
        let pool = pool(&a, ports);
        let mut worker = worker(&a, 1);
        let leases: Vec<_> = (0..ports).map(|_| worker.acquire_to(&pool, &nth(1), NOW).unwrap()).collect();
        for lease in leases {
            worker.release(lease, Closed::HalfClosed, NOW).unwrap();
        }
        assert_eq!(a.held(NOW), [], "they have just begun");
        let held = a.held(LATER);
        assert_eq!(held.len(), usize::from(ports));
        assert_eq!((held[0].protocol, held[0].origin), (Protocol::Tcp, Some(nth(1).address())));
        assert!(a.end_hold_early(&held[0], LATER));
        assert!(!a.end_hold_early(&held[0], LATER));
        let lease = worker.acquire_to(&pool, &nth(1), LATER).unwrap();
        assert_eq!(a.source(&lease), Ok(held[0].source));
        assert!(!a.end_hold_early(&held[0], LATER), "it is live");
        worker.release(lease, Closed::HalfClosed, LATER).unwrap();
        assert!(!a.end_hold_early(&held[0], LATER), "another connection's hold");
    }
}

#[test]
fn a_hold_that_has_moved_from_the_home_word_to_a_page_meanwhile_ends_early_too() {
    let (a, _) = create(1);
    let pool = pool(&a, 2);
    let mut worker = worker(&a, 1);
    let first = worker.acquire_to(&pool, &nth(1), NOW).unwrap();
    worker.release(first, Closed::HalfClosed, NOW).unwrap();
    let held = a.held(LATER);
    let _second = worker.acquire_to(&pool, &nth(1), LATER).unwrap();
    assert_eq!(a.explain(&pool, &nth(1), LATER).held, 1);
    assert_eq!(a.reconcile(&held, LATER, |_| false), 1);
    assert_eq!(a.explain(&pool, &nth(1), LATER).held, 0);
}

#[test]
fn a_connection_that_was_handed_over_is_a_lease_again_also_where_its_share_is_leaving() {
    let (a, _) = create(1);
    let range = PortRange::new(5_000, 5_007).unwrap();
    let granule = a.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
    let pool = a.pool(PoolKey(1), [granule]).unwrap();
    let mut worker = worker(&a, 1);
    let tuple = |port: u16| Tuple { source: SocketAddr::from(([192, 0, 2, 1], port)), origin: nth(1) };
    assert_eq!(a.adopt([tuple(5_003)], NOW).next().unwrap().1, Adoption::Held);
    a.set_state(granule, GranuleState::Draining);
    let held = worker.adopt(&pool, &tuple(5_003), NOW).unwrap();
    let free = worker.adopt(&pool, &tuple(5_004), NOW).unwrap();
    assert_eq!((a.tuple(&held), a.tuple(&free)), (Ok(tuple(5_003)), Ok(tuple(5_004))));
    assert_eq!(worker.adopt(&pool, &tuple(5_003), NOW), Err(AcquireError::InUse));
    assert_eq!(worker.adopt(&pool, &tuple(5_008), NOW), Err(AcquireError::NoShare));
    assert_eq!(worker.acquire_to(&pool, &nth(1), NOW), Err(AcquireError::NoShare));
    let explained = a.explain(&pool, &nth(1), NOW);
    assert_eq!((explained.live, explained.held), (2, 0));
    // Parked, because it looked like a stranger's: now it is known to be ours.
    a.conflict(free, Conflict::TupleInUse, NOW).unwrap();
    let parked = worker.adopt(&pool, &tuple(5_004), NOW).unwrap();
    a.release(parked, Closed::Reset, NOW).unwrap();
    a.release(held, Closed::Reset, NOW).unwrap();
    assert_eq!(a.explain(&pool, &nth(1), NOW).live, 0);
}

#[test]
fn a_lease_of_the_dead_is_stale_for_everybody_once_it_was_taken_over() {
    let (a, memory) = create(11);
    let dead = open(&memory, 22);
    let (pool_a, pool_dead) = (pool(&a, 1), pool(&dead, 1));
    let mut of_dead = worker(&dead, 2);
    let lease = of_dead.acquire_to(&pool_dead, &nth(1), NOW).unwrap();
    let _ = a.recover(22, NOW, |_| true).unwrap();
    assert_eq!(a.tuple(&lease), Err(ReleaseError::Stale));
    assert_eq!(a.release(lease, Closed::Reset, NOW).unwrap_err().error, ReleaseError::Stale);
    let mut of_a = worker(&a, 1);
    assert_eq!(of_a.acquire_to(&pool_a, &nth(1), NOW), Err(AcquireError::Exhausted));
    // Seven steps of deadlines longer than its own process would have held it.
    let over = NOW + HALF_CLOSED + Duration::from_millis(1_750);
    let _lease = of_a.acquire_to(&pool_a, &nth(1), over).unwrap();
    std::mem::forget((of_dead, dead));
}
