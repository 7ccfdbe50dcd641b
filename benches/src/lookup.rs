//! Who owns a returning packet: ours and the peers over one layout, asked in three ways.

use core::hint::black_box;
use core::num::NonZeroU32;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aegis_core::epoch::{Epoch, Layout, LayoutPolicy, MachineIndex, NumberedMachine};
use aegis_core::fleet::{Coordinates, DataCenter, Fleet, Machine, Partition};
use aegis_core::id::AccountId;
use aegis_core::inventory::{AddressState, DataCenters, Direction, Holding, Inventory, Pool, Right};
use aegis_core::slices::V6Fields;
use aegis_core::soft_unicast::Table;
use ipnet::IpNet;
use prefix_trie::PrefixMap;

use crate::random::Random;

/// Packets in a batch.
pub const BATCH: usize = 256;

/// A packet's destination: egress address and port.
pub type Packet = (Ipv4Addr, u16);

/// Where the egress addresses of a layout lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// One block of addresses, without a gap.
    Block,
    /// Single addresses, 1,021 apart.
    Scattered,
}

/// How many egress addresses a layout has, each cut into the shares of 31 machines in one data center.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// A power of two.
    pub addresses: u32,
    /// Where they lie.
    pub spread: Spread,
}

impl Size {
    /// A /24: what is counted, and what the tables of the design speak of.
    pub const BLOCK_OF_256: Self = Self { addresses: 256, spread: Spread::Block };

    /// Address number `nth`.
    fn address(self, nth: u32) -> Ipv4Addr {
        let stride = if self.spread == Spread::Block { 1 } else { 1_021 };
        Ipv4Addr::from_bits(0xc612_0000 + nth * stride)
    }
}

/// The layout of a size.
///
/// # Panics
/// The world is not a possible one.
pub fn layout(size: Size) -> Layout {
    let whole = size.spread == Spread::Block && size.addresses >= 256;
    let prefixes: Vec<(IpNet, Right)> = if whole {
        let length = 32 - size.addresses.ilog2() as u8;
        vec![(IpNet::new(size.address(0).into(), length).expect("a prefix"), Right::Byoip)]
    } else {
        (0..size.addresses).map(|nth| (IpAddr::from(size.address(nth)).into(), Right::Leased)).collect()
    };
    layout_of(31, &prefixes)
}

/// A layout of IPv6 prefixes, each a `/64` with a gap before the next.
pub fn layout_v6(machines: u32, prefixes: u32) -> Layout {
    let prefix = |nth| Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(nth) << 65);
    let prefixes: Vec<_> = (0..prefixes)
        .map(|nth| (IpNet::new(prefix(nth).into(), 64).expect("a prefix"), Right::Leased))
        .collect();
    layout_of(machines, &prefixes)
}

fn layout_of(machines: u32, prefixes: &[(IpNet, Right)]) -> Layout {
    let name = "a name is well formed";
    // An IPv6 number has 16 bits for the machines of a data center.
    let sites = (0..machines.div_ceil(500)).map(|nth| DataCenter {
        id: format!("s{nth:03}").parse().expect(name),
        city: "Frankfurt".into(),
        coordinates: Coordinates::new(50.11, 8.68).expect("on earth"),
        partition: Partition::Global,
    });
    let sites: Vec<_> = sites.collect();
    let machines = (0..machines).map(|nth| Machine {
        id: format!("m{nth:06}").parse().expect(name),
        data_center: sites[nth as usize / 500].id.clone(),
        weight: 1,
    });
    let fleet = Fleet::new(sites.clone(), machines.collect::<Vec<_>>()).expect("names are unique");
    let account: AccountId = "acme".parse().expect(name);
    let holding = |(nth, (prefix, right)): (usize, &(IpNet, Right))| Holding {
        id: format!("h{nth:06}").parse().expect(name),
        account: account.clone(),
        right: *right,
        prefix: *prefix,
        // IPv6 is announced everywhere.
        data_centers: if prefix.addr().is_ipv4() {
            vec![sites[0].id.clone()].into()
        } else {
            DataCenters::Global
        },
        serves: Direction::Egress,
        state: AddressState::Active,
    };
    let pool = |(nth, (prefix, right)): (usize, &(IpNet, Right))| Pool {
        id: format!("p{nth:06}").parse().expect(name),
        account: account.clone(),
        right: *right,
        prefixes: vec![*prefix],
    };
    let holdings: Vec<_> = prefixes.iter().enumerate().map(holding).collect();
    let pools: Vec<_> = prefixes.iter().enumerate().map(pool).collect();
    let inventory = Inventory::new(holdings, pools, u8::MAX).expect("nothing overlaps");
    Layout::build(&fleet, &inventory, &LayoutPolicy::default(), None, Epoch::new(1)).expect("all fits")
}

