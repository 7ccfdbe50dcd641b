//! Which sockets does the kernel have? Read through `NETLINK_SOCK_DIAG`, as `ss` does.
//!
//! It shows the sockets of all programs of a network namespace, TIME_WAIT and other remains included, and needs no
//! privilege. Ports and addresses are chosen [in the kernel](Filter).
//!
//! ```
//! use std::net::TcpListener;
//! use aegis_net::sock_diag::{Filter, SockDiag, State};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let port = listener.local_addr()?.port();
//!
//! let mut kernel = SockDiag::new()?;
//! let sockets = kernel.list(&Filter::new([port.to_string().parse()?]))?;
//! assert!(sockets.iter().any(|socket| socket.source.port() == port && socket.state == State::Listen));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **A list is no snapshot.** The kernel walks its hash table in steps of 32 KiB. A socket that comes or goes meanwhile
//! may be in it or not; one that only changes its state may be in it twice; and where a step ends in the middle of a
//! bucket, a close there can make the next step overlook a neighbour. So that a socket is *in* the list is a fact, and
//! that it is *not* is a strong hint: before a held tuple is set free, ask for it with [`SockDiag::find`], or for many
//! with [`SockDiag::find_each`]: they look it up as an arriving packet would be.

mod filter;
mod socket;

use std::io;
use std::net::{IpAddr, SocketAddr};

use aegis_core::net::{Protocol, canonical_ip};
use rustix::io::Errno;
use rustix::net::netlink;

pub use filter::Filter;
pub use socket::{Socket, State};

use crate::netlink::{Channel, Fault, Malformed, NLM_F_DUMP, write_attribute};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
/// `AF_INET` and `AF_INET6`. Both are asked for always: a socket with an IPv4-mapped address is an IPv6 one.
const FAMILIES: [u8; 2] = [2, 10];
/// How often [`SockDiag::list`] starts anew.
const TRIES: u32 = 4;

/// The kernel's list of sockets, of the network namespace of the thread that opened it.
///
/// Keep it: it owns a netlink socket and a buffer of 32 KiB, and allocates nothing for a list.
#[derive(Debug)]
pub struct SockDiag {
    channel: Channel,
    body: Vec<u8>,
}

impl SockDiag {
    /// Opens a netlink socket.
    ///
    /// # Errors
    /// The operating system's: no descriptors, or netlink is forbidden to this program (`EPROTONOSUPPORT`: the kernel
    /// has no `CONFIG_INET_DIAG`).
    pub fn new() -> io::Result<Self> {
        let channel = Channel::open(Some(netlink::SOCK_DIAG))
            .map_err(|fault| fault.into_error("open a netlink socket for sock_diag"))?;
        Ok(Self { channel, body: Vec::new() })
    }

    /// Gives every socket that matches to `each`, as they come from the kernel.
    ///
    /// # Errors
    /// - `Interrupted`: the list changed too much while it was read. What `each` saw is not all; read it again.
    /// - `NotFound`: the kernel cannot list this protocol; the message names the module to load.
    /// - others of the operating system.
    ///
    /// After an error, what `each` saw is a part of the list.
    pub fn for_each(&mut self, filter: &Filter, mut each: impl FnMut(&Socket)) -> io::Result<()> {
        self.payloads(filter, |protocol, payload| {
            let socket = Socket::read(protocol, payload)?;
            if filter.matches(&socket) {
                each(&socket);
            }
            Ok(())
        })
    }

