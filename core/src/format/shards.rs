//! A checkpoint in several files: the index that says which of them holds which tensor.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::files::is_plain;
use crate::format::safetensors::{Header, TextMap};
use crate::text::index::Index;

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
    fn shards_lie_beside_their_index() {
        for name in ["../x.safetensors", "/x.safetensors", "a\\\\b", "..", ""] {
            let json = format!(r#"{{"weight_map": {{"w": "{name}"}}}}"#);
            let error = ShardIndex::parse(&json).expect_err(name);
            assert!(error.detail().contains("plain file name"), "{error}");
        }
    }
}
