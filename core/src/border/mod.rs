//! A merge in the hands of a host that moves bytes and knows nothing else: opened with paths and options, run step by step.
//!
//! This is what crosses every language border: the component and the core module translate it. It is [`crate::run::Run`] and
//! [`crate::merge::Merge`], and decides nothing of its own; what it adds are questions and answers as plain data, and chunks
//! that are small enough to cross.

mod asked;
mod chunks;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use serde::Deserialize;

use self::asked::Asked;
use self::chunks::{Desks, Piece};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Maybe, Stop, text};
use crate::merge::report::{HashedFile, Report};
use crate::merge::{Bytes, Closing, Cut, Found, Merge, Next, Text};
use crate::options::{Options, Verb};
use crate::plan::{Read, Write};
use crate::run::checkpoint::{Checkpoint, File};
use crate::run::readers::{OpenOptions, Readers};
use crate::run::{Run, UserTable, WeighOptions};

pub use asked::{Answer, Question};

/// Bytes that a job reads of one input unless the host says otherwise: fits caches.
const CHUNK: u32 = 256 << 10;
/// Most bytes that a job reads of all inputs together: hosts limit what one call may copy.
const MOST: usize = 8 << 20;
/// Most bytes of a table of metrics.
const TABLE: u64 = 1 << 28;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Order {
    /// To merge, or only to weigh.
    pub verb: Verb,
    /// Run folders, checkpoint folders, files, as the host names them; names in paths are parted by `/`.
    pub paths: Vec<String>,
    /// As on every other face; `metrics_file` is one more path.
    pub options: Options,
    /// Most bytes that a job reads of one input; 256 KiB unless given.
    pub chunk: Option<u32>,
}

/// What the host is to do next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Answer these questions, by [`Session::tell`].
    Look(Vec<Question>),
    /// Do this job, by [`Session::run`].
    Work(Job),
    /// Write what [`Session::finish`] says.
    Done,
}

/// A piece of work for the host.
#[derive(Clone, Debug)]
pub struct Job {
    /// What [`Session::run`] calls it.
    pub number: u64,
    /// What to read of [`Session::inputs`], in the order in which [`Session::run`] takes it.
    pub reads: Vec<Write>,
    /// Where the result goes in [`Session::outputs`]; empty for a job that only takes in.
    pub writes: Vec<Write>,
}

/// What a host has found out when all is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hashes {
    /// The way from the output folder to each checkpoint, in the order of the report; may be empty.
    #[serde(default)]
    pub paths: Vec<String>,
    /// SHA-256 in hex of each of [`Session::inputs`].
    pub inputs: Vec<String>,
    /// SHA-256 in hex of each of [`Session::outputs`].
    pub outputs: Vec<String>,
    /// What was written beside them; empty where a host cannot hash it.
    #[serde(default)]
    pub companions: Vec<HashedFile>,
    /// What the host has to tell.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// [`crate::merge::Job::run`], compiled by the caller's crate: with the instructions or for the speed that it wants.
