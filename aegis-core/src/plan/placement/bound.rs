//! How cheap can a placement be at most? A lower bound, by Lagrangian relaxation.
//!
//! That every ingress is served is left out, and paid for: a price for each connection from each ingress. What is left
//! falls apart into sites, each of which takes the connections that pay best, slice by slice; each slice is worth less
//! than the one before, so the best slices of all sites together are the optimum of the rest. Whatever the prices, that
//! optimum is no more than the cost of any placement. Prices are raised where too little was taken and lowered where too
//! much was (subgradient steps after Polyak), and the best bound of all is kept. Which sites lie in one city, and all that
//! a loss asks for but a limit for each site, stays out too: the bound holds with them all the more.

use super::problem::{FAR, Need, Problem};

/// The best bound so far, and what it was found with.
pub(super) struct Bound {
    /// Connections times microseconds; no placement costs less.
    pub(super) cost: f64,
    /// By origin and ingress.
    prices: Vec<Vec<f64>>,
    /// Slices of each site that were best for the prices of good bounds: the last one for the best.
    pub(super) slices: Vec<Vec<u64>>,
}

/// Without progress for so many steps, the next ones are half as long.
const PATIENCE: u32 = 12;

/// What one step gives.
struct Step {
    cost: f64,
    slices: Vec<u64>,
    /// By origin and ingress: what was not taken, or taken too often (negative).
    missing: Vec<Vec<f64>>,
}

impl Bound {
    /// Prices to start from, without a bound yet: what some farther site costs, the farther the fewer slices there are.
    pub(super) fn start(problem: &Problem) -> Self {
        let sites = problem.sites.len();
        let nth = sites.div_ceil(usize::try_from(problem.slices().max(1)).unwrap_or(sites)).min(sites - 1);
        let price = |need: &Need, ingress: u32| {
            let mut row: Vec<u32> = need.row(ingress).iter().copied().filter(|cost| *cost != FAR).collect();
            row.sort_unstable();
            row.get(nth).or(row.last()).map_or(0.0, |cost| f64::from(*cost))
        };
        let prices = |need: &Need| (0_u32..).zip(need.demand()).map(|(i, _)| price(need, i)).collect();
        Self { cost: 0.0, prices: problem.needs.iter().map(prices).collect(), slices: Vec::new() }
    }

    /// The prices of the best bound, in whole microseconds.
    pub(super) fn prices(&self) -> Vec<Vec<i64>> {
        self.prices.iter().map(|prices| prices.iter().map(|price| *price as i64).collect()).collect()
    }

    /// Takes the prices of a good placement.
    pub(super) fn restart(&mut self, prices: Vec<Vec<f64>>) {
        self.prices = prices;
    }

    /// Raises the bound in so many steps; `upper` is what a known placement costs. Sites that are not `eligible` have no
    /// slices.
    pub(super) fn raise(&mut self, problem: &Problem, eligible: &[bool], upper: Option<f64>, steps: u32) {
        let mut pace = 1.0;
        let mut idle = 0;
        let (mut prices, mut best) = (self.prices.clone(), f64::NEG_INFINITY);
        for _ in 0..steps {
            let step = relaxed(problem, eligible, &prices);
            if step.cost > best {
                if step.cost > best + best.abs() * 1e-4 {
                    idle = 0;
                }
                best = step.cost;
                self.prices.clone_from(&prices);
                if best > self.cost {
                    self.cost = best;
                }
                self.slices.push(step.slices);
            } else {
                idle += 1;
                if idle >= PATIENCE {
                    (pace, idle) = (pace / 2.0, 0);
                    prices.clone_from(&self.prices);
                    if pace < 1e-3 {
                        break;
                    }
                    continue;
                }
            }
            let target = upper.unwrap_or(best * 1.05).max(best * 1.0005);
            let squares = |(need, missing): (&Need, &Vec<f64>)| {
                missing.iter().zip(need.demand()).map(|(m, d)| m * m / *d as f64).sum::<f64>()
            };
            let square: f64 = problem.needs.iter().zip(&step.missing).map(squares).sum();
            if square <= 0.0 {
                break; // All is served exactly: this is the optimum.
            }
            let length = pace * (target - step.cost).max(0.0) / square;
            for ((prices, missing), need) in prices.iter_mut().zip(&step.missing).zip(&problem.needs) {
                for ((price, missing), demand) in prices.iter_mut().zip(missing).zip(need.demand()) {
                    *price = (*price + length * missing / *demand as f64).max(0.0);
                }
            }
        }
    }
}

