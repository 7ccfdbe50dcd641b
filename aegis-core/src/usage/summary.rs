//! Questions to a roll-up: how much, by whom, when?

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use super::record::{Refused, Subject};
use super::report::Period;
use super::rollup::{Bucket, Provisioned, Rollup, Row};
use crate::error::{Error, Result};
use crate::id::{AccountId, DataCenterId, MachineId, ZoneId};
use crate::net::{Origin, Protocol};

/// Which records are summed up. They are not added to each other: what a zone does is done from sources.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Of {
    /// Those of egress IPs.
    Sources,
    /// Those of zones. They have no address, origin or protocol.
    Zones,
}

/// What to keep apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dimension {
    /// Data centers.
    DataCenter,
    /// Machines.
    Machine,
    /// Source addresses.
    EgressIp,
    /// Destinations, with their protocol.
    Origin,
    /// Protocols.
    Protocol,
    /// Accounts.
    Account,
    /// Zones.
    Zone,
}

/// Values of the dimensions that were kept apart; the others, and what a record does not have, are `None`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Group {
    /// Data center.
    pub data_center: Option<DataCenterId>,
    /// Machine.
    pub machine: Option<MachineId>,
    /// Source address.
    pub egress_ip: Option<IpAddr>,
    /// Protocol and destination.
    pub origin: Option<Origin>,
    /// Protocol.
    pub protocol: Option<Protocol>,
    /// Account.
    pub account: Option<AccountId>,
    /// Zone.
    pub zone: Option<ZoneId>,
}

/// What a group did in a span of time. "In use" is live + held.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// The span: whole buckets.
    pub period: Period,
    /// Who.
    pub group: Group,
    /// Time integral of what was in use, ports x milliseconds: exact.
    pub port_millis: u128,
    /// Never more was in use at once than this: the sum of the machines' and subjects' maxima, which they may have
    /// had at different moments of a bucket. Exact for a group of one subject on one machine.
    pub max_at_most: u64,
    /// At some moment at least so much was in use: the largest maximum of one of them, or what was surely in use on
    /// average over a bucket.
    pub max_at_least: u64,
    /// Never less was in use at once than this, by the same reasoning.
    pub min_at_least: u64,
    /// Leases granted: exact.
    pub granted: u64,
    /// Acquires refused: exact.
    pub refused: Refused,
    /// Ports provisioned, on average: each machine's ports of each address once, towards however many origins they
    /// are used. Of zones, what their records say.
    pub capacity: f64,
    /// Average in use as a percentage of the ports provisioned to the data center on the address towards the origin
    /// (or to the zone there); of several such, weighted by their ports. None where there are no ports.
    pub avg_utilization: Option<f64>,
    /// The highest that the fullest of those can have been, as a percentage: from [`Summary::max_at_most`].
    pub max_utilization: Option<f64>,
    /// Averages of the buckets, in order of size.
    samples: Vec<f64>,
}

impl Summary {
    /// Time-weighted average of what was in use. A bucket counts if one of the machines asked about reported in it, and
    /// what the others did then is missing ([`Rollup::gaps`]); a machine that reported for a part of it counts as if it
    /// had been the same in the rest.
    pub fn average(&self) -> f64 {
        self.samples.iter().sum::<f64>() / self.samples.len() as f64
    }

    /// The percentile of the buckets' averages, by nearest rank: the smallest one such that at least so many
    /// thousandths of all are not above it (950 for the 95th percentile). 0 gives the smallest; 1,000 and more the
    /// largest.
    pub fn percentile(&self, thousandths: u32) -> f64 {
        let count = self.samples.len();
        let rank = (count as u128 * u128::from(thousandths.min(1_000))).div_ceil(1_000) as usize;
        self.samples[rank.max(1) - 1]
    }

    /// How many buckets' averages there are.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }
}

