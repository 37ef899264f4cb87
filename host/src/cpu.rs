//! Run a plan's jobs on CPU threads: read, sum, write, hash; memory is the buffers of the jobs in flight.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use mwa::kernel::Tally;
use mwa::{Error, ErrorKind, Job, Plan, Result};

use crate::files::{self, InputFile, io_error};
use crate::hash::{OrderedHash, hash_file};
use crate::{InstructionSet, Machine, Progress};

/// Most bytes a job reads of one input: small enough for caches, large enough to make a system call cheap.
pub(crate) const JOB_BYTES: usize = 256 << 10;
/// Least bytes: below this, system calls cost more than the work.
const MIN_JOB_BYTES: usize = 4 << 10;
/// Bytes of buffers unless the caller says otherwise.
pub(crate) const MEMORY: u64 = 64 << 20;

/// What running a plan gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) tally: Tally,
    /// SHA-256 of each input file, by source and file.
    pub(crate) inputs: Vec<Vec<String>>,
    /// SHA-256 of each output file.
    pub(crate) outputs: Vec<String>,
}

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
    progress.start(jobs.iter().flat_map(Job::reads).map(|read| read.range.end - read.range.start).sum());

    let run = Run::new(plan, &jobs, sources, outputs, progress)?;
    let tally = thread::scope(|scope| {
        // a thread that the system refuses is not missed: the others take its jobs
        let start = |_| thread::Builder::new().spawn_scoped(scope, || run.work()).ok();
        let others: Vec<_> = (1..threads.min(jobs.len())).filter_map(start).collect();
        others.into_iter().fold(run.work(), |tally, other| {
            tally.plus(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    });
    run.finish(tally)
}

/// What the threads share.
struct Run<'a> {
    jobs: &'a [Job<'a>],
    sources: &'a [&'a [InputFile]],
    outputs: &'a [File],
    progress: &'a dyn Progress,
    instructions: InstructionSet,
    /// Hashes of the inputs whose bytes all pass through the jobs, in file order: nearly always every one.
    input_hashes: Vec<Vec<Option<OrderedHash>>>,
    output_hashes: Vec<OrderedHash>,
    /// The other inputs, by source and file, and their hashes.
    alone: Vec<(usize, usize)>,
    alone_hashes: Mutex<Vec<(usize, usize, String)>>,
    next_job: AtomicUsize,
    next_alone: AtomicUsize,
    stop: AtomicBool,
    /// The failure of the first job that failed, in the order of the jobs: the same for any number of threads.
    failure: Mutex<Option<(usize, Error)>>,
}

/// What one thread keeps between jobs.
#[derive(Default)]
struct Desk {
    /// The file last used of each source.
    files: Vec<Option<(usize, File)>>,
    inputs: Vec<Vec<u8>>,
    output: Vec<u8>,
}

