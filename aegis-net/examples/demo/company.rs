//! The processes of the demo, led by the controller: reports and layouts go to and fro while they work.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use aegis_core::epoch::control::{Agent, Controller, Record, Report, RouterReport, Settings};
use aegis_core::epoch::{Epoch, Layout};
use aegis_core::fleet_file::FleetFile;
use aegis_core::id::{MachineId, RouterId};
use aegis_core::time::Time;
use aegis_net::clock;

use crate::Result;
use crate::messages::{Answer, Ask, Order, Seen};
use crate::process::{Heard, Process};
use crate::stage::Stage;

/// After this long the demo gives up: something hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// The controller looks at the time so often.
const PULSE: Duration = Duration::from_millis(20);
/// A machine may grant for so long after a report. With the margin it is what a dead machine's ports wait for.
const TENURE: Duration = Duration::from_millis(900);
const MARGIN: Duration = Duration::from_millis(100);
/// What is still open after this long stays behind.
pub(crate) const DRAIN: Duration = Duration::from_secs(1);

pub(crate) struct Company {
    /// The fleet as it shall be.
    pub(crate) file: FleetFile,
    pub(crate) violations: Vec<String>,
    controller: Controller,
    /// Of the last word that was heard.
    now: Time,
    last_pulse: Time,
    machines: BTreeMap<MachineId, Player>,
    /// The machines of the fleet that get no process: they say that nothing is open.
    understudies: Vec<Agent>,
    origins: Vec<Server>,
    /// The layout that the origins have.
    steered: Epoch,
    heard: Receiver<Heard<Answer>>,
    speaker: Sender<Heard<Answer>>,
    deadline: Instant,
    bundles: PathBuf,
    zones: [String; 2],
}

struct Player {
    process: Process,
    /// The layout that it has applied.
    applied: Option<Epoch>,
    /// The controller took it for dead.
    is_missed: bool,
}

/// An origin process; to the controller it is a router.
struct Server {
    name: String,
    router: RouterId,
    process: Process,
    heard: Receiver<Heard<Seen>>,
    address: SocketAddr,
}

impl Server {
    fn next(&self, deadline: Instant) -> Result<Seen> {
        let left = deadline.saturating_duration_since(Instant::now());
        let heard = self.heard.recv_timeout(left).map_err(|_| format!("{} does not answer", self.name))?;
        heard.message.ok_or_else(|| format!("the process of {} has ended", self.name).into())
    }
}

