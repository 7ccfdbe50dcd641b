//! Aegis Egress, the model.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod capacity;
pub mod epoch;
pub mod error;
pub mod fleet;
pub mod fleet_file;
pub mod id;
pub mod inventory;
pub mod lease;
pub mod limits;
pub mod net;
pub mod slices;
pub mod soft_unicast;
pub mod sync;
pub mod tenancy;
pub mod time;

pub use error::{Error, ErrorKind, Result};
