//! Which places and machines exist?

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Item, Refusal, Result, unique};
use crate::id::{DataCenterId, MachineId};

mod latency;

pub use latency::{Latencies, Latency, Reach};

/// A place on Earth in millionths of a degree (WGS 84), so that it compares and serialises exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "UncheckedCoordinates")]
pub struct Coordinates {
    latitude_e6: i32,
    longitude_e6: i32,
}

impl Coordinates {
    /// The place at `latitude` (north is positive) and `longitude` (east is positive), in degrees, rounded to
    /// millionths.
    ///
    /// # Errors
    /// A latitude beyond 90 degrees, a longitude beyond 180, or one that is not a number.
    pub fn new(latitude: f64, longitude: f64) -> Result<Self> {
        Self::checked(latitude, longitude).map_err(|(_, reason)| Error::input(reason))
    }

    /// As [`Coordinates::new`]; the error says which of the two fields is wrong.
    pub(crate) fn checked(latitude: f64, longitude: f64) -> Result<Self, (&'static str, String)> {
        let millionths = |field: &'static str, degrees: f64, limit: f64| {
            // A NaN is inside no range, so it is refused here too.
            if (-limit..=limit).contains(&degrees) {
                Ok((degrees * 1e6).round() as i32) // At most 180 million: the cast is exact.
            } else {
                Err((
                    field,
                    format!("{field} {degrees} is no place on Earth; expected -{limit} to {limit} degrees"),
                ))
            }
        };
        Ok(Self {
            latitude_e6: millionths("latitude", latitude, 90.0)?,
            longitude_e6: millionths("longitude", longitude, 180.0)?,
        })
    }

    /// Degrees north, -90 to 90.
    pub fn latitude(&self) -> f64 {
        f64::from(self.latitude_e6) / 1e6
    }

    /// Degrees east, -180 to 180.
    pub fn longitude(&self) -> f64 {
        f64::from(self.longitude_e6) / 1e6
    }
}

/// What bytes from outside may claim.
#[derive(Deserialize)]
struct UncheckedCoordinates {
    latitude_e6: i32,
    longitude_e6: i32,
}

impl TryFrom<UncheckedCoordinates> for Coordinates {
    type Error = Error;

    fn try_from(raw: UncheckedCoordinates) -> Result<Self> {
        Self::new(f64::from(raw.latitude_e6) / 1e6, f64::from(raw.longitude_e6) / 1e6)
    }
}

/// The part of the network that a data center belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Partition {
    /// The global network.
    Global,
    /// A network of its own, which gets no global addresses.
    Separate(Box<str>),
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Global => "global",
            Self::Separate(name) => name,
        })
    }
}

impl FromStr for Partition {
    type Err = Error;

    /// `"global"`, or the name of a separate network.
    fn from_str(name: &str) -> Result<Self> {
        // Strict, because "Global" or "" would otherwise quietly take a data center out of the global network.
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match name {
            "global" => Ok(Self::Global),
            _ if !name.is_empty() && name.bytes().all(valid) => Ok(Self::Separate(name.into())),
            _ => Err(Error::input(format!(
                "partition name {name:?} is not usable; write \"global\", or lower-case letters, digits and '-' for \
                 a separate network"
            ))),
        }
    }
}

/// A site with machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DataCenter {
    /// Short code, unique in the fleet.
    pub id: DataCenterId,
    /// The location: data centers of one city are one location.
    pub city: Box<str>,
    /// Where it is.
    pub coordinates: Coordinates,
    /// The network it belongs to.
    pub partition: Partition,
}

/// A server that opens connections.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Unique in the whole fleet.
    pub id: MachineId,
    /// Where it is.
    pub data_center: DataCenterId,
    /// Its part of the ports of each address that it serves, relative to the other machines there. 0: drained. It
    /// stays a member and keeps its IPv6 addresses, but owns no ports of IPv4 addresses.
    pub weight: u32,
}

/// The data centers and machines that exist. Ids are unique and every machine's data center exists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fleet {
    data_centers: BTreeMap<DataCenterId, DataCenter>,
    machines: BTreeMap<MachineId, Machine>,
    /// The machines of each data center, in order: asked once per slice, in fleets of 100,000 machines.
    by_data_center: BTreeMap<DataCenterId, Vec<MachineId>>,
}

impl Fleet {
    /// A fleet of these data centers and machines, given in any order.
    ///
    /// # Errors
    /// An id used twice, a data center without a city, a machine in an unknown data center.
    pub fn new(
        data_centers: impl IntoIterator<Item = DataCenter>,
        machines: impl IntoIterator<Item = Machine>,
    ) -> Result<Self> {
        Ok(Self::build(data_centers, machines)?)
    }

    /// As [`Fleet::new`], for a caller that can say where the item at fault stands.
    pub(crate) fn build(
        data_centers: impl IntoIterator<Item = DataCenter>,
        machines: impl IntoIterator<Item = Machine>,
    ) -> Result<Self, Refusal> {
        let data_centers = unique("data_center", data_centers, |dc| &dc.id)?;
        let machines = unique("machine", machines, |machine| &machine.id)?;
        for DataCenter { id, city, .. } in data_centers.values() {
            if city.is_empty() {
                let item = Item::named("data_center", id);
                return Err(Refusal::new(
                    item,
                    "city",
                    "it has no city; data centers of one city are one location",
                ));
            }
        }
        let mut by_data_center = BTreeMap::<_, Vec<_>>::new();
        for Machine { id, data_center, .. } in machines.values() {
            if !data_centers.contains_key(data_center) {
                let reason = format!("data center \"{data_center}\" does not exist");
                return Err(Refusal::new(Item::named("machine", id), "data_center", reason));
            }
            by_data_center.entry(data_center.clone()).or_default().push(id.clone());
        }
        Ok(Self { data_centers, machines, by_data_center })
    }

