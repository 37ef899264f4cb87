//! Compare adapter configs field by field.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde_json::Value;

use crate::adapter::config::{AdapterConfig, is_unset};
use crate::adapter::kinds::{Method, SHARED_FIELDS};
use crate::text::json;

/// A field in which two configs differ.
pub(super) struct Difference {
    pub(super) field: String,
    pub(super) ours: String,
    pub(super) theirs: String,
    pub(super) weight: Weight,
}

/// What a difference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// The tensors mean different things.
    Error,
    /// The same tensors may still mean the same: say so and go on.
    Note,
    /// The two may be one model under two names; [`same_base`] knows.
    Base,
}

/// Fields that product space reconciles: they only scale or size the factors, or say which modules have any.
pub(super) const PRODUCT_FIELDS: &[&str] =
    &["r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"];

/// Lists that PEFT keeps as a `set`, so that their order is random (`peft/config.py`, `_convert_set_to_list`).
const SETS: &[&str] = &["target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"];

/// Fields that steer training or placement only.
const TRAINING: &[&str] = &[
    "auto_mapping",
    "eva_config",
    "inference_mode",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_type", // compared before anything else
    "peft_version",
    "velora_config",
];

/// All fields in which `theirs` differs from `ours`, in the order of `ours`, then of `theirs`.
pub(super) fn differences(
    ours: &AdapterConfig,
    theirs: &AdapterConfig,
    method: &Method,
    product: bool,
) -> Vec<Difference> {
    let mut names: Vec<&str> = ours.fields().map(|(name, _)| name).collect();
    names.extend(theirs.fields().map(|(name, _)| name).filter(|name| ours.field(name).is_none()));
    let mut found = Vec::new();
    for name in names {
        if is_training_only(name) || (product && PRODUCT_FIELDS.contains(&name)) {
            continue;
        }
        let (a, b) = (effective(ours, name), effective(theirs, name));
        if same_field(name, a, b) {
            continue;
        }
        let weight = if name == "base_model_name_or_path" {
            Weight::Base
        } else if !method.fields.contains(&name) && is_selection(name, a, b) {
            Weight::Note
        } else if method.fields.contains(&name) || SHARED_FIELDS.contains(&name) {
            Weight::Error
        } else {
            Weight::Note
        };
        found.push(Difference { field: name.to_string(), ours: show(a), theirs: show(b), weight });
    }
    found
}

pub(super) fn is_training_only(name: &str) -> bool {
    name.ends_with("dropout") || TRAINING.contains(&name)
}

/// Whether two values of one field mean the same.
pub(super) fn same_field(name: &str, a: &Value, b: &Value) -> bool {
    if SETS.contains(&name)
        && let (Value::Array(a), Value::Array(b)) = (a, b)
    {
        let set = |items: &[Value]| {
            let mut texts: Vec<String> = items.iter().map(json::text).collect();
            texts.sort_unstable();
            texts.dedup();
            texts
        };
        return set(a) == set(b);
    }
    if name.ends_with("_pattern")
        && let (Value::Object(a), Value::Object(b)) = (a, b)
        && !a.keys().eq(b.keys())
    {
        return false; // the first key that matches a module wins, so their order counts (get_pattern_key)
    }
    same(a, b)
}

/// A regex against a list, or another regex: which modules they select, only the tensor names can tell.
fn is_selection(name: &str, a: &Value, b: &Value) -> bool {
    matches!(name, "target_modules" | "exclude_modules") && (a.is_string() || b.is_string())
}

/// What a field amounts to: absent fields have PEFT's default, `qalora_group_size` counts under `use_qalora` only.
fn effective<'a>(config: &'a AdapterConfig, name: &str) -> &'a Value {
    static NULL: Value = Value::Null;
    static TRUE: Value = Value::Bool(true);
    match name {
        "qalora_group_size" if !config.is_set("use_qalora") => &NULL,
        "bias" if config.field(name).is_some_and(|bias| bias == "none") => &NULL,
        "init_lora_weights" => config.field(name).unwrap_or(&TRUE),
        _ => config.field(name).unwrap_or(&NULL),
    }
}

/// Equal as numbers (16 and 16.0), in depth; all ways to say "unused" are equal.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| same(x, y)))
        }
        _ => a == b || (is_unset(a) && is_unset(b)),
    }
}

