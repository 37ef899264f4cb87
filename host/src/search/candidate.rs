//! Candidates: the checkpoints are found and opened once, and merged with weights after weights.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use mwa::merge::Hash;
use mwa::report::{HashedFile, Input, Report};
use mwa::search::Ground;
use mwa::{Error, ErrorKind, Measure, Parts, Result, Run, SearchOptions, Weighed};
use serde_json::{Map, Value, json};

use super::entry::Entry;
use super::evaluator::{Candidate, Evaluator};
use super::place::Place;
use super::watch::Watch;
use crate::find::checkpoint::Checkpoint;
use crate::find::choose::{Choice, weigh};
use crate::io::disk::Disk;
use crate::io::store::Known;
use crate::merge::Planned;
use crate::options::{MergeOptions, Options};
use crate::progress::Progress;

/// The checkpoints, weighed as a merge would, and the place where candidates are made of them.
pub(super) struct Kitchen {
    run: Run,
    weighed: Weighed,
    /// The parts of the model that have weights of their own.
    parts: Option<Parts>,
    checkpoints: Arc<Vec<Checkpoint>>,
    /// The hashes of their files, when they were merged once.
    known: Option<Known>,
    /// How candidates are merged.
    how: MergeOptions,
    /// The paths of those that are left out as bad, and what to say of each.
    dropped: Vec<(PathBuf, String)>,
    workers: usize,
    place: Option<Place>,
}

/// A candidate that is merged; gone when dropped.
pub(super) struct Dish {
    folder: PathBuf,
    /// The hashes of its files, or why there are none.
    merged: core::result::Result<Vec<String>, String>,
    /// How long it took.
    seconds: f64,
}

impl Drop for Dish {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder); // what cannot be removed now goes with the scratch folder
    }
}

impl Kitchen {
    /// Find and weigh.
    pub(super) fn open(
        options: &Options,
        how: &MergeOptions,
        wanted: &SearchOptions,
        dropped: Vec<(PathBuf, String)>,
    ) -> Result<Self> {
        let disk = Disk::default();
        let excluded: Vec<_> = dropped.iter().map(|(path, _)| path.clone()).collect();
        let (run, _, weighed) = weigh(&disk, options, &excluded)?;
        let parts = wanted.groups.as_ref().map(|groups| run.parts(&weighed, groups)).transpose()?;
        let checkpoint = |&at: &usize| Checkpoint::of(run.checkpoints[at].clone(), &disk);
        let checkpoints = weighed.indexes.iter().map(checkpoint).collect::<Result<_>>()?;
        let mut how = *how;
        // the winner's is measured; nobody reads those of the others
        how.merge.residual = Measure::Off;
        (how.force, how.sha256) = (false, false);
        let checkpoints = Arc::new(checkpoints);
        let workers = wanted.workers;
        Ok(Self { run, weighed, parts, checkpoints, known: None, how, dropped, workers, place: None })
    }

    pub(super) fn ground(&self) -> Ground {
        self.weighed.ground().with_parts(self.parts.as_ref().map_or(1, Parts::count))
    }

    /// What the parts of the model are called that have weights of their own.
    pub(super) fn groups(&self) -> Vec<String> {
        self.parts.iter().flat_map(Parts::names).map(str::to_owned).collect()
    }

