//! Which connections are open?

use core::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::certificate::Pattern;
use super::connection::{Address, Connection, Fit, Opened, Request};
use super::host::{Host, HttpOrigin};
use super::report::{Counters, Row};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{DEFAULT_COUNTED_ORIGINS, DEFAULT_OPEN_CONNECTIONS};
use crate::net::Origin;

/// One connection of one directory. Numbers only grow, so one that was closed is never another's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What to do for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Send it on this connection, and why that may be.
    Reuse(ConnectionId, Fit),
    /// Open a connection for it.
    Open,
}

/// Why the directory did not accept what it was told. It changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UseError {
    /// The connection is not in the directory, or not any more.
    #[error("there is no such connection, or it was closed")]
    Closed,
    /// It may not carry this request: wrong pool, destination or host, or its server has said no.
    #[error("the connection may not carry this request")]
    NotForIt,
    /// It is busy, has no stream left, or is going away.
    #[error("the connection takes no request now")]
    Busy,
    /// No request is open that could have ended.
    #[error("no request is open on the connection")]
    Idle,
}

impl UseError {
    /// What the caller can do.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Busy => ErrorKind::Wait,
            Self::Closed | Self::NotForIt | Self::Idle => ErrorKind::Input,
        }
    }
}

/// What a directory may do and hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Connections at most.
    pub max_connections: usize,
    /// Origins whose requests are counted apart, between two reports; those of all others of a pool are counted together.
    pub max_counted_origins: usize,
    /// Must a listed origin be at the same address?
    pub address: Address,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: DEFAULT_OPEN_CONNECTIONS,
            max_counted_origins: DEFAULT_COUNTED_ORIGINS,
            address: Address::Same,
        }
    }
}

/// The open connections of one process or thread, by egress pool `P` (for example [`lease::PoolKey`]; the module's
/// documentation says how it chooses).
///
/// A decision looks only at connections of the request's pool and destination that have room: at the first of the
/// origin's own, then at those whose certificate is for its host. How many others are open does not matter.
///
/// [`lease::PoolKey`]: crate::lease::PoolKey
#[derive(Debug)]
pub struct Directory<P> {
    config: Config,
    connections: BTreeMap<ConnectionId, Connection<P>>,
    index: Index<P>,
    counters: Counters<P>,
    /// Connections that were ever opened.
    opened: u64,
    /// Requests that ever ended.
    ended: u64,
}

