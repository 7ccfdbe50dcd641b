//! How long is a released tuple kept back, and why?
//!
//! Two quarantines, by how the connection closed: **hold** (must not be granted: it would break a connection that
//! still exists somewhere) and **rest** (not preferred while others are free; never the cause of a refusal).

use core::time::Duration;

use crate::error::{Error, Result};
use crate::net::{Origin, Protocol};
use crate::sync::Ordering::SeqCst;
use crate::time::{Time, millis_up};

use super::Memory;
use super::map::PROFILE_COUNT;
use super::pool::GranuleSlot;
use super::table::Table;
use super::tag::MAX_QUARANTINE_MS;

/// How a connection ended, as the side that opened it knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
#[expect(clippy::enum_variant_names, reason = "\"half-closed\" is the word of RFC 9293")]
pub enum Closed {
    /// We closed first, then the peer: TIME_WAIT is here.
    Active,
    /// The peer closed first: TIME_WAIT is there.
    Passive,
    /// Reset by either side (`SO_LINGER` 0, close with unread data, RST received).
    Reset,
    /// `connect` failed; no connection ever existed.
    ConnectFailed,
    /// We closed, the peer has not: FIN_WAIT2 is here, and a new SYN on the tuple would reset the peer.
    HalfClosed,
    /// Closed in the background, or nobody saw how: counts as half-closed.
    Unknown,
    /// A UDP flow that is not used any more; of a TCP connection the same as `Unknown`.
    UdpIdle,
    /// Nothing was ever sent from the port: the lease was not needed after all. Free at once.
    Unused,
    /// The share came from a machine that died, and nobody knows what it had open.
    TakenOver,
}

impl Closed {
    /// Every way to close.
    pub const ALL: [Self; 9] = [
        Self::Active,
        Self::Passive,
        Self::Reset,
        Self::ConnectFailed,
        Self::HalfClosed,
        Self::Unknown,
        Self::UdpIdle,
        Self::Unused,
        Self::TakenOver,
    ];
}

/// A span for every way to close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spans {
    /// Closed by us, then by the peer.
    pub active: Duration,
    /// Closed by the peer first.
    pub passive: Duration,
    /// Reset.
    pub reset: Duration,
    /// Connect failed.
    pub connect_failed: Duration,
    /// Half-closed, or nobody knows.
    pub half_closed: Duration,
    /// Every UDP flow, however it ended.
    pub udp: Duration,
    /// The TCP ports of a share that came from a dead machine.
    pub taken_over: Duration,
    /// The UDP ports of a share that came from a dead machine.
    pub udp_taken_over: Duration,
}

/// `tcp_fin_timeout` when nothing else is set.
pub const DEFAULT_FIN_TIMEOUT: Duration = Duration::from_secs(60);

/// What RFC 6888 asks for, and what is left of a dead machine's UDP flows.
const LONG: Duration = Duration::from_secs(120);

/// TIME_WAIT lasts 60 s in Linux (not settable), and is over for certain after this long.
const TIME_WAIT: Duration = Duration::from_secs(69);

/// Linux timers fire up to a seventh late: a timer of 60 s is over for certain after 68.6 s.
fn kernel_late(timer: Duration) -> Duration {
    Duration::from_millis(millis_up(timer).saturating_mul(8).div_ceil(7))
}

impl Spans {
    /// Nothing at all is kept back.
    pub const ZERO: Self = Self::all(Duration::ZERO);

    /// The same span however it closed.
    pub const fn all(span: Duration) -> Self {
        Self {
            active: span,
            passive: span,
            reset: span,
            connect_failed: span,
            half_closed: span,
            udp: span,
            taken_over: span,
            udp_taken_over: span,
        }
    }

    /// Preset `linux` for explicitly bound ports: what the kernel really refuses or really breaks.
    ///
    /// With TCP timestamps the kernel takes an explicit bind over its TIME_WAIT at once, so nothing is held after
    /// an orderly close; FIN_WAIT2 lasts `fin_timeout` (`net.ipv4.tcp_fin_timeout`).
    pub fn linux(timestamps: bool, fin_timeout: Duration) -> Self {
        let time_wait = if timestamps { Duration::ZERO } else { TIME_WAIT };
        Self {
            active: time_wait,
            half_closed: kernel_late(fin_timeout).saturating_add(time_wait),
            udp: Duration::from_secs(65),
            // An origin answers a new SYN on an old connection, and we reset it: nothing is lost. UDP has no such answer.
            udp_taken_over: LONG,
            ..Self::ZERO
        }
    }

