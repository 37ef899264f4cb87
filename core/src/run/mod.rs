//! From files to checkpoints of one run.

pub mod checkpoint;
pub(crate) mod same_run;
