//! Whose packet is it?

use aegis_benches::{
    Effort, Hashed, Lookup, Measured, Question, Race, SoftUnicast, Sorted, StdHashed, ask, layout, packets,
};

use crate::pairs::cells;
use crate::table::{Row, Table};

const COLUMNS: [&str; 4] = ["ours", "hashbrown", "std HashMap", "sorted Vec"];

pub(crate) fn table() -> Table {
    Table { cells: "nanoseconds (times ours)", columns: COLUMNS.to_vec(), rows: rows(), note: None }
}

fn rows() -> Vec<Row> {
    let questions = [
        ("dependent", Question::Dependent),
        ("independent", Question::Independent),
        ("batches of 256", Question::Batch),
    ];
    let row = |(name, question)| -> Row {
        let name = format!("owner of (ip, port), 256 addresses of 31 shares, {name}");
        (name, Box::new(move |run| cells(&COLUMNS, &owners(question, run.effort))))
    };
    questions.into_iter().map(row).collect()
}

fn owners(question: Question, effort: Effort) -> Vec<Measured> {
    fn enter<L: Lookup + 'static>(race: &mut Race<'_>, name: &'static str, question: Question) {
        let (lookup, packets) = (L::of(&layout()), packets());
        // The number of operations is a power of two above a batch after the first few doublings.
        race.enter(name, move |n, _| ask(&lookup, question, &packets, n));
    }
    let mut race = Race::default();
    enter::<SoftUnicast>(&mut race, COLUMNS[0], question);
    enter::<Hashed>(&mut race, COLUMNS[1], question);
    enter::<StdHashed>(&mut race, COLUMNS[2], question);
    enter::<Sorted>(&mut race, COLUMNS[3], question);
    race.run(effort)
}
