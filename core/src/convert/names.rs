//! What modules are called: kohya's flattened names, the models' own, and those of diffusers.
//!
//! kohya writes a path with `_` for every dot, so a name is taken apart by the words that models are made of, never at each
//! underscore. What diffusers has in parts and the model in one (q, k and v) is a row with several names.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

/// The words of the paths of UNets, transformers and text encoders.
const WORDS: &str = "down_blocks up_blocks mid_block attentions resnets transformer_blocks attn1 attn2 to_q to_k to_v to_out ff net proj \
    proj_in proj_out conv1 conv2 time_emb_proj conv_shortcut downsamplers upsamplers conv conv_in conv_out time_embedding \
    add_embedding linear_1 linear_2 \
    input_blocks middle_block output_blocks in_layers out_layers emb_layers skip_connection op time_embed label_emb out \
    text_model encoder layers self_attn q_proj k_proj v_proj out_proj mlp fc1 fc2 text_projection \
    block layer SelfAttention DenseReluDense wi_0 wi_1 wi wo q k v o \
    double_blocks single_blocks img_attn txt_attn qkv img_mlp txt_mlp img_mod txt_mod lin linear1 linear2 modulation img_in txt_in \
    time_in vector_in guidance_in in_layer out_layer final_layer linear adaLN_modulation \
    joint_blocks x_block context_block attn blocks cross_attn k_img v_img ffn time_projection head text_embedding img_emb \
    single_transformer_blocks add_q_proj add_k_proj add_v_proj to_add_out norm_out norm1 norm1_context norm time_text_embed \
    timestep_embedder text_embedder guidance_embedder ff_context x_embedder context_embedder proj_mlp condition_embedder \
    time_embedder image_embedder time_proj \
    model lm_head embed_tokens o_proj gate_proj up_proj down_proj";

/// The dotted path of a flattened name; none if it is made of other words.
pub(crate) fn unflatten(name: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    let digits = name.len() - name.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let mut words: Vec<&str> = WORDS.split_ascii_whitespace().filter(|word| name.starts_with(word)).collect();
    words.sort_unstable_by_key(|word| core::cmp::Reverse(word.len()));
    if digits > 0 {
        words.push(&name[..digits]);
    }
    words.into_iter().find_map(|word| match name[word.len()..].strip_prefix('_') {
        None if word.len() == name.len() => Some(word.to_owned()),
        None => None,
        Some(rest) => Some(format!("{word}.{}", unflatten(rest)?)),
    })
}

/// A path with `_` for every dot.
pub(crate) fn flatten(path: &str) -> String {
    path.replace('.', "_")
}

/// How the rows of a module are the rows of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// They are those of one.
    Whole,
    /// In equal parts.
    Even,
    /// Flux: q, k and v of one width, and four times as much.
    Mlp,
    /// The two halves change places: shift and scale.
    Halves,
    /// The same, but only where there are twice as many rows as columns: SD3's last block.
    LastHalves,
}

