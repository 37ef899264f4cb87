//! A checkpoint that the core opened, with the paths and stamps of its files on this machine.

use std::path::{Path, PathBuf};

use mwa::{Result, files};

use crate::io::disk::{Disk, InputFile, path_of, text_of};
use crate::io::url::clean;

/// A checkpoint that can be merged.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The folder, or the single file, as the user gave or would give it.
    pub(crate) path: PathBuf,
    /// Files with the weights, and the last that with their second moments if these are wanted.
    pub(crate) files: Vec<InputFile>,
    /// The folder that holds the files beside the weights (configs, tokenizer); `None` for a single file.
    pub(crate) folder: Option<PathBuf>,
    /// Name and path of those of them that belong beside merged weights too.
    pub(crate) companions: Vec<(String, PathBuf)>,
}

impl Checkpoint {
    /// What the core found on this disk.
    ///
    /// # Errors
    /// What the system refuses.
    pub(crate) fn of(found: mwa::Checkpoint, disk: &Disk) -> Result<Self> {
        let companions = disk.now(|| found.companions(disk))?;
        Ok(Self {
            companions: companions.into_iter().map(|(name, path)| (name, path_of(&path))).collect(),
            path: path_of(&found.name),
            files: found.read_files().map(|file| InputFile::of(file.clone(), disk)).collect(),
            folder: found.folder.as_deref().map(path_of),
        })
    }
}

/// The most bytes that a table of metrics or a report may have.
const TEXT_LIMIT: u64 = 1 << 28;

/// A regular file as text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let disk = Disk::default();
    let path = text_of(&clean(path))?;
    disk.now(|| files::text(&disk, &path, TEXT_LIMIT).map(std::borrow::Cow::into_owned))
}

/// Whether a file of this name makes the folder that it lies in a checkpoint.
pub(crate) fn is_own_weights(name: &str) -> bool {
    const STEMS: [&str; 5] =
        ["adapter_model", "model", "pytorch_model", "pytorch_lora_weights", "diffusion_pytorch_model"];
    is_weights(name)
        && STEMS.iter().any(|stem| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with(['.', '-'])))
}

/// Whether a file of this name holds weights, or says where they are.
pub(crate) fn is_weights(name: &str) -> bool {
    [".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json"]
        .iter()
        .any(|ending| name.ends_with(ending))
}
