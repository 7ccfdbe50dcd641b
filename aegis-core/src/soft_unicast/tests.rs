//! Tables that are swapped under their readers.

use core::net::Ipv4Addr;

use super::Table;
use crate::epoch::Epoch;
use crate::epoch::testing::World;
use crate::snapshot::{Published, Snapshot};

#[test]
fn every_answer_of_one_look_is_of_one_epoch_while_tables_are_swapped() {
    let swaps = if cfg!(miri) { 20 } else { 10_000 };
    // In even epochs everything is d0-m0's, in odd ones d1-m0's.
    let hold = |world: World, n, at| world.hold(&format!("192.0.2.{n}/32"), &[at]);
    let worlds = [0, 1].map(|at| (0..4).fold(World::new(&[&[1], &[1]]), |world, n| hold(world, n, at)));
    let layouts = worlds.map(|world| world.build(0).unwrap());
    let table = |epoch: u64| Table::new(&layouts[(epoch % 2) as usize].clone().at_epoch(epoch));
    let packets: Vec<_> =
        (0..64_u16).map(|n| (Ipv4Addr::new(192, 0, 2, (n % 4) as u8).into(), 2_048 + n * 900)).collect();

    let published = Published::new(table(0));
    let looks = std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            let (mut reader, packets) = (published.reader(), &packets);
            scope.spawn(move || {
                let (mut looks, mut last) = (0_u64, 0);
                let mut owners = vec![None; packets.len()];
                while last < swaps {
                    let table = reader.get();
                    table.owners(packets, &mut owners).unwrap();
                    let epoch = table.epoch();
                    assert!(epoch.get() >= last, "the epoch went back");
                    for owner in &owners {
                        let owner = owner.expect("every port is somebody's");
                        assert_eq!((owner.epoch, owner.machine.get() as u64), (epoch, epoch.get() % 2));
                    }
                    (last, looks) = (epoch.get(), looks + 1);
                }
                looks
            })
        });
        for epoch in 1..=swaps {
            let before = published.publish(table(epoch)).unwrap();
            assert_eq!(before.epoch(), Epoch::new(epoch - 1));
        }
        readers.map(|reader| reader.join().unwrap())
    });
    assert!(looks.iter().all(|looks| *looks > 0));
    let e = published.publish(table(swaps)).unwrap_err();
    assert!(e.message().contains(&format!("epoch {swaps} is in force already")), "{e}");
    assert_eq!(Snapshot::epoch(&*published.load()), swaps);
}
