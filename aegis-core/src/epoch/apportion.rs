//! Whole granules from exact quotas: who keeps what it has comes first, and errors do not add up over many addresses.

use core::cmp::Reverse;

/// What each party of a split is still owed from the addresses before, in units of 2^-32 granule; negative if it got
/// more than its exact quota.
pub(super) type Debt = i64;

const GRANULE: Debt = 1 << 32;

/// A move is spent where one party is owed so much more than another. Rounding alone leaves gaps of up to two granules
/// (one is owed almost a granule, the other has almost a granule too much): to close those would move granules to
/// and fro with every small change, and make nothing more even.
const UNFAIR: Debt = 2 * GRANULE;

/// A split of one address: who gets its quota rounded up. The others get theirs rounded down.
///
/// No party is ever a whole granule away from its quota.
pub(super) struct Split {
    claims: Vec<Claim>,
    /// So many of them, from the first on, are rounded up.
    up: usize,
}

/// A party whose quota is not whole.
struct Claim {
    /// Rounding it up saves a move: it has that many granules already.
    saves: bool,
    debt: Debt,
    party: usize,
}

impl Split {
    /// Rounds `up` of the quotas up (each is `quotas[i] / denominator` granules, with what is owed in `debts[i]`).
    ///
    /// Those come first for whom it saves a move (`saves`), so that as few moves are needed as is possible at all;
    /// then those to whom most is owed, the first of them in a tie (largest remainder, with debts carried from
    /// address to address: this is what makes the errors even out instead of adding up).
    pub(super) fn new(
        quotas: &[u64],
        denominator: u64,
        up: usize,
        debts: &mut [Debt],
        saves: impl Fn(usize) -> bool,
    ) -> Self {
        let mut claims = Vec::with_capacity(quotas.len());
        for (party, (quota, debt)) in quotas.iter().zip(debts).enumerate() {
            let remainder = quota % denominator;
            if remainder > 0 {
                *debt += fraction(remainder, denominator);
                claims.push(Claim { saves: saves(party), debt: *debt, party });
            }
        }
        if up < claims.len() {
            claims.select_nth_unstable_by_key(up, |c| (!c.saves, Reverse(c.debt), c.party));
        }
        Self { claims, up }
    }

    /// How much more is owed to somebody who is rounded down than to somebody who is rounded up, if that is unfair:
    /// then they should change places, though it costs a move.
    pub(super) fn gap(&self) -> Option<Debt> {
        let (owed, favoured) = self.extremes()?;
        let gap = self.claims[owed].debt - self.claims[favoured].debt;
        (gap > UNFAIR).then_some(gap)
    }

    /// Lets these two change places.
    pub(super) fn close_gap(&mut self) {
        if let Some((owed, favoured)) = self.extremes() {
            self.claims.swap(owed, favoured);
        }
    }

    /// The parties that are rounded up. From here on their debts are lower by a granule.
    pub(super) fn settle(self, debts: &mut [Debt]) -> impl Iterator<Item = usize> {
        self.claims.into_iter().take(self.up).map(|claim| {
            debts[claim.party] -= GRANULE;
            claim.party
        })
    }

    /// To whom most is owed of those rounded down, and least of those rounded up.
    fn extremes(&self) -> Option<(usize, usize)> {
        let (up, down) = self.claims.split_at(self.up);
        let owed = (0..down.len()).min_by_key(|n| (Reverse(down[*n].debt), down[*n].party))?;
        let favoured = (0..up.len()).min_by_key(|n| (up[*n].debt, Reverse(up[*n].party)))?;
        Some((self.up + owed, favoured))
    }
}

/// `remainder / denominator` of a granule, rounded down to 2^-32.
fn fraction(remainder: u64, denominator: u64) -> Debt {
    // Nearly always both fit into 32 bits, and a division of 128 bits takes several times as long.
    let fraction = match u32::try_from(denominator) {
        Ok(denominator) => u128::from((remainder << 32) / u64::from(denominator)),
        Err(_) => (u128::from(remainder) << 32) / u128::from(denominator),
    };
    Debt::try_from(fraction).expect("a remainder is smaller than its denominator")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(quotas: &[u64], denominator: u64, up: usize, debts: &mut [Debt], saves: &[usize]) -> Vec<usize> {
        let mut split = Split::new(quotas, denominator, up, debts, |party| saves.contains(&party));
        if split.gap().is_some() {
            split.close_gap();
        }
        let mut up: Vec<usize> = split.settle(debts).collect();
        up.sort_unstable();
        up
    }

    #[test]
    fn two_to_one_evens_out_over_addresses() {
        // 31 granules at 2:1 are 20 2/3 and 10 1/3: three addresses make 62 and 31.
        let mut debts = [0; 2];
        let mut sum = [0; 2];
        for _ in 0..3 {
            sum = [sum[0] + 20, sum[1] + 10];
            split(&[31 * 2, 31], 3, 1, &mut debts, &[]).into_iter().for_each(|party| sum[party] += 1);
        }
        assert_eq!(sum, [62, 31]);
    }

    #[test]
    fn ties_go_to_everyone_in_turn() {
        let mut debts = [0; 5];
        let turns: Vec<_> = (0..5).map(|_| split(&[1; 5], 5, 1, &mut debts, &[])).collect();
        assert_eq!(turns, [[0], [1], [2], [3], [4]]);
    }

    #[test]
    fn who_has_it_keeps_it_until_two_granules_more_are_owed_to_another() {
        let mut debts = [0; 2];
        let turns: Vec<_> = (0..6).map(|_| split(&[1; 2], 2, 1, &mut debts, &[1])[0]).collect();
        // The gap grows by a granule with each address: 0, 1, 2, and 3 is too much.
        assert_eq!(turns, [1, 1, 1, 0, 1, 0]);
    }

    #[test]
    fn large_and_small_denominators_agree() {
        for remainder in [0, 1, 77, 999] {
            assert_eq!(fraction(remainder, 1_000), fraction(remainder << 40, 1_000 << 40));
        }
    }
}
