//! Prints the Markdown table of `benches/README.md`: ours next to the peers, in one run.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the table is the product")]

use std::process::ExitCode;

use aegis_benches::{
    Access, Bitmap, Churn, Contender, DashSet, Effort, Empty, Hashed, Lookup, Measured, Ours, PapayaSet,
    PerOrigin, Question, Race, Resting, Ring, SccSet, Scene, Sets, SoftUnicast, Sorted, Stack, StdHashed,
    ask, fill, layout, packets, refusal,
};

const ONE_SHARE: Scene = Scene { granule: 2_048, granules: 1, origins: 1 };
const ALL_SHARES: Scene = Scene { granule: 2_048, granules: 31, origins: 1 };
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

const LOOKUP_COLUMNS: [&str; 4] = ["ours", "hashbrown", "std HashMap", "sorted Vec"];

const HELP: &str = "\
Prints a Markdown table of the hot paths next to their peers.

    --quick         show only that everything runs
    --only TEXT     rows whose name contains TEXT
    --date DATE     written into the heading; today if not given";

struct Arguments {
    effort: Effort,
    only: String,
    date: Option<String>,
}

fn arguments() -> Result<Option<Arguments>, String> {
    let mut parsed = Arguments { effort: Effort::FULL, only: String::new(), date: None };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--quick" => parsed.effort = Effort::QUICK,
            "--only" => parsed.only = value()?,
            "--date" => parsed.date = Some(value()?),
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown argument {argument:?}\n\n{HELP}")),
        }
    }
    Ok(Some(parsed))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}\n", machine(arguments.date));
    for (columns, rows) in [(&COLUMNS[..], rows()), (&LOOKUP_COLUMNS[..], lookup_rows())] {
        println!("| nanoseconds (times ours) | {} |", columns.join(" | "));
        println!("|---|{}", "---:|".repeat(columns.len()));
        for (name, run) in rows.into_iter().filter(|(name, _)| name.contains(&arguments.only)) {
            print_row(&name, columns, &run(arguments.effort));
        }
        println!();
    }
    ExitCode::SUCCESS
}

fn print_row(name: &str, columns: &[&str], measured: &[Measured]) {
    let cell = |&column: &&str| match measured.iter().find(|m| m.name == column) {
        None => String::new(),
        Some(m) if column == columns[0] => format!("**{}**", nanos(m.nanos)),
        Some(m) => format!("{} ({:.2}x)", nanos(m.nanos), m.ratio),
    };
    let cells: Vec<_> = columns.iter().map(cell).collect();
    println!("| {name} | {} |", cells.join(" | "));
}

fn nanos(value: f64) -> String {
    match value {
        0.0..10.0 => format!("{value:.1}"),
        10.0..10_000.0 => format!("{value:.0}"),
        _ => format!("{:.0} k", value / 1_000.0),
    }
}

type Row = (String, Box<dyn FnOnce(Effort) -> Vec<Measured>>);

fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for percent in [0, 50, 80, 95, 99] {
        let name = format!("acquire + release by handle, 2,048 ports, {percent} % full");
        rows.push((name, Box::new(move |effort| churn(ONE_SHARE, Access::Handle, percent, effort))));
    }
    for percent in [50, 99] {
        let name = format!("the same by ip:port, one origin, {percent} % full");
        rows.push((name, Box::new(move |effort| churn(ONE_SHARE, Access::Lookup, percent, effort))));
    }
    rows.push((
        "the same by ip:port, 10,000 origins at random, 64 ports each, 50 % full".into(),
        Box::new(|effort| churn(MANY_ORIGINS, Access::Lookup, 50, effort)),
    ));
    for (scene, ports) in [(ONE_SHARE, "2,048"), (ALL_SHARES, "63,488 (31 shares)")] {
        let name = format!("refusal by handle, all {ports} ports in use");
        rows.push((name, Box::new(move |effort| full(scene, effort))));
    }
    rows
}

fn lookup_rows() -> Vec<Row> {
    let questions = [
        ("dependent", Question::Dependent),
        ("independent", Question::Independent),
        ("batches of 256", Question::Batch),
    ];
    let row = |(name, question)| -> Row {
        let name = format!("owner of (ip, port), 256 addresses of 31 shares, {name}");
        (name, Box::new(move |effort| owners(question, effort)))
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
    enter::<SoftUnicast>(&mut race, LOOKUP_COLUMNS[0], question);
    enter::<Hashed>(&mut race, LOOKUP_COLUMNS[1], question);
    enter::<StdHashed>(&mut race, LOOKUP_COLUMNS[2], question);
    enter::<Sorted>(&mut race, LOOKUP_COLUMNS[3], question);
    race.run(effort)
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

/// The machine, in one line.
fn machine(date: Option<String>) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = date.unwrap_or_else(|| said_by("date", "-I"));
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments = if arguments.is_empty() { String::new() } else { format!(" -- {}", arguments.join(" ")) };
    format!(
        "{}, {cores} cores; Linux {}; {}; {date}.\nCommand: `cargo run --release -p aegis-benches{arguments}`",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim(),
        said_by("rustc", "-V"),
    )
}

fn said_by(command: &str, argument: &str) -> String {
    let said = std::process::Command::new(command).arg(argument).output();
    let said = said.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    said.map_or_else(|| format!("{command} unknown"), |text| text.trim().to_owned())
}
