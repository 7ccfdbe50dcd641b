//! Does the host take packets for an address?

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::netlink::{Channel, Fault, Malformed, write_attribute};
use crate::sockopt::set_bind_address_no_port;

// include/uapi/linux/rtnetlink.h
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;
/// Where `rtm_type` is in `struct rtmsg`.
const TYPE: usize = 7;

/// The kernel's routes, of the network namespace of the calling thread.
pub(super) struct Routes(Channel);

impl Routes {
    pub(super) fn new() -> io::Result<Self> {
        let channel = Channel::open(None);
        channel.map(Self).map_err(|fault| fault.into_error("open a netlink socket for routes"))
    }

    /// Does the host take packets for `ip`, and lets IPv4 sockets bind to it?
    ///
    /// The route alone is not enough: a local route outside the table `local` takes packets, and `bind` does not see
    /// it. `bind` alone is not enough either: with `FREEBIND` (which IPv6 needs) or `ip_nonlocal_bind` it asks for no
    /// route.
    pub(super) fn is_local(&mut self, ip: IpAddr) -> io::Result<bool> {
        Ok(self.has_local_route(ip)? && (ip.is_ipv6() || can_bind(ip)?))
    }

    fn has_local_route(&mut self, ip: IpAddr) -> io::Result<bool> {
        let (family, bits, octets) = match ip {
            IpAddr::V4(ip) => (2, 32, ip.octets().to_vec()),
            IpAddr::V6(ip) => (10, 128, ip.octets().to_vec()),
        };
        // struct rtmsg
        let mut body = vec![family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        write_attribute(&mut body, RTA_DST, &octets);
        let mut kind = None;
        let answer = self.0.ask(RTM_GETROUTE, 0, &body, |payload| {
            kind = Some(*payload.get(TYPE).ok_or(Malformed("a struct rtmsg of 12 bytes"))?);
            Ok(())
        });
        match answer {
            Ok(()) => Ok(kind == Some(RTN_LOCAL)),
            // No route, or one that says no; or the kernel has no IPv6.
            Err(Fault::Refused(
                Errno::NETUNREACH
                | Errno::HOSTUNREACH
                | Errno::ACCESS
                | Errno::INVAL
                | Errno::AFNOSUPPORT
                | Errno::OPNOTSUPP,
            )) => Ok(false),
            Err(fault) => Err(fault.into_error(&format!("ask for the route to {ip}"))),
        }
    }
}

/// Takes no port.
fn can_bind(ip: IpAddr) -> io::Result<bool> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_bind_address_no_port(&socket)?;
    match bind(&socket, &SocketAddr::new(ip, 0)) {
        Ok(()) => Ok(true),
        Err(Errno::ADDRNOTAVAIL) => Ok(false),
        Err(errno) => {
            let error = io::Error::from(errno);
            Err(io::Error::new(error.kind(), format!("bind to {ip}: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local_and_other_peoples_addresses_are_not() {
        let mut routes = Routes::new().unwrap();
        for (ip, local) in [
            ("127.0.0.1", true),
            ("127.66.1.2", true),
            // Documentation addresses (RFC 5737, RFC 3849) and the limited broadcast.
            ("203.0.113.77", false),
            ("2001:db8:77::1", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(routes.is_local(ip.parse().unwrap()).unwrap(), local, "{ip}");
        }
    }
}
