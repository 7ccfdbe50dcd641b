//! Why this plan? What each data center is there for, and what gives way first.

use core::fmt;

use super::placement::{Flow, Need};
use super::run::Plan;
use super::sizing::Sizing;
use crate::fleet::Latency;
use crate::id::{DataCenterId, OriginId};
use crate::limits::RECOMMENDED_CONNECTIONS;

/// A data center that announces addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exit {
    /// Which one.
    pub data_center: DataCenterId,
    /// How many of the plan's addresses.
    pub addresses: usize,
    /// Was it asked for?
    pub pinned: bool,
    /// Ports of its shares, of all addresses.
    pub ports: u64,
    /// Connections to one origin that these are planned for.
    pub planned_for: u64,
    /// Connections that leave here at the peak: of the origin that has most.
    pub connections: u64,
    /// How much longer the mean round trip would be without it; none if the others could not carry its connections.
    pub if_missing: Option<Latency>,
}

/// What reaches a limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Limit {
    /// The connections to an origin that leave at this data center, where they are planned to: what its shares are
    /// planned for. Beyond it, connections leave farther away.
    Exit(DataCenterId),
    /// 40,000 connections to an origin for each address.
    Recommended,
    /// What all data centers are planned for that reach the origin. Beyond it, connections are refused.
    All,
}

/// A limit, and how much the demand of an origin may grow until it is reached.
#[derive(Clone, PartialEq, Debug)]
pub struct Break {
    /// Which limit.
    pub limit: Limit,
    /// Of this origin.
    pub origin: OriginId,
    /// Connections at the peak.
    pub connections: u64,
    /// Connections that may be.
    pub most: u64,
}

impl Break {
    /// The demand may be so many times as large: 1.25 is a quarter more.
    pub fn growth(&self) -> f64 {
        self.most as f64 / self.connections as f64
    }
}

/// The loss of the data center that hurts most.
#[derive(Clone, PartialEq, Debug)]
pub struct WorstLoss {
    /// Which one.
    pub data_center: DataCenterId,
    /// What the others then have to carry of the origin that fits least, and are planned for.
    pub left: Break,
    /// How much longer the mean round trip is then; none if the others do not carry all.
    pub longer: Option<Latency>,
}

/// What is planned, by site positions.
pub(super) struct View<'a> {
    pub(super) needs: &'a [Need],
    pub(super) capacity: &'a [u64],
    pub(super) flows: &'a [Flow],
    pub(super) origins: Vec<&'a OriginId>,
}

impl View<'_> {
    pub(super) fn connections(&self, site: usize) -> u64 {
        self.flows.iter().map(|flow| flow.loads()[site]).max().unwrap_or(0)
    }

    /// The cost when this site is missing; none if not all is served then.
    pub(super) fn without(&self, site: usize) -> Option<i128> {
        let mut capacity = self.capacity.to_vec();
        capacity[site] = 0;
        let mut cost = 0;
        for (flow, need) in self.flows.iter().zip(self.needs) {
            let mut flow = flow.clone();
            flow.settle(need, &capacity, &mut 0);
            if flow.unserved() > 0 {
                return None;
            }
            cost += flow.cost();
        }
        Some(cost)
    }
}

pub(super) fn breaks(
    view: &View<'_>,
    open: &[usize],
    id: &impl Fn(usize) -> DataCenterId,
    addresses: u32,
) -> Vec<Break> {
    let mut breaks = Vec::new();
    for ((flow, need), origin) in view.flows.iter().zip(view.needs).zip(&view.origins) {
        let mut add = |limit, connections, most| {
            if connections > 0 {
                breaks.push(Break { limit, origin: (*origin).clone(), connections, most });
            }
        };
        for site in open {
            add(Limit::Exit(id(*site)), flow.loads()[*site], view.capacity[*site]);
        }
        add(Limit::Recommended, need.total(), u64::from(addresses) * u64::from(RECOMMENDED_CONNECTIONS));
        let reached = open.iter().filter(|site| need.reaches(**site)).map(|site| view.capacity[*site]);
        add(Limit::All, need.total(), reached.sum());
    }
    breaks.sort_by(by_growth);
    breaks
}

