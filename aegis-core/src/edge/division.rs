//! How a machine's shares are divided: what all zones of a pool share, what is one zone's alone, what unconnected sockets
//! use, and what drains.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;

use crate::bundle::Bundle;
use crate::epoch::{Departure, Layout, Standing};
use crate::error::{Error, Result};
use crate::id::{PoolId, ZoneId};
use crate::inventory::AddressState;
use crate::lease::{GranuleState, Method, Share};
use crate::net::PortRange;

use super::Rules;

/// A granule, or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) ip: IpAddr,
    pub(super) range: PortRange,
    pub(super) method: Method,
    /// The lease table does not know it yet: it may still be split.
    is_fresh: bool,
}

/// One pool's part of a machine's shares, divided.
#[derive(Default)]
pub(super) struct PoolDivision {
    pub(super) shared: Vec<Part>,
    pub(super) reserved: BTreeMap<ZoneId, Vec<Part>>,
    pub(super) unconnected: Vec<Part>,
    /// There are shares that are not active (yet, or any more): IPv4, IPv6.
    pub(super) inactive: [bool; 2],
}

/// A machine's shares, pool by pool.
pub(super) struct Division {
    pools: BTreeMap<PoolId, PoolDivision>,
    /// What drains, or has ports that stayed behind here.
    draining: Vec<Part>,
    /// A rule that there are too few ports for.
    short: Option<Error>,
}

impl Division {
    /// Divides by the rules. Parts that the lease table knows already stay as they are: connections live there.
    pub(super) fn new(
        bundle: &Bundle,
        rules: &Rules,
        known: impl Iterator<Item = (IpAddr, PortRange, Method)>,
    ) -> Self {
        let known = Known::new(known);
        let granules = granules(bundle);
        let mut division = Self { pools: BTreeMap::new(), draining: Vec::new(), short: None };
        for (ip, range) in draining(bundle) {
            division.draining.extend(known.parts(ip, range, rules.method));
        }
        for pool in bundle.pools() {
            let mut divided = PoolDivision::default();
            for &(ip, range) in &granules {
                if pool.prefixes.iter().any(|prefix| prefix.contains(&ip)) {
                    match state_of(bundle, ip) {
                        AddressState::Active => divided.shared.extend(known.parts(ip, range, rules.method)),
                        state => {
                            divided.inactive[usize::from(ip.is_ipv6())] = true;
                            // Connections may live there still, also such as are adopted after a restart.
                            if state == AddressState::Retiring {
                                division.draining.extend(known.parts(ip, range, rules.method));
                            }
                        }
                    }
                }
            }
            (divided.unconnected, divided.shared) =
                divided.shared.into_iter().partition(|part| part.method == Method::UnconnectedUdp);
            division.reserve(&mut divided, bundle, rules, &pool.id);
            division.pools.insert(pool.id.clone(), divided);
        }
        division
    }

    /// Gives the ports of a pool away that not everybody shares.
    fn reserve(&mut self, divided: &mut PoolDivision, bundle: &Bundle, rules: &Rules, pool: &PoolId) {
        for ipv6 in [false, true] {
            if let Some(&ports) = rules.unconnected_udp.get(pool) {
                let has: u32 = of_family(&divided.unconnected, ipv6).map(|part| part.range.len()).sum();
                let (taken, left) = take(&mut divided.shared, ipv6, ports.saturating_sub(has), true);
                if left > 0 {
                    self.short = Some(too_many("unconnected UDP sockets", pool, ports));
                }
                let method = Method::UnconnectedUdp;
                divided.unconnected.extend(taken.into_iter().map(|part| Part { method, ..part }));
            }
            for grant in bundle.grants().iter().filter(|grant| grant.pool == *pool) {
                if let Some(&ports) = rules.reserved.get(&grant.zone) {
                    let (taken, left) = take(&mut divided.shared, ipv6, ports, false);
                    if left > 0 {
                        self.short = Some(too_many(&format!("zone {}", grant.zone), pool, ports));
                    }
                    divided.reserved.entry(grant.zone.clone()).or_default().extend(taken);
                }
            }
        }
    }

