//! A task given back: its base, and what its mask keeps of the merged task vector.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Hash, HashedFile, MASKS, Masks, STEP};
use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, Stop, is_file, join, text};
use crate::fold::ReadAt;
use crate::kernel::element::{flush, narrow, round};
use crate::method::product::widen;
use crate::room::resize;
use crate::run::checkpoint::{Checkpoint, File};
use crate::run::readers::{OpenOptions, Readers};
use crate::text::index::Index;
use crate::text::spelling::closest;

/// The most bytes of what tells of a folder of masks.
const MOST: u64 = 1 << 26;
/// What to do about a folder that is not what was written.
const WHOLE: &str = "copy the folder of masks whole, or make them again";

/// What is wanted.
#[derive(Clone, Debug)]
pub struct UnmaskOptions {
    /// The folder of masks.
    pub masks: String,
    /// The task, as the folder calls it.
    pub task: String,
    /// The base.
    pub base: String,
    /// Whether that is where the user says it is, and not where it was.
    pub is_base_named: bool,
}

/// A task that is planned to be given back.
#[derive(Debug)]
pub struct Unmasking {
    /// The files that are read: the base's, the vector, the mask.
    pub base: Checkpoint,
    /// The vector and the mask.
    pub own: [File; 2],
    /// What the folder holds.
    pub told: Masks,
    /// The place of the task in it.
    task: usize,
    /// What is written of each of the base's files.
    parts: Vec<Vec<Part>>,
}

/// Bytes of a file of the base.
#[derive(Clone, Debug)]
struct Part {
    range: Range<u64>,
    /// Of what the tasks changed: dtypes of the base's and of the vector's numbers, where the vector's begin, and the mask's.
    masked: Option<(Float, Float, u64, u64)>,
}

/// Some bytes to write.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The file of the base, and of the output.
    pub file: usize,
    /// Its bytes.
    pub range: Range<u64>,
    part: usize,
}

impl Masks {
    /// Read what a folder of masks holds.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] for another folder.
    pub fn open(files: &dyn Files, folder: &str) -> Maybe<Self> {
        let path = join(folder, MASKS);
        if !is_file(files, &path)? {
            let detail = format!("holds no {MASKS}");
            return Err(Error::new(ErrorKind::Input, detail)
                .file(folder)
                .help("give the folder that `mwa masks TASK… --base MODEL -o FOLDER` wrote")
                .into());
        }
        let told = serde_json::from_str(&text(files, &path, MOST)?);
        Ok(told.map_err(|error| {
            Error::new(ErrorKind::Input, format!("is not what mwa masks writes: {error}")).file(&*path)
        })?)
    }
}

impl Unmasking {
    /// Open the folder, which holds what was told, and the base, and see that they fit.
    ///
    /// # Errors
    /// What is wrong with any of them, [`ErrorKind::Usage`] for a task that is not there.
    pub fn new(files: &dyn Files, readers: &Readers, told: Masks, options: &UnmaskOptions) -> Maybe<Self> {
        let Some(task) = told.tasks.iter().position(|task| task.name == options.task) else {
            let names: Vec<_> = told.tasks.iter().map(|task| task.name.as_str()).collect();
            let help = match closest(&options.task, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the tasks are {}", names.join(", ")),
            };
            let detail = format!("there is no task `{}` in {}", options.task, options.masks);
            return Err(Error::new(ErrorKind::Usage, detail).help(help).into());
        };
        let opened = Checkpoint::open(files, readers, &options.base, &OpenOptions::default());
        let base = opened.map_err(|stop| match stop {
            Stop::Failed(error) if !options.is_base_named => error
                .file(&*options.base)
                .help_instead("it is the base of these masks: say by --base where it is now")
                .into(),
            stop => stop,
        })?;
        base.check_safetensors(
            "is not a safetensors file, and masks are over one",
            "give the base that the masks were made over with --base",
        )?;
        let open = |name: &str| File::open(files, readers, &join(&options.masks, name));
        let own = [open(&told.vector.name)?, open(&told.tasks[task].mask.name)?];
        let mut back = Self { base, own, told, task, parts: Vec::new() };
        back.lay_out()?;
        Ok(back)
    }

