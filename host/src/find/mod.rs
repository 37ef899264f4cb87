//! The core's runs and choices, with the files of this machine.

pub(crate) mod checkpoint;
pub(crate) mod choose;

use std::path::PathBuf;

use mwa::format::Format;
use mwa::safetensors::Safetensors;
use mwa::{LogKind, OpenOptions, Readers, Result, Run};

use crate::io::disk::{Disk, now, text_of};
use crate::io::pickle::Pickle;

/// All that this host reads.
pub(crate) const READERS: Readers =
    Readers { formats: &[&Pickle as &dyn Format, &Safetensors], logs: LogKind::ALL };

/// Open what the user named; `adapter` is one inside multi-adapter checkpoints.
pub(crate) fn open(disk: &Disk, paths: &[PathBuf], adapter: Option<&str>) -> Result<Run> {
    let paths = paths.iter().map(|path| text_of(path)).collect::<Result<Vec<_>>>()?;
    now(Run::open(disk, &READERS, &paths, &wanted(adapter)))
}

/// What of the checkpoints is opened.
pub(crate) fn wanted(adapter: Option<&str>) -> OpenOptions {
    OpenOptions { adapter: adapter.map(str::to_owned), ..OpenOptions::default() }
}