impl<'a> Run<'a> {
    fn new(
        plan: &Plan,
        jobs: &'a [Job<'a>],
        sources: &'a [&'a [InputFile]],
        outputs: &'a [File],
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let mut output_hashes = Vec::new();
        for (file, output) in outputs.iter().zip(plan.outputs()) {
            let head = output.header.to_bytes();
            files::write_at(file, &head, 0)
                .map_err(|error| io_error("cannot write the merged file", &error))?;
            output_hashes.push(OrderedHash::new(&head));
        }
        let mut input_hashes = Vec::new();
        let mut alone = Vec::new();
        for (s, (files, in_order)) in sources.iter().zip(read_in_order(jobs, sources)).enumerate() {
            let mut hashes = Vec::new();
            for (f, (file, in_order)) in files.iter().zip(in_order).enumerate() {
                if !in_order {
                    alone.push((s, f));
                }
                hashes.push(if in_order { Some(OrderedHash::new(&file.read_head()?)) } else { None });
            }
            input_hashes.push(hashes);
        }
        Ok(Self {
            jobs,
            sources,
            outputs,
            progress,
            instructions: InstructionSet::widest(),
            input_hashes,
            output_hashes,
            alone,
            alone_hashes: Mutex::default(),
            next_job: AtomicUsize::new(0),
            next_alone: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failure: Mutex::default(),
        })
    }

    /// One thread's share.
    fn work(&self) -> Tally {
        let _release = Release(self);
        let mut tally = Tally::default();
        let mut desk = Desk { files: self.sources.iter().map(|_| None).collect(), ..Desk::default() };
        while let Some((index, job)) = self.take(&self.next_job, self.jobs) {
            match self.run_job(job, &mut desk) {
                Ok(more) => tally = tally.plus(more),
                Err(error) => self.fail(index, error),
            }
        }
        while let Some((index, &(s, f))) = self.take(&self.next_alone, &self.alone) {
            match hash_file(&self.sources[s][f].path) {
                Ok(hash) => lock(&self.alone_hashes).push((s, f, hash)),
                Err(error) => self.fail(self.jobs.len() + index, error),
            }
        }
        tally
    }

    fn take<'t, T>(&self, next: &AtomicUsize, from: &'t [T]) -> Option<(usize, &'t T)> {
        if self.progress.stopped() {
            self.fail(usize::MAX, Error::new(ErrorKind::Stopped, "stopped; nothing was written"));
        }
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let index = next.fetch_add(1, Ordering::Relaxed);
        from.get(index).map(|item| (index, item))
    }

    fn run_job(&self, job: &Job<'_>, desk: &mut Desk) -> Result<Tally> {
        let reads = job.reads();
        desk.inputs.resize_with(reads.len().max(desk.inputs.len()), Vec::new);
        let mut done = 0;
        for (read, buffer) in reads.zip(&mut desk.inputs) {
            let input = &self.sources[read.input][read.file];
            buffer.resize(bytes(read.range.end - read.range.start), 0);
            let failed = |error| io_error("cannot read it", &error).file(input.path.display().to_string());
            let open = &mut desk.files[read.input];
            if open.as_ref().is_none_or(|(file, _)| *file != read.file) {
                *open = Some((read.file, File::open(input.data_path()).map_err(failed)?));
            }
            let (_, file) = open.as_ref().expect("it was opened just above");
            files::read_at(file, buffer, read.range.start).map_err(failed)?;
            done += read.range.end - read.range.start;
        }
        let hashes = job.reads().zip(&desk.inputs).filter_map(|(read, buffer)| {
            let hash = self.input_hashes[read.input][read.file].as_ref()?;
            Some((hash, read.range.start, buffer.as_slice()))
        });
        OrderedHash::update_all(&hashes.collect::<Vec<_>>(), &self.stop);
        let write = job.write();
        desk.output.resize(bytes(write.range.end - write.range.start), 0);
        let inputs: Vec<_> = desk.inputs[..job.reads().len()].iter().map(Vec::as_slice).collect();
        let tally = self.instructions.run(job, &inputs, &mut desk.output)?;
        files::write_at(&self.outputs[write.file], &desk.output, write.range.start)
            .map_err(|error| io_error("cannot write the merged file", &error))?;
        let hash = &self.output_hashes[write.file];
        OrderedHash::update_all(&[(hash, write.range.start, &desk.output)], &self.stop);
        self.progress.advance(done);
        Ok(tally)
    }

    fn fail(&self, index: usize, error: Error) {
        let mut failure = lock(&self.failure);
        if failure.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
            *failure = Some((index, error));
        }
        drop(failure);
        self.halt();
    }

    /// Let no thread take more work, or wait for another's.
    fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.input_hashes.iter().flatten().flatten().chain(&self.output_hashes).for_each(OrderedHash::wake);
    }

    fn finish(self, tally: Tally) -> Result<Ran> {
        if let Some((_, error)) = self.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let hex = |hash: Option<OrderedHash>| hash.map(OrderedHash::finish).unwrap_or_default();
        let mut inputs: Vec<Vec<String>> =
            self.input_hashes.into_iter().map(|files| files.into_iter().map(hex).collect()).collect();
        for (s, f, hash) in self.alone_hashes.into_inner().unwrap_or_else(PoisonError::into_inner) {
            inputs[s][f] = hash;
        }
        Ok(Ran { tally, inputs, outputs: self.output_hashes.into_iter().map(OrderedHash::finish).collect() })
    }
}

/// Halts the others when a thread panics: they would wait for its pieces for ever.
struct Release<'r, 'a>(&'r Run<'a>);

impl Drop for Release<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.halt();
        }
    }
}

/// Which input files are read by the jobs from the first byte of data to the last, in order.
fn read_in_order(jobs: &[Job<'_>], sources: &[&[InputFile]]) -> Vec<Vec<bool>> {
    let start = |file: &InputFile| file.is_original().then_some(file.header.data_start());
    let mut positions: Vec<Vec<_>> = sources.iter().map(|files| files.iter().map(start).collect()).collect();
    for read in jobs.iter().flat_map(Job::reads) {
        let position = &mut positions[read.input][read.file];
        *position = position.filter(|&at| at == read.range.start).map(|_| read.range.end);
    }
    let whole = |(file, position): (&InputFile, &Option<u64>)| *position == Some(file.header.file_len());
    sources.iter().zip(&positions).map(|(files, at)| files.iter().zip(at).map(whole).collect()).collect()
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).expect("a job is at most JOB_BYTES per input")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
