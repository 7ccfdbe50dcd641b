//! Whose packet is it? And what does it cost to have tables, and to swap them?

use std::hint::black_box;
use std::sync::Arc;

use aegis_benches::{
    BareArray, Effort, Hashed, HashedV6, Lookup, LookupV6, Measured, Question, Race, Size, SoftUnicast,
    Sorted, Spread, StdHashed, Trie, ask, ask_v6, layout, layout_v6, packets, packets_v6,
};
use aegis_core::epoch::Layout;
use aegis_core::snapshot::{Published, Snapshot};

use crate::pairs::cells;
use crate::table::{Row, Table, grouped};

const COLUMNS: [&str; 6] =
    ["ours", "bare array (floor)", "hashbrown", "std HashMap", "sorted Vec", "prefix-trie"];
const V6_COLUMNS: [&str; 2] = ["ours", "two of hashbrown"];
const SWAP_COLUMNS: [&str; 4] = ["ours, kept", "ours, taken anew", "RwLock", "Mutex"];

const SIZES: [u32; 4] = [1, 256, 4_096, 65_536];

pub(crate) fn tables() -> [Table; 4] {
    let table =
        |cells, columns: &[&'static str], rows| Table { cells, columns: columns.to_vec(), rows, note: None };
    [
        table("nanoseconds (times ours)", &COLUMNS, rows()),
        table("nanoseconds (times ours)", &V6_COLUMNS, rows_v6()),
        table("nanoseconds (times ours)", &COLUMNS, rows_of_building()),
        table("nanoseconds (times ours)", &SWAP_COLUMNS, rows_of_swapping()),
    ]
}

fn rows() -> Vec<Row> {
    let questions = [
        ("dependent", Question::Dependent),
        ("independent", Question::Independent),
        ("batches of 256", Question::Batch),
    ];
    let mut rows: Vec<Row> = Vec::new();
    for (addresses, spread) in sizes() {
        for (how, question) in questions {
            let name = format!("owner of (ip, port), {}, {how}", what(addresses, spread));
            let size = Size { addresses, spread };
            rows.push((name, Box::new(move |run| cells(&COLUMNS, &owners(size, question, run.effort)))));
        }
    }
    rows
}

/// One address is a block, however one looks at it.
fn sizes() -> impl Iterator<Item = (u32, Spread)> {
    let spreads =
        |n| [Spread::Block, Spread::Scattered].into_iter().filter(move |s| n > 1 || *s == Spread::Block);
    SIZES.into_iter().flat_map(move |n| spreads(n).map(move |spread| (n, spread)))
}

fn what(addresses: u32, spread: Spread) -> String {
    let how = match (addresses, spread) {
        (1, _) => return "1 address of 31 shares".into(),
        (_, Spread::Block) => "in one block",
        (_, Spread::Scattered) => "scattered",
    };
    format!("{} addresses of 31 shares {how}", grouped(addresses.into()))
}

fn owners(size: Size, question: Question, effort: Effort) -> Vec<Measured> {
    let (layout, packets) = (layout(size), packets(size));
    let mut race = Race::default();
    let mut enter = |name, run: Box<dyn FnMut(u64, u64)>| race.enter(name, run);
    // The number of operations is a power of two above a batch after the first few doublings.
    fn asked<L: Lookup + 'static>(
        layout: &Layout,
        question: Question,
        packets: &[[(std::net::Ipv4Addr, u16); 256]],
    ) -> Box<dyn FnMut(u64, u64)> {
        let (lookup, packets) = (L::of(layout), packets.to_vec());
        Box::new(move |n, _| ask(&lookup, question, &packets, n))
    }
    enter(COLUMNS[0], asked::<SoftUnicast>(&layout, question, &packets));
    if size.spread == Spread::Block {
        enter(COLUMNS[1], asked::<BareArray>(&layout, question, &packets));
    }
    enter(COLUMNS[2], asked::<Hashed>(&layout, question, &packets));
    enter(COLUMNS[3], asked::<StdHashed>(&layout, question, &packets));
    enter(COLUMNS[4], asked::<Sorted>(&layout, question, &packets));
    enter(COLUMNS[5], asked::<Trie>(&layout, question, &packets));
    race.run(effort)
}

