//! Sums on the GPUs of a machine: `mwa_gpu` opens, probes and runs single jobs; here are files, threads and many jobs.

mod board;
mod cut;
mod open;
mod stream;

pub use mwa_gpu::{Adapter, Device, Kernel, Layout, Slot, adapters, probe, probe_all};
pub(crate) use open::open;
pub use open::{Found, devices, execute, is_there};
pub(crate) use stream::run;
