//! One machine process: an edge, and connections through its leases.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aegis_core::bundle::Bundle;
use aegis_core::edge::{AcquireError, Edge, Zone};
use aegis_core::lease::{self, Closed, Config, DEFAULT_FIN_TIMEOUT, Quarantine, Spans};
use aegis_core::net::{Origin, Protocol};
use aegis_core::{render, usage};
use aegis_net::{ConnectError, Dialer, TcpStream, UdpSocket, clock};

use crate::Result;
use crate::messages::{Answer, Filled, Order, Row, receive, send};

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
fn timestamps() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_timestamps").is_ok_and(|text| text.trim() != "0")
}

pub(crate) fn run(bundle: &str, zone: &str, udp_zone: &str) -> Result<()> {
    descriptors()?;
    let bundle = Bundle::from_bytes(&std::fs::read(bundle)?)?;
    let hold = Spans::linux(timestamps(), DEFAULT_FIN_TIMEOUT);
    let config = Config {
        origins: 64,
        pages: 1_024,
        workers: 8,
        quarantine: Quarantine::new(hold, Spans::azure())?,
        ..Config::default()
    };
    let edge = Arc::new(Edge::new(&bundle, config, clock::seed()?)?);
    let mut machine = Machine {
        zone: edge.zone(&zone.parse()?)?,
        udp_zone: edge.zone(&udp_zone.parse()?)?,
        dialer: Dialer::new(Arc::clone(&edge))?,
        hello: format!("{}\n", edge.machine()),
        edge,
        connections: BTreeMap::new(),
        flows: Vec::new(),
    };
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    while let Some(order) = receive(stdin.lock())? {
        let answer = machine.obey(order).unwrap_or_else(|error| Answer::Failed(error.to_string()));
        send(stdout.lock(), &answer)?;
    }
    Ok(())
}

struct Machine {
    edge: Arc<Edge>,
    dialer: Dialer,
    zone: Zone,
    udp_zone: Zone,
    /// What a connection says first: who opened it.
    hello: String,
    connections: BTreeMap<SocketAddr, Vec<TcpStream>>,
    flows: Vec<UdpSocket>,
}

impl Machine {
    fn obey(&mut self, order: Order) -> Result<Answer> {
        match order {
            Order::Fill(origin) => self.fill(origin),
            Order::Udp(origin, flows) => self.udp(origin, flows),
            Order::Release(origin) => self.release(origin),
            Order::Usage => self.usage(),
        }
    }

    /// Opens connections until the share is full.
    fn fill(&mut self, origin: SocketAddr) -> Result<Answer> {
        let mut opened = 0;
        loop {
            match self.dialer.connect(&self.zone, origin) {
                Ok(mut stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_nodelay(true)?;
                    stream.write_all(self.hello.as_bytes())?;
                    let mut nod = [0];
                    stream.read_exact(&mut nod)?;
                    self.connections.entry(origin).or_default().push(stream);
                    opened += 1;
                    if opened % STEP == 0 {
                        send(std::io::stdout().lock(), &Answer::Progress(STEP))?;
                    }
                }
                // The last ports may all be strangers': the next call starts where this one stopped.
                Err(ConnectError::Strangers { .. }) => {}
                Err(refusal) => {
                    let exhausted = matches!(
                        refusal,
                        ConnectError::NoLease {
                            error: AcquireError::Lease(lease::AcquireError::Exhausted),
                            ..
                        }
                    );
                    let refusal = refusal.to_string();
                    send(std::io::stdout().lock(), &Answer::Progress(opened % STEP))?;
                    let origin = Origin::new(Protocol::Tcp, origin)?;
                    let now =
                        self.edge.explain(&self.zone, &origin, clock::now()).expect("the zone has a grant");
                    return Ok(Answer::Filled(Filled {
                        opened,
                        parked: now.parked,
                        capacity: now.capacity,
                        refusal,
                        exhausted,
                    }));
                }
            }
        }
    }

    /// Opens UDP flows, and asks and answers on each.
    fn udp(&mut self, origin: SocketAddr, flows: u32) -> Result<Answer> {
        for _ in 0..flows {
            let socket = self.dialer.udp(&self.udp_zone, origin)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send(self.hello.as_bytes())?;
            let mut answer = [0; 16];
            if socket.recv(&mut answer)? != 1 {
                return Err(format!("the answer to {} is not from the origin", socket.source()).into());
            }
            self.flows.push(socket);
        }
        send(std::io::stdout().lock(), &Answer::Progress(flows))?;
        let origin = Origin::new(Protocol::Udp, origin)?;
        let now = self.edge.explain(&self.udp_zone, &origin, clock::now()).expect("the zone has a grant");
        let refusal = String::new();
        let (parked, capacity) = (now.parked, now.capacity);
        Ok(Answer::Filled(Filled { opened: flows, parked, capacity, refusal, exhausted: false }))
    }

    /// Closes all connections to an origin so that both sides know: ours first, then the origin's.
    fn release(&mut self, origin: SocketAddr) -> Result<Answer> {
        let connections = self.connections.remove(&origin).unwrap_or_default();
        let closed = connections.len() as u32;
        for mut stream in connections {
            if !timestamps() {
                // In TIME_WAIT the ports would be held for 69 s.
                stream.reset();
                continue;
            }
            stream.shutdown(Shutdown::Write)?;
            if stream.read(&mut [0])? != 0 {
                return Err(format!("{origin} sent more than it should").into());
            }
            stream.close(Closed::Active);
        }
        Ok(Answer::Released(closed))
    }

    fn usage(&self) -> Result<Answer> {
        let rows = self.edge.usage(clock::now());
        let mut open_metrics = String::new();
        render::openmetrics(&mut open_metrics, self.edge.machine().as_str(), &rows)?;
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
