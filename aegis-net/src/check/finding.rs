//! What is wrong with a machine, how bad it is, and the command that mends it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use aegis_core::net::{PortRange, Protocol};

use crate::ranges::Ports;
use crate::sock_diag::{Socket, State};

/// How bad a [`Finding`] is. The worst sorts first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Connections would be refused, broken, or leave from where they must not: do not grant leases here.
    Blocks,
    /// It works, with loss: some ports are not usable, or something may interfere.
    Warns,
    /// Worth knowing; nothing is wrong yet.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Blocks => "blocks",
            Self::Warns => "warns",
            Self::Note => "note",
        })
    }
}

/// What the defaults expect of the kernel, and the self-test tries on loopback.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Rule {
    /// Two sockets with `SO_REUSEADDR` and `SO_REUSEPORT` share a source port towards different origins. Without it a
    /// share would carry one connection per port.
    PortIsShared,
    /// A second socket is refused a live tuple at `connect`, with `EADDRNOTAVAIL`. It finds strangers' connections.
    LiveTupleIsRefused,
    /// A port that another program has without `SO_REUSEADDR` is refused at `bind`, with `EADDRINUSE`.
    StrangersPortIsRefused,
    /// A tuple is free at once after a reset, which is why nothing is held then.
    ResetFreesTuple,
    /// A tuple is free at once when the origin closed first, which is why nothing is held then.
    OriginsCloseFreesTuple,
    /// With TCP timestamps on, a tuple in TIME_WAIT is connected again at once, which is why nothing is held then.
    /// Tried only where the quarantine assumes it.
    TimeWaitIsReused,
    /// A half-closed connection ends after `net.ipv4.tcp_fin_timeout`, which is how long its tuple is held.
    HalfClosedEnds,
    /// The kernel chooses a port inside `IP_LOCAL_PORT_RANGE`. Tried only where it is used.
    RangeIsKept,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PortIsShared => "a source port is shared towards different origins",
            Self::LiveTupleIsRefused => "a live tuple is refused at connect with EADDRNOTAVAIL",
            Self::StrangersPortIsRefused => "another program's port is refused at bind with EADDRINUSE",
            Self::ResetFreesTuple => "a tuple is free at once after a reset",
            Self::OriginsCloseFreesTuple => "a tuple is free at once when the origin closed first",
            Self::TimeWaitIsReused => "with timestamps a tuple in TIME_WAIT is connected again at once",
            Self::HalfClosedEnds => "a half-closed connection ends after net.ipv4.tcp_fin_timeout",
            Self::RangeIsKept => "the kernel chooses a port inside IP_LOCAL_PORT_RANGE",
        })
    }
}

