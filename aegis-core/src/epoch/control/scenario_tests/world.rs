//! Machines, routers and controllers of a story, and the commands to them.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::epoch::control::{Agent, Busy, Controller, Record, Reply, Report, RouterReport, Settings};
use crate::epoch::layout::Row;
use crate::epoch::testing::World as Members;
use crate::epoch::{Departure, Epoch, Layout};
use crate::net::PortRange;
use crate::slices::{Cut, GranuleSize};
use crate::time::Time;

#[derive(Default)]
pub(super) struct World {
    fleet: Vec<(String, usize)>,
    settings: Settings,
    pub(super) now: Time,
    /// What is stored for controllers to agree on.
    stored: Option<Record>,
    controllers: BTreeMap<String, Controller>,
    pub(super) machines: BTreeMap<String, Machine>,
    routers: BTreeMap<String, Epoch>,
    messages: Vec<Message>,
    /// Reports whose effects are not stored yet.
    unwritten: Vec<(u64, Reply)>,
}

#[derive(Default)]
pub(super) struct Machine {
    boots: u64,
    /// None while it is crashed.
    pub(super) agent: Option<Agent>,
    received: Option<Arc<Layout>>,
    is_cut: bool,
    /// What is live, and what is held.
    pub(super) open: BTreeMap<(IpAddr, u16), &'static str>,
}

#[derive(Clone)]
enum Message {
    Report(Report),
    Reply(Reply),
}

impl World {
    pub(super) fn layout(&self) -> &Arc<Layout> {
        self.stored.as_ref().expect("`start` comes first").layout()
    }

    /// Does one command; what it prints ends with a line break, if it prints anything.
    pub(super) fn command(&mut self, line: &str) -> String {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let mut by = "c1";
        if words[0] == "on" {
            by = words[1];
            words.drain(..2);
        }
        let before = self.stored.as_ref().map(|record| record.layout().epoch());
        let args = &words[1..];
        let mut printed = match words[0] {
            "fleet" => self.fleet(args),
            "routers" => {
                self.routers = args.iter().map(|r| ((*r).to_owned(), Epoch::new(0))).collect();
                self.settings.routers = args.iter().map(|r| r.parse().unwrap()).collect();
                self.settings.routers_patience = Duration::from_secs(300);
                String::new()
            }
            "start" => self.start(args),
            "retarget" => self.retarget(by, args),
            "time" => {
                let seconds = args[0].trim_start_matches('+').trim_end_matches('s').parse().unwrap();
                self.now = self.now + Duration::from_secs(seconds);
                format!("{}\n", self.now)
            }
            "tick" => self.change(by, |controller, now| controller.tick(now)).1,
            "report" => args.iter().map(|machine| self.report(by, machine)).collect(),
            "all" => self.everybody(by),
            "router" => args.iter().map(|router| self.router(by, router)).collect(),
            "send" => {
                let Some(report) = self.made(args[0]) else { return "it does not run\n".into() };
                self.message(Message::Report(report))
            }
            "begin" => self.begin(by, args[0]),
            "write" => self.write(by),
            "deliver" => self.deliver(by, args),
            "apply" => self.apply(args[0]),
            "forge" => self.forge(by, args),
            "open" | "hold" | "close" => self.connection(words[0], args),
            "crash" => {
                let machine = self.machines.get_mut(args[0]).unwrap();
                (machine.agent, machine.received, machine.open) = (None, None, BTreeMap::new());
                String::new()
            }
            "restart" => {
                let machine = self.machines.entry(args[0].to_owned()).or_default();
                machine.boots += 1;
                machine.agent = Some(Agent::new(args[0].parse().unwrap(), machine.boots));
                machine.received = None;
                String::new()
            }
            "cut" | "heal" => {
                self.machines.get_mut(args[0]).unwrap().is_cut = words[0] == "cut";
                String::new()
            }
            "controller" | "reload" => {
                let (record, now) = (self.stored.clone().unwrap(), self.now);
                match self.controllers.get_mut(args[0]) {
                    Some(known) if words[0] == "reload" => known.reload(record, now),
                    _ => {
                        let new = Controller::new(self.settings.clone(), record, now);
                        self.controllers.insert(args[0].to_owned(), new);
                    }
                }
                String::new()
            }
            "owner" => self.owner(args[0]),
            "may-grant" => self.may_grant(args[0]),
            "dead" => {
                let dead: Vec<_> = self.controllers[by].dead(self.now).map(ToString::to_string).collect();
                format!("dead: {}\n", dead.join(" "))
            }
            "show" => self.show(),
            other => panic!("there is no command {other:?}"),
        };
        self.lose();
        let after = self.stored.as_ref().map(|record| record.layout().epoch());
        if let (Some(before), Some(after), true) = (before, after, words[0] != "show") {
            if before != after {
                printed += &format!("in force: epoch {after}\n");
            }
        }
        printed
    }

