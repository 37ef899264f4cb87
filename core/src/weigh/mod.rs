//! From metrics to weights: which checkpoints, and how much of each.

pub(crate) mod choose;
pub(crate) mod scheme;
