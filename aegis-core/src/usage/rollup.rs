//! Sums of reports, per data center and over time.

use core::net::IpAddr;
use std::collections::BTreeMap;

use super::date::FIVE_MINUTES;
use super::gaps::{Boots, Gap, Known, Seen};
use super::record::{Record, Refused, Subject};
use super::report::{Key, Period, Report};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{DataCenterId, MachineId, ZoneId};

/// Takes reports in any order, any number of times; each counts once.
///
/// Time is cut into buckets of one length, from 1970 on. A report that lies in several buckets is split by time, in
/// whole numbers whose sum is what was reported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rollup {
    bucket_millis: u64,
    /// Nothing before it is known any more.
    floor: u64,
    /// By the bucket's start.
    pub(super) buckets: BTreeMap<u64, Bucket>,
    machines: BTreeMap<MachineId, Boots>,
}

/// What the machines did in one bucket.
pub(super) type Bucket = BTreeMap<(DataCenterId, MachineId), Machine>;

/// What one machine did in one bucket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Machine {
    /// How much of the bucket its reports cover.
    pub(super) millis: u64,
    pub(super) rows: BTreeMap<Subject, Row>,
    /// Of every address and zone that its reports told of, by report: their subjects may take turns.
    pub(super) provisioned: BTreeMap<Provisioned, Capacity>,
}

/// What ports are provisioned to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Provisioned {
    Address(IpAddr),
    Zone(ZoneId),
}

impl Provisioned {
    fn to(subject: &Subject) -> Self {
        match subject {
            Subject::Source { egress_ip, .. } => Self::Address(*egress_ip),
            Subject::Zone { zone, .. } => Self::Zone(zone.clone()),
        }
    }
}

/// Time integral of the ports provisioned, and the fewest there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Capacity {
    pub(super) port_millis: u128,
    pub(super) least: u32,
}

/// What one subject did on one machine in one bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) port_millis: u128,
    /// How much of the bucket there are records of it for.
    pub(super) millis: u64,
    pub(super) min: u32,
    pub(super) max: u32,
    /// What of the port milliseconds was surely in this bucket, however its report's were spread over its period; and
    /// the largest number that was surely in use in it at some moment.
    pub(super) surely: u128,
    pub(super) max_at_least: u32,
    pub(super) granted: u64,
    pub(super) refused: Refused,
}

/// What [`Rollup::add`] did.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum Added {
    /// It is counted.
    New,
    /// It had been counted before; nothing has changed.
    Again,
}

/// Why a report was not counted. It changed nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// It begins before what is kept: acknowledge it, or it will come again.
    #[error("{key} begins at {start} ms, and nothing before {kept_from} ms is kept any more")]
    TooOld {
        /// Of the report.
        key: Key,
        /// Where it begins.
        start: u64,
        /// Where what is kept begins.
        kept_from: u64,
    },
    /// There is another report about this interval: one of them is wrong, or two machines have one name.
    #[error("{key} has come with another content before; do two machines have this name?")]
    OtherContent {
        /// Of the report.
        key: Key,
    },
}

impl AddError {
    /// What the caller can do.
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Input
    }
}

impl Default for Rollup {
    /// In buckets of five minutes, as the published schema has them.
    fn default() -> Self {
        Self { bucket_millis: FIVE_MINUTES, floor: 0, buckets: BTreeMap::new(), machines: BTreeMap::new() }
    }
}

impl Rollup {
    /// An empty one, in buckets of so many milliseconds.
    ///
    /// # Errors
    /// Less than a minute or more than a day.
    pub fn new(bucket_millis: u64) -> Result<Self> {
        if !(60_000..=Period::LONGEST_REPORT_MILLIS).contains(&bucket_millis) {
            return Err(Error::input(format!("buckets of {bucket_millis} ms; expected a minute to a day")));
        }
        Ok(Self { bucket_millis, ..Self::default() })
    }

    /// Length of a bucket in milliseconds.
    pub const fn bucket_millis(&self) -> u64 {
        self.bucket_millis
    }

