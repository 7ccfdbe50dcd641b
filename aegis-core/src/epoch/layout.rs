use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::num::{NonZeroU16, NonZeroU32};

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use super::form::Form;
use super::handovers::Handovers;
use super::{DataCenterIndex, Epoch, MachineIndex, Owner};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{DataCenterId, MachineId};
use crate::net::{PortRange, canonical_ip};
use crate::slices::{Cut, V6Fields};

/// The byte and JSON form of a layout alone.
const FORM: Form = Form { magic: *b"AEGL", name: "layout", version: 2 };

/// The total assignment of granules and IPv6 addresses at one epoch.
///
/// Whoever has a `Layout` may rely on it: building and reading both check that shares are disjoint (a granule has one
/// owner), that reserved granules have none, that an address is announced from no more data centers than allowed, that
/// no share is outside their slices, that every index and number is valid, and that everything is in its one order.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Layout(Parts);

/// A layout as it is written, before it is checked.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parts {
    pub(super) epoch: Epoch,
    pub(super) cut: Cut,
    pub(super) data_centers_per_address: u8,
    pub(super) data_centers: Vec<NumberedDataCenter>,
    /// The last number that was given to a data center; 0 if there was none yet.
    pub(super) last_data_center_number: u16,
    pub(super) machines: Vec<NumberedMachine>,
    pub(super) rows: Vec<Row>,
    pub(super) v6_prefixes: Vec<Ipv6Net>,
    pub(super) handovers: Handovers,
}

/// A data center and its number in IPv6 addresses.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberedDataCenter {
    /// Its code.
    pub id: DataCenterId,
    /// Its number, unique in the layout, kept from epoch to epoch.
    pub number: NonZeroU16,
    /// The last number that was given to a machine of it; 0 if there was none yet. The next newcomer gets the next
    /// one: a number of somebody who left is not given to a stranger while packets for it may be under way.
    pub last_machine_number: u16,
}

/// A machine, where it is, and its number in IPv6 addresses.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberedMachine {
    /// Its id.
    pub id: MachineId,
    /// Its data center.
    pub data_center: DataCenterIndex,
    /// Its number, unique in its data center, kept from epoch to epoch while it stays there.
    pub number: NonZeroU16,
    /// May it grant?
    pub standing: Standing,
}

/// What a machine is in a layout for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It grants from its shares.
    Serving,
    /// It grants nothing new; its live connections stay, in IPv4 until their granules are handed over.
    Drained,
    /// As drained, and it is taken out of the layout when nothing of it is open any more.
    Leaving,
}

/// One IPv4 egress address and the owner of each of its granules.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub(super) address: Ipv4Addr,
    /// Where the address is announced, ascending; one of them may have no granule, if its machines are few.
    pub(super) data_centers: Vec<DataCenterIndex>,
    pub(super) owners: Vec<Option<MachineIndex>>,
}

impl Row {
    /// The egress address.
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The data centers that announce the address, ascending. All owners are there.
    pub fn data_centers(&self) -> &[DataCenterIndex] {
        &self.data_centers
    }

    /// The owner of each granule, indexed by `port >> shift`, for the whole port space: none for granules that are
    /// unassigned or not usable.
    pub fn owners(&self) -> &[Option<MachineIndex>] {
        &self.owners
    }
}

impl TryFrom<Parts> for Layout {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        parts.check().map_err(|fault| Error::new(ErrorKind::Reload, fault))?;
        Ok(Self(parts))
    }
}

impl Layout {
    /// The layout's epoch.
    pub const fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// How every IPv4 address is cut.
    pub const fn cut(&self) -> &Cut {
        &self.0.cut
    }

    /// At most this many data centers have a slice of one IPv4 address.
    pub const fn data_centers_per_address(&self) -> u8 {
        self.0.data_centers_per_address
    }

    /// The data centers in id order. [`DataCenterIndex`] is a position in this list.
    pub fn data_centers(&self) -> &[NumberedDataCenter] {
        &self.0.data_centers
    }

