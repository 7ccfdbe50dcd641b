//! Who is in a layout: the data centers and machines of the global partition, and their numbers in IPv6 addresses.

use core::num::NonZeroU16;
use std::collections::BTreeSet;

use super::{DataCenterIndex, Layout, MachineIndex, NumberedDataCenter, NumberedMachine, Standing};
use crate::error::{Error, Result};
use crate::fleet::{Fleet, Machine, Partition};

/// The members of a layout, in id order. A separate partition gets no global addresses, so no layout knows it.
pub(super) struct Members {
    pub(super) data_centers: Vec<NumberedDataCenter>,
    pub(super) last_data_center_number: u16,
    pub(super) machines: Vec<NumberedMachine>,
    /// The machines of each data center that are not drained, and their weights.
    pub(super) weights: Vec<Vec<(MachineIndex, u32)>>,
}

impl Members {
    /// The members that `fleet` has, with the numbers that they had in `previous`. Numbers of those that `fleet` has no
    /// more are nobody's yet: in `previous` they may have connections.
    pub(super) fn new(fleet: &Fleet, previous: Option<&Layout>) -> Result<Self> {
        let ids: Vec<_> =
            fleet.data_centers().filter(|d| d.partition == Partition::Global).map(|d| &d.id).collect();
        let known: Vec<Option<&NumberedDataCenter>> = ids
            .iter()
            .map(|id| {
                let previous = previous?;
                Some(&previous.data_centers()[previous.data_center_index(id)?.get()])
            })
            .collect();
        let kept = known.iter().map(|known| known.map(|d| d.number)).collect();
        let last = previous.map_or(0, Layout::last_data_center_number);
        let used = previous.iter().flat_map(|previous| previous.data_centers()).map(|d| d.number).collect();
        let (numbers, last_data_center_number) =
            number(kept, used, last, || "the fleet".into(), "data centers")?;

        let global: Vec<(usize, &Machine)> =
            fleet.machines().filter_map(|m| Some((ids.binary_search(&&m.data_center).ok()?, m))).collect();
        let old = previous.map_or(&[][..], Layout::machines);
        let old_positions = positions(global.iter().map(|(_, m)| &m.id), old.iter().map(|m| &m.id));
        let mut at_site: Vec<Vec<(usize, &Machine)>> = vec![Vec::new(); ids.len()];
        for (position, (site, machine)) in global.iter().enumerate() {
            at_site[*site].push((position, machine));
        }
        // Also the numbers of those who left: they may have connections still.
        let mut used = vec![BTreeSet::new(); ids.len()];
        let old_sites = previous.map_or(&[][..], Layout::data_centers);
        let sites = positions(old_sites.iter().map(|d| &d.id), ids.iter().copied());
        for machine in old {
            if let Some(site) = sites[machine.data_center.get()] {
                used[site].insert(machine.number);
            }
        }
        let mut machines = vec![None; global.len()];
        let mut weights = Vec::with_capacity(ids.len());
        let mut data_centers = Vec::with_capacity(ids.len());
        for (site, local) in at_site.iter().enumerate() {
            // A machine keeps its number only where it was.
            let kept = |(position, machine): &(usize, &Machine)| {
                let NumberedMachine { data_center, number, .. } = &old[old_positions[*position]?];
                let place = &previous?.data_centers()[data_center.get()].id;
                (*place == machine.data_center).then_some(*number)
            };
            let kept = local.iter().map(kept).collect();
            let last = known[site].map_or(0, |d| d.last_machine_number);
            let place = || format!("data center {}", ids[site]);
            let (member_numbers, last_machine_number) =
                number(kept, core::mem::take(&mut used[site]), last, place, "machines")?;
            let data_center = DataCenterIndex::new(site).expect("every data center has a 16-bit number");
            for ((position, machine), number) in local.iter().zip(member_numbers) {
                machines[*position] = Some(NumberedMachine {
                    id: machine.id.clone(),
                    data_center,
                    number,
                    standing: if machine.weight == 0 { Standing::Drained } else { Standing::Serving },
                });
            }
            let index =
                |position| MachineIndex::new(position).expect("every machine has a 32-bit number pair");
            let in_use = local.iter().filter(|(_, machine)| machine.weight > 0);
            weights.push(in_use.map(|(position, machine)| (index(*position), machine.weight)).collect());
            let id = ids[site].clone();
            data_centers.push(NumberedDataCenter { id, number: numbers[site], last_machine_number });
        }
        Ok(Self {
            data_centers,
            last_data_center_number,
            machines: machines.into_iter().map(|m| m.expect("every machine is at one site")).collect(),
            weights,
        })
    }
}

