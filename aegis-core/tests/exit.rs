//! Exits, over a world of 330 data centers, against brute force.

#[path = "world/mod.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use aegis_core::ErrorKind;
use aegis_core::exit::{Criterion, Full, Ingress, Ranking, Reason, Share, Sites, SpillOver, Threshold};
use aegis_core::fleet::{Coordinates, Fleet, Latencies, Latency, Machine, Partition, Reach};
use aegis_core::id::{DataCenterId, MachineId};
use proptest::prelude::*;
use world::id;

const MACHINES: usize = 4;

struct World {
    fleet: Fleet,
    /// By code.
    global: Vec<DataCenterId>,
    latencies: Latencies,
    /// As networks are: a third of the pairs is unknown, and of the others the near ones need not be fast.
    sparse: Latencies,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let fleet = world::fleet(|_| MACHINES);
    let latencies = Latencies::estimated(&fleet);
    let ids = latencies.data_centers();
    let pairs = (0..ids.len()).flat_map(|from| (0..from).map(move |to| (from, to)));
    let known = pairs.filter(|(from, to)| (from * 7 + to * 11) % 3 > 0);
    let rows = known.map(|(from, to)| {
        let estimate = latencies.at(from, to).expect("estimates are of all").as_micros();
        let measured = estimate * ((from * 5 + to * 3) % 7) as u32 + 300;
        (ids[from].clone(), ids[to].clone(), Latency::from_micros(measured))
    });
    let sparse = Latencies::measured(&fleet, rows).unwrap();
    let of_global = fleet.data_centers().filter(|dc| dc.partition == Partition::Global);
    let global = of_global.map(|dc| dc.id.clone()).collect();
    World { fleet, global, latencies, sparse }
});

fn machine(data_center: &DataCenterId, nth: usize) -> MachineId {
    format!("{data_center}-m{nth}").parse().unwrap()
}

/// A pool, an origin, a request, and how busy everything is.
#[derive(Debug)]
struct Case {
    /// Ports of each machine, and how many are in use.
    shares: BTreeMap<MachineId, (u32, Option<u64>)>,
    ingress: DataCenterId,
    ingress_machine: Option<usize>,
    origin: (f64, f64),
    /// Data centers that do not reach the origin: every so manieth, from here on.
    deaf: Option<(usize, usize)>,
    sparse: bool,
    criterion: Criterion,
    spill_over: SpillOver,
    number: u64,
}

impl Case {
    fn reach(&self) -> Reach {
        let fleet = &WORLD.fleet;
        let all = Reach::estimated(fleet, Coordinates::new(self.origin.0, self.origin.1).unwrap());
        let deaf = |nth: usize| self.deaf.is_some_and(|(every, from)| nth % every == from % every);
        let rows = all.iter().enumerate().filter(|(nth, _)| !deaf(*nth));
        Reach::measured(fleet, rows.map(|(_, (id, latency))| (id.clone(), latency))).unwrap()
    }

