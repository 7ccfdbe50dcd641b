//! Who uses a table: processes, by a number in the tags of what they hold. When one dies, what it held is found and held
//! back until the kernel has given it up too.

use crate::error::{Error, ErrorKind, Result};
use crate::net::Protocol;
use crate::sync::{AtomicU64, Ordering::SeqCst};
use crate::time::Time;

use super::home::{Home, Single, What};
use super::intent::Intent;
use super::map::{
    OWNER_RECOVERER, OWNER_STRIDE, OWNER_TOKEN, WORKER_INTENT, WORKER_OWNER, WORKER_PAGE, WORKER_RECORD,
    WORKER_SWEEP,
};
use super::reconcile::RECONCILE_STEPS;
use super::release::{End, Place};
use super::slot::Slot;
use super::table::Table;
use super::tag::{Class, MAX_OWNERS, OwnerNumber, Tag};
use super::{Closed, Memory};

/// What was found of a dead process.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[must_use]
pub struct Recovered {
    /// Leases that are held now.
    pub leases: u64,
    /// Ports that it was taking, or giving back, when it died; they are held too.
    pub half_done: u64,
    /// Ports that another process is working on at this very moment, so that it is not known whose they are: ask again.
    pub unclear: u64,
}

impl<M: Memory> Table<M> {
    fn owner_words(&self, owner: OwnerNumber) -> &[AtomicU64] {
        let at = self.map.owners + usize::from(owner.0) * OWNER_STRIDE;
        &self.words()[at..at + OWNER_STRIDE]
    }

