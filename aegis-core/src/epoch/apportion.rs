//! Whole granules from exact quotas, with errors that do not add up over many addresses.

use core::cmp::Reverse;

/// What each party of a split is still owed from the addresses before, in units of 2^-32 granule; negative if it got
/// more than its exact quota.
pub(super) type Debt = i64;

const GRANULE: Debt = 1 << 32;

/// Rounds every quota (`quotas[i] / denominator` granules) down or up, so that together they make `total`.
///
/// No party is ever a whole granule away from its quota. What rounding down leaves goes to those to whom most is owed,
/// the first of them in a tie (largest remainder, with `debts` carried from address to address: this is what makes
/// the errors even out instead of adding up). `total` must lie between the sum of the quotas rounded down and the sum
/// rounded up.
pub(super) fn apportion(quotas: &[u64], denominator: u64, total: u64, debts: &mut [Debt]) -> Vec<u64> {
    let mut granted: Vec<u64> = quotas.iter().map(|quota| quota / denominator).collect();
    let mut claims = Vec::new();
    for (party, (quota, debt)) in quotas.iter().zip(debts.iter_mut()).enumerate() {
        let remainder = quota % denominator;
        if remainder > 0 {
            *debt += fraction(remainder, denominator);
            claims.push((Reverse(*debt), party));
        }
    }
    let left = usize::try_from(total - granted.iter().sum::<u64>()).expect("fewer granules than memory");
    if left < claims.len() {
        claims.select_nth_unstable(left);
    }
    for (_, party) in &claims[..left] {
        granted[*party] += 1;
        debts[*party] -= GRANULE;
    }
    granted
}

/// `remainder / denominator` of a granule, rounded down to 2^-32.
fn fraction(remainder: u64, denominator: u64) -> Debt {
    let fraction = (u128::from(remainder) << 32) / u128::from(denominator);
    Debt::try_from(fraction).expect("a remainder is smaller than its denominator")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_to_one_evens_out_over_addresses() {
        // 31 granules at 2:1 are 20 2/3 and 10 1/3: three addresses make 62 and 31.
        let mut debts = [0; 2];
        let mut sum = [0; 2];
        for _ in 0..3 {
            let granted = apportion(&[31 * 2, 31], 3, 31, &mut debts);
            sum = [sum[0] + granted[0], sum[1] + granted[1]];
        }
        assert_eq!(sum, [62, 31]);
    }

    #[test]
    fn ties_go_to_everyone_in_turn() {
        let mut debts = [0; 5];
        let turns: Vec<_> = (0..5).map(|_| apportion(&[1; 5], 5, 1, &mut debts)).collect();
        for (turn, granted) in turns.iter().enumerate() {
            assert_eq!(granted.iter().position(|g| *g == 1), Some(turn));
        }
    }
}