/// One thing that is not as it should be. Its text names the value; [`Finding::remedy`] is what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Finding {
    /// The kernel does not do what the defaults rely on: what it does was tried with real sockets. Blocks.
    KernelDiffers {
        /// What was expected.
        rule: Rule,
        /// The loopback address it was tried on.
        ip: IpAddr,
        /// What happened instead.
        saw: String,
    },
    /// The self-test could not be made, so nothing is known about the kernel. Warns.
    NotTested {
        /// The loopback address.
        ip: IpAddr,
        /// What went wrong.
        error: String,
    },
    /// The host takes no packets for this address of a share: every connection from it would fail at `bind` (IPv4) or
    /// time out (IPv6). Blocks.
    AddressNotLocal {
        /// The address.
        ip: IpAddr,
    },
    /// Kernel range only: these ports of the shares are outside `net.ipv4.ip_local_port_range`. There the kernel silently
    /// ignores the range, and connections leave from ports of other machines. Blocks.
    OutsideLocalPortRange {
        /// The ports, of all shares together.
        ports: Vec<PortRange>,
        /// The sysctl.
        local: PortRange,
        /// The port that the kernel chose when it was asked for one of `ports`; nothing if that was not tried.
        chosen: Option<u16>,
        /// What the sysctl should be: it covers all shares.
        set: PortRange,
    },
    /// Kernel range only: these ports of the shares are in `net.ipv4.ip_local_reserved_ports`. The kernel never chooses
    /// them. Blocks.
    ReservedFromKernel {
        /// The ports, of all shares together.
        ports: Vec<PortRange>,
        /// What the sysctl should be: the other ports that are reserved now.
        keep: Vec<PortRange>,
    },
    /// Explicit bind only: these ports of the shares are among those that the kernel gives to other programs, and are not
    /// reserved. Each that it gives is lost to all origins meanwhile. Warns.
    KernelMayChoose {
        /// The ports, of all IPv4 shares together.
        ports: Vec<PortRange>,
        /// `net.ipv4.ip_local_port_range`.
        local: PortRange,
        /// What `net.ipv4.ip_local_reserved_ports` should be: what it is, and all shares.
        reserve: Vec<PortRange>,
        /// Where `local` should move, if reserving would leave fewer than 1,000 ports for other programs.
        move_to: Option<PortRange>,
    },
    /// Explicit bind only: these ports of the shares are not reserved. The kernel does not choose them now, but would if
    /// somebody widened `net.ipv4.ip_local_port_range`. A note.
    NotReserved {
        /// The ports, of all IPv4 shares together.
        ports: Vec<PortRange>,
        /// What `net.ipv4.ip_local_reserved_ports` should be: what it is, and all shares.
        reserve: Vec<PortRange>,
    },
    /// The quarantine assumes TCP timestamps, and they are off: tuples would be granted that the kernel refuses for a
    /// minute. Blocks.
    TimestampsOff,
    /// Half-closed connections last longer than the quarantine assumes: tuples would be granted whose connection still
    /// exists at the origin, and break it. Blocks.
    FinTimeoutTooLong {
        /// `net.ipv4.tcp_fin_timeout`.
        actual: Duration,
        /// What the quarantine assumes.
        assumed: Duration,
    },
    /// Another socket has this port, on the address of a share or on all addresses: it is lost to all origins, and an
    /// unconnected UDP socket may lose packets to ours. Warns.
    PortTaken {
        /// The socket: [`State::Listen`] or [`State::Bound`].
        socket: Socket,
        /// An address of a share that it stands in the way of.
        ip: IpAddr,
        /// That share's ports.
        ports: PortRange,
    },
    /// Connections leave from this share already. Their tuples are in use; those of a former process are to be adopted.
    /// A note for TCP; warns for UDP, where the kernel lets two sockets have one tuple.
    Connections {
        /// TCP or UDP.
        protocol: Protocol,
        /// The share's address.
        ip: IpAddr,
        /// The share's ports.
        ports: PortRange,
        /// How many, remains (TIME_WAIT) included.
        count: usize,
        /// One of them.
        example: Socket,
    },
    /// Connection tracking is active in this network namespace: its table may overflow, and NAT on top of it may give
    /// connections other source ports. Warns.
    ConnectionTracking {
        /// `net.netfilter.nf_conntrack_count`, after the self-test.
        flows: u64,
        /// A sign that there is NAT, too.
        nat: Option<String>,
        /// The addresses of the shares.
        ips: Vec<IpAddr>,
    },
    /// Something that the check needs could not be read. Warns.
    Unreadable {
        /// A file, or the kernel's list of sockets.
        what: PathBuf,
        /// What went wrong.
        error: String,
    },
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::KernelDiffers { .. }
            | Self::AddressNotLocal { .. }
            | Self::OutsideLocalPortRange { .. }
            | Self::ReservedFromKernel { .. }
            | Self::TimestampsOff
            | Self::FinTimeoutTooLong { .. } => Severity::Blocks,
            Self::NotTested { .. }
            | Self::KernelMayChoose { .. }
            | Self::PortTaken { .. }
            | Self::Connections { protocol: Protocol::Udp, .. }
            | Self::ConnectionTracking { .. }
            | Self::Unreadable { .. } => Severity::Warns,
            Self::NotReserved { .. } | Self::Connections { protocol: Protocol::Tcp, .. } => Severity::Note,
        }
    }

    /// What to do: where a command mends it, exactly that command. (Sysctls last until the next boot; for longer they go
    /// into `/etc/sysctl.d`.)
    pub fn remedy(&self) -> String {
        match self {
            Self::KernelDiffers { rule: Rule::RangeIsKept, .. } => {
                "use explicit binds, or Linux 6.3 or later".into()
            }
            Self::KernelDiffers { rule: Rule::TimeWaitIsReused, .. } => {
                "hold tuples in TIME_WAIT: Spans::linux(false, ..)".into()
            }
            Self::KernelDiffers { .. } => {
                "use a kernel with the behaviour of Linux 6.18, and report this one".into()
            }
            Self::NotTested { .. } => "ip link set lo up".into(),
            Self::AddressNotLocal { ip: IpAddr::V4(ip) } => format!("ip route add local {ip}/32 dev lo"),
            Self::AddressNotLocal { ip: IpAddr::V6(ip) } => {
                format!("ip -6 route add local {ip}/128 dev lo")
            }
            Self::OutsideLocalPortRange { set, .. } => local_port_range(*set),
            Self::ReservedFromKernel { keep, .. } => reserved_ports(keep),
            Self::KernelMayChoose { move_to: Some(range), .. } => local_port_range(*range),
            Self::KernelMayChoose { reserve, .. } | Self::NotReserved { reserve, .. } => {
                reserved_ports(reserve)
            }
            Self::TimestampsOff => "sysctl -w net.ipv4.tcp_timestamps=1".into(),
            Self::FinTimeoutTooLong { assumed, .. } => {
                format!("sysctl -w net.ipv4.tcp_fin_timeout={}", assumed.as_secs())
            }
            Self::PortTaken { socket, .. } => {
                let flag = flag(socket.protocol);
                let port = socket.source.port();
                format!("find the program and give it another port: ss -Hna{flag}p 'sport = :{port}'")
            }
            Self::Connections { protocol, ip, ports, .. } => format!(
                "adopt those of a former process; find the others: \
                 ss -Hna{}p 'src {} and sport >= :{} and sport <= :{}'",
                flag(*protocol),
                Bracketed(*ip),
                ports.lo(),
                ports.hi(),
            ),
            Self::ConnectionTracking { ips, .. } => not_tracked(ips),
            Self::Unreadable { what, .. } => {
                format!("make {} readable for this program", what.display())
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KernelDiffers { rule, ip, saw } => {
                write!(f, "the kernel differs: expected that {rule}; on {ip} {saw}")
            }
            Self::NotTested { ip, error } => {
                write!(f, "the kernel's behaviour could not be tried on {ip}: {error}")
            }
            Self::AddressNotLocal { ip } => {
                write!(f, "the egress address {ip} is not on this host, and has no local route")
            }
            Self::OutsideLocalPortRange { ports, local, chosen, .. } => {
                let ports = list(ports);
                write!(
                    f,
                    "ports {ports} of the shares are outside net.ipv4.ip_local_port_range {local}, \
                     where the kernel does not keep to a socket's range"
                )?;
                match chosen {
                    Some(chosen) => write!(f, ": asked for one of them, it chose {chosen}"),
                    None => Ok(()),
                }
            }
            Self::ReservedFromKernel { ports, .. } => write!(
                f,
                "ports {} of the shares are in net.ipv4.ip_local_reserved_ports, \
                 and the kernel, which is to choose from them, never does",
                list(ports)
            ),
            Self::KernelMayChoose { ports, local, move_to, .. } => {
                let ports = list(ports);
                write!(
                    f,
                    "ports {ports} of the shares are in net.ipv4.ip_local_port_range {local} and not \
                     reserved: the kernel may give them to other programs"
                )?;
                match move_to {
                    Some(_) => f.write_str("; reserving them would leave too few for those"),
                    None => Ok(()),
                }
            }
            Self::NotReserved { ports, .. } => {
                write!(f, "ports {} of the shares are not in net.ipv4.ip_local_reserved_ports", list(ports))
            }
            Self::TimestampsOff => {
                f.write_str("net.ipv4.tcp_timestamps is 0, but the quarantine assumes that timestamps are on")
            }
            Self::FinTimeoutTooLong { actual, assumed } => write!(
                f,
                "net.ipv4.tcp_fin_timeout is {}, but the quarantine assumes at most {}",
                actual.as_secs(),
                assumed.as_secs()
            ),
            Self::PortTaken { socket, ip, ports } => {
                let Socket { protocol, source, uid, .. } = socket;
                let what = match socket.state {
                    State::Listen => "listener",
                    _ => "socket",
                };
                write!(
                    f,
                    "a {protocol} {what} on {source} (user {uid}) has port {} of the share {ip} {ports}",
                    source.port()
                )
            }
            Self::Connections { protocol, ip, ports, count, example } => {
                write!(f, "{count} {protocol} connections leave from the share {ip} {ports} already")?;
                match example.peer {
                    Some(peer) => write!(f, "; one is {} to {peer} ({})", example.source, example.state),
                    None => Ok(()),
                }
            }
            Self::ConnectionTracking { flows, nat, .. } => {
                write!(f, "connection tracking is active: net.netfilter.nf_conntrack_count is {flows}")?;
                match nat {
                    Some(sign) => write!(f, ", and source ports may be translated: {sign}"),
                    None => Ok(()),
                }
            }
            Self::Unreadable { what, error } => {
                write!(f, "{} could not be read: {error}", what.display())
            }
        }
    }
}

