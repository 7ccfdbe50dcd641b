//! How do machines agree on a new layout while connections live? A state machine with messages in and out, that any
//! transport can carry: no clocks, no sockets.
//!
//! ```text
//!   Agent (machine)                        Controller                          router
//!      | ---- Report: epoch, busy ports ----> |                                   |
//!      | <--- Reply: tenure, newer layout --- |  <------ RouterReport: epoch ---- |
//!      |      (lost, late, twice: no matter)  |  ------- newer layout ----------> |
//!
//!   owned(A) --retarget--> draining(A, to B) --nothing busy, or deadline: busy ports are holdouts--> owned(B)
//!                              '------- A's tenure and the margin are over: it died -------^
//! ```
//! Every change is a layout of its own epoch. Three rules make it safe:
//!
//! - Who grants has applied a layout that says so, and has a tenure that was given under that layout or an older one.
//! - A granule goes to another owner when its owner *has said*, after it stopped, what is still open there; or when the
//!   tenure of its owner is over on every clock.
//! - A [`Record`] is changed by whoever compares its version and swaps: of two controllers one goes on, the other reads
//!   again.

mod agent;
mod controller;
mod draft;
mod message;
#[cfg(test)]
mod model_tests;
mod record;
mod retarget;
#[cfg(test)]
mod scenario_tests;
mod settings;
#[cfg(test)]
mod tests;

pub use agent::Agent;
pub use controller::Controller;
pub use message::{Busy, Reply, Report, RouterReport};
pub use record::Record;
pub use settings::Settings;

/// Mistakes that the tests make on purpose: each must be found by the model.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Fault {
    /// Layouts and tenures are taken in any order.
    NoEpochs,
    /// A handover completes before the old owner has said what is open.
    CompletesEarly,
    /// A controller takes renewals that it has counted, but not swapped in, for those in the record.
    TrustsLostSwaps,
}
