//! What a dead process held, and what it was doing.

use crate::sync::Ordering::SeqCst;
use std::sync::Arc;

use super::super::map::{WORKER_INTENT, WORKER_RECORD};
use super::super::slot::Slot;
use super::super::tag::Class;
use super::super::{AcquireError, Config, Table, Worker};
use super::scene::{Scene, Shared, THEIRS, another, config, origin, source};
use super::{at, both, with_switches};

/// A scene, and a process that is about to die.
fn two_processes() -> (Arc<Scene<Shared>>, Arc<Table<Shared>>) {
    // A recovery borrows a worker's words.
    let (scene, dead) = Scene::shared(Config { workers: 3, ..config(2) });
    (Arc::new(scene), dead)
}

/// Recovers until nothing is unclear.
fn recover(table: &Table<Shared>) -> (u64, u64) {
    let mut sum = (0, 0);
    loop {
        let Some(found) = table.recover(THEIRS, at(1), |_| false) else { return sum };
        sum = (sum.0 + found.leases, sum.1 + found.half_done);
        if found.unclear == 0 {
            return sum;
        }
        loom::thread::yield_now();
    }
}

#[test]
fn loom_a_dead_ones_lease_is_held_while_it_moves_to_a_page() {
    with_switches(2, || {
        let (scene, dead) = two_processes();
        let mut worker = Worker::attach(dead, [1; 32]).unwrap();
        let theirs = Arc::clone(&scene);
        let lease = worker.acquire_to(&scene.pool, &origin(), at(1)).unwrap();
        drop(lease);
        core::mem::forget(worker);
        let mut mine = scene.worker(2);
        let (found, lease) =
            both(move || recover(&theirs.table), || mine.acquire_to(&scene.pool, &origin(), at(1)).unwrap());
        // Twice, if it was seen before and after the move.
        assert!(matches!(found, (1..=2, 0)), "{found:?}");
        assert_eq!(scene.in_use(at(1)), 2);
        scene.fill(&mut mine, &origin(), vec![lease], 1);
    });
}

/// A process dies in a claim, before or after it has taken the port, while another claims the same one.
fn dies_in_a_claim(taken: bool) {
    with_switches(2, move || {
        let (scene, dead) = two_processes();
        let mut mine = scene.worker(2);
        scene.make_page(&mut mine, &origin());
        core::mem::forget(Worker::attach(Arc::clone(&dead), [1; 32]).unwrap());
        let intent = Slot::new(dead.worker_words(1)).intent(0);
        intent.names(0);
        assert_ne!(dead.worker_words(1)[WORKER_INTENT].load(SeqCst), 0);
        if taken {
            assert!(dead.page(0).take(0).is_some());
        }
        let theirs = Arc::clone(&scene);
        let (found, lease) = both(
            move || recover(&theirs.table),
            || mine.acquire_exactly(&scene.pool, source(0), &origin(), at(1)),
        );
        assert_eq!(found, (0, u64::from(taken)));
        match lease {
            Ok(lease) => {
                assert!(!taken, "the dead one may have used it");
                scene.fill(&mut mine, &origin(), vec![lease], 0);
            }
            Err(error) => {
                assert_eq!((error, taken), (AcquireError::InUse, true));
                assert_eq!(scene.table.page(0).tag(0).class(), Class::Held);
                scene.fill(&mut mine, &origin(), Vec::new(), 1);
            }
        }
    });
}

#[test]
fn loom_a_port_that_a_dead_one_had_taken_is_held() {
    dies_in_a_claim(true);
}

#[test]
fn loom_a_port_that_a_dead_one_had_not_taken_yet_stays_its_new_owners() {
    dies_in_a_claim(false);
}

/// A process dies between the two steps of publishing a record, or before them, while another meets the same origin.
fn dies_with_a_record(half_inserted: bool) {
    with_switches(2, move || {
        let (scene, dead) = two_processes();
        let mut mine = scene.worker(2);
        let worker = Worker::attach(Arc::clone(&dead), [1; 32]).unwrap();
        let words = dead.words();
        let index = dead.map.origin_index;
        let slots = index.first..index.first + index.windows as usize * super::super::index::Index::WINDOW;
        drop(worker.origin(&scene.pool, origin()).unwrap());
        for slot in slots.filter(|&at| words[at].load(SeqCst) != 0) {
            let value = words[slot].load(SeqCst);
            words[slot].store(if half_inserted { value & !(1 << 63) } else { 0 }, SeqCst);
        }
        let record = dead.record_now(super::super::records::FIRST_ORIGIN);
        let named = u64::from(record.incarnation) << 32 | u64::from(record.index + 1);
        dead.worker_words(1)[WORKER_RECORD].store(named, SeqCst);
        core::mem::forget(worker);
        let theirs = Arc::clone(&scene);
        let (_, lease) =
            both(move || recover(&theirs.table), || mine.acquire_to(&scene.pool, &origin(), at(1)).unwrap());
        // Both records can be had, and are different ones.
        let more = mine.acquire_to(&scene.pool, &another(), at(1)).unwrap();
        scene.fill(&mut mine, &another(), vec![more], 0);
        scene.fill(&mut mine, &origin(), vec![lease], 0);
    });
}

#[test]
fn loom_a_record_that_a_dead_one_was_publishing_is_one_origins() {
    dies_with_a_record(true);
}

#[test]
fn loom_a_record_that_a_dead_one_had_not_published_is_free() {
    dies_with_a_record(false);
}
