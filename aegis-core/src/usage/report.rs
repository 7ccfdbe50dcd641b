//! What one machine says about one interval.

use core::fmt;
use core::hash::Hash;
use core::time::Duration;

use super::record::{Record, Subject};
use crate::error::{Error, Result};
use crate::id::{DataCenterId, MachineId};
use crate::net::canonical_ip;

/// The largest count that one record may have: what every reader of JSON reads exactly. A machine that grants a
/// million leases a second needs three centuries for it.
const MAX_COUNT: u64 = (1 << 53) - 1;

/// What makes redelivery harmless: a machine says one thing about one interval, however often it comes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Who reports.
    pub machine: MachineId,
    /// Which life of the machine's process. It must grow from one to the next (the start in milliseconds since 1970
    /// will do): a later boot says that what an earlier one has not sent can never come.
    pub boot: u64,
    /// The layout that was in force at the end of the interval.
    pub epoch: u64,
    /// 0, 1, 2, ... within a boot, through all epochs: a number that is missing is a report that is missing.
    pub interval: u64,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, boot, epoch, interval } = self;
        write!(f, "interval {interval} of boot {boot} of {machine} in epoch {epoch}")
    }
}

/// A span of time by the machine's clock, in milliseconds since 1970 (UTC): start included, end not. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Period {
    start: u64,
    end: u64,
}

impl Period {
    /// The longest period of a report: a day.
    pub const LONGEST_REPORT_MILLIS: u64 = 24 * 60 * 60 * 1_000;

    /// 10000-01-01T00:00:00Z: from here on a date has no four-digit year.
    const END_OF_TIME: u64 = 253_402_300_800_000;

    /// The milliseconds `start..end`.
    ///
    /// # Errors
    /// It is empty or runs backwards, or ends after the year 9999.
    pub fn new(start: u64, end: u64) -> Result<Self> {
        if start >= end {
            return Err(Error::input(format!(
                "a period from {start} to {end} ms has no length; end after it starts"
            )));
        }
        if end > Self::END_OF_TIME {
            return Err(Error::input(format!(
                "a period ends at {end} ms, after the year 9999; give milliseconds since 1970"
            )));
        }
        Ok(Self { start, end })
    }

    /// The `length` that ends at `end`: that of an interval that a meter has measured.
    ///
    /// # Errors
    /// As [`Period::new`]; a length of less than a millisecond; it would begin before 1970.
    pub fn ending(end: u64, length: Duration) -> Result<Self> {
        let start = u64::try_from(length.as_millis()).ok().and_then(|millis| end.checked_sub(millis));
        let start = start.ok_or_else(|| {
            Error::input(format!("a period of {length:?} that ends at {end} ms begins before 1970"))
        })?;
        Self::new(start, end)
    }

    /// The milliseconds `start..end`, at most [`Period::LONGEST_REPORT_MILLIS`].
    pub(super) fn report(start: u64, end: u64) -> Result<Self> {
        let period = Self::new(start, end)?;
        if period.millis() > Self::LONGEST_REPORT_MILLIS {
            let millis = period.millis();
            return Err(Error::input(format!("a period of {millis} ms; report at least once a day")));
        }
        Ok(period)
    }

    /// Of whole buckets, which may end a little after the year 9999.
    pub(super) const fn spanning(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// First millisecond.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The millisecond after the last.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Length in milliseconds, never 0.
    pub const fn millis(self) -> u64 {
        self.end - self.start
    }
}

/// Sums over records. They saturate, which no machine lives long enough to see.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Totals {
    /// Time integral of live + held, ports x milliseconds.
    pub port_millis: u64,
    /// Leases granted.
    pub granted: u64,
    /// Acquires refused, for every reason together.
    pub refused: u64,
}

