//! The columns of a record in written form: one list for whoever writes and whoever reads.
//!
//! A row is a record with its report's header, flat. What can be computed from the rest (dates, percentages) is written
//! for dashboards, and must be right where it is read.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

use super::date::five_minutes;
use super::record::{Record, Refused, Subject};
use super::report::{Counted, Header, Key, Period, Report, Then, Totals, fault_of};
use crate::error::{Error, Result};
use crate::id::MachineId;
use crate::net::{Origin, Protocol, canonical_ip};

/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Flag,
    Small,
    Integer,
    Float,
    Text,
}

/// What a row has in a column.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Cell {
    Flag(bool),
    Integer(u64),
    Float(f64),
    Text(String),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// A column: its name, what it holds, and its value in a row; none where the record has nothing there. A report without
/// records has one row without a record.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) value: fn(&Header, &[Record], Option<&Record>) -> Option<Cell>,
}

macro_rules! columns {
    ($($name:literal $kind:ident |$header:pat_param, $records:pat_param, $record:pat_param| $value:expr;)*) => {
        &[$(Column {
            name: $name,
            kind: Kind::$kind,
            value: |$header, $records, $record| Some(columns!(@ $kind $value)),
        }),*]
    };
    (@ Flag $value:expr) => { Cell::Flag($value) };
    (@ Small $value:expr) => { Cell::Integer(u64::from($value)) };
    (@ Integer $value:expr) => { Cell::Integer($value) };
    (@ Float $value:expr) => { Cell::Float($value) };
    (@ Text $value:expr) => { Cell::Text($value.to_string()) };
}

pub(super) const COLUMNS: &[Column] = columns! {
    "version" Integer |_, _, _| VERSION;
    // The key, and what belongs to the whole report.
    "machine" Text |h, _, _| h.key.machine;
    "boot" Integer |h, _, _| h.key.boot;
    "epoch" Integer |h, _, _| h.key.epoch;
    "interval" Integer |h, _, _| h.key.interval;
    "records" Integer |_, records, _| records.len() as u64;
    "bootBefore" Integer |h, _, _| h.boot_before?;
    "bootEnds" Flag |h, _, _| h.then == Then::Ends;
    "oldestUnsent" Integer |h, _, _| h.oldest_unsent;
    "dropped" Integer |h, _, _| h.dropped;
    "bootPortMillis" Integer |h, _, _| h.since_boot.sources.port_millis;
    "bootGranted" Integer |h, _, _| h.since_boot.sources.granted;
    "bootRefused" Integer |h, _, _| h.since_boot.sources.refused;
    "bootZonePortMillis" Integer |h, _, _| h.since_boot.zones.port_millis;
    "bootZoneGranted" Integer |h, _, _| h.since_boot.zones.granted;
    "bootZoneRefused" Integer |h, _, _| h.since_boot.zones.refused;
    "periodStart" Integer |h, _, _| h.period.start();
    "periodEnd" Integer |h, _, _| h.period.end();
    "datetimeFiveMinutes" Text |h, _, _| five_minutes(h.period.start());
    "popName" Text |h, _, _| h.data_center;
    // The subject.
    "subject" Text |_, _, r| match r.map(|record| &record.subject) {
        Some(Subject::Source { .. }) => SOURCE,
        Some(Subject::Zone { .. }) => ZONE,
        None => NOTHING,
    };
    "egressIp" Text |_, _, r| r?.subject.egress_ip()?;
    "protocol" Text |_, _, r| r?.subject.origin()?.protocol();
    "origin" Text |_, _, r| r?.subject.origin()?.address();
    "popUtilizationKey" Text |h, _, r| {
        let subject = &r?.subject;
        format!("{} {} {}", h.data_center, subject.egress_ip()?, subject.origin()?.address())
    };
    "account" Text |_, _, r| r?.subject.account()?;
    "zone" Text |_, _, r| r?.subject.zone()?;
    // What it did.
    "portMillis" Integer |_, _, r| r?.port_millis;
    "avgInUse" Float |h, _, r| average(h, r?);
    "minInUse" Small |_, _, r| r?.min;
    "maxInUse" Small |_, _, r| r?.max;
    "live" Small |_, _, r| r?.live;
    "held" Small |_, _, r| r?.held;
    "resting" Small |_, _, r| r?.resting;
    "parked" Small |_, _, r| r?.parked;
    "capacity" Small |_, _, r| r?.capacity;
    "avgUtilization" Float |h, _, r| percent(average(h, r?), r?)?;
    "maxUtilization" Float |_, _, r| percent(r?.max.into(), r?)?;
    "granted" Integer |_, _, r| r?.granted;
    "refused" Integer |_, _, r| r?.refused.total();
    "refusedExhausted" Integer |_, _, r| r?.refused.exhausted;
    "refusedInUse" Integer |_, _, r| r?.refused.in_use;
    "refusedOriginLimit" Integer |_, _, r| r?.refused.origin_limit;
    "refusedQuota" Integer |_, _, r| r?.refused.quota;
    "refusedAccountQuota" Integer |_, _, r| r?.refused.account_quota;
    "refusedTooManyOrigins" Integer |_, _, r| r?.refused.too_many_origins;
    "refusedNoShare" Integer |_, _, r| r?.refused.no_share;
    "refusedNotActive" Integer |_, _, r| r?.refused.not_active;
    "refusedTenureOver" Integer |_, _, r| r?.refused.tenure_over;
};

