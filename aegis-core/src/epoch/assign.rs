//! Who gets which granules of one address.

use super::MachineIndex;
use super::apportion::{Debt, apportion};
use super::members::Members;
use crate::error::{Error, Result};
use crate::slices::Cut;

/// The static assignment, address by address: it remembers only what the roundings so far owe to whom.
pub(super) struct Assignment {
    /// The numbers of the usable granules.
    usable: Vec<u16>,
    granules: usize,
    /// Most granules of one address for one machine.
    limit: u64,
    sites: Vec<Site>,
    debts: Vec<Debt>,
}

/// A data center, as far as the assignment knows it.
struct Site {
    machines: Vec<(MachineIndex, u32)>,
    debts: Vec<Debt>,
}

impl Assignment {
    /// Nothing is assigned yet, and nothing is owed.
    pub(super) fn new(cut: &Cut, limit: Option<u16>, members: &Members) -> Result<Self> {
        let usable: Vec<u16> = cut.granules().collect();
        let weight: u128 = members.weights.iter().flatten().map(|(_, weight)| u128::from(*weight)).sum();
        // Quotas are counted in 64 bits: granules times weights must fit.
        if weight * usable.len() as u128 > u128::from(u64::MAX) {
            return Err(Error::input(format!(
                "the weights of all machines add up to {weight}; divide them all by the same number"
            )));
        }
        let site = |machines: &Vec<_>| Site { machines: machines.clone(), debts: vec![0; machines.len()] };
        Ok(Self {
            limit: limit.map_or(u64::MAX, u64::from).min(usable.len() as u64),
            usable,
            granules: cut.granule().granules_per_address().into(),
            sites: members.weights.iter().map(site).collect(),
            debts: vec![0; members.weights.len()],
        })
    }

    /// Assigns the granules of the next address to `sites` (positions, ascending) and their machines: neighbouring
    /// granules to each, what the limit leaves over unassigned at the end.
    pub(super) fn owners(&mut self, sites: &[usize]) -> Vec<Option<MachineIndex>> {
        // A machine's quota is `usable * weight / weight of all` of the whole address, not of its slice: so both
        // roundings together stay below one granule.
        let weight: u64 =
            sites.iter().flat_map(|s| &self.sites[*s].machines).map(|(_, w)| u64::from(*w)).sum();
        let most = self.limit * weight;
        let quotas: Vec<Vec<u64>> = sites
            .iter()
            .map(|s| {
                let exact = |(_, w): &(_, u32)| (self.usable.len() as u64 * u64::from(*w)).min(most);
                self.sites[*s].machines.iter().map(exact).collect()
            })
            .collect();
        let slice_quotas: Vec<u64> = quotas.iter().map(|machines| machines.iter().sum()).collect();
        let total = slice_quotas.iter().sum::<u64>() / weight;
        let mut debts: Vec<Debt> = sites.iter().map(|s| self.debts[*s]).collect();
        let slices = apportion(&slice_quotas, weight, total, &mut debts);

        let mut owners = vec![None; self.granules];
        let mut free = self.usable.iter();
        for (position, site) in sites.iter().enumerate() {
            self.debts[*site] = debts[position];
            let Site { machines, debts } = &mut self.sites[*site];
            let shares = apportion(&quotas[position], weight, slices[position], debts);
            for ((machine, _), share) in machines.iter().zip(shares) {
                for _ in 0..share {
                    let granule = free.next().expect("quotas add up to no more than the usable granules");
                    owners[usize::from(*granule)] = Some(*machine);
                }
            }
        }
        owners
    }
}
