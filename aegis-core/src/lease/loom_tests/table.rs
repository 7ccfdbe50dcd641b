//! Whole acquires and releases of a tiny table.

use core::time::Duration;
use std::sync::Arc;

use crate::net::{Origin, PortRange, Protocol};
use crate::time::Time;

use super::super::{
    Closed, Config, GranuleSlot, GranuleState, Lease, Pool, PoolKey, Quarantine, Spans, Table, Worker,
};
use super::{at, both, in_one_order};

struct Scene {
    table: Arc<Table>,
    granule: GranuleSlot,
    pool: Pool,
}

impl Scene {
    /// One granule of so many ports; two workers, and room for one origin per worker.
    fn new(ports: u16) -> Self {
        let hold = Spans { half_closed: Duration::from_secs(5), ..Spans::ZERO };
        let config = Config {
            granule_ports: u32::from(ports),
            granules: 1,
            origins: 2,
            pages: 2,
            workers: 2,
            quarantine: Quarantine::new(hold, Spans::ZERO).unwrap(),
            ..Config::default()
        };
        let table = Arc::new(Table::new(config, [7; 32]).unwrap());
        let range = PortRange::new(1_000, 999 + ports).unwrap();
        let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
        let pool = table.pool(PoolKey(1), [granule]).unwrap();
        Self { table, granule, pool }
    }

    fn worker(&self, seed: u8) -> Worker {
        Worker::attach(Arc::clone(&self.table), [seed; 32]).unwrap()
    }

    /// Live and held tuples, as a scan of all pages sees them.
    fn in_use(&self, now: Time) -> u32 {
        self.table.usage(now).map(|usage| usage.live + usage.held).sum()
    }
}

fn origin() -> Origin {
    Origin::new(Protocol::Tcp, "198.51.100.1:443".parse().unwrap()).unwrap()
}

#[test]
fn loom_two_that_meet_an_origin_first_share_its_record_and_page() {
    in_one_order(|| {
        let scene = Scene::new(2);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        let pool = scene.pool.clone();
        let (one, other) = both(
            move || one.acquire_to(&pool, &origin(), at(1)).unwrap(),
            || other.acquire_to(&scene.pool, &origin(), at(1)).unwrap(),
        );
        assert_ne!(one.source(), other.source());
        assert_eq!((one.page, one.tag == other.tag), (other.page, false));
        let rows: Vec<_> = scene.table.usage(at(1)).map(|usage| (usage.live, usage.origin)).collect();
        assert_eq!(rows, [(2, Some(origin()))]);
        // Both leases end where they began.
        for lease in [one, other] {
            scene.table.release(lease, Closed::Unused, at(1)).unwrap();
        }
        assert_eq!(scene.in_use(at(1)), 0);
    });
}

#[test]
fn loom_two_workers_never_get_the_same_tuple_and_one_of_them_gets_the_last() {
    in_one_order(|| {
        let scene = Scene::new(1);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        let lease = one.acquire_to(&scene.pool, &origin(), at(1)).unwrap();
        scene.table.release(lease, Closed::Unused, at(1)).unwrap();
        let pool = scene.pool.clone();
        let (one, other) = both(
            move || one.acquire_to(&pool, &origin(), at(1)).ok(),
            || other.acquire_to(&scene.pool, &origin(), at(1)).ok(),
        );
        assert!(one.is_some() ^ other.is_some());
        let lease: Lease = one.or(other).unwrap();
        scene.table.release(lease, Closed::Unused, at(1)).unwrap();
        let mut worker = scene.worker(3);
        assert!(worker.acquire_to(&scene.pool, &origin(), at(1)).is_ok(), "free, and so not refused");
    });
}

/// One acquires while the only port comes back: it gets it, or the next one does.
fn acquire_during_a_release(closed: Closed, later: u64) {
    in_one_order(move || {
        let scene = Scene::new(1);
        let (mut one, mut other) = (scene.worker(1), scene.worker(2));
        let lease = one.acquire_to(&scene.pool, &origin(), at(1)).unwrap();
        let table = Arc::clone(&scene.table);
        let (_, early) = both(
            move || table.release(lease, closed, at(1)).unwrap(),
            || other.acquire_to(&scene.pool, &origin(), at(1)).ok(),
        );
        let late = other.acquire_to(&scene.pool, &origin(), at(later)).ok();
        assert!(early.is_some() ^ late.is_some(), "{early:?} {late:?}");
    });
}

#[test]
fn loom_a_release_is_never_hidden_by_an_acquire_that_found_nothing() {
    acquire_during_a_release(Closed::Unused, 1);
}

#[test]
fn loom_a_hold_that_begins_while_an_acquire_finds_nothing_ends_in_time() {
    acquire_during_a_release(Closed::HalfClosed, 5_250);
}

#[test]
fn loom_a_drained_granule_has_no_lease_that_a_scan_did_not_see() {
    in_one_order(|| {
        let scene = Scene::new(1);
        let mut worker = scene.worker(1);
        let pool = scene.pool.clone();
        let (lease, seen) = both(
            move || worker.acquire_to(&pool, &origin(), at(1)).ok(),
            || {
                scene.table.set_state(scene.granule, GranuleState::Draining);
                scene.in_use(at(1))
            },
        );
        assert!(seen >= u32::from(lease.is_some()), "granted, and not seen");
        assert_eq!(scene.in_use(at(1)), u32::from(lease.is_some()), "undone, if not granted");
        // A drain that was called off leaves nothing behind.
        scene.table.set_state(scene.granule, GranuleState::Owned);
        let again = scene.worker(2).acquire_to(&scene.pool, &origin(), at(1));
        assert_eq!(again.is_ok(), lease.is_none());
    });
}

#[test]
fn loom_a_drain_that_is_called_off_hides_no_port() {
    in_one_order(|| {
        let scene = Scene::new(1);
        let mut worker = scene.worker(1);
        let lease = worker.acquire_to(&scene.pool, &origin(), at(1)).unwrap();
        scene.table.release(lease, Closed::Unused, at(1)).unwrap();
        scene.table.set_state(scene.granule, GranuleState::Draining);
        let pool = scene.pool.clone();
        let (early, ()) = both(
            move || worker.acquire_to(&pool, &origin(), at(1)).ok(),
            || scene.table.set_state(scene.granule, GranuleState::Owned),
        );
        let late = scene.worker(2).acquire_to(&scene.pool, &origin(), at(1));
        assert!(early.is_some() ^ late.is_ok(), "{early:?} {late:?}");
    });
}
