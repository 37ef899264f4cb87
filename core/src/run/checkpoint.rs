//! How frameworks lay a checkpoint out: the names of its files, the step in its name, its shard index.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::{Header, TextMap};
use crate::text::index::Index;

/// Weight files in the order in which they are preferred, as PEFT and transformers do.
pub const WEIGHTS: [&str; 8] = [
    "adapter_model.safetensors",
    "adapter_model.safetensors.index.json",
    "adapter_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_lora_weights.safetensors",
];

/// The step that a folder's name gives; `None` when it is not a checkpoint's name.
///
/// `checkpoint-N` (Trainer and what builds on it), `epoch_N` and `step_N` (torchtune), `step-N` (litgpt), `global_stepN`.
#[must_use]
pub fn step_of_folder(name: &str) -> Option<u64> {
    ["checkpoint-", "epoch_", "step_", "step-", "global_step"]
        .iter()
        .find_map(|prefix| number(name.strip_prefix(prefix)?))
}

/// The step or epoch that a file's name gives: `NAME-000010`, `NAME-step00000050` (kohya), `0000100_adapters` (MLX),
/// `NAME_000000500` (ai-toolkit).
#[must_use]
pub fn step_of_file(name: &str) -> Option<u64> {
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
#[derive(Clone, Debug, Deserialize)]
#[serde(expecting = "an object with a weight_map from tensors to files")]
pub struct ShardIndex {
    /// Invariant: files are plain names, because shards lie beside their index.
    weight_map: TextMap,
}

impl ShardIndex {
    /// Parse the JSON of an index.
    ///
    /// # Errors
    /// [`ErrorKind::Header`] when it is not an index, or names a shard elsewhere.
    pub fn parse(json: &str) -> Result<Self> {
        let bad = |detail: String| Error::new(ErrorKind::Header, detail);
        let index: Self =
            serde_json::from_str(json).map_err(|error| bad(format!("is not a shard index: {error}")))?;
        let is_plain =
            |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\']);
        if let Some(odd) = index.files().into_iter().find(|name| !is_plain(name)) {
            return Err(bad(format!("names the shard `{odd}`, which is not a plain file name"))
                .help("shards lie beside their index"));
        }
        Ok(index)
    }

    /// The names of the shards, each once, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<&str> {
        let mut files: Vec<_> = self.weight_map.pairs().iter().map(|(_, file)| file.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// Check that each tensor lies where the index says, given name and head of every shard.
    ///
    /// # Errors
    /// [`ErrorKind::Header`], with the tensor and both places.
    pub fn check<'a>(&self, shards: impl Iterator<Item = (&'a str, &'a Header)>) -> Result<()> {
        let bad = |detail: String, tensor: &str| Error::new(ErrorKind::Header, detail).tensor(tensor);
        let mut present = Vec::new();
        for (shard, header) in shards {
            for tensor in header.tensors() {
                match self.weight_map.get(&tensor.name) {
                    Some(expected) if expected == shard => {
                        present.push(tensor.name.as_str());
                    }
                    Some(other) => {
                        let detail = format!("is in {shard}, but the index says {other}");
                        return Err(bad(detail, &tensor.name).help("download the checkpoint again"));
                    }
                    None => {
                        return Err(bad(format!("is in {shard}, but not in the index"), &tensor.name)
                            .help("index and shards are of two checkpoints: download it again"));
                    }
                }
            }
        }
        let present = Index::new(present.into_iter());
        match self.weight_map.pairs().iter().find(|(tensor, _)| !present.has(tensor)) {
            Some((tensor, shard)) => {
                let detail = format!("is listed in the index, but {shard} does not hold it");
                Err(bad(detail, tensor).help("download the checkpoint again"))
            }
            None => Ok(()),
        }
    }
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
        assert_eq!(step_of_file("cat-step00000050.safetensors"), Some(50));
        assert_eq!(step_of_file("cat-000010.safetensors"), Some(10));
        assert_eq!(step_of_file("0000100_adapters.safetensors"), Some(100));
        assert_eq!(step_of_file("adapters.safetensors"), None);
    }

    #[test]
    fn shards_lie_beside_their_index() {
        for name in ["../x.safetensors", "/x.safetensors", "a\\\\b", "..", ""] {
            let json = format!(r#"{{"weight_map": {{"w": "{name}"}}}}"#);
            let error = ShardIndex::parse(&json).expect_err(name);
            assert!(error.detail().contains("plain file name"), "{error}");
        }
    }
}
