//! Recognise weights that are codes: each is worth its scale times its code, so codes and scales cannot be averaged by themselves.
//!
//! What `method/scaled` understands is merged by it: FP8 codes whose scales are floats. All else is refused.

use alloc::format;
use alloc::string::String;

use serde_json::Value;

use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Tensor;
use crate::method::scaled::Block;
use crate::text::index::Index;

/// The last parts of names that quantisers write beside, or instead of, a weight: GPTQ and AWQ, bitsandbytes, and
/// compressed-tensors.
const PARTS: [&str; 9] = [
    "qweight",
    "qzeros",
    "weight_packed",
    "weight_zero_point",
    "absmax",
    "quant_map",
    "nested_absmax",
    "SCB",
    "weight_format",
];
/// What follows the name of a weight in that of its scale (DeepSeek's and Qwen's, compressed-tensors').
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];
/// What follows it in that of a scale of scales (NVFP4's).
const SECOND: &str = "_scale_2";

/// The name of a weight's scale, if there is one.
pub(crate) fn scale_of(weight: &str, names: &Index<'_>) -> Option<String> {
    SCALES.iter().map(|end| format!("{weight}{end}")).find(|name| names.has(name))
}

/// Whether some of the tensors are FP8 codes of scales.
pub(crate) fn are_codes<'a>(tensors: impl Iterator<Item = &'a Tensor> + Clone) -> bool {
    let mut codes =
        tensors.clone().filter(|tensor| matches!(tensor.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2)).peekable();
    codes.peek().is_some() && {
        let index = Index::new(tensors.map(|tensor| tensor.name.as_str()));
        codes.any(|tensor| scale_of(&tensor.name, &index).is_some())
    }
}

/// The sides of the blocks that share a scale, as a model's config says them: transformers' `weight_block_size`, or
/// compressed-tensors' `block_structure` where all its groups have one.
pub(crate) fn block_of(config: &Value) -> Block {
    let config = config.get("quantization_config")?;
    let sides = |value: &Value| {
        let sides = value.as_array().filter(|sides| sides.len() == 2)?;
        Some((sides[0].as_u64()?, sides[1].as_u64()?)).filter(|(tall, wide)| *tall > 0 && *wide > 0)
    };
    if let Some(block) = config.get("weight_block_size").and_then(sides) {
        return Some(block);
    }
    let groups = config.get("config_groups")?.as_object()?;
    let mut blocks =
        groups.values().map(|group| group.get("weights")?.get("block_structure").and_then(sides));
    let first = blocks.next()??;
    blocks.all(|block| block == Some(first)).then_some(first)
}

/// A tensor that is a code of another's scales in a way that is not understood: what it is, and why it cannot be averaged.
fn unknown<'a>(
    tensors: impl Iterator<Item = &'a Tensor> + Clone,
) -> Option<(&'a Tensor, String, &'static str)> {
    let index = Index::new(tensors.clone().map(|tensor| tensor.name.as_str()));
    for tensor in tensors {
        let last = tensor.name.rsplit('.').next().unwrap_or_default();
        let is_code = matches!(tensor.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::I8 | Dtype::U8);
        let second = format!("{}{SECOND}", tensor.name);
        return Some(match scale_of(&tensor.name, &index) {
            Some(scale) if is_code && index.has(&second) => {
                let what = format!("{} times that in `{second}`", codes(tensor, &scale));
                (tensor, what, "two levels of scales are not understood")
            }
            Some(scale) if matches!(tensor.dtype, Dtype::I8 | Dtype::U8) => {
                (tensor, codes(tensor, &scale), "of codes, FP8 alone is dequantised and rounded anew")
            }
            _ if PARTS.contains(&last) => {
                let what = format!("is a part of quantised weights, {}", quantiser(last));
                (tensor, what, "neither codes nor scales can be averaged by themselves")
            }
            _ => continue,
        });
    }
    None
}

fn codes(tensor: &Tensor, scale: &str) -> String {
    format!("holds {} codes, which are worth their scales in `{scale}`", tensor.dtype)
}

/// Refuse tensors that are codes of others' scales in a way that is not understood.
///
/// # Errors
/// [`ErrorKind::Dtype`], with the tensor, its scale where it has one, and what is not understood.
pub(crate) fn refuse<'a>(tensors: impl Iterator<Item = &'a Tensor> + Clone) -> Result<()> {
    let Some((tensor, what, why)) = unknown(tensors) else { return Ok(()) };
    Err(Error::new(ErrorKind::Dtype, format!("{what}: {why}"))
        .tensor(&tensor.name)
        .help("merge the checkpoints before they are quantised, or dequantise them first"))
}

