//! Who may use how much of a machine's shares.

use aegis_core::ErrorKind;
use aegis_core::edge::{AcquireError, Edge, Rules, Zone};
use aegis_core::epoch::Epoch;
use aegis_core::fleet_file::FleetFile;
use aegis_core::lease::{self, Config, Lease, Method};
use aegis_core::net::{Origin, Protocol};
use aegis_core::time::Time;

const FLEET: &str = r#"
    data_center = [{ id = "fra", city = "Frankfurt", latitude = 50.11, longitude = 8.68 }]
    machine = [{ id = "m", data_center = "fra" }]
    account = [{ id = "acme", name = "Acme" }]
    holding = [{ id = "h", account = "acme", right = "leased", prefix = "192.0.2.1/32", data_centers = ["fra"] }]
    pool = [{ id = "p", account = "acme", prefixes = ["192.0.2.1/32"] }]
    zone = [
        { id = "a.example", account = "acme", pool = "p" },
        { id = "b.example", account = "acme", pool = "p" },
    ]
"#;

fn edge(rules: &Rules) -> Result<Edge, aegis_core::Error> {
    let fleet = FleetFile::parse("fleet.toml", FLEET).unwrap();
    let layout = fleet.layout(None, Epoch::new(1)).unwrap();
    let bundle = fleet.bundle(&"m".parse().unwrap(), &layout).unwrap();
    Edge::with_rules(&bundle, Config { origins: 64, pages: 256, ..Config::default() }, [1; 32], rules)
}

fn origin() -> Origin {
    Origin::new(Protocol::Tcp, "203.0.113.1:443".parse().unwrap()).unwrap()
}

fn zones(edge: &Edge) -> [Zone; 2] {
    ["a.example", "b.example"].map(|zone| edge.zone(&zone.parse().unwrap()).unwrap())
}

/// All that a zone gets, and why it gets no more.
fn drain(edge: &Edge, zone: &Zone, seed: u8) -> (Vec<Lease>, AcquireError) {
    let mut worker = edge.worker([seed; 32]).unwrap();
    let mut leases = Vec::new();
    loop {
        match worker.acquire(zone, &origin(), Time::ZERO) {
            Ok(lease) => leases.push(lease),
            Err(error) => return (leases, error),
        }
    }
}

#[test]
fn a_zone_and_its_account_have_limits_and_errors_of_their_own() {
    let mut rules = Rules::default();
    rules.zones.insert("a.example".parse().unwrap(), 10);
    rules.accounts.insert("acme".parse().unwrap(), 25);
    let edge = edge(&rules).unwrap();
    let [a, b] = zones(&edge);
    let (of_a, error) = drain(&edge, &a, 1);
    assert_eq!((of_a.len(), error), (10, AcquireError::ZoneLimit));
    assert_eq!(error.kind(), ErrorKind::Wait);
    let (of_b, error) = drain(&edge, &b, 2);
    assert_eq!((of_b.len(), error), (15, AcquireError::AccountLimit));
    for lease in of_a {
        edge.release(lease, lease::Closed::Reset, Time::ZERO).unwrap();
    }
    let (more, error) = drain(&edge, &b, 3);
    assert_eq!((more.len(), error), (10, AcquireError::AccountLimit));
    let (none, error) = drain(&edge, &a, 4);
    assert_eq!((none.len(), error), (0, AcquireError::AccountLimit));
}

#[test]
fn ports_reserved_for_a_zone_are_left_to_it_whatever_others_do() {
    let mut rules = Rules::default();
    rules.reserved.insert("a.example".parse().unwrap(), 3_000);
    let edge = edge(&rules).unwrap();
    let [a, b] = zones(&edge);
    let all = a.capacity(false);
    assert_eq!(b.capacity(false), all - 3_000);
    let (greedy, error) = drain(&edge, &b, 1);
    assert_eq!(greedy.len() as u32, all - 3_000);
    assert_eq!(error, AcquireError::Lease(lease::AcquireError::Exhausted));
    let (left, _) = drain(&edge, &a, 2);
    assert_eq!(left.len(), 3_000);
    let mut sources: Vec<_> = greedy.iter().chain(&left).map(|lease| edge.source(lease).unwrap()).collect();
    sources.sort_unstable();
    sources.dedup();
    assert_eq!(sources.len() as u32, all, "none twice, and all of them");
}

#[test]
fn unconnected_udp_sockets_have_ports_of_their_own() {
    let mut rules = Rules::default();
    rules.unconnected_udp.insert("p".parse().unwrap(), 100);
    let edge = edge(&rules).unwrap();
    let [a, _] = zones(&edge);
    let mut worker = edge.worker([1; 32]).unwrap();
    let sockets: Vec<_> =
        std::iter::from_fn(|| worker.acquire_unconnected(&a, false, Time::ZERO).ok()).collect();
    assert_eq!(sockets.len(), 100);
    let (flows, _) = drain(&edge, &a, 2);
    assert_eq!(flows.len() as u32, a.capacity(false));
    let ports = |leases: &[Lease]| -> Vec<u16> {
        leases.iter().map(|lease| edge.source(lease).unwrap().port()).collect()
    };
    let of_sockets = ports(&sockets);
    assert!(ports(&flows).iter().all(|port| !of_sockets.contains(port)));
}

#[test]
fn a_whole_edge_can_be_2_tuple_unique_or_let_the_kernel_choose() {
    let unique = edge(&Rules { method: Method::Unique, ..Rules::default() }).unwrap();
    let [a, _] = zones(&unique);
    let (all, _) = drain(&unique, &a, 1);
    assert_eq!(all.len() as u32, a.capacity(false));
    let other = Origin::new(Protocol::Tcp, "203.0.113.2:443".parse().unwrap()).unwrap();
    let mut worker = unique.worker([2; 32]).unwrap();
    let refused = worker.acquire(&a, &other, Time::ZERO).unwrap_err();
    assert_eq!(refused, AcquireError::Lease(lease::AcquireError::Exhausted), "used towards every origin");

    let kernel = edge(&Rules { method: Method::KernelRange, ..Rules::default() }).unwrap();
    let [a, _] = zones(&kernel);
    let mut worker = kernel.worker([3; 32]).unwrap();
    let range = worker.acquire_range(&a, &origin(), Time::ZERO).unwrap();
    let lease = worker.complete(&range, range.range().hi(), Time::ZERO).unwrap();
    assert_eq!(kernel.source(&lease).unwrap().port(), range.range().hi());
    assert!(worker.complete(&range, range.range().lo() - 1, Time::ZERO).is_err());
}

#[test]
fn a_rule_for_what_is_not_there_is_refused_by_name() {
    let refused = |rules: &Rules| edge(rules).unwrap_err().message().to_owned();
    let mut rules = Rules::default();
    rules.zones.insert("c.example".parse().unwrap(), 10);
    assert!(refused(&rules).contains("c.example"));
    let mut rules = Rules::default();
    rules.reserved.insert("a.example".parse().unwrap(), 70_000);
    let message = refused(&rules);
    assert!(message.contains("70000") && message.contains("a.example"), "{message}");
}