    /// The machines in id order. [`MachineIndex`] is a position in this list.
    pub fn machines(&self) -> &[NumberedMachine] {
        &self.0.machines
    }

    /// The last number that was given to a data center; 0 if there was none yet.
    pub const fn last_data_center_number(&self) -> u16 {
        self.0.last_data_center_number
    }

    /// The IPv4 egress addresses, ascending.
    pub fn rows(&self) -> &[Row] {
        &self.0.rows
    }

    /// The IPv6 egress prefixes, ascending, each `/64` or shorter.
    pub fn v6_prefixes(&self) -> &[Ipv6Net] {
        &self.0.v6_prefixes
    }

    /// What is moving: granules that drain, ports that stayed behind, owners that went.
    pub const fn handovers(&self) -> &Handovers {
        &self.0.handovers
    }

    /// The position of a machine; none if the layout does not know it.
    pub fn machine_index(&self, id: &MachineId) -> Option<MachineIndex> {
        self.0.machines.binary_search_by(|m| m.id.cmp(id)).ok().and_then(MachineIndex::new)
    }

    /// The position of a data center; none if the layout does not know it.
    pub fn data_center_index(&self, id: &DataCenterId) -> Option<DataCenterIndex> {
        self.0.data_centers.binary_search_by(|d| d.id.cmp(id)).ok().and_then(DataCenterIndex::new)
    }

    /// The granules of one IPv4 address; none if it is not an egress address.
    pub fn row(&self, address: Ipv4Addr) -> Option<&Row> {
        let position = self.0.rows.binary_search_by_key(&address, |r| r.address).ok()?;
        Some(&self.0.rows[position])
    }

    /// Whose is a packet for `port` of `ip`, or is it nobody's? Written to be obviously right, not fast. Data paths use
    /// `soft_unicast::Table`.
    ///
    /// A granule that drains is still its owner's; a port that stayed behind belongs to where it is open.
    pub fn owner(&self, ip: IpAddr, port: u16) -> Option<Owner> {
        let machine = match canonical_ip(ip) {
            IpAddr::V4(ip) => {
                let granule = self.0.cut.granule_of(port)?;
                let owner = self.row(ip)?.owners[usize::from(granule)];
                self.0.handovers.holdout_of(ip, port).map(|h| h.machine).or(owner)?
            }
            IpAddr::V6(_) if port == 0 => return None,
            IpAddr::V6(ip) => self.v6_owner(ip)?,
        };
        Some(self.owner_at(machine))
    }

    /// The other machine that may know a flow which [`owner`](Self::owner) does not know: a packet is passed on to it at
    /// most once (second chance). Only what is moving has one.
    ///
    /// For a port that stayed behind it is the granule's new owner; else the owner before, or else the one that a draining
    /// granule goes to, for a router may be behind or ahead of a machine.
    pub fn second_owner(&self, ip: IpAddr, port: u16) -> Option<Owner> {
        let IpAddr::V4(ip) = canonical_ip(ip) else { return None };
        let granule = self.0.cut.granule_of(port)?;
        let owner = self.row(ip)?.owners[usize::from(granule)];
        let moving = &self.0.handovers;
        let second = if moving.holdout_of(ip, port).is_some() {
            owner
        } else if let Some(previous) = moving.previous_of(ip, granule) {
            Some(previous.machine)
        } else {
            moving.draining_of(ip, granule).and_then(|d| d.to)
        };
        second.map(|machine| self.owner_at(machine))
    }

