//! One socket, as the kernel lists it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use aegis_core::net::{Protocol, canonical_ip};

use crate::netlink::{Attributes, Malformed};

/// A socket of this network namespace, of any program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Socket {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its own ip:port, IPv4-mapped normalised to IPv4. The address is unspecified (`0.0.0.0`, `[::]`) where it is
    /// bound to all.
    pub source: SocketAddr,
    /// Where it is connected to; nothing for listeners and unconnected sockets.
    pub peer: Option<SocketAddr>,
    /// What it is doing.
    pub state: State,
    /// How long until the kernel forgets it by itself, where a timer says so: [`State::TimeWait`], and a
    /// [`State::FinWait2`] that no program has open any more. It can last up to a seventh longer (the timer is coarse).
    pub expires: Option<Duration>,
    /// The user who made it; 0 (root) in [`State::TimeWait`] too, where nobody has it any more.
    pub uid: u32,
    /// Its inode, as in `/proc/PID/fd`; 0 when no program has it open any more.
    pub inode: u32,
    /// An IPv6 socket, bound to all addresses or to one, that leaves IPv4 alone. Told of listeners and unconnected
    /// sockets only.
    pub v6_only: bool,
}

impl Socket {
    /// Does it occupy this ip and its own port, alone or bound to all addresses?
    pub fn covers(&self, ip: IpAddr) -> bool {
        match (self.source.ip(), canonical_ip(ip)) {
            (own, ip) if own == ip => true,
            (IpAddr::V4(own), IpAddr::V4(_)) => own.is_unspecified(),
            (IpAddr::V6(own), IpAddr::V6(_)) => own.is_unspecified(),
            (IpAddr::V6(own), IpAddr::V4(_)) => own.is_unspecified() && !self.v6_only,
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }
}

/// What a socket is doing. The TCP states are those of RFC 9293.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum State {
    /// Open in both directions; connected UDP.
    Established,
    /// We have sent a SYN.
    SynSent,
    /// We have answered a SYN.
    SynReceived,
    /// We have closed first; the peer has not acknowledged it.
    FinWait1,
    /// We have closed first; the peer has not closed yet. With [`Socket::expires`], no program has it open any more.
    FinWait2,
    /// Closed by us, then by the peer.
    TimeWait,
    /// The peer has closed first; we have not.
    CloseWait,
    /// The peer has closed first, then we.
    LastAck,
    /// Both have closed at once.
    Closing,
    /// Waits for connections.
    Listen,
    /// Has a port, and neither listens nor is connected. (TCP: Linux 6.8 and later show these.)
    Bound,
    /// A state that this library does not know, by its number in the kernel.
    Other(u8),
}

impl State {
    /// Numbers of include/net/tcp_states.h; UDP uses two of them.
    const fn from_kernel(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            // 12 is a SYN that no accepted socket exists for yet.
            3 | 12 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            // CLOSE (UDP: unconnected) and BOUND_INACTIVE (TCP).
            7 | 13 => Self::Bound,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            number => Self::Other(number),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Established => "established",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::FinWait1 => "fin-wait-1",
            Self::FinWait2 => "fin-wait-2",
            Self::TimeWait => "time-wait",
            Self::CloseWait => "close-wait",
            Self::LastAck => "last-ack",
            Self::Closing => "closing",
            Self::Listen => "listen",
            Self::Bound => "bound",
            Self::Other(number) => return write!(f, "state {number}"),
        })
    }
}

/// `sizeof(struct inet_diag_msg)`.
const MESSAGE: usize = 72;
/// `IDIAG_TIMER_TIMEWAIT`: the timer that ends the socket.
const TIMER_TIMEWAIT: u8 = 3;
const INET_DIAG_SKV6ONLY: u16 = 11;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

impl Socket {
    /// Reads a `struct inet_diag_msg` with its attributes. It is ABI, so fields are at fixed places.
    pub(super) fn read(protocol: Protocol, payload: &[u8]) -> Result<Self, Malformed> {
        let Some((message, attributes)) = payload.split_first_chunk::<MESSAGE>() else {
            return Err(Malformed("a struct inet_diag_msg of 72 bytes"));
        };
        let [family, number, timer, ..] = *message;
        let word = |at: usize| u32::from_ne_bytes(array(message, at));
        let port = |at: usize| u16::from_be_bytes(array(message, at));
        let ip = |at: usize| -> Result<IpAddr, Malformed> {
            match family {
                AF_INET => Ok(Ipv4Addr::from(array::<4>(message, at)).into()),
                AF_INET6 => Ok(canonical_ip(Ipv6Addr::from(array::<16>(message, at)).into())),
                _ => Err(Malformed("an address family of 2 or 10")),
            }
        };
        let state = State::from_kernel(number);
        let source = SocketAddr::new(ip(8)?, port(4));
        let peer = SocketAddr::new(ip(24)?, port(6));
        let alone = matches!(state, State::Listen | State::Bound);
        Ok(Self {
            protocol,
            source,
            peer: (!alone && peer.port() != 0).then_some(peer),
            state,
            expires: (timer == TIMER_TIMEWAIT).then(|| Duration::from_millis(word(52).into())),
            uid: word(64),
            inode: word(68),
            v6_only: alone && family == AF_INET6 && is_v6_only(attributes)?,
        })
    }
}

