//! What was measured, and how it is summed.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::{AccountId, DataCenterId, MachineId, ZoneId};
use crate::net::{Origin, Protocol, canonical_ip};
use crate::usage::Usage;

/// Something that loads are told apart by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Source address.
    EgressIp,
    /// Protocol and destination ip:port.
    Origin,
    /// Where the machines are.
    DataCenter,
    /// Who opens the connections.
    Machine,
    /// Whose addresses they leave from.
    Account,
    /// Whose requests they carry.
    Zone,
}

/// A value for some of the [`Dimension`]s; `None` where it is not told apart by that one, or has none.
///
/// Written with the fields `egress_ip`, `protocol` (`"tcp"` unless given), `origin` (ip:port), `data_center`, `machine`,
/// `account` and `zone`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Group {
    /// Source address.
    pub egress_ip: Option<IpAddr>,
    /// Protocol and destination ip:port. For a load, `None` is every origin: what takes a port away from all of them.
    pub origin: Option<Origin>,
    /// Where the machines are.
    pub data_center: Option<DataCenterId>,
    /// Who opens the connections.
    pub machine: Option<MachineId>,
    /// Whose addresses they leave from.
    pub account: Option<AccountId>,
    /// Whose requests they carry.
    pub zone: Option<ZoneId>,
}

impl Group {
    /// What is left of it when only these dimensions are told apart. Addresses become canonical.
    #[must_use]
    pub fn only(&self, by: &BTreeSet<Dimension>) -> Self {
        fn keep<T: Clone>(is_kept: bool, value: &Option<T>) -> Option<T> {
            value.as_ref().filter(|_| is_kept).cloned()
        }
        let has = |dimension| by.contains(&dimension);
        Self {
            egress_ip: keep(has(Dimension::EgressIp), &self.egress_ip).map(canonical_ip),
            origin: keep(has(Dimension::Origin), &self.origin),
            data_center: keep(has(Dimension::DataCenter), &self.data_center),
            machine: keep(has(Dimension::Machine), &self.machine),
            account: keep(has(Dimension::Account), &self.account),
            zone: keep(has(Dimension::Zone), &self.zone),
        }
    }

    /// Does it have every value that `selector` has?
    pub fn is_within(&self, selector: &Self) -> bool {
        fn agrees<T: PartialEq>(value: &Option<T>, wanted: &Option<T>) -> bool {
            wanted.is_none() || value == wanted
        }
        agrees(&self.egress_ip.map(canonical_ip), &selector.egress_ip.map(canonical_ip))
            && agrees(&self.origin, &selector.origin)
            && agrees(&self.data_center, &selector.data_center)
            && agrees(&self.machine, &selector.machine)
            && agrees(&self.account, &selector.account)
            && agrees(&self.zone, &selector.zone)
    }
}

/// How a group is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_center: Option<DataCenterId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<MachineId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<AccountId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<ZoneId>,
}

impl TryFrom<Written> for Group {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let Written { egress_ip, protocol, origin, data_center, machine, account, zone } = written;
        let origin = match (protocol, origin) {
            (protocol, Some(address)) => Some(Origin::new(protocol.unwrap_or(Protocol::Tcp), address)?),
            (Some(protocol), None) => {
                let message =
                    format!("protocol {protocol:?} without an origin; add origin = \"<ip>:<port>\"");
                return Err(Error::input(message));
            }
            (None, None) => None,
        };
        Ok(Self { egress_ip: egress_ip.map(canonical_ip), origin, data_center, machine, account, zone })
    }
}

impl From<Group> for Written {
    fn from(group: Group) -> Self {
        let Group { egress_ip, origin, data_center, machine, account, zone } = group;
        Self {
            egress_ip,
            protocol: origin.map(|origin| origin.protocol()),
            origin: origin.map(|origin| origin.address()),
            data_center,
            machine,
            account,
            zone,
        }
    }
}

/// What was measured of one part, or the sum of some.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Load {
    /// What it is the load of.
    pub of: Group,
    /// Live and held connections now.
    pub in_use: u64,
    /// The most of them since the sample before. Of a sum it is the sum of the parts' peaks, which may have been at
    /// different moments: never too small.
    pub peak: u64,
    /// Ports of the shares that serve it: the real limit towards one origin.
    pub provisioned: u64,
}

impl From<&Usage> for Load {
    /// The caller adds the dimensions that it knows more of: data center, machine, account, zone.
    fn from(usage: &Usage) -> Self {
        let in_use = u64::from(usage.live) + u64::from(usage.held);
        Self::of_source(usage.egress_ip, usage.origin, in_use, usage.peak, usage.capacity)
    }
}

