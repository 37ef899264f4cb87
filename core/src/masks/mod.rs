//! What tasks changed of one base, kept as one vector and a bit of each element and task, and a task given back: TALL masks.
//!
//! After Wang et al. 2024 (arXiv 2405.07813): with τ\[k\] = x\[k\] − b and V = Σ τ\[k\], the mask of a task is
//! |τ\[k\]| > λ\[k\]·|V − τ\[k\]|, and b + V where the mask is set stands for the task. Each operation rounds as in
//! `kernel/tasks`, so that the bits are those that `--method consensus` counts. Bit i of byte j is that of element 8j + i.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use serde::{Deserialize, Serialize};

use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, last};
use crate::fold::ReadAt;
use crate::format::safetensors::{Header, TextMap};
use crate::kernel::element::{flush, round};
use crate::merge::Hash;
use crate::merge::report::HashedFile;
use crate::method::product::widen;
use crate::room::resize;
use crate::run::checkpoint::Checkpoint;
use crate::run::readers::{OpenOptions, Readers};
use crate::text::index::Index;

mod back;

pub use back::{UnmaskOptions, Unmasking};

/// What tells of a folder of masks.
pub const MASKS: &str = "mwa-masks.json";
/// What the merged task vector is called in it.
pub const VECTOR: &str = "task-vector.safetensors";
/// Elements that pieces are multiples of: whole bytes of bits.
const STEP: u64 = 4096;

/// What is to be kept.
#[derive(Clone, Debug)]
pub struct MaskOptions {
    /// The models that were trained from the base: folders, or files.
    pub tasks: Vec<String>,
    /// The base.
    pub base: String,
    /// λ of all tasks, or of each.
    pub lambdas: Vec<f64>,
}

/// Planned masks.
#[derive(Debug)]
pub struct Masking {
    /// The files that are read: the base's, then each task's.
    pub base: Checkpoint,
    /// See [`Self::base`].
    pub tasks: Vec<Checkpoint>,
    /// What tasks are called among themselves.
    labels: Vec<String>,
    lambdas: Vec<f64>,
    tensors: Vec<Masked>,
    /// The vector's, then each mask's.
    outputs: Vec<(String, Header)>,
}

/// A tensor of all of them.
#[derive(Debug)]
struct Masked {
    name: String,
    /// Elements; of what is no numbers, bytes.
    elements: u64,
    /// Where it lies in the base and in each task: number of the file, first byte, dtype.
    places: Vec<(usize, u64, Float)>,
    /// Where it goes in each output; nowhere for what is no numbers, which must be the same in all.
    to: Vec<u64>,
}

/// Some elements of a tensor.
#[derive(Clone, Debug)]
pub struct Piece {
    tensor: usize,
    range: Range<u64>,
}

/// What a piece comes to.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// First byte in each output, and the bytes there.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// How many bits of each mask are set.
    pub set: Vec<u64>,
}

/// What a folder of masks holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Masks {
    /// Version of the program that wrote it.
    pub mwa: String,
    /// The base, by its way from the folder.
    pub base: Source,
    /// The merged task vector.
    pub vector: HashedFile,
    /// The tasks, in the order in which they were given.
    pub tasks: Vec<Task>,
    /// How many elements have masks.
    pub elements: u64,
}

/// A model that was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The way to it.
    pub path: String,
    /// Its files.
    pub files: Vec<HashedFile>,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// What it is called.
    pub name: String,
    /// Its λ.
    pub lambda: f64,
    /// How many bits of its mask are set.
    pub set: u64,
    /// Its mask.
    pub mask: HashedFile,
    /// The model that it was.
    pub model: Source,
}

