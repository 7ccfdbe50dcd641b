use crate::error::{Error, Result};
use crate::fleet::Latency;

/// A site that an origin cannot be reached through.
pub(super) const FAR: u32 = u32::MAX;

/// What a connection counts that nobody serves, in microseconds: more than any chain of moves could save.
pub(super) const UNSERVED: i64 = 1 << 48;

/// A data center that may announce addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// Sites of the same number are in one city.
    pub city: usize,
    /// Connections to one origin that one slice here is planned for: slices of one address count as equal parts.
    pub capacity: u64,
    /// Every address is to be announced here.
    pub pinned: bool,
}

/// The connections to one origin, and how far it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Need {
    demand: Vec<u64>,
    sites: usize,
    /// Ingress by ingress, a row of sites.
    costs: Vec<u32>,
    total: u64,
    reached: Vec<bool>,
}

impl Need {
    /// Peak concurrent connections from each ingress data center, and the round trip ingress -> site -> origin: a row of
    /// `sites` for each ingress, none where there is no way.
    ///
    /// # Errors
    /// A matrix of another size; more connections than 64 bits count.
    pub fn new(demand: Vec<u64>, round_trips: Vec<Option<Latency>>, sites: usize) -> Result<Self> {
        if Some(round_trips.len()) != demand.len().checked_mul(sites) {
            return Err(Error::input(format!(
                "{} round trips for {} data centers of ingress and {sites} sites; give one for each pair",
                round_trips.len(),
                demand.len()
            )));
        }
        let total = demand.iter().try_fold(0_u64, |sum, demand| sum.checked_add(*demand));
        let Some(total) = total else {
            return Err(Error::input("the connections to an origin add up to more than 64 bits count"));
        };
        let cost = |latency: Option<Latency>| latency.map_or(FAR, |latency| latency.as_micros().min(FAR - 1));
        let costs: Vec<u32> = round_trips.into_iter().map(cost).collect();
        // A row without demand asks for nothing, and would make an ingress that sends nothing.
        let (mut kept, mut rows) = (Vec::new(), Vec::new());
        for (ingress, demand) in demand.into_iter().enumerate().filter(|(_, demand)| *demand > 0) {
            kept.push(demand);
            rows.extend_from_slice(&costs[ingress * sites..][..sites]);
        }
        let reached = (0..sites).map(|site| rows.iter().skip(site).step_by(sites).any(|cost| *cost != FAR));
        Ok(Self { reached: reached.collect(), demand: kept, sites, costs: rows, total })
    }

    /// Connections by ingress; none of them zero.
    pub fn demand(&self) -> &[u64] {
        &self.demand
    }

    /// All connections.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Is there a way through this site?
    pub fn reaches(&self, site: usize) -> bool {
        self.reached[site]
    }

    pub(super) const fn sites(&self) -> usize {
        self.sites
    }

    pub(super) fn row(&self, ingress: u32) -> &[u32] {
        &self.costs[ingress as usize * self.sites..][..self.sites]
    }

    pub(super) fn cost(&self, ingress: u32, site: usize) -> u32 {
        self.costs[ingress as usize * self.sites + site]
    }
}

/// How many cities one address may be announced from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cities {
    /// As many as it has data centers.
    #[default]
    Any,
    /// One.
    One,
    /// One or two.
    Two,
}

impl Cities {
    /// The most cities, if there is a limit.
    pub const fn limit(self) -> Option<usize> {
        match self {
            Self::Any => None,
            Self::One => Some(1),
            Self::Two => Some(2),
        }
    }
}

/// What the loss of a data center may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loss {
    /// The others carry all connections, whichever is lost.
    #[default]
    Survived,
    /// Connections are refused then.
    Accepted,
}

/// Which sites announce which address?
///
/// Each of [`addresses`](Self::addresses) is announced from exactly [`per_address`](Self::per_address) different sites,
/// which lie in at most [`cities`](Self::cities) and include the pinned ones. A site that announces n addresses takes n
/// times its capacity of *each* origin's connections, for a port carries one connection to every origin. The sum over all
/// connections of the round trip ingress -> exit -> origin is to be the least. Where one site announces an address alone,
/// no other address is announced there: else both had the same single point of failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Candidates.
    pub sites: Vec<Site>,
    /// One for each origin.
    pub needs: Vec<Need>,
    /// How many addresses there are.
    pub addresses: u32,
    /// From how many sites each is announced.
    pub per_address: u8,
    /// In how many cities each may be.
    pub cities: Cities,
    /// Do the others carry all if one is lost?
    pub loss: Loss,
}

impl Problem {
    /// Slices of all addresses together.
    pub(super) fn slices(&self) -> u64 {
        u64::from(self.addresses) * u64::from(self.per_address)
    }

    /// How many slices a site may have at most.
    pub(super) fn most_slices(&self, site: usize) -> u64 {
        let most = if self.per_address == 1 { 1 } else { u64::from(self.addresses) };
        if self.loss == Loss::Accepted || self.sites[site].capacity == 0 {
            return most;
        }
        // Whatever is lost here must fit elsewhere: into the slices that this site has not.
        let largest = |need: &Need| {
            let others =
                self.sites.iter().enumerate().filter(|(other, _)| *other != site && need.reaches(*other));
            others.map(|(_, other)| other.capacity).max().unwrap_or(0)
        };
        let elsewhere =
            self.needs.iter().map(|need| need.total().div_ceil(largest(need).max(1))).max().unwrap_or(0);
        most.min(self.slices().saturating_sub(elsewhere))
    }

    /// How many connections have nowhere to go when the worst site is lost, over all origins.
    pub(super) fn lost(&self, slices: &[u64]) -> u64 {
        if self.loss == Loss::Accepted {
            return 0;
        }
        let lost = |need: &Need| {
            let reached = |site: &usize| need.reaches(*site);
            let capacity = |site: usize| u128::from(slices[site]) * u128::from(self.sites[site].capacity);
            let all: u128 = (0..self.sites.len()).filter(reached).map(capacity).sum();
            let worst = (0..self.sites.len()).filter(reached).map(capacity).max().unwrap_or(0);
            u64::try_from(u128::from(need.total()).saturating_sub(all - worst)).unwrap_or(u64::MAX)
        };
        self.needs.iter().map(lost).fold(0, u64::saturating_add)
    }

    /// How many connections to one origin each site takes with these slices.
    pub(super) fn capacities(&self, slices: &[u64]) -> Vec<u64> {
        self.sites.iter().zip(slices).map(|(site, slices)| site.capacity.saturating_mul(*slices)).collect()
    }
}
