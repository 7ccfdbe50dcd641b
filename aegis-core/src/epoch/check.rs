//! The invariants of a layout (SPEC 5.7). Shares are disjoint by construction: a granule has room for one owner.

use core::net::Ipv4Addr;

use super::layout::{Parts, Row, Standing};
use super::{Epoch, MachineIndex, NumberedMachine};
use crate::limits::MAX_GRANULES_PER_LAYOUT;

impl Parts {
    /// Does every invariant hold? If not: which one is broken, and where.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_members()?;
        self.check_rows()?;
        self.check_handovers()?;
        self.check_v6_prefixes()
    }

    fn check_members(&self) -> Result<(), String> {
        ascending("data center", self.data_centers.iter().map(|d| &d.id))?;
        ascending("machine", self.machines.iter().map(|m| &m.id))?;
        let numbers = self.data_centers.iter().map(|d| (d.number, &d.id)).collect();
        if let Some((number, a, b)) = twins(numbers) {
            return Err(format!("data centers {a} and {b} both have number {number}"));
        }
        if let Some(machine) = self.machines.iter().find(|m| m.data_center.get() >= self.data_centers.len()) {
            return Err(format!(
                "machine {} is at data center position {}, but there are only {}",
                machine.id,
                machine.data_center.get(),
                self.data_centers.len()
            ));
        }
        // Who was the last to come has the last number, or had it: a number is never given before it is written down.
        if self.last_data_center_number == 0 && !self.data_centers.is_empty() {
            return Err("there are data centers, but none was ever given a number".into());
        }
        let unnumbered =
            |m: &&NumberedMachine| self.data_centers[m.data_center.get()].last_machine_number == 0;
        if let Some(machine) = self.machines.iter().find(unnumbered) {
            return Err(format!(
                "machine {} is in data center {}, where none was ever given a number",
                machine.id,
                self.data_centers[machine.data_center.get()].id
            ));
        }
        let numbers = self.machines.iter().map(|m| ((m.data_center, m.number), &m.id)).collect();
        if let Some(((_, number), a, b)) = twins(numbers) {
            return Err(format!("machines {a} and {b} of one data center both have number {number}"));
        }
        Ok(())
    }

    fn check_rows(&self) -> Result<(), String> {
        ascending("address", self.rows.iter().map(|r| r.address))?;
        let granules = usize::from(self.cut.granule().granules_per_address());
        if self.rows.len().saturating_mul(granules) > MAX_GRANULES_PER_LAYOUT {
            return Err(format!(
                "{} addresses of {granules} granules; a layout has at most {MAX_GRANULES_PER_LAYOUT} granules: use \
                 larger ones, or fewer addresses",
                self.rows.len()
            ));
        }
        let mut usable = vec![false; granules];
        self.cut.granules().for_each(|granule| usable[usize::from(granule)] = true);
        for row in &self.rows {
            let address = row.address;
            if row.owners.len() != granules {
                return Err(format!("{address} has {} granules; the cut makes {granules}", row.owners.len()));
            }
            self.check_sites(row)?;
            for (granule, owner) in (0_u16..).zip(&row.owners) {
                let Some(owner) = owner else { continue };
                let draining = self.handovers.draining_of(address, granule);
                let granule = usize::from(granule);
                if !usable[granule] {
                    return Err(format!("{address}: granule {granule} has an owner, but is not usable"));
                }
                let Some(machine) = self.machines.get(owner.get()) else {
                    return Err(format!(
                        "{address}: granule {granule} belongs to machine position {}, but there are only {}",
                        owner.get(),
                        self.machines.len()
                    ));
                };
                if machine.standing != Standing::Serving && draining.is_none() {
                    return Err(format!(
                        "{address}: granule {granule} belongs to machine {}, which grants nothing, and does not drain",
                        machine.id
                    ));
                }
                // What counts is where slices will be: while one moves, both ends have a part of it.
                let settled = draining.map_or(Some(*owner), |drain| drain.to);
                let settled = settled.and_then(|machine| self.machines.get(machine.get()));
                if let Some(machine) =
                    settled.filter(|machine| !row.data_centers.contains(&machine.data_center))
                {
                    return Err(format!(
                        "{address}: granule {granule} belongs to machine {}, whose data center does not announce it",
                        machine.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// Is every data center of a row a different one that exists, and are there few enough?
    fn check_sites(&self, row: &Row) -> Result<(), String> {
        let (address, sites) = (row.address, &row.data_centers);
        if sites.len() > usize::from(self.data_centers_per_address) {
            return Err(format!(
                "{address} has slices at {} data centers; at most {} are allowed",
                sites.len(),
                self.data_centers_per_address
            ));
        }
        ascending(&format!("{address}: data center position"), sites.iter().map(|site| site.get()))?;
        if let Some(site) = sites.iter().find(|site| site.get() >= self.data_centers.len()) {
            return Err(format!(
                "{address} is announced from data center position {}, but there are only {}",
                site.get(),
                self.data_centers.len()
            ));
        }
        Ok(())
    }

    fn check_handovers(&self) -> Result<(), String> {
        let moving = &self.handovers;
        ascending("draining granule", moving.draining.iter().map(|d| Place(d.address, d.granule)))?;
        ascending("port that stayed behind", moving.holdouts.iter().map(|h| Place(h.address, h.port)))?;
        ascending("previous owner of granule", moving.previous.iter().map(|p| Place(p.address, p.granule)))?;
        for drain in &moving.draining {
            let at = Place(drain.address, drain.granule).to_string();
            let owner = self.owner_of("draining granule", drain.address, drain.granule, drain.since)?;
            let Some(owner) = owner else { return Err(format!("granule {at} drains, but is nobody's")) };
            if drain.to == Some(owner) {
                return Err(format!(
                    "granule {at} drains to its own owner, machine {}",
                    self.machines[owner.get()].id
                ));
            }
            self.check_machine(drain.to, &at)?;
            let to = drain.to.map(|to| &self.machines[to.get()]);
            if let Some(to) = to.filter(|to| to.standing != Standing::Serving) {
                return Err(format!("granule {at} drains to machine {}, which grants nothing", to.id));
            }
        }
        for holdout in &moving.holdouts {
            let at = Place(holdout.address, holdout.port).to_string();
            let Some(granule) = self.cut.granule_of(holdout.port) else {
                return Err(format!("port {at} stayed behind, but is not usable"));
            };
            let owner = self.owner_of("port that stayed behind", holdout.address, granule, holdout.since)?;
            if owner == Some(holdout.machine) {
                return Err(format!("port {at} stayed behind at the owner of its granule"));
            }
            self.check_machine(Some(holdout.machine), &at)?;
        }
        for previous in &moving.previous {
            let at = Place(previous.address, previous.granule).to_string();
            let owner =
                self.owner_of("previous owner", previous.address, previous.granule, previous.since)?;
            if owner == Some(previous.machine) {
                return Err(format!("granule {at} has its owner as previous owner, too"));
            }
            self.check_machine(Some(previous.machine), &at)?;
        }
        Ok(())
    }

    /// The owner of a granule.
    pub(super) fn owner(&self, address: Ipv4Addr, granule: u16) -> Option<MachineIndex> {
        let at = self.rows.binary_search_by_key(&address, Row::address).ok()?;
        self.rows[at].owners.get(usize::from(granule)).copied().flatten()
    }

    /// The owner of a granule that something is said about, since an epoch.
    fn owner_of(
        &self,
        what: &str,
        address: Ipv4Addr,
        granule: u16,
        since: Epoch,
    ) -> Result<Option<MachineIndex>, String> {
        if since > self.epoch {
            return Err(format!("{what} {address} {granule}: since epoch {since}, after {}", self.epoch));
        }
        let row = self.rows.binary_search_by_key(&address, Row::address).ok();
        let owner = row.and_then(|at| self.rows[at].owners.get(usize::from(granule)));
        owner.copied().ok_or_else(|| format!("{what} {address} {granule}: there is no such granule"))
    }

    fn check_machine(&self, machine: Option<MachineIndex>, at: &str) -> Result<(), String> {
        match machine {
            Some(machine) if machine.get() >= self.machines.len() => Err(format!(
                "{at} names machine position {}, but there are only {}",
                machine.get(),
                self.machines.len()
            )),
            _ => Ok(()),
        }
    }

    fn check_v6_prefixes(&self) -> Result<(), String> {
        ascending("IPv6 prefix", &self.v6_prefixes)?;
        for prefix in &self.v6_prefixes {
            if prefix.prefix_len() > 64 {
                return Err(format!(
                    "IPv6 prefix {prefix} is longer than /64; owners are read from 64 host bits"
                ));
            }
            if prefix.trunc() != *prefix {
                return Err(format!("IPv6 prefix {prefix} has host bits; write {}", prefix.trunc()));
            }
        }
        Ok(())
    }
}

/// A granule or port of an address, for messages.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place(Ipv4Addr, u16);

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {}", self.0, self.1)
    }
}

/// Are the items of a list in their one order, each once?
pub(crate) fn ascending<T: Ord + core::fmt::Display>(
    what: &str,
    items: impl IntoIterator<Item = T>,
) -> Result<(), String> {
    let mut items = items.into_iter();
    let Some(mut last) = items.next() else { return Ok(()) };
    for item in items {
        if item <= last {
            let fault = if item == last { "is there twice" } else { "is out of order" };
            return Err(format!("{what} {item} {fault} (after {last})"));
        }
        last = item;
    }
    Ok(())
}

/// Two names with the same number, if there are any.
fn twins<N: Ord + Copy, T: Ord + Copy>(mut numbers: Vec<(N, T)>) -> Option<(N, T, T)> {
    numbers.sort_unstable();
    numbers.windows(2).find(|pair| pair[0].0 == pair[1].0).map(|pair| (pair[0].0, pair[0].1, pair[1].1))
}
