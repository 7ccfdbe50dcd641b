//! Shares on loopback: all of 127/8 is local on Linux. Each copy of the tests has an address of its own, and each
//! share ports of its own.
#![allow(dead_code, unreachable_pub, reason = "part of every test file; none uses all of it")]

pub mod netns;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aegis_core::edge::{Edge, Zone};
use aegis_core::epoch::{Epoch, Layout};
use aegis_core::fleet_file::FleetFile;
use aegis_core::lease::{Closed, Config, Explanation, Quarantine, Spans};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_net::{ConnectError, Dialer, TcpStream, UdpSocket, clock};

/// Holds that tell by their length how a connection ended.
const TELLING: Spans = Spans {
    active: Duration::from_secs(100),
    passive: Duration::from_secs(200),
    reset: Duration::from_secs(300),
    connect_failed: Duration::from_secs(400),
    half_closed: Duration::from_secs(500),
    udp: Duration::from_secs(600),
    ..Spans::ZERO
};

/// A dialer over some ports of one granule.
pub struct Share {
    pub dialer: Dialer,
    pub zone: Zone,
    pub ip: IpAddr,
    pub ports: PortRange,
    granule: PortRange,
    narrowed: Mutex<BTreeSet<Origin>>,
}

pub fn egress_ip() -> IpAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 66, high, low).into()
}

/// `count` ports that no other share has, below those that the kernel chooses.
pub fn fresh_ports(count: u16) -> PortRange {
    static NEXT: AtomicU16 = AtomicU16::new(10_112);
    let size = count.next_power_of_two().max(64);
    let lo = NEXT.fetch_add(2 * size, Relaxed).next_multiple_of(size);
    PortRange::new(lo, lo + count - 1).unwrap()
}

/// Four ports with this one among them.
pub fn ports_around(port: u16) -> PortRange {
    let granule = port & !63;
    let lo = port.saturating_sub(2).clamp(granule, granule + 60);
    PortRange::new(lo, lo + 3).unwrap()
}

impl Share {
    /// A share of so many ports, with the default quarantine.
    pub fn of(count: u16) -> Self {
        Self::at(egress_ip(), fresh_ports(count), Config::default())
    }

    /// A share of one port where [`Share::ended`] tells how the connection from it ended.
    pub fn telling() -> Self {
        Self::holding(TELLING)
    }

    /// A share of one port that is held that long.
    pub fn holding(hold: Spans) -> Self {
        let quarantine = Quarantine::new(hold, Spans::ZERO).unwrap();
        Self::at(egress_ip(), fresh_ports(1), Config { quarantine, ..Config::default() })
    }

    pub fn at(ip: IpAddr, ports: PortRange, config: Config) -> Self {
        let size = (ports.len() as u16).next_power_of_two().max(64);
        let lo = ports.lo() & !(size - 1);
        let granule = PortRange::new(lo, lo + size - 1).unwrap();
        let fleet = format!(
            r#"
            policy = {{ granule_ports = {size}, usable = "{granule}", reserved = [] }}
            data_center = [{{ id = "here", city = "Here", latitude = 0.0, longitude = 0.0 }}]
            machine = [{{ id = "m1", data_center = "here" }}]
            account = [{{ id = "a", name = "A" }}]
            holding = [{{ id = "h", account = "a", right = "leased", prefix = "{ip}/32", data_centers = ["here"] }}]
            pool = [{{ id = "p", account = "a", prefixes = ["{ip}/32"] }}]
            zone = [{{ id = "z", account = "a", pool = "p" }}]
            "#
        );
        let file = FleetFile::parse("test", &fleet).unwrap();
        let layout: Layout = file.layout(None, Epoch::new(1)).unwrap();
        let bundle = file.bundle(&"m1".parse().unwrap(), &layout).unwrap();
        let config = Config { granule_ports: 64, granules: 8, origins: 64, pages: 64, ..config };
        let edge = Arc::new(Edge::new(&bundle, config, clock::seed().unwrap()).unwrap());
        let zone = edge.zone(&"z".parse().unwrap()).unwrap();
        let dialer = Dialer::new(edge).unwrap();
        Self { dialer, zone, ip, ports, granule, narrowed: Mutex::default() }
    }