impl Masks {
    /// What there is, and its bytes, for a table: the base, the vector, all masks, all of these, and the models instead.
    #[must_use]
    pub fn sizes(&self) -> [(&'static str, u64); 5] {
        let sum = |files: &[HashedFile]| files.iter().map(|file| file.bytes).sum::<u64>();
        let base = sum(&self.base.files);
        let masks: u64 = self.tasks.iter().map(|task| task.mask.bytes).sum();
        let models = self.tasks.iter().map(|task| sum(&task.model.files)).sum();
        [
            ("base", base),
            ("task vector", self.vector.bytes),
            ("masks", masks),
            ("together", base + self.vector.bytes + masks),
            ("the models themselves", models),
        ]
    }
}

impl Masking {
    /// Open all and see that they have the same tensors.
    ///
    /// # Errors
    /// What is wrong with any, where they are not of one architecture, and [`ErrorKind::Usage`] for λ that cannot be.
    pub fn new(files: &dyn Files, readers: &Readers, options: &MaskOptions) -> Maybe<Self> {
        let count = options.tasks.len();
        let lambdas = match options.lambdas.as_slice() {
            [one] => vec![*one; count],
            each if each.len() == count => each.to_vec(),
            each => {
                let detail = format!("there are {} of --lambda for {count} tasks", each.len());
                return Err(Error::new(ErrorKind::Usage, detail)
                    .help("give one for all, or one for each")
                    .into());
            }
        };
        if let Some(odd) = lambdas.iter().find(|lambda| !(lambda.is_finite() && **lambda >= 0.0)) {
            let detail = format!("--lambda is {odd}");
            return Err(Error::new(ErrorKind::Usage, detail)
                .help("give a number from 0 on, such as 0.4")
                .into());
        }
        let wanted = OpenOptions::default();
        let open = |path: &String| -> Maybe<Checkpoint> {
            let checkpoint = Checkpoint::open(files, readers, path, &wanted)?;
            plain(&checkpoint)?;
            Ok(checkpoint)
        };
        let base = open(&options.base)?;
        let mut tasks = Vec::with_capacity(count);
        for path in &options.tasks {
            tasks.push(open(path)?);
        }
        let mut labels: Vec<String> = Vec::with_capacity(count);
        for task in &tasks {
            let own = last(&task.name).trim_end_matches(".safetensors");
            let plain = |letter: char| {
                if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '_' }
            };
            let own: String = own.chars().map(plain).collect();
            let named = |number: usize| if number == 1 { own.clone() } else { format!("{own}-{number}") };
            let free = (1..).map(named).find(|label| !labels.contains(label));
            labels.extend(free);
        }
        let mut masking = Self { base, tasks, labels, lambdas, tensors: Vec::new(), outputs: Vec::new() };
        masking.lay_out()?;
        Ok(masking)
    }

