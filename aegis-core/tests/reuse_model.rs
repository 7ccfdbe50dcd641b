//! The directory of open connections against a model that looks at all of them, and the rules one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aegis_core::net::{Origin, Protocol};
use aegis_core::reuse::{
    Address, CertificateNames, Config, ConnectionId, Decision, Directory, Fit, Opened, Request, Tls,
    UseError, Version,
};
use aegis_core::{ErrorKind, limits};
use proptest::prelude::*;

const HOSTS: [&str; 5] = ["a.example.com", "b.example.com", "c.b.example.com", "d.example.net", "192.0.2.1"];
const CERTIFICATES: [&[&str]; 4] =
    [&[], &["*.example.com"], &["a.example.com", "*.b.example.com"], &["b.example.com", "d.example.net"]];
const MAX: usize = 12;

fn covers(certificate: &[&str], host: &str) -> bool {
    certificate.iter().any(|name| {
        *name == host
            || name.strip_prefix("*.").is_some_and(|parent| host.split_once('.').unwrap().1 == parent)
    })
}

/// What the model knows of a connection, as text.
#[derive(Clone, Debug)]
struct Naive {
    pool: u8,
    uri: String,
    host: &'static str,
    destination: Origin,
    version: Version,
    certificate: &'static [&'static str],
    open: u32,
    max: u32,
    last_used: usize,
    going_away: bool,
    origin_set: Option<BTreeSet<String>>,
    misdirected: BTreeSet<&'static str>,
}

impl Naive {
    fn has_room(&self) -> bool {
        !self.going_away && self.open < self.max
    }

