//! Exits, over a world of 330 data centers.

#[path = "world/mod.rs"]
pub mod world;

use std::collections::BTreeSet;

use aegis_core::fleet::Latency;

#[test]
fn the_world_is_a_plausible_one() {
    let sites = world::sites();
    assert_eq!(sites.len(), 330);
    assert!(sites.is_sorted_by(|a, b| a.data_center.id < b.data_center.id));
    assert!(sites.iter().all(|site| site.weight > 0));
    let cities: BTreeSet<_> = sites.iter().map(|site| &site.data_center.city).collect();
    assert!((300..330).contains(&cities.len()), "{}", cities.len());
    // Data centers of one city are near each other: 1.5 ms is 100 km of great circle.
    for (nth, a) in sites.iter().enumerate() {
        for b in &sites[..nth] {
            let [a, b] = [a, b].map(|site| &site.data_center);
            let latency = Latency::estimated(a.coordinates, b.coordinates);
            assert!(a.city != b.city || latency < Latency::from_micros(1_500), "{} {} {latency}", a.id, b.id);
        }
    }
    assert_eq!(
        world::fleet(|site| usize::from(site.weight > 1_000)).machines_in(&world::id("lhr")).count(),
        1
    );
}
