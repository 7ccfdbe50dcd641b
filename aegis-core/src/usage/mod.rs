//! What was used?

mod record;

use core::net::IpAddr;
use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::lease::{Memory, Table};
use crate::net::{Origin, Protocol};
use crate::time::Time;

pub use record::{Record, Refused, Subject};

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
    /// High-water mark of live + held. It is sampled (one acquire in 64, when a pool turns out full, every reading), and
    /// sums granules that are read one after the other: near the truth, exact when the pool was full or nobody moved.
    pub peak: u32,
    /// Ports of this machine's shares of the address: the real limit towards one origin.
    pub capacity: u32,
    /// Acquires refused for want of a free tuple. A refusal of a pool with several addresses is charged to one.
    pub refused: u64,
}

impl Usage {
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
/// Nobody is stopped to read: the counts of different pages are of different short moments.
pub fn read<M: Memory>(table: &Table<M>, now: Time) -> Vec<Usage> {
    let mut capacity = BTreeMap::<IpAddr, u32>::new();
    // Draining granules count while they are here, as their leases do.
    for (ip, range, _) in table.granules() {
        *capacity.entry(ip).or_default() += range.len();
    }
    let mut rows = BTreeMap::<(IpAddr, Option<Origin>), Usage>::new();
    for page in table.usage(now) {
        let row = rows.entry((page.egress_ip, page.origin)).or_insert(Usage {
            egress_ip: page.egress_ip,
            origin: page.origin,
            live: 0,
            held: 0,
            resting: 0,
            parked: 0,
            peak: 0,
            capacity: capacity.get(&page.egress_ip).copied().unwrap_or(0),
            refused: 0,
        });
        row.live += page.live;
        row.held += page.held;
        row.resting += page.resting;
        row.parked += page.parked;
        row.peak = row.peak.max(page.peak);
        row.refused += page.refused;
    }
    for row in rows.values_mut() {
        row.peak = row.peak.max(row.live + row.held);
    }
    rows.into_values().collect()
}

/// The rows as JSON, one object a line.
pub fn to_json_lines(rows: &[Usage]) -> String {
    rows.iter().map(|row| serde_json::to_string(row).expect("a row is plain data") + "\n").collect()
}
