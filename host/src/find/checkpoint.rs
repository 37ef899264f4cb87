//! One checkpoint on disk: which files hold its weights, its adapter config, its step.

use std::path::{Path, PathBuf};
use std::{fs, io};

use mwa::checkpoint::{ShardIndex, WEIGHTS, step_of_file, step_of_folder};
use mwa::safetensors::Tensor;
use mwa::{AdapterConfig, Error, ErrorKind, Result, foreign};

use crate::io::disk::{InputFile, io_error};

/// A checkpoint that can be merged.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// How messages and reports call it: the path as the user gave or would give it.
    pub(crate) name: String,
    /// The folder, or the single file.
    pub(crate) path: PathBuf,
    /// Training step, from the name or the file's metadata.
    pub(crate) step: Option<u64>,
    /// Files with the weights.
    pub(crate) files: Vec<InputFile>,
    /// The folder that holds the files beside the weights (configs, tokenizer); `None` for a single file.
    pub(crate) folder: Option<PathBuf>,
    /// PEFT's config, for adapters in a folder.
    pub(crate) config: Option<AdapterConfig>,
    /// What the user should know about it.
    pub(crate) notes: Vec<String>,
}

impl Checkpoint {
    /// Open a checkpoint folder, or with `adapter` the named adapter inside it, or a single file.
    pub(crate) fn open(path: &Path, adapter: Option<&str>) -> Result<Self> {
        let name = path.display().to_string();
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(ErrorKind::Input, "does not exist").file(&*name).help(
                "give a path on this machine: a run folder, a checkpoint folder or a file with weights",
            ),
            _ => io_error("cannot open it", &error).file(&*name),
        })?;
        if metadata.is_dir() {
            Self::open_folder(path, name, adapter)
        } else if metadata.is_file() {
            Self::open_file(path, name)
        } else {
            // opening a pipe would wait for ever
            Err(Error::new(ErrorKind::Input, "is neither a file nor a folder").file(name))
        }
    }

    fn open_file(path: &Path, name: String) -> Result<Self> {
        let last = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some((what, help)) = foreign::file(&last) {
            return Err(Error::new(ErrorKind::Input, what).file(name).help(help));
        }
        let file = InputFile::open(path)?;
        let step = step_of_file(&last).or_else(|| file.header.metadata().get("ss_steps")?.parse().ok());
        Ok(Self {
            name,
            path: path.to_owned(),
            step,
            files: vec![file],
            folder: None,
            config: None,
            notes: vec![],
        })
    }

    fn open_folder(path: &Path, name: String, adapter: Option<&str>) -> Result<Self> {
        let step = path.file_name().and_then(|folder| step_of_folder(&folder.to_string_lossy()));
        let folder = adapter.map_or_else(|| path.to_owned(), |adapter| path.join(adapter));
        let Some(weights) = weights_in(&folder) else {
            return Err(match adapter {
                Some(adapter) => no_adapter(path, adapter),
                None => no_weights(path),
            }
            .file(name));
        };
        let mut notes = Vec::new();
        let newer = |a: &Path, b: &Path| modified(a) > modified(b);
        let (safe, pickle) = (folder.join(WEIGHTS[0]), folder.join(WEIGHTS[2]));
        if weights == safe && pickle.is_file() && newer(&pickle, &safe) {
            notes.push(format!(
                "{name}: {} is newer than {}, which is used all the same, as PEFT does",
                WEIGHTS[2], WEIGHTS[0]
            ));
        }
        let files = if weights.extension().is_some_and(|end| end == "json") {
            open_shards(&folder, &weights)?
        } else {
            vec![InputFile::open(&weights)?]
        };
        let config = folder.join("adapter_config.json");
        let config = if config.is_file() { Some(read_config(&config)?) } else { None };
        if config.is_none()
            && weights.file_name().is_some_and(|file| file.to_string_lossy().starts_with("adapter_model"))
        {
            return Err(Error::new(ErrorKind::Config, "has adapter weights but no adapter_config.json")
                .file(name)
                .help("copy adapter_config.json from another checkpoint of the run"));
        }
        Ok(Self { name, path: path.to_owned(), step, files, folder: Some(folder), config, notes })
    }

    /// The tensors of all its files.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.files.iter().flat_map(|file| file.header.tensors())
    }

    /// The last part of the name, for tables.
    pub(crate) fn label(&self) -> String {
        self.path.file_name().map_or_else(|| self.name.clone(), |file| file.to_string_lossy().into_owned())
    }
}

/// The file that says where the weights are, if the folder has any.
pub(crate) fn weights_in(folder: &Path) -> Option<PathBuf> {
    WEIGHTS.iter().map(|file| folder.join(file)).find(|path| path.is_file())
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// Adapters that a multi-adapter model saved in folders of their own.
pub(crate) fn named_adapters(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter(|entry| entry.path().join("adapter_config.json").is_file())
        .filter(|entry| step_of_folder(&entry.file_name().to_string_lossy()).is_none())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub(crate) fn read_text(path: &Path) -> Result<String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => Error::new(ErrorKind::Input, "is not text in UTF-8"),
        _ => io_error("cannot read it", &error),
    };
    fs::read_to_string(path).map_err(|error| failed(error).file(path.display().to_string()))
}

fn read_config(path: &Path) -> Result<AdapterConfig> {
    AdapterConfig::parse(&read_text(path)?).map_err(|error| error.file(path.display().to_string()))
}

fn open_shards(folder: &Path, index: &Path) -> Result<Vec<InputFile>> {
    let at = |error: Error| error.file(index.display().to_string());
    let parsed = ShardIndex::parse(&read_text(index)?).map_err(at)?;
    let mut files = Vec::new();
    for shard in parsed.files() {
        let path = folder.join(shard);
        if !path.exists() {
            let detail = format!("names the shard {shard}, which is missing");
            let error = Error::new(ErrorKind::Header, detail).help("download the rest of the checkpoint");
            return Err(at(error));
        }
        files.push(InputFile::open(&path)?);
    }
    let names: Vec<_> = files.iter().map(InputFile::name).collect();
    let heads = files.iter().map(|file| &file.header);
    parsed.check(names.iter().map(String::as_str).zip(heads)).map_err(at)?;
    Ok(files)
}

/// The folder has no weights.
fn no_weights(folder: &Path) -> Error {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let inside = |name: &str| folder.join(name).display().to_string();
    foreign::folder(&names, &|name| weights_in(&folder.join(name)).is_some(), &inside)
}

/// The folder has no adapter of that name.
fn no_adapter(path: &Path, adapter: &str) -> Error {
    let found = named_adapters(path);
    let found = if found.is_empty() { "none".into() } else { found.join(", ") };
    let detail = format!("has no adapter `{adapter}`; adapters inside: {found}");
    Error::new(ErrorKind::Input, detail).help("give --adapter one of these names, or leave it out")
}
