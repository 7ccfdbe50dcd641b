//! Placements beside those of an exact solver, HiGHS, on the same problems: within one percent, and feasible exactly when
//! it says so. Needs `python3` with `highspy`; without it the test says so and passes.
//!
//! The problem is written for the solver from its definition, not from how it is searched here.

use std::fmt::Write;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_core::fleet::Latency;
use aegis_core::plan::placement::{Cities, Loss, Need, Placement, Problem, Site, place};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A problem, and its round trips as the solver is told them: by origin, ingress and site.
struct Case {
    problem: Problem,
    trips: Vec<Vec<Vec<Option<u32>>>>,
}

/// Cities on a plane, data centers in them, a few of them with most of the traffic; one to three origins.
fn case(seed: u64, cities: Cities) -> Case {
    let random = &mut Random(seed);
    let limited = cities.limit().is_some();
    let sites = 10 + random.below(if limited { 15 } else { 31 }) as usize;
    let addresses = 1 + random.below(if limited { 4 } else { 8 }) as u32;
    let per_address = if limited { 1 + random.below(3) } else { 1 + random.below(4) } as u8;
    let towns = if limited { sites / 2 } else { sites };
    let place = |random: &mut Random| (random.below(20_000) as f64, random.below(10_000) as f64);
    let far = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).hypot(a.1 - b.1) * 15.0;
    let centers: Vec<_> = (0..towns).map(|_| place(random)).collect();
    let city: Vec<usize> =
        (0..sites).map(|s| if s < towns { s } else { random.below(towns as u64) as usize }).collect();
    let points: Vec<_> = city
        .iter()
        .map(|city| (centers[*city].0 + random.below(60) as f64, centers[*city].1 + random.below(60) as f64))
        .collect();
    let same = random.percent(50);
    let capacity: Vec<u64> =
        (0..sites).map(|_| if same { 12_697 } else { 6_000 + random.below(8_000) }).collect();
    let pins = if per_address > 1 && random.percent(25) { 1 } else { 0 };
    let partial = random.percent(40);
    // Sometimes more than there is room for.
    let fill = 30 + random.below(75);
    let mean = capacity.iter().sum::<u64>() / sites as u64;
    let total = u64::from(addresses) * u64::from(per_address) * mean * fill / 100;
    let (mut needs, mut trips) = (Vec::new(), Vec::new());
    for _ in 0..1 + random.below(3) {
        let origin = place(random);
        let weights: Vec<u64> = (0..sites).map(|_| (1 + random.below(30)).pow(2)).collect();
        let all: u64 = weights.iter().sum();
        let demand: Vec<u64> = weights.iter().map(|weight| (total * weight / all).max(1)).collect();
        let gone: Vec<bool> = (0..sites).map(|_| partial && random.percent(15)).collect();
        let trip = |random: &mut Random, from: usize, to: usize| {
            let gone = gone[to] || (partial && random.percent(4));
            (!gone).then(|| (far(points[from], points[to]) + far(points[to], origin)) as u32)
        };
        let matrix: Vec<Vec<Option<u32>>> =
            (0..sites).map(|from| (0..sites).map(|to| trip(random, from, to)).collect()).collect();
        let latency = matrix.iter().flatten().map(|trip| trip.map(Latency::from_micros)).collect();
        needs.push(Need::new(demand, latency, sites).expect("a row for each ingress"));
        trips.push(matrix);
    }
    let site = |s: usize| Site { city: city[s], capacity: capacity[s], pinned: s < pins };
    let loss = if random.percent(70) { Loss::Survived } else { Loss::Accepted };
    let sites = (0..sites).map(site).collect();
    Case { problem: Problem { sites, needs, addresses, per_address, cities, loss }, trips }
}

