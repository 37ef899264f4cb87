//! The core's runs and choices, with the files of this machine.

pub(crate) mod checkpoint;
pub(crate) mod choose;

use std::path::PathBuf;

use mwa::format::Format;
use mwa::format::torch::Torch;
use mwa::safetensors::Safetensors;
use mwa::{LogKind, OpenOptions, Readers, Result, Run};

use crate::io::disk::{Disk, now, text_of};

/// All that this host reads.
pub(crate) const READERS: Readers =
    Readers { formats: &[&Torch as &dyn Format, &Safetensors], logs: LogKind::ALL };

/// Open what the user named.
pub(crate) fn open(disk: &Disk, paths: &[PathBuf], options: &OpenOptions) -> Result<Run> {
    let paths = paths.iter().map(|path| text_of(path)).collect::<Result<Vec<_>>>()?;
    now(Run::open(disk, &READERS, &paths, options))
}
