//! Does the kernel do what the defaults rely on? Tried with real sockets on a loopback address.
//!
//! Every connection is ended by a reset, which leaves no TIME_WAIT, and every wait is bounded. What a rule forbids or
//! allows is seen at `bind` and `connect`; the handshake behind it is not waited for, except where the next step needs it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aegis_core::net::{PortRange, Protocol};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    self, AddressFamily, RecvFlags, SocketFlags, SocketType, bind, connect, getsockname, sockopt,
};

use super::{Finding, Rule};
use crate::sock_diag::{SockDiag, Socket, State};
use crate::sockopt::{set_bind_address_no_port, set_local_port_range};

/// On loopback everything takes microseconds, so this is for machines that hardly run.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct SelfTest<'a> {
    pub(super) ip: IpAddr,
    /// Is a tuple in TIME_WAIT expected to be free?
    pub(super) time_wait: bool,
    /// How long half-closed connections are expected to last.
    pub(super) half_closed: Option<Duration>,
    /// Where the kernel is to choose ports.
    pub(super) range: Option<PortRange>,
    pub(super) kernel: Option<&'a mut SockDiag>,
    pub(super) findings: &'a mut Vec<Finding>,
}

impl SelfTest<'_> {
    pub(super) fn run(&mut self) -> io::Result<()> {
        let listen = || TcpListener::bind((self.ip, 0)).map_err(|error| during("listen", &error));
        let (one, other) = (listen()?, listen()?);
        self.live_tuples(&one, &other)?;
        self.strangers_port(&one)?;
        self.origin_closes_first(&one)?;
        if self.kernel.is_some() && self.time_wait {
            self.time_wait(&one)?;
        }
        if let Some(limit) = self.half_closed.filter(|_| self.kernel.is_some()) {
            self.half_closed(&one, limit)?;
        }
        if let Some(range) = self.range {
            self.range(&one, range)?;
        }
        Ok(())
    }

    fn differs(&mut self, rule: Rule, saw: impl Into<String>) {
        self.findings.push(Finding::KernelDiffers { rule, ip: self.ip, saw: saw.into() });
    }

    /// Notes that the kernel differs, unless `dialled` is a connection.
    fn expect_open(&mut self, rule: Rule, dialled: Dialled) -> Option<Connection> {
        match dialled {
            Dialled::Open(connection) => Some(connection),
            refused => {
                self.differs(rule, refused.to_string());
                None
            }
        }
    }

    fn live_tuples(&mut self, one: &TcpListener, other: &TcpListener) -> io::Result<()> {
        let first = open(self.ip, one)?;
        let source = first.source;
        let second = self.expect_open(Rule::PortIsShared, dial(source, other)?);
        match dial(source, one)? {
            Dialled::Connect(Errno::ADDRNOTAVAIL) => {}
            wrong => self.differs(Rule::LiveTupleIsRefused, wrong.to_string()),
        }
        if let Some(second) = second {
            drop(second);
            let third = redial(source, other)?;
            self.expect_open(Rule::ResetFreesTuple, third);
        }
        // Until here it is live.
        drop(first);
        Ok(())
    }

    fn strangers_port(&mut self, listener: &TcpListener) -> io::Result<()> {
        let stranger = socket(self.ip).map_err(|errno| during("socket", &errno.into()))?;
        let any = SocketAddr::new(self.ip, 0);
        bind(&stranger, &any).map_err(|errno| during("bind", &errno.into()))?;
        match dial(address(&stranger)?, listener)? {
            Dialled::Bind(Errno::ADDRINUSE) => {}
            wrong => self.differs(Rule::StrangersPortIsRefused, wrong.to_string()),
        }
        Ok(())
    }

    fn origin_closes_first(&mut self, listener: &TcpListener) -> io::Result<()> {
        let connection = open(self.ip, listener)?;
        let source = connection.source;
        accept(listener, source)?.close();
        connection.wait_for_close()?;
        connection.close();
        let again = redial(source, listener)?;
        if let Some(again) = self.expect_open(Rule::OriginsCloseFreesTuple, again) {
            // Once it is open, the origin's TIME_WAIT is replaced, and a reset ends this, too.
            drop(accept(listener, again.source)?);
        }
        Ok(())
    }

    fn time_wait(&mut self, listener: &TcpListener) -> io::Result<()> {
        let connection = open(self.ip, listener)?;
        let source = connection.source;
        let accepted = accept(listener, source)?;
        connection.close();
        accepted.wait_for_close()?;
        accepted.close();
        if self.wait_for(State::TimeWait, source, listener)?.is_none() {
            return Err(io::Error::other("a connection closed by both sides was not in TIME_WAIT"));
        }
        let again = dial(source, listener)?;
        if let Some(again) = self.expect_open(Rule::TimeWaitIsReused, again) {
            drop(accept(listener, again.source)?);
        }
        Ok(())
    }

    fn half_closed(&mut self, listener: &TcpListener, limit: Duration) -> io::Result<()> {
        let connection = open(self.ip, listener)?;
        let source = connection.source;
        let accepted = accept(listener, source)?;
        connection.close();
        accepted.wait_for_close()?;
        let socket = self.wait_for(State::FinWait2, source, listener)?;
        // With a timeout above a minute the kernel keeps the whole socket for the first part, and tells no time.
        let left = socket.and_then(|socket| socket.expires);
        if let Some(left) = left.filter(|left| *left > limit + Duration::from_secs(1)) {
            self.differs(Rule::HalfClosedEnds, format!("it lasts {left:?}"));
        }
        // Resets it.
        drop(accepted);
        Ok(())
    }

    /// What is left of the connection from `source`, once it is in this state.
    fn wait_for(
        &mut self,
        state: State,
        source: SocketAddr,
        listener: &TcpListener,
    ) -> io::Result<Option<Socket>> {
        let Some(kernel) = self.kernel.as_deref_mut() else { return Ok(None) };
        let peer = listener.local_addr()?;
        until(|| {
            let socket = kernel.find(Protocol::Tcp, source, peer)?;
            Ok(socket.filter(|socket| socket.state == state))
        })
    }

    fn range(&mut self, listener: &TcpListener, range: PortRange) -> io::Result<()> {
        match chosen(self.ip, listener, range)? {
            Ok(port) if range.contains(port) => {}
            Ok(port) => self.differs(Rule::RangeIsKept, format!("asked for {range}, it chose {port}")),
            Err(error) => {
                self.differs(Rule::RangeIsKept, format!("asked for {range}, it said: {error}"));
            }
        }
        Ok(())
    }
}

