//! 32-bit key (an IPv4 address, a machine's IPv6 number) -> row, without a probe loop.
//!
//! Keys that follow one another with few gaps, as the addresses of one prefix do, are their own index: the row is the
//! distance from the first. Others get a perfect hash (hash and displace: Belazzougui, Botelho, Dietzfelbinger 2009).
//! Keys fall into small buckets, and for each bucket a displacement was searched that shifts its keys to rows of their
//! own. A lookup hashes twice, side by side, and loads one word from a table that stays in the cache; there is no chain
//! whose length the branch predictor has to guess.

use core::cmp::Reverse;

/// Keys per bucket, on average. Larger: less memory, a longer search.
const BUCKET: usize = 4;

/// Free rows per thousand: with none, the search for the last buckets takes very long.
const SLACK_PER_MILLE: usize = 50;

/// Keys are their own index if at most one row in this many is a gap. It bounds memory; a lookup is faster by half.
const ROWS_PER_GAP: u64 = 4;

/// Odd constants without structure: 2^64 divided by the golden ratio, and one of the finaliser of splitmix64.
const BUCKETS: u64 = 0x9e37_79b9_7f4a_7c15;
const ROWS: u64 = 0xbf58_476d_1ce4_e5b9;

/// What an index has found.
#[derive(Clone, Copy, Default)]
pub(super) struct Row(pub(super) u32);

#[derive(PartialEq, Eq, Debug)]
pub(super) struct RowIndex {
    /// The key of row 0, where keys are their own index.
    pub(super) first: u32,
    pub(super) rows: u32,
    /// Two odd multipliers: the high bits of key times multiplier say which bucket, and which row before it is
    /// displaced. 0 where keys are their own index.
    pub(super) multipliers: (u64, u64),
    /// 64 minus the logarithm of the number of buckets.
    pub(super) bucket_shift: u32,
    /// One for each bucket; empty where keys are their own index.
    pub(super) displacements: Box<[u32]>,
    /// The key of each row, or of none (then 0); empty where keys are their own index.
    pub(super) keys: Box<[u32]>,
}

impl RowIndex {
    /// An index that gives each of `keys` (ascending) a row of its own.
    pub(super) fn new(keys: &[u32]) -> Self {
        let span = match keys {
            [] => 0,
            [first, .., last] => u64::from(last - first) + 1,
            [_] => 1,
        };
        if span * (ROWS_PER_GAP - 1) <= keys.len() as u64 * ROWS_PER_GAP {
            return Self {
                first: keys.first().copied().unwrap_or(0),
                rows: u32::try_from(span).expect("a layout has at most 2^26 granules"),
                multipliers: (0, 0),
                bucket_shift: 0,
                displacements: Box::default(),
                keys: Box::default(),
            };
        }
        let buckets = keys.len().div_ceil(BUCKET).next_power_of_two().max(2);
        let mut rows = keys.len() + keys.len() * SLACK_PER_MILLE / 1_000 + 1;
        let mut multipliers = (BUCKETS, ROWS);
        loop {
            let mut index = Self {
                first: 0,
                rows: u32::try_from(rows).expect("a layout has at most 2^26 granules"),
                multipliers,
                bucket_shift: 64 - buckets.trailing_zeros(),
                displacements: vec![0; buckets].into(),
                keys: vec![0; rows].into(),
            };
            if index.displace(keys) {
                keys.iter().for_each(|key| index.keys[index.hashed(*key).0 as usize] = *key);
                return index;
            }
            // One in seven pairs of multipliers keeps the keys of every bucket apart (e^(-BUCKET/2)): take the next
            // pair. A little more room each time makes sure that it ends.
            multipliers = (multipliers.0.wrapping_mul(ROWS), multipliers.1.wrapping_mul(BUCKETS));
            rows += rows / 2_048 + 1;
        }
    }

    /// How many rows there are; some of them may be nobody's.
    pub(super) fn rows(&self) -> usize {
        self.rows as usize
    }

    /// The row of `key`; none if it is surely not in the index. Where keys are their own index, a gap has a row, too.
    pub(super) fn row(&self, key: u32) -> Option<usize> {
        self.find(key).filter(|row| row.0 < self.rows).map(|row| row.0 as usize)
    }

    /// [`row`](Self::row) for whoever asks by himself whether the row is one: where keys are their own index it may be
    /// beyond the last.
    #[inline(always)]
    pub(super) fn find(&self, key: u32) -> Option<Row> {
        // One way per index: the branch is always predicted.
        if self.displacements.is_empty() {
            return Some(Row(key.wrapping_sub(self.first)));
        }
        let row = self.hashed(key);
        (self.keys[row.0 as usize] == key).then_some(row)
    }

    /// Where many keys are, if they are anywhere: to be [confirmed](Self::confirm).
    #[inline(always)]
    pub(super) fn find_all(&self, keys: impl Iterator<Item = u32>, rows: &mut [Row]) {
        if self.displacements.is_empty() {
            keys.zip(rows).for_each(|(key, row)| *row = Row(key.wrapping_sub(self.first)));
        } else {
            keys.zip(rows).for_each(|(key, row)| *row = self.hashed(key));
        }
    }

    /// A mask: all ones if `key` is at the row that was found for it, else 0. Not a question, so that what is behind it
    /// is loaded at the same time. Where keys are their own index it says yes also beyond the last row.
    #[inline(always)]
    pub(super) fn confirm(&self, row: Row, key: u32) -> u32 {
        let same = self.keys.get(row.0 as usize).is_none_or(|there| *there == key);
        u32::from(same).wrapping_neg()
    }

