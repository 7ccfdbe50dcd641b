//! Sweeps against everything that may happen to the same ports meanwhile.

use std::sync::Arc;

use super::super::page::Page;
use super::super::tag::{Class, Tag};
use super::{Ground, LIVE, OTHER, at, both, in_any_order, in_one_order, until};

/// All that is over at this moment is swept.
const NOW: u64 = 1_000;

#[test]
fn loom_a_sweep_never_frees_a_port_that_was_taken_from_its_rest() {
    in_any_order(|| {
        let ground = Ground::new(2);
        ground.rest(0, until(NOW));
        ground.rest(1, until(NOW));
        let theirs = Arc::clone(&ground);
        both(move || theirs.sweep(NOW), || ground.grant(0, OTHER));
        let page = ground.page();
        assert_eq!((page.tag(0), page.peek(0)), (OTHER, None), "live");
        assert!(page.due() <= NOW + 250 || page.candidates().free == 1, "the other one is not forgotten");
    });
}

#[test]
fn loom_a_hold_ends_exactly_once() {
    in_any_order(|| {
        let ground = Ground::new(1);
        ground.hold(0, until(NOW));
        let theirs = Arc::clone(&ground);
        let (one, other) = both(move || theirs.sweep(NOW), || ground.sweep(NOW));
        assert!(one ^ other);
        assert_eq!(ground.page().candidates().free, 1);
    });
}

/// Whoever loses the race for a hold must not free the port of the next owner.
#[test]
fn loom_a_hold_that_another_sweep_ended_is_not_ended_again_for_its_new_owner() {
    in_any_order(|| {
        let ground = Ground::new(1);
        ground.hold(0, until(NOW));
        let theirs = Arc::clone(&ground);
        let (_, granted) = both(
            move || theirs.sweep(NOW),
            || {
                ground.sweep(NOW);
                let granted = ground.page().take(0).is_some();
                if granted {
                    ground.page().set_tag(0, OTHER);
                }
                granted
            },
        );
        let page = ground.page();
        assert_eq!(page.tag(0), if granted { OTHER } else { Tag::NONE });
        assert_eq!(page.peek(0).is_none(), granted);
    });
}

#[test]
fn loom_a_parked_port_is_unparked_once() {
    in_any_order(|| {
        let ground = Ground::new(2);
        ground.grant(1, LIVE);
        ground.grant(0, Tag::parked(until(NOW)));
        ground.page().park();
        ground.page().kept_until(until(NOW), || at(0));
        let theirs = Arc::clone(&ground);
        let (one, other) = both(move || theirs.sweep(NOW), || ground.sweep(NOW));
        assert!(one ^ other);
        assert_eq!(ground.page().occupied(), 1);
    });
}

/// A release and a sweep: afterwards the page is due when the deadline is, or the deadline is gone.
fn release_during_a_sweep(tag: Tag, deadline: u64) {
    in_one_order(move || {
        let ground = Ground::new(2);
        ground.grant(0, LIVE);
        ground.hold(1, until(NOW));
        let theirs = Arc::clone(&ground);
        both(move || theirs.sweep(NOW), || assert!(ground.end(0, tag, until(deadline))));
        let page = ground.page();
        let is_gone = page.tag(0) == Tag::NONE;
        assert!(is_gone || page.due() <= deadline, "due {} deadline {deadline}", page.due());
        assert!(page.candidates().free >= 1, "the hold that was over has ended");
    });
}

#[test]
fn loom_a_hold_that_begins_during_a_sweep_is_not_forgotten() {
    release_during_a_sweep(Tag::held(until(70_000)), 70_000);
    release_during_a_sweep(Tag::held(until(NOW + 250)), NOW + 250);
}

#[test]
fn loom_a_rest_that_begins_during_a_sweep_is_not_forgotten() {
    release_during_a_sweep(Tag::resting(until(70_000)), 70_000);
}

#[test]
fn loom_a_park_that_begins_during_a_sweep_is_not_forgotten() {
    release_during_a_sweep(Tag::parked(until(70_000)), 70_000);
}

/// Two sweeps, one of them late, and a release: the late one takes the deadline away that the release relied on.
#[test]
fn loom_a_late_sweep_does_not_forget_what_a_release_relied_on() {
    super::with_switches(3, || {
        let ground = Ground::new(2);
        ground.grant(0, LIVE);
        ground.hold(1, until(5_000));
        ground.page().kept_until(until(NOW), || at(0));
        let theirs = [0, 1].map(|_| Arc::clone(&ground));
        let [late, early] = theirs.map(|theirs| loom::thread::spawn(move || theirs.sweep(NOW)));
        assert!(ground.end(0, Tag::held(until(6_000)), until(6_000)));
        late.join().unwrap();
        early.join().unwrap();
        assert!(ground.page().due() <= 5_000);
    });
}

/// A claim that is undone puts a resting port back; a sweep that saw it taken must not lose its deadline.
#[test]
fn loom_a_resting_port_that_is_put_back_during_a_sweep_keeps_its_deadline() {
    in_one_order(|| {
        let ground = Ground::new(1);
        ground.rest(0, until(5_000));
        ground.page().kept_until(until(NOW), || at(0));
        let theirs = Arc::clone(&ground);
        both(
            move || theirs.sweep(NOW),
            || {
                let taken = ground.page().take(0).unwrap();
                ground.page().put_back(0, taken);
            },
        );
        let page = ground.page();
        assert!(page.candidates().free == 1 || page.due() <= 5_000, "due {}", page.due());
    });
}

/// A lease that begins and ends during a sweep.
#[test]
fn loom_a_hold_is_never_cut_short() {
    in_any_order(|| {
        let ground = Ground::new(1);
        ground.rest(0, until(NOW));
        let theirs = Arc::clone(&ground);
        both(
            move || theirs.sweep(NOW),
            || {
                ground.grant(0, LIVE);
                assert!(ground.end(0, Tag::held(until(5_000)), until(5_000)));
            },
        );
        let page = ground.page();
        assert_eq!((page.tag(0).class(), page.peek(0)), (Class::Held, None));
        assert_eq!(page.counts(at(NOW)).held, 1);
    });
}

/// Resting ports of both generations, a flip, and a sweep: none is lost, none appears twice.
#[test]
fn loom_a_flip_during_a_sweep_loses_no_port() {
    in_any_order(|| {
        let ground = Ground::new(2);
        ground.rest(0, until(NOW));
        ground.grant(1, LIVE);
        let theirs = Arc::clone(&ground);
        let available = |page: Page<'_>| {
            let found = page.candidates();
            if found.free > 0 { found.free + u32::from(found.free == 1) } else { found.old + found.young }
        };
        both(
            move || theirs.sweep(NOW),
            || {
                let seen = ground.page().candidates().flips;
                ground.page().flip(seen);
                assert!(ground.end(1, Tag::resting(until(5_000)), until(5_000)));
            },
        );
        assert_eq!(available(ground.page()), 2);
        assert_eq!(ground.page().occupied(), 0);
    });
}
