//! Which sockets? Answered by the kernel, so that the others are never copied.
//!
//! The kernel runs a small program on every socket (`net/ipv4/inet_diag.c`): operations with a condition and two
//! distances forward, `yes` and `no`. To end exactly at the end is to accept; to jump past it is to reject.

use std::net::IpAddr;

use aegis_core::net::{PortRange, Protocol, canonical_ip};

use super::{Socket, State};
use crate::ranges::Ports;

/// Which sockets are listed.
#[derive(Clone, Debug)]
pub struct Filter {
    protocol: Option<Protocol>,
    ports: Ports,
    /// Sorted; nothing is any.
    sources: Option<Vec<IpAddr>>,
    connected: bool,
    program: Vec<u8>,
}

/// The kernel looks at one alternative after the other, for every socket; more than these and it is cheaper to let it
/// answer too much. What it answers is checked again here.
const MOST: usize = 64;

impl Filter {
    /// Sockets of both protocols whose own port is in one of these ranges, which may overlap. No ranges, no sockets.
    pub fn new(ports: impl IntoIterator<Item = PortRange>) -> Self {
        let ports: Ports = ports.into_iter().collect();
        Self { protocol: None, ports, sources: None, connected: false, program: Vec::new() }.compiled()
    }

    /// Of one protocol only.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol: Some(protocol), ..self }
    }

    /// With one of these own addresses only. Sockets that are bound to all addresses have the unspecified one.
    #[must_use]
    pub fn sources(self, sources: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut sources: Vec<_> = sources.into_iter().map(canonical_ip).collect();
        sources.sort_unstable();
        sources.dedup();
        Self { sources: Some(sources), ..self }.compiled()
    }

    /// With a peer only: no listeners and no unconnected sockets. Cheaper, too: the kernel keeps those in other lists,
    /// which are not looked at.
    #[must_use]
    pub fn connected(self) -> Self {
        Self { connected: true, ..self }
    }

    /// Is it one of them?
    pub fn matches(&self, socket: &Socket) -> bool {
        let connected = !matches!(socket.state, State::Listen | State::Bound);
        self.ports.contains(socket.source.port())
            && self.protocol.is_none_or(|protocol| protocol == socket.protocol)
            && self.sources.as_ref().is_none_or(|ips| ips.binary_search(&socket.source.ip()).is_ok())
            && (connected || !self.connected)
    }

    pub(super) fn protocols(&self) -> impl Iterator<Item = Protocol> {
        let (ports, wanted) = (!self.ports.is_empty(), self.protocol);
        let none = self.sources.as_ref().is_some_and(Vec::is_empty);
        Protocol::ALL
            .into_iter()
            .filter(move |protocol| ports && !none && wanted.is_none_or(|wanted| wanted == *protocol))
    }

    /// A bit for every state of include/net/tcp_states.h, up to `TCP_BOUND_INACTIVE` (13). Kernels skip what they do
    /// not know.
    pub(super) fn states(&self) -> u32 {
        const CLOSE: u32 = 1 << 7;
        const LISTEN: u32 = 1 << 10;
        const BOUND_INACTIVE: u32 = 1 << 13;
        const ALL: u32 = (1 << 14) - 2;
        if self.connected { ALL & !(CLOSE | LISTEN | BOUND_INACTIVE) } else { ALL }
    }

    /// The attribute `INET_DIAG_REQ_BYTECODE`.
    pub(super) fn program(&self) -> &[u8] {
        &self.program
    }

    fn compiled(mut self) -> Self {
        let ports = self.ports.widened(MOST);
        let range =
            |range: &PortRange| vec![Condition::from_port(range.lo()), Condition::to_port(range.hi())];
        let mut groups = vec![ports.ranges().iter().map(range).collect::<Vec<_>>()];
        if let Some(sources) = self.sources.as_ref().filter(|ips| (1..=MOST).contains(&ips.len())) {
            groups.push(sources.iter().map(|ip| vec![Condition::from_address(*ip)]).collect());
        }
        self.program = compile(&groups);
        self
    }
}

/// An operation that looks at a socket, without its distances.
struct Condition {
    code: u8,
    argument: Vec<u8>,
}

const JMP: u8 = 1;
const S_GE: u8 = 2;
const S_LE: u8 = 3;
const S_COND: u8 = 7;
/// `sizeof(struct inet_diag_bc_op)`: code, yes, no.
const OPERATION: usize = 4;

impl Condition {
    fn from_port(lo: u16) -> Self {
        Self::port(S_GE, lo)
    }

    fn to_port(hi: u16) -> Self {
        Self::port(S_LE, hi)
    }

    /// The port is in the `no` of an operation that follows and is not run.
    fn port(code: u8, port: u16) -> Self {
        let [a, b] = port.to_ne_bytes();
        Self { code, argument: vec![0, 0, a, b] }
    }

    /// `struct inet_diag_hostcond`. The kernel lets an IPv4 address match an IPv4-mapped socket, too.
    fn from_address(ip: IpAddr) -> Self {
        let (family, bits, octets) = match ip {
            IpAddr::V4(ip) => (2, 32, ip.octets().to_vec()),
            IpAddr::V6(ip) => (10, 128, ip.octets().to_vec()),
        };
        let mut argument = vec![family, bits, 0, 0];
        // Any port.
        argument.extend((-1_i32).to_ne_bytes());
        argument.extend(octets);
        Self { code: S_COND, argument }
    }