    /// A number for this process.
    pub(super) fn join(&self, token: u64) -> Result<OwnerNumber> {
        if token == 0 {
            return Err(Error::input("owner 0 of a lease table; expected a number that names this process"));
        }
        (0..MAX_OWNERS)
            .map(OwnerNumber)
            .find(|&owner| {
                self.owner_words(owner)[OWNER_TOKEN].compare_exchange(0, token, SeqCst, SeqCst).is_ok()
            })
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Wait,
                    format!("{MAX_OWNERS} processes use the lease table; recover those that have died"),
                )
            })
    }

    /// The numbers that processes gave themselves when they created or opened the table. `aegis-net` knows which of them
    /// are still alive.
    pub fn owners(&self) -> Vec<u64> {
        let tokens =
            (0..MAX_OWNERS).map(|owner| self.owner_words(OwnerNumber(owner))[OWNER_TOKEN].load(SeqCst));
        tokens.filter(|&token| token != 0).collect()
    }

    /// This process's number, as it was given to [`Table::create`] or [`Table::open`].
    pub fn own_token(&self) -> u64 {
        self.owner_words(self.owner())[OWNER_TOKEN].load(SeqCst)
    }

    /// Takes over what a dead process held: its leases are held as those of connections that nobody knows the end of, and
    /// a reconcile with the kernel ends that. `None` if there is no such process, it is this one, or somebody else who
    /// `is_alive` is doing it.
    ///
    /// Never for a process that lives: its connections would become somebody else's.
    pub fn recover(&self, token: u64, now: Time, mut is_alive: impl FnMut(u64) -> bool) -> Option<Recovered> {
        let now = self.clock(now);
        // Of the threads of this process one at a time: for the others it is this process that does it.
        let _turn = Turn::take(&self.recovering)?;
        let dead = (0..MAX_OWNERS).map(OwnerNumber).find(|&owner| {
            owner != self.owner() && self.owner_words(owner)[OWNER_TOKEN].load(SeqCst) == token
        })?;
        if token == 0 || token == self.own_token() {
            return None;
        }
        let recoverer = &self.owner_words(dead)[OWNER_RECOVERER];
        let mine = u64::from(self.owner().0) + 1;
        let before = recoverer.load(SeqCst);
        if before != 0 && before != mine {
            let other = OwnerNumber(((before - 1) as u8).min(MAX_OWNERS - 1));
            let other = self.owner_words(other)[OWNER_TOKEN].load(SeqCst);
            if other != 0 && other != token && is_alive(other) {
                return None;
            }
        }
        if before != mine && recoverer.compare_exchange(before, mine, SeqCst, SeqCst).is_err() {
            return None;
        }
        if self.owner_words(dead)[OWNER_TOKEN].load(SeqCst) != token {
            // Somebody has finished it meanwhile: the number may be a living process's by now.
            let _ = recoverer.compare_exchange(mine, 0, SeqCst, SeqCst);
            return None;
        }
        let mut found = Recovered::default();
        self.hold_leases_of(dead, now, &mut found);
        self.finish_work_of(dead, now, &mut is_alive, &mut found);
        if found.unclear == 0 {
            self.forget_counts(dead);
            self.end_users_of(dead);
            // Whoever it was recovering when it died: its number must not seem to be at that when it is another's.
            for other in (0..MAX_OWNERS).map(OwnerNumber) {
                let its = &self.owner_words(other)[OWNER_RECOVERER];
                let _ = its.compare_exchange(u64::from(dead.0) + 1, 0, SeqCst, SeqCst);
            }
            // The number is somebody else's only after all that bore it is gone. Our claim goes last: whoever claims the
            // recovery next must not find the token there still.
            let _ = self.owner_words(dead)[OWNER_TOKEN].compare_exchange(token, 0, SeqCst, SeqCst);
        }
        let _ = recoverer.compare_exchange(mine, 0, SeqCst, SeqCst);
        Some(found)
    }

    fn hold_leases_of(&self, dead: OwnerNumber, now: Time, found: &mut Recovered) {
        for index in 0..self.map.origins.used(self.words()) {
            let home = self.home(index);
            let word = home.load(SeqCst);
            let Home::Single(Single { granule, what: What::Live(tag), .. }) = Home::of(word, now) else {
                continue;
            };
            if tag.owner() == dead {
                let granule = super::GranuleSlot(granule);
                let profile = self.profile_of(index, granule).into();
                let end = self.end_recovered(profile, self.protocol_of(index), now);
                let place = Place::Home { record: index, word };
                found.leases += u64::from(self.with_slot(|slot| self.end_hold(place, end, now, slot)));
            }
        }
        // After the homes: a tuple moves from there to a page, never back.
        for index in 0..self.map.pages.used(self.words()) {
            let page = self.page(index);
            let (profile, protocol) = (page.profile(), page.protocol());
            let end = self.end_recovered(profile, protocol, now);
            for offset in 0..page.ports().min(self.config.granule_ports) {
                let tag = page.tag(offset);
                if tag.class() == Class::Live && tag.owner() == dead && page.is_taken(offset) {
                    let place = Place::Page { index, offset, tag };
                    found.leases += u64::from(self.with_slot(|slot| self.end_hold(place, end, now, slot)));
                }
            }
        }
    }

    fn finish_work_of(
        &self,
        dead: OwnerNumber,
        now: Time,
        is_alive: &mut impl FnMut(u64) -> bool,
        found: &mut Recovered,
    ) {
        for worker in 0..self.config.workers {
            let words = self.worker_words(worker);
            if words[WORKER_OWNER].load(SeqCst) != u64::from(dead.0) + 1 {
                continue;
            }
            let mut unclear = false;
            for word in [WORKER_INTENT, WORKER_SWEEP] {
                match Intent::read(words[word].load(SeqCst)) {
                    Some((page, offset)) => match self.finish(page, offset, dead, now, is_alive) {
                        Some(done) => found.half_done += u64::from(done),
                        None => unclear = true,
                    },
                    None => continue,
                }
            }
            if unclear {
                found.unclear += 1;
                continue;
            }
            let had = |word: usize| {
                let value = words[word].load(SeqCst);
                Some(((value as u32).checked_sub(1)?, (value >> 32) as u32))
            };
            if let Some((page, life)) = had(WORKER_PAGE) {
                self.give_back_page(page, life);
            }
            if let Some((record, incarnation)) = had(WORKER_RECORD) {
                self.give_back_record(record, incarnation);
            }
            for word in [WORKER_INTENT, WORKER_SWEEP, WORKER_PAGE, WORKER_RECORD] {
                words[word].store(0, SeqCst);
            }
            self.flush_worker(worker, dead);
            words[WORKER_OWNER].store(0, SeqCst);
        }
    }

    /// Moves on what a worker has counted that is attached no longer.
    pub(super) fn flush_worker(&self, worker: u16, owner: OwnerNumber) {
        self.flush_entries(worker);
        self.flush_users(worker, owner);
    }

    /// What becomes of a dead process's tuple: as that of a connection that nobody knows the end of, but until a moment
    /// that no hold from now on has for a while, so that a reconcile can end it at once.
    fn end_recovered(&self, profile: usize, protocol: Protocol, now: Time) -> End {
        match self.end_of(profile, protocol, Closed::Unknown, now) {
            End::Held(until) => End::Held(until.later(RECONCILE_STEPS + 2)),
            end => end,
        }
    }

    /// Holds a port that is taken and has no tag, if nobody else is between his two steps there. `None`: somebody is.
    fn finish(
        &self,
        index: u32,
        offset: u32,
        dead: OwnerNumber,
        now: Time,
        is_alive: &mut impl FnMut(u64) -> bool,
    ) -> Option<bool> {
        if index >= self.map.pages.capacity || offset >= self.config.granule_ports {
            return Some(false);
        }
        let page = self.page(index);
        let tag = page.tag(offset);
        if tag.class() != Class::NotTaken || !page.is_taken(offset) {
            // It had not begun, or was done.
            return Some(false);
        }
        if self.is_named_by_others(index, offset, dead, is_alive) {
            return None;
        }
        // Ours, so that nobody but us ends it: and then a second look. Whoever takes the port says so first, and stops
        // saying so when the tag is set. Who took it before this look is either seen here, or has set his tag in place of
        // ours; and after it nobody can, because it is taken.
        let ours = Tag::live(self.owner(), 0);
        if !page.swap_tag(offset, tag, ours) {
            return Some(false);
        }
        let is_taken = page.is_taken(offset);
        if self.is_named_by_others(index, offset, dead, is_alive) || !is_taken {
            page.swap_tag(offset, ours, tag);
            return if is_taken { None } else { Some(false) };
        }
        let end = match self.end_recovered(page.profile(), page.protocol(), now) {
            // The page had ended, and it was about to put the port back; with the port taken one that is in use stays so. Or
            // the page is one for fewer ports now, and no sweep would come there.
            _ if page.settle(page.identity()).is_none() || offset >= page.ports() => End::Free,
            end @ End::Held(_) => end,
            _ => End::Free,
        };
        Some(self.with_slot(|slot| self.end_in_page(index, page, offset, ours, end, now, slot)))
    }

    /// Is somebody between his two steps at that port, other than the dead? Of two dead ones either may have taken it.
    fn is_named_by_others(
        &self,
        index: u32,
        offset: u32,
        dead: OwnerNumber,
        is_alive: &mut impl FnMut(u64) -> bool,
    ) -> bool {
        (0..self.config.workers).any(|worker| {
            let words = self.worker_words(worker);
            let names = [WORKER_INTENT, WORKER_SWEEP]
                .iter()
                .any(|&word| Intent::read(words[word].load(SeqCst)) == Some((index, offset)));
            names && {
                let owner = (words[WORKER_OWNER].load(SeqCst) as u8).checked_sub(1);
                owner.filter(|&owner| owner != dead.0 && owner < MAX_OWNERS).is_some_and(|owner| {
                    let token = self.owner_words(OwnerNumber(owner))[OWNER_TOKEN].load(SeqCst);
                    token == self.own_token() || token != 0 && is_alive(token)
                })
            }
        })
    }

    /// Where a worker says what it is about to do; nowhere, if nobody would ask.
    #[inline]
    pub(super) fn slot_of(&self, worker: u16) -> Slot<'_> {
        if self.is_shared() { Slot::new(self.worker_words(worker)) } else { Slot::NONE }
    }

    /// Runs a step that may have to be finished by others if this process dies in it.
    pub(super) fn with_slot<T>(&self, step: impl FnOnce(Slot<'_>) -> T) -> T {
        if !self.is_shared() {
            return step(Slot::NONE);
        }
        let mine = u64::from(self.owner().0) + 1;
        // From the end, where nobody attaches a worker while there is room before.
        let free = (0..self.config.workers).rev().find(|&worker| {
            let owner = &self.worker_words(worker)[WORKER_OWNER];
            owner.load(SeqCst) == 0 && owner.compare_exchange(0, mine, SeqCst, SeqCst).is_ok()
        });
        // Without one a port that this process leaves half done stays taken: too long, never too short.
        let Some(worker) = free else { return step(Slot::NONE) };
        let words = self.worker_words(worker);
        let answer = step(Slot::new(words));
        words[WORKER_OWNER].store(0, SeqCst);
        answer
    }
}

