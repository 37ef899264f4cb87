//! `mwa-component` as the module that becomes the component: a package of its own, because the one that is linked last is
//! built for speed, and `mwa-component` for size.
#![no_std]

extern crate mwa_component as _;
