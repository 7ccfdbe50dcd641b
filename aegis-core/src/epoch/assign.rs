//! How many granules of one address each machine gets.

use super::MachineIndex;
use super::apportion::{Debt, Split};
use super::before::Before;
use super::members::Members;
use super::place::{Placement, Shares};
use crate::error::{Error, Result};
use crate::slices::Cut;

/// The assignment, address by address: it remembers only what the roundings so far owe to whom.
///
/// Two roundings make the shares of an address: those of its slices (one for each data center), and within each slice
/// those of its machines. Both begin with who has the granules already. So an address moves as few granules as
/// legal roundings allow, and one more where that makes the whole fairer.
pub(super) struct Assignment {
    placement: Placement,
    granules: u64,
    /// Most granules of one address for one machine.
    limit: u64,
    sites: Vec<Site>,
    debts: Vec<Debt>,
    /// By machine position: the granules that it has of the address at hand. All 0 between two addresses.
    held: Vec<u64>,
}

/// A data center, as far as the assignment knows it.
struct Site {
    machines: Vec<(MachineIndex, u32)>,
    debts: Vec<Debt>,
}

/// Exact quotas of one address: `machines[site][machine] / denominator` granules.
struct Quotas {
    machines: Vec<Vec<u64>>,
    denominator: u64,
}

impl Assignment {
    /// Nothing is assigned yet, and nothing is owed.
    pub(super) fn new(cut: &Cut, limit: Option<u16>, members: &Members) -> Result<Self> {
        let mut usable = vec![false; cut.granule().granules_per_address().into()];
        cut.granules().for_each(|granule| usable[usize::from(granule)] = true);
        let granules = usable.iter().filter(|usable| **usable).count() as u64;
        let weight: u128 = members.weights.iter().flatten().map(|(_, weight)| u128::from(*weight)).sum();
        // Quotas are counted in 64 bits: granules times weights must fit.
        if weight * u128::from(granules) > u128::from(u64::MAX) {
            return Err(Error::input(format!(
                "the weights of all machines add up to {weight}; divide them all by the same number"
            )));
        }
        let site = |machines: &Vec<_>| Site { machines: machines.clone(), debts: vec![0; machines.len()] };
        Ok(Self {
            placement: Placement::new(usable, members.machines.len()),
            granules,
            limit: limit.map_or(u64::MAX, u64::from).min(granules),
            sites: members.weights.iter().map(site).collect(),
            debts: vec![0; members.weights.len()],
            held: vec![0; members.machines.len()],
        })
    }

    /// Assigns the granules of the next address to `sites` (positions, ascending) and their machines. What the limit
    /// leaves over is unassigned.
    pub(super) fn owners(
        &mut self,
        sites: &[usize],
        before: Option<Before<'_>>,
    ) -> Vec<Option<MachineIndex>> {
        let owners = match before {
            Some(before) => before.owners(self.placement.usable()),
            None => vec![None; self.placement.usable().len()],
        };
        owners.iter().flatten().for_each(|machine| self.held[machine.get()] += 1);
        let shares = self.shares(sites);
        owners.iter().flatten().for_each(|machine| self.held[machine.get()] = 0);
        self.placement.place(&shares, owners)
    }

