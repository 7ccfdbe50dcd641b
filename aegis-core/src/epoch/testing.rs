//! Small and random fleets for the tests of layouts, tables and bundles.

use core::net::Ipv4Addr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::{Epoch, Layout, LayoutPolicy};
use crate::fleet::{Coordinates, DataCenter, Fleet, Machine, Partition};
use crate::inventory::{AddressState, DataCenters, Direction, Holding, Inventory, Pool, Right};
use crate::slices::{Cut, GranuleSize};

/// What a layout is built from, in no particular order.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) data_centers: Vec<DataCenter>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) holdings: Vec<Holding>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) policy: LayoutPolicy,
}

impl World {
    /// Data centers `d0`, `d1`, ... with machines of these weights; `d0`'s are `d0-m0`, ...
    pub(crate) fn new(weights: &[&[u32]]) -> Self {
        let mut world = Self {
            data_centers: Vec::new(),
            machines: Vec::new(),
            holdings: Vec::new(),
            pools: Vec::new(),
            policy: LayoutPolicy::default(),
        };
        for (d, weights) in weights.iter().enumerate() {
            world.data_centers.push(data_center(d));
            for (m, weight) in weights.iter().enumerate() {
                world.machines.push(Machine {
                    id: format!("d{d}-m{m}").parse().unwrap(),
                    data_center: data_center(d).id,
                    weight: *weight,
                });
            }
        }
        world
    }

    /// Adds a holding `h0`, `h1`, ... of `prefix` at these data centers, all of it in a pool `p0`, `p1`, ...
    pub(crate) fn hold(mut self, prefix: &str, data_centers: &[usize]) -> Self {
        let (n, account) = (self.holdings.len(), "acme".parse().unwrap());
        let prefix: IpNet = prefix.parse().unwrap();
        let single = matches!(prefix.prefix_len(), 32 | 64);
        let right = if single { Right::Leased } else { Right::Byoip };
        self.holdings.push(Holding {
            id: format!("h{n}").parse().unwrap(),
            account,
            right,
            prefix,
            data_centers: match prefix {
                IpNet::V4(_) => {
                    DataCenters::Listed(data_centers.iter().map(|d| data_center(*d).id).collect())
                }
                IpNet::V6(_) => DataCenters::Global,
            },
            serves: Direction::Egress,
            state: AddressState::Active,
        });
        self.pools.push(Pool {
            id: format!("p{n}").parse().unwrap(),
            account: "acme".parse().unwrap(),
            right,
            prefixes: vec![prefix],
        });
        self
    }

    pub(crate) fn fleet(&self) -> Fleet {
        Fleet::new(self.data_centers.clone(), self.machines.clone()).unwrap()
    }

    pub(crate) fn inventory(&self) -> Inventory {
        Inventory::new(self.holdings.clone(), self.pools.clone(), u8::MAX).unwrap()
    }

    pub(crate) fn build(&self, epoch: u64) -> crate::Result<Layout> {
        self.build_after(None, epoch)
    }

    pub(crate) fn build_after(&self, previous: Option<&Layout>, epoch: u64) -> crate::Result<Layout> {
        Layout::build(&self.fleet(), &self.inventory(), &self.policy, previous, Epoch::new(epoch))
    }
}

pub(crate) fn data_center(n: usize) -> DataCenter {
    let nowhere: Coordinates = serde_json::from_str(r#"{"latitude_e6":0,"longitude_e6":0}"#).unwrap();
    DataCenter {
        id: format!("d{n}").parse().unwrap(),
        city: "nowhere".into(),
        coordinates: nowhere,
        partition: Partition::Global,
    }
}

/// The exact quotas of these weights, as numerators and their denominator: nobody above `limit`, heavy ones first.
pub(crate) fn exact_quotas(weights: &[u128], granules: u128, limit: u128) -> (Vec<u128>, u128) {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_unstable_by_key(|n| core::cmp::Reverse(weights[*n]));
    let (mut left, mut all, mut limited) = (granules, weights.iter().sum::<u128>(), 0);
    while limited < order.len() && left * weights[order[limited]] > limit.saturating_mul(all) {
        left -= limit;
        all -= weights[order[limited]];
        limited += 1;
    }
    let denominator = all.max(1);
    let mut quotas: Vec<u128> = weights.iter().map(|weight| left * weight).collect();
    order[..limited].iter().for_each(|n| quotas[*n] = limit * denominator);
    (quotas, denominator)
}

/// Up to 6 data centers of up to 12 machines, up to 12 addresses at up to 4 of them, any granule size.
pub(crate) fn any_world() -> impl Strategy<Value = World> {
    let weight = prop_oneof![4 => Just(1_u32), 4 => 1..10_u32, 4 => Just(u32::MAX), 1 => Just(0)];
    let site = prop::collection::vec(weight, 1..12);
    let address = (any::<u8>(), prop::collection::btree_set(0..6_usize, 1..=4));
    (
        prop::collection::vec(site, 1..6),
        prop::collection::vec(address, 1..12),
        8..=14_u32,
        prop::option::of(1..20_u16),
    )
        .prop_map(|(sites, addresses, shift, max_granules_per_machine)| {
            // A machine may be drained, a data center may not.
            let mut sites = sites;
            sites.iter_mut().for_each(|weights| weights[0] = weights[0].max(1));
            let sites: Vec<&[u32]> = sites.iter().map(Vec::as_slice).collect();
            let mut world = World::new(&sites).hold("2001:db8:0:1::/64", &[]).hold("2001:db8:1::/48", &[]);
            let mut taken = Vec::new();
            for (host, at) in addresses {
                let mut at: Vec<usize> = at.into_iter().map(|d| d % sites.len()).collect();
                at.sort_unstable();
                at.dedup();
                if !taken.contains(&host) {
                    taken.push(host);
                    world = world.hold(&format!("{}/32", Ipv4Addr::new(192, 0, 2, host)), &at);
                }
            }
            let granule = GranuleSize::new(1 << shift).unwrap();
            let reserved = ["0-2047", "30000"].map(|r| r.parse().unwrap());
            world.policy.cut = Cut::new(granule, "0-65535".parse().unwrap(), reserved).unwrap();
            world.policy.max_granules_per_machine = max_granules_per_machine;
            world
        })
}
