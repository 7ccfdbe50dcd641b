//! How is one address cut up? Pure geometry: no owners, no epochs.
//!
//! ```text
//! port 0        2048      4096                                          63488   65535
//!      | reserved | granule | granule |           ...           | granule | granule |   IPv4: 31 granules of 2,048
//!                 `--- slice of one data center ---'`--- slice of another ... ---'
//!                  share: the granules of one machine
//!
//! 2001:db8:0:1 : 0002 : 0011 : 0000 : 0001                                             IPv6: no port slicing
//! /64 prefix     data   machine host, from 1
//!                center
//! ```
//!
//! ```
//! use aegis_core::slices::Cut;
//!
//! let cut = Cut::default();
//! assert_eq!(cut.granules().count(), 31);
//! assert_eq!(cut.range(1).unwrap().to_string(), "2048-4095");
//! assert_eq!(cut.granule_of(2_047), None); // reserved: nobody's, never a neighbour's
//! ```

mod cut;
mod equal_parts;
mod granule_size;
mod v6_fields;

pub use cut::Cut;
pub use equal_parts::EqualParts;
pub use granule_size::GranuleSize;
pub use v6_fields::V6Fields;
