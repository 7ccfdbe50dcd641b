use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;

use super::address_index::AddressIndex;
use crate::epoch::{DataCenterIndex, Epoch, Layout, MachineIndex, Owner};
use crate::error::{Error, Result};
use crate::id::{DataCenterId, MachineId};
use crate::slices::V6Fields;

/// (egress IP, port) -> machine and data center, for one layout. Immutable, so readers never wait and never see a mix
/// of epochs.
///
/// The answers are those of [`Layout::owner`]. Port 0, reserved and unassigned ports and foreign addresses are
/// nobody's, never a neighbour's.
pub struct Table {
    epoch: Epoch,
    index: AddressIndex,
    /// The address at each slot; an empty slot has an address, too, but nobody owns a port of its row.
    addresses: Box<[Ipv4Addr]>,
    /// One row per slot, one cell per granule. Unusable granules are nobody's.
    owners: Box<[Option<MachineIndex>]>,
    /// `port >> port_shift` is the cell in a row, and rows have `1 << (16 - port_shift)` cells.
    port_shift: u32,
    v6_prefixes: Box<[Ipv6Net]>,
    /// Data center number and machine number, and whose they are; ascending. A search and not an array by number: a
    /// few machines may have large numbers.
    v6_machines: Box<[(u32, MachineIndex)]>,
    data_centers_of: Box<[DataCenterIndex]>,
    machine_ids: Box<[MachineId]>,
    data_center_ids: Box<[DataCenterId]>,
}

impl Table {
    /// The table of `layout`.
    pub fn new(layout: &Layout) -> Self {
        let rows = layout.rows();
        let index = AddressIndex::new(&rows.iter().map(|row| row.address()).collect::<Vec<_>>());
        let granule = layout.cut().granule();
        let cells = usize::from(granule.granules_per_address());
        let mut addresses = vec![Ipv4Addr::UNSPECIFIED; index.slots()];
        let mut owners = vec![None; index.slots() * cells];
        for row in rows {
            let slot = index.slot(row.address());
            addresses[slot] = row.address();
            owners[slot * cells..][..cells].copy_from_slice(row.owners());
        }
        let number = |data_center: u16, machine: u16| u32::from(data_center) << 16 | u32::from(machine);
        let mut v6_machines: Vec<(u32, MachineIndex)> = layout
            .machines()
            .iter()
            .enumerate()
            .filter_map(|(position, m)| {
                let data_center = layout.data_centers()[m.data_center.get()].number;
                Some((number(data_center.get(), m.number.get()), MachineIndex::new(position)?))
            })
            .collect();
        v6_machines.sort_unstable();
        Self {
            epoch: layout.epoch(),
            index,
            addresses: addresses.into(),
            owners: owners.into(),
            port_shift: granule.shift(),
            v6_prefixes: Ipv6Net::aggregate(&layout.v6_prefixes().to_vec()).into(),
            v6_machines: v6_machines.into(),
            data_centers_of: layout.machines().iter().map(|m| m.data_center).collect(),
            machine_ids: layout.machines().iter().map(|m| m.id.clone()).collect(),
            data_center_ids: layout.data_centers().iter().map(|d| d.id.clone()).collect(),
        }
    }

    /// The epoch of the layout.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Who owns `port` of `ip`; none if nobody does. An IPv4-mapped IPv6 address is the IPv4 address.
    pub fn owner(&self, ip: IpAddr, port: u16) -> Option<Owner> {
        let machine = match ip {
            IpAddr::V4(ip) => self.owner_v4(ip, port),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => self.owner_v4(ip, port),
                None => self.owner_v6(ip, port),
            },
        }?;
        Some(Owner { machine, data_center: self.data_centers_of[machine.get()], epoch: self.epoch })
    }

    /// Which machine owns `port` of an IPv4 address: the data path's question, without the rest of the answer.
    #[inline]
    pub fn owner_v4(&self, ip: Ipv4Addr, port: u16) -> Option<MachineIndex> {
        let slot = self.index.slot(ip);
        let cell = slot << (16 - self.port_shift) | usize::from(port >> self.port_shift);
        // Both loads start before the comparison is known.
        let owner = self.owners[cell];
        if self.addresses[slot] == ip { owner } else { None }
    }

    /// [`owner_v4`](Self::owner_v4) of many packets: `owners[n]` becomes the answer to `packets[n]`. Independent
    /// lookups overlap, so this is faster than asking one by one where the table is larger than the cache.
    ///
    /// # Errors
    /// The slices differ in length; nothing is written.
    pub fn owners_v4(&self, packets: &[(Ipv4Addr, u16)], owners: &mut [Option<MachineIndex>]) -> Result<()> {
        if packets.len() != owners.len() {
            return Err(Error::input(format!(
                "{} packets, but room for {} owners; give slices of one length",
                packets.len(),
                owners.len()
            )));
        }
        for ((ip, port), owner) in packets.iter().zip(owners) {
            *owner = self.owner_v4(*ip, *port);
        }
        Ok(())
    }

    /// The id of a machine; none if the index is of another table.
    pub fn machine_id(&self, machine: MachineIndex) -> Option<&MachineId> {
        self.machine_ids.get(machine.get())
    }

    /// The id of a data center; none if the index is of another table.
    pub fn data_center_id(&self, data_center: DataCenterIndex) -> Option<&DataCenterId> {
        self.data_center_ids.get(data_center.get())
    }

    /// Where a machine is; none if the index is of another table.
    pub fn data_center_of(&self, machine: MachineIndex) -> Option<DataCenterIndex> {
        self.data_centers_of.get(machine.get()).copied()
    }

    /// Whose an IPv6 address is, read from its bits.
    fn owner_v6(&self, ip: Ipv6Addr, port: u16) -> Option<MachineIndex> {
        let fields = V6Fields::parse(ip)?;
        let below = self.v6_prefixes.partition_point(|prefix| prefix.network() <= ip);
        let inside = port != 0 && self.v6_prefixes[below.checked_sub(1)?].contains(&ip);
        let number = u32::from(fields.data_center.get()) << 16 | u32::from(fields.machine.get());
        let position = self.v6_machines.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        inside.then(|| self.v6_machines[position].1)
    }
}

