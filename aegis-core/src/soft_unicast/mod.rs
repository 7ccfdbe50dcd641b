//! Whose packet is this?
//!
//! A returning packet carries (egress IP, port). A [`Table`] answers at once which machine owns it, from one layout;
//! it is immutable, and a new layout gets a new table.

mod address_index;
mod table;

pub use crate::epoch::{DataCenterIndex, MachineIndex, Owner};
pub use table::Table;