/// A row: the model's own name, those of diffusers, and how rows are parted. `#` is a number.
type Row = (&'static str, &'static [&'static str], Rows);

/// The transformers whose own names differ from diffusers'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    Sd,
    Sdxl,
    Flux,
    Sd3,
    Wan,
    Qwen,
}

impl Model {
    pub(crate) const ALL: [(&'static str, Self); 6] = [
        ("sd", Self::Sd),
        ("sdxl", Self::Sdxl),
        ("flux", Self::Flux),
        ("sd3", Self::Sd3),
        ("wan", Self::Wan),
        ("qwen-image", Self::Qwen),
    ];

    fn rows(self) -> &'static [Row] {
        match self {
            Self::Flux => &FLUX,
            Self::Sd3 => &SD3,
            Self::Wan => &WAN,
            Self::Sd | Self::Sdxl | Self::Qwen => &[],
        }
    }

    /// The model whose own names some dotted paths are.
    pub(crate) fn of_own<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Self {
        let any = |start: &str| paths.clone().any(|path| path.starts_with(start));
        if any("double_blocks.") || any("single_blocks.") {
            Self::Flux
        } else if any("joint_blocks.") {
            Self::Sd3
        } else if any("blocks.") {
            Self::Wan
        } else if any("input_blocks.") || any("output_blocks.") || any("middle_block.") {
            Self::Sdxl
        } else if any("transformer_blocks.") {
            Self::Qwen
        } else if any("down_blocks.") || any("up_blocks.") || any("mid_block.") {
            Self::Sd
        } else {
            Self::Flux
        }
    }

    /// The model that some paths of diffusers belong to, where that can be told; `base` is what is known of its name.
    pub(crate) fn of_diffusers<'a>(
        paths: impl Iterator<Item = &'a str> + Clone,
        base: &str,
        has_second: bool,
    ) -> Option<Self> {
        let has = |mark: &str| paths.clone().any(|path| path.contains(mark));
        let any = |start: &str| paths.clone().any(|path| path.starts_with(start));
        let base = base.to_ascii_lowercase();
        let named = [
            ("flux", Self::Flux),
            ("stable-diffusion-3", Self::Sd3),
            ("qwen", Self::Qwen),
            ("wan", Self::Wan),
            ("xl", Self::Sdxl),
        ];
        if any("down_blocks.") || any("up_blocks.") || any("mid_block.") {
            let is_deep = has_second || (1..10).any(|depth| has(&format!(".transformer_blocks.{depth}.")));
            let is_first = any("down_blocks.0.attentions.") || any("down_blocks.3.") || any("up_blocks.3.");
            return Some(if is_deep && !is_first { Self::Sdxl } else { Self::Sd });
        }
        if has("single_transformer_blocks.") || any("context_embedder") || has(".guidance_embedder.") {
            return Some(Self::Flux);
        }
        if any("blocks.") {
            return Some(Self::Wan);
        }
        if has(".img_mlp.") || has(".txt_mlp.") || has(".img_mod.") || has(".txt_mod.") || any("img_in") {
            return Some(Self::Qwen);
        }
        if has(".attn2.") {
            return Some(Self::Sd3);
        }
        named.iter().find(|(name, _)| base.contains(name)).map(|(_, model)| *model)
    }

    /// diffusers' modules for one of the model's own, and how its rows are theirs.
    pub(crate) fn to_diffusers(self, path: &str) -> (Vec<String>, Rows) {
        if self == Self::Sdxl
            && let Some(path) = from_sgm(path)
        {
            return (Vec::from([path]), Rows::Whole);
        }
        let found =
            self.rows().iter().find_map(|(own, theirs, rows)| Some((theirs, *rows, numbers(own, path)?)));
        match found {
            Some((theirs, rows, numbers)) => {
                (theirs.iter().map(|name| filled(name, &numbers)).collect(), rows)
            }
            None => (Vec::from([path.to_owned()]), Rows::Whole),
        }
    }

    /// The model's own module for one of diffusers', its place among those that make it up, and how many these are.
    pub(crate) fn own_of(self, path: &str) -> (String, usize, &'static [&'static str], Rows) {
        if self == Self::Sdxl {
            return (to_sgm(path).unwrap_or_else(|| path.to_owned()), 0, &[], Rows::Whole);
        }
        for (own, theirs, rows) in self.rows() {
            for (place, name) in theirs.iter().enumerate() {
                if let Some(numbers) = numbers(name, path) {
                    return (filled(own, &numbers), place, theirs, *rows);
                }
            }
        }
        (path.to_owned(), 0, &[], Rows::Whole)
    }
}

impl Rows {
    /// Which rows of `all` belong to the part at `place` of `count`.
    pub(crate) fn of(self, place: usize, count: usize, all: u64) -> Option<Range<u64>> {
        let (place, count) = (place as u64, count as u64);
        match self {
            Self::Whole | Self::Halves | Self::LastHalves => Some(0..all),
            Self::Even => all.is_multiple_of(count).then(|| all / count * place..all / count * (place + 1)),
            Self::Mlp => {
                let width = all.is_multiple_of(7).then_some(all / 7)?;
                Some(width * place..if place == 3 { all } else { width * (place + 1) })
            }
        }
    }

