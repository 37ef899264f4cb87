//! Writing to the disk while a merge still runs, so that its end waits for little.

use core::time::Duration;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::engine::pool::lock;

/// Bytes of a file that are worth a call that brings them to the disk.
const WORTHWHILE: u64 = 16 << 20;

/// What was written and is not on the disk yet.
#[derive(Debug, Default)]
pub(crate) struct WriteBack {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of each file.
    dirty: Vec<u64>,
    is_over: bool,
    /// What the system said first. It says so only once, and may call the file whole the next time.
    failure: Option<io::Error>,
}

impl WriteBack {
    /// So many bytes of a file were written.
    pub(crate) fn wrote(&self, file: usize, bytes: u64) {
        let mut state = lock(&self.state);
        let files = state.dirty.len().max(file + 1);
        state.dirty.resize(files, 0);
        state.dirty[file] += bytes;
        if state.dirty[file] >= WORTHWHILE {
            self.bell.notify_one();
        }
    }

    /// Bring files to the disk by `sync` as they grow, until [`Self::end`].
    pub(crate) fn run(&self, sync: impl Fn(usize) -> io::Result<()>) {
        let mut state = lock(&self.state);
        while !state.is_over {
            let State { dirty, failure, .. } = &mut *state;
            let grown = dirty.iter_mut().enumerate().find(|(_, bytes)| **bytes >= WORTHWHILE);
            let Some((file, bytes)) = grown.filter(|_| failure.is_none()) else {
                let waited = self.bell.wait_timeout(state, Duration::from_millis(200));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            };
            *bytes = 0;
            drop(state);
            let done = sync(file);
            state = lock(&self.state);
            state.failure = state.failure.take().or(done.err());
        }
    }

    /// Let [`Self::run`] come to its end.
    pub(crate) fn end(&self) {
        lock(&self.state).is_over = true;
        self.bell.notify_one();
    }

    /// What the system has said was wrong.
    pub(crate) fn result(&self) -> io::Result<()> {
        lock(&self.state).failure.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn files_that_grow_are_synced_and_a_failure_is_kept() {
        let back = WriteBack::default();
        let synced = Mutex::new(Vec::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                back.run(|file| {
                    lock(&synced).push(file);
                    if file == 2 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
                });
            });
            back.wrote(0, WORTHWHILE - 1);
            back.wrote(1, WORTHWHILE);
            while lock(&synced).is_empty() {
                thread::yield_now();
            }
            back.wrote(2, 2 * WORTHWHILE);
            while lock(&synced).len() < 2 {
                thread::yield_now();
            }
            back.end();
        });
        assert_eq!(*lock(&synced), [1, 2]);
        assert_eq!(back.result().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
