//! The world that exits and plans are tried on: 330 data centers where airports really are (`testdata/world.csv`).
//!
//! Tests and benches take it by `#[path = "world/mod.rs"] mod world;`.

#![allow(dead_code, unreachable_pub, reason = "each test takes a part of it, at any depth")]

use aegis_core::fleet::{Coordinates, DataCenter, Fleet, Machine, Partition};
use aegis_core::id::DataCenterId;

/// A row of the file.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where it is.
    pub data_center: DataCenter,
    /// How much traffic enters here, relative to others: thousands of people who live nearest to it.
    pub weight: u32,
}

/// All rows, by code. Data centers in mainland China are in the separate partition `cn`; all others are global.
pub fn sites() -> Vec<Site> {
    let text = include_str!("../../testdata/world.csv");
    text.lines().filter(|line| !line.starts_with('#')).skip(1).map(site).collect()
}

fn site(line: &str) -> Site {
    let [code, city, country, latitude, longitude, weight] =
        line.split(',').collect::<Vec<_>>().try_into().expect("six columns");
    let number = |text: &str| text.parse::<f64>().expect("a number");
    let data_center = DataCenter {
        id: id(code),
        city: format!("{city}, {country}").into(), // There is a Valencia in Spain and one in Venezuela.
        coordinates: Coordinates::new(number(latitude), number(longitude)).expect("on Earth"),
        partition: if country == "CN" { Partition::Separate("cn".into()) } else { Partition::Global },
    };
    Site { data_center, weight: weight.parse().expect("a weight") }
}

/// The whole world, with as many machines in each data center as `machines` says. They are called `fra-m1` to
/// `fra-m999`, and each has weight 1.
pub fn fleet(machines: impl Fn(&Site) -> usize) -> Fleet {
    fleet_of(&sites(), machines)
}

/// As [`fleet`], of these sites only.
pub fn fleet_of(sites: &[Site], machines: impl Fn(&Site) -> usize) -> Fleet {
    let machine = |site: &Site, nth: usize| Machine {
        id: format!("{}-m{nth}", site.data_center.id).parse().expect("a name"),
        data_center: site.data_center.id.clone(),
        weight: 1,
    };
    let all = sites.iter().flat_map(|site| (1..=machines(site)).map(move |nth| machine(site, nth)));
    Fleet::new(sites.iter().map(|site| site.data_center.clone()), all.collect::<Vec<_>>()).expect("one world")
}

/// The id of a data center.
pub fn id(code: &str) -> DataCenterId {
    code.parse().expect("a code")
}
