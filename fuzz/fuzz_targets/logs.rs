//! Fuzz a log of a run.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("logs", bytes));