    /// Counts a report, if it has not been counted yet. In both cases it may be acknowledged.
    ///
    /// # Errors
    /// It begins before what is kept; there was another one with its key.
    pub fn add(&mut self, report: &Report) -> Result<Added, AddError> {
        let (header, key) = (report.header(), report.key());
        let start = header.period.start();
        if start < self.floor {
            return Err(AddError::TooOld { key: key.clone(), start, kept_from: self.floor });
        }
        let seen = Seen::of(report);
        match self.machines.get(&key.machine).map_or(Known::No, |boots| boots.known(key, &seen)) {
            Known::Same => return Ok(Added::Again),
            Known::Other => return Err(AddError::OtherContent { key: key.clone() }),
            Known::No => {}
        }
        self.machines.entry(key.machine.clone()).or_default().insert(key, seen);

        let parts = parts(header.period, self.bucket_millis);
        let shares: Vec<_> = report.records().iter().map(|record| shares(record, &parts)).collect();
        let place = (header.data_center.clone(), key.machine.clone());
        // Records of one address have the same capacity.
        let mut provisioned = BTreeMap::<_, u32>::new();
        for record in report.records() {
            let ports = provisioned.entry(Provisioned::to(&record.subject)).or_default();
            *ports = record.capacity.max(*ports);
        }
        for (nth, (bucket, millis)) in parts.iter().enumerate() {
            let machine = self.buckets.entry(*bucket).or_default().entry(place.clone()).or_default();
            // Periods of one machine overlap only where its clock was set back.
            machine.millis += millis;
            for (to, ports) in &provisioned {
                let none = Capacity { port_millis: 0, least: u32::MAX };
                let all = machine.provisioned.entry(to.clone()).or_insert(none);
                all.port_millis += u128::from(*ports) * u128::from(*millis);
                all.least = all.least.min(*ports);
            }
            for (record, shares) in report.records().iter().zip(&shares) {
                let row = Row::of(record, header.period, *millis, shares[nth]);
                match machine.rows.get_mut(&record.subject) {
                    Some(known) => known.add(&row),
                    None => {
                        machine.rows.insert(record.subject.clone(), row);
                    }
                }
            }
        }
        Ok(Added::New)
    }

    /// Says that nothing more will come of this boot of a machine and of those before it: what is missing is lost.
    /// If nothing has come of it at all, that is a gap.
    pub fn close(&mut self, machine: &MachineId, boot: u64) {
        self.machines.entry(machine.clone()).or_default().close(boot);
    }

    /// What is missing, in the order of machines, boots and intervals. What was never told of cannot be missed: a
    /// machine of which nothing has come; the intervals after the last that has come, as long as their boot may go
    /// on.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for (machine, boots) in &self.machines {
            boots.gaps(machine, &mut gaps);
        }
        gaps
    }

    /// Forgets the buckets that end at or before this moment (milliseconds since 1970). A report that begins in one of
    /// them is refused from now on. Of each machine one interval stays, so that gaps after it are seen;
    /// [`Rollup::forget_machine`] ends that.
    pub fn forget_before(&mut self, millis: u64) {
        let floor = millis / self.bucket_millis * self.bucket_millis;
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        self.buckets = self.buckets.split_off(&floor);
        for boots in self.machines.values_mut() {
            boots.forget_before(floor);
        }
    }

    /// Forgets which reports of a machine have come, because it has left for good. Its buckets stay as long as others
    /// do; the caller takes no more reports of it, which would count twice.
    pub fn forget_machine(&mut self, machine: &MachineId) {
        self.machines.remove(machine);
    }

    /// Takes over what another one has counted, for example that of another data center.
    ///
    /// # Errors
    /// Buckets of another length; a machine that both have reports of, which might count twice. It changes nothing
    /// then.
    pub fn merge(&mut self, mut other: Self) -> Result<()> {
        if self.bucket_millis != other.bucket_millis {
            return Err(Error::input(format!(
                "buckets of {} ms and of {} ms; roll up again in one length",
                self.bucket_millis, other.bucket_millis
            )));
        }
        if let Some(machine) = other.machines.keys().find(|machine| self.machines.contains_key(*machine)) {
            return Err(Error::input(format!(
                "both roll-ups have reports of {machine}; let one data center take the reports of a machine"
            )));
        }
        let floor = self.floor.max(other.floor);
        self.forget_before(floor);
        other.forget_before(floor);
        self.machines.append(&mut other.machines);
        for (start, mut bucket) in other.buckets {
            self.buckets.entry(start).or_default().append(&mut bucket);
        }
        Ok(())
    }
}

