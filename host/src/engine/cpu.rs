//! Run a merge's jobs on CPU threads, each with buffers of its own.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use mwa::merge::{Bytes, Findings, Found, Job, Merge, Together};
use mwa::{Error, Read, Result};

use crate::engine::jobs::{bytes, joined, stretches};
use crate::engine::pool::{lock, share};
use crate::engine::simd::InstructionSet;
use crate::engine::timings::Timings;
use crate::io::cloud::Ahead;
use crate::io::room;
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

/// Most bytes a job reads of one input: small enough for caches, large enough to make a system call cheap.
pub(crate) const JOB_BYTES: usize = 256 << 10;
/// Least bytes: below this, system calls cost more than the work.
const MIN_JOB_BYTES: usize = 4 << 10;
/// Bytes of buffers unless the caller says otherwise.
pub(crate) const MEMORY: u64 = 64 << 20;
/// Most bytes that a residual reads at once: they stay in the second-level cache, or nearly.
const WINDOW: usize = 2 << 20;

/// Bytes of buffers, as far as they can be addressed.
pub(crate) fn budget(machine: Machine) -> usize {
    usize::try_from(machine.memory.unwrap_or(MEMORY)).unwrap_or(usize::MAX)
}

/// Bytes of a piece, of which each thread needs `room` times as many, within what is worth one.
pub(crate) fn piece_bytes(machine: Machine, room: u64, (most, least): (u64, u64)) -> u64 {
    (budget(machine) as u64 / machine.threads() as u64 / room).clamp(least, most)
}

/// Bytes that a job reads of each of so many inputs, so that the buffers of all threads fit `budget` twice. They are a
/// multiple of 64, so that jobs begin where staging memory can be mapped, in the narrowest dtype too.
pub(crate) fn job_bytes(budget: usize, threads: usize, inputs: usize) -> usize {
    (budget / (inputs + 1) / (2 * threads)).clamp(MIN_JOB_BYTES, JOB_BYTES) / 64 * 64
}

/// Run the jobs with these numbers.
///
/// A thread holds what one job reads and writes, so that fewer run at once where that is more than the memory allows.
pub(crate) fn run(
    merge: &Merge,
    numbers: Range<u64>,
    store: &Store,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Findings> {
    let memory = budget(machine);
    let largest = usize::try_from(largest(merge, numbers.clone())).unwrap_or(usize::MAX);
    let threads = machine.threads().min(memory / largest.max(1)).max(1);
    let window = (memory / threads).min(WINDOW);
    let ahead = Ahead::new(merge, numbers.clone(), store, machine);
    let found =
        share(numbers.map(|number| (number, ())), threads, progress, |desk: &mut Desk, number, ()| {
            let _done = ahead.as_ref().map(|ahead| Needed { ahead, number });
            if let Some(ahead) = &ahead {
                Timings::time(&store.timings.wait, || ahead.until(number, progress))?;
            }
            let job = merge.job(number);
            let found = desk.buffers.run(&job, window, store, progress)?;
            desk.findings.add(number, found);
            Ok(())
        })?;
    Ok(joined(found.into_iter().map(|desk| desk.findings).collect()))
}

/// A job that what was fetched is kept for.
struct Needed<'a> {
    ahead: &'a Ahead<'a>,
    number: u64,
}

impl Drop for Needed<'_> {
    fn drop(&mut self) {
        self.ahead.done(self.number); // after a failure too, or others would wait for the room
    }
}

/// The most bytes that one of these jobs has at once; those on elements are alike by the thousand.
fn largest(merge: &Merge, numbers: Range<u64>) -> u64 {
    let elements = merge.elements();
    let others = numbers.start.max(elements.end)..numbers.end;
    let others = others.chain(numbers.start..numbers.end.min(elements.start));
    // what is read by windows takes no more than its share
    let taken = |job: &Job<'_>| {
        if job.is_windowed() {
            job.writes().map(|write| write.range.end - write.range.start).sum()
        } else {
            job.bytes()
        }
    };
    let of_elements = (numbers.start < elements.end && elements.start < numbers.end)
        .then(|| stretches(merge).map(|(first, _)| first.bytes()).max())
        .flatten();
    others.map(|number| taken(&merge.job(number))).chain(of_elements).max().unwrap_or(0)
}

