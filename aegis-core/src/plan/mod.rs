//! How many addresses does it take, where, and what would a day be like ([`replay`])?
//!
//! ```text
//! demand by origin and ingress --> sizing: 40,000 rule, 80 % rule, refusals of uneven shares, loss of a data center
//!                                     |
//! fleet, latencies, wishes -------> placement: least mean round trip, with a proven bound --> layout, checked against it
//!                                     |
//!                          explanation, comparison with IPv6, section of a fleet file
//! ```
//!
//! A worked example: the article's figures, and where its rule of 40,000 is too cautious or too optimistic.
//!
//! ```
//! use core::time::Duration;
//! use aegis_core::capacity::planned_ports;
//! use aegis_core::fleet::{Coordinates, Latencies, Reach};
//! use aegis_core::fleet_file::FleetFile;
//! use aegis_core::limits::RECOMMENDED_CONNECTIONS;
//! use aegis_core::plan::{Constraints, Imbalance, Traffic, Loss, OriginDemand, Prices, Refusals, Rule, Shares, plan};
//! use aegis_core::slices::Cut;
//!
//! // 31 shares of 2,048 ports; 4 data centers for each address; 40,000 connections; 80 % of the ports.
//! let cut = Cut::default();
//! assert_eq!(cut.granules().count(), 31);
//! assert_eq!(Constraints::default().policy.data_centers_per_address, 4);
//! assert_eq!(RECOMMENDED_CONNECTIONS, 40_000);
//! assert_eq!(planned_ports(64_512), 51_609);
//!
//! // Too cautious: one machine with all ports of an address refuses nobody at 51,609 connections (of 64,512 ports), nor at
//! // 60,000. Uneven load cannot touch one machine.
//! let (target, uneven) = (Refusals::new(1e-4)?, Imbalance::new(1.3)?);
//! assert_eq!(Shares::equal(1, 64_512).planned(target, uneven), 51_609);
//! assert!(Shares::equal(1, 64_512).refused(60_000.0, uneven) < 1e-9);
//!
//! // Too optimistic: the same address cut for 4 data centers, 8 machines at one of them with a granule each. That slice has
//! // 16,384 ports, and a quarter of 40,000 is 10,000. But 60 % of this customer's traffic leaves there: 24,000. One
//! // connection in three is refused, at 40,000 for the address.
//! let slice = Shares::equal(8, 2_048);
//! assert_eq!(slice.ports(), 16_384);
//! assert!(slice.refused(24_000.0, uneven) > 0.3);
//! // Even where it is a third, the machine that gets twice its part is full long before: one in ten is refused.
//! let refused = slice.refused(40_000.0 / 3.0, Imbalance::new(2.0)?);
//! assert!((0.09..0.10).contains(&refused), "{refused}");
//! assert!(slice.load_at(target, Imbalance::new(2.0)?) < 8_000);
//!
//! // So a plan asks all rules. The fleet of the example file, an origin in Frankfurt, 38,500 connections at the peak:
//! let fleet = FleetFile::parse("fleet.toml", include_str!("../../examples/fleet.toml"))?.fleet;
//! let reach = || Reach::estimated(&fleet, Coordinates::new(50.1, 8.7).expect("on Earth"));
//! let demand = |peak| {
//!     let ingress = [("fra", 4.0), ("lhr", 3.0), ("iad", 2.0), ("sin", 1.0)];
//!     let ingress = ingress.map(|(id, weight)| (id.parse().expect("a name"), weight));
//!     let load = Traffic::Connections { peak, closes_per_second: 0.0 };
//!     OriginDemand::new("shop".parse().expect("a name"), load, Duration::ZERO, ingress, reach())
//! };
//! let latencies = Latencies::estimated(&fleet);
//! // One address carries it by the rule of 40,000. But not if one of its four data centers is lost.
//! let accepting = Constraints { loss: Loss::Accepted, ..Constraints::default() };
//! let one = plan(&fleet, &latencies, &[demand(38_000.0)?], &accepting)?;
//! assert_eq!((one.sizing.addresses, one.sizing.decided_by), (1, Rule::Recommended));
//! let two = plan(&fleet, &latencies, &[demand(38_500.0)?], &Constraints::default())?;
//! assert_eq!((two.sizing.addresses, two.sizing.decided_by), (2, Rule::Loss));
//! assert!(two.addresses.iter().all(|sites| sites.len() == 4));
//! assert!(two.gap < 0.05);
//! println!("{two}"); // Which rule asked for what, where and why each data center, what breaks first.
//!
//! // Two /64 are more than 36 quintillion addresses.
//! let comparison = two.compare(&fleet, &Prices::default())?;
//! assert_eq!(comparison.v6.addresses, 36_893_488_147_419_103_232);
//! assert_eq!(comparison.v4.points_of_egress, 2 * 4);
//! println!("{comparison}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # About 50,000 times
//!
//! The article says that IPv6 has about 50,000 times the capacity, and not of what. The number of addresses is no answer:
//! two `/64` are 10^19 times an address. Capacity towards one origin is ports, and in IPv6 every machine has addresses of
//! its own, while an IPv4 address has its ports once in the whole network. So the factor is the number of machines times
//! what each has, over what the IPv4 addresses have. If each machine used one IPv6 address with as many ports as an IPv4
//! address has, 50,000 times one IPv4 address would be 50,000 machines. Here a machine uses 256 addresses of each of two
//! `/64` and one granule of 2,048 ports of each, 16.5 times what an IPv4 address has: 50,000 times are 3,028 machines, nine
//! or ten in each of 330 data centers. [`Plan::compare`] shows the arithmetic for the fleet at hand.
//!
//! ```
//! let (machines, addresses, granule, v4) = (3_028_u64, 2 * 256_u64, 2_048_u64, 31 * 2_048_u64);
//! assert_eq!(machines * addresses * granule / v4, 50_010);
//! ```

mod blocking;
mod candidates;
mod compare;
mod constraints;
mod demand;
mod explain;
mod output;
pub mod placement;
pub mod replay;
mod run;
mod sizing;

#[cfg(test)]
mod tests;

pub use blocking::{Imbalance, Refusals, Shares};
pub use compare::{Advice, Comparison, Prices, Side};
pub use constraints::Constraints;
pub use demand::{OriginDemand, Traffic};
pub use explain::{Break, Exit, Limit, WorstLoss};
pub use output::Rented;
pub use placement::{Cities, Loss};
pub use run::{Plan, Route, plan};
pub use sizing::{Asks, Rule, Sizing};