impl Row {
    fn of(record: &Record, period: Period, millis: u64, share: Share) -> Self {
        let Share { port_millis, granted, refused } = share;
        // The rest of the period can have had so much.
        let elsewhere = u64::from(record.max) * (period.millis() - millis);
        let surely = record.port_millis.saturating_sub(elsewhere);
        let max_at_least = if millis == period.millis() {
            record.max
        } else {
            record.min.max(surely.div_ceil(millis) as u32)
        };
        Self {
            port_millis: port_millis.into(),
            millis,
            min: record.min,
            max: record.max,
            surely: surely.into(),
            max_at_least,
            granted,
            refused: Refused::from_counts(refused),
        }
    }

    fn add(&mut self, other: &Self) {
        self.port_millis += other.port_millis;
        self.millis += other.millis;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.surely += other.surely;
        self.max_at_least = self.max_at_least.max(other.max_at_least);
        self.granted = self.granted.saturating_add(other.granted);
        self.refused += other.refused;
    }
}

/// The buckets that a period lies in: start, and how many milliseconds of it.
fn parts(period: Period, bucket_millis: u64) -> Vec<(u64, u64)> {
    let mut parts = Vec::with_capacity(1);
    let mut at = period.start();
    while at < period.end() {
        let bucket = at / bucket_millis * bucket_millis;
        let end = period.end().min(bucket + bucket_millis);
        parts.push((bucket, end - at));
        at = end;
    }
    parts
}

/// What falls into one part of a record's period.
#[derive(Clone, Copy, Default)]
struct Share {
    port_millis: u64,
    granted: u64,
    refused: [u64; 9],
}

/// For each of the parts.
fn shares(record: &Record, parts: &[(u64, u64)]) -> Vec<Share> {
    let (port_millis, granted, refused) = (record.port_millis, record.granted, record.refused.counts());
    if parts.len() == 1 {
        return vec![Share { port_millis, granted, refused }];
    }
    let mut shares = vec![Share::default(); parts.len()];
    let mut deal = |amount, to: &dyn Fn(&mut Share) -> &mut u64| {
        if amount == 0 {
            return; // Most reasons to refuse, most of the time.
        }
        for (share, part) in shares.iter_mut().zip(split(amount, parts)) {
            *to(share) = part;
        }
    };
    deal(port_millis, &|share| &mut share.port_millis);
    deal(granted, &|share| &mut share.granted);
    for (reason, amount) in refused.into_iter().enumerate() {
        deal(amount, &|share| &mut share.refused[reason]);
    }
    shares
}

/// Whole numbers with this sum, in proportion to the parts' lengths: the largest remainders are rounded up, the earlier
/// ones where they are equal. So no part is off by one or more.
fn split(amount: u64, parts: &[(u64, u64)]) -> Vec<u64> {
    let whole: u128 = parts.iter().map(|(_, millis)| u128::from(*millis)).sum();
    let products = parts.iter().map(|(_, millis)| u128::from(amount) * u128::from(*millis));
    let (mut shares, remainders): (Vec<u64>, Vec<u128>) =
        products.map(|product| ((product / whole) as u64, product % whole)).unzip();
    let left = amount - shares.iter().sum::<u64>();
    let mut order: Vec<_> = (0..parts.len()).collect();
    order.sort_by_key(|nth| core::cmp::Reverse(remainders[*nth]));
    order[..left as usize].iter().for_each(|nth| shares[*nth] += 1);
    shares
}

#[cfg(test)]
mod tests {
    use super::super::report::testing::{MINUTE, START, minutes, outbox, source, steady, zone};
    use super::super::{Dimension, Of, Outlook, Summary, Then};
    use super::*;

    const BY_ORIGIN: [Dimension; 3] = [Dimension::DataCenter, Dimension::EgressIp, Dimension::Origin];

    fn report(machine: &str, from: u64, to: u64, records: &[(Subject, u32)]) -> Report {
        let period = minutes(from, to);
        let records = records.iter().map(|(subject, ports)| steady(subject.clone(), period, *ports, 100));
        outbox(machine, 7, 9).push(1, period, records.collect(), Then::GoesOn).unwrap().clone()
    }

    fn summaries(rollup: &Rollup, by: &[Dimension], minutes: u64) -> Vec<Summary> {
        rollup.summaries(Of::Sources, by, self::minutes(0, minutes), minutes * MINUTE).unwrap()
    }

