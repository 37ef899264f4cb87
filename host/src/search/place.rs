//! Where candidates lie while they wait and are scored: in memory if there is room, else in the temporary folder.

use std::path::{Path, PathBuf};

use mwa::Result;

use crate::io::disk::io_error;
use crate::io::scratch::Scratch;

/// How the folders are called.
const PREFIX: &str = "mwa-search-";
/// The most candidates that are merged in one pass: beyond that a pass costs little more for each than a pass by itself.
const LOT: usize = 8;
/// What others may want there meanwhile.
const SPARE: u64 = 256 << 20;

/// A folder for candidates.
pub(super) struct Place {
    pub(super) scratch: Scratch,
    /// How many are merged at a time, beside those that are being scored.
    pub(super) lot: usize,
}

impl Place {
    /// Make one for candidates of `each` bytes and so many workers, and clear away those of searches that were killed.
    pub(super) fn make(each: u64, workers: usize) -> Result<Self> {
        let temporary = std::env::temp_dir();
        let in_memory = in_memory();
        let places = in_memory.iter().map(|(place, _)| place).chain([&temporary]);
        places.for_each(|place| drop(Scratch::abandoned(place, PREFIX)));
        // a worker has what it scores, and the next lot may be there already
        let lot = |free: u64| {
            let fit = free.saturating_sub(SPARE) / 2 / each.max(1);
            usize::try_from(fit).unwrap_or(usize::MAX).checked_sub(workers).map(|room| (room + 1).min(LOT))
        };
        let fits = in_memory.and_then(|(place, free)| Some((place, lot(free)?)));
        if let Some((place, lot)) = fits
            && let Ok(scratch) = Scratch::new(&place, PREFIX)
        {
            return Ok(Self { scratch, lot });
        }
        let scratch = Scratch::new(&temporary, PREFIX).map_err(|error| {
            io_error("cannot make a temporary folder there, for candidates", &error)
                .file(temporary.display().to_string())
                .help("say by TMPDIR where there is room for a merge for each worker")
        })?;
        // where there is little room, one at a time may still fit
        let lot = free(&temporary).and_then(lot).unwrap_or(1);
        Ok(Self { scratch, lot })
    }
}

/// A folder in memory and how much room it has, unless the user named another place.
#[cfg(target_os = "linux")]
fn in_memory() -> Option<(PathBuf, u64)> {
    /// TMPFS_MAGIC.
    const TMPFS: i128 = 0x0102_1994;
    if std::env::var_os("TMPDIR").is_some() {
        return None;
    }
    let place = PathBuf::from("/dev/shm");
    let kind = i128::from(rustix::fs::statfs(&place).ok()?.f_type);
    let free = free(&place)?.min(available().unwrap_or(u64::MAX));
    (kind == TMPFS).then_some((place, free))
}

/// Elsewhere the temporary folder is the place.
#[cfg(not(target_os = "linux"))]
fn in_memory() -> Option<(PathBuf, u64)> {
    None
}

/// Bytes of memory that nobody needs now.
#[cfg(target_os = "linux")]
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Bytes that a folder has room for, where the system says so.
#[cfg(unix)]
fn free(place: &Path) -> Option<u64> {
    let room = rustix::fs::statvfs(place).ok()?;
    Some(room.f_bavail.saturating_mul(room.f_frsize))
}

/// Bytes that a folder has room for, where the system says so.
#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}
