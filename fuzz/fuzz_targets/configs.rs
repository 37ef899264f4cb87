//! Fuzz the config of an adapter.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("configs", bytes));
