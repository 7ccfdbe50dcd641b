//! Real connections over loopback, by several ways to find a source port.
//!
//! Every contender is a process with a network namespace of its own: an explicitly bound port stays away from the
//! kernel's choice in the whole namespace, so two ways in one namespace would measure each other. The processes wait
//! for a number on their input, do as many connects, and write their times; so they can take turns.

use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept, bind, connect, listen, socket_with, sockopt,
};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::contender::Scene;
use crate::kernel;
use crate::ours::{Dialled, DialledLease};
use crate::random::Random;

/// A way to find a source port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// A lease, bound explicitly with `SO_REUSEADDR` and `SO_REUSEPORT`.
    Leased,
    /// The same by the recipe of `aegis-net`: non-blocking, and the port is checked after the connect.
    Recipe,
    /// The kernel's choice in the share: `IP_LOCAL_PORT_RANGE` and `IP_BIND_ADDRESS_NO_PORT`.
    KernelRange,
    /// `bind(ip, 0)` without any option. The range of the system is the share.
    BindZero,
    /// `IP_BIND_ADDRESS_NO_PORT` without a range of the socket. The range of the system is the share.
    NoPort,
    /// Random ports, bound as ours are, until one connects.
    Probing,
}

impl Way {
    /// All, with their names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("ours", Self::Leased),
        ("ours by aegis-net's recipe", Self::Recipe),
        ("kernel's choice in the range", Self::KernelRange),
        ("bind(ip, 0)", Self::BindZero),
        ("NO_PORT, no range of its own", Self::NoPort),
        ("random probing", Self::Probing),
    ];

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, way)| way)
    }
}

/// How many ports, and how many of them are in use all the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Granules of 2,048 ports.
    pub granules: u16,
    /// Connections that are open all the time.
    pub live: u32,
}

impl Share {
    fn scene(self) -> Scene {
        Scene { granule: 2_048, granules: self.granules, origins: 1 }
    }

    fn lo(self) -> u16 {
        self.scene().lo()
    }

    fn hi(self) -> u16 {
        self.lo() + (self.scene().ports() - 1) as u16
    }
}

/// Where connections come from, and go to: loopback takes every address of 127/8.
const EGRESS: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);
/// Outside of every share.
const ORIGIN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 1_043);
/// Connections that may wait to be accepted. More would be dropped, and come again after a second.
const WAITING: u32 = 1_024;
/// With an origin that accepts nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connects between two looks at how many wait.
const UNLOOKED: u64 = 32;
/// Connections that the origin may hold which were reset, before it looks for them.
const RESET: usize = 500;

/// Who opens and closes connections.
struct Opener {
    way: Way,
    share: Share,
    ours: Dialled,
    random: Random,
    listener: OwnedFd,
    opened: u64,
}

/// An open connection.
struct Open {
    socket: OwnedFd,
    lease: Option<DialledLease>,
}

/// Serves one contender until its input ends. The first line that it writes is `ready`, or why it cannot be measured.
///
/// # Errors
/// The input or output breaks, or the kernel does what it should not.
pub fn serve(name: &str, share: Share) -> io::Result<()> {
    let Some(way) = Way::of(name) else { return Err(io::Error::other(format!("no way {name:?}"))) };
    if let Err(error) = kernel::own_network() {
        return println_flushed(&format!("no network namespace of its own: {error}"));
    }
    let (wanted, allowed) = descriptors(share.live);
    if allowed < wanted {
        return println_flushed(&format!("{allowed} descriptors are allowed, {wanted} are needed"));
    }
    let listener = listener()?;
    let mut origin = origin(&listener)?;
    let mut opener = Opener {
        way,
        share,
        ours: Dialled::new(share.scene(), EGRESS, ORIGIN),
        random: Random::new(17),
        listener,
        opened: 0,
    };
    let served = opener.serve();
    origin.kill()?;
    origin.wait()?;
    served
}

impl Opener {
    fn serve(&mut self) -> io::Result<()> {
        let mut live = match self.fill() {
            Ok(live) => live,
            Err(error) => return println_flushed(&format!("it does not fill the share: {error}")),
        };
        println_flushed("ready")?;
        for line in io::stdin().lock().lines() {
            let n: u32 = line?.trim().parse().map_err(io::Error::other)?;
            let times = (0..n).map(|_| self.churn(&mut live)).collect::<io::Result<Vec<_>>>()?;
            let times: Vec<_> = times.iter().map(|time| time.as_nanos().to_string()).collect();
            println_flushed(&times.join(" "))?;
        }
        Ok(())
    }

    /// As many connections as are open all the time.
    fn fill(&mut self) -> io::Result<Vec<Open>> {
        let (lo, hi) = (self.share.lo(), self.share.hi());
        let mut live = Vec::new();
        match self.way {
            // As it would be after a long time: these take every second port first, in the whole range of the
            // system. Granule by granule, because in the end each one would take a millisecond.
            Way::BindZero | Way::NoPort => {
                for granule in (lo..=hi).step_by(2_048) {
                    kernel::set_system_range(granule, granule + 2_047)?;
                    for _ in 0..self.share.live / u32::from(self.share.granules) {
                        self.wait_for_origin()?;
                        live.push(self.open()?);
                    }
                }
                kernel::set_system_range(lo, hi)?;
            }
            _ => {
                kernel::set_system_range(2_000, u16::MAX)?;
                for _ in 0..self.share.live {
                    self.wait_for_origin()?;
                    live.push(self.open()?);
                }
            }
        }
        // Steady: no port is where the filling has put it.
        for _ in 0..self.share.live.min(2_048) {
            self.churn(&mut live)?;
        }
        Ok(live)
    }

