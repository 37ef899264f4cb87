//! Recognise weights that are codes: each is worth its scale times its code, so codes and scales cannot be averaged by themselves.

use alloc::format;

use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Tensor;
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
/// What follows the name of an FP8 weight in that of its scale (DeepSeek's and Qwen's, compressed-tensors', TorchAO's).
const SCALES: [&str; 3] = ["_scale_inv", "_scale", "_scale_2"];

/// Refuse tensors that are codes of others' scales.
///
/// # Errors
/// [`ErrorKind::Dtype`], with the tensor, and its scale where it has one.
pub(crate) fn refuse<'a>(tensors: impl Iterator<Item = &'a Tensor> + Clone) -> Result<()> {
    let index = Index::new(tensors.clone().map(|tensor| tensor.name.as_str()));
    for tensor in tensors {
        let last = tensor.name.rsplit('.').next().unwrap_or_default();
        let scale = SCALES.iter().map(|end| format!("{}{end}", tensor.name)).find(|name| index.has(name));
        let is_code = matches!(tensor.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::I8 | Dtype::U8);
        let detail = match scale {
            Some(scale) if is_code => {
                format!("holds {} codes, which are worth their scales in `{scale}`", tensor.dtype)
            }
            _ if PARTS.contains(&last) => "is a part of quantised weights".into(),
            _ => continue,
        };
        return Err(Error::new(ErrorKind::Dtype, format!("{detail}: neither can be averaged by itself"))
            .tensor(&tensor.name)
            .help("merge the checkpoints before they are quantised, or dequantise them first"));
    }
    Ok(())
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
    fn codes_are_told_from_plain_numbers() {
        assert_eq!(told(&[("a.weight", Dtype::F8_E4M3), ("a.bias", Dtype::F32)]), None);
        assert_eq!(told(&[("a.weight", Dtype::F32), ("a.weight_scale", Dtype::F32)]), None);
        assert_eq!(
            told(&[("a.weight", Dtype::F8_E4M3), ("a.weight_scale", Dtype::F32)]).as_deref(),
            Some(
                "tensor `a.weight` holds F8_E4M3 codes, which are worth their scales in `a.weight_scale`: neither can be \
                 averaged by itself"
            )
        );
        assert_eq!(
            told(&[("a.qweight", Dtype::I32), ("a.scales", Dtype::F16)]).as_deref(),
            Some("tensor `a.qweight` is a part of quantised weights: neither can be averaged by itself")
        );
    }
}
