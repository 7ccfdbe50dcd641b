//! `cargo +nightly fuzz run trace`; with plain cargo it replays the files that it is given.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| aegis_fuzz::trace(input));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    aegis_fuzz::replay(aegis_fuzz::trace, std::env::args_os().skip(1))
}
