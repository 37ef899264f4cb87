//! Tensors whose numbers do not lie side by side (transposed ones, columns of others, pieces in several files), read as if they did;
//! and matrices of which only the means of rows and columns are kept.
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
    /// Of a matrix of rank 1 the mean of all its numbers, as the bits of an f64: the pieces are then the means of its rows, and those of
    /// its columns.
    pub(crate) mean: Option<u64>,
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
        Self { range: 0..0, shape, size, pieces: Vec::from([piece]), mean: None }
    }

    /// A matrix of F32 of which the means of rows and columns lie there, in F32 too; `rows` are the bytes of the first.
    pub(crate) fn of_means(ranges: [&Range<u64>; 2], rows: &[u8]) -> Self {
        let shape = ranges.map(|range| (range.end - range.start) / F32).to_vec();
        let piece = |(range, len): (&Range<u64>, &u64)| {
            let (offsets, sizes) = (Vec::from([0]), Vec::from([*len]));
            Piece { file: None, start: range.start, offsets, sizes, steps: None }
        };
        let pieces = ranges.into_iter().zip(&shape).map(piece).collect();
        Self { range: 0..0, size: F32, pieces, mean: Some(mean(rows).to_bits()), shape }
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
        let from = start - self.range.start;
        match self.mean {
            Some(mean) => self.multiply(f64::from_bits(mean), from, into, &mut read),
            None => self.pieces.iter().try_for_each(|piece| self.fill(piece, from, into, &mut read)),
        }
    }

    /// Put bytes where [`View::read`] finds those from `start` on. Of numbers that lie in no order all between the first and the last is read
    /// and written again.
    pub(crate) fn write<E>(
        &self,
        start: u64,
        bytes: &[u8],
        mut read: impl FnMut(Option<usize>, u64, &mut [u8]) -> Result<(), E>,
        mut write: impl FnMut(Option<usize>, u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let from = start - self.range.start;
        let asked = from..from + bytes.len() as u64;
        for piece in &self.pieces {
            let runs = Runs::of(self, piece);
            let Some(lies) = runs.lies(&asked) else { continue };
            let mut there = vec![0; index(lies.end - lies.start)];
            if piece.steps.is_some() {
                read(piece.file, lies.start, &mut there)?;
            }
            for (part, at) in runs.within(&asked).map(|number| runs.wanted(number, &asked)) {
                let own = &bytes[index(part.start - from)..index(part.end - from)];
                let Some(steps) = &piece.steps else {
                    there[index(piece.start + at - lies.start)..][..own.len()].copy_from_slice(own);
                    continue;
                };
                for (number, word) in (at / self.size..).zip(own.chunks_exact(index(self.size))) {
                    let at = piece.offset(number, steps);
                    there[at..at + word.len()].copy_from_slice(word);
                }
            }
            write(piece.file, lies.start, &there)?;
        }
        Ok(())
    }

    /// What [`View::read`] reads for a range, in its order: of which file, and what of it.
    pub(crate) fn reads(&self, range: &Range<u64>) -> Vec<(Option<usize>, Range<u64>)> {
        let asked = range.start - self.range.start..range.end - self.range.start;
        if self.mean.is_some() {
            return self.factors(&asked).into();
        }
        let pieces = self.pieces.iter();
        pieces.filter_map(|piece| Some((piece.file, Runs::of(self, piece).lies(&asked)?))).collect()
    }

    /// Of which rows and columns the numbers of some bytes are made.
    fn factors(&self, asked: &Range<u64>) -> [(Option<usize>, Range<u64>); 2] {
        let (width, first, end) = (self.shape[1], asked.start / F32, asked.end.div_ceil(F32));
        let rows = first / width..end.div_ceil(width);
        let before = rows.start * width;
        let columns = if end - before <= width { first - before..end - before } else { 0..width };
        let lies = |(piece, range): (&Piece, Range<u64>)| {
            (piece.file, piece.start + range.start * F32..piece.start + range.end * F32)
        };
        [lies((&self.pieces[0], rows)), lies((&self.pieces[1], columns))]
    }

    /// The bytes from `from` on of a matrix of rank 1.
    fn multiply<E>(&self, mean: f64, from: u64, into: &mut [u8], read: &mut ReadAt<'_, E>) -> Result<(), E> {
        let end = from + into.len() as u64;
        if !(from.is_multiple_of(F32) && end.is_multiple_of(F32)) {
            // whoever reads piece by piece may begin within a number
            let first = from / F32 * F32;
            let mut whole = vec![0; index(end.next_multiple_of(F32) - first)];
            self.multiply(mean, first, &mut whole, read)?;
            into.copy_from_slice(&whole[index(from - first)..][..into.len()]);
            return Ok(());
        }
        let mut factors = [const { Vec::new() }; 2];
        for (bytes, (file, range)) in factors.iter_mut().zip(self.factors(&(from..end))) {
            bytes.resize(index(range.end - range.start), 0);
            read(file, range.start, bytes)?;
        }
        let [rows, columns] = factors;
        let is_one = rows.len() as u64 == F32;
        let mut skipped = if is_one { 0 } else { index(from % (self.shape[1] * F32)) };
        let mut left = into;
        for row in words(&rows) {
            let row = scaled(row, mean);
            let columns = &columns[skipped..];
            let (now, later) = left.split_at_mut(columns.len().min(left.len()));
            for (room, column) in now.chunks_exact_mut(4).zip(words(columns)) {
                room.copy_from_slice(&number(row, column).to_le_bytes());
            }
            (left, skipped) = (later, 0);
        }
        Ok(())
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

/// Bytes of a mean.
const F32: u64 = 4;

/// The numbers of bytes of F32.
#[inline(always)]
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

/// The mean of numbers of F32, none of them negative, added in their order; 1 where all are 0, as it is divided by.
pub(crate) fn mean(bytes: &[u8]) -> f64 {
    let sum = words(bytes).fold(0.0, |sum, value| sum + f64::from(value));
    #[expect(clippy::cast_precision_loss, reason = "no tensor has 2^53 rows")]
    let mean = sum / (bytes.len() / 4).max(1) as f64;
    if mean == 0.0 { 1.0 } else { mean }
}

/// The mean of a row over that of all numbers.
#[inline(always)]
pub(crate) fn scaled(row: f32, mean: f64) -> f64 {
    f64::from(row) / mean
}

/// A number of a matrix of rank 1, by what [`scaled`] gives of its row, and the mean of its column; rounded once more, to F32.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "this is the rounding")]
pub(crate) fn number(row: f64, column: f32) -> f32 {
    (row * f64::from(column)) as f32
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
        let view = View { range: 1000..1140, shape, size, pieces, mean: None };
        // written anywhere from numbers' begins on, it is found there again, and all else is as it was
        for (from, end) in [(0, 140), (0, 2), (26, 90), (56, 58), (100, 140), (62, 64)] {
            let there = core::cell::RefCell::new(files.clone());
            let bytes: Vec<u8> = (from..end).map(|at| 255 - u8::try_from(at).unwrap()).collect();
            let at_file = |file: Option<usize>, at: u64, len: usize| {
                let at = usize::try_from(at).unwrap();
                (file.unwrap(), at..at + len)
            };
            let read = |file, at, into: &mut [u8]| {
                let (file, range) = at_file(file, at, into.len());
                into.copy_from_slice(&there.borrow()[file][range]);
                Ok::<(), ()>(())
            };
            let write = |file, at, bytes: &[u8]| {
                let (file, range) = at_file(file, at, bytes.len());
                there.borrow_mut()[file][range].copy_from_slice(bytes);
                Ok(())
            };
            view.write(1000 + from as u64, &bytes, read, write).unwrap();
            let mut found = vec![0; 140];
            view.read(1000, &mut found, read).unwrap();
            let mut expected = whole.clone();
            expected[from..end].copy_from_slice(&bytes);
            assert_eq!(found, expected, "{from}..{end}");
            for (number, file) in there.borrow().iter().enumerate() {
                assert_eq!(file[..number], files[number][..number], "{from}..{end}");
            }
        }
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
    fn a_matrix_of_rank_1_comes_whole_and_in_any_parts() {
        // [[4, 1], [2, 1], [6, 2]] by the oracle: row means 2.5 1.5 4, column means 4 and 4/3, mean 8/3
        let means: [f32; 5] = [2.5, 1.5, 4.0, 4.0, 4.0 / 3.0];
        let file: Vec<u8> = means.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = View { range: 100..124, ..View::of_means([&(0..12), &(12..20)], &file[..12]) };
        let read = |start: u64, len: usize| {
            let mut bytes = vec![0; len];
            let mut reads = view.reads(&(start..start + len as u64)).into_iter();
            let read = |of: Option<usize>, at: u64, into: &mut [u8]| {
                let end = at + into.len() as u64;
                let asked = reads.next().unwrap();
                // whoever begins within a number reads all of it
                assert_eq!((of, at..end), asked);
                into.copy_from_slice(&file[index(at)..index(end)]);
                Ok::<(), ()>(())
            };
            view.read(start, &mut bytes, read).unwrap();
            bytes
        };
        let whole = read(100, 24);
        let values: Vec<f32> = words(&whole).collect();
        assert_eq!(values, [3.75, 1.25, 2.25, 0.75, 6.0, 2.0]);
        for from in 0..24 {
            for end in from + 1..=24 {
                assert_eq!(read(100 + from as u64, end - from), whole[from..end], "{from}..{end}");
            }
        }
        assert_eq!((mean(&[]), mean(&[0; 8])), (1.0, 1.0));
        assert_eq!(number(scaled(0.0, mean(&[0; 8])), 0.0), 0.0);
        // what is constant stays as it is, to the bit
        let constant = 0.1_f32.to_le_bytes().repeat(7);
        assert_eq!(number(scaled(0.1, mean(&constant)), 0.1), 0.1);
    }

    #[test]
    fn spans_reach_from_the_first_number_to_the_last() {
        assert_eq!(View::span(&[4, 3], &[2, 8], 2), Some(24));
        assert_eq!(View::span(&[4, 2], &[16, 4], 4), Some(56));
        assert_eq!(View::span(&[2], &[u64::MAX], 4), None);
    }
}
