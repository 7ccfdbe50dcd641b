//! How long does a plan take, and how good is it?

use aegis_benches::placements::measure;

use crate::table::{Row, Table};

pub(crate) fn table() -> Table {
    let row = |addresses: u32, origins: usize| -> Row {
        let plural = if origins == 1 { "origin" } else { "origins" };
        let name = format!("plan, 330 data centers, {addresses} addresses, {origins} {plural}");
        let cells = move |quick| measure(addresses, origins, 30, if quick { 1 } else { 5 });
        (
            name,
            Box::new(move |run| {
                let cells = cells(run.quick);
                Ok(vec![format!("{:.0}", cells[0]), format!("{:.3}", cells[1])])
            }),
        )
    };
    Table {
        cells: "a plan",
        columns: vec!["milliseconds", "at most so many % above the best"],
        rows: vec![row(50, 1), row(50, 3)],
        note: None,
    }
}
