//! Where candidates lie while they are scored: in memory if there is room, else in the temporary folder.

use std::path::PathBuf;

use mwa::Result;

use crate::io::disk::io_error;
use crate::io::scratch::Scratch;

/// How the folders are called.
const PREFIX: &str = "mwa-search-";

/// Make a folder for `bytes`, and clear away those of searches that were killed.
pub(super) fn make(bytes: u64) -> Result<Scratch> {
    let temporary = std::env::temp_dir();
    let in_memory = in_memory(bytes);
    for place in in_memory.iter().chain([&temporary]) {
        drop(Scratch::abandoned(place, PREFIX));
    }
    if let Some(made) = in_memory.and_then(|place| Scratch::new(&place, PREFIX).ok()) {
        return Ok(made);
    }
    Scratch::new(&temporary, PREFIX).map_err(|error| {
        io_error("cannot make a temporary folder there, for candidates", &error)
            .file(temporary.display().to_string())
            .help("say by TMPDIR where there is room for a merge for each worker")
    })
}

/// A folder in memory with room to spare, unless the user named another place.
#[cfg(target_os = "linux")]
fn in_memory(bytes: u64) -> Option<PathBuf> {
    /// What others may want there meanwhile.
    const SPARE: u64 = 256 << 20;
    /// TMPFS_MAGIC.
    const TMPFS: i128 = 0x0102_1994;
    if std::env::var_os("TMPDIR").is_some() {
        return None;
    }
    let place = PathBuf::from("/dev/shm");
    let kind = i128::from(rustix::fs::statfs(&place).ok()?.f_type);
    let room = rustix::fs::statvfs(&place).ok()?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    (kind == TMPFS && free >= bytes.saturating_mul(2).saturating_add(SPARE)).then_some(place)
}

/// Elsewhere the temporary folder is the place.
#[cfg(not(target_os = "linux"))]
fn in_memory(_: u64) -> Option<PathBuf> {
    None
}