    fn len(&self) -> usize {
        OPERATION + self.argument.len()
    }
}

/// A socket is accepted if it meets, of every group, one alternative with all its conditions.
fn compile(groups: &[Vec<Vec<Condition>>]) -> Vec<u8> {
    let alternative = |conditions: &[Condition]| conditions.iter().map(Condition::len).sum::<usize>();
    let group = |alternatives: &[Vec<Condition>]| {
        let jumps = alternatives.len().saturating_sub(1) * OPERATION;
        alternatives.iter().map(|a| alternative(a)).sum::<usize>() + jumps
    };
    let whole: usize = groups.iter().map(|alternatives| group(alternatives)).sum();

    let mut program = Vec::with_capacity(whole);
    let mut group_end = 0;
    for alternatives in groups {
        group_end += group(alternatives);
        for (at, conditions) in alternatives.iter().enumerate() {
            let last = at + 1 == alternatives.len();
            let end = program.len() + alternative(conditions);
            // Not this alternative: on to the next, behind our jump; after the last, past the end of the program.
            let no = if last { whole + OPERATION } else { end + OPERATION };
            for condition in conditions {
                let here = program.len();
                operation(&mut program, condition.code, condition.len(), no - here);
                program.extend_from_slice(&condition.argument);
            }
            if !last {
                let here = program.len();
                operation(&mut program, JMP, OPERATION, group_end - here);
            }
        }
    }
    program
}

fn operation(program: &mut Vec<u8>, code: u8, yes: usize, no: usize) {
    let yes = u8::try_from(yes).expect("the longest operation has 28 bytes");
    let no = u16::try_from(no).expect("MOST alternatives are far below 64 KiB");
    program.extend([code, yes]);
    program.extend(no.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// The kernel's interpreter, `inet_diag_bc_run`, with the checks of `inet_diag_bc_audit`.
    fn accepts(program: &[u8], ip: IpAddr, port: u16) -> bool {
        let mut at = 0;
        while at < program.len() {
            let [code, yes, a, b] = *program[at..].first_chunk().unwrap();
            let (yes, no) = (usize::from(yes), usize::from(u16::from_ne_bytes([a, b])));
            let rest = program.len() - at;
            assert!(yes >= 4 && yes % 4 == 0 && yes <= rest + 4, "yes {yes} at {at}");
            assert!(no >= 4 && no % 4 == 0 && no <= rest + 4, "no {no} at {at}");
            let argument = &program[at + 4..];
            let met = match code {
                JMP => false,
                S_GE | S_LE => {
                    let bound = u16::from_ne_bytes([argument[2], argument[3]]);
                    if code == S_GE { port >= bound } else { port <= bound }
                }
                S_COND => match ip {
                    IpAddr::V4(ip) => argument[0] == 2 && argument[8..12] == ip.octets(),
                    IpAddr::V6(ip) => argument[0] == 10 && argument[8..24] == ip.octets(),
                },
                code => panic!("code {code}"),
            };
            at += if met { yes } else { no };
        }
        at == program.len()
    }

    fn socket(ip: IpAddr, port: u16) -> Socket {
        Socket {
            protocol: Protocol::Tcp,
            source: (ip, port).into(),
            peer: None,
            state: State::Listen,
            expires: Some(Duration::ZERO),
            uid: 0,
            inode: 0,
            v6_only: false,
        }
    }

    proptest! {
        #[test]
        fn the_kernels_program_accepts_what_the_filter_matches(
            ranges in prop::collection::vec((0_u16..200, 0_u16..9), 1..40),
            ips in prop::option::of(prop::collection::vec(0_u8..6, 1..5)),
        ) {
            let ip = |n: u8| -> IpAddr {
                if n % 2 == 0 { [192, 0, 2, n].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)].into() }
            };
            let ranges = ranges.iter().map(|&(lo, more)| PortRange::new(lo, lo + more).unwrap());
            let mut filter = Filter::new(ranges);
            if let Some(ips) = ips {
                filter = filter.sources(ips.into_iter().map(ip));
            }
            for port in 0..220 {
                for n in 0..6 {
                    let matches = filter.matches(&socket(ip(n), port));
                    prop_assert_eq!(accepts(filter.program(), ip(n), port), matches, "{} {}", ip(n), port);
                }
            }
        }
    }

    #[test]
    fn more_ranges_than_the_kernel_should_look_at_are_widened_and_checked_here() {
        let filter = Filter::new((0..1000).map(|n| PortRange::new(n * 20, n * 20 + 1).unwrap()));
        assert!(filter.program().len() < 65 * 20);
        let ip = "192.0.2.1".parse().unwrap();
        for port in 0..20_002 {
            let matches = port % 20 < 2;
            assert_eq!(filter.matches(&socket(ip, port)), matches && port < 20_000, "{port}");
            assert!(!filter.matches(&socket(ip, port)) || accepts(filter.program(), ip, port), "{port}");
        }
    }

    #[test]
    fn no_ports_or_no_addresses_are_no_questions() {
        assert_eq!(Filter::new([]).protocols().count(), 0);
        assert_eq!(Filter::new([PortRange::ALL]).sources([]).protocols().count(), 0);
        assert_eq!(Filter::new([PortRange::ALL]).protocols().count(), 2);
        assert_eq!(Filter::new([PortRange::ALL]).protocol(Protocol::Udp).protocols().count(), 1);
    }
}