fn list(ports: &[PortRange]) -> Ports {
    ports.iter().copied().collect()
}

const fn flag(protocol: Protocol) -> char {
    match protocol {
        Protocol::Tcp => 't',
        Protocol::Udp => 'u',
    }
}

/// An address as `ss` wants it.
struct Bracketed(IpAddr);

impl fmt::Display for Bracketed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => write!(f, "{ip}"),
            IpAddr::V6(ip) => write!(f, "[{ip}]"),
        }
    }
}

fn local_port_range(range: PortRange) -> String {
    format!("sysctl -w net.ipv4.ip_local_port_range='{} {}'", range.lo(), range.hi())
}

fn reserved_ports(ports: &[PortRange]) -> String {
    format!("sysctl -w net.ipv4.ip_local_reserved_ports={}", list(ports))
}

/// Neither the egress addresses' packets nor the answers are tracked, so no NAT touches them.
fn not_tracked(ips: &[IpAddr]) -> String {
    let mut rules = [String::new(), String::new()];
    for (family, v4) in [("ip", true), ("ip6", false)] {
        let ips: Vec<_> = ips.iter().filter(|ip| ip.is_ipv4() == v4).map(IpAddr::to_string).collect();
        if !ips.is_empty() {
            let set = ips.join(", ");
            rules[0] += &format!("{family} saddr {{ {set} }} notrack; ");
            rules[1] += &format!("{family} daddr {{ {set} }} notrack; ");
        }
    }
    format!(
        "nft 'table inet aegis_egress {{ \
         chain out {{ type filter hook output priority raw; {}}}; \
         chain in {{ type filter hook prerouting priority raw; {}}}; }}'",
        rules[0], rules[1]
    )
}
