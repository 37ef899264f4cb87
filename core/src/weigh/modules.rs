//! Weights that differ by module: rules from patterns over modules' names to weights per checkpoint.
//!
//! A file of rules is a JSON list; of the rules that fit a module the first counts, and what none fits takes the weights that
//! all have:
//!
//! ```json
//! [{"modules": "self_attn", "weights": [0.2, 0.8]},
//!  {"modules": "model.layers.*.mlp.*", "gradient": [[0.9, 0.1], [0.1, 0.9]]}]
//! ```
//!
//! A pattern with `*` fits a whole name, one without fits parts of it as they stand between dots. A gradient is mergekit's:
//! weights for the first layer of the model to those for the last, evenly spaced and on lines between. The tensors of a
//! module share its name, LoRA's A and B among them, so that factors are never apart.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::text::index::order;
use crate::weigh::explicit::{note_of_sum, wrong_count};
use crate::weigh::scheme::Weights;

/// Some modules, and their weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The pattern that fits their names.
    pub modules: String,
    /// The layer that they are in, where a gradient gives each its own weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u64>,
    /// One per input; they sum to 1.
    pub weights: Vec<f64>,
    /// How many modules these are.
    pub count: usize,
}

/// The weights of modules that have their own, or of each tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    modules: Vec<(Group, Weights)>,
    /// By name, sorted.
    tensors: Vec<(String, Weights)>,
}

impl Groups {
    /// As a report has them.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] where there is not one weight per input, or they do not sum to 1.
    pub fn new(groups: &[Group], inputs: usize) -> Result<Self> {
        let group = |group: &Group| {
            let weights = Weights::normalised(&group.weights)?;
            if group.weights.len() != inputs {
                let detail = format!(
                    "the modules `{}` have {} weights for {inputs} inputs",
                    group.modules,
                    group.weights.len()
                );
                return Err(Error::new(ErrorKind::Weights, detail));
            }
            Ok((group.clone(), weights))
        };
        Ok(Self { modules: groups.iter().map(group).collect::<Result<_>>()?, tensors: Vec::new() })
    }

    /// Of tensors, each by its name.
    pub(crate) fn of_tensors(mut tensors: Vec<(String, Weights)>) -> Self {
        tensors.sort_by(|a, b| order(&a.0, &b.0));
        Self { modules: Vec::new(), tensors }
    }

    /// Whether tensors have weights by their names.
    pub(crate) fn is_of_tensors(&self) -> bool {
        !self.tensors.is_empty()
    }

    /// Those of tensors, as a report has them.
    pub(crate) fn told(&self) -> Vec<Group> {
        let told = |(name, weights): &(String, Weights)| Group {
            modules: name.clone(),
            layer: None,
            weights: weights.values().to_vec(),
            count: 1,
        };
        self.tensors.iter().map(told).collect()
    }

    /// Whether all modules have the same weights.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty() && self.tensors.is_empty()
    }

    /// The weights of a tensor or its module, if it has its own.
    #[must_use]
    pub fn of(&self, tensor: &str) -> Option<&Weights> {
        if let Ok(place) = self.tensors.binary_search_by(|(name, _)| order(name, tensor)) {
            return Some(&self.tensors[place].1);
        }
        let module = module_of(tensor);
        let fits = |group: &Group| {
            fits(&group.modules, module) && group.layer.is_none_or(|layer| layer_of(module) == Some(layer))
        };
        self.modules.iter().find(|(group, _)| fits(group)).map(|(_, weights)| weights)
    }
}

/// A rule of a file.
struct Rule {
    modules: String,
    /// Of one, the weights; of several, those of a gradient.
    anchors: Vec<Vec<f64>>,
}

