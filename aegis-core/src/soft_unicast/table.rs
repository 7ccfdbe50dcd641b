use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::overlay::Overlay;
use super::row_index::{Row, RowIndex};
use super::v6::V6Owners;
use crate::epoch::{DataCenterIndex, Epoch, Layout, MachineIndex, Owner};
use crate::error::{Error, Result};
use crate::id::{DataCenterId, MachineId};
use crate::net::canonical_ip;
use crate::snapshot::Snapshot;

/// Bit of a cell: some port of the granule stayed behind at another machine.
pub(super) const HAS_HOLDOUTS: u32 = 1 << 31;

/// Bit of a cell: the granule has a second owner.
pub(super) const HAS_SECOND: u32 = 1 << 30;

/// The bits of a cell that say whose the granule is.
pub(super) const MACHINE: u32 = HAS_SECOND - 1;

/// Packets of a batch whose cells are loaded together: as many as a processor has loads in flight, more or less.
const TOGETHER: usize = 64;

/// (egress IP, port) -> machine and data center, for one layout. Immutable, so readers never wait and never see a mix
/// of epochs.
///
/// The answers are those of [`Layout::owner`] and [`Layout::second_owner`]. Port 0, reserved and unassigned ports and
/// foreign addresses are nobody's, never a neighbour's.
pub struct Table {
    pub(super) epoch: Epoch,
    pub(super) index: RowIndex,
    /// How many addresses there are; rows are a few more.
    pub(super) addresses: u32,
    /// One row per row of the index, one cell per granule: [`MACHINE`] and two bits. Unusable granules are nobody's,
    /// and so is every granule of a row that no address has.
    pub(super) cells: Box<[u32]>,
    /// `port >> port_shift` is the cell in a row, and rows have `1 << (16 - port_shift)` cells.
    pub(super) port_shift: u32,
    row_shift: u32,
    pub(super) holdouts: Overlay,
    pub(super) second_owners: Overlay,
    pub(super) v6: V6Owners,
    pub(super) data_centers_of: Box<[DataCenterIndex]>,
    machine_ids: Box<[MachineId]>,
    data_center_ids: Box<[DataCenterId]>,
}

impl Table {
    /// The table of `layout`.
    pub fn new(layout: &Layout) -> Self {
        assert!(layout.machines().len() < MACHINE as usize, "so many machines fit into no memory");
        let rows = layout.rows();
        let index = RowIndex::new(&rows.iter().map(|row| row.address().to_bits()).collect::<Vec<_>>());
        let granule = layout.cut().granule();
        let cells_per_row = usize::from(granule.granules_per_address());
        let mut cells = vec![0; index.rows() * cells_per_row];
        let start = |address: Ipv4Addr| {
            index.row(address.to_bits()).expect("the index is of these addresses") * cells_per_row
        };
        for row in rows {
            let start = start(row.address());
            for (cell, owner) in cells[start..].iter_mut().zip(row.owners()) {
                *cell = MachineIndex::cell(*owner);
            }
        }
        let (holdouts, second_owners) = (Overlay::holdouts(layout), Overlay::second_owners(layout));
        for (address, port, _) in holdouts.iter() {
            cells[start(address) + usize::from(port >> granule.shift())] |= HAS_HOLDOUTS;
        }
        for (address, granule, _) in second_owners.iter() {
            cells[start(address) + usize::from(granule)] |= HAS_SECOND;
        }
        Self {
            epoch: layout.epoch(),
            index,
            addresses: u32::try_from(rows.len()).expect("IPv4 has 2^32 addresses, and a layout fewer"),
            cells: cells.into(),
            port_shift: granule.shift(),
            row_shift: 16 - granule.shift(),
            holdouts,
            second_owners,
            v6: V6Owners::new(layout),
            data_centers_of: layout.machines().iter().map(|m| m.data_center).collect(),
            machine_ids: layout.machines().iter().map(|m| m.id.clone()).collect(),
            data_center_ids: layout.data_centers().iter().map(|d| d.id.clone()).collect(),
        }
    }

    /// The epoch of the layout.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whose is a packet for `port` of `ip`; none if it is nobody's. An IPv4-mapped IPv6 address is the IPv4 address. A
    /// port that stayed behind after a handover is the machine's where it is open.
    #[inline]
    pub fn owner(&self, ip: IpAddr, port: u16) -> Option<Owner> {
        let machine = match ip {
            IpAddr::V4(ip) => self.owner_v4(ip, port),
            IpAddr::V6(ip) => self.owner_v6(ip, port),
        }?;
        Some(self.owner_at(machine))
    }