    pub(super) fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
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
        wanted: &SearchOptions,
        watch: &dyn Watch,
    ) -> Result<Map<String, Value>> {
        let bytes: u64 =
            self.checkpoints.iter().flat_map(|it| &it.files).map(crate::io::disk::InputFile::len).sum();
        let each = bytes / self.checkpoints.len().max(1) as u64;
        self.place = Some(Place::make(each, self.workers)?);
        loop {
            let folder = self.folder("evenly");
            let weights = self.ground().uniform();
            let mut planned = self.planned(&weights, "uniform", &self.how, None)?;
            let error = match planned.run(&self.how, &folder, &Merging(&|| watch.stopped())) {
                Ok(report) => {
                    let _ = fs::remove_dir_all(&folder);
                    let hash = |file: &HashedFile| Hash::from(file.blake3.clone());
                    let hashes = |input: &Input| input.files.iter().map(hash).collect();
                    self.known = Some(Arc::new(report.inputs.iter().map(hashes).collect()));
                    let mut recipe = recipe(&report, how);
                    recipe.insert("groups".into(), self.groups().into());
                    return Ok(recipe);
                }
                Err(error) => error,
            };
            let bad = planned.bad_input(&error).filter(|_| options.choose.drop_bad);
            let Some((path, bad)) = bad else { return Err(at_scratch(error, self.scratch())) };
            self.dropped.push((path, bad.note()));
            let dropped = core::mem::take(&mut self.dropped);
            let place = self.place.take();
            *self = Self { place, ..Self::open(options, how, wanted, dropped)? };
        }
    }

    fn place(&self) -> &Place {
        self.place.as_ref().expect("prepare() made it")
    }

    fn scratch(&self) -> &Path {
        self.place().scratch.path()
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.scratch().join(name)
    }

    /// How many candidates are merged in one pass over the checkpoints.
    pub(super) fn lot(&self) -> usize {
        self.place().lot
    }

    fn planned(
        &self,
        weights: &[f64],
        scheme: &str,
        how: &MergeOptions,
        note: Option<String>,
    ) -> Result<Planned> {
        let mut choice = self.choice(weights, scheme)?;
        choice.chosen.notes.extend(note);
        Planned::new(choice, how)
    }

    fn choice(&self, weights: &[f64], scheme: &str) -> Result<Choice> {
        let weighed = self.weighed.reweighed(weights, self.parts.as_ref(), scheme)?;
        let mut chosen = self.run.chosen(weighed);
        chosen.notes.extend(self.dropped.iter().map(|(_, note)| note.clone()));
        Ok(Choice { chosen, checkpoints: Arc::clone(&self.checkpoints), picture: None })
    }

    /// Merge with each of these weights, in one pass over the checkpoints, into folders of these names.
    ///
    /// # Errors
    /// Only what would keep every other from being merged.
    pub(super) fn cook(
        &self,
        orders: &[(String, &[f64])],
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Dish>> {
        let start = Instant::now();
        let planned = |(_, weights): &(String, &[f64])| {
            let planned = Planned::beside(self.choice(weights, "search")?, &self.how, orders.len() - 1)?;
            Ok(planned.knowing(self.known.clone()))
        };
        let mut all = orders.iter().map(planned).collect::<Result<Vec<_>>>()?;
        let folders: Vec<_> = orders.iter().map(|(name, _)| self.folder(name)).collect();
        let at_scratch = |error: Error| at_scratch(error, self.scratch());
        let reports =
            Planned::run_together(&mut all, &self.how, &folders, &Merging(stopped)).map_err(at_scratch)?;
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        let seconds = seconds(start.elapsed().div_f64(orders.len() as f64));
        let dish = |(folder, report): (PathBuf, Result<Report>)| {
            let merged = match report {
                Ok(report) => Ok(report.outputs.into_iter().map(|file| file.blake3).collect()),
                // weights beyond the checkpoints may lead beyond the dtype
                Err(error) if matches!(error.kind(), ErrorKind::NonFinite | ErrorKind::Overflow) => {
                    Err(format!("cannot be merged: {error}"))
                }
                Err(error) => return Err(at_scratch(error)),
            };
            Ok(Dish { folder, merged, seconds })
        };
        folders.into_iter().zip(reports).map(dish).collect()
    }

    /// Have a candidate scored.
    pub(super) fn taste(
        &self,
        mut dish: Dish,
        worker: usize,
        number: usize,
        weights: &[f64],
        evaluator: &dyn Evaluator,
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Entry> {
        let mut entry = Entry { weights: weights.to_vec(), merge_seconds: dish.seconds, ..Entry::default() };
        match core::mem::replace(&mut dish.merged, Ok(Vec::new())) {
            Ok(hashes) => entry.blake3 = hashes,
            Err(why) => {
                entry.failed = Some(why);
                return Ok(entry);
            }
        }
        // one that was merged before it was asked for had no number yet
        let own = self.folder(&called(number));
        if dish.folder != own && fs::rename(&dish.folder, &own).is_ok() {
            dish.folder = own;
        }
        let start = Instant::now();
        let candidate = Candidate { number: number + 1, path: &dish.folder, weights };
        let score = evaluator.score(worker, candidate, stopped);
        entry.seconds = seconds(start.elapsed());
        if stopped() {
            let (detail, help) = match number {
                0 => ("stopped before anything was scored", "begin anew by the same command"),
                _ => ("stopped; what was scored is in the journal", "go on with --resume"),
            };
            return Err(Error::new(ErrorKind::Stopped, detail).help(help));
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

    /// Merge the winner for good; `note` is for the report, `section` for the card.
    pub(super) fn serve(
        &self,
        weights: &[f64],
        scheme: &str,
        (note, section): (String, String),
        how: &MergeOptions,
        out: &Path,
        watch: &dyn Watch,
    ) -> Result<Report> {
        let mut planned = self.planned(weights, scheme, how, Some(note))?.telling(section);
        planned.run(how, out, &Merging(&|| watch.stopped()))
    }
}

/// How the folder of a candidate is called: each has its own, so that what an evaluator leaves running writes to no other.
pub(super) fn called(number: usize) -> String {
    format!("candidate-{}", number + 1)
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
