//! Whom is a request for?

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::net::canonical_ip;

/// Longest DNS name in bytes, without a trailing dot (RFC 1035 s2.3.4).
const MAX_NAME: usize = 253;
/// Longest label of it (RFC 1035 s2.3.4).
const MAX_LABEL: usize = 63;

/// The host of a URI: a DNS name or an address, in one form, so that equal hosts are equal.
///
/// Names are lower-case A-labels (RFC 5890) without a trailing dot; IPv4-mapped IPv6 addresses are IPv4.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Host(pub(super) Kind);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Kind {
    Name(Arc<str>),
    Ip(IpAddr),
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self(Kind::Ip(canonical_ip(ip)))
    }
}

impl FromStr for Host {
    type Err = Error;

    /// `"www.example.com"`, `"192.0.2.1"` or, as in a URI (RFC 3986 s3.2.2), `"[2001:db8::1]"`.
    fn from_str(text: &str) -> Result<Self> {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let ip = match bracketed {
            Some(inside) => inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => text.parse::<IpAddr>().ok().filter(IpAddr::is_ipv4),
        };
        if let Some(ip) = ip {
            return Ok(ip.into());
        }
        // The root's dot says that a name is absolute, which every host of a URI is.
        match name(text.strip_suffix('.').unwrap_or(text)) {
            Some(name) => Ok(Self(Kind::Name(name.into()))),
            None => Err(Error::input(format!(
                "{text:?} is no host; expected a DNS name with international labels as xn--..., an IPv4 address, or an \
                 IPv6 address in brackets"
            ))),
        }
    }
}

/// The one form of a DNS name, if it is one. A last label of digits only would be an address (RFC 1123 s2.1).
pub(super) fn name(text: &str) -> Option<String> {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let last = text.rsplit('.').next()?;
    let is_name =
        text.len() <= MAX_NAME && text.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit());
    is_name.then(|| text.to_ascii_lowercase())
}

impl fmt::Display for Host {
    /// As in a URI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Name(name) => f.write_str(name),
            Kind::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Kind::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// The scheme of a URI that is fetched by HTTP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// An origin as HTTP has it (RFC 9110 s4.3.1): scheme, host and port of a URI. It is not the [`Origin`] of the other
/// modules, which is where connections go: one server may serve many of these, and one of these may have many servers.
///
/// [`Origin`]: crate::net::Origin
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HttpOrigin {
    scheme: Scheme,
    host: Host,
    port: u16,
}

impl HttpOrigin {
    /// The origin of URIs with these three.
    ///
    /// # Errors
    /// Port 0.
    pub fn new(scheme: Scheme, host: Host, port: u16) -> Result<Self> {
        if port == 0 {
            return Err(Error::input(format!("port 0 of {host} is no destination; use 1 to 65535")));
        }
        Ok(Self { scheme, host, port })
    }

    /// Scheme.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Port, never 0.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HttpOrigin {
    type Err = Error;

    /// The ASCII serialisation (RFC 6454 s6.2): `"https://www.example.com"`, `"http://[2001:db8::1]:8080"`. A path, even
    /// `/`, is no part of it.
    fn from_str(text: &str) -> Result<Self> {
        let fault =
            || Error::input(format!("{text:?} is no HTTP origin; expected http(s)://<host>[:<port>]"));
        let (scheme, rest) = match text.split_once("://").ok_or_else(fault)? {
            ("http", rest) => (Scheme::Http, rest),
            ("https", rest) => (Scheme::Https, rest),
            _ => return Err(fault()),
        };
        // The last colon is the port's, unless it is inside an address.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match port {
            // No sign and no empty port, which a parser of numbers or of URIs would let pass.
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().map_err(|_| fault())?,
            Some(_) => return Err(fault()),
            None => scheme.default_port(),
        };
        Self::new(scheme, host.parse()?, port)
    }
}

impl fmt::Display for HttpOrigin {
    /// The ASCII serialisation, without the scheme's own port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_origins_are_equal_however_they_are_written() {
        for (text, normal) in [
            ("https://WWW.Example.COM.:443", "https://www.example.com"),
            ("http://[::ffff:192.0.2.1]:80", "http://192.0.2.1"),
            ("https://[2001:DB8:0::1]:8443", "https://[2001:db8::1]:8443"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]"),
            ("http://example.com:443", "http://example.com:443"),
        ] {
            let origin: HttpOrigin = text.parse().unwrap();
            assert_eq!(origin.to_string(), normal);
            assert_eq!(normal.parse::<HttpOrigin>().unwrap(), origin);
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_by_name() {
        for text in [
            "null",
            "",
            "https://",
            "https://a.example/",
            "HTTPS://a.example",
            "ftp://a.example",
            "https://a.example:",
            "https://a.example:0",
            "https://a.example:65536",
            "https://a.example:+443",
            "https://u@a.example",
            "https://2001:db8::1",
            "https://[192.0.2.1]",
            "https://[2001:db8::1",
            "https://a..example",
            "https://-a.example",
            "https://*.example.com",
            "https://256.0.0.1",
            "https://1.2.3",
            "https://a.example..",
            "https://b\u{fc}cher.example",
            "https://.",
        ] {
            assert!(text.parse::<HttpOrigin>().is_err(), "{text}");
        }
        let label = "a".repeat(63);
        assert!(format!("{label}.example").parse::<Host>().is_ok());
        assert!(format!("{label}a.example").parse::<Host>().is_err());
        let longest = [label.as_str(); 4].join(".");
        assert!(longest[2..].parse::<Host>().is_ok());
        assert!(longest[1..].parse::<Host>().unwrap_err().message().contains("is no host"));
    }
}
