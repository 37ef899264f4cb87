//! GGUF's names of a language model's modules, and the order in which llama.cpp has the rows of q and k.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::Written;
use super::adapter::{
    A, Adapter, B, EMBEDDING_A, EMBEDDING_B, Module, commonest, is_frozen_copy, module, refuse, same,
};
use super::base::Base;
use super::matrix::{Made, Matrix};
use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::format::gguf::{ALPHA, MAGIC};
use crate::format::safetensors::Tensor;

/// Architectures whose names are known, and whether llama.cpp wants their q and k in another order
/// (`convert_hf_to_gguf.py`, `undo_permute`).
const KINDS: [(&str, &str, bool); 9] = [
    ("llama", "llama", true),
    ("mistral", "llama", true),
    ("mixtral", "llama", true),
    ("qwen2", "qwen2", false),
    ("qwen3", "qwen3", false),
    ("gemma2", "gemma2", false),
    ("gemma3", "gemma3", false),
    ("gemma3_text", "gemma3", false),
    ("phi3", "phi3", false),
];
/// Modules of a layer: as Hugging Face and as GGUF call them.
const LAYER: [(&str, &str); 9] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate_up_proj", "ffn_up"),
];
const AROUND: [(&str, &str); 2] = [("model.embed_tokens", "token_embd"), ("lm_head", "output")];

/// Whether the rows of q and k of a model are in another order in llama.cpp and in torchtune.
pub(crate) fn is_rotated(kind: &str) -> bool {
    KINDS.iter().any(|(known, _, is_rotated)| *known == kind && *is_rotated)
}

/// The order of the rows of q or k: halves of each head taken in turns, or back.
pub(crate) fn order(heads: u64, rows: u64, is_back: bool) -> Option<Vec<u64>> {
    let width = rows.is_multiple_of(heads).then_some(rows / heads)?;
    let half = width.is_multiple_of(2).then_some(width / 2)?;
    let place = |row: u64| {
        let (head, inner) = (row / width, row % width);
        let inner = if is_back { inner % half * 2 + inner / half } else { inner % 2 * half + inner / 2 };
        head * width + inner
    };
    Some((0..rows).map(place).collect())
}

fn to_gguf(path: &str) -> Option<String> {
    if let Some((_, name)) = AROUND.iter().find(|(own, _)| *own == path) {
        return Some((*name).to_owned());
    }
    let (layer, module) = path.strip_prefix("model.layers.")?.split_once('.')?;
    let (_, name) = LAYER.iter().find(|(own, _)| *own == module)?;
    Some(format!("blk.{layer}.{name}"))
}

fn from_gguf(name: &str, kind: &str) -> Option<String> {
    if let Some((own, _)) = AROUND.iter().find(|(_, known)| *known == name) {
        return Some((*own).to_owned());
    }
    let (layer, module) = name.strip_prefix("blk.")?.split_once('.')?;
    let own = if kind == "phi3" && module == "ffn_up" {
        "mlp.gate_up_proj"
    } else {
        LAYER.iter().find(|(_, known)| *known == module)?.0
    };
    Some(format!("model.layers.{layer}.{own}"))
}

