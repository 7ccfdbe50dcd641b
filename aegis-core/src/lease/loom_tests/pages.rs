//! Lives of pages: a page ends when it is empty, and no lease is in one that has ended.

use std::sync::Arc;

use crate::net::{Origin, PortRange};

use super::super::slot::Slot;
use super::super::{AcquireError, Config, PoolKey};
use super::scene::{Scene, another, config, origin, source};
use super::{at, both, with_switches};

/// Somebody ends empty pages while another acquires.
fn claim_while_it_ends(forget_rest: bool, by_handle: bool) {
    with_switches(2, move || {
        let scene = Arc::new(Scene::new(2));
        let theirs = Arc::clone(&scene);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        scene.make_page(&mut other, &origin());
        let mut handle = other.origin(&scene.pool, origin()).unwrap();
        if by_handle {
            let lease = other.acquire(&mut handle, at(1)).unwrap();
            other.release(lease, super::super::Closed::Unused, at(1)).unwrap();
        }
        let (_, lease) = both(
            move || theirs.table.end_page(0, forget_rest, at(1), Slot::NONE),
            || match by_handle {
                true => other.acquire(&mut handle, at(1)).unwrap(),
                false => other.acquire_to(&scene.pool, &origin(), at(1)).unwrap(),
            },
        );
        scene.fill(&mut one, &origin(), vec![lease], 0);
    });
}

#[test]
fn loom_a_claim_revives_a_page_that_is_closing_or_finds_another() {
    claim_while_it_ends(false, false);
    claim_while_it_ends(true, false);
}

#[test]
fn loom_a_claim_by_a_page_of_long_ago_revives_it_or_is_undone() {
    claim_while_it_ends(false, true);
}

/// Two that end an empty page; one of them goes on to use it.
fn end_twice(pages: u32, again: Origin) {
    with_switches(2, move || {
        let scene = Arc::new(Scene::of(Config { pages, ..config(1) }));
        let theirs = Arc::clone(&scene);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        scene.make_page(&mut other, &origin());
        let (_, lease) = both(
            move || theirs.table.end_page(0, false, at(1), Slot::NONE),
            || {
                scene.table.end_page(0, false, at(1), Slot::NONE);
                other.acquire_exactly(&scene.pool, source(0), &again, at(1))
            },
        );
        match lease {
            Ok(lease) => scene.fill(&mut one, &again, vec![lease], 0),
            // The other one has the only page, and was about to give it back.
            Err(error) => assert_eq!((error, pages), (AcquireError::TooManyOrigins, 1)),
        }
    });
}

#[test]
fn loom_a_page_that_ended_twice_is_forgotten_once() {
    end_twice(1, origin());
    end_twice(2, origin());
}

#[test]
fn loom_a_page_that_ended_twice_is_another_origins_once() {
    end_twice(1, another());
}

/// The same with a page that is found through the index.
#[test]
fn loom_a_page_that_is_not_the_first_is_forgotten_once() {
    with_switches(2, || {
        let scene = Arc::new(Scene::of(Config { granules: 2, pages: 2, ..config(1) }));
        let range = PortRange::new(2_000, 2_000).unwrap();
        let granule = scene.table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
        let pool = scene.table.pool(PoolKey(1), [scene.granule, granule]).unwrap();
        let second = source(1_000);
        let theirs = Arc::clone(&scene);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        scene.make_page(&mut other, &origin());
        let lease = other.acquire_exactly(&pool, second, &origin(), at(1)).unwrap();
        other.release(lease, super::super::Closed::Unused, at(1)).unwrap();
        let (_, lease) = both(
            move || theirs.table.end_page(1, false, at(1), Slot::NONE),
            || {
                scene.table.end_page(1, false, at(1), Slot::NONE);
                other.acquire_exactly(&pool, second, &origin(), at(1))
            },
        );
        let Ok(lease) = lease else { return };
        assert_eq!(scene.check(&lease, &origin()), second);
        let again = one.acquire_exactly(&pool, second, &origin(), at(1));
        assert_eq!(again.err(), Some(AcquireError::InUse));
    });
}

/// A page ends, and is used again for another origin, while somebody claims a port there for the one before.
fn used_again(by_handle: bool) {
    with_switches(2, move || {
        let scene = Arc::new(Scene::of(Config { pages: 1, ..config(1) }));
        let theirs = Arc::clone(&scene);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        scene.make_page(&mut one, &origin());
        let mut handle = one.origin(&scene.pool, origin()).unwrap();
        let (lease, more) = both(
            move || match by_handle {
                true => one.acquire(&mut handle, at(1)),
                false => one.acquire_exactly(&theirs.pool, source(0), &origin(), at(1)),
            },
            || other.acquire_exactly(&scene.pool, source(0), &another(), at(1)),
        );
        for (lease, origin) in [(lease, origin()), (more, another())] {
            if let Ok(lease) = lease {
                scene.fill(&mut other, &origin, vec![lease], 0);
            }
        }
    });
}

#[test]
fn loom_a_page_that_is_used_again_grants_nothing_of_the_one_before() {
    used_again(true);
    used_again(false);
}
