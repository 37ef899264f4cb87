//! A merge in the hands of a host that moves bytes and knows nothing else: opened with paths and options, run step by step.
//!
//! This is what crosses every language border: the component and the core module translate it. It is [`crate::run::Run`] and
//! [`crate::merge::Merge`], and decides nothing of its own; what it adds are questions and answers as plain data, and chunks
//! that are small enough to cross.

mod asked;
mod chunks;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use serde::Deserialize;

use self::asked::Asked;
use self::chunks::{Desks, Piece};
use crate::digest::{Digests, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files as _, Kind, Maybe, Stop, text};
use crate::merge::report::{HashedFile, Report};
use crate::merge::{Bytes, Chosen, Closing, Cut, Found, Hash, Merge, MergeOptions, Next, Text};
use crate::options::{Options, Verb};
use crate::plan::{Read, Write};
use crate::run::checkpoint::{Checkpoint, File};
use crate::run::inspection::Inspection;
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
    /// Whether the host makes the hashes of all files by itself; else jobs do as they run, and the last ones read what no
    /// other has.
    pub hashed_outside: bool,
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
    /// Of a module that is too large to cross at once, its number: its jobs are run by one session, in order.
    pub module: Option<u64>,
}

/// What a host has to tell when all is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ending {
    /// The way from the output folder to each checkpoint, in the order of the report; may be empty.
    pub paths: Vec<String>,
    /// The names of the [`Session::companions`] that were not copied.
    pub left_out: Vec<String>,
    /// What else is to be told.
    pub notes: Vec<String>,
    /// From a host that makes hashes by itself.
    pub hashes: Option<Hashes>,
}

/// Hashes that a host has made.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hashes {
    /// Of each of [`Session::inputs`].
    pub inputs: Vec<Hash>,
    /// Of each of [`Session::outputs`].
    pub outputs: Vec<Hash>,
    /// Of what was written beside them.
    pub companions: Vec<HashedFile>,
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
    /// What is told of a run that is only weighed, or only looked at.
    weighed: Option<Report>,
    inspection: Option<Inspection>,
    /// What is merged again, to verify it.
    report: Option<Report>,
}

/// A merge that was planned.
#[derive(Debug)]
struct Work {
    merge: Merge,
    /// Places of the checkpoints in the run.
    indexes: Vec<usize>,
    /// The paths of all files with weights, and then of what lies beside them if it is hashed here.
    inputs: Vec<String>,
    /// The number of the first file of each checkpoint, and how many there are of all.
    firsts: Vec<usize>,
    weights: usize,
    /// If they are made here.
    digests: Option<Digests>,
    /// What no job has read, once that is known.
    rest: Option<VecDeque<Write>>,
    /// What the last job has found, for other sessions.
    found: Vec<u8>,
    /// Files to copy beside the output: name, path.
    companions: Vec<(String, String)>,
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
    /// Bytes that are only hashed.
    Rest(usize, u64, u64),
}

