//! Hot loops of a fixed number of operations, for whoever counts instructions: the same in every run, on any machine.

use crate::contender::{Churn, Contender, Scene, fill, refusal};
use crate::lookup::{Lookup, Question, Size, SoftUnicast, ask, layout, packets};
use crate::ours::{Access, Ours, Resting};

/// The loops that are counted.
pub const LOOPS: [&str; 9] = [
    "handle, 0 % full",
    "handle, 50 % full",
    "handle, 80 % full",
    "handle, 99 % full",
    "handle, 50 % full, rest off",
    "ip:port, 50 % full",
    "refusal, 2,048 ports",
    "refusal, 63,488 ports",
    "owner, independent",
];

/// The function in which instructions are counted.
pub const COUNTED: &str = "aegis_benches::count::counted";

/// Makes ready, then does one of [`LOOPS`] `n` times. False if there is no such loop.
pub fn run(name: &str, n: u64) -> bool {
    const SHARE: Scene = Scene { granule: 2_048, granules: 1, origins: 1 };
    let churn = |access, resting, percent| {
        let ours = Ours::new(SHARE, access, resting);
        let mut churn = Churn::new(ours, SHARE, SHARE.ports() * percent / 100);
        counted(&mut || churn.pairs(n));
    };
    let refused = |scene: Scene| {
        let mut ours = Ours::new(scene, Access::Handle, Resting::Default);
        drop(fill(&mut ours, scene, scene.ports()));
        // The first refusal counts, and leaves the mark that the others see.
        assert!(ours.acquire(0).is_none(), "every port is in use");
        counted(&mut || refusal(&mut ours, n));
    };
    match name {
        "handle, 0 % full" => churn(Access::Handle, Resting::Default, 0),
        "handle, 50 % full" => churn(Access::Handle, Resting::Default, 50),
        "handle, 80 % full" => churn(Access::Handle, Resting::Default, 80),
        "handle, 99 % full" => churn(Access::Handle, Resting::Default, 99),
        "handle, 50 % full, rest off" => churn(Access::Handle, Resting::Off, 50),
        "ip:port, 50 % full" => churn(Access::Lookup, Resting::Default, 50),
        "refusal, 2,048 ports" => refused(SHARE),
        "refusal, 63,488 ports" => refused(Scene { granules: 31, ..SHARE }),
        "owner, independent" => {
            let (table, packets) =
                (<SoftUnicast as Lookup>::of(&layout(Size::BLOCK_OF_256)), packets(Size::BLOCK_OF_256));
            counted(&mut || ask(&table, Question::Independent, &packets, n));
        }
        _ => return false,
    }
    true
}

/// Never inlined, so that a profiler finds it by [its name](COUNTED).
#[inline(never)]
fn counted(run: &mut dyn FnMut()) {
    run();
    // Or the call is the last thing, and becomes a jump out of here.
    core::hint::black_box(());
}
