//! Which data centers may announce addresses, and how far is it through them? Every wish is checked here, and what
//! cannot be met is named with the smallest change that would meet it.

use std::collections::{BTreeMap, BTreeSet};

use super::blocking::Shares;
use super::constraints::Constraints;
use super::demand::OriginDemand;
use super::placement::{Loss, Need, Problem, Site};
use crate::error::{Error, Result};
use crate::fleet::{DataCenter, Fleet, Latencies, Latency, Partition};
use crate::id::DataCenterId;
use crate::inventory::Wish;

/// The data centers that may announce addresses, in order of their codes.
pub(super) struct Candidates<'a> {
    pub(super) sites: Vec<Candidate<'a>>,
    /// Ports of an address that may be used.
    pub(super) ports: u32,
    constraints: &'a Constraints,
}

pub(super) struct Candidate<'a> {
    pub(super) data_center: &'a DataCenter,
    /// Of its machines in use, together.
    pub(super) weight: u64,
    machines: u32,
    pinned: bool,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(fleet: &'a Fleet, constraints: &'a Constraints) -> Result<Self> {
        let wishes = &constraints.wishes;
        let in_use = |id: &DataCenterId| fleet.machines_in(id).filter(|machine| machine.weight > 0);
        for (id, wish) in &wishes.wishes {
            let word = if *wish == Wish::Pinned { "pinned" } else { "forbidden" };
            let fault = match fleet.data_center(id) {
                None => "which does not exist; correct its code",
                Some(_) if *wish == Wish::Forbidden => continue,
                Some(d) if d.partition != Partition::Global => {
                    "which is in a separate partition and gets no global addresses; unpin it"
                }
                Some(_) if in_use(id).next().is_none() => {
                    "which has no machines in use; add one, or unpin it"
                }
                Some(_) => continue,
            };
            return Err(Error::input(format!("data center {id} is {word}, {fault}")));
        }
        let candidate = |data_center: &'a DataCenter| Candidate {
            weight: in_use(&data_center.id).map(|machine| u64::from(machine.weight)).sum(),
            machines: u32::try_from(in_use(&data_center.id).count()).unwrap_or(u32::MAX),
            pinned: wishes.wishes.get(&data_center.id) == Some(&Wish::Pinned),
            data_center,
        };
        let allowed =
            fleet.data_centers().filter(|d| d.partition == Partition::Global && wishes.allows(&d.id));
        let sites: Vec<_> = allowed.map(candidate).filter(|candidate| candidate.machines > 0).collect();
        let cut = &constraints.policy.cut;
        let ports = cut.granules().count() as u32 * cut.granule().ports();
        let candidates = Self { sites, ports, constraints };
        candidates.check_counts(fleet)?;
        Ok(candidates)
    }

    /// How many data centers may announce each address: all that are worth trying.
    pub(super) fn per_address(&self) -> Vec<u8> {
        let granules = self.constraints.policy.cut.granules().count();
        let most =
            usize::from(self.constraints.policy.data_centers_per_address).min(self.sites.len()).min(granules);
        let most = most.min(255) as u8;
        match (self.constraints.wishes.count, self.constraints.cities.limit()) {
            (Some(count), _) => vec![count.get()],
            // Where cities are few, more data centers may leave too few cities to choose from.
            (None, Some(_)) => {
                (1..=most).rev().filter(|count| *count >= self.pinned().count() as u8).collect()
            }
            (None, None) => vec![most],
        }
    }

    pub(super) fn pinned(&self) -> impl Iterator<Item = &Candidate<'a>> {
        self.sites.iter().filter(|candidate| candidate.pinned)
    }

    fn check_counts(&self, fleet: &Fleet) -> Result<()> {
        let Constraints { policy, wishes, cities, .. } = self.constraints;
        let most = usize::from(policy.data_centers_per_address);
        let names = |list: &[&str]| list.join(" and ");
        if most == 0 || policy.max_granules_per_machine == Some(0) {
            return Err(Error::input(
                "a policy of 0 data centers per address, or of 0 granules per machine, assigns nothing; use 1 or more",
            ));
        }
        if self.sites.is_empty() {
            let forbidden = fleet.data_centers().find(|d| {
                d.partition == Partition::Global && fleet.machines_in(&d.id).any(|machine| machine.weight > 0)
            });
            let what = match forbidden {
                Some(d) => format!("every data center with machines in use is forbidden; allow {}", d.id),
                None => {
                    "no data center of the global partition has machines in use; add a machine".to_owned()
                }
            };
            return Err(Error::input(what));
        }
        let pinned: Vec<&str> = self.pinned().map(|c| c.data_center.id.as_str()).collect();
        let count = wishes.count.map_or(most, |count| usize::from(count.get()));
        if count > most {
            return Err(Error::input(format!(
                "{count} data centers are asked for each address, the policy allows {most}; ask for {most}, or raise \
                 data_centers_per_address to {count}"
            )));
        }
        if pinned.len() > count {
            let raise =
                if pinned.len() > most { "raise data_centers_per_address" } else { "raise the count" };
            return Err(Error::input(format!(
                "{} data centers are pinned ({}), but an address may be at {count}; {raise} to {}, or unpin {}",
                pinned.len(),
                names(&pinned),
                pinned.len(),
                pinned.len() - count
            )));
        }
        let pinned_cities: BTreeSet<&str> = self.pinned().map(|c| &*c.data_center.city).collect();
        if let Some(limit) = cities.limit().filter(|limit| pinned_cities.len() > *limit) {
            return Err(Error::input(format!(
                "the pinned data centers {} lie in {} cities, {limit} allowed for an address; allow {} cities, or unpin \
                 {}",
                names(&pinned),
                pinned_cities.len(),
                pinned_cities.len(),
                if pinned_cities.len() - limit == 1 { "one" } else { "some" }
            )));
        }
        if let Some(count) = wishes.count.filter(|count| usize::from(count.get()) > self.sites.len()) {
            return Err(Error::input(format!(
                "{count} data centers are asked for each address, but only {} may announce it; ask for {}, or allow {} \
                 more",
                self.sites.len(),
                self.sites.len(),
                usize::from(count.get()) - self.sites.len()
            )));
        }
        let granules = policy.cut.granules().count();
        if count > granules && wishes.count.is_some() {
            return Err(Error::input(format!(
                "{count} data centers are asked for each address, which has {granules} granules; ask for {granules}, or \
                 use smaller granules"
            )));
        }
        self.check_cities(wishes.count.map_or(1, |count| usize::from(count.get())))
    }

    /// Are there cities with enough data centers for an address?
    fn check_cities(&self, count: usize) -> Result<()> {
        let Some(limit) = self.constraints.cities.limit() else { return Ok(()) };
        let mut sizes = BTreeMap::<&str, (bool, usize)>::new();
        for candidate in &self.sites {
            let (pinned, size) = sizes.entry(&candidate.data_center.city).or_default();
            *pinned |= candidate.pinned;
            *size += 1;
        }
        // Pinned cities first, then the largest.
        let mut order: Vec<(bool, usize, &str)> =
            sizes.iter().map(|(city, (p, size))| (*p, *size, *city)).collect();
        order.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(b.2)));
        let most: usize = order.iter().take(limit).map(|(_, size, _)| size).sum();
        if most >= count {
            return Ok(());
        }
        let needed =
            (limit..=order.len()).find(|n| order.iter().take(*n).map(|(_, s, _)| s).sum::<usize>() >= count);
        let wider = needed.map_or(String::new(), |needed| format!(", or allow {needed} cities"));
        Err(Error::input(format!(
            "each address is to be at {count} data centers in at most {limit} {}, but the best ({}) has only {most} that \
             may announce it; ask for {most} data centers{wider}",
            if limit == 1 { "city" } else { "cities" },
            order.iter().take(limit).map(|(_, _, city)| *city).collect::<Vec<_>>().join(" and "),
        )))
    }

    /// Connections to one origin that one slice of an address at `per_address` data centers is planned for.
    ///
    /// Slices count as equal parts here; what the layout really gives is checked afterwards. With several addresses a
    /// machine refuses less than with one, as all its ports count together: that is left out, on the safe side.
    fn slice_capacity(
        &self,
        candidate: &Candidate<'_>,
        per_address: u8,
        known: &mut BTreeMap<(u32, u32), u64>,
    ) -> u64 {
        let policy = &self.constraints.policy;
        let granule = policy.cut.granule().ports();
        let limit = policy
            .max_granules_per_machine
            .map_or(u64::MAX, |most| u64::from(most) * u64::from(granule) * u64::from(candidate.machines));
        let ports = u64::from(self.ports / u32::from(per_address)).min(limit) as u32;
        let machines = candidate.machines.min((ports / granule).max(1));
        *known.entry((machines, ports)).or_insert_with(|| {
            let shares = Shares::equal(machines, ports / machines);
            shares.planned(self.constraints.refusals, self.constraints.imbalance)
        })
    }

    /// The placement problem, but for the number of addresses.
    pub(super) fn problem(&self, needs: &[Need], per_address: u8) -> Problem {
        let mut cities = BTreeMap::new();
        let mut known = BTreeMap::new();
        let site = |candidate: &Candidate<'_>| {
            let next = cities.len();
            Site {
                city: *cities.entry(candidate.data_center.city.clone()).or_insert(next),
                capacity: self.slice_capacity(candidate, per_address, &mut known),
                pinned: candidate.pinned,
            }
        };
        Problem {
            sites: self.sites.iter().map(site).collect(),
            needs: needs.to_vec(),
            addresses: 0,
            per_address,
            cities: self.constraints.cities,
            loss: self.constraints.loss,
        }
    }

    /// The connections to each origin and the round trips through each candidate.
    pub(super) fn needs(
        &self,
        fleet: &Fleet,
        latencies: &Latencies,
        demands: &[OriginDemand],
    ) -> Result<Vec<Need>> {
        if demands.is_empty() {
            return Err(Error::input("there is no demand; give at least one origin"));
        }
        let mut origins = BTreeSet::new();
        for demand in demands {
            if !origins.insert(demand.origin()) {
                return Err(Error::input(format!("origin {} has two demands; add them up", demand.origin())));
            }
        }
        if latencies.data_centers().is_empty() {
            return Err(Error::input(
                "the latency matrix is empty; give round trips, or take the estimate from coordinates",
            ));
        }
        demands.iter().map(|demand| self.need(fleet, latencies, demand)).collect()
    }

    fn need(&self, fleet: &Fleet, latencies: &Latencies, demand: &OriginDemand) -> Result<Need> {
        let origin = demand.origin();
        self.check_reach(fleet, demand)?;
        let mut trips = Vec::with_capacity(demand.ingress().len() * self.sites.len());
        for id in demand.ingress().keys() {
            let Some(from) = latencies.position(id) else {
                return Err(Error::input(format!(
                    "origin {origin}: traffic enters at data center {id}, which the latency matrix does not know; correct \
                     its code"
                )));
            };
            let through = |candidate: &Candidate<'_>| -> Option<Latency> {
                let exit = &candidate.data_center.id;
                Some(latencies.at(from, latencies.position(exit)?)? + demand.reach().get(exit)?)
            };
            let row = trips.len();
            trips.extend(self.sites.iter().map(through));
            let ways: Vec<usize> =
                (0..self.sites.len()).filter(|site| trips[row + site].is_some()).take(2).collect();
            if let (Loss::Survived, [only]) = (self.constraints.loss, &ways[..]) {
                return Err(Error::input(format!(
                    "origin {origin}: from ingress {id} there is a way through {} only, and the loss of any data center is to \
                     be survived; give its round trip to another one that reaches the origin, or accept the loss",
                    self.sites[*only].data_center.id
                )));
            }
            if ways.is_empty() {
                return Err(Error::input(format!(
                    "origin {origin}: from ingress {id} there is no way through any allowed data center; give its round \
                     trip to one that reaches the origin ({})",
                    self.sites
                        .iter()
                        .find(|candidate| demand.reach().get(&candidate.data_center.id).is_some())
                        .map_or("none", |candidate| candidate.data_center.id.as_str())
                )));
            }
        }
        Need::new(demand.ingress().values().copied().collect(), trips, self.sites.len())
    }

    /// Is the origin reached, and by two if one may be lost?
    fn check_reach(&self, fleet: &Fleet, demand: &OriginDemand) -> Result<()> {
        let reaching =
            self.sites.iter().filter(|candidate| demand.reach().get(&candidate.data_center.id).is_some());
        let reaching: Vec<&DataCenterId> =
            reaching.map(|candidate| &candidate.data_center.id).take(2).collect();
        let must = if self.constraints.loss == Loss::Survived { 2 } else { 1 };
        if reaching.len() >= must {
            return Ok(());
        }
        // The nearest to the origin that would do, if it were allowed or had machines.
        let more = demand.reach().iter().filter(|(id, _)| {
            !reaching.contains(id) && fleet.data_center(id).is_some_and(|d| d.partition == Partition::Global)
        });
        let nearest = more.min_by_key(|(id, latency)| (*latency, *id)).map(|(id, _)| id);
        let remedy = match nearest {
            Some(id) if self.constraints.wishes.allows(id) => format!("add a machine in {id}"),
            Some(id) => format!("allow {id}"),
            None => "give a round trip to it from one more".to_owned(),
        };
        let why = if nearest.is_some() { " (the nearest other one that reaches it)" } else { "" };
        Err(Error::input(match reaching.first() {
            None => format!(
                "origin {} is reached by no allowed data center with machines; {remedy}{why}",
                demand.origin()
            ),
            Some(only) => format!(
                "origin {} is reached by {only} only, and the loss of any data center is to be survived; {remedy}{why}, \
                 or accept the loss",
                demand.origin()
            ),
        }))
    }
}
