//! Tensors whose numbers do not lie side by side (transposed ones, columns of others, pieces in several files), read as if they did.
//!
//! Jobs read ranges. A view is given a range beyond the end of its file, where nothing lies; whoever reads for a job asks
//! [`Header::read`](crate::safetensors::Header::read), which puts the numbers of a view in order.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// The most bytes that a piece may span in its file whose numbers do not lie in order, for they are read at once.
pub(crate) const SPAN_LIMIT: u64 = 1 << 24;

/// A tensor that is made of pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Where jobs find it, beyond the end of the file.
    pub(crate) range: Range<u64>,
    /// The tensor's shape, or that of its numbers in a row.
    pub(crate) shape: Vec<u64>,
    /// Bytes of a number.
    pub(crate) size: u64,
    /// Invariant: they tile the shape.
    pub(crate) pieces: Vec<Piece>,
}

/// What reads bytes of a file from a place on, of another of the checkpoint's files if that is named.
type ReadAt<'r, E> = dyn FnMut(Option<usize>, u64, &mut [u8]) -> Result<(), E> + 'r;

/// A box of a tensor, and where its numbers lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Another of the checkpoint's files than that which the view is of.
    pub(crate) file: Option<usize>,
    /// Where its first number lies in the file.
    pub(crate) start: u64,
    /// Where the box begins in the tensor.
    pub(crate) offsets: Vec<u64>,
    pub(crate) sizes: Vec<u64>,
    /// The way from one number to the next in each dimension, in bytes; none where they lie in order.
    pub(crate) steps: Option<Vec<u64>>,
}

impl View {
    /// A tensor whose numbers lie in these steps, in bytes.
    pub(crate) fn strided(start: u64, shape: Vec<u64>, steps: Vec<u64>, size: u64) -> Self {
        let (offsets, sizes) = (vec![0; shape.len()], shape.clone());
        let piece = Piece { file: None, start, offsets, sizes, steps: Some(steps) };
        Self { range: 0..0, shape, size, pieces: Vec::from([piece]) }
    }

    /// The bytes between its first and its last number, both included; `None` beyond any file.
    pub(crate) fn span(shape: &[u64], steps: &[u64], size: u64) -> Option<u64> {
        shape
            .iter()
            .zip(steps)
            .try_fold(size, |sum, (dim, step)| sum.checked_add(dim.checked_sub(1)?.checked_mul(*step)?))
    }

    /// Bytes of the view from `start` of its range on, by what reads the files.
    pub(crate) fn read<E>(
        &self,
        start: u64,
        into: &mut [u8],
        mut read: impl FnMut(Option<usize>, u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pieces.iter().try_for_each(|piece| self.fill(piece, start - self.range.start, into, &mut read))
    }

    /// What [`View::read`] reads for a range, in its order: of which file, and what of it.
    pub(crate) fn reads(&self, range: &Range<u64>) -> impl Iterator<Item = (Option<usize>, Range<u64>)> {
        let asked = range.start - self.range.start..range.end - self.range.start;
        self.pieces.iter().filter_map(move |piece| Some((piece.file, Runs::of(self, piece).lies(&asked)?)))
    }

    /// What a piece has of the bytes from `from` of the tensor on.
    fn fill<E>(&self, piece: &Piece, from: u64, into: &mut [u8], read: &mut ReadAt<'_, E>) -> Result<(), E> {
        let runs = Runs::of(self, piece);
        let asked = from..from + into.len() as u64;
        let Some(lies) = runs.lies(&asked) else { return Ok(()) };
        let room = |part: &Range<u64>| index(part.start - from)..index(part.end - from);
        let within = runs.within(&asked);
        if piece.steps.is_none() && within.end - within.start == 1 {
            let (part, _) = runs.wanted(within.start, &asked);
            return read(piece.file, lies.start, &mut into[room(&part)]);
        }
        let mut bytes = vec![0; index(lies.end - lies.start)];
        read(piece.file, lies.start, &mut bytes)?;
        for (part, at) in within.map(|number| runs.wanted(number, &asked)) {
            let room = &mut into[room(&part)];
            let Some(steps) = &piece.steps else {
                room.copy_from_slice(&bytes[index(piece.start + at - lies.start)..][..room.len()]);
                continue;
            };
            for (number, room) in (at / self.size..).zip(room.chunks_exact_mut(index(self.size))) {
                let at = piece.offset(number, steps);
                room.copy_from_slice(&bytes[at..at + room.len()]);
            }
        }
        Ok(())
    }
}

/// How a piece lies in its tensor: runs of bytes that lie side by side in both.
struct Runs<'a> {
    view: &'a View,
    piece: &'a Piece,
    /// The first dimensions, which count the runs.
    outer: usize,
    /// Bytes of one.
    len: u64,
}

impl<'a> Runs<'a> {
    /// The last dimensions, which the piece fills, and one more are a run.
    fn of(view: &'a View, piece: &'a Piece) -> Self {
        let (mut outer, mut len) = (view.shape.len(), view.size);
        while outer > 0 {
            outer -= 1;
            len *= piece.sizes[outer];
            if piece.sizes[outer] != view.shape[outer] {
                break;
            }
        }
        Self { view, piece, outer, len }
    }

    /// Where a run begins in the tensor.
    fn place(&self, mut number: u64) -> u64 {
        let (mut at, mut step) = (0, self.view.size);
        for dim in (0..self.view.shape.len()).rev() {
            let mut index = self.piece.offsets[dim];
            if dim < self.outer {
                index += number % self.piece.sizes[dim];
                number /= self.piece.sizes[dim];
            }
            at += index * step;
            step *= self.view.shape[dim];
        }
        at
    }