impl Company {
    /// Starts all processes; files that they need go into `out`.
    pub(crate) fn start(stage: &Stage, out: &Path) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        let bundles = out.join("bundles");
        std::fs::create_dir_all(&bundles)
            .map_err(|error| format!("cannot make the folder {} (--out): {error}", bundles.display()))?;
        let layout = out.join("layout");
        std::fs::write(&layout, stage.layout.to_bytes())?;
        let layout = layout.to_str().ok_or("the folder's name is not UTF-8")?;
        let mut origins = Vec::new();
        for (n, server) in (1..).zip(&stage.servers) {
            let protocol = server.protocol.to_string();
            let (speaker, heard) = mpsc::channel();
            let process = Process::start(&server.name, &["--as-origin", &protocol, layout], speaker)?;
            let (name, router) = (server.name.clone(), format!("origin-{n}").parse()?);
            let mut origin = Server { name, router, process, heard, address: ([0; 4], 0).into() };
            origin.address = origin.next(deadline)?.address.expect("an origin says where it listens");
            origins.push(origin);
        }
        let settings = Settings {
            tenure: TENURE,
            margin: MARGIN,
            drain: DRAIN,
            routers: origins.iter().map(|origin| origin.router.clone()).collect(),
            ..Settings::default()
        };
        let now = clock::now();
        let (speaker, heard) = mpsc::channel();
        let plays = |id: &MachineId| stage.cast.iter().any(|actor| actor.id == *id);
        let others = stage.layout.machines().iter().filter(|machine| !plays(&machine.id));
        let mut company = Self {
            file: stage.file.clone(),
            violations: Vec::new(),
            controller: Controller::new(settings, Record::new(stage.layout.clone()), now),
            now,
            last_pulse: now,
            machines: BTreeMap::new(),
            understudies: others.map(|machine| Agent::new(machine.id.clone(), 1)).collect(),
            origins,
            steered: stage.layout.epoch(),
            heard,
            speaker,
            deadline,
            bundles,
            zones: [stage.zone.to_string(), stage.udp_zone.to_string()],
        };
        for actor in &stage.cast {
            company.join(&actor.id)?;
        }
        company.wait("have a tenure", |company| company.is_settled())?;
        Ok(company)
    }

    /// Starts the process of a machine that is in the layout.
    pub(crate) fn join(&mut self, id: &MachineId) -> Result<()> {
        let bundle = self.bundles.join(id.as_str());
        std::fs::write(&bundle, self.file.bundle(id, self.layout())?.to_bytes())?;
        let bundle = bundle.to_str().ok_or("the folder's name is not UTF-8")?;
        let arguments = ["--as-machine", bundle, &self.zones[0], &self.zones[1]];
        let process = Process::start(id.as_str(), &arguments, self.speaker.clone())?;
        self.machines.insert(id.clone(), Player { process, applied: None, is_missed: false });
        Ok(())
    }

    /// Ends the process of a machine with `SIGKILL`.
    pub(crate) fn kill(&mut self, id: &MachineId) {
        self.machines.remove(id);
    }

    /// The layout in force.
    pub(crate) fn layout(&self) -> &Arc<Layout> {
        self.controller.record().layout()
    }

    /// Who plays.
    pub(crate) fn players(&self) -> Vec<MachineId> {
        self.machines.keys().cloned().collect()
    }

    /// Name and address of every origin.
    pub(crate) fn origins(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.origins.iter().map(|origin| (origin.name.as_str(), origin.address))
    }

    /// Is that machine dead for the controller?
    pub(crate) fn is_dead(&self, id: &MachineId) -> bool {
        self.controller.dead(self.now).any(|dead| dead == id)
    }

    /// Does nothing drain, and has every process the layout in force?
    pub(crate) fn is_settled(&self) -> bool {
        self.layout().handovers().draining().is_empty() && self.all_have(self.layout().epoch())
    }

    /// Has every process that layout or a later one?
    pub(crate) fn all_have(&self, epoch: Epoch) -> bool {
        self.machines.values().all(|player| player.applied >= Some(epoch))
    }

    /// The fleet shall be that of `file` from now on: the layout that it goes towards.
    pub(crate) fn retarget(&mut self, file: FleetFile) -> Result<Layout> {
        let in_force = Arc::clone(self.layout());
        let target = file.layout(Some(&in_force), Epoch::new(in_force.epoch().get() + 1))?;
        self.file = file;
        self.controller.retarget(&target, self.now)?;
        self.steer()?;
        Ok(target)
    }

    /// Orders something, and waits until all have answered.
    pub(crate) fn order(
        &mut self,
        to: &[MachineId],
        order: &dyn Fn() -> Order,
        progress: &mut dyn FnMut(u32),
    ) -> Result<Vec<(MachineId, Answer)>> {
        for id in to {
            self.machines[id].process.tell(&order())?;
        }
        let mut answers = BTreeMap::new();
        while answers.len() < to.len() {
            match self.go_on("answer")? {
                Some((_, Answer::Progress(more))) => progress(more),
                Some((id, answer)) => drop(answers.insert(id, answer)),
                None => {}
            }
        }
        Ok(answers.into_iter().collect())
    }

    /// Lets the fleet go on until something has come about.
    pub(crate) fn wait(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        while !is_so(self) {
            if let Some((id, answer)) = self.go_on(what)? {
                return Err(format!("{id} answers and was not asked: {answer:?}").into());
            }
        }
        Ok(())
    }

    /// Asks every origin the same.
    pub(crate) fn ask(&self, ask: &Ask) -> Result<Vec<Seen>> {
        for origin in &self.origins {
            origin.process.tell(ask)?;
        }
        self.origins.iter().map(|origin| origin.next(self.deadline)).collect()
    }

    /// Hears one report, or lets a moment pass. What comes back is another answer.
    fn go_on(&mut self, what: &str) -> Result<Option<(MachineId, Answer)>> {
        if Instant::now() > self.deadline {
            return Err(format!("the machines do not {what} within {} s", LIMIT.as_secs()).into());
        }
        let heard = match self.heard.recv_timeout(PULSE) {
            Ok(heard) => heard,
            Err(RecvTimeoutError::Disconnected) => unreachable!("a sender is here"),
            Err(RecvTimeoutError::Timeout) => {
                self.now = self.now.max(clock::now());
                self.pulse()?;
                return Ok(None);
            }
        };
        self.now = self.now.max(heard.at);
        let id: MachineId = heard.from.parse()?;
        match heard.message {
            // Of a process that was killed, or has left.
            _ if !self.machines.contains_key(&id) => Ok(None),
            None => Err(format!("the process of {id} has ended").into()),
            Some(Answer::Failed(error)) => Err(format!("{id}: {error}").into()),
            Some(Answer::Report(report)) => {
                self.hear(&report)?;
                self.pulse()?;
                Ok(None)
            }
            Some(answer) => Ok(Some((id, answer))),
        }
    }

    /// A machine reports. It gets a tenure, and what is new.
    fn hear(&mut self, report: &Report) -> Result<()> {
        let Some(player) = self.machines.get_mut(&report.machine) else { return Ok(()) };
        player.applied = report.epoch;
        if self.layout().machine_index(&report.machine).is_none() {
            return Ok(());
        }
        let reply = self.controller.report(report, self.now)?;
        self.steer()?;
        let bundle = match &reply.layout {
            // It has left, and with that report nothing of it was open.
            Some(layout) if layout.machine_index(&report.machine).is_none() => return Ok(()),
            Some(layout) => Some(self.file.bundle(&report.machine, layout)?.to_bytes()),
            None => None,
        };
        self.machines[&report.machine].process.tell(&Order::Heard(reply, bundle))
    }

    /// Time has passed.
    fn pulse(&mut self) -> Result<()> {
        if self.now.since(self.last_pulse) < PULSE {
            return Ok(());
        }
        self.last_pulse = self.now;
        for agent in &mut self.understudies {
            if self.controller.record().layout().machine_index(agent.machine()).is_some() {
                let report = agent.report(self.now, true, |_, _| Vec::new());
                let reply = self.controller.report(&report, self.now)?;
                if let Some(layout) = agent.receive(&reply) {
                    agent.applied(layout);
                }
            }
        }
        self.controller.tick(self.now)?;
        self.steer()?;
        for id in self.controller.dead(self.now) {
            if let Some(player) = self.machines.get_mut(id)
                && player.applied.is_some()
                && !core::mem::replace(&mut player.is_missed, true)
            {
                self.violations.push(format!(
                    "{id} was taken for dead and is not: this host was too slow for a tenure of {} ms",
                    TENURE.as_millis()
                ));
            }
        }
        Ok(())
    }

    /// The origins get the layout in force. Before the machines do: a router that hears of a new owner late costs a detour,
    /// and the demo wants to see every look-up right.
    fn steer(&mut self) -> Result<()> {
        while self.steered != self.layout().epoch() {
            let layout = Arc::clone(self.layout());
            self.steered = layout.epoch();
            let seen = self.ask(&Ask::Steer(layout.to_bytes()))?;
            for (n, seen) in seen.iter().enumerate() {
                let report = RouterReport { router: self.origins[n].router.clone(), epoch: seen.epoch };
                self.controller.router_report(&report, self.now)?;
            }
        }
        Ok(())
    }
}
