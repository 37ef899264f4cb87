//! A checkpoint of training in its own layout, with other numbers in the places of its weights.
//!
//! The files of the ranks stay as long as they are, and all else in them stays: what changes is where the numbers of weights lie, and
//! the checksums over these. Where an optimizer keeps weights in f32 beside the model's in 16 bits, both are written.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::Piece;
use super::matrix::{Made, Matrix};
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, all};
use crate::format::safetensors::Header;
use crate::format::torch::zip::Sum;
use crate::format::training;
use crate::run::checkpoint::{Checkpoint, File};
use crate::run::readers::{OpenOptions, Readers};
use crate::text::index::Index;

/// What reads bytes of a file from a place on, and what writes them; files are numbered.
type ReadAt<'a> = dyn FnMut(usize, u64, &mut [u8]) -> Result<()> + 'a;
type WriteAt<'a> = dyn FnMut(usize, u64, &[u8]) -> Result<()> + 'a;

/// What is written where.
#[derive(Clone, Debug)]
pub struct Own {
    /// The files with the numbers: path and head.
    pub inputs: Vec<(String, Header)>,
    /// The checkpoint's files in which something changes.
    pub files: Vec<String>,
    /// How each opening of the checkpoint reads it: heads, the number of its own file here, and those of all that were opened with it.
    heads: Vec<(Header, usize, Arc<[usize]>)>,
    /// Each tensor, the head that it is of, and where it begins by that.
    places: Vec<(Made, usize, u64)>,
    /// Tensors of one place, by their numbers: what is tied in the checkpoint has several names there.
    shared: Vec<(usize, usize)>,
    /// Of which file each checksum is.
    sums: Vec<(usize, Sum)>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Own {
    /// Plan to write what the files `merged` hold into the places that weights of the same names have in the checkpoint at `path`.
    ///
    /// # Errors
    /// What is wrong with the files, and weights that the checkpoint has no place for.
    pub fn new(files: &dyn Files, readers: &Readers, merged: &[String], path: &str) -> Maybe<Self> {
        let merged = all(merged.iter().map(|path| File::open(files, readers, path)))?;
        let Some(place) = training::find(files, path)? else { return Err(unplaced().file(path).into()) };
        let opened = Checkpoint::open(files, readers, path, &OpenOptions::default())?;
        let mut own = Self {
            inputs: merged.into_iter().map(|file| (file.path, file.header)).collect(),
            files: Vec::new(),
            heads: Vec::new(),
            places: Vec::new(),
            shared: Vec::new(),
            sums: Vec::new(),
            notes: Vec::new(),
        };
        let at = |error: Error| error.file(path);
        let mut written = Vec::new();
        let heads = opened.files.into_iter().map(|file| (file.path, file.header));
        let tensors = own.place(heads, true, &mut written).map_err(at)?;
        let mut copies = 0;
        for copy in training::copies(files, &place)? {
            let heads = copy.files.into_iter().map(|(path, _, header)| (path, header));
            copies += own.place(heads, false, &mut written).map_err(at)?;
        }
        let names = Index::new(own.files.iter().map(String::as_str));
        let is_written = |path: &str, range: &Range<u64>| {
            let Some(file) = names.place(path) else { return false };
            let after = written.partition_point(|(other, lies)| (*other, lies.end) <= (file, range.start));
            written.get(after).is_some_and(|(other, lies)| *other == file && lies.start < range.end)
        };
        for (path, sum) in training::sums(files, &place, &own.files, &is_written)? {
            let file = names.place(&path).filter(|_| is_written(&path, &sum.data));
            own.sums.extend(file.map(|file| (file, sum)));
        }
        let copies = match copies {
            0 => String::new(),
            1 => ", and 1 copy of them, rounded to its dtype".into(),
            _ => format!(", and {copies} copies of them, rounded to their dtypes"),
        };
        own.notes.push(format!(
            "written in the layout of {path}: the merged weights are in the places of its own ({tensors} tensors{copies}); all else, as \
             states of optimizers and schedulers, is as it was saved there"
        ));
        Ok(own)
    }

    /// Find the places in files that were opened together, of what was merged; of all of it, or of what is there. Gives how many are others than
    /// those that are `written`, which they are added to; that is sorted.
    fn place(
        &mut self,
        opened: impl Iterator<Item = (String, Header)>,
        is_all: bool,
        written: &mut Vec<(usize, Range<u64>)>,
    ) -> Result<usize> {
        let opened: Vec<_> = opened.collect();
        let known = Index::new(self.files.iter().map(String::as_str));
        let known: Vec<_> = opened.iter().map(|(path, _)| known.place(path)).collect();
        let mut numbers = Vec::new();
        for ((path, _), known) in opened.iter().zip(known) {
            numbers.push(known.unwrap_or_else(|| {
                self.files.push(path.clone());
                self.files.len() - 1
            }));
        }
        let first = self.heads.len();
        let together: Arc<[usize]> = numbers.into();
        for (at, (_, header)) in opened.iter().enumerate() {
            self.heads.push((header.clone(), together[at], together.clone()));
        }
        let tensors = opened
            .iter()
            .enumerate()
            .flat_map(|(at, (_, header))| header.tensors().iter().map(move |tensor| (first + at, tensor)));
        let tensors: Vec<_> = tensors.collect();
        let index = Index::new(tensors.iter().map(|(_, tensor)| tensor.name.as_str()));
        let mut placed = Vec::new();
        for (input, (_, header)) in self.inputs.iter().enumerate() {
            for tensor in header.tensors() {
                let at = |kind, detail: String| Error::new(kind, detail).tensor(&*tensor.name).help(OTHERS);
                let Some((head, there)) = index.place(&tensor.name).map(|at| tensors[at]) else {
                    if !is_all {
                        continue;
                    }
                    return Err(at(ErrorKind::Names, "has no place for it".into()));
                };
                if there.shape != tensor.shape {
                    let detail =
                        format!("has a place of {:?} for it, but it is {:?}", there.shape, tensor.shape);
                    return Err(at(ErrorKind::Shape, detail));
                }
                let float = Float::of(there.dtype).filter(|_| Float::of(tensor.dtype).is_some());
                if float.is_none() && there.dtype != tensor.dtype {
                    let detail = format!("has a place of {} for it, but it is {}", there.dtype, tensor.dtype);
                    return Err(at(ErrorKind::Dtype, detail));
                }
                let made = Made::new(tensor.name.clone(), tensor.shape.clone(), Matrix::of(input, tensor));
                let lies = self.lies(head, &there.range);
                if made.len() > 0
                    && !lies.iter().all(|range| written.binary_search_by_key(&order(range), order).is_ok())
                {
                    placed.push((made.to(float), head, there.range.start));
                }
            }
        }
        let mut by_place: Vec<_> =
            placed.iter().enumerate().map(|(at, (_, head, start))| (*head, *start, at)).collect();
        by_place.sort_unstable();
        let first = self.places.len();
        let pairs = by_place.windows(2).filter(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1));
        self.shared.extend(pairs.map(|pair| (first + pair[0].2, first + pair[1].2)));
        for (made, head, start) in &placed {
            written.extend(self.lies(*head, &(*start..start + made.len())));
        }
        written.sort_unstable_by_key(order);
        let count = placed.len();
        self.places.extend(placed);
        Ok(count)
    }

