//! How far is it? Round-trip times between data centers, and from data centers to an origin.

use core::fmt;
use core::ops::Add;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Coordinates, Fleet};
use crate::error::{Error, Result};
use crate::id::DataCenterId;

/// A round-trip time in whole microseconds. Sums saturate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latency(u32);

/// Radius of the sphere that has the Earth's volume, in kilometres (WGS 84).
const EARTH_KM: f64 = 6_371.000_8;

/// There and back through fibre, where light needs 5 microseconds for a kilometre, along a path that is half as long
/// again as the great circle.
const MICROS_PER_KM: f64 = 2.0 * 5.0 * 1.5;

impl Latency {
    /// No time at all: to oneself.
    pub const ZERO: Self = Self(0);

    /// A round trip of `micros` microseconds.
    pub const fn from_micros(micros: u32) -> Self {
        Self(micros)
    }

    /// Microseconds.
    pub const fn as_micros(self) -> u32 {
        self.0
    }

    /// Milliseconds.
    pub fn as_millis(self) -> f64 {
        f64::from(self.0) / 1e3
    }

    /// What a round trip between two places takes about, when nobody has measured it: 15 microseconds for each kilometre
    /// of the great circle.
    pub fn estimated(from: Coordinates, to: Coordinates) -> Self {
        let [from_latitude, to_latitude] = [from, to].map(|place| place.latitude().to_radians());
        let longitudes = (to.longitude() - from.longitude()).to_radians();
        // The haversine: exact for near places too, and at most 1 but for rounding.
        let half_chord = ((to_latitude - from_latitude) / 2.0).sin().powi(2)
            + from_latitude.cos() * to_latitude.cos() * (longitudes / 2.0).sin().powi(2);
        let kilometres = 2.0 * EARTH_KM * half_chord.min(1.0).sqrt().asin();
        Self((kilometres * MICROS_PER_KM).round() as u32) // At most 20,016 km: it fits.
    }

    /// How much longer than `other`; zero if it is not.
    pub const fn beyond(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Latency {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} ms", self.0 / 1_000, self.0 % 1_000)
    }
}

/// Round-trip times from each data center of a fleet to each other one. What nobody knows is out of reach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Latencies {
    /// In order.
    data_centers: Vec<DataCenterId>,
    /// A row for each data center to start from.
    round_trips: Vec<Option<Latency>>,
}

impl Latencies {
    /// What follows from coordinates ([`Latency::estimated`]): all are in reach of all.
    pub fn estimated(fleet: &Fleet) -> Self {
        let mut latencies = Self::unknown(fleet);
        latencies.fill_in(fleet);
        latencies
    }

    /// What was measured: from, to, round trip. A pair that was measured in one direction counts for the other too.
    ///
    /// # Errors
    /// Nothing was measured at all; an unknown data center; a pair that is there twice, or of one data center.
    pub fn measured(
        fleet: &Fleet,
        rows: impl IntoIterator<Item = (DataCenterId, DataCenterId, Latency)>,
    ) -> Result<Self> {
        let mut latencies = Self::unknown(fleet);
        let mut pairs = BTreeMap::new();
        for (from, to, latency) in rows {
            let [row, column] = [&from, &to].map(|id| latencies.position(id).ok_or_else(|| unknown(id)));
            let (row, column) = (row?, column?);
            if row == column {
                return Err(Error::input(format!("a latency from {from} to itself; leave it out, it is 0")));
            }
            if pairs.insert((row, column), latency).is_some() {
                return Err(Error::input(format!("the latency from {from} to {to} is there twice")));
            }
        }
        if pairs.is_empty() && latencies.data_centers.len() > 1 {
            return Err(Error::input(format!(
                "the latency matrix is empty; give round trips between the {} data centers, or take the estimate from \
                 their coordinates",
                latencies.data_centers.len()
            )));
        }
        let width = latencies.data_centers.len();
        for (&(row, column), &latency) in &pairs {
            latencies.round_trips[row * width + column] = Some(latency);
            if !pairs.contains_key(&(column, row)) {
                latencies.round_trips[column * width + row] = Some(latency);
            }
        }
        Ok(latencies)
    }