    /// The row of `key` if it is in the index at all: a key that is not gets someone else's.
    #[inline(always)]
    fn hashed(&self, key: u32) -> Row {
        Row(self.shift(self.start(key), self.displacements[self.bucket(key)]))
    }

    #[inline]
    fn bucket(&self, key: u32) -> usize {
        (u64::from(key).wrapping_mul(self.multipliers.0) >> self.bucket_shift) as usize
    }

    /// The row before it is displaced. It does not need the displacement, so it costs nothing while that is loaded.
    #[inline]
    fn start(&self, key: u32) -> u32 {
        let hash = u64::from(key).wrapping_mul(self.multipliers.1) >> 32;
        // A multiplication maps 32 bits onto the rows evenly (Lemire 2016), where a remainder would divide.
        ((hash * u64::from(self.rows)) >> 32) as u32
    }

    /// `start + displacement` modulo the number of rows; both are smaller than that, and it is below 2^31.
    #[inline]
    fn shift(&self, start: u32, displacement: u32) -> u32 {
        let sum = start + displacement;
        // If there is nothing to subtract, the difference wraps around and is the larger of the two.
        sum.min(sum.wrapping_sub(self.rows))
    }

    /// Finds a displacement for every bucket, the fullest first, while there is most room.
    fn displace(&mut self, keys: &[u32]) -> bool {
        // Most pairs of multipliers fail, some after dozens of others: by counting, because sorting takes ten times as
        // long.
        let mut ends = vec![0_usize; self.displacements.len()];
        keys.iter().for_each(|key| ends[self.bucket(*key)] += 1);
        let mut sum = 0;
        for end in &mut ends {
            sum += *end;
            *end = sum;
        }
        let mut starts = vec![0; keys.len()];
        let mut begins = ends;
        for key in keys {
            let begin = &mut begins[self.bucket(*key)];
            *begin -= 1;
            starts[*begin] = self.start(*key);
        }
        let mut buckets: Vec<(usize, &[u32])> = Vec::with_capacity(begins.len());
        let mut rest = starts.as_mut_slice();
        for (bucket, begin) in begins.iter().enumerate() {
            let end = begins.get(bucket + 1).copied().unwrap_or(keys.len());
            let (starts, after) = rest.split_at_mut(end - begin);
            rest = after;
            starts.sort_unstable();
            if starts.windows(2).any(|pair| pair[0] == pair[1]) {
                return false; // no displacement ever tells these two apart
            }
            buckets.push((bucket, starts));
        }
        buckets.retain(|(_, starts)| !starts.is_empty());
        buckets.sort_by_key(|(_, starts)| Reverse(starts.len()));
        let mut taken = vec![false; self.rows()];
        buckets.iter().all(|(bucket, starts)| {
            let is_free = |displacement: &u32| {
                starts.iter().all(|start| !taken[self.shift(*start, *displacement) as usize])
            };
            let Some(displacement) = (0..self.rows).find(is_free) else { return false };
            starts.iter().for_each(|start| taken[self.shift(*start, displacement) as usize] = true);
            self.displacements[*bucket] = displacement;
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_perfect(keys: &[u32]) -> Result<usize, TestCaseError> {
        let index = RowIndex::new(keys);
        let mut rows: Vec<usize> = keys.iter().map(|key| index.row(*key).unwrap()).collect();
        rows.sort_unstable();
        prop_assert!(rows.windows(2).all(|pair| pair[0] < pair[1]), "two keys in one row");
        prop_assert!(rows.last().is_none_or(|last| *last < index.rows()));
        for near in keys.iter().flat_map(|key| [key.wrapping_sub(1), key.wrapping_add(1)]) {
            if let Some(row) = index.row(near).filter(|_| keys.binary_search(&near).is_err()) {
                prop_assert!(rows.binary_search(&row).is_err() || index.keys.get(row) == Some(&near));
                prop_assert!(index.displacements.is_empty() || near == 0, "only a gap has a row");
            }
        }
        Ok(index.rows())
    }

    #[test]
    fn blocks_and_scattered_keys_get_rows_of_their_own_in_little_room() {
        for stride in [1, 2, 256, 65_536, 0x0101_0101] {
            for count in [0, 1, 2, 3, 31, 256, 4_096, 20_000_u32] {
                let key = |n: u32| 0xc000_0200_u32.wrapping_add(n.wrapping_mul(stride));
                let mut keys: Vec<_> = (0..count).map(key).collect();
                keys.sort_unstable();
                keys.dedup();
                let rows = is_perfect(&keys).unwrap();
                assert!(rows <= count as usize * 115 / 100 + 32, "{rows} rows for {count} keys");
            }
        }
    }

    #[test]
    fn one_block_with_few_gaps_is_its_own_index() {
        let block: Vec<u32> = (100..200).filter(|key| key % 5 != 0 || *key == 100).collect();
        let index = RowIndex::new(&block);
        assert!(index.displacements.is_empty() && index.keys.is_empty());
        assert_eq!((index.row(100), index.row(199), index.rows()), (Some(0), Some(99), 100));
        assert_eq!(
            (index.row(99), index.row(200), index.row(0), index.row(u32::MAX)),
            (None, None, None, None)
        );
        assert!(!RowIndex::new(&[1, 3]).displacements.is_empty(), "half of it gaps");
        assert_eq!(RowIndex::new(&[u32::MAX]).row(u32::MAX), Some(0));
        assert_eq!(RowIndex::new(&[]).row(0), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn random_keys_get_rows_of_their_own(keys in prop::collection::btree_set(any::<u32>(), 0..600)) {
            is_perfect(&keys.into_iter().collect::<Vec<_>>())?;
        }
    }
}