    /// Which of them have bytes that are asked for.
    fn within(&self, asked: &Range<u64>) -> Range<u64> {
        let count = self.piece.sizes[..self.outer].iter().product();
        let start = first(count, |number| self.place(number) + self.len > asked.start);
        start..start.max(first(count, |number| self.place(number) >= asked.end))
    }

    /// What of a run is asked for: where it is in the tensor, and where it begins in the piece.
    fn wanted(&self, number: u64, asked: &Range<u64>) -> (Range<u64>, u64) {
        let at = self.place(number);
        let part = at.max(asked.start)..(at + self.len).min(asked.end);
        let begin = number * self.len + part.start - at;
        (part, begin)
    }

    /// What must be read of the piece's file for what is asked for, if it has any of that.
    fn lies(&self, asked: &Range<u64>) -> Option<Range<u64>> {
        let Range { start, end } = self.within(asked);
        if start == end || self.len == 0 {
            return None;
        }
        let piece = self.piece;
        if let Some(steps) = &piece.steps {
            let span = View::span(&piece.sizes, steps, self.view.size).expect("whoever made it checked this");
            return Some(piece.start..piece.start + span);
        }
        let (_, begin) = self.wanted(start, asked);
        let (last, at) = self.wanted(end - 1, asked);
        Some(piece.start + begin..piece.start + at + (last.end - last.start))
    }
}

impl Piece {
    /// Where a number lies within the span, the last dimension counting fastest.
    fn offset(&self, mut number: u64, steps: &[u64]) -> usize {
        let mut offset = 0;
        for (dim, step) in self.sizes.iter().zip(steps).rev() {
            offset += number % dim * step;
            number /= dim;
        }
        index(offset)
    }
}

/// The first number below `count` of which something holds that holds of all after it; `count` if of none.
fn first(count: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a job's bytes, or SPAN_LIMIT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_matrix_comes_row_by_row() {
        // 0 1 2 3 / 4 5 6 7 / 8 9 10 11, transposed
        let file: Vec<u8> = (0..24).collect();
        let view = View { range: 100..124, ..View::strided(0, [4, 3].into(), [2, 8].into(), 2) };
        let read = |_: Option<usize>, at: u64, into: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            into.copy_from_slice(&file[at..at + into.len()]);
            Ok::<(), ()>(())
        };
        let mut bytes = [0; 24];
        view.read(100, &mut bytes, read).unwrap();
        let numbers: Vec<u8> = bytes.iter().step_by(2).map(|byte| byte / 2).collect();
        assert_eq!(numbers, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        let mut middle = [0; 4];
        view.read(106, &mut middle, read).unwrap();
        assert_eq!(middle, [2, 3, 10, 11]);
    }

    #[test]
    fn pieces_of_several_files_come_together_from_any_place_on() {
        // 5 × 7 × 2 numbers of two bytes, cut by rows and columns; the third piece is transposed
        let (shape, size): (Vec<u64>, _) = ([5, 7, 2].into(), 2);
        let boxes =
            [([0, 0, 0], [2, 7, 2]), ([2, 0, 0], [3, 4, 2]), ([2, 4, 0], [3, 3, 1]), ([2, 4, 1], [3, 3, 1])];
        let whole: Vec<u8> = (0..140).collect();
        let mut files = Vec::new();
        let mut pieces = Vec::new();
        for (number, (offsets, sizes)) in boxes.into_iter().enumerate() {
            let mut file = vec![255; number];
            let [rows, columns, deep] = sizes;
            let take = |file: &mut Vec<u8>, row: u64, column: u64, last: u64| {
                let at = (((offsets[0] + row) * 7 + offsets[1] + column) * 2 + offsets[2] + last) * 2;
                file.extend(&whole[usize::try_from(at).unwrap()..][..2]);
            };
            if number == 2 {
                (0..columns).for_each(|column| (0..rows).for_each(|row| take(&mut file, row, column, 0)));
            } else {
                for row in 0..rows {
                    (0..columns)
                        .for_each(|column| (0..deep).for_each(|last| take(&mut file, row, column, last)));
                }
            }
            files.push(file);
            let steps = (number == 2).then(|| vec![2, 2 * rows, 2]);
            let (offsets, sizes) = (offsets.into(), sizes.into());
            pieces.push(Piece { file: Some(number), start: number as u64, offsets, sizes, steps });
        }
        let view = View { range: 1000..1140, shape, size, pieces };
        for from in 0..140 {
            for end in from..140 {
                let mut found = vec![0; end - from];
                let read = |file: Option<usize>, at: u64, into: &mut [u8]| {
                    let at = usize::try_from(at).unwrap();
                    into.copy_from_slice(&files[file.unwrap()][at..at + into.len()]);
                    Ok::<(), ()>(())
                };
                let aligned = |at: usize| at.is_multiple_of(2);
                if aligned(from) && aligned(end) {
                    view.read(1000 + from as u64, &mut found, read).unwrap();
                    assert_eq!(found, whole[from..end], "{from}..{end}");
                }
            }
        }
    }

    #[test]
    fn spans_reach_from_the_first_number_to_the_last() {
        assert_eq!(View::span(&[4, 3], &[2, 8], 2), Some(24));
        assert_eq!(View::span(&[4, 2], &[16, 4], 4), Some(56));
        assert_eq!(View::span(&[2], &[u64::MAX], 4), None);
    }
}