    fn fleet(&mut self, args: &[&str]) -> String {
        self.fleet.clear();
        for arg in args {
            let (name, site) = arg.split_once("@d").unwrap_or((arg, "0"));
            self.fleet.push((name.to_owned(), site.parse().unwrap()));
            if self.stored.is_some() && !self.machines.contains_key(name) {
                self.command(&format!("restart {name}"));
            }
        }
        String::new()
    }

    /// The layout that `args` say, with members and their numbers as they are built.
    fn built(&self, previous: Option<&Layout>, args: &[&str]) -> Layout {
        let sites = self.fleet.iter().map(|(_, site)| site + 1).max().unwrap();
        let mut members = Members::new(&vec![&[][..]; sites]).hold("2001:db8::/64", &[]);
        let mut machine = Members::new(&[&[1]]).machines.remove(0);
        for (name, site) in &self.fleet {
            machine.id = name.parse().unwrap();
            machine.data_center = members.data_centers[*site].id.clone();
            members.machines.push(machine.clone());
        }
        if args.contains(&"finer") {
            let cut = Cut::new(GranuleSize::new(1024).unwrap(), PortRange::ALL, ["0-2047".parse().unwrap()]);
            members.policy.cut = cut.unwrap();
        }
        let previous = previous.filter(|_| !args.contains(&"renumbered"));
        let mut epoch = previous.map_or(1, |p| p.epoch().get() + 1);
        for arg in args {
            if let Some(wanted) = arg.strip_prefix("epoch=") {
                epoch = wanted.parse().unwrap();
            }
        }
        let previous = previous.filter(|p| p.epoch().get() < epoch);
        let layout = members.build_after(previous, epoch).unwrap();
        let mut parts = layout.parts();
        let granules = usize::from(layout.cut().granule().granules_per_address());
        for arg in args {
            if let Ok(address) = arg.parse::<Ipv4Addr>() {
                parts.rows.push(Row { address, data_centers: Vec::new(), owners: vec![None; granules] });
            } else if let Some((name, runs)) = arg.split_once(':') {
                let index = layout.machine_index(&name.parse().unwrap());
                assert!(index.is_some(), "{name} is not in the fleet");
                for run in runs.split(',') {
                    let (lo, hi) = run.split_once('-').unwrap_or((run, run));
                    let run = lo.parse::<usize>().unwrap()..=hi.parse().unwrap();
                    parts.rows.last_mut().unwrap().owners[run].fill(index);
                }
            }
        }
        for row in &mut parts.rows {
            let sites = row.owners.iter().flatten().map(|owner| parts.machines[owner.get()].data_center);
            row.data_centers = sites.collect::<BTreeSet<_>>().into_iter().collect();
        }
        Layout::try_from(parts).unwrap()
    }

    fn start(&mut self, args: &[&str]) -> String {
        self.stored = Some(Record::new(self.built(None, args)));
        self.command("controller c1");
        for (name, _) in self.fleet.clone() {
            self.command(&format!("restart {name}"));
        }
        String::new()
    }

    fn retarget(&mut self, by: &str, args: &[&str]) -> String {
        let target = self.built(Some(self.controllers[by].record().layout()), args);
        self.change(by, |controller, now| controller.retarget(&target, now)).1
    }

    /// A controller does something and stores it: did that hold?
    fn change<T>(
        &mut self,
        by: &str,
        act: impl FnOnce(&mut Controller, Time) -> crate::Result<T>,
    ) -> (Option<T>, String) {
        let controller = self.controllers.get_mut(by).unwrap();
        let before = controller.clone();
        match act(controller, self.now) {
            Err(error) => {
                assert!(*controller == before, "an error has changed the controller: {error}");
                (None, format!("{by}: error: {error}\n"))
            }
            Ok(answer) => {
                let lost = self.store(by, before.record().version());
                (lost.is_empty().then_some(answer), lost)
            }
        }
    }

    /// Compare and swap; what is printed if another was faster.
    fn store(&mut self, by: &str, before: u64) -> String {
        let controller = self.controllers.get_mut(by).unwrap();
        if controller.record().version() == before {
            return String::new();
        }
        let stored = self.stored.as_mut().unwrap();
        if stored.version() == before {
            // As it comes back from where it is kept.
            *stored = Record::from_bytes(&controller.record().to_bytes()).unwrap();
            return String::new();
        }
        controller.reload(stored.clone(), self.now);
        format!("{by}: another controller was faster\n")
    }

