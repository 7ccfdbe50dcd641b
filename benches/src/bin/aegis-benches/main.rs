//! Prints the Markdown tables of `benches/README.md`: ours next to the peers, in one run.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the tables are the product")]

mod arguments;
mod children;
mod connects;
mod crowds;
mod exits;
mod lookups;
mod pairs;
mod placements;
mod reports;
mod table;
mod tails;
mod threads;

use std::process::ExitCode;

use arguments::{Arguments, Command, HELP};
use table::Run;

fn main() -> ExitCode {
    let done = Arguments::given().and_then(|arguments| match arguments.command {
        Command::Help => {
            println!("{HELP}");
            Ok(())
        }
        Command::Report => {
            report(&arguments);
            Ok(())
        }
        Command::Child(words) => children::serve(&words),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn report(arguments: &Arguments) {
    println!("{}", arguments::machine(arguments.date.as_deref()));
    let run = Run { effort: arguments.effort, quick: arguments.quick, pairs: arguments.pairs };
    let tables = [
        pairs::table(),
        threads::table(),
        tails::table(),
        threads::accounting(),
        threads::beside_a_reader(),
        crowds::table(),
        children::memory(),
        connects::table(),
        children::layouts(),
        placements::table(),
        children::replays(),
        tails::while_applied(),
        exits::table(),
        reports::table(),
    ];
    for table in tables.into_iter().chain(lookups::tables()) {
        table.print(&run, &arguments.only);
    }
}
