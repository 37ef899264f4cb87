//! Run a plan's jobs on CPU threads; memory is the buffers of the jobs in flight.

use mwa::kernel::Tally;
use mwa::{Job, Plan, Result};

use crate::engine::board::{State, Tray};
use crate::engine::pass::{Pass, Ran, Timings, bytes};
use crate::engine::pool::on_threads;
use crate::engine::simd::InstructionSet;
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

/// Most bytes a job reads of one input: small enough for caches, large enough to make a system call cheap.
pub(crate) const JOB_BYTES: usize = 256 << 10;
/// Least bytes: below this, system calls cost more than the work.
const MIN_JOB_BYTES: usize = 4 << 10;
/// Bytes of buffers unless the caller says otherwise.
pub(crate) const MEMORY: u64 = 64 << 20;

/// Run all jobs of `plan` and write the heads of its outputs.
pub(crate) fn run(plan: &Plan, store: &Store<'_>, machine: Machine, progress: &dyn Progress) -> Result<Ran> {
    let threads = machine.threads();
    let budget = usize::try_from(machine.memory.unwrap_or(MEMORY)).unwrap_or(usize::MAX);
    let (job_bytes, trays) = cut(budget, threads, store.inputs().len());
    let jobs = plan.numbered(job_bytes);
    let pass = Pass::new(plan, &jobs, store, threads, 0, progress)?;
    pass.board.change(|state| state.add_trays(trays));
    let threads = threads.min(usize::try_from(jobs.len()).unwrap_or(usize::MAX));
    let tallies = on_threads(threads, || pass.halt(), || work(&pass));
    pass.finish(tallies.into_iter().fold(Tally::default(), Tally::plus))
}

/// Bytes that jobs read of each of so many inputs, and how many jobs may be in flight, so that all buffers fit `budget`.
/// The bytes are a multiple of 64, so that jobs begin where staging memory can be mapped, in the narrowest dtype too.
pub(crate) fn cut(budget: usize, threads: usize, inputs: usize) -> (usize, usize) {
    let buffers = budget / (inputs + 1);
    let job_bytes = (buffers / (2 * threads)).clamp(MIN_JOB_BYTES, JOB_BYTES) / 64 * 64;
    (job_bytes, (buffers / job_bytes).max(threads))
}

/// One thread's share; the board keeps the number of the next job.
fn work(pass: &Pass<'_, u64>) -> Tally {
    let mut tally = Tally::default();
    while let Some((number, mut tray)) = pass.next(|| _ = pass.is_stopped(), |state| take(pass, state)) {
        let job = pass.job(number);
        match sum(pass, &job, &mut tray.buffers) {
            Ok(more) => tally = tally.plus(more),
            Err(error) => {
                pass.fail(number, error);
                break;
            }
        }
        hash(pass, &job, tray);
    }
    pass.hash_alone();
    tally
}

/// The next job and a tray for it, taken together, so that the jobs in flight are the earliest ones: their pieces come
/// to their turns, and trays come back. `Some(None)` when all is done.
fn take(pass: &Pass<'_, u64>, state: &mut State<u64>) -> Option<Option<(u64, Tray<u64>)>> {
    let number = state.own;
    if pass.is_halted() {
        return Some(None);
    }
    if number == pass.jobs.len() {
        return state.is_idle().then_some(None);
    }
    let tray = state.tray(&pass.board)?;
    state.own += 1;
    Some(Some((number, tray)))
}

/// Read the operands of one job, sum them, and write the result. The buffers are those of the operands, then the result's.
pub(crate) fn sum<S: Send + 'static>(
    pass: &Pass<'_, S>,
    job: &Job<'_>,
    buffers: &mut Vec<Vec<u8>>,
) -> Result<Tally> {
    let reads = job.reads();
    let count = reads.len();
    buffers.resize_with(buffers.len().max(count + 1), Vec::new);
    for (read, buffer) in reads.zip(buffers.iter_mut()) {
        pass.read(&read, buffer)?;
    }
    let (inputs, output) = buffers.split_at_mut(count);
    let (inputs, output) = (inputs.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut output[0]);
    output.resize(bytes(&job.write().range), 0);
    let tally = Timings::time(&pass.timings.sum, || InstructionSet::widest().run(job, &inputs, output))?;
    pass.write(&job.write(), output)?;
    Ok(tally)
}

/// Queue what [`sum`] left in a tray for the hashes.
pub(crate) fn hash<S: Send + 'static>(pass: &Pass<'_, S>, job: &Job<'_>, tray: Tray<S>) {
    let hashes = job.reads().map(|read| pass.input_hash(&read));
    let hashes = hashes.chain([Some(pass.output_hash(&job.write()))]).enumerate();
    let piece = tray.pieces();
    pass.hash(hashes.filter_map(|(k, hash)| Some((hash?, piece(k)))));
}
