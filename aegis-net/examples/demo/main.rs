//! `make demo`: soft-unicast with real processes and real sockets, on loopback, without root.
//!
//! Reads a fleet file, builds the layout, and starts one process for each machine and each origin. The machines share
//! egress addresses. Each fills its share towards one origin to the last port, then uses the same ports again towards
//! a second origin; the next connection is refused. The origins look the owner of every connection up by its peer
//! address and compare it with the process that says it opened it.
//!
//! Then the fleet changes while connections are open: a machine joins, one is drained, one is killed. Ports change hands,
//! no connection breaks but those of the killed process, and every one still belongs to who opened it.
//!
//! At the end the planner says how many addresses this fleet would need for what was open.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

mod acts;
mod agent;
mod company;
mod machine;
mod messages;
mod origin;
mod planning;
mod play;
mod process;
mod report;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const USAGE: &str = "usage: demo [--fleet FILE] [--out FOLDER (default: demo-out)]";
const OWN_FLEET: &str = include_str!("fleet.toml");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The two roles that the demo starts itself in.
    let outcome = match words[..] {
        ["--as-machine", bundle, main_zone, udp_zone] => {
            machine::run(bundle, main_zone, udp_zone).map(|()| true)
        }
        ["--as-origin", protocol, layout] => origin::run(protocol, layout).map(|()| true),
        ["-h" | "--help"] => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => demo(&words),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::from(2)
        }
    }
}

/// Plays the demo; true if all was right.
fn demo(mut words: &[&str]) -> Result<bool> {
    let (mut fleet, mut out) = (None, PathBuf::from("demo-out"));
    while let [flag, value, rest @ ..] = words {
        match *flag {
            "--fleet" => fleet = Some(PathBuf::from(value)),
            "--out" => out = PathBuf::from(value),
            _ => return Err(format!("unknown option {flag:?}; {USAGE}").into()),
        }
        words = rest;
    }
    if let [word] = words {
        return Err(format!("{word:?} is not understood; {USAGE}").into());
    }
    let (name, text) = match fleet {
        Some(path) => {
            let text =
                std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            (path.display().to_string(), text)
        }
        None => ("the demo's own fleet file".to_owned(), OWN_FLEET.to_owned()),
    };
    let stage = stage::Stage::set(&name, &text, machine::descriptors()?)?;
    stage.describe();
    let outcome = play::play(&stage, &out)?;
    planning::plan(&stage, &outcome, &out)?;
    Ok(report::verdict(&outcome))
}
