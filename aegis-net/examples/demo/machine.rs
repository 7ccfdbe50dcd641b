//! One machine process: an edge, connections through its leases, and an agent beside them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use aegis_core::bundle::Bundle;
use aegis_core::edge::{AcquireError, Edge};
use aegis_core::id::ZoneId;
use aegis_core::lease::{self, Closed, Config, DEFAULT_FIN_TIMEOUT, Quarantine, Spans};
use aegis_core::net::{Origin, Protocol};
use aegis_core::{render, usage};
use aegis_net::{ConnectError, Dialer, TcpStream, UdpSocket, clock};

use crate::Result;
use crate::agent::Speaker;
use crate::messages::{Answer, Echoed, Fill, Filled, GOODBYE, HELLO, Order, Ports, Row, receive, send};

const PATIENCE: Duration = Duration::from_secs(10);
/// One progress message for so many connections.
const STEP: u32 = 128;

/// Raises the limit of file descriptors to what the process may have; returns it.
pub(crate) fn descriptors() -> Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Does this host use TCP timestamps? Without them a closed port comes back only after TIME_WAIT.
pub(crate) fn timestamps() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_timestamps").is_ok_and(|text| text.trim() != "0")
}

/// Is it one of them?
pub(crate) fn contains(ports: &Ports, source: SocketAddr) -> bool {
    ports.iter().any(|(ip, range)| source.ip() == IpAddr::V4(*ip) && range.contains(source.port()))
}

pub(crate) fn run(bundle: &str, zone: &str, udp_zone: &str) -> Result<()> {
    descriptors()?;
    let bundle = Bundle::from_bytes(&std::fs::read(bundle)?)?;
    let hold = Spans {
        // A machine leaves when nothing of it is live or held; nobody wants to see a minute pass.
        udp: Duration::from_millis(100),
        ..Spans::linux(timestamps(), DEFAULT_FIN_TIMEOUT)
    };
    let config = Config {
        origins: 64,
        pages: 4_096,
        workers: 8,
        quarantine: Quarantine::new(hold, Spans::azure())?,
        ..Config::default()
    };
    let edge = Arc::new(Edge::new(&bundle, config, clock::seed()?)?);
    let speaker = Arc::new(Speaker::new(Arc::clone(&edge))?);
    let mut machine = Machine {
        zone: zone.parse()?,
        udp_zone: udp_zone.parse()?,
        dialer: Dialer::new(Arc::clone(&edge))?,
        edge,
        connections: BTreeMap::new(),
        flows: Vec::new(),
    };
    // Work takes long; what keeps the machine alive must not wait for it. The end of input ends all of it.
    let (orders, work) = mpsc::channel();
    std::thread::spawn(move || {
        for order in work {
            let answer = machine.obey(order).unwrap_or_else(|error| Answer::Failed(error.to_string()));
            if send(std::io::stdout().lock(), &answer).is_err() {
                break;
            }
        }
    });
    let voice = Arc::clone(&speaker);
    std::thread::spawn(move || voice.speak());
    while let Some(order) = receive(std::io::stdin().lock())? {
        match order {
            Order::Heard(reply, bundle) => speaker.hear(&reply, bundle.as_deref())?,
            order => orders.send(order)?,
        }
    }
    Ok(())
}

struct Machine {
    edge: Arc<Edge>,
    dialer: Dialer,
    zone: ZoneId,
    udp_zone: ZoneId,
    connections: BTreeMap<SocketAddr, Vec<TcpStream>>,
    flows: Vec<UdpSocket>,
}

impl Machine {
    fn obey(&mut self, order: Order) -> Result<Answer> {
        match order {
            Order::Heard(..) => Err("an answer to a report is no work".into()),
            Order::Fill(fill) => self.fill(&fill),
            Order::Udp(origin, flows) => self.udp(origin, flows),
            Order::Release(origin) => self.close(|to, _| *to == origin),
            Order::Thin(keep) => self.close(|_, source| source.port() % keep != 0),
            Order::CloseAll => self.close_all(),
            Order::Echo => Ok(Answer::Echoed(self.echo())),
            Order::Usage => self.usage(),
        }
    }

    /// Opens connections until the share is full.
    fn fill(&mut self, order: &Fill) -> Result<Answer> {
        let zone = self.edge.zone(&self.zone)?;
        let hello = format!("{HELLO}{}\n", self.edge.machine());
        let mut filled = Filled::default();
        while !order.only_one || filled.watched == 0 {
            match self.dialer.connect(&zone, order.origin) {
                Ok(mut stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_nodelay(true)?;
                    stream.write_all(hello.as_bytes())?;
                    stream.read_exact(&mut [0])?;
                    if contains(&order.watched, stream.source()) {
                        filled.watched += 1;
                        filled.first_watched.get_or_insert_with(clock::now);
                    }
                    self.connections.entry(order.origin).or_default().push(stream);
                    filled.opened += 1;
                    if filled.opened % STEP == 0 {
                        send(std::io::stdout().lock(), &Answer::Progress(STEP))?;
                    }
                }
                // The last ports may all be strangers': the next call starts where this one stopped.
                Err(ConnectError::Strangers { .. }) => {}
                Err(refusal) => {
                    filled.exhausted = matches!(
                        refusal,
                        ConnectError::NoLease {
                            error: AcquireError::Lease(lease::AcquireError::Exhausted),
                            ..
                        }
                    );
                    filled.refusal = refusal.to_string();
                    break;
                }
            }
        }
        send(std::io::stdout().lock(), &Answer::Progress(filled.opened % STEP))?;
        let origin = Origin::new(Protocol::Tcp, order.origin)?;
        let now = self.edge.explain(&zone, &origin, clock::now()).expect("the zone has a grant");
        let (live, held, parked, capacity) = (now.live, now.held, now.parked, now.capacity);
        Ok(Answer::Filled(Filled { live, held, parked, capacity, ..filled }))
    }