fn rows_v6() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (machines, prefixes) in [(31, 1), (100_000, 4_096)] {
        for dependent in [true, false] {
            let how = if dependent { "dependent" } else { "independent" };
            let name = format!(
                "owner of (IPv6, port), {} machines, {} /64, {how}",
                grouped(machines),
                grouped(prefixes)
            );
            let measured = move |effort| {
                let layout = layout_v6(machines as u32, prefixes as u32);
                let packets = packets_v6(&layout);
                let (ours, hashed) = (<SoftUnicast as LookupV6>::of(&layout), HashedV6::of(&layout));
                let mut race = Race::default();
                race.enter(V6_COLUMNS[0], |n, _| ask_v6(&ours, dependent, &packets, n));
                race.enter(V6_COLUMNS[1], |n, _| ask_v6(&hashed, dependent, &packets, n));
                race.run(effort)
            };
            rows.push((name, Box::new(move |run| cells(&V6_COLUMNS, &measured(run.effort)))));
        }
    }
    rows
}

fn rows_of_building() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (addresses, spread) in sizes().filter(|(addresses, _)| *addresses > 1) {
        let size = Size { addresses, spread };
        let name = format!("build the owner table of {}", what(addresses, spread));
        let measured = move |effort: Effort| {
            let layout = &layout(size);
            let mut race = Race::default();
            race.enter(COLUMNS[0], |n, _| {
                (0..n).for_each(|_| drop(black_box(<SoftUnicast as Lookup>::of(layout))));
            });
            race.enter(COLUMNS[2], |n, _| (0..n).for_each(|_| drop(black_box(Hashed::of(layout)))));
            race.enter(COLUMNS[3], |n, _| (0..n).for_each(|_| drop(black_box(StdHashed::of(layout)))));
            race.enter(COLUMNS[4], |n, _| (0..n).for_each(|_| drop(black_box(Sorted::of(layout)))));
            race.enter(COLUMNS[5], |n, _| (0..n).for_each(|_| drop(black_box(Trie::of(layout)))));
            // A build may take longer than a turn, and is what it is after a few.
            race.run(Effort { rounds: effort.rounds.min(11), ..effort })
        };
        rows.push((name, Box::new(move |run| cells(&COLUMNS, &measured(run.effort)))));
    }
    rows
}

struct Numbered(u64);

impl Snapshot for Numbered {
    fn epoch(&self) -> u64 {
        self.0
    }
}

fn rows_of_swapping() -> Vec<Row> {
    let looks = |effort: Effort| {
        let published = Published::new(Numbered(1));
        let mut reader = published.reader();
        let locked = parking_lot::RwLock::new(Arc::new(Numbered(1)));
        let mutexed = parking_lot::Mutex::new(Arc::new(Numbered(1)));
        let mut race = Race::default();
        race.enter(SWAP_COLUMNS[0], |n, _| {
            (0..n).for_each(|_| _ = black_box(black_box(&mut reader).get().epoch()));
        });
        race.enter(SWAP_COLUMNS[1], |n, _| (0..n).for_each(|_| _ = black_box(published.load().epoch())));
        race.enter(SWAP_COLUMNS[2], |n, _| {
            (0..n).for_each(|_| _ = black_box(Arc::clone(&locked.read()).epoch()));
        });
        race.enter(SWAP_COLUMNS[3], |n, _| {
            (0..n).for_each(|_| _ = black_box(Arc::clone(&mutexed.lock()).epoch()));
        });
        race.run(effort)
    };
    let swaps = |effort: Effort| {
        let published = Published::new(Numbered(0));
        let mut reader = published.reader();
        let locked = parking_lot::RwLock::new(Arc::new(Numbered(0)));
        let mutexed = parking_lot::Mutex::new(Arc::new(Numbered(0)));
        let (mut epoch, mut anew) = (0, 0);
        let other = Published::new(Numbered(0));
        let mut race = Race::default();
        race.enter(SWAP_COLUMNS[0], |n, _| {
            for _ in 0..n {
                epoch += 1;
                published.publish(Numbered(epoch)).expect("a later epoch");
                black_box(reader.get().epoch());
            }
        });
        race.enter(SWAP_COLUMNS[1], |n, _| {
            for _ in 0..n {
                anew += 1;
                other.publish(Numbered(anew)).expect("a later epoch");
                black_box(other.load().epoch());
            }
        });
        race.enter(SWAP_COLUMNS[2], |n, _| {
            for nth in 0..n {
                *locked.write() = Arc::new(Numbered(nth));
                black_box(Arc::clone(&locked.read()).epoch());
            }
        });
        race.enter(SWAP_COLUMNS[3], |n, _| {
            for nth in 0..n {
                *mutexed.lock() = Arc::new(Numbered(nth));
                black_box(Arc::clone(&mutexed.lock()).epoch());
            }
        });
        race.run(effort)
    };
    vec![
        (
            "look at the owner table in force".into(),
            Box::new(move |run| cells(&SWAP_COLUMNS, &looks(run.effort))),
        ),
        (
            "swap the owner table in force, and look at it".into(),
            Box::new(move |run| cells(&SWAP_COLUMNS, &swaps(run.effort))),
        ),
    ]
}
