use core::time::Duration;

use super::*;
use crate::epoch::Epoch;
use crate::fleet::{Coordinates, DataCenter, Fleet, Latencies, Latency, Machine, Partition, Reach};
use crate::fleet_file::FleetFile;
use crate::id::DataCenterId;
use crate::inventory::Wish;

fn id(code: &str) -> DataCenterId {
    code.parse().unwrap()
}

/// The data centers of the example fleet, with so many machines each; `pek` is in a separate partition.
fn fleet(machines: impl Fn(&str) -> u32) -> Fleet {
    let file = FleetFile::parse("fleet.toml", include_str!("../../examples/fleet.toml")).unwrap();
    let data_centers: Vec<DataCenter> = file.fleet.data_centers().cloned().collect();
    let all = data_centers.iter().flat_map(|d| {
        (0..machines(d.id.as_str())).map(|n| Machine {
            id: format!("{}-{n}", d.id).parse().unwrap(),
            data_center: d.id.clone(),
            weight: 1,
        })
    });
    Fleet::new(data_centers.clone(), all.collect::<Vec<_>>()).unwrap()
}

/// So many connections to an origin near Frankfurt, from three continents.
fn demand(fleet: &Fleet, peak: f64) -> OriginDemand {
    let near = Coordinates::new(50.0, 8.0).unwrap();
    from(&[("fra", 5.0), ("lhr", 3.0), ("iad", 2.0), ("sin", 1.0)], Reach::estimated(fleet, near), peak)
        .unwrap()
}

fn from(ingress: &[(&str, f64)], reach: Reach, peak: f64) -> crate::Result<OriginDemand> {
    let load = Traffic::Connections { peak, closes_per_second: 0.0 };
    let ingress = ingress.iter().map(|(code, weight)| (id(code), *weight));
    OriginDemand::new("shop".parse().unwrap(), load, Duration::ZERO, ingress, reach)
}

fn wishing(wishes: &[(&str, Wish)]) -> Constraints {
    let mut constraints = Constraints::default();
    constraints.wishes.wishes = wishes.iter().map(|(code, wish)| (id(code), *wish)).collect();
    constraints
}

fn planned(fleet: &Fleet, peak: f64, constraints: &Constraints) -> crate::Result<Plan> {
    plan(fleet, &Latencies::estimated(fleet), &[demand(fleet, peak)], constraints)
}

#[test]
fn each_rule_decides_where_it_asks_for_most() {
    let fleet = fleet(|_| 2);
    let accept = Constraints { loss: Loss::Accepted, ..Constraints::default() };
    let asks = |peak, constraints: &Constraints| {
        let sizing = planned(&fleet, peak, constraints).unwrap().sizing;
        (sizing.addresses, sizing.decided_by)
    };
    // 0.8 x 63,488 = 50,790 ports are more than 40,000.
    assert_eq!(asks(40_000.0, &accept), (1, Rule::Recommended));
    assert_eq!(asks(40_001.0, &accept), (2, Rule::Recommended));
    assert_eq!(asks(200_001.0, &accept), (6, Rule::Recommended));
    // One data center of four may be lost: 8 granules of 31, so that 13,107 + 13,107 + 11,468 ports are left.
    assert_eq!(asks(37_682.0, &Constraints::default()).0, 1);
    assert_eq!(asks(37_683.0, &Constraints::default()), (2, Rule::Slices));
    assert_eq!(asks(39_000.0, &Constraints::default()), (2, Rule::Loss));
    // Where the busiest of many machines has twice its part, its ports are full at half of them.
    let uneven = Constraints { imbalance: Imbalance::new(2.0).unwrap(), ..accept.clone() };
    assert_eq!(asks(38_000.0, &uneven), (2, Rule::Refusals));
    // Half the ports reserved: 80 % of them are fewer than 40,000.
    let mut narrow = accept;
    narrow.policy.cut =
        crate::slices::Cut::new(Default::default(), "32768-65535".parse().unwrap(), []).unwrap();
    let Asks { rule, addresses, .. } = planned(&fleet, 52_000.0, &narrow).unwrap().sizing.asks[1].clone();
    assert_eq!((rule, addresses), (Rule::Ports, 2), "26,214 each");
}

