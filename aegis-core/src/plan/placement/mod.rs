//! Which data centers announce which address? A capacitated facility location problem, where the facilities are slices.
//!
//! All addresses of a pool are worth the same to a connection, so what matters is how many slices each site has: that is
//! searched (`search`, with exact flows from `transport`), beginning with what the relaxed problem says (`bound`), and
//! dealt to addresses afterwards (`deal`). Where addresses must stay in fewer cities than they have sites, whole addresses
//! are searched instead. Every answer comes with a lower bound, so that it says how good it is.

mod bound;
mod deal;
mod items;
mod problem;
mod search;
mod transport;

use bound::Bound;
use items::Items;
use search::{Chosen, State};

use crate::limits::MAX_POOLED_V4;

pub(super) use transport::Flow;

pub use problem::{Cities, Loss, Need, Problem, Site};

/// Which sites announce which address, what that costs, and what it could cost at least.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The sites of each address, ascending; the addresses in order of their sites.
    pub addresses: Vec<Vec<usize>>,
    /// The sum of all round trips: connections times microseconds.
    pub cost: u128,
    /// No placement costs less.
    pub bound: u128,
}

/// Units of work (steps of an inner loop) that the search may take: on a machine of 2024 about a second.
const WORK: u64 = 700_000_000;

/// Steps of the first bound, and of the second one from the prices of the placement.
const STEPS: [u32; 2] = [160, 120];

/// A placement that costs at most this fraction more than the bound is not searched on: a fifth of what is promised.
const GOOD: f64 = 2e-3;

impl Placement {
    /// How far it may be from the best, as a fraction of its cost: 0.01 is one percent.
    pub fn gap(&self) -> f64 {
        if self.cost == 0 { 0.0 } else { self.cost.saturating_sub(self.bound) as f64 / self.cost as f64 }
    }
}

/// A good placement; none if no feasible one was found, and for what is no problem: no address, more than
/// [`MAX_POOLED_V4`], needs or weights of another number of sites. `weights` say how much the machines of each site weigh
/// together: sites of like weight share addresses.
pub fn place(problem: &Problem, weights: &[u64]) -> Option<Placement> {
    let sites = problem.sites.len();
    let is_problem = weights.len() == sites && problem.needs.iter().all(|need| need.sites() == sites);
    if !is_problem || !(1..=MAX_POOLED_V4).contains(&problem.addresses) {
        return None;
    }
    let mut items = Items::new(problem)?;
    let mut bound = Bound::start(problem);
    bound.raise(problem, &items.eligible, None, STEPS[0]);
    if items.addresses {
        let prices = bound.prices();
        items.keep(|set| search::gain(problem, &prices, set));
    }

    let work = &mut 0;
    let (mut state, mut chosen) = start(problem, &items, &mut bound, work)?;
    if !state.is_feasible() {
        search::improve(&mut state, &items, &mut chosen, work, WORK / 2);
        let limit = *work + WORK / 8;
        search::shake(&mut state, &items, &mut chosen, i128::MAX, work, limit);
    }
    if !state.is_feasible() {
        return None;
    }
    if !is_good(&bound, &state) {
        search::improve(&mut state, &items, &mut chosen, work, WORK);
        let limit = *work + WORK / 8;
        let enough = (bound.cost * (1.0 + GOOD)) as i128;
        search::shake(&mut state, &items, &mut chosen, enough, work, limit);
        tighten(&mut bound, &items, &state, work);
    }
    let cost = state.score();
    let addresses = if items.addresses {
        let sets = items.sets.iter().zip(&chosen.0);
        sets.flat_map(|(set, times)| (0..*times).map(|_| set.clone())).collect()
    } else {
        deal::deal(state.slices.clone(), problem.addresses.into(), problem.per_address.into(), weights)
    };
    // What rounding may have added is taken off, and a little more.
    let bound = (bound.cost * (1.0 - 1e-9)).floor().max(0.0) as u128;
    let cost = u128::try_from(cost).unwrap_or(0);
    Some(Placement { addresses, cost, bound })
}

/// Raises the bound from the prices of a good placement: to what the first steps could not see.
fn tighten(bound: &mut Bound, items: &Items, state: &State<'_>, work: &mut u64) {
    let prices = state.prices(work).into_iter().map(|prices| prices.into_iter().map(|p| p as f64).collect());
    bound.restart(prices.collect());
    bound.raise(state.problem(), &items.eligible, Some(state.score() as f64), STEPS[1]);
}

fn is_good(bound: &Bound, state: &State<'_>) -> bool {
    state.is_feasible() && state.score() as f64 <= bound.cost * (1.0 + GOOD)
}

/// The best of what the bound suggests, until one is good; or filled up from nothing where whole addresses are chosen.
fn start<'a>(
    problem: &'a Problem,
    items: &Items,
    bound: &mut Bound,
    work: &mut u64,
) -> Option<(State<'a>, Chosen)> {
    let mut best: Option<(State<'a>, Chosen)> = None;
    let suggested = if items.addresses { Vec::new() } else { core::mem::take(&mut bound.slices) };
    let none = vec![0; problem.sites.len()];
    for slices in suggested.iter().rev().step_by(4).take(3).chain([&none]) {
        let of = |set: &Vec<usize>| if items.addresses { 0 } else { slices[set[0]] };
        let mut chosen = Chosen(items.sets.iter().map(of).collect());
        let mut with = items.fixed.clone();
        for (set, times) in items.sets.iter().zip(&chosen.0) {
            set.iter().for_each(|site| with[*site] += times);
        }
        let mut state = State::new(problem, with, work);
        if !search::fill(&mut state, items, &mut chosen, work) {
            continue;
        }
        if best.as_ref().is_none_or(|(least, _)| state.score() < least.score()) {
            if state.is_feasible() {
                tighten(bound, items, &state, work);
            }
            let good = is_good(bound, &state);
            best = Some((state, chosen));
            if good {
                break;
            }
        }
        if *work > WORK / 4 {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests;
