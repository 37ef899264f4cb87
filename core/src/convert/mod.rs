//! Adapters from one container to another: names, transposes, orders of rows and scales, tensor by tensor.
//!
//! A container is read into modules with their factors as PEFT has them (A `[r, in]`, B `[out, r]`) and their scale, and written
//! from these. Nothing is computed but what a container cannot say otherwise: a scale is multiplied into B, once.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::str::FromStr;

use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe};
use crate::format::safetensors::{Header, Tensor};
use crate::format::torch::frame::frame;
use crate::merge::report::CONFIG;
use crate::run::checkpoint::{Checkpoint, File};
use crate::run::readers::{OpenOptions, Readers};
use matrix::{Made, Matrix};
use names::Model;

mod adapter;
mod base;
mod gguf;
mod matrix;
mod names;
mod own;
mod pt;
mod rank1;
mod read;
mod write;

pub use own::Own;
pub use rank1::{Factored, Factors};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// PEFT: a folder with `adapter_model.safetensors` and `adapter_config.json`, one for each component of a pipeline.
    Peft,
    /// diffusers: `pytorch_lora_weights.safetensors` with its config.
    Diffusers,
    /// kohya: one file that sd-scripts, ComfyUI, A1111 and diffusers read alike; scales are multiplied in, and there is no alpha.
    Kohya,
    /// MLX: `adapters.safetensors` and `adapter_config.json`.
    Mlx,
    /// GGUF for llama.cpp.
    Gguf,
    /// A file of any weights that `torch.load(weights_only=True)` reads.
    Pt,
    /// A safetensors file of any weights, under the names that they have.
    Safetensors,
}

impl Target {
    /// Their names.
    pub const NAMES: [&'static str; 7] = ["peft", "diffusers", "kohya", "mlx", "gguf", "pt", "safetensors"];
    const ALL: [Self; 7] =
        [Self::Peft, Self::Diffusers, Self::Kohya, Self::Mlx, Self::Gguf, Self::Pt, Self::Safetensors];
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let place = Self::NAMES.iter().position(|name| *name == text);
        place.map(|place| Self::ALL[place]).ok_or_else(|| {
            Error::new(ErrorKind::Usage, alloc::format!("there is no format `{text}`"))
                .help(alloc::format!("formats: {}", Self::NAMES.join(", ")))
        })
    }
}

/// How an adapter is converted.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// What is written.
    pub target: Target,
    /// The dtype of what is written; that of each input tensor without.
    pub dtype: Option<Float>,
    /// The base model's folder or its `config.json`, where the container needs to know of it.
    pub base: Option<String>,
    /// Of `pt`: what the file is called.
    pub name: Option<String>,
    /// Of `pt`: the key under which the toolkit looks for the weights, such as `model`.
    pub key: Option<String>,
    /// Of `pt`: the file of torch whose other entries stand beside the weights, and the key of the weights in it if the user chose
    /// one; without, and without another `key`, it is the input.
    pub like: Option<(String, Option<String>)>,
    /// The image model that names are of, where they do not tell: `flux`, `sd3` and so on.
    pub model: Option<String>,
    /// Of `safetensors`: part the weights into files of at most so many bytes, with an index.
    pub shard_size: Option<u64>,
}

impl ConvertOptions {
    /// Refuse what says nothing to the format.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] with the option.
    pub fn check(&self) -> Result<()> {
        let is_lora = !matches!(self.target, Target::Pt | Target::Safetensors);
        let idle = [
            ("key", self.key.is_some() && self.target != Target::Pt, "pt"),
            ("base", self.base.is_some() && !is_lora, "gguf or mlx"),
            ("model", self.model.is_some() && self.target != Target::Kohya, "kohya"),
            ("shard-size", self.shard_size.is_some() && self.target != Target::Safetensors, "safetensors"),
        ];
        match idle.into_iter().find(|(_, is_idle, _)| *is_idle) {
            None => Ok(()),
            Some((name, _, formats)) => {
                let format = Target::NAMES[self.target as usize];
                let detail = alloc::format!("option {name} says nothing to the format {format}");
                let help = alloc::format!("leave out --{name}, or use --format {formats}");
                Err(Error::new(ErrorKind::Usage, detail).help(help))
            }
        }
    }
}

/// A planned conversion.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The files to read: path and head.
    pub inputs: Vec<(String, Header)>,
    outputs: Vec<Output>,
    /// Matrices of the first file that are written as [`Factors`].
    pub factored: Vec<Factored>,
    /// Small files to write beside them: name and text.
    pub texts: Vec<(String, String)>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// A file to write.
