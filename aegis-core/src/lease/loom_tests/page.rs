//! Ports of one word: taking, giving back, ending a lease.

use std::sync::Arc;

use loom::cell::UnsafeCell;

use crate::net::Protocol;

use super::super::page::{Preference, Shape};
use super::super::tag::Tag;
use super::{Ground, IDENTITY, LIVE, OTHER, at, both, in_any_order, until};

#[test]
fn loom_two_threads_never_take_the_same_port() {
    in_any_order(|| {
        let ground = Ground::new(2);
        let theirs = Arc::clone(&ground);
        let (one, other) = both(
            move || [0, 1].map(|offset| theirs.page().take(offset).is_some()),
            || [1, 0].map(|offset| ground.page().take(offset).is_some()),
        );
        assert!(one[0] ^ other[1], "port 0 has one owner");
        assert!(one[1] ^ other[0], "port 1 has one owner");
    });
}

#[test]
fn loom_a_take_never_fails_because_of_its_neighbour() {
    in_any_order(|| {
        let ground = Ground::new(3);
        ground.rest(2, until(5_000));
        let theirs = Arc::clone(&ground);
        let (one, other) = both(
            move || theirs.page().take(0).is_some() && theirs.page().take(2).is_some(),
            || {
                let taken = ground.page().take(1);
                ground.page().give_free(1);
                taken.is_some()
            },
        );
        assert!(one && other);
        assert_eq!(ground.page().occupied(), 2);
        assert_eq!(ground.page().candidates().free, 1);
    });
}

/// What an owner does happens after all that the owner before it did, through every way to give back.
#[test]
fn loom_owners_of_a_port_follow_one_another() {
    for rests in [false, true] {
        in_any_order(move || {
            let ground = Arc::new((Ground::new(1), UnsafeCell::new(())));
            let theirs = Arc::clone(&ground);
            let own = move |ground: &(Arc<Ground>, UnsafeCell<()>)| {
                let page = ground.0.page();
                if page.take(0).is_some() {
                    // The checker objects to two owners at a time.
                    ground.1.with_mut(|_| ());
                    if rests { page.give_resting(0) } else { page.give_free(0) }
                }
            };
            both(move || own(&theirs), || own(&ground));
            assert!(ground.0.page().take(0).is_some(), "nobody has it any more");
        });
    }
}

#[test]
fn loom_a_lease_ends_once_whoever_tries() {
    in_any_order(|| {
        let ground = Ground::new(1);
        ground.grant(0, LIVE);
        let theirs = Arc::clone(&ground);
        let (one, other) = both(
            move || theirs.end(0, Tag::held(until(5_000)), until(5_000)),
            || ground.end(0, Tag::resting(until(6_000)), until(6_000)),
        );
        assert!(one ^ other);
        let counts = ground.page().counts(at(1));
        assert_eq!((counts.held, counts.resting), (u32::from(one), u32::from(other)));
    });
}

#[test]
fn loom_a_port_that_was_put_back_can_be_had() {
    in_any_order(|| {
        let ground = Ground::new(2);
        ground.rest(1, until(5_000));
        let theirs = Arc::clone(&ground);
        let undo = |ground: &Ground, offset| {
            let page = ground.page();
            if let Some(taken) = page.take(offset) {
                page.put_back(offset, taken);
            }
        };
        both(
            move || [0, 1].map(|offset| undo(&theirs, offset)),
            || [0, 1].map(|offset| undo(&ground, offset)),
        );
        let candidates = ground.page().candidates();
        assert_eq!(candidates.free, 1);
        assert_eq!(ground.page().counts(at(1)).resting, 1);
    });
}

/// What is past the last port of a page is nobody's: a page of more ports may have left it in any state.
#[test]
fn loom_a_page_of_any_length_has_only_its_own_ports() {
    in_any_order(|| {
        let ground = Ground::new(3);
        let theirs = Arc::clone(&ground);
        both(
            move || theirs.page().take(0).map(|_| theirs.page().give_resting(0)),
            || ground.page().take(1).map(|_| ground.page().set_tag(1, OTHER)),
        );
        let page = ground.page();
        assert_eq!((page.ports(), page.occupied()), (3, 1));
        assert_eq!((page.candidates().free, page.select(Preference::Free, 0)), (1, Some(2)));
        assert_eq!(page.select(Preference::Free, 1), None);
    });
}

/// Somebody was stopped after he had claimed a port, until the page is one for fewer ports, and then for more again.
#[test]
fn loom_a_late_put_back_takes_no_port_from_a_page_that_grew_again() {
    in_any_order(|| {
        let ground = Ground::new(3);
        let taken = ground.page().take(2).expect("nobody has it");
        let theirs = Arc::clone(&ground);
        let (_, again) = both(
            move || theirs.page().put_back(2, taken),
            || {
                let page = ground.page();
                for ports in [1, 3] {
                    page.open(IDENTITY, Shape { ports, protocol: Protocol::Tcp, profile: 0 });
                    page.publish_life(page.life());
                }
                page.take(2).map(|_| page.set_tag(2, OTHER))
            },
        );
        assert_eq!(ground.page().is_taken(2), again.is_some());
    });
}
