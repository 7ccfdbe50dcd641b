//! From demand and constraints to a plan.

use super::candidates::Candidates;
use super::constraints::Constraints;
use super::demand::OriginDemand;
use super::explain::{self, Break, Exit, WorstLoss};
use super::output;
use super::placement::{Flow, Loss, Need, Placement, Problem, place};
use super::sizing::{self, Asks, Rule, Sizing};
use crate::epoch::LayoutPolicy;
use crate::error::{Error, Result};
use crate::fleet::{Fleet, Latencies, Latency};
use crate::id::{DataCenterId, OriginId};

/// The most addresses that one plan places.
const MOST_ADDRESSES: u64 = 4_096;

/// How many numbers of addresses are tried above what the rules ask for.
const TRIES: usize = 48;

/// Connections to an origin that enter at one data center and leave at another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// To this origin.
    pub origin: OriginId,
    /// Where the requests enter.
    pub ingress: DataCenterId,
    /// Where the connections leave.
    pub exit: DataCenterId,
    /// Concurrent connections at the peak.
    pub connections: u64,
}

/// How many addresses, where, and why.
///
/// Its `Display` is the explanation as text.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// How many addresses, and which rule decided.
    pub sizing: Sizing,
    /// The data centers that announce each address, by code; in the order in which addresses are to be given.
    pub addresses: Vec<Vec<DataCenterId>>,
    /// The data centers that announce any, by code: what each carries and what it is worth.
    pub exits: Vec<Exit>,
    /// Who leaves where: by origin in the order of the demands, ingress and exit.
    pub routes: Vec<Route>,
    /// The mean round trip ingress -> exit -> origin of a connection.
    pub latency: Latency,
    /// How far its cost may be above the least one, as a fraction: proven, not estimated. The least one is of slices that
    /// are equal parts of their address; where the layout gives better ones, this is 0.
    pub gap: f64,
    /// What reaches its limit at which growth, first things first.
    pub breaks: Vec<Break>,
    /// The data center whose loss leaves least room; none if there is only one.
    pub worst_loss: Option<WorstLoss>,
    pub(super) policy: LayoutPolicy,
}

/// The plan for this demand: the fewest addresses that carry it (or as many as the constraints say), at the data centers
/// that make the mean round trip shortest ([`Problem`]).
///
/// A plan keeps what it promises by the layout that is really built of it: every exit is planned for at most the planning
/// fraction of the ports of its shares, and for few enough refusals.
///
/// # Errors
/// What cannot be met, with the smallest change that would meet it: no demand; an unknown data center; pinned data centers
/// without machines, too many, or in too many cities; too few candidates; an origin that no candidate reaches, or only
/// one where a loss is to be survived; traffic that has no way to any exit; more addresses needed than allowed.
pub fn plan(
    fleet: &Fleet,
    latencies: &Latencies,
    demands: &[OriginDemand],
    constraints: &Constraints,
) -> Result<Plan> {
    let candidates = Candidates::new(fleet, constraints)?;
    let needs = candidates.needs(fleet, latencies, demands)?;
    let origins: Vec<&OriginId> = demands.iter().map(OriginDemand::origin).collect();
    let mut best: Option<Draft> = None;
    let mut fault = None;
    for per_address in candidates.per_address() {
        let mut problem = candidates.problem(&needs, per_address);
        let asks = sizing::asks(&problem, &origins, candidates.ports);
        let most = best.as_ref().map(|best| u64::from(best.problem.addresses));
        match smallest(fleet, &candidates, constraints, &mut problem, asks, most) {
            Ok(draft) => {
                let key = |draft: &Draft| (draft.problem.addresses, draft.cost());
                if best.as_ref().is_none_or(|best| key(&draft) < key(best)) {
                    best = Some(draft);
                }
            }
            Err(e) => fault = fault.or(Some(e)),
        }
    }
    match (best, fault) {
        (Some(draft), _) => Ok(draft.finish(&candidates, demands, constraints)),
        (None, Some(fault)) => Err(fault),
        (None, None) => {
            Err(Error::input("no address can be announced from the pinned data centers; unpin one"))
        }
    }
}

/// A placement that holds what it promises.
struct Draft {
    problem: Problem,
    placement: Placement,
    asks: Vec<Asks>,
    /// By site: what it is planned for and the ports that it has, of all addresses.
    capacity: Vec<u64>,
    ports: Vec<u64>,
    flows: Vec<Flow>,
}

