//! Which data centers announce which IPv4 address.

use core::cmp::Reverse;
use core::net::Ipv4Addr;

use super::LayoutPolicy;
use super::before::Previous;
use super::members::Members;
use crate::error::{Error, Result};
use crate::fleet::Fleet;
use crate::id::DataCenterId;
use crate::inventory::{Choice, DataCenters, Holding, Inventory};

/// Where one IPv4 address is announced.
pub(super) struct Announced {
    pub(super) address: Ipv4Addr,
    /// Positions of data centers, ascending.
    pub(super) sites: Vec<usize>,
}

/// What a holding says about each of its addresses.
struct Plan {
    /// Announced from these in any case.
    fixed: Vec<usize>,
    /// May the layout choose this one besides?
    allowed: Vec<bool>,
    /// From so many in all.
    count: usize,
}

/// What plans are made of.
struct Planner<'a> {
    fleet: &'a Fleet,
    members: &'a Members,
    /// Most data centers of one address.
    most: usize,
}

/// Every IPv4 egress address and where it is announced; at most `most` addresses, ascending.
///
/// Where the layout chooses, the data centers of the previous layout come first, those first that keep most granules:
/// that costs no move. What is missing then is taken from where machines have the fewest granules for their weight,
/// so that the addresses of a block differ where that balances.
pub(super) fn announced(
    fleet: &Fleet,
    inventory: &Inventory,
    policy: &LayoutPolicy,
    members: &Members,
    previous: Option<&Previous<'_>>,
    most: usize,
) -> Result<Vec<Announced>> {
    let planner = Planner { fleet, members, most: policy.data_centers_per_address.into() };
    let mut plans: Vec<(&Holding, Plan)> = Vec::new();
    let (mut addresses, mut plan_of) = (Vec::new(), Vec::new());
    for (address, holding) in inventory.egress_v4() {
        if addresses.len() == most {
            return Err(Error::input(format!(
                "more than {most} IPv4 egress addresses in granules of {} ports; use larger granules, or fewer \
                 addresses",
                policy.cut.granule()
            )));
        }
        // A holding's addresses are neighbours, as holdings are disjoint.
        if plans.last().is_none_or(|(last, _)| last.id != holding.id) {
            plans.push((holding, planner.plan(holding)?));
        }
        let (_, plan) = &plans[plans.len() - 1];
        let mut sites = plan.fixed.clone();
        let before = previous.and_then(|previous| previous.row(address));
        let before =
            before.filter(|_| sites.len() < plan.count).map(|before| before.sites()).unwrap_or_default();
        let kept = before.into_iter().filter(|site| plan.allowed[*site] && !plan.fixed.contains(site));
        sites.extend(kept.take(plan.count - plan.fixed.len()));
        addresses.push(Announced { address, sites });
        plan_of.push(plans.len() - 1);
    }
    let mut loads = Loads::new(members);
    // Everything that is certain counts before anything is chosen; what is open counts as if its other data centers
    // were of average weight.
    for (Announced { sites, .. }, plan) in addresses.iter().zip(&plan_of) {
        loads.add(sites, plans[*plan].1.count);
    }
    for (Announced { sites, .. }, plan) in addresses.iter_mut().zip(plan_of) {
        let Plan { allowed, count, .. } = &plans[plan].1;
        if sites.len() < *count {
            loads.remove(sites, *count);
            while sites.len() < *count {
                sites.push(loads.lightest(allowed, sites).expect("there are enough: they were counted"));
            }
            loads.add(sites, *count);
        }
        sites.sort_unstable();
    }
    Ok(addresses)
}

