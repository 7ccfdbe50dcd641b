//! A day's reports of use: rolled up, asked about, and as text.

use std::hint::black_box;
use std::time::Instant;

use aegis_core::net::{Origin, Protocol};
use aegis_core::usage::{
    Columns, Dimension, Of, Outbox, Period, Record, Refused, Report, Rollup, Subject, Then, read_ndjson,
    write_ndjson,
};

use crate::random::Random;
use crate::rounds::median;

/// What is done, in the order of the columns.
pub const STEPS: [&str; 6] =
    ["rolled up", "came again", "summed up by origin and hour", "written as NDJSON", "read", "as columns"];

/// Machines of the data center.
const MACHINES: usize = 40;

/// Records that one machine reports every five minutes.
const RECORDS: usize = 100;

const FIVE_MINUTES: u64 = 300_000;

/// Records a second in each of [`STEPS`], median of `rounds`. About so many records: a data center of 40 machines
/// reports for as long as they last. The text and the columns are those of a tenth of them.
pub fn measure(records: usize, rounds: usize) -> [f64; STEPS.len()] {
    let reports = reports(records.div_ceil(RECORDS));
    let some = &reports[..reports.len().div_ceil(10)];
    let mut rates: [Vec<f64>; STEPS.len()] = Default::default();
    for _ in 0..rounds {
        let mut step = |nth: usize, reports: &[Report], run: &mut dyn FnMut()| {
            let start = Instant::now();
            run();
            let records = reports.len() * RECORDS;
            rates[nth].push(records as f64 / start.elapsed().as_secs_f64());
        };
        let mut rollup = Rollup::default();
        for nth in [0, 1] {
            step(nth, &reports, &mut || {
                for report in &reports {
                    let _ = rollup.add(report).expect("every report is one of a kind");
                }
            });
        }
        let ever = Period::new(0, 253_402_300_800_000).expect("until the year 9999");
        let by = [Dimension::DataCenter, Dimension::EgressIp, Dimension::Origin];
        step(2, &reports, &mut || {
            black_box(rollup.summaries(Of::Sources, &by, ever, 12 * FIVE_MINUTES).expect("whole buckets"));
        });
        let mut text = String::new();
        step(3, some, &mut || write_ndjson(&mut text, some).expect("a string takes everything"));
        step(4, some, &mut || drop(black_box(read_ndjson(&text).expect("what was written"))));
        step(5, some, &mut || drop(black_box(Columns::of(some).expect("few texts"))));
    }
    rates.map(median)
}

fn reports(count: usize) -> Vec<Report> {
    let mut random = Random::new(1);
    let origins: Vec<_> = (0..25u8)
        .map(|n| Origin::new(Protocol::Tcp, ([203, 0, 113, n + 1], 443).into()).expect("a usable origin"))
        .collect();
    let mut outboxes: Vec<_> = (0..MACHINES)
        .map(|n| {
            let machine = format!("sjc-m{n:02}").parse().expect("a name");
            Outbox::new(machine, "sjc".parse().expect("a name"), 1, None, 1)
        })
        .collect();
    let mut record = |n: usize| {
        let [low, high] = [(); 2].map(|()| random.below(1_000));
        let (min, max) = (low.min(high), low.max(high));
        Record {
            subject: Subject::Source {
                egress_ip: [192, 0, 2, (n / origins.len()) as u8].into(),
                origin: Some(origins[n % origins.len()]),
                account: Some("acme".parse().expect("a name")),
                zone: None,
            },
            port_millis: u64::from(min + max) * FIVE_MINUTES / 2,
            min,
            max,
            live: min,
            held: max - min,
            resting: 100,
            parked: 0,
            capacity: 2_048,
            granted: random.below(100_000).into(),
            refused: Refused::default(),
        }
    };
    (0..count)
        .map(|n| {
            // Each machine begins at another second, so that reports lie across the buckets' borders.
            let start =
                1_736_467_500_000 + (n / MACHINES) as u64 * FIVE_MINUTES + (n % MACHINES) as u64 * 1_000;
            let period = Period::new(start, start + FIVE_MINUTES).expect("five minutes");
            let records = (0..RECORDS).map(&mut record).collect();
            let report = outboxes[n % MACHINES].push(1, period, records, Then::GoesOn);
            report.expect("its numbers fit together").clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_day_is_measured() {
        assert!(measure(5_000, 1).iter().all(|rate| *rate > 0.0));
    }
}