    /// Opens UDP flows, and asks and answers on each.
    fn udp(&mut self, origin: SocketAddr, flows: u32) -> Result<Answer> {
        let zone = self.edge.zone(&self.udp_zone)?;
        let hello = format!("{HELLO}{}\n", self.edge.machine());
        for _ in 0..flows {
            let socket = self.dialer.udp(&zone, origin)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send(hello.as_bytes())?;
            if socket.recv(&mut [0; 16])? != 1 {
                return Err(format!("the answer to {} is not from the origin", socket.source()).into());
            }
            self.flows.push(socket);
        }
        send(std::io::stdout().lock(), &Answer::Progress(flows))?;
        Ok(Answer::Filled(Filled { opened: flows, ..Filled::default() }))
    }

    /// Closes TCP connections so that both sides know, before the port can be anybody else's.
    fn close(&mut self, is_over: impl Fn(&SocketAddr, SocketAddr) -> bool) -> Result<Answer> {
        let goodbye = format!("{GOODBYE}{}\n", self.edge.machine());
        let (in_order, mut closed) = (timestamps(), 0);
        for (origin, connections) in &mut self.connections {
            let (over, kept) = connections.drain(..).partition(|stream| is_over(origin, stream.source()));
            *connections = kept;
            let over: Vec<TcpStream> = over;
            for mut stream in over {
                closed += 1;
                if in_order {
                    stream.shutdown(Shutdown::Write)?;
                    if stream.read(&mut [0])? != 0 {
                        return Err(format!("{origin} sent more than it should").into());
                    }
                    stream.close(Closed::Active);
                } else {
                    // In TIME_WAIT the port would be held for 69 s.
                    stream.write_all(goodbye.as_bytes())?;
                    stream.read_exact(&mut vec![0; goodbye.len()])?;
                    stream.reset();
                }
            }
        }
        Ok(Answer::Released(closed))
    }

    fn close_all(&mut self) -> Result<Answer> {
        let goodbye = format!("{GOODBYE}{}\n", self.edge.machine());
        let flows = self.flows.len() as u32;
        for flow in self.flows.drain(..) {
            flow.send(goodbye.as_bytes())?;
            flow.recv(&mut [0; 16])?;
        }
        let Answer::Released(closed) = self.close(|_, _| true)? else { unreachable!("it was a release") };
        Ok(Answer::Released(closed + flows))
    }

    /// A line there and back over everything that is open.
    fn echo(&mut self) -> Echoed {
        let mut echoed = Echoed::default();
        let mut note = |source: SocketAddr, outcome: std::io::Result<bool>| match outcome {
            Ok(true) => echoed.answered += 1,
            outcome => {
                echoed.broken += 1;
                let fault = outcome.err().map_or("another answer".to_owned(), |error| error.to_string());
                echoed.first_broken.get_or_insert_with(|| format!("{source}: {fault}"));
            }
        };
        let line = |source: SocketAddr| format!("from {source}\n");
        for stream in self.connections.values_mut().flatten() {
            let line = line(stream.source());
            let mut answer = vec![0; line.len()];
            let outcome = stream.write_all(line.as_bytes()).and_then(|()| stream.read_exact(&mut answer));
            note(stream.source(), outcome.map(|()| answer == line.as_bytes()));
        }
        for flow in &self.flows {
            let line = line(flow.source());
            let mut answer = [0; 64];
            let outcome = flow.send(line.as_bytes()).and_then(|_| flow.recv(&mut answer));
            note(flow.source(), outcome.map(|length| &answer[..length] == line.as_bytes()));
        }
        echoed
    }

    fn usage(&self) -> Result<Answer> {
        let (rows, zones) = (self.edge.usage(clock::now()), self.edge.zones());
        let mut open_metrics = String::new();
        render::openmetrics(&mut open_metrics, self.edge.machine().as_str(), &rows, &zones)?;
        let json_lines = usage::to_json_lines(&rows);
        let rows = rows.iter().map(|row| Row {
            egress_ip: row.egress_ip,
            origin: row.origin.map(|origin| (origin.protocol().to_string(), origin.address())),
            live: row.live,
            held: row.held,
            parked: row.parked,
            peak: row.peak,
            capacity: row.capacity,
            refused: row.refused,
        });
        Ok(Answer::Usage { rows: rows.collect(), json_lines, open_metrics })
    }
}