    /// The other machine that may know a flow which [`owner`](Self::owner) does not know: a packet is passed on to it at
    /// most once. None unless the granule is moving, or has moved lately.
    pub fn second_owner(&self, ip: IpAddr, port: u16) -> Option<Owner> {
        let IpAddr::V4(ip) = canonical_ip(ip) else { return None };
        let cell = self.cell(ip, port);
        let machine = if cell & HAS_HOLDOUTS != 0 && self.holdouts.get(ip, port).is_some() {
            MachineIndex::from_cell(cell & MACHINE)
        } else if cell & HAS_SECOND != 0 {
            self.second_owners.get(ip, port >> self.port_shift)
        } else {
            None
        }?;
        Some(self.owner_at(machine))
    }

    /// Which machine owns `port` of an IPv4 address: the data path's question, without the rest of the answer.
    // Always: a call costs as much as the answer, and keeps fewer of them in flight.
    #[inline(always)]
    pub fn owner_v4(&self, ip: Ipv4Addr, port: u16) -> Option<MachineIndex> {
        let cell = self.cell(ip, port);
        if cell & HAS_HOLDOUTS != 0 {
            self.held_out(ip, port, cell)
        } else {
            MachineIndex::from_cell(cell & MACHINE)
        }
    }

    /// Which machine owns an IPv6 address, read from its bits; port 0 is nobody's. An IPv4-mapped address is the IPv4
    /// address.
    #[inline]
    pub fn owner_v6(&self, ip: Ipv6Addr, port: u16) -> Option<MachineIndex> {
        // A mapped address has no data center number, and so no owner here.
        let owner = self.v6.owner(ip, port);
        if owner.is_some() { owner } else { self.owner_v4(ip.to_ipv4_mapped()?, port) }
    }

    /// [`owner`](Self::owner) of many packets: `owners[n]` becomes the answer to `packets[n]`.
    ///
    /// # Errors
    /// The slices differ in length; nothing is written.
    pub fn owners(&self, packets: &[(IpAddr, u16)], owners: &mut [Option<Owner>]) -> Result<()> {
        answer(packets, owners, |ip, port| self.owner(ip, port))
    }

    /// [`owner_v4`](Self::owner_v4) of many packets: `owners[n]` becomes the answer to `packets[n]`. Many lookups are in
    /// flight at a time, so this is faster than asking one by one, most of all where the table is larger than the cache.
    ///
    /// # Errors
    /// The slices differ in length; nothing is written.
    pub fn owners_v4(&self, packets: &[(Ipv4Addr, u16)], owners: &mut [Option<MachineIndex>]) -> Result<()> {
        same_length(packets, owners)?;
        let mut rows = [Row::default(); TOGETHER];
        for (packets, owners) in packets.chunks(TOGETHER).zip(owners.chunks_mut(TOGETHER)) {
            // First the rows of all of them and then the cells: loads that wait for nothing but memory stand close
            // together, and the processor begins all of them at once.
            self.index.find_all(packets.iter().map(|(ip, _)| ip.to_bits()), &mut rows);
            let mut bits = 0;
            for (((ip, port), owner), row) in packets.iter().zip(&mut *owners).zip(&rows) {
                let cell = self.index.confirm(*row, ip.to_bits()) & self.cell_at(*row, *port);
                bits |= cell;
                *owner = MachineIndex::from_cell(cell & MACHINE);
            }
            if bits & HAS_HOLDOUTS != 0 {
                for ((ip, port), owner) in packets.iter().zip(owners) {
                    *owner = self.owner_v4(*ip, *port);
                }
            }
        }
        Ok(())
    }

