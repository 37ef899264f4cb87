//! What `gpu` is in a build without it: no device.

use mwa::merge::{Findings, Merge};
use mwa::{Error, ErrorKind, Result};

use crate::engine::cpu;
pub use crate::engine::device::Found;
use crate::engine::device::Gpus;
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

/// No device.
#[must_use]
pub fn devices() -> Vec<Found> {
    Vec::new()
}

/// There is none.
#[must_use]
pub fn is_there() -> bool {
    false
}

/// There is none.
pub(crate) mod together {
    use super::{Findings, Gpus, Machine, Merge, Progress, Result, Store, missing};

    pub(crate) fn run(
        _: &[(&Merge, &Store)],
        _: Machine,
        _: Gpus,
        _: &dyn Progress,
    ) -> Result<Vec<Result<Findings>>> {
        Err(missing())
    }
}

fn missing() -> Error {
    Error::new(ErrorKind::Device, "gpu: this mwa was built without GPUs")
        .help("use --device cpu, or build it with the feature `gpu`")
}

pub(crate) fn run(
    merge: &Merge,
    store: &Store,
    machine: Machine,
    wanted: Option<Gpus>,
    _: bool,
    progress: &dyn Progress,
) -> Result<Findings> {
    match wanted {
        None => cpu::run(merge, merge.elements(), store, machine, progress),
        Some(_) => Err(missing()),
    }
}