impl Totals {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            port_millis: self.port_millis.saturating_add(other.port_millis),
            granted: self.granted.saturating_add(other.granted),
            refused: self.refused.saturating_add(other.refused),
        }
    }

    /// What is more than `other`; none if there is less of something.
    pub(super) fn minus(self, other: Self) -> Option<Self> {
        Some(Self {
            port_millis: self.port_millis.checked_sub(other.port_millis)?,
            granted: self.granted.checked_sub(other.granted)?,
            refused: self.refused.checked_sub(other.refused)?,
        })
    }
}

/// Totals of sources and of zones. They are not added up: what a zone does is done from sources.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Counted {
    /// Over all egress IPs and origins.
    pub sources: Totals,
    /// Over all zones.
    pub zones: Totals,
}

impl Counted {
    pub(super) const NONE: Self = {
        let none = Totals { port_millis: 0, granted: 0, refused: 0 };
        Self { sources: none, zones: none }
    };

    /// What records say together.
    pub fn of(records: &[Record]) -> Self {
        let mut counted = Self::default();
        for record in records {
            let sum = match record.subject {
                Subject::Source { .. } => &mut counted.sources,
                Subject::Zone { .. } => &mut counted.zones,
            };
            *sum = sum.plus(Totals {
                port_millis: record.port_millis,
                granted: record.granted,
                refused: record.refused.total(),
            });
        }
        counted
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { sources: self.sources.plus(other.sources), zones: self.zones.plus(other.zones) }
    }

    pub(super) fn minus(self, other: Self) -> Option<Self> {
        Some(Self { sources: self.sources.minus(other.sources)?, zones: self.zones.minus(other.zones)? })
    }
}

/// Does the boot go on after this interval?
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Then {
    /// There will be another interval, or a crash.
    GoesOn,
    /// The process ends in order: this interval is the last of its boot.
    Ends,
}

/// All of a report but its records.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Header {
    /// Which interval.
    pub key: Key,
    /// When that was, by the machine's clock.
    pub period: Period,
    /// Where the machine is.
    pub data_center: DataCenterId,
    /// The machine's boot before this one, if it remembers: so that a boot of which nothing has come is missed.
    pub boot_before: Option<u64>,
    /// Sums over all intervals of this boot up to this one: so that a later report tells what lost ones held.
    pub since_boot: Counted,
    /// The oldest interval that the machine would still send again when it made this report. What is older and has not
    /// come can never come.
    pub oldest_unsent: u64,
    /// Reports of this boot that were dropped before they were acknowledged, because too many waited.
    pub dropped: u64,
    /// Whether it is the last.
    pub then: Then,
}

/// What one machine says about one interval: checked, the records in the order of their subjects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Report {
    header: Header,
    records: Vec<Record>,
}

impl Report {
    /// A report of these records, in any order.
    ///
    /// # Errors
    /// A period of more than a day; two records of one subject; a record whose numbers do not fit together or are out
    /// of bounds; totals that are less than the interval's own; an oldest unsent interval after this one; a boot before
    /// that is not.
    pub fn new(header: Header, mut records: Vec<Record>) -> Result<Self> {
        let (key, period) = (&header.key, header.period);
        let fault = |what: String| Err(Error::input(format!("{key}: {what}")));
        Period::report(period.start, period.end).map_err(|error| error.at(key))?;
        if header.oldest_unsent > key.interval {
            return fault(format!("the oldest unsent interval is {}, after this one", header.oldest_unsent));
        }
        if header.dropped > header.oldest_unsent {
            return fault(format!(
                "{} reports were dropped, but only {} are older than what is unsent",
                header.dropped, header.oldest_unsent
            ));
        }
        if let Some(before) = header.boot_before.filter(|before| *before >= key.boot) {
            return fault(format!("the boot before is {before}; boots must grow"));
        }
        for record in &mut records {
            if let Subject::Source { egress_ip, .. } = &mut record.subject {
                *egress_ip = canonical_ip(*egress_ip);
            }
            if let Some((_, what)) = fault_of(record, period) {
                return fault(format!("{}: {what}", Named(&record.subject)));
            }
        }
        records.sort_unstable_by(|a, b| a.subject.cmp(&b.subject));
        if let Some(pair) = records.windows(2).find(|pair| same_subject(&pair[0].subject, &pair[1].subject)) {
            return fault(format!("two records of {}; add them up", Named(&pair[0].subject)));
        }
        if header.since_boot.minus(Counted::of(&records)).is_none() {
            return fault("the totals since boot are less than what this interval holds".into());
        }
        Ok(Self { header, records })
    }