    fn shares(&mut self, sites: &[usize]) -> Shares {
        let Quotas { machines: quotas, denominator } = self.quotas(sites);
        // What is left to round up in each slice if the slice itself is rounded down, and if that is too few to let
        // everybody keep what it has.
        let slices: Vec<u64> = quotas.iter().map(|quotas| quotas.iter().sum()).collect();
        let floors: Vec<u64> =
            quotas.iter().map(|q| q.iter().map(|quota| quota / denominator).sum()).collect();
        let saves = |position: usize| {
            let Site { machines, .. } = &self.sites[sites[position]];
            let keepers = machines.iter().zip(&quotas[position]);
            let keepers = keepers.filter(|((machine, _), quota)| {
                *quota % denominator > 0 && self.held[machine.get()] > *quota / denominator
            });
            keepers.count() as u64 > slices[position] / denominator - floors[position]
        };
        let mut debts: Vec<Debt> = sites.iter().map(|site| self.debts[*site]).collect();
        let up = slices.iter().sum::<u64>() / denominator
            - slices.iter().map(|slice| slice / denominator).sum::<u64>();
        let mut split = Split::new(&slices, denominator, index(up), &mut debts, saves);
        // One move more than necessary is allowed; a whole data center's debt goes before that of a machine.
        let mut spare = true;
        if split.gap().is_some() {
            split.close_gap();
            spare = false;
        }
        let mut slices: Vec<u64> = slices.iter().map(|slice| slice / denominator).collect();
        split.settle(&mut debts).for_each(|position| slices[position] += 1);
        sites.iter().zip(debts).for_each(|(site, debt)| self.debts[*site] = debt);

        let mut splits = Vec::with_capacity(sites.len());
        for (position, site) in sites.iter().enumerate() {
            let Site { machines, debts } = &mut self.sites[*site];
            let quotas = &quotas[position];
            let saves = |m: usize| self.held[machines[m].0.get()] > quotas[m] / denominator;
            splits.push(Split::new(
                quotas,
                denominator,
                index(slices[position] - floors[position]),
                debts,
                saves,
            ));
        }
        if spare {
            // The widest gap; the first of them in a tie.
            let widest = splits.iter_mut().rev().max_by_key(|split| split.gap());
            if let Some(split) = widest.filter(|split| split.gap().is_some()) {
                split.close_gap();
            }
        }
        let mut shares = Shares::new();
        for ((site, quotas), split) in sites.iter().zip(&quotas).zip(splits) {
            let Site { machines, debts } = &mut self.sites[*site];
            let first = shares.len();
            let floor = |quota: u64| u16::try_from(quota / denominator).expect("granules of one address");
            shares.extend(machines.iter().zip(quotas).map(|((machine, _), quota)| (*machine, floor(*quota))));
            split.settle(debts).for_each(|machine| shares[first + machine].1 += 1);
        }
        shares
    }

    /// The exact quotas: by weight, but nobody's above the limit; what that leaves goes to the others by weight.
    ///
    /// A machine's quota is its part of the whole address, not of its slice: so both roundings together stay below one
    /// granule.
    fn quotas(&self, sites: &[usize]) -> Quotas {
        let machines = || sites.iter().flat_map(|site| &self.sites[*site].machines);
        let sum = |sum: (u64, u64), w: &u32| (sum.0 + 1, sum.1 + u64::from(*w));
        let (_, all) = machines().map(|(_, w)| w).fold((0, 0), sum);
        // What is left for those below the limit, and their weight. The more are at it, the more is left for each of
        // the others: nobody leaves the limit again, so this ends.
        let (mut left, mut weight, mut limited) = (self.granules, all, 0);
        let above = |left: u64, weight: u64, w: u32| left * u64::from(w) > self.limit * weight;
        while weight > 0 {
            let (count, heavy) =
                machines().map(|(_, w)| w).filter(|w| above(left, weight, **w)).fold((0, 0), sum);
            if count == limited {
                break;
            }
            limited = count;
            (left, weight) = (self.granules - count * self.limit, all - heavy);
        }
        let denominator = weight.max(1);
        let exact = |w: u32| {
            if weight == 0 || above(left, weight, w) { self.limit * denominator } else { left * u64::from(w) }
        };
        let of_site = |site: &usize| self.sites[*site].machines.iter().map(|(_, w)| exact(*w)).collect();
        Quotas { machines: sites.iter().map(of_site).collect(), denominator }
    }
}

/// Counts of one address are small.
fn index(count: u64) -> usize {
    usize::try_from(count).expect("fewer granules than memory")
}
