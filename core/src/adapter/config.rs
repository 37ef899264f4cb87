//! Read PEFT's `adapter_config.json`.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::text::json;

/// PEFT's `adapter_config.json`, with every field kept: unknown ones too, in their order.
///
/// PEFT drops fields it does not know with a warning (`PeftConfigMixin.from_peft_type`), so files of newer
/// versions are normal, and what this version does not know must still reach the output.
///
/// ```
/// let config = mwa::AdapterConfig::parse(r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "new": [1]}"#)?;
/// assert_eq!(config.peft_type(), "LORA");
/// assert_eq!((config.r(), config.lora_alpha()), (Some(8), Some(16.0)));
/// assert_eq!(config.field("new").map(ToString::to_string).as_deref(), Some("[1]"));
/// # Ok::<(), mwa::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct AdapterConfig {
    text: String,
    /// Invariant: `peft_type` is there and is a string.
    fields: Map<String, Value>,
}

impl AdapterConfig {
    /// Read the text of an `adapter_config.json`. Only `peft_type` is required, as in PEFT; torchtune's
    /// five-field file is enough.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if the text is not a JSON object, or is another tool's `adapter_config.json`.
    pub fn parse(text: &str) -> Result<Self> {
        let fields = match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(other) => return Err(bad(format!("is JSON, but {} instead of an object", kind(&other)))),
            Err(error) => return Err(not_json(text, &error)),
        };
        match fields.get("peft_type") {
            Some(Value::String(_)) => Ok(Self { text: text.to_string(), fields }),
            Some(Value::Null) | None => Err(no_peft_type(&fields)),
            Some(other) => Err(bad(format!("has peft_type {}, which is not a name", json::text(other)))),
        }
    }

    /// The text, exactly as it was read.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The method: `LORA`, `VERA`, … (`PeftType` in PEFT).
    #[must_use]
    pub fn peft_type(&self) -> &str {
        self.fields["peft_type"].as_str().expect("parse() checked this: peft_type is a string")
    }

    /// The rank, where the method has one.
    #[must_use]
    pub fn r(&self) -> Option<u64> {
        self.fields.get("r")?.as_u64()
    }

    /// LoRA's alpha; a float where PEFT converted a `PiSSA` adapter under rank-stabilised scaling.
    #[must_use]
    pub fn lora_alpha(&self) -> Option<f64> {
        self.fields.get("lora_alpha")?.as_f64()
    }

    /// Whether the scale is alpha/√r instead of alpha/r.
    #[must_use]
    pub fn use_rslora(&self) -> bool {
        self.is_set("use_rslora")
    }

    /// The base model, as the training machine called it: a hub id or a path.
    #[must_use]
    pub fn base_model(&self) -> Option<&str> {
        self.fields.get("base_model_name_or_path")?.as_str()
    }

    /// The init that subtracted something of its own from the base model (`lora/layer.py`), so that the adapter fits no other.
    pub(crate) fn base_changing_init(&self) -> Option<&str> {
        const CHANGING: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];
        let init = self.field("init_lora_weights")?.as_str()?;
        CHANGING.iter().any(|name| init.starts_with(name)).then_some(init)
    }

    /// One field, whatever it holds; `None` if the file does not have it.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// All fields, in the order of the file.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether a field is there and is neither null, false nor empty.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.field(name).is_some_and(|value| !is_unset(value))
    }

    /// The text with some fields replaced, or appended where they are new; all others stay as they are.
    /// Laid out as PEFT does (two spaces, no newline at the end); without changes it is [`Self::text`].
    #[must_use]
    pub fn rewritten(&self, changes: &[(&str, Value)]) -> String {
        if changes.is_empty() {
            return self.text.clone();
        }
        let mut fields = self.fields.clone();
        for (name, value) in changes {
            fields.insert((*name).to_string(), value.clone());
        }
        json::pretty(&fields)
    }
}

impl fmt::Debug for AdapterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.fields()).finish()
    }
}

/// PEFT writes an unused option as null, false, `{}` or `[]`, or (older versions) not at all.
pub(crate) fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What to do where a config is not JSON.
pub(crate) const MEND: &str = "mend that place, or copy the file again from where it is whole";