    /// All but the records.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The key.
    pub const fn key(&self) -> &Key {
        &self.header.key
    }

    /// The records, in the order of their subjects.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

/// An address towards an origin has one owner: with another one it is the same subject. A zone that changes its account is
/// two, until what it had before has ended.
fn same_subject(a: &Subject, b: &Subject) -> bool {
    match (a, b) {
        (Subject::Zone { .. }, Subject::Zone { .. }) => a == b,
        _ => (a.egress_ip(), a.origin()) == (b.egress_ip(), b.origin()) && a.egress_ip().is_some(),
    }
}

/// What does not fit together in a record: the column that says so, and why.
pub(super) fn fault_of(record: &Record, period: Period) -> Option<(&'static str, String)> {
    let Record { port_millis, min, max, live, held, granted, refused, .. } = record;
    let [least, most] = [min, max].map(|ports| u64::from(*ports) * period.millis());
    let now = u64::from(*live) + u64::from(*held);
    if min > max {
        return Some(("minInUse", format!("a minimum of {min} above the maximum of {max}")));
    }
    if !(least..=most).contains(port_millis) {
        let millis = period.millis();
        let what = format!(
            "{port_millis} port milliseconds; {min} to {max} ports for {millis} ms are {least} to {most}"
        );
        return Some(("portMillis", what));
    }
    if !(u64::from(*min)..=u64::from(*max)).contains(&now) {
        return Some(("live", format!("{now} live and held at the end; expected {min} to {max}")));
    }
    let refused = refused.counts().map(|count| ("refused", count));
    let mut counts = [("granted", *granted)].into_iter().chain(refused);
    let (field, count) = counts.find(|(_, count)| *count > MAX_COUNT)?;
    Some((field, format!("a count of {count}; at most {MAX_COUNT} can be told")))
}

/// A subject in messages.
struct Named<'a>(&'a Subject);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Subject::Source { egress_ip, origin: Some(origin), .. } => {
                write!(f, "{egress_ip} towards {origin}")
            }
            Subject::Source { egress_ip, origin: None, .. } => write!(f, "{egress_ip} towards every origin"),
            Subject::Zone { zone, .. } => write!(f, "zone {zone}"),
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::net::{Origin, Protocol};
    use crate::usage::{Outbox, Refused};

    /// 2025-01-10T00:05:00Z.
    pub(in crate::usage) const START: u64 = 1_736_467_500_000;
    pub(in crate::usage) const MINUTE: u64 = 60_000;

    pub(in crate::usage) fn source(last: u8, port: Option<u16>) -> Subject {
        let origin =
            |port| Origin::new(Protocol::Tcp, ([203, 0, 113, 150], port).into()).expect("a usable origin");
        Subject::Source {
            egress_ip: [192, 0, 2, last].into(),
            origin: port.map(origin),
            account: Some("acme".parse().unwrap()),
            zone: None,
        }
    }

    pub(in crate::usage) fn zone(name: &str) -> Subject {
        Subject::Zone { zone: name.parse().unwrap(), account: "acme".parse().unwrap() }
    }

    /// The same number of ports all the time.
    pub(in crate::usage) fn steady(subject: Subject, period: Period, ports: u32, capacity: u32) -> Record {
        Record {
            subject,
            port_millis: u64::from(ports) * period.millis(),
            min: ports,
            max: ports,
            live: ports,
            held: 0,
            resting: 3,
            parked: 1,
            capacity,
            granted: 10,
            refused: Refused { exhausted: 2, tenure_over: 1, ..Refused::default() },
        }
    }

    pub(in crate::usage) fn minutes(from: u64, to: u64) -> Period {
        Period::new(START + from * MINUTE, START + to * MINUTE).unwrap()
    }

    pub(in crate::usage) fn outbox(machine: &str, boot: u64, most: usize) -> Outbox {
        let data_center = machine.split('-').next().unwrap();
        Outbox::new(machine.parse().unwrap(), data_center.parse().unwrap(), boot, None, most)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{minutes, outbox, source, steady, zone};
    use super::*;
    use crate::usage::Refused;

    fn refused(change: impl Fn(&mut Header, &mut Vec<Record>)) -> String {
        let period = minutes(0, 5);
        let mut outbox = outbox("sjc-m01", 7, 2);
        let records =
            vec![steady(source(1, Some(443)), period, 5, 2_048), steady(zone("a.example"), period, 5, 9)];
        let report = outbox.push(1, period, records, Then::GoesOn).unwrap().clone();
        let Report { mut header, mut records } = report;
        assert!(Report::new(header.clone(), records.clone()).is_ok());
        change(&mut header, &mut records);
        Report::new(header, records).unwrap_err().to_string()
    }

    #[test]
    fn a_report_that_contradicts_itself_is_refused_by_name() {
        let error = refused(|_, records| records[0].min = 6);
        assert!(
            error.contains("of sjc-m01 in epoch 1: 192.0.2.1 towards tcp 203.0.113.150:443: a minimum of 6")
        );
        assert!(refused(|_, records| records[0].port_millis += 1).contains("1500001 port milliseconds"));
        assert!(refused(|_, records| records[0].port_millis -= 1).contains("1499999 port milliseconds"));
        assert!(refused(|_, records| records[1].held = 1).contains("zone a.example: 6 live and held"));
        assert!(refused(|_, records| records[0].granted = 1 << 53).contains("a count of 9007199254740992"));
        assert!(refused(|_, records| records[0].refused.quota = u64::MAX).contains("a count of"));
        assert!(refused(|_, records| records.push(records[0].clone())).contains("two records of 192.0.2.1"));
        let other_owner = |_: &mut Header, records: &mut Vec<Record>| {
            let mut other = records[0].clone();
            let Subject::Source { account, egress_ip, .. } = &mut other.subject else { unreachable!() };
            (*account, *egress_ip) = (None, "::ffff:192.0.2.1".parse().unwrap());
            records.insert(0, other);
        };
        assert!(refused(other_owner).contains("two records of 192.0.2.1"));
        assert!(refused(|header, _| header.oldest_unsent = 1).contains("unsent interval is 1, after this"));
        assert!(refused(|header, _| header.dropped = 1).contains("1 reports were dropped"));
        assert!(refused(|header, _| header.boot_before = Some(7)).contains("boots must grow"));
        assert!(
            refused(|header, _| header.since_boot.zones.granted = 9).contains("totals since boot are less")
        );
        assert!(refused(|header, _| header.period.end += 86_400_000).contains("at least once a day"));
        assert!(Period::new(5, 5).is_err() && Period::new(5, 4).is_err());
        assert!(Period::new(0, u64::MAX).unwrap_err().message().contains("after the year 9999"));
    }

    #[test]
    fn zones_are_not_added_to_the_sources_that_they_leave_from() {
        let period = minutes(0, 1);
        let records = [steady(source(1, None), period, 5, 9), steady(zone("a.example"), period, 4, 9)];
        let counted = Counted::of(&records);
        assert_eq!(counted.sources, Totals { port_millis: 300_000, granted: 10, refused: 3 });
        assert_eq!(counted.zones.port_millis, 240_000);
        let most =
            Record { refused: Refused { quota: u64::MAX, ..Refused::default() }, ..records[0].clone() };
        assert_eq!(Counted::of(&[most.clone(), most]).sources.refused, u64::MAX);
    }
}
