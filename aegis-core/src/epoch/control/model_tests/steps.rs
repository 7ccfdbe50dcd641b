//! What can happen next.

use core::net::Ipv4Addr;
use std::collections::BTreeMap;
use std::sync::Arc;

use stateright::{Model, Property};

use super::canonical::{age, canonical};
use super::claims;
use super::world::{ADDRESS, Desk, Event, Host, Open, Pending, State, World, desk_now, machine_now};
use crate::epoch::Epoch;
use crate::epoch::control::{Agent, Controller, Record, Report, RouterReport};
use crate::net::PortRange;
use crate::time::Time;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Time passes on every clock except those of this machine, or of this controller.
    Tick {
        but: Option<Clock>,
    },
    /// A machine sends a report, in place of this one that is under way.
    Report {
        m: usize,
        place: usize,
    },
    /// A controller hears a report; its answer takes this place among those under way, or is lost.
    Hear {
        c: usize,
        m: usize,
        report: usize,
        place: Option<usize>,
    },
    /// A controller swaps the record.
    Swap {
        c: usize,
        place: Option<usize>,
    },
    /// A controller reads the record.
    Read {
        c: usize,
    },
    /// Time has passed for a controller.
    Turn {
        c: usize,
    },
    Retarget {
        c: usize,
        target: usize,
    },
    /// A controller starts anew.
    Reboot {
        c: usize,
    },
    Receive {
        m: usize,
        reply: usize,
    },
    /// A machine puts a layout in force.
    Apply {
        m: usize,
    },
    Open {
        m: usize,
        port: u16,
    },
    /// A connection ends; with holds, its port is held first.
    Close {
        m: usize,
        port: u16,
    },
    /// A machine goes down, and its connections with it.
    Crash {
        m: usize,
    },
    Start {
        m: usize,
    },
    /// What speaks for a machine starts anew; connections stay.
    NewAgent {
        m: usize,
    },
    /// The router tells a controller what it steers by, and steers by what comes back. That it may be late needs no step
    /// between: nobody sees the difference to a router that asks late.
    Ask {
        c: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Clock {
    Machine(usize),
    Controller(usize),
}

impl Model for World {
    type State = State;
    type Action = Step;

    /// A fleet at work: every machine has a tenure and has applied the first layout.
    fn init_states(&self) -> Vec<State> {
        let layout = self.layout(&self.setup.targets[0], Epoch::new(1));
        let store = Record::new(layout.clone());
        let meant = if self.setup.has_router {
            layout
                .cut()
                .granules()
                .map(|granule| vec![(Epoch::new(1), self.meant(&layout, granule))])
                .collect()
        } else {
            Vec::new()
        };
        let mut state = State {
            store,
            desks: Vec::new(),
            hosts: (0..self.setup.machines).map(|m| Arc::new(self.host(m, 0))).collect(),
            router: self.setup.has_router.then(|| Arc::new(layout)),
            meant,
            retargets: 0,
            crashes: 0,
            reboots: 0,
            missed: 0,
        };
        for c in 0..self.setup.controllers {
            let desk =
                Desk { controller: self.controller(&state.store, desk_now(c)), base: 0, pending: None };
            state.desks.push(Arc::new(desk));
        }
        for m in 0..self.setup.machines {
            let mut steps =
                vec![Step::Report { m, place: 0 }, Step::Hear { c: 0, m, report: 0, place: Some(0) }];
            steps.extend(self.setup.is_store_slow.then_some(Step::Swap { c: 0, place: Some(0) }));
            steps.extend([Step::Receive { m, reply: 0 }, Step::Apply { m }]);
            for step in steps {
                self.take(&mut state, step);
            }
            let host = Arc::make_mut(&mut state.hosts[m]);
            host.reports.clear();
            host.replies.clear();
        }
        for c in 1..self.setup.controllers {
            self.take(&mut state, Step::Read { c });
        }
        canonical(self, &mut state);
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let setup = &self.setup;
        if setup.has_time {
            steps.push(Step::Tick { but: None });
            if state.missed < setup.missed {
                let machines = (0..state.hosts.len()).map(Clock::Machine);
                let desks = (0..state.desks.len()).map(Clock::Controller);
                steps.extend(machines.chain(desks).map(|clock| Step::Tick { but: Some(clock) }));
            }
        }
        for (m, host) in state.hosts.iter().enumerate() {
            self.steps_of_machine(state, m, host, steps);
        }
        for (c, desk) in state.desks.iter().enumerate() {
            self.steps_of_controller(state, c, desk, steps);
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        self.take(&mut next, step);
        canonical(self, &mut next);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = claims::always();
        properties.extend(claims::sometimes());
        properties
    }
}

/// Places for a message among those under way: a free one, or that of another, which is lost then.
fn places(under_way: usize, in_flight: usize) -> core::ops::Range<usize> {
    if under_way < in_flight { under_way..under_way + 1 } else { 0..in_flight }
}

fn put<T: PartialEq>(messages: &mut Vec<T>, message: T, place: usize) {
    if messages.contains(&message) {
        return;
    }
    if place < messages.len() {
        messages[place] = message;
    } else {
        messages.push(message);
    }
}

impl World {
    fn host(&self, m: usize, boot: u64) -> Host {
        Host {
            agent: Some(self.agent(m, boot)),
            boot,
            offered: None,
            open: BTreeMap::new(),
            silent: 0,
            reports: Vec::new(),
            replies: Vec::new(),
        }
    }

    fn agent(&self, m: usize, boot: u64) -> Agent {
        let mut agent = Agent::new(self.ids[m].clone(), boot);
        agent.fault = self.setup.fault;
        agent
    }

    fn controller(&self, record: &Record, now: Time) -> Controller {
        let mut controller = Controller::new(self.settings.clone(), record.clone(), now);
        controller.fault = self.setup.fault;
        controller
    }

    fn steps_of_machine(&self, state: &State, m: usize, host: &Host, steps: &mut Vec<Step>) {
        let setup = &self.setup;
        let may_crash = state.crashes < setup.crashes;
        if host.agent.is_none() {
            steps.push(Step::Start { m });
            return;
        }
        steps.extend(places(host.reports.len(), setup.in_flight).map(|place| Step::Report { m, place }));
        steps.extend((0..host.replies.len()).map(|reply| Step::Receive { m, reply }));
        steps.extend(host.offered.is_some().then_some(Step::Apply { m }));
        for &port in setup.ports {
            if !host.open.contains_key(&port) && state.may_grant(m, port) {
                steps.push(Step::Open { m, port });
            }
        }
        steps.extend(host.open.keys().map(|port| Step::Close { m, port: *port }));
        if may_crash {
            steps.extend([Step::Crash { m }, Step::NewAgent { m }]);
        }
    }

    fn steps_of_controller(&self, state: &State, c: usize, desk: &Desk, steps: &mut Vec<Step>) {
        let setup = &self.setup;
        let places_of = |m: usize| {
            let under_way = state.hosts[m].replies.len();
            // One that is never delivered is as good as lost: it must be lost here only where it would push out another.
            let is_lost = (under_way >= setup.in_flight).then_some(None);
            places(under_way, setup.in_flight).map(Some).chain(is_lost)
        };
        if state.reboots < setup.reboots {
            steps.push(Step::Reboot { c });
        }
        if let Some(pending) = &desk.pending {
            match &pending.reply {
                Some(reply) => {
                    let m = self.ids.iter().position(|id| *id == reply.machine).unwrap();
                    steps.extend(places_of(m).map(|place| Step::Swap { c, place }));
                }
                None => steps.push(Step::Swap { c, place: None }),
            }
            return;
        }
        steps.push(Step::Turn { c });
        for (m, host) in state.hosts.iter().enumerate() {
            for report in 0..host.reports.len() {
                // The answer to one of a start before is of no use to anybody.
                if host.reports[report].boot < host.boot || host.agent.is_none() {
                    steps.push(Step::Hear { c, m, report, place: None });
                } else {
                    steps.extend(places_of(m).map(|place| Step::Hear { c, m, report, place }));
                }
            }
        }
        if state.retargets < setup.retargets {
            steps.extend((0..setup.targets.len()).map(|target| Step::Retarget { c, target }));
        }
        if desk.base != state.store.version() {
            steps.push(Step::Read { c });
        }
        if state.router.is_some() {
            steps.push(Step::Ask { c });
        }
    }

    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Tick { but } => {
                if but.is_some() {
                    state.missed += 1;
                    self.saw(Event::MissedTick);
                }
                age(self, state, but);
            }
            Step::Report { m, place } => self.send_report(state, m, place),
            Step::Hear { c, m, report, place } => {
                let report = state.hosts[m].reports[report].clone();
                if report.boot < state.hosts[m].boot {
                    self.saw(Event::OtherBoot);
                }
                let heard = Some((m, 0));
                self.call(state, c, place, |controller, now| match controller.report(&report, now) {
                    Ok(reply) => Pending { heard, reply: Some(reply), for_router: None },
                    Err(_) => Pending::default(),
                });
            }
            Step::Swap { c, place } => {
                if let Some(pending) = Arc::make_mut(&mut state.desks[c]).pending.take() {
                    self.swap(state, c, place, pending);
                }
            }
            Step::Read { c } => self.read(state, c),
            Step::Turn { c } => self.call(state, c, None, |controller, now| {
                controller.tick(now).unwrap();
                Pending::default()
            }),
            Step::Retarget { c, target } => {
                state.retargets += 1;
                self.call(state, c, None, |controller, now| {
                    let epoch = Epoch::new(controller.record().layout().epoch().get() + 1);
                    let target = self.layout(&self.setup.targets[target], epoch);
                    controller.retarget(&target, now).unwrap();
                    Pending::default()
                });
            }
            Step::Reboot { c } => {
                state.reboots += 1;
                let controller = self.controller(&state.store, desk_now(c));
                let base = state.store.version();
                state.desks[c] = Arc::new(Desk { controller, base, pending: None });
            }
            Step::Receive { m, reply } => {
                let host = Arc::make_mut(&mut state.hosts[m]);
                let Some(agent) = &mut host.agent else { return };
                if let Some(layout) = agent.receive(&host.replies[reply]) {
                    if self.setup.applies_late {
                        host.offered = Some(layout);
                    } else {
                        agent.applied(layout);
                    }
                }
            }
            Step::Apply { m } => {
                let host = Arc::make_mut(&mut state.hosts[m]);
                if let (Some(agent), Some(layout)) = (&mut host.agent, host.offered.take()) {
                    agent.applied(layout);
                }
            }
            Step::Open { m, port } => {
                let open = Open {
                    is_held: false,
                    is_given_up: false,
                    meant_since: self.meant_since(state, m, port),
                };
                Arc::make_mut(&mut state.hosts[m]).open.insert(port, open);
            }
            Step::Close { m, port } => {
                let open = &mut Arc::make_mut(&mut state.hosts[m]).open;
                match open.get_mut(&port) {
                    Some(open) if self.setup.holds && !open.is_held => open.is_held = true,
                    _ => drop(open.remove(&port)),
                }
            }
            Step::Crash { m } => {
                state.crashes += 1;
                let host = Arc::make_mut(&mut state.hosts[m]);
                (host.agent, host.offered) = (None, None);
                host.open.clear();
                host.replies.clear();
            }
            Step::Start { m } | Step::NewAgent { m } => {
                state.crashes += u8::from(matches!(step, Step::NewAgent { .. }));
                let host = Arc::make_mut(&mut state.hosts[m]);
                host.boot += 1;
                (host.agent, host.offered) = (Some(self.agent(m, host.boot)), None);
            }
            Step::Ask { c } => {
                let router = self.settings.routers.first().unwrap().clone();
                let epoch = state.router.as_ref().unwrap().epoch();
                self.call(state, c, None, |controller, now| {
                    let report = RouterReport { router, epoch };
                    let for_router = controller.router_report(&report, now).unwrap();
                    Pending { for_router, ..Pending::default() }
                });
            }
        }
    }

    fn send_report(&self, state: &mut State, m: usize, place: usize) {
        let now = machine_now(m);
        let host = Arc::make_mut(&mut state.hosts[m]);
        let Some(mut agent) = host.agent.clone() else { return };
        if let Some(layout) = host.offered.clone().filter(|_| self.setup.reports_too_early) {
            agent.applied(layout);
        }
        let open = &host.open;
        // Only who leaves is asked; elsewhere it would only make more states.
        let is_idle = open.is_empty() && self.setup.targets.iter().any(|target| target.without.is_some());
        let report: Report = agent.report(now, is_idle, |address: Ipv4Addr, range: PortRange| {
            assert_eq!(address, ADDRESS);
            open.range(range.lo()..=range.hi()).map(|(port, _)| *port).collect()
        });
        put(&mut host.reports, report, place);
    }

    /// A controller is called; if its record changes, that is swapped before anything is said.
    fn call(
        &self,
        state: &mut State,
        c: usize,
        place: Option<usize>,
        call: impl FnOnce(&mut Controller, Time) -> Pending,
    ) {
        let now = desk_now(c);
        let desk = Arc::make_mut(&mut state.desks[c]);
        let before = desk.controller.record().version();
        let pending = call(&mut desk.controller, now);
        if desk.controller.record().version() == before {
            self.say(state, place, pending);
        } else if self.setup.is_store_slow {
            desk.pending = Some(pending);
        } else {
            self.swap(state, c, place, pending);
        }
    }

    fn swap(&self, state: &mut State, c: usize, place: Option<usize>, pending: Pending) {
        let desk = &state.desks[c];
        if desk.base != state.store.version() {
            self.saw(Event::LostRace);
            self.read(state, c);
            return;
        }
        let record = desk.controller.record().clone();
        let old = core::mem::replace(&mut state.store, record);
        Arc::make_mut(&mut state.desks[c]).base = state.store.version();
        if let Some((m, ago)) = pending.heard {
            let host = Arc::make_mut(&mut state.hosts[m]);
            host.silent = host.silent.min(ago);
        }
        if old.layout() != state.store.layout() {
            self.note(state, old.layout());
        }
        self.say(state, place, pending);
    }

    fn read(&self, state: &mut State, c: usize) {
        let (now, store) = (desk_now(c), state.store.clone());
        let desk = Arc::make_mut(&mut state.desks[c]);
        desk.base = store.version();
        desk.controller.reload(store, now);
    }

    fn say(&self, state: &mut State, place: Option<usize>, pending: Pending) {
        if let (Some(reply), Some(place)) = (pending.reply, place) {
            let m = self.ids.iter().position(|id| *id == reply.machine).unwrap();
            put(&mut Arc::make_mut(&mut state.hosts[m]).replies, reply, place);
        }
        if let (Some(layout), Some(router)) = (pending.for_router, &mut state.router) {
            if layout.epoch() > router.epoch() {
                *router = layout;
            }
        }
    }
}
