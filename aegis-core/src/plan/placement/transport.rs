//! Who leaves where, if each site takes only so much? The transportation problem of one origin, solved exactly.
//!
//! A flow is kept optimal by successive shortest paths on the graph of sites: an arc from one site to another is the
//! cheapest connection that could move there. A path moves load from its first site to its last; the ones between stay
//! as full as they are. All costs are whole numbers, so that every platform finds the same flow.

use super::problem::{FAR, Need, UNSERVED};

/// What each site takes of one origin's connections. After the sites comes one that takes all that nobody serves.
#[derive(Clone, Debug)]
pub(in crate::plan) struct Flow {
    /// By site: which ingress sends how many, each ingress once, none of them zero.
    at: Vec<Vec<(u32, u64)>>,
    load: Vec<u64>,
    cost: i128,
}

/// A cheapest move from one site to another.
#[derive(Clone, Copy)]
struct Arc {
    cost: i64,
    ingress: u32,
}

const NO_ARC: Arc = Arc { cost: i64::MAX, ingress: 0 };
const NOT_REACHED: i64 = i64::MAX;

/// The sites that are open (or were), and the arcs between them.
struct Graph<'a> {
    need: &'a Need,
    sites: Vec<usize>,
    arcs: Vec<Arc>,
}

impl Flow {
    /// The cheapest flow into sites of these capacities.
    pub(in crate::plan) fn new(need: &Need, capacity: &[u64], work: &mut u64) -> Self {
        let nobody = capacity.len();
        let mut flow = Self { at: vec![Vec::new(); nobody + 1], load: vec![0; nobody + 1], cost: 0 };
        for (ingress, demand) in (0_u32..).zip(need.demand()) {
            // Each to its nearest: that is optimal but for capacities, which `settle` then respects.
            let open = (0..nobody).filter(|site| capacity[*site] > 0);
            let nearest = open.min_by_key(|site| need.cost(ingress, *site));
            let nearest = nearest.filter(|site| need.cost(ingress, *site) != FAR).unwrap_or(nobody);
            flow.at[nearest].push((ingress, *demand));
            flow.load[nearest] += demand;
            flow.cost += i128::from(*demand) * i128::from(unit_cost(need, ingress, nearest));
        }
        flow.settle(need, capacity, work);
        flow
    }

    /// Connections times microseconds; what is not served counts [`UNSERVED`] each.
    pub(in crate::plan) const fn cost(&self) -> i128 {
        self.cost
    }

    /// How many connections nobody serves.
    pub(in crate::plan) fn unserved(&self) -> u64 {
        self.load[self.load.len() - 1]
    }

    /// How many connections leave at each site.
    pub(in crate::plan) fn loads(&self) -> &[u64] {
        &self.load[..self.load.len() - 1]
    }

    /// Which ingress sends how many to `site`, by ingress.
    pub(in crate::plan) fn sources(&self, site: usize) -> Vec<(u32, u64)> {
        let mut sources = self.at[site].clone();
        sources.sort_unstable();
        sources
    }

    /// Moves what is above `capacity` elsewhere, as cheaply as can be. The flow was optimal for larger capacities.
    pub(in crate::plan) fn settle(&mut self, need: &Need, capacity: &[u64], work: &mut u64) {
        let nobody = capacity.len();
        let room = |flow: &Self, site: usize| match capacity.get(site) {
            Some(capacity) => capacity.saturating_sub(flow.load[site]),
            None => u64::MAX - flow.load[site],
        };
        let excess = |flow: &Self, site: usize| {
            capacity.get(site).map_or(0, |capacity| flow.load[site].saturating_sub(*capacity))
        };
        if (0..nobody).all(|site| excess(self, site) == 0) {
            return;
        }
        let mut graph = Graph::new(need, self, capacity, work);
        loop {
            let start = |site: usize| excess(self, site) > 0;
            let (distance, before) = graph.distances(start, None, work);
            let reached = (0..graph.sites.len()).filter(|at| distance[*at] != NOT_REACHED);
            let with_room = reached.filter(|at| room(self, graph.sites[*at]) > 0);
            let Some(end) = with_room.min_by_key(|at| distance[*at]) else { return };
            let path = graph.path(&before, end);
            let first = graph.sites[path[0]];
            let most = excess(self, first).min(room(self, graph.sites[end]));
            let moved = self.push(&mut graph, &path, most, work);
            if moved == 0 || (0..nobody).all(|site| excess(self, site) == 0) {
                return;
            }
        }
    }

