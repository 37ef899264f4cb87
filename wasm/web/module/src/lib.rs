//! `mwa-web` as the module that JavaScript loads: a package of its own, because the one that is linked last is built for
//! speed, and `mwa-web` for size.
#![no_std]

pub use mwa_web::*;