    fn lay_out(&mut self) -> Result<()> {
        let base: Vec<_> = self.base.placed(0).collect();
        let known = Index::new(base.iter().map(|(_, tensor)| tensor.name.as_str()));
        let mut first = self.base.files.len();
        let mut others = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let own: Vec<_> = task.placed(first).collect();
            first += task.files.len();
            let index = Index::new(own.iter().map(|(_, tensor)| tensor.name.as_str()));
            let lacking =
                base.iter().find(|(_, tensor)| !index.has(&tensor.name)).map(|it| (it, &self.base, task));
            let more =
                own.iter().find(|(_, tensor)| !known.has(&tensor.name)).map(|it| (it, task, &self.base));
            if let Some(((_, tensor), with, without)) = lacking.or(more) {
                let detail = format!("is in {} ({:?}), but not in {}", with.name, tensor.shape, without.name);
                return Err(Error::new(ErrorKind::Names, detail)
                    .file(&*without.name)
                    .tensor(&tensor.name)
                    .help("masks are of tasks with the tensors of their base: give the model that all were trained from with --base"));
            }
            let places: Vec<_> =
                base.iter().map(|(_, tensor)| index.place(&tensor.name).expect("it is there")).collect();
            others.push((own, places));
        }
        let is_float = |at: usize| {
            Float::of(base[at].1.dtype).is_some()
                && others.iter().all(|(own, places)| Float::of(own[places[at]].1.dtype).is_some())
        };
        let mut laid = [Vec::new(), Vec::new()];
        for (at, (file, tensor)) in base.iter().enumerate() {
            let is_float = is_float(at);
            let mut places = vec![(*file, tensor.range.start, Float::of(tensor.dtype))];
            for ((own, at_own), task) in others.iter().zip(&self.tasks) {
                let (file, other) = &own[at_own[at]];
                if other.shape != tensor.shape || (!is_float && other.dtype != tensor.dtype) {
                    let detail = format!(
                        "is {} {:?}, but in {} it is {} {:?}",
                        other.dtype, other.shape, self.base.name, tensor.dtype, tensor.shape
                    );
                    return Err(Error::new(ErrorKind::Shape, detail)
                        .file(&*task.name)
                        .tensor(&tensor.name)
                        .help("give the model that this task was trained from with --base"));
                }
                places.push((*file, other.range.start, Float::of(other.dtype)));
            }
            // what is no numbers is compared byte by byte
            let float = |(file, start, float): (usize, u64, Option<Float>)| {
                (file, start, float.filter(|_| is_float).unwrap_or(Float::F8E5M2))
            };
            let places: Vec<_> = places.into_iter().map(float).collect();
            let elements = if is_float { tensor.shape.iter().product() } else { tensor.len() };
            if is_float {
                let wide = if is_f64(&places) { Dtype::F64 } else { Dtype::F32 };
                laid[0].push((tensor.name.clone(), wide, tensor.shape.clone()));
                laid[1].push((tensor.name.clone(), Dtype::U8, vec![elements.div_ceil(8)]));
            }
            self.tensors.push(Masked { name: tensor.name.clone(), elements, places, to: Vec::new() });
        }
        let metadata = |pairs: &[(&str, String)]| -> TextMap {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
        };
        let header = Header::layout(laid[0].clone(), metadata(&[("mwa", "task-vector".into())]))?;
        self.outputs.push((VECTOR.to_owned(), header));
        for (label, lambda) in self.labels.iter().zip(&self.lambdas) {
            let told =
                metadata(&[("mwa", "mask".into()), ("task", label.clone()), ("lambda", lambda.to_string())]);
            self.outputs.push((format!("mask-{label}.safetensors"), Header::layout(laid[1].clone(), told)?));
        }
        for (_, header) in &self.outputs {
            let index = Index::new(header.tensors().iter().map(|tensor| tensor.name.as_str()));
            for masked in &mut self.tensors {
                masked.to.extend(index.place(&masked.name).map(|at| header.tensors()[at].range.start));
            }
        }
        Ok(())
    }

    /// The files to write, and their heads.
    #[must_use]
    pub fn outputs(&self) -> &[(String, Header)] {
        &self.outputs
    }

    /// All there is to do, in pieces that read about `most` bytes of each model.
    #[must_use]
    pub fn pieces(&self, most: u64) -> Vec<Piece> {
        let step = (most / 4 / STEP * STEP).max(STEP);
        let of = |(tensor, masked): (usize, &Masked)| {
            let starts = (0..masked.elements).step_by(usize::try_from(step).unwrap_or(usize::MAX));
            let end = masked.elements;
            starts.map(move |start| Piece { tensor, range: start..end.min(start + step) })
        };
        self.tensors.iter().enumerate().flat_map(of).collect()
    }

    /// How many elements a piece has.
    #[must_use]
    pub fn len(piece: &Piece) -> u64 {
        piece.range.end - piece.range.start
    }

    /// Read a piece and make what is written of it. `read` gives bytes of a file, numbered as the base's and then each task's.
    ///
    /// # Errors
    /// Those of `read`; [`ErrorKind::NonFinite`] and [`ErrorKind::Overflow`]; [`ErrorKind::Differs`] for what is no numbers and not the
    /// same in all.
    pub fn make(&self, piece: &Piece, read: &mut ReadAt<'_>) -> Result<Made> {
        let masked = &self.tensors[piece.tensor];
        let count = usize::try_from(Self::len(piece)).expect("a piece is small");
        let mut values = Vec::with_capacity(masked.places.len());
        let mut bytes = Vec::new();
        let mut first = Vec::new();
        for (model, &(file, start, float)) in masked.places.iter().enumerate() {
            resize(&mut bytes, count * float.bytes())?;
            let from = start + piece.range.start * float.bytes() as u64;
            read(file, from..from + bytes.len() as u64, &mut bytes)?;
            if !masked.to.is_empty() {
                let mut row = vec![0.0; count];
                widen(float, &bytes, &mut row);
                if let Some(at) = row.iter().position(|value| !value.is_finite()) {
                    let detail = format!("holds {}, at element {}", row[at], piece.range.start + at as u64);
                    return Err(self
                        .at(ErrorKind::NonFinite, masked, model, detail)
                        .help("take a checkpoint of before the training diverged"));
                }
                values.push(row);
            } else if model == 0 {
                first.clone_from(&bytes);
            } else if first != bytes {
                let detail = format!("is no floats, and differs from that of {}", self.base.name);
                return Err(self
                    .at(ErrorKind::Differs, masked, model, detail)
                    .help("masks are of floats: all else must be as in the base"));
            }
        }
        if values.is_empty() {
            return Ok(Made::default());
        }
        let in_f64 = is_f64(&masked.places);
        let bits = mask(&mut values, &self.lambdas, in_f64);
        let vector = values.swap_remove(0);
        if let Some(at) = vector.iter().position(|value| !value.is_finite()) {
            let detail = format!(
                "is too large for {} at element {}, summed over tasks",
                if in_f64 { "F64" } else { "F32" },
                piece.range.start + at as u64
            );
            return Err(self
                .at(ErrorKind::Overflow, masked, 0, detail)
                .help("look at the tensor: its values are near the largest there are"));
        }
        let size = if in_f64 { 8 } else { 4 };
        let mut out = Vec::with_capacity(count * size);
        for value in vector {
            if in_f64 {
                out.extend_from_slice(&value.to_le_bytes());
            } else {
                out.extend_from_slice(&round(value).to_le_bytes());
            }
        }
        let set = bits.iter().map(|bits| bits.iter().map(|byte| u64::from(byte.count_ones())).sum());
        Ok(Made {
            set: set.collect(),
            writes: core::iter::once((size as u64, out))
                .chain(bits.into_iter().map(|bits| (0, bits)))
                .zip(&masked.to)
                .map(|((size, bytes), to)| {
                    let from = if size == 0 { piece.range.start / 8 } else { piece.range.start * size };
                    (to + from, bytes)
                })
                .collect(),
        })
    }

    fn at(&self, kind: ErrorKind, masked: &Masked, model: usize, detail: String) -> Error {
        let name = model.checked_sub(1).map_or(&self.base.name, |task| &self.tasks[task].name);
        Error::new(kind, detail).file(&**name).tensor(&masked.name)
    }

    /// What the folder holds: `paths` are the ways from it to the base and to each task, the hashes those of their files and of the
    /// outputs, `set` how many bits of each mask are set.
    #[must_use]
    pub fn told(&self, paths: &[String], inputs: &[Vec<Hash>], outputs: &[Hash], set: &[u64]) -> Masks {
        let source = |checkpoint: &Checkpoint, path: &String, hashes: &[Hash]| Source {
            path: path.clone(),
            files: checkpoint
                .files
                .iter()
                .zip(hashes)
                .map(|(file, hash)| hash.of(file.name(), file.len))
                .collect(),
        };
        let mut files =
            self.outputs.iter().zip(outputs).map(|((name, header), hash)| hash.of(name, header.file_len()));
        let vector = files.next().expect("the vector is the first output");
        let tasks = files.enumerate().map(|(task, mask)| Task {
            name: self.labels[task].clone(),
            lambda: self.lambdas[task],
            set: set.get(task).copied().unwrap_or_default(),
            mask,
            model: source(&self.tasks[task], &paths[task + 1], &inputs[task + 1]),
        });
        Masks {
            mwa: env!("CARGO_PKG_VERSION").to_owned(),
            base: source(&self.base, &paths[0], &inputs[0]),
            vector,
            tasks: tasks.collect(),
            elements: self
                .tensors
                .iter()
                .filter(|masked| !masked.to.is_empty())
                .map(|masked| masked.elements)
                .sum(),
        }
    }
}

