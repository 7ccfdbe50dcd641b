//! What a story prints.

use core::fmt::Write as _;

use super::world::World;
use crate::epoch::{Departure, MachineIndex, Standing};

impl World {
    pub(super) fn show(&self) -> String {
        let layout = self.layout();
        let name = |machine: MachineIndex| layout.machines()[machine.get()].id.as_str();
        let moving = layout.handovers();
        let mut text = format!("epoch {} at {}\n", layout.epoch(), self.now);
        for row in layout.rows() {
            let owners = (0_u16..).zip(row.owners()).map(|(granule, owner)| {
                let owner = owner.map(name)?;
                Some(match moving.draining_of(row.address(), granule) {
                    None => owner.to_owned(),
                    Some(d) => format!("{owner} -> {} since {}", d.to.map_or("nobody", name), d.since),
                })
            });
            let _ = writeln!(text, "{}: {}", row.address(), runs(owners));
            for h in moving.holdouts().iter().filter(|h| h.address == row.address()) {
                let _ =
                    writeln!(text, "  {} stayed behind at {} (since {})", h.port, name(h.machine), h.since);
            }
            let before = (0..32).map(|granule| {
                let p = moving.previous_of(row.address(), granule)?;
                let how = match p.departure {
                    Departure::HandedOver => "handed over",
                    Departure::Died => "died",
                };
                Some(format!("{} ({how}, epoch {})", name(p.machine), p.since))
            });
            let before = runs(before);
            if before != "nobody" {
                let _ = writeln!(text, "  before: {before}");
            }
        }
        for machine in layout.machines().iter().filter(|m| m.standing != Standing::Serving) {
            let _ = writeln!(text, "{} is leaving", machine.id);
        }
        for (id, machine) in &self.machines {
            let Some(agent) = &machine.agent else {
                let _ = writeln!(text, "{id} does not run");
                continue;
            };
            let epoch = agent.layout().map_or("none".to_owned(), |layout| layout.epoch().to_string());
            let grants: Vec<String> = layout
                .rows()
                .iter()
                .filter_map(|row| {
                    let ip = row.address().into();
                    let may =
                        |granule: u16| (agent.may_grant(ip, granule << 11 | 7, self.now)).then(String::new);
                    let runs = runs((0..32).map(may));
                    (runs != "nobody").then(|| format!("{ip} {runs}"))
                })
                .collect();
            let v6 = layout.v6_addresses_of(agent.machine(), 1).next();
            let v6 = v6.filter(|ip| agent.may_grant((*ip).into(), 80, self.now)).map(|ip| ip.to_string());
            let grants: Vec<String> = grants.into_iter().chain(v6).collect();
            let grants = if grants.is_empty() { "nothing".to_owned() } else { grants.join(", ") };
            let _ = write!(text, "{id} has epoch {epoch}, grants {grants}");
            if agent.granting_until() > self.now {
                let _ = write!(text, " until {}", agent.granting_until());
            }
            text += "\n";
            for ((ip, port), how) in &machine.open {
                let _ = writeln!(text, "  {how}: {}", core::net::SocketAddr::new(*ip, *port));
            }
        }
        text
    }

    pub(super) fn owner(&self, at: &str) -> String {
        let (ip, port) = self.place(at);
        let layout = self.layout();
        let name = |owner: crate::epoch::Owner| layout.machines()[owner.machine.get()].id.to_string();
        let owner = layout.owner(ip, port).map_or("nobody".to_owned(), name);
        let second = layout.second_owner(ip, port).map_or(String::new(), |o| format!(", then {}", name(o)));
        format!("{at}: {owner}{second}\n")
    }

    pub(super) fn may_grant(&self, at: &str) -> String {
        let (ip, port) = self.place(at);
        let granting = self.granting(ip, port);
        format!("{at}: {}\n", granting.first().copied().unwrap_or("nobody"))
    }
}

/// Neighbouring granules of which the same is said.
fn runs(said: impl Iterator<Item = Option<String>>) -> String {
    let mut runs: Vec<(usize, usize, String)> = Vec::new();
    for (granule, said) in said.enumerate() {
        let Some(said) = said else { continue };
        match runs.last_mut() {
            Some((_, last, same)) if *last + 1 == granule && *same == said => *last = granule,
            _ => runs.push((granule, granule, said)),
        }
    }
    if runs.is_empty() {
        return "nobody".into();
    }
    let run = |(first, last, said): &(usize, usize, String)| {
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        format!("{range} {said}").trim_end().to_owned()
    };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}