#[test]
fn a_plan_holds_what_it_promises() {
    let fleet = fleet(|code| if code == "fra" { 7 } else { 3 });
    let demands = [demand(&fleet, 150_000.0)];
    let plan = plan(&fleet, &Latencies::estimated(&fleet), &demands, &Constraints::default()).unwrap();
    let carried: u64 = plan.routes.iter().map(|route| route.connections).sum();
    assert_eq!(carried, 150_000);
    for exit in &plan.exits {
        let here =
            plan.routes.iter().filter(|r| r.exit == exit.data_center).map(|r| r.connections).sum::<u64>();
        assert_eq!(here, exit.connections);
        assert!(here <= exit.planned_for && exit.planned_for * 100 <= exit.ports * 80);
    }
    for sites in &plan.addresses {
        assert_eq!(sites.len(), 4);
    }
    // Any loss is survived.
    let all: u64 = plan.exits.iter().map(|exit| exit.planned_for).sum();
    assert!(plan.exits.iter().all(|exit| all - exit.planned_for >= 150_000));
    let worst = plan.worst_loss.as_ref().unwrap();
    assert!(worst.left.growth() >= 1.0 && worst.longer.is_some());
    assert!(plan.breaks.windows(2).all(|pair| pair[0].growth() <= pair[1].growth()));
    assert!(plan.gap < 0.05, "{}", plan.gap);
    // Pinned to the other end of the world, it takes longer.
    let far = wishing(&[("syd", Wish::Pinned), ("fra", Wish::Forbidden)]);
    let far = planned(&fleet, 150_000.0, &far).unwrap();
    assert!(far.addresses.iter().all(|sites| sites.contains(&id("syd")) && !sites.contains(&id("fra"))));
    assert!(far.latency > plan.latency);
}

