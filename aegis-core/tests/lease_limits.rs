//! The lease table at its limits: the end of time, memory that is not what it should be, numbers out of range.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64};
use std::time::Duration;

use aegis_core::ErrorKind;
use aegis_core::lease::{Closed, Config, Memory, Pool, PoolKey, Quarantine, Table, Worker};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_core::time::Time;

fn one_share(ports: u16, quarantine: Quarantine) -> (Arc<Table>, Pool, Origin) {
    let config = Config { quarantine, pages: 64, origins: 16, ..Config::default() };
    let table = Arc::new(Table::new(config, [3; 32]).unwrap());
    let range = PortRange::new(10_000, 10_000 + (ports - 1)).unwrap();
    let granule = table.add_granule("192.0.2.1".parse().unwrap(), range).unwrap();
    let pool = table.pool(PoolKey(1), [granule]).unwrap();
    (table, pool, Origin::new(Protocol::Tcp, "203.0.113.1:443".parse().unwrap()).unwrap())
}

#[test]
fn the_end_of_time_is_not_the_end_of_the_process() {
    let (table, pool, origin) = one_share(4, Quarantine::default());
    let mut worker = Worker::attach(Arc::clone(&table), [1; 32]).unwrap();
    let end = Time::from_millis(u64::MAX);
    for closed in Closed::ALL {
        if let Ok(lease) = worker.acquire_to(&pool, &origin, end) {
            table.release(lease, closed, end).unwrap();
        }
    }
    assert_eq!(table.explain(&pool, &origin, end).live, 0);
}

#[derive(Debug)]
struct Dirty(Vec<AtomicU64>, Vec<AtomicU16>);

impl Memory for Dirty {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }

    fn tags(&self) -> &[AtomicU16] {
        &self.1
    }
}

#[test]
fn memory_that_is_not_zeroed_or_too_small_is_refused() {
    let config = Config { pages: 4, origins: 4, granules: 4, ..Config::default() };
    let size = Table::<Dirty>::size(&config).unwrap();
    let memory = |words: usize, value| {
        Dirty(
            (0..words).map(|_| AtomicU64::new(value)).collect(),
            (0..size.tags).map(|_| AtomicU16::new(0)).collect(),
        )
    };
    let refused = |memory| Table::create(config, memory, [1; 32], 1).unwrap_err().message().to_owned();
    assert!(refused(memory(size.words, 77)).contains("not zeroed"));
    assert!(refused(memory(size.words - 1, 0)).contains(&format!("needs {}", size.words)));
    Table::create(config, memory(size.words, 0), [1; 32], 1).unwrap();
}

#[test]
fn a_table_that_no_machine_can_hold_is_an_error() {
    let config = Config { pages: (1 << 26) - 2, granule_ports: 32_768, ..Config::default() };
    let error = Table::new(config, [1; 32]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Machine, "{error}");
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let refused = |config| Table::new(config, [1; 32]).unwrap_err().message().to_owned();
    let default = Config::default();
    assert!(refused(Config { granule_ports: 0, ..default }).contains("0 ports"));
    assert!(refused(Config { granule_ports: 65_536, ..default }).contains("65536 ports"));
    assert!(refused(Config { workers: 1_025, ..default }).contains("1025 workers"));
    assert!(refused(Config { pages: 0, ..default }).contains("0 pages"));
    assert!(refused(Config { park_port: Duration::from_secs(9_999), ..default }).contains("9999s"));
    let table = Table::new(Config { pages: 4, granules: 2, ..default }, [1; 32]).unwrap();
    let add = |lo, hi| table.add_granule("192.0.2.1".parse().unwrap(), PortRange::new(lo, hi).unwrap());
    assert!(add(0, 9).unwrap_err().message().contains("port 0"));
    assert!(add(1, 9_999).unwrap_err().message().contains("9999 ports"));
    let first = add(100, 199).unwrap();
    assert_eq!(add(100, 199).unwrap(), first);
    for (lo, hi) in [(199, 250), (50, 100), (120, 130), (50, 250), (100, 198)] {
        assert!(add(lo, hi).unwrap_err().message().contains("100-199"), "{lo}-{hi}");
    }
    add(200, 299).unwrap();
    assert!(add(300, 399).unwrap_err().message().contains("one granule too many"));
}

#[test]
fn more_workers_than_the_table_was_made_for_must_wait() {
    let (table, _, _) = one_share(4, Quarantine::default());
    let mut workers: Vec<_> = (0..64).map(|n| Worker::attach(Arc::clone(&table), [n; 32]).unwrap()).collect();
    let error = Worker::attach(Arc::clone(&table), [99; 32]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Wait);
    workers.pop();
    Worker::attach(Arc::clone(&table), [99; 32]).unwrap();
}
