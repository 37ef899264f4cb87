//! What came of a trial, as the journal has it.

use serde::{Deserialize, Serialize};

/// What came of a trial.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) weights: Vec<f64>,
    /// Who scored it on other data; `None` in the search itself.
    #[serde(default)]
    pub(super) holdout: Option<String>,
    #[serde(default)]
    pub(super) score: Option<f64>,
    #[serde(default, rename = "standard_error")]
    pub(super) score_error: Option<f64>,
    #[serde(default)]
    pub(super) failed: Option<String>,
    #[serde(default)]
    pub(super) seconds: f64,
    #[serde(default)]
    pub(super) merge_seconds: f64,
    #[serde(default)]
    pub(super) blake3: Vec<String>,
}
