//! One pass over the inputs of a plan: reading, hashing in file order, writing, progress and failure.
//!
//! What the executors share; they differ in who computes.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mwa::kernel::Tally;
use mwa::{Error, ErrorKind, Job, Plan, Read, Result, Write};

use crate::engine::board::{Board, State};
use crate::io::disk;
use crate::io::disk::{InputFile, io_error};
use crate::io::hash::{Claim, Hashes, Piece, hash_file};
use crate::progress::Progress;

/// What running a plan gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) tally: Tally,
    /// SHA-256 of each input file, by source and file.
    pub(crate) inputs: Vec<Vec<String>>,
    /// SHA-256 of each output file.
    pub(crate) outputs: Vec<String>,
}

/// What the threads of an executor share.
pub(crate) struct Pass<'a, S> {
    pub(crate) jobs: &'a [Job<'a>],
    sources: &'a [&'a [InputFile]],
    outputs: &'a [File],
    progress: &'a dyn Progress,
    pub(crate) board: Arc<Board<S>>,
    /// Which hash is that of an input file, if all of the file's bytes pass through the jobs in order, as they nearly
    /// always do; by source and file.
    input_hashes: Vec<Vec<Option<usize>>>,
    /// Which hash is that of each output.
    output_hashes: Vec<usize>,
    /// How many files a thread hashes at a time.
    at_once: usize,
    /// The other inputs, by source and file, and their hashes.
    alone: Vec<(usize, usize)>,
    alone_hashes: Mutex<Vec<(usize, usize, String)>>,
    next_alone: AtomicUsize,
    stop: AtomicBool,
    /// The failure of the first job that failed, in the order of the jobs: the same for any number of threads.
    failure: Mutex<Option<(usize, Error)>>,
    pub(crate) timings: Timings,
}

/// The file last used of each source, kept open by one thread.
pub(crate) struct OpenFiles(Vec<Option<(usize, File)>>);

/// Nanoseconds that all threads together have spent on each kind of work.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    pub(crate) read: AtomicU64,
    pub(crate) hash: AtomicU64,
    pub(crate) stage: AtomicU64,
    pub(crate) sum: AtomicU64,
    /// from the submission of a job until its result is back
    pub(crate) device: Arc<AtomicU64>,
    pub(crate) write: AtomicU64,
    /// for buffers, or for something to do
    pub(crate) wait: AtomicU64,
}

impl Timings {
    /// Do `work` and add its time to `total`.
    pub(crate) fn time<T>(total: &AtomicU64, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        Self::add(total, start.elapsed());
        done
    }

