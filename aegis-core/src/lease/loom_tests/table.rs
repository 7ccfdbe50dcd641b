//! Whole acquires and releases of a tiny table.

use std::sync::Arc;

use super::super::{Closed, GranuleState, Lease};
use super::scene::{Scene, origin};
use super::{at, both, with_switches};

#[test]
fn loom_two_that_meet_an_origin_first_share_its_record_and_page() {
    with_switches(2, || {
        let scene = Scene::new(2);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        let pool = scene.pool.clone();
        let (one, other) = both(
            move || one.acquire_to(&pool, &origin(), at(1)).unwrap(),
            || other.acquire_to(&scene.pool, &origin(), at(1)).unwrap(),
        );
        let sources = [&one, &other].map(|lease| scene.table.source(lease).unwrap());
        assert_ne!(sources[0], sources[1]);
        assert_ne!(one.tag(), other.tag());
        let rows: Vec<_> = scene.table.usage(at(1)).map(|usage| (usage.live, usage.origin)).collect();
        assert_eq!(rows, [(2, Some(origin()))]);
        // Both leases end where they began.
        for lease in [one, other] {
            scene.table.release(lease, Closed::Unused, at(1)).unwrap();
        }
        assert_eq!(scene.in_use(at(1)), 0);
    });
}

#[test]
fn loom_two_workers_never_get_the_same_tuple_and_one_of_them_gets_the_last() {
    with_switches(2, || {
        let scene = Scene::new(1);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        let lease = one.acquire_to(&scene.pool, &origin(), at(1)).unwrap();
        scene.table.release(lease, Closed::Unused, at(1)).unwrap();
        let pool = scene.pool.clone();
        let (one, other) = both(
            move || one.acquire_to(&pool, &origin(), at(1)).ok(),
            || other.acquire_to(&scene.pool, &origin(), at(1)).ok(),
        );
        assert!(one.is_some() ^ other.is_some());
        let lease: Lease = one.or(other).unwrap();
        scene.table.release(lease, Closed::Unused, at(1)).unwrap();
        let mut worker = scene.worker(3);
        assert!(worker.acquire_to(&scene.pool, &origin(), at(1)).is_ok(), "free, and so not refused");
    });
}

/// One acquires while the only port comes back: it gets it, or the next one does.
fn acquire_during_a_release(closed: Closed, later: u64) {
    with_switches(2, move || {
        let scene = Scene::new(1);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        let lease = one.acquire_to(&scene.pool, &origin(), at(1)).unwrap();
        let table = Arc::clone(&scene.table);
        let (_, early) = both(
            move || table.release(lease, closed, at(1)).unwrap(),
            || other.acquire_to(&scene.pool, &origin(), at(1)).ok(),
        );
        let late = other.acquire_to(&scene.pool, &origin(), at(later)).ok();
        assert!(early.is_some() ^ late.is_some(), "{early:?} {late:?}");
    });
}

#[test]
fn loom_a_release_is_never_hidden_by_an_acquire_that_found_nothing() {
    acquire_during_a_release(Closed::Unused, 1);
}

#[test]
fn loom_a_hold_that_begins_while_an_acquire_finds_nothing_ends_in_time() {
    acquire_during_a_release(Closed::HalfClosed, 5_250);
}

#[test]
fn loom_a_drained_granule_has_no_lease_that_a_scan_did_not_see() {
    with_switches(2, || {
        let scene = Scene::new(1);
        let mut worker = scene.worker(1);
        let pool = scene.pool.clone();
        let (lease, seen) = both(
            move || worker.acquire_to(&pool, &origin(), at(1)).ok(),
            || {
                scene.table.set_state(scene.granule, GranuleState::Draining);
                scene.in_use(at(1))
            },
        );
        assert!(seen >= u32::from(lease.is_some()), "granted, and not seen");
        assert_eq!(scene.in_use(at(1)), u32::from(lease.is_some()), "undone, if not granted");
        // A drain that was called off leaves nothing behind.
        scene.table.set_state(scene.granule, GranuleState::Owned);
        let again = scene.worker(2).acquire_to(&scene.pool, &origin(), at(1));
        assert_eq!(again.is_ok(), lease.is_none());
    });
}

#[test]
fn loom_a_drain_that_is_called_off_hides_no_port() {
    with_switches(2, || {
        let scene = Scene::new(1);
        let mut worker = scene.worker(1);
        let lease = worker.acquire_to(&scene.pool, &origin(), at(1)).unwrap();
        scene.table.release(lease, Closed::Unused, at(1)).unwrap();
        scene.table.set_state(scene.granule, GranuleState::Draining);
        let pool = scene.pool.clone();
        let (early, ()) = both(
            move || worker.acquire_to(&pool, &origin(), at(1)).ok(),
            || scene.table.set_state(scene.granule, GranuleState::Owned),
        );
        let late = scene.worker(2).acquire_to(&scene.pool, &origin(), at(1));
        assert!(early.is_some() ^ late.is_ok(), "{early:?} {late:?}");
    });
}