    /// # Errors
    /// There are too few ports for a rule.
    pub(super) fn check(&self) -> Result<()> {
        self.short.clone().map_or(Ok(()), Err)
    }

    pub(super) fn pools(&self) -> impl Iterator<Item = (&PoolId, &PoolDivision)> {
        self.pools.iter()
    }

    /// What the lease table is told.
    pub(super) fn shares(&self, bundle: &Bundle) -> Vec<Share> {
        let owned = self.pools.values().flat_map(PoolDivision::parts);
        let owned = owned.map(|part| share(part, GranuleState::Owned, bundle.layout(), bundle));
        let draining =
            self.draining.iter().map(|part| share(part, GranuleState::Draining, bundle.layout(), bundle));
        owned.chain(draining).collect()
    }
}

impl PoolDivision {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.shared.iter().chain(&self.unconnected).chain(self.reserved.values().flatten())
    }
}

/// What the layout says about a part.
fn share(part: &Part, state: GranuleState, layout: &Layout, bundle: &Bundle) -> Share {
    let &Part { ip, range, method, .. } = part;
    let mut share = Share { state, ip, range, method, withheld: Vec::new(), after_death: None };
    if let IpAddr::V4(address) = ip {
        let me = layout.machine_index(bundle.machine());
        let moving = layout.handovers();
        let behind = moving.holdouts_in(address, range.lo(), range.hi()).iter();
        share.withheld = behind.filter(|h| Some(h.machine) != me).map(|h| h.port).collect();
        let granule = layout.cut().granule_of(range.lo());
        let previous = granule.and_then(|granule| moving.previous_of(address, granule));
        let died = previous.filter(|previous| previous.departure == Departure::Died);
        share.after_death = died.map(|previous| previous.since.get());
    }
    share
}

/// The parts that a lease table knows, in order.
struct Known(BTreeMap<(IpAddr, u16), (PortRange, Method)>);

impl Known {
    fn new(parts: impl Iterator<Item = (IpAddr, PortRange, Method)>) -> Self {
        Self(parts.map(|(ip, range, method)| ((ip, range.lo()), (range, method))).collect())
    }

    /// The parts of a granule: as they are known, or the whole.
    fn parts(&self, ip: IpAddr, range: PortRange, method: Method) -> Vec<Part> {
        let inside = self.0.range((ip, range.lo())..=(ip, range.hi()));
        let parts: Vec<Part> =
            inside.map(|(&(ip, _), &(range, method))| Part { ip, range, method, is_fresh: false }).collect();
        if parts.is_empty() { vec![Part { ip, range, method, is_fresh: true }] } else { parts }
    }
}

fn of_family(parts: &[Part], ipv6: bool) -> impl Iterator<Item = &Part> {
    parts.iter().filter(move |part| part.ip.is_ipv6() == ipv6)
}

/// Takes at least so many ports of one family, from the end; what it could not take. No ports at all of the family are
/// fine.
///
/// A part that is known is not split: it is taken whole, a fitting one first; with `only_fresh`, not at all.
fn take(parts: &mut Vec<Part>, ipv6: bool, ports: u32, only_fresh: bool) -> (Vec<Part>, u32) {
    let mut taken = Vec::new();
    let mut left = ports;
    if of_family(parts, ipv6).next().is_none() {
        return (taken, 0);
    }
    let is_of = |part: &Part| part.ip.is_ipv6() == ipv6;
    while left != 0 {
        let fits = |part: &Part| is_of(part) && !only_fresh && !part.is_fresh && part.range.len() <= left;
        let small = |part: &Part| fits(part) && !part.range.len().is_power_of_two();
        let at = parts
            .iter()
            .rposition(|part| small(part) || fits(part) && part.range.len() == left)
            .or_else(|| parts.iter().rposition(|part| is_of(part) && part.is_fresh))
            .or_else(|| parts.iter().rposition(fits))
            .or_else(|| parts.iter().rposition(|part| is_of(part) && !only_fresh));
        let Some(at) = at else { break };
        let part = parts[at];
        if part.range.len() <= left || !part.is_fresh {
            left = left.saturating_sub(part.range.len());
            taken.push(parts.remove(at));
        } else {
            let first = part.range.hi() - (left as u16 - 1);
            parts[at].range = PortRange::new(part.range.lo(), first - 1).expect("some are left");
            taken.push(Part {
                range: PortRange::new(first, part.range.hi()).expect("some are taken"),
                ..part
            });
            left = 0;
        }
    }
    (taken, left)
}

