//! Candidates: the checkpoints are found and opened once, and merged with weights after weights.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use mwa::merge::Hash;
use mwa::report::{HashedFile, Input, Report};
use mwa::search::Ground;
use mwa::{Error, ErrorKind, Measure, Result, Run, Weighed};
use serde_json::{Map, Value, json};

use super::entry::Entry;
use super::evaluator::{Candidate, Evaluator};
use super::place;
use super::watch::Watch;
use crate::find::checkpoint::Checkpoint;
use crate::find::choose::{Choice, weigh};
use crate::io::disk::Disk;
use crate::io::scratch::Scratch;
use crate::io::store::Known;
use crate::merge::Planned;
use crate::options::{MergeOptions, Options};
use crate::progress::Progress;

/// The checkpoints, weighed as a merge would, and the place where candidates are made of them.
pub(super) struct Kitchen {
    run: Run,
    weighed: Weighed,
    checkpoints: Arc<Vec<Checkpoint>>,
    /// The hashes of their files, when they were merged once.
    known: Option<Known>,
    /// How candidates are merged.
    how: MergeOptions,
    /// The paths of those that are left out as bad, and what to say of each.
    dropped: Vec<(PathBuf, String)>,
    workers: usize,
    scratch: Option<Scratch>,
}

impl Kitchen {
    /// Find and weigh.
    pub(super) fn open(
        options: &Options,
        how: &MergeOptions,
        workers: usize,
        dropped: Vec<(PathBuf, String)>,
    ) -> Result<Self> {
        let disk = Disk::default();
        let excluded: Vec<_> = dropped.iter().map(|(path, _)| path.clone()).collect();
        let (run, _, weighed) = weigh(&disk, options, &excluded)?;
        let checkpoint = |&at: &usize| Checkpoint::of(run.checkpoints[at].clone(), &disk);
        let checkpoints = weighed.indexes.iter().map(checkpoint).collect::<Result<_>>()?;
        let mut how = *how;
        // the winner's is measured; nobody reads those of the others
        how.merge.residual = Measure::Off;
        (how.force, how.sha256) = (false, false);
        how.machine.threads = Some((how.machine.threads() / workers).max(1));
        let checkpoints = Arc::new(checkpoints);
        Ok(Self { run, weighed, checkpoints, known: None, how, dropped, workers, scratch: None })
    }

    pub(super) fn ground(&self) -> Ground {
        self.weighed.ground()
    }

    /// The rows of the checkpoints in a report.
    pub(super) fn rows(&self) -> &[Input] {
        &self.weighed.inputs
    }

    /// Merge once, evenly: whatever keeps the checkpoints from being merged is found before anything is scored. Gives what the
    /// scores will belong to.
    pub(super) fn prepare(
        &mut self,
        options: &Options,
        how: &MergeOptions,
        watch: &dyn Watch,
    ) -> Result<Map<String, Value>> {
        let bytes: u64 =
            self.checkpoints.iter().flat_map(|it| &it.files).map(crate::io::disk::InputFile::len).sum();
        let each = bytes / self.checkpoints.len().max(1) as u64;
        self.scratch = Some(place::make(each.saturating_mul(self.workers as u64))?);
        loop {
            let folder = self.folder(0, "evenly");
            let weights = self.ground().uniform();
            let mut planned = self.planned(&weights, "uniform", &self.how, None)?;
            let error = match planned.run(&self.how, &folder, &Merging(&|| watch.stopped())) {
                Ok(report) => {
                    let _ = fs::remove_dir_all(&folder);
                    let hash = |file: &HashedFile| Hash::from(file.blake3.clone());
                    let hashes = |input: &Input| input.files.iter().map(hash).collect();
                    self.known = Some(Arc::new(report.inputs.iter().map(hashes).collect()));
                    return Ok(recipe(&report, how));
                }
                Err(error) => error,
            };
            let bad = planned.bad_input(&error).filter(|_| options.choose.drop_bad);
            let Some((path, bad)) = bad else { return Err(at_scratch(error, self.scratch())) };
            self.dropped.push((path, bad.note()));
            let dropped = core::mem::take(&mut self.dropped);
            let scratch = self.scratch.take();
            *self = Self { scratch, ..Self::open(options, how, self.workers, dropped)? };
        }
    }

    fn scratch(&self) -> &Path {
        self.scratch.as_ref().expect("prepare() made it").path()
    }

