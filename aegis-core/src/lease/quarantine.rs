//! How long is a released tuple kept back, and why?
//!
//! Two quarantines, by how the connection closed: **hold** (must not be granted: it would break a connection that
//! still exists somewhere) and **rest** (not preferred while others are free; never the cause of a refusal).

use core::time::Duration;

use crate::error::{Error, Result};
use crate::net::Protocol;
use crate::time::millis_up;

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
    /// A UDP flow that is not used any more.
    UdpIdle,
    /// Nothing was ever sent from the port: the lease was not needed after all. Free at once.
    Unused,
}

impl Closed {
    /// Every way to close.
    pub const ALL: [Self; 8] = [
        Self::Active,
        Self::Passive,
        Self::Reset,
        Self::ConnectFailed,
        Self::HalfClosed,
        Self::Unknown,
        Self::UdpIdle,
        Self::Unused,
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
}

/// `tcp_fin_timeout` when nothing else is set.
pub const DEFAULT_FIN_TIMEOUT: Duration = Duration::from_secs(60);

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
        Self { active: span, passive: span, reset: span, connect_failed: span, half_closed: span, udp: span }
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
            ..Self::ZERO
        }
    }

    /// Preset `azure`: the times of Azure's NAT gateway.
    pub const fn azure() -> Self {
        let long = Duration::from_secs(65);
        Self { reset: Duration::from_secs(16), connect_failed: Duration::from_secs(30), ..Self::all(long) }
    }

    /// Preset `rfc6888`: 120 s for all (RFC 6888 section 4, REQ-8).
    pub const fn rfc6888() -> Self {
        Self::all(Duration::from_secs(120))
    }

    const fn of(&self, protocol: Protocol, closed: Closed) -> Duration {
        match (protocol, closed) {
            (_, Closed::Unused) => Duration::ZERO,
            (Protocol::Udp, _) | (_, Closed::UdpIdle) => self.udp,
            (_, Closed::Active) => self.active,
            (_, Closed::Passive) => self.passive,
            (_, Closed::Reset) => self.reset,
            (_, Closed::ConnectFailed) => self.connect_failed,
            (_, Closed::HalfClosed | Closed::Unknown) => self.half_closed,
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

/// Hold and rest in whole milliseconds, by protocol and way to close: a release does no division.
pub(super) type Millis = [[(u64, u64); Closed::ALL.len()]; Protocol::ALL.len()];

impl Quarantine {
    /// All spans at once, for the hot path.
    pub(super) fn millis(&self) -> Millis {
        Protocol::ALL.map(|protocol| {
            Closed::ALL.map(|closed| {
                (millis_up(self.hold(protocol, closed)), millis_up(self.rest(protocol, closed)))
            })
        })
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
