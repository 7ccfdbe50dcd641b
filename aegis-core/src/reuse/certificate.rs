//! Which hosts is a certificate for? (RFC 9525)

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::host::{Host, Kind, name};

/// One name of a certificate, in one form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Pattern {
    Name(Arc<str>),
    /// Any one label before this: `*.` and it.
    Under(Arc<str>),
    Ip(IpAddr),
}

impl Pattern {
    /// The name of this text, if it is one.
    fn of(text: &str) -> Option<Self> {
        match text.strip_prefix("*.") {
            Some(parent) => {
                name(parent).filter(|parent| parent.contains('.')).map(|parent| Self::Under(parent.into()))
            }
            None => name(text).map(|name| Self::Name(name.into())),
        }
    }

    /// The names that cover a host. There are no others, so connections can be looked up by them.
    pub(super) fn covering(host: &Host) -> impl Iterator<Item = Self> {
        let (exact, wildcard) = match &host.0 {
            Kind::Name(name) => {
                let parent = name.split_once('.').map(|(_, parent)| Self::Under(parent.into()));
                (Self::Name(Arc::clone(name)), parent)
            }
            Kind::Ip(ip) => (Self::Ip(*ip), None),
        };
        [exact].into_iter().chain(wildcard)
    }
}

/// The names of a server's certificate that the caller has verified: its `subjectAltName`s of types `dNSName` and
/// `iPAddress`. There is no place for the common name, which is no identity (RFC 9525 s2).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CertificateNames(BTreeSet<Pattern>);

impl CertificateNames {
    /// The names as the certificate has them.
    ///
    /// What is no DNS name identifies nobody and is left out (RFC 9525 s6.3), so a wildcard counts only as the whole
    /// left-most label. One right below a top-level domain is left out too: nobody owns all of that.
    pub fn new<'a>(
        dns_names: impl IntoIterator<Item = &'a str>,
        ip_addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let names = dns_names.into_iter().filter_map(Pattern::of);
        Self(names.chain(ip_addresses.into_iter().map(Pattern::Ip)).collect())
    }

    /// Is the certificate for this host? Names are compared without regard to case (RFC 9525 s6.3), a wildcard stands
    /// for exactly one label, and addresses are equal or not (s6.4): no name stands for an address.
    pub fn covers(&self, host: &Host) -> bool {
        Pattern::covering(host).any(|pattern| self.0.contains(&pattern))
    }

    pub(super) fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter()
    }
}
