//! Which sites are best? Local search: each chosen item in turn is exchanged for the best other one, until none is better.
//!
//! What an exchange brings is bounded by the prices of the dual problem, so that most need not be tried, and no better
//! one is missed.

use std::collections::BTreeSet;

use super::items::Items;
use super::problem::{FAR, Need, Problem, UNSERVED};
use super::transport::Flow;

/// How much is tried for one item before the best so far is taken.
const TRIALS: usize = 24;

/// How often a choice that is not good enough is changed blindly.
const KICKS: u64 = 40;

/// How many items are tried in the place of one, before another one is exchanged too.
const BREADTH: usize = 40;

/// Slices, and the cheapest flows through them.
#[derive(Clone)]
pub(super) struct State<'a> {
    problem: &'a Problem,
    pub(super) slices: Vec<u64>,
    capacity: Vec<u64>,
    pub(super) flows: Vec<Flow>,
}

impl<'a> State<'a> {
    pub(super) fn new(problem: &'a Problem, slices: Vec<u64>, work: &mut u64) -> Self {
        let capacity = problem.capacities(&slices);
        let flows = problem.needs.iter().map(|need| Flow::new(need, &capacity, work)).collect();
        Self { problem, slices, capacity, flows }
    }

    pub(super) const fn problem(&self) -> &'a Problem {
        self.problem
    }

    /// The cost of all flows; what is not served, or would not be after a loss, costs more than all else.
    pub(super) fn score(&self) -> i128 {
        let flows: i128 = self.flows.iter().map(Flow::cost).sum();
        flows.saturating_add(i128::from(UNSERVED).saturating_mul(self.problem.lost(&self.slices).into()))
    }

    /// Is every connection served, and after a loss too?
    pub(super) fn is_feasible(&self) -> bool {
        self.flows.iter().all(|flow| flow.unserved() == 0) && self.problem.lost(&self.slices) == 0
    }

    pub(super) fn add(&mut self, set: &[usize], work: &mut u64) {
        for site in set {
            self.slices[*site] += 1;
            self.capacity[*site] = self.problem.sites[*site].capacity.saturating_mul(self.slices[*site]);
            for (flow, need) in self.flows.iter_mut().zip(&self.problem.needs) {
                flow.improve(need, &self.capacity, *site, work);
            }
        }
    }

    pub(super) fn remove(&mut self, set: &[usize], work: &mut u64) {
        for site in set {
            self.slices[*site] -= 1;
            self.capacity[*site] = self.problem.sites[*site].capacity.saturating_mul(self.slices[*site]);
        }
        for (flow, need) in self.flows.iter_mut().zip(&self.problem.needs) {
            flow.settle(need, &self.capacity, work);
        }
    }

    pub(super) fn prices(&self, work: &mut u64) -> Vec<Vec<i64>> {
        let flows = self.flows.iter().zip(&self.problem.needs);
        flows.map(|(flow, need)| flow.prices(need, &self.capacity, work)).collect()
    }
}

/// Makes the choice of items better, within `limit` units of work.
pub(super) fn improve(state: &mut State<'_>, items: &Items, chosen: &mut Chosen, work: &mut u64, limit: u64) {
    loop {
        let mut better = false;
        for item in 0..items.sets.len() {
            if *work > limit {
                return;
            }
            let below = state.score();
            better |= chosen.0[item] > 0 && exchange(state, items, chosen, item, below, work);
        }
        // Whole addresses are few, and one alone may have no better place while another one stays where it is. That is also
        // so where next to nothing is feasible.
        if !better && (items.addresses || !state.is_feasible()) {
            better = exchange_two(state, items, chosen, work, limit);
        }
        if !better {
            return;
        }
    }
}

