//! From the layout in force towards another one: what can change at once, and what has to drain first.

use core::net::Ipv4Addr;
use std::collections::BTreeMap;

use crate::epoch::layout::Parts;
use crate::epoch::{
    DataCenterIndex, Draining, Epoch, Layout, MachineIndex, NumberedDataCenter, NumberedMachine, Row,
    Standing,
};
use crate::error::{Error, Result};

/// The layout after `in_force` that goes towards `target`, with its epoch.
///
/// A granule that nobody has changes hands at once. One that somebody has drains to whom it shall belong. Machines that
/// the target does not have are leaving.
///
/// # Errors
/// The target is not newer, is on the move itself, or cuts addresses otherwise; a machine or data center that stays has
/// another number or place.
pub(super) fn towards(in_force: &Layout, target: &Layout) -> Result<Parts> {
    if target.epoch() <= in_force.epoch() {
        return Err(Error::input(format!(
            "the new layout has epoch {}, the one in force {}; build it after that one",
            target.epoch(),
            in_force.epoch()
        )));
    }
    if target.epoch() > LAST_EPOCH {
        return Err(Error::input(format!(
            "the new layout has epoch {}, and hardly any is left after it; the last one is {LAST_EPOCH}",
            target.epoch()
        )));
    }
    if !target.handovers().is_empty() {
        return Err(Error::input(format!(
            "the new layout of epoch {} is itself on the move; give one that was built",
            target.epoch()
        )));
    }
    if target.cut() != in_force.cut() {
        return Err(Error::input(format!(
            "the layout in force cuts addresses into granules of {} ports, the new one into {} (or other usable ports); \
             a fleet keeps its cut while connections live",
            in_force.cut().granule(),
            target.cut().granule()
        )));
    }
    check_numbers(in_force, target)?;
    let Members { data_centers, machines, of_in_force, of_target, sites_of_in_force, sites_of_target } =
        Members::merge(in_force, target);
    let mut parts = target.parts();
    parts.data_centers = data_centers;
    parts.machines = machines;
    parts.handovers = in_force.handovers().clone();
    parts.handovers.machines_mut().for_each(|machine| *machine = of_in_force[machine.get()]);
    let mut old: BTreeMap<Ipv4Addr, Vec<Option<MachineIndex>>> = rows(in_force, &of_in_force);
    let mut new: BTreeMap<Ipv4Addr, Vec<Option<MachineIndex>>> = rows(target, &of_target);
    // Addresses that are given up drain to nobody.
    let granules = usize::from(in_force.cut().granule().granules_per_address());
    for address in old.keys() {
        new.entry(*address).or_insert_with(|| vec![None; granules]);
    }
    // Where an address is given up it is announced until all of it is closed.
    let mut sites = announced(in_force, &sites_of_in_force, target.data_centers_per_address());
    sites.extend(announced(target, &sites_of_target, target.data_centers_per_address()));
    let mut draining = Vec::new();
    parts.rows.clear();
    for (address, wanted) in new {
        let owners = old.remove(&address).unwrap_or_else(|| vec![None; granules]);
        let row = (0_u16..).zip(owners).zip(wanted).map(|((granule, owner), wanted)| {
            if owner.is_some() && owner != wanted {
                let known = parts.handovers.draining_of(address, granule);
                let since = known.map_or(target.epoch(), |drain| drain.since);
                draining.push(Draining { address, granule, to: wanted, since });
                owner
            } else {
                wanted
            }
        });
        let owners = row.collect();
        parts.rows.push(Row { address, data_centers: sites.remove(&address).unwrap_or_default(), owners });
    }
    parts.handovers.draining = draining;
    // Whom a granule goes to at once may have been its owner before, or have ports open there.
    let owner = |address, granule: u16| {
        let at = parts.rows.binary_search_by_key(&address, |row: &Row| row.address).ok()?;
        parts.rows[at].owners[usize::from(granule)]
    };
    let shift = in_force.cut().granule().shift();
    parts.handovers.previous.retain(|p| owner(p.address, p.granule) != Some(p.machine));
    parts.handovers.holdouts.retain(|h| owner(h.address, h.port >> shift) != Some(h.machine));
    Ok(parts)
}

/// Epochs after it are left to the handovers that follow.
const LAST_EPOCH: Epoch = Epoch::new(u64::MAX / 2);

