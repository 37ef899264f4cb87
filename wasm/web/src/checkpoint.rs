//! One checkpoint among the files: which of them hold its weights, its adapter config, its step.

use alloc::borrow::ToOwned as _;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use mwa::safetensors::{Header, Tensor};
use mwa::{AdapterConfig, Error, ErrorKind};
use serde::Deserialize;

use crate::files::{Files, Maybe, Stop, last};

/// A checkpoint that can be merged.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// Its path: how messages and reports call it.
    pub(crate) name: String,
    /// Training step, from the name or the file's metadata.
    pub(crate) step: Option<u64>,
    /// Files with the weights.
    pub(crate) files: Vec<Weights>,
    /// The folder that holds the files beside the weights; `None` for a single file.
    pub(crate) folder: Option<String>,
    /// PEFT's config, for adapters in a folder.
    pub(crate) config: Option<AdapterConfig>,
}

/// A file with weights.
#[derive(Debug)]
pub(crate) struct Weights {
    /// Its number among the files.
    pub(crate) number: usize,
    /// Its name within its folder.
    pub(crate) name: String,
    pub(crate) header: Header,
}

/// Weight files in the order in which they are preferred, as PEFT and transformers do.
const WEIGHTS: [&str; 8] = [
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
    pub(crate) fn open(files: &Files, path: &str, adapter: Option<&str>) -> Maybe<Self> {
        if !files.is_file(path) {
            return Self::open_folder(files, path, adapter);
        }
        if last(path).ends_with(".json") {
            return Err(Error::new(ErrorKind::Input, "is not a checkpoint")
                .file(path)
                .help("give the run folder, a checkpoint folder or a .safetensors file")
                .into());
        }
        let file = Weights::open(files, path)?;
        let step = step_of_file(last(path)).or_else(|| file.header.metadata().get("ss_steps")?.parse().ok());
        Ok(Self { name: path.to_owned(), step, files: vec![file], folder: None, config: None })
    }

    fn open_folder(files: &Files, path: &str, adapter: Option<&str>) -> Maybe<Self> {
        let folder = adapter.map_or_else(|| path.to_owned(), |adapter| format!("{path}/{adapter}"));
        let Some(weights) = weights_in(files, &folder) else {
            return Err(no_weights(files, &folder).file(path).into());
        };
        let opened = if weights.ends_with(".json") {
            open_shards(files, &folder, &weights)?
        } else {
            vec![Weights::open(files, &weights)?]
        };
        let path_of_config = format!("{folder}/adapter_config.json");
        let config = if files.is_file(&path_of_config) {
            let text = files.text(&path_of_config)?;
            Some(AdapterConfig::parse(text).map_err(|error| error.file(path_of_config))?)
        } else if last(&weights).starts_with("adapter_model") {
            let error = Error::new(ErrorKind::Config, "has adapter weights but no adapter_config.json");
            return Err(error
                .file(path)
                .help("copy adapter_config.json from another checkpoint of the run")
                .into());
        } else {
            None
        };
        let step = step_of_folder(last(path));
        Ok(Self { name: path.to_owned(), step, files: opened, folder: Some(folder), config })
    }

    /// The tensors of all its files.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.files.iter().flat_map(|file| file.header.tensors())
    }

    /// The last part of the name, for tables.
    pub(crate) fn label(&self) -> &str {
        last(&self.name)
    }
}

impl Weights {
    fn open(files: &Files, path: &str) -> Maybe<Self> {
        let at = |error: Error| Stop::Failed(error.file(path));
        if [".bin", ".pt", ".pth"].iter().any(|end| path.ends_with(end)) {
            return Err(at(Error::new(ErrorKind::Input, "is a PyTorch pickle file, which is not read here")
                .help("convert it to safetensors, or merge with the mwa program, which reads it")));
        }
        let missing = || at(Error::new(ErrorKind::Io, "is not among the files given"));
        let number = files.number(path).ok_or_else(missing)?;
        let len = files.size(number);
        let size = Header::size(files.bytes(number, 0..FIRST)?, len).map_err(at)?;
        let header = Header::parse(files.bytes(number, 0..size.max(FIRST))?, len).map_err(at)?;
        Ok(Self { number, name: last(path).to_owned(), header })
    }
}