/// The optimum at these prices.
fn relaxed(problem: &Problem, eligible: &[bool], prices: &[Vec<f64>]) -> Step {
    // What each site could take, best paid first: by site and origin, (worth of one, ingress).
    let offers: Vec<Vec<Vec<(f64, usize)>>> = (0..problem.sites.len())
        .map(|site| {
            problem.needs.iter().zip(prices).map(|(need, prices)| offers(need, prices, site)).collect()
        })
        .collect();
    let mut slices = vec![0_u64; problem.sites.len()];
    let mut sold = 0.0;
    let mut left = problem.slices();
    let mut worth = Vec::new();
    for (site, offers) in offers.iter().enumerate().filter(|(site, _)| eligible[*site]) {
        let most = problem.most_slices(site);
        let pinned = problem.sites[site].pinned;
        let mut fill = vec![(0, 0_u64); offers.len()];
        for nth in 0..most {
            let gain: f64 = fill
                .iter_mut()
                .zip(offers)
                .zip(&problem.needs)
                .map(|((fill, offers), need)| {
                    take(fill, offers, need, problem.sites[site].capacity, |_, _| {})
                })
                .sum();
            if pinned {
                sold += gain;
            } else if gain > 0.0 {
                worth.push((gain, site, nth));
            }
            if gain <= 0.0 {
                break;
            }
        }
        if pinned {
            slices[site] = u64::from(problem.addresses);
            left = left.saturating_sub(slices[site]);
        }
    }
    worth.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    for (gain, site, _) in worth.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        sold += gain;
        slices[site] += 1;
    }
    let demand = |need: &Need| need.demand().iter().map(|d| *d as f64).collect::<Vec<_>>();
    let mut missing: Vec<Vec<f64>> = problem.needs.iter().map(demand).collect();
    let paid = |(prices, demand): (&Vec<f64>, &Vec<f64>)| {
        prices.iter().zip(demand).map(|(price, demand)| price * demand).sum::<f64>()
    };
    let paid: f64 = prices.iter().zip(&missing).map(paid).sum();
    for (site, offers) in offers.iter().enumerate() {
        let capacity = problem.sites[site].capacity.saturating_mul(slices[site]);
        for ((offers, need), missing) in offers.iter().zip(&problem.needs).zip(&mut missing) {
            take(&mut (0, 0), offers, need, capacity, |ingress, amount| missing[ingress] -= amount as f64);
        }
    }
    Step { cost: paid - sold, slices, missing }
}

fn offers(need: &Need, prices: &[f64], site: usize) -> Vec<(f64, usize)> {
    let offer = |(ingress, price): (u32, &f64)| {
        let cost = need.cost(ingress, site);
        let worth = price - f64::from(cost);
        (cost != FAR && worth > 0.0).then_some((worth, ingress as usize))
    };
    let mut offers: Vec<_> = (0_u32..).zip(prices).filter_map(offer).collect();
    offers.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    offers
}

/// Takes up to `capacity` more of what is offered, from where `at` stands: (offer, taken of it). What it is worth.
fn take(
    at: &mut (usize, u64),
    offers: &[(f64, usize)],
    need: &Need,
    capacity: u64,
    mut taken: impl FnMut(usize, u64),
) -> f64 {
    let (mut left, mut worth) = (capacity, 0.0);
    while left > 0 {
        let Some((each, ingress)) = offers.get(at.0) else { break };
        let amount = left.min(need.demand()[*ingress] - at.1);
        worth += each * amount as f64;
        taken(*ingress, amount);
        left -= amount;
        at.1 += amount;
        if at.1 == need.demand()[*ingress] {
            *at = (at.0 + 1, 0);
        }
    }
    worth
}