fn is_f64(places: &[(usize, u64, Float)]) -> bool {
    places.iter().any(|(.., float)| *float == Float::F64)
}

/// Whole models alone have elements that are those of their base.
fn plain(checkpoint: &Checkpoint) -> Result<()> {
    checkpoint.check_whole("is an adapter, and masks are of whole models")?;
    checkpoint.check_safetensors(
        "is not a safetensors file, whose numbers are read as they lie",
        "write it anew first: `mwa merge MODEL -o FOLDER`",
    )?;
    checkpoint.check_plain("plain weights have masks", "give the model as it was before it was quantised")
}

/// Of the values of a base and of tasks: the bits of each task; what tasks changed in all takes the place of the base.
fn mask(values: &mut [Vec<f64>], lambdas: &[f64], in_f64: bool) -> Vec<Vec<u8>> {
    // one operation in f64, rounded once more, is that operation in f32
    let fit = |value: f64| if in_f64 { value } else { f64::from(flush(round(value))) };
    let (base, taus) = values.split_first_mut().expect("the base is the first");
    for tau in taus.iter_mut() {
        for (tau, base) in tau.iter_mut().zip(&*base) {
            *tau = fit(fit(*tau) - fit(*base));
        }
    }
    base.copy_from_slice(&taus[0]);
    for tau in &taus[1..] {
        for (sum, tau) in base.iter_mut().zip(tau) {
            *sum = fit(*sum + tau);
        }
    }
    let bits = taus.iter().zip(lambdas).map(|(tau, lambda)| {
        let lambda = if in_f64 { *lambda } else { f64::from(round(*lambda)) };
        let mut bits = vec![0_u8; tau.len().div_ceil(8)];
        for (i, (tau, sum)) in tau.iter().zip(&*base).enumerate() {
            let others = fit(sum - tau).abs();
            bits[i / 8] |= u8::from(tau.abs() > fit(lambda * others)) << (i % 8);
        }
        bits
    });
    bits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of numpy's program.
    #[test]
    fn values_of_the_oracle() {
        let rows: [[f32; 6]; 4] = [
            [0.0, 1.0, -1.0, 2.0, 0.5, 0.0],
            [0.9, 1.0, -1.4, 2.1, 0.5, -0.1],
            [1.0, 0.2, -0.7, 2.1, 0.5, 0.1],
            [-0.2, 1.1, -1.3, 2.1, 0.5, 0.0],
        ];
        let mut values: Vec<Vec<f64>> =
            rows.iter().map(|row| row.iter().map(|value| (*value).into()).collect()).collect();
        let bits = mask(&mut values, &[0.4; 3], false);
        // 101101, 111101, 001100, the first element in the lowest bit
        assert_eq!(bits, [[45], [47], [12]]);
        let sum: Vec<f32> = values[0].iter().map(|value| round(*value)).collect();
        assert_eq!(sum, [1.699_999_9, -0.7, -0.399_999_92, 0.299_999_7, 0.0, 0.0]);
        // of one task every element that it changed
        let mut one: Vec<Vec<f64>> = vec![vec![0.0, 1.0, 2.0], vec![0.0, 1.5, 2.0]];
        assert_eq!(mask(&mut one, &[0.4], true), [[0b010]]);
    }
}
