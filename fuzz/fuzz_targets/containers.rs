//! Fuzz a file of any container.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("containers", bytes));
