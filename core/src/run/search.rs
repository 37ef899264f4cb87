//! From the paths that the user named to checkpoints: run folders are searched, everything else is taken as it is.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind};
use crate::files::{Files, Kind, Maybe, Stop, all, is_file, is_folder, join, last, parent};
use crate::run::checkpoint::{Checkpoint, check_adapter, named_adapters, weights_in};
use crate::run::readers::{OpenOptions, Readers};
use crate::run::step::step_of_folder;

/// What the paths lead to.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order given, those of a run by step.
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// Whether every checkpoint comes from searching run folders.
    pub(crate) searched: bool,
    /// What was left out and why.
    pub(crate) notes: Vec<String>,
    /// Checkpoints of a searched run that cannot be opened.
    pub(crate) broken: Vec<(String, Error)>,
}

/// Find the checkpoints behind `paths`.
pub(crate) fn find(
    files: &dyn Files,
    readers: &Readers,
    paths: &[String],
    options: &OpenOptions,
) -> Maybe<Found> {
    options.adapter.as_deref().map_or(Ok(()), check_adapter)?;
    let each = |path: &String| {
        let folders = if is_folder(files, path)? { numbered(files, path)? } else { Vec::new() };
        if folders.is_empty() {
            let checkpoints = vec![open_named(files, readers, path, options)?];
            return Ok(Found { checkpoints, ..Found::default() });
        }
        search(files, readers, path, folders, options)
    };
    let mut found = Found { searched: true, ..Found::default() };
    let mut seen: Vec<(String, String)> = Vec::new();
    let parts = all(paths.iter().map(each))?;
    let names = parts.iter().flat_map(|part| &part.checkpoints).map(|checkpoint| &checkpoint.name);
    let mut places = all(names.map(|name| files.identity(name)))?.into_iter();
    for part in parts {
        found.searched &= part.searched;
        found.notes.extend(part.notes);
        found.broken.extend(part.broken);
        for checkpoint in part.checkpoints {
            let place = places.next().expect("one for each");
            match seen.binary_search_by(|(other, _)| other.cmp(&place)) {
                Ok(at) => {
                    let (name, first) = (&checkpoint.name, &seen[at].1);
                    found.notes.push(if name == first {
                        format!("{name} is named twice; it counts once")
                    } else {
                        format!("{name} is the same checkpoint as {first}; it counts once")
                    });
                }
                Err(at) => {
                    seen.insert(at, (place, checkpoint.name.clone()));
                    found.notes.extend(checkpoint.notes.iter().cloned());
                    found.checkpoints.push(checkpoint);
                }
            }
        }
    }
    found.notes.extend(left_beside(&found.checkpoints));
    if options.adapter.is_none() {
        found.notes.extend(other_adapters(files, &found.checkpoints)?);
    }
    if found.checkpoints.is_empty() {
        let error = Error::new(ErrorKind::Input, "no checkpoint was named");
        return Err(error.help("give a run folder or checkpoints").into());
    }
    Ok(found)
}

/// Say once which files beside the weights are left out, so that nothing that was trained is lost in silence.
fn left_beside(checkpoints: &[Checkpoint]) -> Option<String> {
    let mut names: Vec<_> = checkpoints.iter().flat_map(|checkpoint| &checkpoint.beside).collect();
    names.sort_unstable();
    names.dedup();
    let shown: Vec<_> = names.iter().take(5).map(|name| name.as_str()).collect();
    let more = if names.len() > shown.len() { ", …" } else { "" };
    (!names.is_empty()).then(|| {
        format!(
            "left out, beside the weights that are taken: {}{more}; what of these was trained is merged by naming the \
             files themselves",
            shown.join(", ")
        )
    })
}

/// Say once which adapters inside the checkpoints are left alone.
fn other_adapters(files: &dyn Files, checkpoints: &[Checkpoint]) -> Maybe<Option<String>> {
    let folders = checkpoints.iter().filter_map(|checkpoint| checkpoint.folder.as_deref());
    let mut others = all(folders.map(|folder| named_adapters(files, folder)))?.concat();
    others.sort_unstable();
    others.dedup();
    Ok((!others.is_empty()).then(|| {
        format!(
            "other adapters inside the checkpoints are left alone: {} (choose one with --adapter)",
            others.join(", ")
        )
    }))
}

/// The folders in `run` that are named as checkpoints, by step.
pub(crate) fn numbered(files: &dyn Files, run: &str) -> Maybe<Vec<(u64, String)>> {
    let mut folders = Vec::new();
    for name in files.list(run)? {
        let Some(step) = step_of_folder(&name) else { continue };
        let path = join(run, &name);
        match files.kind(&path)? {
            Kind::Folder => folders.push((step, path)),
            Kind::File(_) | Kind::Other => {}
            Kind::Missing => {
                return Err(Error::new(ErrorKind::Io, "is a link to something that is not there")
                    .file(path)
                    .help("mount what it leads to, or remove the link")
                    .into());
            }
        }
    }
    folders.sort();
    // DeepSpeed puts its own state into checkpoint-N/global_stepN: that makes checkpoint-N no run
    if weights_in(files, run)?.is_some() {
        let with_weights = all(folders.iter().map(|(_, path)| weights_in(files, path)))?;
        if with_weights.iter().all(Option::is_none) {
            folders.clear();
        }
    }
    Ok(folders)
}

