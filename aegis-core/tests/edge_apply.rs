//! A bundle of a later epoch is applied while threads acquire: shares move, connections stay, handles stay valid.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use aegis_core::ErrorKind;
use aegis_core::bundle::Bundle;
use aegis_core::edge::{AcquireError, Edge, Rules};
use aegis_core::epoch::control::{Agent, Controller, Record, Settings};
use aegis_core::epoch::{Epoch, Layout};
use aegis_core::fleet_file::FleetFile;
use aegis_core::id::{MachineId, PoolId, ZoneId};
use aegis_core::lease::{self, Adoption, Closed, Config, GranuleState, Lease, Tuple};
use aegis_core::net::{Origin, Protocol};
use aegis_core::time::Time;

const NOW: Time = Time::from_millis(1_000_000);

/// Two machines share one IPv4 address and an IPv6 prefix; `weights` says how.
fn fleet(weights: [u32; 2]) -> FleetFile {
    let text = include_str!("data/two_machines.toml");
    let text = text.replace("WEIGHT_A", &weights[0].to_string()).replace("WEIGHT_B", &weights[1].to_string());
    FleetFile::parse("two_machines.toml", &text).unwrap()
}

fn id(name: &str) -> MachineId {
    name.parse().unwrap()
}

fn zone_id(name: &str) -> ZoneId {
    name.parse().unwrap()
}

fn origin(n: u8) -> Origin {
    Origin::new(Protocol::Tcp, (std::net::Ipv4Addr::new(203, 0, 113, n), 443).into()).unwrap()
}

fn edge(bundle: &Bundle, rules: &Rules) -> Edge {
    let config = Config { origins: 256, pages: 4_096, workers: 4, granules: 2_048, ..Config::default() };
    Edge::with_rules(bundle, config, [1; 32], rules).unwrap()
}

/// A fleet that a controller leads, with two edges and their agents.
struct Fleet {
    controller: Controller,
    agents: [Agent; 2],
    edges: [Arc<Edge>; 2],
    now: Time,
}

impl Fleet {
    fn new(weights: [u32; 2]) -> Self {
        let file = fleet(weights);
        let layout = file.layout(None, Epoch::new(1)).unwrap();
        let controller = Controller::new(Settings::default(), Record::new(layout.clone()), NOW);
        let names = ["a", "b"];
        let edges =
            names.map(|name| Arc::new(edge(&file.bundle(&id(name), &layout).unwrap(), &Rules::default())));
        let agents = names.map(|name| Agent::new(id(name), 1));
        let mut fleet = Self { controller, agents, edges, now: NOW };
        fleet.talk();
        fleet.talk();
        fleet
    }

    /// Every machine reports once, and applies what it is told.
    fn talk(&mut self) {
        for (agent, edge) in self.agents.iter_mut().zip(&self.edges) {
            let is_idle = edge.is_idle(self.now);
            let mut busy = edge.busy_ports_of(&agent.asks(), self.now).into_iter();
            let report = agent.report(self.now, is_idle, |ip, ports| {
                let busy = busy.next().expect("an answer to each that is asked for");
                assert_eq!(busy, edge.busy_ports(ip.into(), ports, self.now));
                busy
            });
            let reply = self.controller.report(&report, self.now).unwrap();
            if let Some(layout) = agent.receive(&reply) {
                if layout.epoch() > edge.epoch() {
                    edge.apply(&fleet([1, 1]).bundle(edge.machine(), &layout).unwrap(), self.now).unwrap();
                }
                agent.applied(layout);
            }
            edge.set_tenure(agent.granting_until());
        }
    }

    fn go_towards(&mut self, weights: [u32; 2]) {
        let epoch = self.controller.record().layout().epoch();
        let previous = Arc::clone(self.controller.record().layout());
        let target = fleet(weights).layout(Some(&previous), Epoch::new(epoch.get() + 1)).unwrap();
        self.controller.retarget(&target, self.now).unwrap();
    }
}

