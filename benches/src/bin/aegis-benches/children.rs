//! What is measured in a process of its own.

use std::process::{Command, Stdio};

use aegis_benches::memory::{self, Grown, Load};
use aegis_benches::{connect, count, layouts, replay};

use crate::table::{Cells, Row, Run, Table};

/// The other side of `--child`.
pub(crate) fn serve(words: &[String]) -> Result<(), String> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u32>().map_err(|e| format!("{word:?}: {e}"));
    match words[..] {
        ["memory", load, who, ref quick @ ..] => {
            let known = Load::ALL.into_iter().find(|l| l.name == load);
            let load = known.ok_or_else(|| format!("no load {load:?}"))?;
            let load = if *quick == ["quick"] { load.quick() } else { load };
            let grown = memory::measure(load, who).ok_or_else(|| format!("nobody is {who:?}"))?;
            println!("{grown}");
            Ok(())
        }
        ["connect", way, granules, live] => {
            let granules = number(granules)?.try_into().map_err(|_| "too many granules")?;
            let share = connect::Share { granules, live: number(live)? };
            connect::serve(way, share).map_err(|error| format!("{way}: {error}"))
        }
        ["layout", machines, addresses, rounds] => {
            let (machines, rounds) = (number(machines)? as usize, number(rounds)? as usize);
            let cells = layouts::measure(machines, number(addresses)?, rounds);
            println!("{}", cells.iter().map(|cell| format!("{cell:.0}")).collect::<Vec<_>>().join(" "));
            Ok(())
        }
        ["replay", load, ref quick @ ..] => {
            let known = replay::Load::ALL.into_iter().find(|l| l.name == load);
            let load = known.ok_or_else(|| format!("no load {load:?}"))?;
            let (load, rounds) = if *quick == ["quick"] { (load.quick(), 1) } else { (load, 3) };
            let replay::Speed { events, records, live, refused, reused, peak } =
                replay::measure(load, rounds);
            println!("{:.2} {:.1} {live} {reused} {refused} {peak:.0}", events / 1e6, records / 1e6);
            Ok(())
        }
        ["origin"] => connect::accept_all().map_err(|error| format!("origin: {error}")),
        ["count", name, n] => {
            let found = count::run(name, number(n)?.into());
            found.then_some(()).ok_or_else(|| format!("no loop {name:?}; there are {:?}", count::LOOPS))
        }
        _ => Err(format!("no child {words:?}")),
    }
}

/// This program as a child.
pub(crate) fn child(words: &[&str]) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("--child").args(words).stdin(Stdio::null());
    Ok(command)
}

pub(crate) fn memory() -> Table {
    let row = |(load, name): (Load, &str)| -> Row {
        (format!("memory, {name}"), Box::new(move |run| memory_cells(load, run)))
    };
    let names = [
        "bytes a live tuple, 1,000,000 on 1,000 origins",
        "bytes a live tuple, 1,000,000 on 10,000 origins",
        "bytes a live tuple, one to each of 1,000,000 origins",
        "MiB more after 10,000,000 origins were dialled once each",
    ];
    Table {
        cells: "growth of the resident set (times ours)",
        columns: memory::WHO.to_vec(),
        rows: Load::ALL.into_iter().zip(names).map(row).collect(),
        note: None,
    }
}

fn memory_cells(load: Load, run: &Run) -> Cells {
    let grown = |who: &&str| -> Result<Grown, String> {
        let mut words = vec!["memory", load.name, who];
        words.extend(run.quick.then_some("quick"));
        let output = child(&words)?.output().map_err(|error| error.to_string())?;
        // What happens to one of them is a result too.
        Ok(Grown::parse(&String::from_utf8_lossy(&output.stdout)).unwrap_or_else(|| Grown {
            bytes: 0,
            tuples: 0,
            stopped: format!("it ended by {}", output.status),
        }))
    };
    let all = memory::WHO.iter().map(grown).collect::<Result<Vec<_>, _>>()?;
    let value = |grown: &Grown| match load.ends {
        true => grown.bytes as f64 / f64::from(1 << 20),
        false => grown.bytes as f64 / grown.tuples.max(1) as f64,
    };
    let first = value(&all[0]);
    let cell = |(nth, grown): (usize, &Grown)| {
        let number = match (nth, load.ends) {
            (0, _) => format!("**{:.1}**", value(grown)),
            (_, true) => format!("{:.1}", value(grown)),
            (_, false) => format!("{:.1} ({:.2}x)", value(grown), value(grown) / first),
        };
        match grown.stopped.as_str() {
            "" => number,
            stopped => format!("{number}, {stopped}, after {} tuples", crate::table::grouped(grown.tuples)),
        }
    };
    Ok(all.iter().enumerate().map(cell).collect())
}

/// Ours alone: nobody else does it. In processes of their own, as memory is measured too.
pub(crate) fn replays() -> Table {
    let rows = [
        "replay a day, 31 machines, 1 address, 4 origins",
        "replay a day, 10,000 machines, 256 addresses, 100 origins",
        "replay an hour of 280,000 live connections, the same",
        "replay a day of requests, connections kept idle for 10 s, the same",
    ];
    let row = |(load, name): (replay::Load, &str)| -> Row {
        (name.into(), Box::new(move |run| replay_cells(load, run)))
    };
    let note = |run: &Run| {
        let lines = if run.quick { 10_000 } else { 3_000_000 };
        format!("A trace is read at {:.1} million lines a second.", replay::lines_a_second(lines) / 1e6)
    };
    Table {
        cells: "one thread, processor time",
        columns: vec![
            "million events/s",
            "million records/s drawn",
            "live at most",
            "requests without a connection of their own",
            "refused",
            "peak MiB",
        ],
        rows: replay::Load::ALL.into_iter().zip(rows).map(row).collect(),
        note: Some(Box::new(note)),
    }
}

fn replay_cells(load: replay::Load, run: &Run) -> Cells {
    let mut words = vec!["replay", load.name];
    words.extend(run.quick.then_some("quick"));
    let output = child(&words)?.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("it ended by {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}

pub(crate) fn layouts() -> Table {
    let row = |addresses: u32| -> Row {
        let plural = if addresses == 1 { "address" } else { "addresses" };
        let name = format!("layout, 100,000 machines, {} {plural}", crate::table::grouped(addresses.into()));
        (name, Box::new(move |run| layout_cells(addresses, run)))
    };
    let columns = layouts::STEPS.into_iter().chain(["peak MiB"]).collect();
    Table { cells: "milliseconds", columns, rows: [1, 256, 4_096].map(row).into(), note: None }
}

fn layout_cells(addresses: u32, run: &Run) -> Cells {
    let (machines, rounds) = if run.quick { ("3300", "1") } else { ("100000", "5") };
    let output = child(&["layout", machines, &addresses.to_string(), rounds])?.output();
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("it ended by {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}
