use core::net::IpAddr;
use std::sync::LazyLock;

use aegis_core::bundle::Bundle;
use aegis_core::edge::Edge;
use aegis_core::epoch::{Epoch, Layout};
use aegis_core::fleet::{Coordinates, Latencies, Reach};
use aegis_core::fleet_file::FleetFile;
use aegis_core::lease::Config;
use aegis_core::net::{Origin, Protocol};
use aegis_core::plan::replay::{Paths, Record, Replay, Reuse, Settings, Trace};
use aegis_core::soft_unicast;
use aegis_core::time::Time;
use aegis_core::usage::{AddError, Added, Columns, Counted, Of, Period, Rollup, read_ndjson, write_ndjson};

/// A larger fleet is read, but no layout is built of it: it costs seconds, and finds nothing that a small one does not.
const MAX_GRANULES: u64 = 1 << 14;

/// A fleet file's text: it is read or refused with a message. What was read has a layout or a reason why not, and
/// every machine's bundle survives both its forms.
pub fn fleet_file(input: &[u8]) {
    let Ok(text) = core::str::from_utf8(input) else { return };
    let file = match FleetFile::parse("fleet.toml", text) {
        Ok(file) => file,
        Err(error) => {
            assert!(error.message().starts_with("fleet.toml:"), "an error without a place: {error}");
            return;
        }
    };
    let granules = u64::from(0x1_0000 / file.policy.granule_ports);
    if file.inventory.egress_v4().take((MAX_GRANULES / granules) as usize + 1).count() as u64 * granules
        > MAX_GRANULES
    {
        return;
    }
    let Ok(layout) = file.layout(None, Epoch::new(1)) else { return };
    assert_eq!(Layout::from_bytes(&layout.to_bytes()).as_ref(), Ok(&layout));
    for machine in layout.machines().iter().take(3) {
        let bundle = file.bundle(&machine.id, &layout).expect("a layout of this very file");
        survives(&bundle);
    }
    let next = file.layout(Some(&layout), Epoch::new(2)).expect("what was built once is built again");
    assert_eq!(next.rows(), layout.rows(), "nothing has changed, but ports have moved");
    assert_eq!(next.machines(), layout.machines(), "nothing has changed, but numbers have");
}

/// A bundle's bytes, as they are and again under a right length and checksum, so that the fuzzer reaches what lies
/// behind them. Whatever is accepted is canonical and keeps its promises.
pub fn bundle(input: &[u8]) {
    accept(input);
    if let Some(signed) = signed(input) {
        accept(&signed);
    }
}

/// The same payload with the frame set right. The frame: magic (4), version (2), length (4), payload, CRC-32 (4).
fn signed(input: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = input.to_vec();
    let length = bytes.len().checked_sub(14)? as u32;
    bytes[..6].copy_from_slice(b"AEGB\x02\x00");
    bytes[6..10].copy_from_slice(&length.to_le_bytes());
    let (content, checksum) = bytes.split_last_chunk_mut::<4>()?;
    *checksum = crc32fast::hash(content).to_le_bytes();
    Some(bytes)
}

fn accept(bytes: &[u8]) {
    let Ok(bundle) = Bundle::from_bytes(bytes) else { return };
    assert_eq!(bundle.to_bytes(), bytes, "two byte forms of one bundle");
    survives(&bundle);
}

/// Both forms give the same bundle back; the fast table answers as the layout does; an edge can be made of it.
fn survives(bundle: &Bundle) {
    assert_eq!(Bundle::from_bytes(&bundle.to_bytes()).as_ref(), Ok(bundle));
    assert_eq!(Bundle::from_json(&bundle.to_json()).as_ref(), Ok(bundle));

    let layout = bundle.layout();
    if layout.rows().len() as u64 * u64::from(layout.cut().granule().granules_per_address()) > MAX_GRANULES {
        return;
    }
    let table = soft_unicast::Table::new(layout);
    let v4 = layout.rows().iter().take(8).map(|row| IpAddr::V4(row.address()));
    let v6 = layout.v6_addresses_of(bundle.machine(), bundle.v6_addresses().min(2)).take(8).map(IpAddr::V6);
    for ip in v4.chain(v6) {
        for port in (0..=u16::MAX).step_by(61).chain([u16::MAX]) {
            assert_eq!(table.owner(ip, port), layout.owner(ip, port), "{ip} {port}");
        }
    }

    let v6_granules = u64::from(bundle.v6_addresses())
        * layout.v6_prefixes().len() as u64
        * layout.cut().granules().count() as u64;
    if v6_granules <= MAX_GRANULES {
        let config = Config { origins: 4, pages: 4, workers: 1, ..Config::default() };
        Edge::new(bundle, config, [7; 32]).expect("a bundle that was accepted makes an edge");
    }
}

