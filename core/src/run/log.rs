//! What the runs of some checkpoints logged.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Kind, Maybe, Stop, all, folders, is_file, is_folder, join, last, parent};
use crate::logs::history::History;
use crate::logs::kind::{Count, LogKind};
use crate::logs::metric::is_evaluation;
use crate::logs::series::{Log, Point, value_at};
use crate::logs::sqlite;
use crate::logs::table::{is_same_path, trailing_step};
use crate::logs::trainer::TrainerState;
use crate::run::checkpoint::Checkpoint;
use crate::run::readers::Readers;
use crate::run::search::numbered;
use crate::run::step::{BARE, folder_row};

/// The most bytes that a log may have: a million records of 250 bytes.
const LOG_LIMIT: u64 = 1 << 28;

/// The logs of all runs.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    /// By the run's folder, sorted.
    histories: Vec<(String, Result<History>)>,
    /// Every log that was read.
    pub(crate) found: Vec<FoundLog>,
    /// What to tell of logs that are not used, or say something else.
    pub(crate) notes: Vec<String>,
    /// The step at which each checkpoint's own log ends, by the checkpoint's folder, sorted.
    steps: Vec<(String, u64)>,
    /// Whether one of them counts epochs.
    by_epoch: bool,
}

/// A log of a run.
#[derive(Clone, Debug, Serialize)]
pub struct FoundLog {
    /// Its file, or the folder of several.
    pub path: String,
    /// What kind of log it is.
    pub kind: String,
    /// The metrics in it, sorted.
    pub metrics: Vec<String>,
}

impl Logs {
    /// Read the logs of the runs that the checkpoints belong to, or the one that the user names.
    pub(crate) fn read(
        files: &dyn Files,
        readers: &Readers,
        checkpoints: &[Checkpoint],
        from: Option<&str>,
    ) -> Maybe<Self> {
        let mut runs: Vec<_> = checkpoints.iter().map(Checkpoint::run).collect();
        runs.sort_unstable();
        runs.dedup();
        let mut logs = Self::default();
        if let (Some(from), [_, _, ..]) = (from, runs.as_slice()) {
            let detail = format!("is one log, but the checkpoints are of {} runs", runs.len());
            let help = "name checkpoints of one run, or leave out --metrics-from";
            return Err(Error::new(ErrorKind::Usage, detail).file(from).help(help).into());
        }
        let read = |run: &&str| {
            let of_run: Vec<_> = checkpoints.iter().filter(|it| it.run() == *run).collect();
            match sources(files, readers, run, &of_run) {
                // no error until somebody asks what was logged
                Err(Stop::Failed(error)) => Ok((of_run, vec![Err(error)])),
                read => Ok((of_run, read?)),
            }
        };
        for (run, (of_run, sources)) in runs.iter().zip(all(runs.iter().map(read))?) {
            let own = sources.iter().flatten().flat_map(|source| &source.states);
            let own = own.filter_map(|(folder, state)| Some((folder.clone()?, state.global_step?)));
            logs.steps.extend(own);
            logs.steps.sort_unstable();
            let sources = match from {
                Some(from) => vec![Ok(named(files, readers, from)?)],
                None => sources,
            };
            let history = logs.unite(sources, &of_run);
            logs.histories.push(((*run).to_owned(), history));
        }
        Ok(logs)
    }

