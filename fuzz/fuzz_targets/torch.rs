//! Fuzz a file of torch.save().
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("torch", bytes));