/// A value for a message: short, `absent` for null.
fn show(value: &Value) -> String {
    const LONGEST: usize = 120;
    match value {
        Value::Null => "absent".to_string(),
        _ => {
            let text = json::text(value);
            match text.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}

/// Whether two base models may be one: `Err` if not, else what to say about the names.
pub(super) fn same_base(ours: Option<&str>, theirs: Option<&str>) -> Result<&'static str, ()> {
    let (Some(ours), Some(theirs)) = (ours.filter(|s| !s.is_empty()), theirs.filter(|s| !s.is_empty()))
    else {
        return Ok("one does not name its base model; taken as the same");
    };
    let (a, b) = (model_name(ours), model_name(theirs));
    if a == b {
        return Ok("taken as one model in two places");
    }
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    if a == b {
        return Ok("taken as one model in two places");
    }
    if unquantised(&a) == unquantised(&b) {
        return Ok("taken as one model, quantised and not: the averages are right, but each was trained \
                   against slightly different weights");
    }
    Err(())
}

/// The last part of an id or path; in a Hugging Face cache path it stands before `snapshots/HASH`.
fn model_name(path: &str) -> &str {
    let mut parts = path.rsplit(['/', '\\']).filter(|part| !part.is_empty() && *part != ".");
    let last = parts.next().unwrap_or(path);
    if parts.next() == Some("snapshots")
        && let Some(model) = parts.next().and_then(|part| part.strip_prefix("models--"))
    {
        return model.rsplit("--").next().unwrap_or(model);
    }
    last
}

/// unsloth trains on `NAME-bnb-4bit` or `NAME-unsloth-bnb-4bit` copies of `NAME`.
fn unquantised(name: &str) -> &str {
    let name = name.strip_suffix("-bnb-4bit").or_else(|| name.strip_suffix("-bnb-8bit")).unwrap_or(name);
    name.strip_suffix("-unsloth").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::kinds::method;

    fn differing(a: &str, b: &str) -> Vec<(String, Weight)> {
        let parse = |fields: &str| {
            AdapterConfig::parse(&format!("{{\"peft_type\": \"LORA\"{fields}}}")).expect("a valid config")
        };
        differences(&parse(a), &parse(b), method("LORA").unwrap(), false)
            .into_iter()
            .map(|difference| (difference.field, difference.weight))
            .collect()
    }

    #[test]
    fn what_means_the_same_is_the_same() {
        for (a, b) in [
            (r#", "lora_alpha": 16"#, r#", "lora_alpha": 16.0"#),
            (r#", "target_modules": ["q", "v"]"#, r#", "target_modules": ["v", "q"]"#),
            (r#", "rank_pattern": {}, "use_dora": false, "bias": "none""#, ""),
            (r#", "layer_replication": null"#, r#", "layer_replication": []"#),
            (r#", "lora_dropout": 0.1, "velora_config": {"a": 1}"#, r#", "lora_dropout": 0.0"#),
            (r#", "peft_version": "0.17.0""#, r#", "peft_version": "0.21.2""#),
            (r#", "qalora_group_size": 16"#, r#", "qalora_group_size": 32"#),
            (r#", "init_lora_weights": true"#, ""),
            (r#", "kasa_config": {"a": 1, "b": 2}"#, r#", "kasa_config": {"b": 2.0, "a": 1}"#),
        ] {
            assert!(differing(a, b).is_empty(), "{a} against {b}");
            assert!(differing(b, a).is_empty(), "{b} against {a}");
        }
    }

    #[test]
    fn what_changes_the_tensors_is_an_error() {
        for (a, b) in [
            (r#", "r": 8"#, r#", "r": 16"#),
            (r#", "r": 8"#, ""),
            (r#", "target_modules": ["q", "v"]"#, r#", "target_modules": ["q"]"#),
            (r#", "target_parameters": ["a", "b"]"#, r#", "target_parameters": ["b", "a"]"#),
            (r#", "trainable_token_indices": [1, 2]"#, r#", "trainable_token_indices": [2, 1]"#),
            (r#", "alpha_pattern": {"a": 1, "b": 2}"#, r#", "alpha_pattern": {"b": 2, "a": 1}"#),
            (
                r#", "use_qalora": true, "qalora_group_size": 16"#,
                r#", "use_qalora": true, "qalora_group_size": 32"#,
            ),
            (r#", "init_lora_weights": "pissa""#, r#", "init_lora_weights": true"#),
            (r#", "bias": "all""#, r#", "bias": "none""#),
        ] {
            for (field, weight) in differing(a, b) {
                assert_eq!(weight, Weight::Error, "{field}");
            }
            assert_eq!(differing(a, b).len(), 1, "{a} against {b}");
            assert_eq!(differing(b, a).len(), 1, "{b} against {a}");
        }
    }

    #[test]
    fn the_rest_is_a_note() {
        for (a, b) in [
            (r#", "target_modules": ".*q_proj""#, r#", "target_modules": ["q_proj"]"#),
            (r#", "revision": "main""#, r#", "revision": "abc""#),
            (r#", "field_of_2030": 1"#, r#", "field_of_2030": 2"#),
        ] {
            let found = differing(a, b);
            assert_eq!(found.len(), 1, "{a} against {b}");
            assert_eq!(found[0].1, Weight::Note);
        }
    }

    #[test]
    fn base_models_are_known_by_their_last_name() {
        for (a, b) in [
            ("meta-llama/Llama-3.2-1B", "/models/Llama-3.2-1B/"),
            ("C:\\models\\Llama-3.2-1B", "meta-llama/llama-3.2-1b"),
            ("/c/hub/models--meta-llama--Llama-3.2-1B/snapshots/0a1b", "meta-llama/Llama-3.2-1B"),
            ("unsloth/Llama-3.2-1B-unsloth-bnb-4bit", "meta-llama/Llama-3.2-1B"),
        ] {
            assert!(same_base(Some(a), Some(b)).is_ok(), "{a} against {b}");
        }
        assert!(same_base(Some("a/Llama-3.2-1B"), Some("a/Llama-3.2-3B")).is_err());
        assert!(same_base(Some("a/Llama"), None).is_ok());
    }
}
