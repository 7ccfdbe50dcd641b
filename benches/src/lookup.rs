//! Who owns a returning packet: ours and the peers over one layout, asked in three ways.

use core::hint::black_box;
use std::collections::HashMap;
use std::net::Ipv4Addr;

use aegis_core::epoch::{Epoch, Layout, LayoutPolicy, MachineIndex};
use aegis_core::fleet::{Coordinates, DataCenter, Fleet, Machine, Partition};
use aegis_core::inventory::{AddressState, Holding, Inventory, Pool, Right};
use aegis_core::soft_unicast::Table;

use crate::random::Random;

/// Packets in a batch.
pub const BATCH: usize = 256;

/// A packet's destination: egress address and port.
pub type Packet = (Ipv4Addr, u16);

/// A /24 in one data center of 31 machines: 256 addresses, 31 shares each.
///
/// # Panics
/// The world is not a possible one.
pub fn layout() -> Layout {
    let name = "a name is well formed";
    let data_center = DataCenter {
        id: "fra".parse().expect(name),
        city: "Frankfurt".into(),
        coordinates: Coordinates::new(50.11, 8.68).expect("on earth"),
        partition: Partition::Global,
    };
    let machines = (0..31).map(|nth| Machine {
        id: format!("fra-m{nth}").parse().expect(name),
        data_center: data_center.id.clone(),
        weight: 1,
    });
    let fleet =
        Fleet::new(vec![data_center.clone()], machines.collect::<Vec<_>>()).expect("names are unique");
    let prefix = "198.51.100.0/24".parse().expect("a prefix");
    let holding = Holding {
        id: "h".parse().expect(name),
        account: "acme".parse().expect(name),
        right: Right::Byoip,
        prefix,
        data_centers: vec![data_center.id].into(),
        state: AddressState::Active,
    };
    let pool = Pool {
        id: "p".parse().expect(name),
        account: holding.account.clone(),
        right: Right::Byoip,
        prefixes: vec![prefix],
    };
    let inventory = Inventory::new(vec![holding], vec![pool], u8::MAX).expect("one holding, one pool");
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

/// `(address, granule) -> machine`, as the entries of every peer.
fn entries(layout: &Layout) -> Vec<((u32, u16), u32)> {
    let granule = |nth: u16| layout.cut().range(nth).expect("a granule of the cut");
    let of = |ip: Ipv4Addr, nth: u16| layout.owner(ip.into(), granule(nth).lo());
    let all = layout.rows().iter().flat_map(|row| layout.cut().granules().map(move |g| (row.address(), g)));
    all.filter_map(|(ip, g)| Some(((ip.to_bits(), g), of(ip, g)?.machine.get() as u32))).collect()
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

/// Packets of random addresses and ports of the layout, some of them nobody's.
pub fn packets() -> Vec<[Packet; BATCH]> {
    let mut random = Random::new(11);
    let mut packet = || (Ipv4Addr::from_bits(0xc633_6400 + random.below(256)), random.below(65_536) as u16);
    (0..64).map(|_| core::array::from_fn(|_| packet())).collect()
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