    /// The history of a run: its best log, and of the others what that one lacks.
    fn unite(&mut self, sources: Vec<Result<Source>>, checkpoints: &[&Checkpoint]) -> Result<History> {
        let mut history: Option<(History, FoundLog, bool)> = None;
        for source in sources {
            let source = match source {
                Ok(source) => source.settled(checkpoints, &self.steps),
                Err(error) if history.is_none() => return Err(error),
                Err(error) => {
                    self.notes.push(format!("a log is left out: {error}"));
                    continue;
                }
            };
            let (found, by_epoch) = (source.found(), source.by_epoch());
            if source.states.is_empty() || found.metrics.is_empty() && history.is_some() {
                continue;
            }
            let new = History::new(source.states.into_iter().map(|(_, state)| state));
            match &mut history {
                None => {
                    self.by_epoch |= by_epoch;
                    history = Some((new, found.clone(), by_epoch));
                }
                Some((history, first, counts_epochs))
                    if *counts_epochs == by_epoch || source.kind.count == Count::Checkpoints =>
                {
                    if let Some((metric, step, here, there)) = history.supplement(&new) {
                        self.notes.push(format!(
                            "{metric} at step {step} is {here} in {}, but {there} in {}: the first is used (--metrics-from \
                             names one log)",
                            first.path, found.path
                        ));
                    }
                }
                Some((_, first, _)) => self.notes.push(format!(
                    "{} counts otherwise than {}, and is not used (--metrics-from names one log)",
                    found.path, first.path
                )),
            }
            if !found.metrics.is_empty() {
                self.found.push(found);
            }
        }
        Ok(history.map_or_else(|| History::new([]), |(history, ..)| history))
    }

    /// Of runs without a log, take what the files of the weights tell, now that the steps are known.
    pub(crate) fn take_told(&mut self, checkpoints: &[Checkpoint]) {
        for (run, history) in &mut self.histories {
            let is_logged = history.as_ref().map_or(true, |history| !history.names().is_empty());
            let of_run = checkpoints.iter().filter(|it| it.run() == *run && !it.told.is_empty());
            let state = |it: &Checkpoint| {
                let step = it.step?;
                let point =
                    |(metric, value): &(String, f64)| Point { metric: metric.clone(), step, value: *value };
                let log = Log::new(it.told.iter().map(point).collect());
                Some(TrainerState { global_step: Some(step), log, ..TrainerState::default() })
            };
            let mut states = of_run.filter_map(state).peekable();
            if !is_logged && states.peek().is_some() {
                *history = Ok(History::new(states));
            }
        }
    }

    /// By the run's folder, sorted.
    pub(crate) fn histories(&self) -> impl Iterator<Item = (&str, &Result<History>)> {
        self.histories.iter().map(|(run, history)| (run.as_str(), history))
    }

    /// The log of a run, as messages call the run.
    pub(crate) fn history(&self, name: &str) -> Result<&History> {
        let found = self.histories.iter().find(|(run, _)| shown(run) == name);
        found.expect("read() read the logs of all runs").1.as_ref().map_err(Clone::clone)
    }

    /// Whether a log counts epochs, as the names of its checkpoints do.
    pub(crate) fn count_epochs(&self) -> bool {
        self.by_epoch
    }

    /// The step at which the own log of the checkpoint in this folder ends.
    pub(crate) fn step(&self, folder: &str) -> Option<u64> {
        let at = self.steps.binary_search_by(|(other, _)| other.as_str().cmp(folder)).ok()?;
        Some(self.steps[at].1)
    }
}

/// How messages call the folder of a run.
pub(crate) fn shown(run: &str) -> &str {
    if run.is_empty() { "." } else { run }
}

/// A state, with the folder of the checkpoint that it lies in.
type State = (Option<String>, TrainerState);

/// All logs of one kind in one place.
struct Source {
    kind: LogKind,
    /// The first of its files.
    path: String,
    /// How many there are.
    files: usize,
    states: Vec<State>,
}

impl Source {
    fn by_epoch(&self) -> bool {
        matches!(self.kind.count, Count::Epochs | Count::EpochsMaybeFromZero)
    }

    fn found(&self) -> FoundLog {
        let logs = self.states.iter().flat_map(|(_, state)| state.log.iter());
        let mut metrics: Vec<_> = logs.map(|(name, _)| name.to_owned()).collect();
        metrics.sort_unstable();
        metrics.dedup();
        let path = match self.files {
            1 => self.path.clone(),
            more => format!("{} and {} more", self.path, more - 1),
        };
        FoundLog { path, kind: self.kind.what.to_owned(), metrics }
    }

