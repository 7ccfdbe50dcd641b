//! The acts in which the fleet changes while connections are open: a machine joins, one is drained, one is killed.
//!
//! After each, everything that is open must answer, and belong to who opened it.

use std::net::SocketAddr;
use std::time::Instant;

use aegis_core::epoch::{Epoch, Layout};
use aegis_core::fleet::{Fleet, Machine};
use aegis_core::fleet_file::FleetFile;
use aegis_core::id::MachineId;
use aegis_net::clock;

use crate::Result;
use crate::company::Company;
use crate::machine::timestamps;
use crate::messages::{Answer, Ask, Echoed, Fill, Filled, Order, Ports};
use crate::stage::Stage;

/// One connection in so many stays open while ports change hands.
const KEEP: u16 = 8;

pub(crate) struct Played {
    pub(crate) opened: u32,
    /// Machines that were not there in the beginning.
    pub(crate) joined: usize,
}

/// Plays them; `origins` are those for TCP.
pub(crate) fn play(
    stage: &Stage,
    company: &mut Company,
    origins: [SocketAddr; 2],
    started: Instant,
) -> Result<Played> {
    let mut acts = Acts { stage, company, origins, started, played: Played { opened: 0, joined: 0 } };
    acts.make_room()?;
    match with_one_more(&acts.company.file, &stage.cast[0].id) {
        Ok((file, new)) => acts.join(file, &new)?,
        Err(reason) => println!("6 a machine joins: left out, {reason}"),
    }
    match acts.removable().first().cloned() {
        Some(leaver) => acts.drain(&leaver)?,
        None => println!("7 a machine is drained: left out, {NONE_TO_SPARE}"),
    }
    match acts.removable().last().cloned() {
        Some(victim) => acts.kill(&victim)?,
        None => println!("8 a machine is killed: left out, {NONE_TO_SPARE}"),
    }
    Ok(acts.played)
}

const NONE_TO_SPARE: &str = "each machine that plays is the only one of its data center, or has no ports";

struct Acts<'a> {
    stage: &'a Stage,
    company: &'a mut Company,
    origins: [SocketAddr; 2],
    started: Instant,
    played: Played,
}