    /// The report that a machine would send now.
    fn made(&self, name: &str) -> Option<Report> {
        let machine = &self.machines[name];
        let busy = |address: Ipv4Addr, range: PortRange| {
            let here = |(ip, port): &&(IpAddr, u16)| *ip == IpAddr::V4(address) && range.contains(*port);
            machine.open.keys().filter(here).map(|(_, port)| *port).collect()
        };
        machine.agent.as_ref().map(|agent| agent.report(self.now, machine.open.is_empty(), busy))
    }

    fn report(&mut self, by: &str, name: &str) -> String {
        let Some(report) = self.made(name) else { return format!("{name} does not run\n") };
        if self.machines[name].is_cut {
            return format!("{name} reaches nobody\n");
        }
        let (reply, mut printed) = self.change(by, |controller, now| controller.report(&report, now));
        if let Some(reply) = reply {
            self.receive(name, &reply);
            if self.machines[name].received.is_some() {
                printed += &self.apply(name);
            }
        }
        printed
    }

    fn everybody(&mut self, by: &str) -> String {
        let mut printed = String::new();
        for _ in 0..3 {
            let routers: Vec<_> = self.routers.keys().cloned().collect();
            routers.iter().for_each(|router| drop(self.router(by, router)));
            let names = self.machines.keys().cloned();
            for name in names
                .filter(|name| self.layout().machine_index(&name.parse().unwrap()).is_some())
                .collect::<Vec<_>>()
            {
                let said = self.report(by, &name);
                if said.contains("error") || said.contains("faster") {
                    printed += &said;
                }
            }
        }
        printed
    }

    fn router(&mut self, by: &str, name: &str) -> String {
        let epoch = self.routers.get(name).copied().unwrap_or_default();
        let report = RouterReport { router: name.parse().unwrap(), epoch };
        let (newer, printed) = self.change(by, |controller, now| controller.router_report(&report, now));
        let Some(layout) = newer.flatten() else { return printed };
        self.routers.insert(name.to_owned(), layout.epoch());
        format!("{printed}{name} steers by epoch {}\n", layout.epoch())
    }

    fn message(&mut self, message: Message) -> String {
        let n = self.messages.len() + 1;
        let printed = match &message {
            Message::Report(report) => {
                let epoch = report.epoch.map_or("none".to_owned(), |epoch| epoch.to_string());
                let mut line = format!("{n}: {} has epoch {epoch}", report.machine);
                for Busy { address, granule, since, ports } in &report.busy {
                    line += &format!("; {address} {granule} since {since}: {ports:?} open");
                }
                line + "\n"
            }
            Message::Reply(reply) => {
                let layout = if reply.layout.is_some() { "the layout of" } else { "tenure under" };
                format!("{n}: to {}: {layout} epoch {}\n", reply.machine, reply.epoch)
            }
        };
        self.messages.push(message);
        printed
    }

    fn begin(&mut self, by: &str, name: &str) -> String {
        let report = self.made(name).unwrap();
        let controller = self.controllers.get_mut(by).unwrap();
        let before = controller.record().version();
        self.unwritten.push((before, controller.report(&report, self.now).unwrap()));
        String::new()
    }

    fn write(&mut self, by: &str) -> String {
        let (before, reply) = self.unwritten.remove(0);
        let lost = self.store(by, before);
        if lost.is_empty() { self.message(Message::Reply(reply)) } else { lost }
    }

    fn deliver(&mut self, by: &str, args: &[&str]) -> String {
        match self.messages[args[0].parse::<usize>().unwrap() - 1].clone() {
            Message::Report(report) => {
                let (reply, printed) = self.change(by, |controller, now| controller.report(&report, now));
                printed + &reply.map_or_else(String::new, |reply| self.message(Message::Reply(reply)))
            }
            Message::Reply(reply) => {
                let to = args.get(1).copied().unwrap_or(reply.machine.as_str()).to_owned();
                self.receive(&to, &reply)
            }
        }
    }

    fn receive(&mut self, name: &str, reply: &Reply) -> String {
        let machine = self.machines.get_mut(name).unwrap();
        let Some(agent) = &mut machine.agent else { return format!("{name} does not run\n") };
        let before = agent.clone();
        let newer = agent.receive(reply);
        if *agent == before && newer.is_none() {
            return format!("{name} ignores it\n");
        }
        machine.received = newer;
        String::new()
    }

