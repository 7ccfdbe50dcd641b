//! What is to be carried: connections to each origin, and where they come from.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::fleet::Reach;
use crate::id::{DataCenterId, OriginId};

/// The most of anything that a demand may ask for.
const MOST: f64 = 1e12;

/// How much there is to do at the peak.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Traffic {
    /// So many connections are open at once.
    Connections {
        /// Concurrent connections.
        peak: f64,
        /// How many of them end per second; 0 if that is not known, and then nothing is added for holds.
        closes_per_second: f64,
    },
    /// So many requests, over connections that are used again.
    Requests {
        /// Requests per second.
        per_second: f64,
        /// The reuse ratio: requests that one connection carries in its life. 1 in the worst case.
        per_connection: f64,
        /// How long a connection is open.
        open_for: Duration,
    },
}

/// The demand of one origin: peak concurrent connections by the data center that the requests enter at.
#[derive(Clone, PartialEq, Debug)]
pub struct OriginDemand {
    origin: OriginId,
    load: Traffic,
    hold: Duration,
    connections: u64,
    ingress: BTreeMap<DataCenterId, u64>,
    reach: Reach,
}

impl OriginDemand {
    /// The demand of `origin`, which enters at these data centers in proportion to these numbers (fractions, connections,
    /// anything), and leaves from where `reach` has a way. After a connection has ended its port is on hold for `hold` on
    /// average: closes per second times that are ports which carry nothing (Little's law).
    ///
    /// # Errors
    /// A number that is not one, negative or above 10^12; fewer than one request per connection; nothing to carry at
    /// all; an ingress data center that is there twice. The message names origin and field.
    pub fn new(
        origin: OriginId,
        load: Traffic,
        hold: Duration,
        ingress: impl IntoIterator<Item = (DataCenterId, f64)>,
        reach: Reach,
    ) -> Result<Self> {
        let checked = |field: &str, value: f64| quantity(&origin, field, value);
        let (open, closes) = match load {
            Traffic::Connections { peak, closes_per_second } => {
                (checked("peak", peak)?, checked("closes_per_second", closes_per_second)?)
            }
            Traffic::Requests { per_second, per_connection, open_for } => {
                let (rate, reuse) =
                    (checked("per_second", per_second)?, checked("per_connection", per_connection)?);
                if reuse < 1.0 {
                    return Err(Error::input(format!(
                        "origin {origin}, per_connection: {reuse} requests per connection; a connection carries at least 1"
                    )));
                }
                (rate / reuse * open_for.as_secs_f64(), rate / reuse)
            }
        };
        let all = checked("connections", open + closes * hold.as_secs_f64())?.ceil() as u64;
        if all == 0 {
            return Err(Error::input(format!(
                "origin {origin} has no connections; leave it out, or give its peak"
            )));
        }
        let mut weights = BTreeMap::new();
        for (id, weight) in ingress {
            let weight = checked(&format!("ingress {id}"), weight)?;
            if weights.insert(id.clone(), weight).is_some() {
                return Err(Error::input(format!(
                    "origin {origin}: ingress data center {id} is there twice"
                )));
            }
        }
        let sum: f64 = weights.values().sum();
        if sum <= 0.0 {
            return Err(Error::input(format!(
                "origin {origin} has no traffic at any ingress data center; give at least one a number above 0"
            )));
        }
        Ok(Self { ingress: split(all, &weights, sum), origin, load, hold, connections: all, reach })
    }

    /// The origin's name.
    pub const fn origin(&self) -> &OriginId {
        &self.origin
    }

    /// What it was made of.
    pub const fn load(&self) -> Traffic {
        self.load
    }

    /// How long a port is on hold after a connection, on average.
    pub const fn hold(&self) -> Duration {
        self.hold
    }

    /// Ports in use at once at the peak: open connections and those on hold, rounded up.
    pub const fn connections(&self) -> u64 {
        self.connections
    }

    /// The same by ingress data center; together exactly [`OriginDemand::connections`].
    pub const fn ingress(&self) -> &BTreeMap<DataCenterId, u64> {
        &self.ingress
    }

    /// From where the origin is reached, and how far it is.
    pub const fn reach(&self) -> &Reach {
        &self.reach
    }
}

fn quantity(origin: &OriginId, field: &str, value: f64) -> Result<f64> {
    // A NaN is inside no range, so it is refused here too.
    if (0.0..=MOST).contains(&value) {
        return Ok(value);
    }
    Err(Error::input(format!("origin {origin}, {field}: {value} is not a number from 0 to 10^12")))
}

