//! Exits in a world of 330 data centers: of a pool with slices at four of them, and of an IPv6 pool.

use std::hint::black_box;
use std::sync::Arc;

use aegis_core::exit::{Criterion, Ingress, Ranking, Share, Sites, SpillOver, Threshold};
use aegis_core::fleet::{Coordinates, Fleet, Latencies, Reach};

use crate::world;

/// Who holds the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// Four data centers, 8 machines each with 2,048 ports.
    AtFour,
    /// All data centers, 8 machines each: IPv6.
    Everywhere,
}

/// How much of it is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// Half of every share.
    Half,
    /// 90 % at the best data center, so that requests spill over; half elsewhere.
    BestBusy,
    /// Everything.
    Full,
}

/// Everything that an exit is chosen by.
#[derive(Debug)]
pub struct Scene {
    fleet: Fleet,
    sites: Arc<Sites>,
    latencies: Latencies,
    reach: Reach,
    ranking: Ranking,
}

impl Scene {
    /// Requests come in at London and go to an origin in Paris.
    ///
    /// # Panics
    /// The world is not a possible one.
    pub fn new(held: Held) -> Self {
        let fleet = world::fleet(|_| 8);
        let slices = ["ams", "fra", "jfk", "nrt"].map(world::id);
        let sites = Arc::new(
            match held {
                Held::AtFour => {
                    let machines = slices.iter().flat_map(|id| fleet.machines_in(id));
                    Sites::new(&fleet, machines.map(|machine| (machine.id.clone(), 2_048)))
                }
                Held::Everywhere => Sites::everywhere(&fleet, 1 << 24),
            }
            .expect("machines of the fleet"),
        );
        let latencies = Latencies::estimated(&fleet);
        let reach = Reach::estimated(&fleet, Coordinates::new(48.86, 2.35).expect("on Earth"));
        let ranking = rank(&fleet, &sites, &latencies, &reach);
        Self { fleet, sites, latencies, reach, ranking }
    }

    /// Ranks the sites `n` times.
    pub fn rank(&self, n: u64) {
        for _ in 0..n {
            drop(black_box(rank(&self.fleet, &self.sites, &self.latencies, black_box(&self.reach))));
        }
    }

    /// Chooses `n` exits.
    pub fn choose(&self, load: Load, n: u64) {
        let best = self.ranking.sites().next().map(|(id, _)| id.clone());
        // A word for each share, as a machine has it in its counters, and a look by its place.
        let used: Vec<u64> =
            self.sites.shares().iter().map(|share| used(share, load, best.as_ref())).collect();
        let in_use = |share: &Share| Some(used[share.position()]);
        let spill_over = SpillOver::At(Threshold::percent(80).expect("a threshold"));
        for number in 0..n {
            let exit = self.ranking.choose(in_use, spill_over, number);
            _ = black_box(exit.map(|exit| exit.share().ports()));
        }
    }
}

fn used(share: &Share, load: Load, best: Option<&aegis_core::id::DataCenterId>) -> u64 {
    match load {
        Load::Full => share.ports(),
        Load::BestBusy if Some(share.data_center()) == best => share.ports() * 9 / 10,
        Load::Half | Load::BestBusy => share.ports() / 2,
    }
}

fn rank(fleet: &Fleet, sites: &Arc<Sites>, latencies: &Latencies, reach: &Reach) -> Ranking {
    let ingress = Ingress::DataCenter(world::id("lhr"));
    Ranking::new(fleet, sites, &ingress, reach, latencies, Criterion::TotalLatency).expect("a way")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_scenes_run() {
        for held in [Held::AtFour, Held::Everywhere] {
            let scene = Scene::new(held);
            scene.rank(1);
            for load in [Load::Half, Load::BestBusy, Load::Full] {
                scene.choose(load, 10);
            }
        }
    }
}
