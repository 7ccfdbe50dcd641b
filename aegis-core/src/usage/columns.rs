//! Reports as columns, as Arrow, Parquet and data frames keep them.

use std::collections::BTreeMap;

use super::report::Report;
use super::schema::{COLUMNS, Cell, Kind, Row, reports, rows};
use crate::error::{Error, Result};

/// Records as columns: a struct of arrays, in Arrow's memory layout but for the padding. The names and values are
/// those of the newline-delimited JSON.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Columns {
    /// In the order in which they are written.
    columns: Vec<Column>,
    rows: usize,
}

/// One column.
#[derive(Clone, PartialEq, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// A value for each row; where there is none, 0, false or the code 0.
    pub values: Values,
    /// Which rows have a value: bit `n % 64` of word `n / 64` for row `n`. On little-endian machines these are the
    /// bytes of Arrow's validity bitmap.
    pub valid: Vec<u64>,
}

/// The values of a column.
#[derive(Clone, PartialEq, Debug)]
pub enum Values {
    /// True or false.
    Flags(Vec<bool>),
    /// Counts of ports.
    U32(Vec<u32>),
    /// Other integers.
    U64(Vec<u64>),
    /// Averages and percentages.
    F64(Vec<f64>),
    /// Text: `values[codes[row]]`, each value once, in the order in which they come.
    Text {
        /// An index into `values` for each row.
        codes: Vec<u32>,
        /// The dictionary.
        values: Vec<String>,
    },
}

impl Columns {
    /// The records of reports as columns.
    ///
    /// # Errors
    /// There are more than 2^32 different texts in a column.
    pub fn of<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Result<Self> {
        let mut builders: Vec<_> =
            COLUMNS.iter().map(|column| Builder::new(column.name, column.kind)).collect();
        let mut count = 0;
        for report in reports {
            for record in rows(report) {
                for (builder, column) in builders.iter_mut().zip(COLUMNS) {
                    builder.push(count, (column.value)(report.header(), report.records(), record))?;
                }
                count += 1;
            }
        }
        let columns = builders.into_iter().map(|builder| builder.column).collect();
        Ok(Self { columns, rows: count })
    }

    /// The columns, in the order in which they are written.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// How many rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The reports again.
    ///
    /// # Errors
    /// As of [`read_ndjson`](super::read_ndjson), with rows (from 1) for lines: reports are there in part only.
    pub fn reports(&self) -> Result<Vec<Report>> {
        reports((0..self.rows).map(|row| {
            let cells = self.columns.iter().map(|column| (column.name.to_owned(), column.cell(row)));
            Ok(Row { place: format!("row {}", row + 1), cells: cells.collect() })
        }))
    }
}

impl Column {
    fn cell(&self, row: usize) -> Option<Cell> {
        if self.valid[row / 64] >> (row % 64) & 1 == 0 {
            return None;
        }
        Some(match &self.values {
            Values::Flags(flags) => Cell::Flag(flags[row]),
            Values::U32(numbers) => Cell::Integer(numbers[row].into()),
            Values::U64(numbers) => Cell::Integer(numbers[row]),
            Values::F64(numbers) => Cell::Float(numbers[row]),
            Values::Text { codes, values } => Cell::Text(values[codes[row] as usize].clone()),
        })
    }
}

struct Builder {
    column: Column,
    codes: BTreeMap<String, u32>,
}

impl Builder {
    const fn new(name: &'static str, kind: Kind) -> Self {
        let values = match kind {
            Kind::Flag => Values::Flags(Vec::new()),
            Kind::Small => Values::U32(Vec::new()),
            Kind::Integer => Values::U64(Vec::new()),
            Kind::Float => Values::F64(Vec::new()),
            Kind::Text => Values::Text { codes: Vec::new(), values: Vec::new() },
        };
        Self { column: Column { name, values, valid: Vec::new() }, codes: BTreeMap::new() }
    }

    fn push(&mut self, row: usize, cell: Option<Cell>) -> Result<()> {
        if row % 64 == 0 {
            self.column.valid.push(0);
        }
        self.column.valid[row / 64] |= u64::from(cell.is_some()) << (row % 64);
        match (&mut self.column.values, cell) {
            (Values::Flags(flags), cell) => flags.push(cell == Some(Cell::Flag(true))),
            (Values::U32(numbers), Some(Cell::Integer(number))) => {
                numbers.push(u32::try_from(number).expect("the schema calls no larger number small"));
            }
            (Values::U32(numbers), _) => numbers.push(0),
            (Values::U64(numbers), Some(Cell::Integer(number))) => numbers.push(number),
            (Values::U64(numbers), _) => numbers.push(0),
            (Values::F64(numbers), Some(Cell::Float(number))) => numbers.push(number),
            (Values::F64(numbers), _) => numbers.push(0.0),
            (Values::Text { codes, values }, Some(Cell::Text(text))) => {
                let code = match self.codes.get(&text) {
                    Some(code) => *code,
                    None => {
                        let code = u32::try_from(values.len()).map_err(|_| {
                            let name = self.column.name;
                            Error::input(format!(
                                "column {name} has 2^32 different texts; take fewer reports"
                            ))
                        })?;
                        values.push(text.clone());
                        self.codes.insert(text, code);
                        code
                    }
                };
                codes.push(code);
            }
            (Values::Text { codes, .. }, _) => codes.push(0),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ndjson::tests::two_reports;
    use super::*;

    #[test]
    fn text_is_coded_by_a_dictionary_and_what_is_not_there_is_not_valid() {
        let columns = Columns::of(&two_reports()).unwrap();
        assert_eq!(columns.rows(), 5);
        let column = |name| columns.columns().iter().find(|column| column.name == name).unwrap();
        let egress_ip = column("egressIp");
        let values = ["192.0.2.1", "192.0.2.2"].map(str::to_owned).to_vec();
        assert_eq!(egress_ip.values, Values::Text { codes: vec![0, 0, 1, 0, 0], values });
        assert_eq!(egress_ip.valid, [0b00111]);
        assert_eq!(column("maxInUse").values, Values::U32(vec![0, 1_024, u32::MAX, 4, 0]));
        assert_eq!(column("maxInUse").valid, [0b01111]);
        assert_eq!(column("bootEnds").values, Values::Flags(vec![false, false, false, false, true]));
        assert_eq!(column("boot").valid, [0b11111]);
    }

    #[test]
    fn validity_goes_on_in_the_next_word() {
        let reports = vec![two_reports(); 13].concat();
        let columns = Columns::of(&reports).unwrap();
        let account = columns.columns().iter().find(|column| column.name == "account").unwrap();
        assert_eq!((columns.rows(), account.valid.len()), (65, 2));
        assert_eq!(account.valid[1], 0, "the last row is of a report without records");
        assert_eq!(account.valid[0].count_ones(), 52);
        assert_eq!(columns.reports().unwrap(), reports);
        assert_eq!(Columns::of([]).unwrap().reports().unwrap(), []);
    }
}
