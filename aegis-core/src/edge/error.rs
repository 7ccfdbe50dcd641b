use crate::error::ErrorKind;
use crate::lease;

/// Why no lease was granted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// The lease table has refused.
    #[error(transparent)]
    Lease(#[from] lease::AcquireError),
    /// The zone has no dedicated egress any more: use the normal egress of the network.
    #[error("the zone has no dedicated egress in this epoch; use the normal egress")]
    NotDedicated,
    /// The zone comes from another edge.
    #[error("the zone was looked up in another edge")]
    ForeignZone,
    /// The zone has as many live connections as its limit allows on this machine.
    #[error("the zone's limit of connections on this machine is reached")]
    ZoneLimit,
    /// The account has as many live connections as its limit allows on this machine.
    #[error("the account's limit of connections on this machine is reached")]
    AccountLimit,
    /// This machine has shares of the pool, but their addresses are not active: the origin's firewall does not admit
    /// them yet, or they are retiring.
    #[error("no address of the pool that this machine has a share of is active")]
    NotActive,
}

impl AcquireError {
    /// What the caller can do.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Lease(error) => error.kind(),
            Self::ZoneLimit | Self::AccountLimit => ErrorKind::Wait,
            Self::NotActive => ErrorKind::OtherExit,
            Self::NotDedicated => ErrorKind::NormalEgress,
            Self::ForeignZone => ErrorKind::Input,
        }
    }
}

impl AcquireError {
    /// The number under which the lease table counts the refusal of a zone: that of [`Refused::REASONS`]. None: the caller is
    /// at fault, or the memory.
    pub(super) const fn reason(self) -> Option<u8> {
        use lease::AcquireError as Lease;
        Some(match self {
            Self::Lease(Lease::Exhausted) => 0,
            Self::Lease(Lease::InUse) => 1,
            Self::Lease(Lease::OriginLimit) => 2,
            Self::ZoneLimit => 3,
            Self::AccountLimit => 4,
            Self::Lease(Lease::TooManyOrigins) => 5,
            Self::Lease(Lease::NoShare) => 6,
            Self::NotActive => 7,
            Self::Lease(Lease::TenureOver) => 8,
            Self::Lease(
                Lease::QuotaReached | Lease::ParentQuotaReached | Lease::ForeignPool | Lease::Corrupt,
            )
            | Self::NotDedicated
            | Self::ForeignZone => return None,
        })
    }
}
