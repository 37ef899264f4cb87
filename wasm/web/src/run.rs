//! From the files given to checkpoints and their logs: run folders are searched, everything else is taken as it is.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use mwa::checkpoint::step_of_folder;
use mwa::{Error, ErrorKind, History, Index, Sample, TrainerState};

use crate::checkpoint::{Checkpoint, weights_in};
use crate::files::{Files, Maybe, Stop, join, parent};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The adapter taken from checkpoints that hold several.
    pub(crate) adapter: Option<String>,
    /// In the order given, those of a run by step.
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// Whether every checkpoint comes from searching run folders, so that the usual last ten may be chosen.
    pub(crate) searched: bool,
    /// What was left out and why.
    pub(crate) notes: Vec<String>,
    /// Checkpoints of a searched run that cannot be opened.
    pub(crate) broken: Vec<(String, Error)>,
    /// The log of each run, sorted by its folder.
    pub(crate) histories: Vec<(String, History)>,
    /// The beginnings of some A factors of each checkpoint, by name.
    pub(crate) samples: Vec<Sample>,
}

impl Found {
    /// Open everything that the user gave; `adapter` names one inside multi-adapter checkpoints.
    pub(crate) fn new(files: &Files, adapter: Option<&str>) -> Maybe<Self> {
        let mut found = Self { adapter: adapter.map(str::to_owned), searched: true, ..Self::default() };
        let mut unread = false;
        for root in files.roots() {
            if numbered(files, root).is_empty() {
                found.searched = false;
                match open_named(files, root, adapter) {
                    Ok(checkpoint) => found.checkpoints.push(checkpoint),
                    Err(Stop::Unread) => unread = true,
                    Err(failed) => return Err(failed),
                }
            } else {
                unread |= found.search(files, root, adapter)?;
            }
        }
        if !unread && found.checkpoints.is_empty() {
            return Err(Error::new(ErrorKind::Input, "there is no checkpoint among the files")
                .help("give a run folder or checkpoints")
                .into());
        }
        found.count_once();
        unread |= found.read_logs(files)?;
        unread |= found.sample(files)?;
        if unread { Err(Stop::Unread) } else { Ok(found) }
    }

    /// Open the checkpoints of a run; whether something has to be read first.
    fn search(&mut self, files: &Files, run: &str, adapter: Option<&str>) -> Maybe<bool> {
        let folders = numbered(files, run);
        let is_logged = |path: &str| files.is_file(&format!("{path}/trainer_state.json"));
        let any_logged = folders.iter().any(|(_, path)| is_logged(path));
        let (mut unread, mut opened) = (false, 0);
        let mut broken = Vec::new();
        for (_, path) in &folders {
            if files.is_folder(&format!("{path}/relora")) {
                let detail = "was trained with ReLoRA: its adapters belong to different bases";
                return Err(Error::new(ErrorKind::Config, detail)
                    .file(path)
                    .help("checkpoints on both sides of a restart cannot be averaged; give those of one stretch")
                    .into());
            }
            if any_logged && !is_logged(path) {
                let detail = "has no trainer_state.json, so its save was interrupted";
                broken.push((path.clone(), Error::new(ErrorKind::Input, detail).file(path)));
                continue;
            }
            match Checkpoint::open(files, path, adapter) {
                Ok(checkpoint) => {
                    opened += 1;
                    self.checkpoints.push(checkpoint);
                }
                Err(Stop::Unread) => unread = true,
                Err(Stop::Failed(error)) => broken.push((path.clone(), error)),
            }
        }
        if opened == 0 && !unread {
            let first = broken.into_iter().next().map(|(_, error)| error);
            let none = || Error::new(ErrorKind::Input, "holds no finished checkpoint").file(run);
            return Err(first.unwrap_or_else(none).into());
        }
        self.notes.extend(broken.iter().map(|(path, error)| format!("{path} is left out: {error}")));
        self.broken.extend(broken);
        self.note_ignored(files, run);
        Ok(unread)
    }

    /// A checkpoint that was named by itself and in its run is one.
    fn count_once(&mut self) {
        let names: Vec<_> = self.checkpoints.iter().map(|checkpoint| checkpoint.name.clone()).collect();
        let index = Index::new(names.iter().map(String::as_str));
        let mut place = 0..;
        self.checkpoints.retain(|checkpoint| {
            let is_new = place.next().is_some_and(|place| index.is_first(&checkpoint.name, place));
            if !is_new {
                self.notes.push(format!("{} is named twice; it counts once", checkpoint.name));
            }
            is_new
        });
    }

