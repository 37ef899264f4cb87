//! Where the tensors of a file lie: one row per format.
//!
//! Kernels never see a container. A format gives the tensors of a file with the places of their bytes, and jobs read those
//! places, whatever lies around them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind};
use crate::files::{Files, Maybe, last, size};
use crate::format::safetensors::Header;

pub(crate) mod counter;
pub mod foreign;
pub mod gguf;
pub mod known;
pub(crate) mod quantised;
pub mod safetensors;
pub mod shards;
pub mod torch;
pub(crate) mod training;
pub(crate) mod view;

/// A format of files with weights.
pub trait Format: Sync {
    /// Whether a file is of this format, by its name and its first [`START`] bytes. The first row that claims a file opens it.
    fn claims(&self, name: &str, start: &[u8]) -> bool;

    /// Find the tensors of a file of `size` bytes; `key` is the name of the weights that the user chose in it, for formats
    /// that hold several sets of them.
    ///
    /// # Errors
    /// What is wrong with it; the caller names the file.
    fn open(&self, files: &dyn Files, path: &str, size: u64, key: Option<&str>) -> Maybe<Catalog>;
}

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The tensors and the places of their bytes.
    pub header: Header,
    /// The training step, if the file says so.
    pub step: Option<u64>,
    /// The name of the weights in the file, where they are one of several things in it.
    pub key: Option<String>,
    /// What its trainer measured of these weights on held-out data, by the names of metrics.
    pub told: Vec<(String, f64)>,
    /// What the user should know about it.
    pub notes: Vec<String>,
}

/// How many bytes of a file are read to know its format.
pub const START: u64 = 512;

/// What the files of a checkpoint's weights are called, less their endings, in the order in which they are preferred, as PEFT,
/// transformers and diffusers do.
pub(crate) const STEMS: [&str; 5] =
    ["adapter_model", "pytorch_lora_weights", "model", "pytorch_model", "diffusion_pytorch_model"];

/// A file of weights less its ending.
pub(crate) fn stem(name: &str) -> Option<&str> {
    const ENDINGS: [&str; 6] = [".safetensors", ".pth.tar", ".pt", ".pth", ".ckpt", ".bin"];
    ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))
}

/// Find the tensors of a file, whichever of the formats it has.
pub(crate) fn open(
    files: &dyn Files,
    formats: &[&dyn Format],
    path: &str,
    key: Option<&str>,
) -> Maybe<Catalog> {
    let size = size(files, path)?;
    let start = files.read(path, 0..START)?;
    if let Some((what, help)) = foreign::contained(last(path), &start) {
        let error = Error::new(ErrorKind::Input, format!("is {what}, which is not read here"));
        return Err(error.file(path).help(help).into());
    }
    let format = formats.iter().find(|format| format.claims(last(path), &start));
    let format = format.ok_or_else(|| {
        Error::new(ErrorKind::Input, "is in a format that is not read here")
            .file(path)
            .help("convert it to safetensors, or merge with the mwa program, which reads more formats")
    })?;
    format.open(files, path, size, key).map_err(|stop| stop.file(path))
}