    fn lay_out(&mut self) -> Result<()> {
        let [vector, mask] = &self.own;
        let (changed, bits) = (vector.header.tensors(), mask.header.tensors());
        let [vectors, masks] =
            [changed, bits].map(|tensors| Index::new(tensors.iter().map(|tensor| tensor.name.as_str())));
        let mut count = 0;
        for file in &self.base.files {
            let mut parts = Vec::new();
            let mut at = 0;
            let mut tensors: Vec<_> = file.header.tensors().iter().collect();
            tensors.sort_by_key(|tensor| tensor.range.start);
            for tensor in tensors {
                let Some(place) = vectors.place(&tensor.name) else { continue };
                let of = &changed[place];
                let bits = masks.place(&tensor.name).map(|place| &bits[place]);
                let elements: u64 = of.shape.iter().product();
                let fits =
                    bits.is_some_and(|bits| bits.dtype == Dtype::U8 && bits.len() == elements.div_ceil(8));
                if !fits {
                    let detail = format!("has not a bit for each of the {elements} elements of it");
                    return Err(Error::new(ErrorKind::Shape, detail)
                        .file(&*mask.path)
                        .tensor(&tensor.name)
                        .help(WHOLE));
                }
                let (own, wide) = (Float::of(tensor.dtype), Float::of(of.dtype));
                let (Some(own), Some(wide), true) = (own, wide, of.shape == tensor.shape) else {
                    let detail = format!(
                        "is {} {:?}, but the masks are of {:?}",
                        tensor.dtype, tensor.shape, of.shape
                    );
                    return Err(Error::new(ErrorKind::Shape, detail)
                        .file(&*file.path)
                        .tensor(&tensor.name)
                        .help("give the base that the masks were made over with --base"));
                };
                count += 1;
                parts.push(Part { range: at..tensor.range.start, masked: None });
                at = tensor.range.end;
                let begin = bits.map_or(0, |bits| bits.range.start);
                parts.push(Part {
                    range: tensor.range.clone(),
                    masked: Some((own, wide, of.range.start, begin)),
                });
            }
            parts.push(Part { range: at..file.len, masked: None });
            self.parts.push(parts);
        }
        if count < changed.len() {
            let known = |name: &str| {
                self.base
                    .files
                    .iter()
                    .any(|file| file.header.tensors().iter().any(|tensor| tensor.name == name))
            };
            let lacking =
                changed.iter().find(|tensor| !known(&tensor.name)).map_or("", |tensor| tensor.name.as_str());
            let detail = format!("is in the masks of {}, but not in the base", self.task_name());
            return Err(Error::new(ErrorKind::Names, detail)
                .file(&*self.base.name)
                .tensor(lacking)
                .help("give the base that the masks were made over with --base"));
        }
        Ok(())
    }

    /// What the task is called.
    #[must_use]
    pub fn task_name(&self) -> &str {
        &self.told.tasks[self.task].name
    }

    /// All that is written, in pieces of about `most` bytes.
    #[must_use]
    pub fn pieces(&self, most: u64) -> Vec<Piece> {
        let mut found = Vec::new();
        for (file, parts) in self.parts.iter().enumerate() {
            for (number, part) in parts.iter().enumerate() {
                let size = part.masked.map_or(1, |(own, ..)| own.bytes() as u64);
                let step = (most / size / STEP * STEP).max(STEP) * size;
                let starts = part.range.clone().step_by(usize::try_from(step).unwrap_or(usize::MAX));
                found.extend(starts.map(|start| Piece {
                    file,
                    range: start..part.range.end.min(start + step),
                    part: number,
                }));
            }
        }
        found
    }

