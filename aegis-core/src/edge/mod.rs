//! What does one machine hold?
//!
//! An [`Edge`] takes the machine's bundle and assembles what a proxy asks: zones, the lease table, the soft-unicast
//! table and the usage. Shared by all threads behind an `Arc`; each thread acquires through a [`Worker`] of its own.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bundle::Bundle;
use crate::epoch::Owner;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{AccountId, MachineId, PoolId, ZoneId};
use crate::lease::{
    self, Closed, CompleteError, Config, Conflict, Explanation, Heap, Lease, Memory, Method, OriginHandle,
    Pool, PoolKey, RangeLease, Rejected, ReleaseError, Seed, Tuple,
};
use crate::net::{Origin, PortRange};
use crate::soft_unicast;
use crate::time::Time;
use crate::usage::{self, Usage};

mod rules;

use rules::Division;
pub use rules::Rules;

/// All that one machine holds of one epoch.
#[derive(Debug)]
pub struct Edge<M: Memory = Heap> {
    machine: MachineId,
    leases: Arc<lease::Table<M>>,
    owners: soft_unicast::Table,
    zones: BTreeMap<ZoneId, Zone>,
}

/// A zone that may leave from here: what its connections are leased from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Zone {
    account: AccountId,
    pool_id: PoolId,
    pool: Pool,
    /// It has a limit of its own, so that this is what its leases count for first.
    limited: bool,
    /// The machine has shares of the pool that are not active (yet, or any more): IPv4, IPv6.
    inactive: [bool; 2],
}

/// Why no lease was granted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// The lease table has refused.
    #[error(transparent)]
    Lease(#[from] lease::AcquireError),
    /// The zone has as many live connections as its limit allows on this machine.
    #[error("the zone's limit of connections on this machine is reached")]
    ZoneLimit,
    /// The account has as many live connections as its limit allows on this machine.
    #[error("the account's limit of connections on this machine is reached")]
    AccountLimit,
    /// This machine has shares of the pool, but their addresses are not active: the origin's firewall does not admit
    /// them yet, or they are retiring.
    #[error("no address of the pool that this machine has a share of is active")]
    NotActive,
}

impl AcquireError {
    /// What the caller can do.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Lease(error) => error.kind(),
            Self::ZoneLimit | Self::AccountLimit => ErrorKind::Wait,
            Self::NotActive => ErrorKind::OtherExit,
        }
    }
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

    /// As [`Edge::new`], with rules for those who use its shares.
    ///
    /// # Errors
    /// As [`Edge::new`]; a rule names a zone, account or pool that the bundle does not have; more ports are reserved than
    /// there are.
    pub fn with_rules(bundle: &Bundle, config: Config, seed: Seed, rules: &Rules) -> Result<Self> {
        let division = Division::new(bundle, rules)?;
        let config =
            Config { quotas: config.quotas.max(rules.quotas()), ..table_config(bundle, config, &division) };
        Self::assemble(bundle, lease::Table::new(config, seed)?, &division, rules)
    }
}

/// What a lease table for a bundle must be able to hold.
fn table_config(bundle: &Bundle, config: Config, division: &Division) -> Config {
    Config {
        granule_ports: bundle.layout().cut().granule().ports(),
        granules: config.granules.max(division.parts().count() as u32),
        ..config
    }
}

impl<M: Memory> Edge<M> {
    /// The edge of a machine over a lease table that exists: one that other processes share, or one that lives on. Its
    /// granules become known to the table, if they are not yet.
    ///
    /// # Errors
    /// As [`Edge::with_rules`]; the table is too small for the bundle.
    pub fn over(bundle: &Bundle, leases: lease::Table<M>, rules: &Rules) -> Result<Self> {
        let division = Division::new(bundle, rules)?;
        Self::assemble(bundle, leases, &division, rules)
    }

    fn assemble(
        bundle: &Bundle,
        leases: lease::Table<M>,
        division: &Division,
        rules: &Rules,
    ) -> Result<Self> {
        let mut pools = BTreeMap::new();
        for (key, (id, division)) in (0..).map(PoolKey).zip(division.pools()) {
            let add =
                |method, parts: &[(IpAddr, PortRange)]| leases.add_granules(method, parts.iter().copied());
            let mut shared = add(rules.method, &division.shared)?;
            shared.extend(add(Method::UnconnectedUdp, &division.unconnected)?);
            pools.insert(id, (key, shared, division));
        }
        let quotas = rules.set_quotas(bundle, &leases)?;
        let mut zones = BTreeMap::new();
        for grant in bundle.grants() {
            let (key, shared, division) =
                pools.get(&grant.pool).expect("a bundle has every pool that it grants");
            let mut granules = shared.clone();
            if let Some(own) = division.reserved.get(&grant.zone) {
                granules.extend(leases.add_granules(rules.method, own.iter().copied())?);
            }
            let pool = leases.pool(*key, granules)?;
            let quota = quotas.zone(&grant.zone).or_else(|| quotas.account(&grant.account));
            let zone = Zone {
                account: grant.account.clone(),
                pool_id: grant.pool.clone(),
                pool: quota.map_or_else(|| pool.clone(), |quota| pool.under(quota)),
                limited: rules.zones.contains_key(&grant.zone),
                inactive: division.inactive,
            };
            zones.insert(grant.zone.clone(), zone);
        }
        Ok(Self {
            machine: bundle.machine().clone(),
            zones,
            owners: soft_unicast::Table::new(bundle.layout()),
            leases: Arc::new(leases),
        })
    }

    /// The machine.
    pub fn machine(&self) -> &MachineId {
        &self.machine
    }

