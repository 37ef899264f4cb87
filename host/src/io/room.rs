//! Buffers whose size comes from outside: they are had, or an error says what was wanted.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use mwa::{Error, ErrorKind, Result};

/// Make a buffer so many bytes long, with whatever it held before or zeros.
///
/// # Errors
/// [`ErrorKind::Device`] when the system has no such memory.
pub fn resize(buffer: &mut Vec<u8>, length: usize) -> Result<()> {
    if let Some(more) = length.checked_sub(buffer.len()) {
        asking(|| buffer.try_reserve_exact(more)).map_err(|_| refused(length))?;
    }
    buffer.resize(length, 0);
    Ok(())
}

/// The error of a process that cannot have so many bytes more.
pub(crate) fn refused(length: usize) -> Error {
    let limit = limit();
    let wanted = WANTED.load(Ordering::Relaxed);
    let mut detail = format!("memory ran out: this process cannot have {length} bytes more");
    if let Some(limit) = limit {
        detail += &format!(", and its limit is {} MB", limit >> 20);
    }
    let needs = program().map(|program| program.saturating_add(wanted).saturating_add(length as u64));
    // a head or a log that is larger than all else was not foreseen
    if let Some(needs) = needs.filter(|needs| wanted > 0 && limit.is_none_or(|limit| *needs > limit)) {
        detail += &format!("; as it was ordered, this needs about {} MB in all", needs >> 20);
    }
    Error::new(ErrorKind::Device, detail).help(
        "let it have more (ulimit -v), free some in other programs, or merge with less: --memory 8M --threads 1",
    )
}

/// Bytes that a merge needs beside the program; 0 before it is known.
static WANTED: AtomicU64 = AtomicU64::new(0);
/// Bytes of a thread's stack, and what the system keeps for it.
#[cfg(feature = "cli")]
const STACK: u64 = 3 << 20;
/// Bytes for heads, logs and all that is small.
#[cfg(feature = "cli")]
const SMALL: u64 = 32 << 20;

/// So many threads and bytes of buffers are going to be used by this process, which does nothing else.
#[cfg(feature = "cli")]
pub(crate) fn order(threads: usize, buffers: u64) {
    let threads = threads as u64 * STACK;
    WANTED.store(buffers.saturating_add(threads).saturating_add(SMALL), Ordering::Relaxed);
}

/// Bytes of the program itself, without what it has asked for: its code and that of its libraries.
fn program() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let parts = ["VmExe:", "VmLib:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    Some(parts.into_iter().sum::<Option<u64>>()? << 10)
}

thread_local! {
    static IS_ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Ask for memory, taking a refusal for an answer.
fn asking<T>(ask: impl FnOnce() -> T) -> T {
    IS_ASKING.set(true);
    let answer = ask();
    IS_ASKING.set(false);
    answer
}

/// Whether whoever asks for memory now goes on without.
#[cfg(feature = "cli")]
pub(crate) fn is_asking() -> bool {
    IS_ASKING.get()
}

/// How much memory the process may address, in bytes, where there is a limit.
#[cfg(unix)]
pub(crate) fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

/// How much memory the process may address, in bytes, where there is a limit.
#[cfg(not(unix))]
pub(crate) fn limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error_and_the_buffer_stays() {
        let mut buffer = vec![1, 2, 3];
        let error = resize(&mut buffer, usize::MAX / 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        assert!(error.detail().starts_with("memory ran out: "), "{error}");
        assert_eq!(buffer, [1, 2, 3]);
        resize(&mut buffer, 5).unwrap();
        assert_eq!(buffer, [1, 2, 3, 0, 0]);
        resize(&mut buffer, 1).unwrap();
        assert_eq!(buffer, [1]);
    }
}