/// Where each of these ids stands in `list`; both are in order, so that one walk through both finds all.
pub(super) fn positions<'a, T: Ord + 'a>(
    ids: impl Iterator<Item = &'a T>,
    list: impl Iterator<Item = &'a T>,
) -> Vec<Option<usize>> {
    let mut list = list.enumerate().peekable();
    let position = |id| {
        while list.next_if(|(_, other)| *other < id).is_some() {}
        list.next_if(|(_, other)| *other == id).map(|(position, _)| position)
    };
    ids.map(position).collect()
}

/// A number for each party, and the `last` one given: a party has the one it had (`kept`), else the next one after the
/// last that nobody has.
///
/// So parties come and go, nobody else is renumbered, and the number of one who left comes again only after all
/// others. Numbers start at 1; after 65,535 they begin again.
fn number(
    kept: Vec<Option<NonZeroU16>>,
    mut taken: BTreeSet<NonZeroU16>,
    mut last: u16,
    place: impl Fn() -> String,
    parties: &str,
) -> Result<(Vec<NonZeroU16>, u16)> {
    taken.extend(kept.iter().flatten());
    let round = (last..=u16::MAX).skip(1).chain(1..=last);
    let mut free = round.filter_map(NonZeroU16::new).filter(|number| !taken.contains(number));
    let count = kept.len();
    let mut numbers = Vec::with_capacity(count);
    let mut newest = None;
    for number in kept {
        let Some(number) = number.or_else(|| {
            newest = free.next();
            newest
        }) else {
            return Err(Error::input(format!(
                "{} has {count} {parties}; IPv6 addresses number at most {}",
                place(),
                u16::MAX
            )));
        };
        numbers.push(number);
    }
    if let Some(newest) = newest {
        last = newest.get();
    }
    Ok((numbers, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(kept: &[u16], last: u16) -> (Vec<u16>, u16) {
        let kept = kept.iter().map(|number| NonZeroU16::new(*number)).collect();
        let (numbers, last) = number(kept, BTreeSet::new(), last, || "fra".into(), "machines").unwrap();
        (numbers.into_iter().map(NonZeroU16::get).collect(), last)
    }

    #[test]
    fn old_numbers_stay_and_new_ones_go_round() {
        assert_eq!(numbered(&[0, 0, 0], 0), (vec![1, 2, 3], 3));
        assert_eq!(numbered(&[0, 2, 0, 4, 0], 4), (vec![5, 2, 6, 4, 7], 7));
        assert_eq!(numbered(&[2, 4], 9), (vec![2, 4], 9), "what is gone is remembered");
        assert_eq!(numbered(&[0, 1, 0, 65_535, 0], 65_533), (vec![65_534, 1, 2, 65_535, 3], 3));
        assert_eq!(numbered(&[0, 7, 0], 65_535), (vec![1, 7, 2], 2));
        assert_eq!(numbered(&[0, 65_535], 65_534), (vec![1, 65_535], 1));
    }

    #[test]
    fn every_number_can_be_in_use_and_no_more() {
        for last in [0, 1, 40_000, 65_535] {
            let numbers =
                number(vec![None; 65_535], BTreeSet::new(), last, || "fra".into(), "machines").unwrap().0;
            assert_eq!(numbers.into_iter().collect::<BTreeSet<_>>().len(), 65_535);
        }
        let e = number(vec![None; 65_536], BTreeSet::new(), 7, || "fra".into(), "machines").unwrap_err();
        assert_eq!(e.message(), "fra has 65536 machines; IPv6 addresses number at most 65535");
    }
}
