//! One record after the other.

use core::iter;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use ipnet::IpNet;

use crate::capacity::Threshold;
use crate::epoch::Layout;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::{self, Criterion, Ranking, SpillOver};
use crate::fleet::{Fleet, Latency};
use crate::id::DataCenterId;
use crate::lease::{AcquireError, Closed, Lease, OriginHandle, Worker};
use crate::time::{Time, millis_up};

use super::alarms::Alarms;
use super::calendar::{Calendar, Slot};
use super::machines::{Exits, Family, Machines, Rules, family};
use super::memory::Part;
use super::outcome::{ExtraHop, FirstRefusal, Interval, Outcome, Progress, Refused, Totals, Watch};
use super::paths::{Ingress, Paths, Target};
use super::settings::{Reuse, Settings};
use super::trace::Record;
use super::uses::Uses;
use super::variates::Random;

/// Progress is told so often.
const RECORDS_PER_PROGRESS: u64 = 1 << 16;

/// A lease table rounds the ends of holds up to these steps.
const HOLD_STEP_MS: u64 = 250;

/// One machine's connections to one origin.
struct Lane {
    /// In [`Machines::all`].
    machine: u32,
    family: Family,
    handle: OriginHandle,
    /// The cell of each of the machine's sources.
    cells: Box<[u32]>,
    /// Idle connections, the longest idle first.
    idle: VecDeque<Slot>,
    /// Requests that the last connection still serves.
    to_serve: u32,
    /// Ports that are live or held.
    busy: u32,
}

impl Lane {
    /// Ports that no further record may have: one that is idle, or that the last connection serves, needs no other.
    fn in_use(&self) -> u64 {
        u64::from(self.busy).saturating_sub(self.idle.len() as u64 + u64::from(self.to_serve > 0))
    }
}

/// How records of one ingress to one origin leave.
struct Way {
    ranking: Ranking,
    /// How many left at the best site.
    taken: u64,
    refused: u64,
}

impl Way {
    fn best(&self) -> &DataCenterId {
        self.ranking.sites().next().expect("a ranking has a site").0
    }

    /// How much longer it takes by way of a site than if every data center had one.
    fn extra(&self, site: &DataCenterId) -> Latency {
        let found = self.ranking.sites().find(|(id, _)| *id == site);
        found.map_or(Latency::ZERO, |(_, total)| total.beyond(self.ranking.unrestricted().1))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At work.
    Live,
    /// It waits for a request.
    Idle,
    /// It is closed; its port may not be granted yet.
    Held,
}

/// What occupies a port.
struct Connection {
    lease: Option<Lease>,
    lane: u32,
    cell: u32,
    closed: Closed,
    state: State,
}

/// A day of connections against a layout; see [the module](super).
pub struct Replay<'a> {
    fleet: &'a Fleet,
    paths: &'a Paths,
    settings: &'a Settings,
    rules: Rules,
    machines: Machines,
    random: Random,
    /// The family of each origin.
    families: Vec<Family>,
    /// By ingress and target; none until a record comes.
    ways: Vec<Option<Box<Way>>>,
    /// How many left from other data centers than the best with ports, by how much longer that took than if every data
    /// center had some.
    spilled: BTreeMap<Latency, u64>,
    lanes: Vec<Lane>,
    /// By slot of the calendar.
    connections: Vec<Connection>,
    calendar: Calendar,
    uses: Uses,
    totals: Totals,
    live: u32,
    held: u32,
    first_refusal: Option<FirstRefusal>,
    intervals: Vec<Interval>,
    /// Beginning of the interval, and what had happened before.
    interval: (u64, Totals),
    now: u64,
}