/// Run the jobs on elements of merges of the same files that go with each other; what each has found.
///
/// # Errors
/// What fails for all.
pub(crate) fn run_together(
    merges: &[(&Merge, &Store)],
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Vec<Result<Findings>>> {
    let (first, store) = merges[0];
    let written = |job: &Job<'_>| job.writes().map(|write| bytes(&write.range)).sum::<usize>() as u64;
    let needed = |job: &Job<'_>| job.bytes() + written(job) * merges.len() as u64;
    let largest = stretches(first).map(|(job, _)| needed(&job)).max().unwrap_or(0);
    let largest = usize::try_from(largest).unwrap_or(usize::MAX);
    let threads = machine.threads().min(budget(machine) / largest.max(1)).max(1);
    // the first job of each that failed, so that any number of threads tells the same
    let failures: Vec<(AtomicU64, Mutex<Option<Error>>)> =
        merges.iter().map(|_| (AtomicU64::new(u64::MAX), Mutex::default())).collect();
    let count = first.elements().end - first.elements().start;
    let ahead = Ahead::new(first, first.elements(), store, machine);
    let work = |desk: &mut Bench, number: u64, (): ()| -> Result<()> {
        let of_first = first.elements().start + number;
        let _done = ahead.as_ref().map(|ahead| Needed { ahead, number: of_first });
        if let Some(ahead) = &ahead {
            Timings::time(&store.timings.wait, || ahead.until(of_first, progress))?;
        }
        let is_open = |at: &usize| failures[*at].0.load(Ordering::Relaxed) > number;
        let open: Vec<_> = (0..merges.len()).filter(is_open).collect();
        let job = |&at: &usize| merges[at].0.job(merges[at].0.elements().start + number);
        let jobs = Together::new(open.iter().map(job).collect());
        desk.inputs.resize_with(jobs.reads().len(), Vec::new);
        for (read, buffer) in jobs.reads().iter().zip(&mut desk.inputs) {
            room::resize(buffer, bytes(&read.range))?;
            store.read(read, buffer, true)?;
            progress.advance(buffer.len() as u64);
        }
        desk.outputs.resize_with(open.len(), Vec::new);
        for (write, buffer) in jobs.writes().zip(&mut desk.outputs) {
            room::resize(buffer, bytes(&write.range))?;
        }
        let inputs: Vec<_> = desk.inputs.iter().map(Vec::as_slice).collect();
        let mut rooms: Vec<_> = desk.outputs.iter_mut().map(Vec::as_mut_slice).collect();
        let found = Timings::time(&store.timings.sum, || {
            InstructionSet::widest().run_together(&jobs, &inputs, &mut rooms)
        });
        desk.findings.resize_with(merges.len(), Findings::default);
        for (((at, found), write), buffer) in
            open.into_iter().zip(found).zip(jobs.writes()).zip(&desk.outputs)
        {
            match found {
                Ok(found) => {
                    merges[at].1.write(&write, buffer)?;
                    desk.findings[at].add(number, found);
                }
                Err(error) => {
                    let mut failure = lock(&failures[at].1);
                    if failures[at].0.fetch_min(number, Ordering::Relaxed) > number {
                        *failure = Some(error);
                    }
                }
            }
        }
        Ok(())
    };
    let mut found: Vec<Vec<Findings>> = merges.iter().map(|_| Vec::new()).collect();
    for desk in share((0..count).map(|number| (number, ())), threads, progress, work)? {
        found.iter_mut().zip(desk.findings).for_each(|(all, more)| all.push(more));
    }
    let of_each = |(found, (_, failure)): (_, (AtomicU64, Mutex<Option<Error>>))| {
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or_else(|| Ok(joined(found)), Err)
    };
    Ok(found.into_iter().zip(failures).map(of_each).collect())
}

/// What one thread keeps between jobs of several merges.
#[derive(Default)]
struct Bench {
    findings: Vec<Findings>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

/// What one thread keeps between jobs.
#[derive(Default)]
struct Desk {
    findings: Findings,
    buffers: Buffers,
}

/// Buffers of one thread.
#[derive(Default)]
pub(crate) struct Buffers {
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

impl Buffers {
    /// Read what a job reads, one after the other; `then` is told of each.
    pub(crate) fn read(
        &mut self,
        job: &Job<'_>,
        store: &Store,
        progress: &dyn Progress,
        mut then: impl FnMut(usize, &Read, &[u8]),
    ) -> Result<()> {
        self.inputs.resize_with(job.reads().len(), Vec::new);
        for (i, (read, buffer)) in job.reads().zip(&mut self.inputs).enumerate() {
            room::resize(buffer, bytes(&read.range))?;
            store.read(&read, buffer, job.is_hashed())?;
            progress.advance(buffer.len() as u64);
            then(i, &read, buffer);
        }
        Ok(())
    }

    /// Do all of a job; what it reads piece by piece takes at most `window` bytes at once.
    pub(crate) fn run(
        &mut self,
        job: &Job<'_>,
        window: usize,
        store: &Store,
        progress: &dyn Progress,
    ) -> Result<Found> {
        if !job.is_windowed() {
            self.read(job, store, progress, |_, _, _| {})?;
        }
        self.outputs.resize_with(job.writes().len(), Vec::new);
        for (write, buffer) in job.writes().zip(&mut self.outputs) {
            room::resize(buffer, bytes(&write.range))?;
        }
        let inputs: Vec<_> = self.inputs.iter().map(Vec::as_slice).collect();
        let mut rooms: Vec<_> = self.outputs.iter_mut().map(Vec::as_mut_slice).collect();
        let mut read = |read: &Read, bytes: &mut [u8]| {
            progress.advance(bytes.len() as u64);
            store.read(read, bytes, job.is_hashed())
        };
        let found = if job.is_windowed() {
            InstructionSet::widest().run(job, Bytes::Windows(window, &mut read), &mut rooms)?
        } else {
            let sum = || InstructionSet::widest().run(job, Bytes::Whole(&inputs), &mut rooms);
            Timings::time(&store.timings.sum, sum)?
        };
        for (write, buffer) in job.writes().zip(&self.outputs) {
            store.write(&write, buffer)?;
        }
        Ok(found)
    }
}
