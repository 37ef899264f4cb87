//! Metrics-weighted averaging of model checkpoints: the core that weighs, plans and merges.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod adapter;
mod agree;
mod error;
mod method;

pub use adapter::AdapterConfig;
pub use agree::{Agreement, Candidate, Metadata, agree, agree_as_products, agree_metadata};
pub use error::{Error, ErrorKind, Result};
pub use method::{Exactness, METHODS, Method, SHARED_FIELDS, VARIANTS, Variant, Verdict, method};
