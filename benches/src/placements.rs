//! Plans for a world of 330 data centers.

use std::time::{Duration, Instant};

use aegis_core::fleet::{Coordinates, Fleet, Latencies, Reach};
use aegis_core::plan::{Constraints, OriginDemand, Plan, Traffic, plan};

use crate::rounds::median;

use crate::world;

/// Milliseconds of a whole plan with exactly so many addresses, median of `rounds`, and what it is proven to be within of
/// the best placement, in percent. All data centers have 8 machines; traffic is by inhabitants, and as much as leaves
/// `spare` percent of what the addresses are planned for.
///
/// # Panics
/// The world is not a possible one.
pub fn measure(addresses: u32, origins: usize, spare: u32, rounds: usize) -> Vec<f64> {
    let fleet = world::fleet(|_| 8);
    let latencies = Latencies::estimated(&fleet);
    let demands = demands(&fleet, origins, f64::from(addresses) * f64::from(100 - spare) * 500.0);
    let constraints = Constraints { addresses: Some(addresses), ..Constraints::default() };
    let mut took = Vec::new();
    let mut gap = 0.0;
    for _ in 0..rounds {
        let start = Instant::now();
        let Plan { gap: within, .. } = plan(&fleet, &latencies, &demands, &constraints).expect("all fits");
        took.push(start.elapsed().as_secs_f64() * 1e3);
        gap = within;
    }
    vec![median(took), gap * 100.0]
}

/// To origins in Frankfurt, Ashburn and Singapore.
fn demands(fleet: &Fleet, origins: usize, peak: f64) -> Vec<OriginDemand> {
    let places = [(50.1, 8.7), (39.0, -77.5), (1.35, 103.8)];
    let demand = |(nth, (latitude, longitude)): (usize, (f64, f64))| {
        let reach = Reach::estimated(fleet, Coordinates::new(latitude, longitude).expect("on Earth"));
        let load = Traffic::Connections { peak, closes_per_second: 0.0 };
        let ingress = world::sites().into_iter().map(|site| (site.data_center.id, f64::from(site.weight)));
        let origin = format!("origin-{nth}").parse().expect("a name");
        OriginDemand::new(origin, load, Duration::ZERO, ingress, reach).expect("a demand")
    };
    places.into_iter().enumerate().take(origins).map(demand).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_one_is_measured() {
        assert_eq!(measure(2, 1, 40, 1).len(), 2);
    }
}
