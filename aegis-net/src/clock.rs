//! What the pure core takes as arguments: the time and a seed.

use std::io;

use aegis_core::lease::Seed;
use aegis_core::time::Time;
use rustix::time::{ClockId, clock_gettime};

/// Now, by the clock that never goes back and counts suspend (`CLOCK_BOOTTIME`): what is quarantined for a minute
/// before a machine sleeps is free when it wakes.
///
/// All processes of a host see the same time, so they can share a lease table.
pub fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let (s, ns) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    Time::from_millis(s * 1_000 + ns / 1_000_000)
}

/// A seed that nobody else knows, from the operating system.
///
/// # Errors
/// The operating system has no random numbers (early at boot, or a sandbox forbids `getrandom`).
pub fn seed() -> io::Result<Seed> {
    let mut seed = Seed::default();
    getrandom::fill(&mut seed)?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward_and_seeds_differ() {
        let before = now();
        assert!(before > Time::ZERO && now() >= before);
        assert_ne!(seed().unwrap(), seed().unwrap());
    }
}