pub type Compute = fn(&crate::merge::Job<'_>, Bytes<'_, '_>, &mut [&mut [u8]]) -> Result<Found>;

/// A merge under way.
#[derive(Debug)]
pub struct Session {
    order: Order,
    readers: &'static Readers,
    files: Asked,
    asked: Vec<Question>,
    run: Option<Run>,
    /// Checkpoints that turned out to be bad, by their place in the run, and what to say of them.
    excluded: Vec<usize>,
    dropped: Vec<String>,
    work: Option<Work>,
    /// What is told of a run that is only weighed.
    weighed: Option<Report>,
}

/// A merge that was planned.
#[derive(Debug)]
struct Work {
    merge: Merge,
    /// Places of the checkpoints in the run.
    indexes: Vec<usize>,
    /// The paths of all files with weights, and the number of the first of each checkpoint.
    inputs: Vec<String>,
    firsts: Vec<usize>,
    /// Files to copy beside the output: name, path.
    companions: Vec<(&'static str, String)>,
    /// Most bytes of a job's reads, or of the reads of one input where it reads all of them at once.
    chunk: usize,
    /// The merge's jobs that are still to be handed out, and the piece of the first of them that is next.
    pending: Range<u64>,
    next: Option<Piece>,
    desks: Desks,
    /// by number; few, so that a list serves
    handed_out: Vec<(u64, Part)>,
    count: u64,
}

/// A job that is handed out.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// One of the merge's.
    Whole(u64),
    /// A piece of one of the merge's, which is too large to cross at once.
    Piece(Piece),
}

impl Session {
    /// Nothing is read yet: the first step asks.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what no session does, and for options that contradict each other.
    pub fn open(order: Order, readers: &'static Readers) -> Result<Self> {
        if !matches!(order.verb, Verb::Merge | Verb::Weights) {
            return Err(Error::new(ErrorKind::Usage, "a session merges or weighs, nothing else"));
        }
        order.options.choosing()?;
        order.options.merging()?;
        Ok(Self {
            order,
            readers,
            files: Asked::default(),
            asked: Vec::new(),
            run: None,
            excluded: Vec::new(),
            dropped: Vec::new(),
            work: None,
            weighed: None,
        })
    }

    /// What to do next. Many jobs may be under way, and finish in any order, as far as one does not depend on another.
    ///
    /// # Errors
    /// What is wrong with the files, the logs or the weights, and what keeps the checkpoints from being averaged; for good.
    /// [`ErrorKind::Usage`] when the next job depends on others that were not run.
    pub fn step(&mut self) -> Result<Step> {
        self.advance().or_else(|stop| match stop {
            Stop::Failed(error) => Err(error),
            Stop::Later => {
                self.asked = self.files.questions();
                Ok(Step::Look(self.asked.clone()))
            }
        })
    }

    fn advance(&mut self) -> Maybe<Step> {
        if self.run.is_none() {
            let Options { adapter, weights_key, .. } = self.order.options.clone();
            let options = OpenOptions { adapter, weights_key };
            self.run = Some(Run::open(&self.files, self.readers, &self.order.paths, &options)?);
        }
        match self.order.verb {
            Verb::Merge => {
                if self.work.is_none() {
                    self.work = Some(self.plan()?);
                }
                let job = self.work()?.next_job()?;
                Ok(job.map_or(Step::Done, Step::Work))
            }
            _ => {
                if self.weighed.is_none() {
                    let run = self.run.as_ref().expect("it was opened");
                    self.weighed = Some(run.report(run.weigh(&self.weighing()?)?));
                }
                Ok(Step::Done)
            }
        }
    }

    fn weighing(&self) -> Maybe<WeighOptions> {
        let Options { metrics_file, checkpoints, .. } = &self.order.options;
        let read = |path: &String| {
            let text = text(&self.files, path, TABLE)?.into_owned();
            Ok::<_, Stop>(UserTable { name: path.clone(), text })
        };
        Ok(WeighOptions {
            choose: self.order.options.choosing()?,
            table: metrics_file.as_ref().map(read).transpose()?,
            checkpoints: checkpoints.clone(),
            excluded: self.excluded.clone(),
        })
    }

    fn plan(&self) -> Maybe<Work> {
        let run = self.run.as_ref().expect("it was opened");
        let weighed = run.weigh(&self.weighing()?)?;
        let indexes = weighed.indexes.clone();
        let checkpoints: Vec<_> = indexes.iter().map(|&at| &run.checkpoints[at]).collect();
        let mut chosen = run.chosen(weighed);
        chosen.notes.extend_from_slice(&self.dropped);
        let most = usize::try_from(self.order.chunk.unwrap_or(CHUNK)).unwrap_or(MOST);
        let chunk = most.min(MOST / checkpoints.len().max(1)).max(1);
        let merge =
            Merge::new(chosen, self.order.options.merging()?, Cut { max_bytes: chunk, by_tensor: false })?;
        let (mut inputs, mut firsts) = (Vec::new(), Vec::new());
        for checkpoint in &checkpoints {
            firsts.push(inputs.len());
            inputs.extend(paths(checkpoint)?);
        }
        let companions = checkpoints[merge.owner()].companions(&self.files)?;
        Ok(Work {
            merge,
            indexes,
            inputs,
            firsts,
            companions,
            chunk,
            pending: 0..0,
            next: None,
            desks: Desks::default(),
            handed_out: Vec::new(),
            count: 0,
        })
    }

    /// Answer the questions of the last step, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is not one answer for each, or one does not fit.
    pub fn tell(&mut self, answers: Vec<Answer>) -> Result<()> {
        let asked = core::mem::take(&mut self.asked);
        if asked.len() != answers.len() {
            let detail = format!("{} questions were asked, and {} answered", asked.len(), answers.len());
            return Err(Error::new(ErrorKind::Usage, detail).help("answer each question once, in order"));
        }
        asked.into_iter().zip(answers).try_for_each(|(question, answer)| self.files.keep(question, answer))
    }

    fn work(&mut self) -> Result<&mut Work> {
        self.work.as_mut().ok_or_else(|| Error::new(ErrorKind::Usage, "nothing is planned yet"))
    }

    /// The lengths of the chunks that a job reads, in bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when no such job is handed out.
    pub fn lengths(&mut self, number: u64) -> Result<Vec<usize>> {
        self.work()?.lengths(number)
    }

    /// Run a job: `chunks` are the bytes of its reads in order; the result is the bytes of its writes.
    ///
    /// A job that succeeded is done with; one that failed can be run again.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when no such job is handed out, the chunks have other lengths, or a job that it depends on was
    /// not run; else as [`crate::merge::Job::run`].
    pub fn run(&mut self, number: u64, chunks: &[&[u8]], compute: Compute) -> Result<Vec<u8>> {
        let work = self.work()?;
        let done = work.run(number, chunks, compute);
        let Err(error) = &done else { return done };
        let bad = work.merge.bad_input(error).map(|(bad, note)| (work.indexes[bad], note));
        if let Some((bad, note)) = bad.filter(|_| self.order.options.drop_bad) {
            self.excluded.push(bad);
            self.dropped.push(note);
        }
        done
    }

    /// After a job that failed: whether the merge begins again, without the checkpoint whose values are bad, as the option
    /// `drop_bad` wants. What was written is void then.
    pub fn again(&mut self) -> bool {
        let again = self.work.as_ref().is_some_and(|work| {
            let is_bad = |at: &usize| self.excluded.contains(at);
            work.indexes.iter().any(is_bad)
        });
        if again {
            self.work = None;
        }
        again
    }

    /// The paths of all files with weights, by the numbers that jobs call them by; none before the first job.
    #[must_use]
    pub fn inputs(&self) -> &[String] {
        self.work.as_ref().map_or(&[], |work| &work.inputs)
    }

    /// The files to write: name, length of the head, and whole length in bytes. None before the first job that writes.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.work.iter().flat_map(|work| {
            let is_copied = work.merge.copied().is_some();
            work.merge.outputs().iter().map(move |file| {
                let head = if is_copied { 0 } else { file.header.data_start() };
                (file.name.as_str(), head, file.header.file_len())
            })
        })
    }

    /// The head of an output, which the host writes; nothing where a checkpoint's own files are copied, as jobs write all.
    #[must_use]
    pub fn head(&self, output: usize) -> Option<Vec<u8>> {
        let merge = &self.work.as_ref()?.merge;
        (output < merge.outputs().len()).then(|| merge.head(output))
    }

    /// The files of the newest checkpoint that belong beside the output as they are: name, path.
    #[must_use]
    pub fn companions(&self) -> &[(&'static str, String)] {
        self.work.as_ref().map_or(&[], |work| &work.companions)
    }

    /// What there is to tell by now: the weights, the choice, the notes; nothing while files are looked at.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.work.as_ref().map(|work| work.merge.preview()).or_else(|| self.weighed.clone())
    }

    /// Shard index and adapter config: the texts that do not depend on hashes.
    #[must_use]
    pub fn texts(&self) -> Vec<Text> {
        self.work.as_ref().map(|work| work.merge.texts()).unwrap_or_default()
    }

    /// The files of text that belong beside the weights: shard index, adapter config, model card and report.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is not one hash per file; [`ErrorKind::Input`] when there was nothing to merge.
    pub fn finish(&mut self, hashes: &Hashes) -> Result<Vec<Text>> {
        let Work { merge, firsts, .. } = &*self.work()?;
        let Hashes { paths, inputs, outputs, companions, notes } = hashes.clone();
        let ends = firsts.iter().skip(1).copied().chain([inputs.len()]);
        let of = |(start, end): (&usize, usize)| inputs.get(*start..end).unwrap_or_default().to_vec();
        let inputs = firsts.iter().zip(ends).map(of).collect();
        Ok(merge.finish(&Closing { paths, inputs, outputs, companions, notes })?.texts)
    }
}