#[derive(Clone, Debug)]
struct Output {
    name: String,
    head: Vec<u8>,
    len: u64,
    /// With the places of their bytes.
    tensors: Vec<(u64, Made)>,
    /// What lies between them, with its place.
    between: Vec<(u64, Vec<u8>)>,
    /// What is known when all numbers are written.
    tail: Option<pt::Tail>,
}

/// Files, small files, and what to tell.
type Written = (Vec<Output>, Vec<(String, String)>, Vec<String>);

/// A piece of an output file.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Which tensor of the file it is of.
    pub tensor: usize,
    rows: Range<u64>,
    /// Where its bytes begin in the file.
    pub at: u64,
}

impl Conversion {
    /// Read what an adapter is, and plan what is written of it.
    ///
    /// # Errors
    /// What is wrong with the files, and what the target cannot hold.
    pub fn new(files: &dyn Files, readers: &Readers, path: &str, options: &ConvertOptions) -> Maybe<Self> {
        options.check()?;
        if matches!(options.target, Target::Pt | Target::Safetensors) {
            let opened = Checkpoint::open(files, readers, path, &OpenOptions::default())?;
            // what PEFT loads, for its config comes along
            let [bin, plain] = match opened.config {
                Some(_) => ["adapter_model.bin", "adapter_model.safetensors"],
                None => ["weights.pt", "model.safetensors"],
            };
            let is_beside = |file: &File| file.header.beside().is_some();
            let (beside, weights): (Vec<_>, Vec<_>) = opened.files.into_iter().partition(is_beside);
            let merged = weights.first().and_then(|file| file.merged).unwrap_or(plain);
            let own = match weights.as_slice() {
                [only] if only.merged.is_none() && !only.header.is_safetensors() => Some(only),
                _ => None,
            };
            let own = own.filter(|file| options.key.is_none() || options.key.as_deref() == file.key());
            let own = own.map(|file| (file.path.clone(), None)).filter(|_| options.target == Target::Pt);
            let frame = match options.like.clone().or(own) {
                Some((like, key)) => frame(files, &like, key.as_deref())?.map(|frame| (like, frame)),
                None => None,
            };
            let (own, count) = (0..weights.len(), weights.len());
            let places: Vec<_> = beside.iter().map(|file| file.name().to_owned()).collect();
            let mut inputs: Vec<_> =
                weights.into_iter().chain(beside).map(|file| (file.path, file.header)).collect();
            let written = if options.target == Target::Pt {
                let name = options.name.as_deref().unwrap_or(bin);
                let around = frame.as_ref().map(|(_, frame)| (inputs.len(), frame));
                pt::write(&inputs, own, name, options.key.as_deref(), around, options.dtype)
            } else {
                write::plain(&inputs, own, merged, options.dtype, options.shard_size)
            };
            let (mut outputs, mut texts, mut notes) = written.map_err(|error| error.file(path))?;
            // each in a file of its own, as the toolkit looks for it
            for (at, place) in (count..).zip(places) {
                let stem = place.rsplit_once('.').map_or(&*place, |(stem, _)| stem);
                let (output, ..) = if options.target == Target::Pt {
                    pt::write(&inputs, at..at + 1, &format!("{stem}.bin"), None, None, options.dtype)?
                } else {
                    let name = format!("{stem}.safetensors");
                    write::plain(&inputs, at..at + 1, &name, options.dtype, None)?
                };
                outputs.extend(output);
            }
            if let Some((like, frame)) = frame {
                notes.extend(frame.notes);
                inputs.push((like, frame.kept));
            }
            texts.extend(opened.config.map(|config| (CONFIG.into(), config.text().into())));
            notes.splice(0..0, opened.notes);
            return Ok(Self { inputs, outputs, factored: Vec::new(), texts, notes });
        }
        let base = base::Base::find(files, options.base.as_deref())?;
        let adapter = adapter::Adapter::open(files, readers, path, base.as_ref())?;
        let model = options.model.as_deref().map(model).transpose()?;
        let base = match base {
            Some(base) => Some(base),
            None => match adapter.base_name() {
                Some(name) => base::Base::find_beside(files, &name)?,
                None => None,
            },
        };
        let written = write::write(&adapter, options.target, base.as_ref(), model, options.dtype);
        let (outputs, texts, notes) = written.map_err(|error| error.file(path))?;
        Ok(Self { inputs: adapter.files, outputs, factored: Vec::new(), texts, notes })
    }