    /// The bytes of a piece. `read` gives those of a file, numbered as the base's, then the vector, then the mask.
    ///
    /// # Errors
    /// Those of `read`; [`ErrorKind::Overflow`] for a sum that does not fit, [`ErrorKind::NonFinite`] where the base itself is not finite.
    pub fn make(&self, piece: &Piece, read: &mut ReadAt<'_>) -> Result<Vec<u8>> {
        let part = &self.parts[piece.file][piece.part];
        let mut bytes = Vec::new();
        resize(&mut bytes, usize::try_from(piece.range.end - piece.range.start).expect("a piece is small"))?;
        read(piece.file, piece.range.clone(), &mut bytes)?;
        let Some((own, wide, from, bits_from)) = part.masked else { return Ok(bytes) };
        let first = (piece.range.start - part.range.start) / own.bytes() as u64;
        let count = bytes.len() / own.bytes();
        let (mut words, mut bits) = (Vec::new(), Vec::new());
        resize(&mut words, count * wide.bytes())?;
        let start = from + first * wide.bytes() as u64;
        read(self.base.files.len(), start..start + words.len() as u64, &mut words)?;
        resize(&mut bits, count.div_ceil(8))?;
        let start = bits_from + first / 8;
        read(self.base.files.len() + 1, start..start + bits.len() as u64, &mut bits)?;
        let (mut base, mut change) = (vec![0.0; count], vec![0.0; count]);
        widen(own, &bytes, &mut base);
        widen(wide, &words, &mut change);
        let in_f64 = own == Float::F64 || wide == Float::F64;
        for (i, word) in bytes.chunks_exact_mut(own.bytes()).enumerate() {
            // what the task did not change stays to the bit
            if bits[i / 8] >> (i % 8) & 1 == 0 || change[i] == 0.0 {
                continue;
            }
            if in_f64 {
                let sum = base[i] + change[i];
                word.copy_from_slice(&crate::kernel::element::narrow_f64(own, sum)[..own.bytes()]);
            } else {
                narrow(own, flush(flush(round(base[i])) + round(change[i])), word);
            }
            if !own.value(word).is_finite() {
                if !change[i].is_finite() {
                    let detail = format!("holds {}, which is never written there", change[i]);
                    return Err(Error::new(ErrorKind::Differs, detail).file(&*self.own[0].path).help(WHOLE));
                }
                let detail = format!("is {} in the task {}", own.value(word), self.task_name());
                let file = &self.base.files[piece.file];
                let kind = if base[i].is_finite() { ErrorKind::Overflow } else { ErrorKind::NonFinite };
                return Err(Error::new(kind, detail)
                    .file(&*file.path)
                    .help("the sum does not fit the base's dtype: give the base in a wider one"));
            }
        }
        Ok(bytes)
    }

    /// Refuse a base whose files are not those that the masks were made over, and a vector or a mask that is not what was
    /// written; `hashes` are the base's and these two.
    ///
    /// # Errors
    /// [`ErrorKind::Differs`], with both hashes.
    pub fn check(&self, hashes: [&[Hash]; 2]) -> Result<()> {
        let differ = |known: &HashedFile, hash: &Hash| {
            !known.blake3.is_empty() && !hash.blake3.is_empty() && known.blake3 != hash.blake3
        };
        let known = |name: &str| self.told.base.files.iter().find(|file| file.name == name);
        for (file, hash) in self.base.files.iter().zip(hashes[0]) {
            if let Some(known) = known(file.name()).filter(|known| differ(known, hash)) {
                let detail = format!(
                    "has BLAKE3 {}, but the masks were made over one of {}",
                    hash.blake3, known.blake3
                );
                return Err(Error::new(ErrorKind::Differs, detail)
                    .file(&*file.path)
                    .help("give the base that the masks were made over with --base"));
            }
        }
        let written = [&self.told.vector, &self.told.tasks[self.task].mask];
        for ((file, known), hash) in self.own.iter().zip(written).zip(hashes[1]) {
            if differ(known, hash) {
                let detail = format!("has BLAKE3 {}, but was written with {}", hash.blake3, known.blake3);
                return Err(Error::new(ErrorKind::Differs, detail).file(&*file.path).help(WHOLE));
            }
        }
        Ok(())
    }
}