impl Work {
    /// The next job; `None` after the last.
    fn next_job(&mut self) -> Result<Option<Job>> {
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
        let job = self.merge.job(self.pending.start);
        let part = if job.is_elementwise() {
            Part::Whole(self.pending.start)
        } else {
            Part::Piece(self.next.unwrap_or(Piece::first(self.pending.start)))
        };
        self.next = if let Part::Piece(piece) = part { piece.after(&job, self.chunk as u64) } else { None };
        if self.next.is_none() {
            self.pending.start += 1;
        }
        let (reads, writes) = self.ranges(part);
        let number = self.count;
        self.count += 1;
        self.handed_out.push((number, part));
        let of = |Read { input, file, range }| Write { file: self.firsts[input] + file, range };
        Ok(Some(Job { number, reads: reads.into_iter().map(of).collect(), writes }))
    }

    fn ranges(&self, part: Part) -> (Vec<Read>, Vec<Write>) {
        match part {
            Part::Whole(number) => {
                let job = self.merge.job(number);
                (job.reads().collect(), job.writes().collect())
            }
            Part::Piece(piece) => piece.ranges(&self.merge.job(piece.job), self.chunk as u64),
        }
    }

    fn part(&self, number: u64) -> Result<Part> {
        let part = self.handed_out.iter().find(|(other, _)| *other == number).map(|(_, part)| *part);
        part.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("job {number} is not handed out, or was run already"))
                .help("run each job once, by the number that came with it")
        })
    }

    fn lengths(&self, number: u64) -> Result<Vec<usize>> {
        let (reads, _) = self.ranges(self.part(number)?);
        let length = |read: Read| usize::try_from(read.range.end - read.range.start);
        Ok(reads.into_iter().map(|read| length(read).expect("a chunk is at most MOST bytes")).collect())
    }

    fn run(&mut self, number: u64, chunks: &[&[u8]], compute: Compute) -> Result<Vec<u8>> {
        let part = self.part(number)?;
        let wanted = self.lengths(number)?;
        let given: Vec<usize> = chunks.iter().map(|chunk| chunk.len()).collect();
        if wanted != given {
            let detail = format!("job {number} reads chunks of {wanted:?} bytes, but got {given:?}");
            return Err(Error::new(ErrorKind::Usage, detail).help("give the bytes of each read, in order"));
        }
        let out = match part {
            Part::Whole(number) => {
                let job = self.merge.job(number);
                let length: u64 = job.writes().map(|write| write.range.end - write.range.start).sum();
                let length = usize::try_from(length).expect("a job writes at most eight bytes per element");
                let mut out = vec![0; length];
                let found = compute(&job, Bytes::Whole(chunks), &mut [&mut out])?;
                self.merge.found(number, found)?;
                out
            }
            Part::Piece(piece) if piece.is_result => self.desks.hand_out(piece, self.chunk as u64)?,
            Part::Piece(piece) => {
                let job = self.merge.job(piece.job);
                if let Some(found) = self.desks.take(piece, &job, self.chunk as u64, chunks, compute)? {
                    self.merge.found(piece.job, found)?;
                }
                Vec::new()
            }
        };
        self.handed_out.retain(|(other, _)| *other != number);
        Ok(out)
    }
}

/// The paths of a checkpoint's files. Jobs read them as they lie, so that tensors that lie in pieces are refused.
pub(crate) fn paths(checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let path = |file: &File| {
        if file.header.is_in_place() {
            return Ok(file.path.clone());
        }
        let detail = "holds tensors whose numbers do not lie side by side, which are not read here";
        Err(Error::new(ErrorKind::Input, detail)
            .file(file.path.clone())
            .help("convert it to safetensors, or merge with the mwa program, which reads it"))
    };
    checkpoint.files.iter().map(path).collect()
}

#[cfg(test)]
mod tests;
