//! Which addresses exist, by what right?

use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4AddrRange, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::error::{Item, Refusal, Result, unique};
use crate::id::{AccountId, HoldingId, PoolId};
use crate::limits;
use crate::net::canonical_ip;

mod data_centers;
pub(crate) mod prefix;
mod state;

pub use state::AddressState;

pub use data_centers::{Choice, DataCenters, Wish};

/// By what right a prefix is used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// The operator owns it, the customer rents it.
    Leased,
    /// The customer brought it (bring your own IP).
    Byoip,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Leased => "leased",
            Self::Byoip => "byoip",
        })
    }
}

/// Which way the connections go that a block serves: never both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the network to origins: pools are made of it.
    #[default]
    Egress,
    /// From clients to the network: no pool, and nothing to delegate.
    Ingress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

/// The right to use a prefix.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holding {
    /// Unique in the inventory.
    pub id: HoldingId,
    /// The account that owns the lease or brought the prefix.
    pub account: AccountId,
    /// By what right.
    pub right: Right,
    /// The prefix; no host bits.
    pub prefix: IpNet,
    /// The data centers that announce it: for IPv4 a list or a choice, for IPv6 the whole global partition.
    pub data_centers: DataCenters,
    /// What it serves. A leased holding serves egress.
    pub serves: Direction,
    /// How far its addresses have come. All of them together, as they are announced and allowlisted; what is to go on by
    /// itself is a holding of its own.
    pub state: AddressState,
}

/// The egress addresses that zones may leave from: parts of holdings of one account and one right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// Unique in the inventory.
    pub id: PoolId,
    /// The account whose holdings it is made of.
    pub account: AccountId,
    /// Leased or BYOIP, never both.
    pub right: Right,
    /// Prefixes, each inside one holding, disjoint, in order. May mix IPv4 and IPv6.
    pub prefixes: Vec<IpNet>,
}

/// The holdings and the pools made of them. Holdings are disjoint; every prefix of a pool lies inside one holding.
///
/// Costs memory per prefix, not per address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory {
    holdings: BTreeMap<HoldingId, Holding>,
    pools: BTreeMap<PoolId, Pool>,
    /// The first address of each holding: as holdings are disjoint, the one before an address is the only candidate.
    by_address: BTreeMap<IpAddr, HoldingId>,
    /// The prefixes of all pools, in order, without those inside another: pools may share addresses.
    egress: Vec<IpNet>,
}

impl Inventory {
    /// An inventory of these holdings and pools, given in any order. Each IPv4 address is announced from at most
    /// `max_data_centers` data centers.
    ///
    /// Prefixes are brought into their one spelling (a block of IPv4-mapped IPv6 addresses is the IPv4 block), lists
    /// into order.
    ///
    /// # Errors
    /// - An id used twice.
    /// - Holding: host bits; overlap with another; a block that no packet comes from; IPv4 BYOIP longer than `/24`,
    ///   IPv6 longer than `/64`; IPv4 announced from no data center, from too many, or from one twice; IPv4 with more
    ///   pinned data centers than are to be chosen; IPv6 with a list or choice of data centers; a leased one that
    ///   serves ingress.
    /// - Pool: no prefixes; a prefix with host bits, outside any one holding, of another account or right, of a holding
    ///   that serves ingress, or overlapping another of the pool; IPv6 longer than `/64`.
    /// - More than [`limits::MAX_POOLED_V4`] IPv4 addresses in all pools together.
    ///
    /// Whether the accounts and data centers exist is not known here.
    pub fn new(
        holdings: impl IntoIterator<Item = Holding>,
        pools: impl IntoIterator<Item = Pool>,
        max_data_centers: u8,
    ) -> Result<Self> {
        Ok(Self::build(holdings, pools, max_data_centers)?)
    }

    /// As [`Inventory::new`], for a caller that can say where the item at fault stands.
    pub(crate) fn build(
        holdings: impl IntoIterator<Item = Holding>,
        pools: impl IntoIterator<Item = Pool>,
        max_data_centers: u8,
    ) -> Result<Self, Refusal> {
        let mut inventory = Self::default();
        for (id, mut holding) in unique("holding", holdings, |holding| &holding.id)? {
            holding.admit(max_data_centers)?;
            if let Some(other) = inventory.overlapping(holding.prefix) {
                let reason =
                    format!("{} overlaps {} of holding \"{}\"", holding.prefix, other.prefix, other.id);
                return Err(Refusal::new(Item::named("holding", id), "prefix", reason)
                    .against(Item::named("holding", &other.id)));
            }
            inventory.by_address.insert(holding.prefix.network(), id.clone());
            inventory.holdings.insert(id, holding);
        }
        for (id, mut pool) in unique("pool", pools, |pool| &pool.id)? {
            inventory.admit(&mut pool)?;
            inventory.pools.insert(id, pool);
        }
        inventory.egress = outermost(inventory.pools.values().flat_map(|pool| pool.prefixes.iter().copied()));
        inventory.check_size()?;
        Ok(inventory)
    }

