//! May this connection carry that request?

use std::collections::BTreeSet;
use std::sync::Arc;

use super::certificate::{CertificateNames, Pattern};
use super::host::{Host, HttpOrigin, Scheme};
use crate::error::{Error, Result};
use crate::limits::{MAX_MISDIRECTED_HOSTS, MAX_ORIGIN_SET, STREAMS_BEFORE_SETTINGS};
use crate::net::{Origin, Protocol};

/// The version of HTTP that a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Version {
    /// HTTP/1.1 (RFC 9112): one request at a time.
    Http1,
    /// HTTP/2 (RFC 9113): a stream for each request.
    Http2,
    /// HTTP/3 (RFC 9114): a stream for each request, over QUIC.
    Http3,
}

/// What the TLS handshake of a connection said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// The name that was sent (SNI, RFC 6066 s3), if one was.
    pub server_name: Option<Host>,
    /// The names of the certificate, if it was verified; otherwise none, and the connection is its own origin's only.
    pub names: Arc<CertificateNames>,
}

/// A connection that was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened<P> {
    /// The egress pool that it left from, and whatever else keeps connections apart (a client certificate, a proxy).
    pub pool: P,
    /// What it was opened for.
    pub origin: HttpOrigin,
    /// Where it goes: UDP for HTTP/3.
    pub destination: Origin,
    /// What it speaks.
    pub version: Version,
    /// For `https` only.
    pub tls: Option<Tls>,
}

/// A request that needs a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request<P> {
    /// The egress pool that it must leave from.
    pub pool: P,
    /// Whom it is for.
    pub origin: HttpOrigin,
    /// Where that is, as the caller has resolved it: UDP asks for HTTP/3, TCP for the others.
    pub destination: Origin,
}

/// Must a request for a listed origin go to the address that its host resolves to?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Address {
    /// Always, so that connections go where the egress IP's capacity is counted.
    #[default]
    Same,
    /// Not where the server has listed the origin in an ORIGIN frame (RFC 8336 s2.4 allows it; s4 says what one risks
    /// then). The certificate must be for it in any case.
    AnyIfListed,
}

/// Why a connection may carry a request. The first is preferred.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fit {
    /// It was opened for the same origin.
    Own,
    /// It was opened for another origin, and its server is authoritative for this one too.
    Coalesced,
}

/// A connection, and what its server has said since.
#[derive(Debug)]
pub(super) struct Connection<P> {
    pub(super) opened: Opened<P>,
    /// Requests that have not ended.
    pub(super) open: u32,
    /// Requests since it was opened.
    pub(super) requests: u64,
    /// How many requests had ended in the directory when the last one of this did.
    pub(super) last_used: u64,
    max_open: u32,
    is_going_away: bool,
    /// Origins that it may be used for at all, once an ORIGIN frame has come (RFC 8336 s2.3).
    origin_set: Option<BTreeSet<HttpOrigin>>,
    misdirected: BTreeSet<Host>,
}

impl<P: Ord> Connection<P> {
    pub(super) fn new(opened: Opened<P>) -> Result<Self> {
        let Opened { origin, destination, version, tls, .. } = &opened;
        let has_tls = tls.is_some();
        let transport = if *version == Version::Http3 { Protocol::Udp } else { Protocol::Tcp };
        if has_tls != (origin.scheme() == Scheme::Https) {
            let what = if has_tls { "with" } else { "without" };
            return Err(Error::input(format!(
                "a connection for {origin} {what} TLS; https needs it, and http has none"
            )));
        }
        if *version == Version::Http3 && !has_tls {
            return Err(Error::input(format!("HTTP/3 for {origin}; it is for https only")));
        }
        if destination.protocol() != transport {
            return Err(Error::input(format!(
                "{version:?} over {destination}; HTTP/3 goes over udp, the others over tcp"
            )));
        }
        let max_open = if *version == Version::Http1 { 1 } else { STREAMS_BEFORE_SETTINGS };
        Ok(Self {
            opened,
            open: 0,
            requests: 0,
            last_used: 0,
            max_open,
            is_going_away: false,
            origin_set: None,
            misdirected: BTreeSet::new(),
        })
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.opened.version != Version::Http1
    }

