//! Compare the names and shapes of tensors.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::Candidate;
use crate::error::{Error, ErrorKind, Result};
use crate::format::counter::is_opaque;
use crate::text::index::Index;

/// The shapes of an input's tensors, by name.
pub(super) struct Shapes<'a> {
    all: &'a [(&'a str, &'a [u64])],
    index: Index<'a>,
}

impl<'a> Shapes<'a> {
    pub(super) fn new(input: &Candidate<'a>) -> Self {
        let all = input.tensors;
        Self { all, index: Index::new(all.iter().map(|(name, _)| *name)) }
    }

    fn find(&self, name: &str) -> Option<&'a [u64]> {
        self.index.place(name).map(|place| self.all[place].1)
    }

    /// The names that another input lacks, sorted, but for those that it may.
    fn without(&self, other: &Self, may_lack: &dyn Fn(&str) -> bool) -> Vec<&'a str> {
        let names = self.sorted().map(|(name, _)| name);
        names.filter(|name| !other.index.has(name) && !may_lack(name)).collect()
    }

    /// All, sorted by name.
    fn sorted(&self) -> impl Iterator<Item = (&'a str, &'a [u64])> {
        self.index.sorted().iter().map(|(_, place)| self.all[*place])
    }
}

/// One half of a low-rank pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// `lora_A`, `lora_down`: the rank is its first dimension.
    Down,
    /// `lora_B`, `lora_up`: the rank is its second dimension.
    Up,
}

/// Names of the two halves: PEFT, PEFT on embeddings, kohya, older diffusers.
const HALVES: &[(&str, &str)] = &[
    ("lora_A", "lora_B"),
    ("lora_embedding_A", "lora_embedding_B"),
    ("lora_down", "lora_up"),
    ("lora.down", "lora.up"),
    ("lora_linear_layer.down", "lora_linear_layer.up"),
];

/// Which half a tensor is, and what the other half is called.
pub(crate) fn half(name: &str) -> Option<(Half, String)> {
    if name.ends_with(".bias") {
        return None; // lora_bias: only lora_B has one
    }
    HALVES.iter().find_map(|(down, up)| {
        swapped(name, down, up)
            .map(|other| (Half::Down, other))
            .or_else(|| swapped(name, up, down).map(|other| (Half::Up, other)))
    })
}

/// `name` with the path segment `from` replaced; `None` if it does not have it.
fn swapped(name: &str, from: &str, to: &str) -> Option<String> {
    let start = name.rfind(from)?;
    let (before, after) = (&name[..start], &name[start + from.len()..]);
    // Old diffusers keys glue the module's name on: `to_q_lora.down.weight`.
    let opens = before.is_empty() || before.ends_with('.') || (before.ends_with('_') && from.contains('.'));
    let closes = after.is_empty() || after.starts_with('.');
    (opens && closes).then(|| format!("{before}{to}{after}"))
}

/// One input by itself: tensors, whole factors, both halves of each pair.
///
/// `prunes`: `AdaLoRA` may cut a module to rank 0, so that `[0, in]` is a whole tensor there.
pub(super) fn whole(input: &str, shapes: &Shapes<'_>, prunes: bool) -> Result<()> {
    if shapes.all.is_empty() {
        return Err(Error::new(ErrorKind::Input, "holds no tensors").file(input).help(
            "DeepSpeed ZeRO-3 leaves such a file when stage3_gather_16bit_weights_on_model_save is false: \
             set it to true, or gather the weights from the checkpoint's global_step folder with zero_to_fp32.py",
        ));
    }
    let halves: Vec<_> = shapes
        .sorted()
        .filter_map(|(name, shape)| half(name).map(|(_, other)| (name, shape, other)))
        .collect();
    let torn: Vec<_> =
        halves.iter().filter(|(_, shape, _)| shape.len() < 2 || (!prunes && shape.contains(&0))).collect();
    if let Some((name, shape, _)) = torn.first() {
        return Err(Error::new(
            ErrorKind::Shape,
            format!("is {shape:?}, but a LoRA factor has two dimensions or more{}", and_more(torn.len() - 1)),
        )
        .file(input)
        .tensor(*name)
        .help(
            "a flat or empty factor is one shard of a ZeRO-3 or FSDP run: save again inside \
             deepspeed.zero.GatheredParameters or FSDP.summon_full_params",
        ));
    }
    let lone: Vec<_> = halves.iter().filter(|(_, _, other)| !shapes.index.has(other)).collect();
    if let Some((name, _, other)) = lone.first() {
        return Err(Error::new(
            ErrorKind::Names,
            format!("has no other half: `{other}` is missing{}", and_more(lone.len() - 1)),
        )
        .file(input)
        .tensor(*name)
        .help("PEFT would load this file with a warning and leave the module untrained; save it again"));
    }
    Ok(())
}

