//! The tensors of an output: copied, folded, replaced, or some of their rows; made in pieces.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::kernel::{Magnitude, Work};
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::room::resize;

/// Reads bytes of a file, by its number.
pub type ReadAt<'a> = dyn FnMut(usize, Range<u64>, &mut [u8]) -> Result<()> + 'a;

/// Where numbers lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) file: usize,
    /// In bytes.
    pub(super) start: u64,
    pub(super) float: Float,
}

/// A factor: the number of a row (or column) i and a rank k of an expert e is at `offset + e·expert_step + i·step + k·rank_step`.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) place: Place,
    pub(super) step: u64,
    pub(super) rank_step: u64,
    pub(super) expert_step: u64,
    pub(super) offset: u64,
}

/// γ·B·A over a weight of matrices, an expert's each, of `[rows, cols]`.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    /// The expert that the first is.
    pub(super) expert: u64,
    pub(super) rows: u64,
    pub(super) cols: u64,
    pub(super) rank: u64,
    pub(super) scale: f64,
    pub(super) left: Side,
    /// Ones without.
    pub(super) right: Option<Side>,
    /// DoRA's, of rows or of columns.
    pub(super) magnitude: Option<(Place, bool)>,
}

/// What becomes of a tensor.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Copy,
    Fold(Box<Delta>),
    /// Other numbers, in this dtype; copied as they are without.
    Replace(Place, Option<Float>),
    /// Some rows, sorted: which, and which of the others comes there.
    Rows(Vec<(u64, u64)>, Place),
}

/// A tensor of an output.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// Its bytes in the output.
    pub(super) to: Range<u64>,
    pub(super) dtype: Option<Float>,
    /// Bytes of an element.
    pub(super) size: u64,
    /// Bytes of a row.
    pub(super) row: u64,
    /// The base's tensor that it comes from: file and first byte.
    pub(super) from: Option<(usize, u64)>,
    pub(super) change: Change,
}

impl Made {
    fn len(&self) -> u64 {
        self.to.end - self.to.start
    }

    /// What is made together: ranges of bytes of the tensor, of about `most` bytes each, that begin where rows do.
    pub(super) fn pieces(&self, most: u64) -> Vec<Range<u64>> {
        let unit = match &self.change {
            Change::Copy | Change::Replace(..) => self.size.max(1),
            Change::Fold(_) | Change::Rows(..) => self.row.max(1),
        };
        let step = (most / unit).max(1) * unit;
        // no piece is of two experts
        let whole = match &self.change {
            Change::Fold(delta) => delta.rows * self.row,
            _ => self.len(),
        };
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.len() {
            let end = (at + step).min((at / whole + 1) * whole).min(self.len());
            found.push(at..end);
            at = end;
        }
        found
    }