/// An address of 127/8 where no share is, and hardly anybody else.
pub(super) fn loopback(shares: &[IpAddr]) -> io::Result<IpAddr> {
    loop {
        let [a, b, c, _] = getrandom::u32().map_err(io::Error::other)?.to_ne_bytes();
        // Neither network nor broadcast address of anything.
        let ip = IpAddr::from(Ipv4Addr::new(127, a | 0x80, b, c.clamp(1, 254)));
        if !shares.contains(&ip) {
            return Ok(ip);
        }
    }
}

/// The port that the kernel chooses when it is asked for one of `ports`, if it is another.
pub(super) fn chosen_outside(ip: IpAddr, ports: &[PortRange]) -> Option<u16> {
    let listener = TcpListener::bind((ip, 0)).ok()?;
    let port = chosen(ip, &listener, *ports.first()?).ok()?.ok()?;
    ports.iter().all(|range| !range.contains(port)).then_some(port)
}

fn chosen(ip: IpAddr, listener: &TcpListener, range: PortRange) -> io::Result<io::Result<u16>> {
    let socket = Connection::new(ip)?;
    let attempt = || -> io::Result<u16> {
        set_local_port_range(&socket.fd, range)?;
        set_bind_address_no_port(&socket.fd)?;
        bind(&socket.fd, &SocketAddr::new(ip, 0))?;
        start(&socket.fd, listener.local_addr()?)?;
        Ok(address(&socket.fd)?.port())
    };
    Ok(attempt())
}

/// What came of an attempt to use a source.
enum Dialled {
    /// A connection; perhaps not yet open.
    Open(Connection),
    /// `bind` refused.
    Bind(Errno),
    /// `connect` refused.
    Connect(Errno),
}

impl std::fmt::Display for Dialled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(_) => f.write_str("it was granted"),
            Self::Bind(errno) => write!(f, "bind said: {errno}"),
            Self::Connect(errno) => write!(f, "connect said: {errno}"),
        }
    }
}

/// One end of a connection. Dropped, it is reset.
struct Connection {
    fd: OwnedFd,
    source: SocketAddr,
}

impl Connection {
    /// A socket as the recipe makes it, with nothing but its options.
    fn new(ip: IpAddr) -> io::Result<Self> {
        let fd = socket(ip).map_err(|errno| during("socket", &errno.into()))?;
        let this = Self { fd, source: SocketAddr::new(ip, 0) };
        sockopt::set_socket_linger(&this.fd, Some(Duration::ZERO))?;
        Ok(this)
    }

    /// Closes it in order instead.
    fn close(self) {
        // If this fails it is reset, and a later step says so.
        let _ = sockopt::set_socket_linger(&self.fd, None);
    }

    /// Waits until the other end has closed.
    fn wait_for_close(&self) -> io::Result<()> {
        readable(&self.fd, "the end of a connection")?;
        match net::recv(&self.fd, &mut [0_u8; 1], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Ok(()),
            Ok(_) => Err(io::Error::other("somebody else writes to the self-test")),
            Err(errno) => Err(during("recv", &errno.into())),
        }
    }
}

/// A connection from a port that the kernel chooses.
fn open(ip: IpAddr, to: &TcpListener) -> io::Result<Connection> {
    match dial(SocketAddr::new(ip, 0), to)? {
        Dialled::Open(connection) => Ok(connection),
        refused => Err(io::Error::other(format!("connect to {}: {refused}", to.local_addr()?))),
    }
}

