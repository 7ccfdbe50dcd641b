//! Layouts of a large network: 100,000 machines in 330 data centers, each address at four that the layout chooses.

use std::time::Instant;

use aegis_core::epoch::{Epoch, Layout, LayoutPolicy};
use aegis_core::fleet::{Coordinates, DataCenter, Fleet, Machine, Partition};
use aegis_core::inventory::{AddressState, Choice, DataCenters, Direction, Holding, Inventory, Pool, Right};

use crate::rounds::median;

/// Data centers.
pub const SITES: usize = 330;

/// What is done, in the order of the columns.
pub const STEPS: [&str; 4] = ["first layout", "nothing changed", "one machine more", "one data center less"];

/// Milliseconds of each of [`STEPS`] with so many machines and addresses (a power of two), median of `rounds`; and the
/// largest resident set of this process so far, in MiB.
///
/// # Panics
/// The world is not a possible one.
pub fn measure(machines: usize, addresses: u32, rounds: usize) -> Vec<f64> {
    let (sites, machines) = world(machines);
    let inventory = inventory(addresses);
    let fleet = |sites: &[DataCenter], machines: &[Machine]| {
        Fleet::new(sites.to_vec(), machines.to_vec()).expect("names are unique")
    };
    let base = fleet(&sites, &machines);
    let more = {
        let newcomer = Machine { id: "new".parse().expect("a name"), ..machines[0].clone() };
        fleet(&sites, &[machines.clone(), vec![newcomer]].concat())
    };
    let less = {
        let drained = |m: &Machine| Machine {
            weight: if m.data_center == sites[0].id { 0 } else { m.weight },
            ..m.clone()
        };
        fleet(&sites, &machines.iter().map(drained).collect::<Vec<_>>())
    };
    let policy = LayoutPolicy::default();
    let mut took = vec![Vec::new(); STEPS.len()];
    for _ in 0..rounds {
        let mut build = |step: usize, fleet: &Fleet, previous: Option<&Layout>| {
            let epoch = Epoch::new(previous.map_or(1, |previous| previous.epoch().get() + 1));
            let start = Instant::now();
            let layout = Layout::build(fleet, &inventory, &policy, previous, epoch).expect("all fits");
            took[step].push(start.elapsed().as_secs_f64() * 1e3);
            layout
        };
        let first = build(0, &base, None);
        for (step, fleet) in [(1, &base), (2, &more), (3, &less)] {
            build(step, fleet, Some(&first));
        }
    }
    took.into_iter().map(median).chain([peak()]).collect()
}

fn world(machines: usize) -> (Vec<DataCenter>, Vec<Machine>) {
    let site = |n: usize| DataCenter {
        id: format!("d{n:03}").parse().expect("a name"),
        city: "a city".into(),
        coordinates: Coordinates::new(0.0, 0.0).expect("on earth"),
        partition: Partition::Global,
    };
    let sites: Vec<DataCenter> = (0..SITES).map(site).collect();
    let machine = |n: usize| Machine {
        id: format!("m{n:06}").parse().expect("a name"),
        data_center: sites[n % SITES].id.clone(),
        weight: [1, 2, 4][n / SITES % 3],
    };
    let machines = (0..machines).map(machine).collect();
    (sites, machines)
}

fn inventory(addresses: u32) -> Inventory {
    let prefix = format!("198.18.0.0/{}", 32 - addresses.ilog2()).parse().expect("a prefix");
    let right = if addresses < 256 { Right::Leased } else { Right::Byoip };
    let account: aegis_core::id::AccountId = "acme".parse().expect("a name");
    let holding = Holding {
        id: "h".parse().expect("a name"),
        account: account.clone(),
        right,
        prefix,
        data_centers: DataCenters::Chosen(Choice::default()),
        serves: Direction::Egress,
        state: AddressState::Active,
    };
    let pool = Pool { id: "p".parse().expect("a name"), account, right, prefixes: vec![prefix] };
    Inventory::new([holding], [pool], 4).expect("one holding, one pool")
}

/// The largest resident set of this process so far, in MiB.
pub(crate) fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_one_is_measured() {
        assert_eq!(measure(990, 16, 1).len(), STEPS.len() + 1);
    }
}