    fn fit(&self, (pool, uri, host, destination): (u8, &str, &str, Origin), address: Address) -> Option<Fit> {
        let listed = self.origin_set.as_ref().map(|set| set.contains(uri));
        if pool != self.pool || self.misdirected.contains(host) || listed == Some(false) {
            return None;
        }
        if uri == self.uri && destination == self.destination {
            return Some(Fit::Own);
        }
        let port = |uri: &str| uri.ends_with(":8443");
        let may_coalesce = self.version != Version::Http1
            && self.uri.starts_with("https:")
            && uri.starts_with("https:")
            && port(uri) == port(&self.uri)
            && covers(self.certificate, host)
            && destination.protocol() == self.destination.protocol()
            && (destination == self.destination || (address == Address::AnyIfListed && listed == Some(true)));
        may_coalesce.then_some(Fit::Coalesced)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Open {
        certificate: usize,
    },
    Request,
    /// What follows is about the connection that was opened so many before the last.
    Start {
        which: u64,
    },
    Finish {
        which: u64,
    },
    Streams {
        which: u64,
        at_once: u32,
    },
    GoAway {
        which: u64,
    },
    Frame {
        which: u64,
        hosts: usize,
    },
    Misdirect {
        which: u64,
    },
    Close {
        which: u64,
    },
}

/// Whom a step is about: pool, host, address, version, and the rare `http` or other port.
type Whom = (u8, usize, u8, Version, u8);

fn steps() -> impl Strategy<Value = Vec<(Step, Whom)>> {
    let which = 0_u64..16;
    let step = prop_oneof![
        6 => (0..CERTIFICATES.len()).prop_map(|certificate| Step::Open { certificate }),
        16 => Just(Step::Request),
        3 => which.clone().prop_map(|which| Step::Start { which }),
        8 => which.clone().prop_map(|which| Step::Finish { which }),
        2 => (which.clone(), 0_u32..4).prop_map(|(which, at_once)| Step::Streams { which, at_once }),
        1 => which.clone().prop_map(|which| Step::GoAway { which }),
        2 => (which.clone(), 0_usize..32).prop_map(|(which, hosts)| Step::Frame { which, hosts }),
        1 => which.clone().prop_map(|which| Step::Misdirect { which }),
        2 => which.prop_map(|which| Step::Close { which }),
    ];
    let version =
        prop_oneof![2 => Just(Version::Http1), 3 => Just(Version::Http2), 1 => Just(Version::Http3)];
    let odd = prop_oneof![8 => Just(0_u8), 1 => Just(1), 1 => Just(2)];
    // Mostly one pool and host, so that several connections are alike.
    let pool = prop_oneof![3 => Just(0_u8), 1 => Just(1)];
    let host = prop_oneof![1 => Just(0), 1 => 0..HOSTS.len()];
    prop::collection::vec((step, (pool, host, 1_u8..3, version, odd)), 1..150)
}

fn uri(host: &str, odd: u8) -> String {
    match odd {
        0 => format!("https://{host}"),
        1 => format!("https://{host}:8443"),
        _ => format!("http://{host}"),
    }
}

fn run(steps: &[(Step, Whom)], address: Address) -> Result<Totals, TestCaseError> {
    let mut directory = Directory::new(Config { max_connections: MAX, address, ..Config::default() });
    let mut model = BTreeMap::<ConnectionId, Naive>::new();
    let mut ids = Vec::<ConnectionId>::new();
    let mut totals = Totals::default();
    let mut counts = BTreeMap::<(u8, String), [u64; 3]>::new();
    for (tick, (step, (pool, host, last, version, odd))) in steps.iter().enumerate() {
        let host = HOSTS[*host];
        let uri = uri(host, if *version == Version::Http3 && *odd == 2 { 0 } else { *odd });
        let protocol = if *version == Version::Http3 { Protocol::Udp } else { Protocol::Tcp };
        let destination = Origin::new(protocol, ([203, 0, 113, *last], 443).into()).unwrap();
        let request = Request { pool: *pool, origin: uri.parse().unwrap(), destination };
        let asked = (*pool, uri.as_str(), host, destination);
        let nth = |which: u64| {
            let index = (ids.len() as u64).checked_sub(which + 1)?;
            Some(ids[index as usize])
        };
        let mut start = |directory: &mut Directory<u8>, model: &mut BTreeMap<_, Naive>, id| {
            let expected = match model.get(&id) {
                None => Err(UseError::Closed),
                Some(naive) => match naive.fit(asked, address) {
                    None => Err(UseError::NotForIt),
                    Some(_) if !naive.has_room() => Err(UseError::Busy),
                    Some(fit) => Ok(fit),
                },
            };
            prop_assert_eq!(directory.start(id, &request), expected);
            if let Ok(fit) = expected {
                model.get_mut(&id).unwrap().open += 1;
                let row = counts.entry((*pool, uri.clone())).or_default();
                row[1] += 1;
                row[2] += u64::from(fit == Fit::Coalesced);
            }
            Ok(())
        };
        match *step {
            Step::Open { certificate } => {
                let names = CERTIFICATES[certificate];
                let tls = Tls {
                    server_name: Some(host.parse().unwrap()),
                    names: Arc::new(CertificateNames::new(names.iter().copied(), [])),
                };
                let Request { pool: of, origin, .. } = request.clone();
                let tls = uri.starts_with("https:").then_some(tls);
                let opened =
                    directory.opened(Opened { pool: of, origin, destination, version: *version, tls });
                if model.len() == MAX {
                    prop_assert_eq!(opened.unwrap_err().kind(), ErrorKind::Wait);
                    continue;
                }
                let id = opened.unwrap();
                prop_assert!(ids.last().is_none_or(|last| *last < id), "numbers only grow");
                ids.push(id);
                counts.entry((*pool, uri.clone())).or_default()[0] += 1;
                let max = if *version == Version::Http1 { 1 } else { limits::STREAMS_BEFORE_SETTINGS };
                let naive = Naive {
                    pool: *pool,
                    uri,
                    host,
                    destination,
                    version: *version,
                    certificate: names,
                    open: 0,
                    max,
                    last_used: 0,
                    going_away: false,
                    origin_set: None,
                    misdirected: BTreeSet::new(),
                };
                model.insert(id, naive);
            }
            Step::Request => {
                let best = model
                    .iter()
                    .filter(|(_, naive)| naive.has_room())
                    .filter_map(|(id, naive)| {
                        let fit = naive.fit(asked, address)?;
                        let single = naive.version == Version::Http1;
                        let preference = if single { naive.last_used } else { naive.open as usize };
                        // What is at another address comes last: it is not what the caller has resolved.
                        let elsewhere = naive.destination != destination;
                        Some(((fit, elsewhere, single, usize::MAX - preference, *id), fit))
                    })
                    .min();
                match directory.decide(&request) {
                    Decision::Open => prop_assert_eq!(best, None),
                    Decision::Reuse(id, fit) => {
                        prop_assert_eq!(best.map(|(rank, fit)| (rank.4, fit)), Some((id, fit)));
                        prop_assert_eq!(model[&id].pool, *pool, "never across egress pools");
                        totals.coalesced += u32::from(fit == Fit::Coalesced);
                        totals.elsewhere += u32::from(model[&id].destination != destination);
                        totals.reused += 1;
                        start(&mut directory, &mut model, id)?;
                    }
                }
            }
            Step::Start { which } => {
                if let Some(id) = nth(which) {
                    start(&mut directory, &mut model, id)?;
                }
            }
            Step::Finish { which } => {
                let Some(id) = nth(which) else { continue };
                let expected = match model.get_mut(&id) {
                    None => Err(UseError::Closed),
                    Some(Naive { open: 0, .. }) => Err(UseError::Idle),
                    Some(naive) => {
                        naive.open -= 1;
                        naive.last_used = tick + 1;
                        Ok(())
                    }
                };
                prop_assert_eq!(directory.finished(id), expected);
            }
            Step::Streams { which, at_once } => {
                let Some(id) = nth(which) else { continue };
                let known = model.get_mut(&id).map(|naive| {
                    if naive.version != Version::Http1 {
                        naive.max = at_once;
                    }
                });
                prop_assert_eq!(directory.streams_allowed(id, at_once).ok(), known);
            }
            Step::GoAway { which } => {
                let Some(id) = nth(which) else { continue };
                let known = model.get_mut(&id).map(|naive| naive.going_away = true);
                prop_assert_eq!(directory.going_away(id).ok(), known);
            }
            Step::Frame { which, hosts } => {
                let Some(id) = nth(which) else { continue };
                let entries = HOSTS.iter().enumerate().filter(|(i, _)| hosts >> i & 1 == 1);
                let entries: Vec<String> = entries.map(|(_, host)| self::uri(host, 0)).collect();
                let known = model.get_mut(&id).map(|naive| {
                    if naive.version != Version::Http1 && naive.uri.starts_with("https:") {
                        // The port of the connection is 443.
                        let initial = self::uri(naive.host, 0);
                        let set = naive.origin_set.get_or_insert_with(|| BTreeSet::from([initial]));
                        set.extend(entries.iter().cloned());
                    }
                });
                prop_assert_eq!(directory.origins_listed(id, entries.iter().map(String::as_str)).ok(), known);
            }
            Step::Misdirect { which } => {
                let Some(id) = nth(which) else { continue };
                let known = model.get_mut(&id).map(|naive| {
                    naive.misdirected.insert(host);
                });
                prop_assert_eq!(directory.misdirected(id, request.origin.host()).ok(), known);
            }
            Step::Close { which } => {
                let Some(id) = nth(which) else { continue };
                prop_assert_eq!(directory.closed(id).ok(), model.remove(&id).map(|naive| naive.open));
            }
        }
        prop_assert_eq!(directory.len(), model.len());
    }
    let mut open = BTreeMap::<(u8, String), [u64; 2]>::new();
    for naive in model.values() {
        let row = open.entry((naive.pool, naive.uri.clone())).or_default();
        row[0] += 1;
        row[1] += u64::from(naive.open);
        counts.entry((naive.pool, naive.uri.clone())).or_default();
    }
    let reported: BTreeMap<_, _> = directory
        .report()
        .into_iter()
        .map(|row| {
            let key = (row.pool, row.origin.unwrap().to_string());
            (key, ([row.connections, row.requests, row.coalesced], [row.open_connections, row.open_requests]))
        })
        .collect();
    let expected: BTreeMap<_, _> = counts
        .into_iter()
        .map(|(key, counts)| (key.clone(), (counts, open.get(&key).copied().unwrap_or_default())))
        .collect();
    prop_assert_eq!(reported, expected);
    Ok(totals)
}

#[derive(Default, Debug)]
struct Totals {
    reused: u32,
    coalesced: u32,
    elsewhere: u32,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn it_chooses_what_a_look_at_all_connections_would(steps in steps()) {
        run(&steps, Address::Same)?;
        run(&steps, Address::AnyIfListed)?;
    }
}

#[test]
fn the_random_worlds_reach_every_kind_of_reuse() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut sum = Totals::default();
    for _ in 0..300 {
        let steps = proptest::strategy::ValueTree::current(&steps().new_tree(&mut runner).unwrap());
        let totals = run(&steps, Address::AnyIfListed).unwrap();
        sum.reused += totals.reused;
        sum.coalesced += totals.coalesced;
        sum.elsewhere += totals.elsewhere;
    }
    assert!(sum.reused > 500 && sum.coalesced > 200 && sum.elsewhere > 20, "{sum:?}");
}