    /// Uses what `site` takes more than before, as far as that is cheaper. The flow was optimal without it.
    pub(super) fn improve(&mut self, need: &Need, capacity: &[u64], site: usize, work: &mut u64) {
        let mut graph = Graph::new(need, self, capacity, work);
        let Some(end) = graph.sites.iter().position(|open| *open == site) else { return };
        while self.load[site] < capacity[site] {
            let start = |from: usize| from != site && self.load[from] > 0;
            let (distance, before) = graph.distances(start, Some(end), work);
            if distance[end] >= 0 {
                return;
            }
            let path = graph.path(&before, end);
            let most = (capacity[site] - self.load[site]).min(self.load[graph.sites[path[0]]]);
            if self.push(&mut graph, &path, most, work) == 0 {
                return;
            }
        }
    }

    /// For each ingress, what one connection more from there would cost: an optimal solution of the dual problem. So
    /// `price - cost` is the most that a site saves for each connection that it takes over.
    pub(super) fn prices(&self, need: &Need, capacity: &[u64], work: &mut u64) -> Vec<i64> {
        let graph = Graph::new(need, self, capacity, work);
        let (distance, _) = graph.distances(|site| self.load[site] > 0, None, work);
        let mut prices = vec![UNSERVED; need.demand().len()];
        for (at, site) in graph.sites.iter().enumerate() {
            for (ingress, _) in &self.at[*site] {
                // What a place at this site is worth: the cheapest chain of moves that would fill it.
                let worth = if distance[at] == NOT_REACHED { 0 } else { -distance[at].min(0) };
                let price = &mut prices[*ingress as usize];
                *price = (*price).min(unit_cost(need, *ingress, *site) + worth);
            }
        }
        prices
    }

    /// Moves up to `most` along a path: how much.
    fn push(&mut self, graph: &mut Graph<'_>, path: &[usize], most: u64, work: &mut u64) -> u64 {
        let width = graph.sites.len();
        let steps: Vec<(usize, usize, Arc)> =
            path.windows(2).map(|step| (step[0], step[1], graph.arcs[step[0] * width + step[1]])).collect();
        let amount = |at: &[(u32, u64)], ingress| {
            at.iter().find(|(from, _)| *from == ingress).map_or(0, |(_, amount)| *amount)
        };
        let least =
            steps.iter().map(|(from, _, arc)| amount(&self.at[graph.sites[*from]], arc.ingress)).min();
        let moved = most.min(least.unwrap_or(0));
        for (from, to, arc) in &steps {
            let [from, to] = [graph.sites[*from], graph.sites[*to]];
            let sources = &mut self.at[from];
            sources.iter_mut().filter(|(ingress, _)| *ingress == arc.ingress).for_each(|(_, n)| *n -= moved);
            sources.retain(|(_, amount)| *amount > 0);
            match self.at[to].iter_mut().find(|(ingress, _)| *ingress == arc.ingress) {
                Some((_, amount)) => *amount += moved,
                None => self.at[to].push((arc.ingress, moved)),
            }
            self.load[from] -= moved;
            self.load[to] += moved;
            self.cost += i128::from(moved) * i128::from(arc.cost);
        }
        path.iter().for_each(|at| graph.refresh(self, *at, work));
        moved
    }
}

fn unit_cost(need: &Need, ingress: u32, site: usize) -> i64 {
    if site == need.sites() { UNSERVED } else { i64::from(need.cost(ingress, site)) }
}

impl<'a> Graph<'a> {
    fn new(need: &'a Need, flow: &Flow, capacity: &[u64], work: &mut u64) -> Self {
        let nobody = capacity.len();
        let sites: Vec<usize> =
            (0..=nobody).filter(|s| *s == nobody || capacity[*s] > 0 || flow.load[*s] > 0).collect();
        let mut graph = Self { need, arcs: vec![NO_ARC; sites.len() * sites.len()], sites };
        (0..graph.sites.len()).for_each(|at| graph.refresh(flow, at, work));
        graph
    }

    /// The arcs from one site, anew.
    fn refresh(&mut self, flow: &Flow, at: usize, work: &mut u64) {
        let (width, site) = (self.sites.len(), self.sites[at]);
        let row = &mut self.arcs[at * width..][..width];
        row.fill(NO_ARC);
        for (ingress, _) in &flow.at[site] {
            let here = unit_cost(self.need, *ingress, site);
            let costs = self.need.row(*ingress);
            for (arc, to) in row.iter_mut().zip(&self.sites) {
                let there = match costs.get(*to) {
                    Some(&FAR) => continue,
                    Some(there) => i64::from(*there),
                    None => UNSERVED,
                };
                if there - here < arc.cost {
                    *arc = Arc { cost: there - here, ingress: *ingress };
                }
            }
        }
        row[at] = NO_ARC;
        *work += (flow.at[site].len() * width) as u64;
    }

