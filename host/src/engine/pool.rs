//! The threads of an engine: one loop for all work that is done in pieces.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use mwa::{Error, Result};

use crate::progress::{Progress, stopped};

/// Run `work` on so many threads, this one included, and give what each of them has to say. If one panics, `halt` lets the
/// others go, which might wait for it for ever.
pub(crate) fn on_threads<T: Send>(
    threads: usize,
    halt: impl Fn() + Sync,
    work: impl Fn() -> T + Sync,
) -> Vec<T> {
    struct Release<'a>(&'a (dyn Fn() + Sync));
    impl Drop for Release<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                (self.0)();
            }
        }
    }
    let work = || {
        let _release = Release(&halt);
        work()
    };
    thread::scope(|scope| {
        // a thread that the system refuses is not missed: the others take its work
        let start = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).filter_map(start).collect();
        let join = |other: thread::ScopedJoinHandle<'_, T>| {
            other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        [work()].into_iter().chain(others.into_iter().map(join)).collect()
    })
}

/// Why work ends early: the failure of the first piece that failed, in the order of the pieces, so that any number of
/// threads tells the same; or the caller's wish.
#[derive(Default)]
pub(crate) struct Ending {
    is_near: AtomicBool,
    failure: Mutex<Option<(u64, Error)>>,
}

impl Ending {
    /// Whether a piece failed, or the caller was heard to want to stop.
    pub(crate) fn is_near(&self) -> bool {
        self.is_near.load(Ordering::Relaxed)
    }

    /// The same, and ask the caller.
    pub(crate) fn is_wanted(&self, progress: &dyn Progress) -> bool {
        if progress.stopped() {
            self.fail(u64::MAX, stopped());
        }
        self.is_near()
    }

    /// Piece `index` failed.
    pub(crate) fn fail(&self, index: u64, error: Error) {
        let mut failure = lock(&self.failure);
        if failure.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
            *failure = Some((index, error));
        }
        drop(failure);
        self.begin();
    }

    /// Let no thread begin anything new.
    pub(crate) fn begin(&self) {
        self.is_near.store(true, Ordering::Relaxed);
    }

    /// The failure, when all threads have come to their end.
    pub(crate) fn result(&self) -> Result<()> {
        lock(&self.failure).take().map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// Do `work` with all pieces, each of which has a number, on threads; what each thread made of its own, or the failure of
/// the piece with the lowest number that failed. Pieces come by ascending number.
pub(crate) fn share<P: Send, D: Default + Send>(
    pieces: impl Iterator<Item = (u64, P)> + Send,
    threads: usize,
    progress: &dyn Progress,
    work: impl Fn(&mut D, u64, P) -> Result<()> + Sync,
) -> Result<Vec<D>> {
    let threads = threads.min(pieces.size_hint().1.unwrap_or(threads));
    let (pieces, ending) = (Mutex::new(pieces), Ending::default());
    let done = on_threads(
        threads,
        || ending.begin(),
        || {
            let mut own = D::default();
            while !ending.is_wanted(progress) {
                let next = lock(&pieces).next();
                let Some((number, piece)) = next else { break };
                if let Err(error) = work(&mut own, number, piece) {
                    ending.fail(number, error);
                }
            }
            own
        },
    );
    ending.result().map(|()| done)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
