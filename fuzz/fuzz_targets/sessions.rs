//! Fuzz the calls of a session, in any order.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("sessions", bytes));
