//! What can go wrong when a lease is asked for, given back or disputed.

use crate::error::ErrorKind;

/// Why no lease was granted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Every tuple of the pool towards this origin is live, held or parked. Nothing was evicted to make room;
    /// `explain` says more.
    #[error("every source port of the pool towards this origin is in use")]
    Exhausted,
    /// This machine has no granted share of the pool in the origin's address family.
    #[error("this machine has no share of the pool for the origin's address family")]
    NoShare,
    /// The machine's tenure is over: another machine may be granting from its shares.
    #[error("this machine's tenure is over: it grants nothing until it is renewed")]
    TenureOver,
    /// The table has no room for another origin.
    #[error("the lease table has no room for another origin")]
    TooManyOrigins,
    /// The one source that was asked for is live, held or parked towards this origin.
    #[error("this source is in use towards the origin")]
    InUse,
    /// As many tuples are live or held towards this origin from this egress IP as the configuration allows.
    #[error("the limit of connections from one egress IP to this origin is reached")]
    OriginLimit,
    /// As many leases are live as the quota that the pool is used under allows.
    #[error("the quota of this user of the pool is reached")]
    QuotaReached,
    /// As many leases are live as the quota above that one allows.
    #[error("the quota above that of this user of the pool is reached")]
    ParentQuotaReached,
    /// The pool was made by another lease table.
    #[error("the pool was made by another lease table")]
    ForeignPool,
    /// The table's memory holds what no lease table writes: nothing can be trusted there.
    #[error("the lease table's memory is corrupt; make a new one")]
    Corrupt,
}

impl AcquireError {
    /// What the caller can do.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Exhausted
            | Self::TooManyOrigins
            | Self::InUse
            | Self::OriginLimit
            | Self::QuotaReached
            | Self::ParentQuotaReached => ErrorKind::Wait,
            Self::NoShare | Self::TenureOver => ErrorKind::OtherExit,
            Self::ForeignPool => ErrorKind::Input,
            Self::Corrupt => ErrorKind::Reload,
        }
    }
}

/// Why a release or a conflict was not accepted. It changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The lease comes from another lease table.
    #[error("the lease comes from another lease table")]
    Foreign,
    /// The lease has ended already; its tuple is free or somebody else's.
    #[error("the lease has ended already")]
    Stale,
}

impl ReleaseError {
    /// What the caller can do.
    pub const fn kind(self) -> ErrorKind {
        ErrorKind::Input
    }
}