impl<'a> Replay<'a> {
    /// Readies a replay of connections that leave from the addresses of a pool as the layout divides them.
    ///
    /// # Errors
    /// A setting out of its range; a pool that no machine of the layout may grant from, or one that is not in the fleet; a
    /// data center of the layout that has no latencies; an origin that no data center with ports of its family reaches.
    pub fn new(
        fleet: &'a Fleet,
        layout: &Layout,
        pool: &[IpNet],
        paths: &'a Paths,
        settings: &'a Settings,
    ) -> Result<Self> {
        settings.check()?;
        let machines = Machines::new(fleet, layout, pool, paths, settings)?;
        let families: Vec<Family> = paths.origins().map(|origin| family(origin.ip())).collect();
        for (target, &family) in (0..).map(Target).zip(&families) {
            let mut sites = machines.exits[family].iter().flat_map(|exits| exits.sites.data_centers());
            if !sites.any(|site| paths.reach(target).get(site).is_some()) {
                return Err(Error::input(format!(
                    "no data center with ports of the pool reaches origin {}; give round trips from one, or another pool",
                    paths.origin(target).expect("one of them")
                )));
            }
        }
        let now = settings.from.as_millis();
        Ok(Self {
            fleet,
            paths,
            settings,
            rules: Rules::new(layout, settings),
            uses: Uses::new(&machines),
            machines,
            random: Random::new(settings.seed),
            ways: (0..paths.data_centers().len() * families.len()).map(|_| None).collect(),
            spilled: BTreeMap::new(),
            families,
            lanes: Vec::new(),
            connections: Vec::new(),
            calendar: Calendar::new(now),
            totals: Totals::default(),
            live: 0,
            held: 0,
            first_refusal: None,
            intervals: Vec::new(),
            interval: (now, Totals::default()),
            now,
        })
    }

    /// Replays records in order of their starts, until there are no more or one starts at the end of the time or later.
    /// At one millisecond everything closes before anything opens.
    ///
    /// # Errors
    /// The first error of `records`; a record before the one before it, or before the time of the replay, or of other
    /// paths; those of [`Ranking::new`]: an ingress in a separate network, or out of reach of every data center with ports.
    pub fn run(
        mut self,
        records: impl IntoIterator<Item = Result<Record>>,
        watch: &mut impl Watch,
    ) -> Result<Outcome> {
        let until = self.settings.until.as_millis();
        let mut left = RECORDS_PER_PROGRESS;
        for record in records {
            let record = record?;
            self.check(&record)?;
            if record.start.as_millis() >= until {
                break;
            }
            self.advance(record.start.as_millis(), watch)?;
            self.serve(&record)?;
            left -= 1;
            if left == 0 {
                left = RECORDS_PER_PROGRESS;
                if watch.progress(self.progress()).is_break() {
                    if self.now > self.interval.0 {
                        self.turn(watch);
                    }
                    return Ok(self.outcome(true));
                }
            }
        }
        self.advance(until, watch)?;
        if self.now > self.interval.0 {
            self.turn(watch);
        }
        Ok(self.outcome(false))
    }

    /// Alarms for this replay: give them to [`Replay::run`].
    ///
    /// # Errors
    /// Two thresholds of one name.
    pub fn alarms(&self, thresholds: impl IntoIterator<Item = Threshold>) -> Result<Alarms> {
        Alarms::new(thresholds, self.uses.ports(self.paths))
    }

