//! Fuzz a database of MLflow's.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("databases", bytes));