    /// With the steps of the run's checkpoints: what is of one checkpoint gets its step, and what counts from 0 one more.
    fn settled(mut self, checkpoints: &[&Checkpoint], steps: &[(String, u64)]) -> Self {
        let step_of = |it: &Checkpoint| {
            let own = steps.iter().find(|(folder, _)| folder == it.home()).map(|(_, step)| *step);
            own.or(it.number).or(it.counted)
        };
        match self.kind.count {
            Count::Steps | Count::Epochs => {}
            Count::Checkpoints => {
                self.states.sort_by_key(|(_, state)| core::cmp::Reverse(state.generation));
                let mut whole = TrainerState::default();
                for (folder, state) in self.states.drain(..) {
                    let is_it = |it: &&&Checkpoint| match (&state.of, &folder) {
                        (Some(of), _) => {
                            is_same_path(of, it.home())
                                || trailing_step(of).is_some() && trailing_step(of) == it.number
                        }
                        (None, Some(folder)) => it.home() == folder,
                        (None, None) => false,
                    };
                    let Some(step) = checkpoints.iter().find(is_it).and_then(|it| step_of(it)) else {
                        continue;
                    };
                    whole.log.unite(&state.log.at(step));
                    whole.goals.extend(state.goals);
                }
                whole.measured = whole.log.iter().map(|(name, _)| name.to_owned()).collect();
                if whole.log.end().is_some() {
                    self.states.push((None, whole));
                }
            }
            Count::MaybeFromZero | Count::EpochsMaybeFromZero => {
                let logs = || self.states.iter().flat_map(|(_, state)| state.log.iter());
                let is_evaluated = logs().any(|(name, _)| is_evaluation(name));
                let series: Vec<_> = logs()
                    .filter(|(name, _)| !is_evaluated || is_evaluation(name))
                    .map(|(_, it)| it)
                    .collect();
                let hits = |by: u64| {
                    let wanted = checkpoints.iter().filter_map(|it| step_of(it)?.checked_sub(by));
                    wanted.filter(|step| series.iter().any(|it| value_at(it, *step).is_some())).count()
                };
                if hits(1) > hits(0) {
                    for (_, state) in &mut self.states {
                        state.log = core::mem::take(&mut state.log).later(1);
                    }
                }
            }
        }
        self
    }
}

/// The logs of a run, the best first.
fn sources(
    files: &dyn Files,
    readers: &Readers,
    run: &str,
    checkpoints: &[&Checkpoint],
) -> Maybe<Vec<Result<Source>>> {
    let mut folders: Vec<_> = if is_folder(files, run)? {
        numbered(files, run)?.into_iter().map(|(_, folder)| folder).collect()
    } else {
        Vec::new()
    };
    for checkpoint in checkpoints.iter().filter(|it| it.is_folder()).map(|it| it.home()) {
        if !folders.iter().any(|folder| folder == checkpoint) {
            folders.push(checkpoint.to_owned());
        }
    }
    // Lightning's checkpoints lie in a folder of their own beside its logs
    let around = (last(run) == "checkpoints").then(|| parent(run));
    let roots: Vec<_> = [run].into_iter().chain(around).collect();
    let each = readers.logs.iter().map(|kind| source(files, kind, &roots, &folders));
    Ok(all(each)?.into_iter().flatten().collect())
}

