//! Ends holds of which the kernel has nothing any more, and finds what dead processes have left.
//!
//! ```text
//! table: what is held? --> kernel: which sockets? --> not in the list? --> ask for that one --> end its hold
//! ```

mod thread;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aegis_core::lease::{Heap, Held, Memory, Method, Recovered, Table};
use aegis_core::net::{PortRange, Protocol};
use aegis_core::time::Time;

use crate::Process;
use crate::sock_diag::{Filter, SockDiag, Socket, State};

pub use thread::{SweepReport, SweeperThread};

/// Compares the holds of a lease table with the kernel's sockets.
///
/// A proxy that does not know how its connections end gives leases back as `Unknown`, and each of those is held for
/// more than a minute, because the origin may not have closed its side. Most have: then the kernel has nothing of the
/// connection any more, or only TIME_WAIT, and the hold is for nothing. Swept every 100 ms, such a proxy loses no
/// capacity.
///
/// A hold ends early when the kernel
///
/// - has no socket of the tuple. Then it would answer whatever the origin still sends by a reset, so there is nothing
///   left that a new connection could harm; or
/// - has it in TIME_WAIT only, TCP timestamps are on (`net.ipv4.tcp_timestamps`), and the port is
///   [explicit](Method::Explicit): the kernel lets a new socket take it from there. (If the origin has no timestamps,
///   the kernel refuses; the dial then parks the tuple for a moment and goes on with another lease.)
///
/// A list may overlook a socket, so every tuple is asked for [by itself](SockDiag::find_each) as well before its hold
/// ends. Only TCP is swept: the holds of UDP wait for late answers, of which no socket tells.
///
/// One sweeper at a time is enough for a table, whichever process it is in, and it must be in the network namespace of
/// the leased sockets. Sockets that are bound to a network device may be overlooked: bind none.
///
/// ```
/// use std::sync::Arc;
///
/// use aegis_core::lease::{Config, Table};
/// use aegis_net::{Sweeper, clock};
///
/// let table = Arc::new(Table::new(Config::default(), clock::seed()?)?);
/// let swept = Sweeper::new(table)?.sweep(clock::now())?;
/// assert_eq!(swept.ended, 0, "nothing was held");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Sweeper<M: Memory = Heap> {
    table: Arc<Table<M>>,
    kernel: SockDiag,
    /// The kernel lets a socket that can share its port take a tuple from TIME_WAIT.
    timestamps: bool,
}

/// What became of the tuples that were held.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[must_use]
pub struct Swept {
    /// Their holds have ended.
    pub ended: usize,
    /// The kernel has a socket of theirs; they stay held.
    pub kept: usize,
    /// They are not TCP's, and stay held.
    pub not_tcp: usize,
    /// They were something else already when their hold was to end: it was over, or somebody else has ended it.
    pub changed: usize,
}

/// What was found of dead processes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[must_use]
pub struct RecoveredAll {
    /// So many processes are dead.
    pub processes: usize,
    /// What they had, all together. Where something is unclear, ask again.
    pub found: Recovered,
}

/// What the kernel has of a tuple, the worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Presence {
    TimeWait,
    Alive,
}

impl Presence {
    fn of(socket: &Socket) -> Self {
        if socket.state == State::TimeWait { Self::TimeWait } else { Self::Alive }
    }
}

/// The kernel's sockets, by source and peer; and by source alone, as the peer `None`.
type Sockets = HashMap<(SocketAddr, Option<SocketAddr>), Presence>;

impl<M: Memory> Sweeper<M> {
    /// A sweeper for the network namespace of this thread. Whether timestamps are on is looked up now and not again;
    /// where nobody can tell, they count as off, and TIME_WAIT is waited for.
    ///
    /// # Errors
    /// As [`SockDiag::new`].
    pub fn new(table: Arc<Table<M>>) -> io::Result<Self> {
        // 1 and 2 are on.
        let timestamps = fs::read_to_string("/proc/sys/net/ipv4/tcp_timestamps")
            .is_ok_and(|text| text.trim().parse::<u32>().is_ok_and(|value| value != 0));
        Ok(Self { table, kernel: SockDiag::new()?, timestamps })
    }

    /// The table.
    pub fn table(&self) -> &Arc<Table<M>> {
        &self.table
    }

