//! An adapter between containers: its modules with their factors as PEFT has them, and what cannot be held.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::base::Base;
use super::matrix::Matrix;
use crate::adapter::config::AdapterConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::{Header, Tensor};

/// An adapter, whatever it came in.
#[derive(Debug, Default)]
pub(crate) struct Adapter {
    /// Path and head of each file.
    pub(crate) files: Vec<(String, Header)>,
    pub(crate) modules: Vec<Module>,
    /// Tensors that belong to no pair of factors, by name: trained modules, biases, tokens.
    pub(crate) others: Vec<(String, usize, Tensor)>,
    /// PEFT's config of each component, where the container has one.
    pub(crate) configs: Vec<(String, AdapterConfig)>,
    /// The base model's name, where it is known otherwise.
    pub(super) base: Option<String>,
    pub(crate) notes: Vec<String>,
}

/// A module that is adapted.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// The part of a pipeline: `unet`, `transformer`, `text_encoder`, `text_encoder_2`; empty for a model by itself.
    pub(crate) component: String,
    /// Its dotted path in it.
    pub(crate) path: String,
    /// Its tensors as PEFT calls them behind the path, with their shapes, as PEFT has them.
    pub(crate) parts: Vec<(&'static str, Vec<u64>, Matrix)>,
    /// The number by which the scale is divided: its rank.
    pub(crate) rank: u64,
    /// The scale times the rank.
    pub(crate) alpha: f64,
}

pub(crate) const A: &str = "lora_A.weight";
pub(crate) const B: &str = "lora_B.weight";
pub(crate) const EMBEDDING_A: &str = "lora_embedding_A";
pub(crate) const EMBEDDING_B: &str = "lora_embedding_B";
pub(crate) const MAGNITUDE: &str = "lora_magnitude_vector";

impl Adapter {
    /// The name of the base model that the adapter is of.
    pub(crate) fn base_name(&self) -> Option<String> {
        let named = self.configs.iter().find_map(|(_, config)| config.base_model());
        named.map(String::from).or_else(|| self.base.clone()).filter(|name| !name.is_empty())
    }
}

/// The module of this path among others, new if need be.
pub(super) fn module<'a>(modules: &'a mut Vec<Module>, component: &str, path: &str) -> &'a mut Module {
    // tensors of one module lie side by side in most files, so it is looked for from the end on
    let place = modules.iter().rposition(|it| it.component == component && it.path == path);
    let place = place.unwrap_or_else(|| {
        let (component, path) = (component.to_owned(), path.to_owned());
        modules.push(Module { component, path, parts: Vec::new(), rank: 0, alpha: f64::NAN });
        modules.len() - 1
    });
    &mut modules[place]
}

impl Module {
    /// Take in a tensor.
    pub(super) fn add(&mut self, part: &'static str, shape: Vec<u64>, matrix: Matrix) {
        let dim = |at: usize| shape.get(at).copied().unwrap_or(0);
        match part {
            A | EMBEDDING_A | "hada_w1_b" | "lokr_w1_b" | "lokr_w2_b" => self.rank = self.rank.max(dim(0)),
            _ => {}
        }
        self.parts.push((part, shape, matrix));
    }

    pub(crate) fn part(&self, part: &str) -> Option<&(&'static str, Vec<u64>, Matrix)> {
        self.parts.iter().find(|(known, ..)| *known == part)
    }

    /// The number that the product of factors is multiplied by.
    pub(crate) fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Whether it is a pair of factors, of a layer or of an embedding.
    pub(crate) fn is_lora(&self) -> bool {
        self.part(A).is_some() || self.part(EMBEDDING_A).is_some()
    }

    /// Put the rows of B of q and k in an order that depends on the heads.
    pub(crate) fn reorder(
        &mut self,
        base: &Base,
        order: &dyn Fn(u64, u64) -> Option<Vec<u64>>,
    ) -> Result<()> {
        let heads = match last_of(&self.path) {
            "q_proj" => base.heads,
            "k_proj" => base.kv_heads,
            _ => return Ok(()),
        };
        for (part, _, matrix) in &mut self.parts {
            if *part == B {
                let rows = matrix.rows;
                let order = order(heads, rows).ok_or_else(|| {
                    let detail =
                        format!("has {rows} rows in {}, which are not those of {heads} heads", self.path);
                    Error::new(ErrorKind::Shape, detail)
                        .help("give the config of its own base model with --base")
                })?;
                *matrix = matrix.clone().ordered(order);
            }
        }
        Ok(())
    }
}

/// The last part of a dotted path.
pub(crate) fn last_of(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// A target cannot hold something.
pub(crate) fn refuse(target: &str, name: &str, what: &str, help: &'static str) -> Error {
    let detail = format!("cannot be converted: {target} cannot hold {what}");
    Error::new(ErrorKind::Method, detail).tensor(name).help(help)
}

/// Whether two scales are one.
pub(crate) fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

/// The commonest of some numbers, the first of several that are as common.
pub(crate) fn commonest(numbers: &[f64]) -> f64 {
    let count = |number: &f64| numbers.iter().filter(|other| same(**other, *number)).count();
    let mut distinct: Vec<f64> = Vec::new();
    for number in numbers {
        if !distinct.contains(number) {
            distinct.push(*number);
        }
    }
    let counts = distinct.iter().map(|number| (count(number), *number));
    // of equal counts the first stays
    counts.reduce(|best, other| if other.0 > best.0 { other } else { best }).map_or(1.0, |(_, number)| number)
}

/// Whether a tensor is a copy of the base model's, which PEFT writes beside an adapted embedding.
pub(crate) fn is_frozen_copy(name: &str) -> bool {
    name.ends_with(".base_layer.weight")
}