/// The logs of one kind; none if there is no such file.
fn source(
    files: &dyn Files,
    kind: &LogKind,
    roots: &[&str],
    checkpoints: &[String],
) -> Maybe<Option<Result<Source>>> {
    let places = kind.places.iter().map(|place| {
        let spread = |checkpoint: Option<&String>, folder: &str, pattern| {
            let places = spread(files, folder, pattern)?.into_iter();
            Ok(places.map(|place| (checkpoint.cloned(), place)).collect::<Vec<_>>())
        };
        Ok(match place.strip_prefix('@') {
            Some(inner) => {
                let inner = inner.trim_start_matches('/');
                all(checkpoints.iter().map(|folder| spread(Some(folder), folder, inner)))?.concat()
            }
            None => all(roots.iter().map(|root| spread(None, root, place)))?.concat(),
        })
    });
    let places = all(places)?.concat();
    let texts = all(places.iter().map(|(_, folder)| texts(files, kind, folder)))?;
    let mut found = Source { kind: *kind, path: String::new(), files: 0, states: Vec::new() };
    let mut run = None;
    for ((checkpoint, place), texts) in places.iter().zip(texts) {
        for (path, bytes) in texts {
            let read = match (kind.read)(&path, &bytes) {
                Ok(read) => read,
                Err(error) => return Ok(Some(Err(explained(error.file(path), kind)))),
            };
            if read.is_empty() {
                continue;
            }
            let own = place.split("/metrics").next().unwrap_or(place);
            if kind.is_of_one_run() && run.replace(own).is_some_and(|other| other != own) {
                let detail = format!("is not the only {} run here: they are not told apart", kind.what);
                let help = format!("name one of them: --metrics-from {own}");
                return Ok(Some(Err(Error::new(ErrorKind::Metric, detail).file(own).help(help))));
            }
            if found.files == 0 {
                found.path = path;
            }
            found.files += 1;
            found.states.extend(read.into_iter().map(|state| (checkpoint.clone(), state)));
        }
    }
    Ok((found.files > 0).then_some(Ok(found)))
}

/// The log that the user names: a file, or a folder with logs.
fn named(files: &dyn Files, readers: &Readers, from: &str) -> Maybe<Source> {
    let nothing = |what: &str| {
        let mut kinds: Vec<_> = readers.logs.iter().map(|kind| kind.what).collect();
        kinds.dedup();
        Error::new(ErrorKind::Metric, format!("{what} no log that is read here"))
            .file(from)
            .help(format!("what is read: {}; a table goes to --metrics-file", kinds.join(", ")))
    };
    if is_folder(files, from)? {
        let (root, is_wanted) = around(from);
        let inner: Vec<_> = numbered(files, root)?.into_iter().map(|(_, folder)| folder).collect();
        for kind in readers.logs.iter().filter(|kind| is_wanted(kind)) {
            if let Some(found) = source(files, kind, &[root], &inner)? {
                return Ok(found?);
            }
        }
        return Err(nothing("holds").into());
    }
    // a run of a database is named behind `#`
    let file = from.rsplit_once('#').map(|(file, _)| file);
    let file = match file {
        Some(file) if !is_file(files, from)? => file,
        _ => from,
    };
    if !is_file(files, file)? {
        let error = Error::new(ErrorKind::Input, "does not exist").file(from);
        return Err(error.help("give a log, or a folder with logs, to --metrics-from").into());
    }
    let bytes = crate::files::bytes(files, file, LOG_LIMIT)?;
    at_rest(files, file, &bytes)?;
    let claims = |kind: &&LogKind| kind.claims(last(file));
    let others = readers.logs.iter().filter(|kind| !claims(kind));
    let mut failed = None;
    for kind in readers.logs.iter().filter(claims).chain(others) {
        match (kind.read)(from, &bytes) {
            // what names no checkpoint is of none, here
            Ok(read) if kind.count == Count::Checkpoints && read.iter().all(|state| state.of.is_none()) => {}
            Ok(read) if read.iter().any(|state| state.log.end().is_some()) => {
                let states = read.into_iter().map(|state| (None, state)).collect();
                return Ok(Source { kind: *kind, path: from.to_owned(), files: 1, states });
            }
            Err(error) if claims(&kind) && failed.is_none() => failed = Some(error.file(from)),
            _ => {}
        }
    }
    Err(failed.unwrap_or_else(|| nothing("is")).into())
}

/// Where the places of logs begin for a folder that the user names, and which kinds are meant.
fn around(folder: &str) -> (&str, fn(&LogKind) -> bool) {
    match last(folder) {
        "mlruns" => (parent(folder), |kind| kind.what == LogKind::MLFLOW.what),
        "wandb" => (parent(folder), |kind| kind.what == LogKind::WANDB.what),
        _ => (folder, |_| true),
    }
}