    /// Make the bytes of a piece, into `work.out`. `factors`: what columns are multiplied by, where they have norms.
    pub(super) fn make(
        &self,
        piece: &Range<u64>,
        factors: Option<&[f64]>,
        work: &mut Work,
        read: &mut ReadAt<'_>,
        run: &dyn Fn(&mut Work) -> Result<()>,
    ) -> Result<()> {
        work.non_finite = 0;
        let count = length(piece.end - piece.start);
        match &self.change {
            Change::Copy => {
                resize(&mut work.out, count)?;
                self.base(piece, &mut work.out, read)
            }
            Change::Replace(place, None) => {
                resize(&mut work.out, count)?;
                read(place.file, place.start + piece.start..place.start + piece.end, &mut work.out)
            }
            Change::Replace(place, Some(float)) => {
                let size = place.float.bytes() as u64;
                let numbers = piece.start / self.size..piece.end / self.size;
                let bytes = place.start + numbers.start * size..place.start + numbers.end * size;
                resize(&mut work.base, length(bytes.end - bytes.start))?;
                read(place.file, bytes, &mut work.base)?;
                resize(&mut work.out, count)?;
                work.non_finite = converted(place.float, &work.base, *float, &mut work.out);
                Ok(())
            }
            Change::Rows(rows, place) => {
                resize(&mut work.out, count)?;
                self.base(piece, &mut work.out, read)?;
                let own = piece.start / self.row..piece.end / self.row;
                let float = self.dtype.expect("checked before");
                let from = self.row / self.size * place.float.bytes() as u64;
                for (row, source) in rows.iter().filter(|(row, _)| own.contains(row)) {
                    let at = place.start + source * from;
                    resize(&mut work.base, length(from))?;
                    read(place.file, at..at + from, &mut work.base)?;
                    let to = length((row - own.start) * self.row);
                    let out = &mut work.out[to..to + length(self.row)];
                    work.non_finite += converted(place.float, &work.base, float, out);
                }
                Ok(())
            }
            Change::Fold(delta) => {
                self.load(delta, piece, work, read)?;
                let first = piece.start / self.row % delta.rows.max(1);
                work.magnitude = match (&delta.magnitude, factors) {
                    (Some((place, true)), _) => {
                        let rows = first..first + (piece.end - piece.start) / self.row;
                        Magnitude::Rows(values(place, rows, &mut work.buffer, read)?)
                    }
                    (_, Some(factors)) => Magnitude::Columns(factors.to_vec()),
                    _ => Magnitude::None,
                };
                resize(&mut work.out, count)?;
                work.sums = None;
                run(work)
            }
        }
    }

    /// What each column is multiplied by, where columns have norms: the whole weight is read for it, row after row.
    pub(super) fn measure(
        &self,
        most: u64,
        work: &mut Work,
        read: &mut ReadAt<'_>,
        run: &dyn Fn(&mut Work) -> Result<()>,
    ) -> Result<Option<Vec<f64>>> {
        let Change::Fold(delta) = &self.change else { return Ok(None) };
        let Some((place, false)) = &delta.magnitude else { return Ok(None) };
        let mut sums = vec![0.0; length(delta.cols)];
        for piece in self.pieces(most) {
            self.load(delta, &piece, work, read)?;
            work.sums = Some(sums);
            run(work)?;
            sums = work.sums.take().expect("it was just put there");
        }
        let wanted = values(place, 0..delta.cols, &mut work.buffer, read)?;
        Ok(Some(sums.iter().zip(wanted).map(|(sum, wanted)| wanted / libm::sqrt(*sum)).collect()))
    }

    /// Whether its columns are to be measured.
    pub(super) fn is_measured(&self) -> bool {
        matches!(&self.change, Change::Fold(delta) if matches!(delta.magnitude, Some((_, false))))
    }

    fn base(&self, piece: &Range<u64>, out: &mut [u8], read: &mut ReadAt<'_>) -> Result<()> {
        let (file, start) = self.from.expect("what is not replaced comes from the base");
        read(file, start + piece.start..start + piece.end, out)
    }

    /// Read rows of the weight and what of the factors is for them.
    fn load(&self, delta: &Delta, piece: &Range<u64>, work: &mut Work, read: &mut ReadAt<'_>) -> Result<()> {
        let float = self.dtype.expect("checked before");
        let floats = [Some(&delta.left), delta.right.as_ref()].into_iter().flatten();
        work.float = float;
        work.scale = delta.scale;
        work.is_double = float == Float::F64 || floats.into_iter().any(|side| side.place.float == Float::F64);
        let rows = piece.start / self.row..piece.end / self.row;
        let expert = delta.expert + rows.start / delta.rows.max(1);
        let first = rows.start % delta.rows.max(1);
        let (count, cols, rank) = (length(rows.end - rows.start), length(delta.cols), length(delta.rank));
        work.shape(count, cols, rank)?;
        let mut buffer = core::mem::take(&mut work.buffer);
        let left = delta.left.each(expert, first, count, rank, &mut buffer, read, &mut |i, k, value| {
            work.set_left(i, k, value);
        });
        let right = match &delta.right {
            Some(right) => right.each(expert, 0, cols, rank, &mut buffer, read, &mut |j, k, value| {
                work.set_right(k, j, value);
            }),
            None => {
                work.set_right(0, 0, 1.0);
                Ok(())
            }
        };
        work.buffer = buffer;
        left.and(right)?;
        resize(&mut work.base, length(piece.end - piece.start))?;
        self.base(piece, &mut work.base, read)
    }
}