    /// With estimates from coordinates where nothing was measured.
    #[must_use]
    pub fn or_estimated(mut self, fleet: &Fleet) -> Self {
        self.fill_in(fleet);
        self
    }

    /// The data centers, in order; a position in this list is what [`Latencies::at`] takes.
    pub fn data_centers(&self) -> &[DataCenterId] {
        &self.data_centers
    }

    /// Where a data center is in [`Latencies::data_centers`].
    pub fn position(&self, id: &DataCenterId) -> Option<usize> {
        self.data_centers.binary_search(id).ok()
    }

    /// The round trip between two data centers; none if one cannot be reached from the other, or is unknown.
    pub fn get(&self, from: &DataCenterId, to: &DataCenterId) -> Option<Latency> {
        self.at(self.position(from)?, self.position(to)?)
    }

    /// As [`Latencies::get`], by positions.
    ///
    /// # Panics
    /// If there is no such position.
    pub fn at(&self, from: usize, to: usize) -> Option<Latency> {
        self.round_trips[from * self.data_centers.len() + to]
    }

    fn unknown(fleet: &Fleet) -> Self {
        let data_centers: Vec<_> = fleet.data_centers().map(|dc| dc.id.clone()).collect();
        let width = data_centers.len();
        let mut round_trips = vec![None; width * width];
        for nth in 0..width {
            round_trips[nth * width + nth] = Some(Latency::ZERO);
        }
        Self { data_centers, round_trips }
    }

    fn fill_in(&mut self, fleet: &Fleet) {
        let places: Vec<_> =
            self.data_centers.iter().map(|id| fleet.data_center(id).map(|dc| dc.coordinates)).collect();
        let pairs = places.iter().flat_map(|from| places.iter().map(move |to| from.zip(*to)));
        for (round_trip, pair) in self.round_trips.iter_mut().zip(pairs) {
            if let (None, Some((from, to))) = (&round_trip, pair) {
                *round_trip = Some(Latency::estimated(from, to));
            }
        }
    }
}

/// Round-trip times from data centers to one origin. A data center that is not in it cannot reach the origin.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach(BTreeMap<DataCenterId, Latency>);

impl Reach {
    /// What follows from coordinates ([`Latency::estimated`]): every data center reaches it.
    pub fn estimated(fleet: &Fleet, origin: Coordinates) -> Self {
        let round_trip = |at| Latency::estimated(at, origin);
        Self(fleet.data_centers().map(|dc| (dc.id.clone(), round_trip(dc.coordinates))).collect())
    }

    /// What was measured.
    ///
    /// # Errors
    /// Nothing was measured at all; an unknown data center, or one that is there twice.
    pub fn measured(fleet: &Fleet, rows: impl IntoIterator<Item = (DataCenterId, Latency)>) -> Result<Self> {
        let mut reach = BTreeMap::new();
        for (id, latency) in rows {
            if fleet.data_center(&id).is_none() {
                return Err(unknown(&id));
            }
            if reach.insert(id.clone(), latency).is_some() {
                return Err(Error::input(format!("the latency from {id} to the origin is there twice")));
            }
        }
        if reach.is_empty() {
            return Err(Error::input(
                "no data center reaches the origin; give a round trip from at least one",
            ));
        }
        Ok(Self(reach))
    }

    /// The round trip from a data center to the origin; none if it cannot reach it.
    pub fn get(&self, from: &DataCenterId) -> Option<Latency> {
        self.0.get(from).copied()
    }

    /// Who reaches it, by code.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&DataCenterId, Latency)> {
        self.0.iter().map(|(id, latency)| (id, *latency))
    }
}

