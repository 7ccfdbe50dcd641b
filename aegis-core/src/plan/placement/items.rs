//! What is put in and taken out when a placement is searched: one slice of a site, or a whole address.

use core::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::problem::Problem;

/// Sites of one city that are tried together: more would be more sets than anybody can compare.
const PER_CITY: usize = 8;

/// Whole addresses that are tried at most.
const MOST_SETS: usize = 2_000;

/// Sets of sites to choose from.
pub(super) struct Items {
    /// Each of different sites.
    pub(super) sets: Vec<Vec<usize>>,
    /// How many are to be chosen.
    pub(super) count: u64,
    /// Slices that are there whatever is chosen.
    pub(super) fixed: Vec<u64>,
    /// May a site be chosen at all?
    pub(super) eligible: Vec<bool>,
    /// Is each item a whole address?
    pub(super) addresses: bool,
}

impl Items {
    /// None if no address can be made of the sites.
    pub(super) fn new(problem: &Problem) -> Option<Self> {
        let per_address = usize::from(problem.per_address);
        let pinned: Vec<usize> =
            (0..problem.sites.len()).filter(|site| problem.sites[*site].pinned).collect();
        if per_address == 0 || pinned.len() > per_address || problem.sites.len() < per_address {
            return None;
        }
        if per_address == 1 && problem.addresses > 1 && !pinned.is_empty() {
            return None; // All would be there alone.
        }
        let tight = problem.cities.limit().filter(|limit| *limit < per_address);
        let items = match tight {
            // So many sites lie in no more cities anyway. Then any slices make addresses, if no site has more of them than
            // there are addresses: see `deal`.
            None => Self {
                sets: (0..problem.sites.len())
                    .filter(|s| !problem.sites[*s].pinned)
                    .map(|s| vec![s])
                    .collect(),
                count: u64::from(problem.addresses) * (per_address - pinned.len()) as u64,
                fixed: problem
                    .sites
                    .iter()
                    .map(|s| u64::from(problem.addresses) * u64::from(s.pinned))
                    .collect(),
                eligible: vec![true; problem.sites.len()],
                addresses: false,
            },
            Some(limit) => {
                let sets = sets(problem, &pinned, per_address, limit);
                let mut eligible = vec![false; problem.sites.len()];
                sets.iter().flatten().for_each(|site| eligible[*site] = true);
                // So are sites that are not tried because their city has too many: the bound must hold for them too.
                let unpinned = |site: &usize| eligible[*site] && !problem.sites[*site].pinned;
                let cities: BTreeSet<usize> =
                    (0..problem.sites.len()).filter(unpinned).map(|site| problem.sites[site].city).collect();
                let alike = problem.sites.iter().map(|site| cities.contains(&site.city));
                let eligible = eligible.iter().zip(alike).map(|(tried, alike)| *tried || alike).collect();
                let fixed = vec![0; problem.sites.len()];
                Self { sets, count: problem.addresses.into(), fixed, eligible, addresses: true }
            }
        };
        (items.count == 0 || !items.sets.is_empty()).then_some(items)
    }

    /// Keeps the whole addresses that gain most, where there are too many to try them all.
    pub(super) fn keep(&mut self, gain: impl Fn(&[usize]) -> i128) {
        if self.sets.len() > MOST_SETS {
            let mut order: Vec<_> = self.sets.drain(..).map(|set| (Reverse(gain(&set)), set)).collect();
            order.sort_unstable();
            order.truncate(MOST_SETS);
            self.sets = order.into_iter().map(|(_, set)| set).collect();
            self.sets.sort_unstable();
        }
    }
}

/// Every set of `size` sites with the pinned ones, in one or two cities.
fn sets(problem: &Problem, pinned: &[usize], size: usize, cities: usize) -> Vec<Vec<usize>> {
    let mut by_city = BTreeMap::<usize, Vec<usize>>::new();
    for (site, at) in problem.sites.iter().enumerate() {
        by_city.entry(at.city).or_default().push(site);
    }
    for sites in by_city.values_mut() {
        // Pinned ones, then those nearest to the traffic.
        sites.sort_by_key(|site| (!problem.sites[*site].pinned, mean_cost(problem, *site), *site));
        sites.truncate(PER_CITY.max(size));
        sites.sort_unstable();
    }
    let cities_of: Vec<&Vec<usize>> = by_city.values().collect();
    let mut sets = Vec::new();
    for (at, one) in cities_of.iter().enumerate() {
        subsets(one, size, &mut |set| sets.push(set.to_vec()));
        if cities < 2 {
            continue;
        }
        for other in &cities_of[at + 1..] {
            for in_one in 1..size {
                subsets(one, in_one, &mut |first| {
                    subsets(other, size - in_one, &mut |second| sets.push([first, second].concat()));
                });
            }
        }
    }
    sets.retain(|set| pinned.iter().all(|site| set.contains(site)));
    sets.iter_mut().for_each(|set| set.sort_unstable());
    sets.sort_unstable();
    sets
}

fn mean_cost(problem: &Problem, site: usize) -> u128 {
    let needs = problem.needs.iter();
    needs
        .flat_map(|need| {
            (0_u32..).zip(need.demand()).map(move |(i, d)| u128::from(*d) * u128::from(need.cost(i, site)))
        })
        .sum()
}

/// Every subset of `size` of these, in their order.
fn subsets(of: &[usize], size: usize, found: &mut impl FnMut(&[usize])) {
    fn go(of: &[usize], size: usize, chosen: &mut Vec<usize>, found: &mut impl FnMut(&[usize])) {
        if size == 0 {
            return found(chosen);
        }
        for at in 0..=of.len().saturating_sub(size) {
            if let Some(first) = of.get(at) {
                chosen.push(*first);
                go(&of[at + 1..], size - 1, chosen, found);
                chosen.pop();
            }
        }
    }
    if size <= of.len() {
        go(of, size, &mut Vec::new(), found);
    }
}