/// An IPv6 address is its machine's by its bits: no drain would take it from one machine to another. So both numbers stay
/// while a machine is in the layout, until it has left and nothing of it is open.
fn check_numbers(in_force: &Layout, target: &Layout) -> Result<()> {
    for new in target.data_centers() {
        let Some(old) = in_force.data_center_index(&new.id).map(|at| &in_force.data_centers()[at.get()])
        else {
            continue;
        };
        if new.number != old.number {
            return Err(Error::input(format!(
                "data center {} has number {} in force, but {} in the new layout; build that after the one in force",
                new.id, old.number, new.number
            )));
        }
    }
    for new in target.machines() {
        let Some(old) = in_force.machine_index(&new.id).map(|at| &in_force.machines()[at.get()]) else {
            continue;
        };
        let (was_at, is_at) = (
            &in_force.data_centers()[old.data_center.get()].id,
            &target.data_centers()[new.data_center.get()].id,
        );
        if was_at != is_at {
            return Err(Error::input(format!(
                "machine {} would move from data center {was_at} to {is_at} while connections live; take it out of the \
                 fleet, and add it when it has left",
                new.id
            )));
        }
        if new.number != old.number {
            return Err(Error::input(format!(
                "machine {} has number {} in force, but {} in the new layout; build that after the one in force",
                new.id, old.number, new.number
            )));
        }
    }
    Ok(())
}

fn rows(layout: &Layout, places: &[MachineIndex]) -> BTreeMap<Ipv4Addr, Vec<Option<MachineIndex>>> {
    let place = |owner: &Option<MachineIndex>| owner.map(|machine| places[machine.get()]);
    layout.rows().iter().map(|row| (row.address(), row.owners().iter().map(place).collect())).collect()
}

/// The data centers that announce each address.
fn announced(
    layout: &Layout,
    places: &[DataCenterIndex],
    most: u8,
) -> BTreeMap<Ipv4Addr, Vec<DataCenterIndex>> {
    let sites =
        |row: &Row| row.data_centers().iter().map(|site| places[site.get()]).take(most.into()).collect();
    layout.rows().iter().map(|row| (row.address(), sites(row))).collect()
}

/// The members of both layouts, and where those of each are in the lists.
struct Members {
    data_centers: Vec<NumberedDataCenter>,
    machines: Vec<NumberedMachine>,
    of_in_force: Vec<MachineIndex>,
    of_target: Vec<MachineIndex>,
    sites_of_in_force: Vec<DataCenterIndex>,
    sites_of_target: Vec<DataCenterIndex>,
}

impl Members {
    fn merge(in_force: &Layout, target: &Layout) -> Self {
        let mut data_centers = BTreeMap::new();
        for site in in_force.data_centers().iter().chain(target.data_centers()) {
            data_centers.insert(&site.id, site.clone());
        }
        let data_centers: Vec<NumberedDataCenter> = data_centers.into_values().collect();
        let sites = |layout: &Layout| -> Vec<DataCenterIndex> {
            let place =
                |d: &NumberedDataCenter| data_centers.binary_search_by(|other| other.id.cmp(&d.id)).ok();
            let place =
                |d| place(d).and_then(DataCenterIndex::new).expect("the list has the data centers of both");
            layout.data_centers().iter().map(place).collect()
        };
        let (sites_of_in_force, sites_of_target) = (sites(in_force), sites(target));
        let mut machines = BTreeMap::new();
        for machine in in_force.machines() {
            let data_center = sites_of_in_force[machine.data_center.get()];
            let leaving = NumberedMachine { data_center, standing: Standing::Leaving, ..machine.clone() };
            machines.insert(&machine.id, leaving);
        }
        for machine in target.machines() {
            let data_center = sites_of_target[machine.data_center.get()];
            machines.insert(&machine.id, NumberedMachine { data_center, ..machine.clone() });
        }
        let machines: Vec<NumberedMachine> = machines.into_values().collect();
        let places = |layout: &Layout| {
            let place = |m: &NumberedMachine| machines.binary_search_by(|other| other.id.cmp(&m.id)).ok();
            let place = |m| place(m).and_then(MachineIndex::new).expect("the list has the machines of both");
            layout.machines().iter().map(place).collect()
        };
        let (of_in_force, of_target) = (places(in_force), places(target));
        Self { data_centers, machines, of_in_force, of_target, sites_of_in_force, sites_of_target }
    }
}
