//! The core's runs and choices, with the files of this machine.

pub(crate) mod checkpoint;
pub(crate) mod choose;
mod meant;

use std::path::PathBuf;

use mwa::{OpenOptions, Readers, Result, Run};

use crate::io::disk::{Disk, now, text_of};

/// Open what the user named.
pub(crate) fn open(disk: &Disk, paths: &[PathBuf], options: &OpenOptions) -> Result<Run> {
    let paths = paths.iter().map(|path| text_of(path)).collect::<Result<Vec<_>>>()?;
    now(Run::open(disk, &Readers::ALL, &paths, options)).map_err(meant::suggest)
}