fn too_many(for_whom: &str, pool: &PoolId, ports: u32) -> Error {
    Error::input(format!(
        "{ports} ports of pool {pool} for {for_whom}: this machine has fewer that are active and not given away; \
         reserve fewer"
    ))
}

fn state_of(bundle: &Bundle, ip: IpAddr) -> AddressState {
    let found = bundle.addresses().iter().find(|(prefix, _)| prefix.contains(&ip));
    found.map_or(AddressState::Allocated, |&(_, state)| state)
}

/// The granules that the bundle's machine may grant from.
fn granules(bundle: &Bundle) -> Vec<(IpAddr, PortRange)> {
    let layout = bundle.layout();
    if !is_serving(bundle) {
        return Vec::new();
    }
    let grants = |&(ip, range): &(Ipv4Addr, PortRange)| {
        let granule = layout.cut().granule_of(range.lo());
        granule.is_some_and(|granule| layout.handovers().draining_of(ip, granule).is_none())
    };
    let v4 = layout.shares_of(bundle.machine()).filter(grants).map(|(ip, range)| (IpAddr::V4(ip), range));
    v4.chain(v6_granules(bundle)).collect()
}

fn is_serving(bundle: &Bundle) -> bool {
    let layout = bundle.layout();
    let me = layout.machine_index(bundle.machine()).map(|index| &layout.machines()[index.get()]);
    me.is_some_and(|machine| machine.standing == Standing::Serving)
}

/// The machine's granules in IPv6: every address of the machine is its own, so one granule of each is plenty: 256 addresses
/// make half a million ports towards one origin. All granules of each would only spread an origin's connections over more
/// pages.
///
/// Which one follows from the address alone: when prefixes come and go the others keep theirs, or the lease table would have
/// to know ever more granules.
fn v6_granules(bundle: &Bundle) -> impl Iterator<Item = (IpAddr, PortRange)> {
    let layout = bundle.layout();
    let usable: Vec<PortRange> =
        layout.cut().granules().filter_map(|index| layout.cut().range(index)).collect();
    let count = bundle.v6_addresses();
    let places = (0..count as usize).cycle();
    let addresses = layout.v6_addresses_of(bundle.machine(), count).zip(places);
    addresses.filter_map(move |(ip, place)| Some((IpAddr::V6(ip), *usable.get(place % usable.len().max(1))?)))
}

/// The granules of the bundle's machine that drain, and those where ports stayed behind at it.
fn draining(bundle: &Bundle) -> Vec<(IpAddr, PortRange)> {
    let layout = bundle.layout();
    let moving = layout.handovers();
    let me = layout.machine_index(bundle.machine());
    let own = layout.shares_of(bundle.machine()).filter(|(ip, range)| {
        layout.cut().granule_of(range.lo()).is_some_and(|granule| moving.draining_of(*ip, granule).is_some())
    });
    let behind = moving.holdouts().iter().filter(|h| Some(h.machine) == me);
    let behind =
        behind.filter_map(|h| Some((h.address, layout.cut().range(layout.cut().granule_of(h.port)?)?)));
    let mut granules: Vec<_> = own.chain(behind).map(|(ip, range)| (IpAddr::V4(ip), range)).collect();
    if !is_serving(bundle) {
        // It grants nothing new there, but must know when nothing is open any more.
        granules.extend(v6_granules(bundle));
    }
    granules.sort_unstable();
    granules.dedup();
    granules
}
