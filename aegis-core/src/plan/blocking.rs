//! How likely is a connection refused because the ports of *its* machine are all in use, while others have free ones?

use std::collections::BTreeMap;

use crate::capacity::{erlang_b, planned_ports};
use crate::error::{Error, Result};

/// How unevenly connections reach the machines of a data center: the load of the busiest one over what would be its part.
///
/// A machine's part is by its ports. With 1.3, the machine with the most ports gets 1.3 times its part, and the others
/// share the rest by their ports.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Imbalance(f64);

impl Imbalance {
    /// All machines get their part.
    pub const NONE: Self = Self(1.0);

    /// The busiest machine gets `factor` times its part.
    ///
    /// # Errors
    /// Below 1, above 1,000, or not a number.
    pub fn new(factor: f64) -> Result<Self> {
        if (1.0..=1_000.0).contains(&factor) {
            return Ok(Self(factor));
        }
        Err(Error::input(format!(
            "imbalance {factor}; it is the load of the busiest machine over its part: 1 to 1000"
        )))
    }

    /// The factor.
    pub const fn factor(self) -> f64 {
        self.0
    }
}

/// How many connections may be refused: a probability above 0 and below 1.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Refusals(f64);

impl Refusals {
    /// At most this part of all connections.
    ///
    /// # Errors
    /// Not above 0 and below 1.
    pub fn new(probability: f64) -> Result<Self> {
        if probability > 0.0 && probability < 1.0 {
            return Ok(Self(probability));
        }
        Err(Error::input(format!(
            "a refusal probability of {probability}; it lies above 0 and below 1, for example 0.0001 (no number of ports \
             makes it 0)"
        )))
    }

    /// The probability.
    pub const fn probability(self) -> f64 {
        self.0
    }
}

/// The shares of one data center: how many machines have so many ports, of all addresses together.
///
/// A machine may take any of its ports, so those of all addresses count together. A machine whose ports are all in use
/// refuses: that another would still take the connection if it were handed on is not counted on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shares(BTreeMap<u32, u32>);

impl FromIterator<u32> for Shares {
    /// The ports of each machine.
    fn from_iter<T: IntoIterator<Item = u32>>(ports: T) -> Self {
        let mut shares = BTreeMap::new();
        ports.into_iter().filter(|ports| *ports > 0).for_each(|ports| *shares.entry(ports).or_default() += 1);
        Self(shares)
    }
}

impl Shares {
    /// So many machines with so many ports each.
    pub fn equal(machines: u32, ports: u32) -> Self {
        Self(
            [(ports, machines)].into_iter().filter(|(ports, machines)| *ports > 0 && *machines > 0).collect(),
        )
    }

    /// All ports.
    pub fn ports(&self) -> u64 {
        self.0.iter().map(|(ports, machines)| u64::from(*ports) * u64::from(*machines)).sum()
    }

    /// The part of all connections that is refused when `load` of them would be open on average: Erlang's B of each
    /// share, weighted by the connections that reach it. 1 without a port.
    pub fn refused(&self, load: f64, imbalance: Imbalance) -> f64 {
        let all = self.ports() as f64;
        let Some((largest, _)) = self.0.last_key_value() else { return 1.0 };
        let part = f64::from(*largest) / all;
        let busiest = (imbalance.0 * part).min(1.0);
        // What the others get of their part.
        let others = if part < 1.0 { (1.0 - busiest) / (1.0 - part) } else { 0.0 };
        let refused = |ports: u32, fraction: f64| fraction * erlang_b(load * fraction, ports);
        let rest = self.0.iter().map(|(ports, machines)| {
            let machines = machines - u32::from(ports == largest);
            f64::from(machines) * refused(*ports, others * f64::from(*ports) / all)
        });
        refused(*largest, busiest) + rest.sum::<f64>()
    }

    /// The most connections with which no more than `target` are refused; a whole number.
    pub fn load_at(&self, target: Refusals, imbalance: Imbalance) -> u64 {
        // Nobody plans for more than one connection for each port: refusals would be above any sensible target.
        self.most_below(self.ports(), target, imbalance)
    }

    /// What the shares are planned for: the planning fraction of their ports, or less if too many would be refused then.
    pub fn planned(&self, target: Refusals, imbalance: Imbalance) -> u64 {
        self.most_below(planned_ports(self.ports()), target, imbalance)
    }

