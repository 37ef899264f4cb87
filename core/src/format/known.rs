//! What anything is, told by its first bytes, and what can be done with it.

use alloc::borrow::{Cow, ToOwned as _};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::files::{Files, Kind, Maybe, Stop, is_file, last};
use crate::format::gguf::Head;
use crate::format::safetensors::Header;
use crate::format::torch::members_of;
use crate::format::torch::optimizer::{Optimizer, OptimizerKind};
use crate::format::{START, foreign, gguf, training};
use crate::logs::{events, sqlite, wandb};
use crate::text::json;

/// What something is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Known {
    /// In a few words: "a kohya LoRA for Flux".
    pub what: Cow<'static, str>,
    /// What can be done with it.
    pub can: Cow<'static, str>,
}

fn known(what: impl Into<Cow<'static, str>>, can: impl Into<Cow<'static, str>>) -> Known {
    Known { what: what.into(), can: can.into() }
}

const ADAPTER: &str = "it can be merged with others of its run, and converted: mwa convert";
const LOG: &str = "metrics are read from it: --metrics-from";
const STATE: &str = "it is no weights: give the checkpoint that it lies in";
/// A text that is parsed whole has at most so many bytes.
const TEXT_LIMIT: u64 = 1 << 26;

/// What a file or folder is; none where nothing gives it away.
///
/// # Errors
/// What the system refuses.
pub fn identify(files: &dyn Files, path: &str) -> Maybe<Option<Known>> {
    match files.kind(path)? {
        Kind::File(size) => file(files, path, size),
        Kind::Folder => folder(files, path),
        Kind::Other | Kind::Missing => Ok(None),
    }
}

fn file(files: &dyn Files, path: &str, size: u64) -> Maybe<Option<Known>> {
    let start = files.read(path, 0..START)?;
    let name = last(path).to_ascii_lowercase();
    if size == 0 {
        return Ok(None);
    }
    if start.starts_with(gguf::MAGIC) {
        return told(Head::open(files, path, size), |head| Some(gguf_file(&head)));
    }
    // who asks could not open it, and the error says why
    if Header::size(&start, size).is_ok()
        && start.get(8..).is_some_and(|json| json.trim_ascii_start().starts_with(b"{"))
    {
        return Ok(None);
    }
    if start.starts_with(sqlite::START) {
        return Ok(Some(known(
            "an SQLite database, as MLflow's",
            "of MLflow's, metrics are read: --metrics-from mlflow.db, or mlflow.db#RUN where it holds several runs",
        )));
    }
    if start.starts_with(b"PK\x03\x04") && name.ends_with(".distcp") {
        return Ok(Some(known(
            "a part of a torch distributed (DCP) checkpoint",
            "give the folder that it lies in",
        )));
    }
    if name.contains("optim")
        && let Some(state) = told(Optimizer::open(files, path), |it| Some(optimizer(&it)))?
    {
        return Ok(Some(state));
    }
    if start.starts_with(b"PK\x03\x04") {
        return told(members_of(files, path, size), |names| zip(&name, &names));
    }
    if start.starts_with(b"PK\x05\x06") {
        return Ok(Some(known("an empty zip archive", "there is nothing in it")));
    }
    let has = |wanted: &[u8]| start.windows(wanted.len()).any(|bytes| bytes == wanted);
    if let [0x80, 2..=5, ..] = &*start {
        let old = [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9];
        return Ok(Some(if has(b"torch.distributed.checkpoint.metadata") {
            known(
                "the table of contents of a torch distributed (DCP) checkpoint",
                "give the folder that it lies in",
            )
        } else if start[2..].starts_with(&old) {
            return Ok(None);
        } else {
            known(
                "a Python pickle, which may hold anything",
                "it is never executed; save its tensors as safetensors",
            )
        }));
    }
    if has(events::VERSION) {
        return Ok(Some(known("TensorBoard events", LOG)));
    }
    if start.starts_with(wandb::START) {
        return Ok(Some(known("a W&B run that was not uploaded", LOG)));
    }
    if start.get(4..8) == Some(b"TFL3") {
        return Ok(Some(known(
            "a TensorFlow Lite model",
            "merge the checkpoints from which it was exported",
        )));
    }
    if let Some((what, help)) = foreign::contained(&name, &start) {
        return Ok(Some(known(what, help)));
    }
    let head: &[u8] = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start);
    let is_text = head.iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace());
    if !is_text {
        return Ok(None);
    }
    let lower = head.to_ascii_lowercase();
    // the error of opening them says it
    if [&b"version https://git-lfs"[..], b"<!doctype html", b"<html"].iter().any(|it| lower.starts_with(it)) {
        return Ok(None);
    }
    if size > TEXT_LIMIT {
        return Ok(Some(known("a text file", "nothing is read from texts of this size but logs")));
    }
    let bytes = files.read(path, 0..size)?;
    let Ok(text) = core::str::from_utf8(&bytes) else { return Ok(None) };
    Ok(Some(texts(&name, text)))
}

