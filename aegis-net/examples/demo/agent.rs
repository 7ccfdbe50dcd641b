//! What speaks for a machine process: reports to the controller, beside the work, and layouts that come back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aegis_core::bundle::Bundle;
use aegis_core::edge::Edge;
use aegis_core::epoch::control::{Agent, Reply};
use aegis_core::time::Time;
use aegis_net::clock;

use crate::Result;
use crate::messages::{Answer, send};

/// A machine reports so often: many times in a tenure.
const INTERVAL: Duration = Duration::from_millis(25);

pub(crate) struct Speaker {
    edge: Arc<Edge>,
    agent: Mutex<Agent>,
}

impl Speaker {
    /// From here on the machine grants only in its tenure; it has none yet.
    pub(crate) fn new(edge: Arc<Edge>) -> Result<Self> {
        let seed = clock::seed()?;
        let boot = u64::from_le_bytes(*seed.first_chunk().expect("a seed is longer"));
        let agent = Agent::new(edge.machine().clone(), boot);
        edge.set_tenure(Time::ZERO);
        Ok(Self { edge, agent: Mutex::new(agent) })
    }

    /// Reports for ever, or until nobody listens.
    pub(crate) fn speak(&self) {
        while self.report().is_ok() {
            std::thread::sleep(INTERVAL);
        }
    }

    fn report(&self) -> Result<()> {
        let agent = self.agent.lock().expect("no panic while it is locked");
        let now = clock::now();
        let busy = |ip: std::net::Ipv4Addr, ports| self.edge.busy_ports(ip.into(), ports, now);
        let report = agent.report(now, self.edge.is_idle(now), busy);
        send(std::io::stdout().lock(), &Answer::Report(report))
    }

    /// Takes the answer to a report; `bundle` is that of the layout in it.
    pub(crate) fn hear(&self, reply: &Reply, bundle: Option<&[u8]>) -> Result<()> {
        let mut agent = self.agent.lock().expect("no panic while it is locked");
        let newer = agent.receive(reply);
        let is_news = newer.is_some();
        if let Some(layout) = newer {
            // The first layout is the one that the edge was made from.
            if layout.epoch() > self.edge.epoch() {
                let bundle = Bundle::from_bytes(bundle.ok_or("a layout came without its bundle")?)?;
                self.edge.apply(&bundle, clock::now())?;
            }
            agent.applied(layout);
        }
        self.edge.set_tenure(agent.granting_until());
        drop(agent);
        // What is open is told soon after: others wait for it.
        if is_news { self.report() } else { Ok(()) }
    }
}