impl Session {
    /// Nothing is read yet: the first step asks.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what no session does, and for options that contradict each other.
    pub fn open(order: Order, readers: &'static Readers) -> Result<Self> {
        if order.verb == Verb::Inspect && order.paths.len() != 1 {
            return Err(Error::new(ErrorKind::Usage, "one path is inspected at a time"));
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
            inspection: None,
            report: None,
        })
    }

    /// To verify a merge: merge again as its report says, from the paths of its inputs, one for each in order.
    ///
    /// # Errors
    /// None yet: the first step asks.
    pub fn again_by(
        report: Report,
        paths: Vec<String>,
        chunk: Option<u32>,
        readers: &'static Readers,
    ) -> Result<Self> {
        let options = Options::default();
        let order = Order { verb: Verb::Verify, paths, options, chunk, hashed_outside: false };
        Ok(Self { report: Some(report), ..Self::open(order, readers)? })
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
        if self.report.is_some() {
            if self.work.is_none() {
                self.work = Some(self.plan_again()?);
            }
            let job = self.work()?.next_job()?;
            return Ok(job.map_or(Step::Done, Step::Work));
        }
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
            Verb::Inspect => {
                if self.inspection.is_none() {
                    let run = self.run.as_ref().expect("it was opened");
                    self.inspection = Some(run.inspection(self.order.paths[0].clone())?);
                }
                Ok(Step::Done)
            }
            Verb::Weights | Verb::Verify => {
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
        self.work_of(&checkpoints, indexes, chosen, self.order.options.merging()?)
    }

    fn plan_again(&self) -> Maybe<Work> {
        let report = self.report.as_ref().expect("it is there to be merged again");
        let (checkpoints, chosen) = report.again(&self.files, self.readers, &self.order.paths)?;
        let checkpoints: Vec<_> = checkpoints.iter().collect();
        self.work_of(&checkpoints, (0..checkpoints.len()).collect(), chosen, report.merging()?)
    }

    fn work_of(
        &self,
        checkpoints: &[&Checkpoint],
        indexes: Vec<usize>,
        chosen: Chosen,
        merging: MergeOptions,
    ) -> Maybe<Work> {
        let most = usize::try_from(self.order.chunk.unwrap_or(CHUNK)).unwrap_or(MOST);
        let chunk = most.min(MOST / checkpoints.len().max(1)).max(1);
        let merge = Merge::new(chosen, merging, Cut { max_bytes: chunk, by_tensor: false })?;
        let (mut inputs, mut firsts, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for checkpoint in checkpoints {
            firsts.push(inputs.len());
            inputs.extend(paths(checkpoint)?);
            lengths.extend(checkpoint.files.iter().map(|file| file.len));
        }
        let weights = inputs.len();
        let companions = checkpoints[merge.owner()].companions(&self.files)?;
        let is_hashed = !self.order.hashed_outside;
        for (_, path) in companions.iter().filter(|_| is_hashed) {
            let Kind::File(len) = self.files.kind(path)? else { continue };
            inputs.push(path.clone());
            lengths.push(len);
        }
        Ok(Work {
            merge,
            indexes,
            inputs,
            firsts,
            weights,
            digests: is_hashed.then(|| Digests::new(lengths, [])),
            rest: None,
            found: Vec::new(),
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

    /// What the last job that was run has found, for [`Session::take`] of other sessions.
    #[must_use]
    pub fn found(&self) -> &[u8] {
        self.work.as_ref().map_or(&[], |work| &work.found)
    }

    /// Take in that a job was run by another session that was opened alike, and what it has [found](Session::found).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when no such job is handed out here, or that was not found by it.
    pub fn take(&mut self, number: u64, found: &[u8]) -> Result<()> {
        self.work()?.take(number, found)
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

    /// The paths of all files that jobs read, by the numbers that they call them by; none before the first job.
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
    pub fn companions(&self) -> &[(String, String)] {
        self.work.as_ref().map_or(&[], |work| &work.companions)
    }

    /// What there is to tell by now: the weights, the choice, the notes; nothing while files are looked at.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.work.as_ref().map(|work| work.merge.preview()).or_else(|| self.weighed.clone())
    }

    /// What a path holds that is inspected; nothing while files are looked at.
    #[must_use]
    pub fn inspection(&self) -> Option<&Inspection> {
        self.inspection.as_ref()
    }

    /// Bytes that all jobs together read to merge, as far as that is known: where ranks are found first, there will be more.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.work.as_ref().map_or(0, |work| work.merge.total())
    }

    /// Shard index and adapter config: the texts that do not depend on hashes.
    #[must_use]
    pub fn texts(&self) -> Vec<Text> {
        self.work.as_ref().map(|work| work.merge.texts()).unwrap_or_default()
    }

    /// The files of text that belong beside the weights: shard index, adapter config, model card and report.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is not one hash per file, or jobs were not run; [`ErrorKind::Input`] when there was
    /// nothing to merge.
    pub fn finish(&mut self, ending: &Ending) -> Result<Vec<Text>> {
        let work = self.work()?;
        let Ending { paths, left_out, notes, hashes } = ending.clone();
        let Hashes { inputs, outputs, companions } = match hashes {
            Some(hashes) => hashes,
            None => work.hashes(&left_out)?,
        };
        let Work { merge, firsts, .. } = work;
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
                Next::Wait if self.merge.is_last() => return self.next_rest(),
                Next::Wait => {
                    return Err(early("the next job depends on those that were handed out"));
                }
                Next::Done => return self.next_rest(),
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
        let module = if let Part::Piece(piece) = part { Some(piece.job) } else { None };
        Ok(Some(Job { number, reads, writes, module }))
    }

    /// The next job that reads what no other has; `None` after the last.
    fn next_rest(&mut self) -> Result<Option<Job>> {
        if self.rest.is_none() {
            if self.digests.is_some() && !self.handed_out.is_empty() {
                return Err(early("what is still to be read depends on the jobs that were handed out"));
            }
            // of tensors without elements no job writes anything
            self.know_outputs();
            let Some(digests) = &self.digests else { return Ok(None) };
            let span = |(file, range)| Write { file, range };
            self.rest = Some(digests.missing().map(span).collect());
        }
        let Some(rest) = self.rest.as_mut().and_then(VecDeque::front_mut) else { return Ok(None) };
        let Write { file, range: Range { start, end } } = rest.clone();
        // pieces end where subtrees of the hash do
        let chunk = self.chunk as u64;
        let stop = end.min((start / chunk + 1) * chunk);
        rest.range.start = stop;
        if stop == end {
            self.rest.as_mut().map(VecDeque::pop_front);
        }
        let number = self.count;
        self.count += 1;
        self.handed_out.push((number, Part::Rest(file, start, stop)));
        Ok(Some(Job {
            number,
            reads: vec![Write { file, range: start..stop }],
            writes: Vec::new(),
            module: None,
        }))
    }

    /// What a job reads of the inputs and writes of the outputs.
    fn ranges(&self, part: Part) -> (Vec<Write>, Vec<Write>) {
        let (reads, writes) = match part {
            Part::Whole(number) => {
                let job = self.merge.job(number);
                (job.reads().collect(), job.writes().collect())
            }
            Part::Piece(piece) => piece.ranges(&self.merge.job(piece.job), self.chunk as u64),
            Part::Rest(file, start, end) => return (vec![Write { file, range: start..end }], Vec::new()),
        };
        let of = |Read { input, file, range }| Write { file: self.firsts[input] + file, range };
        (reads.into_iter().map(of).collect(), writes)
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
        let length = |read: Write| usize::try_from(read.range.end - read.range.start);
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
        let (reads, writes) = self.ranges(part);
        let mut told = None;
        let out = match part {
            Part::Whole(number) => {
                let job = self.merge.job(number);
                let length: u64 = job.writes().map(|write| write.range.end - write.range.start).sum();
                let length = usize::try_from(length).expect("a job writes at most eight bytes per element");
                let mut out = vec![0; length];
                told = Some(compute(&job, Bytes::Whole(chunks), &mut [&mut out])?);
                out
            }
            Part::Piece(piece) if piece.is_result => self.desks.hand_out(piece, self.chunk as u64)?,
            Part::Piece(piece) => {
                let job = self.merge.job(piece.job);
                told = self.desks.take(piece, &job, self.chunk as u64, chunks, compute)?;
                Vec::new()
            }
            Part::Rest(..) => Vec::new(),
        };
        if !writes.is_empty() {
            self.know_outputs();
        }
        let is_hashed = match part {
            Part::Whole(job) | Part::Piece(Piece { job, .. }) => self.merge.job(job).is_hashed(),
            Part::Rest(..) => true,
        };
        let parts = self.digests.as_ref().map(|digests| {
            if !is_hashed {
                return Parts::default();
            }
            let mut rest = out.as_slice();
            let piece = |write: &'_ Write| {
                let length = usize::try_from(write.range.end - write.range.start).unwrap_or(usize::MAX);
                rest.split_off(..length).expect("the result has the bytes of all writes")
            };
            let written: Vec<_> = writes.iter().map(piece).collect();
            digests.parts(reads.iter().zip(chunks.iter().copied()), writes.iter().zip(written))
        });
        self.found = encoded(told.as_ref(), parts.as_ref());
        self.done(number, part, told, parts)?;
        Ok(out)
    }

    /// A job is done, here or elsewhere.
    fn done(&mut self, number: u64, part: Part, found: Option<Found>, parts: Option<Parts>) -> Result<()> {
        if let Some(found) = found {
            let job = match part {
                Part::Whole(job) | Part::Piece(Piece { job, .. }) => job,
                Part::Rest(..) => return Err(foreign()),
            };
            self.merge.found(job, found)?;
        }
        if let (Some(digests), Some(parts)) = (&mut self.digests, parts) {
            digests.take(parts);
        }
        self.handed_out.retain(|(other, _)| *other != number);
        Ok(())
    }

    fn take(&mut self, number: u64, found: &[u8]) -> Result<()> {
        let part = self.part(number)?;
        let (_, writes) = self.ranges(part);
        if !writes.is_empty() {
            self.know_outputs();
        }
        let (count, mut rest) = found.split_first_chunk().ok_or_else(foreign)?;
        let mut numbers = Vec::new();
        for _ in 0..u32::from_le_bytes(*count) {
            let (number, after) = rest.split_first_chunk().ok_or_else(foreign)?;
            numbers.push(f64::from_le_bytes(*number));
            rest = after;
        }
        let told = if numbers.is_empty() { None } else { Some(Found::from_numbers(&numbers)?) };
        let parts = match &self.digests {
            Some(digests) => Some(digests.decode(rest).ok_or_else(foreign)?),
            None => None,
        };
        self.done(number, part, told, parts)
    }

    /// With the first job that writes it is known what, at the latest with the last of all.
    fn know_outputs(&mut self) {
        let Some(digests) = self.digests.as_mut().filter(|digests| !digests.are_outputs_known()) else {
            return;
        };
        let outputs = self.merge.outputs();
        digests.write_to(outputs.iter().map(|file| file.header.file_len()));
        if self.merge.copied().is_none() {
            (0..outputs.len()).for_each(|file| digests.wrote(file, 0, &self.merge.head(file)));
        }
    }

    /// The hashes that were made here, of all but the companions that were left out.
    fn hashes(&self, left_out: &[String]) -> Result<Hashes> {
        let Some(digests) = &self.digests else {
            let detail = "the host makes the hashes, but gives none";
            return Err(Error::new(ErrorKind::Usage, detail).help("give one for each file"));
        };
        let read = |file| digests.of_read(file).map(Hash::from);
        let written = |file| digests.of_written(file).map(Hash::from);
        let missing = || early("not all files are hashed yet");
        let texts = self.merge.texts();
        let mut companions: Vec<_> =
            texts.iter().map(|(name, text)| HashedFile::of(name, text.as_bytes())).collect();
        for (file, path) in self.inputs.iter().enumerate().skip(self.weights) {
            let (name, _) =
                self.companions.iter().find(|(_, other)| other == path).expect("it is one of them");
            if !left_out.contains(name) {
                let blake3 = digests.of_read(file).ok_or_else(missing)?;
                let unhashed = HashedFile::unhashed(name.clone(), digests.read_len(file));
                companions.push(HashedFile { blake3, ..unhashed });
            }
        }
        Ok(Hashes {
            inputs: (0..self.weights).map(read).collect::<Option<_>>().ok_or_else(missing)?,
            outputs: (0..self.merge.outputs().len())
                .map(written)
                .collect::<Option<_>>()
                .ok_or_else(missing)?,
            companions,
        })
    }
}

/// What a job has found and hashed, for other sessions: how many numbers, the numbers, and parts of hashes.
fn encoded(found: Option<&Found>, parts: Option<&Parts>) -> Vec<u8> {
    let numbers = found.map(Found::to_numbers).unwrap_or_default();
    let mut bytes = u32::try_from(numbers.len()).expect("few numbers").to_le_bytes().to_vec();
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend(parts.map(Parts::encode).unwrap_or_default());
    bytes
}

fn early(detail: &'static str) -> Error {
    Error::new(ErrorKind::Usage, detail)
        .help("run them first: they compare the checkpoints, find ranks, or hash files")
}

fn foreign() -> Error {
    Error::new(ErrorKind::Usage, "this is not what such a job has found")
        .help("take what another session found that was opened alike, job by job")
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
