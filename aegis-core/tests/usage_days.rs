//! Days of machines that report through a bad network and crash: what arrived is counted once, and what cannot come any
//! more is known to be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;
use std::rc::Rc;

use aegis_core::id::MachineId;
use aegis_core::net::{Origin, Protocol};
use aegis_core::usage::{
    Added, Counted, Dimension, Gap, Key, Of, Outbox, Outlook, Period, Record, Refused, Report, Rollup,
    Subject, Then,
};

const DAYS: u64 = 10_000;
const MINUTE: u64 = 60_000;
/// Most reports lie in two or three.
const BUCKET: u64 = 60 * MINUTE;
const HOURS: u64 = 24;
const MACHINES: usize = 3;
/// 2025-01-10T00:00:00Z.
const MIDNIGHT: u64 = 1_736_467_200_000;
const LOSS_PERCENT: u64 = 30;

/// SplitMix64: a day's name is its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// How a boot came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Crashed,
    /// In order; but what was not acknowledged after a while went with it.
    Left,
}

struct Machine {
    id: MachineId,
    site: usize,
    interval_minutes: u64,
    /// Of the process that runs.
    outbox: Option<Outbox>,
    boot: u64,
    /// When it does something next.
    wakes: u64,
    last_report: u64,
    /// It has reported for the last time, and tries for a while to be acknowledged.
    leaving: Option<u64>,
}

enum Message {
    Report(usize, Rc<Report>),
    Acknowledge(usize, Key),
}

struct World {
    random: Random,
    now: u64,
    machines: Vec<Machine>,
    /// Of each data center.
    rollups: [Rollup; 2],
    /// By the moment it arrives, and a number.
    network: BTreeMap<(u64, u64), Message>,
    sent: u64,
    is_good: bool,
    // The truth.
    made: BTreeMap<(MachineId, u64, u64), Report>,
    arrived: BTreeSet<(MachineId, u64, u64)>,
    ended: BTreeMap<(MachineId, u64), End>,
}

impl World {
    fn new(seed: u64, machines: usize) -> Self {
        let mut random = Random(seed);
        let machine = |nth: usize| Machine {
            id: format!("m{nth}").parse().unwrap(),
            site: nth % 2,
            interval_minutes: 30 + random.below(60),
            outbox: None,
            boot: 0,
            wakes: MIDNIGHT + random.below(60) * MINUTE,
            last_report: 0,
            leaving: None,
        };
        let machines = (0..machines).map(machine).collect();
        Self {
            machines,
            random,
            now: MIDNIGHT,
            rollups: [(); 2].map(|()| Rollup::new(BUCKET).unwrap()),
            network: BTreeMap::new(),
            sent: 0,
            is_good: false,
            made: BTreeMap::new(),
            arrived: BTreeSet::new(),
            ended: BTreeMap::new(),
        }
    }

    fn run(&mut self, hours: u64) {
        let end = MIDNIGHT + hours * 60 * MINUTE;
        while self.now < end {
            let wakes = self.machines.iter().map(|machine| machine.wakes).min().unwrap();
            let delivered = self.network.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            self.now = wakes.min(delivered);
            self.deliver();
            for nth in 0..self.machines.len() {
                if self.machines[nth].wakes <= self.now {
                    self.wake(nth);
                }
            }
        }
    }

    fn wake(&mut self, nth: usize) {
        let (now, random) = (self.now, &mut self.random);
        let machine = &mut self.machines[nth];
        // Not a multiple of anything, so that intervals cross the buckets' borders.
        machine.wakes = now + machine.interval_minutes * MINUTE + random.below(MINUTE);
        let Some(outbox) = &mut machine.outbox else {
            let before = Some(machine.boot).filter(|boot| *boot > 0);
            machine.boot += 1 + random.below(3);
            let site = ["fra", "sjc"][machine.site].parse().unwrap();
            let most = 2 + random.below(8) as usize;
            machine.outbox = Some(Outbox::new(machine.id.clone(), site, machine.boot, before, most));
            machine.last_report = now;
            return;
        };
        if let Some(tries) = &mut machine.leaving {
            *tries -= 1;
            if *tries == 0 {
                self.stop(nth, End::Left);
            } else {
                self.send(nth);
            }
            return;
        }
        if random.percent(5) {
            self.stop(nth, End::Crashed);
            return;
        }
        let then = if random.percent(5) { Then::Ends } else { Then::GoesOn };
        let period = Period::new(machine.last_report, now).unwrap();
        let report = outbox.push(1, period, records(random, period), then).unwrap();
        let key = report.key();
        self.made.insert((key.machine.clone(), key.boot, key.interval), report.clone());
        machine.last_report = now;
        machine.leaving = (then == Then::Ends).then_some(3);
        self.send(nth);
    }

    fn stop(&mut self, nth: usize, how: End) {
        let machine = &mut self.machines[nth];
        machine.outbox = None;
        machine.leaving = None;
        self.ended.insert((machine.id.clone(), machine.boot), how);
        self.check_meanwhile();
    }

