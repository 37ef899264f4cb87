//! Parts of a model whose weights are searched apart: named by blocks of layers, or by patterns over modules' names.
//!
//! `layers:4` makes blocks of four layers. `attn,mlp` makes a part of the modules that each pattern fits, the first that fits
//! counting; a pattern is as in a file of rules ([`super::modules`]), or, where none is called so, a piece of a name. What is
//! left is a part of its own. The tensors of a module share its name, LoRA's A and B among them, so that factors are never apart.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use super::modules::{Group, fits, layer_of, module_of};
use crate::error::{Error, ErrorKind, Result};

/// How the modules are called that no pattern fits.
const OTHERS: &str = "others";

/// The parts of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
struct Part {
    name: String,
    /// The pattern and, in a block, the layer of each row of the report; none in what is left, which has the weights of all.
    rows: Vec<(String, Option<u64>, usize)>,
    /// How many modules these are.
    count: usize,
}

impl Parts {
    /// The parts of a model with these tensors.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a text that names none, and a pattern that fits nothing, or nothing that is left.
    pub(crate) fn read<'a>(text: &str, tensors: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut modules: Vec<_> = tensors.map(module_of).collect();
        modules.sort_unstable();
        modules.dedup();
        let (mut parts, left) = match text.strip_prefix("layers:") {
            Some(size) => blocks(text, size, &modules)?,
            None => named(text, &modules)?,
        };
        if left > 0 {
            parts.push(Part { name: OTHERS.into(), rows: Vec::new(), count: left });
        }
        Ok(Self(parts))
    }

    /// What the weights of inputs are called, where each of `groups` has its own; the inputs' names alone where there are none.
    #[must_use]
    pub fn labels(groups: &[String], names: &[&str]) -> Vec<String> {
        if groups.is_empty() {
            return names.iter().map(|name| (*name).into()).collect();
        }
        let of = |group| names.iter().map(move |name| format!("{group}: {name}"));
        groups.iter().flat_map(of).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What they are called.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|part| part.name.as_str())
    }

    /// From weights for each part, one after the other, those of all modules and those of modules that have their own. Where
    /// each has its own, the first are their mean over the modules.
    pub(crate) fn weighed(&self, weights: &[f64]) -> (Vec<f64>, Vec<Group>) {
        let inputs = weights.len() / self.0.len().max(1);
        let each = self.0.iter().zip(weights.chunks(inputs.max(1)));
        let mut groups = Vec::new();
        let mut all = vec![0.0; inputs];
        let modules: usize = self.0.iter().map(|part| part.count).sum();
        let mut rest = None;
        for (part, weights) in each {
            for (modules, layer, count) in &part.rows {
                let (modules, weights) = (modules.clone(), weights.to_vec());
                groups.push(Group { modules, layer: *layer, weights, count: *count });
            }
            #[expect(clippy::cast_precision_loss, reason = "no model has 2^53 modules")]
            let share = part.count as f64 / modules as f64;
            all.iter_mut().zip(weights).for_each(|(all, weight)| *all += share * weight);
            if part.rows.is_empty() {
                rest = Some(weights.to_vec());
            }
        }
        (rest.unwrap_or(all), groups)
    }
}

fn wrong(detail: String) -> Error {
    Error::new(ErrorKind::Usage, detail)
}

/// Blocks of layers, and how many modules are in none.
fn blocks(text: &str, size: &str, modules: &[&str]) -> Result<(Vec<Part>, usize)> {
    let size = size.parse::<u64>().ok().filter(|size| *size > 0).ok_or_else(|| {
        wrong(format!("groups `{text}`: there is no such block of layers")).help(
            "write layers:4 for blocks of four layers, or patterns with commas between, such as attn,mlp",
        )
    })?;
    let mut layers: Vec<_> = modules.iter().filter_map(|module| layer_of(module)).collect();
    layers.sort_unstable();
    if layers.is_empty() {
        return Err(wrong(format!("groups `{text}`: no module is in a numbered layer"))
            .help("name parts of modules' names instead, such as attn,mlp"));
    }
    let mut parts: Vec<Part> = Vec::new();
    for block in layers.chunk_by(|a, b| a / size == b / size) {
        let rows = block.chunk_by(|a, b| a == b).map(|same| ("*".to_string(), Some(same[0]), same.len()));
        let (first, last) = (block[0], block[block.len() - 1]);
        let name = if first == last { format!("layer {first}") } else { format!("layers {first}-{last}") };
        parts.push(Part { name, rows: rows.collect(), count: block.len() });
    }
    Ok((parts, modules.len() - layers.len()))
}