/// In the order of [`Refused::counts`].
const REFUSED: [&str; Refused::REASONS.len()] = [
    "refusedExhausted",
    "refusedInUse",
    "refusedOriginLimit",
    "refusedQuota",
    "refusedAccountQuota",
    "refusedTooManyOrigins",
    "refusedNoShare",
    "refusedNotActive",
    "refusedTenureOver",
];

const SOURCE: &str = "source";
const ZONE: &str = "zone";
const NOTHING: &str = "nothing";

fn average(header: &Header, record: &Record) -> f64 {
    record.port_millis as f64 / header.period.millis() as f64
}

/// Of the ports provisioned; none where there are none.
fn percent(in_use: f64, record: &Record) -> Option<f64> {
    (record.capacity > 0).then(|| 100.0 * in_use / f64::from(record.capacity))
}

/// The records of a report, and none once where there are none: a row each.
pub(super) fn rows(report: &Report) -> impl Iterator<Item = Option<&Record>> {
    let nothing = report.records().is_empty().then_some(None);
    report.records().iter().map(Some).chain(nothing)
}

/// A row as it was read: cells by the name of their column, and where it is (for example `line 3`).
pub(super) struct Row {
    pub(super) place: String,
    pub(super) cells: BTreeMap<String, Option<Cell>>,
}

impl Row {
    fn fault(&self, field: &str, what: impl fmt::Display) -> Error {
        Error::input(format!("{}, field {field}: {what}", self.place))
    }

    fn cell(&self, field: &str) -> Result<Option<&Cell>> {
        self.cells.get(field).map(Option::as_ref).ok_or_else(|| self.fault(field, "it is missing"))
    }

    fn integer<T: TryFrom<u64>>(&self, field: &str) -> Result<T> {
        let cell = self.cell(field)?;
        cell.and_then(integer).and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            let bits = 8 * size_of::<T>();
            self.fault(field, format!("{}; expected an integer of {bits} bits", Shown(cell)))
        })
    }

    fn flag(&self, field: &str) -> Result<bool> {
        match self.cell(field)? {
            Some(Cell::Flag(flag)) => Ok(*flag),
            other => Err(self.fault(field, format!("{}; expected true or false", Shown(other)))),
        }
    }

    fn text(&self, field: &str) -> Result<Option<&str>> {
        match self.cell(field)? {
            Some(Cell::Text(text)) => Ok(Some(text)),
            None => Ok(None),
            other => Err(self.fault(field, format!("{}; expected text in quotes", Shown(other)))),
        }
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(&self, field: &str) -> Result<Option<T>> {
        let parsed = self.text(field)?.map(str::parse).transpose();
        parsed.map_err(|error| self.fault(field, format!("{}: {error}", Shown(self.cells[field].as_ref()))))
    }

    fn required<T: FromStr<Err: fmt::Display>>(&self, field: &str) -> Result<T> {
        self.parsed(field)?.ok_or_else(|| self.fault(field, "null; expected text in quotes"))
    }

    fn header(&self) -> Result<Header> {
        let totals = |[port_millis, granted, refused]: [&str; 3]| {
            Ok::<_, Error>(Totals {
                port_millis: self.integer(port_millis)?,
                granted: self.integer(granted)?,
                refused: self.integer(refused)?,
            })
        };
        let period = Period::report(self.integer("periodStart")?, self.integer("periodEnd")?);
        Ok(Header {
            key: Key {
                machine: self.required::<MachineId>("machine")?,
                boot: self.integer("boot")?,
                epoch: self.integer("epoch")?,
                interval: self.integer("interval")?,
            },
            period: period.map_err(|error| self.fault("periodEnd", error))?,
            data_center: self.required("popName")?,
            boot_before: match self.cell("bootBefore")? {
                None => None,
                Some(_) => Some(self.integer("bootBefore")?),
            },
            since_boot: Counted {
                sources: totals(["bootPortMillis", "bootGranted", "bootRefused"])?,
                zones: totals(["bootZonePortMillis", "bootZoneGranted", "bootZoneRefused"])?,
            },
            oldest_unsent: self.integer("oldestUnsent")?,
            dropped: self.integer("dropped")?,
            then: if self.flag("bootEnds")? { Then::Ends } else { Then::GoesOn },
        })
    }

    fn subject(&self) -> Result<Option<Subject>> {
        Ok(Some(match self.text("subject")? {
            Some(SOURCE) => {
                let egress_ip = canonical_ip(self.required("egressIp")?);
                let origin = match self.parsed("origin")? {
                    None => None,
                    Some(address) => {
                        let protocol: Protocol = self.required("protocol")?;
                        Some(Origin::new(protocol, address).map_err(|e| self.fault("origin", e))?)
                    }
                };
                Subject::Source {
                    egress_ip,
                    origin,
                    account: self.parsed("account")?,
                    zone: self.parsed("zone")?,
                }
            }
            Some(ZONE) => Subject::Zone { zone: self.required("zone")?, account: self.required("account")? },
            Some(NOTHING) => return Ok(None),
            _ => {
                let shown = Shown(self.cells["subject"].as_ref());
                let what = format!("{shown}; expected {SOURCE:?}, {ZONE:?} or {NOTHING:?}");
                return Err(self.fault("subject", what));
            }
        }))
    }

    fn record(&self, period: Period) -> Result<Option<Record>> {
        let Some(subject) = self.subject()? else { return Ok(None) };
        let mut refused = [0; REFUSED.len()];
        for (count, field) in refused.iter_mut().zip(REFUSED) {
            *count = self.integer(field)?;
        }
        let record = Record {
            subject,
            port_millis: self.integer("portMillis")?,
            min: self.integer("minInUse")?,
            max: self.integer("maxInUse")?,
            live: self.integer("live")?,
            held: self.integer("held")?,
            resting: self.integer("resting")?,
            parked: self.integer("parked")?,
            capacity: self.integer("capacity")?,
            granted: self.integer("granted")?,
            refused: Refused::from_counts(refused),
        };
        match fault_of(&record, period) {
            Some((field, what)) => Err(self.fault(field, what)),
            None => Ok(Some(record)),
        }
    }

    /// Is every cell what would be written? So nothing is read that means something else to somebody else.
    fn check(&self, report: &Report, record: Option<&Record>) -> Result<()> {
        for column in COLUMNS {
            let (given, expected) =
                (self.cell(column.name)?, (column.value)(report.header(), report.records(), record));
            if !agree(given, expected.as_ref()) {
                let what = format!("{}; from the rest follows {}", Shown(given), Shown(expected.as_ref()));
                return Err(self.fault(column.name, what));
            }
        }
        if self.cells.len() == COLUMNS.len() {
            return Ok(());
        }
        let unknown = self.cells.keys().find(|name| COLUMNS.iter().all(|column| column.name != **name));
        Err(self.fault(unknown.map_or("", |name| name), "nobody knows this field; leave it out"))
    }
}

