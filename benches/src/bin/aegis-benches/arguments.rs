//! What was asked for, and on which machine.

use std::process;

use aegis_benches::Effort;

pub(crate) const HELP: &str = "\
Prints Markdown tables of the hot paths next to their peers.

    --quick         show only that everything runs
    --only TEXT     rows whose name contains TEXT
    --pairs N       leases in the rows about more threads than cores; 10,000,000 if not given
    --date DATE     written into the heading; today if not given

    --child memory LOAD WHO               a row of memory, in this process alone
    --child replay LOAD                   a row of replays, in this process alone
    --child connect WAY GRANULES LIVE     connects as often as each line of the input says
    --child origin                        the other side of those: accepts from its input
    --child count LOOP N                  a loop of N operations, to count instructions of";

pub(crate) enum Command {
    Help,
    Report,
    Child(Vec<String>),
}

pub(crate) struct Arguments {
    pub(crate) command: Command,
    pub(crate) effort: Effort,
    pub(crate) quick: bool,
    pub(crate) only: String,
    pub(crate) pairs: Option<u64>,
    pub(crate) date: Option<String>,
}

impl Arguments {
    pub(crate) fn given() -> Result<Self, String> {
        let mut parsed = Self {
            command: Command::Report,
            effort: Effort::FULL,
            quick: false,
            only: String::new(),
            pairs: None,
            date: None,
        };
        let mut given = std::env::args().skip(1);
        while let Some(argument) = given.next() {
            let mut value = || given.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => (parsed.effort, parsed.quick) = (Effort::QUICK, true),
                "--only" => parsed.only = value()?,
                "--date" => parsed.date = Some(value()?),
                "--pairs" => {
                    let value = value()?.replace([',', '_'], "");
                    parsed.pairs = Some(value.parse().map_err(|e| format!("--pairs {value}: {e}"))?);
                }
                "--child" => {
                    parsed.command = Command::Child(given.collect());
                    break;
                }
                "--help" | "-h" => parsed.command = Command::Help,
                _ => return Err(format!("unknown argument {argument:?}\n\n{HELP}")),
            }
        }
        Ok(parsed)
    }
}

/// The machine, in one line.
pub(crate) fn machine(date: Option<&str>) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = date.map_or_else(|| said_by("date", "-I"), str::to_owned);
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
    let said = process::Command::new(command).arg(argument).output();
    let said = said.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    said.map_or_else(|| format!("{command} unknown"), |text| text.trim().to_owned())
}
