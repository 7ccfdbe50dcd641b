//! Usage as OpenMetrics text (<https://github.com/prometheus/OpenMetrics>, version 1.0.0).

use core::fmt::{self, Write};

use crate::usage::Usage;

/// One metric family: name, type, unit, help, and the value of a row.
type Family = (&'static str, &'static str, &'static str, &'static str, fn(&Usage) -> f64);

const FAMILIES: [Family; 8] = [
    ("aegis_leases_active", "gauge", "", "Live leases.", |u| u.live.into()),
    ("aegis_leases_held", "gauge", "", "Released tuples that must not be granted yet.", |u| u.held.into()),
    ("aegis_leases_resting", "gauge", "", "Released tuples that are not preferred yet.", |u| {
        u.resting.into()
    }),
    ("aegis_ports_parked", "gauge", "", "Tuples that strangers on the host hold.", |u| u.parked.into()),
    ("aegis_leases_peak", "gauge", "", "Sampled high-water mark of live and held tuples.", |u| u.peak.into()),
    ("aegis_ports_capacity", "gauge", "", "Ports of the shares of this machine.", |u| u.capacity.into()),
    (
        "aegis_port_utilization_ratio",
        "gauge",
        "ratio",
        "Live and held tuples as a fraction of the ports provisioned.",
        Usage::utilization,
    ),
    ("aegis_lease_refused", "counter", "", "Acquires refused for want of a free tuple.", |u| {
        u.refused as f64
    }),
];

/// Writes the rows of one machine as OpenMetrics text; every sample has the labels `machine`, `egress_ip`,
/// `protocol` and `origin`. Deterministic: equal rows give equal text.
///
/// # Errors
/// Those of the writer.
pub fn openmetrics(out: &mut impl Write, machine: &str, rows: &[Usage]) -> fmt::Result {
    for (name, kind, unit, help, value) in FAMILIES {
        writeln!(out, "# TYPE {name} {kind}")?;
        if !unit.is_empty() {
            writeln!(out, "# UNIT {name} {unit}")?;
        }
        writeln!(out, "# HELP {name} {help}")?;
        let suffix = if kind == "counter" { "_total" } else { "" };
        for row in rows {
            write!(out, "{name}{suffix}{{machine=\"{}\",egress_ip=\"{}\"", Escaped(machine), row.egress_ip)?;
            match row.origin {
                Some(origin) => {
                    write!(out, ",protocol=\"{}\",origin=\"{}\"", origin.protocol(), origin.address())?;
                }
                None => write!(out, ",protocol=\"\",origin=\"\"")?,
            }
            writeln!(out, "}} {}", value(row))?;
        }
    }
    writeln!(out, "# EOF")
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
            refused: 7,
        };
        let mut text = String::new();
        openmetrics(&mut text, "m\"\\\n", &[row]).unwrap();
        let labels = r#"{machine="m\"\\\n",egress_ip="192.0.2.1",protocol="tcp",origin="203.0.113.150:443"}"#;
        assert!(text.contains(&format!("aegis_leases_active{labels} 1024\n")), "{text}");
        assert!(text.contains(&format!("aegis_port_utilization_ratio{labels} 0.75\n")), "{text}");
        assert!(text.contains("# TYPE aegis_lease_refused counter\n"), "{text}");
        assert!(text.contains(&format!("aegis_lease_refused_total{labels} 7\n")), "{text}");
        assert!(text.ends_with("\n# EOF\n"));
    }
}
