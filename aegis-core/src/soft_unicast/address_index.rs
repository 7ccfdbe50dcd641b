//! IPv4 address -> slot, without a probe loop.
//!
//! A perfect hash (hash and displace: Belazzougui, Botelho, Dietzfelbinger 2009). Addresses fall into small buckets,
//! and for each bucket a displacement was searched that shifts its addresses to slots of their own. A lookup hashes
//! twice, side by side, and loads one word from a table that stays in the cache; there is no chain whose length the
//! branch predictor has to guess, and rows are stored at their slots, so there is no second indirection.

use core::cmp::Reverse;
use core::net::Ipv4Addr;

/// Addresses per bucket, on average. Larger: less memory, a longer search.
const BUCKET: usize = 4;

/// Free slots per thousand: with none, the search for the last buckets takes very long.
const SLACK_PER_MILLE: usize = 50;

/// Odd constants without structure: 2^64 divided by the golden ratio, and one of the finaliser of splitmix64.
const BUCKETS: u64 = 0x9e37_79b9_7f4a_7c15;
const SLOTS: u64 = 0xbf58_476d_1ce4_e5b9;

pub(super) struct AddressIndex {
    /// Two odd multipliers: the high bits of address times multiplier say which bucket, and which slot before it is
    /// displaced.
    multipliers: (u64, u64),
    displacements: Box<[u32]>,
    /// 64 minus the logarithm of the number of buckets.
    bucket_shift: u32,
    slots: u32,
}

impl AddressIndex {
    /// An index that gives each of `addresses` (distinct) a slot of its own. At least one slot, even for none.
    pub(super) fn new(addresses: &[Ipv4Addr]) -> Self {
        let buckets = addresses.len().div_ceil(BUCKET).next_power_of_two().max(2);
        let mut slots = addresses.len() + addresses.len() * SLACK_PER_MILLE / 1_000 + 1;
        let mut multipliers = (BUCKETS, SLOTS);
        loop {
            let mut index = Self {
                multipliers,
                displacements: vec![0; buckets].into(),
                bucket_shift: 64 - buckets.trailing_zeros(),
                slots: u32::try_from(slots).expect("a layout has at most 2^26 granules"),
            };
            if index.displace(addresses) {
                return index;
            }
            // One in seven pairs of multipliers keeps the addresses of every bucket apart (e^(-BUCKET/2)): take the
            // next pair. A little more room each time makes sure that it ends.
            multipliers = (multipliers.0.wrapping_mul(SLOTS), multipliers.1.wrapping_mul(BUCKETS));
            slots += slots / 2_048 + 1;
        }
    }

    /// How many slots there are; at least 1.
    pub(super) fn slots(&self) -> usize {
        self.slots as usize
    }

    /// The slot of `address`, if it is in the index at all: an address that is not gets someone else's.
    #[inline]
    pub(super) fn slot(&self, address: Ipv4Addr) -> usize {
        self.shift(self.start(address), self.displacements[self.bucket(address)])
    }

    #[inline]
    fn bucket(&self, address: Ipv4Addr) -> usize {
        (u64::from(address.to_bits()).wrapping_mul(self.multipliers.0) >> self.bucket_shift) as usize
    }

    /// The slot before it is displaced. It does not need the displacement, so it costs nothing while that is loaded.
    #[inline]
    fn start(&self, address: Ipv4Addr) -> u32 {
        let hash = u64::from(address.to_bits()).wrapping_mul(self.multipliers.1) >> 32;
        // A multiplication maps 32 bits onto the slots evenly (Lemire 2016), where a remainder would divide.
        ((hash * u64::from(self.slots)) >> 32) as u32
    }

    /// `start + displacement` modulo the number of slots; both are smaller than that, and it is below 2^31.
    #[inline]
    fn shift(&self, start: u32, displacement: u32) -> usize {
        let sum = start + displacement;
        // If there is nothing to subtract, the difference wraps around and is the larger of the two.
        sum.min(sum.wrapping_sub(self.slots)) as usize
    }

    /// Finds a displacement for every bucket, the fullest first, while there is most room.
    fn displace(&mut self, addresses: &[Ipv4Addr]) -> bool {
        let mut starts: Vec<(usize, u32)> =
            addresses.iter().map(|a| (self.bucket(*a), self.start(*a))).collect();
        starts.sort_unstable();
        if starts.windows(2).any(|pair| pair[0] == pair[1]) {
            return false; // no displacement ever tells these two apart
        }
        let mut buckets: Vec<&[(usize, u32)]> = starts.chunk_by(|a, b| a.0 == b.0).collect();
        buckets.sort_by_key(|bucket| Reverse(bucket.len()));
        let mut taken = vec![false; self.slots()];
        buckets.iter().all(|bucket| {
            let is_free = |displacement: &u32| {
                bucket.iter().all(|(_, start)| !taken[self.shift(*start, *displacement)])
            };
            let Some(displacement) = (0..self.slots).find(is_free) else { return false };
            bucket.iter().for_each(|(_, start)| taken[self.shift(*start, displacement)] = true);
            self.displacements[bucket[0].0] = displacement;
            true
        })
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
                assert!(slots <= count as usize * 115 / 100 + 32, "{slots} slots for {count} addresses");
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
