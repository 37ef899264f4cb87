//! From the paths that the user named to checkpoints: run folders are searched, everything else is taken as it is.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind};
use crate::files::{Files, Kind, Maybe, Stop, all, folders, is_file, is_folder, join, last, parent, told};
use crate::format::{foreign, stem, training};
use crate::merge::report::REPORT;
use crate::run::checkpoint::{Checkpoint, check_adapter, named_adapters};
use crate::run::readers::{OpenOptions, Readers};
use crate::run::step::{BARE, file_row, folder_row, step_of_folder};
use crate::run::weights::{ITS_CONFIG, REST, broken_link, weights_in};
use crate::text::escape::shell_word;

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
        let mut inside = Vec::new();
        if is_folder(files, path)? {
            inside = numbered(files, path)?;
            if inside.is_empty() && weights_in(files, path)?.is_none() {
                inside = numbered_files(files, path)?;
            }
        }
        if inside.is_empty() {
            let checkpoints = vec![open_named(files, readers, path, options)?];
            return Ok(Found { checkpoints, ..Found::default() });
        }
        search(files, readers, path, inside, options)
    };
    let mut found = Found { searched: true, ..Found::default() };
    let mut seen: Vec<(String, String)> = Vec::new();
    let mut twice = Vec::new();
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
                Ok(at) => twice.push((checkpoint.name, seen[at].1.clone())),
                Err(at) => {
                    seen.insert(at, (place, checkpoint.name.clone()));
                    for note in &checkpoint.notes {
                        if !found.notes.contains(note) {
                            found.notes.push(note.clone());
                        }
                    }
                    found.checkpoints.push(checkpoint);
                }
            }
        }
    }
    found.notes.extend(counted_once(&twice));
    if options.adapter.is_none() {
        found.notes.extend(other_adapters(files, &found.checkpoints)?);
    }
    if found.checkpoints.is_empty() {
        let error = Error::new(ErrorKind::Input, "no checkpoint was named");
        return Err(error.help("give a run folder or checkpoints").into());
    }
    Ok(found)
}

/// What to say of checkpoints that were named again, each with the name that it had before.
fn counted_once(twice: &[(String, String)]) -> Vec<String> {
    if let [(first, _), _, .., (last, _)] = twice {
        let count = twice.len();
        return vec![format!(
            "{count} checkpoints are named twice, from {first} to {last}; each counts once"
        )];
    }
    let each = twice.iter().map(|(name, first)| match name == first {
        true => format!("{name} is named twice; it counts once"),
        false => format!("{name} is the same checkpoint as {first}; it counts once"),
    });
    each.collect()
}

/// Say once which adapters inside the checkpoints are left alone.
fn other_adapters(files: &dyn Files, checkpoints: &[Checkpoint]) -> Maybe<Option<String>> {
    let folders = checkpoints.iter().filter_map(|checkpoint| checkpoint.folder.as_deref());
    let mut others = all(folders.map(|folder| named_adapters(files, folder)))?.concat();
    others.sort_unstable();
    others.dedup();
    Ok((!others.is_empty()).then(|| {
        format!(
            "other adapters in the checkpoints are left out: {} (choose one with --adapter)",
            others.join(", ")
        )
    }))
}

/// The folders in `run` that are named as checkpoints, by step; of those that are named in several ways, the ones of the
/// likeliest.
pub(crate) fn numbered(files: &dyn Files, run: &str) -> Maybe<Vec<(u64, String)>> {
    let names = files.list(run)?;
    let named = |name: &String| folder_row(name).map(|(row, step)| (row, step, join(run, name)));
    let named: Vec<_> = names.iter().filter_map(named).collect();
    let kinds = all(named.iter().map(|(.., path)| files.kind(path)))?;
    let mut rows = Vec::new();
    for (folder, kind) in named.into_iter().zip(kinds) {
        match kind {
            Kind::Folder => rows.push(folder),
            Kind::File(_) | Kind::Other => {}
            Kind::Missing => return Err(broken_link(folder.2).into()),
        }
    }
    rows.sort();
    // a merge of the run is no part of it, whatever it is called
    let are_merges = all(rows.iter().map(|(.., path)| is_file(files, &join(path, REPORT))))?;
    if are_merges.contains(&false) {
        let mut are_merges = are_merges.into_iter();
        rows.retain(|_| are_merges.next() == Some(false));
    }
    let first = rows.first().map(|(row, ..)| *row);
    let of_first = rows.into_iter().filter(|(row, ..)| Some(*row) == first);
    let mut folders: Vec<_> = of_first.map(|(_, step, path)| (step, path)).collect();
    // DeepSpeed puts its own state into checkpoint-N/global_stepN: that makes checkpoint-N no run; nor does a mere number
    if training::is_around(files, run)? {
        folders.clear();
    }
    if first == Some(BARE) || weights_in(files, run)?.is_some() {
        let with_weights = all(folders.iter().map(|(_, path)| weights_in(files, path)))?;
        if with_weights.iter().all(Option::is_none) {
            folders.clear();
        }
    }
    Ok(folders)
}