fn unknown(id: &DataCenterId) -> Error {
    Error::input(format!("a latency of data center {id}, which does not exist"))
}

#[cfg(test)]
mod tests {
    use super::super::{DataCenter, Partition};
    use super::*;

    fn place(latitude: f64, longitude: f64) -> Coordinates {
        Coordinates::new(latitude, longitude).unwrap()
    }

    fn id(code: &str) -> DataCenterId {
        code.parse().unwrap()
    }

    fn fleet() -> Fleet {
        let data_center = |code, coordinates| DataCenter {
            id: id(code),
            city: code.into(),
            coordinates,
            partition: Partition::Global,
        };
        let places =
            [("fra", place(50.11, 8.68)), ("lhr", place(51.47, -0.45)), ("syd", place(-33.87, 151.21))];
        Fleet::new(places.map(|(code, at)| data_center(code, at)), []).unwrap()
    }

    #[test]
    fn great_circles_are_as_long_as_they_are() {
        // Paris to New York is 5,837 km, pole to pole half of 40,030 km, and the date line is no wall.
        let km = |from, to| f64::from(Latency::estimated(from, to).as_micros()) / MICROS_PER_KM;
        let paris_to_new_york = km(place(48.8566, 2.3522), place(40.7128, -74.006));
        assert!((paris_to_new_york - 5_837.0).abs() < 5.0, "{paris_to_new_york}");
        assert!((km(place(90.0, 0.0), place(-90.0, 77.0)) - 20_015.0).abs() < 2.0);
        assert!((km(place(0.0, 179.9), place(0.0, -179.9)) - 22.24).abs() < 0.1);
        assert_eq!(Latency::estimated(place(1.0, 2.0), place(1.0, 2.0)), Latency::ZERO);
    }

    #[test]
    fn what_was_measured_one_way_counts_both_ways_and_the_rest_is_unknown_or_estimated() {
        let fleet = fleet();
        let ms = |ms: u32| Latency::from_micros(ms * 1_000);
        let measured = Latencies::measured(&fleet, [(id("fra"), id("lhr"), ms(12))]).unwrap();
        assert_eq!(measured.get(&id("lhr"), &id("fra")), Some(ms(12)));
        assert_eq!(measured.get(&id("fra"), &id("fra")), Some(Latency::ZERO));
        assert_eq!(measured.get(&id("fra"), &id("syd")), None);
        let both = [(id("fra"), id("lhr"), ms(12)), (id("lhr"), id("fra"), ms(15))];
        let both = Latencies::measured(&fleet, both).unwrap().or_estimated(&fleet);
        assert_eq!(both.get(&id("lhr"), &id("fra")), Some(ms(15)));
        assert_eq!(
            both.get(&id("fra"), &id("syd")),
            Latencies::estimated(&fleet).get(&id("syd"), &id("fra"))
        );
        assert_eq!(Latency::from_micros(12_034).to_string(), "12.034 ms");
    }

    #[test]
    fn refusals_name_the_value() {
        let fleet = fleet();
        let refused = |rows: &[(&str, &str)]| {
            let rows = rows.iter().map(|(from, to)| (id(from), id(to), Latency::ZERO));
            Latencies::measured(&fleet, rows).unwrap_err().to_string()
        };
        assert!(
            refused(&[]).contains("the latency matrix is empty; give round trips between the 3 data centers")
        );
        assert!(refused(&[("fra", "xxx")]).contains("data center xxx, which does not exist"));
        assert!(refused(&[("fra", "fra")]).contains("from fra to itself"));
        assert!(refused(&[("fra", "syd"), ("fra", "syd")]).contains("from fra to syd is there twice"));
        assert!(Reach::measured(&fleet, []).unwrap_err().to_string().contains("no data center reaches"));
        let twice = ["fra", "fra"].map(|code| (id(code), Latency::ZERO));
        assert!(Reach::measured(&fleet, twice).is_err());
    }
}
