//! Merge the `__metadata__` of safetensors files.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde_json::{Map, Value};

use super::config::{is_training_only, same_field};
use crate::error::{Error, ErrorKind, Result};
use crate::format::gguf::ALPHA;
use crate::format::safetensors::TextMap;
use crate::text::json;

/// What of the inputs' metadata is true of their average.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The keys that all inputs have, with one value.
    pub kept: TextMap,
    /// What was dropped, and why.
    pub notes: Vec<String>,
}

/// Hashes of the data (kohya `train_util.py`, SAI `ModelSpec`): web UIs would take the average for an input.
const STALE: &[&str] = &["sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"];

/// What kohya says of the base model.
const BASES: &[&str] = &["ss_base_model_version", "ss_sd_model_hash", "ss_new_sd_model_hash"];

/// diffusers' adapter config, as JSON in a string. Without it diffusers takes alpha = rank.
const DIFFUSERS: &str = "lora_adapter_metadata";

/// Keep what all inputs say alike. Each input is its name and its `__metadata__`.
///
/// # Errors
/// [`ErrorKind::Config`] if inputs disagree in diffusers' `lora_adapter_metadata` or GGUF's `adapter.lora.alpha`, or only some
/// have it.
pub fn agree_metadata(inputs: &[(&str, &TextMap)]) -> Result<Metadata> {
    let Some(((name, first), rest)) = inputs.split_first() else { return Ok(Metadata::default()) };
    for (other, metadata) in rest {
        same_adapter(name, first.get(DIFFUSERS), other, metadata.get(DIFFUSERS))?;
        same_alpha(name, first.get(ALPHA), other, metadata.get(ALPHA))?;
    }
    let mut all: Vec<&str> = Vec::new();
    inputs.iter().for_each(|(_, metadata)| all.extend(metadata.pairs().iter().map(|(key, _)| key.as_str())));
    all.sort_unstable();
    all.dedup();
    let (mut kept, mut differing, mut stale) = (Vec::new(), Vec::new(), Vec::new());
    for key in all {
        let value = first.get(key);
        if STALE.contains(&key) {
            stale.push(key);
        } else if let Some(value) = value
            && (key == DIFFUSERS || rest.iter().all(|(_, metadata)| metadata.get(key) == Some(value)))
        {
            kept.push((key.to_string(), value.to_string()));
        } else {
            differing.push(key);
        }
    }
    let mut notes = Vec::new();
    if !differing.is_empty() {
        notes.push(format!("metadata dropped, not the same in all inputs: {}", differing.join(", ")));
    }
    if !stale.is_empty() {
        notes.push(format!("metadata dropped, true of an input only: {}", stale.join(", ")));
    }
    if differing.contains(&"ss_session_id") {
        notes.push("ss_session_id differs: the files come from different training sessions".to_string());
    }
    if differing.iter().any(|key| BASES.contains(key)) {
        notes
            .push("the files name different base models; their average fits neither for certain".to_string());
    }
    Ok(Metadata { kept: kept.into(), notes })
}

/// A GGUF adapter has one alpha for all its factors.
fn same_alpha(name: &str, ours: Option<&str>, other: &str, theirs: Option<&str>) -> Result<()> {
    if ours == theirs {
        return Ok(());
    }
    let [ours, theirs] = [ours, theirs].map(|alpha| alpha.unwrap_or("not there"));
    let detail =
        format!("{ALPHA} is {theirs}, but {ours} in {name}: factors under different alphas do not average");
    Err(Error::new(ErrorKind::Config, detail).file(other).help("only checkpoints of one run can be averaged"))
}

fn same_adapter(name: &str, ours: Option<&str>, other: &str, theirs: Option<&str>) -> Result<()> {
    let (ours, theirs) = match (ours, theirs) {
        (None, None) => return Ok(()),
        (Some(ours), Some(theirs)) => (ours, theirs),
        (ours, _) => {
            let (without, with) = if ours.is_none() { (name, other) } else { (other, name) };
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "has no {DIFFUSERS}, but {with} has it: diffusers would load them at different scales"
                ),
            )
            .file(without)
            .help(
                "save it again with a diffusers version that writes the adapter's config, or leave it out",
            ));
        }
    };
    if ours == theirs {
        return Ok(());
    }
    let wrong = match (serde_json::from_str(ours), serde_json::from_str(theirs)) {
        (Ok(Value::Object(ours)), Ok(Value::Object(theirs))) => differing_fields(&ours, &theirs, name),
        _ => ["it is not JSON in one of the two".to_string()].to_vec(),
    };
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, format!("differs in {DIFFUSERS}: {}", wrong.join("; ")))
        .file(other)
        .help("only checkpoints of one run can be averaged"))
}

/// Keys carry a component's prefix: `transformer.r`, `text_encoder.lora_alpha`.
fn differing_fields(ours: &Map<String, Value>, theirs: &Map<String, Value>, name: &str) -> Vec<String> {
    let mut keys: Vec<&str> = ours.keys().chain(theirs.keys()).map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .filter_map(|key| {
            let field = key.rsplit('.').next().unwrap_or(key);
            let (a, b) = (ours.get(key).unwrap_or(&Value::Null), theirs.get(key).unwrap_or(&Value::Null));
            (!is_training_only(field) && !same_field(field, a, b))
                .then(|| format!("{key} is {}, but {} in {name}", json::text(b), json::text(a)))
        })
        .collect()
}
