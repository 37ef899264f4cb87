//! What this process would leave behind if it ended at once, for an end that runs no destructors.

#[cfg(feature = "cli")]
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Folders in the making, in the order in which they were made; the flag says whether others may put something into it, so
/// that it goes only if it is empty.
static FOLDERS: Mutex<Vec<(PathBuf, bool)>> = Mutex::new(Vec::new());

/// A folder was made that is this process's own.
pub(crate) fn made(folder: &Path) {
    add(folder, false);
}

/// A folder was made that others may use too.
pub(crate) fn made_for_all(folder: &Path) {
    add(folder, true);
}

fn add(folder: &Path, is_for_all: bool) {
    let folder = folder.to_owned();
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).push((folder, is_for_all));
}

/// It is gone, or is to stay.
pub(crate) fn forget(folder: &Path) {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| other != folder);
}

/// Remove what is left, the last first. Whoever holds the list now may never give it back: then the next run does it.
#[cfg(feature = "cli")]
pub(crate) fn remove() {
    let Ok(folders) = FOLDERS.try_lock() else { return };
    for (folder, is_for_all) in folders.iter().rev() {
        let _ = if *is_for_all { fs::remove_dir(folder) } else { fs::remove_dir_all(folder) };
    }
}