fn is_v6_only(attributes: &[u8]) -> Result<bool, Malformed> {
    for attribute in Attributes(attributes) {
        if let (INET_DIAG_SKV6ONLY, [flag, ..]) = attribute? {
            return Ok(*flag != 0);
        }
    }
    // Kernels before 4.9 do not tell: then assume that it may stand in the way of IPv4.
    Ok(false)
}

/// `N` bytes at a place that is known when this is compiled.
fn array<const N: usize>(message: &[u8; MESSAGE], at: usize) -> [u8; N] {
    *message[at..].first_chunk().expect("every field ends within the struct")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::write_attribute;

    /// TIME_WAIT of 127.0.0.1:20480 -> 127.0.0.2:443 with 59.5 s left.
    fn time_wait() -> Vec<u8> {
        let mut bytes = vec![AF_INET, 6, TIMER_TIMEWAIT, 0];
        bytes.extend(20_480_u16.to_be_bytes());
        bytes.extend(443_u16.to_be_bytes());
        bytes.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([127, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        // Interface, cookie, expires, queues, uid, inode.
        for word in [0, 1, 2, 59_500, 0, 0, 1_000, 77_u32] {
            bytes.extend(word.to_ne_bytes());
        }
        assert_eq!(bytes.len(), MESSAGE);
        bytes
    }

    #[test]
    fn every_field_is_read_from_its_place() {
        let socket = Socket::read(Protocol::Tcp, &time_wait()).unwrap();
        assert_eq!(socket.source, "127.0.0.1:20480".parse().unwrap());
        assert_eq!(socket.peer, Some("127.0.0.2:443".parse().unwrap()));
        assert_eq!((socket.state, socket.expires), (State::TimeWait, Some(Duration::from_millis(59_500))));
        assert_eq!((socket.uid, socket.inode), (1_000, 77));
    }

    #[test]
    fn a_mapped_address_is_the_v4_address() {
        let mut bytes = time_wait();
        bytes[0] = AF_INET6;
        for (at, last) in [(8, 1), (24, 2)] {
            bytes[at..at + 16].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, last]);
        }
        let v4 = Socket::read(Protocol::Tcp, &time_wait()).unwrap();
        assert_eq!(Socket::read(Protocol::Tcp, &bytes).unwrap(), v4);
    }

    #[test]
    fn any_bytes_are_a_socket_or_an_error_and_never_a_panic() {
        let mut whole = time_wait();
        whole[0] = AF_INET6;
        whole[1] = 10;
        write_attribute(&mut whole, 8, &[0]);
        write_attribute(&mut whole, INET_DIAG_SKV6ONLY, &[1]);
        assert!(Socket::read(Protocol::Tcp, &whole).unwrap().v6_only);
        for len in 0..whole.len() {
            let read = Socket::read(Protocol::Tcp, &whole[..len]);
            assert!(len >= MESSAGE || read.is_err(), "{len} bytes");
            for (at, value) in (0..len).flat_map(|at| [(at, 0), (at, 0xff), (at, whole[at] ^ 0x80)]) {
                let mut bytes = whole[..len].to_vec();
                bytes[at] = value;
                let _ = Socket::read(Protocol::Udp, &bytes);
            }
        }
    }

    #[test]
    fn a_real_answer_cut_at_any_byte_is_a_socket_or_an_error() {
        let listener =
            std::net::TcpListener::bind("[::1]:0").or_else(|_| std::net::TcpListener::bind("127.0.0.1:0"));
        let address = listener.as_ref().unwrap().local_addr().unwrap();
        let filter = super::super::Filter::new([address.port().to_string().parse().unwrap()]);
        let mut payloads = Vec::new();
        super::super::SockDiag::new()
            .unwrap()
            .payloads(&filter, |_, bytes| {
                payloads.push(bytes.to_vec());
                Ok(())
            })
            .unwrap();
        let whole = payloads
            .iter()
            .find(|bytes| Socket::read(Protocol::Tcp, bytes).unwrap().source == address)
            .expect("our listener");
        for len in 0..=whole.len() {
            let read = Socket::read(Protocol::Tcp, &whole[..len]);
            match read {
                Ok(socket) => assert!(socket.source == address && len >= MESSAGE, "{len} bytes"),
                Err(_) => assert!(len < whole.len(), "{len} bytes"),
            }
        }
    }

    #[test]
    fn a_wildcard_stands_in_the_way_of_its_family_and_a_dual_stack_one_of_both() {
        let mut socket = Socket::read(Protocol::Tcp, &time_wait()).unwrap();
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let mut covers = |source: &str, v6_only| {
            socket.source = source.parse().unwrap();
            socket.v6_only = v6_only;
            [v4, v6].map(|ip| socket.covers(ip))
        };
        assert_eq!(covers("0.0.0.0:1", false), [true, false]);
        assert_eq!(covers("[::]:1", false), [true, true]);
        assert_eq!(covers("[::]:1", true), [false, true]);
        assert_eq!(covers("192.0.2.1:1", false), [true, false]);
        assert_eq!(covers("192.0.2.2:1", false), [false, false]);
    }
}
