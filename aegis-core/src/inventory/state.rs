//! How far has an address come, and where may it go from there?

use core::fmt;

use serde::{Deserialize, Serialize};

/// How far an address has come; leases are granted from [`AddressState::Active`] ones only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressState {
    /// Assigned to an account, not yet in BGP.
    Allocated,
    /// In BGP, not yet allowed by the origin's firewall.
    Announced,
    /// Allowed by the origin's firewall, not yet used.
    Allowlisted,
    /// In use.
    Active,
    /// Serves its live connections to the end, grants nothing new.
    Retiring,
}

impl AddressState {
    /// Every state, in the order in which an address comes to them.
    pub const ALL: [Self; 5] =
        [Self::Allocated, Self::Announced, Self::Allowlisted, Self::Active, Self::Retiring];

    /// The states that may come next.
    ///
    /// Forward one step at a time: traffic from an address that is not announced finds no way back, and one that is not
    /// allowlisted is dropped at the origin. What was done too early is undone one step back. Only an active address
    /// never goes back: connections live on it, so it retires, and from there it is either used again or, when its
    /// connections have ended, withdrawn.
    pub const fn next(self) -> &'static [Self] {
        match self {
            Self::Allocated => &[Self::Announced],
            Self::Announced => &[Self::Allowlisted, Self::Allocated],
            Self::Allowlisted => &[Self::Active, Self::Announced],
            Self::Active => &[Self::Retiring],
            Self::Retiring => &[Self::Active, Self::Allocated],
        }
    }

    /// May `next` follow at once? (Staying is no step.)
    pub fn can_become(self, next: Self) -> bool {
        self.next().contains(&next)
    }

    /// Refuses what [`AddressState::can_become`] does not allow, and says what comes first.
    pub(crate) fn step(self, next: Self) -> Result<(), String> {
        if self.can_become(next) {
            return Ok(());
        }
        let why = match next {
            Self::Allowlisted | Self::Active if self < next => {
                "; an origin drops what comes from an address that it has not allowlisted, and it can allowlist only what \
                 is announced"
            }
            _ if self == Self::Active => "; live connections would be cut",
            _ => "",
        };
        let next_ones: Vec<_> = self.next().iter().map(Self::to_string).collect();
        Err(format!("it is {self} and cannot become {next} at once, only {}{why}", next_ones.join(" or ")))
    }
}

impl fmt::Display for AddressState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allocated => "allocated",
            Self::Announced => "announced",
            Self::Allowlisted => "allowlisted",
            Self::Active => "active",
            Self::Retiring => "retiring",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::AddressState::{self, Active, Allocated, Allowlisted, Announced, Retiring};

    #[test]
    fn no_way_leads_to_active_that_is_not_announced_and_allowlisted_first() {
        assert!(AddressState::ALL.is_sorted());
        let before = |state: AddressState| AddressState::ALL.into_iter().filter(move |s| s.can_become(state));
        assert_eq!(before(Active).collect::<Vec<_>>(), [Allowlisted, Retiring]);
        assert_eq!(before(Retiring).collect::<Vec<_>>(), [Active], "so what retires was allowlisted once");
        assert_eq!(before(Allowlisted).collect::<Vec<_>>(), [Announced]);
        for state in AddressState::ALL {
            assert!(!state.can_become(state));
            assert!(!state.next().is_empty(), "{state} is a dead end");
        }
    }

    #[test]
    fn an_impossible_step_says_what_comes_first() {
        let refused = |from: AddressState, to| from.step(to).unwrap_err();
        let early = refused(Allocated, Active);
        assert!(
            early.starts_with("it is allocated and cannot become active at once, only announced; "),
            "{early}"
        );
        assert!(early.contains("has not allowlisted"), "{early}");
        assert_eq!(
            refused(Active, Allocated),
            "it is active and cannot become allocated at once, only retiring; live connections would be cut"
        );
        assert_eq!(
            refused(Announced, Retiring),
            "it is announced and cannot become retiring at once, only allowlisted or allocated"
        );
        assert_eq!(Retiring.step(Active), Ok(()));
    }
}