/// Both inputs hold the same tensors; with `product`, factors may be missing, which then count as zero.
pub(super) fn same_names(
    ours: (&str, &Shapes<'_>),
    theirs: (&str, &Shapes<'_>),
    product: bool,
) -> Result<()> {
    let may_lack = |name: &str| product && half(name.strip_suffix("bias").unwrap_or(name)).is_some();
    let (lacking, extra) = (ours.1.without(theirs.1, &may_lack), theirs.1.without(ours.1, &may_lack));
    if lacking.is_empty() && extra.is_empty() {
        return Ok(());
    }
    let mut parts = Vec::new();
    if !lacking.is_empty() {
        parts.push(format!("lacks {} that {} has: {}", count(lacking.len()), ours.0, some(&lacking)));
    }
    if !extra.is_empty() {
        parts.push(format!("has {} that {} lacks: {}", count(extra.len()), ours.0, some(&extra)));
    }
    Err(Error::new(ErrorKind::Names, parts.join("; ")).file(theirs.0).help(explain(&lacking, &extra)))
}

/// Known renamings: (what a message calls it, how to undo it).
type Renaming = (&'static str, fn(&str) -> String);
const RENAMINGS: &[Renaming] = &[
    ("`_orig_mod.`: one was saved from a model wrapped in torch.compile; save the unwrapped model", |name| {
        name.replace("_orig_mod.", "")
    }),
    ("the adapter's name `default`: one is a raw training state, not a save_pretrained file", |name| {
        let name = name.replace(".default.", ".");
        name.strip_suffix(".default").unwrap_or(&name).to_string()
    }),
    ("`_fsdp_wrapped_module.`: one was saved from inside FSDP", |name| {
        name.replace("_fsdp_wrapped_module.", "")
    }),
    ("`module.`: one was saved from inside DataParallel", |name| {
        name.strip_prefix("module.").unwrap_or(name).to_string()
    }),
    (
        "the place of `model.`: transformers 4 and 5 put it elsewhere around `language_model`, so the run crossed \
         the upgrade; load and save the older adapters with the newer version",
        |name| name.split('.').filter(|part| *part != "model").collect::<Vec<_>>().join("."),
    ),
];

fn explain(lacking: &[&str], extra: &[&str]) -> String {
    let undone = |names: &[&str], undo: &dyn Fn(&str) -> String| {
        let mut names: Vec<String> = names.iter().map(|name| undo(name)).collect();
        names.sort_unstable();
        names
    };
    for (cause, undo) in RENAMINGS {
        if undone(lacking, undo) == undone(extra, undo) {
            return format!("the names differ only in {cause}");
        }
    }
    let all = |name: &str| RENAMINGS.iter().fold(name.to_string(), |name, (_, undo)| undo(&name));
    if undone(lacking, &all) == undone(extra, &all) {
        return "the names differ only in wrappers (torch.compile, FSDP, adapter or language_model names); \
                save both the same way"
            .to_string();
    }
    let fused = |names: &[&str]| {
        names.iter().any(|name| name.contains("gate_up_proj") || name.contains(".experts.base_layer."))
    };
    if lacking.iter().chain(extra).any(|name| name.contains(".experts.")) && fused(lacking) != fused(extra) {
        return "transformers 5 fuses the experts that transformers 4 kept apart, so the run crossed the upgrade; \
                load and save the older adapters with the newer version"
            .to_string();
    }
    "only checkpoints of one run, with the same modules trained, can be averaged".to_string()
}

/// Both inputs have the same shapes; with `product`, the two halves of a pair may have any rank.
pub(super) fn same_shapes(
    ours: (&str, &Shapes<'_>),
    theirs: (&str, &Shapes<'_>),
    product: bool,
) -> Result<()> {
    let differing: Vec<_> = ours
        .1
        .sorted()
        .filter_map(|(name, a)| theirs.1.find(name).map(|b| (name, a, b)))
        .filter(|(name, a, b)| if product { !same_but_rank(name, a, b) } else { a != b })
        .filter(|(name, ..)| !is_opaque(name))
        .collect();
    let Some(&(name, a, b)) = differing.first() else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Shape,
        format!("is {b:?}, but {} has {a:?}{}", ours.0, and_more(differing.len() - 1)),
    )
    .file(theirs.0)
    .tensor(name)
    .help(match half(name) {
        Some((half, _)) if rank_of(half, a) != rank_of(half, b) => format!(
            "the ranks are {} and {}: factors average only at one rank",
            rank_of(half, b).map_or("?".to_string(), |rank| rank.to_string()),
            rank_of(half, a).map_or("?".to_string(), |rank| rank.to_string())
        ),
        _ if a.len() == 2
            && b.len() == 2
            && a[1..] == b[1..]
            && (name.contains("embed") || name.contains("lm_head")) =>
        {
            "the vocabulary was resized between the two; only checkpoints of one vocabulary can be averaged"
                .to_string()
        }
        _ => "only checkpoints of one run can be averaged".to_string(),
    }))
}

fn same_but_rank(name: &str, a: &[u64], b: &[u64]) -> bool {
    let Some((half, _)) = half(name) else { return a == b };
    let rank_at = half as usize;
    a.len() == b.len() && a.iter().zip(b).enumerate().all(|(at, (a, b))| at == rank_at || a == b)
}

fn rank_of(half: Half, shape: &[u64]) -> Option<u64> {
    shape.get(half as usize).copied()
}

fn and_more(rest: usize) -> String {
    match rest {
        0 => String::new(),
        1 => " (and one more tensor like it)".to_string(),
        _ => format!(" (and {rest} more tensors like it)"),
    }
}

fn count(tensors: usize) -> String {
    if tensors == 1 { "one tensor".to_string() } else { format!("{tensors} tensors") }
}

/// Up to three names.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let dots = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}{dots}", shown.join(", "))
}
