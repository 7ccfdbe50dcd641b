//! How many addresses? Each rule by itself, and which one asks for most.

use core::fmt;

use super::placement::{Loss, Need, Problem};
use crate::capacity::planned_ports;
use crate::id::OriginId;
use crate::limits::{PLANNING_FRACTION_PERCENT, RECOMMENDED_CONNECTIONS};

/// What asks for addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rule {
    /// 40,000 concurrent connections for each egress IP and origin.
    Recommended,
    /// 80 % of the ports provisioned.
    Ports,
    /// Few enough connections are refused, though shares fill unevenly.
    Refusals,
    /// The loss of any one data center.
    Loss,
    /// Whole slices, where the traffic, the origins and the pinned data centers are, as the layout really cuts them.
    Slices,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recommended => write!(f, "{RECOMMENDED_CONNECTIONS} connections per egress IP and origin"),
            Self::Ports => write!(f, "{PLANNING_FRACTION_PERCENT} % of the ports provisioned"),
            Self::Refusals => f.write_str("the refusal probability of uneven shares"),
            Self::Loss => f.write_str("the loss of any one data center"),
            Self::Slices => f.write_str("whole slices where they are needed"),
        }
    }
}

/// What one rule asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asks {
    /// The rule.
    pub rule: Rule,
    /// So many IPv4 addresses.
    pub addresses: u64,
    /// Because of this origin.
    pub origin: OriginId,
}

/// How many addresses there are, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sizing {
    /// IPv4 addresses of the plan.
    pub addresses: u32,
    /// What decided: the rule that asks for most. [`Rule::Slices`] if all rules ask for fewer.
    pub decided_by: Rule,
    /// What each rule asks for by itself.
    pub asks: Vec<Asks>,
}

/// What each rule asks for, whatever the placement: never more than is needed.
pub(super) fn asks(problem: &Problem, origins: &[&OriginId], ports: u32) -> Vec<Asks> {
    let rules = [Rule::Recommended, Rule::Ports, Rule::Refusals, Rule::Loss];
    let rules = rules.into_iter().filter(|rule| *rule != Rule::Loss || problem.loss == Loss::Survived);
    let most = |rule: Rule| {
        let needs = problem.needs.iter().zip(origins);
        let asked = needs.map(|(need, origin)| (addresses(rule, need, problem, ports), *origin));
        // The first of equals.
        let (addresses, origin) = asked.reduce(|a, b| if b.0 > a.0 { b } else { a })?;
        Some(Asks { rule, addresses, origin: origin.clone() })
    };
    rules.filter_map(most).collect()
}

fn addresses(rule: Rule, need: &Need, problem: &Problem, ports: u32) -> u64 {
    let connections = need.total();
    match rule {
        Rule::Recommended => connections.div_ceil(RECOMMENDED_CONNECTIONS.into()),
        Rule::Ports => connections.div_ceil(planned_ports(ports.into()).max(1)),
        Rule::Refusals => {
            let capacity: u64 = best(need, problem).iter().take(problem.per_address.into()).sum();
            connections.div_ceil(capacity.max(1))
        }
        Rule::Loss => {
            let best = best(need, problem);
            let (sites, largest) = (best.len() as u64, best.first().copied().unwrap_or(0));
            let slices = u64::from(problem.per_address);
            let most = if problem.per_address == 1 { 1 } else { u64::MAX };
            // As even as can be over all sites that reach the origin, the loss takes the least.
            let survives = |addresses: u64| {
                let used = addresses.saturating_mul(slices).min(sites.saturating_mul(most.min(addresses)));
                let lost = used.div_ceil(sites.max(1));
                used.saturating_sub(lost).saturating_mul(largest) >= connections
            };
            smallest(survives)
        }
        Rule::Slices => 0,
    }
}

/// The capacities of the sites that reach the origin, largest first.
fn best(need: &Need, problem: &Problem) -> Vec<u64> {
    let reaching = problem.sites.iter().enumerate().filter(|(site, _)| need.reaches(*site));
    let mut best: Vec<u64> = reaching.map(|(_, site)| site.capacity).collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    best
}

/// The smallest number that will do; `u64::MAX` if none does. What does stays so for larger ones.
fn smallest(will_do: impl Fn(u64) -> bool) -> u64 {
    let Some(power) = (0..63).find(|power| will_do(1 << power)) else { return u64::MAX };
    let (mut bad, mut good) = ((1_u64 << power) / 2, 1 << power);
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if will_do(middle) { good = middle } else { bad = middle }
    }
    good
}