/// The files in `run` that are named as checkpoints, by step or epoch.
///
/// # Errors
/// [`ErrorKind::Input`] when they are named in several ways: what is counted would be mixed.
fn numbered_files(files: &dyn Files, run: &str) -> Maybe<Vec<(u64, String)>> {
    let names = files.list(run)?;
    let mut rows: Vec<_> = names
        .iter()
        .filter_map(|name| file_row(name).map(|(row, number)| (row, number, join(run, name))))
        .collect();
    rows.sort();
    let other = rows.iter().find(|(row, ..)| Some(row) != rows.first().map(|(row, ..)| row));
    if let (Some((.., one)), Some((.., other))) = (rows.first(), other) {
        let detail =
            format!("holds checkpoints that are named in two ways, as {} and {}", last(one), last(other));
        return Err(Error::new(ErrorKind::Input, detail)
            .file(run)
            .help(format!("name those of one kind: mwa merge {} … -o OUT", shell_word(one)))
            .into());
    }
    let kinds = all(rows.iter().map(|(.., path)| files.kind(path)))?;
    let mut found = Vec::new();
    for ((_, number, path), kind) in rows.into_iter().zip(kinds) {
        match kind {
            Kind::File(_) => found.push((number, path)),
            Kind::Missing => return Err(broken_link(path).into()),
            Kind::Folder | Kind::Other => {}
        }
    }
    Ok(found)
}

/// Open a checkpoint; of a folder that is named as one and has no weights it is told what it has.
fn open(files: &dyn Files, readers: &Readers, path: &str, options: &OpenOptions) -> Maybe<Checkpoint> {
    match Checkpoint::open(files, readers, path, options) {
        Err(Stop::Failed(error))
            if error.detail() == foreign::NOTHING && step_of_folder(last(path)).is_some() =>
        {
            Err(foreign::bare(&files.list(path)?).file(path).into())
        }
        opened => opened,
    }
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
    let open_logged = |((_, path), is_logged): (&(u64, String), bool)| {
        if is_folder(files, &join(path, "relora"))? {
            let detail = "was trained with ReLoRA: its adapters belong to different bases";
            return Err(Error::new(ErrorKind::Config, detail)
                .file(path)
                .help(
                    "checkpoints on both sides of a restart cannot be averaged; name checkpoints from between two restarts yourself",
                )
                .into());
        }
        if any_logged && !is_logged {
            let detail = "has no trainer_state.json, so its save was interrupted";
            return Ok(Err(Error::new(ErrorKind::Input, detail).file(path)));
        }
        match open(files, readers, path, options) {
            Ok(checkpoint) => Ok(Ok(checkpoint)),
            // what the system refuses says nothing of the checkpoint, and what cannot be told apart is for the user to tell; what
            // lacks a file stops a merge that may want it
            Err(Stop::Failed(error))
                if lacks(&error) || is_content(&error, is_folder(files, path)?.then_some(path)) =>
            {
                Ok(Err(error))
            }
            Err(stop) => Err(stop),
        }
    };
    let opened = all(folders.iter().zip(logged).map(open_logged))?;
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
    found.notes.extend(ignored(files, run, &folders)?);
    if found.checkpoints.is_empty() {
        let first = found.broken.into_iter().map(|(_, error)| error).next();
        return Err(first.expect("search() is given folders, and each is opened or broken").into());
    }
    Ok(found)
}

