//! Who takes connections: the machines with ports of the pool, each with the lease table that it would have.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::epoch::{Layout, Standing};
use crate::error::{Error, Result};
use crate::exit::{self, Sites};
use crate::fleet::{Fleet, Partition};
use crate::id::{DataCenterId, MachineId};
use crate::lease::{Config, GranuleState, Method, OriginHandle, Pool, PoolKey, Share, Table, Worker};
use crate::net::PortRange;
use crate::time::Time;

use super::memory::{Part, Store};
use super::paths::{Paths, Target};
use super::settings::Settings;
use super::variates::Random;

/// Whether an address is IPv6, as an index.
pub(super) type Family = usize;

/// A machine with ports of the pool.
pub(super) struct Machine {
    /// In the layout.
    pub(super) number: usize,
    /// In the latencies.
    pub(super) data_center: usize,
    shares: Vec<Share>,
    /// Egress addresses (IPv6: prefixes) and the ports of each, ascending, by family.
    pub(super) sources: [Vec<(IpNet, u32)>; 2],
    /// Made at the first connection, because most machines of a large fleet may see none.
    pub(super) at_work: Option<AtWork>,
}

pub(super) struct AtWork {
    pub(super) worker: Worker<Part>,
    pool: Pool,
    /// The lane of each origin, if it has been asked for.
    pub(super) lanes: Box<[Option<u32>]>,
}

impl Machine {
    fn new(number: usize, data_center: usize) -> Self {
        Self { number, data_center, shares: Vec::new(), sources: [Vec::new(), Vec::new()], at_work: None }
    }

    fn share(&mut self, source: IpNet, ip: IpAddr, range: PortRange, withheld: Vec<u16>) {
        let (state, method) = (GranuleState::Owned, Method::Explicit);
        let ports = range.len() - withheld.len() as u32;
        self.shares.push(Share { state, ip, range, method, withheld, after_death: None });
        let sources = &mut self.sources[family(ip)];
        match sources.last_mut().filter(|(last, _)| *last == source) {
            Some((_, sum)) => *sum += ports,
            None => sources.push((source, ports)),
        }
    }

    /// The lease table, with room for all origins.
    pub(super) fn go_to_work(
        &mut self,
        paths: &Paths,
        rules: &Rules,
        store: &mut Store,
        random: &mut Random,
    ) -> Result<&mut AtWork> {
        if self.at_work.is_none() {
            let config = rules.config(self.shares.len(), paths);
            let memory = store.part(Table::<Part>::size(&config)?)?;
            let table = Arc::new(Table::of_this_process(config, memory, random.seed())?);
            let slots = table.apply(rules.epoch.max(1), &self.shares, rules.from)?;
            let pool = table.pool(PoolKey(0), slots)?;
            let worker = Worker::attach(table, random.seed())?;
            let lanes = vec![None; paths.origins().len()].into();
            self.at_work = Some(AtWork { worker, pool, lanes });
        }
        Ok(self.at_work.as_mut().expect("made above"))
    }
}

impl AtWork {
    pub(super) fn handle(&self, paths: &Paths, target: Target) -> Result<OriginHandle> {
        let origin = paths.origin(target).expect("a target of these paths");
        let handle = self.worker.origin(&self.pool, origin);
        handle.map_err(|e| Error::new(e.kind(), format!("origin {origin} on one machine of the replay: {e}")))
    }
}

/// What the lease tables are made by.
pub(super) struct Rules {
    epoch: u64,
    from: Time,
    granule_ports: u32,
}

impl Rules {
    pub(super) fn new(layout: &Layout, settings: &Settings) -> Self {
        Self {
            epoch: layout.epoch().get(),
            from: settings.from,
            granule_ports: layout.cut().granule().ports(),
        }
    }

    /// Untouched parts of a table cost address space only (see [`Store`]), so there is room for every page, up to as many
    /// as the product has by default.
    fn config(&self, granules: usize, paths: &Paths) -> Config {
        let (granules, origins) = (granules as u32, paths.origins().len() as u32);
        Config {
            granule_ports: self.granule_ports,
            granules,
            origins,
            pages: granules.saturating_mul(origins).min(Config::default().pages),
            workers: 1,
            quotas: 0,
            ..Config::default()
        }
    }
}

/// Who takes connections of one family.
pub(super) struct Exits {
    pub(super) sites: Arc<Sites>,
    /// In [`Machines::all`], by the position of the share.
    machines: Vec<u32>,
}

impl Exits {
    /// Whose share it is, in [`Machines::all`].
    #[inline]
    pub(super) fn machine(&self, share: &exit::Share) -> u32 {
        self.machines[share.position()]
    }
}

/// All machines with ports of the pool.
pub(super) struct Machines {
    pub(super) all: Vec<Machine>,
    /// Of their tables.
    pub(super) store: Store,
    /// By family.
    pub(super) exits: [Option<Exits>; 2],
}

