//! loom's atomics, with an order for `SeqCst`.
//!
//! loom treats a `SeqCst` access as `AcqRel`, but knows `fence(SeqCst)`. The table has steps of the form "write here,
//! then look there" on two sides, and they rest on the single order of all `SeqCst` accesses. So each one gets a
//! fence on both sides: what C++ implementations do where the machine has no better instruction. Weaker accesses
//! stay as they are.
//!
//! The fences make two `SeqCst` accesses of different words a little stronger than the language does, and so do
//! loads and stores that are exchanges here. A model that does not need them is checked without them too.

use core::cell::Cell;

use loom::sync::atomic::fence;

use super::Ordering;

/// How strong `SeqCst` accesses are in a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MemoryModel {
    /// One order of all of them, as the language says.
    Sequential,
    /// As `AcqRel`: what passes here does not rest on that order.
    AcquireRelease,
}

thread_local! {
    /// loom runs all threads of a model as coroutines of the thread that checks it.
    static MEMORY_MODEL: Cell<MemoryModel> = const { Cell::new(MemoryModel::Sequential) };
}

/// Runs `check` (one model, or several) under a memory model.
#[cfg_attr(not(test), expect(dead_code, reason = "only tests check models"))]
pub(crate) fn with_memory_model<T>(model: MemoryModel, check: impl FnOnce() -> T) -> T {
    let before = MEMORY_MODEL.replace(model);
    let answer = check();
    MEMORY_MODEL.set(before);
    answer
}

fn is_sequential(order: Ordering) -> bool {
    order == Ordering::SeqCst && MEMORY_MODEL.get() == MemoryModel::Sequential
}

fn ordered<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
    if !is_sequential(order) {
        return access();
    }
    fence(Ordering::SeqCst);
    let answer = access();
    fence(Ordering::SeqCst);
    answer
}

macro_rules! atomic {
    ($name:ident, $int:ty) => {
        /// The model checker's atomic; see the module.
        #[derive(Debug, Default)]
        pub struct $name(loom::sync::atomic::$name);

        #[expect(missing_docs, reason = "the names and meanings of core::sync::atomic")]
        #[allow(dead_code, reason = "one list for all widths")]
        impl $name {
            #[track_caller]
            pub fn new(value: $int) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            #[track_caller]
            pub fn load(&self, order: Ordering) -> $int {
                if is_sequential(order) {
                    // loom remembers one access of a word, so the load before an exchange hides what others read there:
                    // it would never let them meet. An exchange that changes nothing is never hidden.
                    return self.fetch_or(0, Ordering::SeqCst);
                }
                self.0.load(order)
            }

            #[track_caller]
            pub fn store(&self, value: $int, order: Ordering) {
                if MEMORY_MODEL.get() == MemoryModel::Sequential {
                    // loom leaves a store and an exchange that did not meet in either order, even where both met a
                    // third; two exchanges have one.
                    self.swap(value, order);
                } else {
                    self.0.store(value, order);
                }
            }

            #[track_caller]
            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                ordered(order, || self.0.swap(value, order))
            }

            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                ordered(success, || self.0.compare_exchange(current, new, success, failure))
            }

            #[track_caller]
            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                mut update: impl FnMut($int) -> Option<$int>,
            ) -> Result<$int, $int> {
                let mut seen = self.load(fetch);
                while let Some(next) = update(seen) {
                    match self.compare_exchange(seen, next, set, fetch) {
                        Ok(before) => return Ok(before),
                        Err(now) => seen = now,
                    }
                }
                Err(seen)
            }

            atomic!(@fetch $int: fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_min fetch_max);
        }
    };
    (@fetch $int:ty: $($fetch:ident)*) => {
        $(
            #[track_caller]
            pub fn $fetch(&self, value: $int, order: Ordering) -> $int {
                ordered(order, || self.0.$fetch(value, order))
            }
        )*
    };
}

atomic!(AtomicU16, u16);
atomic!(AtomicU64, u64);
