//! A pair of acquire and release, and a refusal, on one thread.

use aegis_benches::{
    Access, Bitmap, Churn, Contender, DashSet, Effort, Empty, Measured, Ours, PapayaSet, PerOrigin, Race,
    Resting, Ring, SccSet, Scene, Sets, Stack, fill, refusal,
};

use crate::table::{Cells, Row, Table, nanos};

pub(crate) const ONE_SHARE: Scene = Scene { granule: 2_048, granules: 1, origins: 1 };
pub(crate) const ALL_SHARES: Scene = Scene { granule: 2_048, granules: 31, origins: 1 };
/// Small granules, so that 640,000 tuples stay a fair picture and every peer fits into memory.
const MANY_ORIGINS: Scene = Scene { granule: 64, granules: 1, origins: 10_000 };

/// The columns, in order; the first is the measure.
const COLUMNS: [&str; 9] = [
    "ours",
    "ours, rest off",
    "dashmap",
    "papaya",
    "scc",
    "ring",
    "mutexed stack",
    "bare bitmap (floor)",
    "empty loop",
];

pub(crate) fn table() -> Table {
    Table { cells: "nanoseconds (times ours)", columns: COLUMNS.to_vec(), rows: rows(), note: None }
}

/// One cell for each column, empty where nobody ran.
pub(crate) fn cells(columns: &[&str], measured: &[Measured]) -> Cells {
    let cell = |&column: &&str| match measured.iter().find(|m| m.name == column) {
        None => String::new(),
        Some(m) if column == columns[0] => format!("**{}**", nanos(m.nanos)),
        Some(m) => format!("{} ({:.2}x)", nanos(m.nanos), m.ratio),
    };
    Ok(columns.iter().map(cell).collect())
}

fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for percent in [0, 50, 80, 95, 99] {
        let name = format!("acquire + release by handle, 2,048 ports, {percent} % full");
        rows.push((
            name,
            Box::new(move |run| cells(&COLUMNS, &churn(ONE_SHARE, Access::Handle, percent, run.effort))),
        ));
    }
    for percent in [50, 99] {
        let name = format!("the same by ip:port, one origin, {percent} % full");
        rows.push((
            name,
            Box::new(move |run| cells(&COLUMNS, &churn(ONE_SHARE, Access::Lookup, percent, run.effort))),
        ));
    }
    rows.push((
        "the same by ip:port, 10,000 origins at random, 64 ports each, 50 % full".into(),
        Box::new(|run| cells(&COLUMNS, &churn(MANY_ORIGINS, Access::Lookup, 50, run.effort))),
    ));
    for (scene, ports) in [(ONE_SHARE, "2,048"), (ALL_SHARES, "63,488 (31 shares)")] {
        let name = format!("refusal by handle, all {ports} ports in use");
        rows.push((name, Box::new(move |run| cells(&COLUMNS, &full(scene, run.effort)))));
    }
    rows
}

fn churn(scene: Scene, access: Access, percent: u32, effort: Effort) -> Vec<Measured> {
    fn enter<C: Contender + 'static>(
        race: &mut Race<'_>,
        name: &'static str,
        scene: Scene,
        leases: u32,
        contender: C,
    ) {
        let mut churn = Churn::new(contender, scene, leases);
        race.enter(name, move |n, ms| {
            churn.set_time(ms);
            churn.pairs(n);
        });
    }
    let leases = scene.ports() * percent / 100;
    let mut race = Race::default();
    let race = &mut race;
    enter(race, COLUMNS[0], scene, leases, Ours::new(scene, access, Resting::Default));
    enter(race, COLUMNS[1], scene, leases, Ours::new(scene, access, Resting::Off));
    enter(race, COLUMNS[2], scene, leases, Sets::<DashSet>::new(scene));
    enter(race, COLUMNS[3], scene, leases, Sets::<PapayaSet>::new(scene));
    enter(race, COLUMNS[4], scene, leases, Sets::<SccSet>::new(scene));
    enter(race, COLUMNS[5], scene, leases, PerOrigin::<Ring>::new(scene, access));
    enter(race, COLUMNS[6], scene, leases, PerOrigin::<Stack>::new(scene, access));
    enter(race, COLUMNS[7], scene, leases, PerOrigin::<Bitmap>::new(scene, access));
    enter(race, COLUMNS[8], scene, leases, Empty);
    core::mem::take(race).run(effort)
}

fn full(scene: Scene, effort: Effort) -> Vec<Measured> {
    fn enter<C: Contender + 'static>(
        race: &mut Race<'_>,
        name: &'static str,
        scene: Scene,
        mut contender: C,
    ) {
        // The leases may go: nothing ends by being dropped.
        drop(fill(&mut contender, scene, scene.ports()));
        race.enter(name, move |n, ms| {
            contender.set_time(ms);
            refusal(&mut contender, n);
        });
    }
    let access = Access::Handle;
    let mut race = Race::default();
    let race = &mut race;
    enter(race, COLUMNS[0], scene, Ours::new(scene, access, Resting::Default));
    enter(race, COLUMNS[1], scene, Ours::new(scene, access, Resting::Off));
    enter(race, COLUMNS[2], scene, Sets::<DashSet>::new(scene));
    enter(race, COLUMNS[3], scene, Sets::<PapayaSet>::new(scene));
    enter(race, COLUMNS[4], scene, Sets::<SccSet>::new(scene));
    enter(race, COLUMNS[5], scene, PerOrigin::<Ring>::new(scene, access));
    enter(race, COLUMNS[6], scene, PerOrigin::<Stack>::new(scene, access));
    enter(race, COLUMNS[7], scene, PerOrigin::<Bitmap>::new(scene, access));
    core::mem::take(race).run(effort)
}