    #[test]
    fn the_same_interval_with_another_content_changes_nothing() {
        let mut rollup = Rollup::default();
        let first = report("sjc-m01", 0, 5, &[(source(1, None), 5)]);
        assert_eq!(rollup.add(&first), Ok(Added::New));
        let before = rollup.clone();
        assert_eq!(rollup.add(&first), Ok(Added::Again));
        let other = report("sjc-m01", 0, 5, &[(source(1, None), 6)]);
        let key = other.key().clone();
        assert_eq!(rollup.add(&other), Err(AddError::OtherContent { key: key.clone() }));
        // In another epoch it is the same interval.
        let header = crate::usage::Header { key: Key { epoch: 2, ..key }, ..first.header().clone() };
        let later = Report::new(header, first.records().to_vec()).unwrap();
        assert!(rollup.add(&later).unwrap_err().to_string().contains("another content"));
        assert_eq!(rollup, before);
    }

    #[test]
    fn a_report_over_a_border_is_split_and_nothing_is_lost() {
        let mut rollup = Rollup::default();
        // Of three buckets it covers one, five and one minutes.
        let mut records = vec![steady(source(1, None), minutes(4, 11), 3, 100)];
        (records[0].granted, records[0].refused.exhausted) = (9, 1);
        let report = outbox("sjc-m01", 7, 9).push(1, minutes(4, 11), records, Then::GoesOn).unwrap().clone();
        assert_eq!(rollup.add(&report), Ok(Added::New));
        let parts = rollup.summaries(Of::Sources, &[], minutes(0, 15), 5 * MINUTE).unwrap();
        let told =
            |s: &Summary| (s.period.start(), s.port_millis, s.granted, s.refused.exhausted, s.average());
        assert_eq!(
            parts.iter().map(told).collect::<Vec<_>>(),
            [
                (START, 180_000, 1, 0, 3.0),
                (START + 5 * MINUTE, 900_000, 7, 1, 3.0),
                (START + 10 * MINUTE, 180_000, 1, 0, 3.0)
            ]
        );
        assert_eq!(split(10, &[(0, 1), (1, 1), (2, 1)]), [4, 3, 3]);
        assert_eq!(split(u64::MAX, &[(0, 1), (1, 2)]), [u64::MAX / 3, u64::MAX / 3 * 2]);
        assert_eq!(split(0, &[(0, 1), (1, 2)]), [0, 0]);
    }

    #[test]
    fn what_is_summed_up_is_exact_and_what_cannot_be_is_bounded() {
        let mut rollup = Rollup::default();
        let (a, b) = (source(1, Some(443)), source(1, Some(80)));
        for report in [
            report("sjc-m01", 0, 5, &[(a.clone(), 60), (b.clone(), 10)]),
            // The same machine, and the other origin is idle: there is no record of it.
            report("sjc-m02", 0, 5, &[(a.clone(), 20)]),
            report("fra-m01", 0, 5, &[(a.clone(), 90)]),
        ] {
            assert_eq!(rollup.add(&report), Ok(Added::New));
        }
        let all = &summaries(&rollup, &[], 5)[0];
        assert_eq!((all.average(), all.max_at_most, all.min_at_least, all.granted), (180.0, 180, 180, 40));
        assert_eq!((all.refused.exhausted, all.refused.total()), (8, 12));
        // Three machines with 100 ports of the address each, whatever they are used for.
        assert_eq!((all.capacity, all.max_utilization), (300.0, Some(90.0)));
        let by_origin = summaries(&rollup, &BY_ORIGIN, 5);
        let told: Vec<_> = by_origin
            .iter()
            .map(|s| {
                (s.group.data_center.as_ref().unwrap().as_str(), s.average(), s.capacity, s.avg_utilization)
            })
            .collect();
        // The idle machine's ports count.
        assert_eq!(
            told,
            [
                ("fra", 90.0, 100.0, Some(90.0)),
                ("sjc", 10.0, 200.0, Some(5.0)),
                ("sjc", 80.0, 200.0, Some(40.0)),
            ]
        );
        let by_machine = summaries(&rollup, &[Dimension::Machine, Dimension::Protocol], 5);
        assert_eq!(by_machine.iter().map(|s| s.capacity).collect::<Vec<_>>(), [100.0; 3]);
        assert_eq!(by_machine[1].average(), 70.0);
    }