/// What a reader says of a file; nothing of a damaged one, as the error of opening it says more.
fn told<T>(read: Maybe<T>, tell: impl FnOnce(T) -> Option<Known>) -> Maybe<Option<Known>> {
    match read {
        Ok(read) => Ok(tell(read)),
        Err(Stop::Failed(error)) if error.kind() != crate::ErrorKind::Io => Ok(None),
        Err(stop) => Err(stop),
    }
}

/// What adapters come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Peft,
    Kohya,
    OneTrainer,
    Lycoris,
    ComfyUi,
    Diffusers,
    Torchtune,
    Gguf,
    Mlx,
    /// Factors under names of a model's own.
    Bare,
}

impl Container {
    /// The one whose names tensors have; none for those of no adapter.
    pub(crate) fn of<'a, I: Iterator<Item = &'a str>>(names: &impl Fn() -> I) -> Option<Self> {
        const FACTORS: [&str; 10] = [
            ".lora_A",
            ".lora_B",
            ".lora_down",
            ".lora_up",
            ".hada_w",
            ".lokr_w",
            ".lora_linear_layer",
            "_lora.down",
            "_lora.up",
            ".lora.up",
        ];
        let any = |what: &dyn Fn(&str) -> bool| names().any(what);
        let begins = |starts: &[&str]| any(&|it| starts.iter().any(|start| it.starts_with(start)));
        let is_lora = any(&|it| FACTORS.iter().any(|mark| it.contains(mark)));
        Some(if begins(&["base_model.model."]) {
            Self::Peft
        } else if begins(&["lora_transformer_"]) {
            Self::OneTrainer
        } else if begins(&["lora_unet_", "lora_te"]) {
            Self::Kohya
        } else if begins(&["lycoris_"]) {
            Self::Lycoris
        } else if is_lora && begins(&["diffusion_model."]) {
            Self::ComfyUi
        } else if is_lora && begins(&["unet.", "transformer.", "text_encoder", "prior."]) {
            Self::Diffusers
        } else if any(&|it| it.ends_with(".lora_a.weight")) {
            Self::Torchtune
        } else if any(&|it| it.ends_with(".weight.lora_a")) {
            Self::Gguf
        } else if any(&|it| it.ends_with(".lora_a")) {
            Self::Mlx
        } else if is_lora {
            Self::Bare
        } else {
            return None;
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Peft => "a PEFT",
            Self::Kohya => "a kohya",
            Self::OneTrainer => "an OneTrainer",
            Self::Lycoris => "a LyCORIS",
            Self::ComfyUi => "a ComfyUI",
            Self::Diffusers => "a diffusers",
            Self::Torchtune => "a torchtune",
            Self::Gguf => "a GGUF",
            Self::Mlx => "an MLX",
            Self::Bare => "a bare",
        }
    }
}

/// In words, the adapter whose names tensors have: "a kohya LoHa for SD3".
pub(crate) fn container<'a, I: Iterator<Item = &'a str>>(
    names: impl Fn() -> I,
    has_config: bool,
) -> Option<String> {
    let container = Container::of(&names)?;
    let any = |what: &dyn Fn(&str) -> bool| names().any(what);
    let method = if any(&|it| it.contains(".hada_w")) {
        "LoHa"
    } else if any(&|it| it.contains(".lokr_w")) {
        "LoKr"
    } else {
        "LoRA"
    };
    let more = match container {
        Container::Kohya | Container::OneTrainer => {
            let of = MODELS.iter().find(|(marks, _)| any(&|it| marks.iter().any(|mark| it.contains(mark))));
            of.map_or_else(String::new, |(_, of)| format!(" for {of}"))
        }
        Container::Diffusers if !has_config => {
            " without its config (diffusers takes alpha = rank)".to_owned()
        }
        _ => String::new(),
    };
    Some(format!("{} {method}{more}", container.name()))
}

/// What names of kohya's say of the model.
const MODELS: [(&[&str], &str); 7] = [
    (&["lora_unet_double_blocks_", "lora_unet_single_blocks_", "_single_transformer_blocks_"], "Flux"),
    (&["lora_unet_joint_blocks_"], "SD3"),
    (&["_img_mod_1", "_img_mlp_net_", "_txt_mlp_net_"], "Qwen-Image"),
    (&["_self_attn_norm_q", "_cross_attn_k", "_cross_attn_q", "_ffn_0"], "Wan"),
    (
        &["lora_te2_", "lora_unet_input_blocks_", "lora_unet_output_blocks_", "lora_unet_middle_block_"],
        "SDXL",
    ),
    (&["lora_unet_down_blocks_", "lora_unet_up_blocks_", "lora_unet_mid_block_", "lora_te_"], "SD1 or SD2"),
    (&["lora_te1_", "lora_te3_"], "a text encoder"),
];

fn gguf_file(head: &Head) -> Known {
    let of = head.text("general.architecture").unwrap_or("an unknown architecture").to_owned();
    let kinds: Vec<_> = head.kinds().iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let what = |kind: &str| format!("a GGUF {kind} for {of} ({})", kinds.join(", "));
    let is_plain = head.tensors.iter().all(|entry| entry.dtype().is_some());
    match (head.text("general.type"), is_plain) {
        (Some("adapter"), true) => known(what("LoRA"), ADAPTER),
        (_, true) => known(
            what("model"),
            "it can be merged with others of its run; the merge is written as safetensors",
        ),
        (kind, false) => known(
            what(if kind == Some("adapter") { "LoRA" } else { "model" }),
            "it is quantised, so it cannot be merged: merge the checkpoints before they are quantised",
        ),
    }
}

fn optimizer(state: &Optimizer) -> Known {
    let squares = match state.kind.squares() {
        Some(_) if state.kind == OptimizerKind::Adafactor => {
            String::from("means of squares of gradients by rows and columns are in it")
        }
        Some(name) => format!("squares of gradients are in it, as `{name}`"),
        None => String::from("it has no squares of gradients as large as the weights"),
    };
    known(state.describe(), format!("{STATE}; {squares}"))
}

/// What the names in a zip say.
fn zip(name: &str, names: &[String]) -> Option<Known> {
    let has = |end: &str| names.iter().any(|name| name.ends_with(end));
    if has("/data.pkl") {
        return foreign::state(name).map(|_| known("training state in a PyTorch file", STATE));
    }
    if has(".npy") {
        let is_lora = names.iter().any(|name| name.ends_with(".lora_a.npy"));
        let what = if is_lora { "an MLX LoRA in a NumPy archive" } else { "a NumPy archive" };
        let help = "convert it first: mlx.core.save_safetensors(\"NAME.safetensors\", dict(mlx.core.load(\"NAME.npz\")))";
        return Some(known(what, help));
    }
    if has("model.weights.h5") {
        return Some(known(
            "a Keras archive",
            "save its tensors as safetensors first, with the program that wrote it",
        ));
    }
    if has("code/__torch__.py") || has("constants.pkl") {
        return Some(known(
            "a TorchScript archive",
            "save its state_dict() with torch.save() or as safetensors first",
        ));
    }
    Some(known(format!("a zip archive of {} files", names.len()), "unpack it first"))
}

/// What a text is.
fn texts(name: &str, text: &str) -> Known {
    let text = json::without_mark(text);
    if text.trim_start().starts_with(['{', '[']) {
        if let Ok(object) = json::parse::<Map<String, Value>>(text) {
            return object_of(&object);
        }
        if json::parse::<Vec<Value>>(text).is_ok() {
            return known("a JSON list", "a list of metrics goes to --metrics-file");
        }
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return match json::parse::<Map<String, Value>>(first) {
            Ok(_) => known(
                "JSON Lines, as logs are",
                "metrics are read from it: --metrics-from, or --metrics-file as a table",
            ),
            Err(_) => known("damaged JSON", "restore the file"),
        };
    }
    let columns: Vec<_> =
        text.lines().next().unwrap_or_default().split([',', '\t', ';']).map(str::trim).collect();
    if name.ends_with(".csv") || name.ends_with(".tsv") || columns.len() > 1 && columns.contains(&"step") {
        let shown = columns.iter().take(6).copied().collect::<Vec<_>>().join(", ");
        return known(
            format!("a table with the columns {shown}"),
            "metrics are read from it: --metrics-file",
        );
    }
    if name.ends_with(".yaml") || name.ends_with(".yml") {
        return known("YAML", "wenet's and speechbrain's are read as logs where they lie in a run");
    }
    known(
        "a text file",
        "a log of icefall, espnet, wenet, fairseq, nanoGPT, torchtune or mlx-lm goes to --metrics-from",
    )
}

fn object_of(object: &Map<String, Value>) -> Known {
    let has = |key: &str| object.contains_key(key);
    let rows: [(&str, &str, &str); 8] = [
        (
            "log_history",
            "a Trainer's state",
            "metrics are read from it where it lies in a run, or by --metrics-from",
        ),
        ("peft_type", "the config of a PEFT adapter", "give the folder that it lies in"),
        ("fine_tune_type", "the config of an MLX adapter", "give the folder that it lies in"),
        ("weight_map", "the index of a model in several files", "give the folder that it lies in"),
        ("higher_is_better", "results of lm-eval", LOG),
        ("architectures", "the config of a model", "give the folder that it lies in"),
        ("zarr_format", "the head of a Zarr array", "give the checkpoint that it lies in"),
        ("sharded_backend", "the head of a Megatron checkpoint", "give the checkpoint that it lies in"),
    ];
    if has("inputs") && has("weighting") {
        return known("the report of a merge", "check the folder that it lies in: mwa verify");
    }
    if let Some((_, what, can)) = rows.iter().find(|(key, ..)| has(key)) {
        return known(*what, *can);
    }
    if has("results") && object["results"].is_object() {
        return known("results of an evaluation", LOG);
    }
    let numbers = object.values().filter(|value| json::number(value).is_some()).count();
    if numbers > 0 && numbers * 2 >= object.len() {
        return known(
            "a JSON object of numbers, as final results are",
            "metrics are read from it where it lies in a checkpoint",
        );
    }
    known("a JSON object", "a table of metrics goes to --metrics-file")
}

fn folder(files: &dyn Files, path: &str) -> Maybe<Option<Known>> {
    let names = files.list(path)?;
    let has = |name: &str| names.iter().any(|it| it == name);
    let starts = |start: &str| names.iter().any(|it| it.starts_with(start));
    // the error of opening it says what is wrong
    if training::is_laid(&names) {
        return Ok(None);
    }
    if let Some(error) = foreign::framework(&names) {
        let what = error.detail().strip_prefix("is ").unwrap_or(error.detail()).to_string();
        return Ok(Some(known(what, error.advice().unwrap_or_default().to_string())));
    }
    if starts("events.out.tfevents.") {
        return Ok(Some(known("TensorBoard's logs", LOG)));
    }
    if has("mlruns") || has("meta.yaml") && (has("metrics") || has("params")) || has("mlflow.db") {
        return Ok(Some(known("MLflow's logs", LOG)));
    }
    if names.iter().any(|name| name.ends_with(".wandb")) || starts("offline-run-") || has("wandb") {
        return Ok(Some(known("W&B's logs", LOG)));
    }
    if starts("results_") {
        return Ok(Some(known("results of lm-eval", LOG)));
    }
    let latest = crate::files::join(path, "latest");
    if starts("global_step") && is_file(files, &latest)? {
        return Ok(Some(known(
            "a DeepSpeed ZeRO checkpoint",
            "its saves can be merged with others of the run, or converted: mwa convert",
        )));
    }
    if names.is_empty() {
        return Ok(Some(known("an empty folder", "there is nothing in it")));
    }
    if foreign::is_pipeline(&names) {
        return Ok(Some(known(
            "an image model of several parts, or an adapter of such",
            "each part is a folder with weights of its own, to be merged with the same part of others",
        )));
    }
    let of_gguf: Vec<_> = names.iter().filter(|name| name.ends_with(".gguf")).collect();
    if let Some(first) = of_gguf.first() {
        let more =
            if of_gguf.len() == 1 { String::new() } else { format!(" and {} more", of_gguf.len() - 1) };
        return Ok(Some(known(
            format!("a folder of GGUF files: {first}{more}"),
            "name the files themselves: what is not quantised can be merged with others of its run",
        )));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Option<String> {
        container(|| names.iter().copied(), false)
    }

    #[test]
    fn containers_of_adapters_are_told_by_their_names() {
        for (name, what) in [
            ("base_model.model.q.lora_A.weight", "a PEFT LoRA"),
            (
                "unet.down_blocks.0.to_q.lora_A.weight",
                "a diffusers LoRA without its config (diffusers takes alpha = rank)",
            ),
            ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "a kohya LoRA for SD1 or SD2"),
            ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "a kohya LoRA for SDXL"),
            ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "a kohya LoRA for Flux"),
            ("lora_unet_joint_blocks_0_x_block_attn_qkv.hada_w1_a", "a kohya LoHa for SD3"),
            ("lora_unet_blocks_0_cross_attn_q.lora_up.weight", "a kohya LoRA for Wan"),
            ("lora_unet_transformer_blocks_0_img_mod_1.lora_up.weight", "a kohya LoRA for Qwen-Image"),
            ("lycoris_l.lokr_w1", "a LyCORIS LoKr"),
            ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "a ComfyUI LoRA"),
            ("model.layers.0.self_attn.q_proj.lora_a", "an MLX LoRA"),
            ("layers.0.attn.q_proj.lora_a.weight", "a torchtune LoRA"),
            ("blk.0.attn_q.weight.lora_a", "a GGUF LoRA"),
        ] {
            assert_eq!(of(&[name]).as_deref(), Some(what), "{name}");
        }
        assert_eq!(of(&["model.layers.0.self_attn.q_proj.weight"]), None);
    }

    #[test]
    fn texts_are_told_by_what_is_in_them() {
        for (name, text, what) in [
            ("a", r#"{"log_history": [], "best_metric": NaN}"#, "a Trainer's state"),
            ("a.json", r#"{"peft_type": "LORA"}"#, "the config of a PEFT adapter"),
            ("a", "{\"step\": 1}\n{\"step\": 2}\n", "JSON Lines, as logs are"),
            ("a.csv", "epoch,step,loss\n", "a table with the columns epoch, step, loss"),
            ("a.json", r#"{"eval_loss": 1, "epoch": 2}"#, "a JSON object of numbers, as final results are"),
            ("a.json", "{", "damaged JSON"),
            ("a", "hello", "a text file"),
        ] {
            assert_eq!(texts(name, text).what, what, "{text}");
        }
    }
}
