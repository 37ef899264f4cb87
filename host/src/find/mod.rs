//! From paths to checkpoints, and to those chosen among them.

pub(crate) mod checkpoint;
pub(crate) mod choose;
pub(crate) mod run;
