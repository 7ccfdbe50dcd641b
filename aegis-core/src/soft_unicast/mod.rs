//! Whose packet is this?
//!
//! A returning packet carries (egress IP, port). A [`Table`] answers at once which machine owns it, from one layout;
//! it is immutable, and a new layout gets a new table. [`Published`](crate::snapshot::Published) swaps tables under
//! running readers.

mod overlay;
mod row_index;
mod table;
mod v6;

pub use crate::epoch::{DataCenterIndex, MachineIndex, Owner};
pub use table::Table;
