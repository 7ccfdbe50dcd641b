//! Where should it leave?
//!
//! A request enters at one machine and must leave from an address that only some data centers hold a slice of. Three
//! steps, from rare to frequent:
//!
//! 1. [`Sites`]: who holds shares of the pool; once for each pool and epoch.
//! 2. [`Ranking`]: these sites in order, as seen from here and for one origin, by a [`Criterion`]; once for each
//!    origin, and again when latencies have changed.
//! 3. [`Ranking::choose`]: the first with enough headroom, and a machine there; for each request, without allocating.
//!    [`Ranking::others`] says whom to ask if that one refuses.
//!
//! ```
//! use std::sync::Arc;
//! use aegis_core::exit::{Criterion, Ingress, Ranking, Reason, Sites, SpillOver, Threshold};
//! use aegis_core::fleet::{Coordinates, DataCenter, Fleet, Latencies, Latency, Machine, Partition, Reach};
//!
//! let places = [("fra", 50.03, 8.54), ("lhr", 51.47, -0.46), ("nrt", 35.76, 140.39)];
//! let data_centers = places.map(|(code, latitude, longitude)| DataCenter {
//!     id: code.parse().unwrap(),
//!     city: code.into(),
//!     coordinates: Coordinates::new(latitude, longitude).unwrap(),
//!     partition: Partition::Global,
//! });
//! let machines = places.map(|(code, ..)| Machine {
//!     id: format!("{code}-m1").parse().unwrap(),
//!     data_center: code.parse().unwrap(),
//!     weight: 1,
//! });
//! let fleet = Fleet::new(data_centers, machines)?;
//!
//! // Frankfurt and Tokyo hold slices, the origin is in Paris, and the request has come to London.
//! let sites = Arc::new(Sites::new(&fleet, [("fra-m1".parse()?, 2_048), ("nrt-m1".parse()?, 2_048)])?);
//! let ranking = Ranking::new(
//!     &fleet,
//!     &sites,
//!     &Ingress::Machine("lhr-m1".parse()?),
//!     &Reach::estimated(&fleet, Coordinates::new(48.86, 2.35)?),
//!     &Latencies::estimated(&fleet),
//!     Criterion::TotalLatency,
//! )?;
//!
//! let idle = |_: &_| Some(0); // ports in use towards this origin
//! let exit = ranking.choose(idle, SpillOver::Never, 7)?;
//! assert_eq!(exit.machine().as_str(), "fra-m1");
//! assert!(Latency::from_micros(10_000) < exit.extra_hop(), "London alone would be faster");
//!
//! let busy = |share: &aegis_core::exit::Share| Some(if share.data_center().as_str() == "fra" { 1_900 } else { 0 });
//! let exit = ranking.choose(busy, SpillOver::At(Threshold::percent(80)?), 7)?;
//! assert_eq!((exit.machine().as_str(), exit.reason()), ("nrt-m1", Reason::SpilledOver));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **Separate networks** have no global addresses: they hold no share, nobody leaves there, and who enters there is
//! told to use the normal egress of that network.
//!
//! **IPv6** is not cut into slices, so every data center is a candidate: [`Sites::everywhere`]; the rest is the same.

mod choose;
mod ranking;
mod sites;

pub use choose::{Exit, Full, Reason, SpillOver, Threshold};
pub use ranking::{Criterion, Ingress, Ranking};
pub use sites::{Share, Sites};