/// The placement with the fewest addresses, or with exactly as many as asked; not more than `most`.
fn smallest(
    fleet: &Fleet,
    candidates: &Candidates<'_>,
    constraints: &Constraints,
    problem: &mut Problem,
    asks: Vec<Asks>,
    most: Option<u64>,
) -> Result<Draft> {
    let Some(top) = asks.iter().reduce(|a, b| if b.addresses > a.addresses { b } else { a }).cloned() else {
        return Err(Error::input("there is no demand; give at least one origin"));
    };
    let asked = constraints.addresses.map(u64::from);
    if let Some(asked) = asked.filter(|asked| *asked > MOST_ADDRESSES) {
        return Err(Error::input(format!(
            "{asked} addresses are asked for; a plan places at most {MOST_ADDRESSES}"
        )));
    }
    let mut addresses = top.addresses.max(1).max(asked.unwrap_or(0));
    let limit = most.unwrap_or(MOST_ADDRESSES).min(MOST_ADDRESSES);
    let mut failed = addresses - 1;
    for _ in 0..TRIES {
        if addresses > limit {
            break;
        }
        problem.addresses = u32::try_from(addresses).unwrap_or(u32::MAX);
        if let Some(mut found) = draft(fleet, candidates, constraints, problem, &asks)? {
            // The steps become wide: fewer may do, above the last that did not.
            while u64::from(found.problem.addresses) - failed > 1 {
                problem.addresses = failed as u32 + (found.problem.addresses - failed as u32) / 2;
                match draft(fleet, candidates, constraints, problem, &asks)? {
                    Some(fewer) => found = fewer,
                    None => failed = problem.addresses.into(),
                }
            }
            let needed = found.problem.addresses.into();
            return match asked {
                Some(asked) if asked < needed => Err(too_few(asked, needed, &top, candidates, constraints)),
                _ => Ok(found),
            };
        }
        failed = addresses;
        addresses += 1 + addresses / 16;
    }
    Err(impossible(&top, addresses, limit, problem, candidates, constraints))
}

fn too_few(
    asked: u64,
    needed: u64,
    top: &Asks,
    candidates: &Candidates<'_>,
    constraints: &Constraints,
) -> Error {
    let reason = if top.addresses > asked { top.rule } else { Rule::Slices };
    let survive =
        if constraints.loss == Loss::Survived && reason == Rule::Loss { ", or accept the loss" } else { "" };
    Error::input(format!(
        "the demand of origin {} exceeds {asked} addresses of {} ports ({reason}); allow {needed} addresses{survive}",
        top.origin, candidates.ports
    ))
}

fn impossible(
    top: &Asks,
    tried: u64,
    limit: u64,
    problem: &Problem,
    candidates: &Candidates<'_>,
    constraints: &Constraints,
) -> Error {
    if problem.per_address == 1 && candidates.pinned().next().is_some() {
        return Error::input(format!(
            "every address would be at the pinned data center {} alone, a single point of failure for all of them; ask for \
             2 data centers per address, or unpin it",
            candidates.pinned().map(|c| c.data_center.id.as_str()).collect::<Vec<_>>().join(", ")
        ));
    }
    if problem.per_address == 1 {
        return Error::input(format!(
            "{} data centers may announce one address each, and that does not carry origin {} ({}); ask for 2 data \
             centers per address, or allow more data centers",
            candidates.sites.len(),
            top.origin,
            top.rule
        ));
    }
    if top.addresses > limit {
        return Error::input(format!(
            "origin {} asks for {} addresses ({}), a plan places at most {limit}; use connections again (HTTP/2), serve \
             the origin over IPv6, or split it",
            top.origin, top.addresses, top.rule
        ));
    }
    let remedy = match (constraints.loss, constraints.cities.limit()) {
        (Loss::Survived, Some(_)) => "accept the loss of a data center, or allow more cities",
        (Loss::Survived, None) => "accept the loss of a data center, or allow more data centers",
        (Loss::Accepted, _) => "allow more data centers, or weigh the machines of small ones up",
    };
    Error::input(format!(
        "up to {} addresses at {} data centers each do not carry the connections to origin {}; {remedy}",
        tried.min(limit),
        problem.per_address,
        top.origin
    ))
}

