//! How many requests does a connection carry?

use std::collections::BTreeMap;

use super::connection::Connection;
use super::host::HttpOrigin;

/// Requests and connections of one egress pool and origin since the report before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row<P> {
    /// The egress pool.
    pub pool: P,
    /// `None`: origins that there was no room to count apart.
    pub origin: Option<HttpOrigin>,
    /// Connections that were opened for the origin.
    pub connections: u64,
    /// Requests for the origin. So many connections would have been opened if none were ever used again.
    pub requests: u64,
    /// Those of them that went over a connection that was opened for another origin.
    pub coalesced: u64,
    /// Connections for the origin that are open now.
    pub open_connections: u64,
    /// Requests that are open now on these. So many connections would be open if each carried one.
    pub open_requests: u64,
}

impl<P> Row<P> {
    /// Requests for each connection that was opened; `None` if none was.
    pub fn requests_per_connection(&self) -> Option<f64> {
        (self.connections > 0).then(|| self.requests as f64 / self.connections as f64)
    }

    /// Is it the worst case, a connection for each request?
    pub const fn is_one_to_one(&self) -> bool {
        self.requests > 0 && self.connections >= self.requests
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: u64,
    pub(super) requests: u64,
    pub(super) coalesced: u64,
}

/// Counts by pool and origin. Who dials many origins once each fills it up to a bound; what comes then is counted in one.
#[derive(Debug)]
pub(super) struct Counters<P> {
    counts: BTreeMap<(P, Option<HttpOrigin>), Counts>,
    max_origins: usize,
}

impl<P: Ord + Clone> Counters<P> {
    pub(super) const fn new(max_origins: usize) -> Self {
        Self { counts: BTreeMap::new(), max_origins }
    }

    pub(super) fn of(&mut self, pool: &P, origin: &HttpOrigin) -> &mut Counts {
        let mut key = (pool.clone(), Some(origin.clone()));
        if self.counts.len() >= self.max_origins && !self.counts.contains_key(&key) {
            key.1 = None;
        }
        self.counts.entry(key).or_default()
    }

    /// The rows, with what is open of `connections`. Counts begin again.
    pub(super) fn take<'a>(&mut self, connections: impl Iterator<Item = &'a Connection<P>>) -> Vec<Row<P>>
    where
        P: 'a,
    {
        let counted = core::mem::take(&mut self.counts).into_iter();
        let mut rows: BTreeMap<_, _> =
            counted.map(|(key, counts)| (key.clone(), Row::new(key, counts))).collect();
        for connection in connections {
            let key = (connection.opened.pool.clone(), Some(connection.opened.origin.clone()));
            let row = rows.entry(key.clone()).or_insert_with(|| Row::new(key, Counts::default()));
            row.open_connections += 1;
            row.open_requests += u64::from(connection.open);
        }
        rows.into_values().collect()
    }
}

impl<P> Row<P> {
    fn new((pool, origin): (P, Option<HttpOrigin>), counts: Counts) -> Self {
        let Counts { connections, requests, coalesced } = counts;
        Self { pool, origin, connections, requests, coalesced, open_connections: 0, open_requests: 0 }
    }
}
