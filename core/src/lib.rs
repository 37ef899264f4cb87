//! Metrics-weighted averaging of model checkpoints: the core that weighs, plans and merges.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod adapter;
mod agree;
mod csv;
mod diverged;
mod dtype;
mod error;
mod goal;
mod history;
mod json;
pub mod kernel;
mod method;
mod metric;
mod names;
mod plan;
mod product;
mod read;
pub mod safetensors;
mod smooth;
mod table;
mod trainer;
mod weights;

pub use adapter::AdapterConfig;
pub use agree::{Agreement, Candidate, Metadata, agree, agree_as_products, agree_metadata};
pub use dtype::{Dtype, Float};
pub use error::{Error, ErrorKind, Result};
pub use goal::Goal;
pub use history::History;
pub use method::{Exactness, METHODS, Method, SHARED_FIELDS, VARIANTS, Variant, Verdict, method};
pub use metric::{Metric, MetricOptions, Outcome, Reading, Source};
pub use plan::{Input, Job, Plan, Read, Recipe, Shard, Write};
pub use product::{Factors, ModuleJob, Products, Rank, Residual};
pub use read::read_metric;
pub use table::{Table, Wanted};
pub use trainer::TrainerState;
pub use weights::{Scheme, Weights};
