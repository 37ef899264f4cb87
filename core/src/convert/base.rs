//! What the config of a base model says that containers of its adapters need.

use alloc::format;
use alloc::string::{String, ToString as _};

use serde_json::{Map, Value};

use crate::adapter::config::MEND;
use crate::error::{Error, ErrorKind};
use crate::files::{Files, Maybe, is_file, is_folder, join, text};
use crate::run::checkpoint::CONFIG_LIMIT;
use crate::text::json;

/// A base model.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// `model_type`: llama, qwen2, …
    pub(crate) kind: String,
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) layers: Option<u64>,
}

impl Base {
    /// The one that the user names.
    pub(crate) fn find(files: &dyn Files, path: Option<&str>) -> Maybe<Option<Self>> {
        let Some(path) = path else { return Ok(None) };
        let config = if is_folder(files, path)? { join(path, "config.json") } else { path.to_string() };
        if !is_file(files, &config)? {
            let error = Error::new(ErrorKind::Input, "does not exist").file(config);
            return Err(error.help("give the base model's folder, or its config.json, with --base").into());
        }
        Ok(Some(Self::read(files, config)?))
    }

    /// The one that an adapter names, if it lies on this machine.
    pub(crate) fn find_beside(files: &dyn Files, name: &str) -> Maybe<Option<Self>> {
        if name.is_empty() || !is_folder(files, name)? {
            return Ok(None);
        }
        let config = join(name, "config.json");
        if is_file(files, &config)? { Ok(Some(Self::read(files, config)?)) } else { Ok(None) }
    }

    fn read(files: &dyn Files, path: String) -> Maybe<Self> {
        let text = text(files, &path, CONFIG_LIMIT)?;
        let bad = |detail: String| Error::new(ErrorKind::Config, detail).file(path.clone());
        let all: Map<String, Value> =
            json::parse(&text).map_err(|error| bad(format!("is not JSON: {error}")).help(MEND))?;
        // of models with several parts, that of the language
        let inner = all.get("text_config").and_then(Value::as_object);
        let field = |name: &str| all.get(name).or_else(|| inner?.get(name));
        let whole = |name: &str| field(name).and_then(json::step).filter(|number| *number > 0);
        let heads =
            whole("num_attention_heads").ok_or_else(|| bad("has no num_attention_heads".to_string()))?;
        let kind = field("model_type").and_then(Value::as_str).unwrap_or_default().to_string();
        let (kv_heads, layers) = (whole("num_key_value_heads").unwrap_or(heads), whole("num_hidden_layers"));
        Ok(Self { kind, heads, kv_heads, layers })
    }
}
