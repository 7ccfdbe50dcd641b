//! What does one machine hold?
//!
//! An [`Edge`] takes the machine's bundle and assembles what a proxy asks: zones, the lease table, the soft-unicast
//! table and the usage. Shared by all threads behind an `Arc`; each thread acquires through a [`Worker`] of its own. A
//! bundle of a later epoch is [applied](Edge::apply) while they do.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::bundle::Bundle;
use crate::epoch::{Epoch, Owner};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{MachineId, ZoneId};
use crate::lease::{
    self, Closed, Config, Conflict, Explanation, Heap, Lease, Memory, Rejected, ReleaseError, Seed, Tuple,
};
use crate::net::{Origin, PortRange};
use crate::snapshot::Published;
use crate::soft_unicast;
use crate::time::Time;
use crate::usage::{self, Measured, Meter, Usage, ZoneUsage};

mod division;
mod error;
mod rules;
mod state;
mod worker;
mod zone;

use division::Division;
use state::State;

pub use error::AcquireError;
pub use rules::Rules;
pub use worker::{OriginHandle, Worker};
pub use zone::Zone;

/// All that one machine holds.
#[derive(Debug)]
pub struct Edge<M: Memory = Heap> {
    machine: MachineId,
    rules: Rules,
    leases: Arc<lease::Table<M>>,
    state: Published<State>,
}

impl Edge {
    /// The edge of the machine that `bundle` is for, with a lease table in memory of this process.
    ///
    /// `config` says how much the lease table can hold; its `granule_ports` is the bundle's, and its `granules` are
    /// raised to what the bundle needs. `seed` keys hashes and is nobody else's.
    ///
    /// # Errors
    /// A number of `config` is out of its range.
    pub fn new(bundle: &Bundle, config: Config, seed: Seed) -> Result<Self> {
        Self::with_rules(bundle, config, seed, &Rules::default())
    }

    /// As [`Edge::new`], with rules for those who use its shares, as long as it lives.
    ///
    /// # Errors
    /// As [`Edge::new`]; a rule names a zone, account or pool that the bundle does not have; more ports are reserved than
    /// there are.
    pub fn with_rules(bundle: &Bundle, config: Config, seed: Seed, rules: &Rules) -> Result<Self> {
        let division = Division::new(bundle, rules, core::iter::empty());
        let zones = bundle.grants().len().try_into().unwrap_or(u16::MAX);
        let config = Config {
            granule_ports: bundle.layout().cut().granule().ports(),
            granules: config.granules.max(division.shares(bundle).len() as u32),
            // Every zone is counted; and there is room for others that come later.
            quotas: config.quotas.saturating_add(rules.quotas()).saturating_add(zones),
            ..config
        };
        Self::over(bundle, lease::Table::new(config, seed)?, rules, Time::ZERO)
    }
}

impl<M: Memory> Edge<M> {
    /// The edge of a machine over a lease table that exists: one that other processes share, or one that lives on. Its
    /// granules become known to the table, if they are not yet.
    ///
    /// # Errors
    /// As [`Edge::with_rules`]; the table is too small for the bundle, or has been told a later epoch.
    pub fn over(bundle: &Bundle, leases: lease::Table<M>, rules: &Rules, now: Time) -> Result<Self> {
        rules.check_names(bundle)?;
        let division = Division::new(bundle, rules, leases.parts());
        division.check()?;
        leases.apply(bundle.epoch().get(), &division.shares(bundle), now)?;
        let state = State::new(None, bundle, rules, &division, &leases)?;
        Ok(Self {
            machine: bundle.machine().clone(),
            rules: rules.clone(),
            leases: Arc::new(leases),
            state: Published::new(state),
        })
    }

    /// Puts a bundle of a later epoch in force while threads acquire: no acquire waits for it. Once this returns nothing
    /// is granted any more, in any process that shares the lease table, that the bundle does not give to this machine;
    /// leases that are live stay until they are released. A machine that hands shares over tells what is still open
    /// ([`Edge::busy_ports`]) after this.
    ///
    /// Zones, their [`PoolKey`](lease::PoolKey)s and handles of origins stay valid. A zone that the bundle has no grant for
    /// is refused with [`AcquireError::NotDedicated`] from now on. Where fewer ports are left than the rules reserve, as
    /// many as there are.
    ///
    /// # Errors
    /// The bundle is another machine's, or of an epoch that is not later; its granules have another size than before, or
    /// are more than the lease table was made for. What was in force stays in force.
    pub fn apply(&self, bundle: &Bundle, now: Time) -> Result<()> {
        if *bundle.machine() != self.machine {
            return Err(Error::input(format!(
                "a bundle of machine {} for the edge of machine {}; give each machine its own",
                bundle.machine(),
                self.machine
            )));
        }
        loop {
            let before = self.state.load();
            if bundle.epoch() <= before.epoch {
                let in_force = before.epoch;
                let fault =
                    format!("a bundle of epoch {}, but {in_force} is in force already", bundle.epoch());
                return Err(Error::new(ErrorKind::Reload, format!("{fault}; give a later one")));
            }
            let division = Division::new(bundle, &self.rules, self.leases.parts());
            // All that takes time comes before the shares change, so that who still has the state before, whose shares may
            // all have gone, is refused for as short a moment as can be.
            let shares = division.shares(bundle);
            self.leases.know(&shares)?;
            let next = State::new(Some(&before), bundle, &self.rules, &division, &self.leases)?;
            self.leases.apply(bundle.epoch().get(), &shares, now)?;
            // Another thread may have been faster, with another bundle: then it is made anew of what that one left.
            if self.state.replace(&before, Arc::new(next)).is_ok() {
                before.forget_before();
                return Ok(());
            }
        }
    }