    /// [`owner_v6`](Self::owner_v6) of many packets: `owners[n]` becomes the answer to `packets[n]`.
    ///
    /// # Errors
    /// The slices differ in length; nothing is written.
    pub fn owners_v6(&self, packets: &[(Ipv6Addr, u16)], owners: &mut [Option<MachineIndex>]) -> Result<()> {
        answer(packets, owners, |ip, port| self.owner_v6(ip, port))
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

    /// The cell of a port's granule; 0 for a foreign address.
    #[inline(always)]
    fn cell(&self, ip: Ipv4Addr, port: u16) -> u32 {
        match self.index.find(ip.to_bits()) {
            Some(row) => self.cell_at(row, port),
            None => 0,
        }
    }

    /// A cell of a row; 0 if there is no such row.
    #[inline(always)]
    fn cell_at(&self, row: Row, port: u16) -> u32 {
        // In 64 bits, where no row is shifted into a neighbour's.
        let at = u64::from(row.0) << self.row_shift | u64::from(u32::from(port) >> self.port_shift);
        usize::try_from(at).ok().and_then(|at| self.cells.get(at)).copied().unwrap_or(0)
    }

    #[cold]
    fn held_out(&self, ip: Ipv4Addr, port: u16, cell: u32) -> Option<MachineIndex> {
        self.holdouts.get(ip, port).or(MachineIndex::from_cell(cell & MACHINE))
    }

    fn owner_at(&self, machine: MachineIndex) -> Owner {
        Owner { machine, data_center: self.data_centers_of[machine.get()], epoch: self.epoch }
    }
}

impl Snapshot for Table {
    fn epoch(&self) -> u64 {
        self.epoch.get()
    }
}

/// Answers `packets` in their order.
#[inline]
fn answer<Ip: Copy, T>(
    packets: &[(Ip, u16)],
    owners: &mut [Option<T>],
    owner: impl Fn(Ip, u16) -> Option<T>,
) -> Result<()> {
    same_length(packets, owners)?;
    for ((ip, port), answer) in packets.iter().zip(owners) {
        *answer = owner(*ip, *port);
    }
    Ok(())
}

fn same_length<P, T>(packets: &[P], owners: &[T]) -> Result<()> {
    if packets.len() == owners.len() {
        return Ok(());
    }
    Err(Error::input(format!(
        "{} packets, but room for {} owners; give slices of one length",
        packets.len(),
        owners.len()
    )))
}

impl core::fmt::Debug for Table {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Table")
            .field("epoch", &self.epoch)
            .field("rows", &self.index.rows())
            .field("machines", &self.machine_ids.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::testing::{World, any_world};
    use crate::epoch::testing_handovers::any_moving_layout;
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
    fn a_gap_in_a_block_is_nobodys() {
        let hold = |world: World, n: &u8| world.hold(&format!("192.0.2.{n}/32"), &[0]);
        let layout = [1, 2, 3, 5, 6].iter().fold(World::new(&[&[1, 1]]), hold).build(1).unwrap();
        let table = Table::new(&layout);
        assert_eq!(table.index.rows(), 6, "one block");
        let packets: Vec<_> = (0..=255_u8).map(|n| (Ipv4Addr::new(192, 0, 2, n), 40_000)).collect();
        let mut owners = vec![None; packets.len()];
        table.owners_v4(&packets, &mut owners).unwrap();
        for ((ip, port), batch) in packets.into_iter().zip(owners) {
            let owner = layout.owner(ip.into(), port);
            assert_eq!((table.owner(ip.into(), port), batch), (owner, owner.map(|o| o.machine)), "{ip}");
            assert_eq!(owner.is_some(), [1, 2, 3, 5, 6].contains(&ip.octets()[3]));
        }
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

        /// Against the layout, and against a model that knows only what each machine was told of its shares.
        #[test]
        fn every_port_of_every_address_has_the_layouts_owners(layout in any_moving_layout(9)) {
            let table = Table::new(&layout);
            let near = |row: &crate::epoch::Row| [-1, 0, 1].map(|n| row.address().to_bits().wrapping_add_signed(n));
            for ip in layout.rows().iter().flat_map(near).map(Ipv4Addr::from_bits) {
                let mut model = vec![None; 65_536];
                for machine in layout.machines().iter().filter(|_| layout.row(ip).is_some()) {
                    for (_, range) in layout.shares_of(&machine.id).filter(|(address, _)| *address == ip) {
                        range.ports().for_each(|port| model[usize::from(port)] = Some(&machine.id));
                    }
                }
                for holdout in layout.handovers().holdouts().iter().filter(|h| h.address == ip) {
                    model[usize::from(holdout.port)] = Some(&layout.machines()[holdout.machine.get()].id);
                }
                let packets: Vec<_> = (0..=u16::MAX).map(|port| (ip, port)).collect();
                let mixed: Vec<_> = packets.iter().map(|(ip, port)| (IpAddr::V4(*ip), *port)).collect();
                let (mut batch, mut owners) = (vec![None; packets.len()], vec![None; packets.len()]);
                table.owners_v4(&packets, &mut batch).unwrap();
                table.owners(&mixed, &mut owners).unwrap();
                for port in 0..=u16::MAX {
                    let (owner, at) = (table.owner(ip.into(), port), usize::from(port));
                    let machine = owner.map(|o| table.machine_id(o.machine).unwrap());
                    prop_assert_eq!(machine, model[at]);
                    prop_assert_eq!((owner.map(|o| o.machine), owner), (batch[at], owners[at]));
                    if layout.row(ip).is_some() {
                        prop_assert_eq!(owner, layout.owner(ip.into(), port));
                        let second = table.second_owner(ip.into(), port);
                        prop_assert_eq!(second, layout.second_owner(ip.into(), port), "{} {}", ip, port);
                    } else {
                        prop_assert_eq!(table.second_owner(ip.into(), port), None);
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
                let packets = [0, 1, 65_535].map(|port| (ip, port));
                let mut owners = [None; 3];
                table.owners(&packets, &mut owners).unwrap();
                for ((ip, port), owner) in packets.into_iter().zip(owners) {
                    prop_assert_eq!(table.owner(ip, port), layout.owner(ip, port), "{}", ip);
                    prop_assert_eq!(owner, layout.owner(ip, port));
                    prop_assert_eq!(table.second_owner(ip, port), None);
                }
            }
        }
    }
}
