//! Which files of a folder are a checkpoint's weights, by their names.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind};
use crate::files::{Files, Kind, Maybe, NO_FILE, Stop, is_file, is_folder, join, last, parent, text};
use crate::format::shards::ShardIndex;
use crate::format::{STEMS, foreign, stem};
use crate::merge::report::CONFIG;

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
            let detail = format!("is one of {count} shards, of which {} are there", found.len());
            let error = Error::new(ErrorKind::Io, detail).file(first.as_str());
            Err(error.help(REST).into())
        }
        _ => Ok(found.into_iter().map(|(path, _)| path).collect()),
    }
}

/// Why a file is no whole model, if it is one of several shards of one: its name says so, or the index beside it.
pub(crate) fn is_shard(files: &dyn Files, path: &str) -> Maybe<Option<Error>> {
    let (folder, name) = (parent(path), last(path));
    let Some(own) = stem(name) else { return Ok(None) };
    let ending = &name[own.len()..];
    let (is_known, all) = match numbered(own) {
        Some((stem, count)) => {
            let shard = |number| format!("{stem}-{number:05}-of-{count:05}{ending}");
            let is_known = STEMS.contains(&stem) && [".safetensors", ".bin"].contains(&ending);
            (is_known, (1..=count).map(shard).collect())
        }
        None => (true, indexed(files, folder, own, ending)?),
    };
    let Some(place) = all.iter().position(|shard| shard == name).filter(|_| all.len() > 1) else {
        return Ok(None);
    };
    let listed = match files.list(folder) {
        Ok(names) => names,
        Err(Stop::Later) => return Err(Stop::Later),
        // the folder may be closed to the user
        Err(Stop::Failed(_)) => all.clone(),
    };
    let missing: Vec<_> = all.iter().filter(|shard| listed.binary_search(shard).is_err()).collect();
    let mut detail = format!("is shard {} of {} of a model, ", place + 1, all.len());
    detail += &match missing.as_slice() {
        [] => "and the others are not given".into(),
        [only] => format!("and {only} is not there"),
        [first, ..] => format!("and {} others, from {first} on, are not there", missing.len()),
    };
    let mut help = String::new();
    if !missing.is_empty() {
        help += "download or copy the rest of the checkpoint, and ";
    }
    if !is_known {
        help += "name its files as transformers does (model-00001-of-00002.safetensors), and ";
    }
    help += "give the folder that it lies in, which is taken as one";
    if !folder.is_empty() {
        help += &format!(": {folder}");
    }
    Ok(Some(Error::new(ErrorKind::Input, detail).help(help)))
}

/// `model` and 3 of `model-00001-of-00003`.
fn numbered(stem: &str) -> Option<(&str, usize)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|digit| digit.is_ascii_digit());
    if is_number(number) && is_number(count) { Some((stem, count.parse().ok()?)) } else { None }
}

/// The shards that the index of a folder names, if there is one for a file of this name.
fn indexed(files: &dyn Files, folder: &str, stem: &str, ending: &str) -> Maybe<Vec<String>> {
    let index = match ending {
        _ if STEMS.contains(&stem) => return Ok(Vec::new()),
        ".safetensors" => "model.safetensors.index.json",
        ".bin" => "pytorch_model.bin.index.json",
        _ => return Ok(Vec::new()),
    };
    let index = join(folder, index);
    // one that cannot be read says nothing of this file
    let text = match files.kind(&index) {
        Ok(Kind::File(_)) => text(files, &index, INDEX_LIMIT),
        Err(Stop::Later) => return Err(Stop::Later),
        _ => return Ok(Vec::new()),
    };
    match text {
        Err(Stop::Later) => Err(Stop::Later),
        Err(Stop::Failed(_)) => Ok(Vec::new()),
        Ok(text) => {
            let index = ShardIndex::parse(&text);
            Ok(index.iter().flat_map(ShardIndex::files).map(String::from).collect())
        }
    }
}

/// The only file with weights among these names, whatever it is called.
pub(crate) fn lone(names: &[String]) -> Option<&str> {
    let mut weights = names.iter().filter(|name| stem(name).is_some() && foreign::state(name).is_none());
    let only = weights.next()?;
    weights.next().is_none().then_some(only)
}

/// The folders in a folder that have weights, or the folders in those, by their path from it on.
pub(crate) fn inside(files: &dyn Files, folder: &str, names: &[String]) -> Maybe<Vec<String>> {
    let mut found = Vec::new();
    for name in names.iter().filter(|name| !is_state(name)) {
        let path = join(folder, name);
        if !is_folder(files, &path)? {
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
