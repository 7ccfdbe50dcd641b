//! What a state of the model is: the real controllers and agents, and around them as little as can break them.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::epoch::control::{Agent, Controller, Fault, Record, Reply, Report, Settings};
use crate::epoch::{
    DataCenterIndex, Epoch, Handovers, Layout, LayoutParts, MachineIndex, NumberedDataCenter,
    NumberedMachine, Row, Standing,
};
use crate::id::MachineId;
use crate::slices::{Cut, GranuleSize};
use crate::time::Time;

pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const IP: IpAddr = IpAddr::V4(ADDRESS);

/// Where the fleet may be told to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// The owner of each usable granule.
    pub(super) owners: &'static [Option<usize>],
    /// A machine that this layout does not have.
    pub(super) without: Option<usize>,
}

const fn target(owners: &'static [Option<usize>]) -> Target {
    Target { owners, without: None }
}

/// The only granule is the first machine's, the second's, ... or nobody's.
pub(super) const A: Target = target(&[Some(0)]);
pub(super) const B: Target = target(&[Some(1)]);
pub(super) const C: Target = target(&[Some(2)]);
pub(super) const NOBODY: Target = target(&[None]);
/// Of three granules the first two change places.
pub(super) const AB: Target = target(&[Some(0), Some(1)]);
pub(super) const BA: Target = target(&[Some(1), Some(0)]);
/// The first machine is taken out of the fleet.
pub(super) const B_ALONE: Target = Target { owners: &[Some(1)], without: Some(0) };

/// What may happen, and how often: everything else is explored in every order. Times are in milliseconds, which here
/// are whole ticks.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) machines: usize,
    pub(super) controllers: usize,
    pub(super) has_router: bool,
    /// Ports per granule. The one that has port 0 is reserved.
    pub(super) granule: u32,
    pub(super) ports: &'static [u16],
    /// The first one is in force when it begins.
    pub(super) targets: &'static [Target],
    /// Time passes, without end; or it stands still.
    pub(super) has_time: bool,
    pub(super) retargets: u8,
    /// Crashes of machines and starts of new agents on machines that go on.
    pub(super) crashes: u8,
    /// New starts of controllers.
    pub(super) reboots: u8,
    /// Ticks that clocks miss, all together.
    pub(super) missed: u8,
    /// How many messages may be under way to or from one machine: each of them is delivered any number of times, in
    /// any order, or never.
    pub(super) in_flight: usize,
    /// Time passes, and others act, between a controller's call and the swap of the record.
    pub(super) is_store_slow: bool,
    /// Others act between the arrival of a layout and the moment when it is in force on the machine.
    pub(super) applies_late: bool,
    /// A port that is closed is held for a while.
    pub(super) holds: bool,
    pub(super) tenure: u64,
    pub(super) margin: u64,
    pub(super) drain: u64,
    pub(super) udp_rest: u64,
    pub(super) fault: Option<Fault>,
    /// The mistake of a machine: it says what is open before it has put the layout in force.
    pub(super) reports_too_early: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            machines: 2,
            controllers: 1,
            has_router: false,
            granule: 32_768,
            ports: &[40_000],
            targets: &[A, B],
            has_time: true,
            retargets: 1,
            crashes: 0,
            reboots: 0,
            missed: 0,
            in_flight: 1,
            is_store_slow: false,
            applies_late: false,
            holds: false,
            tenure: 1,
            margin: 0,
            drain: 1,
            udp_rest: 0,
            fault: None,
            reports_too_early: false,
        }
    }
}

/// What has happened on the way, in any state: a model in which nothing happens proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Event {
    /// A drain ended before its granule was handed over.
    Cancelled,
    /// A swap failed: another controller had been faster.
    LostRace,
    /// A port of a dead machine was given away although it is open there: it only could not be heard of.
    GivenUp,
    /// A port that had stayed behind is the new owner's at last.
    CameAfter,
    /// A machine was taken out of the layout.
    Forgotten,
    /// A machine's clock has missed a tick.
    MissedTick,
    /// A report was heard by a second start of a machine's software, or of an earlier one after that.
    OtherBoot,
}

const EVENTS: usize = 7;

