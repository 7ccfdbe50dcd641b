//! What has somebody seen? Records of connections or requests, as CSV.
//!
//! ```text
//! start_ms,duration_ms,ingress,origin,protocol,closed
//! 0,1500,fra,203.0.113.10:443,tcp,passive
//! 12,300,lhr,[2001:db8::1]:443,udp,udp_idle
//! ```
//!
//! The first line names the columns, in any order; `protocol` may be left out (tcp), and `closed` too (unknown, which is
//! held longest). No quotes, no spaces. Lines are in order of their starts: a stream of any length is read in the memory
//! of one line.

use core::iter::FusedIterator;
use core::net::SocketAddr;

use crate::error::{Error, Result};
use crate::lease::Closed;
use crate::net::{Origin, Protocol};
use crate::time::Time;

use super::paths::{Ingress, Paths, Target};
use super::settings::{LATEST_MS, LONGEST};

/// One connection, or one request, as the settings of the replay say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When it starts.
    pub start: Time,
    /// How long it lasts, in milliseconds; at most 31 days.
    pub lasts_ms: u32,
    /// Where it enters the network.
    pub ingress: Ingress,
    /// Where it goes.
    pub target: Target,
    /// How its connection ends.
    pub closed: Closed,
}

impl Record {
    /// The longest that one may last.
    pub(super) const LONGEST_MS: u32 = LONGEST.as_millis() as u32;
}

/// The columns, in the order of [`Trace::columns`].
const COLUMNS: [&str; 6] = ["start_ms", "duration_ms", "ingress", "origin", "protocol", "closed"];
const REQUIRED: usize = 4;

const WAYS: [(&str, Closed); 7] = [
    ("active", Closed::Active),
    ("passive", Closed::Passive),
    ("reset", Closed::Reset),
    ("connect_failed", Closed::ConnectFailed),
    ("half_closed", Closed::HalfClosed),
    ("udp_idle", Closed::UdpIdle),
    ("unknown", Closed::Unknown),
];

/// Reads a trace line by line: [`Record`]s, or what is wrong in which line. Nothing comes after an error.
#[derive(Debug)]
pub struct Trace<'a, I> {
    paths: &'a Paths,
    lines: I,
    /// The number of the line read last.
    line: u64,
    /// Where each of [`COLUMNS`] is; none before the header is read.
    columns: Option<[Option<usize>; COLUMNS.len()]>,
    /// The start of the record before.
    start: u64,
    is_over: bool,
}

impl<'a, I> Trace<'a, I>
where
    I: Iterator<Item: AsRef<[u8]>>,
{
    /// Lines without their ends; a carriage return before it is dropped. Data centers and origins are those of `paths`.
    pub fn new(paths: &'a Paths, lines: impl IntoIterator<IntoIter = I>) -> Self {
        Self { paths, lines: lines.into_iter(), line: 0, columns: None, start: 0, is_over: false }
    }

    /// None at the end of the trace.
    fn read(&mut self) -> Result<Option<Record>> {
        if self.columns.is_none() {
            self.line = 1;
            let header = self.lines.next();
            let header = header.as_ref().map_or(&b""[..], AsRef::as_ref);
            self.columns = Some(columns(text(header)?)?);
        }
        let Some(line) = self.lines.next() else { return Ok(None) };
        self.line += 1;
        self.record(text(line.as_ref())?).map(Some)
    }

    fn record(&mut self, line: &str) -> Result<Record> {
        let columns = self.columns.as_ref().expect("the header was read");
        let expected = columns.iter().flatten().count();
        let mut fields = [""; COLUMNS.len()];
        let mut count = 0;
        for (nth, field) in line.split(',').enumerate() {
            if let Some(place) = fields.get_mut(nth) {
                *place = field;
            }
            count += 1;
        }
        if count != expected {
            return Err(Error::input(format!(
                "{} has {count} fields; the header has {expected}",
                quoted(line)
            )));
        }
        let field = |column: usize| columns[column].map(|at| fields[at]);
        let given = |column: usize| field(column).unwrap_or("");
        let wrong = |column: usize, expected: &str| {
            Error::input(format!("{}: {} is not {expected}", COLUMNS[column], quoted(given(column))))
        };
        let number = |column: usize, most: u64| {
            // `parse` would take a sign.
            let digits = given(column).bytes().all(|b| b.is_ascii_digit());
            let number = given(column).parse().ok().filter(|number| digits && *number <= most);
            number.ok_or_else(|| wrong(column, &format!("a whole number of milliseconds from 0 to {most}")))
        };
        let start = number(0, LATEST_MS)?;
        let lasts_ms = number(1, Record::LONGEST_MS.into())? as u32;
        if start < self.start {
            return Err(wrong(0, &format!("{} or later, as the line before; sort the trace", self.start)));
        }
        let ingress = self.paths.ingress_named(given(2));
        let ingress = ingress.ok_or_else(|| wrong(2, "a data center that there are latencies for"))?;
        let protocol = field(4).map_or(Ok(Protocol::Tcp), str::parse);
        let protocol = protocol.map_err(|_| wrong(4, "\"tcp\" or \"udp\""))?;
        let address: SocketAddr = given(3)
            .parse()
            .map_err(|_| wrong(3, "an address like 203.0.113.10:443 or [2001:db8::1]:443"))?;
        let origin = Origin::new(protocol, address).map_err(|e| e.at(COLUMNS[3]))?;
        let target = self.paths.target(&origin);
        let target = target
            .ok_or_else(|| wrong(3, &format!("one of the {protocol} origins that the replay was given")))?;
        let way = field(5).map_or(Some(Closed::Unknown), |name| {
            WAYS.iter().find(|(way, _)| *way == name).map(|(_, closed)| *closed)
        });
        let closed = way.ok_or_else(|| {
            let ways = WAYS.map(|(name, _)| name).join(", ");
            wrong(5, &format!("a way to close; expected one of {ways}"))
        })?;
        self.start = start;
        Ok(Record { start: Time::from_millis(start), lasts_ms, ingress, target, closed })
    }
}

