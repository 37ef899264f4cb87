//! A merge in the hands of a host that moves bytes and knows nothing else: opened with paths and options, run step by step.
//!
//! This is what crosses every language border: the component and the core module translate it. It is [`crate::run::Run`] and
//! [`crate::merge::Merge`], and decides nothing of its own; what it adds are questions and answers as plain data, and chunks
//! that are small enough to cross.

mod asked;
mod chunks;
mod work;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use self::asked::Asked;
use self::chunks::Desks;
use self::work::Work;
use crate::digest::Digests;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files as _, Kind, Maybe, Stop, text};
use crate::merge::report::{HashedFile, Report};
use crate::merge::{Bytes, Chosen, Closing, Cut, Found, Hash, Merge, MergeOptions, Text};
use crate::options::{Options, Verb};
use crate::plan::Write;
use crate::run::checkpoint::{Checkpoint, File};
use crate::run::inspection::Inspection;
use crate::run::readers::{OpenOptions, Readers};
use crate::run::{Run, UserTable, WeighOptions};
use crate::weigh::choose::WeightRule;

pub use asked::{Answer, Question};

/// Bytes that a job reads of one input unless the host says otherwise: fits caches.
const CHUNK: u32 = 256 << 10;
/// Most bytes that a job reads of all inputs together: hosts limit what one call may copy.
const MOST: usize = 8 << 20;
/// Most bytes of a table of metrics, or of a file of weights.
const TABLE: u64 = 1 << 28;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Order {
    /// To merge, or only to weigh.
    pub verb: Verb,
    /// Run folders, checkpoint folders, files, as the host names them; names in paths are parted by `/`.
    pub paths: Vec<String>,
    /// As on every other face; `metrics_file` and `weights_file` are more paths.
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

impl Session {
    /// Nothing is read yet: the first step asks.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what no session does, and for options that contradict each other.
    pub fn open(order: Order, readers: &'static Readers) -> Result<Self> {
        if order.verb == Verb::Verify {
            return Err(Error::new(ErrorKind::Usage, "what is merged again is told by a report"));
        }
        if order.verb == Verb::Aggregate {
            return Err(Error::new(ErrorKind::Usage, "rounds are aggregated by the native program"));
        }
        if order.verb == Verb::Inspect && order.paths.len() != 1 {
            return Err(Error::new(ErrorKind::Usage, "one path is inspected at a time"));
        }
        if order.paths.iter().any(String::is_empty) {
            let error = Error::new(ErrorKind::Usage, "a path is empty");
            return Err(error.help("name the run, or leave the path out: an empty one is no folder"));
        }
        order.options.suits_a_session()?;
        order.options.choosing()?;
        order.options.merging()?;
        Ok(Self::of(order, readers))
    }

    fn of(order: Order, readers: &'static Readers) -> Self {
        Self {
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
        }
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
        let order = Order { verb: Verb::Merge, paths, options, chunk, hashed_outside: false };
        Ok(Self { report: Some(report), ..Self::of(order, readers) })
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
        if self.run.is_none() && self.report.is_none() {
            let base =
                self.order.options.role_base().filter(|_| self.order.verb == Verb::Merge).map(String::from);
            let Options { adapter, weights_key, metrics_from, .. } = self.order.options.clone();
            let moments = self.order.options.role_moments();
            let options = OpenOptions { adapter, weights_key, metrics_from, base, moments };
            self.run = Some(Run::open(&self.files, self.readers, &self.order.paths, &options)?);
        }
        match self.order.verb {
            Verb::Merge => {
                if self.work.is_none() {
                    self.work = Some(match &self.report {
                        Some(report) => self.plan_again(report)?,
                        None => self.plan()?,
                    });
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
            _ if self.weighed.is_some() => Ok(Step::Done),
            _ if matches!(self.order.options.choosing()?.rule, WeightRule::Robust { .. }) => {
                if self.work.is_none() {
                    self.work = Some(self.plan()?);
                }
                let work = self.work()?;
                if let Some(job) = work.next_to_weigh()? {
                    return Ok(Step::Work(job));
                }
                self.weighed = Some(work.merge.weighed());
                self.work = None;
                Ok(Step::Done)
            }
            _ => {
                let run = self.run.as_ref().expect("it was opened");
                self.weighed = Some(run.report(run.weigh(&self.weighing()?)?));
                Ok(Step::Done)
            }
        }
    }

    fn weighing(&self) -> Maybe<WeighOptions> {
        let Options { metrics_file, weights_file, checkpoints, .. } = &self.order.options;
        let read = |path: &String| {
            let text = text(&self.files, path, TABLE)?.into_owned();
            Ok::<_, Stop>(UserTable { name: path.clone(), text })
        };
        Ok(WeighOptions {
            choose: self.order.options.choosing()?,
            table: metrics_file.as_ref().map(read).transpose()?,
            rules: weights_file.as_ref().map(read).transpose()?,
            checkpoints: checkpoints.clone(),
            excluded: self.excluded.clone(),
        })
    }

    fn plan(&self) -> Maybe<Work> {
        let run = self.run.as_ref().expect("it was opened");
        let weighed = run.weigh(&self.weighing()?)?;
        let checkpoints = run.inputs(&weighed.indexes);
        // the base is none of the run's
        let base = run.base.iter().map(|_| usize::MAX);
        let indexes = base.chain(weighed.indexes.iter().copied()).collect();
        let mut chosen = run.chosen(weighed);
        chosen.notes.extend_from_slice(&self.dropped);
        self.work_of(&checkpoints, indexes, chosen, self.order.options.merging()?)
    }

    fn plan_again(&self, report: &Report) -> Maybe<Work> {
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
        // asked before what takes long, which begins again after each answer
        if let Some(Err(Stop::Later)) = checkpoints.last().map(|newest| newest.companions(&self.files)) {
            return Err(Stop::Later);
        }
        let most = usize::try_from(self.order.chunk.unwrap_or(CHUNK)).unwrap_or(MOST);
        let read = checkpoints.len() + chosen.moments.len();
        let chunk = most.min(MOST / read.max(1)).max(1);
        let mut merge = Merge::new(chosen, merging, Cut { max_bytes: chunk, by_tensor: false })?;
        let (mut inputs, mut firsts, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        let mut heads = Vec::new();
        for checkpoint in checkpoints {
            firsts.push(inputs.len());
            inputs.extend(paths(checkpoint)?);
            lengths.extend(checkpoint.read_files().map(|file| file.len));
            let headers = checkpoint.read_files().map(|file| &file.header);
            heads.extend(headers.map(|header| (!header.is_in_place()).then(|| header.clone())));
        }
        let weights = inputs.len();
        let companions = checkpoints[merge.owner()].beside(&self.files, &mut merge)?;
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
            heads,
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
        let bad = work.merge.bad_input(error).map(|bad| (work.indexes[bad.input], bad.note()));
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
        Ok(merge.finish(&Closing { paths, inputs, outputs, companions, notes, ..Closing::default() })?.texts)
    }
}

/// The paths of a checkpoint's files. Jobs read what lies in them side by side, so that tensors are refused whose numbers lie in another order.
pub(crate) fn paths(checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let path = |file: &File| {
        if file.header.is_in_order() {
            return Ok(file.path.clone());
        }
        let detail = "holds tensors whose numbers do not lie in order, which are not read here";
        Err(Error::new(ErrorKind::Input, detail)
            .file(file.path.clone())
            .help("convert it to safetensors, or merge with the mwa program, which reads it"))
    };
    checkpoint.read_files().map(path).collect()
}

#[cfg(test)]
mod tests;