/// Open the checkpoints of a run.
fn search(
    files: &dyn Files,
    readers: &Readers,
    run: &str,
    folders: Vec<(u64, String)>,
    options: &OpenOptions,
) -> Maybe<Found> {
    let logged = all(folders.iter().map(|(_, path)| is_logged(files, readers, path)))?;
    let any_logged = logged.contains(&true);
    let mut found = Found { searched: true, ..Found::default() };
    let open = |((_, path), is_logged): (&(u64, String), bool)| {
        if is_folder(files, &join(path, "relora"))? {
            let detail = "was trained with ReLoRA: its adapters belong to different bases";
            return Err(Error::new(ErrorKind::Config, detail)
                .file(path)
                .help(
                    "checkpoints on both sides of a restart cannot be averaged; name those of one stretch yourself",
                )
                .into());
        }
        if any_logged && !is_logged {
            let detail = "has no trainer_state.json, so its save was interrupted";
            return Ok(Err(Error::new(ErrorKind::Input, detail).file(path)));
        }
        match Checkpoint::open(files, readers, path, options) {
            Ok(checkpoint) => Ok(Ok(checkpoint)),
            Err(Stop::Failed(error)) if error.kind() != ErrorKind::Io => Ok(Err(error)),
            // what the system refuses says nothing of the checkpoint
            Err(stop) => Err(stop),
        }
    };
    let opened = all(folders.iter().zip(logged).map(open))?;
    for ((_, path), opened) in folders.iter().zip(opened) {
        match opened {
            Ok(checkpoint) => found.checkpoints.push(checkpoint),
            Err(error) => {
                let why = if error.at_file() == Some(path) {
                    format!("{path} is left out: it {}", error.detail())
                } else {
                    format!("{path} is left out: {error}")
                };
                found.notes.push(why);
                found.broken.push((path.clone(), error));
            }
        }
    }
    found.notes.extend(ignored(files, run)?);
    if found.checkpoints.is_empty() {
        let first = found.broken.into_iter().map(|(_, error)| error).next();
        return Err(first.expect("search() is given folders, and each is opened or broken").into());
    }
    Ok(found)
}

/// Whether the checkpoint has a log of its own.
fn is_logged(files: &dyn Files, readers: &Readers, path: &str) -> Maybe<bool> {
    let names = readers.logs.iter().filter(|kind| kind.is_in_checkpoints).flat_map(|kind| kind.names);
    for name in names {
        if is_file(files, &join(path, name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Say which neighbours of the checkpoints are not taken, so that nobody has to wonder.
fn ignored(files: &dyn Files, run: &str) -> Maybe<Vec<String>> {
    let mut notes = Vec::new();
    if weights_in(files, run)?.is_some() {
        notes.push(format!(
            "{run}: the model saved in the run folder itself is left out; it usually repeats one of the checkpoints"
        ));
    }
    let mut ignored = Vec::new();
    for name in files.list(run)? {
        let path = join(run, &name);
        if step_of_folder(&name).is_none()
            && is_folder(files, &path)?
            && (name.contains("checkpoint") || weights_in(files, &path)?.is_some())
        {
            ignored.push(name);
        }
    }
    if !ignored.is_empty() {
        notes.push(format!("{run}: left out, not named as checkpoints: {}", ignored.join(", ")));
    }
    Ok(notes)
}

/// A path that is not a run folder: it must be good, or the user hears why.
fn open_named(files: &dyn Files, readers: &Readers, path: &str, options: &OpenOptions) -> Maybe<Checkpoint> {
    let is_folder = is_folder(files, path)?;
    if is_folder && weights_in(files, path)?.is_none() {
        let runs = runs_in(files, path)?;
        if !runs.is_empty() {
            return Err(Error::new(ErrorKind::Input, "is not a run itself, but holds runs")
                .file(path)
                .help(format!("name one of them: {}", runs.join(", ")))
                .into());
        }
    }
    let checkpoint = Checkpoint::open(files, readers, path, options)?;
    if is_folder && is_unfinished(files, readers, path)? {
        let detail = "has no trainer_state.json, though its neighbours have: its save was interrupted";
        return Err(Error::new(ErrorKind::Input, detail).file(path).help("leave it out").into());
    }
    Ok(checkpoint)
}

/// The run folders in a folder.
fn runs_in(files: &dyn Files, path: &str) -> Maybe<Vec<String>> {
    let mut runs = Vec::new();
    for name in files.list(path)? {
        let inner = join(path, &name);
        if is_folder(files, &inner)? && !numbered(files, &inner)?.is_empty() {
            runs.push(inner);
        }
    }
    Ok(runs)
}

/// Whether a checkpoint of a run lacks the log that its neighbours have, which is written last.
fn is_unfinished(files: &dyn Files, readers: &Readers, path: &str) -> Maybe<bool> {
    if step_of_folder(last(path)).is_none() || is_logged(files, readers, path)? {
        return Ok(false);
    }
    let siblings = match numbered(files, parent(path)) {
        Ok(siblings) => siblings,
        Err(Stop::Later) => return Err(Stop::Later),
        // the folder around it may be closed to the user, who named only this one
        Err(Stop::Failed(_)) => return Ok(false),
    };
    let logged = all(siblings.iter().map(|(_, sibling)| is_logged(files, readers, sibling)))?;
    Ok(siblings.iter().any(|(_, sibling)| last(sibling) == last(path)) && logged.contains(&true))
}
