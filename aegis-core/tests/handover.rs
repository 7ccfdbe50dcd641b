//! Random stories of handovers keep every promise. `AEGIS_STORIES=100000` for more.

#![expect(clippy::disallowed_methods, reason = "the core reads no environment; its tests do")]

#[path = "handover/world.rs"]
pub mod world;

use proptest::prelude::*;

fn stories() -> u32 {
    std::env::var("AEGIS_STORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(stories()) })]

    #[test]
    fn no_port_is_ever_granted_by_two(input in prop::collection::vec(any::<u8>(), 0..1_500)) {
        world::handover(&input);
    }
}
