//! Run a merge's jobs on elements on CPU threads; memory is the buffers of the jobs in flight.

use mwa::Result;
use mwa::merge::{Bytes, Findings, Found, Job, Merge};

use crate::engine::board::{State, Tray};
use crate::engine::pass::{Hashed, Pass, Timings, bytes, stretches};
use crate::engine::pool::on_threads;
use crate::engine::simd::InstructionSet;
use crate::io::room;
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

/// Most bytes a job reads of one input: small enough for caches, large enough to make a system call cheap.
pub(crate) const JOB_BYTES: usize = 256 << 10;
/// Least bytes: below this, system calls cost more than the work.
const MIN_JOB_BYTES: usize = 4 << 10;
/// More jobs in flight than this gain nothing; tiny ones would be so many.
const MOST_TRAYS: usize = 1 << 12;
/// Bytes of buffers unless the caller says otherwise.
pub(crate) const MEMORY: u64 = 64 << 20;

/// Run all jobs on elements.
pub(crate) fn run(
    merge: &Merge,
    store: &Store,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<(Findings, Hashed)> {
    let threads = machine.threads();
    let trays = trays(merge, budget(machine.memory.unwrap_or(MEMORY)), threads);
    let elements = merge.elements();
    let pass = Pass::new(merge, store, threads, elements.start, progress)?;
    pass.board.change(|state| state.add_trays(trays));
    let threads = threads.min(usize::try_from(elements.end - elements.start).unwrap_or(usize::MAX));
    let found = on_threads(threads, || pass.halt(), || work(&pass));
    pass.finish(found)
}

/// Bytes of buffers, as far as they can be addressed.
pub(crate) fn budget(memory: u64) -> usize {
    usize::try_from(memory).unwrap_or(usize::MAX)
}

/// Bytes that a job reads of each of so many inputs, so that the buffers of all threads fit `budget` twice. They are a
/// multiple of 64, so that jobs begin where staging memory can be mapped, in the narrowest dtype too.
pub(crate) fn job_bytes(budget: usize, threads: usize, inputs: usize) -> usize {
    (budget / (inputs + 1) / (2 * threads)).clamp(MIN_JOB_BYTES, JOB_BYTES) / 64 * 64
}

/// How many jobs may be in flight, so that all buffers fit `budget`: at least one for each thread.
pub(crate) fn trays(merge: &Merge, budget: usize, threads: usize) -> usize {
    let largest = stretches(merge).map(|(first, _)| first.bytes()).max().unwrap_or(0);
    (budget / usize::try_from(largest).unwrap_or(usize::MAX).max(1)).clamp(threads, MOST_TRAYS)
}

/// One thread's share; the board keeps the number of the next job.
fn work(pass: &Pass<'_, u64>) -> Findings {
    let mut findings = Findings::default();
    while let Some((number, mut tray)) = pass.next(|| _ = pass.is_stopped(), |state| take(pass, state)) {
        let job = pass.merge.job(number);
        match compute(pass, &job, &mut tray.buffers) {
            Ok(found) => findings.add(number, found),
            Err(error) => {
                pass.fail(number, error);
                break;
            }
        }
        hash(pass, &job, tray);
    }
    findings
}

/// The next job and a tray for it, taken together, so that the jobs in flight are the earliest ones: their pieces come
/// to their turns, and trays come back. `Some(None)` when all is done.
fn take(pass: &Pass<'_, u64>, state: &mut State<u64>) -> Option<Option<(u64, Tray<u64>)>> {
    let number = state.own;
    if pass.is_halted() {
        return Some(None);
    }
    if number == pass.jobs.end {
        return state.is_idle().then_some(None);
    }
    let tray = state.tray(&pass.board)?;
    state.own += 1;
    Some(Some((number, tray)))
}

/// Read the operands of one job, run it, and write the result. The buffers are those of the operands, then the results'.
pub(crate) fn compute<S: Send + 'static>(
    pass: &Pass<'_, S>,
    job: &Job<'_>,
    buffers: &mut Vec<Vec<u8>>,
) -> Result<Found> {
    let count = job.reads().len();
    buffers.resize_with(buffers.len().max(count + job.writes().len()), Vec::new);
    let (inputs, outputs) = buffers.split_at_mut(count);
    for (read, buffer) in job.reads().zip(&mut *inputs) {
        pass.read(&read, buffer)?;
    }
    for (write, buffer) in job.writes().zip(&mut *outputs) {
        room::resize(buffer, bytes(&write.range))?;
    }
    let inputs: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
    let mut rooms: Vec<_> = outputs[..job.writes().len()].iter_mut().map(Vec::as_mut_slice).collect();
    let found = Timings::time(&pass.timings.sum, || {
        InstructionSet::widest().run(job, Bytes::Whole(&inputs), &mut rooms)
    })?;
    for (write, buffer) in job.writes().zip(outputs) {
        pass.write(&write, buffer)?;
    }
    Ok(found)
}

/// Queue what [`compute`] left in a tray for the hashes.
pub(crate) fn hash<S: Send + 'static>(pass: &Pass<'_, S>, job: &Job<'_>, tray: Tray<S>) {
    let hashes = job.reads().map(|read| pass.input_hash(&read));
    let hashes: Vec<_> = hashes.chain(job.writes().map(|write| pass.output_hash(&write))).collect();
    let piece = tray.pieces();
    pass.hash(hashes.into_iter().enumerate().filter_map(|(k, hash)| Some((hash?, piece(k)))));
}
