//! A merge in the hands of a host that moves bytes and knows nothing else: opened with heads, run job by job.
//!
//! This is what crosses every language border: the component and the core module translate it. It is [`crate::merge::Merge`],
//! and decides nothing of its own; what it adds are heads, options and results as plain data, and chunks that are small
//! enough to cross.

mod chunks;
mod order;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use self::chunks::{Desks, Piece};
use self::order::choose;
use crate::adapter::config::AdapterConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Header;
use crate::logs::metric::Metric;
use crate::merge::{Bytes, Closing, Cut, Found, Merge, Next, Text};
use crate::plan::{Input, Read, Shard, Write};
use crate::weigh::scheme::Weights;

pub use order::{Checkpoint, Head, Order, Weighing};

/// Bytes that a job reads of one input unless the host says otherwise: fits caches.
const CHUNK: u32 = 256 << 10;
/// Most bytes that a job reads of all inputs together: hosts limit what one call may copy.
const MOST: usize = 8 << 20;

/// A piece of work for the host.
#[derive(Clone, Debug)]
pub struct Job {
    /// What [`Session::run`] calls it.
    pub number: u64,
    /// What to read, in the order in which [`Session::run`] takes it.
    pub reads: Vec<Read>,
    /// Where the result goes; empty for a job that only takes in.
    pub writes: Vec<Write>,
}

/// [`crate::merge::Job::run`], compiled by the caller's crate: with the instructions or for the speed that it wants.
pub type Run = fn(&crate::merge::Job<'_>, Bytes<'_, '_>, &mut [&mut [u8]]) -> Result<Found>;

/// A merge under way.
#[derive(Debug)]
pub struct Session {
    merge: Merge,
    metric: Option<Metric>,
    /// Most bytes of a job's reads, or of the reads of one input where it reads all of them at once.
    chunk: usize,
    /// The merge's jobs that are still to be handed out, and the piece of the first of them that is next.
    pending: Range<u64>,
    next: Option<Piece>,
    desks: Desks,
    /// by number; few, so that a list serves
    handed_out: Vec<(u64, Step)>,
    count: u64,
}

/// A job that is handed out.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// One of the merge's.
    Whole(u64),
    /// A piece of one of the merge's, which is too large to cross at once.
    Piece(Piece),
}

impl Session {
    /// Read the heads, weigh, check which inputs may be averaged, and plan.
    ///
    /// # Errors
    /// Whatever is wrong with heads, configs, logs, weights, or the order itself ([`ErrorKind::Usage`]).
    pub fn open(checkpoints: &[Checkpoint], order: &Order) -> Result<Self> {
        let options = order.options()?;
        let (mut inputs, mut configs) = (Vec::new(), Vec::new());
        for checkpoint in checkpoints {
            let at = |error: Error| error.file(&*checkpoint.name);
            if checkpoint.files.is_empty() {
                return Err(at(Error::new(ErrorKind::Input, "has no files")));
            }
            let shard = |head: &Head| {
                let header = Header::parse(&head.bytes, head.length)?;
                Ok(Shard { name: head.name.clone(), header })
            };
            let files = checkpoint.files.iter().map(shard).collect::<Result<Vec<_>>>().map_err(at)?;
            inputs.push(Input { name: checkpoint.name.clone(), files });
            configs.push(checkpoint.config.as_deref().map(AdapterConfig::parse).transpose().map_err(at)?);
        }
        let most = usize::try_from(order.chunk.unwrap_or(CHUNK)).unwrap_or(MOST);
        let chunk = most.min(MOST / inputs.len().max(1)).max(1);
        let (chosen, metric) = choose(checkpoints, inputs, configs, &order.weighing)?;
        Ok(Self {
            merge: Merge::new(chosen, options, Cut { max_bytes: chunk, by_tensor: false })?,
            metric,
            chunk,
            pending: 0..0,
            next: None,
            desks: Desks::default(),
            handed_out: Vec::new(),
            count: 0,
        })
    }