/// The modules that patterns fit, and how many none fits.
fn named(text: &str, modules: &[&str]) -> Result<(Vec<Part>, usize)> {
    let mut left = modules.to_vec();
    let mut parts = Vec::new();
    for name in text.split(',').map(str::trim) {
        let all = |pattern: &str| modules.iter().any(|module| fits(pattern, module));
        // `attn` is a piece of self_attn where no part of a name is called so
        let piece = format!("*{name}*");
        let is_part = all(name);
        let pattern = if is_part || name.is_empty() || !all(&piece) { name } else { &piece };
        let (own, others): (Vec<_>, Vec<_>) = left.iter().partition(|module| fits(pattern, module));
        if own.is_empty() {
            let example = modules.iter().find(|module| layer_of(module).is_some()).or(modules.first());
            return Err(match example {
                _ if all(pattern) => {
                    wrong(format!("groups `{text}`: `{name}` fits only modules of a group before it"))
                        .help("name it first, or leave it out")
                }
                Some(module) => wrong(format!("groups `{text}`: `{name}` fits no module")).help(format!(
                    "a module is called as {module}: name parts of that, such as attn,mlp, or write layers:4"
                )),
                None => wrong("there are no tensors".into()),
            });
        }
        left = others;
        let (name, rows) = (name.to_string(), vec![(pattern.to_string(), None, own.len())]);
        parts.push(Part { name, rows, count: own.len() });
    }
    Ok((parts, left.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weigh::modules::Groups;

    const TENSORS: [&str; 8] = [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
        "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight",
        "base_model.model.model.layers.2.mlp.up_proj.lora_A.weight",
        "base_model.model.model.layers.10.mlp.up_proj.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.lora_A.weight",
    ];

    fn parts(text: &str) -> Result<Parts> {
        Parts::read(text, TENSORS.into_iter())
    }

    fn counts(parts: &Parts) -> Vec<(&str, usize)> {
        parts.0.iter().map(|part| (part.name.as_str(), part.count)).collect()
    }

    #[test]
    fn every_module_is_in_one_part() {
        assert_eq!(
            counts(&parts("layers:2").unwrap()),
            [("layers 0-1", 3), ("layer 2", 1), ("layer 10", 1), ("others", 2)]
        );
        assert_eq!(counts(&parts("attn, mlp").unwrap()), [("attn", 2), ("mlp", 3), ("others", 2)]);
        assert_eq!(counts(&parts("layers.1,mlp").unwrap()), [("layers.1", 2), ("mlp", 2), ("others", 3)]);
        assert_eq!(counts(&parts("*").unwrap()), [("*", 7)]);
    }

    #[test]
    fn modules_get_the_weights_of_their_part() {
        let parts = parts("attn,mlp").unwrap();
        let (all, groups) = parts.weighed(&[0.25, 0.75, 1.5, -0.5, 0.0, 1.0]);
        assert_eq!(all, [0.0, 1.0], "those of the others");
        let groups = Groups::new(&groups, 2).unwrap();
        let of = |tensor: &str| groups.of(tensor).map(|weights| weights.values().to_vec());
        assert_eq!((of(TENSORS[0]), of(TENSORS[1])), (Some([0.25, 0.75].into()), Some([0.25, 0.75].into())));
        assert_eq!((of(TENSORS[5]), of(TENSORS[7])), (Some([1.5, -0.5].into()), None));
        let blocks = Parts::read("layers:2", TENSORS[..5].iter().copied()).unwrap();
        let (all, groups) = blocks.weighed(&[0.0, 1.0, 1.0, 0.0]);
        assert_eq!(all, [0.25, 0.75], "the mean over four modules, as none is left");
        assert_eq!(groups.len(), 3, "a row for each layer");
        let groups = Groups::new(&groups, 2).unwrap();
        assert_eq!(groups.of(TENSORS[3]).unwrap().values(), [0.0, 1.0]);
        assert_eq!(groups.of(TENSORS[4]).unwrap().values(), [1.0, 0.0]);
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let told = |text: &str| {
            let error = parts(text).unwrap_err();
            assert!(error.advice().is_some(), "{error:?}");
            error.detail().to_string()
        };
        assert_eq!(told("layers:0"), "groups `layers:0`: there is no such block of layers");
        assert_eq!(told("layers:x"), "groups `layers:x`: there is no such block of layers");
        assert_eq!(told("atn,mlp"), "groups `atn,mlp`: `atn` fits no module");
        assert_eq!(told("mlp,"), "groups `mlp,`: `` fits no module");
        assert_eq!(
            told("mlp,up_proj"),
            "groups `mlp,up_proj`: `up_proj` fits only modules of a group before it"
        );
        let error = Parts::read("layers:2", ["w"].into_iter()).unwrap_err();
        assert_eq!(error.detail(), "groups `layers:2`: no module is in a numbered layer");
    }
}
