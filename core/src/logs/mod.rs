//! What a run logged: from texts to one metric per checkpoint.

pub(crate) mod diverged;
pub(crate) mod events;
pub(crate) mod goal;
pub(crate) mod history;
pub(crate) mod kind;
pub(crate) mod metric;
mod printed;
pub(crate) mod read;
mod scores;
pub(crate) mod series;
pub(crate) mod smooth;
pub(crate) mod table;
pub(crate) mod trainer;
pub(crate) mod wandb;
mod wire;
