//! The output folder: made under another name beside its place, and put there whole or not at all.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use mwa::report::COMPANIONS;
use mwa::{Error, ErrorKind, Result};
use tempfile::TempDir;

use crate::find::checkpoint::Checkpoint;
use crate::io::disk::io_error;
use crate::options::REPORT;

/// An output folder in the making; gone when dropped before [`Staging::publish`].
pub(crate) struct Staging {
    folder: TempDir,
    target: PathBuf,
    /// The target as the user called it.
    shown: PathBuf,
    /// The topmost folder that had to be made to hold the target, to take away again on failure.
    made: Option<PathBuf>,
}

impl Staging {
    /// Refuse an output that exists, unless it is empty or, with `force`, an earlier merge.
    pub(crate) fn check(target: &Path, force: bool) -> Result<()> {
        let refuse = |detail: &'static str, help: &'static str| {
            Err(Error::new(ErrorKind::Output, detail).file(target.display().to_string()).help(help))
        };
        let Ok(mut entries) = fs::read_dir(target) else {
            return if target.symlink_metadata().is_ok() {
                refuse("exists and is not a folder", "choose another output folder")
            } else {
                Ok(())
            };
        };
        if entries.next().is_none() || (force && target.join(REPORT).is_file()) {
            Ok(())
        } else if force {
            refuse(
                "is not an earlier merge (it has no mwa-report.json); it is not replaced, even with --force",
                "choose another output folder, or remove this one yourself",
            )
        } else {
            refuse("exists already", "choose another output folder, or replace an earlier merge with --force")
        }
    }

    /// Begin the folder beside `target`, which must not be, lie in, or hold one of the inputs.
    pub(crate) fn begin(target: &Path, force: bool, inputs: &[Checkpoint]) -> Result<Self> {
        Self::check(target, force)?;
        let shown = target.to_owned();
        let target = std::path::absolute(target).map_err(|error| cannot_write(target, &error))?;
        let parent = target.parent().unwrap_or(Path::new("/"));
        let made = parent.ancestors().take_while(|folder| !folder.exists()).last().map(Path::to_owned);
        fs::create_dir_all(parent).map_err(|error| cannot_write(parent, &error))?;
        let parent = fs::canonicalize(parent).map_err(|error| cannot_write(parent, &error))?;
        let name = target.file_name().ok_or_else(|| {
            Error::new(ErrorKind::Output, "is no name for a folder").file(target.display().to_string())
        })?;
        let target = fs::canonicalize(&target).unwrap_or_else(|_| parent.join(name));
        for input in inputs {
            let place = fs::canonicalize(&input.path).unwrap_or_else(|_| input.path.clone());
            if target.starts_with(&place) || place.starts_with(&target) {
                return Err(Error::new(
                    ErrorKind::Output,
                    format!("would overwrite the input {}", input.name),
                )
                .file(shown.display().to_string())
                .help("choose an output folder outside the inputs"));
            }
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".mwa-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777)); // less the umask
        let folder = builder.tempdir_in(&parent).map_err(|error| cannot_write(&parent, &error))?;
        Ok(Self { folder, target, shown, made })
    }

    /// Where the output will be.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where a file of the output is for now.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Create a file of `len` bytes, to be written in pieces.
    pub(crate) fn create(&self, name: &str, len: u64) -> Result<File> {
        let create = || {
            let file = File::options().read(true).write(true).create_new(true).open(self.path(name))?;
            file.set_len(len)?;
            Ok(file)
        };
        create().map_err(|error| cannot_write(&self.shown.join(name), &error))
    }

    /// Write a small file whole.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.create(name, 0)?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|error| cannot_write(&self.shown.join(name), &error))
    }

    /// Copy a file byte for byte, without its permissions.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> Result<()> {
        let mut source = File::open(from)
            .map_err(|error| io_error("cannot read it", &error).file(from.display().to_string()))?;
        let mut file = self.create(name, 0)?;
        std::io::copy(&mut source, &mut file)
            .and_then(|_| file.sync_all())
            .map_err(|error| cannot_write(&self.shown.join(name), &error))
    }

    /// Copy tokenizer, templates and, beside full models, the model's config from `folder`.
    pub(crate) fn copy_companions(&self, folder: &Path) -> Result<()> {
        for name in COMPANIONS {
            let path = folder.join(name);
            if path.is_file() {
                self.copy(&path, name)?;
            }
        }
        Ok(())
    }

    /// Put the folder in its place. The earlier merge that it replaces, if any, is removed last.
    pub(crate) fn publish(mut self) -> Result<()> {
        let failed = |error: std::io::Error| cannot_write(&self.shown, &error);
        sync_folder(self.folder.path()).map_err(failed)?;
        let parent = self.target.parent().expect("begin() gave it a parent").to_owned();
        let old = if self.target.exists() {
            let old = tempfile::Builder::new().prefix(".mwa-old-").tempdir_in(&parent).map_err(failed)?;
            fs::rename(&self.target, old.path().join("replaced")).map_err(failed)?;
            Some(old)
        } else {
            None
        };
        if let Err(error) = fs::rename(self.folder.path(), &self.target) {
            if let Some(old) = old {
                // what was there goes back; if even that fails, it stays findable beside the target
                if fs::rename(old.path().join("replaced"), &self.target).is_err() {
                    let _ = old.keep();
                }
            }
            return Err(failed(error));
        }
        self.folder.disable_cleanup(true);
        self.made = None;
        sync_folder(&parent).map_err(|error| cannot_write(&self.shown, &error))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            // the temporary folder first, else its parents are not empty; both may fail only if someone else meddles
            let _ = fs::remove_dir_all(self.folder.path());
            let _ = fs::remove_dir_all(made);
        }
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    io_error("cannot write it", error).file(path.display().to_string())
}

/// Make a rename in `folder` durable; systems that cannot sync a folder do it by themselves.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
