//! Run a merge's jobs on CPU threads, each with buffers of its own.

use core::ops::Range;

use mwa::merge::{Bytes, Findings, Found, Job, Merge};
use mwa::{Read, Result};

use crate::engine::jobs::{bytes, joined, stretches};
use crate::engine::pool::share;
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
pub(crate) struct Needed<'a> {
    pub(crate) ahead: &'a Ahead<'a>,
    pub(crate) number: u64,
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
