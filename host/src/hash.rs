//! Hash files whose bytes pass through several threads: each piece waits for its turn.

use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use mwa::Result;

use crate::files::io_error;
use crate::sha256::Sha256;

/// A hash that takes pieces in file order, from whichever thread holds them.
///
/// Threads take jobs in order, so the thread with the piece that comes first never waits for a later one.
pub(crate) struct OrderedHash {
    hash: Mutex<Sha256>,
    turn: Condvar,
}

/// A piece of a file: the file's hash, where the piece begins, and its bytes.
pub(crate) type Piece<'a> = (&'a OrderedHash, u64, &'a [u8]);

impl OrderedHash {
    /// A hash that has taken `head` already.
    pub(crate) fn new(head: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(head);
        Self { hash: Mutex::new(hash), turn: Condvar::new() }
    }

    /// Take each piece once all bytes before it were taken; at once if `stop` is set. Hashes are locked in the order
    /// given, which must be the same for all threads. `at_once` is 1 or 2: how many this thread takes at a time; two
    /// cost a thread less, one lets more threads work.
    pub(crate) fn update_all(pieces: &[Piece<'_>], at_once: usize, stop: &AtomicBool) {
        for pair in pieces.chunks(at_once) {
            match *pair {
                [(a, start_a, piece_a), (b, start_b, piece_b)] => {
                    let (mut lock_a, mut lock_b) = (a.wait(start_a, stop), b.wait(start_b, stop));
                    Sha256::update_two(&mut lock_a, piece_a, &mut lock_b, piece_b);
                    drop((lock_a, lock_b));
                    a.turn.notify_all();
                    b.turn.notify_all();
                }
                [(hash, start, piece)] => {
                    hash.wait(start, stop).update(piece);
                    hash.turn.notify_all();
                }
                _ => unreachable!("at_once is 1 or 2"),
            }
        }
    }

    fn wait(&self, start: u64, stop: &AtomicBool) -> MutexGuard<'_, Sha256> {
        let hash = self.hash.lock().unwrap_or_else(PoisonError::into_inner);
        self.turn
            .wait_while(hash, |hash| hash.len() != start && !stop.load(Ordering::Relaxed))
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Wake waiting threads after `stop` was set.
    pub(crate) fn wake(&self) {
        // the lock makes sure that no thread is between its check and its sleep
        drop(self.hash.lock().unwrap_or_else(PoisonError::into_inner));
        self.turn.notify_all();
    }

    /// The digest in hex.
    pub(crate) fn finish(self) -> String {
        self.hash.into_inner().unwrap_or_else(PoisonError::into_inner).finish()
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
            0 => return Ok(hash.finish()),
            n => hash.update(&buffer[..n]),
        }
    }
}
