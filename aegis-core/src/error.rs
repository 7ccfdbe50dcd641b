//! Errors that tell the caller what to do.
//!
//! Cold paths (files, layouts, bundles, construction) return [`Error`]: one message that names the value at fault,
//! and an [`ErrorKind`] that is the caller's reaction. Hot paths return one small `Copy` enum per operation, each
//! with a `kind()`.

use core::fmt;
use std::collections::BTreeMap;

/// What the caller can do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input is wrong: correct the value that the message names.
    Input,
    /// The caller may not do this: ask somebody who may, whom the message names.
    Forbidden,
    /// Nothing is free now: wait, or try again later.
    Wait,
    /// This machine cannot serve it: hand the request to another exit.
    OtherExit,
    /// There is no dedicated egress for it: use the network's normal egress.
    NormalEgress,
    /// The caller's view is out of date or damaged: load the file, bundle or layout again.
    Reload,
    /// The machine is not set up for it: an address, route or sysctl is missing.
    Machine,
    /// The library broke one of its own rules: report it.
    Bug,
}

impl ErrorKind {
    /// Every kind, for tables that map kinds to something else.
    pub const ALL: [Self; 8] = [
        Self::Input,
        Self::Forbidden,
        Self::Wait,
        Self::OtherExit,
        Self::NormalEgress,
        Self::Reload,
        Self::Machine,
        Self::Bug,
    ];

    /// What to do, in a few words.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Input => "correct the input",
            Self::Forbidden => "ask somebody who may",
            Self::Wait => "wait and try again",
            Self::OtherExit => "use another exit",
            Self::NormalEgress => "use the normal egress",
            Self::Reload => "reload",
            Self::Machine => "fix the machine's set-up",
            Self::Bug => "report a bug",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.advice())
    }
}

/// An error of a cold path: what is wrong (with the value at fault) and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: Box<str>,
}

/// The result of a cold path.
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `message` names the value at fault, what was expected, and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into().into_boxed_str() }
    }

    /// An [`ErrorKind::Input`] error.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// What the caller can do.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same error with `place` (for example `fleet.toml:12:7`) in front.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{place}: {}", self.message).into_boxed_str() }
    }
}

/// Something that a constructor was given and that a refusal is about. Its kind is the name of its table in a fleet
/// file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Item {
    /// The item of this kind with this id.
    Named(&'static str, String),
    /// The item of this kind at this index, for kinds without an id.
    Nth(&'static str, usize),
    /// The one item of this kind.
    Only(&'static str),
}

impl Item {
    /// The `kind` with this id.
    pub(crate) fn named(kind: &'static str, id: impl fmt::Display) -> Self {
        Self::Named(kind, id.to_string())
    }
}

impl fmt::Display for Item {
    /// `data center "fra"`, `delegation 2` (people count from 1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(kind, id) => write!(f, "{} {id:?}", kind.replace('_', " ")),
            Self::Nth(kind, index) => write!(f, "{} {}", kind.replace('_', " "), index + 1),
            Self::Only(kind) => f.write_str(kind),
        }
    }
}

/// Why a constructor refused its input, and where: the rules stay with the types, and the reader of a file can still
/// point at the line. For everyone else it becomes an [`Error`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// What is wrong.
    pub(crate) item: Item,
    /// The field of it that is at fault.
    pub(crate) field: &'static str,
    /// The element at fault, where the field is a list.
    pub(crate) element: Option<usize>,
    /// The second party. For an id that is used twice it equals `item`. Boxed to keep the `Result`s small.
    pub(crate) other: Option<Box<Item>>,
    /// Says why, without naming `item` again.
    reason: String,
}

impl Refusal {
    pub(crate) fn new(item: Item, field: &'static str, reason: impl Into<String>) -> Self {
        Self { item, field, element: None, other: None, reason: reason.into() }
    }

    /// The same, pointing at one element of the field.
    pub(crate) fn element(mut self, index: usize) -> Self {
        self.element = Some(index);
        self
    }

    /// The same, with the second party. The reason names it already.
    pub(crate) fn against(mut self, other: Item) -> Self {
        self.other = Some(Box::new(other));
        self
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::input(format!("{}: {}", refusal.item, refusal.reason))
    }
}

/// The items by id.
///
/// # Errors
/// Two of them have one id.
pub(crate) fn unique<K: Ord + Clone + fmt::Display, T>(
    kind: &'static str,
    items: impl IntoIterator<Item = T>,
    id: impl Fn(&T) -> &K,
) -> Result<BTreeMap<K, T>, Refusal> {
    let mut by_id = BTreeMap::new();
    for item in items {
        let key = id(&item).clone();
        let name = Item::named(kind, &key);
        if by_id.insert(key, item).is_some() {
            return Err(Refusal::new(name.clone(), "id", "this id is defined twice").against(name));
        }
    }
    Ok(by_id)
}
