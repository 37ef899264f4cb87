//! From what the user named to a list of checkpoints: run folders are searched, everything else is taken as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use mwa::checkpoint::step_of_folder;
use mwa::{Error, ErrorKind, History, Result, TrainerState};

use crate::find::checkpoint::{Checkpoint, named_adapters, read_text, weights_in};
use crate::io::disk::io_error;

/// The checkpoints that the user named, in the order given, those of a run by step.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// Whether every checkpoint comes from searching run folders, so that the usual last ten may be chosen.
    pub(crate) searched: bool,
    /// What was left out and why.
    pub(crate) notes: Vec<String>,
}

/// Find the checkpoints behind `paths`; `adapter` names one inside multi-adapter checkpoints.
pub(crate) fn find(paths: &[PathBuf], adapter: Option<&str>) -> Result<Found> {
    if let Some(name) = adapter {
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(Error::new(ErrorKind::Usage, format!("`{name}` is no adapter's name"))
                .help("--adapter takes the name of a folder inside the checkpoints"));
        }
    }
    let mut found = Found { checkpoints: Vec::new(), searched: true, notes: Vec::new() };
    let mut seen: BTreeMap<PathBuf, String> = BTreeMap::new();
    for path in paths {
        let checkpoints = if path.is_dir() && !numbered(path)?.is_empty() {
            search(path, adapter, &mut found.notes)?
        } else {
            found.searched = false;
            vec![open_named(path, adapter)?]
        };
        for checkpoint in checkpoints {
            let place = fs::canonicalize(&checkpoint.path).unwrap_or_else(|_| checkpoint.path.clone());
            if let Some(first) = seen.get(&place) {
                let name = &checkpoint.name;
                found.notes.push(if name == first {
                    format!("{name} is named twice; it counts once")
                } else {
                    format!("{name} is the same checkpoint as {first}; it counts once")
                });
                continue;
            }
            seen.insert(place, checkpoint.name.clone());
            found.notes.extend(checkpoint.notes.iter().cloned());
            found.checkpoints.push(checkpoint);
        }
    }
    if adapter.is_none() {
        found.notes.extend(other_adapters(&found.checkpoints));
    }
    if found.checkpoints.is_empty() {
        return Err(
            Error::new(ErrorKind::Input, "no checkpoint was named").help("give a run folder or checkpoints")
        );
    }
    Ok(found)
}

/// Say once which adapters inside the checkpoints are left alone.
fn other_adapters(checkpoints: &[Checkpoint]) -> Option<String> {
    let folders = checkpoints.iter().filter_map(|checkpoint| checkpoint.folder.as_deref());
    let others: BTreeSet<_> = folders.flat_map(named_adapters).collect();
    let others: Vec<_> = others.into_iter().collect();
    (!others.is_empty()).then(|| {
        format!(
            "other adapters inside the checkpoints are left alone: {} (choose one with --adapter)",
            others.join(", ")
        )
    })
}

/// The folders in `run` that are named as checkpoints, by step.
fn numbered(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let failed = |error: std::io::Error| io_error("cannot list it", &error).file(run.display().to_string());
    let mut folders = Vec::new();
    for entry in fs::read_dir(run).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let step = path.file_name().and_then(|name| step_of_folder(&name.to_string_lossy()));
        if let (Some(step), true) = (step, path.is_dir()) {
            folders.push((step, path));
        }
    }
    folders.sort();
    // DeepSpeed puts its own state into checkpoint-N/global_stepN: that makes checkpoint-N no run
    let is_checkpoint =
        weights_in(run).is_some() && folders.iter().all(|(_, path)| weights_in(path).is_none());
    Ok(if is_checkpoint { Vec::new() } else { folders })
}

