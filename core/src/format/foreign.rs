//! Recognise what cannot be merged as it is, and say how to make it mergeable.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind};
use crate::format::WEIGHTS;

/// What a file is that its name shows not to hold weights alone, and what to do.
#[must_use]
pub fn file(name: &str) -> Option<(&'static str, &'static str)> {
    let name = name.to_ascii_lowercase();
    let is_state = ["optimizer.", "scheduler.", "scaler.", "rng_state", "random_states", "training_args."]
        .iter()
        .any(|start| name.starts_with(start));
    if is_state {
        return Some(("is training state, not weights", "give the checkpoint folder that it lies in"));
    }
    match name.rsplit_once('.')?.1 {
        "json" | "jsonl" | "csv" => Some((
            "is not a checkpoint",
            "give the run folder, a checkpoint folder or a .safetensors file; a table of metrics goes to --metrics-file",
        )),
        "ckpt" => Some((
            "is a Lightning checkpoint, which holds its weights among the trainer's state",
            "save its weights alone first: torch.save(torch.load(CKPT, map_location=\"cpu\")[\"state_dict\"], \"NAME.bin\")",
        )),
        "npz" => Some((
            "is a NumPy archive, as old versions of MLX write",
            "convert it first: mlx.core.save_safetensors(\"NAME.safetensors\", dict(mlx.core.load(\"NAME.npz\")))",
        )),
        "distcp" => Some(("is a part of a torch distributed (DCP) checkpoint", DCP)),
        _ => None,
    }
}

const DCP: &str =
    "convert it first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch CHECKPOINT OUT.bin";

/// Why a folder has no weights that can be merged: each framework's layout has its way out.
///
/// `names`: all that lies in it, sorted. `has_weights`: whether a folder of that name in it does. `inside`: the path to
/// type for a name in it.
#[must_use]
pub fn folder(
    names: &[String],
    has_weights: &dyn Fn(&str) -> bool,
    inside: &dyn Fn(&str) -> String,
) -> Error {
    let has = |name: &str| names.iter().any(|found| found == name);
    let starts = |prefix: &str| names.iter().any(|found| found.starts_with(prefix));
    let made = |detail: &str, help: &'static str| Error::new(ErrorKind::Input, detail.to_owned()).help(help);
    if starts("pytorch_model_fsdp_") {
        return made(
            "is a sharded FSDP checkpoint without an adapter file",
            "gather it first: accelerate merge-weights CHECKPOINT/pytorch_model_fsdp_0 OUT; or train with FULL_STATE_DICT",
        );
    }
    if has("zero_to_fp32.py") || starts("global_step") {
        return made(
            "is a DeepSpeed ZeRO checkpoint without an adapter file",
            "gather it first: python CHECKPOINT/zero_to_fp32.py CHECKPOINT OUT --safe_serialization; \
             or train with stage3_gather_16bit_weights_on_model_save",
        );
    }
    if has("weights") && has("context") {
        return made(
            "is a NeMo checkpoint",
            "export it to Hugging Face format first, with NeMo's own exporter",
        );
    }
    if has("latest_checkpointed_iteration.txt") || starts("iter_") || starts("mp_rank_") {
        return made(
            "is a Megatron checkpoint",
            "export it to Hugging Face format with Megatron's own converter first",
        );
    }
    if has(".metadata") || starts("__0_") {
        return made("is a torch distributed (DCP) checkpoint", DCP);
    }
    if starts("lit_model.pth") {
        return made("is a LitGPT checkpoint", "convert it first: litgpt convert_from_litgpt CHECKPOINT OUT");
    }
    if starts("adapters.") || names.iter().any(|name| name.ends_with("_adapters.safetensors")) {
        return made(
            "is an MLX run; its adapters are single files",
            "give the files themselves: mwa merge DIR/0*_adapters.safetensors -o OUT --metrics-file LOSSES.csv",
        );
    }
    if let Some(error) = loose(names, has_weights, inside) {
        return error;
    }
    made(
        &format!("holds no weights (looked for {})", WEIGHTS.join(", ")),
        "give a run folder with checkpoint-N folders, a checkpoint folder, or .safetensors files",
    )
}

/// Weights under names that no framework gives a run: only the user knows which belong together.
fn loose(
    names: &[String],
    has_weights: &dyn Fn(&str) -> bool,
    inside: &dyn Fn(&str) -> String,
) -> Option<Error> {
    let ends = |end: &str| {
        let found: Vec<_> = names.iter().filter(|name| name.ends_with(end)).map(String::as_str).collect();
        (!found.is_empty()).then_some(found)
    };
    let folders: Vec<_> = names.iter().map(String::as_str).filter(|name| has_weights(name)).collect();
    let (what, found, help) = if let Some(found) = ends(".ckpt") {
        let (_, help) = file(found[0]).expect("its ending is .ckpt");
        ("holds Lightning checkpoints", found, help.to_owned())
    } else if let Some(found) = ends(".safetensors") {
        let help = together("files", inside, &found);
        ("holds .safetensors files, but none with the name of a checkpoint's weights", found, help)
    } else if folders.is_empty() {
        return None;
    } else {
        let help = together("folders", inside, &folders);
        ("holds folders with weights, but none is named as a checkpoint", folders, help)
    };
    Some(Error::new(ErrorKind::Input, format!("{what}: {}", some(&found))).help(help))
}

fn together(what: &str, inside: &dyn Fn(&str) -> String, names: &[&str]) -> String {
    let shown: Vec<_> = names.iter().take(2).map(|name| inside(name)).collect();
    format!("name the {what} that belong together: mwa merge {} … -o OUT", shown.join(" "))
}

/// The first few names.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    let dots = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}{dots}", names[..names.len().min(SHOWN)].join(", "))
}
