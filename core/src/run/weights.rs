//! Which files of a folder are a checkpoint's weights, by their names.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind};
use crate::files::{Files, Kind, Maybe, NO_FILE, is_file, is_folder, join, last, parent, text, told};
use crate::format::{STEMS, foreign, stem};
use crate::merge::report::{CONFIG, REPORT};
use crate::text::json::quoted;

/// What to do where some of several files are missing.
pub(crate) const REST: &str = "download or copy the rest of the checkpoint";

/// What to do where an adapter's config is.
pub(crate) const ITS_CONFIG: &str = "copy adapter_config.json from another checkpoint of the run";

/// The most bytes that a shard index may have: as many as the heads that it lists.
pub(crate) const INDEX_LIMIT: u64 = 100_000_000;

/// Where the weights of a folder are.
#[derive(Debug)]
pub(crate) enum Place {
    /// In one file.
    File(String),
    /// In the files that this index names.
    Index(String),
    /// In these files, all shards of one set that has no index.
    Shards(Vec<String>),
}

impl Place {
    /// Its path, or that of its first file.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::File(path) | Self::Index(path) => path,
            Self::Shards(paths) => &paths[0],
        }
    }
}

/// The weights of a folder under one of the names that programs look for.
pub(crate) fn weights_in(files: &dyn Files, folder: &str) -> Maybe<Option<Place>> {
    if !is_folder(files, folder)? {
        return Ok(None);
    }
    let names = files.list(folder)?;
    for stem in STEMS {
        for ending in [".safetensors", ".bin"] {
            let one = format!("{stem}{ending}");
            let index = format!("{one}.index.json");
            if is_there(files, folder, &names, &one)? {
                return Ok(Some(Place::File(join(folder, &one))));
            }
            if is_there(files, folder, &names, &index)? {
                return Ok(Some(Place::Index(join(folder, &index))));
            }
            let shards = shards(folder, &names, stem, ending)?;
            if !shards.is_empty() {
                return Ok(Some(Place::Shards(shards)));
            }
        }
    }
    Ok(None)
}

/// Whether a file lies there. What is listed and yet not there stops everything: it is no reason to take another file.
fn is_there(files: &dyn Files, folder: &str, names: &[String], name: &str) -> Maybe<bool> {
    if names.binary_search_by(|other| other.as_str().cmp(name)).is_err() {
        return Ok(false);
    }
    let path = join(folder, name);
    match files.kind(&path)? {
        Kind::File(_) => Ok(true),
        Kind::Folder => Ok(false),
        Kind::Other => Err(Error::new(ErrorKind::Input, NO_FILE).file(path).into()),
        Kind::Missing => Err(broken_link(path).into()),
    }
}

/// A link to something that is gone.
pub(crate) fn broken_link(path: String) -> Error {
    Error::new(ErrorKind::Io, "is a link to something that is not there")
        .file(path)
        .help("mount or download what it leads to, or remove the link")
}

/// All of `STEM-00001-of-00003.safetensors`, in order; none if there is no such file.
fn shards(folder: &str, names: &[String], stem: &str, ending: &str) -> Maybe<Vec<String>> {
    let parts = |name: &String| -> Option<(String, usize)> {
        let (_, count) =
            name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(ending)?.split_once("-of-")?;
        Some((join(folder, name), count.parse().ok()?))
    };
    let found: Vec<_> = names.iter().filter_map(parts).collect();
    match found.first() {
        Some((first, count)) if found.len() != *count => {
            let name = |number: usize| format!("{stem}-{number:05}-of-{count:05}{ending}");
            // a loop, which is smaller once compiled
            let mut number = 1;
            while names.binary_search(&name(number)).is_ok() {
                number += 1;
            }
            let missing = name(number);
            let detail = format!("is one of {count} shards, of which {missing} is not there");
            let error = Error::new(ErrorKind::Io, detail).file(first.as_str());
            Err(error.help(REST).into())
        }
        _ => Ok(found.into_iter().map(|(path, _)| path).collect()),
    }
}

