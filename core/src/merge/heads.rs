//! Heads that each run began anew by its seed: they have no average, whatever is averaged beside them.
//!
//! Runs that fine-tune one model stay close to it, and so to each other: the cosine between their tensors is near 1. A
//! classifier, a value head or a pooler that begins with random numbers is another direction in each run: near 0. (Runs
//! that are averaged for better results share a head that was trained before: "Free Lunch", arXiv 2305.16834.)

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::adapter::agree::half;
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Tensor;

/// Below this cosine, two runs have no head in common.
const OTHER: f64 = 0.2;
/// Parts of names of heads that are counted themselves, as in `classifier.0`.
const HEADS: [&str; 5] = ["classifier", "score", "head", "qa_outputs", "pooler"];

/// The tensors that are compared between runs, by name: matrices beside the numbered layers of a model.
pub(super) fn names<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Vec<&'a str> {
    let is_matrix = |tensor: &&Tensor| {
        tensor.shape.len() > 1 && Float::of(tensor.dtype).is_some() && half(&tensor.name).is_none()
    };
    let mut names: Vec<_> =
        tensors.filter(is_matrix).map(|tensor| &*tensor.name).filter(|name| may_be_head(name)).collect();
    names.sort_unstable();
    names
}

fn may_be_head(name: &str) -> bool {
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_layered = name.split('.').any(is_number);
    !is_layered || name.split('.').any(|part| HEADS.iter().any(|head| part.contains(head)))
}

/// What the cosine of a tensor of input `b` and of `a` before it says.
///
/// # Errors
/// [`ErrorKind::CrossRun`] where they have nothing in common, unless `allow` permits that.
pub(super) fn verdict(a: &str, b: &str, tensor: &str, cosine: f64, allow: bool) -> Result<Option<String>> {
    // NaN says nothing
    if cosine.is_nan() || cosine >= OTHER {
        return Ok(None);
    }
    if allow {
        return Ok(Some(format!(
            "`{tensor}` of {b} has nothing in common with that of {a} (cosine {cosine:.2}): their average is neither"
        )));
    }
    let detail = format!(
        "has nothing in common with that of {a}: their cosine is {cosine:.2}, near 1 where runs began with the same"
    );
    Err(Error::new(ErrorKind::CrossRun, detail).file(b).tensor(tensor).help(
        "each run began it anew by its seed, and such heads have no average: train the runs from one head, by the same seed or \
         frozen after a first run, or merge each run by itself; --allow-cross-run averages it anyway",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_lie_beside_the_layers() {
        for name in
            ["classifier.weight", "base_model.model.score.weight", "classifier.0.weight", "lm_head.weight"]
        {
            assert!(may_be_head(name), "{name}");
        }
        for name in ["model.layers.3.mlp.up_proj.weight", "transformer.h.0.attn.weight"] {
            assert!(!may_be_head(name), "{name}");
        }
    }
}
