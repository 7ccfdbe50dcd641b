//! What if: a day of connections against a layout, before anybody depends on it.
//!
//! Every connection takes a source port from the lease table of the machine that it leaves from, the very
//! [`lease::Table`](crate::lease::Table) that the product uses, and gives it back when it closes: what is refused here
//! would be refused there. Records come from a [`Trace`] or from a synthetic [`Day`]; nothing is kept of them but what is
//! open: 48 bytes for each connection that is live, idle or held, and the pages of the lease tables. Besides, there are
//! 150 bytes for each pair of an ingress and an origin, and where connections spill over 16 more for each site.
//!
//! **Holds and rests.** A port that would be held stays leased for as long as the table would hold it, and nothing rests:
//! what is refused is the same (a test compares), and the table need not look for ended holds at every acquire, because
//! between two of them passes more time here than on a busy machine.
//!
//! **Exits.** Where a connection leaves is chosen as by the product ([`exit`](crate::exit)): the fastest path, there the
//! emptier of two machines at random. The use of each machine is known to the port, which a product's machine may know
//! of others a little late; requests that could share a connection are not led to the same machines.
//!
//! **Alarms.** [`Replay::alarms`] tells what alarms would have been raised.
//!
//! What it does not know: strangers on the hosts, tenures, and which machine of the ingress a request came to.
//!
//! ```
//! use aegis_core::fleet::{Latencies, Reach};
//! use aegis_core::net::{Origin, Protocol};
//! use aegis_core::plan::replay::{Day, Demand, Paths, Replay, Settings};
//! use aegis_core::{epoch::Epoch, fleet_file::FleetFile};
//!
//! let file = FleetFile::parse("fleet.toml", include_str!("../../../examples/fleet.toml"))?;
//! let layout = file.layout(None, Epoch::new(1))?;
//! let pool = file.inventory.pools().next().expect("the example has a pool");
//! let origin = Origin::new(Protocol::Tcp, "203.0.113.10:443".parse()?)?;
//! let frankfurt = file.fleet.data_center(&"fra".parse()?).expect("the example has it");
//! let reach = Reach::estimated(&file.fleet, frankfurt.coordinates);
//! let paths = Paths::new(Latencies::estimated(&file.fleet), [(origin, reach)])?;
//!
//! // Ten connections a second enter in Frankfurt, each for ten seconds on average; an hour of that.
//! let demand = Demand {
//!     ingresses: vec![(paths.ingress(&frankfurt.id).expect("known"), frankfurt.coordinates, 10.0)],
//!     origins: vec![(paths.target(&origin).expect("known"), 1)],
//!     ..Demand::default()
//! };
//! let settings = Settings { until: aegis_core::time::Time::from_millis(3_600_000), ..Settings::default() };
//! let day = Day::new(&demand, settings.from, [1; 32])?;
//!
//! let outcome = Replay::new(&file.fleet, &layout, &pool.prefixes, &paths, &settings)?.run(day.map(Ok), &mut ())?;
//! assert_eq!(outcome.totals.refused, 0);
//! assert!(outcome.totals.opened > 10_000); // It is past midnight in Frankfurt: fewer than 36,000.
//! assert!(outcome.uses.iter().map(|used| used.max).max() > Some(30));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alarms;
mod calendar;
mod day;
mod machines;
mod memory;
mod outcome;
mod paths;
mod run;
mod settings;
#[cfg(test)]
mod tests;
mod trace;
mod uses;
mod variates;

pub use alarms::Alarms;
pub use day::{Curve, Day, Demand, Lasting};
pub use outcome::{ExtraHop, FirstRefusal, Interval, Outcome, Progress, Refused, Totals, Use, Watch};
pub use paths::{Ingress, Paths, Target};
pub use run::Replay;
pub use settings::{Reuse, Settings};
pub use trace::{Record, Trace};
