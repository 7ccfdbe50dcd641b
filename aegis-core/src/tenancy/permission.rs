//! Who may do what: the tables, and the one function that reads each.
//!
//! Dedicated egress on a zone takes two rights, over the zone and over the addresses. The account of the zone has the
//! first: nobody else changes where its requests leave from, or they would leave from an address that its origin has
//! not allowed. The second comes with the holding (the *parent* account has it), by delegation, or, for leased addresses,
//! from the operator, who owns them. So the account of a zone enables it on a pool of its own or on one that is
//! delegated to it; a parent cannot enable a zone of its delegate, but it may always disable it, because the addresses
//! are its own and taking them back one zone at a time is milder than revoking the delegation. The operator may do
//! all of that for them, and alone may lend leased addresses to another account's zones; what an account brought is not
//! the operator's to lend.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::id::AccountId;
use crate::inventory::{AddressState, Right};

/// Who acts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The network's operator.
    Operator,
    /// Somebody of this account.
    Account(AccountId),
}

impl Actor {
    /// Acts for this account.
    pub(super) fn is(&self, account: &AccountId) -> bool {
        matches!(self, Self::Account(id) if id == account)
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("the operator"),
            Self::Account(id) => write!(f, "account \"{id}\""),
        }
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $words:literal, $verb:literal;)*) => {
        /// What somebody does: the word of permissions and of audit events.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Action {
            $($(#[$doc])* $name,)*
        }

        impl Action {
            /// Every action.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What stands before the name of a thing: `remove` zone "www".
            pub(super) const fn verb(self) -> &'static str {
                match self {
                    $(Self::$name => $verb,)*
                }
            }
        }

        impl fmt::Display for Action {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Self::$name => $words,)*
                })
            }
        }
    };
}

actions! {
    /// Let a zone leave from a pool.
    Enable = "enable", "enable";
    /// Let a zone leave from the network's normal egress.
    Disable = "disable", "disable";
    /// See how a zone uses a pool.
    ReadAnalytics = "read analytics", "read the analytics of";
    /// Let another account use (part of) a BYOIP prefix.
    Delegate = "delegate", "delegate";
    /// End that.
    Revoke = "revoke", "revoke";
    /// Make a zone known.
    AddZone = "add zone", "add";
    /// Forget a zone.
    RemoveZone = "remove zone", "remove";
    /// Make a pool of holdings.
    AddPool = "add pool", "add";
    /// Give a pool other addresses.
    ChangePool = "change pool", "change";
    /// Give a pool up.
    RemovePool = "remove pool", "remove";
    /// Say of a holding that an origin allows it, that it is used, that it retires.
    SetState = "set state", "set the state of";
    /// Put a holding into BGP, or take it out.
    Route = "route", "set the state of";
    /// Say whether a BYOIP block serves egress or ingress.
    SetServes = "set serves", "set the direction of";
    /// Lease a prefix to an account, or take in one that it brought.
    AddHolding = "add holding", "add";
    /// End that.
    RemoveHolding = "remove holding", "remove";
    /// Give a holding and its pools to another account.
    Transfer = "transfer", "transfer";
    /// Take in a customer.
    AddAccount = "add account", "add";
    /// Let a customer go.
    RemoveAccount = "remove account", "remove";
}

impl Action {
    /// What it is to take an address from one state to another: what touches BGP is routing.
    pub(super) fn of_step(from: AddressState, to: AddressState) -> Self {
        if from == AddressState::Allocated || to == AddressState::Allocated {
            Self::Route
        } else {
            Self::SetState
        }
    }
}

/// Whose zone it is that uses a pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ZoneOf {
    /// Of the parent account: the one that holds the addresses.
    Parent,
    /// Of an account that all of the pool is delegated to.
    Delegate,
    /// Of another account.
    Other,
}

/// What an actor is to a zone and a pool. In a zone of the parent one account is both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// The network's operator.
    Operator,
    /// The account that holds the addresses.
    Parent,
    /// The account that the zone belongs to.
    ZoneAccount,
}

/// One row of [`ZONE_RULES`].
#[derive(Clone, Copy, Debug)]
pub struct ZoneRule {
    /// What is done to a zone and a pool.
    pub action: Action,
    /// Leased or BYOIP: the pool.
    pub right: Right,
    /// Whose zone it is.
    pub zone_of: ZoneOf,
    /// Who may.
    pub who: &'static [Role],
}

/// Who may enable and disable zones on pools, and read analytics. What is not here nobody may, not even the operator:
/// leased addresses are never delegated, and those that an account brought are not lent without it.
pub const ZONE_RULES: [ZoneRule; 12] = {
    use Action::{Disable, Enable, ReadAnalytics};
    use Right::{Byoip, Leased};
    use Role::{Operator, Parent, ZoneAccount};
    const fn row(action: Action, right: Right, zone_of: ZoneOf, who: &'static [Role]) -> ZoneRule {
        ZoneRule { action, right, zone_of, who }
    }
    [
        row(Enable, Leased, ZoneOf::Parent, &[Operator, Parent]),
        row(Enable, Leased, ZoneOf::Other, &[Operator]),
        row(Enable, Byoip, ZoneOf::Parent, &[Operator, Parent]),
        row(Enable, Byoip, ZoneOf::Delegate, &[Operator, ZoneAccount]),
        row(Disable, Leased, ZoneOf::Parent, &[Operator, Parent]),
        row(Disable, Leased, ZoneOf::Other, &[Operator]),
        row(Disable, Byoip, ZoneOf::Parent, &[Operator, Parent]),
        row(Disable, Byoip, ZoneOf::Delegate, &[Operator, Parent, ZoneAccount]),
        row(ReadAnalytics, Leased, ZoneOf::Parent, &[Operator, Parent]),
        row(ReadAnalytics, Leased, ZoneOf::Other, &[Operator, Parent, ZoneAccount]),
        row(ReadAnalytics, Byoip, ZoneOf::Parent, &[Operator, Parent]),
        row(ReadAnalytics, Byoip, ZoneOf::Delegate, &[Operator, Parent, ZoneAccount]),
    ]
};