/// Whether a file of a checkpoint is bad, rather than one unreadable.
fn is_content(error: &Error, folder: Option<&String>) -> bool {
    let is_of_folder = folder.is_some_and(|folder| error.at_file() == Some(folder));
    error.kind() != ErrorKind::Io && !is_of_folder
}

/// Whether a file of a checkpoint is missing, rather than bad: it may be on its way, or was moved by mistake.
pub(crate) fn lacks(error: &Error) -> bool {
    [REST, foreign::WEIGHTS, ITS_CONFIG].iter().any(|help| error.advice() == Some(help))
}

/// Whether the checkpoint has a log of its own.
fn is_logged(files: &dyn Files, readers: &Readers, path: &str) -> Maybe<bool> {
    let names = readers.logs.iter().filter(|kind| kind.is_in_checkpoints).flat_map(|kind| kind.names);
    Ok(all(names.map(|name| is_file(files, &join(path, name))))?.contains(&true))
}

/// Say which neighbours of the checkpoints are not taken, so that nobody has to wonder.
fn ignored(files: &dyn Files, run: &str, taken: &[(u64, String)]) -> Maybe<Vec<String>> {
    let mut notes = Vec::new();
    let are_files = matches!(files.kind(&taken[0].1)?, Kind::File(_));
    if !are_files && weights_in(files, run)?.is_some() {
        notes.push(format!(
            "{run}: the model saved in the run folder itself is left out; it usually repeats one of the checkpoints"
        ));
    }
    let ignored = files.list(run)?.into_iter().map(|name| {
        let path = join(run, &name);
        let is_taken = taken.iter().any(|(_, taken)| *taken == path);
        let is_weights = are_files && stem(&name).is_some() && foreign::state(&name).is_none();
        let is_ignored = !is_taken
            && (is_weights
                || is_folder(files, &path)?
                    && (name.contains("checkpoint") || weights_in(files, &path)?.is_some())
                    // a merge of the run is no part of it
                    && !is_file(files, &join(&path, REPORT))?);
        Ok(is_ignored.then_some(name))
    });
    let ignored: Vec<_> = all(ignored)?.into_iter().flatten().collect();
    if !ignored.is_empty() {
        notes.push(format!("{run}: left out, not named like checkpoints: {}", ignored.join(", ")));
    }
    Ok(notes)
}

/// A path that is not a run folder: it must be good, or the user hears why.
fn open_named(files: &dyn Files, readers: &Readers, path: &str, options: &OpenOptions) -> Maybe<Checkpoint> {
    let is_folder = is_folder(files, path)?;
    if is_folder && weights_in(files, path)?.is_none() {
        let runs = runs_in(files, path)?;
        if !runs.is_empty() {
            return Err(Error::new(ErrorKind::Input, "is not a run, but holds runs")
                .file(path)
                .help(format!("name one of them: {}", runs.join(", ")))
                .into());
        }
    }
    let checkpoint = open(files, readers, path, options)?;
    if is_folder && is_unfinished(files, readers, path)? {
        let detail = "has no trainer_state.json, though its neighbours have: its save was interrupted";
        return Err(Error::new(ErrorKind::Input, detail).file(path).help("leave it out").into());
    }
    Ok(checkpoint)
}

/// The run folders in a folder.
fn runs_in(files: &dyn Files, path: &str) -> Maybe<Vec<String>> {
    let inner = folders(files, files.list(path)?.iter().map(|name| join(path, name)))?;
    let is_run = all(inner.iter().map(|inner| Ok(!numbered(files, inner)?.is_empty())))?;
    Ok(inner.into_iter().zip(is_run).filter_map(|(inner, is_run)| is_run.then_some(inner)).collect())
}

/// Whether a checkpoint of a run lacks the log that its neighbours have, which is written last.
fn is_unfinished(files: &dyn Files, readers: &Readers, path: &str) -> Maybe<bool> {
    if step_of_folder(last(path)).is_none() || is_logged(files, readers, path)? {
        return Ok(false);
    }
    // the folder around it may be closed to the user, who named only this one
    let Some(siblings) = told(numbered(files, parent(path)))? else { return Ok(false) };
    let logged = all(siblings.iter().map(|(_, sibling)| is_logged(files, readers, sibling)))?;
    Ok(siblings.iter().any(|(_, sibling)| last(sibling) == last(path)) && logged.contains(&true))
}