impl Acts<'_> {
    /// Most connections close, or nearly every port that moves would stay behind.
    fn make_room(&mut self) -> Result<()> {
        let players = self.company.players();
        let mut closed = 0;
        for (id, answer) in self.order(&players, &|| Order::Thin(KEEP))? {
            closed += released(&id, &answer)?;
        }
        let elapsed = self.started.elapsed().as_secs_f64();
        println!("Of {KEEP} connections one stays open: {closed} close, {elapsed:.1} s");
        Ok(())
    }

    /// `new` is added, in the data center of the first one.
    fn join(&mut self, file: FleetFile, new: &MachineId) -> Result<()> {
        let title = format!("6 {new} joins");
        let before = self.company.layout().epoch();
        let moves = self.go_towards(file)?;
        self.company.join(new)?;
        self.played.joined += 1;
        self.company.wait("hand over to a new machine", Company::is_settled)?;
        let behind = self.company.layout().handovers().holdouts().len();
        let opened = match self.ports_of(new).is_empty() {
            true => 0,
            false => self.fill(&title, core::slice::from_ref(new), self.origins[0], &Vec::new())?.opened,
        };
        let open = self.verify(&title)?;
        let what = format!(
            "{moves} granules move, {behind} ports stay behind, {opened} connections from the new share; {open}"
        );
        self.say(&title, before, &what);
        Ok(())
    }

    /// A machine is taken out of the fleet, and may finish what it has.
    fn drain(&mut self, leaver: &MachineId) -> Result<()> {
        let title = format!("7 {leaver} is drained");
        let before = self.company.layout().epoch();
        let formerly = self.ports_of(leaver);
        let moves = self.go_towards(without(&self.company.file, leaver)?)?;
        self.company.wait("hand over from a machine that is drained", Company::is_settled)?;
        let behind = self.left_with(leaver);
        let others: Vec<_> = self.company.players().into_iter().filter(|id| id != leaver).collect();
        let filled = self.fill(&title, &others, self.origins[0], &formerly)?;
        if filled.watched == 0 && others.iter().any(|id| self.inherits(id, &formerly)) {
            self.violation(format!("{title}: no connection of others is from its former ports"));
        }
        let open = self.verify(&title)?;
        let mut closed = 0;
        for (id, answer) in self.order(core::slice::from_ref(leaver), &|| Order::CloseAll)? {
            closed += released(&id, &answer)?;
        }
        self.company.wait("see it leave", |company| company.layout().machine_index(leaver).is_none())?;
        self.company.kill(leaver);
        self.verify(&title)?;
        let what = format!(
            "{moves} granules move, {behind} ports stay behind with it, {} connections of others from the rest; {open}; \
             its {closed} close, it has left",
            filled.watched
        );
        self.say(&title, before, &what);
        Ok(())
    }

    /// The process of a machine is killed: nobody says what it had open.
    fn kill(&mut self, victim: &MachineId) -> Result<()> {
        let title = format!("8 {victim} is killed");
        let before = self.company.layout().epoch();
        let formerly = self.ports_of(victim);
        let killed = clock::now();
        self.company.kill(victim);
        self.company.ask(&Ask::Forget(victim.to_string()))?;
        self.company.wait("miss a dead machine", |company| company.is_dead(victim))?;
        let dead = clock::now().since(killed).as_secs_f64();
        let moves = self.go_towards(without(&self.company.file, victim)?)?;
        let epoch = self.company.layout().epoch();
        self.company.wait("hear of a death", |company| company.all_have(epoch))?;
        // Without timestamps what the kernel closed for the dead process stays in TIME_WAIT for a minute. In a fleet that
        // is on another host; here it is on this one, but there is hardly any of it towards the second origin.
        let origin = self.origins[usize::from(!timestamps())];
        let players = self.company.players();
        let heirs: Vec<_> = players.iter().filter(|id| self.inherits(id, &formerly)).cloned().collect();
        let fill = || Order::Fill(Fill { origin, watched: formerly.clone(), only_one: true });
        let (mut first, mut from_its_ports) = (None, 0);
        for (id, answer) in self.order(&heirs, &fill)? {
            let filled = filled(&id, answer)?;
            self.played.opened += filled.opened;
            from_its_ports += filled.watched;
            first = first.into_iter().chain(filled.first_watched).min();
            if filled.first_watched.is_none() {
                self.violation(format!(
                    "{title}: {id} cannot use what it has of its ports: {}",
                    filled.refusal
                ));
            }
        }
        self.company.wait("settle after a death", Company::is_settled)?;
        from_its_ports += self.fill(&title, &players, origin, &formerly)?.watched;
        let open = self.verify(&title)?;
        let again = first.map_or("no port of it went to a machine that plays".to_owned(), |first| {
            format!("the first connection from its ports after {:.2} s", first.since(killed).as_secs_f64())
        });
        let what = format!(
            "dead after {dead:.2} s, {moves} granules move, {again}, {from_its_ports} in all; {open}"
        );
        self.say(&title, before, &what);
        Ok(())
    }

    fn say(&self, title: &str, from: Epoch, what: &str) {
        let (to, elapsed) = (self.company.layout().epoch(), self.started.elapsed().as_secs_f64());
        println!("{title}: epochs {from} to {to}, {what}, {elapsed:.1} s");
    }

    fn violation(&mut self, violation: String) {
        self.company.violations.push(violation);
    }

    fn order(&mut self, to: &[MachineId], order: &dyn Fn() -> Order) -> Result<Vec<(MachineId, Answer)>> {
        self.company.order(to, order, &mut |_| {})
    }

    /// The controller leads towards the fleet of `file`; how many granules have another owner then.
    fn go_towards(&mut self, file: FleetFile) -> Result<usize> {
        let before = self.company.layout().clone();
        let target = self.company.retarget(file)?;
        let owner = |layout: &Layout, ip, granule: usize| {
            let owner = layout.row(ip)?.owners()[granule]?;
            Some(layout.machines()[owner.get()].id.clone())
        };
        let granules = before
            .rows()
            .iter()
            .flat_map(|row| row.owners().iter().enumerate().map(|(granule, _)| (row.address(), granule)));
        let moves =
            granules.filter(|(ip, granule)| owner(&before, *ip, *granule) != owner(&target, *ip, *granule));
        Ok(moves.count())
    }

    /// The machines that may go: those with ports that are filled, where the data center has another one.
    fn removable(&self) -> Vec<MachineId> {
        let players = self.company.players();
        let may_go = |id: &&MachineId| {
            let fleet = &self.company.file.fleet;
            let place = fleet.machine(id).map(|machine| &machine.data_center);
            players.contains(id)
                && place.is_some_and(|place| fleet.machines_in(place).len() > 1)
                && !self.ports_of(id).is_empty()
        };
        self.stage.cast.iter().map(|actor| &actor.id).filter(may_go).cloned().collect()
    }

    /// The share of a machine, of the addresses that are filled.
    fn ports_of(&self, id: &MachineId) -> Ports {
        self.company.layout().shares_of(id).filter(|(ip, _)| self.stage.is_filled(*ip)).collect()
    }

    /// Does it have some of those ports now?
    fn inherits(&self, id: &MachineId, ports: &Ports) -> bool {
        let share = self.ports_of(id);
        share
            .iter()
            .any(|(ip, range)| ports.iter().any(|(other, former)| ip == other && range.overlaps(*former)))
    }

    /// Ports that have stayed behind at a machine.
    fn left_with(&self, id: &MachineId) -> usize {
        let layout = self.company.layout();
        let Some(index) = layout.machine_index(id) else { return 0 };
        layout.handovers().holdouts().iter().filter(|h| h.machine == index).count()
    }

    /// Machines fill their shares: each must end full, with nothing free but what is still open elsewhere.
    fn fill(
        &mut self,
        title: &str,
        who: &[MachineId],
        origin: SocketAddr,
        watched: &Ports,
    ) -> Result<Filled> {
        let fill = || Order::Fill(Fill { watched: watched.clone(), ..Fill::up(origin) });
        let mut sum = Filled::default();
        for (id, answer) in self.order(who, &fill)? {
            let filled = filled(&id, answer)?;
            let layout = self.company.layout();
            let me = layout.machine_index(&id);
            let shift = layout.cut().granule().shift();
            let is_withheld = |h: &&aegis_core::epoch::Holdout| {
                let granule = usize::from(h.port >> shift);
                let owner = layout.row(h.address).and_then(|row| row.owners()[granule]);
                self.stage.is_filled(h.address) && owner == me && Some(h.machine) != me
            };
            let withheld = layout.handovers().holdouts().iter().filter(is_withheld).count() as u32;
            let Filled { live, held, parked, capacity, ref refusal, exhausted, .. } = filled;
            // Parked are those, and strangers'.
            if live + held + parked != capacity || parked < withheld || !exhausted {
                self.violation(format!(
                    "{title}: {id} has {live} live, {held} held and {parked} parked of {capacity} ports, {withheld} are \
                     open elsewhere, and it is refused: {refusal}"
                ));
            }
            sum.opened += filled.opened;
            sum.watched += filled.watched;
        }
        self.played.opened += sum.opened;
        Ok(sum)
    }

    /// Everything that is open answers, and is its opener's by the newest layout; in words.
    fn verify(&mut self, title: &str) -> Result<String> {
        let mut all = Echoed::default();
        let players = self.company.players();
        for (id, answer) in self.order(&players, &|| Order::Echo)? {
            let Answer::Echoed(echoed) = answer else { return Err(unexpected(&id, &answer)) };
            all.answered += echoed.answered;
            all.broken += echoed.broken;
            if let Some(fault) = echoed.first_broken {
                self.violation(format!("{title}: a connection of {id} is broken, {fault}"));
            }
        }
        let seen = self.company.ask(&Ask::Look)?;
        let open: u32 = seen.iter().map(|seen| seen.open).sum();
        if open != all.answered {
            let answered = all.answered;
            self.violation(format!("{title}: {answered} connections answer, the origins have {open} open"));
        }
        Ok(format!("{} open connections answer, {} broken", all.answered, all.broken))
    }
}

