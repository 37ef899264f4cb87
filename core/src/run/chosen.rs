//! From weighed checkpoints to what a merge takes: their heads, configs and rows of the report, and the output's names.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::checkpoint::{Checkpoint, File};
use super::{Run, Weighed};
use crate::files::{Files, Maybe, is_file, join};
use crate::merge::Chosen;
use crate::merge::report::{self, COMPANIONS, HashedFile, Report};
use crate::method::product::Space;
use crate::plan::{Input, Shard};
use crate::weigh::scheme::Weights;

impl Run {
    /// What [`crate::merge::Merge::new`] takes.
    #[must_use]
    pub fn chosen(&self, weighed: Weighed) -> Chosen {
        let Weighed { indexes, inputs, weights, weighting, selected, advice, notes, .. } = weighed;
        let checkpoints: Vec<_> = indexes.iter().map(|&at| &self.checkpoints[at]).collect();
        let adapter = self.adapter.clone();
        let chosen = Chosen::of(&checkpoints, inputs, weights, weighting);
        Chosen { selected: Some(selected), advice, notes, adapter, ..chosen }
    }
}

impl Run {
    /// What there is to tell of a choice that is not merged.
    #[must_use]
    pub fn report(&self, weighed: Weighed) -> Report {
        let Weighed { inputs, weighting, selected, advice, notes, .. } = weighed;
        Report {
            mwa: env!("CARGO_PKG_VERSION").into(),
            selected: Some(selected),
            inputs,
            weighting,
            space: report::space_name(Space::Factors).0,
            rank: None,
            residual: None,
            dtype: report::dtype_name(None),
            adapter: self.adapter.clone(),
            outputs: Vec::new(),
            companions: Vec::new(),
            advice,
            notes,
        }
    }
}

impl Chosen {
    /// Checkpoints, oldest first, with the report's row of each, which gets their files, still without hashes.
    #[must_use]
    pub fn of(
        checkpoints: &[&Checkpoint],
        mut rows: Vec<report::Input>,
        weights: Weights,
        weighting: report::Weighting,
    ) -> Self {
        for (row, checkpoint) in rows.iter_mut().zip(checkpoints) {
            row.files = checkpoint.files.iter().map(unhashed).collect();
        }
        Self {
            inputs: checkpoints.iter().map(|checkpoint| input(checkpoint, checkpoints)).collect(),
            configs: checkpoints.iter().map(|checkpoint| checkpoint.config.clone()).collect(),
            rows,
            weights,
            weighting,
            selected: None,
            advice: Vec::new(),
            notes: Vec::new(),
            adapter: None,
        }
    }
}

impl Checkpoint {
    /// Name and path of what lies beside its weights and belongs beside merged ones too: tokenizer, templates, configs.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn companions(&self, files: &dyn Files) -> Maybe<Vec<(&'static str, String)>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for name in COMPANIONS {
            let path = join(folder, name);
            if is_file(files, &path)? {
                found.push((name, path));
            }
        }
        Ok(found)
    }
}

fn unhashed(file: &File) -> HashedFile {
    HashedFile { name: file.name().to_owned(), bytes: file.len, sha256: String::new() }
}

/// A checkpoint as a plan takes it, its files under the names that the output gives them.
fn input(checkpoint: &Checkpoint, all: &[&Checkpoint]) -> Input {
    let name = |file: &File| {
        // loose files of several names have none in common
        let is_loose = checkpoint.folder.is_none();
        if is_loose && all.iter().any(|other| other.files[0].name() != file.name()) {
            return "merged.safetensors".to_owned();
        }
        safetensors_name(file.name())
    };
    let shard = |file: &File| Shard { name: name(file), header: file.header.clone() };
    Input { name: checkpoint.name.clone(), files: checkpoint.files.iter().map(shard).collect() }
}

/// `pytorch_model-00001-of-00002.bin` becomes `model-00001-of-00002.safetensors`, as in the format's own conversions.
fn safetensors_name(name: &str) -> String {
    let stem = [".bin", ".pt", ".pth"].iter().find_map(|end| name.strip_suffix(end));
    stem.map_or_else(
        || name.to_owned(),
        |stem| format!("{}.safetensors", stem.strip_prefix("pytorch_").unwrap_or(stem)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torch_files_become_safetensors_files() {
        for (name, becomes) in [
            ("adapter_model.bin", "adapter_model.safetensors"),
            ("pytorch_model-00001-of-00002.bin", "model-00001-of-00002.safetensors"),
            ("model.safetensors", "model.safetensors"),
        ] {
            assert_eq!(safetensors_name(name), becomes);
        }
    }
}
