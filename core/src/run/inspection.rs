//! What a path holds: the checkpoints in it, their kind, ranks, dtypes and steps, and which metrics cover them.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use serde::Serialize;

use super::Run;
use super::checkpoint::Checkpoint;
use crate::adapter::kinds::method;
use crate::error::Result;

/// What a path holds.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The path as given.
    pub path: String,
    /// Its checkpoints, by step.
    pub checkpoints: Vec<Summary>,
    /// Metrics that the run logged, and for how many of the checkpoints each has a value.
    pub metrics: Vec<Coverage>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// One checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its path.
    pub name: String,
    /// Training step, if known.
    pub step: Option<u64>,
    /// PEFT's method, such as `LORA`; none for full models and loose files.
    pub method: Option<String>,
    /// Whether that method may be averaged, in a few words.
    pub verdict: Option<String>,
    /// Ranks of the `lora_A` factors, each once.
    pub ranks: Vec<u64>,
    /// Number of tensors of each dtype.
    pub dtypes: BTreeMap<String, usize>,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of elements.
    pub parameters: u64,
    /// Bytes of the files with weights.
    pub bytes: u64,
}

/// A metric and how many checkpoints it covers.
#[derive(Clone, Debug, Serialize)]
pub struct Coverage {
    /// The metric's name in the log.
    pub name: String,
    /// Checkpoints with a value.
    pub covered: usize,
}

impl Run {
    /// What there is to say of the run at `path`, which it was opened from.
    ///
    /// # Errors
    /// When its logs cannot be read.
    pub fn inspection(&self, path: String) -> Result<Inspection> {
        let steps: Option<Vec<_>> = self.checkpoints.iter().map(|checkpoint| checkpoint.step).collect();
        let metrics = match (steps, self.checkpoints.first()) {
            (Some(steps), Some(first)) if first.folder.is_some() => self
                .history(first.run())?
                .coverage(&steps)
                .into_iter()
                .map(|(name, covered)| Coverage { name: name.to_owned(), covered })
                .collect(),
            _ => Vec::new(),
        };
        let checkpoints = self.checkpoints.iter().map(summary).collect();
        Ok(Inspection { path, checkpoints, metrics, notes: self.notes.clone() })
    }
}

fn summary(checkpoint: &Checkpoint) -> Summary {
    let mut dtypes = BTreeMap::new();
    let mut ranks = Vec::new();
    for tensor in checkpoint.tensors() {
        *dtypes.entry(tensor.dtype.to_string()).or_insert(0) += 1;
        if tensor.name.contains("lora_A") || tensor.name.contains("lora_embedding_A") {
            ranks.extend(tensor.shape.first());
        }
    }
    ranks.sort_unstable();
    ranks.dedup();
    let peft = checkpoint.config.as_ref().map(|config| config.peft_type().to_owned());
    let verdict = peft.as_ref().map(|name| match method(name) {
        Ok(method) => method.verdict.to_string(),
        Err(error) => error.detail().to_owned(),
    });
    Summary {
        name: checkpoint.name.clone(),
        step: checkpoint.step,
        method: peft,
        verdict,
        ranks,
        dtypes,
        tensors: checkpoint.tensors().count(),
        parameters: checkpoint.tensors().map(|tensor| tensor.shape.iter().product::<u64>()).sum(),
        bytes: checkpoint.files.iter().map(|file| file.len).sum(),
    }
}
