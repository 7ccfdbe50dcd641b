//! Usage as OpenMetrics text (<https://github.com/prometheus/OpenMetrics>, version 1.0.0), and in the older text format of
//! Prometheus (0.0.4).

use core::fmt::{self, Write};

use crate::usage::{Refused, Usage, ZoneUsage};

/// One metric family: name, type, unit, help.
type Family = (&'static str, &'static str, &'static str, &'static str);

/// A family, and the value of a row.
type Gauge = (Family, fn(&Usage) -> f64);

const GAUGES: [Gauge; 7] = [
    (("aegis_leases_active", "gauge", "", "Live leases."), |u| u.live.into()),
    (("aegis_leases_held", "gauge", "", "Released tuples that must not be granted yet."), |u| u.held.into()),
    (("aegis_leases_resting", "gauge", "", "Released tuples that are not preferred yet."), |u| {
        u.resting.into()
    }),
    (("aegis_ports_parked", "gauge", "", "Tuples that strangers on the host hold."), |u| u.parked.into()),
    (
        (
            "aegis_leases_peak",
            "gauge",
            "",
            "Sampled high-water mark of live and held tuples since the last report.",
        ),
        |u| u.peak.into(),
    ),
    (("aegis_ports_capacity", "gauge", "", "Ports of the shares of this machine."), |u| u.capacity.into()),
    (
        (
            "aegis_port_utilization_ratio",
            "gauge",
            "ratio",
            "Live and held tuples as a fraction of the ports provisioned.",
        ),
        Usage::utilization,
    ),
];
const GRANTED: Family = ("aegis_lease_granted", "counter", "", "Leases granted.");
const REFUSED: Family =
    ("aegis_lease_refused", "counter", "", "Acquires refused, charged to one egress IP each.");

const ZONE_ACTIVE: Family = ("aegis_zone_leases_active", "gauge", "", "Live leases of a zone.");
const ZONE_CAPACITY: Family =
    ("aegis_zone_ports_capacity", "gauge", "", "Ports that a zone can use here towards one origin.");
const ZONE_GRANTED: Family = ("aegis_zone_lease_granted", "counter", "", "Leases granted to a zone.");
const ZONE_REFUSED: Family =
    ("aegis_zone_lease_refused", "counter", "", "Acquires of a zone that were refused.");

/// Writes the use of one machine as OpenMetrics text. Samples of an egress IP have the labels `machine`, `egress_ip`,
/// `protocol` and `origin`, those of a zone `machine`, `account` and `zone`; refusals have a `reason` besides, one of
/// [`Refused::REASONS`]. Deterministic: equal rows give equal text.
///
/// Give it the rows of a [`Meter`](crate::usage::Meter): their counters never go back, which a scraper would take for a
/// restart.
///
/// # Errors
/// Those of the writer.
pub fn openmetrics(out: &mut impl Write, machine: &str, rows: &[Usage], zones: &[ZoneUsage]) -> fmt::Result {
    samples(out, Form::OpenMetrics, machine, rows, zones)?;
    writeln!(out, "# EOF")
}

/// The same samples in Prometheus' text format 0.0.4, for scrapers that ask for that, and for `promtool check metrics`.
///
/// # Errors
/// Those of the writer.
pub fn prometheus_text(
    out: &mut impl Write,
    machine: &str,
    rows: &[Usage],
    zones: &[ZoneUsage],
) -> fmt::Result {
    samples(out, Form::Prometheus, machine, rows, zones)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A counter's family is named without the `_total` of its samples; units are told.
    OpenMetrics,
    /// A family is named as its samples are.
    Prometheus,
}

fn samples(
    out: &mut impl Write,
    form: Form,
    machine: &str,
    rows: &[Usage],
    zones: &[ZoneUsage],
) -> fmt::Result {
    for (family, value) in GAUGES {
        begin(out, form, family)?;
        for row in rows {
            writeln!(out, "{}{{{}}} {}", family.0, Source(machine, row), value(row))?;
        }
    }
    begin(out, form, GRANTED)?;
    for row in rows {
        writeln!(out, "{}_total{{{}}} {}", GRANTED.0, Source(machine, row), row.granted)?;
    }
    begin(out, form, REFUSED)?;
    for row in rows {
        let refused =
            Refused { exhausted: row.refused, origin_limit: row.refused_by_limit, ..Refused::default() };
        for nth in [0, 2] {
            let (reason, number) = (Refused::REASONS[nth], refused.counts()[nth]);
            let source = Source(machine, row);
            writeln!(out, "{}_total{{{source},reason=\"{reason}\"}} {number}", REFUSED.0)?;
        }
    }
    begin(out, form, ZONE_ACTIVE)?;
    for zone in zones {
        writeln!(out, "{}{{{}}} {}", ZONE_ACTIVE.0, Zone(machine, zone), zone.live)?;
    }
    begin(out, form, ZONE_CAPACITY)?;
    for zone in zones {
        writeln!(out, "{}{{{}}} {}", ZONE_CAPACITY.0, Zone(machine, zone), zone.capacity)?;
    }
    begin(out, form, ZONE_GRANTED)?;
    for zone in zones {
        writeln!(out, "{}_total{{{}}} {}", ZONE_GRANTED.0, Zone(machine, zone), zone.granted)?;
    }
    begin(out, form, ZONE_REFUSED)?;
    for zone in zones {
        for (reason, number) in Refused::REASONS.iter().zip(zone.refused.counts()) {
            let zone = Zone(machine, zone);
            writeln!(out, "{}_total{{{zone},reason=\"{reason}\"}} {number}", ZONE_REFUSED.0)?;
        }
    }
    Ok(())
}

