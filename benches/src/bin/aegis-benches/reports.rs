//! Reports of use. Ours alone: the peers are databases.

use aegis_benches::reports;

use crate::table::{Row, Table, grouped};

pub(crate) fn table() -> Table {
    let row = |records: usize| -> Row {
        let name = format!("roll-up of {} records", grouped(records as u64));
        let measure = move |quick: bool| {
            let (records, rounds) = if quick { (records / 1_000, 1) } else { (records, 5) };
            reports::measure(records, rounds).map(|rate| grouped(rate as u64)).to_vec()
        };
        (name, Box::new(move |run| Ok(measure(run.quick))))
    };
    Table {
        cells: "records a second",
        columns: reports::STEPS.to_vec(),
        rows: vec![row(1_000_000)],
        note: None,
    }
}
