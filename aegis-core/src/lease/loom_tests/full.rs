//! The mark that a page is full: a page with a port to grant never carries it.

use std::sync::Arc;

use super::super::intent::Intent;
use super::super::page::Page;
use super::super::tag::Tag;
use super::{Ground, LIVE, at, both, in_one_order, until, with_switches};

/// What an acquire does that finds nothing: sweeps what is due, counts, doubts, and does it again.
fn mark_if_full(page: Page<'_>, token: u64, now: u64) {
    let finds_nothing = || {
        if page.is_due(at(now)) {
            page.sweep(at(now), Intent::nobody_asks());
        }
        let found = page.candidates();
        found.free + found.old + found.young == 0
    };
    if finds_nothing() {
        page.doubt_full(token);
        if finds_nothing() {
            page.mark_full(token);
        } else {
            page.clear_doubt();
        }
    }
}

/// A page of one live port: one thread gives it back, the others find the page full.
fn give_while_marking(markers: u64, give: impl Fn(Page<'_>) + Copy + Send + Sync + 'static) {
    let model = move || {
        let ground = Ground::new(1);
        ground.grant(0, LIVE);
        let more: Vec<_> = (1..markers)
            .map(|n| {
                let theirs = Arc::clone(&ground);
                loom::thread::spawn(move || mark_if_full(theirs.page(), n << 8 | 1, 10))
            })
            .collect();
        let theirs = Arc::clone(&ground);
        both(move || mark_if_full(theirs.page(), 1, 10), || give(ground.page()));
        for thread in more {
            thread.join().unwrap();
        }
        assert!(!ground.page().is_full(at(10)), "there is a port");
    };
    if markers == 1 { in_one_order(model) } else { with_switches(3, model) }
}

#[test]
fn loom_a_page_with_a_free_port_is_never_marked_full() {
    give_while_marking(1, |page| page.give_free(0));
}

#[test]
fn loom_a_page_with_a_resting_port_is_never_marked_full() {
    give_while_marking(1, |page| {
        assert!(page.swap_tag(0, LIVE, Tag::resting(until(5_000))));
        page.give_resting(0);
        page.kept_until(until(5_000), || at(0));
    });
}

/// The second marker's doubt must not stand for the first one's.
#[test]
fn loom_two_that_find_a_page_full_do_not_outvote_a_release() {
    give_while_marking(2, |page| page.give_free(0));
}

/// A doubt that was taken away, and another that came in its place.
#[test]
fn loom_a_doubt_of_long_ago_marks_nothing() {
    with_switches(4, || {
        let ground = Ground::new(1);
        ground.grant(0, LIVE);
        let theirs = Arc::clone(&ground);
        both(
            move || mark_if_full(theirs.page(), 1, 10),
            || {
                mark_if_full(ground.page(), 3, 10);
                ground.page().give_free(0);
            },
        );
        assert!(!ground.page().is_full(at(10)), "there is a port");
    });
}

#[test]
fn loom_a_full_page_stays_marked_while_nothing_comes_back() {
    in_one_order(|| {
        let ground = Ground::new(1);
        ground.hold(0, until(5_000));
        let theirs = Arc::clone(&ground);
        both(move || mark_if_full(theirs.page(), 1, 10), || ground.page().is_full(at(10)));
        let page = ground.page();
        assert!(page.is_full(at(4_999)), "or every acquire counts again");
        assert!(!page.is_full(at(5_000)), "the hold is over");
    });
}

/// The port is held, not given back: the mark must end no later than the hold.
#[test]
fn loom_a_page_is_marked_full_no_longer_than_its_first_hold() {
    in_one_order(|| {
        let ground = Ground::new(2);
        ground.hold(0, until(9_000));
        ground.grant(1, LIVE);
        let theirs = Arc::clone(&ground);
        both(
            move || mark_if_full(theirs.page(), 1, 10),
            || assert!(ground.end(1, Tag::held(until(5_000)), until(5_000))),
        );
        assert!(!ground.page().is_full(at(5_000)), "a hold is over");
    });
}

#[test]
fn loom_a_page_whose_hold_a_sweep_ends_is_never_marked_full() {
    in_one_order(|| {
        let ground = Ground::new(1);
        ground.hold(0, until(1_000));
        let theirs = Arc::clone(&ground);
        both(move || mark_if_full(theirs.page(), 1, 1_000), || ground.sweep(1_000));
        assert!(!ground.page().is_full(at(1_000)), "there is a port");
    });
}

/// While a sweep runs the page says "look again soon"; what the sweep finds may be sooner.
#[test]
fn loom_a_mark_made_during_a_sweep_ends_no_later_than_the_first_hold() {
    in_one_order(|| {
        let ground = Ground::new(1);
        ground.hold(0, until(1_250));
        // A deadline that is gone by now, as after a lease that rested and was granted again.
        ground.page().kept_until(until(1_000), || at(0));
        let theirs = Arc::clone(&ground);
        both(move || mark_if_full(theirs.page(), 1, 1_001), || ground.sweep(1_001));
        assert!(!ground.page().is_full(at(1_250)), "the hold is over");
    });
}
