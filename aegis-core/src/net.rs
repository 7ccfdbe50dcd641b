//! What is an address, a port range, an origin, a flow?

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A transport protocol that leases exist for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Transmission Control Protocol (RFC 9293).
    Tcp,
    /// User Datagram Protocol (RFC 768).
    Udp,
}

impl Protocol {
    /// Both protocols.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(Error::input(format!("unknown protocol {text:?}; expected \"tcp\" or \"udp\""))),
        }
    }
}

/// The one identity of an address: `::ffff:a.b.c.d` is `a.b.c.d` (one tuple space in Linux).
pub const fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// An inclusive, never empty range of ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    lo: u16,
    hi: u16,
}

impl PortRange {
    /// All ports that a packet can carry, 0 included.
    pub const ALL: Self = Self { lo: 0, hi: u16::MAX };

    /// The ports `lo..=hi`.
    ///
    /// # Errors
    /// `lo > hi`.
    pub fn new(lo: u16, hi: u16) -> Result<Self, Error> {
        if lo > hi {
            return Err(Error::input(format!("port range {lo}-{hi} runs backwards; write {hi}-{lo}")));
        }
        Ok(Self { lo, hi })
    }

    /// First port.
    pub const fn lo(self) -> u16 {
        self.lo
    }

    /// Last port (inclusive).
    pub const fn hi(self) -> u16 {
        self.hi
    }

    /// How many ports, 1 to 65,536. Never empty, so there is no `is_empty`.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u32 {
        // Both ends widen before the subtraction: 65535 + 1 is not 0.
        self.hi as u32 - self.lo as u32 + 1
    }

    /// Is `port` inside?
    pub const fn contains(self, port: u16) -> bool {
        self.lo <= port && port <= self.hi
    }

    /// Do the two ranges share a port?
    pub const fn overlaps(self, other: Self) -> bool {
        self.lo <= other.hi && other.lo <= self.hi
    }

    /// The ports in order.
    pub fn ports(self) -> impl DoubleEndedIterator<Item = u16> {
        self.lo..=self.hi
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.lo, self.hi)
    }
}

impl FromStr for PortRange {
    type Err = Error;

    /// `"2048-4095"` or a single port `"443"`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let port = |part: &str| {
            part.parse::<u16>().map_err(|_| {
                Error::input(format!(
                    "{text:?} is not a port range; expected ports 0 to 65535 like \"2048-4095\""
                ))
            })
        };
        let (lo, hi) = text.split_once('-').unwrap_or((text, text));
        Self::new(port(lo)?, port(hi)?)
    }
}

impl TryFrom<String> for PortRange {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

/// Where a connection goes: protocol and destination ip:port of a customer's server.
///
/// Always a usable unicast destination: never port 0, unspecified, multicast, broadcast, or IPv4-mapped IPv6 (which
/// is normalised to IPv4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    protocol: Protocol,
    ip: IpAddr,
    port: u16,
}

impl Origin {
    /// The origin at `address`. Flow label and scope of an IPv6 socket address are not part of the identity.
    ///
    /// # Errors
    /// Port 0; an unspecified, multicast or broadcast address.
    pub fn new(protocol: Protocol, address: SocketAddr) -> Result<Self, Error> {
        let (ip, port) = (canonical_ip(address.ip()), address.port());
        let fault = if port == 0 {
            Some("port 0 is no destination; use 1 to 65535")
        } else if ip.is_unspecified() {
            Some("the unspecified address is no destination; use the server's address")
        } else if ip.is_multicast() || ip == IpAddr::V4(core::net::Ipv4Addr::BROADCAST) {
            Some("a multicast or broadcast address is no destination; use a unicast address")
        } else {
            None
        };
        match fault {
            Some(fault) => Err(Error::input(format!("origin {protocol} {address}: {fault}"))),
            None => Ok(Self { protocol, ip, port }),
        }
    }

    /// Transport protocol.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Destination address and port.
    pub const fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// Destination address.
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Destination port, never 0.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_port_is_inside_and_counted() {
        assert_eq!(PortRange::ALL.len(), 65_536);
        let last: PortRange = "63488-65535".parse().unwrap();
        assert_eq!((last.len(), last.contains(u16::MAX), last.contains(63_487)), (2_048, true, false));
        assert_eq!(last.ports().count(), 2_048);
        assert!("9-3".parse::<PortRange>().unwrap_err().message().contains("backwards"));
        assert!("1-65536".parse::<PortRange>().is_err());
    }

    #[test]
    fn a_mapped_address_is_the_v4_address() {
        let a = Origin::new(Protocol::Tcp, "[::ffff:192.0.2.1]:443".parse().unwrap()).unwrap();
        let b = Origin::new(Protocol::Tcp, "192.0.2.1:443".parse().unwrap()).unwrap();
        assert_eq!(a, b);
    }

    #[test]
    fn impossible_destinations_are_refused_by_name() {
        for (text, word) in [
            ("192.0.2.1:0", "port 0"),
            ("0.0.0.0:80", "unspecified"),
            ("[::ffff:0.0.0.0]:80", "unspecified"),
            ("[::]:80", "unspecified"),
            ("224.0.0.1:80", "multicast"),
            ("[ff02::1]:80", "multicast"),
            ("255.255.255.255:80", "broadcast"),
        ] {
            let e = Origin::new(Protocol::Udp, text.parse().unwrap()).unwrap_err();
            assert!(e.message().contains(word) && e.message().contains("udp"), "{text}: {e}");
        }
    }
}