/// All logs in a file or a folder, as far as they can be read.
pub(crate) fn found(files: &dyn Files, readers: &Readers, path: &str) -> Maybe<Vec<FoundLog>> {
    if is_folder(files, path)? {
        let (root, is_wanted) = around(path);
        let sources = sources(files, readers, root, &[])?;
        let wanted = sources.into_iter().flatten().filter(|source| is_wanted(&source.kind));
        let found = wanted.map(|source| source.found());
        return Ok(found.filter(|log| !log.metrics.is_empty()).collect());
    }
    match named(files, readers, path) {
        Ok(source) => Ok(vec![source.found()]),
        Err(Stop::Failed(error)) if error.kind() != ErrorKind::Io => Ok(Vec::new()),
        Err(stop) => Err(stop),
    }
}

/// The folders that a pattern of folders means, from `folder` on: `*` is any that is no checkpoint.
fn spread(files: &dyn Files, folder: &str, pattern: &str) -> Maybe<Vec<String>> {
    let mut places = folders(files, [folder.to_owned()])?;
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        // the last is a link to one of the others
        let is_wanted = |name: &&String| {
            folder_row(name).is_none_or(|(row, _)| row == BARE)
                && !name.starts_with('.')
                && *name != "latest-run"
        };
        let inner = |place: &String| match part {
            "*" => Ok(files.list(place)?.iter().filter(is_wanted).map(|name| join(place, name)).collect()),
            part => Ok(vec![join(place, part)]),
        };
        places = folders(files, all(places.iter().map(inner))?.concat())?;
    }
    Ok(places)
}

/// Path and bytes of each log of this kind in a folder.
fn texts(files: &dyn Files, kind: &LogKind, folder: &str) -> Maybe<Vec<(String, Vec<u8>)>> {
    let mut paths = Vec::new();
    for name in kind.names {
        match name.contains('*') {
            false => paths.push(join(folder, name)),
            true if !is_folder(files, folder)? => {}
            true => {
                let names = files
                    .list(folder)?
                    .into_iter()
                    .filter(|name| kind.claims(name) && !kind.names.contains(&name.as_str()));
                paths.extend(names.map(|name| join(folder, &name)));
            }
        }
    }
    paths.sort_unstable();
    paths.dedup();
    let read = |path: String| {
        let Kind::File(size) = files.kind(&path)? else {
            // a pipe or a device under the very name of a log is refused
            if kind.names.contains(&last(&path)) {
                is_file(files, &path)?;
            }
            return Ok(None);
        };
        // what only looks like a log need not be one
        if size > LOG_LIMIT && !kind.names.contains(&last(&path)) {
            return Ok(None);
        }
        let bytes = crate::files::bytes(files, &path, LOG_LIMIT)?.into_owned();
        at_rest(files, &path, &bytes)?;
        Ok(Some((path, bytes)))
    };
    Ok(all(paths.into_iter().map(read))?.into_iter().flatten().collect())
}

/// Refuse a database of which a part lies in another file, because a program has it open or was killed.
fn at_rest(files: &dyn Files, path: &str, bytes: &[u8]) -> Maybe<()> {
    if !bytes.starts_with(sqlite::START) {
        return Ok(());
    }
    for ending in ["-wal", "-journal"] {
        let beside = format!("{path}{ending}");
        if let Kind::File(1..) = files.kind(&beside)? {
            let detail = format!("is not all of the database: {} lies beside it", last(&beside));
            let help = format!("end what writes to it, or copy it whole: sqlite3 {path} '.backup copy.db'");
            return Err(Error::new(ErrorKind::Metric, detail).file(path).help(help).into());
        }
    }
    Ok(())
}

fn explained(error: Error, kind: &LogKind) -> Error {
    if !kind.is_in_checkpoints {
        return error;
    }
    error.help("its save may have been cut short: move that checkpoint out of the run, or restore the file")
}