    fn apply(&mut self, name: &str) -> String {
        let machine = self.machines.get_mut(name).unwrap();
        let (Some(agent), Some(layout)) = (&mut machine.agent, machine.received.take()) else {
            return format!("{name} has nothing to apply\n");
        };
        let epoch = layout.epoch();
        agent.applied(layout);
        format!("{name} applies epoch {epoch}\n")
    }

    fn forge(&mut self, by: &str, args: &[&str]) -> String {
        let agent = self.machines.get(args[0]).and_then(|machine| machine.agent.clone());
        let agent = agent.unwrap_or_else(|| Agent::new(args[0].parse().unwrap(), 1));
        let mut report = agent.report(self.now, false, |_, _| Vec::new());
        let value = |key: &str| args.iter().find_map(|arg| arg.strip_prefix(key)).unwrap_or("0");
        if args.len() > 1 {
            report.busy = vec![Busy {
                address: Ipv4Addr::new(192, 0, 2, 1),
                granule: value("granule=").parse().unwrap(),
                since: value("since=").parse().unwrap(),
                ports: value("ports=").split(',').filter_map(|port| port.parse().ok()).collect(),
            }];
        }
        if let Some(epoch) = args.iter().find_map(|arg| arg.strip_prefix("epoch=")) {
            report.epoch = Some(epoch.parse().unwrap());
        }
        self.change(by, |controller, now| controller.report(&report, now).map(drop)).1
    }

    fn connection(&mut self, what: &str, args: &[&str]) -> String {
        let name = args[0];
        let at = match args[1].strip_prefix("v6:") {
            None => self.place(args[1]),
            Some(port) => {
                let id = name.parse().unwrap();
                let mine = self.layout().v6_addresses_of(&id, 1).next();
                (mine.unwrap().into(), port.parse().unwrap())
            }
        };
        let now = self.now;
        let machine = self.machines.get_mut(name).unwrap();
        match what {
            "close" => drop(machine.open.remove(&at).expect("it is open")),
            "hold" => *machine.open.get_mut(&at).expect("it is open") = "held",
            _ => {
                if !machine.agent.as_ref().is_some_and(|agent| agent.may_grant(at.0, at.1, now)) {
                    return format!("{name} may not\n");
                }
                machine.open.insert(at, "live");
            }
        }
        String::new()
    }

    /// What is open at a machine that was called dead, though it runs, is lost.
    fn lose(&mut self) {
        let Some(record) = &self.stored else { return };
        let layout = record.layout();
        for (name, machine) in &mut self.machines {
            let index = layout.machine_index(&name.parse().unwrap());
            for ((ip, port), how) in &mut machine.open {
                let IpAddr::V4(ip) = ip else { continue };
                let previous = layout.handovers().previous_of(*ip, port >> 11);
                if previous.is_some_and(|p| p.departure == Departure::Died && Some(p.machine) == index) {
                    *how = "lost";
                }
            }
        }
    }

    /// An address and a port.
    pub(super) fn place(&self, text: &str) -> (IpAddr, u16) {
        let at: core::net::SocketAddr = text.parse().unwrap();
        (at.ip(), at.port())
    }

    /// Nothing is granted by two, nor by one while it is open at another that was not called
    /// dead.
    pub(super) fn check(&self, line: &str) {
        let Some(record) = &self.stored else { return };
        let mut places: BTreeSet<(IpAddr, u16)> =
            self.machines.values().flat_map(|machine| machine.open.keys().copied()).collect();
        for row in record.layout().rows() {
            places.extend((0..32_u16).map(|granule| (row.address().into(), granule << 11 | 7)));
        }
        let is_open = |m: &Machine, at: &(IpAddr, u16)| m.open.get(at).is_some_and(|how| *how != "lost");
        for (ip, port) in places {
            let granting = self.granting(ip, port);
            assert!(granting.len() < 2, "after {line:?}: {granting:?} may grant {ip} {port}");
            let open = self.machines.iter().filter(|(_, m)| is_open(m, &(ip, port)));
            for (name, _) in open {
                let others = granting.iter().any(|other| other != name);
                assert!(!others, "after {line:?}: {granting:?} may grant {ip} {port}, open at {name}");
            }
        }
    }

    /// Who may grant.
    pub(super) fn granting(&self, ip: IpAddr, port: u16) -> Vec<&str> {
        let may = |m: &Machine| m.agent.as_ref().is_some_and(|agent| agent.may_grant(ip, port, self.now));
        self.machines.iter().filter(|(_, m)| may(m)).map(|(name, _)| name.as_str()).collect()
    }
}
