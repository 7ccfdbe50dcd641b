//! Which address is announced from which sites, once it is known how many slices each site has?

use std::collections::BTreeSet;

/// Makes `addresses` sets of `size` different sites. Site s is in `slices[s]` of them, which is at most `addresses`, and
/// all slices together are `addresses * size`.
///
/// Sites of like weight are put together: machines of an address get ports by weight, so that beside a heavy site a light
/// one would have next to nothing. No two addresses have the same sites where that is easily avoided, so that they are not
/// lost together.
pub(super) fn deal(mut slices: Vec<u64>, addresses: u64, size: usize, weights: &[u64]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..slices.len()).filter(|site| slices[*site] > 0).collect();
    order.sort_by_key(|site| (weights[*site], *site));
    let mut made = BTreeSet::new();
    let mut dealt = Vec::new();
    for left in (1..=addresses).rev() {
        // Whoever has as many slices as there are addresses left must be in each of them.
        let mut set: Vec<usize> = order.iter().copied().filter(|site| slices[*site] == left).collect();
        let rest: Vec<usize> =
            order.iter().copied().filter(|s| slices[*s] > 0 && slices[*s] < left).collect();
        let open = size.saturating_sub(set.len());
        // Neighbours by weight, the first that have most left.
        let windows = rest.windows(open.max(1)).filter(|_| open > 0);
        let key = |window: &&[usize]| {
            let mut whole = [&set[..], window].concat();
            whole.sort_unstable();
            let spread = weights[window[window.len() - 1]] - weights[window[0]];
            let left: u64 = window.iter().map(|site| slices[*site]).sum();
            (made.contains(&whole), core::cmp::Reverse(left), spread)
        };
        if let Some(window) = windows.min_by_key(key) {
            set.extend_from_slice(window);
        }
        set.sort_unstable();
        set.iter().for_each(|site| slices[*site] -= 1);
        made.insert(set.clone());
        dealt.push(set);
    }
    dealt.sort_unstable();
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_the_slices_every_address_has_different_sites_and_every_slice_is_dealt(
            (addresses, size) in (1..9_u64, 1..5_usize),
            seeds in prop::collection::vec(any::<prop::sample::Index>(), 40),
            weights in prop::collection::vec(1..100_u64, 10),
        ) {
            let mut slices = vec![0; 10];
            for seed in seeds.iter().cycle().take(addresses as usize * size) {
                let mut site = seed.index(10);
                while slices[site] == addresses {
                    site = (site + 1) % 10;
                }
                slices[site] += 1;
            }
            let dealt = deal(slices.clone(), addresses, size, &weights);
            let mut counted = vec![0; 10];
            for set in &dealt {
                prop_assert!(set.len() == size && set.windows(2).all(|pair| pair[0] < pair[1]), "{set:?}");
                set.iter().for_each(|site| counted[*site] += 1);
            }
            prop_assert_eq!(counted, slices);
        }
    }

    #[test]
    fn equal_sets_are_avoided_and_like_weights_meet() {
        let dealt = deal(vec![2, 2, 2, 2], 4, 2, &[1; 4]);
        assert_eq!(dealt.iter().collect::<BTreeSet<_>>().len(), 4, "{dealt:?}");
        assert_eq!(deal(vec![1; 4], 2, 2, &[1, 50, 1, 50]), [[0, 2], [1, 3]]);
    }
}