impl<P: Ord + Clone> Directory<P> {
    /// An empty one.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            connections: BTreeMap::new(),
            index: Index::new(),
            counters: Counters::new(config.max_counted_origins),
            opened: 0,
            ended: 0,
        }
    }

    /// How many connections it holds.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Does it hold none?
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// May an open connection carry this request? Changes nothing: [`Directory::start`] takes the stream.
    pub fn decide(&self, request: &Request<P>) -> Decision {
        let Request { pool, origin, destination } = request;
        let fit = |id: &ConnectionId| self.connections[id].fit(request, self.config.address);
        let own = self.index.own.get(&(pool.clone(), origin.clone(), *destination));
        let found = own.into_iter().flatten().find_map(|rank| Some((rank.id, fit(&rank.id)?)));
        let best = |ids: &mut dyn Iterator<Item = &ConnectionId>| {
            let fitting = ids.filter_map(|id| Some((Rank::of(*id, &self.connections[id])?, fit(id)?)));
            fitting.min_by_key(|(rank, _)| *rank).map(|(rank, fit)| (rank.id, fit))
        };
        let found = found.or_else(|| {
            let keys = Pattern::covering(origin.host()).map(|name| (pool.clone(), *destination, name));
            best(&mut keys.filter_map(|key| self.index.others.get(&key)).flatten())
        });
        let found = found.or_else(|| {
            let listed = self.index.listed.get(&(pool.clone(), origin.clone()));
            best(&mut listed.into_iter().flatten())
        });
        found.map_or(Decision::Open, |(id, fit)| Decision::Reuse(id, fit))
    }

    /// Takes a connection that was opened. It carries no request yet.
    ///
    /// # Errors
    /// [`ErrorKind::Input`]: scheme, TLS, version and transport do not go together. [`ErrorKind::Wait`]: the directory is
    /// full.
    pub fn opened(&mut self, opened: Opened<P>) -> Result<ConnectionId> {
        if self.connections.len() >= self.config.max_connections {
            let message = format!(
                "the directory is full with {} connections; close one, or configure more",
                self.connections.len()
            );
            return Err(Error::new(ErrorKind::Wait, message));
        }
        let connection = Connection::new(opened)?;
        self.opened += 1;
        let id = ConnectionId(self.opened);
        self.counters.of(&connection.opened.pool, &connection.opened.origin).connections += 1;
        self.index.add_own(id, &connection);
        self.index.set_others(id, &connection, false);
        self.connections.insert(id, connection);
        Ok(id)
    }

    /// A request goes out on this connection. Says why it may.
    ///
    /// # Errors
    /// Closed, busy, or not for this request: others may have been faster since [`Directory::decide`].
    pub fn start(&mut self, id: ConnectionId, request: &Request<P>) -> Result<Fit, UseError> {
        let address = self.config.address;
        let fit = self.change(id, |connection| {
            let fit = connection.fit(request, address).ok_or(UseError::NotForIt)?;
            if !connection.is_ready() {
                return Err(UseError::Busy);
            }
            connection.open += 1;
            connection.requests += 1;
            Ok(fit)
        })?;
        let counts = self.counters.of(&request.pool, &request.origin);
        counts.requests += 1;
        counts.coalesced += u64::from(fit == Fit::Coalesced);
        Ok(fit)
    }

    /// A request on this connection has ended, and left it usable (otherwise say [`Directory::closed`]).
    ///
    /// # Errors
    /// Closed; or no request is open there.
    pub fn finished(&mut self, id: ConnectionId) -> Result<(), UseError> {
        let ended = self.ended + 1;
        self.change(id, |connection| {
            connection.open = connection.open.checked_sub(1).ok_or(UseError::Idle)?;
            connection.last_used = ended;
            Ok(())
        })?;
        self.ended = ended;
        Ok(())
    }

    /// The server lets so many requests be open at once (RFC 9113 s6.5.2; for HTTP/3, the limit of RFC 9000 s4.6 less the
    /// streams that have been closed). 0 is possible, and fewer than are open too. HTTP/1.1 keeps its one.
    ///
    /// # Errors
    /// Closed.
    pub fn streams_allowed(&mut self, id: ConnectionId, at_once: u32) -> Result<(), UseError> {
        self.change(id, |connection| {
            connection.set_max_open(at_once);
            Ok(())
        })
    }

    /// The server takes no more requests on this connection: GOAWAY (RFC 9113 s6.8, RFC 9114 s5.2), or
    /// `Connection: close` (RFC 9112 s9.6). What is open goes on.
    ///
    /// # Errors
    /// Closed.
    pub fn going_away(&mut self, id: ConnectionId) -> Result<(), UseError> {
        self.change(id, |connection| {
            connection.go_away();
            Ok(())
        })
    }

    /// The server has answered 421 (Misdirected Request) to a request for this host, which never comes here again.
    ///
    /// # Errors
    /// Closed.
    pub fn misdirected(&mut self, id: ConnectionId, host: &Host) -> Result<(), UseError> {
        self.change(id, |connection| {
            connection.misdirect(host);
            Ok(())
        })
    }

    /// The server has listed these origins in a valid ORIGIN frame: on the right stream, without unknown flags, and not
    /// through a proxy (RFC 8336 s2.2). Entries that cannot be parsed are ignored, and so is a frame without TLS.
    ///
    /// # Errors
    /// Closed.
    pub fn origins_listed<'a>(
        &mut self,
        id: ConnectionId,
        entries: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), UseError> {
        self.change(id, |connection| {
            connection.list(entries);
            Ok(())
        })?;
        if self.config.address == Address::AnyIfListed {
            self.index.list(id, &self.connections[&id]);
        }
        Ok(())
    }

    /// The connection is closed. Returns how many of its requests had not ended.
    ///
    /// # Errors
    /// Closed already.
    pub fn closed(&mut self, id: ConnectionId) -> Result<u32, UseError> {
        let connection = self.connections.remove(&id).ok_or(UseError::Closed)?;
        self.index.remove_own(id, &connection);
        self.index.remove_others(id, &connection);
        self.index.unlist(id, &connection);
        Ok(connection.open)
    }

    /// Requests and connections by pool and origin since the last report, in order; and what is open now.
    pub fn report(&mut self) -> Vec<Row<P>> {
        self.counters.take(self.connections.values())
    }

    fn change<T>(
        &mut self,
        id: ConnectionId,
        change: impl FnOnce(&mut Connection<P>) -> Result<T, UseError>,
    ) -> Result<T, UseError> {
        let connection = self.connections.get_mut(&id).ok_or(UseError::Closed)?;
        let was_for_others = connection.is_ready_for_others();
        self.index.remove_own(id, connection);
        let result = change(connection);
        self.index.add_own(id, connection);
        self.index.set_others(id, connection, was_for_others);
        result
    }
}

