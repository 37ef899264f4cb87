//! One pass over the inputs of a merge: reading, hashing in file order, writing, progress and failure.
//!
//! What the executors of elements share; they differ in who computes.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use mwa::merge::{Findings, Job, Merge};
use mwa::{Error, Read, Result, Write};

use crate::engine::board::{Board, State};
use crate::engine::pool::Ending;
use crate::io::hash::{Claim, Hashes, Piece};
use crate::io::room;
use crate::io::store::Store;
use crate::progress::Progress;

/// SHA-256 in hex of the files whose bytes went through a pass in order; `None` for the others.
#[derive(Debug, Default)]
pub(crate) struct Hashed {
    /// By input and file.
    pub(crate) inputs: Vec<Vec<Option<String>>>,
    pub(crate) outputs: Vec<Option<String>>,
}

/// What the threads of an executor share.
pub(crate) struct Pass<'a, S> {
    pub(crate) merge: &'a Merge,
    /// The jobs on elements.
    pub(crate) jobs: Range<u64>,
    store: &'a Store,
    progress: &'a dyn Progress,
    pub(crate) board: Arc<Board<S>>,
    /// Which hash is that of an input file, if all of the file's bytes pass through the jobs in order, as they nearly
    /// always do; by input and file.
    input_hashes: Vec<Vec<Option<usize>>>,
    /// The same of each output.
    output_hashes: Vec<Option<usize>>,
    /// How many files a thread hashes at a time.
    at_once: usize,
    ending: Ending,
    pub(crate) timings: Timings,
}

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
    /// Begin; the heads of the outputs are written already.
    pub(crate) fn new(
        merge: &'a Merge,
        store: &'a Store,
        threads: usize,
        own: S,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let mut hashes = Hashes::default();
        let in_order = InOrder::of(merge);
        let mut hash_input = |input: usize, file: usize, begin: Option<u64>| {
            // in other formats anything may lie before and between tensors
            let is_safetensors = merge.chosen().inputs[input].files[file].header.is_safetensors();
            let Some(begin) = begin.filter(|_| is_safetensors) else { return Ok(None) };
            let mut head = room::zeros(usize::try_from(begin).expect("a head is at most 100 MB"))?;
            store.read(&Read { input, file, range: 0..begin }, &mut head)?;
            Ok(Some(hashes.add(&head)))
        };
        let mut input_hashes = Vec::new();
        for (input, files) in in_order.inputs.into_iter().enumerate() {
            let begins = files.into_iter().enumerate();
            input_hashes
                .push(begins.map(|(file, begin)| hash_input(input, file, begin)).collect::<Result<_>>()?);
        }
        let of_output = |(file, is_whole): (usize, bool)| is_whole.then(|| hashes.add(&merge.head(file)));
        let output_hashes = in_order.outputs.into_iter().enumerate().map(of_output).collect();
        Ok(Self {
            merge,
            jobs: merge.elements(),
            store,
            progress,
            board: Arc::new(Board::new(hashes, own)),
            // a thread for each stream if there are as many; else two at a time, which costs less than one after the other
            at_once: if threads > merge.chosen().inputs.len() { 1 } else { 2 },
            input_hashes,
            output_hashes,
            ending: Ending::default(),
            timings: Timings::default(),
        })
    }

    /// Fill `buffer` with the bytes of `read`.
    pub(crate) fn read(&self, read: &Read, buffer: &mut Vec<u8>) -> Result<()> {
        room::resize(buffer, bytes(&read.range))?;
        Timings::time(&self.timings.read, || self.store.read(read, buffer))?;
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

    /// Which hash is that of an output, and where in it `write` begins, if it is hashed on the way.
    pub(crate) fn output_hash(&self, write: &Write) -> Option<(usize, u64)> {
        self.output_hashes[write.file].map(|hash| (hash, write.range.start))
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
        Timings::time(&self.timings.write, || self.store.write(write, bytes))
    }

    /// Whether a job failed or the caller was heard to want to stop.
    pub(crate) fn is_halted(&self) -> bool {
        self.ending.is_near()
    }

    /// Whether a job failed or the caller wants to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        let is_new = !self.is_halted();
        let is_stopped = self.ending.is_wanted(self.progress);
        if is_stopped && is_new {
            self.halt();
        }
        is_stopped
    }

    /// Job `number` failed: no thread begins anything new.
    pub(crate) fn fail(&self, number: u64, error: Error) {
        self.ending.fail(number, error);
        self.halt();
    }

    /// Let no thread take more work, and free what waits to be hashed.
    pub(crate) fn halt(&self) {
        self.ending.begin();
        drop(self.board.change(|state| state.hashes.close()));
    }

    /// The hashes and what was found, or the failure.
    pub(crate) fn finish(self, found: Vec<Findings>) -> Result<(Findings, Hashed)> {
        self.ending.result()?;
        self.progress.timings(&self.timings.list());
        let hashed = self.board.change(|state| {
            let mut hex = |hash: Option<usize>| hash.map(|hash| state.hashes.finish(hash));
            let outputs = self.output_hashes.into_iter().map(&mut hex).collect();
            let of_files = |files: Vec<Option<usize>>| files.into_iter().map(&mut hex).collect();
            Hashed { inputs: self.input_hashes.into_iter().map(of_files).collect(), outputs }
        });
        Ok((joined(found), hashed))
    }
}

