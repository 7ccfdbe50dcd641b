//! Answers for the lease table in a line protocol on stdin and stdout, so that the Linux kernel can judge it: the
//! judge asks for leases, really opens and closes the connections, and compares.
//!
//! ```text
//! net ts=1 fin_timeout=60 quarantine=0      -> ok            reset; timestamps, FIN timeout and extra hold (s)
//! slice A 192.0.2.10 40000 40005            -> ok            inclusive port range
//! time 1234                                 -> ok            monotonic milliseconds
//! acquire c1 A tcp 198.51.100.1:8080        -> ok 192.0.2.10:40003 | none
//! acquire c2 A udp 198.51.100.1:8080 port=40001
//! release c1 HOW                            -> ok            active passive rst half peerfin vanish unread
//! quit
//! ```

#![expect(clippy::print_stdout, reason = "it answers there")]

use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aegis_core::lease::{
    AcquireError, Closed, Config, HalfClosed, Lease, Pool, PoolKey, Quarantine, Spans, Table, Worker,
};
use aegis_core::net::{Origin, PortRange};
use aegis_core::time::Time;
use aegis_net::clock;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

struct Judged {
    table: Arc<Table>,
    worker: Worker,
    slices: BTreeMap<String, (IpAddr, Pool)>,
    leases: BTreeMap<String, Lease>,
    half_closed: BTreeMap<String, HalfClosed>,
    now: Time,
}

impl Judged {
    fn new(settings: &[&str]) -> Result<Self> {
        let (mut timestamps, mut fin_timeout, mut extra) = (true, 60, 0);
        for setting in settings {
            let (key, value) = setting.split_once('=').ok_or("a setting is key=value")?;
            match key {
                "ts" => timestamps = value == "1",
                "fin_timeout" => fin_timeout = value.parse()?,
                "quarantine" => extra = value.parse()?,
                _ => return Err(format!("unknown setting {key:?}").into()),
            }
        }
        let extra = Duration::from_secs(extra);
        let linux = Spans::linux(timestamps, Duration::from_secs(fin_timeout));
        // A judge knows how every connection ended and sees every UDP socket close: nothing is held for late answers.
        let hold = Spans {
            active: linux.active.max(extra),
            half_closed: linux.half_closed + extra,
            ..Spans::all(extra)
        };
        let config = Config {
            granule_ports: 2_048,
            origins: 64,
            pages: 256,
            quarantine: Quarantine::new(hold, Spans::azure())?,
            ..Config::default()
        };
        let table = Arc::new(Table::new(config, clock::seed()?)?);
        let worker = Worker::attach(Arc::clone(&table), clock::seed()?)?;
        Ok(Self {
            table,
            worker,
            slices: BTreeMap::new(),
            leases: BTreeMap::new(),
            half_closed: BTreeMap::new(),
            now: Time::ZERO,
        })
    }

    fn acquire(
        &mut self,
        name: &str,
        slice: &str,
        protocol: &str,
        address: &str,
        port: Option<&str>,
    ) -> Result<String> {
        let origin = Origin::new(protocol.parse()?, address.parse()?)?;
        let (ip, pool) = self.slices.get(slice).ok_or("unknown slice")?;
        let lease = match port {
            None => self.worker.acquire_to(pool, &origin, self.now),
            Some(port) => {
                let port = port.strip_prefix("port=").ok_or("expected port=")?.parse()?;
                self.worker.acquire_exactly(pool, SocketAddr::new(*ip, port), &origin, self.now)
            }
        };
        match lease {
            Ok(lease) => {
                let answer = format!("ok {}", self.table.source(&lease)?);
                self.leases.insert(name.to_owned(), lease);
                Ok(answer)
            }
            Err(AcquireError::Exhausted | AcquireError::InUse | AcquireError::NoShare) => {
                Ok("none".to_owned())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn release(&mut self, name: &str, how: &str) -> Result<()> {
        let closed = match how {
            "active" => Closed::Active,
            "passive" => Closed::Passive,
            "half" => Closed::HalfClosed,
            // The socket is gone and the kernel keeps nothing.
            "rst" | "vanish" | "unread" => Closed::Reset,
            // The hold that the half-close began ends, or becomes that of TIME_WAIT.
            "peerfin" => {
                let half_closed = self.half_closed.remove(name).ok_or("no half-closed lease of that name")?;
                self.table.peer_closed(half_closed, self.now);
                return Ok(());
            }
            _ => return Err(format!("unknown way to close {how:?}").into()),
        };
        let lease = self.leases.remove(name).ok_or("unknown lease")?;
        if closed == Closed::HalfClosed {
            self.half_closed.insert(name.to_owned(), self.table.half_close(lease, self.now)?);
            return Ok(());
        }
        Ok(self.worker.release(lease, closed, self.now)?)
    }
}

fn main() -> Result<()> {
    let mut judged = Judged::new(&[])?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut answer = "ok".to_owned();
        match words[..] {
            ["net", ref settings @ ..] => judged = Judged::new(settings)?,
            ["slice", name, ip, lo, hi] => {
                let ip: IpAddr = ip.parse()?;
                let granule = judged.table.add_granule(ip, PortRange::new(lo.parse()?, hi.parse()?)?)?;
                let pool = judged.table.pool(PoolKey(judged.slices.len() as u32), [granule])?;
                judged.slices.insert(name.to_owned(), (ip, pool));
            }
            ["time", ms] => judged.now = Time::from_millis(ms.parse()?),
            ["acquire", name, slice, protocol, address] => {
                answer = judged.acquire(name, slice, protocol, address, None)?;
            }
            ["acquire", name, slice, protocol, address, port] => {
                answer = judged.acquire(name, slice, protocol, address, Some(port))?;
            }
            ["release", name, how] => judged.release(name, how)?,
            ["quit"] => break,
            _ => return Err(format!("not understood: {line:?}").into()),
        }
        println!("{answer}");
    }
    Ok(())
}