fn request(pool: u8, uri: &str) -> Request<u8> {
    let destination = Origin::new(Protocol::Tcp, ([203, 0, 113, 1], 443).into()).unwrap();
    Request { pool, origin: uri.parse().unwrap(), destination }
}

fn opened(pool: u8, uri: &str, version: Version) -> Opened<u8> {
    let Request { pool, origin, destination } = request(pool, uri);
    let names = Arc::new(CertificateNames::new(["*.example.com", "example.com"], []));
    let tls = uri.starts_with("https:").then(|| Tls { server_name: Some(origin.host().clone()), names });
    Opened { pool, origin, destination, version, tls }
}

#[test]
fn a_connection_of_one_egress_pool_never_carries_another_ones_request() {
    for version in [Version::Http1, Version::Http2] {
        for uri in ["https://a.example.com", "http://a.example.com"] {
            let mut directory = Directory::new(Config { address: Address::AnyIfListed, ..Config::default() });
            let a = directory.opened(opened(1, uri, version)).unwrap();
            directory.origins_listed(a, [uri]).unwrap();
            assert_eq!(directory.decide(&request(2, uri)), Decision::Open);
            assert_eq!(directory.start(a, &request(2, uri)), Err(UseError::NotForIt));
            assert_eq!(directory.decide(&request(1, uri)), Decision::Reuse(a, Fit::Own));
            // Nor when it is the only one that there is room for.
            directory.start(a, &request(1, uri)).unwrap();
            let b = directory.opened(opened(2, uri, version)).unwrap();
            assert_eq!(directory.decide(&request(2, uri)), Decision::Reuse(b, Fit::Own));
        }
    }
}

