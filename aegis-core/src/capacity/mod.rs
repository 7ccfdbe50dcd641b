//! How full is it, and who must know?
//!
//! [`Load`]s are what was measured, one for each part; [`headroom`] sums them by any [`Dimension`]s and says how much is
//! left to each limit; [`Alerts`] compares the sums with [`Threshold`]s and says what changed.
//!
//! **What adds up.** Ports in use and ports provisioned do, over data centers and machines, which have different ports,
//! and over egress IPs. Over origins they do too, because one port serves one connection *to each* origin: an address
//! with 60,000 ports has room for 60,000 connections to one origin and 120,000 to two. So a sum over origins can be half
//! empty while one of them is full: [`Headroom::fullest`] names it. The recommended number does *not* add up over data
//! centers, machines, accounts or zones: they share the one number of an egress IP and origin.
//!
//! ```
//! use aegis_core::capacity::{Dimension, Group, Limit, Load, Rules, headroom};
//! use aegis_core::net::{Origin, Protocol};
//!
//! let origin = Origin::new(Protocol::Tcp, "203.0.113.150:443".parse()?)?;
//! let egress_ip = Some("192.0.2.1".parse()?);
//! let of = Group { egress_ip, origin: Some(origin), ..Group::default() };
//! let whole_address = Load { of, in_use: 30_000, peak: 31_000, provisioned: 63_488 };
//!
//! let by_origin = headroom(&[whole_address], [Dimension::Origin], &Rules::default());
//! let origin = by_origin.values().next().expect("one origin");
//! assert_eq!(origin.room(Limit::Provisioned).left(), 33_488);
//! assert_eq!(origin.room(Limit::Planned).left(), 20_790); // to 80 % of them
//! assert_eq!(origin.room(Limit::Recommended).left(), 10_000);
//! assert_eq!(origin.binding(), Limit::Recommended);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alerts;
mod erlang;
mod headroom;
mod load;
mod rules;
mod threshold;

pub use alerts::{Alerts, Change, Event};
pub use erlang::erlang_b;
pub use headroom::{Headroom, Limit, Room, headroom};
pub use load::{Dimension, Group, Load};
pub use rules::{Percent, Rules, planned_ports};
pub use threshold::{Level, Threshold};