    #[test]
    fn a_bucket_without_a_record_was_idle_and_one_without_a_report_is_unknown() {
        let mut rollup = Rollup::default();
        let mut outbox = outbox("sjc-m01", 7, 99);
        // Ports in use in buckets of five minutes; 0: no record towards the origin; none: no report.
        let buckets = [Some(40), Some(0), None, Some(20), Some(60)];
        for (nth, ports) in (0..).zip(buckets) {
            let period = minutes(5 * nth, 5 * nth + 5);
            let mut records = vec![steady(source(1, None), period, 0, 100)];
            if let Some(ports) = ports.filter(|ports| *ports > 0) {
                records.push(steady(source(1, Some(443)), period, ports, 100));
            }
            let report = outbox.push(1, period, records, Then::GoesOn).unwrap();
            if ports.is_some() {
                assert_eq!(rollup.add(report), Ok(Added::New));
            }
        }
        let hour = &rollup.summaries(Of::Sources, &BY_ORIGIN, minutes(0, 55), 60 * MINUTE).unwrap()[1];
        assert_eq!((hour.period.start(), hour.period.end()), (START, START + 55 * MINUTE));
        assert_eq!((hour.average(), hour.samples(), hour.min_at_least, hour.max_at_most), (30.0, 4, 0, 60));
        assert_eq!((hour.avg_utilization, hour.max_utilization), (Some(30.0), Some(60.0)));
        let percentiles = [0, 250, 251, 500, 501, 750, 751, 1_000, 9_999].map(|n| hour.percentile(n));
        assert_eq!(percentiles, [0.0, 0.0, 20.0, 20.0, 40.0, 40.0, 60.0, 60.0, 60.0]);
        let gaps = rollup.gaps();
        assert_eq!((gaps.len(), gaps[0].first, gaps[0].last), (1, 2, Some(2)));
        assert_eq!(gaps[0].counted.unwrap().sources.granted, 10);
        assert!(rollup.summaries(Of::Sources, &[], minutes(0, 5), MINUTE).is_err());
        assert!(rollup.summaries(Of::Sources, &[], minutes(0, 5), 0).is_err());
        assert_eq!(rollup.summaries(Of::Zones, &[], minutes(0, 5), 5 * MINUTE).unwrap(), []);
    }

    #[test]
    fn the_maximum_of_a_sum_lies_between_its_bounds() {
        let mut rollup = Rollup::default();
        let mut record = steady(source(1, Some(443)), minutes(0, 5), 50, 100);
        (record.min, record.max) = (10, 90);
        for machine in ["sjc-m01", "sjc-m02", "sjc-m03"] {
            let mut outbox = outbox(machine, 7, 9);
            let report = outbox.push(1, minutes(0, 5), vec![record.clone()], Then::GoesOn).unwrap();
            assert_eq!(rollup.add(report), Ok(Added::New));
        }
        let all = &summaries(&rollup, &[], 5)[0];
        assert_eq!((all.max_at_least, all.max_at_most, all.min_at_least), (150, 270, 30));
        let one = &summaries(&rollup, &[Dimension::Machine], 5)[0];
        assert_eq!((one.max_at_least, one.max_at_most, one.min_at_least), (90, 90, 10));
    }

    #[test]
    fn what_is_forgotten_is_refused_and_not_counted_silently() {
        let mut rollup = Rollup::default();
        let mut outbox = outbox("sjc-m01", 7, 99);
        let reports: Vec<_> = (0..6)
            .map(|nth| {
                let period = minutes(5 * nth, 5 * nth + 5);
                let records = vec![steady(source(1, None), period, 5, 100)];
                outbox.push(1, period, records, Then::GoesOn).unwrap().clone()
            })
            .collect();
        for nth in [0, 2, 5] {
            assert_eq!(rollup.add(&reports[nth]), Ok(Added::New));
        }
        rollup.forget_before(START + 14 * MINUTE);
        let granted = |rollup: &Rollup| summaries(rollup, &[], 30).iter().map(|s| s.granted).sum::<u64>();
        assert_eq!(granted(&rollup), 20, "the bucket that ends later is kept");
        rollup.forget_before(START + 20 * MINUTE);
        assert_eq!(granted(&rollup), 10);
        for nth in [0, 1, 2, 3] {
            let error = rollup.add(&reports[nth]).unwrap_err();
            assert!(matches!(error, AddError::TooOld { kept_from, .. } if kept_from == START + 20 * MINUTE));
        }
        // What was forgotten is not missed; what may still come is.
        let gaps = rollup.gaps();
        assert_eq!((gaps.len(), gaps[0].first, gaps[0].last), (1, 3, Some(4)));
        assert_eq!(rollup.add(&reports[4]), Ok(Added::New));
        assert_eq!(rollup.gaps()[0].last, Some(3));
        // After a long silence the boot goes on: nothing is missed.
        rollup.forget_before(START + 600 * MINUTE);
        assert!(rollup.buckets.is_empty() && rollup.gaps().is_empty());
        let period = minutes(600, 605);
        assert_eq!(rollup.add(outbox.push(1, period, Vec::new(), Then::GoesOn).unwrap()), Ok(Added::New));
        assert_eq!(rollup.gaps(), []);
        rollup.forget_before(0);
        assert_eq!(rollup.floor, START + 600 * MINUTE);
    }