#[test]
fn a_share_moves_while_connections_are_open_and_none_is_granted_twice() {
    let mut fleet = Fleet::new([1, 1]);
    let zone = fleet.edges[0].zone(&zone_id("www.example")).unwrap();
    let key = zone.pool_key();
    let before = zone.capacity(false);
    let mut worker = fleet.edges[0].worker([2; 32]).unwrap();
    let mut handle = worker.origin(&zone, origin(1)).unwrap();
    let mut leases: Vec<Lease> =
        (0..before).map(|_| worker.acquire_from(&mut handle, NOW).unwrap()).collect();
    assert_eq!(
        worker.acquire_from(&mut handle, NOW).unwrap_err().to_string(),
        "every source port of the pool towards this origin is in use"
    );
    fleet.go_towards([1, 3]);
    fleet.talk();
    fleet.talk();
    let after = zone.capacity(false);
    assert!(after < before, "{after} of {before}");
    assert_eq!(zone.pool_key(), key, "a connection pool's key stays");
    // All is open: nothing was handed over, and b has no more than before.
    let other = fleet.edges[1].zone(&zone_id("www.example")).unwrap();
    let held_back = other.capacity(false);
    // Half of them close, in what goes and in what stays.
    let mut open = BTreeSet::new();
    for (n, lease) in leases.drain(..).enumerate() {
        let source = fleet.edges[0].source(&lease).unwrap();
        if n % 2 == 0 {
            fleet.edges[0].release(lease, Closed::Reset, fleet.now).unwrap();
        } else {
            open.insert(source);
        }
    }
    fleet.talk();
    fleet.talk();
    assert_eq!(other.capacity(false), held_back, "what is open delays it");
    // At the deadline what is open stays behind.
    fleet.now = NOW + Settings::default().drain;
    for _ in 0..3 {
        fleet.talk();
    }
    assert!(other.capacity(false) > held_back);
    let holdouts = fleet.controller.record().layout().handovers().holdouts().len();
    assert!(holdouts > 100, "{holdouts}");
    // b now grants all that it can: never a port that is open at a.
    let mut worker = fleet.edges[1].worker([3; 32]).unwrap();
    let mut granted = 0;
    while let Ok(lease) = worker.acquire(&other, &origin(1), fleet.now) {
        let source = fleet.edges[1].source(&lease).unwrap();
        assert!(!open.contains(&source), "{source} is open at a");
        for edge in &fleet.edges {
            let owner = edge.owner(source.ip(), source.port()).unwrap();
            assert_eq!(edge.owners().machine_id(owner.machine), Some(&id("b")));
        }
        granted += 1;
    }
    assert_eq!(granted, other.capacity(false) as usize - holdouts);
    for source in open {
        let owner = fleet.edges[1].owner(source.ip(), source.port()).unwrap();
        assert_eq!(fleet.edges[1].owners().machine_id(owner.machine), Some(&id("a")), "{source}");
    }
}

#[test]
fn a_dead_machines_share_is_granted_by_another_after_its_tenure() {
    let fleet = Fleet::new([1, 1]);
    let zone = fleet.edges[0].zone(&zone_id("www.example")).unwrap();
    let mut worker = fleet.edges[0].worker([2; 32]).unwrap();
    let Settings { tenure, margin, .. } = Settings::default();
    let dead = NOW + tenure;
    assert!(worker.acquire(&zone, &origin(1), dead).is_err(), "it stops by itself");
    assert!(fleet.controller.dead(dead).next().is_none(), "before anyone else may start");
    let late = dead + margin;
    assert!(fleet.controller.dead(late).any(|machine| machine.as_str() == "a"));
    assert_eq!(
        worker.acquire(&zone, &origin(1), late),
        Err(AcquireError::Lease(lease::AcquireError::TenureOver))
    );
}

#[test]
fn a_zone_that_loses_its_grant_is_sent_to_the_normal_egress_and_gets_it_back() {
    let file = fleet([1, 1]);
    let layout = |epoch| file.layout(None, Epoch::new(epoch)).unwrap();
    let edge = edge(&file.bundle(&id("a"), &layout(1)).unwrap(), &Rules::default());
    let zone = edge.zone(&zone_id("www.example")).unwrap();
    let mut worker = edge.worker([2; 32]).unwrap();
    let mut handle = worker.origin(&zone, origin(1)).unwrap();
    let lease = worker.acquire(&zone, &origin(1), NOW).unwrap();
    let pool = zone.pool_id().unwrap();
    let without = Bundle::new(id("a"), layout(2), &file.inventory, [], 256).unwrap();
    edge.apply(&without, NOW).unwrap();
    let refused = worker.acquire(&zone, &origin(1), NOW).unwrap_err();
    assert_eq!((refused, refused.kind()), (AcquireError::NotDedicated, ErrorKind::NormalEgress));
    assert_eq!(worker.acquire_from(&mut handle, NOW), Err(AcquireError::NotDedicated));
    assert_eq!((zone.pool_key(), zone.capacity(false)), (None, 0));
    assert_eq!(edge.zone(&zone_id("www.example")).unwrap_err().kind(), ErrorKind::NormalEgress);
    worker.release(lease, Closed::Reset, NOW).unwrap();
    edge.apply(&file.bundle(&id("a"), &layout(3)).unwrap(), NOW).unwrap();
    assert!(worker.acquire_from(&mut handle, NOW).is_ok());
    assert_eq!(zone.pool_id(), Some(pool));
}

