//! `mwa-report.json`: what was merged, with which weights and why, and the hashes of all of it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Float, Goal, Metric, Result, Scheme};

/// The report beside every merged model, enough to make it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program that wrote it.
    pub mwa: String,
    /// How the weights were made.
    pub weighting: Weighting,
    /// `factors`: tensors are averaged one by one.
    pub space: String,
    /// Output dtype of averaged tensors; `keep` is the widest of the inputs.
    pub dtype: String,
    /// The adapter taken from checkpoints that hold several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The inputs in the order in which they were summed.
    pub inputs: Vec<Input>,
    /// The files with weights that were written.
    pub outputs: Vec<HashedFile>,
    /// What the user was told.
    pub notes: Vec<String>,
}

/// How weights came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weighting {
    /// `linear`, `power`, `exponential`, `rank`, `uniform` or `explicit`.
    pub scheme: String,
    /// The penalty, where the scheme has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub penalty: Option<f64>,
    /// The metric, where the scheme has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// `min` or `max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Path as given on the command line or found in the run.
    pub name: String,
    /// Path from the output folder.
    pub path: String,
    /// Training step, if known.
    pub step: Option<u64>,
    /// The metric's value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
    /// Where the value comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The normalised weight.
    pub weight: f64,
    /// Its files with weights; empty in a listing that merged nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<HashedFile>,
}

/// A file by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedFile {
    /// File name within its folder.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// No conversion: each tensor keeps the widest dtype of the inputs.
const KEEP: &str = "keep";

/// A merge's output dtype as the command line and the report call it.
#[must_use]
pub fn dtype_name(dtype: Option<Float>) -> String {
    dtype.map_or_else(|| KEEP.into(), |dtype| dtype.dtype().to_string().to_lowercase())
}

impl Weighting {
    /// A scheme with its penalty and metric, as far as it has them.
    #[must_use]
    pub fn new(scheme: Scheme, penalty: f64, metric: Option<&Metric>) -> Self {
        Self {
            scheme: scheme.name().into(),
            penalty: (scheme != Scheme::Uniform).then_some(penalty),
            metric: metric.map(|metric| metric.name.clone()),
            goal: metric.map(|metric| if metric.goal == Goal::Min { "min" } else { "max" }.into()),
        }
    }

    /// In words: "linear, penalty 0.8, on eval_loss (min)".
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = self.scheme.clone();
        if let Some(penalty) = self.penalty {
            text += &format!(", penalty {penalty}");
        }
        if let (Some(metric), Some(goal)) = (&self.metric, &self.goal) {
            text += &format!(", on {metric} ({goal})");
        }
        text
    }
}

impl Report {
    /// The output dtype as an option of a merge.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] when it names none that is known.
    pub fn dtype(&self) -> Result<Option<Float>> {
        if self.dtype == KEEP {
            return Ok(None);
        }
        let known = [Float::F32, Float::BF16, Float::F16]
            .into_iter()
            .find(|float| dtype_name(Some(*float)) == self.dtype);
        known
            .map(Some)
            .ok_or_else(|| Error::new(ErrorKind::Input, format!("names an unknown dtype, {}", self.dtype)))
    }

    /// As text for a file: two-space indent, a newline at the end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report is plain data");
        text.push('\n');
        text
    }
}
