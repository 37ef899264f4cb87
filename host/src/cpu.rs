//! Run a plan's jobs on CPU threads; memory is the buffers of the jobs in flight.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::fs::File;
use std::thread;

use mwa::kernel::Tally;
use mwa::{Job, Plan, Result};

use crate::files::InputFile;
use crate::pass::{OpenFiles, Pass, Ran, Timings, bytes};
use crate::{InstructionSet, Machine, Progress};

/// Most bytes a job reads of one input: small enough for caches, large enough to make a system call cheap.
pub(crate) const JOB_BYTES: usize = 256 << 10;
/// Least bytes: below this, system calls cost more than the work.
const MIN_JOB_BYTES: usize = 4 << 10;
/// Bytes of buffers unless the caller says otherwise.
pub(crate) const MEMORY: u64 = 64 << 20;

/// Run all jobs of `plan` and write the heads of its outputs, which are open for writing.
pub(crate) fn run(
    plan: &Plan,
    sources: &[&[InputFile]],
    outputs: &[File],
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Ran> {
    let threads = machine.threads();
    let budget = usize::try_from(machine.memory.unwrap_or(MEMORY)).unwrap_or(usize::MAX);
    let job_bytes = (budget / (threads * (sources.len() + 1))).clamp(MIN_JOB_BYTES, JOB_BYTES);
    let jobs: Vec<_> = plan.jobs(job_bytes).collect();
    let pass = Pass::new(plan, &jobs, sources, outputs, threads, progress)?;
    let next = AtomicUsize::new(0);
    let tally = on_threads(threads.min(jobs.len()), || pass.halt(), || work(&pass, &next));
    pass.finish(tally)
}

/// Run `work` on so many threads, this one included, and add up what they noticed. If one panics, `halt` lets the others
/// go, which would wait for its pieces for ever.
pub(crate) fn on_threads(threads: usize, halt: impl Fn() + Sync, work: impl Fn() -> Tally + Sync) -> Tally {
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
        // a thread that the system refuses is not missed: the others take its jobs
        let start = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).filter_map(start).collect();
        others.into_iter().fold(work(), |tally, other| {
            tally.plus(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    })
}

/// One thread's share.
fn work(pass: &Pass<'_>, next: &AtomicUsize) -> Tally {
    let mut tally = Tally::default();
    let (mut open, mut inputs, mut output) = (pass.open_files(), Vec::new(), Vec::new());
    while !pass.is_stopped() {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(job) = pass.jobs.get(index) else { break };
        let done = sum(pass, job, &mut open, &mut inputs, &mut output, true).and_then(|more| {
            pass.write(&job.write(), &output)?;
            Ok(more)
        });
        match done {
            Ok(more) => tally = tally.plus(more),
            Err(error) => pass.fail(index, error),
        }
    }
    pass.hash_alone();
    tally
}

/// Read the operands of one job, hash them if `hash`, and sum them into `output`.
pub(crate) fn sum(
    pass: &Pass<'_>,
    job: &Job<'_>,
    open: &mut OpenFiles,
    inputs: &mut Vec<Vec<u8>>,
    output: &mut Vec<u8>,
    hash: bool,
) -> Result<Tally> {
    let reads: Vec<_> = job.reads().collect();
    inputs.resize_with(reads.len().max(inputs.len()), Vec::new);
    for (read, buffer) in reads.iter().zip(inputs.iter_mut()) {
        pass.read(open, read, buffer)?;
    }
    if hash {
        pass.hash(&reads, inputs);
    }
    output.resize(bytes(&job.write().range), 0);
    let inputs: Vec<_> = inputs[..reads.len()].iter().map(Vec::as_slice).collect();
    Timings::time(&pass.timings.sum, || InstructionSet::widest().run(job, &inputs, output))
}
