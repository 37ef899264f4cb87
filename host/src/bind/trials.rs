//! A search for callers in another language: what they hear of a merge in bytes, they hear of a search in trials.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::progress::Progress;
use crate::search::{Tried, Watch};

/// Tells of trials as [`Progress`] tells of bytes.
pub struct Trials<'a> {
    progress: &'a dyn Progress,
    /// How many were told of; before the first, none.
    done: AtomicUsize,
    is_stopped: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Trials<'a> {
    /// Tells `progress`, and stops when it or `is_stopped` says so.
    pub fn new(progress: &'a dyn Progress, is_stopped: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { progress, done: AtomicUsize::new(usize::MAX), is_stopped }
    }
}

impl Watch for Trials<'_> {
    fn told(&self, tried: &[Tried], _: Option<usize>, budget: usize) {
        let now = tried.iter().filter(|row| row.score.is_some() || row.failed.is_some()).count();
        let before = match self.done.swap(now, Ordering::Relaxed) {
            usize::MAX => {
                self.progress.start(budget as u64);
                0
            }
            before => before,
        };
        self.progress.advance(now.saturating_sub(before) as u64);
    }

    fn note(&self, note: &str) {
        self.progress.note(note);
    }

    fn stopped(&self) -> bool {
        (self.is_stopped)() || self.progress.stopped()
    }
}
