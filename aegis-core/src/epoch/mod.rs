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
pub(crate) mod form;
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
mod tests;

pub use build::LayoutPolicy;
pub(crate) use check::ascending;
pub(crate) use layout::Parts as LayoutParts;
pub use layout::{Layout, NumberedDataCenter, NumberedMachine, Row};
pub use owner::{DataCenterIndex, Epoch, MachineIndex, Owner};