/// Looks for a feasible choice that costs no more than `enough` near one that no exchange makes better: some items are
/// exchanged for others blindly, and then the best exchanges are made again. Always the same ones, so that everybody finds
/// the same.
pub(super) fn shake(
    state: &mut State<'_>,
    items: &Items,
    chosen: &mut Chosen,
    enough: i128,
    work: &mut u64,
    limit: u64,
) {
    let mut seed = 0_u64;
    let mut random = |below: usize| {
        // SplitMix64.
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % below.max(1) as u64).unwrap_or(0)
    };
    for kick in 0..KICKS {
        if (state.is_feasible() && state.score() <= enough) || *work > limit {
            return;
        }
        let (mut next, mut choice) = (state.clone(), chosen.clone());
        for _ in 0..2 + kick % 3 {
            let there: Vec<usize> = (0..items.sets.len()).filter(|item| choice.0[*item] > 0).collect();
            let Some(out) = there.get(random(there.len())) else { return };
            next.remove(&items.sets[*out], work);
            choice.0[*out] -= 1;
            let may: Vec<usize> =
                (0..items.sets.len()).filter(|item| choice.may_grow(state.problem, items, *item)).collect();
            let Some(item) = may.get(random(may.len())) else { return };
            next.add(&items.sets[*item], work);
            choice.0[*item] += 1;
        }
        improve(&mut next, items, &mut choice, work, limit);
        if next.score() <= state.score() {
            (*state, *chosen) = (next, choice);
        }
    }
}

/// Takes an item out and puts the best other one in, if the score is then `below`.
fn exchange(
    state: &mut State<'_>,
    items: &Items,
    chosen: &mut Chosen,
    out: usize,
    below: i128,
    work: &mut u64,
) -> bool {
    let mut without = state.clone();
    without.remove(&items.sets[out], work);
    chosen.0[out] -= 1;
    match best(&without, items, chosen, below, work) {
        Some((item, with)) => {
            chosen.0[item] += 1;
            *state = with;
            true
        }
        None => {
            chosen.0[out] += 1;
            false
        }
    }
}

/// Exchanges one item for one that looks good, though the score is not better, and then another one; if it is better then.
fn exchange_two(
    state: &mut State<'_>,
    items: &Items,
    chosen: &mut Chosen,
    work: &mut u64,
    limit: u64,
) -> bool {
    let below = state.score();
    for one in (0..items.sets.len()).filter(|item| chosen.0[*item] > 0).collect::<Vec<_>>() {
        let mut without = state.clone();
        without.remove(&items.sets[one], work);
        let mut choice = chosen.clone();
        choice.0[one] -= 1;
        for (_, item) in promising(&without, items, &choice, i128::MAX, work).into_iter().take(BREADTH) {
            let (mut next, mut choice) = (without.clone(), choice.clone());
            next.add(&items.sets[item], work);
            choice.0[item] += 1;
            for other in 0..items.sets.len() {
                if *work > limit {
                    return false;
                }
                let is_old = other != item && choice.0[other] > 0;
                if is_old && exchange(&mut next, items, &mut choice, other, below, work) {
                    (*state, *chosen) = (next, choice);
                    return true;
                }
            }
        }
    }
    false
}

/// How often each item is chosen.
#[derive(Clone)]
pub(super) struct Chosen(pub(super) Vec<u64>);

impl Chosen {
    /// May this item be chosen once more?
    fn may_grow(&self, problem: &Problem, items: &Items, item: usize) -> bool {
        let most = if problem.per_address == 1 { 1 } else { u64::from(problem.addresses) };
        items.addresses || self.0[item] < most
    }
}

/// Adds items one after the other, each time the one that seems to bring most, until enough are chosen.
pub(super) fn fill(state: &mut State<'_>, items: &Items, chosen: &mut Chosen, work: &mut u64) -> bool {
    while chosen.0.iter().sum::<u64>() < items.count {
        let prices = state.prices(work);
        *work += effort(state.problem, items);
        let may = (0..items.sets.len()).filter(|item| chosen.may_grow(state.problem, items, *item));
        // Of equals the one that is chosen least, so that slices are spread.
        let gains = may.map(|item| (gain(state.problem, &prices, &items.sets[item]), chosen.0[item], item));
        let best = gains.max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
        match best {
            Some((gain, _, item)) if gain > 0 => {
                state.add(&items.sets[item], work);
                chosen.0[item] += 1;
            }
            // Nothing more is cheaper with more slices: the rest goes where most of its kind are missing.
            _ => return spread(state, items, chosen),
        }
    }
    true
}

