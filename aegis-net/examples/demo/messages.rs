//! What the processes of the demo tell each other: one JSON object a line.

use std::io::{BufRead, Write};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Result;

/// To a machine.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Order {
    /// Open TCP connections until one is refused.
    Fill(SocketAddr),
    /// Open this many UDP flows, and ask and answer on each.
    Udp(SocketAddr, u32),
    /// Close the TCP connections to an origin, in good order.
    Release(SocketAddr),
    /// Say what is in use.
    Usage,
}

/// From a machine.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Answer {
    /// Still filling: so many more.
    Progress(u32),
    /// Filled, or all flows open.
    Filled(Filled),
    /// All closed.
    Released(u32),
    /// The rows, and the same as OpenMetrics text.
    Usage { rows: Vec<Row>, json_lines: String, open_metrics: String },
    /// Something went wrong that must not.
    Failed(String),
}

/// How full a machine got.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Filled {
    pub(crate) opened: u32,
    pub(crate) parked: u32,
    pub(crate) capacity: u32,
    /// The error that ended it.
    pub(crate) refusal: String,
    /// Was that error exhaustion?
    pub(crate) exhausted: bool,
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
