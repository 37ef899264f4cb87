//! Fuzz the files of training on several devices.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("training", bytes));