/// A cell in messages.
struct Shown<'a>(Option<&'a Cell>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(cell) => cell.fmt(f),
            None => f.write_str("null"),
        }
    }
}

/// ClickHouse quotes integers of 64 bits unless told otherwise.
fn integer(cell: &Cell) -> Option<u64> {
    match cell {
        Cell::Integer(number) => Some(*number),
        Cell::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

fn agree(given: Option<&Cell>, expected: Option<&Cell>) -> bool {
    match (given, expected) {
        (Some(given), Some(Cell::Integer(number))) => integer(given) == Some(*number),
        (Some(given), Some(Cell::Float(number))) => {
            let given = match given {
                Cell::Float(given) => *given,
                Cell::Integer(given) => *given as f64,
                _ => return false,
            };
            // Whoever has read and written it in between may have rounded it.
            (given - number).abs() <= 1e-9 * number.abs()
        }
        (given, expected) => given == expected,
    }
}

/// The reports that rows make: the rows of a report follow each other, in the order of its records, and all are there.
pub(super) fn reports(rows: impl IntoIterator<Item = Result<Row>>) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    let mut rows = rows.into_iter();
    while let Some(first) = rows.next().transpose()? {
        if first.integer::<u64>("version")? != VERSION {
            let given = Shown(first.cell("version")?);
            return Err(first.fault("version", format!("{given} is unknown; this program reads {VERSION}")));
        }
        let header = first.header()?;
        let expected: u64 = first.integer("records")?;
        let mut read = vec![first];
        let mut records: Vec<_> = read[0].record(header.period)?.into_iter().collect();
        if records.len() as u64 != expected.min(1) {
            let what = format!("a report of {expected} records; one without has \"subject\": {NOTHING:?}");
            return Err(read[0].fault("records", what));
        }
        while (records.len() as u64) < expected {
            let last = &read[read.len() - 1];
            let missing = || {
                let what = format!("{expected}, but {} came of {}; send it whole", records.len(), header.key);
                last.fault("records", what)
            };
            let row = rows.next().transpose()?.ok_or_else(missing)?;
            if row.header()? != header {
                return Err(missing());
            }
            let Some(record) = row.record(header.period)? else {
                return Err(row.fault("subject", "a record is expected"));
            };
            records.push(record);
            read.push(row);
        }
        let last = &read[read.len() - 1];
        let report = Report::new(header, records).map_err(|error| last.fault("records", error))?;
        for (row, record) in read.iter().zip(self::rows(&report)) {
            row.check(&report, record)?;
        }
        reports.push(report);
    }
    Ok(reports)
}