#[test]
fn the_same_input_gives_the_same_plan_and_the_text_says_why() {
    let fleet = fleet(|_| 2);
    let plan = planned(&fleet, 90_000.0, &Constraints::default()).unwrap();
    assert_eq!(plan, planned(&fleet, 90_000.0, &Constraints::default()).unwrap());
    let text = plan.to_string();
    for words in
        ["3 IPv4 addresses; decided by: 40000 connections", "what breaks first:", "worst single loss: "]
    {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_plan_is_a_section_of_a_fleet_file_and_the_layout_of_both_is_one() {
    let text = include_str!("../../examples/fleet.toml");
    let file = FleetFile::parse("fleet.toml", text).unwrap();
    let plan = planned(&file.fleet, 90_000.0, &Constraints::default()).unwrap();
    let addresses = (1..=plan.sizing.addresses as u8).map(|n| core::net::Ipv4Addr::new(192, 88, 98, n)).rev();
    let mut rented = Rented {
        account: "acme".parse().unwrap(),
        pool: "acme-new".parse().unwrap(),
        addresses: addresses.collect(),
    };
    let whole = format!("{text}{}", plan.to_toml(&rented).unwrap());
    let whole = FleetFile::parse("whole.toml", &whole).unwrap();
    let layout = plan.layout(&file.fleet, &rented, None, Epoch::new(1)).unwrap();
    // In a file without the other addresses it is the same layout.
    let only = text.split("[[holding]]").next().unwrap().split("# Accounts").next().unwrap();
    let account = "[[account]]\nid = \"acme\"\nname = \"Acme\"\n";
    let only = format!("{only}\n{account}{}", plan.to_toml(&rented).unwrap());
    let only = FleetFile::parse("only.toml", &only).unwrap();
    assert_eq!(only.layout(None, Epoch::new(1)).unwrap(), layout);
    for (row, sites) in layout.rows().iter().zip(&plan.addresses) {
        let names: Vec<_> =
            row.data_centers().iter().map(|d| layout.data_centers()[d.get()].id.clone()).collect();
        assert_eq!(names, *sites);
        let holding = whole.inventory.holding_of(row.address().into()).unwrap();
        assert_eq!(holding.state, crate::inventory::AddressState::Allocated);
    }
    // The ports that the plan says are those of the layout.
    for exit in &plan.exits {
        let machines = file.fleet.machines_in(&exit.data_center);
        let ports: usize = machines.map(|m| layout.shares_of(&m.id).count() * 2_048).sum();
        assert_eq!(ports as u64, exit.ports, "{}", exit.data_center);
    }
    rented.addresses.pop();
    assert!(
        plan.holdings(&rented).unwrap_err().message().contains("the plan is for 3 addresses; 2 different")
    );
}

#[test]
fn what_cannot_be_met_is_named_with_the_smallest_change_that_would() {
    use Wish::{Forbidden, Pinned};
    let world = fleet(|code| u32::from(code != "gru") * 2);
    let refused = |wishes: &[(&str, Wish)], change: &dyn Fn(&mut Constraints)| {
        let mut constraints = wishing(wishes);
        change(&mut constraints);
        planned(&world, 60_000.0, &constraints).unwrap_err().to_string()
    };
    let pins = |codes: &[&'static str]| codes.iter().map(|code| (*code, Pinned)).collect::<Vec<_>>();
    let none: &dyn Fn(&mut Constraints) = &|_| {};
    let all: Vec<_> = world.data_centers().map(|d| (d.id.to_string(), Forbidden)).collect();
    let all: Vec<(&str, Wish)> = all.iter().map(|(code, wish)| (code.as_str(), *wish)).collect();
    let all_but_fra: Vec<_> = all.iter().copied().filter(|(code, _)| *code != "fra").collect();
    let count = |n: u8| move |c: &mut Constraints| c.wishes.count = core::num::NonZeroU8::new(n);
    for (message, expected) in [
        (
            refused(&pins(&["fra", "ams"]), &|c| c.cities = Cities::One),
            "the pinned data centers ams and fra lie in 2 cities, 1 allowed for an address; allow 2 cities, or unpin one",
        ),
        (
            refused(&pins(&["ams", "cdg", "fra", "iad", "lhr"]), none),
            "5 data centers are pinned (ams and cdg and fra and iad and lhr), but an address may be at 4; raise \
             data_centers_per_address to 5, or unpin 1",
        ),
        (refused(&pins(&["xxx"]), none), "data center xxx is pinned, which does not exist; correct its code"),
        (refused(&pins(&["pek"]), none), "data center pek is pinned, which is in a separate partition"),
        (refused(&pins(&["gru"]), none), "data center gru is pinned, which has no machines in use; add one"),
        (refused(&[("xxx", Forbidden)], none), "data center xxx is forbidden, which does not exist"),
        (refused(&all, none), "every data center with machines in use is forbidden; allow ams"),
        (
            refused(&all_but_fra, none),
            "origin shop is reached by fra only, and the loss of any data center is to be survived; allow ",
        ),
        (
            refused(&[], &count(5)),
            "5 data centers are asked for each address, the policy allows 4; ask for 4",
        ),
        (
            refused(&[], &|c| {
                c.cities = Cities::One;
                count(2)(c);
            }),
            "each address is to be at 2 data centers in at most 1 city, but the best (Amsterdam) has only 1 that may \
             announce it; ask for 1 data centers, or allow 2 cities",
        ),
        (
            refused(&pins(&["fra"]), &count(1)),
            "every address would be at the pinned data center fra alone, a single point of failure",
        ),
        (
            refused(&[], &|c| c.addresses = Some(1)),
            "the demand of origin shop exceeds 1 addresses of 63488 ports (40000 connections per egress IP and origin); \
             allow 2 addresses",
        ),
    ] {
        assert!(message.starts_with(expected), "{message}");
    }
    // Nothing at all, or nothing that reaches the origin.
    let latencies = Latencies::estimated(&world);
    let with = |demands: &[OriginDemand], latencies: &Latencies, fleet: &Fleet| {
        plan(fleet, latencies, demands, &Constraints::default()).unwrap_err().to_string()
    };
    assert!(with(&[], &latencies, &world).starts_with("there is no demand"));
    let one = demand(&world, 1.0);
    assert!(with(&[one.clone(), one.clone()], &latencies, &world).starts_with("origin shop has two demands"));
    let nowhere = Latencies::estimated(&Fleet::default());
    assert!(with(core::slice::from_ref(&one), &nowhere, &world).starts_with("the latency matrix is empty"));
    assert!(
        with(&[one], &latencies, &fleet(|_| 0))
            .starts_with("no data center of the global partition has machines")
    );
    let only = |code| Reach::measured(&world, [(id(code), Latency::from_micros(5))]).unwrap();
    let far = from(&[("fra", 1.0)], only("gru"), 1.0).unwrap();
    assert!(with(&[far], &latencies, &world).starts_with(
        "origin shop is reached by no allowed data center with machines; add a machine in gru (the nearest"
    ));
    let stray =
        from(&[("xxx", 1.0)], Reach::estimated(&world, Coordinates::new(0.0, 0.0).unwrap()), 1.0).unwrap();
    assert!(
        with(&[stray], &latencies, &world)
            .contains("enters at data center xxx, which the latency matrix does")
    );
    let islands = Latencies::measured(&world, [(id("fra"), id("ams"), Latency::ZERO)]).unwrap();
    let reach = Reach::measured(&world, ["fra", "ams"].map(|code| (id(code), Latency::ZERO))).unwrap();
    let stuck = from(&[("syd", 1.0)], reach, 1.0).unwrap();
    assert!(with(&[stuck], &islands, &world).starts_with("origin shop: from ingress syd there is no way"));
    let absurd = demand(&world, 1e12);
    assert!(
        with(&[absurd], &latencies, &world).contains("a plan places at most 4096; use connections again")
    );
}

#[test]
fn data_centers_of_one_machine_beside_large_ones_do_not_make_a_plan_that_fails() {
    // fra has 40 machines, the others one: beside it they would have one granule of 31.
    let fleet = fleet(|code| if code == "fra" { 40 } else { 1 });
    let plan = planned(&fleet, 120_000.0, &Constraints::default()).unwrap();
    let all: u64 = plan.exits.iter().map(|exit| exit.planned_for).sum();
    assert!(plan.exits.iter().all(|exit| all - exit.planned_for >= 120_000), "{plan}");
}

#[test]
fn two_cities_are_two_and_one_is_one() {
    let site = |code: &str, city: &str, latitude| DataCenter {
        id: id(code),
        city: city.into(),
        coordinates: Coordinates::new(latitude, 0.0).unwrap(),
        partition: Partition::Global,
    };
    let sites = [
        site("a1", "a", 0.0),
        site("a2", "a", 0.1),
        site("b1", "b", 10.0),
        site("b2", "b", 10.1),
        site("c1", "c", 20.0),
        site("c2", "c", 20.1),
        site("c3", "c", 20.2),
    ];
    let machines = sites.iter().map(|d| Machine {
        id: format!("{}-m", d.id).parse().unwrap(),
        data_center: d.id.clone(),
        weight: 1,
    });
    let fleet = Fleet::new(sites.clone(), machines).unwrap();
    let reach = || Reach::estimated(&fleet, Coordinates::new(10.0, 0.0).unwrap());
    let demand = from(&[("a1", 1.0), ("b1", 1.0), ("c1", 1.0)], reach(), 100_000.0).unwrap();
    for (cities, most) in [(Cities::One, 1), (Cities::Two, 2)] {
        let constraints = Constraints { cities, ..Constraints::default() };
        let plan = plan(&fleet, &Latencies::estimated(&fleet), core::slice::from_ref(&demand), &constraints)
            .unwrap();
        for sites in &plan.addresses {
            let cities: std::collections::BTreeSet<_> = sites.iter().map(|s| &s.as_str()[..1]).collect();
            assert!(cities.len() <= most, "{sites:?}");
        }
        assert!(plan.gap < 0.2, "{}", plan.gap);
    }
}

#[test]
fn the_comparison_shows_its_arithmetic() {
    let fleet = fleet(|_| 2);
    let plan = planned(&fleet, 120_000.0, &Constraints::default()).unwrap();
    let prices = Prices { leased_v4: 100.0, byoip_block: 250.0, ..Prices::default() };
    let comparison = plan.compare(&fleet, &prices).unwrap();
    // 12 data centers of the global partition with 2 machines each.
    let a = plan.addresses.len() as u128;
    assert_eq!(comparison.v6.points_of_egress, 24 * 512);
    assert_eq!(comparison.v6.ports, 24 * 512 * 2_048);
    assert_eq!((comparison.v4.points_of_egress, comparison.v4.ports), (4 * a, a * 63_488));
    assert!(comparison.to_string().contains("36893488147419103232"));
    assert!(comparison.advice.contains(&Advice::Byoip { saves: 100.0 * a as f64 - 250.0 }));
    assert!(
        comparison
            .advice
            .iter()
            .any(|advice| matches!(advice, Advice::Reuse { addresses } if *addresses < a as u64))
    );
    let bad = Prices { leased_v4: f64::NAN, ..prices };
    assert!(plan.compare(&fleet, &bad).unwrap_err().message().starts_with("price leased_v4: NaN"));
}

#[test]
fn a_loss_is_survived_by_every_ingress_or_there_is_no_plan() {
    let fleet = fleet(|_| 2);
    let ms = |ms: u32| Latency::from_micros(ms * 1_000);
    let reach = || Reach::measured(&fleet, ["fra", "ams", "cdg"].map(|code| (id(code), ms(5)))).unwrap();
    let with = |rows: &[(&str, &str)]| {
        let rows = rows.iter().map(|(a, b)| (id(a), id(b), ms(10)));
        let demand = from(&[("syd", 1.0), ("fra", 1.0)], reach(), 10_000.0).unwrap();
        plan(&fleet, &Latencies::measured(&fleet, rows).unwrap(), &[demand], &Constraints::default())
    };
    let one = with(&[("syd", "fra"), ("fra", "ams"), ("fra", "cdg")]).unwrap_err().to_string();
    assert!(one.starts_with("origin shop: from ingress syd there is a way through fra only"), "{one}");
    let two = with(&[("syd", "fra"), ("syd", "ams"), ("fra", "ams"), ("fra", "cdg")]);
    assert!(two.is_ok_and(|plan| plan.exits.iter().all(|exit| exit.if_missing.is_some())));
}

#[test]
fn a_plan_has_the_fewest_addresses_that_carry_it() {
    // Far more than the rules ask for, so that not every number is tried.
    let fleet = fleet(|code| if code == "fra" { 60 } else { 1 });
    let fewest = planned(&fleet, 900_000.0, &Constraints::default()).unwrap().sizing.addresses;
    let one_less = Constraints { addresses: Some(fewest - 1), ..Constraints::default() };
    let refused = planned(&fleet, 900_000.0, &one_less).unwrap_err().to_string();
    assert!(refused.contains(&format!("; allow {fewest} addresses")), "{refused}");
}

#[test]
fn ipv6_is_no_advice_where_it_costs_more() {
    let fleet = fleet(|_| 2);
    let plan = planned(&fleet, 1_000.0, &Constraints::default()).unwrap();
    for (v6_prefix, advised) in [(50.0, true), (51.0, false)] {
        let prices = Prices { leased_v4: 100.0, v6_prefix, ..Prices::default() };
        let advice = plan.compare(&fleet, &prices).unwrap().advice;
        assert_eq!(advice.iter().any(|a| matches!(a, Advice::Ipv6 { .. })), advised, "{advice:?}");
    }
}
