//! Fuzz a table of metrics.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("tables", bytes));
