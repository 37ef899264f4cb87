//! Lay files out in a folder and pack it, with the same bytes for the same files where GNU tar does it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::folder;
use crate::run::{Result, copy, output};

/// A folder that becomes an archive of the same name.
pub(super) struct Archive {
    name: String,
    folder: PathBuf,
}

impl Archive {
    /// An empty one.
    pub(super) fn new(name: String) -> Result<Self> {
        let folder = folder().join("packed").join(&name);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self { name, folder })
    }

    /// Where what is packed lies.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A copy of a file, under a path inside.
    pub(super) fn add(&self, from: &Path, to: &str) -> Result {
        copy(from, &self.folder.join(to))
    }

    /// Pack it: `.tar.gz`, or `.zip` where that is what people open.
    pub(super) fn pack(&self, is_zip: bool) -> Result<PathBuf> {
        let path =
            folder().join("packed").join(format!("{}.{}", self.name, if is_zip { "zip" } else { "tar.gz" }));
        let mut tar = Command::new("tar");
        if cfg!(target_os = "linux") && !is_zip {
            tar.args([
                "--sort=name",
                "--owner=0",
                "--group=0",
                "--numeric-owner",
                "--mtime=@0",
                "--mode=go=rX,u+rw",
            ]);
            // gzip itself would write when it was run
            tar.args(["--use-compress-program", "gzip -9n", "-cf"]);
        } else {
            tar.args(if is_zip { ["-a", "-cf"] } else { ["-z", "-cf"] });
        }
        tar.arg(&path).arg("-C").arg(folder().join("packed")).arg(&self.name);
        output(tar)?;
        Ok(path)
    }
}

/// All files below a folder, by their paths inside; none where there is no folder.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inner) = todo.pop() {
        for entry in fs::read_dir(folder.join(&inner)).into_iter().flatten().flatten() {
            let path = inner.join(entry.file_name());
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            (if is_folder { &mut todo } else { &mut found }).push(path);
        }
    }
    found
}
