//! What a path holds: the checkpoints in it, their kind, ranks, dtypes and steps, and which metrics cover them.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use serde::Serialize;
use serde_json::Value;

use super::Run;
use super::checkpoint::Checkpoint;
use crate::adapter::config::AdapterConfig;
use crate::adapter::kinds::method;
use crate::error::Result;
use crate::files::{Files, Maybe};
use crate::format::known::{Known, container, identify};
use crate::run::log::{FoundLog, found};
use crate::run::readers::Readers;
use crate::weigh::separate::Separation;

/// What a path holds.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The path as given.
    pub path: String,
    /// What it is and what can be done with it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<Known>,
    /// Its checkpoints, by step.
    pub checkpoints: Vec<Summary>,
    /// Metrics that the run logged, and for how many of the checkpoints each has a value.
    pub metrics: Vec<Coverage>,
    /// The logs in which metrics were found.
    pub logs: Vec<FoundLog>,
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
    /// What the names of its tensors say: "a kohya LoRA for Flux"; or what training wrote; none for other full models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// PEFT's method, such as `LORA`; none for full models and loose files.
    pub method: Option<String>,
    /// Whether that method may be averaged, in a few words.
    pub verdict: Option<String>,
    /// Ranks of the `lora_A` factors, each once.
    pub ranks: Vec<u64>,
    /// LoRA's alpha, of adapters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// The modules that an adapter changes, as its config names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_modules: Vec<String>,
    /// The model that an adapter was trained on, as its config names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
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
    /// Whether it tells them apart; none where its values are all the same, or too few.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separation: Option<Separation>,
}

impl Run {
    /// What there is to say of the run at `path`, which it was opened from.
    ///
    /// # Errors
    /// When its logs cannot be read.
    pub fn inspection(&self, path: String) -> Result<Inspection> {
        let steps: Option<Vec<_>> = self.checkpoints.iter().map(|checkpoint| checkpoint.step).collect();
        let metrics = match (steps, self.checkpoints.first()) {
            (Some(steps), Some(first)) if first.folder.is_some() || !self.logs.found.is_empty() => {
                let history = self.history(first.run())?;
                let coverage = |(name, covered): (&str, usize)| {
                    let separation = Separation::of(&history.logged(name, &steps));
                    Coverage { name: name.to_owned(), covered, separation }
                };
                history.coverage(&steps).into_iter().map(coverage).collect()
            }
            _ => Vec::new(),
        };
        let checkpoints = self.checkpoints.iter().map(summary).collect();
        let logs = self.logs.found.clone();
        Ok(Inspection { path, known: None, checkpoints, metrics, logs, notes: self.notes.clone() })
    }
}

impl Inspection {
    /// What there is to say of a path that holds no checkpoint: what it is, and the metrics in it.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn of_other(files: &dyn Files, readers: &Readers, path: &str) -> Maybe<Option<Self>> {
        let logs = found(files, readers, path)?;
        let known = match identify(files, path)? {
            None if logs.is_empty() => return Ok(None),
            None => {
                let kinds: Vec<_> = logs.iter().map(|log| log.kind.as_str()).collect();
                let what = alloc::format!("logs: {}", kinds.join(", "));
                Some(Known { what: what.into(), can: "metrics are read from it: --metrics-from".into() })
            }
            known => known,
        };
        let (path, checkpoints) = (path.to_owned(), Vec::new());
        Ok(Some(Self { path, known, checkpoints, metrics: Vec::new(), logs, notes: Vec::new() }))
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
    let config = checkpoint.config.as_ref();
    let targets = config.and_then(|config| config.field("target_modules"));
    let mut target_modules: Vec<String> = match targets {
        // a pattern, or `all-linear`
        Some(Value::String(pattern)) => Vec::from([pattern.clone()]),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    // PEFT writes a set, in whatever order
    target_modules.sort_unstable();
    Summary {
        alpha: config.and_then(AdapterConfig::lora_alpha),
        target_modules,
        base_model: config.and_then(AdapterConfig::base_model).map(str::to_owned),
        name: checkpoint.name.clone(),
        step: checkpoint.step,
        container: container(
            || checkpoint.tensors().map(|tensor| tensor.name.as_str()),
            checkpoint.files.iter().any(|file| file.header.metadata().get("lora_adapter_metadata").is_some()),
        )
        .or_else(|| checkpoint.layout.map(|layout| layout.what().to_string())),
        method: peft,
        verdict,
        ranks,
        dtypes,
        tensors: checkpoint.tensors().count(),
        parameters: checkpoint.tensors().map(|tensor| tensor.shape.iter().product::<u64>()).sum(),
        bytes: checkpoint.files.iter().map(|file| file.len).sum(),
    }
}