    /// What the kernel answers, unread.
    fn payloads(
        &mut self,
        filter: &Filter,
        mut take: impl FnMut(Protocol, &[u8]) -> Result<(), Malformed>,
    ) -> io::Result<()> {
        for protocol in filter.protocols() {
            for family in FAMILIES {
                self.body.clear();
                self.body.extend(request(family, protocol, filter.states(), &[0; SOCKET_ID]));
                write_attribute(&mut self.body, INET_DIAG_REQ_BYTECODE, filter.program());
                let take = |payload: &[u8]| take(protocol, payload);
                let list = self.channel.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &self.body, take);
                list.map_err(|fault| describe(fault, protocol))?;
            }
        }
        Ok(())
    }

    /// All sockets that match. Starts again when it was interrupted, a few times.
    ///
    /// # Errors
    /// As [`SockDiag::for_each`].
    pub fn list(&mut self, filter: &Filter) -> io::Result<Vec<Socket>> {
        let mut tries = 1;
        loop {
            let mut sockets = Vec::new();
            match self.for_each(filter, |socket| sockets.push(*socket)) {
                Ok(()) => return Ok(sockets),
                Err(error) if error.kind() == io::ErrorKind::Interrupted && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The socket that a packet from `peer` to `source` would meet, if it is connected to `peer`. Exact, where a list
    /// may overlook one. (Two connected UDP sockets may have the same tuple: it is the one that gets the packets.)
    ///
    /// A socket that is bound to a network device is not found.
    ///
    /// # Errors
    /// As [`SockDiag::find_each`].
    pub fn find(
        &mut self,
        protocol: Protocol,
        source: SocketAddr,
        peer: SocketAddr,
    ) -> io::Result<Option<Socket>> {
        let mut found = None;
        self.find_each(protocol, &[(source, peer)], |_, socket| found = socket)?;
        Ok(found)
    }

    /// Looks up many tuples of source and peer, each as exactly as [`SockDiag::find`], and faster than one by one.
    /// `each` gets the place of a tuple and its socket, in the order of the tuples.
    ///
    /// # Errors
    /// - `InvalidInput`: of a tuple, one address is IPv4, the other IPv6. Nothing was looked up.
    /// - `Interrupted`: the kernel had no memory for an answer; look up again.
    /// - others of the operating system.
    ///
    /// After an error, what `each` saw is true, and the tuples that it did not see were not looked up.
    pub fn find_each(
        &mut self,
        protocol: Protocol,
        tuples: &[(SocketAddr, SocketAddr)],
        mut each: impl FnMut(usize, Option<Socket>),
    ) -> io::Result<()> {
        let tuples = tuples.iter().copied().map(canonical).collect::<io::Result<Vec<_>>>()?;
        let questions: Vec<_> = tuples.iter().map(|tuple| exact_request(protocol, *tuple)).collect();
        let asked = self.channel.ask_each(SOCK_DIAG_BY_FAMILY, 0, &questions, |at, answer| {
            let found = match answer {
                Ok(payload) => Some(Socket::read(protocol, payload)?),
                // The same number says that the module is missing: a list then tells.
                Err(Errno::NOENT) => None,
                Err(errno) => return Err(Fault::Refused(errno)),
            };
            // Without a connected socket the kernel finds a listener.
            let (source, peer) = tuples[at];
            each(at, found.filter(|socket| socket.source == source && socket.peer == Some(peer)));
            Ok(())
        });
        asked.map_err(|fault| describe(fault, protocol))
    }
}

/// IPv4-mapped addresses normalised to IPv4, as sockets have them.
fn canonical((source, peer): (SocketAddr, SocketAddr)) -> io::Result<(SocketAddr, SocketAddr)> {
    let [source, peer] =
        [source, peer].map(|address| SocketAddr::new(canonical_ip(address.ip()), address.port()));
    if source.is_ipv4() != peer.is_ipv4() {
        let message = format!("no connection has the ends {source} and {peer}; both must be IPv4 or IPv6");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok((source, peer))
}

/// `sizeof(struct inet_diag_sockid)`.
const SOCKET_ID: usize = 48;

/// `sizeof(struct inet_diag_req_v2)`.
const REQUEST: usize = 8 + SOCKET_ID;

/// Asks for the socket of one tuple, by canonical addresses.
fn exact_request(protocol: Protocol, (source, peer): (SocketAddr, SocketAddr)) -> [u8; REQUEST] {
    let family = FAMILIES[usize::from(source.is_ipv6())];
    let id = match protocol {
        Protocol::Tcp => socket_id(source, peer),
        // The kernel has the ends of UDP the other way round, "for historical reasons".
        Protocol::Udp => socket_id(peer, source),
    };
    request(family, protocol, u32::MAX, &id)
}

fn request(family: u8, protocol: Protocol, states: u32, id: &[u8; SOCKET_ID]) -> [u8; REQUEST] {
    let protocol = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let mut request = [0; REQUEST];
    request[..2].copy_from_slice(&[family, protocol]);
    request[4..8].copy_from_slice(&states.to_ne_bytes());
    request[8..].copy_from_slice(id);
    request
}

/// Ports, addresses, any network device, no cookie.
fn socket_id(source: SocketAddr, peer: SocketAddr) -> [u8; SOCKET_ID] {
    let mut id = [0; SOCKET_ID];
    for (port, address, end) in [(0, 4, source), (2, 20, peer)] {
        id[port..port + 2].copy_from_slice(&end.port().to_be_bytes());
        match end.ip() {
            IpAddr::V4(ip) => id[address..address + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => id[address..address + 16].copy_from_slice(&ip.octets()),
        }
    }
    id[40..].fill(0xff);
    id
}

fn describe(fault: Fault, protocol: Protocol) -> io::Error {
    match fault {
        // No handler for TCP or UDP; for the whole of sock_diag.
        Fault::Refused(Errno::NOENT | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT) => io::Error::new(
            io::ErrorKind::NotFound,
            format!("this kernel cannot list {protocol} sockets; load its module: modprobe {protocol}_diag"),
        ),
        fault => fault.into_error(&format!("list {protocol} sockets")),
    }
}