    /// What the connections of a zone are leased from: look it up once.
    ///
    /// # Errors
    /// [`ErrorKind::NormalEgress`]: the zone has no dedicated egress, so the proxy uses its normal one.
    pub fn zone(&self, id: &ZoneId) -> Result<Zone> {
        self.zones.get(id).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NormalEgress,
                format!("zone {id} has no dedicated egress in this epoch; use the normal egress"),
            )
        })
    }

    /// Attaches a worker: one for each thread. `seed` must be nobody else's.
    ///
    /// # Errors
    /// As many workers as the lease table was made for are attached.
    pub fn worker(&self, seed: Seed) -> Result<Worker<M>> {
        Ok(Worker(lease::Worker::attach(Arc::clone(&self.leases), seed)?))
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
        self.owners.owner(ip, port)
    }

    /// The soft-unicast table.
    pub fn owners(&self) -> &soft_unicast::Table {
        &self.owners
    }

    /// What a zone has in use towards an origin, and when the first held tuple comes free.
    pub fn explain(&self, zone: &Zone, origin: &Origin, now: Time) -> Explanation {
        self.leases.explain(&zone.pool, origin, now)
    }

    /// The use of every egress IP of this machine towards every origin.
    pub fn usage(&self, now: Time) -> Vec<Usage> {
        usage::read(&self.leases, now)
    }
}

impl Zone {
    /// The account that the zone belongs to.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// The pool that it leaves from.
    pub fn pool_id(&self) -> &PoolId {
        &self.pool_id
    }

    /// The identity of the pool in this edge: a part of the key of every connection pool.
    pub fn pool_key(&self) -> PoolKey {
        self.pool.key()
    }

    /// Ports that this machine can use towards one origin of that family.
    pub fn capacity(&self, ipv6: bool) -> u32 {
        self.pool.capacity(ipv6)
    }

    fn refusal(&self, error: lease::AcquireError, origin: &Origin) -> AcquireError {
        self.refusal_in(error, origin.ip().is_ipv6())
    }

    fn refusal_in(&self, error: lease::AcquireError, ipv6: bool) -> AcquireError {
        match error {
            lease::AcquireError::NoShare if self.inactive[usize::from(ipv6)] => AcquireError::NotActive,
            lease::AcquireError::QuotaReached if self.limited => AcquireError::ZoneLimit,
            lease::AcquireError::QuotaReached | lease::AcquireError::ParentQuotaReached => {
                AcquireError::AccountLimit
            }
            error => error.into(),
        }
    }
}

/// A thread that acquires. Not shared: each has its own.
#[derive(Debug)]
pub struct Worker<M: Memory = Heap>(lease::Worker<M>);

impl<M: Memory> Worker<M> {
    /// A lease of a free source ip:port of the zone's pool towards the origin.
    ///
    /// # Errors
    /// [`AcquireError`]; never exhausted while a tuple is free or resting.
    pub fn acquire(&mut self, zone: &Zone, origin: &Origin, now: Time) -> Result<Lease, AcquireError> {
        self.0.acquire_to(&zone.pool, origin, now).map_err(|error| zone.refusal(error, origin))
    }

    /// A lease of a source ip:port for an unconnected UDP socket: nobody else uses it, towards any destination.
    ///
    /// # Errors
    /// [`AcquireError`]; no share, if the pool has no ports for such sockets ([`Rules::unconnected_udp`]).
    pub fn acquire_unconnected(&mut self, zone: &Zone, ipv6: bool, now: Time) -> Result<Lease, AcquireError> {
        let lease = self.0.acquire_unconnected(&zone.pool, ipv6, now);
        lease.map_err(|error| zone.refusal_in(error, ipv6))
    }

    /// A range of ports in which the kernel will find a free one ([`Method::KernelRange`]).
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn acquire_range(
        &mut self,
        zone: &Zone,
        origin: &Origin,
        now: Time,
    ) -> Result<RangeLease, AcquireError> {
        self.0.acquire_range(&zone.pool, origin, now).map_err(|error| zone.refusal(error, origin))
    }

    /// Completes a lease of a range with the port that the kernel chose.
    ///
    /// # Errors
    /// [`CompleteError`]: close the socket.
    pub fn complete(
        &mut self,
        zone: &Zone,
        range: &RangeLease,
        port: u16,
        now: Time,
    ) -> Result<Lease, CompleteError> {
        self.0.complete(&zone.pool, range, port, now)
    }

    /// A lease of a connection that exists already, as after a hot upgrade.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn adopt(&mut self, zone: &Zone, tuple: &Tuple, now: Time) -> Result<Lease, AcquireError> {
        self.0.adopt(&zone.pool, tuple, now).map_err(|error| zone.refusal(error, &tuple.origin))
    }

    /// Gives a lease back, as [`Edge::release`]: cheaper where several processes share the lease table.
    ///
    /// # Errors
    /// As [`Edge::release`].
    pub fn release(&mut self, lease: Lease, closed: Closed, now: Time) -> Result<(), Rejected> {
        self.0.release(lease, closed, now)
    }

    /// Looks an origin up once, for many acquires.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn origin(&self, zone: &Zone, origin: Origin) -> Result<OriginHandle, AcquireError> {
        self.0.origin(&zone.pool, origin).map_err(|error| zone.refusal(error, &origin))
    }

    /// As [`Worker::acquire`], without the look-up.
    ///
    /// # Errors
    /// [`lease::AcquireError`].
    pub fn acquire_from(
        &mut self,
        origin: &mut OriginHandle,
        now: Time,
    ) -> Result<Lease, lease::AcquireError> {
        self.0.acquire(origin, now)
    }
}