    /// All data centers, by id.
    pub fn data_centers(&self) -> impl ExactSizeIterator<Item = &DataCenter> {
        self.data_centers.values()
    }

    /// All machines, by id.
    pub fn machines(&self) -> impl ExactSizeIterator<Item = &Machine> {
        self.machines.values()
    }

    /// The data center with this id.
    pub fn data_center(&self, id: &DataCenterId) -> Option<&DataCenter> {
        self.data_centers.get(id)
    }

    /// The machine with this id.
    pub fn machine(&self, id: &MachineId) -> Option<&Machine> {
        self.machines.get(id)
    }

    /// The machines of one data center, by id; none if there is no such data center.
    pub fn machines_in<'a>(
        &'a self,
        id: &DataCenterId,
    ) -> impl ExactSizeIterator<Item = &'a Machine> + use<'a> {
        let members = self.by_data_center.get(id).map_or(&[][..], Vec::as_slice);
        members.iter().map(|id| &self.machines[id])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_center(id: &str) -> DataCenter {
        DataCenter {
            id: id.parse().unwrap(),
            city: "Frankfurt".into(),
            coordinates: Coordinates::new(50.11, 8.68).unwrap(),
            partition: Partition::Global,
        }
    }

    fn machine(id: &str, data_center: &str, weight: u32) -> Machine {
        Machine { id: id.parse().unwrap(), data_center: data_center.parse().unwrap(), weight }
    }

    #[test]
    fn coordinates_are_exact_to_a_millionth_and_stay_on_earth() {
        let place = Coordinates::new(-33.868_820_4, 151.209_295_6).unwrap();
        assert_eq!((place.latitude(), place.longitude()), (-33.868_820, 151.209_296));
        assert!(Coordinates::new(90.0, -180.0).is_ok());
        for (latitude, longitude, word) in [
            (90.000_001, 0.0, "latitude 90.000001"),
            (f64::NAN, 0.0, "latitude NaN"),
            (0.0, -180.5, "longitude -180.5"),
            (0.0, f64::INFINITY, "longitude inf"),
        ] {
            let e = Coordinates::new(latitude, longitude).unwrap_err();
            assert!(e.message().contains(word), "{e}");
        }
        let raw = r#"{"latitude_e6":90000001,"longitude_e6":0}"#;
        assert!(serde_json::from_str::<Coordinates>(raw).is_err(), "bytes from outside are checked too");
        let json = serde_json::to_string(&place).unwrap();
        assert_eq!(serde_json::from_str::<Coordinates>(&json).unwrap(), place);
    }

    #[test]
    fn a_misspelt_global_is_not_a_separate_network() {
        assert_eq!("global".parse::<Partition>().unwrap(), Partition::Global);
        assert_eq!("cn".parse::<Partition>().unwrap(), Partition::Separate("cn".into()));
        for text in ["Global", "", "a b"] {
            assert!(text.parse::<Partition>().unwrap_err().message().contains("partition name"));
        }
    }

    #[test]
    fn a_fleet_is_in_order_whatever_the_order_given() {
        let fleet = Fleet::new(
            [data_center("fra"), data_center("ams")],
            [machine("m3", "fra", 1), machine("m1", "fra", 2), machine("m2", "ams", 1)],
        )
        .unwrap();
        assert_eq!(fleet.data_centers().map(|dc| dc.id.as_str()).collect::<Vec<_>>(), ["ams", "fra"]);
        assert_eq!(fleet.machines().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["m1", "m2", "m3"]);
        let fra = "fra".parse().unwrap();
        assert_eq!(fleet.machines_in(&fra).map(|m| m.id.as_str()).collect::<Vec<_>>(), ["m1", "m3"]);
        assert_eq!(fleet.machines_in(&"nrt".parse().unwrap()).count(), 0);
        assert_eq!(fleet.machine(&"m1".parse().unwrap()).unwrap().weight, 2);
        assert!(fleet.data_center(&fra).is_some());
    }

    #[test]
    fn refusals_name_both_parties() {
        let refused = |dcs: &[&str], machines: &[(&str, &str, u32)]| {
            let machines = machines.iter().map(|&(id, dc, weight)| machine(id, dc, weight));
            Fleet::new(dcs.iter().map(|id| data_center(id)), machines).unwrap_err().to_string()
        };
        assert_eq!(refused(&["fra", "fra"], &[]), "data center \"fra\": this id is defined twice");
        assert_eq!(
            refused(&["fra"], &[("m", "fra", 1), ("m", "fra", 2)]),
            "machine \"m\": this id is defined twice"
        );
        assert_eq!(
            refused(&["fra"], &[("m", "nrt", 1)]),
            "machine \"m\": data center \"nrt\" does not exist"
        );
    }
}