    /// The order of the rows where halves change places.
    pub(crate) fn order(self, rows: u64, cols: u64) -> Option<Vec<u64>> {
        let is_it = self == Self::Halves || self == Self::LastHalves && rows == 2 * cols;
        is_it.then(|| (rows / 2..rows).chain(0..rows / 2).collect())
    }
}

/// The numbers in a path that a pattern fits.
fn numbers<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let (mut patterns, mut parts) = (pattern.split('.'), path.split('.'));
    let mut numbers = Vec::new();
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return Some(numbers),
            (Some("#"), Some(part)) if part.bytes().all(|byte| byte.is_ascii_digit()) => numbers.push(part),
            (Some(pattern), Some(part)) if pattern == part => {}
            _ => return None,
        }
    }
}

fn filled(pattern: &str, numbers: &[&str]) -> String {
    let mut numbers = numbers.iter();
    let parts = pattern.split('.').map(|part| match part {
        "#" => numbers.next().copied().unwrap_or_default(),
        part => part,
    });
    parts.collect::<Vec<_>>().join(".")
}

const FLUX: [Row; 23] = [
    (
        "double_blocks.#.img_attn.qkv",
        &[
            "transformer_blocks.#.attn.to_q",
            "transformer_blocks.#.attn.to_k",
            "transformer_blocks.#.attn.to_v",
        ],
        Rows::Even,
    ),
    (
        "double_blocks.#.txt_attn.qkv",
        &[
            "transformer_blocks.#.attn.add_q_proj",
            "transformer_blocks.#.attn.add_k_proj",
            "transformer_blocks.#.attn.add_v_proj",
        ],
        Rows::Even,
    ),
    ("double_blocks.#.img_attn.proj", &["transformer_blocks.#.attn.to_out.0"], Rows::Whole),
    ("double_blocks.#.txt_attn.proj", &["transformer_blocks.#.attn.to_add_out"], Rows::Whole),
    ("double_blocks.#.img_mlp.0", &["transformer_blocks.#.ff.net.0.proj"], Rows::Whole),
    ("double_blocks.#.img_mlp.2", &["transformer_blocks.#.ff.net.2"], Rows::Whole),
    ("double_blocks.#.txt_mlp.0", &["transformer_blocks.#.ff_context.net.0.proj"], Rows::Whole),
    ("double_blocks.#.txt_mlp.2", &["transformer_blocks.#.ff_context.net.2"], Rows::Whole),
    ("double_blocks.#.img_mod.lin", &["transformer_blocks.#.norm1.linear"], Rows::Whole),
    ("double_blocks.#.txt_mod.lin", &["transformer_blocks.#.norm1_context.linear"], Rows::Whole),
    (
        "single_blocks.#.linear1",
        &[
            "single_transformer_blocks.#.attn.to_q",
            "single_transformer_blocks.#.attn.to_k",
            "single_transformer_blocks.#.attn.to_v",
            "single_transformer_blocks.#.proj_mlp",
        ],
        Rows::Mlp,
    ),
    ("single_blocks.#.linear2", &["single_transformer_blocks.#.proj_out"], Rows::Whole),
    ("single_blocks.#.modulation.lin", &["single_transformer_blocks.#.norm.linear"], Rows::Whole),
    ("img_in", &["x_embedder"], Rows::Whole),
    ("txt_in", &["context_embedder"], Rows::Whole),
    ("time_in.in_layer", &["time_text_embed.timestep_embedder.linear_1"], Rows::Whole),
    ("time_in.out_layer", &["time_text_embed.timestep_embedder.linear_2"], Rows::Whole),
    ("vector_in.in_layer", &["time_text_embed.text_embedder.linear_1"], Rows::Whole),
    ("vector_in.out_layer", &["time_text_embed.text_embedder.linear_2"], Rows::Whole),
    ("guidance_in.in_layer", &["time_text_embed.guidance_embedder.linear_1"], Rows::Whole),
    ("guidance_in.out_layer", &["time_text_embed.guidance_embedder.linear_2"], Rows::Whole),
    ("final_layer.linear", &["proj_out"], Rows::Whole),
    ("final_layer.adaLN_modulation.1", &["norm_out.linear"], Rows::Halves),
];