impl Planner<'_> {
    fn plan(&self, holding: &Holding) -> Result<Plan> {
        let (fixed, choice) = match &holding.data_centers {
            DataCenters::Global => (Vec::new(), None),
            DataCenters::Listed(list) => (self.positions(holding, "lists", list)?, None),
            DataCenters::Chosen(choice) => (self.positions(holding, "pins", choice.pinned())?, Some(choice)),
        };
        match choice {
            Some(choice) => self.choice(holding, choice, fixed),
            None if (1..=self.most).contains(&fixed.len()) => {
                Ok(Plan { count: fixed.len(), fixed, allowed: Vec::new() })
            }
            None => Err(Error::input(format!(
                "holding {} lists {} data centers for {}; list 1 to {}",
                holding.id,
                fixed.len(),
                holding.prefix,
                self.most
            ))),
        }
    }

    fn choice(&self, holding: &Holding, choice: &Choice, fixed: Vec<usize>) -> Result<Plan> {
        let id = &holding.id;
        for (data_center, _) in &choice.wishes {
            if self.fleet.data_center(data_center).is_none() {
                return Err(Error::input(format!(
                    "holding {id} forbids data center {data_center}, which does not exist; correct its code, or take \
                     it off the list"
                )));
            }
        }
        let members = self.members.data_centers.iter().zip(&self.members.weights);
        let allowed: Vec<bool> =
            members.map(|(d, machines)| !machines.is_empty() && choice.allows(&d.id)).collect();
        let candidates = allowed.iter().filter(|allowed| **allowed).count();
        let count = choice.count.map_or(candidates.min(self.most), |count| usize::from(count.get()));
        if count > self.most || fixed.len() > count {
            return Err(Error::input(format!(
                "holding {id} pins {} data centers and is to be announced from {count}; the limit is {}",
                fixed.len(),
                self.most
            )));
        }
        if candidates < count.max(1) {
            let names = |which: bool| {
                let members = self.members.data_centers.iter().zip(&allowed);
                let names: Vec<_> =
                    members.filter(|(_, allowed)| **allowed == which).map(|(d, _)| d.id.as_str()).collect();
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            };
            return Err(Error::input(format!(
                "holding {id} is to be announced from {} data centers, but only {candidates} may ({}); forbidden or \
                 without machines in use: {}",
                count.max(1),
                names(true),
                names(false)
            )));
        }
        Ok(Plan { fixed, allowed, count })
    }

    /// The positions of these data centers, ascending.
    fn positions<'a>(
        &self,
        holding: &Holding,
        does: &str,
        ids: impl IntoIterator<Item = &'a DataCenterId>,
    ) -> Result<Vec<usize>> {
        let mut sites = Vec::new();
        for id in ids {
            let site = self.members.data_centers.binary_search_by(|d| d.id.cmp(id));
            let fault = match site {
                Ok(site) if !self.members.weights[site].is_empty() => {
                    sites.push(site);
                    continue;
                }
                Ok(_) if self.fleet.machines_in(id).len() > 0 => {
                    "whose machines are all drained; use one again, or take it off the list"
                }
                Ok(_) => "which has no machines; add one, or take it off the list",
                Err(_) if self.fleet.data_center(id).is_some() => {
                    "which is in a separate partition and gets no global addresses; take it off the list"
                }
                Err(_) => "which does not exist; correct its code, or add it to the fleet",
            };
            return Err(Error::input(format!("holding {} {does} data center {id}, {fault}", holding.id)));
        }
        sites.sort_unstable();
        sites.dedup();
        Ok(sites)
    }
}

/// How much each data center's machines have: addresses for each unit of their weight. It is the same for all machines
/// of a data center, large or small.
struct Loads {
    /// In units of 2^-64.
    loads: Vec<u128>,
    /// The weight of each data center; 0 if it has no machine in use.
    weights: Vec<u128>,
    average: u128,
}

impl Loads {
    fn new(members: &Members) -> Self {
        let weight = |machines: &Vec<_>| machines.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let weights: Vec<u128> = members.weights.iter().map(weight).collect();
        let in_use = weights.iter().filter(|weight| **weight > 0).count().max(1);
        let average = weights.iter().sum::<u128>() / in_use as u128;
        Self { loads: vec![0; weights.len()], weights, average }
    }

    /// What one address at these data centers, and at others of average weight up to `count`, is for each of them.
    fn of(&self, sites: &[usize], count: usize) -> u128 {
        let weight: u128 = sites.iter().map(|site| self.weights[*site]).sum();
        (1 << 64) / (weight + (count - sites.len()) as u128 * self.average).max(1)
    }

    fn add(&mut self, sites: &[usize], count: usize) {
        let load = self.of(sites, count);
        sites.iter().for_each(|site| self.loads[*site] += load);
    }

    fn remove(&mut self, sites: &[usize], count: usize) {
        let load = self.of(sites, count);
        sites.iter().for_each(|site| self.loads[*site] -= load);
    }

    /// The allowed one with the least load that is not taken; of equals the one with most weight, then the first.
    fn lightest(&self, allowed: &[bool], taken: &[usize]) -> Option<usize> {
        (0..self.loads.len())
            .filter(|site| allowed[*site] && !taken.contains(site))
            .min_by_key(|site| (self.loads[*site], Reverse(self.weights[*site])))
    }
}
