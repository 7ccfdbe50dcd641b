//! Who is in a layout: the data centers and machines of the global partition, and their numbers in IPv6 addresses.

use core::num::NonZeroU16;
use std::collections::BTreeSet;

use super::{DataCenterIndex, Layout, MachineIndex, NumberedDataCenter, NumberedMachine, Standing};
use crate::error::{Error, Result};
use crate::fleet::{Fleet, Machine, Partition};
use crate::id::DataCenterId;

/// The members of a layout, in id order. A separate partition gets no global addresses, so no layout knows it.
pub(super) struct Members {
    pub(super) data_centers: Vec<NumberedDataCenter>,
    pub(super) machines: Vec<NumberedMachine>,
    /// The machines of each data center and their weights.
    pub(super) weights: Vec<Vec<(MachineIndex, u32)>>,
}

impl Members {
    /// The members that `fleet` has, with the numbers that they had in `previous`. Numbers of those that `fleet` has no
    /// more are nobody's yet: in `previous` they may have connections.
    pub(super) fn new(fleet: &Fleet, previous: Option<&Layout>) -> Result<Self> {
        let ids: Vec<_> =
            fleet.data_centers().filter(|d| d.partition == Partition::Global).map(|d| &d.id).collect();
        let kept = ids.iter().map(|id| {
            let previous = previous?;
            Some(previous.data_centers()[previous.data_center_index(id)?.get()].number)
        });
        let used = previous.iter().flat_map(|previous| previous.data_centers()).map(|d| d.number);
        let numbers = number(kept.collect(), used.collect(), || "the fleet".into(), "data centers")?;

        let mut at_site: Vec<Vec<(usize, &Machine)>> = vec![Vec::new(); ids.len()];
        let global = fleet.machines().filter_map(|m| Some((ids.binary_search(&&m.data_center).ok()?, m)));
        let mut count = 0;
        for (position, (site, machine)) in global.enumerate() {
            at_site[site].push((position, machine));
            count = position + 1;
        }
        let mut machines = vec![None; count];
        let mut weights = Vec::with_capacity(ids.len());
        for (site, local) in at_site.iter().enumerate() {
            let kept = local.iter().map(|(_, machine)| kept_number(previous?, machine));
            let used = used_numbers(previous, ids[site]);
            let numbers = number(kept.collect(), used, || format!("data center {}", ids[site]), "machines")?;
            let data_center = DataCenterIndex::new(site).expect("every data center has a 16-bit number");
            for ((position, machine), number) in local.iter().zip(numbers) {
                machines[*position] = Some(NumberedMachine {
                    id: machine.id.clone(),
                    data_center,
                    number,
                    standing: Standing::Serving,
                });
            }
            let index =
                |position| MachineIndex::new(position).expect("every machine has a 32-bit number pair");
            weights
                .push(local.iter().map(|(position, machine)| (index(*position), machine.weight)).collect());
        }
        Ok(Self {
            data_centers: ids
                .into_iter()
                .zip(numbers)
                .map(|(id, number)| NumberedDataCenter { id: id.clone(), number })
                .collect(),
            machines: machines.into_iter().map(|m| m.expect("every machine is at one site")).collect(),
            weights,
        })
    }
}

/// The number that a machine had, if it was in the same data center.
fn kept_number(previous: &Layout, machine: &Machine) -> Option<NonZeroU16> {
    let old = &previous.machines()[previous.machine_index(&machine.id)?.get()];
    (previous.data_centers()[old.data_center.get()].id == machine.data_center).then_some(old.number)
}

/// The numbers of the machines that a data center had.
fn used_numbers(previous: Option<&Layout>, site: &DataCenterId) -> BTreeSet<NonZeroU16> {
    let site = previous.and_then(|previous| previous.data_center_index(site));
    let machines = previous.iter().flat_map(|previous| previous.machines());
    machines.filter(|machine| Some(machine.data_center) == site).map(|machine| machine.number).collect()
}

/// A number for each party: the one it had (`kept`), else the smallest one that nobody has or had (`used`), in the order
/// given.
///
/// So parties can come and go and nobody else is renumbered. Numbers start at 1.
fn number(
    kept: Vec<Option<NonZeroU16>>,
    used: BTreeSet<NonZeroU16>,
    place: impl Fn() -> String,
    parties: &str,
) -> Result<Vec<NonZeroU16>> {
    let mut free = (1..=u16::MAX).filter_map(NonZeroU16::new).filter(|number| !used.contains(number));
    let count = kept.len();
    kept.into_iter().map(|number| number.or_else(|| free.next())).collect::<Option<_>>().ok_or_else(|| {
        Error::input(format!("{} has {count} {parties}; IPv6 addresses number at most {}", place(), u16::MAX))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_numbers_stay_and_new_ones_fill_the_gaps() {
        let number = |kept: Vec<Option<NonZeroU16>>, used: &[u16]| {
            let used = used.iter().copied().filter_map(NonZeroU16::new).collect();
            number(kept, used, || "fra".into(), "machines")
        };
        let kept = [0, 2, 0, 4, 0].map(NonZeroU16::new);
        let numbers = number(kept.to_vec(), &[2, 3, 4]).unwrap();
        let numbers: Vec<u16> = numbers.into_iter().map(NonZeroU16::get).collect();
        assert_eq!(numbers, [1, 2, 5, 4, 6], "3 was somebody's");
        assert!(number(vec![None; 65_535], &[]).is_ok());
        let e = number(vec![None; 65_536], &[]).unwrap_err();
        assert_eq!(e.message(), "fra has 65536 machines; IPv6 addresses number at most 65535");
    }
}
