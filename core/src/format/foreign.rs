//! Recognise what cannot be merged as it is, and say how to make it mergeable.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind};
use crate::format::stem;
use crate::text::escape::shell_word;

/// What is wrong with a folder in which nothing is known.
pub(crate) const NOTHING: &str = "holds no weights, and no folders named checkpoint-N";

/// What to do where a checkpoint has none.
pub(crate) const WEIGHTS: &str = "copy or download its weights again";

/// How the names of files begin that hold a trainer's state, not weights.
const STATES: [&str; 16] = [
    "optimizer",
    "optim",
    "scheduler",
    "scaler",
    "sampler",
    "dataloader",
    "dl_state",
    "rng_state",
    "random_states",
    "training_args",
    "trainer_state",
    "custom_checkpoint",
    "pytorch_model_fsdp",
    "zero_pp_rank",
    "mwa-server",
    "mwa-partial",
];

/// What a file is that its name shows to hold a trainer's state, and what to do.
pub(crate) fn state(name: &str) -> Option<(&'static str, &'static str)> {
    let name = name.to_ascii_lowercase();
    STATES
        .iter()
        .any(|start| name.starts_with(start))
        .then_some(("is training state, not weights", "give the checkpoint folder that it lies in"))
}

/// What a file is that its name shows not to hold weights alone, and what to do.
#[must_use]
pub fn file(name: &str) -> Option<(&'static str, &'static str)> {
    if let Some(state) = state(name) {
        return Some(state);
    }
    match name.to_ascii_lowercase().rsplit_once('.')?.1 {
        "json" | "jsonl" | "csv" | "yaml" | "yml" | "txt" => Some((
            "is not a checkpoint",
            "give the run folder, a checkpoint folder or a file with weights; a table of metrics goes to --metrics-file",
        )),
        "npz" => Some(("is a NumPy archive, as old versions of MLX write", NPZ)),
        "distcp" => Some(("is a part of a torch distributed (DCP) checkpoint", DCP)),
        _ => None,
    }
}

/// A container that is not read here.
struct Container {
    /// How the names of such files end.
    ending: &'static str,
    /// How they begin; nothing where only the name tells.
    start: &'static [u8],
    what: &'static str,
    help: &'static str,
}

/// What nearly all others want.
const CONVERT: &str = "save its tensors as safetensors first, with the program that wrote it";

const fn container(
    ending: &'static str,
    start: &'static [u8],
    what: &'static str,
    help: &'static str,
) -> Container {
    Container { ending, start, what, help }
}

