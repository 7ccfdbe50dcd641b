//! From the shipped fleet file to leases, and back from the leases to their owners.

use std::net::IpAddr;

use aegis_core::bundle::Bundle;
use aegis_core::edge::{AcquireError, Edge};
use aegis_core::epoch::{Epoch, Layout};
use aegis_core::fleet_file::FleetFile;
use aegis_core::lease::{self, Closed, Config};
use aegis_core::net::{Origin, Protocol};
use aegis_core::tenancy::{Actor, Revoke};
use aegis_core::time::Time;
use aegis_core::{ErrorKind, render, usage};

fn shipped() -> (FleetFile, Layout) {
    let file = FleetFile::parse("fleet.toml", include_str!("../examples/fleet.toml")).unwrap();
    let layout = file.layout(None, Epoch::new(1)).unwrap();
    (file, layout)
}

fn edge(file: &FleetFile, layout: &Layout, machine: &str) -> Edge {
    let bundle = file.bundle(&machine.parse().unwrap(), layout).unwrap();
    let config = Config { origins: 64, pages: 4_096, workers: 2, ..Config::default() };
    Edge::new(&bundle, config, [1; 32]).unwrap()
}

fn origin(text: &str) -> Origin {
    Origin::new(Protocol::Tcp, text.parse().unwrap()).unwrap()
}

#[test]
fn every_lease_of_every_machine_is_owned_by_that_machine_in_the_table_of_every_other() {
    let (file, layout) = shipped();
    let elsewhere = edge(&file, &layout, "nrt-m01");
    let mut leased = 0;
    for machine in file.fleet.machines().filter(|m| layout.machine_index(&m.id).is_some()) {
        let edge = edge(&file, &layout, machine.id.as_str());
        let mut worker = edge.worker([2; 32]).unwrap();
        for grant in file.tenancy.grants() {
            let zone = edge.zone(grant.zone()).unwrap();
            assert_eq!(
                (zone.account().as_ref(), zone.pool_id().as_ref()),
                (Some(grant.account()), Some(grant.pool()))
            );
            for origin in [origin("203.0.113.10:443"), origin("[2001:db8:f00d::10]:443")] {
                let ipv6 = origin.ip().is_ipv6();
                for _ in 0..20 {
                    match worker.acquire(&zone, &origin, Time::ZERO) {
                        Ok(lease) => {
                            let source = edge.source(&lease).unwrap();
                            let owner = elsewhere.owner(source.ip(), source.port()).unwrap();
                            assert_eq!(
                                elsewhere.owners().machine_id(owner.machine),
                                Some(&machine.id),
                                "{source}"
                            );
                            assert_eq!(source.is_ipv6(), ipv6);
                            assert_eq!(Some(lease.pool()), zone.pool_key());
                            leased += 1;
                            edge.release(lease, Closed::Reset, Time::ZERO).unwrap();
                        }
                        Err(error) => {
                            assert_eq!(zone.capacity(ipv6), 0, "{} {origin}: {error}", machine.id);
                            assert_eq!(error.kind(), ErrorKind::OtherExit);
                        }
                    }
                }
            }
        }
    }
    assert!(leased > 2_000, "{leased}");
}

#[test]
fn an_ipv6_pool_serves_many_origins_from_many_addresses() {
    let (file, layout) = shipped();
    let bundle = file.bundle(&"fra-m01".parse().unwrap(), &layout).unwrap();
    let edge = Edge::new(&bundle, Config::default(), [1; 32]).unwrap();
    let zone = edge.zone(&"app.initech.example".parse().unwrap()).unwrap();
    assert_eq!(zone.capacity(true), 2 * 256 * 2_048);
    let mut worker = edge.worker([2; 32]).unwrap();
    let mut sources = std::collections::BTreeSet::new();
    for n in 1..=40 {
        let origin = origin(&format!("[2001:db8:f::{n}]:443"));
        for _ in 0..2_000 {
            let lease = worker.acquire(&zone, &origin, Time::ZERO).unwrap();
            sources.insert(edge.source(&lease).unwrap().ip());
            edge.release(lease, Closed::Passive, Time::ZERO).unwrap();
        }
    }
    assert_eq!(sources.len(), 2 * 256);
}

#[test]
fn a_zone_without_dedicated_egress_is_sent_to_the_normal_egress() {
    let (file, layout) = shipped();
    let edge = edge(&file, &layout, "fra-m01");
    for zone in ["blog.acme.example", "nobody.example"] {
        let error = edge.zone(&zone.parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NormalEgress);
        assert!(error.message().contains(zone), "{error}");
    }
}

