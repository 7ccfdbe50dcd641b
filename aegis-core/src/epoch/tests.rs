use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::testing::{World, any_world, exact_quotas};
use super::{Layout, MachineIndex};
use crate::error::ErrorKind;
use crate::fleet::Partition;
use crate::id::{DataCenterId, MachineId};
use crate::inventory::DataCenters;
use crate::net::PortRange;
use crate::slices::V6Fields;

fn id(name: &str) -> MachineId {
    name.parse().unwrap()
}

/// Granules of one row by machine position.
fn counts(owners: &[Option<MachineIndex>]) -> BTreeMap<usize, u64> {
    let mut counts = BTreeMap::new();
    owners.iter().flatten().for_each(|m| *counts.entry(m.get()).or_default() += 1);
    counts
}

#[test]
fn thirty_one_servers_share_one_address() {
    let layout = World::new(&[&[1; 31]]).hold("192.0.2.1/32", &[0]).build(1).unwrap();
    let shares: BTreeSet<PortRange> =
        layout.machines().iter().flat_map(|m| layout.shares_of(&m.id)).map(|(_, range)| range).collect();
    assert_eq!(shares.len(), 31);
    assert_eq!(shares.first().unwrap().to_string(), "2048-4095");
    assert_eq!(shares.last().unwrap().to_string(), "63488-65535");
    for port in [0, 1, 2_047] {
        assert_eq!(layout.owner("192.0.2.1".parse().unwrap(), port), None);
    }
    assert_eq!(layout.owner("192.0.2.2".parse().unwrap(), 2_048), None, "foreign, never a neighbour");
}

#[test]
fn neighbouring_granules_go_to_one_machine() {
    let layout = World::new(&[&[1, 1], &[2]]).hold("192.0.2.1/32", &[0, 1]).build(1).unwrap();
    let row = layout.rows()[0].owners();
    let changes = row.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(changes, 3, "reserved, then one run for each machine: {row:?}");
}

#[test]
fn a_machine_limit_leaves_granules_unassigned() {
    let mut world = World::new(&[&[1, 1], &[30]]).hold("192.0.2.1/32", &[0, 1]);
    world.policy.max_granules_per_machine = Some(5);
    let layout = world.build(1).unwrap();
    let counts = counts(layout.rows()[0].owners());
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [5, 5, 5], "nobody may have the other 16");
}

#[test]
fn what_a_limit_takes_from_one_machine_goes_to_the_others_by_weight() {
    let mut world = World::new(&[&[1, 2, 3], &[30, 20]]).hold("192.0.2.1/32", &[0, 1]);
    world.policy.max_granules_per_machine = Some(8);
    let layout = world.build(1).unwrap();
    let counts = counts(layout.rows()[0].owners());
    // 31 - 2 * 8 = 15 granules at 1:2:3.
    assert!([[2, 5, 8, 8, 8], [3, 5, 7, 8, 8]].contains(&[0, 1, 2, 3, 4].map(|m| counts[&m])), "{counts:?}");
}

#[test]
fn more_machines_than_granules_take_turns() {
    let layout = World::new(&[&[1; 100]]).hold("192.0.2.0/24", &[0]).build(1).unwrap();
    let sums: Vec<usize> = layout.machines().iter().map(|m| layout.shares_of(&m.id).count()).collect();
    // 256 * 31 / 100 = 79.36
    assert!(sums.iter().all(|sum| (79..=80).contains(sum)), "{sums:?}");
}