    /// Take the second moments of a checkpoint out of the state of its optimizer: a file of f32 by the names of the weights, which
    /// tells after how many steps of which decay they were taken; of matrices the means of rows and columns alone if it is of rank 1.
    ///
    /// # Errors
    /// What is wrong with the checkpoint and the state, and that there are no moments.
    pub fn moments(
        files: &dyn Files,
        readers: &Readers,
        path: &str,
        state: Option<&str>,
        is_rank1: bool,
    ) -> Maybe<Self> {
        let mut checkpoint = Checkpoint::open(files, readers, path, &OpenOptions::default())?;
        checkpoint.find_moments(files, readers, state, true)?;
        let inputs: Vec<_> =
            checkpoint.read_files().map(|file| (file.path.clone(), file.header.clone())).collect();
        let found = checkpoint.moments.expect("they were looked for")?;
        let (last, tensors) = (inputs.len() - 1, found.file.header.tensors());
        let factored = |tensor: &&Tensor| if is_rank1 { Factored::of(last, tensor) } else { None };
        let mut parts: Vec<_> = tensors.iter().filter_map(|tensor| factored(&tensor)).collect();
        let made = |tensor: &Tensor| {
            let made = Made::new(tensor.name.clone(), tensor.shape.clone(), Matrix::of(last, tensor));
            made.to(Some(Float::F32))
        };
        let whole = tensors.iter().filter(|tensor| factored(tensor).is_none()).map(made).collect();
        let told = (!parts.is_empty()).then(|| ("rank1".into(), RANK1.into()));
        let metadata = [("format".into(), "pt".into())].into_iter().chain(told);
        let metadata = metadata.chain(found.counted.iter().cloned()).collect();
        let name = "moments.safetensors".into();
        let outputs = Vec::from([write::safetensors(name, whole, &mut parts, metadata)?]);
        let is_untold = found.counted.is_empty() && found.corrections.iter().any(|(_, by)| *by != 1.0);
        let untold = "its parameters took different steps, or their squares are sums, which the file cannot tell: --normalise none needs \
                      the state itself";
        let notes = is_untold.then(|| untold.into()).into_iter().collect();
        Ok(Self { inputs, outputs, factored: parts, texts: Vec::new(), notes })
    }

    /// Name and length of each file to write.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, u64)> {
        self.outputs.iter().map(|output| (output.name.as_str(), output.len))
    }

    /// The first bytes of a file.
    #[must_use]
    pub fn head(&self, file: usize) -> &[u8] {
        &self.outputs[file].head
    }

    /// What else is known of a file before its numbers are: places and bytes.
    #[must_use]
    pub fn between(&self, file: usize) -> &[(u64, Vec<u8>)] {
        &self.outputs[file].between
    }

    /// What is left to write when all pieces are there, with places: `crcs` has the [`crc32`] of each tensor.
    #[must_use]
    pub fn tail(&self, file: usize, crcs: &[u32]) -> Vec<(u64, Vec<u8>)> {
        self.outputs[file].tail.as_ref().map_or_else(Vec::new, |tail| tail.bytes(crcs))
    }

    /// Whether [`Self::tail`] wants checksums.
    #[must_use]
    pub fn has_tail(&self, file: usize) -> bool {
        self.outputs[file].tail.is_some()
    }

    /// The rest of it, in pieces of a few MiB, or of a tensor where its rows cannot be parted.
    #[must_use]
    pub fn pieces(&self, file: usize) -> Vec<Piece> {
        let tensors = self.outputs[file].tensors.iter().enumerate();
        let pieces = tensors.flat_map(|(tensor, (start, made))| {
            let panels = made.panels().into_iter();
            panels.map(move |(rows, at)| Piece { tensor, rows, at: start + at })
        });
        pieces.collect()
    }

    /// The bytes of a piece; `read` gives those of an input, by its number.
    ///
    /// # Errors
    /// Those of `read`, and numbers that the dtype cannot hold.
    pub fn make(
        &self,
        file: usize,
        piece: &Piece,
        read: &mut dyn FnMut(usize, Range<u64>) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        self.outputs[file].tensors[piece.tensor].1.make(&piece.rows, read)
    }
}

/// What a file says whose matrices are kept by the means of rows and columns.
const RANK1: &str =
    "NAME[i][j] = NAME.exp_avg_sq_row[i] * NAME.exp_avg_sq_col[j] / mean(NAME.exp_avg_sq_row)";

fn model(name: &str) -> Result<Model> {
    let found = Model::ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, model)| *model).ok_or_else(|| {
        let known = Model::ALL.map(|(name, _)| name).join(", ");
        Error::new(ErrorKind::Usage, alloc::format!("there is no model `{name}`"))
            .help(alloc::format!("models: {known}"))
    })
}

/// The CRC-32 of bytes that follow others, whose CRC-32 is `before`; 0 for none: what [`Conversion::tail`] wants.
#[must_use]
pub fn crc32(before: u32, bytes: &[u8]) -> u32 {
    crate::logs::crc32_more(before, bytes)
}