    /// Where the bytes of a range lie, by the numbers of the files.
    fn lies(&self, head: usize, range: &Range<u64>) -> Vec<(usize, Range<u64>)> {
        let (header, own, together) = &self.heads[head];
        let reads = header.reads(range).into_iter();
        reads.map(|(file, range)| (file.map_or(*own, |file| together[file]), range)).collect()
    }

    /// What is written, in pieces of a few MiB.
    #[must_use]
    pub fn pieces(&self) -> Vec<Piece> {
        let panels = |(tensor, (made, ..)): (usize, &(Made, usize, u64))| {
            let piece = move |(rows, at)| Piece { tensor, rows, at };
            made.panels().into_iter().map(piece).collect::<Vec<_>>()
        };
        self.places.iter().enumerate().flat_map(panels).collect()
    }

    /// The bytes of a piece; `read` gives those of an input, by its number.
    ///
    /// # Errors
    /// Those of `read`, and numbers that the dtype of the place cannot hold.
    pub fn make(
        &self,
        piece: &Piece,
        read: &mut dyn FnMut(usize, Range<u64>) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        self.places[piece.tensor].0.make(&piece.rows, read).map_err(|error| match error.kind() {
            ErrorKind::NonFinite | ErrorKind::Overflow => error.help_instead(OTHERS),
            _ => error,
        })
    }

    /// Put them where they lie: `read` and `write` are of [`Self::files`], by their numbers.
    ///
    /// # Errors
    /// Those of `read` and `write`.
    pub fn put(
        &self,
        piece: &Piece,
        bytes: &[u8],
        read: &mut ReadAt<'_>,
        write: &mut WriteAt<'_>,
    ) -> Result<()> {
        let (_, head, start) = &self.places[piece.tensor];
        let (header, own, together) = &self.heads[*head];
        let number = |file: Option<usize>| file.map_or(*own, |file| together[file]);
        header.write(
            start + piece.at,
            bytes,
            |file, at, into| read(number(file), at, into),
            |file, at, bytes| write(number(file), at, bytes),
        )
    }

    /// Refuse merged tensors that have one place in the checkpoint and are not the same: one of them would be lost.
    ///
    /// # Errors
    /// [`ErrorKind::Differs`], and those of [`Self::make`].
    pub fn check_shared(&self, read: &mut dyn FnMut(usize, Range<u64>) -> Result<Vec<u8>>) -> Result<()> {
        for (one, other) in &self.shared {
            let (one, other) = (&self.places[*one].0, &self.places[*other].0);
            for (rows, _) in one.panels() {
                if one.make(&rows, read)? != other.make(&rows, read)? {
                    let detail =
                        format!("is one with {} in the checkpoint, but they differ in the merge", one.name);
                    return Err(Error::new(ErrorKind::Differs, detail).tensor(&*other.name).help(OTHERS));
                }
            }
        }
        Ok(())
    }

    /// The checksums that are others when all is written: of which file, of what in it, and the places that the CRC-32 of that has there.
    pub fn sums(&self) -> impl Iterator<Item = (usize, &Range<u64>, &[u64])> {
        self.sums.iter().map(|(file, sum)| (*file, &sum.data, sum.at.as_slice()))
    }
}

impl Checkpoint {
    /// Refuse a checkpoint that cannot be written in its own layout.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] for what no ranks of a training wrote.
    pub fn keeps_places(&self) -> Result<()> {
        self.layout.map(drop).ok_or_else(|| unplaced().file(&*self.name))
    }
}

fn unplaced() -> Error {
    let detail = "is no checkpoint of torch distributed or DeepSpeed, and --format own is for those";
    Error::new(ErrorKind::Input, detail).help(OTHERS)
}

/// What else there is.
const OTHERS: &str =
    "leave out --format own, and safetensors are written; --format pt is for files of torch.save()";

/// Sorts what lies somewhere.
fn order((file, range): &(usize, Range<u64>)) -> (usize, u64, u64) {
    (*file, range.start, range.end)
}
