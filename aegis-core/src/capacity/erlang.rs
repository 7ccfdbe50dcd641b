//! How likely is it that a connection is refused? Erlang's loss formula B.

/// What a term must be of the sum so that it, and all smaller ones after it, are lost in rounding.
const NEGLIGIBLE: f64 = 1e-20;

/// The probability, 0 to 1, that a connection finds all `servers` ports of a share in use, when connections arrive at
/// random and `offered_erlangs` of them would be open on average (arrivals per second times seconds open): Erlang's
/// loss formula B.
///
/// A negative or undefined load counts as none.
///
/// The relative error is below 1e-11 for up to 65,536 ports (1e-13 is usual). What is below 1e-308 is 0. It takes never
/// more steps than there are ports, and for many ports some tens of square roots of the load: 12,000 for a full address.
pub fn erlang_b(offered_erlangs: f64, servers: u32) -> f64 {
    let offered = offered_erlangs.max(0.0);
    // 1/B = 1 + N/A + N(N-1)/A^2 + ... + N!/A^N (Jagerman 1974). All terms are positive, so nothing cancels. They grow
    // while more than A servers are left and shrink from then on, so the first negligible one ends the sum; and where
    // the peak is too far away for that, the sum overflows soon.
    let (mut term, mut inverse) = (1.0_f64, 1.0_f64);
    for left in (1..=servers).rev() {
        term *= f64::from(left) / offered;
        inverse += term;
        if term < inverse * NEGLIGIBLE || inverse.is_infinite() {
            break;
        }
    }
    1.0 / inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number as the sum of two, the second far smaller: 106 bits.
    #[derive(Clone, Copy)]
    struct Double(f64, f64);

    impl Double {
        fn sum(self, b: Self) -> Self {
            let sum = self.0 + b.0;
            let of_b = sum - self.0;
            let lost = (self.0 - (sum - of_b)) + (b.0 - of_b);
            Self::from_parts(sum, lost + self.1 + b.1)
        }

        fn product(self, b: Self) -> Self {
            let product = self.0 * b.0;
            let lost = self.0.mul_add(b.0, -product);
            Self::from_parts(product, lost + self.0 * b.1 + self.1 * b.0)
        }

        fn quotient(self, b: Self) -> Self {
            let first = self.0 / b.0;
            let rest = self.sum(b.product(Self(-first, 0.0)));
            let second = rest.0 / b.0;
            let rest = rest.sum(b.product(Self(-second, 0.0)));
            Self::from_parts(first, second + rest.0 / b.0)
        }

        fn from_parts(high: f64, low: f64) -> Self {
            let sum = high + low;
            Self(sum, low - (sum - high))
        }
    }

    /// The textbook recursion with 106 bits: B(n) = A B(n-1) / (n + A B(n-1)).
    fn precise(offered: f64, servers: u32) -> f64 {
        let offered = Double(offered, 0.0);
        let last = (1..=servers).fold(Double(1.0, 0.0), |blocking, n| {
            let carried = offered.product(blocking);
            carried.quotient(Double(f64::from(n), 0.0).sum(carried))
        });
        last.0
    }

    #[test]
    fn the_ends_of_the_loss_formula() {
        assert_eq!(erlang_b(5.0, 0), 1.0);
        assert_eq!(erlang_b(0.0, 0), 1.0);
        assert_eq!(erlang_b(0.0, 1), 0.0);
        assert_eq!(erlang_b(-1.0, 1), 0.0);
        assert_eq!(erlang_b(f64::NAN, 1), 0.0);
        assert_eq!(erlang_b(f64::INFINITY, 1_000), 1.0);
        assert_eq!(erlang_b(f64::MIN_POSITIVE, 70_000), 0.0);
        assert_eq!(erlang_b(1.0, 1), 0.5);
        assert_eq!(erlang_b(1.0, 65_536), 0.0);
        // Four billion ports are no loop of four billion steps.
        assert!((erlang_b(f64::from(u32::MAX), u32::MAX) - 1.217e-5).abs() < 1e-8);
        assert_eq!(erlang_b(3.9e9, u32::MAX), 0.0);
    }

    #[test]
    fn small_ones_equal_the_exact_fraction() {
        for offered in 1..=9_u32 {
            for servers in 0..=20_u32 {
                // A^N / N! over the sum of A^k / k!, times N!: all whole numbers.
                let terms: Vec<u128> = (0..=servers)
                    .map(|k| u128::from(offered).pow(k) * (k + 1..=servers).map(u128::from).product::<u128>())
                    .collect();
                let exact = *terms.last().unwrap() as f64 / terms.iter().sum::<u128>() as f64;
                let b = erlang_b(f64::from(offered), servers);
                assert!((b / exact - 1.0).abs() < 1e-14, "{offered} E, {servers}: {b} {exact}");
            }
        }
    }

    #[test]
    fn large_ones_agree_with_a_recursion_of_twice_the_precision() {
        for servers in [100, 2_048, 31_744, 65_536] {
            for load in [0.001, 0.5, 0.9, 0.97, 0.99, 1.0, 1.001, 1.1, 3.0, 1e6] {
                let offered = load * f64::from(servers);
                let (b, exact) = (erlang_b(offered, servers), precise(offered, servers));
                if exact < 1e-300 {
                    assert!(b < 1e-299, "{offered} E, {servers}: {b} {exact}");
                } else {
                    assert!((b / exact - 1.0).abs() < 1e-11, "{offered} E, {servers}: {b} {exact}");
                }
            }
        }
    }

    #[test]
    fn more_load_is_refused_more_and_more_ports_refuse_less() {
        for servers in [1, 64, 2_048] {
            let blocking: Vec<f64> =
                (1..=40).map(|i| erlang_b(f64::from(servers * i) / 20.0, servers)).collect();
            assert!(blocking.windows(2).all(|pair| pair[0] < pair[1] || pair[1] == 0.0), "{blocking:?}");
            assert!(erlang_b(f64::from(servers), servers + 1) < erlang_b(f64::from(servers), servers));
        }
    }
}