    /// Ends the holds of which the kernel has nothing any more. 50,000 held tuples take about 0.1 s, and nobody waits
    /// for it.
    ///
    /// # Errors
    /// As [`SockDiag::list`]; `Interrupted` goes away by itself. What could not be asked for stays held.
    pub fn sweep(&mut self, now: Time) -> io::Result<Swept> {
        let start = Instant::now();
        // First what is held, then the kernel's sockets: what is opened in between is not among the held.
        let held = self.table.held(now);
        let (held, others): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|tuple| tuple.protocol == Protocol::Tcp);
        let mut swept = Swept { not_tcp: others.len(), ..Swept::default() };
        let sockets = self.sockets(&held)?;
        let (mut named, mut ends, mut unnamed) = (Vec::new(), Vec::new(), Vec::new());
        for tuple in held {
            let seen = sockets.get(&(tuple.source, tuple.origin)).copied();
            match tuple.origin {
                _ if !self.lets_go(&tuple, seen) => swept.kept += 1,
                Some(origin) => {
                    ends.push((tuple.source, origin));
                    named.push(tuple);
                }
                None => unnamed.push(tuple),
            }
        }
        let mut answers = Vec::with_capacity(named.len());
        let asked = self.kernel.find_each(Protocol::Tcp, &ends, |at, found| {
            answers.push((at, found.as_ref().map(Presence::of)));
        });
        // An answer before an error counts.
        for (at, has) in answers {
            self.end(&named[at], has, now + start.elapsed(), &mut swept);
        }
        asked?;
        // A source that is used towards every origin has no tuple to ask for. But of these sources the kernel had next
        // to nothing, so this list has few entries, and is read in one step that overlooks none.
        let sockets = self.sockets(&unnamed)?;
        for tuple in unnamed {
            let seen = sockets.get(&(tuple.source, None)).copied();
            self.end(&tuple, seen, now + start.elapsed(), &mut swept);
        }
        Ok(swept)
    }

    /// What the kernel has of the sources of these tuples.
    fn sockets(&mut self, held: &[Held]) -> io::Result<Sockets> {
        let mut sockets = Sockets::with_capacity(held.len());
        if held.is_empty() {
            return Ok(sockets);
        }
        let port = |tuple: &Held| PortRange::new(tuple.source.port(), tuple.source.port()).expect("one port");
        let filter = Filter::new(held.iter().map(port))
            .protocol(Protocol::Tcp)
            .sources(held.iter().map(|tuple| tuple.source.ip()))
            .connected();
        for socket in self.kernel.list(&filter)? {
            // One that changes its state is listed twice: the worse counts.
            for peer in [socket.peer, None] {
                let known = sockets.entry((socket.source, peer)).or_insert(Presence::TimeWait);
                *known = Presence::of(&socket).max(*known);
            }
        }
        Ok(sockets)
    }

    fn lets_go(&self, tuple: &Held, has: Option<Presence>) -> bool {
        match has {
            None => true,
            Some(Presence::TimeWait) => self.timestamps && tuple.method == Method::Explicit,
            Some(Presence::Alive) => false,
        }
    }

    fn end(&self, tuple: &Held, has: Option<Presence>, now: Time, swept: &mut Swept) {
        let count = match self.lets_go(tuple, has) {
            false => &mut swept.kept,
            true if self.table.end_hold_early(tuple, now) => &mut swept.ended,
            true => &mut swept.changed,
        };
        *count += 1;
    }

    /// Takes over what dead processes held: their leases become holds, which a sweep then ends.
    ///
    /// For tables whose processes have named themselves by their [`Process::token`]; others are never found dead.
    pub fn recover_dead(&mut self, now: Time) -> RecoveredAll {
        let is_alive = |token| Process::from_token(token).is_none_or(Process::is_alive);
        let mut all = RecoveredAll::default();
        for token in self.table.owners() {
            if token == self.table.own_token() || is_alive(token) {
                continue;
            }
            if let Some(found) = self.table.recover(token, now, is_alive) {
                all.processes += 1;
                all.found.leases += found.leases;
                all.found.half_done += found.half_done;
                all.found.unclear += found.unclear;
            }
        }
        all
    }
}
