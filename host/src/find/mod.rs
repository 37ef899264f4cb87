//! The core's runs and choices, with the files of this machine.

pub(crate) mod checkpoint;
pub(crate) mod choose;
pub(crate) mod meant;

use std::path::PathBuf;

use mwa::{OpenOptions, Readers, Result, Run};

use crate::io::disk::{Disk, text_of};
use crate::io::url::{clean, is_url};

/// Open what the user named.
pub(crate) fn open(disk: &Disk, paths: &[PathBuf], options: &OpenOptions) -> Result<Run> {
    let paths = paths.iter().map(|path| text_of(&clean(path))).collect::<Result<Vec<_>>>()?;
    let found = disk.now(|| Run::open(disk, &Readers::ALL, &paths, options));
    found.map_err(|error| if error.at_file().is_some_and(is_url) { error } else { meant::suggest(error) })
}