/// A model: its bounds and what has happened in it.
#[derive(Clone)]
pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) settings: Settings,
    pub(super) ids: Vec<MachineId>,
    counts: Arc<[AtomicU64; EVENTS]>,
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let router = setup.has_router.then(|| "r".parse().unwrap());
        let settings = Settings {
            tenure: Duration::from_millis(setup.tenure),
            margin: Duration::from_millis(setup.margin),
            drain: Duration::from_millis(setup.drain),
            udp_rest: Duration::from_millis(setup.udp_rest),
            routers: router.into_iter().collect(),
            // A router that is given up may steer by anything.
            routers_patience: Duration::MAX,
        };
        let ids = ["a", "b", "c"][..setup.machines].iter().map(|id| id.parse().unwrap()).collect();
        Self { setup, settings, ids, counts: Arc::default() }
    }

    pub(super) fn saw(&self, event: Event) {
        self.counts[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self, event: Event) -> u64 {
        self.counts[event as usize].load(Ordering::Relaxed)
    }

    /// The layout of `epoch` that gives granules to these owners.
    pub(super) fn layout(&self, target: &Target, epoch: Epoch) -> Layout {
        let granule = GranuleSize::new(self.setup.granule).unwrap();
        let first = crate::net::PortRange::new(0, 0).unwrap();
        let cut = Cut::new(granule, crate::net::PortRange::ALL, [first]).unwrap();
        let here: Vec<usize> = (0..self.ids.len()).filter(|m| target.without != Some(*m)).collect();
        let index = |m: usize| MachineIndex::new(here.iter().position(|other| *other == m).unwrap()).unwrap();
        let mut owners = vec![None; usize::from(granule.granules_per_address())];
        for (granule, owner) in cut.granules().zip(target.owners) {
            owners[usize::from(granule)] = owner.map(index);
        }
        let number = |n: usize| u16::try_from(n + 1).unwrap().try_into().unwrap();
        let machines = here.iter().map(|m| NumberedMachine {
            id: self.ids[*m].clone(),
            data_center: DataCenterIndex::new(0).unwrap(),
            number: number(*m),
            standing: Standing::Serving,
        });
        let parts = LayoutParts {
            epoch,
            cut,
            data_centers_per_address: 1,
            data_centers: vec![NumberedDataCenter {
                id: "d".parse().unwrap(),
                number: number(0),
                last_machine_number: 100,
            }],
            last_data_center_number: 1,
            machines: machines.collect(),
            rows: vec![Row {
                address: ADDRESS,
                data_centers: vec![DataCenterIndex::new(0).unwrap()],
                owners,
            }],
            v6_prefixes: Vec::new(),
            handovers: Handovers::default(),
        };
        Layout::try_from(parts).unwrap()
    }

    /// Which machine of the model a layout means.
    pub(super) fn machine(&self, layout: &Layout, index: MachineIndex) -> usize {
        let id = &layout.machines()[index.get()].id;
        self.ids.iter().position(|other| other == id).unwrap()
    }

    pub(super) fn owner(&self, layout: &Layout, port: u16) -> Option<usize> {
        layout.owner(IP, port).map(|owner| self.machine(layout, owner.machine))
    }

    pub(super) fn second_owner(&self, layout: &Layout, port: u16) -> Option<usize> {
        layout.second_owner(IP, port).map(|owner| self.machine(layout, owner.machine))
    }
}

/// A port that is live or held at a machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Open {
    pub(super) is_held: bool,
    /// Its machine was called dead, and could not be heard of for so long: nobody answers for the port any more.
    pub(super) is_given_up: bool,
    /// Since this epoch every layout says that the port's granule is this machine's, or drains to it.
    pub(super) meant_since: Epoch,
}

/// A machine: what speaks for it, and what is open on it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Host {
    /// None: it is down.
    pub(super) agent: Option<Agent>,
    pub(super) boot: u64,
    pub(super) offered: Option<Arc<Layout>>,
    pub(super) open: BTreeMap<u16, Open>,
    /// How long ago (by no clock that misses ticks) a controller last heard of it and put that in the record; as long as
    /// a tenure is as long as ever.
    pub(super) silent: u64,
    pub(super) reports: Vec<Report>,
    pub(super) replies: Vec<Reply>,
}

/// A controller and its caller, who swaps the record.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Desk {
    pub(super) controller: Controller,
    /// The version of the record that it has read.
    pub(super) base: u64,
    /// It has changed its record, and not swapped yet.
    pub(super) pending: Option<Pending>,
}

/// What to do when a swap succeeds.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Pending {
    pub(super) heard: Option<(usize, u64)>,
    pub(super) reply: Option<Reply>,
    pub(super) for_router: Option<Arc<Layout>>,
}

/// The time by a machine's clock. It stands still, and what it is compared with goes back instead: so states that differ
/// in the hour alone are one state, and the model has no end of time. Every clock has an origin of its own.
pub(super) fn machine_now(m: usize) -> Time {
    Time::from_millis(1_000 * (m as u64 + 1))
}

/// The time by a controller's clock.
pub(super) fn desk_now(c: usize) -> Time {
    Time::from_millis(10_000 * (c as u64 + 1))
}

/// A state of the model.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    pub(super) store: Record,
    pub(super) desks: Vec<Arc<Desk>>,
    pub(super) hosts: Vec<Arc<Host>>,
    /// The layout that it steers by.
    pub(super) router: Option<Arc<Layout>>,
    /// For each usable granule (only with a router): from which epoch on it has been meant for whom.
    pub(super) meant: Vec<Vec<(Epoch, Option<usize>)>>,
    pub(super) retargets: u8,
    pub(super) crashes: u8,
    pub(super) reboots: u8,
    pub(super) missed: u8,
}

impl State {
    pub(super) fn may_grant(&self, m: usize, port: u16) -> bool {
        let now = machine_now(m);
        self.hosts[m].agent.as_ref().is_some_and(|agent| agent.may_grant(IP, port, now))
    }
}
