//! What a replay tells: while it runs, and at its end.

use core::ops::ControlFlow;
use core::time::Duration;

use ipnet::IpNet;

use crate::fleet::Latency;
use crate::id::DataCenterId;
use crate::net::Origin;
use crate::time::Time;

/// Is told what happens while a replay runs; `()` listens to nothing.
pub trait Watch {
    /// An interval has ended: what was in use in it, in no particular order. Feed alerts with it.
    fn interval(&mut self, interval: &Interval, uses: &[Use]) {
        let _ = (interval, uses);
    }

    /// Comes every 65,536 records. To break off ends the replay; its outcome is what was done so far.
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        let _ = progress;
        ControlFlow::Continue(())
    }
}

impl Watch for () {}

/// How far a replay is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Progress {
    /// Until when it is done.
    pub at: Time,
    /// Which part of the simulated time that is, 0 to 1.
    pub fraction: f64,
    /// Connections opened and closed so far.
    pub events: u64,
}

/// What happened, in all or in one interval. Every record is one of opened, reused and refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Connections opened.
    pub opened: u64,
    /// Requests that needed none of their own.
    pub reused: u64,
    /// Records that found no port.
    pub refused: u64,
    /// Those among the opened and reused that left from another data center than the best that has ports.
    pub spilled: u64,
    /// Connections closed.
    pub closed: u64,
}

impl Totals {
    /// Openings and closings.
    pub const fn events(&self) -> u64 {
        self.opened + self.closed
    }

    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            opened: self.opened - before.opened,
            reused: self.reused - before.reused,
            refused: self.refused - before.refused,
            spilled: self.spilled - before.spilled,
            closed: self.closed - before.closed,
        }
    }
}

/// A part of the simulated time. What closes at its very end belongs to it, what opens then to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval {
    /// When it began.
    pub start: Time,
    /// How long it was: the last one may be shorter.
    pub length: Duration,
    /// What happened in it.
    pub totals: Totals,
    /// Connections open at its end, idle ones among them.
    pub live: u32,
    /// Ports held at its end.
    pub held: u32,
}

/// Ports of one egress IP in use (live or held) in one data center towards one origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Use {
    /// The egress IP; of IPv6 the egress prefix.
    pub source: IpNet,
    /// The data center.
    pub data_center: DataCenterId,
    /// The origin.
    pub origin: Origin,
    /// Ports of the data center's machines there: the capacity.
    pub ports: u32,
    /// Ports in use by the time that they were, in milliseconds: by the length of the time it is the average.
    pub port_millis: u64,
    /// Fewest in use at a time.
    pub min: u32,
    /// Most in use at a time.
    pub max: u32,
    /// In use at the end.
    pub last: u32,
}

impl Use {
    /// Average of ports in use over a time as long as `length`, which is not 0.
    pub fn average(&self, length: Duration) -> f64 {
        self.port_millis as f64 / (length.as_secs_f64() * 1e3)
    }
}

/// Records that were refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The best data center with ports, where they would have left.
    pub data_center: DataCenterId,
    /// Where it would have gone.
    pub origin: Origin,
    /// How many.
    pub count: u64,
}

/// When it first was too much.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirstRefusal {
    /// When.
    pub at: Time,
    /// Where it would have left from.
    pub data_center: DataCenterId,
    /// Where it would have gone.
    pub origin: Origin,
}

/// What it costs to leave where the ports are: round trips beyond those of the best of all data centers, of every record
/// that was not refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExtraHop {
    /// The average, to the microsecond.
    pub mean: Latency,
    /// Half have no more.
    pub p50: Latency,
    /// 99 of 100 have no more.
    pub p99: Latency,
    /// None has more.
    pub max: Latency,
}

impl ExtraHop {
    /// Of so many that had so much; none of nobody.
    pub(super) fn of(mut counts: Vec<(Latency, u64)>) -> Option<Self> {
        counts.retain(|(_, count)| *count > 0);
        counts.sort_unstable();
        let all: u64 = counts.iter().map(|(_, count)| count).sum();
        let (max, _) = *counts.last()?;
        let sum: u128 = counts.iter().map(|(extra, n)| u128::from(extra.as_micros()) * u128::from(*n)).sum();
        let mean = (sum + u128::from(all / 2)) / u128::from(all);
        // Nearest rank.
        let percentile = |percent: u128| {
            let rank = (u128::from(all) * percent).div_ceil(100);
            let mut seen = 0;
            let found = counts.iter().find(|(_, count)| {
                seen += u128::from(*count);
                seen >= rank
            });
            found.map_or(max, |(extra, _)| *extra)
        };
        let mean = Latency::from_micros(u32::try_from(mean).unwrap_or(u32::MAX));
        Some(Self { mean, p50: percentile(50), p99: percentile(99), max })
    }
}

/// What a day would be like.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// When it began.
    pub from: Time,
    /// When it ended.
    pub until: Time,
    /// It was broken off before its time, and this is what was done so far.
    pub is_stopped: bool,
    /// What happened.
    pub totals: Totals,
    /// Connections open at the end, idle ones among them.
    pub live: u32,
    /// The first refusal; none if there was none.
    pub first_refusal: Option<FirstRefusal>,
    /// All refusals, by data center and origin; who had none is not there.
    pub refused: Vec<Refused>,
    /// What was in use of what, over the whole time, by egress IP, data center and origin.
    pub uses: Vec<Use>,
    /// What the restriction cost; none if nobody was served.
    pub extra_hop: Option<ExtraHop>,
    /// One after the other.
    pub intervals: Vec<Interval>,
}