/// Which connection comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank {
    is_single: bool,
    /// Open requests; of one that takes one at a time, when it was used last.
    preference: Reverse<u64>,
    id: ConnectionId,
}

impl Rank {
    /// Its place among those that have room, if it has.
    fn of<P: Ord>(id: ConnectionId, connection: &Connection<P>) -> Option<Self> {
        let is_single = !connection.is_multiplexed();
        let preference = Reverse(if is_single { connection.last_used } else { connection.open.into() });
        connection.is_ready().then_some(Self { is_single, preference, id })
    }
}

/// Where to look for a connection.
#[derive(Debug)]
struct Index<P> {
    /// With room for their own origin.
    own: BTreeMap<(P, HttpOrigin, Origin), BTreeSet<Rank>>,
    /// With room for other origins, by the names of their certificates. Without rank, so that a certificate with many
    /// names costs something only when the last stream is taken or one becomes free.
    others: BTreeMap<(P, Origin, Pattern), BTreeSet<ConnectionId>>,
    /// With room or without, by the origins that their servers have listed. Empty if addresses must be the same.
    listed: BTreeMap<(P, HttpOrigin), BTreeSet<ConnectionId>>,
}

impl<P: Ord + Clone> Index<P> {
    const fn new() -> Self {
        Self { own: BTreeMap::new(), others: BTreeMap::new(), listed: BTreeMap::new() }
    }

    fn add_own(&mut self, id: ConnectionId, connection: &Connection<P>) {
        let Some(rank) = Rank::of(id, connection).filter(|_| connection.serves_own()) else { return };
        let Opened { pool, origin, destination, .. } = &connection.opened;
        self.own.entry((pool.clone(), origin.clone(), *destination)).or_default().insert(rank);
    }

    /// Before the connection changes: its rank is where it is found.
    fn remove_own(&mut self, id: ConnectionId, connection: &Connection<P>) {
        let Some(rank) = Rank::of(id, connection) else { return };
        let Opened { pool, origin, destination, .. } = &connection.opened;
        take(&mut self.own, (pool.clone(), origin.clone(), *destination), &rank);
    }

    /// After the connection has changed.
    fn set_others(&mut self, id: ConnectionId, connection: &Connection<P>, was_ready: bool) {
        match (was_ready, connection.is_ready_for_others()) {
            (false, true) => {
                let Opened { pool, destination, .. } = &connection.opened;
                for name in connection.patterns() {
                    self.others.entry((pool.clone(), *destination, name.clone())).or_default().insert(id);
                }
            }
            (true, false) => self.remove_others(id, connection),
            _ => {}
        }
    }

    fn remove_others(&mut self, id: ConnectionId, connection: &Connection<P>) {
        let Opened { pool, destination, .. } = &connection.opened;
        for name in connection.patterns() {
            take(&mut self.others, (pool.clone(), *destination, name.clone()), &id);
        }
    }

    fn list(&mut self, id: ConnectionId, connection: &Connection<P>) {
        for origin in connection.listed() {
            self.listed.entry((connection.opened.pool.clone(), origin.clone())).or_default().insert(id);
        }
    }

    fn unlist(&mut self, id: ConnectionId, connection: &Connection<P>) {
        if !self.listed.is_empty() {
            for origin in connection.listed() {
                take(&mut self.listed, (connection.opened.pool.clone(), origin.clone()), &id);
            }
        }
    }
}

/// Takes an item out, and the set with the last one, so that nothing is left of origins that are not used any more.
fn take<K: Ord, T: Ord>(sets: &mut BTreeMap<K, BTreeSet<T>>, key: K, item: &T) {
    if let Entry::Occupied(mut set) = sets.entry(key) {
        set.get_mut().remove(item);
        if set.get().is_empty() {
            set.remove();
        }
    }
}
