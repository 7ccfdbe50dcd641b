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
use crate::inventory::AddressState;
use crate::lease::{
    self, Closed, Config, Conflict, Explanation, Heap, Lease, Memory, Method, OriginHandle, Pool, PoolKey,
    Rejected, ReleaseError, Seed, Tuple,
};
use crate::net::{Origin, PortRange};
use crate::soft_unicast;
use crate::time::Time;
use crate::usage::{self, Usage};

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
        let granules = granules(bundle);
        let config = Config {
            granule_ports: bundle.layout().cut().granule().ports(),
            granules: config.granules.max(granules.len() as u32),
            ..config
        };
        Self::assemble(bundle, lease::Table::new(config, seed)?, &granules)
    }
}

/// The shares of the bundle's machine, granule by granule.
///
/// In IPv6 every address of the machine is its own, so one granule of each is plenty: 256 addresses make half a million
/// ports towards one origin. All granules of each would only spread an origin's connections over more pages.
fn granules(bundle: &Bundle) -> Vec<(IpAddr, PortRange)> {
    let layout = bundle.layout();
    let v4 = layout.shares_of(bundle.machine()).map(|(ip, range)| (IpAddr::V4(ip), range));
    let usable: Vec<PortRange> =
        layout.cut().granules().filter_map(|index| layout.cut().range(index)).collect();
    let v6 = layout.v6_addresses_of(bundle.machine(), bundle.v6_addresses());
    let v6 = v6.zip(usable.into_iter().cycle()).map(|(ip, range)| (IpAddr::V6(ip), range));
    v4.chain(v6).collect()
}

impl<M: Memory> Edge<M> {
    fn assemble(bundle: &Bundle, leases: lease::Table<M>, granules: &[(IpAddr, PortRange)]) -> Result<Self> {
        let slots = leases.add_granules(Method::Explicit, granules.iter().copied())?;
        let state_of = |ip: IpAddr| {
            let found = bundle.addresses().iter().find(|(prefix, _)| prefix.contains(&ip));
            found.map_or(AddressState::Allocated, |&(_, state)| state)
        };
        let mut pools = BTreeMap::new();
        for (key, addresses) in (0..).map(PoolKey).zip(bundle.pools()) {
            let mut inactive = [false; 2];
            let mut sources = Vec::new();
            // Neighbours in the list have the same address: ask once for each.
            let mut last: Option<(IpAddr, bool, AddressState)> = None;
            for (&slot, &(ip, _)) in slots.iter().zip(granules) {
                let (_, inside, state) = *match &mut last {
                    Some(known) if known.0 == ip => known,
                    other => other.insert((
                        ip,
                        addresses.prefixes.iter().any(|prefix| prefix.contains(&ip)),
                        state_of(ip),
                    )),
                };
                match (inside, state) {
                    (true, AddressState::Active) => sources.push(slot),
                    (true, _) => inactive[usize::from(ip.is_ipv6())] = true,
                    (false, _) => {}
                }
            }
            pools.insert(&addresses.id, (leases.pool(key, sources)?, inactive));
        }
        let zones = bundle.grants().iter().map(|grant| {
            let (pool, inactive) = pools.get(&grant.pool).expect("a bundle has every pool that it grants");
            let (account, pool_id) = (grant.account.clone(), grant.pool.clone());
            (grant.zone.clone(), Zone { account, pool_id, pool: pool.clone(), inactive: *inactive })
        });
        Ok(Self {
            machine: bundle.machine().clone(),
            zones: zones.collect(),
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
        match error {
            lease::AcquireError::NoShare if self.inactive[usize::from(origin.ip().is_ipv6())] => {
                AcquireError::NotActive
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
