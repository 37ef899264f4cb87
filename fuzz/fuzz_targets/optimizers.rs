//! Fuzz the state of an optimizer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("optimizers", bytes));
