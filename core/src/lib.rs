//! Metrics-weighted averaging of model checkpoints: the core that weighs, plans and merges.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod adapter;
mod error;

pub use adapter::AdapterConfig;
pub use error::{Error, ErrorKind, Result};