    /// May this machine grant `port` of `ip` as far as the layout is concerned? Its granule is the machine's own (in IPv6
    /// the address is) and does not drain, and the port did not stay behind elsewhere.
    pub fn grants(&self, id: &MachineId, ip: IpAddr, port: u16) -> bool {
        let Some(index) = self.machine_index(id) else { return false };
        if self.0.machines[index.get()].standing != Standing::Serving {
            return false;
        }
        match canonical_ip(ip) {
            IpAddr::V4(ip) => {
                let Some(granule) = self.0.cut.granule_of(port) else { return false };
                let owner = self.row(ip).and_then(|row| row.owners[usize::from(granule)]);
                let moving = &self.0.handovers;
                owner == Some(index)
                    && moving.draining_of(ip, granule).is_none()
                    && moving.holdout_of(ip, port).is_none()
            }
            IpAddr::V6(ip) => port != 0 && self.v6_owner(ip) == Some(index),
        }
    }

    /// The IPv4 shares of a machine: one item per granule, ascending, those that drain included. Empty for a machine that
    /// the layout does not know.
    pub fn shares_of(&self, id: &MachineId) -> impl Iterator<Item = (Ipv4Addr, PortRange)> {
        let index = self.machine_index(id);
        self.0.rows.iter().filter(move |_| index.is_some()).flat_map(move |row| {
            (0_u16..).zip(&row.owners).filter_map(move |(granule, owner)| {
                (*owner == index)
                    .then(|| self.0.cut.range(granule))
                    .flatten()
                    .map(|range| (row.address, range))
            })
        })
    }

    /// The IPv6 addresses of a machine: `count` in each prefix (in its first `/64`, where it is shorter), ascending.
    /// Empty for a machine that the layout does not know.
    pub fn v6_addresses_of(&self, id: &MachineId, count: u32) -> impl Iterator<Item = Ipv6Addr> {
        let fields = self.machine_index(id).map(|index| {
            let machine = &self.0.machines[index.get()];
            (self.0.data_centers[machine.data_center.get()].number, machine.number)
        });
        // Prefixes of different length with the same first /64 hold the same addresses; they are neighbours.
        let networks = self.0.v6_prefixes.chunk_by(|a, b| a.network() == b.network()).map(|same| same[0]);
        networks.flat_map(move |prefix| {
            let hosts = (1..=count).filter_map(NonZeroU32::new);
            fields.into_iter().flat_map(move |(data_center, machine)| {
                hosts.clone().map(move |host| V6Fields { data_center, machine, host }.compose(prefix))
            })
        })
    }

    /// The canonical bytes: equal layouts have equal bytes on every platform.
    pub fn to_bytes(&self) -> Vec<u8> {
        FORM.write_bytes(self)
    }

    /// Reads [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    /// [`ErrorKind::Reload`] for anything else, saying what is wrong and at which byte: foreign, truncated, damaged,
    /// written by a newer version, not canonical, or breaking an invariant.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        FORM.read_bytes::<Parts, Self>(bytes)
    }

    /// The JSON form: the same content, for people and other languages.
    pub fn to_json(&self) -> String {
        FORM.write_json(self)
    }

    /// Reads [`to_json`](Self::to_json), with the same checks as the bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Reload`], with line and column where there is one.
    pub fn from_json(text: &str) -> Result<Self> {
        FORM.read_json::<Parts, Self>(text)
    }

    fn owner_at(&self, machine: MachineIndex) -> Owner {
        Owner { machine, data_center: self.0.machines[machine.get()].data_center, epoch: self.0.epoch }
    }

    /// What it is made of.
    pub(super) const fn as_parts(&self) -> &Parts {
        &self.0
    }

    /// A copy to be changed into the layout of a later epoch.
    pub(super) fn parts(&self) -> Parts {
        self.0.clone()
    }

    /// The owner of an IPv6 address, read from its bits.
    fn v6_owner(&self, ip: Ipv6Addr) -> Option<MachineIndex> {
        let fields = V6Fields::parse(ip)?;
        self.0.v6_prefixes.iter().find(|prefix| prefix.contains(&ip))?;
        let data_center = self.0.data_centers.iter().position(|d| d.number == fields.data_center)?;
        let is_owner = |m: &NumberedMachine| m.data_center.get() == data_center && m.number == fields.machine;
        self.0.machines.iter().position(is_owner).and_then(MachineIndex::new)
    }
}