impl Side {
    /// Every number of some rows (or columns) of an expert.
    #[expect(clippy::too_many_arguments, reason = "a loop over two indexes")]
    fn each(
        &self,
        expert: u64,
        first: u64,
        count: usize,
        rank: usize,
        buffer: &mut Vec<u8>,
        read: &mut ReadAt<'_>,
        put: &mut dyn FnMut(usize, usize, f64),
    ) -> Result<()> {
        let Place { file, start, float } = self.place;
        let size = float.bytes();
        let at =
            |i: u64, k: u64| self.offset + expert * self.expert_step + i * self.step + k * self.rank_step;
        let (n, last) = (count as u64, first + count as u64 - 1);
        let mut span = |from: u64, to: u64, buffer: &mut Vec<u8>| {
            resize(buffer, length(to + 1 - from) * size)?;
            read(file, start + from * size as u64..start + (to + 1) * size as u64, buffer)
        };
        if self.step == 1 && self.rank_step != n && rank > 1 {
            for k in 0..rank {
                let begin = at(first, k as u64);
                span(begin, begin + n - 1, buffer)?;
                for (i, word) in buffer.chunks_exact(size).enumerate() {
                    put(i, k, float.value(word));
                }
            }
            return Ok(());
        }
        let begin = at(first, 0);
        span(begin, at(last, rank as u64 - 1), buffer)?;
        let rows = if self.step == 1 { 1 } else { count };
        if rows == 1 {
            // ranks are outermost: so they lie in the file
            for k in 0..rank {
                for i in 0..count {
                    let place = length(at(first + i as u64, k as u64) - begin) * size;
                    put(i, k, float.value(&buffer[place..place + size]));
                }
            }
        } else {
            for i in 0..count {
                for k in 0..rank {
                    let place = length(at(first + i as u64, k as u64) - begin) * size;
                    put(i, k, float.value(&buffer[place..place + size]));
                }
            }
        }
        Ok(())
    }
}

/// Some numbers in a row.
fn values(place: &Place, range: Range<u64>, buffer: &mut Vec<u8>, read: &mut ReadAt<'_>) -> Result<Vec<f64>> {
    let size = place.float.bytes() as u64;
    resize(buffer, length((range.end - range.start) * size))?;
    read(place.file, place.start + range.start * size..place.start + range.end * size, buffer)?;
    Ok(buffer.chunks_exact(place.float.bytes()).map(|word| place.float.value(word)).collect())
}

/// Numbers of one dtype in another, each rounded once; how many are not finite there.
fn converted(from: Float, bytes: &[u8], to: Float, out: &mut [u8]) -> u64 {
    let mut non_finite = 0;
    for (word, room) in bytes.chunks_exact(from.bytes()).zip(out.chunks_exact_mut(to.bytes())) {
        if from == to {
            room.copy_from_slice(word);
        } else {
            room.copy_from_slice(&crate::kernel::element::narrow_f64(to, from.value(word))[..to.bytes()]);
        }
        non_finite += u64::from(!to.value(room).is_finite());
    }
    non_finite
}

/// What is held in memory is counted by `usize`.
fn length(count: u64) -> usize {
    usize::try_from(count).expect("it is in memory")
}

/// Numbers that are not finite.
pub(super) fn not_finite(count: u64, tensor: &str) -> Error {
    let detail = format_count(count);
    Error::new(ErrorKind::NonFinite, detail).tensor(tensor).help(
        "the adapter is damaged or diverged, or the base's dtype cannot hold the sum; --allow-non-finite lets it through",
    )
}

fn format_count(count: u64) -> alloc::string::String {
    alloc::format!("has {count} values that are not finite once the adapter is folded in")
}