impl Rollup {
    /// Sums up the buckets that begin in `period`, in steps of so many milliseconds, and of one group after the
    /// other. Steps are counted from 1970, as buckets are.
    ///
    /// # Errors
    /// A step that is not a whole number of buckets.
    pub fn summaries(
        &self,
        of: Of,
        by: &[Dimension],
        period: Period,
        step_millis: u64,
    ) -> Result<Vec<Summary>> {
        let bucket_millis = self.bucket_millis();
        if step_millis == 0 || step_millis % bucket_millis != 0 {
            return Err(Error::input(format!(
                "steps of {step_millis} ms; give a multiple of the buckets' {bucket_millis} ms"
            )));
        }
        let mut summaries = Vec::new();
        let mut buckets = self.buckets.range(period.start()..period.end()).peekable();
        while let Some(first) = buckets.peek().map(|(start, _)| **start) {
            let start = first / step_millis * step_millis;
            let end = start.saturating_add(step_millis);
            let mut step = Step::new(of, by, bucket_millis);
            while let Some((_, bucket)) = buckets.next_if(|(start, _)| **start < end) {
                step.add(bucket);
            }
            let whole = |millis: u64| millis.div_ceil(bucket_millis) * bucket_millis;
            let span = Period::spanning(start.max(whole(period.start())), whole(end.min(period.end())));
            summaries.extend(step.summaries(span));
        }
        Ok(summaries)
    }
}

/// Ports are provisioned to a place (a data center, or a machine in it if machines are kept apart), on an address or
/// for a zone.
type Provision<'a> = (&'a DataCenterId, Option<&'a MachineId>, Where<'a>);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Where<'a> {
    Address(IpAddr),
    Zone(&'a ZoneId),
}

/// What is summed up for one span.
struct Step<'a> {
    of: Of,
    by: &'a [Dimension],
    bucket_millis: u64,
    /// In how many buckets machines of these places have reported.
    reported: BTreeMap<Group, usize>,
    provisioned: BTreeMap<Provision<'a>, Ports>,
    groups: BTreeMap<Group, Sum<'a>>,
}

#[derive(Clone, Copy, Default)]
struct Ports {
    /// Average over a bucket; or the sum of the buckets' averages.
    average: f64,
    millis: u128,
    /// The fewest in a bucket.
    least: u64,
}

/// What a group did in one bucket, or in one after the other.
#[derive(Default)]
struct Sum<'a> {
    port_millis: u128,
    granted: u64,
    refused: Refused,
    max_at_most: u64,
    max_at_least: u64,
    min_at_least: u64,
    /// Of one bucket: the port milliseconds that were surely in it.
    surely: u128,
    /// The average of a bucket.
    samples: Vec<f64>,
    /// What was in use of each provision towards each origin: port milliseconds, and the sum of maxima.
    used: BTreeMap<(Provision<'a>, Option<Origin>), (u128, u64)>,
    max_utilization: Option<f64>,
}

impl<'a> Step<'a> {
    fn new(of: Of, by: &'a [Dimension], bucket_millis: u64) -> Self {
        let (reported, provisioned, groups) = Default::default();
        Self { of, by, bucket_millis, reported, provisioned, groups }
    }

    fn add(&mut self, bucket: &'a Bucket) {
        let mut ports: BTreeMap<Provision<'a>, Ports> = BTreeMap::new();
        let mut groups: BTreeMap<Group, Sum<'a>> = BTreeMap::new();
        let mut places = BTreeSet::new();
        for ((data_center, machine), reported) in bucket {
            places.insert(self.group(data_center, machine, None));
            let apart = self.by.contains(&Dimension::Machine).then_some(machine);
            for (subject, row) in &reported.rows {
                let at = match (self.of, subject) {
                    (Of::Sources, Subject::Source { egress_ip, .. }) => Where::Address(*egress_ip),
                    (Of::Zones, Subject::Zone { zone, .. }) => Where::Zone(zone),
                    _ => continue,
                };
                let sum = groups.entry(self.group(data_center, machine, Some(subject))).or_default();
                sum.add(row, reported.millis);
                let used = sum.used.entry(((data_center, apart, at), subject.origin())).or_default();
                *used = (used.0 + row.port_millis, used.1 + u64::from(row.max));
            }
            for (to, mine) in &reported.provisioned {
                let at = match (self.of, to) {
                    (Of::Sources, Provisioned::Address(egress_ip)) => Where::Address(*egress_ip),
                    (Of::Zones, Provisioned::Zone(zone)) => Where::Zone(zone),
                    _ => continue,
                };
                let all = ports.entry((data_center, apart, at)).or_default();
                all.average += mine.port_millis as f64 / reported.millis as f64;
                all.millis += mine.port_millis;
                all.least += u64::from(mine.least);
            }
        }
        for place in places {
            *self.reported.entry(place).or_default() += 1;
        }
        for (group, mut sum) in groups {
            // Whenever nobody reported, something may have been in use too.
            let least = sum.surely.div_ceil(self.bucket_millis.into()) as u64;
            // Periods overlap where a clock was set back or slowed down: then this is more than there was.
            sum.max_at_least = sum.max_at_least.max(least).min(sum.max_at_most);
            for ((provision, _), (_, max)) in &sum.used {
                let least = ports[provision].least;
                let percent = (least > 0).then(|| 100.0 * *max as f64 / least as f64);
                sum.max_utilization = largest(sum.max_utilization, percent);
            }
            match self.groups.get_mut(&group) {
                Some(before) => before.follow(sum),
                None => {
                    self.groups.insert(group, sum);
                }
            }
        }
        for (provision, ports) in ports {
            let all = self.provisioned.entry(provision).or_default();
            all.average += ports.average;
            all.millis += ports.millis;
        }
    }