    /// The weights, one per checkpoint.
    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.merge.chosen().weights
    }

    /// The metric that the weights come from, where they come from a log.
    #[must_use]
    pub fn metric(&self) -> Option<&Metric> {
        self.metric.as_ref()
    }

    /// The files to write: name, length of the head, and whole length in bytes. None before the first job that writes, where
    /// [`crate::Rank::Energy`] is asked for; else known from the beginning.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        let is_copied = self.merge.copied().is_some();
        self.merge.outputs().iter().map(move |file| {
            let head = if is_copied { 0 } else { file.header.data_start() };
            (file.name.as_str(), head, file.header.file_len())
        })
    }

    /// The head of an output, which the host writes; nothing where a checkpoint's own files are copied, as jobs write all.
    #[must_use]
    pub fn head(&self, output: usize) -> Option<Vec<u8>> {
        (output < self.merge.outputs().len()).then(|| self.merge.head(output))
    }

    /// What the user should be told, so far.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.merge.notes()
    }

    /// The next job; `None` after the last. Many may be under way, and finish in any order, as far as one does not
    /// depend on another.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the next job depends on others that were not run; [`ErrorKind::CrossRun`] when the checkpoints
    /// are of several runs; [`ErrorKind::Input`] when all jobs were run and there was nothing to merge.
    pub fn next_job(&mut self) -> Result<Option<Job>> {
        while self.pending.is_empty() {
            match self.merge.next()? {
                Next::Jobs(numbers) => self.pending = numbers,
                Next::Wait if self.merge.is_last() => return Ok(None),
                Next::Wait => {
                    let detail = "the next job depends on those that were handed out";
                    return Err(Error::new(ErrorKind::Usage, detail)
                        .help("run them first: they compare the checkpoints, or find ranks"));
                }
                Next::Done => return Ok(None),
            }
        }
        let number = self.pending.start;
        let job = self.merge.job(number);
        let step = if job.is_elementwise() {
            Step::Whole(number)
        } else {
            Step::Piece(self.next.unwrap_or(Piece::first(number)))
        };
        self.next = if let Step::Piece(piece) = step { piece.after(&job, self.chunk as u64) } else { None };
        if self.next.is_none() {
            self.pending.start += 1;
        }
        let (reads, writes) = self.ranges(step);
        let number = self.count;
        self.handed_out.push((number, step));
        self.count += 1;
        Ok(Some(Job { number, reads, writes }))
    }

    fn ranges(&self, step: Step) -> (Vec<Read>, Vec<Write>) {
        match step {
            Step::Whole(number) => {
                let job = self.merge.job(number);
                (job.reads().collect(), job.writes().collect())
            }
            Step::Piece(piece) => piece.ranges(&self.merge.job(piece.job), self.chunk as u64),
        }
    }

    /// The lengths of the chunks that a job reads, in bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when no such job is handed out.
    pub fn lengths(&self, number: u64) -> Result<Vec<usize>> {
        let (reads, _) = self.ranges(self.step(number)?);
        let length = |read: Read| usize::try_from(read.range.end - read.range.start);
        Ok(reads.into_iter().map(|read| length(read).expect("a chunk is at most MOST bytes")).collect())
    }

    fn step(&self, number: u64) -> Result<Step> {
        let step = self.handed_out.iter().find(|(other, _)| *other == number).map(|(_, step)| *step);
        step.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("job {number} is not handed out, or was run already"))
                .help("run each job once, by the number that came with it")
        })
    }

    /// Run a job: `chunks` are the bytes of its reads in order; the result is the bytes of its writes.
    ///
    /// A job that succeeded is done with; one that failed can be run again.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when no such job is handed out, the chunks have other lengths, or a job that it depends on was
    /// not run; else as [`crate::merge::Job::run`].
    pub fn run(&mut self, number: u64, chunks: &[&[u8]], run: Run) -> Result<Vec<u8>> {
        let step = self.step(number)?;
        let wanted = self.lengths(number)?;
        let given: Vec<usize> = chunks.iter().map(|chunk| chunk.len()).collect();
        if wanted != given {
            let detail = format!("job {number} reads chunks of {wanted:?} bytes, but got {given:?}");
            return Err(Error::new(ErrorKind::Usage, detail).help("give the bytes of each read, in order"));
        }
        let out = match step {
            Step::Whole(number) => {
                let job = self.merge.job(number);
                let length: u64 = job.writes().map(|write| write.range.end - write.range.start).sum();
                let length = usize::try_from(length).expect("a job writes at most eight bytes per element");
                let mut out = vec![0; length];
                let found = run(&job, Bytes::Whole(chunks), &mut [&mut out])?;
                self.merge.found(number, found)?;
                out
            }
            Step::Piece(piece) if piece.is_result => self.desks.hand_out(piece, self.chunk as u64)?,
            Step::Piece(piece) => {
                let job = self.merge.job(piece.job);
                if let Some(found) = self.desks.take(piece, &job, self.chunk as u64, chunks, run)? {
                    self.merge.found(piece.job, found)?;
                }
                Vec::new()
            }
        };
        self.handed_out.retain(|(other, _)| *other != number);
        Ok(out)
    }

    /// The checkpoint whose tokenizer and other companions go beside the output.
    #[must_use]
    pub fn owner(&self) -> usize {
        self.merge.owner()
    }

    /// The files of text that belong beside the weights: shard index, adapter config, model card and report.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is not one hash per file; [`ErrorKind::Input`] when there was nothing to merge.
    pub fn texts(&self, closing: &Closing) -> Result<Vec<Text>> {
        Ok(self.merge.finish(closing)?.texts)
    }
}

#[cfg(test)]
mod tests;