fn search(run: &Path, adapter: Option<&str>, notes: &mut Vec<String>) -> Result<Vec<Checkpoint>> {
    let folders = numbered(run)?;
    let logged = folders.iter().filter(|(_, path)| path.join("trainer_state.json").is_file()).count();
    let mut checkpoints = Vec::new();
    let mut first_error = None;
    for (_, path) in &folders {
        if path.join("relora").is_dir() {
            return Err(Error::new(ErrorKind::Config, "was trained with ReLoRA: its adapters belong to different bases")
                .file(path.display().to_string())
                .help("checkpoints on both sides of a restart cannot be averaged; name those of one stretch yourself"));
        }
        if logged > 0 && !path.join("trainer_state.json").is_file() {
            notes.push(format!(
                "{} is left out: it has no trainer_state.json, so its save was interrupted",
                path.display()
            ));
            continue;
        }
        match Checkpoint::open(path, adapter) {
            Ok(checkpoint) => checkpoints.push(checkpoint),
            Err(error) => {
                notes.push(format!("{} is left out: {error}", path.display()));
                first_error.get_or_insert(error);
            }
        }
    }
    note_ignored(run, notes);
    match (checkpoints.is_empty(), first_error) {
        (true, Some(error)) => Err(error),
        (true, None) => {
            Err(Error::new(ErrorKind::Input, "holds no finished checkpoint").file(run.display().to_string()))
        }
        (false, _) => Ok(checkpoints),
    }
}

/// Say which neighbours of the checkpoints are not taken, so that nobody has to wonder.
fn note_ignored(run: &Path, notes: &mut Vec<String>) {
    if weights_in(run).is_some() {
        notes.push(format!(
            "{}: the model saved in the run folder itself is left out; it usually repeats one of the checkpoints",
            run.display()
        ));
    }
    let entries = fs::read_dir(run).into_iter().flatten().flatten();
    let mut ignored: Vec<_> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| step_of_folder(name).is_none())
        .filter(|name| name.contains("checkpoint") || weights_in(&run.join(name)).is_some())
        .collect();
    ignored.sort();
    if !ignored.is_empty() {
        notes.push(format!("{}: left out, not named as checkpoints: {}", run.display(), ignored.join(", ")));
    }
}

/// A path that is not a run folder: it must be good, or the user hears why.
fn open_named(path: &Path, adapter: Option<&str>) -> Result<Checkpoint> {
    if path.is_dir() && weights_in(path).is_none() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut runs: Vec<_> =
            entries.filter(|inner| inner.is_dir() && numbered(inner).is_ok_and(|n| !n.is_empty())).collect();
        runs.sort();
        if !runs.is_empty() {
            let runs: Vec<_> = runs.iter().map(|run| run.display().to_string()).collect();
            return Err(Error::new(ErrorKind::Input, "is not a run itself, but holds runs")
                .file(path.display().to_string())
                .help(format!("name one of them: {}", runs.join(", "))));
        }
    }
    let checkpoint = Checkpoint::open(path, adapter)?;
    let unfinished = checkpoint.folder.is_some() && !path.join("trainer_state.json").is_file();
    let siblings =
        path.parent().filter(|_| unfinished).map(numbered).transpose().ok().flatten().unwrap_or_default();
    let is_listed = siblings.iter().any(|(_, sibling)| sibling.file_name() == path.file_name());
    if is_listed && siblings.iter().any(|(_, sibling)| sibling.join("trainer_state.json").is_file()) {
        return Err(Error::new(
            ErrorKind::Input,
            "has no trainer_state.json, though its neighbours have: its save was interrupted",
        )
        .file(path.display().to_string())
        .help("leave it out"));
    }
    Ok(checkpoint)
}

/// What the run in the folder `root` logged: the states of all its checkpoints and its own, or else another log.
pub(crate) fn history(root: &Path) -> Result<History> {
    let mut states = Vec::new();
    let folders = numbered(root)?.into_iter().map(|(_, folder)| folder);
    for path in folders.chain([root.to_owned()]).map(|folder| folder.join("trainer_state.json")) {
        if path.is_file() {
            states.push(TrainerState::parse(&read_text(&path)?).map_err(|error| {
                error
                    .file(path.display().to_string())
                    .help("its save may have been cut short: move that checkpoint out of the run, or restore the file")
            })?);
        }
    }
    for path in ["trainer_log.jsonl", "logging.jsonl"].map(|log| root.join(log)) {
        if states.is_empty() && path.is_file() {
            states = TrainerState::parse_lines(&read_text(&path)?)
                .map_err(|error| error.file(path.display().to_string()))?;
        }
    }
    Ok(History::new(states))
}