    fn folder(&self, worker: usize, name: &str) -> PathBuf {
        self.scratch().join(format!("{worker}")).join(name)
    }

    fn planned(
        &self,
        weights: &[f64],
        scheme: &str,
        how: &MergeOptions,
        note: Option<String>,
    ) -> Result<Planned> {
        let mut chosen = self.run.chosen(self.weighed.reweighed(weights, scheme)?);
        chosen.notes.extend(self.dropped.iter().map(|(_, note)| note.clone()));
        chosen.notes.extend(note);
        Planned::new(Choice { chosen, checkpoints: Arc::clone(&self.checkpoints), picture: None }, how)
    }

    /// Merge with these weights and have that scored. Only what would keep every other from being merged is an error.
    pub(super) fn try_out(
        &self,
        worker: usize,
        number: usize,
        weights: &[f64],
        evaluator: &dyn Evaluator,
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Entry> {
        let start = Instant::now();
        // a folder of its own: what a candidate's evaluator leaves running writes to no other
        let folder = self.folder(worker, &format!("candidate-{}", number + 1));
        let mut entry = Entry { weights: weights.to_vec(), ..Entry::default() };
        let merged = self
            .planned(weights, "search", &self.how, None)
            .map(|planned| planned.knowing(self.known.clone()))
            .and_then(|mut planned| planned.run(&self.how, &folder, &Merging(stopped)));
        entry.merge_seconds = seconds(start.elapsed());
        match merged {
            Ok(report) => entry.blake3 = report.outputs.into_iter().map(|file| file.blake3).collect(),
            // weights beyond the checkpoints may lead beyond the dtype
            Err(error) if matches!(error.kind(), ErrorKind::NonFinite | ErrorKind::Overflow) => {
                entry.failed = Some(format!("cannot be merged: {error}"));
                return Ok(entry);
            }
            Err(error) => return Err(at_scratch(error, self.scratch())),
        }
        let start = Instant::now();
        let score =
            evaluator.score(worker, Candidate { number: number + 1, path: &folder, weights }, stopped);
        entry.seconds = seconds(start.elapsed());
        let _ = fs::remove_dir_all(&folder); // what cannot be removed now goes with the scratch folder
        if stopped() {
            return Err(Error::new(ErrorKind::Stopped, "stopped; what was scored is in the journal")
                .help("go on with --resume"));
        }
        match score {
            Ok(score) if score.value.is_finite() => {
                (entry.score, entry.score_error) = (Some(score.value), score.error)
            }
            Ok(score) => entry.failed = Some(format!("its score is {}", score.value)),
            Err(why) => entry.failed = Some(why),
        }
        Ok(entry)
    }

    /// Merge the winner for good.
    pub(super) fn serve(
        &self,
        weights: &[f64],
        scheme: &str,
        note: String,
        how: &MergeOptions,
        out: &Path,
        watch: &dyn Watch,
    ) -> Result<Report> {
        self.planned(weights, scheme, how, Some(note))?.run(how, out, &Merging(&|| watch.stopped()))
    }
}

/// Six digits: more say nothing.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

/// What makes one candidate another than the next, besides its weights.
fn recipe(report: &Report, how: &MergeOptions) -> Map<String, Value> {
    let files =
        |input: &Input| input.files.iter().map(|file| Value::from(file.blake3.as_str())).collect::<Value>();
    let mut recipe = Map::new();
    recipe.insert("space".into(), json!([report.space, report.rank]));
    recipe.insert("dtype".into(), report.dtype.as_str().into());
    recipe.insert("allow_non_finite".into(), how.merge.allow_non_finite.into());
    recipe.insert("inputs".into(), report.inputs.iter().map(files).collect());
    recipe
}

/// What has no room in the scratch folder, said of that.
fn at_scratch(error: Error, scratch: &Path) -> Error {
    let is_ours = error.at_file().is_some_and(|file| Path::new(file).starts_with(scratch));
    if error.kind() == ErrorKind::Io && is_ours {
        Error::new(ErrorKind::Io, format!("has no room for candidates: {}", error.detail()))
            .file(scratch.display().to_string())
            .help("say by TMPDIR where there is room for a merge for each worker")
    } else {
        error
    }
}

/// A merge in a search hears only whether to stop.
struct Merging<'a>(&'a (dyn Fn() -> bool + Sync));

impl Progress for Merging<'_> {
    fn stopped(&self) -> bool {
        (self.0)()
    }
}
