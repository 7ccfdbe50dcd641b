//! One table of the report.

use aegis_benches::Effort;

/// What the user asked for, as far as rows care.
pub(crate) struct Run {
    pub(crate) effort: Effort,
    pub(crate) quick: bool,
    pub(crate) pairs: Option<u64>,
}

/// The cells of a row, or why it cannot be measured here.
pub(crate) type Cells = Result<Vec<String>, String>;

/// A name, and what measures it.
pub(crate) type Row = (String, Box<dyn FnOnce(&Run) -> Cells>);

/// What is said below a table, if something must be measured for it.
pub(crate) type Note = Box<dyn FnOnce(&Run) -> String>;

pub(crate) struct Table {
    /// What the cells are.
    pub(crate) cells: &'static str,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Row>,
    pub(crate) note: Option<Note>,
}

impl Table {
    /// Prints the rows whose name contains `only`, each when it is measured; nothing if there is none.
    pub(crate) fn print(self, run: &Run, only: &str) {
        let mut skipped = Vec::new();
        let mut rows = self.rows.into_iter().filter(|(name, _)| name.contains(only)).peekable();
        if rows.peek().is_none() {
            return;
        }
        println!("\n| {} | {} |", self.cells, self.columns.join(" | "));
        println!("|---|{}", "---:|".repeat(self.columns.len()));
        for (name, measure) in rows {
            match measure(run) {
                Ok(cells) => println!("| {name} | {} |", cells.join(" | ")),
                Err(reason) => skipped.push(format!("!! SKIPPED {name}: {reason}")),
            }
        }
        for line in skipped {
            println!("\n{line}");
        }
        if let Some(note) = self.note {
            println!("\n{}", note(run));
        }
    }
}

/// Nanoseconds, as many digits as mean something.
pub(crate) fn nanos(value: f64) -> String {
    match value {
        0.0..10.0 => format!("{value:.1}"),
        10.0..10_000.0 => format!("{value:.0}"),
        _ => format!("{:.0} k", value / 1_000.0),
    }
}

/// Thousands apart.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let parts: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    parts.join(",")
}