/// Bytes that show how long a head is, and what a file is that is not safetensors.
const FIRST: u64 = 512;

/// The file that says where the weights are, if the folder has any.
pub(crate) fn weights_in(files: &Files, folder: &str) -> Option<String> {
    WEIGHTS.iter().map(|file| format!("{folder}/{file}")).find(|path| files.is_file(path))
}

/// The step that a folder's name gives; `None` when it is not a checkpoint's name.
pub(crate) fn step_of_folder(name: &str) -> Option<u64> {
    ["checkpoint-", "epoch_", "step_", "step-", "global_step"]
        .iter()
        .find_map(|prefix| number(name.strip_prefix(prefix)?))
}

/// The step or epoch that a file's name gives: `NAME-000010`, `NAME-step00000050`, `0000100_adapters`.
fn step_of_file(name: &str) -> Option<u64> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    if let Some(step) = stem.strip_suffix("_adapters").and_then(number) {
        return Some(step);
    }
    let (_, last) = stem.rsplit_once(['-', '_'])?;
    number(last.strip_prefix("step").unwrap_or(last))
}

fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Which file holds which tensor: `model.safetensors.index.json`.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

fn open_shards(files: &Files, folder: &str, index: &str) -> Maybe<Vec<Weights>> {
    let bad = |detail: String| Error::new(ErrorKind::Header, detail).file(index);
    let parsed: ShardIndex = serde_json::from_str(files.text(index)?)
        .map_err(|error| bad(format!("is not a shard index: {error}")))?;
    let shards: BTreeSet<&String> = parsed.weight_map.values().collect();
    // all are asked for before the first unread one stops this
    let opened: Vec<_> =
        shards.iter().map(|shard| Weights::open(files, &format!("{folder}/{shard}"))).collect();
    let opened = opened.into_iter().collect::<Maybe<Vec<_>>>()?;
    let held: BTreeMap<&str, &str> = opened
        .iter()
        .flat_map(|file| {
            file.header.tensors().iter().map(|tensor| (tensor.name.as_str(), file.name.as_str()))
        })
        .collect();
    for (tensor, shard) in &parsed.weight_map {
        if held.get(tensor.as_str()) != Some(&shard.as_str()) {
            let detail = format!("is listed in the index, but {shard} does not hold it");
            return Err(bad(detail).tensor(&**tensor).help("download the checkpoint again").into());
        }
    }
    if let Some((tensor, shard)) = held.iter().find(|(tensor, _)| !parsed.weight_map.contains_key(**tensor)) {
        return Err(bad(format!("is in {shard}, but not in the index")).tensor(*tensor).into());
    }
    Ok(opened)
}

/// Why a folder has no weights that can be merged.
fn no_weights(files: &Files, folder: &str) -> Error {
    let starts = |prefix: &str| files.names(folder).any(|name| name.starts_with(prefix));
    let made = |detail: String, help: &'static str| Error::new(ErrorKind::Input, detail).help(help);
    if starts("pytorch_model_fsdp_") || starts("zero_to_fp32.py") || starts("global_step") {
        return made(
            "is a sharded training state (FSDP or DeepSpeed) without an adapter file".into(),
            "gather it first; `mwa inspect` says how",
        );
    }
    made(
        format!("holds no weights (looked for {})", WEIGHTS.join(", ")),
        "give a run folder with checkpoint-N folders, a checkpoint folder, or .safetensors files",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_steps() {
        assert_eq!(step_of_folder("checkpoint-1000"), Some(1000));
        assert_eq!(step_of_folder("checkpoint-500-merged"), None);
        assert_eq!(step_of_file("cat-step00000050.safetensors"), Some(50));
        assert_eq!(step_of_file("0000100_adapters.safetensors"), Some(100));
        assert_eq!(step_of_file("adapters.safetensors"), None);
    }
}