impl Machines {
    pub(super) fn new(
        fleet: &Fleet,
        layout: &Layout,
        pool: &[IpNet],
        paths: &Paths,
        settings: &Settings,
    ) -> Result<Self> {
        let mut by_number = BTreeMap::new();
        for (number, machine) in layout.machines().iter().enumerate() {
            let id = &layout.data_centers()[machine.data_center.get()].id;
            // What enters a separate network has its normal egress there, and nobody else leaves there.
            let is_global = fleet.data_center(id).is_none_or(|at| at.partition == Partition::Global);
            if machine.standing == Standing::Serving && is_global {
                let data_center = place(paths, id)?;
                by_number.insert(number, Machine::new(number, data_center));
            }
        }
        let in_pool = |ip: IpAddr| pool.iter().any(|prefix| prefix.contains(&ip));
        v4(layout, in_pool, &mut by_number);
        v6(layout, in_pool, settings.v6_addresses, &mut by_number);
        let all: Vec<Machine> =
            by_number.into_values().filter(|machine| !machine.shares.is_empty()).collect();
        if all.is_empty() {
            return Err(Error::input(format!(
                "no machine of epoch {} may grant from the pool of {} prefixes; give a pool of the layout's addresses",
                layout.epoch(),
                pool.len()
            )));
        }
        let exits = [exits(fleet, layout, &all, 0)?, exits(fleet, layout, &all, 1)?];
        Ok(Self { store: Store::new(all.len()), all, exits })
    }
}

pub(super) fn family(ip: IpAddr) -> Family {
    usize::from(ip.is_ipv6())
}

fn place(paths: &Paths, id: &DataCenterId) -> Result<usize> {
    paths.data_centers().binary_search(id).map_err(|_| {
        Error::input(format!(
            "data center {id} of the layout has no latencies; take those of the layout's fleet"
        ))
    })
}

/// The granules that are granted from: those that drain are not, nor the ports that stayed behind at another machine.
fn v4(layout: &Layout, in_pool: impl Fn(IpAddr) -> bool, machines: &mut BTreeMap<usize, Machine>) {
    let (cut, moving) = (layout.cut(), layout.handovers());
    for row in layout.rows().iter().filter(|row| in_pool(row.address().into())) {
        let (address, source) = (row.address(), IpNet::from(IpAddr::V4(row.address())));
        for (granule, owner) in (0_u16..).zip(row.owners()) {
            let machine = owner.and_then(|owner| machines.get_mut(&owner.get()));
            let (Some(machine), Some(range)) = (machine, cut.range(granule)) else { continue };
            if moving.draining_of(address, granule).is_none() {
                let behind = moving.holdouts_in(address, range.lo(), range.hi()).iter();
                let elsewhere = behind.filter(|holdout| holdout.machine.get() != machine.number);
                let withheld = elsewhere.map(|holdout| holdout.port).collect();
                machine.share(source, address.into(), range, withheld);
            }
        }
    }
}

/// One granule of each address, as an edge takes it.
fn v6(
    layout: &Layout,
    in_pool: impl Fn(IpAddr) -> bool,
    count: u32,
    machines: &mut BTreeMap<usize, Machine>,
) {
    let usable: Vec<PortRange> =
        layout.cut().granules().filter_map(|index| layout.cut().range(index)).collect();
    let prefixes = layout.v6_prefixes();
    for machine in machines.values_mut().filter(|_| !usable.is_empty()) {
        let id = &layout.machines()[machine.number].id;
        let places = (0..count as usize).cycle();
        for (ip, nth) in layout.v6_addresses_of(id, count).zip(places).filter(|(ip, _)| in_pool((*ip).into()))
        {
            let source = prefixes.iter().find(|prefix| prefix.contains(&ip));
            if let Some(source) = source {
                machine.share((*source).into(), ip.into(), usable[nth % usable.len()], Vec::new());
            }
        }
    }
}

/// None if nobody has ports of the family.
fn exits(fleet: &Fleet, layout: &Layout, all: &[Machine], family: Family) -> Result<Option<Exits>> {
    let id = |machine: &Machine| &layout.machines()[machine.number].id;
    let ports =
        |machine: &Machine| -> Vec<u32> { machine.sources[family].iter().map(|(_, ports)| *ports).collect() };
    let with_ports = (0..).zip(all).filter(|(_, machine)| ports(machine).iter().any(|ports| *ports > 0));
    let places: BTreeMap<&MachineId, u32> = with_ports.map(|(place, machine)| (id(machine), place)).collect();
    if places.is_empty() {
        return Ok(None);
    }
    let shares = all.iter().flat_map(|machine| {
        let of_each_source = ports(machine).into_iter();
        of_each_source.map(|ports| (id(machine).clone(), ports))
    });
    let sites = Sites::new(fleet, shares)?;
    let machines = sites.shares().iter().map(|share| places[share.machine()]).collect();
    Ok(Some(Exits { sites: Arc::new(sites), machines }))
}