const CONTAINERS: [Container; 16] = [
    container(".keras", b"PK\x03\x04", "a Keras archive", CONVERT),
    container(".h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", CONVERT),
    container(".onnx", b"", "an ONNX graph", "merge the checkpoints from which it was exported"),
    container(".msgpack", b"", "a Flax file (MessagePack)", CONVERT),
    container(".pdparams", b"", "a PaddlePaddle file", CONVERT),
    container(
        ".nemo",
        b"",
        "a NeMo archive (tar)",
        "unpack it (tar -xf) and merge the .ckpt files that come out",
    ),
    container(".tflite", b"", "a TensorFlow Lite model", CONVERT),
    container(".index", b"", "a part of a TensorFlow checkpoint", CONVERT),
    container(".pb", b"", "a TensorFlow graph", CONVERT),
    container(".npy", b"\x93NUMPY", "a NumPy array", CONVERT),
    container(".gz", b"\x1f\x8b", "a gzip archive", "unpack it first"),
    container(".zst", b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    container(".xz", b"\xfd7zXZ\0", "an xz archive", "unpack it first"),
    container(".bz2", b"BZh", "a bzip2 archive", "unpack it first"),
    container(
        ".sqlite",
        b"SQLite format 3\0",
        "an SQLite database, as MLflow's",
        "if it is MLflow's, it is a log: --metrics-from mlflow.db, or mlflow.db#RUN where it holds several runs",
    ),
    container(".7z", b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
];

/// What a file is that no format reads, by its first bytes or else its name, and what to do.
pub(crate) fn contained(name: &str, start: &[u8]) -> Option<(&'static str, &'static str)> {
    let name = name.to_ascii_lowercase();
    let is_zip = start.starts_with(b"PK\x03\x04");
    let is_it = |it: &&Container| {
        let begins = !it.start.is_empty() && start.starts_with(it.start);
        let ends = name.ends_with(it.ending);
        // any archive of weights may begin like a zip
        if is_zip { begins && ends } else { begins || ends && (it.start.is_empty() || start.is_empty()) }
    };
    if start.get(257..262) == Some(b"ustar") && !name.ends_with(".nemo") {
        return Some(("a tar archive", "unpack it first"));
    }
    CONTAINERS.iter().find(is_it).map(|it| (it.what, it.help))
}

const DCP: &str = "give the folder that it lies in";

/// A framework's layout: what its files are called (a `*` at the end stands for anything), what it is, the way out.
type Layout = (&'static [&'static str], &'static str, &'static str);

const LAYOUTS: [Layout; 12] = [
    (
        &["fp32.pt", "zero"],
        "is a part of a universal checkpoint of DeepSpeed",
        "give the whole folder, with its mp_rank_*_model_states.pt",
    ),
    (
        &[".zarray", ".zgroup"],
        "is a Zarr array or group, as old Megatron checkpoints are made of",
        "export the checkpoint to Hugging Face format with a Megatron that still reads Zarr (before 0.15)",
    ),
    (
        &["blobs"],
        "is a model's folder in a download cache",
        "give the folder of a revision in it: snapshots/REVISION",
    ),
    (
        &["pytorch_model_fsdp_*"],
        "has a folder of sharded FSDP weights (pytorch_model_fsdp_…) without its *.distcp files",
        "copy the rest of the checkpoint",
    ),
    (
        &["zero_to_fp32.py"],
        "is a DeepSpeed ZeRO checkpoint without the folder of its states (global_step…)",
        "copy the rest of the checkpoint",
    ),
    (
        &["latest_checkpointed_iteration.txt", "mp_rank_*"],
        "is a Megatron checkpoint",
        "export it to Hugging Face format with Megatron's own converter first",
    ),
    (
        &[".metadata", "__0_*"],
        "is a torch distributed (DCP) checkpoint without its *.distcp files",
        "copy the rest of the checkpoint",
    ),
    (
        &["lit_model.pth*"],
        "is a LitGPT checkpoint",
        "convert it first: litgpt convert_from_litgpt CHECKPOINT OUT",
    ),
    (
        &["mwa-masks.json"],
        "is what mwa masks keeps of several models",
        "give each of them back: mwa masks apply FOLDER --task NAME -o OUT",
    ),
    (
        &["mwa-partial.safetensors"],
        "is an exact sum of clients, as mwa aggregate writes with --partial",
        "combine it with others, or make the model of it: mwa aggregate SUM -o OUT",
    ),
    (&["adapters.npz"], "holds an adapter as old versions of MLX write it", NPZ),
    (
        &["model_world_size_*"],
        "holds the shards of a model that was trained with FSDP (model_world_size_…), which are not whole weights",
        "put them together first, with the model merger of the program that wrote them",
    ),
];

/// What to do with the archives of old versions of MLX.
const NPZ: &str =
    "convert it first: mlx.core.save_safetensors(\"NAME.safetensors\", dict(mlx.core.load(\"NAME.npz\")))";

/// The framework whose layout a folder without weights has; `names`: all that lies in it.
pub(crate) fn framework(names: &[String]) -> Option<Error> {
    let has = |wanted: &&str| {
        names.iter().any(|name| match wanted.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == wanted,
        })
    };
    let made = |what: &'static str, help: &'static str| Some(Error::new(ErrorKind::Input, what).help(help));
    if has(&"weights") && has(&"context") {
        return made(
            "is a NeMo checkpoint",
            "export it to Hugging Face format first, with NeMo's own exporter",
        );
    }
    let (_, what, help) = LAYOUTS.iter().find(|(files, ..)| files.iter().any(&has))?;
    made(what, help)
}