fn begin(out: &mut impl Write, form: Form, (name, kind, unit, help): Family) -> fmt::Result {
    let suffix = if form == Form::Prometheus && kind == "counter" { "_total" } else { "" };
    writeln!(out, "# TYPE {name}{suffix} {kind}")?;
    if form == Form::OpenMetrics && !unit.is_empty() {
        writeln!(out, "# UNIT {name} {unit}")?;
    }
    writeln!(out, "# HELP {name}{suffix} {help}")
}

/// The labels of an egress IP towards an origin.
struct Source<'a>(&'a str, &'a Usage);

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(machine, row) = self;
        write!(f, "machine=\"{}\",egress_ip=\"{}\"", Escaped(machine), row.egress_ip)?;
        match row.origin {
            Some(origin) => write!(f, ",protocol=\"{}\",origin=\"{}\"", origin.protocol(), origin.address()),
            None => f.write_str(",protocol=\"\",origin=\"\""),
        }
    }
}

/// The labels of a zone.
struct Zone<'a>(&'a str, &'a ZoneUsage);

impl fmt::Display for Zone<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(machine, ZoneUsage { zone, account, .. }) = self;
        let (account, zone) = (Escaped(account.as_str()), Escaped(zone.as_str()));
        write!(f, "machine=\"{}\",account=\"{account}\",zone=\"{zone}\"", Escaped(machine))
    }
}

/// A label value: backslash, double quote and line feed are escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Origin, Protocol};

    #[test]
    fn the_text_is_escaped_and_ends_as_it_must() {
        let row = Usage {
            egress_ip: "192.0.2.1".parse().unwrap(),
            origin: Some(Origin::new(Protocol::Tcp, "203.0.113.150:443".parse().unwrap()).unwrap()),
            live: 1_024,
            held: 512,
            resting: 3,
            parked: 2,
            peak: 1_600,
            capacity: 2_048,
            granted: 9_000,
            refused: 7,
            refused_by_limit: 1,
        };
        let zone = ZoneUsage {
            zone: "www.acme.example".parse().unwrap(),
            account: "acme".parse().unwrap(),
            live: 5,
            capacity: 2_048,
            granted: 6,
            refused: Refused { quota: 3, ..Refused::default() },
            user: None,
        };
        let mut text = String::new();
        openmetrics(&mut text, "m\"\\\n", &[row], &[zone]).unwrap();
        let labels = r#"{machine="m\"\\\n",egress_ip="192.0.2.1",protocol="tcp",origin="203.0.113.150:443"}"#;
        assert!(text.contains(&format!("aegis_leases_active{labels} 1024\n")), "{text}");
        assert!(text.contains(&format!("aegis_port_utilization_ratio{labels} 0.75\n")), "{text}");
        assert!(text.contains("# TYPE aegis_lease_refused counter\n"), "{text}");
        assert!(text.contains(&format!("aegis_lease_granted_total{labels} 9000\n")), "{text}");
        let labels = labels.trim_end_matches('}');
        for (reason, number) in [("exhausted", 7), ("originLimit", 1)] {
            let sample = format!("aegis_lease_refused_total{labels},reason=\"{reason}\"}} {number}\n");
            assert!(text.contains(&sample), "{text}");
        }
        let labels = r#"{machine="m\"\\\n",account="acme",zone="www.acme.example""#;
        assert!(text.contains(&format!("aegis_zone_leases_active{labels}}} 5\n")), "{text}");
        let sample = format!("aegis_zone_lease_refused_total{labels},reason=\"quota\"}} 3\n");
        assert!(text.contains(&sample), "{text}");
        assert!(text.ends_with("\n# EOF\n"));
    }
}