impl<I> Iterator for Trace<'_, I>
where
    I: Iterator<Item: AsRef<[u8]>>,
{
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let read = self.read().map_err(|e| e.at(format_args!("line {}", self.line)));
        self.is_over = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}

impl<I> FusedIterator for Trace<'_, I> where I: Iterator<Item: AsRef<[u8]>> {}

fn text(line: &[u8]) -> Result<&str> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    core::str::from_utf8(line)
        .map_err(|e| Error::input(format!("no UTF-8 from byte {} on; write plain text", e.valid_up_to() + 1)))
}

fn columns(header: &str) -> Result<[Option<usize>; COLUMNS.len()]> {
    let mut columns = [None; COLUMNS.len()];
    for (at, name) in header.split(',').enumerate() {
        let column = COLUMNS.iter().position(|column| *column == name);
        let column = column.ok_or_else(|| {
            Error::input(format!("header: unknown column {}; expected {}", quoted(name), COLUMNS.join(",")))
        })?;
        if columns[column].replace(at).is_some() {
            return Err(Error::input(format!("header: column {name:?} is there twice")));
        }
    }
    match columns[..REQUIRED].iter().position(Option::is_none) {
        Some(missing) => Err(Error::input(format!("header: column {:?} is missing", COLUMNS[missing]))),
        None => Ok(columns),
    }
}