    /// Ends a random connection, and times the opening of another; with none open, ends that one.
    fn churn(&mut self, live: &mut Vec<Open>) -> io::Result<Duration> {
        self.wait_for_origin()?;
        let full = self.share.live != 0;
        if full {
            let nth = self.random.below(live.len() as u32) as usize;
            let ended = live.swap_remove(nth);
            self.close(ended)?;
        }
        let start = Instant::now();
        let open = self.open()?;
        let took = start.elapsed();
        if full {
            live.push(open);
        } else {
            self.close(open)?;
        }
        Ok(took)
    }

    /// Lets the origin accept what waits, so that nothing is dropped.
    fn wait_for_origin(&mut self) -> io::Result<()> {
        self.opened += 1;
        if self.opened % UNLOOKED == 0 {
            let start = Instant::now();
            while kernel::waiting(&self.listener)? > WAITING {
                if start.elapsed() > PATIENCE {
                    return Err(io::Error::other("the origin does not accept"));
                }
                thread::yield_now();
            }
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<Open> {
        let any_port = SocketAddrV4::new(EGRESS, 0);
        let open = match self.way {
            Way::Leased => {
                let (lease, source) = self.ours.acquire();
                let socket = explicit(source)?;
                connect(&socket, &ORIGIN)?;
                Open { socket, lease: Some(lease) }
            }
            Way::Recipe => {
                let (lease, _) = self.ours.acquire();
                let socket = self.ours.begin(&lease)?;
                poll(&mut [PollFd::new(&socket, PollFlags::OUT)], None)?;
                sockopt::socket_error(&socket)??;
                Open { socket, lease: Some(lease) }
            }
            Way::KernelRange => {
                let socket = tcp()?;
                kernel::bind_address_only(&socket)?;
                kernel::set_port_range(&socket, self.share.lo(), self.share.hi())?;
                bind(&socket, &any_port)?;
                connect(&socket, &ORIGIN)?;
                Open { socket, lease: None }
            }
            Way::BindZero => {
                let socket = tcp()?;
                bind(&socket, &any_port)?;
                connect(&socket, &ORIGIN)?;
                Open { socket, lease: None }
            }
            Way::NoPort => {
                let socket = tcp()?;
                kernel::bind_address_only(&socket)?;
                bind(&socket, &any_port)?;
                connect(&socket, &ORIGIN)?;
                Open { socket, lease: None }
            }
            Way::Probing => loop {
                let port = self.share.lo() + self.random.below(self.share.scene().ports()) as u16;
                let socket = explicit(SocketAddr::from((EGRESS, port)))?;
                match connect(&socket, &ORIGIN) {
                    Ok(()) => break Open { socket, lease: None },
                    Err(Errno::ADDRNOTAVAIL) => {}
                    Err(error) => return Err(error.into()),
                }
            },
        };
        Ok(open)
    }

    /// By a reset, so that the tuple is free at once.
    fn close(&self, Open { socket, lease }: Open) -> io::Result<()> {
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        drop(socket);
        if let Some(lease) = lease {
            self.ours.release(lease);
        }
        Ok(())
    }
}

fn listener() -> io::Result<OwnedFd> {
    let listener = tcp()?;
    bind(&listener, &ORIGIN)?;
    listen(&listener, 4_096)?;
    Ok(listener)
}

/// The origin, in a process of its own because of the limit of descriptors; its listener is its input.
fn origin(listener: &OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--child", "origin"]).stdin(listener.try_clone()?).stdout(Stdio::null()).spawn()
}

/// Accepts for ever, and keeps what was not reset.
///
/// # Errors
/// The kernel does not accept.
pub fn accept_all() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let listener = io::stdin();
    descriptors(u32::from(u16::MAX));
    let (mut open, mut look_at) = (Vec::<OwnedFd>::new(), RESET);
    loop {
        open.push(accept(&listener)?);
        if open.len() >= look_at {
            let mut polled: Vec<_> =
                open.iter().map(|socket| PollFd::new(socket, PollFlags::RDHUP)).collect();
            poll(&mut polled, Some(&Timespec::default()))?;
            let mut reset =
                polled.iter().map(|socket| !socket.revents().is_empty()).collect::<Vec<_>>().into_iter();
            open.retain(|_| !reset.next().unwrap_or(false));
            look_at = open.len() + RESET;
        }
    }
}

/// How many descriptors so many connections need at either end, and how many there can be.
fn descriptors(connections: u32) -> (u64, u64) {
    let wanted = u64::from(connections) + 2 * RESET as u64;
    (wanted, kernel::allow_descriptors(wanted))
}

fn println_flushed(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn tcp() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

fn explicit(source: SocketAddr) -> io::Result<OwnedFd> {
    let socket = tcp()?;
    sockopt::set_socket_reuseaddr(socket.as_fd(), true)?;
    sockopt::set_socket_reuseport(socket.as_fd(), true)?;
    bind(&socket, &source)?;
    Ok(socket)
}
