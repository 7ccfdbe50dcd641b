//! Random stories of handovers, read from bytes: a test draws them, and the fuzz target `handover` searches them. Machines
//! and controllers with clocks of their own, messages that are late, lost or come twice, writes that hang, crashes.
//!
//! After every step: nothing is granted by two machines, or by one while it is open at another; what is open is routed to
//! where it is; the layout in force is one that can be read. When all is quiet, the layout in force is the last target.

mod checks;
mod parts;

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aegis_core::Result;
use aegis_core::epoch::control::{Agent, Controller, Record, Reply, Report, RouterReport, Settings};
use aegis_core::epoch::{Departure, Epoch, Layout};
use aegis_core::error::ErrorKind;
use aegis_core::id::MachineId;
use aegis_core::net::PortRange;
use aegis_core::time::Time;

use parts::{Input, address, build, machine_id, router_id};

/// Runs the story that `input` tells.
pub fn handover(input: &[u8]) {
    let mut input = Input(input);
    let mut world = World::new(&mut input);
    while let Some(operation) = input.next() {
        world.step(operation, &mut input);
        world.check();
    }
    world.become_quiet();
}

const MACHINES: usize = 5;
const ROUTERS: usize = 2;
/// Ports of a granule that are used: few, so that machines meet.
const PORTS: u16 = 2;

struct World {
    now: Time,
    granule_ports: u16,
    addresses: usize,
    settings: Settings,
    stored: Record,
    /// Where it shall go.
    target: Layout,
    controllers: Vec<Site>,
    machines: Vec<Machine>,
    routers: Vec<Epoch>,
    messages: Vec<Message>,
    boots: u64,
    /// When drains began.
    began: BTreeMap<(Ipv4Addr, u16, Epoch), Time>,
}

/// A controller, and what it may send when its write holds.
struct Site {
    ahead: Duration,
    controller: Controller,
    /// The version that its write must find.
    base: u64,
    outbox: Vec<Message>,
    steps: Vec<Step>,
    target: Option<Layout>,
}

/// A layout that a controller has made since it last wrote.
struct Step {
    at: Time,
    before: Arc<Layout>,
    after: Arc<Layout>,
    /// Who was dead for it.
    dead: BTreeSet<MachineId>,
}

struct Machine {
    id: MachineId,
    /// How far its clock is ahead.
    ahead: Duration,
    agent: Option<Agent>,
    received: Option<Arc<Layout>>,
    open: BTreeSet<(IpAddr, u16)>,
    /// Open, but it was called dead, and others do not wait for it.
    lost: BTreeSet<(IpAddr, u16)>,
}

#[derive(Clone)]
enum Message {
    Report(Report),
    Reply(Reply),
}