/// Read a file of rules: the groups of an adapter or model with these tensors, and what there is to say.
///
/// # Errors
/// [`ErrorKind::Usage`] for a text that is no such list and for a rule that fits nothing, or nothing that is left;
/// [`ErrorKind::Weights`] for weights that are none, or not one per checkpoint.
pub(crate) fn read<'a>(
    text: &str,
    labels: &[&str],
    tensors: impl Iterator<Item = &'a str>,
) -> Result<(Vec<Group>, Vec<String>)> {
    let rules = rules(text)?;
    let mut modules: Vec<_> = tensors.map(module_of).collect();
    modules.sort_unstable();
    modules.dedup();
    let layers = modules.iter().filter_map(|module| layer_of(module)).max().unwrap_or(0);
    let mut left = modules.clone();
    let (mut groups, mut notes) = (Vec::new(), Vec::new());
    for rule in rules {
        let at = |error: Error| {
            let told = format!("rule `{}`: {}", rule.modules, error.detail());
            Error::new(error.kind(), told).help(error.advice().unwrap_or_default().to_string())
        };
        let mut anchors = Vec::new();
        for weights in &rule.anchors {
            if weights.len() != labels.len() {
                return Err(at(wrong_count(weights.len(), labels.iter().copied())));
            }
            notes.extend(note_of_sum(weights).map(|note| format!("rule `{}`: {note}", rule.modules)));
            anchors.push(Weights::explicit(weights).map_err(at)?);
        }
        let (of_rule, others): (Vec<_>, Vec<_>) = left.iter().partition(|module| fits(&rule.modules, module));
        left = others;
        if of_rule.is_empty() {
            let is_taken = modules.iter().any(|module| fits(&rule.modules, module));
            let detail =
                if is_taken { "fits only modules that a rule before it fits" } else { "fits no module" };
            let example = modules.iter().find(|module| layer_of(module).is_some()).or(modules.first());
            return Err(at(Error::new(ErrorKind::Usage, detail).help(match example {
                _ if is_taken => "put it first, or leave it out".into(),
                Some(name) => {
                    format!("a module is called as {name}: name parts of that, such as self_attn, or use `*`")
                }
                None => "there are no tensors".into(),
            })));
        }
        if let [only] = anchors.as_slice() {
            groups.push(group(&rule, None, only, of_rule.len()));
            continue;
        }
        let mut numbers = Vec::new();
        for module in &of_rule {
            numbers.push(layer_of(module).ok_or_else(|| {
                let detail = format!("is a gradient over layers, but {module} is in none");
                at(Error::new(ErrorKind::Usage, detail)
                    .help("let its pattern fit modules in numbered layers only, such as layers"))
            })?);
        }
        numbers.sort_unstable();
        for same in numbers.chunk_by(|a, b| a == b) {
            groups.push(group(&rule, Some(same[0]), &between(&anchors, same[0], layers)?, same.len()));
        }
    }
    Ok((groups, notes))
}

fn group(rule: &Rule, layer: Option<u64>, weights: &Weights, count: usize) -> Group {
    Group { modules: rule.modules.clone(), layer, weights: weights.values().to_vec(), count }
}

/// The weights of a layer of 0 … `last`, on the lines between anchors that are evenly spaced.
fn between(anchors: &[Weights], layer: u64, last: u64) -> Result<Weights> {
    #[expect(clippy::cast_precision_loss, reason = "no model has 2^53 layers")]
    let place = if last == 0 { 0.0 } else { layer as f64 / last as f64 * (anchors.len() - 1) as f64 };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of anchors"
    )]
    let before = (libm::floor(place) as usize).min(anchors.len() - 2);
    #[expect(clippy::cast_precision_loss, reason = "a few anchors")]
    let share = place - before as f64;
    let (a, b) = (anchors[before].values(), anchors[before + 1].values());
    let weights: Vec<_> = a.iter().zip(b).map(|(a, b)| a * (1.0 - share) + b * share).collect();
    Weights::explicit(&weights)
}

