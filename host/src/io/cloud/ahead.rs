//! Fetching ahead of a merge: the jobs that come next say what they will read, so that it is there when a thread takes them.
//!
//! Jobs are taken by their numbers. Those of the next numbers are put together into batches, whose ranges are fetched at once; so
//! many batches are on their way as fit the memory. A thread waits only for the batch of its own job, and what a batch has is
//! let go when its last job is done.

use core::ops::Range;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use mwa::merge::Merge;
use mwa::{Error, Result};

use super::Object;
use crate::engine::jobs::bytes;
use crate::engine::pool::lock;
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::{Progress, stopped};

/// Bytes that are on their way or there, unless the caller says otherwise.
const MEMORY: u64 = 512 << 20;
/// Bytes of one range, if there is room.
const RANGE: u64 = 16 << 20;
/// Ranges with less than this between them are fetched as one.
const GAP: u64 = 256 << 10;

/// What fetches for the jobs of a phase.
pub(crate) struct Ahead<'a> {
    merge: &'a Merge,
    store: &'a Store,
    end: u64,
    budget: u64,
    shared: Arc<Fetched>,
}

/// What was fetched, and what is on its way.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Batch>,
    /// The first job that is in no batch.
    next: u64,
    /// Bytes of all batches.
    held: u64,
    /// The number of the next batch.
    number: u64,
}

#[derive(Debug)]
struct Batch {
    number: u64,
    jobs: Range<u64>,
    /// Jobs that are not done.
    left: u64,
    bytes: u64,
    /// Ranges that are not there.
    missing: usize,
    failure: Option<Error>,
    ranges: Vec<Fetching>,
}

#[derive(Debug)]
struct Fetching {
    /// Input and file.
    file: (usize, usize),
    range: Range<u64>,
    bytes: Arc<Vec<u8>>,
}

impl<'a> Ahead<'a> {
    /// For the jobs of these numbers, if any input lies in a store.
    pub(crate) fn new(
        merge: &'a Merge,
        jobs: Range<u64>,
        store: &'a Store,
        machine: Machine,
    ) -> Option<Self> {
        if !store.is_fetching() || jobs.is_empty() {
            return None;
        }
        let shared = Arc::new(Fetched::default());
        lock(&shared.state).next = jobs.start;
        store.fetched_by(Some(Arc::clone(&shared)));
        let budget = machine.memory.unwrap_or(MEMORY);
        Some(Self { merge, store, end: jobs.end, budget, shared })
    }

    /// Wait until all that a job reads is there.
    ///
    /// # Errors
    /// When it cannot be had, or the caller wants to stop.
    pub(crate) fn until(&self, job: u64, progress: &dyn Progress) -> Result<()> {
        loop {
            if progress.stopped() {
                return Err(stopped());
            }
            let mut state = lock(&self.shared.state);
            let begun = self.fill(&mut state);
            let batch = state.batches.iter().find(|batch| batch.jobs.contains(&job));
            let found = batch.filter(|batch| batch.missing == 0).map(|batch| batch.failure.clone());
            if found.is_none() && begun.is_empty() {
                let missing = batch.and_then(|batch| batch.ranges.iter().find(|it| it.bytes.is_empty()));
                let file = missing.map(|it| it.file);
                let waited = self.shared.arrived.wait_timeout(state, Duration::from_millis(100));
                drop(waited.unwrap_or_else(PoisonError::into_inner));
                if let Some(object) = file.and_then(|file| self.store.object(file)) {
                    progress.waiting(object.url());
                }
                continue;
            }
            drop(state);
            for (number, at, object, range) in begun {
                self.begin(number, at, &object, range);
            }
            if let Some(failure) = found {
                return failure.map_or(Ok(()), Err);
            }
        }
    }

    /// A job needs nothing any more, whether it went well or not.
    pub(crate) fn done(&self, job: u64) {
        let mut state = lock(&self.shared.state);
        let Some(at) = state.batches.iter().position(|batch| batch.jobs.contains(&job)) else { return };
        state.batches[at].left -= 1;
        if state.batches[at].left == 0 {
            let done = state.batches.remove(at).expect("it was found there");
            state.held -= done.bytes;
            drop(state);
            self.shared.arrived.notify_all(); // there is room for more
        }
    }

