//! What was used?
//!
//! [`read`] says what is in use now. A [`Meter`] looks again and again, and says at the end of each interval what every
//! subject did in it, as [`Record`]s.
//!
//! A machine makes a [`Report`] of each interval and sends it until it is acknowledged; a [`Rollup`] takes reports in
//! any order, any number of times, and sums them up over machines and time.
//!
//! ```
//! use aegis_core::usage::{Added, Dimension, Of, Outbox, Period, Record, Refused, Rollup, Subject, Then};
//! use aegis_core::net::{Origin, Protocol};
//!
//! let origin = Origin::new(Protocol::Tcp, "203.0.113.150:443".parse()?)?;
//! let record = Record {
//!     subject: Subject::Source {
//!         egress_ip: "192.0.2.1".parse()?,
//!         origin: Some(origin),
//!         account: Some("acme".parse()?),
//!         zone: None,
//!     },
//!     port_millis: 60_000 * 512, // 512 ports on average
//!     min: 500,
//!     max: 600,
//!     live: 520,
//!     held: 12,
//!     resting: 80,
//!     parked: 0,
//!     capacity: 2_048,
//!     granted: 9_000,
//!     refused: Refused::default(),
//! };
//!
//! // On the machine. A boot's number only grows: its start in milliseconds since 1970 will do.
//! let started = 1_736_467_500_000;
//! let mut outbox = Outbox::new("sjc-m01".parse()?, "sjc".parse()?, started, None, 1_000);
//! let period = Period::new(started, started + 60_000)?;
//! outbox.push(1, period, vec![record], Then::GoesOn)?;
//!
//! // In the data center. The acknowledgement is lost, so the report comes twice.
//! let mut rollup = Rollup::default();
//! for expected in [Added::New, Added::Again] {
//!     for report in outbox.unsent() {
//!         assert_eq!(rollup.add(report)?, expected);
//!     }
//! }
//! let by = [Dimension::DataCenter, Dimension::EgressIp, Dimension::Origin];
//! let summaries = rollup.summaries(Of::Sources, &by, period, rollup.bucket_millis())?;
//! assert_eq!((summaries[0].average(), summaries[0].granted), (512.0, 9_000));
//! assert_eq!(summaries[0].avg_utilization, Some(25.0));
//! assert!(rollup.gaps().is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod columns;
mod date;
mod gaps;
mod meter;
mod ndjson;
mod outbox;
mod record;
mod report;
mod rollup;
mod schema;
mod summary;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use crate::lease::{GranuleState, Memory, Table};
use crate::net::{Origin, Protocol};
use crate::time::Time;

pub use columns::{Column, Columns, Values};
pub use gaps::{Gap, Outlook};
pub use meter::{Measured, Meter, Whose, ZoneUsage};
pub use ndjson::{read_ndjson, write_ndjson};
pub use outbox::Outbox;
pub use record::{Record, Refused, Subject};
pub use report::{Counted, Header, Key, Period, Report, Then, Totals};
pub use rollup::{AddError, Added, Rollup};
pub use summary::{Dimension, Group, Of, Summary};

/// The use of one egress IP of this machine towards one origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Usage {
    /// Source address.
    pub egress_ip: IpAddr,
    /// Protocol and destination; `None` counts the ports that strangers on the host hold towards every origin.
    #[serde(flatten, serialize_with = "protocol_and_address")]
    pub origin: Option<Origin>,
    /// Leases: exact as of the moment the page was read.
    pub live: u32,
    /// Released tuples that must not be granted yet.
    pub held: u32,
    /// Released tuples that may be granted, but are not preferred.
    pub resting: u32,
    /// Tuples that strangers on the host have.
    pub parked: u32,
    /// High-water mark of live + held since a [`Meter`] has reported it. It is sampled (with every 64th grant of a granule,
    /// when a pool turns out full, every reading), and sums granules that are read one after the other: too low by fewer
    /// than 64 for each worker, and 128 more, in each granule; exact when the pool was full or nobody moved.
    pub peak: u32,
    /// Ports of this machine's shares of the address: the real limit towards one origin.
    pub capacity: u32,
    /// Leases granted. What an origin had counted that is forgotten, or has nothing open, is counted on without an origin;
    /// so are grants of one with a single connection at a time. [`Meter::rows`] begins again for an origin that was idle.
    pub granted: u64,
    /// Acquires refused for want of a free tuple. A refusal of a pool with several addresses is charged to one.
    pub refused: u64,
    /// Acquires refused by the limit of connections from one egress IP to the origin, charged in the same way.
    pub refused_by_limit: u64,
}