/// Chooses what is still to be chosen evenly; the flows are the best already.
fn spread(state: &mut State<'_>, items: &Items, chosen: &mut Chosen) -> bool {
    let mut order: BTreeSet<(u64, usize)> =
        (0..items.sets.len()).map(|item| (chosen.0[item], item)).collect();
    for _ in chosen.0.iter().sum::<u64>()..items.count {
        let Some((_, item)) = order.pop_first() else { return false };
        if !chosen.may_grow(state.problem, items, item) {
            return false; // The one that is chosen least: so are all others.
        }
        chosen.0[item] += 1;
        order.insert((chosen.0[item], item));
        for site in &items.sets[item] {
            state.slices[*site] += 1;
            state.capacity[*site] = state.problem.sites[*site].capacity.saturating_mul(state.slices[*site]);
        }
    }
    true
}

/// The item that is best to add, if the score is then below `score`.
fn best<'a>(
    state: &State<'a>,
    items: &Items,
    chosen: &Chosen,
    score: i128,
    work: &mut u64,
) -> Option<(usize, State<'a>)> {
    let mut best: Option<(i128, usize, State<'a>)> = None;
    for (least, item) in promising(state, items, chosen, score, work).into_iter().take(TRIALS) {
        let so_far = best.as_ref().map_or(score, |(score, ..)| *score);
        if least >= so_far {
            break;
        }
        let mut next = state.clone();
        next.add(&items.sets[item], work);
        let score = next.score();
        if score < so_far {
            best = Some((score, item, next));
        }
    }
    best.map(|(_, item, state)| (item, state))
}

/// The items with which the score may come below `score`, and how far at most; the best first.
fn promising(
    state: &State<'_>,
    items: &Items,
    chosen: &Chosen,
    score: i128,
    work: &mut u64,
) -> Vec<(i128, usize)> {
    let prices = state.prices(work);
    *work += effort(state.problem, items);
    let flows: i128 = state.flows.iter().map(Flow::cost).sum();
    let may = (0..items.sets.len()).filter(|item| chosen.may_grow(state.problem, items, *item));
    let least = may.map(|item| (flows - gain(state.problem, &prices, &items.sets[item]), item));
    let mut promising: Vec<_> = least.filter(|(least, _)| *least < score).collect();
    promising.sort_unstable();
    promising
}

/// What it takes to look at what every item can save.
fn effort(problem: &Problem, items: &Items) -> u64 {
    let size = items.sets.first().map_or(0, Vec::len);
    (items.sets.len() * size * problem.needs.iter().map(|need| need.demand().len()).sum::<usize>() * 3) as u64
}

/// The most that these sites, one slice of each, can save: a bound, by duality.
pub(super) fn gain(problem: &Problem, prices: &[Vec<i64>], set: &[usize]) -> i128 {
    let capacity = set.iter().map(|site| problem.sites[*site].capacity).fold(0, u64::saturating_add);
    problem.needs.iter().zip(prices).map(|(need, prices)| gain_of(need, prices, set, capacity)).sum()
}

fn gain_of(need: &Need, prices: &[i64], set: &[usize], capacity: u64) -> i128 {
    let saving = |(ingress, price): (u32, &i64)| {
        let nearest = set.iter().map(|site| need.cost(ingress, *site)).min().filter(|cost| *cost != FAR)?;
        let saving = price - i64::from(nearest);
        (saving > 0).then(|| (saving, need.demand()[ingress as usize]))
    };
    let mut savings: Vec<(i64, u64)> = (0_u32..).zip(prices).filter_map(saving).collect();
    savings.sort_unstable_by(|a, b| b.cmp(a));
    let (mut left, mut gain) = (capacity, 0);
    for (saving, amount) in savings {
        let amount = amount.min(left);
        gain += i128::from(saving) * i128::from(amount);
        left -= amount;
        if left == 0 {
            break;
        }
    }
    gain
}
