//! Where does a request leave? Chosen for each, from an order that is made now and then.

use aegis_benches::exits::{Held, Load, Scene};
use aegis_benches::{Effort, Measured, Race};

use crate::pairs::cells;
use crate::table::{Row, Table};

const COLUMNS: [&str; 4] =
    ["half in use", "the best is busy: spilled over", "all full: refused", "rank the sites"];

pub(crate) fn table() -> Table {
    let row = |name: &str, held| -> Row {
        (name.into(), Box::new(move |run| cells(&COLUMNS, &measure(held, run.effort))))
    };
    Table {
        cells: "nanoseconds (times the first)",
        columns: COLUMNS.to_vec(),
        rows: vec![
            row("exit of a request, 4 of 330 data centers, 8 machines each", Held::AtFour),
            row(
                "exit of a request, IPv6: all global ones of 330 data centers, 8 machines each",
                Held::Everywhere,
            ),
        ],
        note: None,
    }
}

fn measure(held: Held, effort: Effort) -> Vec<Measured> {
    let scene = &Scene::new(held);
    let mut race = Race::default();
    race.enter(COLUMNS[0], |n, _| scene.choose(Load::Half, n));
    race.enter(COLUMNS[1], |n, _| scene.choose(Load::BestBusy, n));
    race.enter(COLUMNS[2], |n, _| scene.choose(Load::Full, n));
    race.enter(COLUMNS[3], |n, _| scene.rank(n));
    race.run(effort)
}