/// The mixed-integer programme, address by address: z says which site announces which address. Connections in thousands,
/// round trips in milliseconds.
fn programme(case: &Case) -> String {
    let Case { problem, trips } = case;
    let Problem { sites, needs, addresses, per_address, cities, loss } = problem;
    let thousand = |n: u64| n as f64 / 1e3;
    let (mut cost, mut rules, mut binary) = (String::new(), String::new(), String::new());
    let mut rule = |text: String| writeln!(rules, " {text}").expect("a string takes all");
    let each = || 0..sites.len();
    for (o, (need, matrix)) in needs.iter().zip(trips).enumerate() {
        for (i, (demand, row)) in need.demand().iter().zip(matrix).enumerate() {
            let demand = thousand(*demand);
            let ways = || row.iter().enumerate().filter_map(|(s, trip)| Some((s, (*trip)?)));
            for (s, trip) in ways() {
                write!(cost, " + {} x{o}_{i}_{s}", f64::from(trip) / 1e3).expect("a string takes all");
                rule(format!("x{o}_{i}_{s} - {demand} y{s} <= 0"));
            }
            let sum: String = ways().map(|(s, _)| format!(" + x{o}_{i}_{s}")).collect();
            // No way at all: a rule that nothing meets.
            rule(format!("{} = {demand}", if sum.is_empty() { "0 y0".to_owned() } else { sum }));
        }
        for s in each() {
            let here = matrix.iter().enumerate().filter(|(_, row)| row[s].is_some());
            let sum: String = here.map(|(i, _)| format!(" + x{o}_{i}_{s}")).collect();
            if !sum.is_empty() {
                rule(format!("{sum} - {} n{s} <= 0", thousand(sites[s].capacity)));
            }
            if *loss == Loss::Survived {
                let reached = |other: usize| matrix.iter().any(|row| row[other].is_some());
                let others = each().filter(|other| *other != s && reached(*other));
                let sum: String =
                    others.map(|d| format!(" + {} n{d}", thousand(sites[d].capacity))).collect();
                let sum = if sum.is_empty() { "0 y0".to_owned() } else { sum };
                rule(format!("{sum} >= {}", thousand(need.total())));
            }
        }
    }
    // Several addresses are alike: counting the slices of a site is enough where any cities will do.
    let counted = cities.limit().is_none_or(|limit| limit >= usize::from(*per_address)) && *addresses > 2;
    for s in each() {
        let most = if *per_address == 1 { 1 } else { *addresses };
        rule(format!("y{s} - n{s} <= 0"));
        rule(format!("n{s} <= {most}"));
        if sites[s].pinned {
            rule(format!("n{s} = {addresses}"));
        }
        write!(binary, " y{s}").expect("a string takes all");
        if !counted {
            let sum: String = (0..*addresses).map(|a| format!(" - z{a}_{s}")).collect();
            rule(format!("n{s}{sum} = 0"));
        }
    }
    let sum: String = each().map(|s| format!(" + n{s}")).collect();
    rule(format!("{sum} = {}", addresses * u32::from(*per_address)));
    for a in (0..*addresses).filter(|_| !counted) {
        let sum: String = each().map(|s| format!(" + z{a}_{s}")).collect();
        rule(format!("{sum} = {per_address}"));
        let towns = sites.iter().map(|site| site.city).max().unwrap_or(0) + 1;
        if let Some(limit) = cities.limit() {
            let sum: String = (0..towns).map(|c| format!(" + w{a}_{c}")).collect();
            rule(format!("{sum} <= {limit}"));
            each().for_each(|s| rule(format!("z{a}_{s} - w{a}_{} <= 0", sites[s].city)));
            (0..towns).for_each(|c| write!(binary, " w{a}_{c}").expect("a string takes all"));
        }
        each().for_each(|s| write!(binary, " z{a}_{s}").expect("a string takes all"));
    }
    let integer: String = each().map(|s| format!(" n{s}")).collect();
    format!("Minimize\n cost:{cost}\nSubject To\n{rules}General\n{integer}\nBinary\n{binary}\nEnd\n")
}

