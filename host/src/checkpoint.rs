//! One checkpoint on disk: which files hold its weights, its adapter config, its step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use mwa::safetensors::Tensor;
use mwa::{AdapterConfig, Error, ErrorKind, Result};
use serde::Deserialize;

use crate::files::{InputFile, io_error};
use crate::foreign;

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

/// Weight files in the order in which they are preferred, as PEFT and transformers do.
pub(crate) const WEIGHTS: [&str; 8] = [
    "adapter_model.safetensors",
    "adapter_model.safetensors.index.json",
    "adapter_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_lora_weights.safetensors",
];

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
        if let Some((what, help)) = foreign::file(path) {
            return Err(Error::new(ErrorKind::Input, what).file(name).help(help));
        }
        let file = InputFile::open(path)?;
        let step = step_of_file(path).or_else(|| file.header.metadata().get("ss_steps")?.parse().ok());
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
                None => foreign::folder(path),
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

/// The step that a folder's name gives; `None` when it is not a checkpoint's name.
///
/// `checkpoint-N` (Trainer and what builds on it), `epoch_N` and `step_N` (torchtune), `step-N` (litgpt), `global_stepN`.
pub(crate) fn step_of_folder(name: &str) -> Option<u64> {
    ["checkpoint-", "epoch_", "step_", "step-", "global_step"]
        .iter()
        .find_map(|prefix| number(name.strip_prefix(prefix)?))
}

/// The step or epoch that a file's name gives: `NAME-000010`, `NAME-step00000050` (kohya), `0000100_adapters` (MLX),
/// `NAME_000000500` (ai-toolkit).
fn step_of_file(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_str()?;
    if let Some(step) = stem.strip_suffix("_adapters").and_then(number) {
        return Some(step);
    }
    let (_, last) = stem.rsplit_once(['-', '_'])?;
    number(last.strip_prefix("step").unwrap_or(last))
}

fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
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

/// Which file holds which tensor: `model.safetensors.index.json`.
#[derive(Deserialize)]
#[serde(expecting = "an object with a weight_map from tensors to files")]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

fn open_shards(folder: &Path, index: &Path) -> Result<Vec<InputFile>> {
    let name = index.display().to_string();
    let bad = |detail: String| Error::new(ErrorKind::Header, detail).file(&*name);
    let parsed: ShardIndex = serde_json::from_str(&read_text(index)?)
        .map_err(|error| bad(format!("is not a shard index: {error}")))?;
    let shards: BTreeSet<&String> = parsed.weight_map.values().collect();
    let mut files = Vec::new();
    for shard in shards {
        let mut parts = Path::new(shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(bad(format!("names the shard `{shard}`, which is not a plain file name"))
                .help("shards lie beside their index"));
        }
        let path = folder.join(shard);
        if !path.exists() {
            return Err(bad(format!("names the shard {shard}, which is missing"))
                .help("download the rest of the checkpoint"));
        }
        files.push(InputFile::open(&path)?);
    }
    let mut mapped = 0;
    for file in &files {
        let shard = file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for tensor in file.header.tensors() {
            match parsed.weight_map.get(&tensor.name) {
                Some(expected) if *expected == shard => mapped += 1,
                Some(other) => {
                    let detail = format!("is in {shard}, but the index says {other}");
                    return Err(bad(detail).tensor(&*tensor.name).help("download the checkpoint again"));
                }
                None => {
                    return Err(bad(format!("is in {shard}, but not in the index"))
                        .tensor(&*tensor.name)
                        .help("index and shards are of two checkpoints: download it again"));
                }
            }
        }
    }
    if mapped != parsed.weight_map.len() {
        let present: BTreeSet<&str> =
            files.iter().flat_map(|file| file.header.tensors()).map(|tensor| tensor.name.as_str()).collect();
        let (missing, shard) = parsed
            .weight_map
            .iter()
            .find(|(tensor, _)| !present.contains(tensor.as_str()))
            .expect("fewer tensors were found than the index names");
        return Err(bad(format!("is listed in the index, but {shard} does not hold it"))
            .tensor(&**missing)
            .help("download the checkpoint again"));
    }
    Ok(files)
}

/// The folder has no adapter of that name.
fn no_adapter(path: &Path, adapter: &str) -> Error {
    let found = named_adapters(path);
    let found = if found.is_empty() { "none".into() } else { found.join(", ") };
    let detail = format!("has no adapter `{adapter}`; adapters inside: {found}");
    Error::new(ErrorKind::Input, detail).help("give --adapter one of these names, or leave it out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_steps() {
        assert_eq!(step_of_folder("checkpoint-1000"), Some(1000));
        assert_eq!(step_of_folder("epoch_2"), Some(2));
        for other in
            ["checkpoint-500-merged", "tmp-checkpoint-500", "checkpoint-500.bak", "checkpoint-", "best"]
        {
            assert_eq!(step_of_folder(other), None, "{other}");
        }
        let file = |name: &str| step_of_file(Path::new(name));
        assert_eq!(file("cat-step00000050.safetensors"), Some(50));
        assert_eq!(file("cat-000010.safetensors"), Some(10));
        assert_eq!(file("0000100_adapters.safetensors"), Some(100));
        assert_eq!(file("adapters.safetensors"), None);
    }
}