fn rules(text: &str) -> Result<Vec<Rule>> {
    let wrong = |detail: String| {
        Error::new(ErrorKind::Usage, detail).help(
            "write a list of rules, such as [{\"modules\": \"self_attn\", \"weights\": [0.2, 0.8]}]; instead of weights a rule may \
             have a gradient, a list of such lists",
        )
    };
    let read: Value = serde_json::from_str(text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
    let list = read
        .as_array()
        .filter(|list| !list.is_empty())
        .ok_or_else(|| wrong("is not a list of rules".into()))?;
    let numbers = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<_>>>();
    let rule = |(i, rule): (usize, &Value)| {
        let fields = rule.as_object();
        let modules = fields.and_then(|fields| fields.get("modules")?.as_str());
        let weights = fields.and_then(|fields| Some(Vec::from([numbers(fields.get("weights")?)?])));
        let gradient = fields.and_then(|fields| {
            let anchors = fields.get("gradient")?.as_array()?.iter().map(numbers).collect::<Option<Vec<_>>>();
            anchors.filter(|anchors| anchors.len() > 1)
        });
        match (modules, weights.xor(gradient)) {
            (Some(modules), Some(anchors)) if fields.is_some_and(|fields| fields.len() == 2) => {
                Ok(Rule { modules: modules.into(), anchors })
            }
            _ => Err(wrong(format!(
                "rule {} is not {{modules, weights}}, nor {{modules, gradient}} with two lists of weights or more",
                i + 1
            ))),
        }
    };
    list.iter().enumerate().map(rule).collect()
}

/// The module that a tensor is of: its name without PEFT's wrapper, and without what it is called in the module.
pub(crate) fn module_of(tensor: &str) -> &str {
    let name = tensor.strip_prefix("base_model.model.").unwrap_or(tensor);
    let lora = [".lora_", ".lora.", "_lora."].iter().filter_map(|mark| name.rfind(mark)).min();
    &name[..lora.or_else(|| name.rfind('.')).unwrap_or(name.len())]
}

/// The first number between dots.
pub(super) fn layer_of(module: &str) -> Option<u64> {
    module.split('.').find_map(|part| part.parse().ok())
}

/// Whether a pattern fits a module's name.
pub(super) fn fits(pattern: &str, module: &str) -> bool {
    if pattern.contains('*') {
        return is_like(pattern, module);
    }
    let mut starts = core::iter::once(0).chain(module.match_indices('.').map(|(dot, _)| dot + 1));
    starts.any(|start| {
        module[start..].strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Whether all of a name is like a pattern, in which `*` is anything. Each `*` takes as little as lets the next part be found,
/// so that no name takes longer than its length times the pattern's.
fn is_like(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENSORS: [&str; 7] = [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
        "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight",
        "base_model.model.model.layers.10.mlp.up_proj.lora_A.weight",
        "base_model.model.model.layers.10.mlp.up_proj.lora_B.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
    ];

    fn groups(text: &str) -> Result<(Vec<Group>, Vec<String>)> {
        read(text, &["a", "b"], TENSORS.into_iter())
    }

    #[test]
    fn tensors_of_a_module_share_its_name() {
        for (tensor, module) in [
            (TENSORS[0], "model.layers.0.self_attn.q_proj"),
            (TENSORS[1], "model.layers.0.self_attn.q_proj"),
            (TENSORS[6], "model.embed_tokens"),
            ("model.layers.0.mlp.down.weight", "model.layers.0.mlp.down"),
            ("unet.down.0.to_q_lora.down.weight", "unet.down.0.to_q"),
            ("unet.to_q.lora_linear_layer.up.weight", "unet.to_q"),
            ("x.q.lora_magnitude_vector.default.weight", "x.q"),
            ("lora_unet_mid.hada_w1_a", "lora_unet_mid"),
            ("w", "w"),
        ] {
            assert_eq!(module_of(tensor), module);
        }
    }

    #[test]
    fn patterns_fit_parts_or_all_of_a_name() {
        let module = "model.layers.1.self_attn.q_proj";
        for pattern in [
            "q_proj",
            "self_attn",
            "layers.1",
            "model",
            module,
            "*",
            "model.*.q_proj",
            "*self_attn*",
            "m*l*j",
        ] {
            assert!(fits(pattern, module), "{pattern}");
        }
        for pattern in
            ["proj", "layers.10", "layer", "q_proj*x", "*.self_attn", "attn.*", "", "m*q_proj*q_proj"]
        {
            assert!(!fits(pattern, module), "{pattern}");
        }
        assert!(!fits("layers.1", "model.layers.10.mlp"));
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let text = r#"[{"modules": "layers.1", "weights": [1, 0]}, {"modules": "self_attn", "weights": [0.25, 0.75]}]"#;
        let (made, notes) = groups(text).unwrap();
        assert!(notes.is_empty());
        assert_eq!(made.iter().map(|group| group.count).collect::<Vec<_>>(), [1, 1]);
        let made = Groups::new(&made, 2).unwrap();
        let of = |tensor| made.of(tensor).map(|weights| weights.values().to_vec());
        assert_eq!(of(TENSORS[0]), Some([0.25, 0.75].into()));
        assert_eq!((of(TENSORS[2]), of(TENSORS[3])), (Some([1.0, 0.0].into()), Some([1.0, 0.0].into())));
        assert_eq!(of(TENSORS[4]), None);
        assert!(Groups::new(&groups(text).unwrap().0, 3).is_err() && Groups::default().is_empty());
    }

    #[test]
    fn a_gradient_goes_over_the_layers() {
        let (made, notes) =
            groups(r#"[{"modules": "layers", "gradient": [[1, 0], [0, 1], [1, 3]]}]"#).unwrap();
        assert_eq!(
            notes,
            ["rule `layers`: the weights sum to 4; they are divided by that, so that they sum to 1"]
        );
        // layers 0, 1 and 10 of 0 … 10: at the first anchor, a fifth of the way to the second, at the last
        let layers: Vec<_> =
            made.iter().map(|group| (group.layer, group.weights.clone(), group.count)).collect();
        assert_eq!(
            layers,
            [
                (Some(0), [1.0, 0.0].into(), 1),
                (Some(1), [0.8, 0.2].into(), 1),
                (Some(10), [0.25, 0.75].into(), 1),
            ]
        );
        let made = Groups::new(&made, 2).unwrap();
        assert_eq!(made.of(TENSORS[3]).unwrap().values(), [0.8, 0.2]);
        assert_eq!(made.of(TENSORS[6]), None);
    }

    #[test]
    fn wrong_rules_are_told() {
        let told = |text: &str| {
            let error = groups(text).unwrap_err();
            assert!(error.advice().is_some(), "{error:?}");
            error.detail().to_string()
        };
        assert!(told("[").starts_with("is not JSON: "));
        assert_eq!(told("[]"), "is not a list of rules");
        assert_eq!(told(r#"{"self_attn": [1, 0]}"#), "is not a list of rules");
        for odd in [
            r#"[{"modules": "x"}]"#,
            r#"[{"modules": "x", "weights": ["a"]}]"#,
            r#"[{"modules": "x", "gradient": [[1, 0]]}]"#,
            r#"[{"modules": "x", "weights": [1, 0], "gradient": [[1, 0], [0, 1]]}]"#,
            r#"[{"modules": "x", "weights": [1, 0], "odd": 1}]"#,
        ] {
            assert!(told(odd).starts_with("rule 1 is not {modules, weights}"), "{odd}");
        }
        assert_eq!(told(r#"[{"modules": "q_prj", "weights": [1, 0]}]"#), "rule `q_prj`: fits no module");
        assert_eq!(
            told(r#"[{"modules": "layers", "weights": [1, 0]}, {"modules": "mlp", "weights": [1, 0]}]"#),
            "rule `mlp`: fits only modules that a rule before it fits"
        );
        assert_eq!(
            told(r#"[{"modules": "mlp", "weights": [1, 0, 0]}]"#),
            "rule `mlp`: there are 3 weights for 2 checkpoints: a, b"
        );
        assert_eq!(told(r#"[{"modules": "mlp", "weights": [1, -1]}]"#), "rule `mlp`: the weights sum to 0");
        assert_eq!(
            told(r#"[{"modules": "model", "gradient": [[1, 0], [0, 1]]}]"#),
            "rule `model`: is a gradient over layers, but model.embed_tokens is in none"
        );
    }
}
