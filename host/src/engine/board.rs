//! What threads share under one lock, with a bell: they wait for it to change.

use core::time::Duration;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::engine::pool::lock;

/// A state, and a bell.
pub(crate) struct Board<S> {
    state: Mutex<S>,
    changed: Condvar,
}

impl<S> Board<S> {
    pub(crate) fn new(state: S) -> Self {
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Look at the state until `look` finds something: after each change, and now and then. `ask` is called before each
    /// look, so that the caller's wish to stop is heard.
    pub(crate) fn wait<T>(&self, ask: impl Fn(), mut look: impl FnMut(&mut S) -> Option<T>) -> T {
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
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        let changed = change(&mut lock(&self.state));
        self.changed.notify_one();
        changed
    }
}