/// The loads within `selector`, summed by these dimensions. Sums saturate.
///
/// Loads of one machine, egress IP and origin that differ in account or zone only are of the same ports: what they use
/// is summed, what is provisioned counts once (the largest).
pub(super) fn sums<'a>(
    loads: impl IntoIterator<Item = &'a Load>,
    selector: &Group,
    by: &BTreeSet<Dimension>,
) -> BTreeMap<Group, Load> {
    let ports = [Dimension::EgressIp, Dimension::Origin, Dimension::DataCenter, Dimension::Machine].into();
    let mut parts = BTreeMap::<(Group, Group), Load>::new();
    for load in loads.into_iter().filter(|load| load.of.is_within(selector)) {
        let group = load.of.only(by);
        let empty = Load { of: group.clone(), in_use: 0, peak: 0, provisioned: 0 };
        let part = parts.entry((group, load.of.only(&ports))).or_insert(empty);
        part.add_use(load);
        part.provisioned = part.provisioned.max(load.provisioned);
    }
    let mut groups = BTreeMap::<Group, Load>::new();
    for ((group, _), part) in parts {
        let empty = Load { of: group.clone(), in_use: 0, peak: 0, provisioned: 0 };
        let sum = groups.entry(group).or_insert(empty);
        sum.add_use(&part);
        sum.provisioned = sum.provisioned.saturating_add(part.provisioned);
    }
    groups
}

impl Load {
    fn of_source(egress_ip: IpAddr, origin: Option<Origin>, in_use: u64, peak: u32, capacity: u32) -> Self {
        // What strangers hold towards every origin is no destination with ports of its own; unconnected UDP is one, for as
        // long as its peak counts: a peak of 5 is not all of 0 ports.
        let is_strangers = origin.is_none() && in_use == 0 && peak == 0;
        Self {
            of: Group { egress_ip: Some(egress_ip), origin, ..Group::default() },
            in_use,
            peak: in_use.max(peak.into()),
            provisioned: if is_strangers { 0 } else { capacity.into() },
        }
    }

    fn add_use(&mut self, other: &Self) {
        self.in_use = self.in_use.saturating_add(other.in_use);
        // A peak below the use is a slip of the caller's: then the use is what was seen.
        self.peak = self.peak.saturating_add(other.peak.max(other.in_use));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_written_as_it_is_read() {
        let text =
            "egress_ip = \"::ffff:192.0.2.1\"\norigin = \"203.0.113.150:443\"\ndata_center = \"sjc\"\n";
        let group: Group = toml::from_str(text).unwrap();
        assert_eq!(group.egress_ip, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(group.origin.unwrap().to_string(), "tcp 203.0.113.150:443");
        assert_eq!(toml::from_str::<Group>(&toml::to_string(&group).unwrap()).unwrap(), group);
        let refused = |text: &str| toml::from_str::<Group>(text).unwrap_err().to_string();
        assert!(refused("protocol = \"udp\"").contains("without an origin"));
        assert!(refused("datacenter = \"sjc\"").contains("datacenter"));
        assert!(refused("origin = \"203.0.113.150:0\"").contains("port 0"));
    }

    #[test]
    fn what_strangers_hold_is_no_destination_with_ports() {
        let origin = Origin::new(Protocol::Tcp, "203.0.113.150:443".parse().unwrap()).unwrap();
        let numbers = |origin, in_use, peak| {
            let load = Load::of_source(IpAddr::from([192, 0, 2, 1]), origin, in_use, peak, 2_048);
            (load.in_use, load.peak, load.provisioned)
        };
        assert_eq!(numbers(Some(origin), 0, 0), (0, 0, 2_048));
        assert_eq!(numbers(None, 0, 0), (0, 0, 0));
        assert_eq!(numbers(None, 7, 5), (7, 7, 2_048));
        // Unconnected UDP that has just ended: its peak was of ports that there are.
        assert_eq!(numbers(None, 0, 5), (0, 5, 2_048));
    }

    #[test]
    fn zones_that_share_ports_share_what_is_provisioned() {
        let load = |machine: &str, zone: &str, in_use| Load {
            of: Group {
                egress_ip: Some("192.0.2.1".parse().unwrap()),
                machine: Some(machine.parse().unwrap()),
                zone: Some(zone.parse().unwrap()),
                ..Group::default()
            },
            in_use,
            peak: 0,
            provisioned: 2_048,
        };
        let loads = [load("m1", "a", 5), load("m1", "b", 6), load("m2", "a", 7)];
        let sum = |by: &[Dimension]| -> Vec<_> {
            let groups = sums(&loads, &Group::default(), &by.iter().copied().collect());
            groups.into_values().map(|sum| (sum.in_use, sum.peak, sum.provisioned)).collect()
        };
        assert_eq!(sum(&[]), [(18, 18, 4_096)]);
        assert_eq!(sum(&[Dimension::Zone]), [(12, 12, 4_096), (6, 6, 2_048)]);
        assert_eq!(sum(&[Dimension::Machine]), [(11, 11, 2_048), (7, 7, 2_048)]);
        let selector = Group { zone: Some("b".parse().unwrap()), ..Group::default() };
        assert_eq!(sums(&loads, &selector, &BTreeSet::new()).len(), 1);
        let huge = [u64::MAX, u64::MAX].map(|n| Load { in_use: n, provisioned: n, ..load("m1", "a", 0) });
        assert_eq!(sums(&huge, &Group::default(), &BTreeSet::new())[&Group::default()].in_use, u64::MAX);
    }
}