    /// The cheapest path to each site from any that is a start, and the site before it (itself: a start). Nothing goes on
    /// from `end`. There is no circle that costs less than nothing, because the flow is optimal.
    fn distances(
        &self,
        start: impl Fn(usize) -> bool,
        end: Option<usize>,
        work: &mut u64,
    ) -> (Vec<i64>, Vec<usize>) {
        let width = self.sites.len();
        let mut distance: Vec<i64> =
            self.sites.iter().map(|site| if start(*site) { 0 } else { NOT_REACHED }).collect();
        let mut before: Vec<usize> = (0..width).collect();
        let mut changed: Vec<bool> = distance.iter().map(|distance| *distance == 0).collect();
        for _ in 0..=width {
            let mut again = false;
            for from in 0..width {
                if !core::mem::take(&mut changed[from]) || Some(from) == end {
                    continue;
                }
                *work += width as u64;
                let so_far = distance[from];
                let row = &self.arcs[from * width..][..width];
                for to in 0..width {
                    if row[to].cost != NO_ARC.cost && so_far + row[to].cost < distance[to] {
                        (distance[to], before[to], changed[to]) = (so_far + row[to].cost, from, true);
                        again = true;
                    }
                }
            }
            if !again {
                break;
            }
        }
        (distance, before)
    }

    fn path(&self, before: &[usize], end: usize) -> Vec<usize> {
        let mut path = vec![end];
        while before[path[path.len() - 1]] != path[path.len() - 1] && path.len() <= self.sites.len() {
            path.push(before[path[path.len() - 1]]);
        }
        path.reverse();
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Latency;
    use proptest::prelude::*;

    /// The cheapest way to send what is left from `ingress` on, by trying every way in units.
    fn brute(need: &Need, room: &mut [u64], ingress: usize, left: u64) -> i128 {
        if left == 0 {
            let Some(next) = need.demand().get(ingress + 1) else { return 0 };
            return brute(need, room, ingress + 1, *next);
        }
        let from = u32::try_from(ingress).unwrap();
        let mut best = i128::from(UNSERVED) + brute(need, room, ingress, left - 1);
        for site in 0..room.len() {
            if room[site] > 0 && need.cost(from, site) != FAR {
                room[site] -= 1;
                best = best.min(i128::from(need.cost(from, site)) + brute(need, room, ingress, left - 1));
                room[site] += 1;
            }
        }
        best
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn a_flow_costs_what_the_best_of_all_flows_costs(
            demand in prop::collection::vec(1..3_u64, 1..4),
            costs in prop::collection::vec(prop::option::weighted(0.9, 0..50_u32), 12),
            capacity in prop::collection::vec(0..4_u64, 3),
            (closed, opened) in (0..3_usize, 0..3_usize),
        ) {
            let latency = costs[..demand.len() * 3].iter().map(|cost| cost.map(Latency::from_micros));
            let need = Need::new(demand.clone(), latency.collect(), 3).unwrap();
            let work = &mut 0;
            let mut flow = Flow::new(&need, &capacity, work);
            let best = |capacity: &[u64]| brute(&need, &mut capacity.to_vec(), 0, demand[0]);
            prop_assert_eq!(flow.cost(), best(&capacity));
            // The same after a site is closed, and another one opened.
            let mut other = capacity.clone();
            other[closed] = 0;
            flow.settle(&need, &other, work);
            prop_assert_eq!(flow.cost(), best(&other));
            other[opened] += 2;
            flow.improve(&need, &other, opened, work);
            prop_assert_eq!(flow.cost(), best(&other));
            prop_assert!(flow.loads().iter().zip(&other).all(|(load, capacity)| load <= capacity));
            // Prices are a dual solution: their worth less that of the places is the cost.
            let prices = flow.prices(&need, &other, work);
            let sold: i128 = demand.iter().zip(&prices).map(|(d, p)| i128::from(*d) * i128::from(*p)).sum();
            let worth = |site: usize| {
                let saves = (0_u32..).zip(&prices).filter(|(i, _)| need.cost(*i, site) != FAR);
                saves.map(|(i, price)| price - i64::from(need.cost(i, site))).max().unwrap_or(0).max(0)
            };
            let places: i128 =
                (0..3).map(|site| i128::from(other[site]) * i128::from(worth(site))).sum();
            prop_assert_eq!(sold - places, flow.cost());
        }
    }
}