#[test]
fn nothing_leaves_from_an_address_that_the_origin_does_not_admit_yet() {
    // 192.0.2.12 is announced only, and Tokyo has no other address of the pool.
    let (file, layout) = shipped();
    let edge = edge(&file, &layout, "nrt-m01");
    assert!(layout.shares_of(&"nrt-m01".parse().unwrap()).next().is_some());
    let zone = edge.zone(&"www.acme.example".parse().unwrap()).unwrap();
    let mut worker = edge.worker([2; 32]).unwrap();
    let refused = worker.acquire(&zone, &origin("203.0.113.10:443"), Time::ZERO);
    assert_eq!(refused, Err(AcquireError::NotActive));
    let refused = worker.acquire(&zone, &origin("[2001:db8:f00d::10]:443"), Time::ZERO);
    assert_eq!(refused, Err(lease::AcquireError::NoShare.into()));
}

#[test]
fn usage_tells_live_peak_and_capacity_per_egress_ip_and_origin() {
    let (file, layout) = shipped();
    let edge = edge(&file, &layout, "fra-m01");
    let zone = edge.zone(&"www.acme.example".parse().unwrap()).unwrap();
    let mut worker = edge.worker([2; 32]).unwrap();
    let origin = origin("203.0.113.10:443");
    let capacity = zone.capacity(false);
    let mut leases: Vec<_> =
        (0..capacity).map(|_| worker.acquire(&zone, &origin, Time::ZERO).unwrap()).collect();
    let refused = worker.acquire(&zone, &origin, Time::ZERO).unwrap_err();
    assert_eq!(refused, lease::AcquireError::Exhausted.into());
    let explained = edge.explain(&zone, &origin, Time::ZERO).unwrap();
    assert_eq!((explained.live, explained.capacity), (capacity, capacity));
    for lease in leases.drain(..capacity as usize / 2) {
        edge.release(lease, Closed::HalfClosed, Time::ZERO).unwrap();
    }
    let rows = edge.usage(Time::ZERO);
    // The first connection was the only one of its origin: it is counted for the address alone.
    let [first, row] = rows[..] else { panic!("{rows:?}") };
    assert_eq!((first.origin, first.granted, row.granted), (None, 1, u64::from(capacity) - 1));
    let half = capacity / 2;
    assert_eq!(row.egress_ip, "192.0.2.10".parse::<IpAddr>().unwrap());
    assert_eq!((row.live, row.held, row.peak), (capacity - half, half, capacity));
    assert_eq!((row.capacity, row.refused, row.utilization()), (capacity, 1, 1.0));
    let line = usage::to_json_lines(&rows[1..]);
    assert!(
        line.starts_with(
            "{\"egress_ip\":\"192.0.2.10\",\"protocol\":\"tcp\",\"origin\":\"203.0.113.10:443\","
        )
    );
    let mut text = String::new();
    render::openmetrics(&mut text, edge.machine().as_str(), &rows, &edge.zones()).unwrap();
    assert!(
        text.contains("aegis_lease_refused_total{machine=\"fra-m01\",egress_ip=\"192.0.2.10\""),
        "{text}"
    );
}

#[test]
fn a_bundle_of_the_shipped_fleet_survives_both_its_forms() {
    let (file, layout) = shipped();
    let bundle = file.bundle(&"fra-m01".parse().unwrap(), &layout).unwrap();
    assert_eq!(Bundle::from_bytes(&bundle.to_bytes()).unwrap(), bundle);
    assert_eq!(Bundle::from_json(&bundle.to_json()).unwrap(), bundle);
}

#[test]
fn who_loses_the_right_leaves_by_the_normal_egress_from_the_next_bundle_on() {
    let (mut file, layout) = shipped();
    let pay = "pay.initech.example".parse().unwrap();
    let has = |file: &FleetFile| {
        edge(file, &layout, "fra-m01").zone(&pay).map(|zone| zone.pool_id().unwrap().to_string())
    };
    assert_eq!(has(&file).unwrap(), "globex-partners");
    let mut registry = file.registry().unwrap();
    let globex = Actor::Account("globex".parse().unwrap());
    let delegation = file.tenancy.delegations()[0].clone();
    registry.revoke(&globex, &delegation, Revoke::Force, Time::ZERO).unwrap();
    let leased = "acme-egress".parse().unwrap();
    (file.inventory, file.tenancy) = registry.clone().into_parts();
    assert_eq!(has(&file).unwrap_err().kind(), ErrorKind::NormalEgress);
    registry.enable(&Actor::Operator, &pay, &leased, Time::ZERO).unwrap();
    (file.inventory, file.tenancy) = registry.into_parts();
    assert_eq!(has(&file).unwrap(), "acme-egress");
}