/// The modules of a GGUF adapter.
pub(crate) fn read(
    tensors: &[(usize, Tensor)],
    kind: &str,
    alpha: f64,
    base: Option<&Base>,
) -> Result<Vec<Module>> {
    let mut modules: Vec<Module> = Vec::new();
    for (file, tensor) in tensors {
        let halves = tensor.name.strip_suffix(".weight.lora_a").map(|name| (name, true));
        let halves = halves.or_else(|| tensor.name.strip_suffix(".weight.lora_b").map(|name| (name, false)));
        let unknown = || {
            let detail = format!("is of no module of {kind} that is known here");
            Error::new(ErrorKind::Names, detail)
                .tensor(&tensor.name)
                .help("adapters of attention, MLP, embeddings and output are converted")
        };
        let (name, is_a) = halves.ok_or_else(unknown)?;
        let path = from_gguf(name, kind).ok_or_else(unknown)?;
        let [rows, cols] = tensor.shape[..] else { return Err(unknown()) };
        let matrix = Matrix::of(*file, tensor);
        let (part, shape, matrix) = match (name == "token_embd", is_a) {
            (true, true) => (EMBEDDING_A, vec![cols, rows], matrix.transposed()),
            (true, false) => (EMBEDDING_B, vec![rows, cols], matrix),
            (false, true) => (A, vec![rows, cols], matrix),
            (false, false) => (B, vec![rows, cols], matrix),
        };
        module(&mut modules, "", &path).add(part, shape, matrix);
    }
    for module in &mut modules {
        module.alpha = if alpha == 0.0 { module.rank as f64 } else { alpha };
        // files say "llama" of all models that are made like it
        if kind != "llama" {
            continue;
        }
        let is_qk = module.path.ends_with(".q_proj") || module.path.ends_with(".k_proj");
        match base {
            Some(base) => module.reorder(base, &|heads, rows| order(heads, rows, true))?,
            None if is_qk => {
                let detail =
                    "has the rows of q and k in llama.cpp's order, which depends on the model's heads";
                return Err(Error::new(ErrorKind::Config, detail)
                    .help("give the base model's folder, or its config.json, with --base"));
            }
            None => {}
        }
    }
    Ok(modules)
}

/// A GGUF file of an adapter.
pub(crate) fn write(adapter: &Adapter, base: Option<&Base>, dtype: Option<Float>) -> Result<Written> {
    let target = "GGUF";
    let base = base.ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            "is of a base model that is not here, and GGUF needs its architecture and heads",
        )
        .help("give the base model's folder, or its config.json, with --base")
    })?;
    let kind = KINDS.iter().find(|(known, ..)| *known == base.kind);
    let (_, architecture, is_rotated) = kind.copied().ok_or_else(|| {
        let known: Vec<_> = KINDS.iter().map(|(known, ..)| *known).collect();
        let detail = format!(
            "is of a base model of the kind `{}`, of which GGUF's names are not known here",
            base.kind
        );
        Error::new(ErrorKind::Config, detail).help(format!("known are {}", known.join(", ")))
    })?;
    if let Some((name, ..)) = adapter.others.iter().find(|(name, ..)| !is_frozen_copy(name)) {
        return Err(refuse(
            target,
            name,
            "trained modules and biases",
            "leave them out of the training, or fold the adapter into its base",
        ));
    }
    let alphas: Vec<f64> = adapter.modules.iter().map(|module| module.alpha).collect();
    let alpha = commonest(&alphas);
    let mut tensors = Vec::new();
    for module in &adapter.modules {
        let mut module = module.clone();
        if let Some((part, ..)) =
            module.parts.iter().find(|(part, ..)| ![A, B, EMBEDDING_A, EMBEDDING_B].contains(part))
        {
            let name = format!("{}.{part}", module.path);
            return Err(refuse(
                target,
                &name,
                "DoRA, biases, LoHa and LoKr",
                "convert an adapter of plain LoRA, or fold it into its base",
            ));
        }
        let name = to_gguf(&module.path).ok_or_else(|| {
            let detail = format!("adapts {}, for which GGUF has no name that is known here", module.path);
            Error::new(ErrorKind::Names, detail)
                .help("attention, MLP, embeddings and output of language models are converted")
        })?;
        if is_rotated {
            module.reorder(base, &|heads, rows| order(heads, rows, false))?;
        }
        let fold = if same(module.alpha, alpha) { 1.0 } else { module.alpha / alpha };
        for (part, shape, matrix) in &module.parts {
            let (end, shape, matrix) = match *part {
                EMBEDDING_A => ("lora_a", vec![shape[1], shape[0]], matrix.clone().transposed()),
                A => ("lora_a", shape.clone(), matrix.clone()),
                _ => ("lora_b", shape.clone(), matrix.clone().times(fold)),
            };
            if shape.len() != 2 {
                let name = format!("{}.{part}", module.path);
                return Err(refuse(
                    target,
                    &name,
                    "factors of more than two dimensions",
                    "adapters of language models are converted",
                ));
            }
            tensors.push(Made::new(format!("{name}.weight.{end}"), shape, matrix).to(dtype));
        }
    }
    if let Some(odd) = tensors.iter().find(|made| kind_of(made.dtype).is_none()) {
        let detail = format!("is {}, which llama.cpp does not load", odd.dtype);
        return Err(Error::new(ErrorKind::Dtype, detail)
            .tensor(&odd.name)
            .help("ask for another: --dtype f32 or f16"));
    }
    Ok((vec![file("adapter.gguf", architecture, alpha, tensors)], Vec::new(), Vec::new()))
}

