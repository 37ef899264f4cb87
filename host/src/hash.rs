//! SHA-256 of a file whose bytes pass through several threads: each piece waits for its turn.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use mwa::Result;
use sha2::{Digest as _, Sha256};

use crate::files::io_error;

/// A hash that takes pieces in file order, from whichever thread holds them.
///
/// Threads take jobs in order, so the thread with the piece that comes first never waits for a later one.
pub(crate) struct OrderedHash {
    state: Mutex<(u64, Sha256)>,
    turn: Condvar,
}

impl OrderedHash {
    /// A hash that has taken `head` already.
    pub(crate) fn new(head: &[u8]) -> Self {
        Self { state: Mutex::new((head.len() as u64, Sha256::new_with_prefix(head))), turn: Condvar::new() }
    }

    /// Take the piece that begins at byte `start`, once all before it were taken; at once if `stop` is set.
    pub(crate) fn update(&self, start: u64, piece: &[u8], stop: &AtomicBool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .turn
            .wait_while(state, |(position, _)| *position != start && !stop.load(Ordering::Relaxed))
            .unwrap_or_else(PoisonError::into_inner);
        state.1.update(piece);
        state.0 = start + piece.len() as u64;
        self.turn.notify_all();
    }

    /// Wake waiting threads after `stop` was set.
    pub(crate) fn wake(&self) {
        // the lock makes sure that no thread is between its check and its sleep
        drop(self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.turn.notify_all();
    }

    /// The hash in hex.
    pub(crate) fn finish(self) -> String {
        hex(self.state.into_inner().unwrap_or_else(PoisonError::into_inner).1)
    }
}

/// SHA-256 of a whole file, in hex.
pub(crate) fn hash_file(path: &Path) -> Result<String> {
    let failed = |error: std::io::Error| io_error("cannot read it", &error).file(path.display().to_string());
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hex(hash)),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
