//! From metrics to weights: which checkpoints, and how much of each.

pub(crate) mod advice;
pub(crate) mod choose;
pub mod federated;
pub(crate) mod robust;
pub(crate) mod schedule;
pub(crate) mod scheme;
pub(crate) mod window;

#[cfg(test)]
mod tests;
