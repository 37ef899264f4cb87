//! Metrics-weighted averaging of model checkpoints: the core that weighs, plans and merges.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod error;
mod json;
mod trainer;

pub use error::{Error, ErrorKind, Result};
pub use trainer::TrainerState;
