//! Fuzz a report given to verify.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("reports", bytes));