/// Who may do an action to a zone and a pool: the row of [`ZONE_RULES`]; nobody, if there is none.
pub fn who_may(action: Action, right: Right, zone_of: ZoneOf) -> &'static [Role] {
    let mut rules = ZONE_RULES.iter();
    let row = rules.find(|rule| (rule.action, rule.right, rule.zone_of) == (action, right, zone_of));
    row.map_or(&[], |rule| rule.who)
}

/// What an account may do to what is its own: its zones, pools and holdings, and delegations of what it holds. The
/// operator may do that for it, and alone may do everything else that is not about a zone on a pool.
pub const OWNER_MAY: [Action; 9] = [
    Action::Delegate,
    Action::Revoke,
    Action::AddZone,
    Action::RemoveZone,
    Action::AddPool,
    Action::ChangePool,
    Action::RemovePool,
    // The customer's own firewall allows the addresses or does not.
    Action::SetState,
    Action::SetServes,
];

/// May the account that owns a thing do this to it? If not, only the operator may.
pub fn owner_may(action: Action) -> bool {
    OWNER_MAY.contains(&action)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the specification, as it is written there: who may through the API, seen from the accounts.
    const SPECIFIED: &str = "\
                                     | leased                     | byoip
        zones of the parent account  | yes                        | yes
        zones of other accounts      | no: only the operator may  | yes, where delegated
        read analytics               | yes                        | yes";

    fn cell(action: Action, right: Right, zone_of: &[ZoneOf]) -> &'static str {
        let may = |zone_of: ZoneOf, role| who_may(action, right, zone_of).contains(&role);
        let account = |zone_of: ZoneOf| {
            may(zone_of, Role::ZoneAccount) || zone_of == ZoneOf::Parent && may(zone_of, Role::Parent)
        };
        match zone_of {
            all if all.iter().all(|zone_of| account(*zone_of)) => "yes",
            [ZoneOf::Delegate, other]
                if account(ZoneOf::Delegate) && who_may(action, right, *other).is_empty() =>
            {
                "yes, where delegated"
            }
            [ZoneOf::Delegate, other] if who_may(action, right, *other) == [Role::Operator] => {
                "no: only the operator may"
            }
            _ => "something else",
        }
    }

    #[test]
    fn the_rules_are_those_of_the_specification() {
        let rows = |text: &str| -> Vec<Vec<String>> {
            text.lines().map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
        };
        let others = &[ZoneOf::Delegate, ZoneOf::Other];
        for action in [Action::Enable, Action::Disable] {
            let row = |name: &str, zone_of: &[ZoneOf]| {
                format!(
                    "{name} | {} | {}\n",
                    cell(action, Right::Leased, zone_of),
                    cell(action, Right::Byoip, zone_of)
                )
            };
            let read = |right, zone_of| cell(Action::ReadAnalytics, right, &[zone_of]);
            let table = format!(" | {} | {}\n", Right::Leased, Right::Byoip)
                + &row("zones of the parent account", &[ZoneOf::Parent])
                + &row("zones of other accounts", others)
                + &format!(
                    "read analytics | {} | {}",
                    read(Right::Leased, ZoneOf::Parent),
                    read(Right::Byoip, ZoneOf::Parent)
                );
            assert_eq!(rows(&table), rows(SPECIFIED), "{action}");
        }
        // Whoever may use addresses sees how they are used.
        assert_eq!(cell(Action::ReadAnalytics, Right::Byoip, &[ZoneOf::Delegate]), "yes");
        assert_eq!(cell(Action::ReadAnalytics, Right::Leased, &[ZoneOf::Other]), "yes");
    }

    #[test]
    fn every_rule_is_reachable_once_and_the_operator_is_in_all() {
        for (n, rule) in ZONE_RULES.iter().enumerate() {
            assert_eq!(
                who_may(rule.action, rule.right, rule.zone_of),
                rule.who,
                "row {n} is hidden by another"
            );
            assert!(rule.who.contains(&Role::Operator), "row {n}");
        }
        assert_eq!(who_may(Action::Enable, Right::Byoip, ZoneOf::Other), [], "not even the operator");
        assert_eq!(who_may(Action::Transfer, Right::Leased, ZoneOf::Parent), [], "no action on zones");
    }

    #[test]
    fn what_an_owner_may_is_said_once_and_moves_no_route_and_no_property() {
        for action in [Action::Route, Action::Transfer, Action::AddHolding, Action::AddAccount] {
            assert!(!owner_may(action), "{action}");
        }
        let on_zones = [Action::Enable, Action::Disable, Action::ReadAnalytics];
        assert_eq!(Action::ALL.iter().filter(|action| owner_may(**action)).count(), OWNER_MAY.len());
        assert!(on_zones.iter().all(|action| !owner_may(*action)), "these have rules of their own");
    }
}