/// ggml's number of a dtype.
fn kind_of(dtype: Dtype) -> Option<u32> {
    match dtype {
        Dtype::F32 => Some(0),
        Dtype::F16 => Some(1),
        Dtype::BF16 => Some(30),
        _ => None,
    }
}

const ALIGNMENT: u64 = 32;

fn file(name: &str, architecture: &str, alpha: f64, tensors: Vec<Made>) -> super::Output {
    let mut head = MAGIC.to_vec();
    let text = |head: &mut Vec<u8>, text: &str| {
        head.extend((text.len() as u64).to_le_bytes());
        head.extend(text.as_bytes());
    };
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(4u64.to_le_bytes());
    for (key, value) in
        [("general.architecture", architecture), ("general.type", "adapter"), ("adapter.type", "lora")]
    {
        text(&mut head, key);
        head.extend(8u32.to_le_bytes());
        text(&mut head, value);
    }
    text(&mut head, ALPHA);
    head.extend(6u32.to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "the format has an f32")]
    head.extend((alpha as f32).to_le_bytes());
    let mut offset = 0u64;
    for made in &tensors {
        text(&mut head, &made.name);
        head.extend(u32::try_from(made.shape.len()).unwrap_or(0).to_le_bytes());
        for dim in made.shape.iter().rev() {
            head.extend(dim.to_le_bytes());
        }
        head.extend(kind_of(made.dtype).unwrap_or(0).to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset = (offset + made.len()).next_multiple_of(ALIGNMENT);
    }
    let start = (head.len() as u64).next_multiple_of(ALIGNMENT);
    head.resize(usize::try_from(start).unwrap_or(head.len()), 0);
    let mut at = start;
    let mut placed = Vec::new();
    for made in tensors {
        let len = made.len();
        placed.push((at, made));
        at = (at + len).next_multiple_of(ALIGNMENT);
    }
    super::Output { name: name.to_owned(), head, len: at, tensors: placed, between: Vec::new(), tail: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_heads_are_taken_in_turns_and_back() {
        // B.reshape(heads, 2, width/2).swapaxes(1, 2) in numpy
        assert_eq!(order(2, 8, false).unwrap(), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(order(1, 8, false).unwrap(), [0, 4, 1, 5, 2, 6, 3, 7]);
        let there = order(2, 12, false).unwrap();
        let back = order(2, 12, true).unwrap();
        assert!((0..12).all(|row| there[usize::try_from(back[row]).unwrap()] == row as u64));
        assert_eq!(order(3, 8, false), None);
        assert_eq!(order(2, 6, false), None);
    }

    #[test]
    fn names_lead_to_each_other() {
        for path in [
            "model.layers.11.self_attn.q_proj",
            "model.layers.0.mlp.down_proj",
            "model.embed_tokens",
            "lm_head",
        ] {
            assert_eq!(from_gguf(&to_gguf(path).unwrap(), "llama").as_deref(), Some(path));
        }
        assert_eq!(from_gguf("blk.0.ffn_up", "phi3").as_deref(), Some("model.layers.0.mlp.gate_up_proj"));
        assert_eq!(to_gguf("model.layers.0.self_attn.q_norm"), None);
    }
}