pub(super) fn worst_loss(
    view: &View<'_>,
    open: &[usize],
    id: &impl Fn(usize) -> DataCenterId,
    mean: impl Fn(i128) -> Latency,
) -> Option<WorstLoss> {
    let left = |lost: usize| {
        let of = |(need, origin): (&Need, &&OriginId)| {
            let others = open.iter().filter(|site| **site != lost && need.reaches(**site));
            let most = others.map(|site| view.capacity[*site]).sum();
            Break { limit: Limit::All, origin: (*origin).clone(), connections: need.total(), most }
        };
        view.needs.iter().zip(&view.origins).map(of).min_by(by_growth)
    };
    let losses = open.iter().filter(|_| open.len() > 1).filter_map(|site| Some((*site, left(*site)?)));
    let (site, left) = losses.min_by(|a, b| by_growth(&a.1, &b.1))?;
    let cost: i128 = view.flows.iter().map(Flow::cost).sum();
    let longer = view.without(site).map(|without| mean(without - cost));
    Some(WorstLoss { data_center: id(site), left, longer })
}

/// Exactly: fractions are compared by their products.
fn by_growth(a: &Break, b: &Break) -> core::cmp::Ordering {
    let cross = |one: &Break, other: &Break| u128::from(one.most) * u128::from(other.connections);
    cross(a, b).cmp(&cross(b, a))
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, origin, connections, most } = self;
        match limit {
            Limit::Exit(data_center) => write!(f, "{data_center}, connections to {origin}"),
            Limit::Recommended => {
                write!(f, "{RECOMMENDED_CONNECTIONS} for each address, connections to {origin}")
            }
            Limit::All => write!(f, "all exits, connections to {origin}"),
        }?;
        write!(f, ": {connections} of {most}, full at {:.2} times the demand", self.growth())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizing { addresses, decided_by, asks } = &self.sizing;
        writeln!(f, "{addresses} IPv4 addresses; decided by: {decided_by}")?;
        for ask in asks {
            writeln!(f, "  {}: {} (origin {})", ask.rule, ask.addresses, ask.origin)?;
        }
        writeln!(
            f,
            "mean round trip ingress -> exit -> origin: {}; at most {:.2} % above the best possible",
            self.latency,
            self.gap * 100.0
        )?;
        writeln!(f, "exits:")?;
        for exit in &self.exits {
            write!(
                f,
                "  {}: {} addresses, {} ports, planned for {} connections to one origin, {} at the peak; ",
                exit.data_center, exit.addresses, exit.ports, exit.planned_for, exit.connections
            )?;
            let pinned = if exit.pinned { "pinned; " } else { "" };
            match exit.if_missing {
                Some(Latency::ZERO) if exit.connections == 0 => {
                    writeln!(f, "{pinned}without it no round trip is longer: it is a reserve")
                }
                Some(longer) => writeln!(f, "{pinned}without it the mean round trip is {longer} longer"),
                None => writeln!(f, "{pinned}without it connections are refused"),
            }?;
        }
        for (nth, sites) in (1..).zip(&self.addresses) {
            let names: Vec<_> = sites.iter().map(DataCenterId::as_str).collect();
            writeln!(f, "  address {nth}: {}", names.join(", "))?;
        }
        writeln!(f, "what breaks first:")?;
        for first in self.breaks.iter().take(3) {
            writeln!(f, "  {first}")?;
        }
        match &self.worst_loss {
            None => writeln!(f, "there is only one data center: its loss is the loss of all"),
            Some(WorstLoss { data_center, left, longer }) => {
                write!(f, "worst single loss: {data_center}; then {left}")?;
                match longer {
                    Some(longer) => writeln!(f, ", and the mean round trip is {longer} longer"),
                    None => writeln!(f, ", and connections are refused"),
                }
            }
        }
    }
}