/// Answers whose packet it is: the number of the machine.
pub trait Lookup {
    /// Made from a layout.
    fn of(layout: &Layout) -> Self;
    /// The owner.
    fn owner(&self, packet: Packet) -> Option<u32>;
    /// The sum of the owners of a batch, so that every answer is used.
    fn batch(&self, packets: &[Packet; BATCH]) -> u32 {
        packets.iter().map(|&packet| self.owner(packet).unwrap_or(0)).sum()
    }
}

/// Ours.
#[derive(Debug)]
pub struct SoftUnicast(Table);

impl Lookup for SoftUnicast {
    fn of(layout: &Layout) -> Self {
        Self(Table::new(layout))
    }

    #[inline]
    fn owner(&self, (ip, port): Packet) -> Option<u32> {
        self.0.owner_v4(ip, port).map(|machine| machine.get() as u32)
    }

    fn batch(&self, packets: &[Packet; BATCH]) -> u32 {
        let mut owners = [None::<MachineIndex>; BATCH];
        self.0.owners_v4(packets, &mut owners).expect("as many answers as questions");
        owners.iter().map(|owner| owner.map_or(0, |machine| machine.get() as u32)).sum()
    }
}

/// What a lookup cannot be faster than: an array by address, without a question whether the address is there. For
/// layouts of one block only.
#[derive(Debug)]
pub struct BareArray {
    first: u32,
    cells: Box<[u32]>,
}

impl Lookup for BareArray {
    fn of(layout: &Layout) -> Self {
        let first = layout.rows()[0].address().to_bits();
        let cell = |owner: &Option<MachineIndex>| owner.map_or(u32::MAX, |machine| machine.get() as u32);
        Self { first, cells: layout.rows().iter().flat_map(|row| row.owners()).map(cell).collect() }
    }

    #[inline]
    fn owner(&self, (ip, port): Packet) -> Option<u32> {
        let cell = self.cells[((ip.to_bits() - self.first) << 5 | u32::from(port >> SHIFT)) as usize];
        (cell != u32::MAX).then_some(cell)
    }
}

/// `(address, granule) -> machine`, as the entries of every peer.
fn entries(layout: &Layout) -> Vec<((u32, u16), u32)> {
    let rows =
        layout.rows().iter().flat_map(|row| (0..).zip(row.owners()).map(move |cell| (row.address(), cell)));
    rows.filter_map(|(ip, (granule, owner))| Some(((ip.to_bits(), granule), (*owner)?.get() as u32)))
        .collect()
}

/// A longest-prefix match of address and port, as routers would do it: a granule is a prefix of 37 bits.
#[expect(missing_debug_implementations, reason = "the map has none for every key")]
pub struct Trie(PrefixMap<(u64, u8), u32>);

impl Lookup for Trie {
    fn of(layout: &Layout) -> Self {
        let prefix = |(ip, granule): (u32, u16)| (u64::from(ip) << 32 | u64::from(granule) << 27, 37);
        Self(entries(layout).into_iter().map(|(key, machine)| (prefix(key), machine)).collect())
    }

    #[inline]
    fn owner(&self, (ip, port): Packet) -> Option<u32> {
        let key = (u64::from(ip.to_bits()) << 32 | u64::from(port) << 16, 48);
        self.0.get_lpm(&key).map(|(_, machine)| *machine)
    }
}

/// A `HashMap` with hashbrown's default hasher (foldhash: not keyed against an attacker, as the keys are ours).
#[derive(Debug)]
pub struct Hashed(hashbrown::HashMap<(u32, u16), u32>);

/// The same with std's default hasher.
#[derive(Debug)]
pub struct StdHashed(HashMap<(u32, u16), u32>);

/// A sorted vector and binary search.
#[derive(Debug)]
pub struct Sorted(Vec<((u32, u16), u32)>);

/// Of the 2,048 ports of a granule.
const SHIFT: u32 = 11;

impl Lookup for Hashed {
    fn of(layout: &Layout) -> Self {
        Self(entries(layout).into_iter().collect())
    }

    #[inline]
    fn owner(&self, (ip, port): Packet) -> Option<u32> {
        self.0.get(&(ip.to_bits(), port >> SHIFT)).copied()
    }
}

impl Lookup for StdHashed {
    fn of(layout: &Layout) -> Self {
        Self(entries(layout).into_iter().collect())
    }

    #[inline]
    fn owner(&self, (ip, port): Packet) -> Option<u32> {
        self.0.get(&(ip.to_bits(), port >> SHIFT)).copied()
    }
}

impl Lookup for Sorted {
    fn of(layout: &Layout) -> Self {
        let mut entries = entries(layout);
        entries.sort_unstable();
        Self(entries)
    }

    #[inline]
    fn owner(&self, (ip, port): Packet) -> Option<u32> {
        let key = (ip.to_bits(), port >> SHIFT);
        self.0.binary_search_by_key(&key, |entry| entry.0).ok().map(|at| self.0[at].1)
    }
}