    /// The group of a subject on a machine; without a subject, only its place.
    fn group(&self, data_center: &DataCenterId, machine: &MachineId, subject: Option<&Subject>) -> Group {
        let mut group = Group::default();
        for dimension in self.by {
            match dimension {
                Dimension::DataCenter => group.data_center = Some(data_center.clone()),
                Dimension::Machine => group.machine = Some(machine.clone()),
                Dimension::EgressIp => group.egress_ip = subject.and_then(Subject::egress_ip),
                Dimension::Origin => group.origin = subject.and_then(Subject::origin),
                Dimension::Protocol => group.protocol = subject.and_then(|s| Some(s.origin()?.protocol())),
                Dimension::Account => group.account = subject.and_then(Subject::account).cloned(),
                Dimension::Zone => group.zone = subject.and_then(Subject::zone).cloned(),
            }
        }
        group
    }

    fn summaries(self, period: Period) -> impl Iterator<Item = Summary> + use<'a> {
        let Self { reported, provisioned, groups, .. } = self;
        groups.into_iter().map(move |(group, sum)| {
            let place = Group {
                data_center: group.data_center.clone(),
                machine: group.machine.clone(),
                ..Group::default()
            };
            // In the other buckets its machines reported, and had nothing of it in use.
            let (buckets, mut samples) = (reported[&place], sum.samples);
            let min_at_least = if samples.len() < buckets { 0 } else { sum.min_at_least };
            samples.resize(buckets, 0.0);
            samples.sort_unstable_by(f64::total_cmp);
            let provisions: BTreeSet<_> = sum.used.keys().map(|(provision, _)| *provision).collect();
            let capacity = provisions.iter().map(|provision| provisioned[provision].average).sum::<f64>();
            let (mut used, mut ports) = (0, 0);
            for ((provision, _), (port_millis, _)) in &sum.used {
                let millis = provisioned[provision].millis;
                used += if millis == 0 { 0 } else { *port_millis };
                ports += millis;
            }
            Summary {
                period,
                group,
                port_millis: sum.port_millis,
                max_at_most: sum.max_at_most,
                max_at_least: sum.max_at_least,
                min_at_least,
                granted: sum.granted,
                refused: sum.refused,
                capacity: capacity / buckets as f64,
                avg_utilization: (ports > 0).then(|| 100.0 * used as f64 / ports as f64),
                max_utilization: sum.max_utilization,
                samples,
            }
        })
    }
}

impl Sum<'_> {
    /// Adds what another subject or machine did in the same bucket, in which its machine reported for so long.
    fn add(&mut self, row: &Row, reported_millis: u64) {
        self.port_millis += row.port_millis;
        self.granted = self.granted.saturating_add(row.granted);
        self.refused += row.refused;
        self.max_at_most += u64::from(row.max);
        self.max_at_least = self.max_at_least.max(row.max_at_least.into());
        self.surely += row.surely;
        // Where a report has no record of it, nothing was in use.
        self.min_at_least += if row.millis < reported_millis { 0 } else { row.min.into() };
        self.samples.resize(1, 0.0);
        self.samples[0] += row.port_millis as f64 / reported_millis as f64;
    }

    /// Adds what the same group did in a later bucket.
    fn follow(&mut self, later: Self) {
        self.port_millis += later.port_millis;
        self.granted = self.granted.saturating_add(later.granted);
        self.refused += later.refused;
        self.max_at_most = self.max_at_most.max(later.max_at_most);
        self.max_at_least = self.max_at_least.max(later.max_at_least);
        self.min_at_least = self.min_at_least.min(later.min_at_least);
        self.samples.extend(later.samples);
        for (what, (port_millis, max)) in later.used {
            let used = self.used.entry(what).or_default();
            *used = (used.0 + port_millis, used.1.max(max));
        }
        self.max_utilization = largest(self.max_utilization, later.max_utilization);
    }
}

fn largest(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    [a, b].into_iter().flatten().reduce(f64::max)
}
