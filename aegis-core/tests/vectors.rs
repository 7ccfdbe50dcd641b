//! The shared vectors: numbers with an answer from outside, run alike by every language.

use std::collections::BTreeMap;

use aegis_core::capacity::{erlang_b, planned_ports};
use aegis_core::limits::{DEFAULT_DATA_CENTERS_PER_ADDRESS, RECOMMENDED_CONNECTIONS};
use aegis_core::net::PortRange;
use aegis_core::slices::{Cut, EqualParts, GranuleSize};
use ipnet::Ipv6Net;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slicing {
    granules: Vec<Granules>,
    granule_at_least: Vec<GranuleAtLeast>,
    equal_parts: Vec<Parts>,
    part_of: Vec<PartOf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Granules {
    source: String,
    granule_ports: GranuleSize,
    usable: PortRange,
    reserved: Vec<PortRange>,
    count: usize,
    first: PortRange,
    last: PortRange,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GranuleAtLeast {
    source: String,
    minimum_ports: u32,
    granule_ports: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    source: String,
    whole: PortRange,
    parts: u32,
    given_out: u32,
    ports: u32,
    #[serde(default)]
    ranges: BTreeMap<String, PortRange>,
    left_over: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartOf {
    source: String,
    port: u16,
    part: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Capacity {
    possible_exits: Vec<PossibleExits>,
    recommended_connections: Vec<Recommended>,
    planned_ports: Vec<Planned>,
    v6_addresses: Vec<V6Addresses>,
    random_probing: Vec<RandomProbing>,
    erlang_b: Vec<ErlangB>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PossibleExits {
    source: String,
    v4_addresses: u32,
    exits: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recommended {
    source: String,
    origins: u32,
    total: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Planned {
    source: String,
    ports: u32,
    planned: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct V6Addresses {
    source: String,
    prefixes: Vec<Ipv6Net>,
    addresses: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RandomProbing {
    source: String,
    fill_percent: u32,
    tries: i32,
    false_exhaustion_percent: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErlangB {
    source: String,
    offered_erlangs: f64,
    servers: u32,
    blocking: f64,
}

#[test]
fn slicing() {
    let vectors: Slicing = toml::from_str(include_str!("../testdata/vectors/slicing.toml")).unwrap();
    for v in &vectors.granules {
        let cut = Cut::new(v.granule_ports, v.usable, v.reserved.iter().copied()).unwrap();
        let ranges: Vec<PortRange> = cut.granules().map(|index| cut.range(index).unwrap()).collect();
        let ends = (ranges.len(), ranges.first(), ranges.last());
        assert_eq!(ends, (v.count, Some(&v.first), Some(&v.last)), "{}", v.source);
        assert!(ranges.windows(2).all(|pair| pair[0].hi() < pair[1].lo()), "{}", v.source);
    }
    for v in &vectors.granule_at_least {
        assert_eq!(GranuleSize::at_least(v.minimum_ports).unwrap().ports(), v.granule_ports, "{}", v.source);
    }
    for v in &vectors.equal_parts {
        let parts = EqualParts::new(v.whole, v.parts).unwrap().first(v.given_out).unwrap();
        assert_eq!(parts.ports(), v.ports, "{}", v.source);
        assert_eq!(v.whole.len() - parts.ports() * parts.count(), v.left_over, "{}", v.source);
        for (part, range) in &v.ranges {
            let part: u32 = part.parse().unwrap();
            assert_eq!(parts.range(part - 1), Some(*range), "{}", v.source);
            assert!(range.ports().all(|port| parts.part_of(port) == Some(part - 1)), "{}", v.source);
        }
        let nobodys = v.whole.ports().filter(|port| parts.part_of(*port).is_none()).count();
        assert_eq!(nobodys, v.left_over as usize, "{}", v.source);
    }
    let rfc7422 = EqualParts::new("1024-65535".parse().unwrap(), 16).unwrap().first(14).unwrap();
    for v in &vectors.part_of {
        assert_eq!(rfc7422.part_of(v.port).map(|part| part + 1), v.part, "{}", v.source);
    }
}

#[test]
fn capacity() {
    let vectors: Capacity = toml::from_str(include_str!("../testdata/vectors/capacity.toml")).unwrap();
    for v in &vectors.possible_exits {
        assert_eq!(v.v4_addresses * u32::from(DEFAULT_DATA_CENTERS_PER_ADDRESS), v.exits, "{}", v.source);
    }
    for v in &vectors.recommended_connections {
        assert_eq!(v.origins * RECOMMENDED_CONNECTIONS, v.total, "{}", v.source);
    }
    for v in &vectors.planned_ports {
        assert_eq!(planned_ports(v.ports), v.planned, "{}", v.source);
        assert_ne!(planned_ports(v.ports), RECOMMENDED_CONNECTIONS, "two settings");
    }
    for v in &vectors.v6_addresses {
        let addresses: u128 = v.prefixes.iter().map(|p| 1 << (p.max_prefix_len() - p.prefix_len())).sum();
        assert_eq!(addresses.to_string(), v.addresses, "{}", v.source);
    }
    for v in &vectors.random_probing {
        let percent = 100.0 * (f64::from(v.fill_percent) / 100.0).powi(v.tries);
        assert!((percent - v.false_exhaustion_percent).abs() < 0.05, "{percent}: {}", v.source);
    }
    for v in &vectors.erlang_b {
        let b = erlang_b(v.offered_erlangs, v.servers);
        assert!((b - v.blocking).abs() < 0.00005, "{b}: {}", v.source);
        // The textbook recursion in f64.
        let textbook =
            (1..=v.servers).fold(1.0, |b, n| v.offered_erlangs * b / (f64::from(n) + v.offered_erlangs * b));
        assert!((b - textbook).abs() < 1e-12, "{b}: {}", v.source);
    }
}
