//! How does the cut change safely? The only place where ownership changes.
//!
//! A [`Layout`] is the total assignment of granules at one [`Epoch`]: it is built from the fleet and the inventory,
//! written as canonical bytes or JSON, and read back only if every invariant holds. Who holds a `Layout` never has to
//! check it again.

mod apportion;
mod assign;
mod before;
mod build;
#[cfg(test)]
mod changes;
mod check;
pub mod control;
pub(crate) mod form;
mod handovers;
mod layout;
mod members;
#[cfg(test)]
mod moves;
mod owner;
mod place;
mod sites;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod testing_handovers;
#[cfg(test)]
mod tests;

pub use build::LayoutPolicy;
pub(crate) use check::ascending;
pub use handovers::{Departure, Draining, Handovers, Holdout, Previous};
pub(crate) use layout::Parts as LayoutParts;
pub use layout::{Layout, NumberedDataCenter, NumberedMachine, Row, Standing};
pub use owner::{DataCenterIndex, Epoch, MachineIndex, Owner};
