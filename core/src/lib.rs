//! Metrics-weighted averaging of model checkpoints: the core that weighs, plans and merges.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod csv;
mod diverged;
mod error;
mod goal;
mod history;
mod json;
mod metric;
mod names;
mod read;
mod smooth;
mod table;
mod trainer;

pub use error::{Error, ErrorKind, Result};
pub use goal::Goal;
pub use history::History;
pub use metric::{Metric, MetricOptions, Outcome, Reading, Source};
pub use read::read;
pub use table::{Table, Wanted};
pub use trainer::TrainerState;