    /// Say which neighbours of the checkpoints are not taken, so that nobody has to wonder.
    fn note_ignored(&mut self, files: &Files, run: &str) {
        if weights_in(files, run).is_some() {
            self.notes.push(format!(
                "{run}: the model saved in the run folder itself is left out; it usually repeats one of the checkpoints"
            ));
        }
        let is_ignored = |name: &&str| {
            let path = format!("{run}/{name}");
            step_of_folder(name).is_none()
                && files.is_folder(&path)
                && (name.contains("checkpoint") || weights_in(files, &path).is_some())
        };
        let mut ignored: Vec<_> = files.names(run).filter(is_ignored).collect();
        ignored.dedup();
        if !ignored.is_empty() {
            let ignored = ignored.join(", ");
            self.notes.push(format!("{run}: left out, not named as checkpoints: {ignored}"));
        }
    }

    fn read_logs(&mut self, files: &Files) -> Maybe<bool> {
        let mut unread = false;
        for root in self.checkpoints.iter().map(|checkpoint| parent(&checkpoint.name)) {
            let Err(place) = self.histories.binary_search_by(|(run, _)| run.as_str().cmp(root)) else {
                continue;
            };
            match history(files, root) {
                Ok(history) => self.histories.insert(place, (root.to_owned(), history)),
                Err(Stop::Unread) => unread = true,
                Err(failed) => return Err(failed),
            }
        }
        Ok(unread)
    }

    /// The log of a run, which was read.
    pub(crate) fn history(&self, run: &str) -> &History {
        let place = self.histories.binary_search_by(|(other, _)| other.as_str().cmp(run));
        &self.histories[place.expect("read_logs() read the logs of all runs")].1
    }

    /// Read the beginnings of some A factors, to tell checkpoints of one run from those of several.
    fn sample(&mut self, files: &Files) -> Maybe<bool> {
        let Some(first) = self.checkpoints.first() else { return Ok(true) };
        let names = Sample::names(first.tensors());
        let mut unread = false;
        for checkpoint in &self.checkpoints {
            let mut sample = Sample::default();
            for file in &checkpoint.files {
                for tensor in file.header.tensors().iter().filter(|tensor| names.contains(&&*tensor.name)) {
                    let Some(range) = Sample::range(tensor) else { continue };
                    match files.bytes(file.number, range) {
                        Ok(bytes) => sample.insert(tensor, bytes),
                        Err(Stop::Unread) => unread = true,
                        Err(failed) => return Err(failed),
                    }
                }
            }
            self.samples.push(sample);
        }
        Ok(unread)
    }
}

/// The folders in `run` that are named as checkpoints, by step.
fn numbered(files: &Files, run: &str) -> Vec<(u64, String)> {
    let folders = files.names(run).filter_map(|name| Some((step_of_folder(name)?, join(run, name))));
    let mut folders: Vec<_> = folders.filter(|(_, path)| files.is_folder(path)).collect();
    folders.sort();
    folders.dedup();
    // DeepSpeed puts its own state into checkpoint-N/global_stepN: that makes checkpoint-N no run
    let has_weights = |path: &str| weights_in(files, path).is_some();
    let is_checkpoint = has_weights(run) && !folders.iter().any(|(_, path)| has_weights(path));
    if is_checkpoint { Vec::new() } else { folders }
}

/// What is not a run folder: it must be good, or the user hears why.
fn open_named(files: &Files, path: &str, adapter: Option<&str>) -> Maybe<Checkpoint> {
    if files.is_folder(path) && weights_in(files, path).is_none() && adapter.is_none() {
        let mut names: Vec<_> = files.names(path).collect();
        names.dedup();
        let inner = names.iter().map(|name| format!("{path}/{name}"));
        let runs: Vec<_> = inner.filter(|inner| !numbered(files, inner).is_empty()).collect();
        if !runs.is_empty() {
            return Err(Error::new(ErrorKind::Input, "is not a run itself, but holds runs")
                .file(path)
                .help(format!("give one of them: {}", runs.join(", ")))
                .into());
        }
    }
    Checkpoint::open(files, path, adapter)
}

/// What the run in the folder `root` logged: the states of all its checkpoints and its own, or else another log.
fn history(files: &Files, root: &str) -> Maybe<History> {
    let folders = numbered(files, root).into_iter().map(|(_, folder)| folder);
    let paths: Vec<_> =
        folders.chain([root.to_owned()]).map(|folder| join(&folder, "trainer_state.json")).collect();
    // all are asked for before the first unread one stops this
    let there = paths.iter().filter(|path| files.is_file(path));
    let read: Vec<_> = there.map(|path| (path, files.text(path))).collect();
    let mut states = Vec::new();
    for (path, text) in read {
        states.push(TrainerState::parse(text?).map_err(|error| error.file(path))?);
    }
    for path in ["trainer_log.jsonl", "logging.jsonl"].map(|log| join(root, log)) {
        if states.is_empty() && files.is_file(&path) {
            states = TrainerState::parse_lines(files.text(&path)?).map_err(|error| error.file(path))?;
        }
    }
    Ok(History::new(states))
}
