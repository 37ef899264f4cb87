//! Sums on the GPUs of a machine: `mwa_gpu` opens, probes and runs single jobs; here are files, threads and many jobs.

mod batch;
mod open;
mod stream;
pub(crate) mod together;

pub use crate::engine::device::Found;
pub use mwa_gpu::{Adapter, Device, Kernel, Layout, Slot, View, adapters, probe, probe_all};
pub(crate) use open::run;
pub use open::{devices, execute, is_there};
