//! What has changed, by whom and when? Values that are written down and never change again.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::permission::{Action, Actor};
use super::{Account, Delegation, EnabledBy, Zone};
use crate::inventory::{Holding, Pool};
use crate::time::Time;

/// One change. The events of one call, played in their order, lead through no state that would be refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditEvent {
    /// When, as the caller said.
    pub at: Time,
    /// Who.
    pub who: Actor,
    /// What.
    pub what: Action,
    /// To which thing, before and after.
    pub subject: Subject,
    /// The delegation whose revocation took this with it, unasked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Delegation>,
}

/// The thing that has changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// An account.
    Account(Change<Account>),
    /// A holding.
    Holding(Change<Holding>),
    /// A pool.
    Pool(Change<Pool>),
    /// A zone.
    Zone(Change<Zone>),
    /// A delegation.
    Delegation(Change<Delegation>),
}

/// A thing before and after; `None` where it was not, or is no more. Never both.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change<T> {
    /// As it was.
    pub before: Option<T>,
    /// As it is.
    pub after: Option<T>,
}

impl<T> Change<T> {
    pub(super) fn added(after: T) -> Self {
        Self { before: None, after: Some(after) }
    }

    pub(super) fn removed(before: T) -> Self {
        Self { before: Some(before), after: None }
    }

    pub(super) fn changed(before: T, after: T) -> Self {
        Self { before: Some(before), after: Some(after) }
    }

    /// ` thing "id": before -> after`, with those facts only that differ.
    fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: impl Fn(&T) -> String,
        facts: impl Fn(&T) -> Vec<String>,
    ) -> fmt::Result {
        let Some(thing) = self.before.as_ref().or(self.after.as_ref()) else { return Ok(()) };
        f.write_str(&name(thing))?;
        let (mut before, mut after) = (self.before.as_ref().map(&facts), self.after.as_ref().map(&facts));
        if let (Some(before), Some(after)) = (&mut before, &mut after) {
            let differ: Vec<bool> = before.iter().zip(after.iter()).map(|(b, a)| b != a).collect();
            for side in [before, after] {
                let mut differ = differ.iter();
                side.retain(|_| differ.next().is_some_and(|differ| *differ));
            }
        }
        let text = |facts: Option<Vec<String>>| facts.map_or("nothing".into(), |facts| facts.join(", "));
        let (before, after) = (text(before), text(after));
        if before.is_empty() || after.is_empty() {
            return Ok(());
        }
        write!(f, ": {before} -> {after}")
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(change) => {
                change.write(f, |a| format!("account \"{}\"", a.id), |a| vec![format!("{:?}", a.name)])
            }
            Self::Holding(change) => change.write(
                f,
                |h| format!("holding \"{}\" ({})", h.id, h.prefix),
                |h| {
                    let account = format!("account \"{}\"", h.account);
                    vec![account, h.right.to_string(), h.serves.to_string(), h.state.to_string()]
                },
            ),
            Self::Pool(change) => change.write(
                f,
                |p| format!("pool \"{}\"", p.id),
                |p| {
                    let prefixes: Vec<_> = p.prefixes.iter().map(ToString::to_string).collect();
                    vec![format!("account \"{}\"", p.account), format!("{{{}}}", prefixes.join(", "))]
                },
            ),
            Self::Zone(change) => change.write(
                f,
                |z| format!("zone \"{}\" of account \"{}\"", z.id, z.account),
                |z| {
                    vec![match (&z.pool, z.enabled_by) {
                        (None, _) => "normal egress".into(),
                        (Some(pool), EnabledBy::Account) => format!("pool \"{pool}\""),
                        (Some(pool), EnabledBy::Operator) => {
                            format!("pool \"{pool}\" by the operator's right")
                        }
                    }]
                },
            ),
            Self::Delegation(change) => change.write(f, ToString::to_string, |_| Vec::new()),
        }
    }
}

impl fmt::Display for AuditEvent {
    /// `61.007s account "acme": disable zone "shop" of account "acme": pool "rented" -> normal egress`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} {}", self.at, self.who, self.what.verb(), self.subject)?;
        match &self.because {
            Some(delegation) => write!(f, ", by force of the end of the delegation of {delegation}"),
            None => Ok(()),
        }
    }
}