#[test]
fn faults_name_both_sides() {
    let base = || World::new(&[&[1], &[]]);
    let mut separate = base().hold("192.0.2.1/32", &[1]);
    separate.data_centers[1].partition = Partition::Separate("east".into());
    let mut one = World::new(&[&[1], &[1]]).hold("192.0.2.1/32", &[0, 1]);
    one.policy.data_centers_per_address = 1;
    for (world, words) in [
        (base().hold("192.0.2.1/32", &[1]), ["holding h0", "data center d1, which has no machines"]),
        (base().hold("192.0.2.1/32", &[7]), ["holding h0", "data center d7, which does not exist"]),
        (separate, ["holding h0", "data center d1, which is in a separate partition"]),
        (one, ["holding h0 lists 2 data centers", "192.0.2.1/32; list 1 to 1"]),
        (
            World::new(&[&[0, 0]]).hold("192.0.2.1/32", &[0]),
            ["holding h0", "data center d0, whose machines are all drained"],
        ),
    ] {
        let e = world.build(1).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Input);
        assert!(words.iter().all(|w| e.message().contains(w)), "{e}");
    }
    let world = base().hold("192.0.2.1/32", &[0]);
    let layout = world.build(5).unwrap();
    let e = world.build_after(Some(&layout), 5).unwrap_err();
    assert!(e.message().contains("epoch 5 does not come after 5"), "{e}");
}

#[test]
fn numbers_survive_new_and_lost_members() {
    let mut world = World::new(&[&[1, 1], &[1]]).hold("2001:db8::/64", &[]);
    let first = world.build(1).unwrap();
    let address = |layout: &Layout, name| layout.v6_addresses_of(&id(name), 1).next();
    assert_eq!(address(&first, "d0-m1"), Some("2001:db8::1:2:0:1".parse().unwrap()));
    world.machines.retain(|m| m.id != id("d0-m0"));
    let mut newcomer = world.machines[0].clone();
    newcomer.id = id("a-new-one");
    world.machines.push(newcomer);
    let mut moved = world.machines[1].clone();
    assert_eq!(moved.id, id("d1-m0"));
    world.machines.remove(1);
    moved.data_center = "d0".parse::<DataCenterId>().unwrap();
    world.machines.push(moved);
    let second = world.build_after(Some(&first), 2).unwrap();
    assert_eq!(address(&second, "d0-m1"), address(&first, "d0-m1"));
    assert_eq!(
        address(&second, "a-new-one"),
        Some("2001:db8::1:3:0:1".parse().unwrap()),
        "not the free number"
    );
    assert_eq!(
        address(&second, "d1-m0"),
        Some("2001:db8::1:4:0:1".parse().unwrap()),
        "numbered where it is now"
    );
    assert_eq!(address(&second, "d0-m0"), None);
    // Nor after an epoch in which nobody had it.
    let mut last = world.machines[0].clone();
    world.machines.retain(|m| m.id != id("d1-m0"));
    let second = world.build_after(Some(&second), 3).unwrap();
    last.id = id("b-newer-one");
    world.machines.push(last);
    let third = world.build_after(Some(&second), 4).unwrap();
    assert_eq!(address(&third, "b-newer-one"), Some("2001:db8::1:5:0:1".parse().unwrap()));
}

#[test]
fn the_number_of_a_data_center_that_is_gone_is_not_given_again_at_once() {
    let mut world = World::new(&[&[1], &[1]]).hold("2001:db8::/64", &[]);
    let first = world.build(1).unwrap();
    let gone = world.data_centers.remove(1);
    world.machines.retain(|m| m.data_center != gone.id);
    let second = world.build_after(Some(&first), 2).unwrap();
    let mut newcomer = world.data_centers[0].clone();
    newcomer.id = "a".parse().unwrap();
    world.data_centers.push(newcomer);
    let third = world.build_after(Some(&second), 3).unwrap();
    let numbers: Vec<_> = third.data_centers().iter().map(|d| (d.id.as_str(), d.number.get())).collect();
    assert_eq!(numbers, [("a", 3), ("d0", 1)]);
    assert_eq!(Layout::from_bytes(&third.to_bytes()).unwrap().last_data_center_number(), 3);
}

#[test]
fn a_separate_partition_has_no_global_addresses() {
    let mut world = World::new(&[&[1], &[1]]).hold("2001:db8::/64", &[]).hold("192.0.2.1/32", &[0]);
    world.data_centers[1].partition = Partition::Separate("east".into());
    let layout = world.build(1).unwrap();
    assert_eq!(layout.machine_index(&id("d1-m0")), None);
    assert_eq!(layout.v6_addresses_of(&id("d1-m0"), 4).count() + layout.shares_of(&id("d1-m0")).count(), 0);
    assert_eq!(layout.v6_addresses_of(&id("d0-m0"), 4).count(), 4);
}