    /// All holdings, by id.
    pub fn holdings(&self) -> impl ExactSizeIterator<Item = &Holding> {
        self.holdings.values()
    }

    /// All pools, by id.
    pub fn pools(&self) -> impl ExactSizeIterator<Item = &Pool> {
        self.pools.values()
    }

    /// The holding with this id.
    pub fn holding(&self, id: &HoldingId) -> Option<&Holding> {
        self.holdings.get(id)
    }

    /// The pool with this id.
    pub fn pool(&self, id: &PoolId) -> Option<&Pool> {
        self.pools.get(id)
    }

    /// The holding that `ip` belongs to.
    pub fn holding_of(&self, ip: IpAddr) -> Option<&Holding> {
        let ip = canonical_ip(ip);
        let (_, id) = self.by_address.range(..=ip).next_back()?;
        Some(&self.holdings[id]).filter(|holding| holding.prefix.contains(&ip))
    }

    /// Every IPv4 address that is in at least one pool, with its holding: ascending, once each.
    pub fn egress_v4(&self) -> impl Iterator<Item = (Ipv4Addr, &Holding)> {
        let prefixes = self.egress().filter_map(|(prefix, holding)| match prefix {
            IpNet::V4(prefix) => Some((prefix, holding)),
            IpNet::V6(_) => None,
        });
        prefixes.flat_map(|(prefix, holding)| {
            // Not `hosts()`: an egress address is not in a subnet, the first and last of a block are as good as any.
            Ipv4AddrRange::new(prefix.network(), prefix.broadcast()).map(move |address| (address, holding))
        })
    }

    /// The IPv6 prefixes of all pools (each `/64` or larger), with their holdings: ascending, disjoint. A prefix
    /// inside that of another pool is not listed again.
    pub fn egress_v6(&self) -> impl Iterator<Item = (Ipv6Net, &Holding)> {
        self.egress().filter_map(|(prefix, holding)| match prefix {
            IpNet::V6(prefix) => Some((prefix, holding)),
            IpNet::V4(_) => None,
        })
    }

    fn egress(&self) -> impl Iterator<Item = (IpNet, &Holding)> {
        self.egress.iter().map(|prefix| {
            let holding = self.holding_of(prefix.network()).expect("a pool's prefix lies inside a holding");
            (*prefix, holding)
        })
    }

    /// The first holding that shares an address with `prefix`.
    fn overlapping(&self, prefix: IpNet) -> Option<&Holding> {
        let inside = || self.by_address.range(prefix.network()..=prefix.broadcast()).next();
        self.holding_of(prefix.network()).or_else(|| inside().map(|(_, id)| &self.holdings[id]))
    }

    /// Checks a pool against the holdings and brings it into its one spelling.
    fn admit(&self, pool: &mut Pool) -> Result<(), Refusal> {
        let refuse = |reason: String| Refusal::new(Item::named("pool", &pool.id), "prefixes", reason);
        if pool.prefixes.is_empty() {
            return Err(refuse("it has no prefixes; list at least one that lies inside a holding".into()));
        }
        for (index, prefix) in pool.prefixes.iter_mut().enumerate() {
            let refuse = |reason| refuse(reason).element(index);
            *prefix = prefix::canonical(*prefix).map_err(refuse)?;
            let Some(holding) = self.overlapping(*prefix) else {
                return Err(refuse(format!("{prefix} lies in no holding")));
            };
            let Holding { id, account, right, serves, prefix: held, .. } = holding;
            let reason = if !held.contains(&*prefix) {
                format!("{prefix} is more than holding \"{id}\" ({held}); list parts of one holding each")
            } else if *account != pool.account {
                format!(
                    "{prefix} is of holding \"{id}\" of account \"{account}\", the pool is of \"{}\"",
                    pool.account
                )
            } else if *right != pool.right {
                let ours = pool.right;
                format!(
                    "{prefix} is of holding \"{id}\", which is {right}; the pool is {ours}, and never both"
                )
            } else if *serves != Direction::Egress {
                format!(
                    "{prefix} is of holding \"{id}\", which serves {serves}; a block serves egress or ingress, never both"
                )
            } else if prefix.addr().is_ipv6() && prefix.prefix_len() > limits::LONGEST_V6_HOLDING {
                format!("{prefix} of holding \"{id}\" is longer than /{}", limits::LONGEST_V6_HOLDING)
            } else {
                continue;
            };
            return Err(refuse(reason).against(Item::named("holding", id)));
        }
        pool.prefixes.sort_unstable();
        // In order, a block is followed at once by the first one inside it.
        if let Some(pair) = pool.prefixes.windows(2).find(|pair| prefix::overlap(pair[0], pair[1])) {
            return Err(refuse(format!("{} overlaps {} of the same pool", pair[1], pair[0])));
        }
        Ok(())
    }

