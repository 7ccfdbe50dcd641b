//! The invariants of a layout (SPEC 5.7). Shares are disjoint by construction: a granule has room for one owner.

use super::layout::Parts;
use super::{NumberedMachine, Row};
use crate::limits::MAX_GRANULES_PER_LAYOUT;

impl Parts {
    /// Does every invariant hold? If not: which one is broken, and where.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_members()?;
        self.check_rows()?;
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
            for (granule, owner) in row.owners.iter().enumerate() {
                let Some(owner) = owner else { continue };
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
                if !row.data_centers.contains(&machine.data_center) {
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