    /// Preset `linux` for sockets that cannot share a bound port, and for ports that the kernel chooses: it refuses both
    /// in TIME_WAIT, with timestamps or without.
    pub fn linux_unshared(fin_timeout: Duration) -> Self {
        Self::linux(false, fin_timeout)
    }

    /// Preset `azure`: the times of Azure's NAT gateway.
    pub const fn azure() -> Self {
        Self {
            reset: Duration::from_secs(16),
            connect_failed: Duration::from_secs(30),
            taken_over: LONG,
            udp_taken_over: LONG,
            ..Self::all(Duration::from_secs(65))
        }
    }

    /// Preset `rfc6888`: 120 s for all (RFC 6888 section 4, REQ-8).
    pub const fn rfc6888() -> Self {
        Self::all(LONG)
    }

    const fn of(&self, protocol: Protocol, closed: Closed) -> Duration {
        match (protocol, closed) {
            (_, Closed::Unused) => Duration::ZERO,
            (Protocol::Tcp, Closed::TakenOver) => self.taken_over,
            (Protocol::Udp, Closed::TakenOver) => self.udp_taken_over,
            (Protocol::Udp, _) => self.udp,
            (_, Closed::Active) => self.active,
            (_, Closed::Passive) => self.passive,
            (_, Closed::Reset) => self.reset,
            (_, Closed::ConnectFailed) => self.connect_failed,
            // A TCP connection is never just idle: nobody knows how it ended.
            (_, Closed::HalfClosed | Closed::Unknown | Closed::UdpIdle) => self.half_closed,
        }
    }
}

/// How long released tuples are held, and how long they rest. Both count from the release; a tuple that was held does
/// not rest afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quarantine {
    hold: Spans,
    rest: Spans,
}

impl Quarantine {
    /// Longest hold or rest.
    pub const MAX: Duration = Duration::from_millis(MAX_QUARANTINE_MS);

    /// Holds by `hold`, rests by `rest`.
    ///
    /// # Errors
    /// A span longer than [`Quarantine::MAX`].
    pub fn new(hold: Spans, rest: Spans) -> Result<Self> {
        let this = Self { hold, rest };
        for closed in Closed::ALL {
            for protocol in Protocol::ALL {
                let longest = this.hold(protocol, closed).max(this.rest(protocol, closed));
                if longest > Self::MAX {
                    return Err(Error::input(format!(
                        "quarantine of {longest:?} for {protocol} {closed:?}; at most {:?} are allowed",
                        Self::MAX
                    )));
                }
            }
        }
        Ok(this)
    }

    /// The tuple must not be granted for this long.
    pub const fn hold(&self, protocol: Protocol, closed: Closed) -> Duration {
        self.hold.of(protocol, closed)
    }

    /// The tuple is not preferred for this long.
    pub const fn rest(&self, protocol: Protocol, closed: Closed) -> Duration {
        self.rest.of(protocol, closed)
    }
}

/// Quarantines that a table can know.
pub(super) const MAX_PROFILES: usize = if cfg!(any(loom, shuttle)) { 2 } else { 64 };

/// Words of a quarantine: a hold and a rest for every protocol and way to close.
pub(super) const PROFILE_WORDS: usize = Protocol::ALL.len() * Closed::ALL.len();

/// Where in a quarantine's words a span is.
#[inline]
pub(super) const fn span_at(protocol: Protocol, closed: Closed) -> usize {
    protocol as usize * Closed::ALL.len() + closed as usize
}

impl Quarantine {
    /// Rules for sockets that cannot share a bound port and for ports that the kernel chooses, with the default
    /// `tcp_fin_timeout`.
    pub fn unshared() -> Self {
        Self { hold: Spans::linux_unshared(DEFAULT_FIN_TIMEOUT), rest: Spans::azure() }
    }