fn bad(detail: String) -> Error {
    Error::new(ErrorKind::Config, detail)
}

fn not_json(text: &str, error: &serde_json::Error) -> Error {
    let failure = bad(format!("is not JSON: {error}"));
    if text.trim_start().is_empty() {
        return failure
            .help("the file is empty: the save was cut short; copy the config of a sibling checkpoint");
    }
    if error.is_eof() {
        return failure
            .help("the file is cut short: copy it again, or copy the config of a sibling checkpoint");
    }
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or("");
    if ["NaN", "Infinity"].iter().any(|word| line.contains(word)) {
        return failure.help(format!(
            "Python writes bare NaN and Infinity, which are not JSON; put a number into `{}`",
            line.trim()
        ));
    }
    failure.help(MEND)
}

/// Other tools name their file `adapter_config.json` too.
fn no_peft_type(fields: &Map<String, Value>) -> Error {
    let has = |name: &str| fields.contains_key(name);
    if has("fine_tune_type") || has("lora_parameters") {
        // mlx-lm, mlx_lm/tuner/utils.py: load_adapters reads fine_tune_type, num_layers, lora_parameters.
        return bad("has no peft_type: it is the config of an MLX adapter, not of a PEFT one".to_string())
            .help("convert the adapter to PEFT's format, or merge its safetensors files as plain tensors");
    }
    if has("model_class") && has("config") {
        return bad("has no peft_type: it is an AdapterHub config, not a PEFT one".to_string());
    }
    bad("has no peft_type, so nothing says what its tensors mean".to_string())
        .help("a PEFT adapter_config.json has it: \"peft_type\": \"LORA\" for LoRA")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Error {
        AdapterConfig::parse(text).unwrap_err()
    }

    #[test]
    fn keeps_the_text_and_the_order() {
        let text = "{\"zeta\": {\"b\": 1, \"a\": 2}, \"peft_type\": \"LORA\", \"alpha\": 1e-05}";
        let config = AdapterConfig::parse(text).unwrap();
        assert_eq!(config.text(), text);
        let names: alloc::vec::Vec<_> = config.fields().map(|(name, _)| name).collect();
        assert_eq!(names, ["zeta", "peft_type", "alpha"]);
        assert_eq!(config.rewritten(&[]), text);
        let new = config.rewritten(&[("alpha", 16.into()), ("r", 8.into())]);
        assert_eq!(
            new,
            "{\n  \"zeta\": {\n    \"b\": 1,\n    \"a\": 2\n  },\n  \"peft_type\": \"LORA\",\n  \"alpha\": 16,\n  \"r\": 8\n}"
        );
    }

    #[test]
    fn reads_torchtunes_minimal_config() {
        let config = AdapterConfig::parse(
            r#"{"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "peft_type": "LORA",
                "base_model_name_or_path": "meta-llama/Llama-3.2-1B"}"#,
        )
        .unwrap();
        assert_eq!(config.base_model(), Some("meta-llama/Llama-3.2-1B"));
        assert!(!config.use_rslora());
    }

    #[test]
    fn says_whose_config_it_is() {
        let mlx = refused(r#"{"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}"#);
        assert_eq!(mlx.kind(), ErrorKind::Config);
        assert!(mlx.to_string().contains("MLX"), "{mlx}");
        assert!(refused(r#"{"model_class": "BertModel", "config": {}}"#).to_string().contains("AdapterHub"));
        assert!(refused(r#"{"r": 8}"#).to_string().contains("has no peft_type"));
        assert!(refused(r#"{"peft_type": 3}"#).to_string().contains("not a name"));
        assert!(refused("[1]").to_string().contains("a list instead of an object"));
    }

    #[test]
    fn says_what_python_wrote() {
        let nan = refused("{\n\"peft_type\": \"LORA\",\n\"x\": NaN}");
        assert!(nan.to_string().contains("line 3"), "{nan}");
        assert!(nan.advice().unwrap().contains("NaN"));
        assert!(refused(" ").advice().unwrap().contains("empty"));
        assert!(refused("{\"peft_type\": ").advice().unwrap().contains("cut short"));
        assert!(refused("{\"peft_type\": }").advice().unwrap().contains("mend that place"));
    }
}
