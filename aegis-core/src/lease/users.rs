//! Who uses the pools, and how much: what a user (a zone) was granted, what of it is live, and what was refused.
//!
//! A user is a quota: without a limit, or with one, which is counted besides. Each worker counts in words of its own, and
//! its owner's words have what its workers that are gone have counted, and what somebody else than a worker has released.
//! So any thread of any process may release, and live is exact; when an owner dies its live leases count no more.

use core::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::sync::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::Memory;
use super::map::{
    HASH_KEY, QUOTA_COUNT, QUOTA_LIMIT, QUOTA_NAME, QUOTA_PARENT, REASONS, USER_GRANTED, USER_LIVE,
    USER_STRIDE, users_stride,
};
use super::quota::{QuotaSlot, UNLIMITED};
use super::table::Table;
use super::tag::{MAX_OWNERS, OwnerNumber};

/// What a user of the pools did on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UserCounts {
    /// Live leases: exact, but for what happens while they are read.
    pub(crate) live: u32,
    /// Leases granted since the table was made.
    pub(crate) granted: u64,
    /// Acquires refused, by the number of the reason.
    pub(crate) refused: [u64; REASONS],
}

impl<M: Memory> Table<M> {
    /// A user without a limit of its own, the same one for all processes that share the table, as long as it exists.
    /// `None`: the table was made for fewer quotas, so that he is not counted. Quotas with a limit are set before.
    pub(crate) fn user(&self, name: &str, parent: Option<QuotaSlot>) -> Option<QuotaSlot> {
        let name = self.hash_name(name);
        let first = (0..self.config.quotas).find(|&number| {
            let words = self.quota_words(number);
            let is_set = || {
                words[QUOTA_NAME].load(SeqCst) == 0
                    && u64::from(number) < self.words()[QUOTA_COUNT].load(SeqCst)
            };
            !is_set()
                && match words[QUOTA_NAME].compare_exchange(0, name, SeqCst, SeqCst) {
                    Ok(_) => true,
                    Err(taken) => taken == name,
                }
        });
        let number = first?;
        let words = self.quota_words(number);
        words[QUOTA_PARENT].store(parent.map_or(0, |parent| u64::from(parent.number) + 1), SeqCst);
        words[QUOTA_LIMIT].store(UNLIMITED, SeqCst);
        self.words()[QUOTA_COUNT].fetch_max(u64::from(number) + 1, SeqCst);
        Some(QuotaSlot { number, is_limited: parent.is_some() })
    }

    fn hash_name(&self, name: &str) -> u64 {
        let key = [HASH_KEY, HASH_KEY + 1].map(|word| self.words()[word].load(SeqCst));
        let mut hasher = SipHasher13::new_with_keys(key[0], key[1]);
        hasher.write(name.as_bytes());
        hasher.finish().max(1)
    }

    /// All users that there are, and what they did.
    pub(crate) fn users(&self) -> impl Iterator<Item = (QuotaSlot, UserCounts)> {
        let count = self.words()[QUOTA_COUNT].load(SeqCst).min(self.config.quotas.into()) as u16;
        (0..count).map(|number| {
            let user = QuotaSlot { number, is_limited: false };
            (user, self.user_counts(user))
        })
    }

    /// What a user did.
    pub(crate) fn user_counts(&self, user: QuotaSlot) -> UserCounts {
        // Owners first: what moves on moves there, so that nothing is seen twice.
        let owners = (0..MAX_OWNERS).map(|owner| self.user_of_owner(OwnerNumber(owner), user.number));
        let workers = (0..self.config.workers).map(|worker| self.user_of_worker(worker, user.number));
        let (mut granted, mut live) = (0u64, 0u64);
        for words in owners.chain(workers).flatten() {
            granted = granted.wrapping_add(words[USER_GRANTED].load(SeqCst));
            live = live.wrapping_add(words[USER_LIVE].load(SeqCst));
        }
        // Less than nothing, if a lease ended in a word that was read, and began in one that had been read before.
        let live = u32::try_from((live as i64).max(0)).unwrap_or(u32::MAX);
        UserCounts { live, granted, refused: self.refused_user(user) }
    }

    /// A lease was granted to a user; not one `more`, if it takes the place of another. Its worker is the only writer.
    #[inline]
    pub(super) fn count_user(&self, worker: u16, user: QuotaSlot, more: bool) {
        if let Some(words) = self.user_of_worker(worker, user.number) {
            add(&words[USER_GRANTED], 1);
            add(&words[USER_LIVE], more.into());
        }
    }

    /// A lease of a user ended (his number plus one, as leases have it), by a worker of this process if there is one.
    #[inline]
    pub(super) fn end_user(&self, worker: Option<u16>, user: u16, owner: OwnerNumber) {
        let Some(number) = user.checked_sub(1) else { return };
        match worker {
            Some(worker) if owner == self.owner() => {
                if let Some(words) = self.user_of_worker(worker, number) {
                    add(&words[USER_LIVE], u64::MAX);
                }
            }
            _ => {
                if let Some(words) = self.user_of_owner(owner, number) {
                    words[USER_LIVE].fetch_sub(1, Relaxed);
                }
            }
        }
    }

    /// Moves on what a worker of `owner` has counted, that is attached no longer.
    pub(super) fn flush_users(&self, worker: u16, owner: OwnerNumber) {
        for number in 0..self.config.quotas {
            let rows = (self.user_of_worker(worker, number), self.user_of_owner(owner, number));
            let (Some(from), Some(to)) = rows else { continue };
            for word in [USER_GRANTED, USER_LIVE] {
                if from[word].load(SeqCst) != 0 {
                    to[word].fetch_add(from[word].swap(0, SeqCst), SeqCst);
                }
            }
        }
    }

    /// All that a dead owner had has ended.
    pub(super) fn end_users_of(&self, dead: OwnerNumber) {
        for words in (0..self.config.quotas).filter_map(|number| self.user_of_owner(dead, number)) {
            words[USER_LIVE].store(0, SeqCst);
        }
    }

    #[inline]
    fn user_of_worker(&self, worker: u16, number: u16) -> Option<&[AtomicU64]> {
        self.user_at(worker.into(), number)
    }

    #[inline]
    fn user_of_owner(&self, owner: OwnerNumber, number: u16) -> Option<&[AtomicU64]> {
        let at = usize::from(self.config.workers) + usize::from(owner.0);
        if owner.0 < MAX_OWNERS { self.user_at(at, number) } else { None }
    }

    #[inline]
    fn user_at(&self, row: usize, number: u16) -> Option<&[AtomicU64]> {
        let at = self.map.users + row * users_stride(&self.config) + usize::from(number) * USER_STRIDE;
        (number < self.config.quotas).then(|| &self.words()[at..at + USER_STRIDE])
    }
}

/// One writer: no locked instruction is needed.
#[inline]
fn add(word: &AtomicU64, more: u64) {
    word.store(word.load(Relaxed).wrapping_add(more), Relaxed);
}