/// Why a folder has no weights that can be merged as one checkpoint: only the user knows which of those in it belong together.
///
/// `names`: all that lies in it; `folders`: those with weights; `inside`: the path to type for a name in it.
pub(crate) fn loose(names: &[String], folders: &[String], inside: &dyn Fn(&str) -> String) -> Error {
    let is_weights =
        |name: &&String| (stem(name).is_some() || name.ends_with(".gguf")) && state(name).is_none();
    let found: Vec<_> = names.iter().filter(is_weights).collect();
    let folders: Vec<_> = folders.iter().collect();
    let (what, found, help) = if !found.is_empty() {
        let what = "holds files with weights, but it cannot be told which belong together";
        (what, &found, together("files", inside, &found))
    } else if is_pipeline(names) {
        let (what, first) = ("is an image model of several parts", inside(folders[0]));
        let help = format!(
            "merge one part of several such models at a time: mwa merge {} {} -o OUT",
            shell_word(&first),
            shell_word(&format!("OTHER/{}", folders[0]))
        );
        (what, &folders, help)
    } else if !folders.is_empty() {
        let what = "holds folders with weights, but none is named as a checkpoint";
        (what, &folders, together("folders", inside, &folders))
    } else if let Some((name, (what, help))) =
        names.iter().find_map(|name| Some((name, contained(name, &[])?)))
    {
        return Error::new(ErrorKind::Input, format!("holds {name}, {what}, which is not read here"))
            .help(help);
    } else {
        return Error::new(ErrorKind::Input, NOTHING)
            .help("give a run folder with checkpoint-N folders, a checkpoint folder, or files with weights");
    };
    Error::new(ErrorKind::Input, format!("{what}: {}", some(found))).help(help)
}

/// Why the folder of a checkpoint, in which all of this lies, has no weights.
pub(crate) fn bare(names: &[String]) -> Error {
    let detail = match names {
        [] => "holds no weights: it is empty".into(),
        names => format!("holds no weights, only {}", some(&names.iter().collect::<Vec<_>>())),
    };
    Error::new(ErrorKind::Input, detail).help(WEIGHTS)
}

/// Whether a folder holds the parts of an image model, each in a folder of its own, by the names in it.
pub(crate) fn is_pipeline(names: &[String]) -> bool {
    let has = |name: &str| names.iter().any(|it| it == name);
    has("model_index.json") || (has("unet") || has("transformer")) && (has("text_encoder") || has("vae"))
}

fn together(what: &str, inside: &dyn Fn(&str) -> String, names: &[&String]) -> String {
    let shown: Vec<_> = names.iter().take(2).map(|name| shell_word(&inside(name)).into_owned()).collect();
    let dots = if names.len() > 2 { " …" } else { "" };
    format!(
        "name the {what} that belong together: mwa merge {}{dots} -o OUT --scheme uniform",
        shown.join(" ")
    )
}

/// The first few names.
fn some(names: &[&String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| name.as_str()).collect();
    let dots = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}{dots}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_by_their_first_bytes_or_their_names() {
        let what = |name, start| contained(name, start).map(|(what, _)| what);
        assert_eq!(what("w.keras", b"PK\x03\x04"), Some("a Keras archive"));
        assert_eq!(what("w.bin", b"PK\x03\x04"), None);
        assert_eq!(what("w.bin", b"\x89HDF\r\n\x1a\n"), Some("an HDF5 file, as Keras writes"));
        assert_eq!(what("flax_model.msgpack", b"\x82\xa6"), Some("a Flax file (MessagePack)"));
        assert_eq!(what("model.safetensors", b"\x10\0\0\0\0\0\0\0{"), None);
        let mut tar = [0; 300];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(what("w.tar", &tar), Some("a tar archive"));
        assert_eq!(what("w.nemo", &tar), Some("a NeMo archive (tar)"));
    }
}
