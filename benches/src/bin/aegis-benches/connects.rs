//! Real connections: what choosing the port costs, beside all that a connection costs anyway.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use aegis_benches::Times;
use aegis_benches::connect::{Share, Way};

use crate::children::child;
use crate::table::{Cells, Row, Run, Table};

/// Of one row, when the machine is slower than thought.
const MOST: Duration = Duration::from_secs(40);

/// The last column: the first contender once more, where nothing is in use.
const EMPTY: &str = "ours, 0 % full";

pub(crate) fn table() -> Table {
    let small = [0, 80, 95, 99].map(|percent| (1, percent, format!("2,048 ports, {percent} % full")));
    // More than half, from where on the kernel's preference of every second port matters; less than the 20,000
    // descriptors that some machines allow.
    let large = (14, 65, "28,672 ports, 65 % full".to_owned());
    let row = |(granules, percent, name): (u16, u32, String)| -> Row {
        let cell = move |run: &Run| {
            // Filling the large one takes the default ways seconds, which are for a table that is kept.
            let granules = if run.quick { 1 } else { granules };
            cells(Share { granules, live: u32::from(granules) * 2_048 * percent / 100 }, run)
        };
        (format!("connect, steady churn, {name}"), Box::new(cell))
    };
    let mut columns = Way::ALL.map(|(name, _)| name).to_vec();
    columns.push(EMPTY);
    Table {
        cells: "microseconds to a connected socket, median / p99 (times ours, medians)",
        columns,
        rows: small.into_iter().chain([large]).map(row).collect(),
        note: None,
    }
}

struct Contender {
    process: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Why it takes no part.
    out: Option<String>,
    all: Times,
    medians: Vec<f64>,
}

impl Contender {
    fn start(way: &str, share: Share) -> Result<Self, String> {
        let words = ["connect", way, &share.granules.to_string(), &share.live.to_string()];
        let mut command = child(&words)?;
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = started.map_err(|error| error.to_string())?;
        let asks = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().ok_or("no output")?);
        Ok(Self { process, asks, answers, out: None, all: Times::default(), medians: Vec::new() })
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(1..) => line.trim_end().to_owned(),
            _ => "it ended".into(),
        }
    }

    fn ready(&mut self) {
        let line = self.line();
        self.out = (line != "ready").then_some(line);
    }

    fn turn(&mut self, connects: u32) {
        if self.out.is_some() {
            return;
        }
        if let Some(asks) = &mut self.asks {
            // If it has ended, its answer says so.
            let _ = writeln!(asks, "{connects}");
        }
        let line = self.line();
        let mut times = Times::default();
        for nanos in line.split(' ') {
            match nanos.parse() {
                Ok(nanos) => {
                    self.all.push(nanos);
                    times.push(nanos);
                }
                Err(_) => self.out = Some(line.clone()),
            }
        }
        self.medians.push(times.quantile(0.5));
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.asks = None;
        let _ = self.process.wait();
    }
}

fn cells(share: Share, run: &Run) -> Cells {
    let mut contenders = Vec::new();
    for (name, _) in Way::ALL {
        contenders.push(Contender::start(name, share)?);
    }
    contenders.push(Contender::start(Way::ALL[0].0, Share { live: 0, ..share })?);
    // They fill their shares at the same time.
    contenders.iter_mut().for_each(Contender::ready);
    let ours = &contenders[0];
    if let Some(reason) = &ours.out {
        return Err(reason.clone());
    }
    let (start, len) = (Instant::now(), contenders.len());
    let (rounds, connects) = if run.quick { (3, 10) } else { (41, 50) };
    for round in 0..rounds {
        if start.elapsed() < MOST {
            (0..len).for_each(|turn| contenders[(round + turn) % len].turn(connects));
        }
    }
    let first = contenders[0].medians.clone();
    let cell = |(nth, contender): (usize, &mut Contender)| {
        if let Some(reason) = &contender.out {
            return reason.clone();
        }
        let [median, p99] = [0.5, 0.99].map(|share| contender.all.quantile(share) / 1_000.0);
        let mut ratios: Vec<_> = contender.medians.iter().zip(&first).map(|(m, f)| m / f).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        match nth {
            0 => format!("**{median:.1}** / {p99:.1}"),
            _ => format!("{median:.1} / {p99:.1} ({:.2}x)", ratios[ratios.len() / 2]),
        }
    };
    Ok(contenders.iter_mut().enumerate().map(cell).collect())
}
