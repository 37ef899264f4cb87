//! From metrics to weights: which checkpoints, and how much of each.

pub(crate) mod advice;
pub(crate) mod angles;
pub(crate) mod choose;
pub(crate) mod combine;
pub(crate) mod decay;
pub mod exact;
pub(crate) mod explicit;
pub mod federated;
pub(crate) mod modules;
pub(crate) mod parts;
pub(crate) mod robust;
pub(crate) mod runs;
pub(crate) mod schedule;
pub(crate) mod scheme;
pub(crate) mod separate;
pub mod server;
pub(crate) mod window;

#[cfg(test)]
mod tests;
