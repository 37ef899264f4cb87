//! Temporary folders that their process holds by a lock, so that what a killed process left is told from what is in use.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::io::left;

/// How many random characters follow the prefix of a folder's name.
const RANDOM: usize = 6;

/// A temporary folder; gone when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// `None` once the folder is no longer temporary.
    path: Option<PathBuf>,
    /// The folder, locked. The system lets go of the lock when the process ends, however it ends. `None` where folders
    /// cannot be locked: then nobody can tell, and nobody removes them.
    _lock: Option<File>,
}

impl Scratch {
    /// Make a folder in `parent`, with the permissions that the umask leaves.
    pub(crate) fn new(parent: &Path, prefix: &str) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix).rand_bytes(RANDOM);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        loop {
            let path = builder.tempdir_in(parent)?.keep();
            match Held::of(&path) {
                Held::Mine(lock) => return Ok(Self::made(path, Some(lock))),
                Held::Unknown => return Ok(Self::made(path, None)),
                // between its making and its locking someone took it for litter
                Held::Elsewhere => {}
            }
        }
    }

    fn made(path: PathBuf, lock: Option<File>) -> Self {
        left::made(&path);
        Self { path: Some(path), _lock: lock }
    }

    /// The folders in `parent` that [`Self::new`] made with this prefix in a process that is gone.
    pub(crate) fn abandoned(parent: &Path, prefix: &str) -> Vec<Self> {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let names = entries.filter(|entry| {
            let name = entry.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(prefix));
            let is_ours =
                |rest: &str| rest.len() == RANDOM && rest.bytes().all(|c| c.is_ascii_alphanumeric());
            rest.is_some_and(is_ours) && entry.file_type().is_ok_and(|kind| kind.is_dir())
        });
        let found = names.filter_map(|entry| match Held::of(&entry.path()) {
            Held::Mine(lock) => Some(Self { path: Some(entry.path()), _lock: Some(lock) }),
            Held::Elsewhere | Held::Unknown => None,
        });
        found.collect()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().expect("a folder that was kept is asked for no more")
    }

    /// Leave the folder where it is now.
    pub(crate) fn keep(&mut self) {
        if let Some(path) = self.path.take() {
            left::forget(&path);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // what cannot be removed now is found by the next run
            let _ = fs::remove_dir_all(path);
            left::forget(path);
        }
    }
}

/// Who holds a folder.
enum Held {
    Mine(File),
    Elsewhere,
    /// The system cannot lock folders, or not this one.
    Unknown,
}

impl Held {
    /// Try to take it.
    fn of(path: &Path) -> Self {
        if !cfg!(unix) {
            return Self::Unknown;
        }
        let folder = match File::open(path) {
            Ok(folder) => folder,
            // someone who took it for litter has removed it already
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::Elsewhere,
            Err(_) => return Self::Unknown,
        };
        match folder.try_lock() {
            Ok(()) if is_at(&folder, path) => Self::Mine(folder),
            Ok(()) | Err(TryLockError::WouldBlock) => Self::Elsewhere,
            Err(TryLockError::Error(_)) => Self::Unknown,
        }
    }
}

/// Whether the folder that was opened is still the one at `path`.
#[cfg(unix)]
fn is_at(folder: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (folder.metadata(), path.symlink_metadata()) {
        (Ok(opened), Ok(there)) => place(opened) == place(there),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_abandoned() {
        let place = tempfile::tempdir().unwrap();
        let used = Scratch::new(place.path(), ".test-").unwrap();
        for strange in [".test-backup-of-mine", ".test-12345", ".test-123-56", "test-123456"] {
            fs::create_dir(place.path().join(strange)).unwrap();
        }
        fs::write(place.path().join(".test-abcdef"), "a file").unwrap();
        std::os::unix::fs::symlink("/", place.path().join(".test-ghijkl")).unwrap();
        assert!(Scratch::abandoned(place.path(), ".test-").is_empty());

        let left = place.path().join(".test-a1B2c3");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("half"), "").unwrap();
        let found = Scratch::abandoned(place.path(), ".test-");
        assert_eq!(found.iter().map(Scratch::path).collect::<Vec<_>>(), [&*left]);
        assert!(Scratch::abandoned(place.path(), ".test-").is_empty(), "it is held now");
        drop(found);
        assert!(!left.exists() && used.path().exists());
    }
}