/// What a stranger wrote, escaped, and not all of it if it is long.
fn quoted(value: &str) -> String {
    const MOST: usize = 60;
    match value.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?}...", &value[..end]),
        None => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::paths;
    use super::*;

    fn read(text: &str) -> Result<Vec<Record>> {
        Trace::new(&paths(), text.lines()).collect()
    }

    fn refused(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    const HEADER: &str = "start_ms,duration_ms,ingress,origin";

    #[test]
    fn records_are_read_whatever_the_order_of_the_columns() {
        let paths = paths();
        let text = "closed,origin,protocol,ingress,duration_ms,start_ms\r\n\
                    passive,203.0.113.10:443,tcp,d1,1500,7\r\n\
                    unknown,[2001:db8::9]:443,udp,d0,0,7\r\n";
        let records: Vec<_> = Trace::new(&paths, text.split_terminator('\n')).collect::<Result<_>>().unwrap();
        assert_eq!(records.len(), 2);
        let first = Record {
            start: Time::from_millis(7),
            lasts_ms: 1_500,
            ingress: paths.ingress(&"d1".parse().unwrap()).unwrap(),
            target: paths
                .target(&Origin::new(Protocol::Tcp, "203.0.113.10:443".parse().unwrap()).unwrap())
                .unwrap(),
            closed: Closed::Passive,
        };
        assert_eq!(records[0], first);
        assert_eq!(paths.origin(records[1].target).unwrap().protocol(), Protocol::Udp);
    }

    #[test]
    fn what_is_left_out_is_tcp_and_closed_in_an_unknown_way() {
        let records = read(&format!("{HEADER}\n5,10,d0,203.0.113.10:443")).unwrap();
        assert_eq!(records[0].closed, Closed::Unknown);
        assert_eq!(read(HEADER).unwrap(), []);
    }

    #[test]
    fn every_refusal_names_line_field_value_and_what_was_expected() {
        let line = |line: &str| refused(&format!("{HEADER}\n0,1,d0,203.0.113.10:443\n{line}\n"));
        let whole = "is not a whole number of milliseconds from 0 to";
        for (bad, message) in [
            ("-1,1,d0,203.0.113.10:443", format!("line 3: start_ms: \"-1\" {whole}")),
            ("+1,1,d0,203.0.113.10:443", format!("line 3: start_ms: \"+1\" {whole}")),
            (",1,d0,203.0.113.10:443", format!("line 3: start_ms: \"\" {whole}")),
            ("281474976710657,1,d0,203.0.113.10:443", format!("start_ms: \"281474976710657\" {whole}")),
            ("99999999999999999999,1,d0,203.0.113.10:443", format!("\"99999999999999999999\" {whole}")),
            ("1,NaN,d0,203.0.113.10:443", format!("line 3: duration_ms: \"NaN\" {whole} 2678400000")),
            ("1,1.5,d0,203.0.113.10:443", format!("duration_ms: \"1.5\" {whole}")),
            ("1,2678400001,d0,203.0.113.10:443", format!("duration_ms: \"2678400001\" {whole}")),
            ("1,1,d9,203.0.113.10:443", "line 3: ingress: \"d9\" is not a data center that".into()),
            ("1,1,d0,203.0.113.10", "line 3: origin: \"203.0.113.10\" is not an address like".into()),
            ("1,1,d0,203.0.113.10:0", "line 3: origin: origin tcp 203.0.113.10:0: port 0".into()),
            ("1,1,d0,203.0.113.99:443", "\"203.0.113.99:443\" is not one of the tcp origins".into()),
            ("1,1,d0", "line 3: \"1,1,d0\" has 3 fields; the header has 4".into()),
            ("1,1,d0,203.0.113.10:443,tcp", "has 5 fields; the header has 4".into()),
            ("", "line 3: \"\" has 1 fields".into()),
            ("1,1, d0,203.0.113.10:443", "ingress: \" d0\" is not".into()),
            ("1,\"1\",d0,203.0.113.10:443", "duration_ms: \"\\\"1\\\"\" is not".into()),
        ] {
            assert!(line(bad).contains(&message), "{bad}: {}", line(bad));
        }
        let full = |line: &str| refused(&format!("{HEADER},protocol,closed\n{line}"));
        assert!(full("1,1,d0,203.0.113.10:443,sctp,active").contains("protocol: \"sctp\" is not \"tcp\" or"));
        assert!(
            full("1,1,d0,203.0.113.10:443,tcp,Active").contains("closed: \"Active\" is not a way to close")
        );
        assert!(full("1,1,d0,203.0.113.10:443,udp,active").contains("is not one of the udp origins"));
        let long = line(&format!("1,1,{},203.0.113.10:443", "x".repeat(10_000)));
        assert!(long.len() < 200 && long.contains("xxx\"... is not"), "{long}");
    }

    #[test]
    fn a_header_is_asked_for() {
        assert!(
            refused("").starts_with("line 1: header: unknown column \"\"; expected start_ms,duration_ms")
        );
        assert!(
            refused("start_ms,duration_ms,origin").contains("line 1: header: column \"ingress\" is missing")
        );
        assert!(refused("start_ms,start_ms").contains("column \"start_ms\" is there twice"));
        assert!(refused("start").contains("unknown column \"start\""));
        assert!(refused("0,1,d0,203.0.113.10:443").contains("unknown column \"0\""));
        let bytes = Trace::new(&paths(), [&b"start_ms,\xff"[..]]).next().unwrap().unwrap_err();
        assert!(bytes.message().contains("line 1: no UTF-8 from byte 10 on"), "{bytes}");
    }

    #[test]
    fn lines_out_of_order_are_refused_and_nothing_comes_after() {
        let text =
            format!("{HEADER}\n9,1,d0,203.0.113.10:443\n8,1,d0,203.0.113.10:443\n9,1,d0,203.0.113.10:443");
        let paths = paths();
        let mut trace = Trace::new(&paths, text.lines());
        assert!(trace.next().unwrap().is_ok());
        let error = trace.next().unwrap().unwrap_err();
        assert_eq!(
            error.message(),
            "line 3: start_ms: \"8\" is not 9 or later, as the line before; sort the trace"
        );
        assert!(trace.next().is_none());
    }
}