/// What all threads found.
pub(crate) fn joined(found: Vec<Findings>) -> Findings {
    found.into_iter().fold(Findings::default(), |mut all, more| {
        all.join(more);
        all
    })
}

/// The first and the last job of each run of jobs that are computed alike and lie side by side, in order.
pub(crate) fn stretches(merge: &Merge) -> impl Iterator<Item = (Job<'_>, Job<'_>)> {
    let mut rest = merge.elements();
    core::iter::from_fn(move || {
        let alike = merge.alike(rest.start);
        (!rest.is_empty()).then(|| {
            rest.start = alike.end;
            (merge.job(alike.start), merge.job(alike.end - 1))
        })
    })
}

/// Which files go through the jobs on elements from one byte on to their last, in order.
struct InOrder {
    /// Where that begins; by input and file.
    inputs: Vec<Vec<Option<u64>>>,
    /// Whether only the head is not written so.
    outputs: Vec<bool>,
}

impl InOrder {
    fn of(merge: &Merge) -> Self {
        /// Where a file begins to be read, how far it is read, and whether each read began where the one before ended.
        struct Reached(u64, u64, bool);
        impl Reached {
            fn go_on(reached: &mut Option<Self>, range: Range<u64>) {
                let Self(_, end, in_order) = reached.get_or_insert(Self(range.start, range.start, true));
                *in_order &= *end == range.start;
                *end = range.end;
            }
        }
        let inputs = &merge.chosen().inputs;
        let mut read: Vec<Vec<Option<Reached>>> =
            inputs.iter().map(|input| input.files.iter().map(|_| None).collect()).collect();
        let mut written: Vec<Option<Reached>> = merge.outputs().iter().map(|_| None).collect();
        for (first, last) in stretches(merge) {
            for (first, last) in first.reads().zip(last.reads()) {
                let reached = &mut read[first.input][first.file];
                Reached::go_on(reached, first.range.start..last.range.end);
            }
            for (first, last) in first.writes().zip(last.writes()) {
                Reached::go_on(&mut written[first.file], first.range.start..last.range.end);
            }
        }
        let begin = |(reached, len): (Option<Reached>, u64)| {
            reached.filter(|Reached(_, end, in_order)| *in_order && *end == len).map(|reached| reached.0)
        };
        let lengths = |input: &mwa::Input| -> Vec<_> {
            input.files.iter().map(|file| file.header.file_len()).collect()
        };
        Self {
            inputs: inputs
                .iter()
                .zip(read)
                .map(|(input, files)| files.into_iter().zip(lengths(input)).map(begin).collect())
                .collect(),
            outputs: merge
                .outputs()
                .iter()
                .zip(written)
                .enumerate()
                .map(|(file, (output, written))| {
                    begin((written, output.header.file_len())) == Some(merge.head(file).len() as u64)
                })
                .collect(),
        }
    }
}

/// How many bytes a range of a job has.
pub(crate) fn bytes(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("jobs are cut to fit memory")
}
