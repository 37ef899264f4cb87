//! Hashes of whole files.

use core::ops::Range;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use mwa::Result;
use mwa::digest::{Digest, Part};
use sha2::{Digest as _, Sha256};

use crate::engine::pool::{lock, share};
use crate::io::disk::{Bytes, Opened, io_error};
use crate::progress::{Progress, stopped};

/// Bytes of a file that a thread hashes at once.
const PIECE: u64 = 1 << 20;
/// The same of a file in a store, where a request is dear.
const FAR_PIECE: u64 = 16 << 20;

/// BLAKE3 of a file in hex, by several threads.
pub(crate) fn blake3_of(path: &Path, threads: usize, progress: &dyn Progress) -> Result<String> {
    let failed = |error: io::Error| io_error("cannot read it", &error).file(path.display().to_string());
    let file = Opened::new(path)?;
    let len = file.len().map_err(failed)?;
    let digest = Mutex::new(Digest::new(len));
    let size = if matches!(file, Opened::Elsewhere(_)) { FAR_PIECE } else { PIECE };
    let pieces = pieces_of(0..len, size).map(|piece| (piece.start, piece.end));
    share(pieces, threads, progress, |buffer: &mut Vec<u8>, start, end| {
        buffer.resize(usize::try_from(end - start).expect("a piece is small"), 0);
        file.by_ref().read_at(buffer, start).map_err(failed)?;
        let part = Part::of(len, start, buffer);
        lock(&digest).take(part);
        Ok(())
    })?;
    let hash = lock(&digest).finish();
    Ok(hash.expect("all pieces were hashed"))
}

/// A range in pieces that begin where subtrees of the hash do.
pub(crate) fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    pieces_of(range, PIECE)
}

/// The same, of another size that subtrees have.
fn pieces_of(range: Range<u64>, size: u64) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = range;
    let next = move |at: u64| (at < end).then(|| at..end.min((at / size + 1) * size));
    core::iter::successors(next(start), move |piece| next(piece.end))
}

/// SHA-256 of a file in hex, as model hubs show it.
pub(crate) fn sha256_of(path: &Path, progress: &dyn Progress) -> Result<String> {
    let failed = |error: io::Error| io_error("cannot read it", &error).file(path.display().to_string());
    sha256(Opened::new(path)?.by_ref(), progress).map_err(failed)?.ok_or_else(stopped)
}

/// The same of an open file; `None` when the caller wants to stop.
pub(crate) fn sha256(file: Bytes<'_>, progress: &dyn Progress) -> io::Result<Option<String>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while !progress.stopped() {
        match file.read_some_at(&mut buffer, at) {
            Ok(0) => return Ok(Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())),
            Ok(count) => {
                hash.update(&buffer[..count]);
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