/// One broken rule each, written into the JSON form.
#[test]
fn a_broken_rule_is_refused_by_name() {
    let layout = World::new(&[&[1], &[1], &[1]])
        .hold("192.0.2.1/32", &[0, 1])
        .hold("192.0.2.2/32", &[0])
        .hold("2001:db8::/64", &[])
        .build(1)
        .unwrap();
    let good: serde_json::Value = serde_json::from_str(&layout.to_json()).unwrap();
    let fault = |path: &str, value: serde_json::Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(&format!("/content/{path}")).expect(path) = value;
        let e = Layout::from_json(&bad.to_string()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Reload);
        e.to_string()
    };
    for (path, value, words) in [
        ("rows/0/owners/0", 0.into(), "192.0.2.1: granule 0 has an owner, but is not usable"),
        ("rows/0/owners/5", 3.into(), "granule 5 belongs to machine position 3, but there are only 3"),
        ("rows/0/owners", serde_json::json!([]), "192.0.2.1 has 0 granules; the cut makes 32"),
        ("rows/0/owners/5", 2.into(), "belongs to machine d2-m0, whose data center does not announce it"),
        (
            "rows/0/data_centers",
            serde_json::json!([1, 0]),
            "192.0.2.1: data center position 0 is out of order",
        ),
        (
            "rows/0/data_centers",
            serde_json::json!([0, 1, 3]),
            "from data center position 3, but there are only 3",
        ),
        ("last_data_center_number", 0.into(), "none was ever given a number"),
        (
            "data_centers/1/last_machine_number",
            0.into(),
            "machine d1-m0 is in data center d1, where none was ever",
        ),
        ("rows/1/address", "192.0.2.1".into(), "address 192.0.2.1 is there twice"),
        ("rows/1/address", "192.0.2.0".into(), "address 192.0.2.0 is out of order (after 192.0.2.1)"),
        ("data_centers_per_address", 1.into(), "slices at 2 data centers; at most 1"),
        ("data_centers/1/number", 1.into(), "data centers d0 and d1 both have number 1"),
        ("data_centers/1/number", 0.into(), "nonzero"),
        ("machines/1/data_center", 0.into(), "d0-m0 and d1-m0 of one data center both have number 1"),
        ("machines/1/data_center", 3.into(), "machine d1-m0 is at data center position 3"),
        ("machines/1/id", "z".into(), "machine d2-m0 is out of order (after z)"),
        ("v6_prefixes/0", "2001:db8::/65".into(), "longer than /64"),
        ("v6_prefixes/0", "2001:db8::1/64".into(), "has host bits; write 2001:db8::/64"),
        ("cut/reserved", serde_json::json!([]), "port 0 would be usable"),
    ] {
        let e = fault(path, value);
        assert!(e.contains(words), "{path}: {e}");
    }
}

