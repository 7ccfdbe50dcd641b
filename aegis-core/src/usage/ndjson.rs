//! Reports as newline-delimited JSON, for strangers' programs.
//!
//! A line for each record, flat: ClickHouse reads it as `FORMAT JSONEachRow`, DuckDB with `read_json`. A report without
//! records has one line. Integers are plain JSON numbers up to 64 bits: both read them exactly, JavaScript does not
//! above 2^53 (`boot` and port milliseconds can be larger). Quoted integers, as ClickHouse writes them, are read too.

use core::fmt::{self, Write};
use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::report::Report;
use super::schema::{COLUMNS, Cell, Row, reports, rows};
use crate::error::{Error, Result};

/// Writes reports as newline-delimited JSON, a line for each record. Deterministic: equal reports give equal text.
///
/// # Errors
/// Those of the writer.
pub fn write_ndjson<'a>(out: &mut impl Write, reports: impl IntoIterator<Item = &'a Report>) -> fmt::Result {
    for report in reports {
        for record in rows(report) {
            for (nth, column) in COLUMNS.iter().enumerate() {
                let before = if nth == 0 { '{' } else { ',' };
                write!(out, "{before}\"{}\":", column.name)?;
                match (column.value)(report.header(), report.records(), record) {
                    // Names, addresses and dates: Rust's escapes are JSON's for all that is in them.
                    Some(cell) => write!(out, "{cell}")?,
                    None => out.write_str("null")?,
                }
            }
            out.write_str("}\n")?;
        }
    }
    Ok(())
}

/// Reads what [`write_ndjson`] writes; the fields of a line may come in any order.
///
/// # Errors
/// Each names line and field. A field that is missing, unknown, of another type, or does not follow from the rest; a
/// version that is not known; a report that is not there whole, or that [`Report::new`] refuses.
pub fn read_ndjson(text: &str) -> Result<Vec<Report>> {
    reports(text.lines().zip(1..).map(|(line, number)| {
        let place = format!("line {number}");
        match serde_json::from_str(line) {
            Ok(Fields(cells)) => Ok(Row { place, cells }),
            Err(error) => Err(Error::input(format!("{place}: {}", Plain(&error)))),
        }
    }))
}

/// An error of the JSON reader without its own line number, which is always 1.
struct Plain<'a>(&'a serde_json::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match text.rsplit_once(" at line 1 column ") {
            Some((what, column)) => write!(f, "{what}, at column {column}"),
            None => f.write_str(&text),
        }
    }
}

/// A flat object, in which no name comes twice.
struct Fields(BTreeMap<String, Option<Cell>>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one flat JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut cells = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let Value(value) = map
                        .next_value()
                        .map_err(|error| A::Error::custom(format!("field {name}: {error}")))?;
                    if cells.contains_key(&name) {
                        return Err(A::Error::custom(format!("field {name}: it is there twice")));
                    }
                    cells.insert(name, value);
                }
                Ok(Fields(cells))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

