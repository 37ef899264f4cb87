//! Say what a path is: the core's inspection of this machine's files.

use std::path::Path;

use mwa::{Inspection, OpenOptions, Result};

use crate::find;
use crate::io::disk::Disk;

/// Look at a run folder, a checkpoint folder or a file.
///
/// # Errors
/// When the path holds no weights that can be read.
pub fn inspect(path: &Path, adapter: Option<&str>) -> Result<Inspection> {
    let wanted = OpenOptions { adapter: adapter.map(str::to_owned), ..OpenOptions::default() };
    let run = find::open(&Disk::default(), &[path.to_owned()], &wanted)?;
    run.inspection(path.display().to_string())
}