    fn most_below(&self, most: u64, target: Refusals, imbalance: Imbalance) -> u64 {
        let is_fine = |load: u64| self.refused(load as f64, imbalance) <= target.0;
        if most == 0 || is_fine(most) {
            return most;
        }
        let (mut fine, mut bad) = (0, most);
        while bad - fine > 1 {
            let middle = fine + (bad - fine) / 2;
            if is_fine(middle) { fine = middle } else { bad = middle }
        }
        fine
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    use super::*;

    fn factor(factor: f64) -> Imbalance {
        Imbalance::new(factor).unwrap()
    }

    #[test]
    fn one_share_is_the_standard_table() {
        // Blocking of 1 % and of 0.1 %: offered load in Erlang, from the usual tables.
        for (ports, probability, erlang) in [
            (1, 0.01, 0.0101),
            (10, 0.01, 4.461),
            (10, 0.001, 3.092),
            (20, 0.01, 12.03),
            (50, 0.001, 32.51),
            (100, 0.01, 84.06),
            (100, 0.001, 75.24),
        ] {
            let refused = Shares::equal(1, ports).refused(erlang, Imbalance::NONE);
            assert!((refused / probability - 1.0).abs() < 0.01, "{ports} {refused} {probability}");
        }
    }

    #[test]
    fn a_share_refuses_as_the_recursion_says() {
        // B(n) = A B(n-1) / (n + A B(n-1)), B(0) = 1.
        for (ports, load) in
            [(15, 10.0), (117, 100.0), (2_048, 1_900.0), (2_048, 2_500.0), (14_336, 14_000.0)]
        {
            let recursion = (1..=ports).fold(1.0, |b, n| load * b / (f64::from(n) + load * b));
            let refused = Shares::equal(1, ports).refused(load, factor(7.0));
            assert!((refused - recursion).abs() < 1e-9, "{ports} {load}: {refused} {recursion}");
        }
    }

    #[test]
    fn cutting_the_ports_and_loading_them_unevenly_both_refuse_more() {
        let refused = |machines, imbalance| {
            Shares::equal(machines, 2_048 / machines).refused(1_900.0, factor(imbalance))
        };
        let one = refused(1, 1.0);
        assert!(one < refused(2, 1.0) && refused(2, 1.0) < refused(32, 1.0));
        assert!(refused(2, 1.0) < refused(2, 1.1) && refused(2, 1.1) < refused(2, 1.5));
        assert_eq!(refused(1, 1.5), one, "one machine is as busy as all");
        assert_eq!(Shares::default().refused(1.0, Imbalance::NONE), 1.0);
    }

    #[test]
    fn the_planned_load_is_the_last_one_below_the_target() {
        let target = Refusals::new(1e-4).unwrap();
        for (shares, imbalance, is_less) in [
            (Shares::equal(1, 2_048), 1.0, false),
            (Shares::equal(8, 2_048), 1.4, true),
            (Shares::equal(8, 64), 1.0, true),
            ([2_048, 4_096, 2_048].into_iter().collect(), 1.5, true),
        ] {
            let imbalance = factor(imbalance);
            let planned = shares.planned(target, imbalance);
            let fraction = shares.ports() * 80 / 100;
            assert_eq!(planned < fraction, is_less, "{planned} of {fraction}");
            assert!(shares.refused(planned as f64, imbalance) <= 1e-4);
            let most = shares.load_at(target, imbalance);
            assert!(shares.refused(most as f64 + 1.0, imbalance) > 1e-4);
            assert_eq!(planned, most.min(fraction));
        }
        assert_eq!(Shares::default().planned(target, Imbalance::NONE), 0);
    }

    #[test]
    fn nonsense_is_refused() {
        for factor in [f64::NAN, 0.9, f64::INFINITY, -1.0] {
            assert!(Imbalance::new(factor).unwrap_err().message().contains("1 to 1000"));
        }
        for probability in [f64::NAN, 0.0, 1.0, -0.1] {
            assert!(Refusals::new(probability).unwrap_err().message().contains("above 0 and below 1"));
        }
    }

    /// Connections arrive at random and last a random time: the part that finds the ports of its machine in use, by batch.
    fn simulated(ports: &[u32], load: f64, imbalance: f64, batches: usize, seed: u64) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = move || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let all: f64 = ports.iter().map(|ports| f64::from(*ports)).sum();
        // Only one machine has most ports in these scenes.
        let busiest = (0..ports.len()).max_by_key(|machine| ports[*machine]).unwrap();
        let part = |machine: usize| f64::from(ports[machine]) / all;
        let spread = (1.0 - imbalance * part(busiest)) / (1.0 - part(busiest));
        let fraction = |machine: usize| part(machine) * if machine == busiest { imbalance } else { spread };
        // Each machine by itself: arrivals at random split at random are arrivals at random.
        let mut arrived = vec![0_u64; batches];
        let mut refused = vec![0_u64; batches];
        for (machine, ports) in ports.iter().enumerate() {
            let (offered, length) = (load * fraction(machine), 400.0);
            let (mut now, mut busy) = (-20.0, 0_u32);
            // Mean life 1: events at rate offered + busy; which one, by their rates.
            while now < length * batches as f64 {
                let rate = offered + f64::from(busy);
                now -= (1.0 - uniform()).ln() / rate;
                if uniform() * rate >= offered {
                    busy -= 1;
                    continue;
                }
                let batch = (now / length) as usize;
                if now >= 0.0 && batch < batches {
                    arrived[batch] += 1;
                    refused[batch] += u64::from(busy == *ports);
                }
                busy += u32::from(busy < *ports);
            }
        }
        refused.iter().zip(&arrived).map(|(refused, arrived)| *refused as f64 / *arrived as f64).collect()
    }

    #[test]
    fn a_simulation_of_every_connection_refuses_as_many() {
        for (nth, (ports, load, imbalance)) in [
            (vec![20], 15.0, 1.0),
            (vec![17, 16, 16, 16], 52.0, 1.0),
            (vec![17, 16, 16, 16], 45.0, 1.4),
            (vec![65, 64, 64, 32, 32], 215.0, 1.2),
            (vec![257, 256], 470.0, 1.1),
        ]
        .into_iter()
        .enumerate()
        {
            let shares: Shares = ports.iter().copied().collect();
            let expected = shares.refused(load, factor(imbalance));
            let batches = simulated(&ports, load, imbalance, 30, nth as u64);
            let n = batches.len() as f64;
            let mean = batches.iter().sum::<f64>() / n;
            let variance = batches.iter().map(|b| (b - mean).powi(2)).sum::<f64>() / (n - 1.0);
            // 99.9 % of Student's distribution with 29 degrees of freedom.
            let interval = 3.66 * (variance / n).sqrt();
            assert!((mean - expected).abs() <= interval, "{ports:?}: {mean} +- {interval}, not {expected}");
            assert!(interval < expected / 5.0, "{ports:?}: an interval of {interval} says nothing");
        }
    }
}