/// Why a file by itself is no model, if it is one of several shards of one: its name says so, or the index beside it.
pub(crate) fn lone_shard(files: &dyn Files, path: &str) -> Maybe<Option<Error>> {
    let (folder, name) = (parent(path), last(path));
    let Some(own) = stem(name) else { return Ok(None) };
    let ending = &name[own.len()..];
    let is_read = [".safetensors", ".bin"].contains(&ending);
    let (of, help) = match numbered(own) {
        Some((_, "00001")) => return Ok(None),
        Some((stem, count)) => {
            // the folder may be closed to the user
            if let Some(names) = told(files.list(folder))? {
                shards(folder, &names, stem, ending)?;
            }
            let help = if is_read && STEMS.contains(&stem) { ITS_FOLDER } else { NAMED };
            (count.trim_start_matches('0'), help)
        }
        None if !is_read || STEMS.contains(&own) => return Ok(None),
        None => {
            let stem = if ending == ".bin" { "pytorch_model" } else { "model" };
            let index = join(folder, &format!("{stem}{ending}.index.json"));
            // one that is not there, or cannot be read, says nothing of this file
            let is_there = matches!(told(files.kind(&index))?, Some(Kind::File(_)));
            let index = if is_there { told(text(files, &index, INDEX_LIMIT))? } else { None };
            if !index.is_some_and(|index| index.contains(&quoted(name))) {
                return Ok(None);
            }
            ("several", ITS_FOLDER)
        }
    };
    let detail = format!("is one of {of} shards of a model, and no model by itself");
    Ok(Some(Error::new(ErrorKind::Input, detail).file(path).help(help)))
}

/// What to do with a shard.
const ITS_FOLDER: &str = "give the folder that it lies in";
const NAMED: &str = "name the shards as transformers does (model-00001-of-00002.safetensors), and give the folder that they lie in";

/// `model` and `00003` of `model-00001-of-00003`.
fn numbered(stem: &str) -> Option<(&str, &str)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|digit| digit.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some((stem, count))
}

/// The only file with weights among these names, whatever it is called.
pub(crate) fn lone(names: &[String]) -> Option<&str> {
    let mut weights = names.iter().filter(|name| stem(name).is_some() && foreign::state(name).is_none());
    let only = weights.next()?;
    weights.next().is_none().then_some(only)
}

/// The folders in a folder that have weights, or the folders in those, by their path from it on; in a run, merges of it are none.
pub(crate) fn inside(files: &dyn Files, folder: &str, names: &[String], is_run: bool) -> Maybe<Vec<String>> {
    let mut found = Vec::new();
    for name in names.iter().filter(|name| !is_state(name)) {
        let path = join(folder, name);
        if !is_folder(files, &path)? || is_run && is_file(files, &join(&path, REPORT))? {
            continue;
        }
        let inner = files.list(&path)?;
        if weights_in(files, &path)?.is_some() || lone(&inner).is_some() {
            found.push(name.clone());
            continue;
        }
        for deeper in inner.iter().filter(|name| !is_state(name)) {
            if weights_in(files, &join(&path, deeper))?.is_some() {
                found.push(join(name, deeper));
            }
        }
    }
    Ok(found)
}

/// Whether a folder in a checkpoint's folder is a part of the model: no trainer's state, and no adapter of its own.
pub(crate) fn is_part(files: &dyn Files, folder: &str, name: &str) -> Maybe<bool> {
    let path = join(folder, name);
    Ok(!is_state(name) && is_folder(files, &path)? && !is_file(files, &join(&path, CONFIG))?)
}

/// Whether a folder in a checkpoint holds a trainer's state.
pub(crate) fn is_state(name: &str) -> bool {
    let starts = ["global_step", "optimizer", "pytorch_model_fsdp", "checkpoint-", "recipe_state", "."];
    starts.iter().any(|start| name.starts_with(start))
}