/// A placement of so many addresses, if there is one that the layout keeps.
fn draft(
    fleet: &Fleet,
    candidates: &Candidates<'_>,
    constraints: &Constraints,
    problem: &Problem,
    asks: &[Asks],
) -> Result<Option<Draft>> {
    let weights: Vec<u64> = candidates.sites.iter().map(|candidate| candidate.weight).collect();
    let Some(placement) = place(problem, &weights) else { return Ok(None) };
    let sets: Vec<Vec<DataCenterId>> = ids(&placement, candidates);
    let layout = output::trial_layout(fleet, &sets, &constraints.policy)?;
    let shares = output::shares(&layout, candidates.sites.iter().map(|candidate| &candidate.data_center.id));
    let planned = shares.iter().map(|shares| shares.planned(constraints.refusals, constraints.imbalance));
    let capacity: Vec<u64> = planned.collect();
    let ports = shares.iter().map(super::Shares::ports).collect();
    let flows: Vec<Flow> = problem.needs.iter().map(|need| Flow::new(need, &capacity, &mut 0)).collect();
    let survives = |need: &Need| {
        let reached = || (0..capacity.len()).filter(|site| need.reaches(*site)).map(|site| capacity[site]);
        problem.loss == Loss::Accepted
            || reached().sum::<u64>() - reached().max().unwrap_or(0) >= need.total()
    };
    // A sum does not say it where an ingress reaches only some of the exits.
    let survives_each = |(need, flow): (&Need, &Flow)| {
        let carried_without = |site: usize| {
            let (mut left, mut flow) = (capacity.clone(), flow.clone());
            left[site] = 0;
            flow.settle(need, &left, &mut 0);
            flow.unserved() == 0
        };
        problem.loss == Loss::Accepted
            || (0..capacity.len()).all(|site| flow.loads()[site] == 0 || carried_without(site))
    };
    let holds = flows.iter().all(|flow| flow.unserved() == 0)
        && problem.needs.iter().all(survives)
        && problem.needs.iter().zip(&flows).all(survives_each);
    let problem = problem.clone();
    Ok(holds.then(|| Draft { problem, placement, asks: asks.to_vec(), capacity, ports, flows }))
}

fn ids(placement: &Placement, candidates: &Candidates<'_>) -> Vec<Vec<DataCenterId>> {
    let id = |site: &usize| candidates.sites[*site].data_center.id.clone();
    placement.addresses.iter().map(|set| set.iter().map(id).collect()).collect()
}

impl Draft {
    fn cost(&self) -> i128 {
        self.flows.iter().map(Flow::cost).sum()
    }

    fn finish(
        self,
        candidates: &Candidates<'_>,
        demands: &[OriginDemand],
        constraints: &Constraints,
    ) -> Plan {
        let id = |site: usize| candidates.sites[site].data_center.id.clone();
        let connections: u128 = self.problem.needs.iter().map(|need| u128::from(need.total())).sum();
        let mean = |cost: i128| {
            let mean = u128::try_from(cost).unwrap_or(0) / connections.max(1);
            Latency::from_micros(u32::try_from(mean).unwrap_or(u32::MAX))
        };
        let mut routes = Vec::new();
        for (flow, demand) in self.flows.iter().zip(demands) {
            let ingress: Vec<&DataCenterId> = demand.ingress().keys().collect();
            let from = |site: usize| {
                let sources = flow.sources(site).into_iter();
                sources.map(move |(ingress, connections)| (ingress as usize, site, connections))
            };
            let mut parts: Vec<_> = (0..self.capacity.len()).flat_map(from).collect();
            parts.sort_unstable();
            routes.extend(parts.into_iter().map(|(from, site, connections)| Route {
                origin: demand.origin().clone(),
                ingress: ingress[from].clone(),
                exit: id(site),
                connections,
            }));
        }
        let addresses = ids(&self.placement, candidates);
        let announced =
            |site: usize| self.placement.addresses.iter().filter(|set| set.contains(&site)).count();
        let open: Vec<usize> = (0..self.capacity.len()).filter(|site| announced(*site) > 0).collect();
        let cost = self.cost();
        let view = explain::View {
            needs: &self.problem.needs,
            capacity: &self.capacity,
            flows: &self.flows,
            origins: demands.iter().map(OriginDemand::origin).collect(),
        };
        let exits = open.iter().map(|site| Exit {
            data_center: id(*site),
            addresses: announced(*site),
            pinned: self.problem.sites[*site].pinned,
            ports: self.ports[*site],
            planned_for: self.capacity[*site],
            connections: view.connections(*site),
            if_missing: view.without(*site).map(|without| mean(without - cost)),
        });
        let top = self.asks.iter().reduce(|a, b| if b.addresses > a.addresses { b } else { a });
        let decided = top.filter(|top| top.addresses == u64::from(self.problem.addresses));
        // The layout may give more or less than equal slices: then the cost is of other flows than those of the bound.
        let least = i128::try_from(self.placement.bound).unwrap_or(i128::MAX);
        Plan {
            exits: exits.collect(),
            routes,
            latency: mean(cost),
            gap: if cost > 0 { (cost - least).max(0) as f64 / cost as f64 } else { 0.0 },
            breaks: explain::breaks(&view, &open, &id, self.problem.addresses),
            worst_loss: explain::worst_loss(&view, &open, &id, mean),
            sizing: Sizing {
                addresses: self.problem.addresses,
                decided_by: decided.map_or(Rule::Slices, |top| top.rule),
                asks: self.asks,
            },
            addresses,
            policy: constraints.policy.clone(),
        }
    }
}