/// How the lookups follow one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// Each packet depends on the answer before: the latency.
    Dependent,
    /// The packets are known: the throughput.
    Independent,
    /// The packets are known, and handed over [`BATCH`] at a time.
    Batch,
}

/// Packets of random addresses and ports of a layout, some of them nobody's.
pub fn packets(size: Size) -> Vec<[Packet; BATCH]> {
    let mut random = Random::new(11);
    let mut packet = || (size.address(random.below(size.addresses)), random.below(65_536) as u16);
    // As many as would not stay in the cache of a large table by themselves.
    let batches = (size.addresses as usize / 64).clamp(64, 1_024);
    (0..batches).map(|_| core::array::from_fn(|_| packet())).collect()
}

/// Looks `n` packets up, rounded up to whole batches.
pub fn ask<L: Lookup>(lookup: &L, question: Question, packets: &[[Packet; BATCH]], n: u64) {
    let n = usize::try_from(n).expect("fits");
    let batches = packets.iter().cycle().take(n.div_ceil(BATCH));
    match question {
        Question::Dependent => {
            let all = packets.as_flattened();
            assert!(all.len().is_power_of_two(), "or the remainder costs more than the lookup");
            let mut last = 0;
            for nth in 0..n {
                last = lookup.owner(all[(nth + last as usize) & (all.len() - 1)]).unwrap_or(0);
            }
            black_box(last);
        }
        Question::Independent => {
            for &packet in batches.flatten() {
                black_box(lookup.owner(packet));
            }
        }
        Question::Batch => {
            for batch in batches {
                black_box(lookup.batch(batch));
            }
        }
    }
}

/// The same question for IPv6 addresses.
pub trait LookupV6 {
    /// Made from a layout.
    fn of(layout: &Layout) -> Self;
    /// The owner.
    fn owner_v6(&self, ip: Ipv6Addr, port: u16) -> Option<u32>;
}

impl LookupV6 for SoftUnicast {
    fn of(layout: &Layout) -> Self {
        Self(Table::new(layout))
    }

    #[inline]
    fn owner_v6(&self, ip: Ipv6Addr, port: u16) -> Option<u32> {
        self.0.owner_v6(ip, port).map(|machine| machine.get() as u32)
    }
}

/// Two of hashbrown's maps: the `/64`s, and the machines by the 32 bits after them.
#[derive(Debug)]
pub struct HashedV6 {
    networks: hashbrown::HashSet<u64>,
    machines: hashbrown::HashMap<u32, u32>,
}

impl LookupV6 for HashedV6 {
    fn of(layout: &Layout) -> Self {
        let network = |ip: Ipv6Addr| (ip.to_bits() >> 64) as u64;
        let number = |machine: &NumberedMachine| {
            let data_center = layout.data_centers()[machine.data_center.get()].number.get();
            u32::from(data_center) << 16 | u32::from(machine.number.get())
        };
        Self {
            networks: layout.v6_prefixes().iter().map(|prefix| network(prefix.network())).collect(),
            machines: layout.machines().iter().map(number).zip(0..).collect(),
        }
    }

    #[inline]
    fn owner_v6(&self, ip: Ipv6Addr, port: u16) -> Option<u32> {
        let bits = ip.to_bits();
        if port == 0 || bits as u32 == 0 || !self.networks.contains(&((bits >> 64) as u64)) {
            return None;
        }
        self.machines.get(&((bits >> 32) as u32)).copied()
    }
}

/// Packets to random machines in random prefixes of a layout.
///
/// # Panics
/// It has no IPv6 prefixes.
pub fn packets_v6(layout: &Layout) -> Vec<(Ipv6Addr, u16)> {
    let mut random = Random::new(13);
    let packet = |_| {
        let prefix = layout.v6_prefixes()[random.below(layout.v6_prefixes().len() as u32) as usize];
        let machine = &layout.machines()[random.below(layout.machines().len() as u32) as usize];
        let data_center = layout.data_centers()[machine.data_center.get()].number;
        let host = NonZeroU32::MIN.saturating_add(random.below(255));
        (V6Fields { data_center, machine: machine.number, host }.compose(prefix), random.below(65_536) as u16)
    };
    (0..1 << 16).map(packet).collect()
}

/// Looks `n` packets up, each of which depends on the answer before if `dependent`.
pub fn ask_v6<L: LookupV6>(lookup: &L, dependent: bool, packets: &[(Ipv6Addr, u16)], n: u64) {
    let (n, mut last) = (usize::try_from(n).expect("fits"), 0);
    assert!(packets.len().is_power_of_two(), "or the remainder costs more than the lookup");
    for nth in 0..n {
        let at = if dependent { nth + last as usize } else { nth };
        let (ip, port) = packets[at & (packets.len() - 1)];
        last = black_box(lookup.owner_v6(ip, port)).unwrap_or(0);
    }
}
