//! Say what a path is: the checkpoints in it, their kind, ranks, dtypes and steps, and which metrics cover them.

use std::collections::BTreeMap;
use std::path::Path;

use mwa::{Checkpoint, OpenOptions, Result};
use serde::Serialize;

use crate::find;
use crate::io::disk::Disk;

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

/// Look at a run folder, a checkpoint folder or a file.
///
/// # Errors
/// When the path holds no weights that can be read.
pub fn inspect(path: &Path, adapter: Option<&str>) -> Result<Inspection> {
    let wanted = OpenOptions { adapter: adapter.map(str::to_owned), ..OpenOptions::default() };
    let run = find::open(&Disk::default(), &[path.to_owned()], &wanted)?;
    let (root, steps): (_, Option<Vec<_>>) =
        (run.checkpoints[0].run(), run.checkpoints.iter().map(|checkpoint| checkpoint.step).collect());
    let metrics = match steps {
        Some(steps) if run.checkpoints[0].folder.is_some() => run
            .history(root)?
            .coverage(&steps)
            .into_iter()
            .map(|(name, covered)| Coverage { name: name.to_owned(), covered })
            .collect(),
        _ => Vec::new(),
    };
    let checkpoints = run.checkpoints.iter().map(summary).collect();
    Ok(Inspection { path: path.display().to_string(), checkpoints, metrics, notes: run.notes })
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
    let method = checkpoint.config.as_ref().map(|config| config.peft_type().to_owned());
    let verdict = method.as_ref().map(|method| match mwa::method(method) {
        Ok(method) => method.verdict.to_string(),
        Err(error) => error.detail().to_owned(),
    });
    Summary {
        name: checkpoint.name.clone(),
        step: checkpoint.step,
        method,
        verdict,
        ranks,
        dtypes,
        tensors: checkpoint.tensors().count(),
        parameters: checkpoint.tensors().map(|tensor| tensor.shape.iter().product::<u64>()).sum(),
        bytes: checkpoint.files.iter().map(|file| file.len).sum(),
    }
}