    /// Hold in the lower half, rest in the upper half, in milliseconds: a release does no division.
    pub(super) fn to_words(self) -> [u64; PROFILE_WORDS] {
        let mut words = [0; PROFILE_WORDS];
        for protocol in Protocol::ALL {
            for closed in Closed::ALL {
                let (hold, rest) = (self.hold(protocol, closed), self.rest(protocol, closed));
                words[span_at(protocol, closed)] = millis_up(hold) | millis_up(rest) << 32;
            }
        }
        words
    }

    /// The quarantine that was written, unless no table can have it.
    pub(super) fn from_words(words: [u64; PROFILE_WORDS]) -> Result<Self> {
        let spans = |shift: u32| {
            let of = |protocol, closed| {
                Duration::from_millis(words[span_at(protocol, closed)] >> shift & 0xffff_ffff)
            };
            let tcp = |closed| of(Protocol::Tcp, closed);
            Spans {
                active: tcp(Closed::Active),
                passive: tcp(Closed::Passive),
                reset: tcp(Closed::Reset),
                connect_failed: tcp(Closed::ConnectFailed),
                half_closed: tcp(Closed::HalfClosed),
                udp: of(Protocol::Udp, Closed::UdpIdle),
                taken_over: tcp(Closed::TakenOver),
                udp_taken_over: of(Protocol::Udp, Closed::TakenOver),
            }
        };
        let this = Self::new(spans(0), spans(32))?;
        if this.to_words() == words {
            Ok(this)
        } else {
            Err(Error::input("a quarantine with different times for one way to close"))
        }
    }
}

impl<M: Memory> Table<M> {
    /// The number of a quarantine in the table; the same one again has the same number.
    ///
    /// # Errors
    /// The table knows as many as it can.
    fn profile(&self, quarantine: &Quarantine) -> Result<u8> {
        let wanted = quarantine.to_words();
        let count = &self.words()[PROFILE_COUNT];
        let same = |slot: usize| (0..PROFILE_WORDS).all(|at| self.spans(slot, at) == wanted[at]);
        loop {
            let known = count.load(SeqCst).min(MAX_PROFILES as u64) as usize;
            if let Some(slot) = (0..known).find(|&slot| same(slot)) {
                return Ok(slot as u8);
            }
            if known == MAX_PROFILES {
                return Err(Error::input(format!(
                    "one quarantine too many: a lease table knows at most {MAX_PROFILES} different ones"
                )));
            }
            // Reserved first: two who come at once do not write to the same place.
            if count.compare_exchange(known as u64, known as u64 + 1, SeqCst, SeqCst).is_ok() {
                for (at, span) in wanted.into_iter().enumerate() {
                    self.words()[self.map.profiles + known * PROFILE_WORDS + at].store(span, SeqCst);
                }
                return Ok(known as u8);
            }
        }
    }

    /// Hold (lower half) and rest of a quarantine, in milliseconds.
    #[inline]
    pub(super) fn spans(&self, profile: usize, at: usize) -> u64 {
        self.words()[self.map.profiles + profile.min(MAX_PROFILES - 1) * PROFILE_WORDS + at].load(SeqCst)
    }

    /// Gives one origin a quarantine of its own, or takes it away (`None`). It counts for releases from now on. The origin
    /// keeps its state for it, also when nothing is in use.
    ///
    /// # Errors
    /// The table has no room for another origin, or knows as many quarantines as it can (64).
    pub fn set_quarantine(&self, origin: &Origin, quarantine: Option<&Quarantine>, now: Time) -> Result<()> {
        let now = self.clock(now);
        let profile = quarantine.map(|quarantine| self.profile(quarantine)).transpose()?;
        let record = loop {
            let record = self.with_slot(|slot| self.origin_or_new(origin, now, slot));
            let record = record
                .map_err(|error| Error::new(error.kind(), format!("quarantine of {origin}: {error}")))?;
            // Whoever needs room may be taking it away at this moment.
            if self.set_own_profile(record, profile) {
                break record;
            }
        };
        for page in (0..self.map.pages.used(self.words())).map(|index| self.page(index)) {
            let identity = page.identity();
            if identity.record() == record.index {
                page.set_profile(self.profile_of(record.index, GranuleSlot(identity.granule())));
            }
        }
        Ok(())
    }
}