#[test]
fn a_bundle_that_is_not_later_or_another_machines_leaves_what_was_in_force() {
    let file = fleet([1, 1]);
    let layout = |epoch: u64| -> Layout { file.layout(None, Epoch::new(epoch)).unwrap() };
    let edge = edge(&file.bundle(&id("a"), &layout(5)).unwrap(), &Rules::default());
    for epoch in [4, 5] {
        let e = edge.apply(&file.bundle(&id("a"), &layout(epoch)).unwrap(), NOW).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Reload);
        assert!(
            e.message().contains(&format!("a bundle of epoch {epoch}, but 5 is in force already")),
            "{e}"
        );
    }
    let e = edge.apply(&file.bundle(&id("b"), &layout(6)).unwrap(), NOW).unwrap_err();
    assert!(e.message().contains("a bundle of machine b for the edge of machine a"), "{e}");
    assert_eq!(edge.epoch(), Epoch::new(5));
    let zone = edge.zone(&zone_id("www.example")).unwrap();
    assert!(edge.worker([2; 32]).unwrap().acquire(&zone, &origin(1), NOW).is_ok());
}

#[test]
fn a_zone_of_another_edge_is_refused() {
    let file = fleet([1, 1]);
    let layout = file.layout(None, Epoch::new(1)).unwrap();
    let edges = ["a", "b"].map(|name| edge(&file.bundle(&id(name), &layout).unwrap(), &Rules::default()));
    let zone = edges[0].zone(&zone_id("www.example")).unwrap();
    let mut worker = edges[1].worker([2; 32]).unwrap();
    let refused = worker.acquire(&zone, &origin(1), NOW).unwrap_err();
    assert_eq!((refused, refused.kind()), (AcquireError::ForeignZone, ErrorKind::Input));
    assert!(edges[1].explain(&zone, &origin(1), NOW).is_none());
}

/// Ports that one zone has for itself, and those of unconnected sockets, stay where connections use them.
#[test]
fn what_is_reserved_stays_reserved_when_shares_come_and_go() {
    let rules = Rules {
        reserved: [(zone_id("api.example"), 300)].into(),
        unconnected_udp: [("rented".parse::<PoolId>().unwrap(), 100)].into(),
        ..Rules::default()
    };
    let layout = |weights, previous: Option<&Layout>, epoch| {
        fleet(weights).layout(previous, Epoch::new(epoch)).unwrap()
    };
    let first = layout([1, 1], None, 1);
    let bundle = |layout: &Layout| fleet([1, 1]).bundle(&id("a"), layout).unwrap();
    let edge = edge(&bundle(&first), &rules);
    let (www, api) = (zone_id("www.example"), zone_id("api.example"));
    let [www, api] = [www, api].map(|id| edge.zone(&id).unwrap());
    let mut worker = edge.worker([2; 32]).unwrap();
    let mut last = first;
    for (epoch, weights) in (2..).zip([[1, 3], [3, 1], [1, 1], [1, 20], [20, 1]]) {
        assert!(api.capacity(false) >= www.capacity(false) + 300, "{epoch}");
        // What others have taken leaves the zone its own; a table that is full stays so.
        let taken = core::iter::from_fn(|| worker.acquire(&www, &origin(1), NOW).ok()).count();
        let own = core::iter::from_fn(|| worker.acquire(&api, &origin(1), NOW).ok()).count();
        assert!(epoch > 2 || (taken, own) == (www.capacity(false) as usize, 300), "{taken} {own}");
        // The granule that they were cut from may have gone: then there are none until a fresh one comes.
        let unconnected = worker.acquire_unconnected(&www, false, NOW);
        assert!(unconnected.is_ok() || epoch > 2, "{unconnected:?}");
        last = layout(weights, Some(&last), epoch);
        edge.apply(&bundle(&last), NOW).unwrap();
    }
}

