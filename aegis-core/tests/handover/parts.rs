//! What a story is made of: decisions, names, and layouts.

use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};

use aegis_core::Result;
use aegis_core::epoch::{Epoch, Layout};
use aegis_core::fleet_file::FleetFile;
use aegis_core::id::{MachineId, RouterId};

/// Small decisions; when the input ends every answer is the first.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    pub(super) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % n
    }
}

pub(super) fn machine_id(n: usize) -> MachineId {
    format!("m{n}").parse().expect("a short name")
}

pub(super) fn router_id(n: usize) -> RouterId {
    format!("r{n}").parse().expect("a short name")
}

pub(super) fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n as u8 + 1)
}

/// A layout of these machines, two to a data center, in which `owner` says whose each granule is.
pub(super) fn build(
    granule_ports: u16,
    machines: &[usize],
    addresses: &[usize],
    previous: Option<&Layout>,
    epoch: Epoch,
    mut owner: impl FnMut() -> Option<usize>,
) -> Result<Layout> {
    let mut text =
        format!("[policy]\ngranule_ports = {granule_ports}\nreserved = [\"0-{}\"]\n", granule_ports - 1);
    text += "[[account]]\nid = \"acme\"\nname = \"Acme\"\n";
    let sites: BTreeSet<usize> = machines.iter().map(|m| m / 2).collect();
    for site in &sites {
        text +=
            &format!("[[data_center]]\nid = \"d{site}\"\ncity = \"C\"\nlatitude = 1.5\nlongitude = 1.5\n");
    }
    for m in machines {
        text += &format!("[[machine]]\nid = \"m{m}\"\ndata_center = \"d{}\"\nweight = 1\n", m / 2);
    }
    let sites: Vec<String> = sites.iter().map(|site| format!("\"d{site}\"")).collect();
    let holding = |id: &str, prefix: &str, sites: &str| {
        let holding =
            format!("id = \"{id}\"\naccount = \"acme\"\nright = \"leased\"\nprefix = \"{prefix}\"\n{sites}");
        format!(
            "[[holding]]\n{holding}[[pool]]\nid = \"{id}\"\naccount = \"acme\"\nprefixes = [\"{prefix}\"]\n"
        )
    };
    text += &holding("six", "2001:db8::/64", "");
    for a in addresses {
        let sites = format!("data_centers = [{}]\n", sites.join(","));
        text += &holding(&format!("h{a}"), &format!("{}/32", address(*a)), &sites);
    }
    let layout = FleetFile::parse("fleet.toml", &text)?.layout(previous, epoch)?;
    let mut json: serde_json::Value = serde_json::from_str(&layout.to_json()).expect("a layout's JSON");
    for row in json["content"]["rows"].as_array_mut().expect("rows") {
        for cell in row["owners"].as_array_mut().expect("owners").iter_mut().skip(1) {
            let owner = owner().and_then(|m| layout.machine_index(&machine_id(m)));
            *cell = owner.map_or(serde_json::Value::Null, |owner| owner.get().into());
        }
    }
    Layout::from_json(&json.to_string())
}

/// Who has which granules.
pub(super) fn owners(layout: &Layout) -> BTreeMap<(Ipv4Addr, usize), MachineId> {
    let mut owners = BTreeMap::new();
    for row in layout.rows() {
        for (granule, owner) in row.owners().iter().enumerate() {
            let id = owner.map(|owner| layout.machines()[owner.get()].id.clone());
            owners.extend(id.map(|id| ((row.address(), granule), id)));
        }
    }
    owners
}