    fn check(&self, record: &Record) -> Result<()> {
        let Record { start, lasts_ms, ingress, target, .. } = *record;
        if start.as_millis() < self.now {
            return Err(Error::input(format!(
                "a record starts at {start}, and one before it, or the replay, at {}; sort the records",
                Time::from_millis(self.now)
            )));
        }
        if lasts_ms > Record::LONGEST_MS {
            return Err(Error::input(format!(
                "a record lasts {lasts_ms} ms; at most {} are possible",
                Record::LONGEST_MS
            )));
        }
        if usize::from(ingress.0) >= self.paths.data_centers().len()
            || usize::from(target.0) >= self.families.len()
        {
            return Err(Error::input(format!(
                "a record from ingress {} to origin {} of other paths than the replay's",
                ingress.0, target.0
            )));
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        let from = self.settings.from.as_millis();
        let span = self.settings.until.as_millis() - from;
        Progress {
            at: Time::from_millis(self.now),
            fraction: (self.now - from) as f64 / span as f64,
            events: self.totals.events(),
        }
    }

    /// All that ends until `to`, and the intervals on the way.
    #[inline]
    fn advance(&mut self, to: u64, watch: &mut impl Watch) -> Result<()> {
        let length = self.settings.interval.as_millis() as u64;
        loop {
            let end = self.interval.0 + length;
            while let Some((due, slot)) = self.calendar.pop(to.min(end)) {
                self.now = due;
                self.end(slot)?;
            }
            self.now = to.min(end);
            if to < end {
                return Ok(());
            }
            self.turn(watch);
        }
    }

    /// Ends an interval.
    fn turn(&mut self, watch: &mut impl Watch) {
        let (start, before) = self.interval;
        let interval = Interval {
            start: Time::from_millis(start),
            length: Duration::from_millis(self.now - start),
            totals: self.totals.since(&before),
            live: self.live,
            held: self.held,
        };
        let uses = self.uses.turn(self.now, self.paths);
        watch.interval(&interval, &uses);
        self.intervals.push(interval);
        self.interval = (self.now, self.totals);
    }

    /// What a slot has waited for has come.
    fn end(&mut self, slot: Slot) -> Result<()> {
        let connection = &mut self.connections[slot as usize];
        match (connection.state, self.settings.reuse) {
            (State::Live, Reuse::KeepAlive(idle)) if !idle.is_zero() => {
                connection.state = State::Idle;
                self.lanes[connection.lane as usize].idle.push_back(slot);
                self.calendar.schedule(slot, self.now + millis_up(idle));
            }
            (State::Live, _) => self.close(slot)?,
            (State::Idle, _) => {
                // All are idle for the same time: the first to go is the one that came first.
                let expired = self.lanes[connection.lane as usize].idle.pop_front();
                debug_assert_eq!(expired, Some(slot));
                self.close(slot)?;
            }
            (State::Held, _) => {
                self.held -= 1;
                self.give_back(slot)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, slot: Slot) -> Result<()> {
        let connection = &mut self.connections[slot as usize];
        self.totals.closed += 1;
        self.live -= 1;
        let protocol = self.lanes[connection.lane as usize].handle.origin().protocol();
        match millis_up(self.settings.quarantine.hold(protocol, connection.closed)) {
            0 => self.give_back(slot),
            hold => {
                connection.state = State::Held;
                self.held += 1;
                self.calendar.schedule(slot, (self.now + hold).next_multiple_of(HOLD_STEP_MS));
                Ok(())
            }
        }
    }

    /// Its port is free.
    fn give_back(&mut self, slot: Slot) -> Result<()> {
        let connection = &mut self.connections[slot as usize];
        let lane = &mut self.lanes[connection.lane as usize];
        lane.busy -= 1;
        let at_work = &mut self.machines.all[lane.machine as usize].at_work;
        if let (Some(lease), Some(at_work)) = (connection.lease.take(), at_work) {
            let released = at_work.worker.release(lease, Closed::Unused, Time::from_millis(self.now));
            released.map_err(|e| {
                Error::new(ErrorKind::Bug, format!("a lease of a replay was not taken back: {e}"))
            })?;
        }
        self.uses.give_back(connection.cell, self.now);
        self.calendar.remove(slot);
        Ok(())
    }

    /// Finds a port for a record, or refuses it.
    fn serve(&mut self, record: &Record) -> Result<()> {
        let Record { ingress, target, .. } = *record;
        let pair = usize::from(ingress.0) * self.families.len() + usize::from(target.0);
        let mut way = match self.ways[pair].take() {
            Some(way) => way,
            None => Box::new(self.way(ingress, target)?),
        };
        self.leave(&mut way, record)?;
        self.ways[pair] = Some(way);
        Ok(())
    }

    fn way(&self, ingress: Ingress, target: Target) -> Result<Way> {
        let ingress = &self.paths.data_centers()[usize::from(ingress.0)];
        let ranking = Ranking::new(
            self.fleet,
            &self.exits(self.families[usize::from(target.0)]).sites,
            &exit::Ingress::DataCenter(ingress.clone()),
            self.paths.reach(target),
            self.paths.latencies(),
            Criterion::TotalLatency,
        );
        let ranking = ranking.map_err(|e| {
            let origin = self.paths.origin(target).expect("it was checked");
            e.at(format_args!("records from ingress {ingress} to origin {origin}"))
        })?;
        // Others are never asked for, and there may be millions of pairs.
        let never = self.settings.spill_over == SpillOver::Never;
        Ok(Way { ranking: if never { ranking.only_best() } else { ranking }, taken: 0, refused: 0 })
    }

    fn leave(&mut self, way: &mut Way, record: &Record) -> Result<()> {
        let (target, spill_over) = (record.target, self.settings.spill_over);
        let family = self.families[usize::from(target.0)];
        let number = self.random.number();
        let in_use = |share: &exit::Share| Some(self.in_use(self.exits(family).machine(share), target));
        if let Ok(exit) = way.ranking.choose(in_use, spill_over, number) {
            for share in iter::once(exit.share()).chain(way.ranking.others(&exit, spill_over)) {
                let machine = self.exits(family).machine(share);
                let lane = self.lane(machine, target, family)?;
                if self.try_lane(lane, record)? {
                    if share.data_center() == way.best() {
                        way.taken += 1;
                    } else {
                        self.totals.spilled += 1;
                        *self.spilled.entry(way.extra(share.data_center())).or_default() += 1;
                    }
                    return Ok(());
                }
            }
        }
        way.refused += 1;
        self.totals.refused += 1;
        self.first_refusal.get_or_insert_with(|| FirstRefusal {
            at: Time::from_millis(self.now),
            data_center: way.best().clone(),
            origin: self.paths.origin(target).expect("it was checked"),
        });
        Ok(())
    }

    fn exits(&self, family: Family) -> &Exits {
        self.machines.exits[family]
            .as_ref()
            .expect("a replay is not made for an origin that nobody has ports for")
    }

    /// Ports of a machine that no further record to the origin may have.
    #[inline]
    fn in_use(&self, machine: u32, target: Target) -> u64 {
        let at_work = self.machines.all[machine as usize].at_work.as_ref();
        let lane = at_work.and_then(|at_work| at_work.lanes[usize::from(target.0)]);
        lane.map_or(0, |lane| self.lanes[lane as usize].in_use())
    }

    /// The lane of a machine towards an origin.
    #[inline]
    fn lane(&mut self, machine: u32, target: Target, family: Family) -> Result<u32> {
        let at = &mut self.machines.all[machine as usize];
        if let Some(lane) = at.at_work.as_ref().and_then(|at_work| at_work.lanes[usize::from(target.0)]) {
            return Ok(lane);
        }
        let handle = at.go_to_work(self.paths, &self.rules, &mut self.machines.store, &mut self.random)?;
        let handle = handle.handle(self.paths, target)?;
        let key = |source| (source, at.data_center, target.0);
        let sources = at.sources[family].iter();
        let cells = sources.map(|&(source, _)| self.uses.cell(key(source), self.now)).collect();
        let lane = self.lanes.len() as u32;
        let idle = VecDeque::new();
        self.lanes.push(Lane { machine, family, handle, cells, idle, to_serve: 0, busy: 0 });
        if let Some(at_work) = &mut at.at_work {
            at_work.lanes[usize::from(target.0)] = Some(lane);
        }
        Ok(lane)
    }

    /// Serves a record there, if there is a connection or a port for it.
    #[inline]
    fn try_lane(&mut self, number: u32, record: &Record) -> Result<bool> {
        let lane = &mut self.lanes[number as usize];
        let due = self.now + u64::from(record.lasts_ms);
        match self.settings.reuse {
            Reuse::Ratio(_) if lane.to_serve > 0 => {
                lane.to_serve -= 1;
                self.totals.reused += 1;
                return Ok(true);
            }
            Reuse::KeepAlive(_) => {
                if let Some(slot) = lane.idle.pop_back() {
                    let connection = &mut self.connections[slot as usize];
                    (connection.state, connection.closed) = (State::Live, record.closed);
                    self.calendar.cancel(slot);
                    self.calendar.schedule(slot, due);
                    self.totals.reused += 1;
                    return Ok(true);
                }
            }
            Reuse::Never | Reuse::Ratio(_) => {}
        }
        let machine = &mut self.machines.all[lane.machine as usize];
        let worker = &mut machine.at_work.as_mut().expect("a lane is made with it").worker;
        let lease = match worker.acquire(&mut lane.handle, Time::from_millis(self.now)) {
            Ok(lease) => lease,
            Err(AcquireError::Exhausted | AcquireError::TooManyOrigins) => return Ok(false),
            Err(e) => return Err(Error::new(ErrorKind::Bug, format!("a replay without a lease: {e}"))),
        };
        let source = source_of(&machine.sources[lane.family], worker, &lease);
        let cell = lane.cells[source];
        lane.busy += 1;
        if let Reuse::Ratio(requests) = self.settings.reuse {
            lane.to_serve = requests.get() - 1;
        }
        let state = State::Live;
        let connection = Connection { lease: Some(lease), lane: number, cell, closed: record.closed, state };
        let slot = self.calendar.insert(due) as usize;
        match self.connections.get_mut(slot) {
            Some(place) => *place = connection,
            None => self.connections.push(connection),
        }
        self.uses.take(cell, self.now);
        self.totals.opened += 1;
        self.live += 1;
        Ok(true)
    }

    fn outcome(self, is_stopped: bool) -> Outcome {
        let mut refused = BTreeMap::new();
        for of_ingress in self.ways.chunks(self.families.len()) {
            for (way, origin) in of_ingress.iter().zip(self.paths.origins()) {
                if let Some(way) = way.as_ref().filter(|way| way.refused > 0) {
                    *refused.entry((way.best(), origin)).or_default() += way.refused;
                }
            }
        }
        let refused = refused.into_iter().map(|((data_center, origin), count)| Refused {
            data_center: data_center.clone(),
            origin,
            count,
        });
        let taken = self.ways.iter().flatten().map(|way| (way.extra(way.best()), way.taken));
        Outcome {
            from: self.settings.from,
            until: Time::from_millis(self.now),
            is_stopped,
            totals: self.totals,
            live: self.live,
            first_refusal: self.first_refusal,
            refused: refused.collect(),
            uses: self.uses.whole(self.paths),
            extra_hop: ExtraHop::of(taken.chain(self.spilled).collect()),
            intervals: self.intervals,
        }
    }
}

/// Which of a machine's sources a lease is from.
#[inline]
fn source_of(sources: &[(IpNet, u32)], worker: &Worker<Part>, lease: &Lease) -> usize {
    if sources.len() == 1 {
        return 0;
    }
    let source = worker.table().source(lease).expect("it was granted just now").ip();
    // Prefixes are disjoint and ascending: it is in the last one that does not begin after it.
    sources.partition_point(|(prefix, _)| prefix.network() <= source) - 1
}

#[cfg(test)]
mod tests {
    use crate::epoch::testing::World;
    use crate::fleet::{Latencies, Reach};

    use super::super::tests::{ms, origin};
    use super::*;

    #[test]
    fn an_occupied_port_costs_48_bytes() {
        assert_eq!(size_of::<Connection>() + super::super::calendar::ENTRY_BYTES, 48);
    }

    #[test]
    fn when_a_machine_refuses_that_seemed_to_have_ports_others_are_asked() {
        let world = World::new(&[&[1, 1]]).hold("192.0.2.1/32", &[0]);
        let (fleet, layout, settings) = (world.fleet(), world.build(1).unwrap(), Settings::default());
        let d0: DataCenterId = "d0".parse().unwrap();
        let origin = origin("203.0.113.10:443");
        let reach = Reach::measured(&fleet, [(d0.clone(), ms(1))]).unwrap();
        let paths = Paths::new(Latencies::estimated(&fleet), [(origin, reach)]).unwrap();
        let pool = ["192.0.2.1/32".parse().unwrap()];
        let (ingress, target) = (paths.ingress(&d0).unwrap(), paths.target(&origin).unwrap());
        let mut replay = Replay::new(&fleet, &layout, &pool, &paths, &settings).unwrap();

        // Behind the back of the replay somebody takes every port of the first machine.
        let [first, second] = [0, 1].map(|machine| replay.lane(machine, target, 0).unwrap() as usize);
        let worker = &mut replay.machines.all[0].at_work.as_mut().unwrap().worker;
        let handle = &mut replay.lanes[first].handle;
        let taken = iter::from_fn(|| worker.acquire(handle, Time::ZERO).ok()).count();
        assert!(taken > 1_000, "{taken}");

        let (start, closed) = (Time::ZERO, Closed::Passive);
        for _ in 0..50 {
            replay.serve(&Record { start, lasts_ms: 1_000, ingress, target, closed }).unwrap();
        }
        assert_eq!((replay.totals.opened, replay.totals.refused, replay.totals.spilled), (50, 0, 0));
        assert_eq!((replay.lanes[first].busy, replay.lanes[second].busy), (0, 50));
    }
}
