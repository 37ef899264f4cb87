//! What the threads of an executor share under one lock: free buffers, hashes in progress, what is to be done next.

use core::time::Duration;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::engine::pool::lock;
use crate::io::hash::{Hashes, Piece};

/// The state of an executor, and a bell.
pub(crate) struct Board<S> {
    state: Mutex<State<S>>,
    changed: Condvar,
}

/// What an executor keeps: the last field is its own.
pub(crate) struct State<S> {
    free: Vec<Vec<Vec<u8>>>,
    /// How many trays there are, free or not.
    trays: usize,
    pub(crate) hashes: Hashes,
    pub(crate) own: S,
}

impl<S> Board<S> {
    pub(crate) fn new(hashes: Hashes, own: S) -> Self {
        let state = State { free: Vec::new(), trays: 0, hashes, own };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Look at the state until `look` finds something: after each change, and now and then. `ask` is called before each
    /// look, so that the caller's wish to stop is heard.
    pub(crate) fn wait<T>(&self, ask: impl Fn(), mut look: impl FnMut(&mut State<S>) -> Option<T>) -> T {
        loop {
            ask(); // not under the lock: the caller may take its time to answer
            let mut state = lock(&self.state);
            if let Some(found) = look(&mut state) {
                drop(state);
                self.changed.notify_one(); // there may be more
                return found;
            }
            let woken = self.changed.wait_timeout(state, Duration::from_millis(50));
            drop(woken.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Change the state and wake a thread that waits; when it finds something, it wakes the next.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State<S>) -> T) -> T {
        let changed = change(&mut lock(&self.state));
        self.changed.notify_one();
        changed
    }
}

impl<S> State<S> {
    /// Make this many trays.
    pub(crate) fn add_trays(&mut self, count: usize) {
        self.trays += count;
        self.free.resize_with(self.free.len() + count, Vec::new);
    }

    /// A free tray of `board`, if there is one: the one used last, which may still be in a cache.
    pub(crate) fn tray(&mut self, board: &Arc<Board<S>>) -> Option<Tray<S>> {
        self.free.pop().map(|buffers| Tray { buffers, board: Arc::clone(board) })
    }

    /// Whether no job is in flight and no piece waits to be hashed.
    pub(crate) fn is_idle(&self) -> bool {
        self.free.len() == self.trays
    }
}

/// The buffers of a job, back on the board when dropped.
pub(crate) struct Tray<S> {
    /// Of each operand, then of the result, and more if an earlier job had more operands.
    pub(crate) buffers: Vec<Vec<u8>>,
    board: Arc<Board<S>>,
}

impl<S> Drop for Tray<S> {
    fn drop(&mut self) {
        let buffers = core::mem::take(&mut self.buffers);
        self.board.change(|state| state.free.push(buffers));
    }
}

impl<S: Send + 'static> Tray<S> {
    /// Buffers as pieces to be hashed, by their places; the tray is free when all of them are dropped.
    pub(crate) fn pieces(self) -> impl Fn(usize) -> Piece {
        struct Buffer<S>(Arc<Tray<S>>, usize);
        impl<S> AsRef<[u8]> for Buffer<S> {
            fn as_ref(&self) -> &[u8] {
                &self.0.buffers[self.1]
            }
        }
        let tray = Arc::new(self);
        move |place| Box::new(Buffer(Arc::clone(&tray), place))
    }
}
