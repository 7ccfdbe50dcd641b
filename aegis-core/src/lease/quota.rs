//! How many leases may one user of a pool have, so that it does not starve the others?
//!
//! A quota has a limit and may have a parent (a zone's and its account's). What is used is counted by owner, so that a
//! process that dies takes its count along; the sum over all owners is compared with the limit. Only leases of pools with
//! a quota touch these words.

use crate::error::{Error, Result};
use crate::sync::{AtomicU64, Ordering::SeqCst};

use super::map::{QUOTA_COUNT, QUOTA_LIMIT, QUOTA_NAME, QUOTA_PARENT, QUOTA_STRIDE};
use super::table::Table;
use super::tag::{MAX_OWNERS, OwnerNumber};
use super::{AcquireError, Memory};

/// A quota of a lease table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QuotaSlot {
    pub(super) number: u16,
    /// It has a limit, or its parent has.
    pub(super) is_limited: bool,
}

/// Of a user who has no limit: what he uses is only counted, see `users`.
pub(super) const UNLIMITED: u64 = u64::MAX;

impl<M: Memory> Table<M> {
    /// A quota of `limit` live leases, towards all origins together; every lease that counts for it counts for `parent`
    /// too. Processes that share the table make their quotas in the same order: a quota that is there already is
    /// returned with its limit changed.
    ///
    /// # Errors
    /// The table was made for fewer quotas; the number is not the next one, or its parent is not before it.
    pub fn set_quota(&self, number: u16, limit: u32, parent: Option<QuotaSlot>) -> Result<QuotaSlot> {
        let count = self.words()[QUOTA_COUNT].load(SeqCst);
        if number >= self.config.quotas {
            return Err(Error::input(format!(
                "quota {number} of a lease table made for {}; raise `quotas`",
                self.config.quotas
            )));
        }
        if u64::from(number) > count {
            return Err(Error::input(format!("quota {number}; the next one is {count}")));
        }
        if let Some(parent) = parent.filter(|parent| parent.number >= number) {
            return Err(Error::input(format!(
                "quota {number} has parent {}; a parent comes first",
                parent.number
            )));
        }
        let words = self.quota_words(number);
        if words[QUOTA_NAME].load(SeqCst) != 0 {
            return Err(Error::input(format!(
                "quota {number} is taken by a user without a limit; set limits first, the same in every process"
            )));
        }
        words[QUOTA_LIMIT].store(limit.into(), SeqCst);
        words[QUOTA_PARENT].store(parent.map_or(0, |parent| u64::from(parent.number) + 1), SeqCst);
        self.words()[QUOTA_COUNT].fetch_max(u64::from(number) + 1, SeqCst);
        Ok(QuotaSlot { number, is_limited: true })
    }

    /// The parent that a quota has, which has a limit.
    pub(crate) fn quota_parent(&self, number: u16) -> Option<QuotaSlot> {
        let number = self.lineage(number).nth(1)?;
        Some(QuotaSlot { number, is_limited: true })
    }

    /// Live leases that count for a quota.
    pub fn quota_used(&self, quota: QuotaSlot) -> u64 {
        if quota.number >= self.config.quotas { 0 } else { self.used(quota.number) }
    }

    /// Counts a lease, unless it would be one too many.
    pub(super) fn count_quota(&self, quota: QuotaSlot) -> core::result::Result<(), AcquireError> {
        let refusals = [AcquireError::QuotaReached, AcquireError::ParentQuotaReached];
        for (number, refusal) in self.lineage(quota.number).zip(refusals) {
            let limit = self.quota_words(number)[QUOTA_LIMIT].load(SeqCst);
            if limit == UNLIMITED {
                continue;
            }
            // Count first, then look: of two that come for the last one, not both get it.
            self.quota_count(self.owner(), number).fetch_add(1, SeqCst);
            if self.used(number) > limit {
                self.limited(quota.number).take_while(|&other| other != number).chain([number]).for_each(
                    |number| {
                        take_one(self.quota_count(self.owner(), number));
                    },
                );
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Counts a lease of a connection that exists already.
    pub(super) fn count_anyway(&self, quota: QuotaSlot) {
        for number in self.limited(quota.number) {
            self.quota_count(self.owner(), number).fetch_add(1, SeqCst);
        }
    }

    /// Takes a lease of `owner` off its quota (plus one, as leases have it) and that one's parent.
    pub(super) fn uncount(&self, quota: u16, owner: OwnerNumber) {
        if owner.0 < MAX_OWNERS {
            for number in self.limited(quota - 1) {
                take_one(self.quota_count(owner, number));
            }
        }
    }

    /// What a dead owner had counts no more.
    pub(super) fn forget_counts(&self, owner: OwnerNumber) {
        for number in 0..self.config.quotas {
            self.quota_count(owner, number).store(0, SeqCst);
        }
    }

    /// Those of a quota and its parent that have a limit.
    #[inline]
    fn limited(&self, number: u16) -> impl Iterator<Item = u16> {
        self.lineage(number).filter(|&number| self.quota_words(number)[QUOTA_LIMIT].load(SeqCst) != UNLIMITED)
    }

    /// A quota and its parent.
    fn lineage(&self, number: u16) -> impl Iterator<Item = u16> {
        let exists = |number: &u16| *number < self.config.quotas;
        let own = Some(number).filter(exists);
        let parent = own.and_then(|own| {
            let parent = self.quota_words(own)[QUOTA_PARENT].load(SeqCst);
            (parent as u16).checked_sub(1).filter(exists)
        });
        own.into_iter().chain(parent)
    }

    fn used(&self, number: u16) -> u64 {
        let counts = (0..MAX_OWNERS).map(|owner| self.quota_count(OwnerNumber(owner), number).load(SeqCst));
        counts.fold(0, u64::saturating_add)
    }

    pub(super) fn quota_words(&self, number: u16) -> &[AtomicU64] {
        let at = self.map.quotas + usize::from(number) * QUOTA_STRIDE;
        &self.words()[at..at + QUOTA_STRIDE]
    }

    fn quota_count(&self, owner: OwnerNumber, number: u16) -> &AtomicU64 {
        &self.words()
            [self.map.quota_counts + usize::from(owner.0) * self.map.quota_stride + usize::from(number)]
    }
}

/// Never below nothing: an owner's count may have been forgotten in between.
fn take_one(count: &AtomicU64) {
    let _ = count.fetch_update(SeqCst, SeqCst, |count| count.checked_sub(1));
}