    /// Can it take one more request?
    pub(super) fn is_ready(&self) -> bool {
        // A client has 2^30 stream ids in HTTP/2 (RFC 9113 s5.1.1), 2^60 in HTTP/3 (RFC 9000 s2.1).
        let is_used_up = self.opened.version == Version::Http2 && self.requests >= 1 << 30;
        !self.is_going_away && self.open < self.max_open && !is_used_up
    }

    /// Is it still for the origin that it was opened for?
    pub(super) fn serves_own(&self) -> bool {
        self.may_serve(&self.opened.origin)
    }

    /// Can other origins be coalesced onto it at all?
    fn coalesces(&self) -> bool {
        self.is_multiplexed()
            && self.opened.tls.is_some()
            // A server that has sent so many away is not one to try others with; and it bounds memory.
            && self.misdirected.len() < MAX_MISDIRECTED_HOSTS
    }

    /// Can it take one more request, of another origin?
    pub(super) fn is_ready_for_others(&self) -> bool {
        self.is_ready() && self.coalesces()
    }

    /// What its certificate is for.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.opened.tls.iter().flat_map(|tls| tls.names.patterns())
    }

    /// The origins that its server has listed.
    pub(super) fn listed(&self) -> impl Iterator<Item = &HttpOrigin> {
        self.origin_set.iter().flatten()
    }

    /// Has its server not said no?
    fn may_serve(&self, origin: &HttpOrigin) -> bool {
        !self.misdirected.contains(origin.host())
            && self.origin_set.as_ref().is_none_or(|set| set.contains(origin))
    }

    /// Why it may carry this request, if it may. Whether it has room is another question.
    pub(super) fn fit(&self, request: &Request<P>, address: Address) -> Option<Fit> {
        let Opened { pool, origin, destination, tls, .. } = &self.opened;
        let wanted = &request.origin;
        if *pool != request.pool
            || destination.protocol() != request.destination.protocol()
            || !self.may_serve(wanted)
        {
            return None;
        }
        let is_same_address = *destination == request.destination;
        if is_same_address && origin == wanted {
            return Some(Fit::Own);
        }
        let is_listed = self.origin_set.is_some(); // It would not serve it otherwise.
        let is_right_address = is_same_address || (is_listed && address == Address::AnyIfListed);
        let names = &tls.as_ref()?.names;
        // A certificate says nothing of ports, so they must be equal.
        let is_authoritative =
            wanted.scheme() == Scheme::Https && wanted.port() == origin.port() && names.covers(wanted.host());
        (self.coalesces() && is_right_address && is_authoritative).then_some(Fit::Coalesced)
    }

    pub(super) fn set_max_open(&mut self, max_open: u32) {
        if self.is_multiplexed() {
            self.max_open = max_open;
        }
    }

    pub(super) fn go_away(&mut self) {
        self.is_going_away = true;
    }

    pub(super) fn misdirect(&mut self, host: &Host) {
        // More than RFC 8336 s2.3 asks for, which takes this origin out of the Origin Set until it is listed again.
        if self.misdirected.len() < MAX_MISDIRECTED_HOSTS || host == self.opened.origin.host() {
            self.misdirected.insert(host.clone());
        }
    }

    pub(super) fn list<'a>(&mut self, entries: impl IntoIterator<Item = &'a str>) {
        let Some(tls) = self.opened.tls.as_ref().filter(|_| self.is_multiplexed()) else { return };
        let destination = self.opened.destination;
        let set = self.origin_set.get_or_insert_with(|| {
            let host = tls.server_name.clone().unwrap_or_else(|| destination.ip().into());
            let initial = HttpOrigin::new(Scheme::Https, host, destination.port());
            initial.into_iter().collect()
        });
        // What cannot be parsed is ignored (RFC 8336 s2.2), and what no longer fits in is not listed (s4).
        let room = MAX_ORIGIN_SET.saturating_sub(set.len());
        set.extend(entries.into_iter().filter_map(|entry| entry.parse().ok()).take(room));
    }
}