/// Reports of use as text: they are read or refused with a place. What was read is written and read again, is the same
/// as columns, and is counted once, with nothing lost between buckets.
pub fn report(input: &[u8]) {
    let Ok(text) = core::str::from_utf8(input) else { return };
    let reports = match read_ndjson(text) {
        Ok(reports) => reports,
        Err(error) => {
            assert!(error.message().starts_with("line "), "an error without a place: {error}");
            return;
        }
    };
    let mut written = String::new();
    write_ndjson(&mut written, &reports).expect("a string takes everything");
    assert_eq!(read_ndjson(&written).as_ref(), Ok(&reports));
    assert_eq!(Columns::of(&reports).and_then(|columns| columns.reports()).as_ref(), Ok(&reports));

    let mut rollup = Rollup::default();
    let mut counted = Counted::default();
    for report in reports.iter().take(64) {
        match rollup.add(report) {
            Ok(Added::New) => counted = counted.plus(Counted::of(report.records())),
            Ok(Added::Again) | Err(AddError::OtherContent { .. }) => {}
            Err(error) => panic!("nothing was forgotten: {error}"),
        }
        let before = rollup.clone();
        assert!(!matches!(rollup.add(report), Ok(Added::New)), "{} counted twice", report.key());
        assert_eq!(rollup, before);
    }
    drop(rollup.gaps());
    let ever = Period::new(0, 253_402_300_800_000).expect("until the year 9999");
    for (of, totals) in [(Of::Sources, counted.sources), (Of::Zones, counted.zones)] {
        let all = rollup.summaries(of, &[], ever, rollup.bucket_millis()).expect("steps of one bucket");
        let granted = all.iter().fold(0u64, |sum, one| sum.saturating_add(one.granted));
        assert_eq!(granted, totals.granted);
        let port_millis = all.iter().map(|one| one.port_millis).sum::<u128>();
        assert_eq!(u64::try_from(port_millis).unwrap_or(u64::MAX), totals.port_millis);
        assert!(all.iter().all(|one| one.percentile(1_000) >= one.percentile(0)));
    }
    rollup.forget_before(u64::MAX);
    drop(rollup.gaps());
}

/// What traces are replayed against.
static ONE_ADDRESS: LazyLock<(FleetFile, Layout, Paths)> = LazyLock::new(|| {
    let text = include_str!("../corpus/fleet_file/one-address.toml");
    let file = FleetFile::parse("fleet.toml", text).expect("a seed of another target");
    let layout = file.layout(None, Epoch::new(1)).expect("it has a layout");
    let origins = [(Protocol::Tcp, "203.0.113.10:443"), (Protocol::Udp, "203.0.113.10:443")]
        .map(|(protocol, at)| Origin::new(protocol, at.parse().expect("an address")).expect("a destination"));
    let reach = Reach::estimated(&file.fleet, Coordinates::new(50.0, 8.0).expect("on earth"));
    let paths = Paths::new(Latencies::estimated(&file.fleet), origins.map(|origin| (origin, reach.clone())));
    (file, layout, paths.expect("a few of each"))
});

/// A trace's text: each line is read or refused with its number. What was read is in order, and a replay of it loses
/// nothing.
pub fn trace(input: &[u8]) {
    let (file, layout, paths) = &*ONE_ADDRESS;
    let mut trace = Trace::new(paths, input.split(|byte| *byte == b'\n'));
    let mut records: Vec<Record> = Vec::new();
    for record in &mut trace {
        match record {
            Ok(record) => records.push(record),
            Err(error) => assert!(error.message().starts_with("line "), "an error without a place: {error}"),
        }
    }
    assert!(trace.next().is_none(), "something comes after the end");
    assert!(records.is_sorted_by_key(|record| record.start));

    let pool = file.inventory.pools().next().expect("it has a pool");
    let from = records.first().map_or(Time::ZERO, |record| record.start);
    let until = Time::from_millis(from.as_millis() + 3_600_000);
    let until = until.min(Time::from_millis(1 << 48));
    if until <= from {
        return;
    }
    let reuse = if input.len() % 2 == 0 {
        Reuse::Never
    } else {
        Reuse::KeepAlive(core::time::Duration::from_secs(5))
    };
    let settings = Settings { from, until, reuse, ..Settings::default() };
    let replay =
        Replay::new(&file.fleet, layout, &pool.prefixes, paths, &settings).expect("a replay of that layout");
    let outcome = replay.run(records.iter().copied().map(Ok), &mut ()).expect("records in order");
    let totals = outcome.totals;
    let replayed = records.iter().filter(|record| record.start < until).count() as u64;
    assert_eq!(totals.opened + totals.reused + totals.refused, replayed);
    assert_eq!(totals.opened, totals.closed + u64::from(outcome.live));
    assert!(outcome.uses.iter().all(|used| used.max <= used.ports));
}
