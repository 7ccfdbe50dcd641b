//! Layouts in which something moves, for the tests of whoever reads them.

use proptest::prelude::*;

use super::handovers::{Departure, Draining, Holdout, Previous};
use super::testing::any_world;
use super::{Epoch, Layout, MachineIndex};

/// What moves: (row, granule, what, which machine, which port of the granule), each modulo what there is.
pub(crate) type Moves = Vec<(u16, u16, u8, u16, u16)>;

/// Up to 40 moves, often several of one granule.
pub(crate) fn any_moves() -> impl Strategy<Value = Moves> {
    prop::collection::vec((0..4_u16, 0..16_u16, any::<u8>(), any::<u16>(), any::<u16>()), 0..40)
}

/// The layout with these moves, as far as its rules allow them.
pub(crate) fn with_moves(layout: &Layout, moves: &Moves) -> Layout {
    let (mut parts, cut, epoch) = (layout.parts(), layout.cut(), layout.epoch());
    let usable: Vec<u16> = cut.granules().collect();
    for (row, granule, what, machine, port) in moves {
        if parts.rows.is_empty() {
            break;
        }
        let at = usize::from(*row) % parts.rows.len();
        let address = parts.rows[at].address;
        let granule = usable[usize::from(*granule) % usable.len()];
        let port = cut.range(granule).unwrap().lo() + port % cut.granule().ports() as u16;
        // A granule that was given up may have left ports and an owner behind.
        let empty = *what >= 240 && parts.handovers.draining_of(address, granule).is_none();
        if empty {
            parts.rows[at].owners[usize::from(granule)] = None;
        }
        let owner = parts.rows[at].owners[usize::from(granule)];
        // Only machines with a share of the address: its data centers may not become more.
        let others: Vec<MachineIndex> =
            parts.rows[at].owners.iter().copied().flatten().filter(|m| Some(*m) != owner).collect();
        if others.is_empty() {
            continue;
        }
        let machine = others[usize::from(*machine) % others.len()];
        let since = Epoch::new(epoch.get().saturating_sub(u64::from(*what % 3)));
        let moving = &mut parts.handovers;
        match what % 8 {
            0 | 1 if owner.is_some() && moving.draining_of(address, granule).is_none() => {
                let to = (*what % 16 < 12).then_some(machine);
                moving.draining.push(Draining { address, granule, to, since });
            }
            2 | 3 if moving.previous_of(address, granule).is_none() => {
                let departure = if *what < 128 { Departure::HandedOver } else { Departure::Died };
                moving.previous.push(Previous { address, granule, machine, departure, since });
            }
            4..8 if moving.holdout_of(address, port).is_none() => {
                moving.holdouts.push(Holdout { address, port, machine, since });
            }
            _ => {}
        }
        moving.sort();
    }
    Layout::try_from(parts).expect("the moves keep the rules")
}

/// A random layout in which something moves.
pub(crate) fn any_moving_layout(epoch: u64) -> impl Strategy<Value = Layout> {
    (any_world(), any_moves())
        .prop_map(move |(world, moves)| with_moves(&world.build(epoch).unwrap(), &moves))
}

impl Layout {
    /// The same layout in another epoch.
    pub(crate) fn at_epoch(self, epoch: u64) -> Self {
        let mut parts = self.parts();
        parts.epoch = Epoch::new(epoch);
        Self::try_from(parts).expect("nothing moves since a later epoch")
    }
}