const SD3: [Row; 12] = [
    (
        "joint_blocks.#.x_block.attn.qkv",
        &[
            "transformer_blocks.#.attn.to_q",
            "transformer_blocks.#.attn.to_k",
            "transformer_blocks.#.attn.to_v",
        ],
        Rows::Even,
    ),
    (
        "joint_blocks.#.context_block.attn.qkv",
        &[
            "transformer_blocks.#.attn.add_q_proj",
            "transformer_blocks.#.attn.add_k_proj",
            "transformer_blocks.#.attn.add_v_proj",
        ],
        Rows::Even,
    ),
    (
        "joint_blocks.#.x_block.attn2.qkv",
        &[
            "transformer_blocks.#.attn2.to_q",
            "transformer_blocks.#.attn2.to_k",
            "transformer_blocks.#.attn2.to_v",
        ],
        Rows::Even,
    ),
    ("joint_blocks.#.x_block.attn.proj", &["transformer_blocks.#.attn.to_out.0"], Rows::Whole),
    ("joint_blocks.#.x_block.attn2.proj", &["transformer_blocks.#.attn2.to_out.0"], Rows::Whole),
    ("joint_blocks.#.context_block.attn.proj", &["transformer_blocks.#.attn.to_add_out"], Rows::Whole),
    ("joint_blocks.#.x_block.mlp.fc1", &["transformer_blocks.#.ff.net.0.proj"], Rows::Whole),
    ("joint_blocks.#.x_block.mlp.fc2", &["transformer_blocks.#.ff.net.2"], Rows::Whole),
    ("joint_blocks.#.context_block.mlp.fc1", &["transformer_blocks.#.ff_context.net.0.proj"], Rows::Whole),
    ("joint_blocks.#.context_block.mlp.fc2", &["transformer_blocks.#.ff_context.net.2"], Rows::Whole),
    ("joint_blocks.#.x_block.adaLN_modulation.1", &["transformer_blocks.#.norm1.linear"], Rows::Whole),
    (
        "joint_blocks.#.context_block.adaLN_modulation.1",
        &["transformer_blocks.#.norm1_context.linear"],
        Rows::LastHalves,
    ),
];

const WAN: [Row; 20] = [
    ("blocks.#.self_attn.q", &["blocks.#.attn1.to_q"], Rows::Whole),
    ("blocks.#.self_attn.k", &["blocks.#.attn1.to_k"], Rows::Whole),
    ("blocks.#.self_attn.v", &["blocks.#.attn1.to_v"], Rows::Whole),
    ("blocks.#.self_attn.o", &["blocks.#.attn1.to_out.0"], Rows::Whole),
    ("blocks.#.cross_attn.q", &["blocks.#.attn2.to_q"], Rows::Whole),
    ("blocks.#.cross_attn.k", &["blocks.#.attn2.to_k"], Rows::Whole),
    ("blocks.#.cross_attn.v", &["blocks.#.attn2.to_v"], Rows::Whole),
    ("blocks.#.cross_attn.o", &["blocks.#.attn2.to_out.0"], Rows::Whole),
    ("blocks.#.cross_attn.k_img", &["blocks.#.attn2.add_k_proj"], Rows::Whole),
    ("blocks.#.cross_attn.v_img", &["blocks.#.attn2.add_v_proj"], Rows::Whole),
    ("blocks.#.ffn.0", &["blocks.#.ffn.net.0.proj"], Rows::Whole),
    ("blocks.#.ffn.2", &["blocks.#.ffn.net.2"], Rows::Whole),
    ("time_projection.1", &["condition_embedder.time_proj"], Rows::Whole),
    ("head.head", &["proj_out"], Rows::Whole),
    ("text_embedding.0", &["condition_embedder.text_embedder.linear_1"], Rows::Whole),
    ("text_embedding.2", &["condition_embedder.text_embedder.linear_2"], Rows::Whole),
    ("time_embedding.0", &["condition_embedder.time_embedder.linear_1"], Rows::Whole),
    ("time_embedding.2", &["condition_embedder.time_embedder.linear_2"], Rows::Whole),
    ("img_emb.proj.1", &["condition_embedder.image_embedder.ff.net.0.proj"], Rows::Whole),
    ("img_emb.proj.3", &["condition_embedder.image_embedder.ff.net.2"], Rows::Whole),
];