impl Usage {
    fn new(egress_ip: IpAddr, origin: Option<Origin>) -> Self {
        Self {
            egress_ip,
            origin,
            live: 0,
            held: 0,
            resting: 0,
            parked: 0,
            peak: 0,
            capacity: 0,
            granted: 0,
            refused: 0,
            refused_by_limit: 0,
        }
    }

    fn count(&mut self, [granted, refused, by_limit]: [u64; 3]) {
        // Another process may have written anything.
        self.granted = self.granted.saturating_add(granted);
        self.refused = self.refused.saturating_add(refused);
        self.refused_by_limit = self.refused_by_limit.saturating_add(by_limit);
    }

    /// Live and held tuples as a fraction of the ports provisioned, 0 to 1.
    pub fn utilization(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { f64::from(self.live + self.held) / f64::from(self.capacity) }
    }
}

fn protocol_and_address<S: Serializer>(origin: &Option<Origin>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        protocol: Option<Protocol>,
        origin: Option<core::net::SocketAddr>,
    }
    Fields { protocol: origin.map(|o| o.protocol()), origin: origin.map(|o| o.address()) }
        .serialize(serializer)
}

/// The use of every egress IP towards every origin that was ever dialled from it, in order.
///
/// Nobody is stopped to read: the counts of different pages are of different short moments, and of what was granted and
/// refused the last 64 of a worker may be seen only the next time.
pub fn read<M: Memory>(table: &Table<M>, now: Time) -> Vec<Usage> {
    let (mut rows, capacity) = occupancy(table, now);
    for tally in table.tallies() {
        let (egress_ip, origin) = (tally.egress_ip, tally.origin);
        let row = rows.entry((egress_ip, origin)).or_insert_with(|| Usage::new(egress_ip, origin));
        row.count(tally.numbers);
    }
    set_capacity(&capacity, rows.values_mut());
    rows.into_values().collect()
}

type Rows = BTreeMap<(IpAddr, Option<Origin>), Usage>;

/// The ports of each egress IP.
type Capacities = BTreeMap<IpAddr, u32>;

/// What is in use, without what was counted; and of how many ports.
fn occupancy<M: Memory>(table: &Table<M>, now: Time) -> (Rows, Capacities) {
    let (mut rows, mut busy) = (Rows::new(), BTreeSet::new());
    for page in table.usage(now) {
        if page.live | page.held != 0 {
            busy.insert((page.egress_ip, page.ports));
        }
        let (egress_ip, origin) = (page.egress_ip, page.origin);
        let row = rows.entry((egress_ip, origin)).or_insert_with(|| Usage::new(egress_ip, origin));
        row.live += page.live;
        row.held += page.held;
        row.resting += page.resting;
        row.parked += page.parked;
        row.peak = row.peak.max(page.peak);
    }
    for row in rows.values_mut() {
        row.peak = row.peak.max(row.live + row.held);
    }
    let mut capacities = Capacities::new();
    for (ip, range, state) in table.granules() {
        // Of those that are another machine's by now, or not ours yet, only where connections of ours are still open.
        if state == GranuleState::Owned || busy.contains(&(ip, range)) {
            *capacities.entry(ip).or_default() += range.len();
        }
    }
    (rows, capacities)
}

fn set_capacity<'a>(capacity: &Capacities, rows: impl Iterator<Item = &'a mut Usage>) {
    for row in rows {
        row.capacity = capacity.get(&row.egress_ip).copied().unwrap_or(0);
    }
}

/// The rows as JSON, one object a line.
pub fn to_json_lines(rows: &[Usage]) -> String {
    rows.iter().map(|row| serde_json::to_string(row).expect("a row is plain data") + "\n").collect()
}