impl Machine {
    fn may_grant(&self, ip: IpAddr, port: u16, now: Time) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.may_grant(ip, port, now + self.ahead))
    }

    fn is_open(&self, place: &(IpAddr, u16)) -> bool {
        self.agent.is_some() && self.open.contains(place)
    }
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let granule_ports = [16_384, 8_192, 4_096][input.below(3)];
        let addresses = 1 + input.below(3);
        let fleet: Vec<usize> = (0..1 + input.below(MACHINES)).collect();
        let all: Vec<usize> = (0..addresses).collect();
        let first =
            build(granule_ports, &fleet, &all, None, Epoch::new(1), || Some(input.below(fleet.len())));
        let first = first.expect("a first layout");
        let settings = Settings {
            drain: Duration::from_secs(30),
            routers: (0..ROUTERS).map(router_id).collect(),
            routers_patience: Duration::from_secs(60),
            ..Settings::default()
        };
        let stored = Record::new(first.clone());
        let mut world = Self {
            now: Time::from_millis(1_000_000),
            granule_ports,
            addresses,
            settings,
            stored,
            target: first,
            controllers: Vec::new(),
            machines: Vec::new(),
            routers: vec![Epoch::new(0); ROUTERS],
            messages: Vec::new(),
            boots: 0,
            began: BTreeMap::new(),
        };
        world.controllers.extend([0, 777].map(|ahead| world.controller(Duration::from_secs(ahead))));
        for n in 0..MACHINES {
            let ahead = Duration::from_secs(100 * n as u64);
            let (open, lost) = (BTreeSet::new(), BTreeSet::new());
            world.machines.push(Machine {
                id: machine_id(n),
                ahead,
                agent: None,
                received: None,
                open,
                lost,
            });
            world.restart(n);
        }
        (0..MACHINES).for_each(|n| world.round_trip(0, n));
        world
    }

    fn controller(&self, ahead: Duration) -> Site {
        let controller = Controller::new(self.settings.clone(), self.stored.clone(), self.now + ahead);
        Site {
            ahead,
            controller,
            base: self.stored.version(),
            outbox: Vec::new(),
            steps: Vec::new(),
            target: None,
        }
    }

    fn restart(&mut self, n: usize) {
        self.boots += 1;
        let machine = &mut self.machines[n];
        machine.agent = Some(Agent::new(machine.id.clone(), self.boots));
        machine.received = None;
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        let n = input.below(MACHINES);
        let c = usize::from(operation >> 7);
        let is_slow = operation & 0x60 == 0x60;
        match operation % 32 {
            0..=5 => self.round_trip(c, n),
            6..=8 => {
                let report = self.report(n);
                self.messages.extend(report.map(Message::Report));
            }
            9..=12 => self.deliver(c, input),
            13 => {
                let machine = &mut self.machines[n];
                if let (Some(agent), Some(layout)) = (&mut machine.agent, machine.received.take()) {
                    agent.applied(layout);
                }
            }
            14..=17 => self.open(n, input),
            18 | 19 => {
                let open: Vec<_> = self.machines[n].open.iter().copied().collect();
                if let Some(place) = (!open.is_empty()).then(|| open[input.below(open.len())]) {
                    self.machines[n].open.remove(&place);
                    self.machines[n].lost.remove(&place);
                }
            }
            20..=22 => {
                self.now = self.now + Duration::from_secs([1, 2, 4, 9, 12, 30, 60, 120][input.below(8)]);
            }
            23 | 24 => self.retarget(c, input),
            25 => self.act(c, |controller, now| controller.tick(now).map(|()| None)),
            26 => self.router(c, n % ROUTERS),
            27 => self.write(c),
            28 => self.reload(c),
            29 => {
                // The host starts again, and nothing is left of what was open.
                let machine = &mut self.machines[n];
                (machine.agent, machine.received) = (None, None);
                (machine.open, machine.lost) = (BTreeSet::new(), BTreeSet::new());
                machine.ahead = Duration::from_secs(input.below(256) as u64);
            }
            30 => self.restart(n),
            _ => self.controllers[c] = self.controller(Duration::from_secs(input.below(256) as u64)),
        }
        if !is_slow {
            self.write(c);
        }
    }

    /// A controller reads the record again, and forgets what it has not written.
    fn reload(&mut self, c: usize) {
        let site = &mut self.controllers[c];
        (site.base, site.target) = (self.stored.version(), None);
        site.outbox.clear();
        site.steps.clear();
        site.controller.reload(self.stored.clone(), self.now + site.ahead);
    }

    /// What a machine would say now.
    fn report(&self, n: usize) -> Option<Report> {
        let machine = &self.machines[n];
        let busy = |address: Ipv4Addr, range: PortRange| {
            let here = |(ip, port): &&(IpAddr, u16)| *ip == IpAddr::V4(address) && range.contains(*port);
            machine.open.iter().filter(here).map(|(_, port)| *port).collect()
        };
        let agent = machine.agent.as_ref()?;
        Some(agent.report(self.now + machine.ahead, machine.open.is_empty(), busy))
    }

    /// Lets a controller do something. It may not send the answer before it is stored.
    fn act(&mut self, c: usize, act: impl FnOnce(&mut Controller, Time) -> Result<Option<Message>>) {
        let site = &mut self.controllers[c];
        let before = site.controller.clone();
        let dead = before.dead(self.now + site.ahead).cloned().collect();
        match act(&mut site.controller, self.now + site.ahead) {
            Ok(message) => {
                let (old, new) = (before.record().layout(), site.controller.record().layout());
                if old.epoch() != new.epoch() {
                    let (before, after) = (Arc::clone(old), Arc::clone(new));
                    site.steps.push(Step { at: self.now, before, after, dead });
                }
                site.outbox.extend(message);
            }
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::Bug, "{error}");
                assert!(site.controller == before, "an error has changed the controller: {error}");
            }
        }
    }

    /// A controller's write arrives where the record is compared and swapped.
    fn write(&mut self, c: usize) {
        let site = &mut self.controllers[c];
        let (outbox, target) = (core::mem::take(&mut site.outbox), site.target.take());
        if site.controller.record().version() != site.base {
            if self.stored.version() != site.base {
                self.reload(c);
                return;
            }
            let record = site.controller.record();
            let bytes = record.to_bytes();
            self.stored = Record::from_bytes(&bytes).expect("a record's bytes");
            assert!(self.stored == *record, "the record reads back as another");
            site.base = record.version();
            self.target = target.unwrap_or_else(|| self.target.clone());
            for step in core::mem::take(&mut site.steps) {
                self.check_deadlines(&step);
                self.lose(&step);
            }
        }
        self.messages.extend(outbox);
        let surplus = self.messages.len().saturating_sub(24);
        self.messages.drain(..surplus);
    }

    /// What was open at machines that were called dead is lost for them where somebody else has it now.
    fn lose(&mut self, Step { before, after: layout, dead, .. }: &Step) {
        for machine in &mut self.machines {
            let is_gone = layout.machine_index(&machine.id).is_none() && dead.contains(&machine.id);
            for (ip, port) in &machine.open {
                let IpAddr::V4(v4) = *ip else {
                    if is_gone {
                        machine.lost.insert((*ip, *port));
                    }
                    continue;
                };
                let granule = layout.cut().granule_of(*port).expect("a usable port");
                let has_died = layout.handovers().previous_of(v4, granule).is_some_and(|p| {
                    p.departure == Departure::Died && layout.machine_index(&machine.id) == Some(p.machine)
                });
                let was_behind = before.handovers().holdout_of(v4, *port).is_some();
                let is_behind = layout.handovers().holdout_of(v4, *port).is_some();
                if has_died || (was_behind && !is_behind && dead.contains(&machine.id)) {
                    machine.lost.insert((*ip, *port));
                }
            }
        }
    }

    fn deliver(&mut self, c: usize, input: &mut Input<'_>) {
        if self.messages.is_empty() {
            return;
        }
        let n = input.below(self.messages.len());
        // Half of them come again.
        let message = if input.below(2) == 0 { self.messages.remove(n) } else { self.messages[n].clone() };
        match message {
            Message::Report(report) => {
                self.act(c, |controller, now| controller.report(&report, now).map(Message::Reply).map(Some));
            }
            Message::Reply(reply) => {
                let machine = self.machines.iter_mut().find(|machine| machine.id == reply.machine);
                let machine = machine.expect("one of the machines");
                let newer = machine.agent.as_mut().and_then(|agent| agent.receive(&reply));
                machine.received = newer.or(machine.received.take());
            }
        }
    }

    /// A report, its answer, and what the answer says, at once.
    fn round_trip(&mut self, c: usize, n: usize) {
        let Some(report) = self.report(n) else { return };
        self.write(c);
        self.act(c, |controller, now| controller.report(&report, now).map(Message::Reply).map(Some));
        if self.controllers[c].outbox.is_empty() {
            return;
        }
        self.write(c);
        let machine = &mut self.machines[n];
        if let (Some(agent), Some(Message::Reply(reply))) = (&mut machine.agent, self.messages.last()) {
            if let Some(layout) = agent.receive(reply) {
                agent.applied(layout);
            }
        }
    }

    fn open(&mut self, n: usize, input: &mut Input<'_>) {
        let machine = &mut self.machines[n];
        let granules = 0x1_0000 / usize::from(self.granule_ports);
        let port = input.below(granules) as u16 * self.granule_ports + input.below(usize::from(PORTS)) as u16;
        let six = self.stored.layout().v6_addresses_of(&machine.id, 1).next();
        let place = match (input.below(4), six) {
            (0, Some(six)) => (six.into(), 80),
            _ => (address(input.below(self.addresses)).into(), port),
        };
        if machine.may_grant(place.0, place.1, self.now) {
            machine.open.insert(place);
        }
    }

    fn retarget(&mut self, c: usize, input: &mut Input<'_>) {
        let chosen = input.next().unwrap_or(0);
        let mut fleet: Vec<usize> = (0..MACHINES).filter(|m| chosen >> m & 1 == 1).collect();
        if fleet.is_empty() {
            fleet.push(0);
        }
        let addresses: Vec<usize> =
            (0..self.addresses).filter(|a| *a == 0 || chosen >> (5 + a) & 1 == 0).collect();
        let in_force = Arc::clone(self.controllers[c].controller.record().layout());
        let epoch = Epoch::new(in_force.epoch().get() + 1 + input.below(3) as u64);
        let owner = || {
            let n = input.below(fleet.len() + 1);
            fleet.get(n).copied()
        };
        let target = build(self.granule_ports, &fleet, &addresses, Some(&in_force), epoch, owner);
        let target = target.expect("a layout of a small fleet");
        self.act(c, |controller, now| controller.retarget(&target, now).map(|()| None));
        let site = &mut self.controllers[c];
        if site.controller.record().layout().epoch() >= epoch {
            site.target = Some(target);
        }
    }

    fn router(&mut self, c: usize, n: usize) {
        self.write(c);
        let report = RouterReport { router: router_id(n), epoch: self.routers[n] };
        let mut newer = None;
        self.act(c, |controller, now| {
            newer = controller.router_report(&report, now)?;
            Ok(None)
        });
        self.write(c);
        if let Some(layout) = newer.filter(|layout| layout.epoch() <= self.stored.layout().epoch()) {
            self.routers[n] = layout.epoch();
        }
    }
}
