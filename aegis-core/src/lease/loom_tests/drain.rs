//! Claim, then check, against drain, then scan: after the scan nobody grants what it did not see.

use core::time::Duration;
use std::sync::Arc;

use crate::net::Protocol;
use crate::sync::{AtomicU64, Ordering::SeqCst};

use super::super::{Config, Quarantine, Spans};
use super::scene::{Scene, config};
use super::{Ground, LIVE, OTHER, at, both, in_one_order};

const OWNED: u64 = 1;
const DRAINING: u64 = 2;

/// What a claim does, after it has seen the granule owned.
fn claim(ground: &Ground, state: &AtomicU64, offset: u32) -> bool {
    let page = ground.page();
    let Some(taken) = page.take(offset) else { return false };
    if state.load(SeqCst) == OWNED {
        page.set_tag(offset, LIVE);
        return true;
    }
    page.put_back(offset, taken);
    false
}

#[test]
fn loom_a_drained_granule_grants_nothing_that_the_scan_did_not_see() {
    in_one_order(|| {
        let shared = Arc::new((Ground::new(2), AtomicU64::new(OWNED)));
        let theirs = Arc::clone(&shared);
        let (granted, live) = both(
            move || claim(&theirs.0, &theirs.1, 0),
            || {
                shared.1.store(DRAINING, SeqCst);
                shared.0.page().counts(at(1)).live
            },
        );
        assert!(live >= u32::from(granted), "granted, and not seen");
        assert_eq!(shared.0.page().counts(at(1)).live, u32::from(granted), "undone, if not granted");
        assert!(!claim(&shared.0, &shared.1, 1), "no claim that starts later");
    });
}

#[test]
fn loom_a_drain_sees_every_one_of_two_claims() {
    super::with_switches(3, || {
        let shared = Arc::new((Ground::new(3), AtomicU64::new(OWNED)));
        shared.0.grant(2, OTHER);
        let threads = [0, 1].map(|offset| {
            let theirs = Arc::clone(&shared);
            loom::thread::spawn(move || claim(&theirs.0, &theirs.1, offset))
        });
        shared.1.store(DRAINING, SeqCst);
        let live = shared.0.page().counts(at(1)).live;
        let granted: u32 = threads.map(|thread| u32::from(thread.join().unwrap())).iter().sum();
        assert!(live > granted, "{granted} granted beside the old one, {live} seen");
    });
}

/// A granule is taken over from a dead machine for a second time while somebody finds that the first time is over.
#[test]
fn loom_a_granule_that_is_taken_over_again_grants_nothing_before_the_second_time_is_over() {
    in_one_order(|| {
        let hold = Spans { taken_over: Duration::from_secs(5), ..Spans::ZERO };
        let quarantine = Quarantine::new(hold, Spans::ZERO).unwrap();
        let scene = Arc::new(Scene::of(Config { quarantine, ..config(1) }));
        let grants = |scene: &Scene, ms| scene.table.grants(scene.granule, Protocol::Tcp, at(ms));
        scene.table.take_over(scene.granule, at(0));
        assert!(!grants(&scene, 4_999));
        let theirs = Arc::clone(&scene);
        both(move || grants(&theirs, 6_000), || scene.table.take_over(scene.granule, at(6_000)));
        assert!(!grants(&scene, 10_999), "the second time was forgotten");
        assert!(grants(&scene, 11_000));
    });
}