#[test]
fn threads_acquire_while_bundles_are_applied() {
    let rounds = if cfg!(miri) { 2 } else { 60 };
    let file = fleet([1, 1]);
    let mut layout = file.layout(None, Epoch::new(1)).unwrap();
    let edge = Arc::new(edge(&file.bundle(&id("a"), &layout).unwrap(), &Rules::default()));
    let (done, granted) = (AtomicBool::new(false), AtomicU64::new(0));
    // The bundle in force, as a bound of what may be granted: whoever acquires between two reads of one epoch knows it.
    std::thread::scope(|scope| {
        for n in 0..2_u8 {
            let (edge, done, granted) = (edge.clone(), &done, &granted);
            scope.spawn(move || {
                let zone = edge.zone(&zone_id("www.example")).unwrap();
                let mut worker = edge.worker([n + 2; 32]).unwrap();
                let mut handle = worker.origin(&zone, origin(n + 1)).unwrap();
                while !done.load(SeqCst) {
                    let before = edge.epoch();
                    let lease = match n {
                        0 => worker.acquire(&zone, &origin(1), NOW),
                        _ => worker.acquire_from(&mut handle, NOW),
                    };
                    let lease = match lease {
                        Ok(lease) => lease,
                        // The shares have just changed, and no granule is the same.
                        Err(error) => {
                            assert_eq!(error, AcquireError::Lease(lease::AcquireError::NoShare));
                            assert!(edge.leases().epoch() > before.get());
                            continue;
                        }
                    };
                    let source = edge.source(&lease).unwrap();
                    let owners = edge.owners();
                    if owners.epoch() == before {
                        let owner = owners.owner(source.ip(), source.port()).expect("an owned port");
                        assert_eq!(owners.machine_id(owner.machine), Some(&id("a")), "{source} in {before}");
                    }
                    edge.release(lease, Closed::Reset, NOW).unwrap();
                    granted.fetch_add(1, SeqCst);
                }
            });
        }
        for round in 0..rounds {
            let weights = [[1, 3], [3, 1]][round % 2];
            layout = fleet(weights).layout(Some(&layout), Epoch::new(2 + round as u64)).unwrap();
            edge.apply(&file.bundle(&id("a"), &layout).unwrap(), NOW).unwrap();
            let begun = granted.load(SeqCst);
            while granted.load(SeqCst) < begun + 200 {
                std::hint::spin_loop();
            }
        }
        done.store(true, SeqCst);
    });
    assert!(granted.load(SeqCst) > 0);
}

/// IPv6 prefixes come and go: the others keep their granules, so that the lease table need not know ever more.
#[test]
fn the_granules_of_an_ipv6_prefix_stay_when_another_prefix_comes() {
    let text = include_str!("data/two_machines.toml").replace("WEIGHT_A", "1").replace("WEIGHT_B", "1");
    let file = |text: &str| FleetFile::parse("two_machines.toml", text).unwrap();
    let first = file(&text);
    let more = text.replace(r#""2001:db8:1::/64"]"#, r#""2001:db8:1::/64", "2001:db8::/64"]"#)
        + "[[holding]]\nid = \"before\"\naccount = \"acme\"\nright = \"leased\"\nprefix = \"2001:db8::/64\"\n\
           state = \"active\"\n";
    let more = file(&more);
    let layout = first.layout(None, Epoch::new(1)).unwrap();
    let edge = edge(&first.bundle(&id("a"), &layout).unwrap(), &Rules::default());
    let known = || {
        let v6 = edge.leases().granules().filter(|(ip, ..)| ip.to_string().starts_with("2001:db8:1:"));
        v6.collect::<Vec<_>>()
    };
    let before = known();
    assert_eq!(before.len(), 4);
    let layout = more.layout(Some(&layout), Epoch::new(2)).unwrap();
    edge.apply(&more.bundle(&id("a"), &layout).unwrap(), NOW).unwrap();
    assert_eq!(known(), before);
    assert_eq!(edge.leases().granules().filter(|(ip, ..)| ip.is_ipv6()).count(), 8);
}

/// A machine restarts without its lease table while connections live on, where nothing new may be granted: an address is
/// retiring, or the machine is drained.
#[test]
fn connections_are_adopted_and_busy_where_nothing_new_is_granted() {
    let text = include_str!("data/two_machines.toml");
    let adopted = |text: String, ipv6: bool| {
        let file = FleetFile::parse("two_machines.toml", &text).unwrap();
        let layout = file.layout(None, Epoch::new(1)).unwrap();
        let edge = edge(&file.bundle(&id("a"), &layout).unwrap(), &Rules::default());
        let granule = edge.leases().granules().find(|(ip, ..)| ip.is_ipv6() == ipv6);
        let (ip, range, state) = granule.expect("the lease table knows it");
        assert_eq!(state, GranuleState::Draining);
        let peer: std::net::IpAddr =
            if ipv6 { [0x2001, 0xdb8, 9, 0, 0, 0, 0, 1].into() } else { [203, 0, 113, 1].into() };
        let origin = Origin::new(Protocol::Tcp, (peer, 443).into()).unwrap();
        let tuple = Tuple { source: (ip, range.lo()).into(), origin };
        let adopted: Vec<_> = edge.leases().adopt([tuple], NOW).map(|(_, adoption)| adoption).collect();
        assert_eq!(adopted, [Adoption::Held]);
        assert_eq!(edge.busy_ports(ip, range, NOW), [range.lo()]);
        assert!(!edge.is_idle(NOW));
    };
    let both = |a: &str, b: &str| text.replace("WEIGHT_A", a).replace("WEIGHT_B", b);
    let retiring = both("1", "1").replace("state = \"active\"", "state = \"retiring\"");
    adopted(retiring.clone(), false);
    adopted(retiring, true);
    adopted(both("0", "1").replace("[\"fra\", \"lhr\"]", "[\"lhr\"]"), true);
}
