//! The end of a merge: the texts that belong beside the weights, once the hashes of all files are known.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::Deserialize;

use super::Session;
use super::chunks::{Modules, Task};
use crate::error::{Error, ErrorKind, Result};
use crate::logs::metric::{Outcome, Reading};
use crate::merge::card::card;
use crate::merge::report;
use crate::merge::report::{HashedFile, Report};
use crate::merge::shard_index;
use crate::plan::Shard;

/// What a host has found out when all is written, for the report.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The way from the output folder to each checkpoint; may be empty.
    #[serde(default)]
    pub paths: Vec<String>,
    /// SHA-256 in hex of each checkpoint's files.
    pub inputs: Vec<Vec<String>>,
    /// SHA-256 in hex of each output file.
    pub outputs: Vec<String>,
}

/// A file of text that belongs beside the weights: its name and what is in it.
pub type Text = (String, String);

impl Session {
    /// The files of text that belong beside the weights: shard index, adapter config, model card and report.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is not one hash per file; [`ErrorKind::Input`] when there was nothing to merge.
    pub fn texts(&self, found: &Found) -> Result<Vec<Text>> {
        let made = self.report(found)?;
        let config = self.configs[self.owner].as_ref();
        let mut texts: Vec<_> = shard_index(self.files()).into_iter().collect();
        if let Some(config) = config {
            let text = self.rewritten().unwrap_or_else(|| config.text().to_string());
            texts.push((report::CONFIG.to_string(), text));
        }
        texts.push((report::CARD.to_string(), card(&made, config)));
        texts.push((report::REPORT.to_string(), made.to_json()));
        Ok(texts)
    }

    /// The report of the merge.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn report(&self, found: &Found) -> Result<Report> {
        let is_whole = found.outputs.len() == self.files().len()
            && found.inputs.len() == self.checkpoints.len()
            && found.inputs.iter().zip(&self.checkpoints).all(|(a, b)| a.len() == b.files.len());
        if !is_whole {
            return Err(Error::new(ErrorKind::Usage, "the report needs one SHA-256 per file, in order"));
        }
        let readings = self.metric.iter().flat_map(|metric| &metric.readings).map(|outcome| match outcome {
            Outcome::Read(reading) => Some(*reading),
            _ => None,
        });
        let readings: Vec<Option<Reading>> = readings.collect();
        let hashed = |(name, bytes): &(String, u64), sha256: &String| HashedFile {
            name: name.clone(),
            bytes: *bytes,
            sha256: sha256.clone(),
        };
        let inputs = self.checkpoints.iter().enumerate().map(|(i, checkpoint)| report::Input {
            weights_key: None,
            name: checkpoint.name.clone(),
            path: found.paths.get(i).unwrap_or(&checkpoint.name).clone(),
            step: checkpoint.step,
            metric: readings.get(i).copied().flatten().map(|reading| reading.value),
            source: readings.get(i).copied().flatten().map(|reading| reading.source.to_string()),
            weight: self.weights.values()[i],
            files: checkpoint
                .files
                .iter()
                .zip(&found.inputs[i])
                .map(|(file, hash)| hashed(file, hash))
                .collect(),
        });
        let outputs = self.files().iter().zip(&found.outputs);
        let (space, rank) = report::space_name(self.space);
        let residual = self.modules.as_ref().map(Modules::distance).transpose()?.and_then(|(found, _)| found);
        let mut report = Report {
            mwa: env!("CARGO_PKG_VERSION").to_string(),
            selected: None,
            weighting: self.weighting.clone(),
            space,
            rank,
            residual,
            dtype: report::dtype_name(self.dtype),
            adapter: None,
            inputs: inputs.collect(),
            outputs: outputs
                .map(|(file, hash)| hashed(&(file.name.clone(), file.header.file_len()), hash))
                .collect(),
            advice: Vec::new(),
            companions: Vec::new(),
            notes: self.notes(),
        };
        report.advise_residual();
        Ok(report)
    }

    fn files(&self) -> &[Shard] {
        self.laid.as_ref().map_or(&[], |laid| laid.plan.outputs())
    }

    /// The adapter's config where merged products have another rank and scale than the inputs.
    fn rewritten(&self) -> Option<String> {
        let Some(Modules { task: Task::Merge(products, _, ranks), .. }) = &self.modules else { return None };
        let configs: Vec<_> = self.configs.iter().flatten().collect();
        Some(configs.last()?.rewritten(&products.config(ranks, &configs)))
    }
}