/// Largest remainders: the parts are whole and add up.
fn split(all: u64, weights: &BTreeMap<DataCenterId, f64>, sum: f64) -> BTreeMap<DataCenterId, u64> {
    let exact: Vec<(&DataCenterId, f64)> =
        weights.iter().map(|(id, weight)| (id, all as f64 * (weight / sum))).collect();
    let mut parts: Vec<(&DataCenterId, u64)> =
        exact.iter().map(|(id, exact)| (*id, exact.floor() as u64)).collect();
    let mut order: Vec<usize> = (0..parts.len()).filter(|at| exact[*at].1 > 0.0).collect();
    order.sort_by(|a, b| exact[*b].1.fract().total_cmp(&exact[*a].1.fract()).then(a.cmp(b)));
    let given: u64 = parts.iter().map(|(_, part)| part).sum();
    // Rounding may also have given a few too many: then the largest parts give them back.
    for at in order.iter().cycle().take(usize::try_from(all.saturating_sub(given)).unwrap_or(0)) {
        parts[*at].1 += 1;
    }
    for _ in all..given {
        if let Some(largest) = parts.iter_mut().max_by_key(|(_, part)| *part) {
            largest.1 -= 1;
        }
    }
    parts.into_iter().filter(|(_, part)| *part > 0).map(|(id, part)| (id.clone(), part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Coordinates, DataCenter, Fleet, Latency, Partition};

    fn reach() -> Reach {
        let fra = DataCenter {
            id: "fra".parse().unwrap(),
            city: "Frankfurt".into(),
            coordinates: Coordinates::new(50.0, 8.0).unwrap(),
            partition: Partition::Global,
        };
        let fleet = Fleet::new([fra], []).unwrap();
        Reach::measured(&fleet, [("fra".parse().unwrap(), Latency::ZERO)]).unwrap()
    }

    fn demand(load: Traffic, hold: u64, ingress: &[(&str, f64)]) -> Result<OriginDemand> {
        let ingress = ingress.iter().map(|(id, weight)| (id.parse().unwrap(), *weight));
        OriginDemand::new("shop".parse().unwrap(), load, Duration::from_secs(hold), ingress, reach())
    }

    #[test]
    fn requests_become_connections_by_their_duration_and_reuse_and_holds_come_on_top() {
        let load = Traffic::Requests {
            per_second: 9_000.0,
            per_connection: 3.0,
            open_for: Duration::from_millis(500),
        };
        // 3,000 connections a second, half a second each, and 69 s on hold.
        assert_eq!(demand(load, 0, &[("fra", 1.0)]).unwrap().connections(), 1_500);
        assert_eq!(demand(load, 69, &[("fra", 1.0)]).unwrap().connections(), 1_500 + 207_000);
        let load = Traffic::Connections { peak: 100.5, closes_per_second: 2.0 };
        assert_eq!(demand(load, 10, &[("fra", 1.0)]).unwrap().connections(), 121);
    }

    #[test]
    fn the_parts_of_the_ingress_are_whole_and_add_up() {
        let load = Traffic::Connections { peak: 100.0, closes_per_second: 0.0 };
        let demand = demand(load, 0, &[("ams", 1.0), ("fra", 1.0), ("lhr", 1.0), ("cdg", 0.0)]).unwrap();
        let parts: Vec<u64> = demand.ingress().values().copied().collect();
        assert_eq!(parts, [34, 33, 33]);
    }

    #[test]
    fn absurd_demands_are_refused_by_origin_and_field() {
        let peak = |peak| Traffic::Connections { peak, closes_per_second: 0.0 };
        let requests = |per_second, per_connection, millis| Traffic::Requests {
            per_second,
            per_connection,
            open_for: Duration::from_millis(millis),
        };
        let one: &[(&str, f64)] = &[("fra", 1.0)];
        for (load, ingress, words) in [
            (peak(f64::NAN), one, "origin shop, peak: NaN is not a number from 0 to 10^12"),
            (peak(-1.0), one, "origin shop, peak: -1"),
            (peak(1e13), one, "origin shop, peak: 10000000000000"),
            (peak(f64::INFINITY), one, "origin shop, peak: inf"),
            (peak(0.0), one, "origin shop has no connections"),
            (peak(1.0), &[], "origin shop has no traffic at any ingress"),
            (peak(1.0), &[("fra", 0.0)], "origin shop has no traffic at any ingress"),
            (peak(1.0), &[("fra", f64::NAN)], "origin shop, ingress fra: NaN"),
            (peak(1.0), &[("fra", 1.0), ("fra", 1.0)], "origin shop: ingress data center fra is there twice"),
            (requests(1.0, 0.5, 1), one, "origin shop, per_connection: 0.5 requests per connection"),
            (requests(f64::NAN, 1.0, 1), one, "origin shop, per_second: NaN"),
            (requests(1e12, 1.0, u64::MAX), one, "origin shop, connections: "),
        ] {
            let e = demand(load, 0, ingress).unwrap_err();
            assert!(e.message().starts_with(words), "{e}");
        }
    }
}