struct Value(Option<Cell>);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl Visitor<'_> for Scalar {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number that is not negative, text, true, false or null")
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
                Ok(Value(Some(Cell::Flag(flag))))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value(Some(Cell::Integer(number))))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                Ok(Value(Some(Cell::Float(number))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value(Some(Cell::Text(text.into()))))
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value(None))
            }
        }
        deserializer.deserialize_any(Scalar)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::report::testing::{minutes, outbox, source, steady, zone};
    use super::super::{Columns, Refused, Then};
    use super::*;

    /// Four records, one without an origin and one of a zone; and a report without any.
    pub(in crate::usage) fn two_reports() -> Vec<Report> {
        let mut outbox = outbox("sjc-m01", u64::MAX, 9);
        let period = minutes(0, 5);
        let mut odd = steady(source(1, Some(443)), period, 5, 2_048);
        (odd.port_millis, odd.min, odd.max, odd.live, odd.held) = (1_000_000, 1, 1_024, 2, 7);
        odd.refused = Refused::from_counts([2, 1, 3, 5, 8, 13, 21, 34, 55]);
        let records = vec![
            odd,
            steady(zone("a.example"), period, 4, 0),
            steady(source(1, None), period, 0, 2_048),
            steady(source(2, Some(80)), period, u32::MAX, u32::MAX),
        ];
        outbox.push(1, period, records, Then::GoesOn).unwrap();
        outbox.push(2, minutes(5, 6), Vec::new(), Then::Ends).unwrap();
        outbox.unsent().cloned().collect()
    }

    fn text(reports: &[Report]) -> String {
        let mut text = String::new();
        write_ndjson(&mut text, reports).unwrap();
        text
    }

    #[test]
    fn a_line_has_the_dimensions_of_the_published_schema() {
        let text = text(&two_reports());
        let line: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        for (field, value) in [
            ("datetimeFiveMinutes", "2025-01-10T00:05:00Z".into()),
            ("popName", "sjc".into()),
            ("egressIp", "192.0.2.1".into()),
            ("origin", "203.0.113.150:443".into()),
            ("popUtilizationKey", "sjc 192.0.2.1 203.0.113.150:443".into()),
            ("protocol", "tcp".into()),
            ("boot", u64::MAX.into()),
            ("maxUtilization", 50.0.into()),
            ("refused", 142.into()),
            ("refusedExhausted", 2.into()),
            ("zone", serde_json::Value::Null),
        ] {
            assert_eq!(line[field], value, "{field}");
        }
        assert!(text.lines().nth(1).unwrap().contains("\"avgInUse\":3.3333333333333335,"));
        assert!(text.lines().nth(3).unwrap().contains("\"avgUtilization\":null,"), "a zone without ports");
    }

    #[test]
    fn what_is_written_is_read_and_columns_say_the_same() {
        let reports = two_reports();
        assert_eq!(read_ndjson(&text(&reports)).unwrap(), reports);
        assert_eq!(Columns::of(&reports).unwrap().reports().unwrap(), reports);
        assert_eq!(read_ndjson("").unwrap(), []);
        // As ClickHouse and DuckDB write it: fields in another order, integers quoted, numbers rounded.
        let text = text(&reports);
        let mut lines = Vec::new();
        for line in text.lines() {
            let mut fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            fields.insert("boot".into(), u64::MAX.to_string().into());
            if fields["avgInUse"].as_f64().is_some_and(|average| average < 4.0 && average > 3.0) {
                fields.insert("avgInUse".into(), 3.333_333_333_3.into());
            }
            lines.push(serde_json::to_string(&fields).unwrap());
        }
        assert_eq!(read_ndjson(&lines.join("\r\n")).unwrap(), reports);
    }

    #[test]
    fn every_fault_is_refused_with_its_line_and_field() {
        let good = text(&two_reports());
        for (from, to, expected) in [
            ("\"version\":1,", "\"version\":2,", "line 1, field version: 2 is unknown; this program reads 1"),
            ("\"version\":1,", "", "line 1, field version: it is missing"),
            ("\"live\":2,", "", "line 2, field live: it is missing"),
            ("\"live\":2,", "\"live\":2,\"lively\":2,", "line 2, field lively: nobody knows this field"),
            ("\"live\":2,", "\"live\":2,\"live\":2,", "line 2: field live: it is there twice"),
            (
                "\"live\":2,",
                "\"live\":-2,",
                "line 2: field live: invalid type: integer `-2`, expected a number that is not",
            ),
            ("\"live\":2,", "\"live\":[],", "line 2: field live: invalid type: sequence"),
            (
                "\"live\":2,",
                "\"live\":4294967296,",
                "line 2, field live: 4294967296; expected an integer of 32 bits",
            ),
            ("\"live\":2,", "\"live\":2.0,", "line 2, field live: 2.0; expected an integer of 32 bits"),
            ("\"live\":2,", "\"live\":null,", "line 2, field live: null; expected an integer of 32 bits"),
            (
                "\"boot\":18446744073709551615",
                "\"boot\":18446744073709551616",
                "line 1, field boot: 1.8446744",
            ),
            ("\"bootEnds\":false", "\"bootEnds\":0", "line 1, field bootEnds: 0; expected true or false"),
            ("\"machine\":\"sjc-m01\"", "\"machine\":\"M\"", "line 1, field machine: \"M\": machine name"),
            ("\"protocol\":\"tcp\"", "\"protocol\":null", "line 2, field protocol: null; expected text"),
            (
                "\"protocol\":null",
                "\"protocol\":\"tcp\"",
                "line 1, field protocol: \"tcp\"; from the rest follows null",
            ),
            (
                "203.0.113.150:443\",\"pop",
                "203.0.113.150:0\",\"pop",
                "line 2, field origin: origin tcp 203.0.113.150:0: port 0",
            ),
            (
                "00:05:00Z",
                "00:10:00Z",
                "line 1, field datetimeFiveMinutes: \"2025-01-10T00:10:00Z\"; from the rest",
            ),
            (
                "\"maxUtilization\":50.0",
                "\"maxUtilization\":51.0",
                "line 2, field maxUtilization: 51.0; from the rest follows 50.0",
            ),
            ("\"egressIp\":\"192.0.2.1\"", "\"egressIp\":\"::ffff:192.0.2.1\"", "line 1, field egressIp"),
            ("\"subject\":\"zone\"", "\"subject\":\"\"", "line 4, field subject: \"\"; expected \"source\""),
            (
                "\"subject\":\"zone\"",
                "\"subject\":\"nothing\"",
                "line 4, field subject: a record is expected",
            ),
            ("\"records\":0", "\"records\":1", "line 5, field records: a report of 1 records"),
            ("\"records\":4", "\"records\":5", "line 4, field records: 5, but 4 came of interval 0 of boot"),
            (
                "\"minInUse\":1,",
                "\"minInUse\":4,",
                "line 2, field portMillis: 1000000 port milliseconds; 4 to",
            ),
            ("\"held\":7,", "\"held\":1024,", "line 2, field live: 1026 live and held"),
            (
                "\"periodEnd\":1736467800000",
                "\"periodEnd\":1736553900001",
                "line 1, field periodEnd: a period of 86400001 ms",
            ),
            ("\"periodEnd\":1736467800000", "\"periodEnd\":5", "line 1, field periodEnd: a period from"),
        ] {
            assert!(good.contains(from), "{from}");
            // The first only, but in all lines of the report where it is about the report.
            let whole = ["\"records\"", "\"boot", "\"machine\"", "\"version\"", "00:05", "\"periodEnd\""];
            let count = if whole.iter().any(|word| from.contains(word)) { usize::MAX } else { 1 };
            let error = read_ndjson(&good.replacen(from, to, count)).unwrap_err();
            assert!(error.message().starts_with(expected), "{from} -> {to}: {error}");
        }
        let mut lines: Vec<_> = good.lines().collect();
        lines.swap(0, 1);
        let error = read_ndjson(&lines.join("\n")).unwrap_err();
        assert!(error.message().starts_with("line 1, field protocol: \"tcp\"; from the rest follows null"));
        assert!(read_ndjson(&lines[..3].join("\n")).unwrap_err().message().contains("3 came of interval 0"));
        for (text, expected) in [
            ("\n", "line 1: "),
            ("{", "line 1: "),
            ("[1]", "line 1: invalid type: sequence, expected one flat JSON object"),
            ("{}", "line 1, field version: it is m"),
        ] {
            let error = read_ndjson(text).unwrap_err();
            assert!(error.message().starts_with(expected), "{error}");
        }
        assert!(read_ndjson("{} x").unwrap_err().message().contains("trailing characters, at column 4"));
    }
}