    fn latencies(&self) -> &'static Latencies {
        if self.sparse { &WORLD.sparse } else { &WORLD.latencies }
    }

    fn ingress(&self) -> Ingress {
        match self.ingress_machine {
            Some(nth) => Ingress::Machine(machine(&self.ingress, nth)),
            None => Ingress::DataCenter(self.ingress.clone()),
        }
    }

    fn sites(&self) -> Arc<Sites> {
        let shares = self.shares.iter().map(|(machine, (ports, _))| (machine.clone(), *ports));
        Arc::new(Sites::new(&WORLD.fleet, shares).unwrap())
    }

    fn ranking(&self) -> aegis_core::Result<Ranking> {
        self.ranking_of(&self.sites())
    }

    fn ranking_of(&self, sites: &Arc<Sites>) -> aegis_core::Result<Ranking> {
        let (ingress, reach) = (self.ingress(), self.reach());
        Ranking::new(&WORLD.fleet, sites, &ingress, &reach, self.latencies(), self.criterion)
    }

    fn in_use(&self) -> impl Fn(&Share) -> Option<u64> + Copy + '_ {
        |share| self.shares[share.machine()].1
    }

    // From here on: what is right, told again in the slowest way.

    fn free(&self, machine: &MachineId) -> u64 {
        let (ports, used) = self.shares[machine];
        u64::from(ports).saturating_sub(used.unwrap_or(0))
    }

    fn machines_at(&self, id: &DataCenterId) -> Vec<&MachineId> {
        let here = |m: &&MachineId| WORLD.fleet.machine(m).unwrap().data_center == *id;
        self.shares.iter().filter(|(_, (ports, _))| *ports > 0).map(|(m, _)| m).filter(here).collect()
    }

    fn has_free(&self, id: &DataCenterId) -> bool {
        self.machines_at(id).iter().any(|m| self.free(m) > 0)
    }

    fn below(&self, id: &DataCenterId, threshold: u64) -> bool {
        let machines = self.machines_at(id);
        let ports: u64 = machines.iter().map(|m| u64::from(self.shares[*m].0)).sum();
        let free: u64 = machines.iter().map(|m| self.free(m)).sum();
        (ports - free) * 100 < threshold * ports
    }

    fn city(id: &DataCenterId) -> &'static str {
        &WORLD.fleet.data_center(id).unwrap().city
    }

    fn total(&self, id: &DataCenterId, reach: &Reach) -> Option<Latency> {
        Some(self.latencies().get(&self.ingress, id)? + reach.get(id)?)
    }

    /// Less is better; none: no way.
    fn cost(&self, id: &DataCenterId, reach: &Reach) -> Option<(u8, Latency, Latency, DataCenterId)> {
        let (hop, total) = (self.latencies().get(&self.ingress, id)?, self.total(id, reach)?);
        let (class, latency) = match self.criterion {
            Criterion::TotalLatency => (0, total),
            Criterion::NearestOrigin => (0, reach.get(id)?),
            Criterion::NearestIngress if *id == self.ingress => (0, hop),
            Criterion::NearestIngress if Self::city(id) == Self::city(&self.ingress) => (1, hop),
            Criterion::NearestIngress => (2, hop),
        };
        Some((class, latency, total, id.clone()))
    }

    fn best<'a>(
        &self,
        reach: &Reach,
        among: impl IntoIterator<Item = &'a DataCenterId>,
    ) -> Option<&'a DataCenterId> {
        among.into_iter().filter_map(|id| Some((self.cost(id, reach)?, id))).min().map(|(_, id)| id)
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let used = prop_oneof![
        2 => (0..=10_u64).prop_map(Some),
        2 => Just(Some(u64::MAX)),
        1 => Just(None),
    ];
    // Few ports, so that thresholds are met exactly too.
    let share = (1..=MACHINES, 0..=10_u32, used);
    // Half of the data centers from a corner of the list, so that ingress, slices and locations meet.
    let data_center = || {
        let few = ["ewr", "fra", "jfk", "lga", "lgw", "lhr", "cdg", "ory"].map(id);
        prop_oneof![
            prop::sample::select(few.to_vec()),
            (0..WORLD.global.len()).prop_map(|nth| WORLD.global[nth].clone())
        ]
    };
    let slices = prop::collection::vec((data_center(), prop::collection::vec(share, 1..=MACHINES)), 1..8);
    let criterion = prop::sample::select(vec![
        Criterion::TotalLatency,
        Criterion::NearestOrigin,
        Criterion::NearestIngress,
    ]);
    let percent = prop::sample::select(vec![1_u8, 50, 80, 99, 100]);
    let spill_over = prop_oneof![
        1 => Just(SpillOver::Never),
        3 => percent.prop_map(|percent| SpillOver::At(Threshold::percent(percent).unwrap())),
    ];
    let paths = (
        (-80.0..80.0, -180.0..180.0),
        prop::option::weighted(0.3, (2..4_usize, 0..4_usize)),
        prop::bool::weighted(0.3),
    );
    let request = (data_center(), prop::option::weighted(0.8, 1..=MACHINES), any::<u64>());
    (slices, paths, request, criterion, spill_over).prop_map(
        |(slices, (origin, deaf, sparse), (ingress, ingress_machine, number), criterion, spill_over)| {
            let mut shares = BTreeMap::new();
            for (id, of_site) in slices {
                for (nth, ports, used) in of_site {
                    shares.insert(machine(&id, nth), (ports, used));
                }
            }
            // A pool without any port is refused; that has its own test.
            if shares.values().all(|(ports, _)| *ports == 0) {
                shares.values_mut().for_each(|(ports, _)| *ports = 1);
            }
            Case { shares, ingress, ingress_machine, origin, deaf, sparse, criterion, spill_over, number }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn the_exit_is_the_best_by_the_criterion_that_has_headroom(case in cases()) {
        let reach = case.reach();
        let holders: BTreeSet<DataCenterId> =
            WORLD.global.iter().filter(|id| !case.machines_at(id).is_empty()).cloned().collect();
        let ranking = match case.ranking() {
            Ok(ranking) => ranking,
            Err(error) => {
                prop_assert!(case.best(&reach, &holders).is_none());
                let reaching = holders.iter().any(|id| reach.get(id).is_some());
                let kind = if reaching { ErrorKind::OtherExit } else { ErrorKind::Wait };
                prop_assert_eq!(error.kind(), kind, "{}", error);
                return Ok(());
            }
        };
        let best = case.best(&reach, &holders).unwrap();
        let free: Vec<_> = holders.iter().filter(|id| case.has_free(id)).collect();
        let first_free = case.best(&reach, free.iter().copied());
        let below = |threshold: u64| {
            case.best(&reach, free.iter().copied().filter(|id| case.below(id, threshold)))
        };
        let spilled = |id| if id == best { Reason::Best } else { Reason::SpilledOver };
        let expected = match case.spill_over {
            SpillOver::Never if case.has_free(best) => Ok((best, Reason::Best)),
            SpillOver::Never => Err(Full { best: best.clone(), elsewhere: first_free.cloned() }),
            SpillOver::At(threshold) => below(percent(threshold)).map(|id| (id, spilled(id)))
                .or(first_free.map(|id| (id, Reason::AllBusy)))
                .ok_or(Full { best: best.clone(), elsewhere: None }),
        };
        let chosen = ranking.choose(case.in_use(), case.spill_over, case.number);
        prop_assert_eq!(chosen.as_ref().map(|e| (e.data_center(), e.reason())), expected.as_ref().copied());
        let Ok(exit) = chosen else { return Ok(()) };

        prop_assert!(case.machines_at(exit.data_center()).contains(&exit.machine()), "a machine with a share");
        prop_assert!(case.free(exit.machine()) > 0, "with a free port");
        if let Some(nth) = case.ingress_machine.filter(|_| *exit.data_center() == case.ingress) {
            let own = machine(&case.ingress, nth);
            let serves = case.shares.contains_key(&own) && case.free(&own) > 0;
            prop_assert!(!serves || *exit.machine() == own, "who has it serves it");
        }

        let total = case.total(exit.data_center(), &reach).unwrap();
        let anywhere = case.best(&reach, &WORLD.global).unwrap();
        let unrestricted = case.total(anywhere, &reach).unwrap();
        prop_assert_eq!(exit.total(), total);
        prop_assert_eq!(Some(exit.hop()), case.latencies().get(&case.ingress, exit.data_center()));
        prop_assert_eq!(ranking.unrestricted(), (anywhere, unrestricted));
        let extra = i64::from(total.as_micros()) - i64::from(unrestricted.as_micros());
        prop_assert_eq!(i64::from(exit.extra_hop().as_micros()), extra.max(0));
        if case.criterion == Criterion::TotalLatency {
            prop_assert!(extra >= 0, "no restriction makes a way shorter");
        }
    }

    #[test]
    fn whoever_refuses_is_followed_by_a_neighbour_and_nobody_is_asked_twice(case in cases()) {
        let Ok(ranking) = case.ranking() else { return Ok(()) };
        let Ok(exit) = ranking.choose(case.in_use(), case.spill_over, case.number) else { return Ok(()) };
        let mut asked = vec![exit.share()];
        asked.extend(ranking.others(&exit, case.spill_over));

        let distinct: BTreeSet<_> = asked.iter().map(|share| share.machine()).collect();
        prop_assert_eq!(distinct.len(), asked.len());
        let expected: usize = match case.spill_over {
            SpillOver::Never => case.machines_at(exit.data_center()).len(),
            SpillOver::At(_) => ranking.sites().map(|(id, _)| case.machines_at(id).len()).sum(),
        };
        prop_assert_eq!(asked.len(), expected);

        let rank: BTreeMap<_, _> = ranking.sites().zip(0..).map(|((id, _), nth)| (id, nth)).collect();
        let order = |share: &&Share| {
            let id = share.data_center();
            let class = match () {
                () if id == exit.data_center() => 0,
                () if Case::city(id) == Case::city(exit.data_center()) => 1,
                () => 2,
            };
            (class, rank[id])
        };
        prop_assert!(asked.is_sorted_by_key(order), "{:?}", asked);
        if let Some(nth) = case.ingress_machine {
            let own = machine(&case.ingress, nth);
            let mut there = asked[1..].iter().filter(|share| *share.data_center() == case.ingress);
            let first = there.next().map(|share| share.machine());
            prop_assert!(there.all(|share| *share.machine() != own), "{own} is first, not after {first:?}");
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(case in cases(), seed in any::<u64>()) {
        let sites = case.sites();
        // Once for each of two addresses, and shuffled.
        let mut rows: Vec<_> = case.shares.iter().flat_map(|(machine, (ports, _))| {
            [(machine.clone(), ports / 2), (machine.clone(), ports - ports / 2)]
        }).collect();
        let len = rows.len();
        for nth in 0..len {
            rows.swap(nth, (seed as usize).wrapping_mul(nth + 1) % len);
        }
        prop_assert_eq!(&Sites::new(&WORLD.fleet, rows).unwrap(), &*sites);
        let choose = || {
            let ranking = case.ranking_of(&sites).ok()?;
            let exit = ranking.choose(case.in_use(), case.spill_over, case.number);
            Some(exit.map(|exit| exit.machine().clone()))
        };
        prop_assert_eq!(choose(), choose());
    }
}

fn percent(threshold: Threshold) -> u64 {
    (1..=100).find(|&percent| Threshold::percent(percent).unwrap() == threshold).unwrap().into()
}

/// Who is asked for a request that has come to `ingress`, one after the other, by the forwarding order.
fn forwarded(ingress: &str, holders: &[&str]) -> Vec<String> {
    let holders = holders.iter().map(|name| (name.parse().unwrap(), 2_048));
    let sites = Arc::new(Sites::new(&WORLD.fleet, holders).unwrap());
    let reach = Reach::estimated(&WORLD.fleet, Coordinates::new(35.68, 139.69).unwrap()); // far from all of them
    let ingress = Ingress::Machine(ingress.parse().unwrap());
    let criterion = Criterion::NearestIngress;
    let ranking = Ranking::new(&WORLD.fleet, &sites, &ingress, &reach, &WORLD.latencies, criterion).unwrap();
    let everywhere = SpillOver::At(Threshold::FULL);
    let exit = ranking.choose(|_| None, everywhere, 1).unwrap();
    let others = ranking.others(&exit, everywhere);
    [exit.share()].into_iter().chain(others).map(|share| share.machine().to_string()).collect()
}

#[test]
fn a_request_is_forwarded_to_this_machine_this_data_center_this_location_and_the_closest_other() {
    let holders = ["jfk-m1", "cdg-m2", "ory-m1", "lgw-m3", "lhr-m2", "lhr-m4"];
    let from_here = forwarded("lhr-m2", &holders);
    assert_eq!(from_here, ["lhr-m2", "lhr-m4", "lgw-m3", "cdg-m2", "ory-m1", "jfk-m1"]);
    // Without a share: the other two of the data center in an order that the number says.
    let mut without = forwarded("lhr-m1", &holders);
    without[..2].sort();
    assert_eq!(without, from_here);
    // Amsterdam has none at all, and Gatwick is nearest to it.
    let elsewhere = forwarded("ams-m1", &holders[..5]);
    assert_eq!(elsewhere, ["lgw-m3", "lhr-m2", "cdg-m2", "ory-m1", "jfk-m1"]);
}

fn london(ports: &[u32]) -> Ranking {
    let shares = ports.iter().enumerate().map(|(nth, ports)| (machine(&id("lhr"), nth + 1), *ports));
    let sites = Arc::new(Sites::new(&WORLD.fleet, shares).unwrap());
    let reach = Reach::estimated(&WORLD.fleet, Coordinates::new(51.5, 0.0).unwrap());
    let ingress = Ingress::DataCenter(id("fra"));
    let criterion = Criterion::TotalLatency;
    Ranking::new(&WORLD.fleet, &sites, &ingress, &reach, &WORLD.latencies, criterion).unwrap()
}

fn drawn(ranking: &Ranking, in_use: impl Fn(&Share) -> Option<u64> + Copy) -> [u32; MACHINES] {
    let mut drawn = [0; MACHINES];
    for number in 0..10_000 {
        drawn[ranking.choose(in_use, SpillOver::Never, number).unwrap().share().position()] += 1;
    }
    drawn
}

#[test]
fn machines_are_drawn_by_their_ports_and_the_fuller_one_of_two_yields() {
    let ranking = london(&[2_048, 2_048, 4_096, 8_192]);
    let near = |drawn: u32, expected: u32| drawn.abs_diff(expected) < 300;
    let idle = drawn(&ranking, |_| Some(0));
    assert!(near(idle[0], 1_250) && near(idle[2], 2_500) && near(idle[3], 5_000), "{idle:?}");
    // Of two neighbours in a list one is drawn as often as the other: numbers are mixed.
    assert!(near(idle[0], idle[1]), "{idle:?}");
    // The largest is the fullest: it yields to whomever it is drawn with, and is always drawn with somebody.
    let busy = drawn(&ranking, |share| Some(if share.position() == 3 { 8_000 } else { 0 }));
    assert_eq!(busy[3], 0);
    let one_left = drawn(&ranking, |share| Some(if share.position() == 1 { 2_047 } else { u64::MAX }));
    assert_eq!(one_left, [0, 10_000, 0, 0], "the last free port is found, whoever is drawn");
}

#[test]
fn whoever_has_a_port_left_serves_what_comes_to_it() {
    let shares = (1..=MACHINES).map(|nth| (machine(&id("fra"), nth), 2_048));
    let sites = Arc::new(Sites::new(&WORLD.fleet, shares).unwrap());
    let reach = Reach::estimated(&WORLD.fleet, Coordinates::new(50.0, 8.0).unwrap());
    let ingress = Ingress::Machine(machine(&id("fra"), 2));
    let criterion = Criterion::TotalLatency;
    let ranking = Ranking::new(&WORLD.fleet, &sites, &ingress, &reach, &WORLD.latencies, criterion).unwrap();
    let own = |used| move |share: &Share| Some(if share.position() == 1 { used } else { 0 });
    assert_eq!(drawn(&ranking, own(2_047))[1], 10_000);
    assert_eq!(drawn(&ranking, own(2_048))[1], 0);
}

#[test]
fn a_location_comes_before_what_is_said_to_be_faster() {
    let fleet = &WORLD.fleet;
    let sites = ["jfk-m1", "lgw-m1", "ams-m1"].map(|name| (name.parse().unwrap(), 1));
    let sites = Arc::new(Sites::new(fleet, sites).unwrap());
    let ms = |code, ms: u32| (id("lhr"), id(code), Latency::from_micros(ms * 1_000));
    let latencies = Latencies::measured(fleet, [ms("lgw", 9), ms("ams", 7), ms("jfk", 70)]).unwrap();
    let reach = ["lhr", "lgw", "ams", "jfk"].map(|code| (id(code), Latency::from_micros(5_000)));
    let reach = Reach::measured(fleet, reach).unwrap();
    let ranked = |criterion| {
        let ingress = Ingress::DataCenter(id("lhr"));
        let ranking = Ranking::new(fleet, &sites, &ingress, &reach, &latencies, criterion).unwrap();
        assert_eq!(ranking.unrestricted(), (&id("lhr"), Latency::from_micros(5_000)));
        ranking.sites().map(|(id, total)| (id.to_string(), total.as_micros() / 1_000)).collect::<Vec<_>>()
    };
    let [ams, jfk, lgw] = [("ams".into(), 12), ("jfk".into(), 75), ("lgw".into(), 14)];
    assert_eq!(ranked(Criterion::NearestIngress), [lgw.clone(), ams.clone(), jfk.clone()]);
    assert_eq!(ranked(Criterion::TotalLatency), [ams, lgw, jfk]);
}

#[test]
fn one_number_comes_to_one_of_two_machines_however_busy_they_are() {
    let ranking = london(&[100; MACHINES]);
    for number in 0..50 {
        let machines: BTreeSet<_> = (0..500_u64)
            .map(|nth| {
                let in_use = |share: &Share| Some(nth * (share.position() as u64 * 7 + 3) % 99);
                ranking.choose(in_use, SpillOver::Never, number).unwrap().share().position()
            })
            .collect();
        assert_eq!(machines.len(), 2, "{number}: {machines:?}");
    }
}

#[test]
fn ipv6_leaves_from_everywhere_but_separate_networks_and_drained_machines() {
    let mut sites = world::sites();
    sites.truncate(50);
    let drained = |m: &Machine| m.data_center == id("ams") || m.id == machine(&id("acc"), 1);
    let fleet = world::fleet_of(&sites, |_| 2);
    let machines: Vec<_> = fleet
        .machines()
        .map(|m| Machine {
            weight: if drained(m) { 0 } else { 1 + u32::from(m.id.as_str().ends_with('2')) },
            ..m.clone()
        })
        .collect();
    let fleet = Fleet::new(fleet.data_centers().cloned(), machines).unwrap();
    let all = Arc::new(Sites::everywhere(&fleet, 256 * 64_512).unwrap());
    let global = fleet.data_centers().filter(|dc| dc.partition == Partition::Global && dc.id != id("ams"));
    assert!(all.data_centers().eq(global.map(|dc| &dc.id)));
    assert!(all.shares().iter().all(|share| *share.machine() != machine(&id("acc"), 1)));

    // Where everybody is a candidate nothing is restricted, and a heavier machine is drawn more often.
    let reach = Reach::estimated(&fleet, Coordinates::new(33.6, -84.4).unwrap());
    let (ingress, latencies) = (Ingress::DataCenter(id("atl")), Latencies::estimated(&fleet));
    let ranking = Ranking::new(&fleet, &all, &ingress, &reach, &latencies, Criterion::TotalLatency).unwrap();
    let heavy = (0..3_000).filter(|&number| {
        let exit = ranking.choose(|_| None, SpillOver::default(), number).unwrap();
        assert_eq!((exit.data_center(), exit.extra_hop()), (&id("atl"), Latency::ZERO));
        *exit.machine() == machine(&id("atl"), 2)
    });
    assert!(heavy.count().abs_diff(2_000) < 150);
    assert!(Sites::everywhere(&fleet, 0).is_err());
}

#[test]
fn refusals_name_the_value_and_what_to_do() {
    let fleet = &WORLD.fleet;
    let sites = |rows: &[(&str, u32)]| {
        Sites::new(fleet, rows.iter().map(|(name, ports)| (name.parse().unwrap(), *ports)))
    };
    let refused = |rows: &[(&str, u32)]| sites(rows).unwrap_err().to_string();
    assert!(refused(&[("xxx-m1", 1)]).contains("machine xxx-m1 has a share of the pool, but there is no"));
    let separate = refused(&[("fra-m1", 1), ("pek-m1", 1)]);
    assert!(
        separate.contains("pek-m1 in pek") && separate.contains("network cn gets no global"),
        "{separate}"
    );
    assert!(refused(&[]).contains("no machine holds a port"));
    assert!(refused(&[("fra-m1", 0)]).contains("no machine holds a port"));
    assert!([0, 101].into_iter().all(|percent| Threshold::percent(percent).is_err()));

    let sites = Arc::new(sites(&[("fra-m1", 1), ("ams-m1", 1)]).unwrap());
    let rank = |ingress: Ingress, reach: &Reach, latencies| {
        Ranking::new(fleet, &sites, &ingress, reach, latencies, Criterion::TotalLatency)
    };
    let at = |code: &str| Ingress::DataCenter(id(code));
    let reach_of = |codes: &[&str]| {
        Reach::measured(fleet, codes.iter().map(|code| (id(code), Latency::from_micros(9)))).unwrap()
    };
    let (all, both) = (&WORLD.latencies, reach_of(&["ams", "fra"]));
    let error = rank(at("pek"), &both, all).unwrap_err();
    assert_eq!((error.kind(), error.message().contains("network cn")), (ErrorKind::NormalEgress, true));
    assert!(rank(at("xxx"), &both, all).unwrap_err().message().contains("no data center xxx"));
    let nobody = Ingress::Machine("xxx-m1".parse().unwrap());
    assert!(rank(nobody, &both, all).unwrap_err().message().contains("no machine xxx-m1"));
    // Beijing reaches the origin too, and is no help.
    let error = rank(at("lhr"), &reach_of(&["cdg", "jfk", "pek"]), all).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Wait);
    let message = error.message();
    assert!(
        message.contains("(ams, fra) reaches the origin") && message.contains("a slice to cdg"),
        "{message}"
    );
    let error = rank(at("lhr"), &reach_of(&["pek"]), all).unwrap_err();
    assert!(error.message().contains("nor does any other"), "{error}");
    let nearby = Latencies::measured(fleet, [(id("lhr"), id("cdg"), Latency::ZERO)]).unwrap();
    let error = rank(at("lhr"), &both, &nearby).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OtherExit);
    assert!(error.message().contains("no latency from lhr") && error.message().contains("(ams, fra)"));

    let ranking = rank(at("ams"), &both, all).unwrap();
    let full = |free: &str, spill_over| {
        let in_use = |share: &Share| Some(u64::from(share.data_center().as_str() != free));
        ranking.choose(in_use, spill_over, 0).unwrap_err()
    };
    let error = full("fra", SpillOver::Never);
    assert_eq!(error.kind(), ErrorKind::Wait);
    assert!(error.to_string().contains("at ams are in use") && error.to_string().contains("fra has free"));
    assert!(full("", SpillOver::At(Threshold::FULL)).to_string().contains("at ams and at every other"));
}

#[test]
fn the_world_is_a_plausible_one() {
    let sites = world::sites();
    assert_eq!(sites.len(), 330);
    assert!(sites.is_sorted_by(|a, b| a.data_center.id < b.data_center.id));
    assert!(sites.iter().all(|site| site.weight > 0));
    let cities: BTreeSet<_> = sites.iter().map(|site| &site.data_center.city).collect();
    assert!((300..330).contains(&cities.len()), "{}", cities.len());
    // Data centers of one city are near each other: 1.5 ms is 100 km of great circle.
    for (nth, a) in sites.iter().enumerate() {
        for b in &sites[..nth] {
            let [a, b] = [a, b].map(|site| &site.data_center);
            let latency = Latency::estimated(a.coordinates, b.coordinates);
            assert!(a.city != b.city || latency < Latency::from_micros(1_500), "{} {} {latency}", a.id, b.id);
        }
    }
    let crowded = world::fleet(|site| usize::from(site.weight > 1_000));
    assert_eq!(crowded.machines_in(&id("lhr")).count(), 1);
    assert_eq!(crowded.machines_in(&id("anc")).count(), 0);
}