    /// Refuses more pooled IPv4 addresses than anyone means.
    fn check_size(&self) -> Result<(), Refusal> {
        let total = v4_addresses(&self.egress);
        let largest = self.pools.values().max_by_key(|pool| v4_addresses(&pool.prefixes));
        match largest {
            Some(pool) if total > u64::from(limits::MAX_POOLED_V4) => Err(Refusal::new(
                Item::named("pool", &pool.id),
                "prefixes",
                format!(
                    "the pools hold {total} IPv4 addresses together, most of them in this one; at most {} are \
                     supported",
                    limits::MAX_POOLED_V4
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl Holding {
    /// Checks what needs no other holding, and brings it into its one spelling.
    fn admit(&mut self, max_data_centers: u8) -> Result<(), Refusal> {
        let refuse = |field, reason: String| Refusal::new(Item::named("holding", &self.id), field, reason);
        let prefix = prefix::canonical(self.prefix).map_err(|reason| refuse("prefix", reason))?;
        let len = prefix.prefix_len();
        if let Some(kind) = prefix::no_source(prefix) {
            return Err(refuse(
                "prefix",
                format!("{prefix} holds {kind} addresses, which no connection can leave from"),
            ));
        }
        if self.right == Right::Leased && self.serves != Direction::Egress {
            let reason =
                format!("{prefix} is leased, and serves egress; only a BYOIP block serves {}", self.serves);
            return Err(refuse("serves", reason));
        }
        match prefix {
            IpNet::V4(_) if self.right == Right::Byoip && len > limits::LONGEST_ROUTED_V4 => {
                let longest = limits::LONGEST_ROUTED_V4;
                let reason =
                    format!("{prefix} is longer than /{longest}: the Internet does not route it alone");
                return Err(refuse("prefix", reason));
            }
            IpNet::V6(_) if len > limits::LONGEST_V6_HOLDING => {
                let longest = limits::LONGEST_V6_HOLDING;
                return Err(refuse(
                    "prefix",
                    format!("{prefix} is longer than /{longest}; an IPv6 holding is not"),
                ));
            }
            IpNet::V6(_) if self.data_centers != DataCenters::Global => {
                let reason = "IPv6 is announced from every global data center; remove the list".to_owned();
                return Err(refuse("data_centers", reason));
            }
            IpNet::V6(_) => {}
            IpNet::V4(_) => self.admit_data_centers(prefix, max_data_centers)?,
        }
        self.prefix = prefix;
        if let DataCenters::Listed(list) = &mut self.data_centers {
            list.sort_unstable();
        }
        Ok(())
    }

    /// Checks where the addresses of an IPv4 holding are announced.
    fn admit_data_centers(&self, prefix: IpNet, max: u8) -> Result<(), Refusal> {
        let refuse = |field, reason: String| Refusal::new(Item::named("holding", &self.id), field, reason);
        match &self.data_centers {
            DataCenters::Listed(list) if !list.is_empty() => {
                if list.len() > usize::from(max) {
                    let reason = format!(
                        "{prefix} is announced from {} data centers; the limit (data_centers_per_address) is {max}",
                        list.len()
                    );
                    return Err(refuse("data_centers", reason));
                }
                for (index, id) in list.iter().enumerate() {
                    if list[..index].contains(id) {
                        let reason = format!("data center \"{id}\" is listed twice");
                        return Err(refuse("data_centers", reason).element(index));
                    }
                }
            }
            DataCenters::Listed(_) | DataCenters::Global => {
                let reason = format!(
                    "{prefix} is announced from no data center; list 1 to {max}, or say how many to choose"
                );
                return Err(refuse("data_centers", reason));
            }
            DataCenters::Chosen(choice) => {
                let count = choice.count.map_or(max, u8::from);
                if count > max {
                    let reason = format!(
                        "{prefix} is to be announced from {count} data centers; the limit \
                         (data_centers_per_address) is {max}"
                    );
                    return Err(refuse("data_center_count", reason));
                }
                if let Some((index, id)) = choice.pinned().enumerate().nth(usize::from(count)) {
                    let reason = format!(
                        "data center \"{id}\" is pinned as number {}, but only {count} announce an address; pin fewer, \
                         or raise the count",
                        index + 1
                    );
                    return Err(refuse("pinned_data_centers", reason));
                }
            }
        }
        Ok(())
    }
}

/// The blocks in order, without those inside another.
fn outermost(prefixes: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let mut sorted: Vec<_> = prefixes.collect();
    sorted.sort_unstable();
    let mut outer = Vec::<IpNet>::new();
    for prefix in sorted {
        if !outer.last().is_some_and(|last| last.contains(&prefix)) {
            outer.push(prefix);
        }
    }
    outer
}

/// How many IPv4 addresses disjoint blocks hold.
fn v4_addresses(prefixes: &[IpNet]) -> u64 {
    let of = |prefix: &IpNet| if prefix.addr().is_ipv4() { 1 << (32 - prefix.prefix_len()) } else { 0 };
    prefixes.iter().map(of).sum()
}

#[cfg(test)]
mod tests;
