//! Say what a path is: the core's inspection of this machine's files.

use std::path::Path;

use mwa::{ErrorKind, Inspection, OpenOptions, Readers, Result};

use crate::find;
use crate::io::disk::{Disk, text_of};
use crate::io::url::{clean, clean_log};

/// Look at a run folder, a checkpoint folder or a file.
///
/// # Errors
/// When the path is nothing that is known here.
pub fn inspect(path: &Path, options: &mwa::Options) -> Result<Inspection> {
    let wanted = OpenOptions {
        adapter: options.adapter.clone(),
        metrics_from: options.metrics_from.as_deref().map(clean_log),
        ..OpenOptions::default()
    };
    let disk = Disk::default();
    let path = &*clean(path);
    match find::open(&disk, &[path.to_owned()], &wanted) {
        Ok(run) => run.inspection(path.display().to_string()),
        // no checkpoint, but perhaps something else that is known
        Err(error) if error.kind() == ErrorKind::Io || path.is_dir() && is_ours(&error, path) => Err(error),
        Err(error) => {
            let text = text_of(path)?;
            let other = disk.now(|| Inspection::of_other(&disk, &Readers::ALL, &text))?;
            other.ok_or(error)
        }
    }
}

/// Whether an error is of something in a folder, which nothing that is known of the folder explains.
fn is_ours(error: &mwa::Error, folder: &Path) -> bool {
    error.at_file().is_some_and(|file| Path::new(file) != folder)
}
