//! Whose packet is this?
//!
//! A returning packet carries (egress IP, port). A [`Table`] answers at once which machine owns it, from one layout;
//! it is immutable, and a new layout gets a new table. [`Published`](crate::snapshot::Published) swaps tables under
//! running readers. The table for programs in other languages is an [`Image`], its bytes; and a [`History`] says who held
//! a port at an earlier time.

mod history;
pub mod image;
mod overlay;
mod row_index;
mod table;
#[cfg(test)]
mod tests;
mod v6;

pub use crate::epoch::{DataCenterIndex, MachineIndex, Owner};
pub use history::{Held, History, Holder, Role};
pub use image::Image;
pub use table::Table;