/// What is called otherwise within a resnet.
const RESNET: [(&str, &str); 4] = [
    ("in_layers.2", "conv1"),
    ("out_layers.3", "conv2"),
    ("emb_layers.1", "time_emb_proj"),
    ("skip_connection", "conv_shortcut"),
];
/// What lies outside of blocks.
const AROUND: [(&str, &str); 6] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.2", "conv_out"),
];

/// diffusers' name of a module of SDXL's own UNet.
fn from_sgm(path: &str) -> Option<String> {
    if let Some((_, name)) = AROUND.iter().find(|(own, _)| *own == path) {
        return Some((*name).to_owned());
    }
    let (block, rest) = path.split_once('.')?;
    let (first, rest) = rest.split_once('.')?;
    let first: u64 = first.parse().ok()?;
    let resnet = |place: String, inner: &str| {
        let (_, name) = RESNET.iter().find(|(own, _)| *own == inner)?;
        Some(format!("{place}.{name}"))
    };
    if block == "middle_block" {
        return match first {
            0 => resnet("mid_block.resnets.0".to_owned(), rest),
            1 => Some(format!("mid_block.attentions.0.{rest}")),
            2 => resnet("mid_block.resnets.1".to_owned(), rest),
            _ => None,
        };
    }
    match (block, rest.split_once('.')?) {
        ("input_blocks", (kind, inner)) => {
            let (i, j) = (first.checked_sub(1)? / 3, (first - 1) % 3);
            match (kind, inner) {
                ("0", "op") => Some(format!("down_blocks.{i}.downsamplers.0.conv")),
                ("0", _) => resnet(format!("down_blocks.{i}.resnets.{j}"), inner),
                ("1", _) => Some(format!("down_blocks.{i}.attentions.{j}.{inner}")),
                _ => None,
            }
        }
        ("output_blocks", (kind, inner)) => {
            let (i, j) = (first / 3, first % 3);
            match (kind, inner) {
                ("1" | "2", "conv") => Some(format!("up_blocks.{i}.upsamplers.0.conv")),
                ("0", _) => resnet(format!("up_blocks.{i}.resnets.{j}"), inner),
                ("1", _) => Some(format!("up_blocks.{i}.attentions.{j}.{inner}")),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The name of a module in SDXL's own UNet.
fn to_sgm(path: &str) -> Option<String> {
    if let Some((own, _)) = AROUND.iter().find(|(_, name)| *name == path) {
        return Some((*own).to_owned());
    }
    let parts: Vec<_> = path.split('.').collect();
    let number = |at: usize| parts.get(at)?.parse::<u64>().ok();
    let inner = |from: usize| parts.get(from..).map(|inner| inner.join("."));
    let resnet = |from: usize| {
        let inner = inner(from)?;
        RESNET.iter().find(|(_, name)| *name == inner).map(|(own, _)| *own)
    };
    match (*parts.first()?, parts.get(1).copied()?, parts.get(2).copied()?) {
        ("mid_block", "resnets", place) => {
            Some(format!("middle_block.{}.{}", if place == "0" { 0 } else { 2 }, resnet(3)?))
        }
        ("mid_block", "attentions", _) => Some(format!("middle_block.1.{}", inner(3)?)),
        ("down_blocks", _, "downsamplers") => Some(format!("input_blocks.{}.0.op", 3 * (number(1)? + 1))),
        ("down_blocks", _, "resnets") => {
            Some(format!("input_blocks.{}.0.{}", 3 * number(1)? + number(3)? + 1, resnet(4)?))
        }
        ("down_blocks", _, "attentions") => {
            Some(format!("input_blocks.{}.1.{}", 3 * number(1)? + number(3)? + 1, inner(4)?))
        }
        ("up_blocks", _, "upsamplers") => Some(format!("output_blocks.{}.2.conv", 3 * number(1)? + 2)),
        ("up_blocks", _, "resnets") => {
            Some(format!("output_blocks.{}.0.{}", 3 * number(1)? + number(3)?, resnet(4)?))
        }
        ("up_blocks", _, "attentions") => {
            Some(format!("output_blocks.{}.1.{}", 3 * number(1)? + number(3)?, inner(4)?))
        }
        _ => None,
    }
}

/// A path with its numbers in their order: 2 before 10.
pub(super) fn natural(path: &str) -> impl Iterator<Item = (u64, &str)> {
    path.split('.').map(|part| part.parse().map_or((u64::MAX, part), |number| (number, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flattened_names_are_taken_apart_by_words() {
        for path in [
            "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
            "up_blocks.1.attentions.2.transformer_blocks.9.ff.net.0.proj",
            "mid_block.resnets.0.time_emb_proj",
            "text_model.encoder.layers.11.self_attn.out_proj",
            "encoder.block.3.layer.1.DenseReluDense.wi_0",
            "double_blocks.18.img_attn.qkv",
            "time_in.in_layer",
            "final_layer.adaLN_modulation.1",
            "joint_blocks.0.x_block.attn2.proj",
            "blocks.39.cross_attn.k_img",
            "transformer_blocks.0.attn.add_q_proj",
            "time_text_embed.timestep_embedder.linear_1",
            "output_blocks.5.2.conv",
        ] {
            assert_eq!(unflatten(&flatten(path)).as_deref(), Some(path));
        }
        for odd in ["", "double_blocks", "my_layer_0", "down_blocks_0_"] {
            let found = unflatten(odd);
            assert!(found.is_none() || found.as_deref() == Some(odd), "{odd} {found:?}");
        }
    }

    #[test]
    fn names_of_the_model_and_of_diffusers_lead_to_each_other() {
        for (model, rows) in [(Model::Flux, &FLUX[..]), (Model::Sd3, &SD3), (Model::Wan, &WAN)] {
            for (own, theirs, _) in rows {
                let own = own.replace('#', "7");
                let (found, rows) = model.to_diffusers(&own);
                assert_eq!(found.len(), theirs.len());
                for (place, name) in found.iter().enumerate() {
                    assert_eq!(model.own_of(name), (own.clone(), place, *theirs, rows), "{name}");
                }
            }
        }
        // sd-scripts' sdxl_model_util.py
        for (own, name) in [
            (
                "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
                "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
            ),
            ("input_blocks.2.0.in_layers.2", "down_blocks.0.resnets.1.conv1"),
            ("input_blocks.6.0.op", "down_blocks.1.downsamplers.0.conv"),
            ("middle_block.2.skip_connection", "mid_block.resnets.1.conv_shortcut"),
            ("middle_block.1.proj_in", "mid_block.attentions.0.proj_in"),
            ("output_blocks.5.2.conv", "up_blocks.1.upsamplers.0.conv"),
            ("output_blocks.8.0.emb_layers.1", "up_blocks.2.resnets.2.time_emb_proj"),
            ("label_emb.0.2", "add_embedding.linear_2"),
        ] {
            assert_eq!(Model::Sdxl.to_diffusers(own).0, [name]);
            assert_eq!(Model::Sdxl.own_of(name).0, own);
        }
    }

    #[test]
    fn rows_are_parted_as_the_model_joins_them() {
        assert_eq!(
            (0..3).map(|at| Rows::Even.of(at, 3, 144)).collect::<Vec<_>>(),
            [Some(0..48), Some(48..96), Some(96..144)]
        );
        assert_eq!(Rows::Mlp.of(2, 4, 21_504), Some(6144..9216));
        assert_eq!(Rows::Mlp.of(3, 4, 21_504), Some(9216..21_504));
        assert_eq!(Rows::Even.of(0, 3, 10), None);
        assert_eq!(Rows::Halves.order(4, 9), Some([2, 3, 0, 1].into()));
        assert_eq!(Rows::LastHalves.order(12, 2), None);
    }
}