/// As the recipe does it.
fn dial(source: SocketAddr, to: &TcpListener) -> io::Result<Dialled> {
    let mut connection = Connection::new(source.ip())?;
    sockopt::set_socket_reuseaddr(&connection.fd, true)?;
    sockopt::set_socket_reuseport(&connection.fd, true)?;
    if let Err(errno) = bind(&connection.fd, &source) {
        return Ok(Dialled::Bind(errno));
    }
    if let Err(errno) = start(&connection.fd, to.local_addr()?) {
        return Ok(Dialled::Connect(errno));
    }
    connection.source = address(&connection.fd)?;
    Ok(Dialled::Open(connection))
}

/// Where it should be free, but perhaps not this instant: the last acknowledgement may be on its way, and a child that
/// another thread has forked keeps our closed socket open until it calls `exec`.
fn redial(source: SocketAddr, to: &TcpListener) -> io::Result<Dialled> {
    let dialled = until(|| match dial(source, to)? {
        Dialled::Connect(Errno::ADDRNOTAVAIL) => Ok(None),
        dialled => Ok(Some(dialled)),
    })?;
    Ok(dialled.unwrap_or(Dialled::Connect(Errno::ADDRNOTAVAIL)))
}

fn start(socket: &OwnedFd, to: SocketAddr) -> rustix::io::Result<()> {
    match connect(socket, &to) {
        Err(Errno::INPROGRESS) => Ok(()),
        result => result,
    }
}

fn socket(ip: IpAddr) -> rustix::io::Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    net::socket_with(family, SocketType::STREAM, flags, None)
}

/// The other end of the connection from `source`.
fn accept(listener: &TcpListener, source: SocketAddr) -> io::Result<Connection> {
    loop {
        readable(listener, "a connection")?;
        let (stream, from) = listener.accept().map_err(|error| during("accept", &error))?;
        // Those of earlier steps, which are over, are still in the queue, with the same source perhaps.
        if from == source && stream.peer_addr().is_ok() && stream.take_error()?.is_none() {
            let fd = OwnedFd::from(stream);
            sockopt::set_socket_linger(&fd, Some(Duration::ZERO))?;
            return Ok(Connection { fd, source: listener.local_addr()? });
        }
    }
}

fn address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    getsockname(socket).and_then(SocketAddr::try_from).map_err(|errno| during("getsockname", &errno.into()))
}

fn readable(fd: impl std::os::fd::AsFd, what: &str) -> io::Result<()> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let patience = Timespec::try_from(PATIENCE).expect("two seconds");
    match retry_on_intr(|| poll(&mut fds, Some(&patience))).map_err(|errno| during("poll", &errno.into()))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, format!("waited {PATIENCE:?} for {what}"))),
        _ => Ok(()),
    }
}

/// Asks again for a while, until there is an answer.
fn until<T>(mut ask: impl FnMut() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
    let start = Instant::now();
    loop {
        match ask()? {
            None if start.elapsed() < PATIENCE => sleep(Duration::from_millis(1)),
            answer => return Ok(answer),
        }
    }
}

fn during(step: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{step}: {error}"))
}

#[cfg(test)]
#[path = "../../tests/common/netns.rs"]
#[allow(dead_code, unreachable_pub, reason = "part of the integration tests, too")]
mod netns;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a test that expects `time_wait`, `half_closed` and `range` finds.
    fn run(ip: IpAddr, time_wait: bool, half_closed: u64, range: Option<&str>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut test = SelfTest {
            ip,
            time_wait,
            half_closed: Some(Duration::from_secs(half_closed)),
            range: range.map(|range| range.parse().unwrap()),
            kernel: Some(&mut SockDiag::new().unwrap()),
            findings: &mut findings,
        };
        test.run().unwrap();
        findings
    }

    fn rules(findings: &[Finding]) -> Vec<Rule> {
        let rule = |found: &Finding| match found {
            Finding::KernelDiffers { rule, .. } => *rule,
            other => panic!("{other:?}"),
        };
        findings.iter().map(rule).collect()
    }

    #[test]
    fn a_half_closed_connection_that_lasts_longer_than_expected_is_found() {
        let ip = loopback(&[]).unwrap();
        assert_eq!(run(ip, false, 3_600, None), []);
        let findings = run(ip, false, 1, None);
        assert_eq!(rules(&findings), [Rule::HalfClosedEnds], "{findings:?}");
    }

    #[test]
    fn a_range_that_is_not_kept_is_found() {
        let ip = loopback(&[]).unwrap();
        // Ports below 1024 are outside the sysctl everywhere.
        let findings = run(ip, false, 3_600, Some("100-163"));
        assert_eq!(rules(&findings), [Rule::RangeIsKept], "{findings:?}");
    }

    #[test]
    fn a_time_wait_that_is_not_reused_is_found() {
        netns::in_fresh("a_time_wait_that_is_not_reused_is_found", || {
            let ip = loopback(&[]).unwrap();
            assert_eq!(run(ip, true, 3_600, None), []);
            netns::sysctl("net.ipv4.tcp_timestamps", "0");
            let findings = run(ip, true, 3_600, None);
            assert_eq!(rules(&findings), [Rule::TimeWaitIsReused], "{findings:?}");
            assert!(findings[0].to_string().contains("connect said"), "{}", findings[0]);
        });
    }
}