fn filled(id: &MachineId, answer: Answer) -> Result<Filled> {
    match answer {
        Answer::Filled(filled) => Ok(filled),
        answer => Err(unexpected(id, &answer)),
    }
}

fn released(id: &MachineId, answer: &Answer) -> Result<u32> {
    match answer {
        Answer::Released(closed) => Ok(*closed),
        answer => Err(unexpected(id, answer)),
    }
}

fn unexpected(id: &MachineId, answer: &Answer) -> Box<dyn std::error::Error + Send + Sync> {
    format!("{id} answers something else than it was asked: {answer:?}").into()
}

/// The fleet with one machine more, in the data center of `beside` and as large as any there.
fn with_one_more(file: &FleetFile, beside: &MachineId) -> Result<(FleetFile, MachineId)> {
    let data_center = file.fleet.machine(beside).expect("it plays").data_center.clone();
    let weight = file.fleet.machines_in(&data_center).map(|machine| machine.weight).max().unwrap_or(1);
    let mut names = (1..).map(|n| format!("{data_center}-m{n}").parse::<MachineId>());
    let id = names.find(|name| name.as_ref().map_or(true, |id| file.fleet.machine(id).is_none()));
    let id = id.expect("there are more names than machines")?;
    let mut machines: Vec<Machine> = file.fleet.machines().cloned().collect();
    machines.push(Machine { id: id.clone(), data_center, weight });
    let fleet = Fleet::new(file.fleet.data_centers().cloned(), machines)?;
    Ok((with_fleet(file, fleet), id))
}

fn without(file: &FleetFile, leaver: &MachineId) -> Result<FleetFile> {
    let machines = file.fleet.machines().filter(|machine| machine.id != *leaver).cloned();
    Ok(with_fleet(file, Fleet::new(file.fleet.data_centers().cloned(), machines)?))
}

fn with_fleet(file: &FleetFile, fleet: Fleet) -> FleetFile {
    let mut file = file.clone();
    file.fleet = fleet;
    file
}
