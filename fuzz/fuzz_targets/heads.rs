//! Fuzz the head of a safetensors file.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("heads", bytes));