    pub(crate) fn add(total: &AtomicU64, time: Duration) {
        total.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was done, and how long.
    fn list(&self) -> Vec<(&'static str, Duration)> {
        let rows = [
            ("read", &self.read),
            ("hash", &self.hash),
            ("stage for a device", &self.stage),
            ("sum on the CPU", &self.sum),
            ("copy, sum and read back on a device", &self.device),
            ("write", &self.write),
            ("wait", &self.wait),
        ];
        rows.map(|(name, total)| (name, Duration::from_nanos(total.load(Ordering::Relaxed)))).to_vec()
    }
}

impl<'a, S: Send + 'static> Pass<'a, S> {
    /// Begin: write the heads of the outputs, which are open for writing, and say how much there is to read.
    pub(crate) fn new(
        plan: &Plan,
        jobs: &'a [Job<'a>],
        sources: &'a [&'a [InputFile]],
        outputs: &'a [File],
        threads: usize,
        own: S,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        progress.start(jobs.iter().flat_map(Job::reads).map(|read| read.range.end - read.range.start).sum());
        let mut hashes = Hashes::default();
        let mut output_hashes = Vec::new();
        for (file, output) in outputs.iter().zip(plan.outputs()) {
            let head = output.header.to_bytes();
            disk::write_at(file, &head, 0)
                .map_err(|error| io_error("cannot write the merged file", &error))?;
            output_hashes.push(hashes.add(&head));
        }
        let mut input_hashes = Vec::new();
        let mut alone = Vec::new();
        for (s, (files, in_order)) in sources.iter().zip(read_in_order(jobs, sources)).enumerate() {
            let mut of_files = Vec::new();
            for (f, (file, in_order)) in files.iter().zip(in_order).enumerate() {
                if !in_order {
                    alone.push((s, f));
                }
                of_files.push(if in_order { Some(hashes.add(&file.read_head()?)) } else { None });
            }
            input_hashes.push(of_files);
        }
        Ok(Self {
            jobs,
            sources,
            outputs,
            progress,
            board: Arc::new(Board::new(hashes, own)),
            input_hashes,
            output_hashes,
            // a thread for each stream if there are as many; else two at a time, which costs less than one after the other
            at_once: if threads > sources.len() { 1 } else { 2 },
            alone,
            alone_hashes: Mutex::default(),
            next_alone: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failure: Mutex::default(),
            timings: Timings::default(),
        })
    }

    /// No file is open yet.
    pub(crate) fn open_files(&self) -> OpenFiles {
        OpenFiles(self.sources.iter().map(|_| None).collect())
    }

    /// Fill `buffer` with the bytes of `read`.
    pub(crate) fn read(&self, open: &mut OpenFiles, read: &Read, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.resize(bytes(&read.range), 0);
        let input = &self.sources[read.input][read.file];
        let failed = |error| io_error("cannot read it", &error).file(input.path.display().to_string());
        let open = &mut open.0[read.input];
        if open.as_ref().is_none_or(|(file, _)| *file != read.file) {
            *open = Some((read.file, File::open(&input.path).map_err(failed)?));
        }
        let (_, file) = open.as_ref().expect("it was opened just above");
        Timings::time(&self.timings.read, || input.read(file, buffer, read.range.start)).map_err(failed)?;
        self.progress.advance(buffer.len() as u64);
        Ok(())
    }

    /// The next task that `look` finds, `None` if it finds that there is none any more. While pieces can be hashed, this
    /// thread does so first: hashes take the longest, and pieces hold memory. `ask` is called now and then.
    pub(crate) fn next<T>(
        &self,
        ask: impl Fn(),
        mut look: impl FnMut(&mut State<S>) -> Option<Option<T>>,
    ) -> Option<T> {
        enum Found<T> {
            Hash(Vec<Claim>),
            Task(Option<T>),
        }
        let mut look = |state: &mut State<S>| match state.hashes.claim(self.at_once) {
            none if none.is_empty() => look(state).map(Found::Task),
            claims => Some(Found::Hash(claims)),
        };
        loop {
            match Timings::time(&self.timings.wait, || self.board.wait(&ask, &mut look)) {
                Found::Task(task) => return task,
                Found::Hash(claims) => {
                    let worked = Timings::time(&self.timings.hash, || Claim::work(claims));
                    self.board.change(|state| state.hashes.give_back(worked));
                }
            }
        }
    }

    /// Which hash is that of a file that is read, and where in the file `read` begins, if it is hashed on the way.
    pub(crate) fn input_hash(&self, read: &Read) -> Option<(usize, u64)> {
        self.input_hashes[read.input][read.file].map(|hash| (hash, read.range.start))
    }

    /// Which hash is that of an output, and where in it `write` begins.
    pub(crate) fn output_hash(&self, write: &Write) -> (usize, u64) {
        (self.output_hashes[write.file], write.range.start)
    }

    /// Queue pieces of files for their hashes.
    pub(crate) fn hash(&self, pieces: impl Iterator<Item = ((usize, u64), Piece)>) {
        let pieces: Vec<_> = pieces.collect();
        let refused: Vec<_> = self.board.change(|state| {
            let put = |((hash, start), piece)| state.hashes.put(hash, start, piece);
            pieces.into_iter().filter_map(put).collect()
        });
        drop(refused);
    }

    /// Write bytes of an output; hashing them is another matter.
    pub(crate) fn write(&self, write: &Write, bytes: &[u8]) -> Result<()> {
        let file = &self.outputs[write.file];
        Timings::time(&self.timings.write, || disk::write_at(file, bytes, write.range.start))
            .map_err(|error| io_error("cannot write the merged file", &error))
    }

    /// Hash the files that the jobs do not read through, as one of several threads.
    pub(crate) fn hash_alone(&self) {
        while !self.is_stopped() {
            let index = self.next_alone.fetch_add(1, Ordering::Relaxed);
            let Some(&(s, f)) = self.alone.get(index) else { return };
            match Timings::time(&self.timings.hash, || hash_file(&self.sources[s][f].path, self.progress)) {
                Ok(hash) => lock(&self.alone_hashes).push((s, f, hash)),
                Err(error) => self.fail(self.jobs.len() + index, error),
            }
        }
    }

    /// Whether a job failed or the caller was heard to want to stop.
    pub(crate) fn is_halted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether a job failed or the caller wants to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        if self.progress.stopped() {
            self.fail(usize::MAX, Error::new(ErrorKind::Stopped, "stopped; nothing was written"));
        }
        self.is_halted()
    }

    /// Job `index` failed: no thread begins anything new.
    pub(crate) fn fail(&self, index: usize, error: Error) {
        let mut failure = lock(&self.failure);
        if failure.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
            *failure = Some((index, error));
        }
        drop(failure);
        self.halt();
    }

    /// Let no thread take more work, and free what waits to be hashed.
    pub(crate) fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.board.change(|state| state.hashes.close()));
    }

    /// The hashes, or the failure.
    pub(crate) fn finish(self, tally: Tally) -> Result<Ran> {
        if let Some((_, error)) = self.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        self.progress.timings(&self.timings.list());
        let (mut inputs, outputs) = self.board.change(|state| {
            let mut hex = |hash: usize| state.hashes.finish(hash);
            let outputs: Vec<_> = self.output_hashes.iter().map(|&hash| hex(hash)).collect();
            let of_files = |files: Vec<Option<usize>>| {
                files.into_iter().map(|hash| hash.map(&mut hex).unwrap_or_default()).collect::<Vec<_>>()
            };
            (self.input_hashes.into_iter().map(of_files).collect::<Vec<_>>(), outputs)
        });
        for (s, f, hash) in self.alone_hashes.into_inner().unwrap_or_else(PoisonError::into_inner) {
            inputs[s][f] = hash;
        }
        Ok(Ran { tally, inputs, outputs })
    }
}

/// Which input files are read by the jobs from the first byte of data to the last, in order.
fn read_in_order(jobs: &[Job<'_>], sources: &[&[InputFile]]) -> Vec<Vec<bool>> {
    let start = |file: &InputFile| file.header.is_safetensors().then_some(file.header.data_start());
    let mut positions: Vec<Vec<_>> = sources.iter().map(|files| files.iter().map(start).collect()).collect();
    for read in jobs.iter().flat_map(Job::reads) {
        let position = &mut positions[read.input][read.file];
        *position = position.filter(|&at| at == read.range.start).map(|_| read.range.end);
    }
    let whole = |(file, position): (&InputFile, &Option<u64>)| *position == Some(file.header.file_len());
    sources.iter().zip(&positions).map(|(files, at)| files.iter().zip(at).map(whole).collect()).collect()
}

/// How many bytes a range of a job has.
pub(crate) fn bytes(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("jobs are cut to fit memory")
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
