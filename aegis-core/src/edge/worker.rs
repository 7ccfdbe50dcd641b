use crate::lease::{self, Closed, CompleteError, Heap, Lease, Memory, Pool, RangeLease, Rejected, Tuple};
use crate::net::Origin;
use crate::snapshot::{Published, Reader};
use crate::time::Time;

use super::state::{State, ZoneState};
use super::{AcquireError, Zone};

/// A thread that acquires. Not shared: each has its own.
#[derive(Debug)]
pub struct Worker<M: Memory = Heap> {
    leases: lease::Worker<M>,
    edge: Published<State>,
    state: Reader<State>,
}

/// An origin that was looked up once for a zone. When the zone's shares change it is looked up anew by itself.
#[derive(Debug)]
pub struct OriginHandle {
    zone: Zone,
    origin: Origin,
    pool: Pool,
    leases: lease::OriginHandle,
}

impl<M: Memory> Worker<M> {
    pub(super) fn new(leases: lease::Worker<M>, edge: Published<State>) -> Self {
        let state = edge.reader();
        Self { leases, edge, state }
    }

    /// A lease of a free source ip:port of the zone's pool towards the origin.
    ///
    /// # Errors
    /// [`AcquireError`]; never exhausted while a tuple is free or resting.
    pub fn acquire(&mut self, zone: &Zone, origin: &Origin, now: Time) -> Result<Lease, AcquireError> {
        self.in_force(zone, |leases, zone| {
            leases.acquire_to(&zone.pool, origin, now).map_err(|error| zone.refusal(error, origin))
        })
    }

    /// A lease of a source ip:port for an unconnected UDP socket: nobody else uses it, towards any destination.
    ///
    /// # Errors
    /// [`AcquireError`]; no share, if the pool has no ports for such sockets
    /// ([`Rules::unconnected_udp`](super::Rules::unconnected_udp)).
    pub fn acquire_unconnected(&mut self, zone: &Zone, ipv6: bool, now: Time) -> Result<Lease, AcquireError> {
        self.in_force(zone, |leases, zone| {
            leases.acquire_unconnected(&zone.pool, ipv6, now).map_err(|error| zone.refusal_in(error, ipv6))
        })
    }

    /// A range of ports in which the kernel will find a free one ([`Method::KernelRange`](lease::Method::KernelRange)).
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn acquire_range(
        &mut self,
        zone: &Zone,
        origin: &Origin,
        now: Time,
    ) -> Result<RangeLease, AcquireError> {
        self.in_force(zone, |leases, zone| {
            leases.acquire_range(&zone.pool, origin, now).map_err(|error| zone.refusal(error, origin))
        })
    }

    /// Completes a lease of a range with the port that the kernel chose.
    ///
    /// # Errors
    /// [`CompleteError`]: close the socket.
    pub fn complete(&mut self, range: &RangeLease, port: u16, now: Time) -> Result<Lease, CompleteError> {
        self.leases.complete(range, port, now)
    }

    /// A lease of a connection that exists already, as after a hot upgrade.
    ///
    /// # Errors
    /// [`AcquireError`]; no share, if its granule drains or is another machine's by now: tuples there are held with
    /// [`lease::Table::adopt`].
    pub fn adopt(&mut self, zone: &Zone, tuple: &Tuple, now: Time) -> Result<Lease, AcquireError> {
        self.in_force(zone, |leases, zone| {
            leases.adopt(&zone.pool, tuple, now).map_err(|error| zone.refusal(error, &tuple.origin))
        })
    }

    /// Gives a lease back, as [`Edge::release`](super::Edge::release): cheaper where several processes share the lease
    /// table.
    ///
    /// # Errors
    /// As [`Edge::release`](super::Edge::release).
    pub fn release(&mut self, lease: Lease, closed: Closed, now: Time) -> Result<(), Rejected> {
        self.leases.release(lease, closed, now)
    }

    /// Looks an origin up once, for many acquires.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn origin(&mut self, zone: &Zone, origin: Origin) -> Result<OriginHandle, AcquireError> {
        let found = self.state.get().zone(zone, &self.edge)?;
        let leases =
            self.leases.origin(&found.pool, origin).map_err(|error| found.refusal(error, &origin))?;
        Ok(OriginHandle { zone: zone.clone(), origin, pool: found.pool.clone(), leases })
    }

    /// As [`Worker::acquire`], without the look-up.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn acquire_from(&mut self, handle: &mut OriginHandle, now: Time) -> Result<Lease, AcquireError> {
        let OriginHandle { zone, origin, pool, leases: known } = handle;
        self.in_force(zone, |leases, zone| {
            if !zone.pool.is(pool) {
                let looked_up = leases.origin(&zone.pool, *origin);
                *known = looked_up.map_err(|error| zone.refusal(error, origin))?;
                *pool = zone.pool.clone();
            }
            leases.acquire(known, now).map_err(|error| zone.refusal(error, origin))
        })
    }

    /// Does something with a zone as of the epoch in force. If it is refused and the epoch has changed meanwhile, the
    /// refusal says nothing: once more.
    #[inline]
    fn in_force<T>(
        &mut self,
        zone: &Zone,
        mut acquire: impl FnMut(&mut lease::Worker<M>, &ZoneState) -> Result<T, AcquireError>,
    ) -> Result<T, AcquireError> {
        loop {
            let state = self.state.get();
            let epoch = state.epoch;
            let mut user = None;
            let acquired = state.zone(zone, &self.edge).and_then(|zone| {
                user = zone.user;
                acquire(&mut self.leases, zone)
            });
            let Err(refusal) = acquired else { return acquired };
            if self.state.get().epoch == epoch {
                if let (Some(user), Some(reason)) = (user, refusal.reason()) {
                    self.leases.count_refused(user, reason);
                }
                return acquired;
            }
        }
    }
}
