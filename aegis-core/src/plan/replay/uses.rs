//! How many ports are in use, of which egress IP, in which data center, towards which origin?

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::id::DataCenterId;

use super::machines::Machines;
use super::outcome::Use;
use super::paths::{Paths, Target};

/// One (egress IP, data center, origin): live and held ports of all its machines.
struct Cell {
    busy: u32,
    /// Since when `busy` is what it is.
    since: u64,
    interval: Counts,
    whole: Counts,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    port_millis: u64,
    min: u32,
    max: u32,
}

impl Cell {
    #[inline]
    fn settle(&mut self, now: u64) {
        self.interval.port_millis += u64::from(self.busy) * (now - self.since);
        self.since = now;
    }

    /// Begins another interval.
    fn turn(&mut self) {
        let Counts { port_millis, min, max } = self.interval;
        let whole = &mut self.whole;
        *whole = Counts {
            port_millis: whole.port_millis + port_millis,
            min: whole.min.min(min),
            max: whole.max.max(max),
        };
        self.interval = Counts { port_millis: 0, min: self.busy, max: self.busy };
    }
}

/// Egress IP (in IPv6 its prefix), position of the data center, position of the origin.
type Key = (IpNet, usize, u16);

/// All that were ever in use, in the order in which they were first used.
#[derive(Default)]
pub(super) struct Uses {
    cells: Vec<Cell>,
    keys: Vec<(Key, u32)>,
    places: BTreeMap<Key, u32>,
    /// Ports of a data center.
    ports: BTreeMap<(IpNet, usize), u32>,
}

impl Uses {
    pub(super) fn new(machines: &Machines) -> Self {
        let mut uses = Self::default();
        for machine in &machines.all {
            for (source, ports) in machine.sources.iter().flatten() {
                let sum = uses.ports.entry((*source, machine.data_center)).or_default();
                *sum = sum.saturating_add(*ports);
            }
        }
        uses
    }

    /// Ports of each egress IP in each data center.
    pub(super) fn ports(&self, paths: &Paths) -> impl Iterator<Item = (IpNet, DataCenterId, u32)> {
        self.ports.iter().map(|((source, at), ports)| (*source, paths.data_centers()[*at].clone(), *ports))
    }

    pub(super) fn cell(&mut self, key: Key, now: u64) -> u32 {
        *self.places.entry(key).or_insert_with(|| {
            let (interval, whole) = (Counts::default(), Counts::default());
            self.cells.push(Cell { busy: 0, since: now, interval, whole });
            self.keys.push((key, self.ports.get(&(key.0, key.1)).copied().unwrap_or(0)));
            (self.cells.len() - 1) as u32
        })
    }

    #[inline]
    pub(super) fn take(&mut self, cell: u32, now: u64) {
        let cell = &mut self.cells[cell as usize];
        cell.settle(now);
        cell.busy += 1;
        cell.interval.max = cell.interval.max.max(cell.busy);
    }

    #[inline]
    pub(super) fn give_back(&mut self, cell: u32, now: u64) {
        let cell = &mut self.cells[cell as usize];
        cell.settle(now);
        cell.busy -= 1;
        cell.interval.min = cell.interval.min.min(cell.busy);
    }

    /// Ends an interval: what was in use in it.
    pub(super) fn turn(&mut self, now: u64, paths: &Paths) -> Vec<Use> {
        let mut used = Vec::new();
        for (cell, &key) in self.cells.iter_mut().zip(&self.keys) {
            cell.settle(now);
            if cell.interval.max > 0 {
                used.push(told(key, &cell.interval, cell.busy, paths));
            }
            cell.turn();
        }
        used
    }

    /// All of the replay, after the last interval, in order.
    pub(super) fn whole(&self, paths: &Paths) -> Vec<Use> {
        let places = self.places.values().map(|place| *place as usize);
        places.map(|at| told(self.keys[at], &self.cells[at].whole, self.cells[at].busy, paths)).collect()
    }
}

fn told(
    ((source, data_center, origin), ports): (Key, u32),
    counts: &Counts,
    last: u32,
    paths: &Paths,
) -> Use {
    let Counts { port_millis, min, max } = *counts;
    Use {
        source,
        data_center: paths.data_centers()[data_center].clone(),
        origin: paths.origin(Target(origin)).expect("a target of these paths"),
        ports,
        port_millis,
        min,
        max,
        last,
    }
}
