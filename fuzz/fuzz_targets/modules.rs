//! Fuzz the functions of the plain module, in any order.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("modules", bytes));
