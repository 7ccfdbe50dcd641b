//! Prometheus accepts what is rendered: its own tool says so. Skipped, loudly, where `promtool` is missing.

use std::io::Write;
use std::process::{Command, Stdio};

use aegis_core::edge::Edge;
use aegis_core::epoch::Epoch;
use aegis_core::fleet_file::FleetFile;
use aegis_core::lease::{Closed, Config};
use aegis_core::net::{Origin, Protocol};
use aegis_core::render;
use aegis_core::time::Time;

const FLEET: &str = r#"
    data_center = [{ id = "fra", city = "Frankfurt", latitude = 50.11, longitude = 8.68 }]
    machine = [{ id = "m", data_center = "fra" }]
    account = [{ id = "acme", name = "Acme" }]
    holding = [{ id = "h", account = "acme", right = "leased", prefix = "192.0.2.1/32", data_centers = ["fra"] }]
    pool = [{ id = "p", account = "acme", prefixes = ["192.0.2.1/32"] }]
    zone = [{ id = "a.example", account = "acme", pool = "p" }]
"#;

/// What a machine renders that has granted and refused: for Prometheus, and as OpenMetrics.
fn texts() -> [String; 2] {
    let fleet = FleetFile::parse("fleet.toml", FLEET).unwrap();
    let layout = fleet.layout(None, Epoch::new(1)).unwrap();
    let bundle = fleet.bundle(&"m".parse().unwrap(), &layout).unwrap();
    let edge = Edge::new(&bundle, Config::default(), [1; 32]).unwrap();
    let zone = edge.zone(&"a.example".parse().unwrap()).unwrap();
    let mut worker = edge.worker([2; 32]).unwrap();
    let mut meter = edge.meter(Time::ZERO);
    for address in ["203.0.113.10:443", "203.0.113.11:443"] {
        let origin = Origin::new(Protocol::Tcp, address.parse().unwrap()).unwrap();
        let leases: Vec<_> = std::iter::from_fn(|| worker.acquire(&zone, &origin, Time::ZERO).ok()).collect();
        for lease in leases.into_iter().take(100) {
            edge.release(lease, Closed::HalfClosed, Time::ZERO).unwrap();
        }
    }
    edge.sample(&mut meter, Time::ZERO);
    let mut texts = [String::new(), String::new()];
    let machine = edge.machine().as_str();
    render::prometheus_text(&mut texts[0], machine, &meter.rows(), &meter.zones()).unwrap();
    render::openmetrics(&mut texts[1], machine, &meter.rows(), &meter.zones()).unwrap();
    texts
}

#[test]
fn promtool_finds_no_fault_in_the_metrics() {
    let [text, open_metrics] = texts();
    let Some(said) = check(&text) else {
        let _ = writeln!(
            std::io::stderr(),
            "!! SKIPPED metrics: there is no promtool (Debian has it in the package prometheus)"
        );
        return;
    };
    assert_eq!(said, "", "{text}");
    // It reads the other form by the rules of its own, where the family of a counter has another name: it misses the help
    // of counters, and nothing else.
    let said = check(&open_metrics).expect("it was there a moment ago");
    let others: Vec<_> = said.lines().filter(|line| !line.ends_with("_total no help text")).collect();
    assert!(others.is_empty(), "{others:?}\n{open_metrics}");
}

/// What promtool says; `None`: there is none.
fn check(text: &str) -> Option<String> {
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    tool.stdin.take().expect("piped").write_all(text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&said).into_owned())
}
