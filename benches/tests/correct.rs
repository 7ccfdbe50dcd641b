//! A peer that hands out a port twice, or refuses falsely, is fast for nothing.

use std::collections::BTreeSet;

use aegis_benches::{
    Access, Bitmap, Contender, DashSet, Hashed, Lookup, Ours, PapayaSet, PerOrigin, Random, Resting, Ring,
    SccSet, Scene, Sets, SoftUnicast, Sorted, Stack, StdHashed, fill, layout, packets,
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
        check("ring", PerOrigin::<Ring>::new(SCENE, access));
        check("stack", PerOrigin::<Stack>::new(SCENE, access));
        check("bitmap", PerOrigin::<Bitmap>::new(SCENE, access));
    }
    check("dashmap", Sets::<DashSet>::new(SCENE));
    check("papaya", Sets::<PapayaSet>::new(SCENE));
    check("scc", Sets::<SccSet>::new(SCENE));
}

#[test]
fn every_lookup_gives_the_layouts_owner() {
    let layout = layout();
    let (ours, hashed) = (SoftUnicast::of(&layout), Hashed::of(&layout));
    let (std_hashed, sorted) = (StdHashed::of(&layout), Sorted::of(&layout));
    let mut owned = 0;
    for batch in &packets() {
        for &(ip, port) in batch {
            let owner = layout.owner(ip.into(), port).map(|owner| owner.machine.get() as u32);
            owned += u32::from(owner.is_some());
            let said = [
                ours.owner((ip, port)),
                hashed.owner((ip, port)),
                std_hashed.owner((ip, port)),
                sorted.owner((ip, port)),
            ];
            assert_eq!(said, [owner; 4], "{ip} {port}");
        }
        assert_eq!(ours.batch(batch), hashed.batch(batch));
    }
    assert!(owned > 10_000, "most packets have an owner: {owned}");
}
