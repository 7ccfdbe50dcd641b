//! What the processes of the demo tell each other: one JSON object a line.

use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use aegis_core::epoch::Epoch;
use aegis_core::epoch::control::{Reply, Report};
use aegis_core::net::PortRange;
use aegis_core::time::Time;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Result;

/// What a connection says first, before the name of the machine that opened it.
pub(crate) const HELLO: &str = "I am ";
/// What it says last, where its end cannot be seen.
pub(crate) const GOODBYE: &str = "That was ";

/// Ports of some addresses.
pub(crate) type Ports = Vec<(Ipv4Addr, PortRange)>;

/// To a machine.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Order {
    /// The answer to a report, and the bundle of the layout in it.
    Heard(Reply, Option<Vec<u8>>),
    /// Open TCP connections until one is refused.
    Fill(Fill),
    /// Open this many UDP flows, and ask and answer on each.
    Udp(SocketAddr, u32),
    /// Close the TCP connections to an origin, in good order.
    Release(SocketAddr),
    /// Close all TCP connections but one of so many.
    Thin(u16),
    /// Close all that is open.
    CloseAll,
    /// Send a line over all that is open, and read it again.
    Echo,
    /// Say what is in use.
    Usage,
}

#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Fill {
    pub(crate) origin: SocketAddr,
    /// Connections from these ports are counted.
    pub(crate) watched: Ports,
    /// The first of those is enough.
    pub(crate) only_one: bool,
}

impl Fill {
    /// All that there is.
    pub(crate) const fn up(origin: SocketAddr) -> Self {
        Self { origin, watched: Vec::new(), only_one: false }
    }
}

/// From a machine.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Answer {
    /// To the controller, unasked.
    Report(Report),
    /// Still filling: so many more.
    Progress(u32),
    /// Filled, or all flows open.
    Filled(Filled),
    /// So many closed.
    Released(u32),
    /// What came back of what is open.
    Echoed(Echoed),
    /// The rows, and the same as OpenMetrics text.
    Usage { rows: Vec<Row>, json_lines: String, open_metrics: String },
    /// Something went wrong that must not.
    Failed(String),
}

/// How what is open works.
#[derive(Serialize, Deserialize, Debug, Default)]
pub(crate) struct Echoed {
    pub(crate) answered: u32,
    pub(crate) broken: u32,
    /// The first broken one, in words.
    pub(crate) first_broken: Option<String>,
}

/// How full a machine got.
#[derive(Serialize, Deserialize, Debug, Default)]
pub(crate) struct Filled {
    pub(crate) opened: u32,
    /// Of the ports that it may grant now.
    pub(crate) live: u32,
    pub(crate) held: u32,
    pub(crate) parked: u32,
    pub(crate) capacity: u32,
    /// The error that ended it.
    pub(crate) refusal: String,
    /// Was that error exhaustion?
    pub(crate) exhausted: bool,
    /// Connections from ports that were watched, and when the first of them had its answer.
    pub(crate) watched: u32,
    pub(crate) first_watched: Option<Time>,
}

/// A row of a machine's usage.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(crate) struct Row {
    pub(crate) egress_ip: IpAddr,
    /// Protocol and address.
    pub(crate) origin: Option<(String, SocketAddr)>,
    pub(crate) live: u32,
    pub(crate) held: u32,
    pub(crate) parked: u32,
    pub(crate) peak: u32,
    pub(crate) capacity: u32,
    pub(crate) refused: u64,
}

/// To an origin; it answers with what it has [`Seen`].
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Ask {
    /// Look up all that is open.
    Look,
    /// Steer by this layout from now on, and look up all that is open.
    Steer(Vec<u8>),
    /// That machine is dead: nothing of it is open any more.
    Forget(String),
}

/// From an origin.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Where it listens; port 0 if it does not.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) connections: u32,
    pub(crate) open: u32,
    pub(crate) right: u32,
    pub(crate) wrong: u32,
    pub(crate) duplicates: u32,
    /// The first wrong lookup, in words.
    pub(crate) first_wrong: Option<String>,
    /// The layout that it steers by.
    pub(crate) epoch: Epoch,
    /// Look-ups of connections that were open when a layout changed, or when it was asked.
    pub(crate) rechecked: u64,
    /// Those of them that found another owner than who opened it.
    pub(crate) astray: u32,
    pub(crate) first_astray: Option<String>,
}

pub(crate) fn send(mut to: impl Write, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    to.write_all(line.as_bytes())?;
    Ok(to.flush()?)
}

/// The next message; `None` at the end.
pub(crate) fn receive<T: DeserializeOwned>(mut from: impl BufRead) -> Result<Option<T>> {
    let mut line = String::new();
    match from.read_line(&mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_str(&line)?)),
    }
}