impl core::fmt::Debug for Table {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Table")
            .field("epoch", &self.epoch)
            .field("slots", &self.addresses.len())
            .field("machines", &self.machine_ids.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::testing::{World, any_world};
    use proptest::prelude::*;

    #[test]
    fn what_nobody_owns_is_never_a_neighbours() {
        let layout =
            World::new(&[&[1, 1]]).hold("192.0.2.1/32", &[0]).hold("2001:db8::/64", &[]).build(7).unwrap();
        let table = Table::new(&layout);
        let owner = |ip: &str, port| table.owner(ip.parse().unwrap(), port);
        let first = owner("192.0.2.1", 2_048).unwrap();
        assert_eq!(table.machine_id(first.machine).unwrap().as_str(), "d0-m0");
        assert_eq!(table.data_center_id(first.data_center).unwrap().as_str(), "d0");
        assert_eq!(first.epoch, Epoch::new(7));
        assert_eq!(owner("::ffff:192.0.2.1", 2_048), Some(first), "one identity");
        let last = owner("192.0.2.1", 65_535).unwrap();
        assert_eq!(table.machine_id(last.machine).unwrap().as_str(), "d0-m1");
        for ip in ["192.0.2.1", "192.0.2.0", "192.0.2.2", "0.0.0.0", "255.255.255.255", "2001:db8::1:1:0:1"] {
            assert_eq!(owner(ip, 0), None, "{ip}");
        }
        for ip in ["192.0.2.0", "192.0.2.2", "0.0.0.0", "::", "2001:db8::1", "2001:db7::1:1:0:1"] {
            assert_eq!(owner(ip, 4_096), None, "{ip}");
        }
        assert_eq!(owner("2001:db8::1:1:0:1", 1), owner("2001:db8::1:1:ffff:ffff", 65_535));
        assert!(owner("2001:db8::1:1:0:1", 1).is_some());
        assert_eq!(owner("2001:db8::1:3:0:1", 1), None, "no such machine");
        assert_eq!(owner("2001:db8:0:1:1:1:0:1", 1), None, "the next /64");
    }

    #[test]
    fn an_empty_layout_owns_nothing() {
        let table = Table::new(&World::new(&[]).build(1).unwrap());
        for ip in ["0.0.0.0", "192.0.2.1", "2001:db8::1:1:0:1"] {
            assert_eq!(table.owner(ip.parse().unwrap(), 4_096), None);
        }
    }

    #[test]
    fn a_batch_has_as_many_answers_as_questions() {
        let table = Table::new(&World::new(&[&[1]]).hold("192.0.2.1/32", &[0]).build(1).unwrap());
        let e = table.owners_v4(&[], &mut [None]).unwrap_err();
        assert!(e.message().contains("0 packets, but room for 1 owners"), "{e}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Against `Layout::owner`, and against a model that knows only what each machine was told of its shares.
        #[test]
        fn every_port_of_every_address_has_the_layouts_owner(world in any_world()) {
            let layout = world.build(1).unwrap();
            let table = Table::new(&layout);
            let near = |row: &crate::epoch::Row| [-1, 0, 1].map(|n| row.address().to_bits().wrapping_add_signed(n));
            for ip in layout.rows().iter().flat_map(near).map(Ipv4Addr::from_bits) {
                let mut model = vec![None; 65_536];
                for machine in layout.machines().iter().filter(|_| layout.row(ip).is_some()) {
                    for (_, range) in layout.shares_of(&machine.id).filter(|(address, _)| *address == ip) {
                        range.ports().for_each(|port| model[usize::from(port)] = Some(&machine.id));
                    }
                }
                let packets: Vec<_> = (0..=u16::MAX).map(|port| (ip, port)).collect();
                let mut batch = vec![None; packets.len()];
                table.owners_v4(&packets, &mut batch).unwrap();
                for port in 0..=u16::MAX {
                    let owner = table.owner(ip.into(), port);
                    let machine = owner.map(|o| table.machine_id(o.machine).unwrap());
                    prop_assert_eq!(machine, model[usize::from(port)]);
                    prop_assert_eq!(owner.map(|o| o.machine), batch[usize::from(port)]);
                    if layout.row(ip).is_some() {
                        prop_assert_eq!(owner, layout.owner(ip.into(), port));
                    }
                }
            }
        }

        #[test]
        fn v6_owners_are_the_layouts(world in any_world(), d in 0..8_u16, m in 0..14_u16, host in 0..2_u32) {
            let layout = world.build(1).unwrap();
            let table = Table::new(&layout);
            for network in ["2001:db8:0:1::", "2001:db8:0:2::", "2001:db8:1::", "2001:db8:1:ffff::", "2001:db8:2::"] {
                let network: Ipv6Addr = network.parse().unwrap();
                let bits = u128::from(d) << 48 | u128::from(m) << 32 | u128::from(host);
                let ip = IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() | bits));
                for port in [0, 1, 65_535] {
                    prop_assert_eq!(table.owner(ip, port), layout.owner(ip, port), "{}", ip);
                }
            }
        }
    }
}
