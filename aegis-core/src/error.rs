//! Errors that tell the caller what to do.
//!
//! Cold paths (files, layouts, bundles, construction) return [`Error`]: one message that names the value at fault,
//! and an [`ErrorKind`] that is the caller's reaction. Hot paths return one small `Copy` enum per operation, each
//! with a `kind()`.

use core::fmt;

/// What the caller can do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input is wrong: correct the value that the message names.
    Input,
    /// Nothing is free now: wait, or try again later.
    Wait,
    /// This machine cannot serve it: hand the request to another exit.
    OtherExit,
    /// The caller's view is out of date or damaged: load the file, bundle or layout again.
    Reload,
    /// The machine is not set up for it: an address, route or sysctl is missing.
    Machine,
    /// The library broke one of its own rules: report it.
    Bug,
}

impl ErrorKind {
    /// Every kind, for tables that map kinds to something else.
    pub const ALL: [Self; 6] =
        [Self::Input, Self::Wait, Self::OtherExit, Self::Reload, Self::Machine, Self::Bug];

    /// What to do, in a few words.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Input => "correct the input",
            Self::Wait => "wait and try again",
            Self::OtherExit => "use another exit",
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