/// The same for what is moving.
#[test]
fn a_broken_handover_is_refused_by_name() {
    let layout = World::new(&[&[1], &[1], &[1]]).hold("192.0.2.1/32", &[0, 1]).build(1).unwrap();
    assert_eq!(layout.shares_of(&id("d1-m0")).next().unwrap().1.lo(), 17 << 11, "the first one of d1");
    let mut good: serde_json::Value = serde_json::from_str(&layout.to_json()).unwrap();
    good["content"]["machines"][2]["standing"] = "leaving".into();
    good["content"]["rows"][0]["data_centers"] = serde_json::json!([0, 1, 2]);
    good["content"]["handovers"] = serde_json::json!({
        "draining": [
            {"address": "192.0.2.1", "granule": 5, "to": 1, "since": 1},
            {"address": "192.0.2.1", "granule": 6, "to": null, "since": 1},
        ],
        "holdouts": [
            {"address": "192.0.2.1", "port": 51_200, "machine": 0, "since": 1},
            {"address": "192.0.2.1", "port": 51_201, "machine": 2, "since": 1},
        ],
        "previous": [
            {"address": "192.0.2.1", "granule": 26, "machine": 0, "departure": "handedover", "since": 1},
            {"address": "192.0.2.1", "granule": 27, "machine": 2, "departure": "died", "since": 0},
        ],
    });
    let read = Layout::from_json(&good.to_string()).unwrap();
    assert_eq!(Layout::from_bytes(&read.to_bytes()), Ok(read));
    for (path, value, words) in [
        ("draining/1/granule", 5.into(), "draining granule 192.0.2.1 5 is there twice"),
        ("draining/1/granule", 4.into(), "draining granule 192.0.2.1 4 is out of order"),
        ("draining/0/granule", 0.into(), "granule 192.0.2.1 0 drains, but is nobody's"),
        ("draining/0/to", 0.into(), "granule 192.0.2.1 5 drains to its own owner, machine d0-m0"),
        ("draining/0/to", 2.into(), "granule 192.0.2.1 5 drains to machine d2-m0, which grants nothing"),
        ("draining/0/to", 3.into(), "192.0.2.1 5 names machine position 3, but there are only 3"),
        ("draining/0/since", 2.into(), "draining granule 192.0.2.1 5: since epoch 2, after 1"),
        ("draining/0/address", "192.0.2.0".into(), "draining granule 192.0.2.0 5: there is no such granule"),
        ("draining/1/granule", 32.into(), "draining granule 192.0.2.1 32: there is no such granule"),
        ("holdouts/1/port", 51_200.into(), "port that stayed behind 192.0.2.1 51200 is there twice"),
        ("holdouts/1/port", 51_199.into(), "port that stayed behind 192.0.2.1 51199 is out of order"),
        ("holdouts/0/port", 80.into(), "port 192.0.2.1 80 stayed behind, but is not usable"),
        ("holdouts/0/machine", 1.into(), "port 192.0.2.1 51200 stayed behind at the owner of its granule"),
        ("holdouts/0/machine", 3.into(), "192.0.2.1 51200 names machine position 3, but there are only 3"),
        ("holdouts/0/since", 2.into(), "port that stayed behind 192.0.2.1 25: since epoch 2, after 1"),
        ("holdouts/0/address", "192.0.2.0".into(), "behind 192.0.2.0 25: there is no such granule"),
        ("previous/1/granule", 26.into(), "previous owner of granule 192.0.2.1 26 is there twice"),
        ("previous/1/granule", 25.into(), "previous owner of granule 192.0.2.1 25 is out of order"),
        ("previous/0/machine", 1.into(), "granule 192.0.2.1 26 has its owner as previous owner, too"),
        ("previous/0/machine", 3.into(), "192.0.2.1 26 names machine position 3, but there are only 3"),
        ("previous/0/since", 2.into(), "previous owner 192.0.2.1 26: since epoch 2, after 1"),
        ("previous/1/granule", 32.into(), "previous owner 192.0.2.1 32: there is no such granule"),
        ("previous/0/departure", "gone".into(), "unknown variant `gone`"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(&format!("/content/handovers/{path}")).expect(path) = value;
        let e = Layout::from_json(&bad.to_string()).unwrap_err();
        assert!(e.kind() == ErrorKind::Reload && e.message().contains(words), "{path}: {e}");
    }
    good["content"]["handovers"]["draining"] = serde_json::json!([]);
    good["content"]["machines"][0]["standing"] = "drained".into();
    let e = Layout::from_json(&good.to_string()).unwrap_err().to_string();
    assert!(e.contains("belongs to machine d0-m0, which grants nothing, and does not drain"), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_share_is_its_quota_rounded(world in any_world()) {
        let layout = world.build(1).unwrap();
        let usable: BTreeSet<u16> = layout.cut().granules().collect();
        let weight = |m: usize| {
            let id = &layout.machines()[m].id;
            u128::from(world.machines.iter().find(|x| x.id == *id).unwrap().weight)
        };
        for (row, holding) in layout.rows().iter().map(|row| {
            let at = |h: &&crate::inventory::Holding| h.prefix.contains(&IpAddr::V4(row.address()));
            (row, world.holdings.iter().find(at).unwrap())
        }) {
            let counts = counts(row.owners());
            let DataCenters::Listed(list) = &holding.data_centers else { panic!("{holding:?}") };
            let here: Vec<usize> = (0..layout.machines().len()).filter(|m| {
                list.contains(&layout.data_centers()[layout.machines()[*m].data_center.get()].id)
            }).collect();
            let weights: Vec<u128> = here.iter().map(|m| weight(*m)).collect();
            let limit = world.policy.max_granules_per_machine.map_or(u128::MAX, u128::from);
            let (quotas, all) = exact_quotas(&weights, usable.len() as u128, limit);
            for (m, quota) in here.iter().zip(&quotas) {
                let share = u128::from(counts.get(m).copied().unwrap_or(0));
                prop_assert!(share <= limit);
                prop_assert!((share * all).abs_diff(*quota) < all, "{share} granules for a quota of {quota}/{all}");
            }
            prop_assert!(counts.keys().all(|m| here.contains(m)), "no share outside its slices");
            // Shares + reserved + unassigned are the port space; without a limit nothing is unassigned.
            let assigned: u64 = counts.values().sum();
            prop_assert_eq!(u128::from(assigned), quotas.iter().sum::<u128>() / all);
            for port in PortRange::ALL.ports() {
                let owner = layout.owner(row.address().into(), port);
                let granule = port >> layout.cut().granule().shift();
                prop_assert_eq!(owner.map(|o| o.machine), row.owners()[usize::from(granule)]);
                prop_assert!(owner.is_none() || usable.contains(&granule));
            }
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(world in any_world(), seed: u64) {
        let mut shuffled = world.clone();
        let turn = |n: usize| if n == 0 { 0 } else { (seed % n as u64) as usize };
        shuffled.data_centers.reverse();
        shuffled.machines.rotate_left(turn(world.machines.len()));
        shuffled.holdings.rotate_right(turn(world.holdings.len()));
        shuffled.pools.reverse();
        let (a, b) = (world.build(3).unwrap(), shuffled.build(3).unwrap());
        prop_assert_eq!(a.to_bytes(), b.to_bytes());
        prop_assert_eq!(a, b);
    }

    #[test]
    fn roundings_even_out_over_many_addresses(
        sites in prop::collection::vec(prop::collection::vec(1..20_u32, 1..30), 1..=4),
    ) {
        let weights: Vec<&[u32]> = sites.iter().map(Vec::as_slice).collect();
        let at: Vec<usize> = (0..sites.len()).collect();
        let layout = World::new(&weights).hold("192.0.2.0/24", &at).build(1).unwrap();
        let all: u32 = sites.iter().flatten().sum();
        for (d, weights) in sites.iter().enumerate() {
            for (m, weight) in weights.iter().enumerate() {
                let sum = layout.shares_of(&id(&format!("d{d}-m{m}"))).count();
                let exact = 256.0 * 31.0 * f64::from(*weight) / f64::from(all);
                prop_assert!((sum as f64 - exact).abs() < 2.0, "{sum} granules of 256 addresses, exactly {exact}");
            }
        }
    }

    #[test]
    fn both_forms_read_back(world in any_world()) {
        let layout = world.build(9).unwrap();
        prop_assert_eq!(&Layout::from_bytes(&layout.to_bytes()).unwrap(), &layout);
        prop_assert_eq!(&Layout::from_json(&layout.to_json()).unwrap(), &layout);
    }

    #[test]
    fn every_v6_address_is_owned_by_its_machine(world in any_world()) {
        let layout = world.build(1).unwrap();
        let mut seen = BTreeSet::new();
        for machine in layout.machines() {
            let addresses: Vec<_> = layout.v6_addresses_of(&machine.id, 3).collect();
            prop_assert_eq!(addresses.len(), 3 * layout.v6_prefixes().len());
            prop_assert!(addresses.is_sorted());
            for ip in addresses {
                prop_assert!(seen.insert(ip));
                prop_assert_eq!(V6Fields::parse(ip).unwrap().machine, machine.number);
                let owner = layout.owner(ip.into(), 443).unwrap();
                prop_assert_eq!(&layout.machines()[owner.machine.get()].id, &machine.id);
                prop_assert_eq!(layout.owner(ip.into(), 0), None);
            }
        }
    }
}