#[test]
fn the_fullest_of_http_2_and_the_last_used_of_http_1_come_first() {
    let uri = "https://a.example.com";
    let mut directory = Directory::new(Config::default());
    let [old, new] = [0, 1].map(|_| directory.opened(opened(1, uri, Version::Http1)).unwrap());
    for id in [old, new] {
        directory.start(id, &request(1, uri)).unwrap();
    }
    directory.finished(old).unwrap();
    directory.finished(new).unwrap();
    assert_eq!(directory.decide(&request(1, uri)), Decision::Reuse(new, Fit::Own));
    let [first, second] = [0, 1].map(|_| directory.opened(opened(1, uri, Version::Http2)).unwrap());
    assert_eq!(directory.decide(&request(1, uri)), Decision::Reuse(first, Fit::Own));
    directory.start(second, &request(1, uri)).unwrap();
    assert_eq!(directory.decide(&request(1, uri)), Decision::Reuse(second, Fit::Own));
    directory.streams_allowed(second, 1).unwrap();
    assert_eq!(directory.decide(&request(1, uri)), Decision::Reuse(first, Fit::Own));
    directory.streams_allowed(first, 0).unwrap();
    assert_eq!(directory.decide(&request(1, uri)), Decision::Reuse(new, Fit::Own));
}

