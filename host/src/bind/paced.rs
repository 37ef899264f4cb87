//! Progress for callers in another language: told and asked now and then, always on the thread that began the work.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Instant;

use crate::progress::Progress;

/// Time between two calls: often for a person, seldom for a machine.
const INTERVAL: Duration = Duration::from_millis(50);

/// Calls `tell(done, total)`, in bytes of input, at most every 50 ms; `false` from it stops the work.
///
/// `tell` runs only on the thread that called [`Paced::new`], between two jobs: it may take locks of its language and
/// handle signals there.
pub struct Paced<F> {
    tell: F,
    thread: ThreadId,
    done: AtomicU64,
    total: AtomicU64,
    last: Mutex<Instant>,
    is_stopped: AtomicBool,
}

impl<F: Fn(u64, u64) -> bool + Sync> Paced<F> {
    /// For work that this thread begins.
    pub fn new(tell: F) -> Self {
        Self {
            tell,
            thread: thread::current().id(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            last: Mutex::new(Instant::now()),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Call `tell` now, on whichever thread this is.
    pub fn tell(&self) {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        if !(self.tell)(done, total) {
            self.is_stopped.store(true, Ordering::Relaxed);
        }
    }
}

impl<F: Fn(u64, u64) -> bool + Sync> Progress for Paced<F> {
    fn start(&self, bytes: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(bytes, Ordering::Relaxed);
        self.tell();
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        if thread::current().id() == self.thread {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= INTERVAL {
                self.tell();
                // counted from the end, so that a slow listener does not eat the time of the work
                *last = Instant::now();
            }
        }
        self.is_stopped.load(Ordering::Relaxed)
    }
}
