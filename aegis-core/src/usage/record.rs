//! What one subject did in one interval.

use core::net::IpAddr;
use core::ops::AddAssign;

use crate::id::{AccountId, ZoneId};
use crate::net::Origin;

/// What a record is about. Ordered, so that the records of a report have one order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    /// An egress IP of this machine towards one origin.
    Source {
        /// Source address, never an IPv4-mapped one.
        egress_ip: IpAddr,
        /// Protocol and destination. `None`: ports towards every origin (unconnected UDP, ports of strangers on the
        /// host), and what was counted for origins that are forgotten meanwhile.
        origin: Option<Origin>,
        /// Who owns the address.
        account: Option<AccountId>,
        /// The zone, if only one may use the address.
        zone: Option<ZoneId>,
    },
    /// All connections of a zone on this machine, from whichever address. They are in the records of sources too.
    Zone {
        /// The zone.
        zone: ZoneId,
        /// Who owns it.
        account: AccountId,
    },
}

impl Subject {
    /// Source address, of a source.
    pub const fn egress_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Source { egress_ip, .. } => Some(*egress_ip),
            Self::Zone { .. } => None,
        }
    }

    /// Protocol and destination, of a source towards one origin.
    pub const fn origin(&self) -> Option<Origin> {
        match self {
            Self::Source { origin, .. } => *origin,
            Self::Zone { .. } => None,
        }
    }

    /// The account, if there is one.
    pub const fn account(&self) -> Option<&AccountId> {
        match self {
            Self::Source { account, .. } => account.as_ref(),
            Self::Zone { account, .. } => Some(account),
        }
    }

    /// The zone, if there is one.
    pub const fn zone(&self) -> Option<&ZoneId> {
        match self {
            Self::Source { zone, .. } => zone.as_ref(),
            Self::Zone { zone, .. } => Some(zone),
        }
    }
}

/// What one subject did in one interval of one machine. All integers, so that sums are exact.
///
/// A report takes only records in which `min`, `max` and the rest fit together: the average of the interval and
/// `live + held` at its end are between `min` and `max`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Record {
    /// Whom it is about.
    pub subject: Subject,
    /// Time integral of live + held, in ports x milliseconds: divided by the interval's length it is the time-weighted
    /// average.
    pub port_millis: u64,
    /// The fewest live + held.
    pub min: u32,
    /// High-water mark of live + held since the last report.
    pub max: u32,
    /// Leases at the end of the interval.
    pub live: u32,
    /// Released tuples that must not be granted yet, at the end of the interval.
    pub held: u32,
    /// Released tuples that may be granted, but are not preferred, at the end of the interval.
    pub resting: u32,
    /// Tuples that strangers on the host have, at the end of the interval.
    pub parked: u32,
    /// Ports provisioned to this machine, at the end of the interval: the real limit towards one origin. A machine that
    /// has ports of an address, and nothing open there, says so by a record of the address without an origin: a data
    /// center's utilization counts the ports of idle machines too.
    pub capacity: u32,
    /// Leases granted in the interval.
    pub granted: u64,
    /// Acquires refused in the interval.
    pub refused: Refused,
}

impl Record {
    /// Of a subject that did nothing and has nothing.
    pub(super) const fn idle(subject: Subject) -> Self {
        Self {
            subject,
            port_millis: 0,
            min: 0,
            max: 0,
            live: 0,
            held: 0,
            resting: 0,
            parked: 0,
            capacity: 0,
            granted: 0,
            refused: Refused::from_counts([0; 9]),
        }
    }
}

/// Acquires that were refused, by reason. Refusals that say that the caller is wrong (a foreign pool, a zone without
/// dedicated egress) are not counted: they say nothing about capacity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Refused {
    /// Every tuple of the pool towards the origin was live, held or parked.
    pub exhausted: u64,
    /// The one source that was asked for was in use.
    pub in_use: u64,
    /// The limit of one egress IP towards one origin.
    pub origin_limit: u64,
    /// The limit of the zone.
    pub quota: u64,
    /// The limit of the account.
    pub account_quota: u64,
    /// The lease table had no room for another origin.
    pub too_many_origins: u64,
    /// The machine had no share of the pool.
    pub no_share: u64,
    /// No address of the pool was active.
    pub not_active: u64,
    /// The machine's tenure was over.
    pub tenure_over: u64,
}

impl Refused {
    /// What the reasons are called in written forms, in the order of [`Refused::counts`].
    pub const REASONS: [&'static str; 9] = [
        "exhausted",
        "inUse",
        "originLimit",
        "quota",
        "accountQuota",
        "tooManyOrigins",
        "noShare",
        "notActive",
        "tenureOver",
    ];

    /// How many for each of [`Refused::REASONS`].
    pub const fn counts(&self) -> [u64; 9] {
        let Self {
            exhausted,
            in_use,
            origin_limit,
            quota,
            account_quota,
            too_many_origins,
            no_share,
            not_active,
            tenure_over,
        } = *self;
        [
            exhausted,
            in_use,
            origin_limit,
            quota,
            account_quota,
            too_many_origins,
            no_share,
            not_active,
            tenure_over,
        ]
    }

    /// What a lease table counted by the numbers of reasons, which are the places in [`Refused::REASONS`].
    pub(crate) fn from_reasons(counts: [u64; crate::lease::REASONS]) -> Self {
        Self::from_counts(core::array::from_fn(|reason| counts[reason]))
    }

    /// The refusals with so many for each of [`Refused::REASONS`].
    pub const fn from_counts(counts: [u64; 9]) -> Self {
        let [
            exhausted,
            in_use,
            origin_limit,
            quota,
            account_quota,
            too_many_origins,
            no_share,
            not_active,
            tenure_over,
        ] = counts;
        Self {
            exhausted,
            in_use,
            origin_limit,
            quota,
            account_quota,
            too_many_origins,
            no_share,
            not_active,
            tenure_over,
        }
    }

    /// For all reasons together; saturates.
    pub const fn total(&self) -> u64 {
        let (counts, mut sum, mut nth) = (self.counts(), 0u64, 0);
        while nth < counts.len() {
            sum = sum.saturating_add(counts[nth]);
            nth += 1;
        }
        sum
    }
}

impl AddAssign for Refused {
    /// Reason by reason; saturates (at a million refusals a second after half a million years).
    fn add_assign(&mut self, other: Self) {
        let (mine, others) = (self.counts(), other.counts());
        *self = Self::from_counts(core::array::from_fn(|nth| mine[nth].saturating_add(others[nth])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_keeps_its_place() {
        let counts = [1, 2, 3, 4, 5, 6, 7, 8, u64::MAX];
        let mut refused = Refused::from_counts(counts);
        assert_eq!((refused.counts(), refused.exhausted, refused.tenure_over), (counts, 1, u64::MAX));
        assert_eq!(refused.total(), u64::MAX);
        refused += Refused { exhausted: 1, tenure_over: 1, ..Refused::default() };
        assert_eq!(refused.counts(), [2, 2, 3, 4, 5, 6, 7, 8, u64::MAX]);
        assert_eq!(Refused { quota: 2, no_share: 5, ..Refused::default() }.total(), 7);
    }
}
