//! The only tuple of an origin, in its home word.

use std::sync::Arc;

use super::super::{Closed, Conflict, Lease};
use super::scene::{Scene, origin};
use super::{at, both, with_switches};

#[test]
fn loom_two_that_acquire_towards_an_empty_origin_get_different_ports() {
    with_switches(2, || {
        let scene = Arc::new(Scene::new(2));
        let theirs = Arc::clone(&scene);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        drop(one.origin(&scene.pool, origin()).unwrap());
        let (lease, more) = both(
            move || one.acquire_to(&theirs.pool, &origin(), at(1)).unwrap(),
            || other.acquire_to(&scene.pool, &origin(), at(1)).unwrap(),
        );
        scene.fill(&mut other, &origin(), vec![lease, more], 0);
    });
}

/// A page is made of the only tuple, while that is given back.
fn growth(closed: Closed, held: usize) {
    with_switches(2, move || {
        let scene = Arc::new(Scene::new(2));
        let theirs = Arc::clone(&scene);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        let lease = one.acquire_to(&scene.pool, &origin(), at(1)).unwrap();
        let (_, more) = both(
            move || theirs.table.release(lease, closed, at(1)).unwrap(),
            || other.acquire_to(&scene.pool, &origin(), at(1)).unwrap(),
        );
        assert_eq!(scene.in_use(at(1)), 1 + held as u32);
        scene.fill(&mut other, &origin(), vec![more], held);
    });
}

#[test]
fn loom_a_tuple_that_is_given_back_while_it_moves_to_a_page_is_free() {
    growth(Closed::Unused, 0);
}

#[test]
fn loom_a_tuple_that_is_held_while_it_moves_to_a_page_stays_held() {
    growth(Closed::HalfClosed, 1);
}

#[test]
fn loom_a_lease_in_a_home_word_ends_once() {
    with_switches(2, || {
        let scene = Arc::new(Scene::new(1));
        let theirs = Arc::clone(&scene);
        let mut worker = scene.worker(1);
        let lease = worker.acquire_to(&scene.pool, &origin(), at(1)).unwrap();
        let again =
            Lease::new(lease.at(), lease.offset(), lease.tag(), lease.table(), lease.pool(), lease.quota());
        let (released, refused) = both(
            move || theirs.table.release(lease, Closed::Unused, at(1)).is_ok(),
            || scene.table.conflict(again, Conflict::TupleInUse, at(1)).is_ok(),
        );
        assert!(released ^ refused);
        let parked: u32 = scene.table.usage(at(1)).map(|usage| usage.parked).sum();
        assert_eq!((parked, scene.in_use(at(1))), (refused.into(), 0));
        assert_eq!(worker.acquire_to(&scene.pool, &origin(), at(1)).is_ok(), released);
    });
}