    /// Sends all that is not acknowledged.
    fn send(&mut self, nth: usize) {
        let outbox = self.machines[nth].outbox.as_ref().unwrap();
        let reports: Vec<_> = outbox.unsent().cloned().map(Rc::new).collect();
        for report in reports {
            self.post(|| Message::Report(nth, Rc::clone(&report)));
        }
    }

    fn post(&mut self, message: impl Fn() -> Message) {
        let copies = if self.random.percent(20) { 2 } else { 1 };
        for _ in 0..copies {
            if self.is_good || !self.random.percent(LOSS_PERCENT) {
                let delay = self.random.below(90 * MINUTE);
                self.network.insert((self.now + delay, self.sent), message());
                self.sent += 1;
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(next) = self.network.first_entry().filter(|next| next.key().0 <= self.now) {
            match next.remove() {
                Message::Report(nth, report) => {
                    let key = report.key().clone();
                    let added = self.rollups[self.machines[nth].site].add(&report).unwrap();
                    let is_new = self.arrived.insert((key.machine.clone(), key.boot, key.interval));
                    assert_eq!(added == Added::New, is_new, "{key}");
                    self.post(|| Message::Acknowledge(nth, key.clone()));
                }
                Message::Acknowledge(nth, key) => {
                    if let Some(outbox) = &mut self.machines[nth].outbox {
                        outbox.acknowledge(&key);
                    }
                }
            }
        }
    }

    fn deliver_all(&mut self) {
        while let Some(((at, _), _)) = self.network.last_key_value() {
            self.now = self.now.max(*at);
            self.deliver();
        }
    }

    /// In the middle of the day: whatever is flagged as lost is not there, and nobody will send it again.
    fn check_meanwhile(&self) {
        for gap in self.rollups.iter().flat_map(Rollup::gaps) {
            let machine = self.machines.iter().find(|machine| machine.id == gap.machine).unwrap();
            let outbox = machine.outbox.iter().flat_map(Outbox::unsent);
            let unsent: BTreeSet<_> =
                outbox.map(|report| (report.key().boot, report.key().interval)).collect();
            for interval in gap.first..=gap.last.unwrap_or(gap.first) {
                assert!(!self.arrived.contains(&(gap.machine.clone(), gap.boot, interval)), "{gap:?}");
                assert!(
                    gap.outlook == Outlook::MayCome || !unsent.contains(&(gap.boot, interval)),
                    "{gap:?}"
                );
            }
        }
    }

    /// A last hour with a good network, in which those who are alive say what they have to say; those who are dead are
    /// declared dead.
    fn settle(&mut self) {
        self.is_good = true;
        for nth in 0..self.machines.len() {
            if self.machines[nth].outbox.is_some() {
                self.send(nth);
            }
        }
        self.deliver_all();
        for machine in &self.machines {
            if machine.outbox.is_none() && machine.boot > 0 {
                self.rollups[machine.site].close(&machine.id, machine.boot);
            }
        }
        // What was dropped is said by a report that was made after it.
        for nth in 0..self.machines.len() {
            let machine = &mut self.machines[nth];
            if let Some(outbox) = machine.outbox.as_mut().filter(|_| machine.leaving.is_none()) {
                let period = Period::new(self.now, self.now + MINUTE).unwrap();
                let report = outbox.push(1, period, Vec::new(), Then::GoesOn).unwrap();
                let key = report.key();
                self.made.insert((key.machine.clone(), key.boot, key.interval), report.clone());
                self.send(nth);
            }
        }
        self.deliver_all();
    }

    fn check(mut self) {
        self.settle();
        let [mut all, other] = std::mem::take(&mut self.rollups);
        all.merge(other).unwrap();
        self.check_totals(&all);
        self.check_gaps(&all.gaps());
    }

    fn check_totals(&self, all: &Rollup) {
        let period = Period::new(0, self.now + MINUTE).unwrap();
        let day = Period::LONGEST_REPORT_MILLIS;
        let by = [Dimension::Machine, Dimension::EgressIp, Dimension::Origin, Dimension::Zone];
        for of in [Of::Sources, Of::Zones] {
            let mut counted = BTreeMap::<_, (u128, u64, u64)>::new();
            for summary in all.summaries(of, &by, period, day).unwrap() {
                let group = summary.group;
                let subject = (group.machine.unwrap(), group.egress_ip, group.origin, group.zone);
                let sum = counted.entry(subject).or_default();
                sum.0 += summary.port_millis;
                sum.1 += summary.granted;
                sum.2 += summary.refused.total();
            }
            let mut truth = BTreeMap::<_, (u128, u64, u64)>::new();
            for key in &self.arrived {
                for record in self.made[key].records() {
                    let subject = &record.subject;
                    let is_zone = matches!(subject, Subject::Zone { .. });
                    if is_zone == (of == Of::Zones) {
                        let subject =
                            (key.0.clone(), subject.egress_ip(), subject.origin(), subject.zone().cloned());
                        let sum = truth.entry(subject).or_default();
                        sum.0 += u128::from(record.port_millis);
                        sum.1 += record.granted;
                        sum.2 += record.refused.total();
                    }
                }
            }
            assert_eq!(counted, truth);
        }
    }

    fn check_gaps(&self, gaps: &[Gap]) {
        let last_arrived = |id: &MachineId, boot: u64| {
            let of_boot = self.arrived.range((id.clone(), boot, 0)..=(id.clone(), boot, u64::MAX));
            of_boot.last().map(|(_, _, interval)| *interval)
        };
        // Intervals between those that came: flagged one by one, and what they held is known.
        let is_between = |(id, boot, nth): &&(MachineId, u64, u64)| {
            last_arrived(id, *boot).is_some_and(|last| *nth < last)
        };
        let lost: BTreeSet<_> = self.made.keys().filter(|key| !self.arrived.contains(key)).collect();
        let mut flagged = BTreeSet::new();
        for gap in gaps {
            assert_eq!(gap.outlook, Outlook::Lost, "everybody has said what he has: {gap:?}");
            let Some(last) = gap.last else { continue };
            let keys = (gap.first..=last).map(|nth| (gap.machine.clone(), gap.boot, nth));
            let held = keys.clone().map(|key| Counted::of(self.made[&key].records()));
            assert_eq!(gap.counted, Some(held.fold(Counted::default(), Counted::plus)), "{gap:?}");
            flagged.extend(keys);
        }
        assert_eq!(
            flagged.iter().collect::<BTreeSet<_>>(),
            lost.iter().copied().filter(is_between).collect()
        );

        // Ends: flagged if the boot crashed, or its last words are missing.
        let open: BTreeMap<_, _> = gaps
            .iter()
            .filter(|gap| gap.last.is_none())
            .map(|gap| ((gap.machine.clone(), gap.boot), gap))
            .collect();
        for (id, boot) in open.keys() {
            let crashed = self.ended.get(&(id.clone(), *boot)) == Some(&End::Crashed);
            let after = last_arrived(id, *boot).map_or(0, |last| last + 1);
            assert!(crashed || lost.contains(&(id.clone(), *boot, after)), "{id} {boot} ended in order");
        }
        for (ended, how) in &self.ended {
            let has_come = last_arrived(&ended.0, ended.1).is_some();
            assert!(!has_come || *how != End::Crashed || open.contains_key(ended), "{ended:?} is not missed");
        }
        // So nothing that is lost is unflagged: it lies in an open end of its own boot, or in one of the machine by
        // time.
        for key in lost.iter().filter(|key| !is_between(key)) {
            let period = self.made[*key].header().period;
            let covers = |gap: &Gap| {
                gap.after.is_none_or(|after| after <= period.start())
                    && gap.before.is_none_or(|before| period.end() <= before)
            };
            let own = open.get(&(key.0.clone(), key.1)).is_some_and(|gap| gap.first <= key.2);
            assert!(own || open.values().any(|gap| gap.machine == key.0 && covers(gap)), "{key:?} {gaps:#?}");
        }
    }
}

fn records(random: &mut Random, period: Period) -> Vec<Record> {
    let origin = Origin::new(Protocol::Tcp, "203.0.113.150:443".parse().unwrap()).unwrap();
    let source = |last: u8, origin| Subject::Source {
        egress_ip: [192, 0, 2, last].into(),
        origin,
        account: Some("acme".parse().unwrap()),
        zone: None,
    };
    let zone = Subject::Zone { zone: "www.acme.example".parse().unwrap(), account: "acme".parse().unwrap() };
    let subjects = [source(1, Some(origin)), source(1, None), source(2, Some(origin)), zone];
    let some = random.below(5);
    let mut record = |subject| {
        let min = random.below(1_000) as u32;
        let max = min + random.below(1_000) as u32;
        let live = min + random.below(u64::from(max - min) + 1) as u32;
        let room = u64::from(max - min) * period.millis();
        Record {
            subject,
            port_millis: u64::from(min) * period.millis() + random.below(room + 1),
            min,
            max,
            live,
            held: 0,
            resting: 1,
            parked: 2,
            capacity: 2_048,
            granted: random.below(1_000_000),
            refused: Refused { exhausted: random.below(9), quota: random.below(9), ..Refused::default() },
        }
    };
    subjects.into_iter().take(some as usize).map(&mut record).collect()
}

fn day(seed: u64, machines: usize, hours: u64) {
    let mut world = World::new(seed, machines);
    world.run(hours);
    world.check();
}

#[test]
fn what_arrives_is_counted_once_and_what_cannot_come_is_missed() {
    for seed in 0..DAYS {
        if catch_unwind(|| day(seed, MACHINES, HOURS)).is_err() {
            let sizes = (1..=HOURS).flat_map(|hours| (1..=MACHINES).map(move |machines| (machines, hours)));
            let fails =
                |(machines, hours): &(usize, u64)| catch_unwind(|| day(seed, *machines, *hours)).is_err();
            let smallest = sizes.into_iter().find(fails);
            panic!("day {seed}; the smallest that fails has (machines, hours) {smallest:?}");
        }
    }
}