    #[test]
    fn boots_of_which_nothing_came_are_missed() {
        let mut rollup = Rollup::default();
        let first = report("sjc-m01", 0, 5, &[(source(1, None), 5)]);
        assert_eq!(rollup.add(&first), Ok(Added::New));
        assert_eq!(rollup.gaps(), [], "it may go on");
        let id: MachineId = "sjc-m01".parse().unwrap();
        let mut outbox = crate::usage::Outbox::new(id.clone(), "sjc".parse().unwrap(), 12, Some(9), 9);
        assert_eq!(
            rollup.add(outbox.push(1, minutes(20, 25), Vec::new(), Then::Ends).unwrap()),
            Ok(Added::New)
        );
        rollup.close(&id, 15);
        let told: Vec<_> = rollup
            .gaps()
            .into_iter()
            .map(|gap| {
                assert_eq!((gap.last, gap.outlook), (None, Outlook::Lost));
                let minute = |at: Option<u64>| at.map(|at| (at - START) / MINUTE);
                (gap.boot, gap.first, minute(gap.after), minute(gap.before))
            })
            .collect();
        assert_eq!(told, [(7, 1, Some(5), Some(20)), (9, 0, Some(5), Some(20)), (15, 0, Some(25), None)]);
        // A copy that was under way closes the gap.
        let mut late = first.header().clone();
        (late.key.boot, late.then) = (9, Then::Ends);
        assert_eq!(rollup.add(&Report::new(late, first.records().to_vec()).unwrap()), Ok(Added::New));
        assert_eq!(rollup.gaps().iter().map(|gap| gap.boot).collect::<Vec<_>>(), [7, 15]);
        rollup.forget_machine(&id);
        assert_eq!(rollup.gaps(), []);
    }

    #[test]
    fn roll_ups_of_data_centers_are_merged_unless_something_might_count_twice() {
        let [mut sjc, mut fra] = [(); 2].map(|()| Rollup::default());
        assert_eq!(sjc.add(&report("sjc-m01", 0, 5, &[(source(1, None), 5)])), Ok(Added::New));
        let record = [(source(1, None), 7), (zone("a.example"), 7)];
        assert_eq!(fra.add(&report("fra-m01", 0, 5, &record)), Ok(Added::New));
        assert!(sjc.merge(sjc.clone()).unwrap_err().message().contains("reports of sjc-m01"));
        assert!(
            sjc.merge(Rollup::new(MINUTE).unwrap())
                .unwrap_err()
                .message()
                .contains("300000 ms and of 60000 ms")
        );
        sjc.merge(fra.clone()).unwrap();
        assert_eq!(summaries(&sjc, &[], 5)[0].average(), 12.0);
        let zones = sjc.summaries(Of::Zones, &[Dimension::Zone], minutes(0, 5), 5 * MINUTE).unwrap();
        assert_eq!((zones.len(), zones[0].average(), zones[0].avg_utilization), (1, 7.0, Some(7.0)));
        // What one has forgotten, both have.
        let mut old = Rollup::default();
        old.forget_before(START + 5 * MINUTE);
        fra.merge(old).unwrap();
        assert_eq!((summaries(&fra, &[], 5), fra.floor), (Vec::new(), START + 5 * MINUTE));
        assert!(Rollup::new(59_999).is_err() && Rollup::new(86_400_001).is_err());
    }
}
