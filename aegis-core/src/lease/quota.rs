//! How many leases may one user of a pool have, so that it does not starve the others?
//!
//! A quota has a limit and may have a parent (a zone's and its account's). What is used is counted by owner, so that a
//! process that dies takes its count along; the sum over all owners is compared with the limit. Only leases of pools with
//! a quota touch these words.

use crate::error::{Error, Result};
use crate::sync::{AtomicU64, Ordering::SeqCst};

use super::map::{QUOTA_COUNT, QUOTA_LIMIT, QUOTA_PARENT, QUOTA_STRIDE};
use super::table::Table;
use super::tag::{MAX_OWNERS, OwnerNumber};
use super::{AcquireError, Memory};

/// A quota of a lease table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QuotaSlot(pub(super) u16);

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
        if let Some(parent) = parent.filter(|parent| parent.0 >= number) {
            return Err(Error::input(format!(
                "quota {number} has parent {}; a parent comes first",
                parent.0
            )));
        }
        let words = self.quota_words(number);
        words[QUOTA_LIMIT].store(limit.into(), SeqCst);
        words[QUOTA_PARENT].store(parent.map_or(0, |parent| u64::from(parent.0) + 1), SeqCst);
        self.words()[QUOTA_COUNT].fetch_max(u64::from(number) + 1, SeqCst);
        Ok(QuotaSlot(number))
    }

    /// Live leases that count for a quota.
    pub fn quota_used(&self, quota: QuotaSlot) -> u64 {
        if quota.0 >= self.config.quotas { 0 } else { self.used(quota.0) }
    }

    /// Counts a lease, unless it would be one too many.
    pub(super) fn count_quota(&self, quota: QuotaSlot) -> core::result::Result<(), AcquireError> {
        let refusals = [AcquireError::QuotaReached, AcquireError::ParentQuotaReached];
        let mut counted = 0;
        for (number, refusal) in self.lineage(quota.0).zip(refusals) {
            let limit = self.quota_words(number)[QUOTA_LIMIT].load(SeqCst);
            // Count first, then look: of two that come for the last one, not both get it.
            self.quota_count(self.owner(), number).fetch_add(1, SeqCst);
            counted += 1;
            if self.used(number) > limit {
                for number in self.lineage(quota.0).take(counted) {
                    take_one(self.quota_count(self.owner(), number));
                }
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Counts a lease of a connection that exists already.
    pub(super) fn count_anyway(&self, quota: QuotaSlot) {
        for number in self.lineage(quota.0) {
            self.quota_count(self.owner(), number).fetch_add(1, SeqCst);
        }
    }

    /// Takes a lease of `owner` off its quota (plus one, as leases have it) and that one's parent.
    pub(super) fn uncount(&self, quota: u16, owner: OwnerNumber) {
        if owner.0 < MAX_OWNERS {
            for number in self.lineage(quota - 1) {
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

    fn quota_words(&self, number: u16) -> &[AtomicU64] {
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