    /// Plan as many batches as there is room for: their numbers, and the ranges of each to be fetched.
    fn fill(&self, state: &mut State) -> Vec<(u64, usize, Object, Range<u64>)> {
        let mut begun = Vec::new();
        while state.next < self.end && (state.batches.is_empty() || state.held < self.budget) {
            let mut batch = self.batch(state.next, state.number);
            if !state.batches.is_empty() && state.held + batch.bytes > self.budget {
                break;
            }
            state.next = batch.jobs.end;
            state.number += 1;
            state.held += batch.bytes;
            batch.missing = batch.ranges.len();
            for (at, wanted) in batch.ranges.iter().enumerate() {
                let object = self.store.object(wanted.file).expect("only what lies in a store is fetched");
                begun.push((batch.number, at, object.clone(), wanted.range.clone()));
            }
            state.batches.push_back(batch);
        }
        begun
    }

    /// The jobs from this one on that are fetched for together.
    fn batch(&self, first: u64, number: u64) -> Batch {
        let most = (self.budget / 3).max(1);
        let mut ranges: Vec<Fetching> = Vec::new();
        let (mut sum, mut end) = (0, first);
        while end < self.end {
            let job = self.merge.job(end);
            let reads: Vec<_> =
                job.reads().filter(|read| self.store.object((read.input, read.file)).is_some()).collect();
            let own: u64 = reads.iter().map(|read| bytes(&read.range) as u64).sum();
            if end > first && sum + own > most {
                break;
            }
            // what is read by windows needs no room for all of it
            if own <= most || !job.is_windowed() {
                let is_full = |read: &mwa::Read| {
                    let last = ranges.iter().rev().find(|it| it.file == (read.input, read.file));
                    last.is_some_and(|it| read.range.end.saturating_sub(it.range.start) > RANGE)
                };
                if end > first && reads.iter().any(is_full) {
                    break;
                }
                for read in reads {
                    let file = (read.input, read.file);
                    let near = |it: &&mut Fetching| {
                        it.file == file
                            && it.range.start <= read.range.start
                            && read.range.start <= it.range.end + GAP
                    };
                    match ranges.iter_mut().rev().find(near) {
                        Some(it) => it.range.end = it.range.end.max(read.range.end),
                        None => {
                            ranges.push(Fetching { file, range: read.range, bytes: Arc::default() });
                        }
                    }
                }
                sum = ranges.iter().map(|it| it.range.end - it.range.start).sum();
            }
            end += 1;
        }
        Batch { number, jobs: first..end, left: end - first, bytes: sum, missing: 0, failure: None, ranges }
    }

    /// Ask for one range of a batch.
    fn begin(&self, number: u64, at: usize, object: &Object, range: Range<u64>) {
        let shared = Arc::clone(&self.shared);
        object.fetch(range, move |fetched| {
            let mut state = lock(&shared.state);
            if let Some(batch) = state.batches.iter_mut().find(|batch| batch.number == number) {
                match fetched {
                    Ok(bytes) => batch.ranges[at].bytes = Arc::new(bytes),
                    Err(error) => drop(batch.failure.get_or_insert(error)),
                }
                batch.missing -= 1;
            }
            drop(state);
            shared.arrived.notify_all();
        });
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        self.store.fetched_by(None);
    }
}

impl Fetched {
    /// Copy bytes of a file from byte `at` on, if they are there.
    pub(crate) fn take(&self, file: (usize, usize), at: u64, into: &mut [u8]) -> bool {
        let end = at + into.len() as u64;
        let found = {
            let state = lock(&self.state);
            let mut ranges = state.batches.iter().flat_map(|batch| &batch.ranges);
            let found = ranges.find(|it| {
                it.file == file && it.range.start <= at && end <= it.range.end && !it.bytes.is_empty()
            });
            found.map(|it| (it.range.start, Arc::clone(&it.bytes)))
        };
        let Some((start, bytes)) = found else { return false };
        let from = usize::try_from(at - start).expect("it lies in memory");
        into.copy_from_slice(&bytes[from..from + into.len()]);
        true
    }
}
