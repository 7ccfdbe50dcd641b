use proptest::prelude::*;

use super::*;
use crate::fleet::Latency;

/// The least cost of all ways to give slices to sites, and to addresses; none if none is feasible.
fn exact(problem: &Problem) -> Option<i128> {
    let size = usize::from(problem.per_address);
    let sites = problem.sites.len();
    let sets: Vec<Vec<usize>> = (0..1_usize << sites)
        .map(|bits| (0..sites).filter(|site| bits >> site & 1 == 1).collect::<Vec<_>>())
        .filter(|set| set.len() == size && (0..sites).all(|s| !problem.sites[s].pinned || set.contains(&s)))
        .filter(|set| {
            let cities: std::collections::BTreeSet<_> = set.iter().map(|s| problem.sites[*s].city).collect();
            problem.cities.limit().is_none_or(|limit| cities.len() <= limit)
        })
        .collect();
    let mut least = None;
    let mut chosen = Vec::new();
    each(&sets, problem.addresses, 0, &mut chosen, &mut |sets| {
        let mut slices = vec![0; sites];
        sets.iter().flat_map(|set| set.iter()).for_each(|site| slices[*site] += 1);
        let alone_twice = size == 1 && slices.iter().any(|slices| *slices > 1);
        let state = State::new(problem, slices, &mut 0);
        if state.is_feasible() && !alone_twice {
            least = Some(least.map_or(state.score(), |least: i128| least.min(state.score())));
        }
    });
    least
}

fn each<'a>(
    sets: &'a [Vec<usize>],
    left: u32,
    from: usize,
    chosen: &mut Vec<&'a Vec<usize>>,
    found: &mut impl FnMut(&[&Vec<usize>]),
) {
    if left == 0 {
        return found(chosen);
    }
    for at in from..sets.len() {
        chosen.push(&sets[at]);
        each(sets, left - 1, at, chosen, found);
        chosen.pop();
    }
}

prop_compose! {
    fn any_problem()(
        (sites, origins) in (2..6_usize, 1..3_usize),
        (addresses, per_address) in (1..4_u32, 1..4_u8),
        cities in prop::sample::select(&[Cities::Any, Cities::One, Cities::Two][..]),
        loss in prop::sample::select(&[Loss::Survived, Loss::Accepted][..]),
        city in prop::collection::vec(0..3_usize, 6),
        capacity in prop::collection::vec(4..9_u64, 6),
        pinned in prop::collection::vec(prop::bool::weighted(0.1), 6),
        demand in prop::collection::vec(prop::collection::vec(0..9_u64, 6), 2),
        trips in prop::collection::vec(prop::option::weighted(0.9, 0..100_u32), 72),
    ) -> Problem {
        let need = |o: usize| {
            let trips = trips[o * 36..][..sites * sites].iter().map(|trip| trip.map(Latency::from_micros));
            Need::new(demand[o][..sites].to_vec(), trips.collect(), sites).unwrap()
        };
        Problem {
            sites: (0..sites).map(|s| Site { city: city[s], capacity: capacity[s], pinned: pinned[s] }).collect(),
            needs: (0..origins).map(need).collect(),
            addresses,
            per_address,
            cities,
            loss,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn small_problems_are_placed_as_well_as_all_ways_together(problem in any_problem()) {
        let placed = place(&problem, &vec![1; problem.sites.len()]);
        let exact = exact(&problem).map(|cost| u128::try_from(cost).unwrap());
        prop_assert_eq!(placed.is_some(), exact.is_some());
        let (Some(placed), Some(exact)) = (placed, exact) else { return Ok(()) };
        prop_assert!(placed.bound <= exact && exact <= placed.cost, "{} {exact} {}", placed.bound, placed.cost);
        // One step of these tiny numbers may be more than a percent.
        prop_assert!(placed.cost * 100 <= exact * 101 + 300, "{exact} {}", placed.cost);
        for set in &placed.addresses {
            prop_assert!(set.len() == usize::from(problem.per_address) && set.windows(2).all(|p| p[0] < p[1]));
        }
        // The addresses are those that the cost is of.
        let mut slices = vec![0; problem.sites.len()];
        placed.addresses.iter().flatten().for_each(|site| slices[*site] += 1);
        let state = State::new(&problem, slices, &mut 0);
        prop_assert!(state.is_feasible());
        prop_assert_eq!(u128::try_from(state.score()).unwrap(), placed.cost);
    }
}

#[test]
fn two_addresses_have_no_site_in_common_that_each_has_alone() {
    let trips = [1, 2, 3].map(|micros| Some(Latency::from_micros(micros)));
    let site = |city| Site { city, capacity: 10, pinned: false };
    let problem = |addresses| Problem {
        sites: (0..3).map(site).collect(),
        needs: vec![Need::new(vec![10], trips.to_vec(), 3).unwrap()],
        addresses,
        per_address: 1,
        cities: Cities::Any,
        loss: Loss::Accepted,
    };
    let placed = place(&problem(2), &[1; 3]).unwrap();
    assert_eq!(placed.addresses[0], [0]);
    assert_ne!(placed.addresses[0], placed.addresses[1]);
    assert_eq!(place(&problem(4), &[1; 3]), None);
}

#[test]
fn a_matrix_of_another_size_is_refused() {
    assert!(
        Need::new(vec![1, 2], vec![None; 5], 3).unwrap_err().message().starts_with("5 round trips for 2")
    );
    assert!(Need::new(vec![u64::MAX, 1], vec![None; 2], 1).is_err());
}

#[test]
fn what_is_no_problem_has_no_placement() {
    let site = Site { city: 0, capacity: u64::MAX, pinned: false };
    let need = Need::new(vec![u64::MAX], vec![Some(Latency::from_micros(u32::MAX))], 1).unwrap();
    let problem = |sites, addresses| Problem {
        sites: vec![site; sites],
        needs: vec![need.clone()],
        addresses,
        per_address: 1,
        cities: Cities::Any,
        loss: Loss::Accepted,
    };
    assert!(place(&problem(1, 1), &[1]).is_some(), "the largest numbers are numbers");
    assert_eq!(place(&problem(1, 1), &[]), None);
    assert_eq!(place(&problem(2, 1), &[1, 1]), None);
    assert_eq!(place(&problem(1, 0), &[1]), None);
    assert_eq!(place(&problem(1, u32::MAX), &[1]), None);
    assert_eq!(place(&problem(0, 1), &[]), None);
}

#[test]
fn the_bound_holds_for_sites_that_are_not_tried_because_their_city_has_too_many() {
    // Eight sites are 10 away from both ingresses; two more are next to one of them and far from the other.
    let micros = [[10, 10, 10, 10, 10, 10, 10, 10, 0, 0], [10, 10, 10, 10, 10, 10, 10, 10, 300, 300]];
    let trips = micros.iter().flatten().map(|micros| Some(Latency::from_micros(*micros)));
    let problem = Problem {
        sites: vec![Site { city: 0, capacity: 10, pinned: false }; 10],
        needs: vec![Need::new(vec![5, 5], trips.collect(), 10).unwrap()],
        addresses: 1,
        per_address: 2,
        cities: Cities::One,
        loss: Loss::Accepted,
    };
    let exact = u128::try_from(exact(&problem).unwrap()).unwrap();
    let placed = place(&problem, &[1; 10]).unwrap();
    assert!(placed.bound <= exact && exact <= placed.cost, "{} {exact} {}", placed.bound, placed.cost);
}
