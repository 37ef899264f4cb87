//! What the runs of some checkpoints logged.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::files::{Files, Maybe, Stop, all, is_file, is_folder, join};
use crate::logs::history::History;
use crate::logs::kind::LogKind;
use crate::logs::series::{Log, Point};
use crate::logs::trainer::TrainerState;
use crate::run::checkpoint::Checkpoint;
use crate::run::readers::Readers;
use crate::run::search::numbered;

/// The most bytes that a log may have: a million records of 250 bytes.
const LOG_LIMIT: u64 = 1 << 28;

/// The logs of all runs.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    /// By the run's folder, sorted.
    histories: Vec<(String, Result<History>)>,
    /// The step at which each checkpoint's own log ends, by the checkpoint's folder, sorted.
    steps: Vec<(String, u64)>,
    /// Whether one of them counts epochs.
    by_epoch: bool,
}

impl Logs {
    /// Read the logs of the runs that the checkpoints belong to.
    pub(crate) fn read(files: &dyn Files, readers: &Readers, checkpoints: &[Checkpoint]) -> Maybe<Self> {
        let mut runs: Vec<_> = checkpoints.iter().map(Checkpoint::run).collect();
        runs.sort_unstable();
        runs.dedup();
        let mut logs = Self::default();
        let read = |run: &&str| {
            let of_run = checkpoints.iter().filter(|it| it.run() == *run && it.is_folder());
            match states(files, readers, run, of_run.map(Checkpoint::home)) {
                // no error until somebody asks what was logged
                Err(Stop::Failed(error)) => Ok(Err(error)),
                read => read,
            }
        };
        for (run, states) in runs.iter().zip(all(runs.iter().map(read))?) {
            let history = states.map(|(states, by_epoch)| {
                logs.by_epoch |= by_epoch;
                let own =
                    states.iter().filter_map(|(folder, state)| Some((folder.clone()?, state.global_step?)));
                logs.steps.extend(own);
                History::new(states.into_iter().map(|(_, state)| state))
            });
            logs.histories.push(((*run).to_owned(), history));
        }
        logs.steps.sort_unstable();
        Ok(logs)
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

/// What a run logged: the states of all its checkpoints and its own, or else another log; whether that counts epochs.
fn states<'a>(
    files: &dyn Files,
    readers: &Readers,
    run: &str,
    checkpoints: impl Iterator<Item = &'a str>,
) -> Maybe<Result<(Vec<State>, bool)>> {
    let mut folders: Vec<_> = if is_folder(files, run)? {
        numbered(files, run)?.into_iter().map(|(_, folder)| folder).collect()
    } else {
        Vec::new()
    };
    for checkpoint in checkpoints {
        if !folders.iter().any(|folder| folder == checkpoint) {
            folders.push(checkpoint.to_owned());
        }
    }
    let checkpoints = || folders.iter().map(|folder| (Some(folder.clone()), folder.clone()));
    for kind in readers.logs {
        let all_folders: Vec<_> = if kind.is_in_checkpoints {
            checkpoints().chain([(None, run.to_owned())]).collect()
        } else {
            vec![(None, run.to_owned())]
        };
        let texts = all(all_folders.iter().map(|(_, folder)| texts(files, kind, folder)))?;
        let mut states = Vec::new();
        for ((checkpoint, _), texts) in all_folders.iter().zip(texts) {
            for (path, bytes) in texts {
                match (kind.read)(&bytes) {
                    Ok(read) => states.extend(read.into_iter().map(|state| (checkpoint.clone(), state))),
                    Err(error) => return Ok(Err(explained(error.file(path), kind))),
                }
            }
        }
        if !states.is_empty() {
            return Ok(Ok((states, kind.by_epoch)));
        }
    }
    Ok(Ok((Vec::new(), false)))
}

/// Path and bytes of each log of this kind in a folder.
fn texts(files: &dyn Files, kind: &LogKind, folder: &str) -> Maybe<Vec<(String, Vec<u8>)>> {
    let mut paths = Vec::new();
    for name in kind.names {
        match name.contains('*') {
            false => paths.push(join(folder, name)),
            true if !is_folder(files, folder)? => {}
            true => {
                let names = files.list(folder)?.into_iter().filter(|name| kind.claims(name));
                paths.extend(names.map(|name| join(folder, &name)));
            }
        }
    }
    let read = |path: String| {
        if !is_file(files, &path)? {
            return Ok(None);
        }
        let bytes = crate::files::bytes(files, &path, LOG_LIMIT)?.into_owned();
        Ok(Some((path, bytes)))
    };
    Ok(all(paths.into_iter().map(read))?.into_iter().flatten().collect())
}

fn explained(error: Error, kind: &LogKind) -> Error {
    if !kind.is_in_checkpoints {
        return error;
    }
    error.help("its save may have been cut short: move that checkpoint out of the run, or restore the file")
}
