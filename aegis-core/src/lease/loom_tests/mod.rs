//! Models of a few threads, run in every order that can make a difference: `make loom`.
//!
//! Most claims are checked under both memory models; those that rest on one order of all `SeqCst` accesses ("write
//! here, then look there" on two sides) say so by [`in_one_order`].

mod arena;
mod drain;
mod full;
mod home;
mod index;
mod page;
mod pages;
mod records;
mod recover;
mod scene;
mod sweep;
mod table;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::net::Protocol;
use crate::sync::{AtomicU16, AtomicU64, MemoryModel, Ordering::SeqCst, with_memory_model};
use crate::time::Time;

use super::intent::Intent;
use super::page::{HEADER, Identity, Page, Shape};
use super::tag::{Deadline, OwnerNumber, Tag};

/// Checks a model under both memory models.
fn in_any_order(model: impl Fn() + Clone + Send + Sync + 'static) {
    in_one_order(model.clone());
    with_memory_model(MemoryModel::AcquireRelease, || explore(None, model));
}

/// Checks a model that rests on one order of all `SeqCst` accesses.
fn in_one_order(model: impl Fn() + Send + Sync + 'static) {
    explore(None, model);
}

/// As [`in_one_order`], with at most that many switches away from a thread that could go on.
fn with_switches(most: usize, model: impl Fn() + Send + Sync + 'static) {
    explore(Some(most), model);
}

fn explore(preemption_bound: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemption_bound;
    builder.max_branches = 10_000;
    let runs = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&runs);
    builder.check(move || {
        *counted.lock().unwrap() += 1;
        model();
    });
    let runs = *runs.lock().unwrap();
    assert!(runs > 1, "threads that never meet prove nothing");
}

/// Runs two threads to their end, one of them this one, and returns what they answered.
fn both<A: 'static, B>(one: impl FnOnce() -> A + 'static, other: impl FnOnce() -> B) -> (A, B) {
    let one = loom::thread::spawn(one);
    let other = other();
    (one.join().unwrap(), other)
}

/// The memory of one page.
struct Ground {
    words: Box<[AtomicU64]>,
    tags: Box<[AtomicU16]>,
}

impl Ground {
    fn new(ports: u16) -> Arc<Self> {
        let words = HEADER + Page::words_for(u32::from(ports));
        let ground = Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            tags: (0..ports).map(|_| AtomicU16::new(0)).collect(),
        };
        let shape = Shape { ports: ports.into(), protocol: Protocol::Tcp, profile: 0 };
        ground.page().open(IDENTITY, shape);
        ground.page().publish_life(ground.page().life());
        Arc::new(ground)
    }

    fn page(&self) -> Page<'_> {
        Page::new(&self.words, &self.tags)
    }

    /// Sweeps as somebody whom nobody outlives.
    fn sweep(&self, now: u64) -> bool {
        self.page().sweep(at(now), Intent::nobody_asks())
    }

    /// Takes a port and gives it a tag, as an acquire does.
    fn grant(&self, offset: u32, tag: Tag) {
        self.page().take(offset).expect("nobody has it");
        self.page().set_tag(offset, tag);
    }

    /// Leaves a port held until a moment.
    fn hold(&self, offset: u32, until: Deadline) {
        self.grant(offset, LIVE);
        assert!(self.end(offset, Tag::held(until), until));
    }

    /// Leaves a port resting until a moment.
    fn rest(&self, offset: u32, until: Deadline) {
        self.grant(offset, LIVE);
        assert!(self.end(offset, Tag::resting(until), until));
    }

    /// Ends a live lease, as a release does: the tag first, the port next, the deadline last.
    fn end(&self, offset: u32, tag: Tag, until: Deadline) -> bool {
        let page = self.page();
        if !page.swap_tag(offset, LIVE, tag) {
            return false;
        }
        if tag == Tag::resting(until) {
            page.give_resting(offset);
        }
        page.kept_until(until, || at(0));
        true
    }
}

const IDENTITY: Identity = Identity::new(4, 1, 0);
const LIVE: Tag = Tag::live(OwnerNumber(0), 1);
const OTHER: Tag = Tag::live(OwnerNumber(1), 1);

const fn at(ms: u64) -> Time {
    Time::from_millis(ms)
}

const fn until(ms: u64) -> Deadline {
    Deadline::after(at(ms))
}

/// The checker itself: do both memory models do what they say?
#[test]
fn loom_has_one_order_of_sequential_accesses_and_none_without() {
    let both_miss = |memory| {
        let answers = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&answers);
        with_memory_model(memory, || {
            explore(None, move || {
                let cells = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
                let theirs = Arc::clone(&cells);
                let answer = both(
                    move || {
                        theirs[0].store(1, SeqCst);
                        theirs[1].load(SeqCst)
                    },
                    || {
                        cells[1].store(1, SeqCst);
                        cells[0].load(SeqCst)
                    },
                );
                seen.lock().unwrap().insert(answer);
            });
        });
        let answers = answers.lock().unwrap();
        assert!(answers.contains(&(0, 1)) && answers.contains(&(1, 0)) && answers.contains(&(1, 1)));
        answers.contains(&(0, 0))
    };
    assert!(!both_miss(MemoryModel::Sequential));
    assert!(both_miss(MemoryModel::AcquireRelease));
}
