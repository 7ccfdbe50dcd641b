//! What `/proc` says about this network namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aegis_core::net::PortRange;

use crate::ranges::Ports;

/// `/proc`, or for tests a folder that looks like it.
pub(super) struct Proc {
    root: PathBuf,
}

/// A file that could not be read, or not understood.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    pub(super) error: String,
}

impl Proc {
    pub(super) fn at(root: impl AsRef<Path>) -> Self {
        Self { root: root.as_ref().to_owned() }
    }

    /// A sysctl that is one number: `net.ipv4.tcp_timestamps`.
    pub(super) fn number(&self, sysctl: &str) -> Result<u64, Unreadable> {
        self.parse(sysctl, "a number", |text| text.parse().ok())
    }

    /// `net.ipv4.ip_local_port_range`.
    pub(super) fn local_ports(&self) -> Result<PortRange, Unreadable> {
        self.parse("net.ipv4.ip_local_port_range", "two ports", |text| {
            let mut ports = text.split_whitespace().map(|port| port.parse().ok());
            PortRange::new(ports.next()??, ports.next()??).ok()
        })
    }

    /// `net.ipv4.ip_local_reserved_ports`.
    pub(super) fn reserved_ports(&self) -> Result<Ports, Unreadable> {
        self.parse("net.ipv4.ip_local_reserved_ports", "ports like 2048-4095,6144", |text| {
            text.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
        })
    }

    /// How many flows connection tracking knows; nothing where there is none.
    pub(super) fn tracked_flows(&self) -> Option<u64> {
        self.number("net.netfilter.nf_conntrack_count").ok()
    }

    /// A sign that addresses or ports are translated here.
    pub(super) fn sign_of_nat(&self) -> Option<String> {
        // `net` alone would be that of the process, whose threads may be elsewhere.
        for table in ["thread-self/net/ip_tables_names", "thread-self/net/ip6_tables_names"] {
            let path = self.root.join(table);
            if fs::read_to_string(&path).is_ok_and(|text| text.lines().any(|name| name == "nat")) {
                return Some(format!("{} lists the table nat", path.display()));
            }
        }
        let path = self.root.join("modules");
        let modules = fs::read_to_string(&path).ok()?;
        let names = modules.lines().filter_map(|line| line.split_whitespace().next());
        let nat = |name: &&str| ["nf_nat", "nft_nat", "nft_masq", "xt_nat", "xt_MASQUERADE"].contains(name);
        names.into_iter().find(nat).map(|name| format!("{} lists {name}", path.display()))
    }

    fn parse<T>(
        &self,
        sysctl: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Unreadable> {
        let path = self.root.join("sys").join(sysctl.replace('.', "/"));
        let read = |path: &Path| -> io::Result<T> {
            let text = fs::read_to_string(path)?;
            let text = text.trim();
            parse(text).ok_or_else(|| io::Error::other(format!("{text:?} is not {expected}")))
        };
        read(&path).map_err(|error| Unreadable { error: error.to_string(), path })
    }
}
