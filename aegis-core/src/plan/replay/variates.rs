//! Random numbers of a synthetic day, the same on every platform.
//!
//! IEEE 754 fixes sums, products, quotients and roots to the last bit, but not logarithms: those of two systems may
//! differ, and so would every later number. So `ln` and `exp` are made of the former here.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

pub(super) struct Random(ChaCha8Rng);

impl Random {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// A seed for a generator of somebody else.
    pub(super) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        seed
    }

    /// Any number.
    #[inline]
    pub(super) fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `n`; equally likely but for 1 in 2^64 / n.
    #[inline]
    pub(super) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(n)) >> 64) as u64
    }

    /// In (0, 1].
    #[inline]
    pub(super) fn uniform(&mut self) -> f64 {
        ((self.number() >> 11) + 1) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Exponential, with mean 1.
    #[inline]
    pub(super) fn exponential(&mut self) -> f64 {
        -ln(self.uniform())
    }

    /// Standard normal (the polar method of Marsaglia).
    pub(super) fn normal(&mut self) -> f64 {
        loop {
            let [x, y] = [self.uniform(), self.uniform()].map(|u| 2.0 * u - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                return x * (-2.0 * ln(square) / square).sqrt();
            }
        }
    }
}

/// Of a positive, finite, normal number; exact to about 15 digits.
pub(super) fn ln(x: f64) -> f64 {
    // x = m * 2^e with m in [0.7, 1.4]; then ln m = 2 artanh(s).
    let bits = x.to_bits();
    let (mut exponent, mut m) =
        ((bits >> 52) as i32 - 1_023, f64::from_bits(bits & ((1 << 52) - 1) | 1_023 << 52));
    if m > core::f64::consts::SQRT_2 {
        (m, exponent) = (m / 2.0, exponent + 1);
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = [19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0]
        .into_iter()
        .fold(0.0, |sum: f64, odd: f64| (sum + 1.0 / odd) * square);
    f64::from(exponent) * core::f64::consts::LN_2 + 2.0 * s * (1.0 + series)
}

/// Exact to about 14 digits; of more than 700 in size it is 0, or as of 700.
pub(super) fn exp(x: f64) -> f64 {
    if x < -700.0 {
        return 0.0;
    }
    let x = x.min(700.0);
    let power = (x / core::f64::consts::LN_2).round();
    let rest = x - power * core::f64::consts::LN_2;
    let series = (1..=14).rev().fold(1.0, |sum, n| 1.0 + sum * rest / f64::from(n));
    series * f64::from_bits(((power as i64 + 1_023) as u64) << 52)
}

/// Draws a position with a probability by its weight, in constant time (Walker's alias method, in integers: exact).
pub(super) struct Weighted {
    /// For each column: below this height it is its own, above it `other`'s.
    columns: Vec<(u64, u32)>,
    height: u64,
}

impl Weighted {
    /// None if all weights are 0. Their sum times their number is below 2^64.
    pub(super) fn new(weights: &[u64]) -> Option<Self> {
        let (height, count) = (weights.iter().sum::<u64>(), weights.len() as u64);
        if height == 0 {
            return None;
        }
        let mut columns: Vec<(u64, u32)> =
            (0..).zip(weights).map(|(n, weight)| (weight * count, n)).collect();
        let (mut less, mut more): (Vec<_>, Vec<_>) = (0..columns.len()).partition(|&n| columns[n].0 < height);
        while let (Some(short), Some(&tall)) = (less.pop(), more.last()) {
            columns[short].1 = tall as u32;
            columns[tall].0 -= height - columns[short].0;
            if columns[tall].0 < height {
                less.extend(more.pop());
            }
        }
        Some(Self { columns, height })
    }

    #[inline]
    pub(super) fn draw(&self, random: &mut Random) -> usize {
        if self.columns.len() == 1 {
            return 0;
        }
        let column = random.below(self.columns.len() as u64) as usize;
        let (own, other) = self.columns[column];
        if random.below(self.height) < own { column } else { other as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_and_powers_are_those_of_the_system_to_14_digits() {
        for n in 1..20_000 {
            let x = f64::from(n) * f64::from(n) * 1e-5;
            assert!((ln(x) - x.ln()).abs() <= 1e-14 * x.ln().abs().max(1.0), "ln {x}");
            for x in [x.min(600.0), -x.min(600.0)] {
                assert!((exp(x) / x.exp() - 1.0).abs() < 1e-13, "exp {x}: {} {}", exp(x), x.exp());
            }
        }
        assert!(ln(1.0 / (1_u64 << 53) as f64) < -36.7);
        assert_eq!((exp(0.0), ln(1.0), exp(-1e9)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn the_same_seed_gives_these_numbers_on_every_platform() {
        let mut random = Random::new([1; 32]);
        let bits = [random.exponential(), random.normal(), exp(random.normal())].map(f64::to_bits);
        assert_eq!(bits, [0x3ff3_4f2a_6f51_f4a2, 0x3fd4_79eb_da4c_e131, 0x4000_c2a0_0c75_0978]);
    }

    #[test]
    fn positions_are_drawn_by_weight_and_those_of_weight_0_never() {
        let weights = [3, 0, 1, 4, 0, 2];
        let drawn = Weighted::new(&weights).unwrap();
        let mut random = Random::new([7; 32]);
        let mut counts = [0_u64; 6];
        (0..100_000).for_each(|_| counts[drawn.draw(&mut random)] += 1);
        for (weight, count) in weights.into_iter().zip(counts) {
            // 5 standard deviations.
            assert!(count.abs_diff(weight * 10_000) <= 5 * 155 && (weight > 0 || count == 0), "{counts:?}");
        }
        assert!(Weighted::new(&[0, 0]).is_none());
        assert!(Weighted::new(&[]).is_none());
    }

    #[test]
    fn variates_have_the_moments_of_their_distributions() {
        let mut random = Random::new([3; 32]);
        let n = 200_000;
        let mean = |draw: &mut dyn FnMut() -> f64| (0..n).map(|_| draw()).sum::<f64>() / f64::from(n);
        assert!((mean(&mut || random.exponential()) - 1.0).abs() < 0.015);
        assert!((mean(&mut || random.exponential().powi(2)) - 2.0).abs() < 0.06);
        assert!(mean(&mut || random.normal()).abs() < 0.015);
        assert!((mean(&mut || random.normal().powi(2)) - 1.0).abs() < 0.02);
    }
}
