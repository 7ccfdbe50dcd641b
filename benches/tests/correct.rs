//! A peer that hands out a port twice, or refuses falsely, is fast for nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use aegis_benches::safety::crowd;
use aegis_benches::{
    Access, BareArray, Beside, Bitmap, Contender, DashSet, HaproxyRing, Hashbrown, Hashed, HashedV6, Lookup,
    LookupV6, Ours, PapayaSet, PerOrigin, Random, Resting, Ring, SccSet, Scene, Sets, Sharded, Size,
    SoftUnicast, Sorted, Spread, Stack, StdHashed, Trie, fill, layout, layout_v6, packets, packets_v6,
};

const SCENE: Scene = Scene { granule: 256, granules: 3, origins: 2 };

fn check<C: Contender>(name: &str, mut contender: C) {
    let all: BTreeSet<u16> = (256..1_024).collect();
    let leases = fill(&mut contender, SCENE, SCENE.ports());
    let mut by_origin: Vec<Vec<C::Lease>> = Vec::new();
    for lease in leases {
        match by_origin.last_mut() {
            Some(origin) if origin.len() < all.len() => origin.push(lease),
            _ => by_origin.push(vec![lease]),
        }
    }
    let mut random = Random::new(5);
    for turn in 0..2_000 {
        for (nth, leases) in (0..).zip(&mut by_origin) {
            let ports: BTreeSet<u16> = leases.iter().map(|lease| contender.port(lease)).collect();
            assert_eq!(ports, all, "{name}, turn {turn}: every port once, none twice");
            assert!(contender.acquire(nth).is_none(), "{name}, turn {turn}: refuses when full");
            // Some end, and as many can begin: no more, no fewer.
            let ends = 1 + random.below(if turn % 100 == 0 { SCENE.ports() } else { 4 });
            for _ in 0..ends {
                let at = random.below(leases.len() as u32) as usize;
                contender.release(leases.swap_remove(at));
            }
            for _ in 0..ends {
                let lease = contender.acquire(nth);
                leases.push(lease.unwrap_or_else(|| panic!("{name}, turn {turn}: a port is free")));
            }
        }
    }
}

#[test]
fn no_port_twice_none_forgotten_and_a_refusal_when_full() {
    for access in [Access::Handle, Access::Lookup] {
        for resting in [Resting::Default, Resting::Off] {
            check("ours", Ours::new(SCENE, access, resting));
        }
        check("HAProxy's ring", PerOrigin::<HaproxyRing>::new(SCENE, access));
        check("ring", PerOrigin::<Ring>::new(SCENE, access));
        check("stack", PerOrigin::<Stack>::new(SCENE, access));
        check("bitmap", PerOrigin::<Bitmap>::new(SCENE, access));
    }
    check("dashmap", Sets::<DashSet>::new(SCENE));
    check("papaya", Sets::<PapayaSet>::new(SCENE));
    check("scc", Sets::<SccSet>::new(SCENE));
    check("64-shard set", Sets::<Sharded<64>>::new(SCENE));
    check("hashbrown", Sets::<Hashbrown>::new(SCENE));
}

/// HAProxy's ring and the bare bitmap are not among them: they may break the rule, and the table says how often.
#[test]
fn threads_get_no_port_twice_and_no_false_refusal() {
    fn check<C: Beside>(name: &str, contender: C, scene: Scene) {
        let seen = crowd(contender, scene, 200_000, Duration::from_secs(30));
        assert_eq!((seen.duplicates, seen.refusals, seen.stuck), (0, 0, false), "{name}");
    }
    for ports in [16, 64] {
        let scene = Scene { granule: ports, granules: 1, origins: 1 };
        for resting in [Resting::Default, Resting::Off] {
            check("ours", Ours::new(scene, Access::Handle, resting), scene);
        }
        check("ring", PerOrigin::<Ring>::new(scene, Access::Handle), scene);
        check("stack", PerOrigin::<Stack>::new(scene, Access::Handle), scene);
    }
}

#[test]
fn every_lookup_gives_the_layouts_owner() {
    for (addresses, spread) in [(1, Spread::Block), (256, Spread::Block), (256, Spread::Scattered)] {
        let size = Size { addresses, spread };
        let layout = layout(size);
        assert_eq!(layout.rows().len(), addresses as usize);
        let (ours, hashed) = (<SoftUnicast as Lookup>::of(&layout), Hashed::of(&layout));
        let (std_hashed, sorted) = (StdHashed::of(&layout), Sorted::of(&layout));
        let (trie, bare) = (Trie::of(&layout), BareArray::of(&layout));
        let mut owned = 0;
        for batch in &packets(size) {
            for &(ip, port) in batch {
                let owner = layout.owner(ip.into(), port).map(|owner| owner.machine.get() as u32);
                owned += u32::from(owner.is_some());
                let said = [
                    ours.owner((ip, port)),
                    hashed.owner((ip, port)),
                    std_hashed.owner((ip, port)),
                    sorted.owner((ip, port)),
                    trie.owner((ip, port)),
                ];
                assert_eq!(said, [owner; 5], "{ip} {port}");
                if spread == Spread::Block {
                    assert_eq!(bare.owner((ip, port)), owner, "{ip} {port}");
                }
            }
            assert_eq!(ours.batch(batch), hashed.batch(batch));
        }
        assert!(owned > 10_000, "most packets have an owner: {owned}");
    }
}

#[test]
fn every_v6_lookup_gives_the_layouts_owner() {
    let layout = layout_v6(1_200, 20);
    let (ours, hashed) = (<SoftUnicast as LookupV6>::of(&layout), HashedV6::of(&layout));
    for (ip, port) in packets_v6(&layout).into_iter().take(2_000) {
        let owner = layout.owner(ip.into(), port).map(|owner| owner.machine.get() as u32);
        assert_eq!([ours.owner_v6(ip, port), hashed.owner_v6(ip, port)], [owner; 2], "{ip} {port}");
    }
}
