//! Metrics-weighted averaging of model checkpoints: the core that weighs, plans and merges.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod adapter;
mod agree;
mod dtype;
mod error;
pub mod kernel;
mod method;
mod plan;
pub mod safetensors;
mod weights;

pub use adapter::AdapterConfig;
pub use agree::{Agreement, Candidate, Metadata, agree, agree_as_products, agree_metadata};
pub use dtype::{Dtype, Float};
pub use error::{Error, ErrorKind, Result};
pub use method::{Exactness, METHODS, Method, SHARED_FIELDS, VARIANTS, Variant, Verdict, method};
pub use plan::{Job, Plan, Read, Recipe, Source, SourceFile, Write};
pub use weights::{Scheme, Weights};

/// temporary
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// s
    Min,
    /// l
    Max,
}