    /// The machine.
    pub fn machine(&self) -> &MachineId {
        &self.machine
    }

    /// The epoch of the bundle in force.
    pub fn epoch(&self) -> Epoch {
        self.state.load().epoch
    }

    /// What the connections of a zone are leased from: look it up once.
    ///
    /// # Errors
    /// [`ErrorKind::NormalEgress`]: the zone has no dedicated egress, so the proxy uses its normal one.
    pub fn zone(&self, id: &ZoneId) -> Result<Zone> {
        let number = self.state.load().number(id).ok_or_else(|| {
            Error::new(
                ErrorKind::NormalEgress,
                format!("zone {id} has no dedicated egress in this epoch; use the normal egress"),
            )
        })?;
        Ok(Zone::new(id.clone(), number, self.state.clone()))
    }

    /// Attaches a worker: one for each thread. `seed` must be nobody else's.
    ///
    /// # Errors
    /// As many workers as the lease table was made for are attached.
    pub fn worker(&self, seed: Seed) -> Result<Worker<M>> {
        Ok(Worker::new(lease::Worker::attach(Arc::clone(&self.leases), seed)?, self.state.clone()))
    }

    /// Nothing is granted from `until` on, until that is set anew: the machine's tenure. It never goes back.
    pub fn set_tenure(&self, until: Time) {
        self.leases.set_tenure(Some(until));
    }

    /// The ports in `range` of `ip` that are live or held, ascending: what a machine tells that hands them over.
    pub fn busy_ports(&self, ip: IpAddr, range: PortRange, now: Time) -> Vec<u16> {
        self.leases.busy_ports(ip, range, now)
    }

    /// [`busy_ports`](Self::busy_ports) of many ranges at once, in their order: what
    /// [`Agent::asks`](crate::epoch::control::Agent::asks) for.
    pub fn busy_ports_of(&self, ranges: &[(IpAddr, PortRange)], now: Time) -> Vec<Vec<u16>> {
        self.leases.busy_ports_of(ranges, now)
    }

    /// Is nothing live or held on this machine?
    pub fn is_idle(&self, now: Time) -> bool {
        self.leases.is_idle(now)
    }

    /// Gives a lease back, after its socket was closed; any thread may.
    ///
    /// # Errors
    /// The lease is not of this machine, or has ended already; it comes back, and nothing has changed.
    pub fn release(&self, lease: Lease, closed: Closed, now: Time) -> Result<(), Rejected> {
        self.leases.release(lease, closed, now)
    }

    /// Which source ip:port and origin a lease is for.
    ///
    /// # Errors
    /// As [`Edge::release`].
    pub fn tuple(&self, lease: &Lease) -> Result<Tuple, ReleaseError> {
        self.leases.tuple(lease)
    }

    /// Which source ip:port a lease is for: bind the socket there.
    ///
    /// # Errors
    /// As [`Edge::release`].
    pub fn source(&self, lease: &Lease) -> Result<SocketAddr, ReleaseError> {
        self.leases.source(lease)
    }

    /// The lease table: what is held, what a dead process had, limits.
    pub fn leases(&self) -> &Arc<lease::Table<M>> {
        &self.leases
    }

    /// Ends a lease that the kernel refused, and remembers why.
    ///
    /// # Errors
    /// As [`Edge::release`].
    pub fn conflict(&self, lease: Lease, cause: Conflict, now: Time) -> Result<(), Rejected> {
        self.leases.conflict(lease, cause, now)
    }

    /// Whose is a packet to (ip, port)? `None`: nobody's. Never a neighbour's.
    pub fn owner(&self, ip: IpAddr, port: u16) -> Option<Owner> {
        self.state.load().owners.owner(ip, port)
    }

    /// The soft-unicast table in force, to keep for a while.
    pub fn owners(&self) -> Arc<soft_unicast::Table> {
        Arc::clone(&self.state.load().owners)
    }

    /// What a zone has in use towards an origin, and when the first held tuple comes free. `None`: the zone has no
    /// dedicated egress any more.
    pub fn explain(&self, zone: &Zone, origin: &Origin, now: Time) -> Option<Explanation> {
        let state = self.state.load();
        Some(self.leases.explain(&state.zone(zone, &self.state).ok()?.pool, origin, now))
    }

    /// The use of every egress IP of this machine towards every origin.
    pub fn usage(&self, now: Time) -> Vec<Usage> {
        usage::read(&self.leases, now)
    }

    /// What every zone did on this machine, also those that have no dedicated egress any more. A zone is missing if the lease
    /// table was made for fewer `quotas` than there are limits and zones, those included that came and went.
    pub fn zones(&self) -> Vec<ZoneUsage> {
        self.state.load().zone_usage(&self.leases)
    }

    /// Begins to measure intervals. One meter for a machine: of processes that share a lease table one does it.
    pub fn meter(&self, now: Time) -> Meter {
        Meter::start(&self.leases, &self.zones(), now)
    }

    /// Lets the meter look, at any times: each second for example.
    pub fn sample(&self, meter: &mut Meter, now: Time) {
        meter.sample(&self.leases, &self.zones(), now);
    }

    /// Ends the meter's interval, and begins the next: what every subject did in it, for a
    /// [`Report`](usage::Report).
    pub fn report(&self, meter: &mut Meter, now: Time) -> Measured {
        let state = self.state.load();
        meter.close(&self.leases, &state.zone_usage(&self.leases), now, |ip| state.whose(ip))
    }
}