/// One thread's turn at something that the threads of a process do one at a time.
struct Turn<'a>(&'a AtomicU64);

impl<'a> Turn<'a> {
    fn take(taken: &'a AtomicU64) -> Option<Self> {
        taken.compare_exchange(0, 1, SeqCst, SeqCst).ok().map(|_| Self(taken))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::pool::PoolKey;
    use super::super::{Config, Heap, Lease, Worker};
    use super::*;
    use crate::net::{Origin, PortRange};

    const NOW: Time = Time::from_millis(1_000);

    /// Everything of a small share that can be leased towards one origin.
    fn lease_all(table: &Arc<Table<Heap>>, n: u16) -> Vec<Lease> {
        let range = PortRange::new(5_000, 5_003).unwrap();
        let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
        let pool = table.pool(PoolKey(1), [granule]).unwrap();
        let mut worker = Worker::attach(Arc::clone(table), [1; 32]).unwrap();
        let origin = Origin::new(Protocol::Tcp, ([203, 0, 113, 7], n).into()).unwrap();
        core::iter::from_fn(|| worker.acquire_to(&pool, &origin, NOW).ok()).collect()
    }

    #[test]
    fn a_port_that_was_claimed_in_a_page_that_had_ended_is_there_for_the_next_origin() {
        let config = Config {
            granule_ports: 4,
            granules: 1,
            origins: 8,
            pages: 1,
            workers: 4,
            quotas: 0,
            ..Config::default()
        };
        let memory = Heap::zeroed(Table::<Heap>::size(&config).unwrap()).unwrap();
        let table = Arc::new(Table::create(config, memory, [7; 32], 11).unwrap());
        let dead = table.join(22).unwrap();
        for lease in lease_all(&table, 1) {
            table.release(lease, Closed::Unused, NOW).unwrap();
        }
        assert!(table.end_page(0, true, NOW, Slot::NONE));
        // By the page of long ago: it claims a port, finds that the page has ended, and dies before it gives the port back.
        let words = table.worker_words(3);
        words[WORKER_OWNER].store(u64::from(dead.0) + 1, SeqCst);
        Intent::new(&words[WORKER_INTENT], 0).names(2);
        assert!(table.page(0).take(2).is_some());
        let recovered = table.recover(22, NOW, |_| false).unwrap();
        assert_eq!((recovered.leases, recovered.half_done, recovered.unclear), (0, 1, 0));
        assert_eq!(lease_all(&table, 2).len(), 4);
    }
}
