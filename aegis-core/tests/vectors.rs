//! The shared vectors: numbers with an answer from outside, run alike by every language.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aegis_core::capacity::{erlang_b, planned_ports};
use aegis_core::limits::{DEFAULT_DATA_CENTERS_PER_ADDRESS, RECOMMENDED_CONNECTIONS};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::reuse::{
    Address, CertificateNames, Config, Decision, Directory, Fit, HttpOrigin, Opened, Request, Scheme, Tls,
    Version,
};
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
    erlang_b_digits: Vec<ErlangB>,
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
    ports: u64,
    planned: u64,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reuse {
    certificate: Vec<Certificate>,
    decision: Vec<Decided>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    source: String,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    covers: Vec<String>,
    refuses: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decided {
    source: String,
    version: String,
    origin: String,
    destination: Option<SocketAddr>,
    server_name: Option<String>,
    #[serde(default)]
    dns_names: Vec<String>,
    streams: Option<u32>,
    #[serde(default)]
    busy: u32,
    #[serde(default)]
    going_away: bool,
    origin_frame: Option<Vec<String>>,
    #[serde(default)]
    misdirected: Vec<String>,
    address: Option<String>,
    request: String,
    request_destination: Option<SocketAddr>,
    #[serde(default)]
    other_pool: bool,
    reuse: String,
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
        assert_ne!(planned_ports(v.ports), u64::from(RECOMMENDED_CONNECTIONS), "two settings");
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
    for v in &vectors.erlang_b_digits {
        let b = erlang_b(v.offered_erlangs, v.servers);
        assert!((b / v.blocking - 1.0).abs() < 1e-12, "{b}, {} servers: {}", v.servers, v.source);
    }
}

#[test]
fn reuse() {
    let vectors: Reuse = toml::from_str(include_str!("../testdata/vectors/reuse.toml")).unwrap();
    for v in &vectors.certificate {
        let names = CertificateNames::new(v.dns_names.iter().map(String::as_str), v.ip_addresses.clone());
        for (hosts, covered) in [(&v.covers, true), (&v.refuses, false)] {
            for host in hosts {
                assert_eq!(names.covers(&host.parse().unwrap()), covered, "{host}: {}", v.source);
            }
        }
    }
    for v in &vectors.decision {
        let (version, protocol) = match v.version.as_str() {
            "http1" => (Version::Http1, Protocol::Tcp),
            "http2" => (Version::Http2, Protocol::Tcp),
            "http3" => (Version::Http3, Protocol::Udp),
            other => panic!("{other}: {}", v.source),
        };
        let address = match v.address.as_deref() {
            None => Address::Same,
            Some("any_if_listed") => Address::AnyIfListed,
            Some(other) => panic!("{other}: {}", v.source),
        };
        let mut directory = Directory::new(Config { address, ..Config::default() });
        let destination = v.destination.unwrap_or("203.0.113.10:443".parse().unwrap());
        let own = Request {
            pool: "pool",
            origin: v.origin.parse::<HttpOrigin>().unwrap(),
            destination: Origin::new(protocol, destination).unwrap(),
        };
        let server_name = match v.server_name.as_deref() {
            None => Some(own.origin.host().clone()),
            Some("") => None,
            Some(name) => Some(name.parse().unwrap()),
        };
        let names = Arc::new(CertificateNames::new(v.dns_names.iter().map(String::as_str), []));
        let tls = (own.origin.scheme() == Scheme::Https).then_some(Tls { server_name, names });
        let Request { pool, origin, destination: to } = own.clone();
        let connection =
            directory.opened(Opened { pool, origin, destination: to, version, tls }).expect(&v.source);
        for _ in 0..v.busy {
            directory.start(connection, &own).expect(&v.source);
        }
        if let Some(streams) = v.streams {
            directory.streams_allowed(connection, streams).unwrap();
        }
        if let Some(frame) = &v.origin_frame {
            directory.origins_listed(connection, frame.iter().map(String::as_str)).unwrap();
        }
        for host in &v.misdirected {
            directory.misdirected(connection, &host.parse().unwrap()).unwrap();
        }
        if v.going_away {
            directory.going_away(connection).unwrap();
        }
        let request = Request {
            pool: if v.other_pool { "other pool" } else { "pool" },
            origin: v.request.parse().unwrap(),
            destination: Origin::new(protocol, v.request_destination.unwrap_or(destination)).unwrap(),
        };
        let expected = match v.reuse.as_str() {
            "own" => Decision::Reuse(connection, Fit::Own),
            "coalesced" => Decision::Reuse(connection, Fit::Coalesced),
            "open" => Decision::Open,
            other => panic!("{other}: {}", v.source),
        };
        assert_eq!(directory.decide(&request), expected, "{}: {}", v.request, v.source);
        let started = directory.start(connection, &request);
        assert_eq!(started.is_ok(), expected != Decision::Open, "start agrees: {}", v.source);
    }
}