    /// Leaves only [`Share::ports`] to this origin: the rest of the granule is leased and never given back.
    pub fn narrow(&self, protocol: Protocol, address: SocketAddr) {
        let origin = Origin::new(protocol, address).unwrap();
        // Locked to the end: another thread must not dial from the rest meanwhile.
        let mut narrowed = self.narrowed.lock().unwrap();
        if self.ports == self.granule || !narrowed.insert(origin) {
            return;
        }
        let edge = self.dialer.edge();
        let mut worker = edge.worker(clock::seed().unwrap()).unwrap();
        let acquire = || worker.acquire(&self.zone, &origin, clock::now()).ok();
        let leases: Vec<_> = std::iter::from_fn(acquire).collect();
        let wanted = |lease: &_| self.ports.contains(edge.source(lease).unwrap().port());
        for lease in leases.into_iter().filter(wanted) {
            edge.release(lease, Closed::Unused, clock::now()).unwrap();
        }
    }

    pub fn connect(&self, origin: SocketAddr) -> Result<TcpStream, ConnectError> {
        self.narrow(Protocol::Tcp, origin);
        self.dialer.connect(&self.zone, origin)
    }

    pub fn udp(&self, origin: SocketAddr) -> Result<UdpSocket, ConnectError> {
        self.narrow(Protocol::Udp, origin);
        self.dialer.udp(&self.zone, origin)
    }

    /// What is in use of [`Share::ports`].
    pub fn explain(&self, protocol: Protocol, origin: SocketAddr) -> Explanation {
        let origin = Origin::new(protocol, origin).unwrap();
        let mut explanation = self.dialer.edge().explain(&self.zone, &origin, clock::now()).unwrap();
        if self.narrowed.lock().unwrap().contains(&origin) {
            explanation.live -= self.granule.len() - self.ports.len();
        }
        explanation
    }

    pub fn tcp(&self, origin: SocketAddr) -> Explanation {
        self.explain(Protocol::Tcp, origin)
    }

    /// How the one connection of a [`Share::telling`] ended.
    pub fn ended(&self, protocol: Protocol, origin: SocketAddr) -> Closed {
        let explanation = self.explain(protocol, origin);
        assert_eq!((explanation.live, explanation.held), (0, 1), "{explanation}");
        let left = explanation.first_free.unwrap().since(clock::now());
        match left.as_secs().div_ceil(100) {
            1 => Closed::Active,
            2 => Closed::Passive,
            3 => Closed::Reset,
            4 => Closed::ConnectFailed,
            5 => Closed::HalfClosed,
            6 => Closed::UdpIdle,
            _ => panic!("held for {left:?}"),
        }
    }

    pub fn first(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.ports.lo())
    }
}

/// An origin that listens.
pub fn origin() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An origin where nobody listens.
pub fn closed_origin() -> SocketAddr {
    origin().1
}

/// An origin that answers no SYN, because its queue of one connection is full.
pub struct Silent {
    pub address: SocketAddr,
    _listener: std::os::fd::OwnedFd,
    _queued: Vec<std::net::TcpStream>,
}

impl Silent {
    pub fn new() -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&listener, 0).unwrap();
        let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100));
        let queued: Vec<_> = std::iter::from_fn(|| connect().ok()).collect();
        assert!(!queued.is_empty());
        Self { address, _listener: listener, _queued: queued }
    }
}

/// Waits until `what` is true; what the kernel does on loopback takes microseconds.
pub fn eventually(mut what: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never came true");
        std::thread::sleep(Duration::from_millis(1));
    }
}
