//! Records of origins: one for each, and never one for two.

use std::sync::Arc;

use super::super::Config;
use super::scene::{Scene, another, config, origin};
use super::{at, both, with_switches};

#[test]
fn loom_a_record_made_in_vain_is_not_lost() {
    with_switches(2, || {
        let scene = Arc::new(Scene::new(2));
        let theirs = Arc::clone(&scene);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        let (lease, more) = both(
            move || one.acquire_to(&theirs.pool, &origin(), at(1)).unwrap(),
            || other.acquire_to(&scene.pool, &origin(), at(1)).unwrap(),
        );
        assert_ne!(scene.check(&lease, &origin()), scene.check(&more, &origin()));
        // Both records are handed out: one is the origin's, the other is free.
        scene.fill(&mut other, &another(), Vec::new(), 0);
        scene.fill(&mut other, &origin(), vec![lease, more], 0);
    });
}

/// One record, and two origins that want it; one worker has a handle from before.
fn eviction(ports: u16, paged: bool, by_handle: bool) {
    with_switches(2, move || {
        let scene = Arc::new(Scene::of(Config { origins: 1, pages: 1, ..config(ports) }));
        let theirs = Arc::clone(&scene);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        let mut handle = one.origin(&scene.pool, origin()).unwrap();
        if paged {
            scene.make_page(&mut other, &origin());
        }
        let (lease, more) = both(
            move || match by_handle {
                true => one.acquire(&mut handle, at(1)),
                false => one.acquire_to(&theirs.pool, &origin(), at(1)),
            },
            || other.acquire_to(&scene.pool, &another(), at(1)),
        );
        assert!(lease.is_ok() || more.is_ok(), "{lease:?} {more:?}");
        assert!(lease.is_err() || more.is_err(), "one record for two origins");
        for (lease, origin) in [(lease, origin()), (more, another())] {
            if let Ok(lease) = lease {
                scene.fill(&mut other, &origin, vec![lease], 0);
            }
        }
    });
}

#[test]
fn loom_a_record_is_one_origins_at_a_time() {
    eviction(1, false, false);
}

#[test]
fn loom_a_record_with_a_page_is_one_origins_at_a_time() {
    eviction(1, true, false);
}

#[test]
fn loom_a_handle_of_long_ago_claims_nothing_of_another_origin() {
    eviction(1, false, true);
}

#[test]
fn loom_a_handle_of_long_ago_claims_nothing_in_another_origins_page() {
    eviction(1, true, true);
}
