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
        for data_center in choice.wishes.keys() {
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

#[cfg(test)]
mod tests {
    use core::num::NonZeroU8;
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::testing::{World, data_center};
    use super::super::{Layout, Row};
    use super::*;
    use crate::fleet::Partition;
    use crate::inventory::{Right, Wish};

    /// One holding with these wishes about the data centers.
    fn choosing(weights: &[&[u32]], prefix: &str, wishes: &[(usize, Wish)], count: u8) -> World {
        let mut world = World::new(weights).hold(prefix, &[]);
        let wishes = wishes.iter().map(|(d, wish)| (data_center(*d).id, *wish)).collect();
        let choice = Choice { wishes, count: NonZeroU8::new(count) };
        world.holdings[0].data_centers = DataCenters::Chosen(choice);
        (world.holdings[0].right, world.pools[0].right) = (Right::Leased, Right::Leased);
        world
    }

    fn names(layout: &Layout, row: &Row) -> Vec<String> {
        row.data_centers().iter().map(|d| layout.data_centers()[d.get()].id.to_string()).collect()
    }

    #[test]
    fn wishes_are_kept_and_the_addresses_of_a_block_differ() {
        let mut world =
            choosing(&[&[1][..]; 10], "192.0.2.0/24", &[(0, Wish::Pinned), (1, Wish::Forbidden)], 3);
        world.data_centers[2].partition = Partition::Separate("east".into());
        world.machines.iter_mut().filter(|m| m.data_center == data_center(3).id).for_each(|m| m.weight = 0);
        let layout = world.build(1).unwrap();
        let mut served = BTreeMap::<String, usize>::new();
        for row in layout.rows() {
            let names = names(&layout, row);
            assert!(names.len() == 3 && names[0] == "d0", "{names:?}");
            names.into_iter().for_each(|name| *served.entry(name).or_default() += 1);
        }
        assert_eq!(served.remove("d0"), Some(256));
        assert_eq!(served.keys().collect::<Vec<_>>(), ["d4", "d5", "d6", "d7", "d8", "d9"]);
        // 256 * 2 / 6 = 85.3
        assert!(served.values().all(|served| (85..=86).contains(served)), "{served:?}");
    }

    #[test]
    fn machines_of_large_and_small_data_centers_have_alike() {
        let large: &[u32] = &[1; 12];
        let small: &[u32] = &[1, 1];
        let layout =
            choosing(&[large, small, large, small, small, small, small, large], "192.0.2.0/24", &[], 0)
                .build(1)
                .unwrap();
        let has: Vec<usize> = layout.machines().iter().map(|m| layout.shares_of(&m.id).count()).collect();
        let mean = 256 * 31 / has.len();
        assert!(has.iter().all(|has| has.abs_diff(mean) * 10 < mean), "{has:?}");
        let pairs: BTreeSet<_> = layout.rows().iter().map(|row| names(&layout, row)).collect();
        assert!(pairs.len() > 1);
    }

    #[test]
    fn a_choice_stays_until_it_is_not_possible() {
        let mut world = choosing(&[&[1, 1][..]; 9], "192.0.2.0/26", &[], 0);
        let first = world.build(1).unwrap();
        // Others become larger, one is forbidden, one is drained.
        world.machines.iter_mut().filter(|m| m.data_center == data_center(8).id).for_each(|m| m.weight = 50);
        world.machines.iter_mut().filter(|m| m.data_center == data_center(2).id).for_each(|m| m.weight = 0);
        let DataCenters::Chosen(choice) = &mut world.holdings[0].data_centers else { panic!("a choice") };
        choice.wishes.insert(data_center(5).id, Wish::Forbidden);
        let second = world.build_after(Some(&first), 2).unwrap();
        for (before, after) in first.rows().iter().zip(second.rows()) {
            let (before, after) = (names(&first, before), names(&second, after));
            assert_eq!(after.len(), 4);
            let lost: Vec<_> = before.iter().filter(|name| !after.contains(name)).collect();
            assert!(lost.iter().all(|name| ["d2", "d5"].contains(&name.as_str())), "{before:?} {after:?}");
            assert!(!after.contains(&"d2".into()) && !after.contains(&"d5".into()), "{after:?}");
        }
        let third = world.build_after(Some(&second), 3).unwrap();
        let sites = |layout: &Layout| layout.rows().iter().map(|row| names(layout, row)).collect::<Vec<_>>();
        assert_eq!(sites(&second), sites(&third));
        // Fewer than before: those with most granules stay.
        let DataCenters::Chosen(choice) = &mut world.holdings[0].data_centers else { panic!("a choice") };
        choice.count = NonZeroU8::new(2);
        let fourth = world.build_after(Some(&third), 4).unwrap();
        for (before, after) in third.rows().iter().zip(fourth.rows()) {
            let (before, after) = (names(&third, before), names(&fourth, after));
            assert!(after.len() == 2 && after.iter().all(|name| before.contains(name)));
            assert!(!before.contains(&"d8".into()) || after.contains(&"d8".into()), "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_data_center_too_small_for_a_granule_stays_chosen() {
        let world = choosing(&[&[1], &[1_000], &[1_000], &[1_000], &[1], &[1]], "192.0.2.0/28", &[], 0);
        let first = world.build(1).unwrap();
        assert_eq!(world.build_after(Some(&first), 2).unwrap().rows(), first.rows());
    }

    #[test]
    fn an_impossible_choice_is_refused_by_name() {
        let all = [(0, Wish::Forbidden), (1, Wish::Forbidden)];
        let world =
            |wishes: &[(usize, Wish)], count| choosing(&[&[1], &[0], &[]], "192.0.2.0/28", wishes, count);
        for (world, words) in [
            (
                world(&[(1, Wish::Pinned)], 0),
                "holding h0 pins data center d1, whose machines are all drained",
            ),
            (world(&[(2, Wish::Pinned)], 0), "holding h0 pins data center d2, which has no machines"),
            (world(&[(7, Wish::Pinned)], 0), "holding h0 pins data center d7, which does not exist"),
            (world(&[(7, Wish::Forbidden)], 0), "holding h0 forbids data center d7, which does not exist"),
            (world(&[], 2), "holding h0 is to be announced from 2 data centers, but only 1 may (d0)"),
            (world(&all, 0), "without machines in use: d0, d1, d2"),
        ] {
            let e = world.build(1).unwrap_err();
            assert!(e.message().contains(words), "{e}");
        }
        assert!(world(&[], 0).build(1).is_ok(), "as many as there are");
    }
}
