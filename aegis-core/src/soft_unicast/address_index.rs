//! IPv4 address -> slot, without a probe loop.
//!
//! A perfect hash (hash and displace: Belazzougui, Botelho, Dietzfelbinger 2009). Addresses fall into small buckets,
//! and for each bucket a displacement was searched that sends its addresses to slots of their own. A lookup is four
//! multiplications and one load from a table of 16-bit words that stays in the cache; there is no chain whose length
//! the branch predictor has to guess, and rows are stored at their slots, so there is no second indirection.

use core::cmp::Reverse;
use core::net::Ipv4Addr;

/// Addresses per bucket, on average. Larger: less memory, a longer search.
const BUCKET: usize = 4;

/// Free slots per thousand: with none, the search for the last buckets takes very long.
const SLACK_PER_MILLE: usize = 30;

/// 2^64 divided by the golden ratio, made odd: spreads neighbouring addresses evenly (Knuth, TAOCP 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// An odd constant without structure (from the finaliser of splitmix64).
const STIR: u64 = 0xbf58_476d_1ce4_e5b9;

pub(super) struct AddressIndex {
    /// An odd multiplier.
    spread: u64,
    displacements: Box<[u16]>,
    /// 64 minus the logarithm of the number of buckets.
    bucket_shift: u32,
    slots: u32,
}

impl AddressIndex {
    /// An index that gives each of `addresses` (distinct) a slot of its own. At least one slot, even for none.
    pub(super) fn new(addresses: &[Ipv4Addr]) -> Self {
        let buckets = addresses.len().div_ceil(BUCKET).next_power_of_two().max(2);
        let mut slots = addresses.len() + addresses.len() * SLACK_PER_MILLE / 1_000 + 1;
        let mut spread = SPREAD;
        loop {
            let mut index = Self {
                spread,
                displacements: vec![0; buckets].into(),
                bucket_shift: 64 - buckets.trailing_zeros(),
                slots: u32::try_from(slots).expect("a layout has at most 2^26 granules"),
            };
            if index.displace(addresses) {
                return index;
            }
            // Some strides fall into few buckets: another multiplier spreads them, and a little room makes it end.
            spread = spread.wrapping_mul(STIR);
            slots += slots.div_ceil(256);
        }
    }

    /// How many slots there are; at least 1.
    pub(super) fn slots(&self) -> usize {
        self.slots as usize
    }

    /// The slot of `address`, if it is in the index at all: an address that is not gets someone else's.
    pub(super) fn slot(&self, address: Ipv4Addr) -> usize {
        let spread = self.spread(address);
        self.place(spread, self.displacements[self.bucket(spread)])
    }

    fn spread(&self, address: Ipv4Addr) -> u64 {
        u64::from(address.to_bits()).wrapping_mul(self.spread)
    }

    fn bucket(&self, spread: u64) -> usize {
        (spread >> self.bucket_shift) as usize
    }

    fn place(&self, spread: u64, displacement: u16) -> usize {
        // A block with a stride is an arithmetic progression and stays one when multiplied: folding breaks it. It does
        // not need the displacement, so a lookup does it while that is being loaded.
        let stirred = (spread ^ spread >> 32).wrapping_mul(STIR);
        // An odd factor, which moves every address differently, where a summand would move them all alike.
        let displaced = stirred.wrapping_mul(u64::from(displacement) << 1 | 1) >> 32;
        // A multiplication maps 32 bits onto the slots evenly (Lemire 2016), where a remainder would divide.
        ((displaced * u64::from(self.slots)) >> 32) as usize
    }

    /// Finds a displacement for every bucket, the fullest first, while there is most room.
    fn displace(&mut self, addresses: &[Ipv4Addr]) -> bool {
        let mut spread: Vec<u64> = addresses.iter().map(|a| self.spread(*a)).collect();
        spread.sort_unstable();
        let mut buckets: Vec<&[u64]> = spread.chunk_by(|a, b| self.bucket(*a) == self.bucket(*b)).collect();
        buckets.sort_by_key(|bucket| Reverse(bucket.len()));
        let mut taken = vec![false; self.slots()];
        buckets.iter().all(|bucket| {
            let found = (0..=u16::MAX).find(|displacement| self.claim(bucket, *displacement, &mut taken));
            found.inspect(|d| self.displacements[self.bucket(bucket[0])] = *d).is_some()
        })
    }

    /// Takes the slots of all addresses of a bucket, or none.
    fn claim(&self, bucket: &[u64], displacement: u16, taken: &mut [bool]) -> bool {
        for (done, spread) in bucket.iter().enumerate() {
            let slot = self.place(*spread, displacement);
            if taken[slot] {
                bucket[..done].iter().for_each(|spread| taken[self.place(*spread, displacement)] = false);
                return false;
            }
            taken[slot] = true;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_perfect(addresses: &[Ipv4Addr]) -> Result<usize, TestCaseError> {
        let index = AddressIndex::new(addresses);
        let mut slots: Vec<usize> = addresses.iter().map(|a| index.slot(*a)).collect();
        slots.sort_unstable();
        prop_assert!(slots.windows(2).all(|pair| pair[0] < pair[1]), "two addresses in one slot");
        prop_assert!(slots.last().is_none_or(|last| *last < index.slots()));
        Ok(index.slots())
    }

    #[test]
    fn blocks_and_scattered_addresses_get_slots_of_their_own_in_little_room() {
        for stride in [1, 2, 256, 65_536, 0x0101_0101] {
            for count in [0, 1, 2, 3, 31, 256, 4_096, 20_000_u32] {
                let addresses: Vec<_> = (0..count)
                    .map(|n| Ipv4Addr::from_bits(0xc000_0200_u32.wrapping_add(n.wrapping_mul(stride))))
                    .collect();
                let slots = is_perfect(&addresses).unwrap();
                assert!(slots <= count as usize * 106 / 100 + 2, "{slots} slots for {count} addresses");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn random_addresses_get_slots_of_their_own(addresses in prop::collection::btree_set(any::<u32>(), 0..600)) {
            let addresses: Vec<_> = addresses.into_iter().map(Ipv4Addr::from_bits).collect();
            is_perfect(&addresses)?;
        }
    }
}
