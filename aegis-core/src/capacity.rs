//! How full is it, and who must know?

use crate::limits::PLANNING_FRACTION_PERCENT;

/// How many of `ports` to plan with: the planning fraction ([`PLANNING_FRACTION_PERCENT`]) of them, rounded down.
///
/// The recommended number of connections per egress IP and origin
/// ([`RECOMMENDED_CONNECTIONS`](crate::limits::RECOMMENDED_CONNECTIONS)) is a setting of its own and does not follow
/// from this.
pub const fn planned_ports(ports: u32) -> u32 {
    // In 64 bits, where the product fits; the result is at most `ports`.
    (ports as u64 * PLANNING_FRACTION_PERCENT as u64 / 100) as u32
}

/// The probability, 0 to 1, that a connection finds all `servers` ports of a share in use, when connections arrive at
/// random and `offered_erlangs` of them would be open on average (arrivals per second times seconds open): Erlang's
/// loss formula B.
///
/// A negative or undefined load counts as none.
pub fn erlang_b(offered_erlangs: f64, servers: u32) -> f64 {
    let offered = offered_erlangs.max(0.0);
    // 1/B(n) = 1 + n / A * 1/B(n-1), 1/B(0) = 1: sums of positive terms only, so nothing cancels, and where the inverse
    // overflows the probability is below 1e-308.
    let inverse = (1..=servers).fold(1.0, |inverse, n| 1.0 + f64::from(n) / offered * inverse);
    1.0 / inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_loss_formula() {
        assert_eq!(erlang_b(5.0, 0), 1.0);
        assert_eq!(erlang_b(0.0, 1), 0.0);
        assert_eq!(erlang_b(-1.0, 1), 0.0);
        assert_eq!(erlang_b(f64::NAN, 1), 0.0);
        assert_eq!(erlang_b(f64::INFINITY, 1_000), 1.0);
        assert_eq!(erlang_b(1.0, 1), 0.5);
        assert_eq!(erlang_b(1.0, 65_536), 0.0);
        assert_eq!(planned_ports(u32::MAX), 3_435_973_836);
    }
}