/// Counts what a placement must keep; the cost is recomputed by nobody but the solver.
fn check(problem: &Problem, placement: &Placement) {
    assert_eq!(placement.addresses.len(), problem.addresses as usize);
    for set in &placement.addresses {
        assert!(
            set.len() == usize::from(problem.per_address) && set.windows(2).all(|pair| pair[0] < pair[1])
        );
        let mut cities: Vec<usize> = set.iter().map(|site| problem.sites[*site].city).collect();
        cities.sort_unstable();
        cities.dedup();
        assert!(problem.cities.limit().is_none_or(|limit| cities.len() <= limit), "{set:?} {cities:?}");
        let pinned = |site: usize| !problem.sites[site].pinned || set.contains(&site);
        assert!((0..problem.sites.len()).all(pinned));
    }
    if problem.per_address == 1 {
        assert!(
            placement.addresses.windows(2).all(|pair| pair[0] != pair[1]),
            "one point of failure for two"
        );
    }
}

fn python() -> Option<&'static str> {
    let works = |python: &&str| {
        Command::new(python)
            .args(["-c", "import highspy"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    ["python3", "python"].into_iter().find(works)
}

#[test]
fn placements_are_within_one_percent_of_an_exact_solver_and_feasible_exactly_when_it_says_so() {
    let Some(python) = python() else {
        let _ = writeln!(
            std::io::stderr(),
            "!! SKIPPED placement against HiGHS: no python3 with highspy; pip install highspy"
        );
        return;
    };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("placement");
    std::fs::create_dir_all(&folder).expect("a folder for the programmes");
    let kinds = [(Cities::Any, 40), (Cities::One, 10), (Cities::Two, 10)];
    let seeds = kinds.into_iter().flat_map(|(cities, count)| (0..count).map(move |seed| (cities, seed)));
    let mut cases = Vec::new();
    for (nth, (cities, seed)) in seeds.enumerate() {
        let path = folder.join(format!("case-{nth}.lp"));
        let case = case(1_000 + seed, cities);
        std::fs::write(&path, programme(&case)).expect("the folder takes files");
        cases.push((path, case));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/placement_exact/solve.py");
    let output = Command::new(python)
        .arg(script)
        .args(cases.iter().map(|(path, _)| path))
        .output()
        .expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (mut solved, mut infeasible, mut worst) = (0, 0, 0.0_f64);
    let mut faults = Vec::new();
    for ((path, case), line) in cases.iter().zip(text.lines().filter(|line| line.starts_with("case "))) {
        let words: Vec<&str> = line.rsplitn(4, ' ').collect();
        let [bound, objective, status, _] = words[..] else { panic!("{line}") };
        let [objective, lower] = [objective, bound].map(|n| n.parse::<f64>().expect("a number") * 1e6);
        let placed = place(&case.problem, &vec![1; case.problem.sites.len()]);
        let name = path.file_name().expect("a file").to_string_lossy();
        match (status, placed) {
            ("infeasible", None) => infeasible += 1,
            ("infeasible", Some(_)) => faults.push(format!("{name}: placed, but infeasible")),
            ("optimal", None) => faults.push(format!("{name}: feasible, but not placed")),
            // The solver ran out of time, with an answer or without.
            (_, None) => eprintln!("{name}: unfinished, not placed"),
            (_, Some(placement)) => {
                check(&case.problem, &placement);
                let cost = placement.cost as f64;
                // `lower` is proven, and at most 0.1 % below the optimum where the solver finished.
                let over = cost / lower - 1.0;
                if over < -1e-6 {
                    faults.push(format!("{name}: {over:.5} below what is proven: the two problems differ"));
                }
                if placement.bound as f64 > objective * (1.0 + 1e-6) {
                    faults.push(format!("{name}: a bound above the optimum"));
                }
                if over <= 0.01 {
                    (solved, worst) = (solved + 1, worst.max(over));
                } else if status == "optimal" || cost > objective * 1.01 {
                    faults.push(format!(
                        "{name}: {over:.5} above what is proven, {:.5} above",
                        cost / objective - 1.0
                    ));
                }
            }
        }
    }
    eprintln!("{solved} solved, worst {:.4} % above what is proven; {infeasible} infeasible", worst * 100.0);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(text.lines().filter(|line| line.starts_with("case ")).count(), cases.len());
    assert!(
        solved >= cases.len() / 2 && infeasible >= 3,
        "{solved} solved, {infeasible} infeasible: no test"
    );
}
