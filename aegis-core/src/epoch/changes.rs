//! Worlds and what happens to them, for the tests of how much moves.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::testing::{World, data_center};
use crate::fleet::Machine;
use crate::inventory::{DataCenters, Inventory};
use crate::net::PortRange;
use crate::slices::Cut;

/// A change of the world; what it names is taken modulo what there is.
#[derive(Clone, Debug)]
pub(super) enum Change {
    AddMachine(Index, u32),
    RemoveMachine(Index),
    Reweigh(Index, u32),
    Drain(Index),
    Announce(Index, Index),
    Withdraw(Index, Index),
    AddAddress(u8, Index),
    RemoveAddress(Index),
    Limit(Option<u16>),
}

pub(super) fn any_change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 1..6_u32).prop_map(|(site, weight)| Change::AddMachine(site, weight)),
        at().prop_map(Change::RemoveMachine),
        (at(), 1..6_u32).prop_map(|(machine, weight)| Change::Reweigh(machine, weight)),
        at().prop_map(Change::Drain),
        (at(), at()).prop_map(|(holding, site)| Change::Announce(holding, site)),
        (at(), at()).prop_map(|(holding, site)| Change::Withdraw(holding, site)),
        (any::<u8>(), at()).prop_map(|(host, site)| Change::AddAddress(host, site)),
        at().prop_map(Change::RemoveAddress),
        prop::option::of(1..5_u16).prop_map(Change::Limit),
    ]
}

impl World {
    /// The world after a change; as it was if that would leave a data center of some holding without machines.
    pub(super) fn changed(&self, change: &Change) -> Self {
        let mut world = self.clone();
        let sites = world.data_centers.len();
        let list = |world: &mut Self, holding: &Index, change: &dyn Fn(&mut Vec<_>)| {
            let holdings = world.holdings.len();
            let DataCenters::Listed(list) = &mut world.holdings[holding.index(holdings)].data_centers else {
                panic!("all are lists here")
            };
            change(list);
            list.sort_unstable();
            list.dedup();
        };
        match change {
            Change::AddMachine(site, weight) => {
                let id = format!("a-new-{}", world.machines.len()).parse().unwrap();
                world.machines.retain(|machine| machine.id != id);
                let data_center = data_center(site.index(sites)).id;
                world.machines.push(Machine { id, data_center, weight: *weight });
            }
            Change::RemoveMachine(machine) => {
                world.machines.remove(machine.index(self.machines.len()));
            }
            Change::Reweigh(machine, weight) => {
                world.machines[machine.index(self.machines.len())].weight = *weight;
            }
            Change::Drain(machine) => world.machines[machine.index(self.machines.len())].weight = 0,
            Change::Announce(holding, site) => {
                list(&mut world, holding, &|list| list.push(data_center(site.index(sites)).id));
            }
            Change::Withdraw(holding, site) => {
                list(&mut world, holding, &|list| drop(list.remove(site.index(list.len()))));
            }
            Change::AddAddress(host, site) => {
                world = world.hold(&format!("192.0.2.{host}/32"), &[site.index(sites)]);
            }
            Change::RemoveAddress(holding) => {
                world.pools.remove(holding.index(self.pools.len()));
            }
            Change::Limit(limit) => world.policy.max_granules_per_machine = *limit,
        }
        let possible = !world.pools.is_empty()
            && Inventory::new(world.holdings.clone(), world.pools.clone(), 4).is_ok()
            && world.build(1).is_ok();
        if possible { world } else { self.clone() }
    }
}

/// Up to 4 data centers of up to 3 machines, up to 6 addresses of 7 or 15 granules at up to 4 of them.
pub(super) fn small_world() -> impl Strategy<Value = World> {
    let sites = prop::collection::vec(prop::collection::vec(1..6_u32, 1..=3), 1..=4);
    let address = (any::<u8>(), prop::collection::btree_set(0..4_usize, 1..=4));
    (sites, prop::collection::vec(address, 1..=6), any::<bool>()).prop_map(|(sites, addresses, fine)| {
        let weights: Vec<&[u32]> = sites.iter().map(Vec::as_slice).collect();
        let mut world = World::new(&weights);
        let mut taken = BTreeSet::new();
        for (host, at) in addresses {
            let at: BTreeSet<usize> = at.into_iter().map(|site| site % sites.len()).collect();
            if taken.insert(host) {
                world = world.hold(&format!("192.0.2.{host}/32"), &at.into_iter().collect::<Vec<_>>());
            }
        }
        world.policy.cut = cut(if fine { 4_096 } else { 8_192 });
        world
    })
}

pub(super) fn cut(granule: u32) -> Cut {
    let reserved = format!("0-{}", granule - 1).parse().unwrap();
    Cut::new(granule.try_into().unwrap(), PortRange::ALL, [reserved]).unwrap()
}

/// A block of 256 addresses at data centers of many machines of three sizes.
fn large_world(machines: &[usize]) -> World {
    let weights: Vec<Vec<u32>> =
        machines.iter().map(|n| (0..*n).map(|m| [1, 2, 4][m % 3]).collect()).collect();
    let world = World::new(&weights.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let at: Vec<usize> = (0..machines.len().min(4)).collect();
    world.hold("192.0.2.0/24", &at)
}

/// What happens to half a block, 128 addresses, at four data centers, each with the world before and after.
pub(super) fn large_changes() -> Vec<(&'static str, World, World)> {
    let mut base = large_world(&[40, 25, 100, 10, 60]);
    base.pools[0].prefixes = vec!["192.0.2.0/25".parse().unwrap()];
    let at = |sites: &[usize]| {
        let mut world = base.clone();
        world.holdings[0].data_centers = sites.iter().map(|d| data_center(*d).id).collect::<Vec<_>>().into();
        world
    };
    let only = |prefixes: &[&str]| {
        let mut world = base.clone();
        world.pools[0].prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
        world
    };
    let newcomers = |count: usize| {
        let mut world = base.clone();
        let id = |n| format!("new{n}").parse().unwrap();
        let newcomer = |n| Machine { id: id(n), data_center: data_center(2).id, weight: 2 };
        world.machines.extend((0..count).map(newcomer));
        world
    };
    let with = |change: &dyn Fn(&mut Vec<Machine>)| {
        let mut world = base.clone();
        change(&mut world.machines);
        world
    };
    let half = with(&|machines| {
        machines
            .iter_mut()
            .filter(|m| m.data_center == data_center(2).id)
            .take(50)
            .for_each(|m| m.weight = 0);
    });
    let few = only(&["192.0.2.8/29", "192.0.2.64/26", "192.0.2.1/32"]);
    let change = |name, after| (name, base.clone(), after);
    vec![
        change("one machine added", newcomers(1)),
        change("a hundred machines added", newcomers(100)),
        change("one machine removed", with(&|machines| drop(machines.remove(50)))),
        change("one machine reweighed", with(&|machines| machines[50].weight = 3)),
        change("half a data center drained", half.clone()),
        ("half a data center back", half, base.clone()),
        change("a data center removed", at(&[0, 1, 3])),
        ("a data center added", at(&[0, 1, 3]), base.clone()),
        change("a data center replaced", at(&[0, 1, 3, 4])),
        change("addresses removed", few.clone()),
        ("addresses added", few, base.clone()),
        ("two data centers become four", at(&[0, 2]), base.clone()),
    ]
}