impl Default for Quarantine {
    /// Hold `linux` with timestamps and the default `tcp_fin_timeout`, rest `azure`.
    fn default() -> Self {
        Self { hold: Spans::linux(true, DEFAULT_FIN_TIMEOUT), rest: Spans::azure() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linux_preset_is_what_was_measured() {
        let with = Spans::linux(true, DEFAULT_FIN_TIMEOUT);
        let without = Spans::linux(false, DEFAULT_FIN_TIMEOUT);
        let s = Duration::from_secs;
        // 60 s x 8/7.
        let fin_timeout = Duration::from_millis(68_572);
        assert_eq!((with.active, with.half_closed, with.udp), (s(0), fin_timeout, s(65)));
        assert_eq!((without.active, without.half_closed), (s(69), fin_timeout + s(69)));
        assert_eq!((with.passive, with.reset, with.connect_failed), (s(0), s(0), s(0)));
        let azure = Spans::azure();
        assert_eq!(
            (azure.active, azure.passive, azure.reset, azure.connect_failed),
            (s(65), s(65), s(16), s(30))
        );
        assert_eq!((azure.half_closed, azure.udp), (s(65), s(65)));
        assert_eq!(Spans::rfc6888(), Spans::all(s(120)));
    }

    #[test]
    fn sockets_that_cannot_share_a_port_wait_for_time_wait_with_timestamps_too() {
        let unshared = Quarantine::unshared();
        assert_eq!(unshared.hold(Protocol::Tcp, Closed::Active), Duration::from_secs(69));
        assert_eq!(unshared.hold(Protocol::Tcp, Closed::HalfClosed), Duration::from_millis(68_572 + 69_000));
        assert_eq!(unshared.hold(Protocol::Tcp, Closed::Passive), Duration::ZERO);
    }

    #[test]
    fn a_dead_machines_tcp_ports_are_free_at_once_and_its_udp_ports_are_not() {
        let q = Quarantine::default();
        assert_eq!(q.hold(Protocol::Tcp, Closed::TakenOver), Duration::ZERO);
        assert_eq!(q.hold(Protocol::Udp, Closed::TakenOver), Duration::from_secs(120));
    }

    #[test]
    fn a_quarantine_survives_its_words() {
        for quarantine in [Quarantine::default(), Quarantine::unshared()] {
            assert_eq!(Quarantine::from_words(quarantine.to_words()).unwrap(), quarantine);
        }
        let mut words = Quarantine::default().to_words();
        words[3] = u64::MAX;
        assert!(Quarantine::from_words(words).is_err());
    }

    #[test]
    fn what_nobody_knows_counts_as_half_closed() {
        let q = Quarantine::default();
        assert_eq!(q.hold(Protocol::Tcp, Closed::Unknown), q.hold(Protocol::Tcp, Closed::HalfClosed));
        assert_eq!(q.hold(Protocol::Udp, Closed::Unknown), Duration::from_secs(65));
    }

    #[test]
    fn every_way_to_close_has_its_own_column() {
        for (column, closed) in Closed::ALL.into_iter().enumerate() {
            assert_eq!(closed as usize, column);
        }
        for (row, protocol) in Protocol::ALL.into_iter().enumerate() {
            assert_eq!(protocol as usize, row);
        }
    }

    #[test]
    fn an_absurd_fin_timeout_is_refused_and_not_wrapped() {
        let hold = Spans::linux(false, Duration::MAX);
        assert!(Quarantine::new(hold, Spans::ZERO).is_err());
    }

    #[test]
    fn a_span_that_the_tags_cannot_hold_is_refused() {
        let e = Quarantine::new(Spans::all(Duration::from_secs(3_600)), Spans::ZERO).unwrap_err();
        assert!(e.message().contains("3600s"), "{e}");
        Quarantine::new(Spans::all(Quarantine::MAX), Spans::rfc6888()).unwrap();
    }
}
