//! The scale γ and the rank of each module, as PEFT works them out of an adapter's config.
//!
//! ΔW = γBA with γ = α/r, or α/√r under `use_rslora`; α and r of a module come from the first key of `alpha_pattern` and
//! `rank_pattern` that matches, as a regular expression, the end of its name after a dot (`get_pattern_key` in PEFT's
//! `utils/other.py`, 0.21), and else from `lora_alpha` and `r`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde_json::Value;

use super::pattern::Pattern;
use crate::adapter::config::AdapterConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::text::json;

/// How one adapter scales its modules.
pub(crate) struct Scaling {
    r: Option<u64>,
    alpha: f64,
    is_rslora: bool,
    ranks: Patterns,
    alphas: Patterns,
}

/// A pattern field: keys in their order, each with its value.
struct Patterns(Vec<Entry>);

struct Entry {
    key: String,
    pattern: Pattern,
    number: f64,
}

impl Scaling {
    /// Read what `config` says.
    pub(crate) fn new(config: &AdapterConfig) -> Result<Self> {
        let alpha = config.lora_alpha().filter(|alpha| alpha.is_finite()).ok_or_else(|| {
            Error::new(ErrorKind::Config, "has no lora_alpha, so nothing says how its factors are scaled")
                .help("PEFT would take 8; write the alpha of the training into adapter_config.json")
        })?;
        Ok(Self {
            r: config.r(),
            alpha,
            is_rslora: config.use_rslora(),
            ranks: Patterns::new(config, "rank_pattern")?,
            alphas: Patterns::new(config, "alpha_pattern")?,
        })
    }

    /// The scale of a module of rank `rank`.
    pub(crate) fn scale(&self, module: &str, rank: u64) -> f64 {
        let alpha = self.alphas.find(module).unwrap_or(self.alpha);
        let rank = rank as f64;
        alpha / if self.is_rslora { libm::sqrt(rank) } else { rank }
    }

    /// The rank that the config gives a module, if it gives any.
    pub(crate) fn rank(&self, module: &str) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "ranks are small whole numbers"
        )]
        self.ranks.find(module).map(|rank| rank as u64).or(self.r)
    }

    /// A pattern that matches none of the modules: (field, key).
    pub(crate) fn idle<'a>(&'a self, modules: &[&str]) -> Option<(&'static str, &'a str)> {
        [("rank_pattern", &self.ranks), ("alpha_pattern", &self.alphas)].into_iter().find_map(
            |(field, patterns)| {
                let is_idle = |entry: &&Entry| !modules.iter().any(|name| entry.pattern.matches_end(name));
                patterns.0.iter().find(is_idle).map(|entry| (field, entry.key.as_str()))
            },
        )
    }
}

impl Patterns {
    fn new(config: &AdapterConfig, field: &'static str) -> Result<Self> {
        let Some(Value::Object(entries)) = config.field(field) else { return Ok(Self(Vec::new())) };
        let mut parsed = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let number = value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| {
                let value = json::text(value);
                let detail = format!("has {value} for `{key}` in {field}, which is not a number");
                Error::new(ErrorKind::Config, detail)
            })?;
            let pattern = Pattern::new(key).map_err(|why| {
                let detail =
                    format!("has the key `{key}` in {field}, which cannot be read as a pattern: {why}");
                Error::new(ErrorKind::Config, detail).help("name the modules in full instead")
            })?;
            parsed.push(Entry { key: key.clone(), pattern, number });
        }
        Ok(Self(parsed))
    }

    fn find(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|entry| entry.pattern.matches_end(module)).map(|entry| entry.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn scaling(fields: &str) -> Result<Scaling> {
        Scaling::new(&AdapterConfig::parse(&format!("{{\"peft_type\": \"LORA\"{fields}}}")).unwrap())
    }

    #[test]
    fn the_first_pattern_that_matches_the_end_wins() {
        let found = scaling(
            r#", "r": 4, "lora_alpha": 16, "rank_pattern": {"q_proj": 8, ".*1.k_proj": 2},
                "alpha_pattern": {"layers\\.0\\.(q|v)_proj": 32, "v_proj": 1}"#,
        )
        .unwrap();
        for (module, rank, scale) in [
            ("model.layers.0.self_attn.q_proj", 8, 2.0),
            ("model.layers.0.q_proj", 8, 4.0),
            ("layers.0.v_proj", 4, 8.0),
            ("layers.3.v_proj", 4, 0.25),
            ("layers.1.k_proj", 2, 8.0),
            ("layers.0.k_proj", 4, 4.0),
            ("layers.0.my_q_proj", 4, 4.0),
        ] {
            assert_eq!(found.rank(module), Some(rank), "{module}");
            assert_eq!(found.scale(module, rank), scale, "{module}");
        }
        assert_eq!(found.idle(&["a.q_proj", "l.1.k_proj", "layers.0.v_proj"]), None);
        assert_eq!(found.idle(&["a.q_proj", "layers.0.v_proj"]), Some(("rank_pattern", ".*1.k_proj")));
    }

    #[test]
    fn rslora_divides_by_the_root() {
        assert_eq!(scaling(r#", "r": 16, "lora_alpha": 8, "use_rslora": true"#).unwrap().scale("q", 16), 2.0);
    }

    #[test]
    fn what_cannot_be_scaled_is_an_error() {
        let message = |fields: &str| scaling(fields).err().unwrap().to_string();
        assert!(message("").contains("has no lora_alpha"));
        assert!(
            message(r#", "lora_alpha": 1, "alpha_pattern": {"(?=a)": 1}"#)
                .contains("cannot be read as a pattern")
        );
        assert!(message(r#", "lora_alpha": 1, "rank_pattern": {"q": [true]}"#).contains("not a number"));
    }
}