#[test]
fn what_was_closed_is_refused_and_its_number_is_nobody_elses() {
    let uri = "https://a.example.com";
    let mut directory = Directory::new(Config { max_connections: 1, ..Config::default() });
    let first = directory.opened(opened(1, uri, Version::Http2)).unwrap();
    directory.start(first, &request(1, uri)).unwrap();
    let full = directory.opened(opened(1, uri, Version::Http2)).unwrap_err();
    assert!(full.message().contains("full with 1 connections"), "{full}");
    assert_eq!(directory.closed(first), Ok(1));
    let second = directory.opened(opened(1, uri, Version::Http2)).unwrap();
    assert_ne!(first, second);
    assert_eq!(directory.closed(first), Err(UseError::Closed));
    assert_eq!(directory.start(first, &request(1, uri)), Err(UseError::Closed));
    assert_eq!(directory.finished(first), Err(UseError::Closed));
    assert_eq!(directory.misdirected(first, &"a.example.com".parse().unwrap()), Err(UseError::Closed));
    assert_eq!(directory.finished(second), Err(UseError::Idle));
    assert_eq!(directory.len(), 1);
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let mut directory = Directory::new(Config::default());
    let mut refused = |change: &dyn Fn(&mut Opened<u8>)| {
        let mut opened = opened(1, "https://a.example.com", Version::Http2);
        change(&mut opened);
        directory.opened(opened).unwrap_err().to_string()
    };
    assert!(refused(&|o| o.tls = None).contains("https://a.example.com without TLS"));
    assert!(refused(&|o| o.origin = "http://a.example.com".parse().unwrap()).contains("with TLS"));
    assert!(refused(&|o| o.version = Version::Http3).contains("Http3 over tcp 203.0.113.1:443"));
    assert!(refused(&|o| *o = opened(1, "http://a.example.com", Version::Http3)).contains("https only"));
    assert!(directory.is_empty());
}

#[test]
fn a_server_that_lists_or_refuses_without_end_takes_no_memory_without_end() {
    let mut directory = Directory::new(Config { address: Address::AnyIfListed, ..Config::default() });
    let own = "https://a.example.com";
    let id = directory.opened(opened(1, own, Version::Http2)).unwrap();
    let name = |i: usize| format!("h{i}.example.com");
    let host = |i: usize| format!("https://{}", name(i));
    let hosts: Vec<String> = (0..limits::MAX_ORIGIN_SET * 2).map(host).collect();
    directory.origins_listed(id, hosts.iter().map(String::as_str)).unwrap();
    let is_reused =
        |directory: &Directory<u8>, uri: &str| directory.decide(&request(1, uri)) != Decision::Open;
    // Its own origin is one of those listed.
    assert!(is_reused(&directory, &host(limits::MAX_ORIGIN_SET - 2)));
    assert!(!is_reused(&directory, &host(limits::MAX_ORIGIN_SET - 1)));
    for i in 0..limits::MAX_MISDIRECTED_HOSTS {
        assert!(is_reused(&directory, &host(1_000)), "{i}");
        directory.misdirected(id, &name(i).parse().unwrap()).unwrap();
    }
    assert!(!is_reused(&directory, &host(1_000)), "no other is tried with it");
    assert!(is_reused(&directory, own));
    directory.misdirected(id, &"a.example.com".parse().unwrap()).unwrap();
    assert!(!is_reused(&directory, own));
}

#[test]
fn the_worst_case_is_one_connection_for_each_request_and_is_reported_as_such() {
    let mut directory = Directory::new(Config { max_counted_origins: 2, ..Config::default() });
    for _ in 0..3 {
        let request = request(1, "http://a.example.com");
        let id = directory.opened(opened(1, "http://a.example.com", Version::Http1)).unwrap();
        directory.start(id, &request).unwrap();
        directory.closed(id).unwrap();
    }
    let id = directory.opened(opened(1, "https://b.example.com", Version::Http2)).unwrap();
    for uri in
        ["https://b.example.com", "https://b.example.com", "https://c.example.com", "https://d.example.com"]
    {
        directory.start(id, &request(1, uri)).unwrap();
    }
    let rows = directory.report();
    let text: Vec<_> = rows
        .iter()
        .map(|row| {
            let origin = row.origin.as_ref().map(ToString::to_string);
            (
                origin.unwrap_or_default(),
                row.requests_per_connection(),
                row.is_one_to_one(),
                row.open_requests,
            )
        })
        .collect();
    let row = |origin: &str, ratio, worst, open| (origin.to_owned(), ratio, worst, open);
    assert_eq!(
        text,
        [
            // There was no room to count c and d apart.
            row("", None, false, 0),
            row("http://a.example.com", Some(1.0), true, 0),
            row("https://b.example.com", Some(2.0), false, 4),
        ]
    );
    assert_eq!((rows[0].requests, rows[0].coalesced), (2, 2));
    directory.finished(id).unwrap();
    let rows = directory.report();
    assert_eq!((rows.len(), rows[0].requests, rows[0].open_connections, rows[0].open_requests), (1, 0, 1, 3));
}