/// Refuse all tensors of a model that are codes of scales or parts of quantised weights: `why` plain weights are needed.
///
/// # Errors
/// [`ErrorKind::Dtype`], with the tensor and its scale where it has one.
pub(crate) fn refuse_all<'a>(
    tensors: impl Iterator<Item = &'a Tensor> + Clone,
    name: &str,
    why: &str,
    help: &'static str,
) -> Result<()> {
    let index = Index::new(tensors.clone().map(|tensor| tensor.name.as_str()));
    let found = unknown(tensors.clone()).map(|(tensor, what, _)| (tensor, what));
    let found = found.or_else(|| {
        let mut floats = tensors.filter(|tensor| matches!(tensor.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2));
        floats.find_map(|tensor| Some((tensor, codes(tensor, &scale_of(&tensor.name, &index)?))))
    });
    let Some((tensor, what)) = found else { return Ok(()) };
    Err(Error::new(ErrorKind::Dtype, format!("{what}, and {why}")).file(name).tensor(&tensor.name).help(help))
}

/// Who writes such a part.
fn quantiser(part: &str) -> &'static str {
    match part {
        "qweight" | "qzeros" => "GPTQ's or AWQ's",
        "weight_packed" | "weight_zero_point" => "packed by compressed-tensors",
        _ => "bitsandbytes'",
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;
    use alloc::vec::Vec;

    use super::*;

    fn told(tensors: &[(&str, Dtype)]) -> Option<alloc::string::String> {
        let tensor = |(name, dtype): &(&str, Dtype)| Tensor {
            name: name.to_string(),
            dtype: *dtype,
            shape: [1].into(),
            range: 0..1,
        };
        let tensors: Vec<_> = tensors.iter().map(tensor).collect();
        refuse(tensors.iter()).err().map(|error| error.to_string())
    }

    #[test]
    fn configs_say_what_a_block_is() {
        let told = |text: &str| block_of(&serde_json::from_str(text).unwrap());
        let deepseek = r#"{"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 64]}}"#;
        assert_eq!(told(deepseek), Some((128, 64)));
        let group = |block: &str| format!(r#"{{"weights": {{"num_bits": 8, "block_structure": {block}}}}}"#);
        let groups = |a: &str, b: &str| {
            told(&format!(
                r#"{{"quantization_config": {{"config_groups": {{"group_0": {}, "group_1": {}}}}}}}"#,
                group(a),
                group(b)
            ))
        };
        assert_eq!(groups("[128, 128]", "[128, 128]"), Some((128, 128)));
        assert_eq!(groups("[128, 128]", "[64, 64]"), None);
        assert_eq!(groups("null", "[64, 64]"), None);
        for text in ["{}", r#"{"quantization_config": {"weight_block_size": [0, 128]}}"#, "[]"] {
            assert_eq!(told(text), None, "{text}");
        }
    }

    #[test]
    fn codes_are_told_from_plain_numbers() {
        assert_eq!(told(&[("a.weight", Dtype::F8_E4M3), ("a.bias", Dtype::F32)]), None);
        assert_eq!(told(&[("a.weight", Dtype::F32), ("a.weight_scale", Dtype::F32)]), None);
        assert_eq!(told(&[("a.weight", Dtype::F8_E4M3), ("a.weight_scale_inv", Dtype::F32)]), None);
        let help = "of codes, FP8 alone is dequantised and rounded anew";
        assert_eq!(
            told(&[("a.weight", Dtype::I8), ("a.weight_scale", Dtype::BF16)]).unwrap(),
            format!(
                "tensor `a.weight` holds I8 codes, which are worth their scales in `a.weight_scale`: {help}"
            )
        );
        let two =
            [("a.weight", Dtype::U8), ("a.weight_scale", Dtype::F8_E4M3), ("a.weight_scale_2", Dtype::F32)];
        assert!(told(&two).unwrap().ends_with("two levels of scales are not understood"));
        let ends = "neither codes nor scales can be averaged by themselves";
        for (name, whose) in [
            ("a.qweight", "GPTQ's or AWQ's"),
            ("a.weight_packed", "packed by compressed-tensors"),
            ("a.weight.absmax", "bitsandbytes'"),
        ] {
            let told = told(&[(name, Dtype::I32), ("a.scales", Dtype::F16)]).unwrap();
            assert_eq!(told, format!("tensor `{name}` is a part of quantised weights, {whose}: {ends}"));
        }
    }
}
