//! Numbers of an input seen in another order, and tensors put together of them.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Tensor;
use crate::kernel::element::{narrow, narrow_f64, widen};

/// The numbers of a tensor as rows and columns: the first dimension, and all others.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    /// Which of the adapter's files.
    pub(crate) file: usize,
    start: u64,
    pub(crate) dtype: Dtype,
    pub(crate) rows: u64,
    pub(crate) cols: u64,
    /// From one row, and from one column, to the next, in numbers.
    steps: (u64, u64),
    /// Which row comes where; all as they are without.
    order: Option<Vec<u64>>,
    /// The same of columns.
    columns: Option<Vec<u64>>,
    /// What each number is multiplied by.
    pub(crate) scale: f64,
}

impl Matrix {
    /// All of a tensor.
    pub(crate) fn of(file: usize, tensor: &Tensor) -> Self {
        let rows = tensor.shape.first().copied().unwrap_or(1);
        let cols = tensor.shape.iter().skip(1).product();
        let (start, dtype) = (tensor.range.start, tensor.dtype);
        Self { file, start, dtype, rows, cols, steps: (cols, 1), order: None, columns: None, scale: 1.0 }
    }

    /// Rows as columns.
    pub(crate) fn transposed(self) -> Self {
        let Self { file, start, dtype, rows, cols, steps, order, columns, scale } = self;
        let steps = (steps.1, steps.0);
        Self { file, start, dtype, rows: cols, cols: rows, steps, order: columns, columns: order, scale }
    }

    /// Some of the rows.
    pub(crate) fn part(mut self, rows: Range<u64>) -> Self {
        let (from, count) = (rows.start, rows.end - rows.start);
        match &mut self.order {
            Some(order) => {
                let place = |row: u64| usize::try_from(row).expect("the order is in memory");
                *order = order[place(from)..place(from + count)].to_vec();
            }
            None => self.start += from * self.steps.0 * self.size(),
        }
        Self { rows: count, ..self }
    }

    /// The rows in another order: row i is row `order[i]`.
    pub(crate) fn ordered(mut self, order: Vec<u64>) -> Self {
        assert_eq!(order.len() as u64, self.rows, "one place for each row");
        self.order = Some(match &self.order {
            None => order,
            Some(before) => {
                order.iter().map(|row| before[usize::try_from(*row).expect("it is a row")]).collect()
            }
        });
        self
    }

    /// All numbers times `by`.
    pub(crate) fn times(self, by: f64) -> Self {
        Self { scale: self.scale * by, ..self }
    }

    fn size(&self) -> u64 {
        (self.dtype.bitsize() as u64 / 8).max(1)
    }

    /// Whether a row is a range of the file, the next behind it.
    fn is_straight(&self) -> bool {
        self.order.is_none() && self.columns.is_none() && self.steps == (self.cols, 1)
    }

    /// The bytes of the file in which some of the rows lie.
    fn span(&self, rows: &Range<u64>) -> Range<u64> {
        let size = self.size();
        if self.rows == 0 || self.cols == 0 {
            return self.start..self.start;
        }
        let (first, last) = match &self.order {
            None => (rows.start, rows.end - 1),
            Some(order) => {
                let order = || order.iter().copied();
                (order().min().unwrap_or(0), order().max().unwrap_or(0))
            }
        };
        let right = match &self.columns {
            None => self.cols - 1,
            Some(columns) => columns.iter().copied().max().unwrap_or(0),
        };
        let end = last * self.steps.0 + right * self.steps.1 + 1;
        self.start + first * self.steps.0 * size..self.start + end * size
    }

    /// Rows in their order, side by side, of the bytes of [`Self::span`].
    fn gather(&self, rows: &Range<u64>, bytes: &[u8]) -> Vec<u8> {
        if self.is_straight() {
            return bytes.to_vec();
        }
        let size = self.size();
        let begin = (self.span(rows).start - self.start) / size;
        let mut gathered =
            Vec::with_capacity(usize::try_from((rows.end - rows.start) * self.cols * size).unwrap_or(0));
        for row in rows.clone() {
            let row =
                self.order.as_ref().map_or(row, |order| order[usize::try_from(row).expect("it is a row")]);
            for col in 0..self.cols {
                let place = |columns: &Vec<u64>| columns[usize::try_from(col).expect("it is a column")];
                let col = self.columns.as_ref().map_or(col, place);
                let at = (row * self.steps.0 + col * self.steps.1 - begin) * size;
                let at = usize::try_from(at).expect("it was read");
                gathered.extend_from_slice(&bytes[at..at + usize::try_from(size).expect("few")]);
            }
        }
        gathered
    }
}

/// A tensor to write.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    /// Parts of it with their first row and column; what none of them covers is zero.
    pub(crate) blocks: Vec<(u64, u64, Matrix)>,
    /// The one number that it is, an F32, where no input has it.
    pub(crate) number: Option<f32>,
}

/// So many bytes of a tensor are made at once, where its rows may be parted.
const PANEL: u64 = 1 << 22;

impl Made {
    /// Of one matrix.
    pub(crate) fn new(name: String, shape: Vec<u64>, matrix: Matrix) -> Self {
        Self { name, dtype: matrix.dtype, shape, blocks: vec![(0, 0, matrix)], number: None }
    }

    /// A number by itself.
    pub(crate) fn number(name: String, number: f32) -> Self {
        Self { name, dtype: Dtype::F32, shape: Vec::new(), blocks: Vec::new(), number: Some(number) }
    }

    /// The dtype that its numbers are written in.
    pub(crate) fn to(mut self, dtype: Option<Float>) -> Self {
        if let (Some(wanted), Some(_), None) = (dtype, Float::of(self.dtype), self.number) {
            self.dtype = wanted.dtype();
        }
        self
    }

    fn rows(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    fn cols(&self) -> u64 {
        self.shape.iter().skip(1).product()
    }

    pub(crate) fn size(&self) -> u64 {
        (self.dtype.bitsize() as u64 / 8).max(1)
    }

    /// Bytes of all of it.
    pub(crate) fn len(&self) -> u64 {
        self.rows() * self.cols() * self.size()
    }

    /// The rows that are made together, and where their bytes begin in it.
    pub(crate) fn panels(&self) -> Vec<(Range<u64>, u64)> {
        let row = self.cols() * self.size();
        let is_parted = self.blocks.iter().all(|(.., block)| block.is_straight());
        let many = if is_parted && row > 0 { (PANEL / row).max(1) } else { self.rows().max(1) };
        let starts = (0..self.rows()).step_by(usize::try_from(many).unwrap_or(usize::MAX));
        starts.map(|from| (from..(from + many).min(self.rows()), from * row)).collect()
    }

    /// The bytes of some rows; `read` gives those of a file.
    ///
    /// # Errors
    /// Those of `read`, and [`ErrorKind::Overflow`] for numbers that the dtype cannot hold.
    pub(crate) fn make(
        &self,
        rows: &Range<u64>,
        read: &mut dyn FnMut(usize, Range<u64>) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        if let Some(number) = self.number {
            return Ok(number.to_le_bytes().to_vec());
        }
        let place = |number: u64| usize::try_from(number).expect("it is in memory");
        let row = self.cols() * self.size();
        let mut out = vec![0; place((rows.end - rows.start) * row)];
        for (top, left, block) in &self.blocks {
            let own = rows.start.max(*top)..rows.end.min(top + block.rows);
            if own.is_empty() || block.cols == 0 {
                continue;
            }
            let inner = own.start - top..own.end - top;
            let numbers = block.gather(&inner, &read(block.file, block.span(&inner))?);
            let numbers = self.converted(block, numbers)?;
            let width = place(block.cols * self.size());
            for (number, bytes) in (own.start..).zip(numbers.chunks_exact(width)) {
                let at = place((number - rows.start) * row + left * self.size());
                out[at..at + width].copy_from_slice(bytes);
            }
        }
        Ok(out)
    }

    fn converted(&self, block: &Matrix, bytes: Vec<u8>) -> Result<Vec<u8>> {
        #[expect(clippy::float_cmp, reason = "exactly one changes nothing")]
        let is_same = block.dtype == self.dtype && block.scale == 1.0;
        let (Some(from), Some(to)) = (Float::of(block.dtype), Float::of(self.dtype)) else {
            return Ok(bytes);
        };
        if is_same {
            return Ok(bytes);
        }
        let mut out = vec![0; bytes.len() / from.bytes() * to.bytes()];
        let mut unfit = 0;
        #[expect(clippy::cast_possible_truncation, reason = "scales are small, and rounded once")]
        let scale = block.scale as f32;
        for (number, room) in bytes.chunks_exact(from.bytes()).zip(out.chunks_exact_mut(to.bytes())) {
            // one product in f32, rounded once; f64 has its own
            if from == Float::F64 || to == Float::F64 {
                room.copy_from_slice(&narrow_f64(to, from.value(number) * block.scale)[..to.bytes()]);
            } else {
                narrow(to, widen(from, number) * scale, room);
            }
            unfit += u64::from(!to.value(room).is_finite());
        }
        if unfit > 0 {
            let detail = format!("has {unfit} values that are not finite, or too large for {}", self.dtype);
            return Err(Error::new(ErrorKind::Overflow, detail)
                .tensor(&self.name)
                .help("ask for a wider dtype: --dtype f32"));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[u64]) -> Tensor {
        let len = shape.iter().product::<u64>() * 4;
        Tensor { name: "t".into(), dtype: Dtype::F32, shape: shape.into(), range: 8..8 + len }
    }

    fn made(made: &Made) -> Vec<f32> {
        // a file of the numbers 0, 1, 2, … after eight bytes
        let file: Vec<u8> =
            [0; 8].into_iter().chain((0..64u16).flat_map(|n| f32::from(n).to_le_bytes())).collect();
        let mut read = |_, range: Range<u64>| {
            let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
            Ok(file[start..end].to_vec())
        };
        let mut bytes = Vec::new();
        for (rows, at) in made.panels() {
            assert_eq!(at, bytes.len() as u64);
            bytes.extend(made.make(&rows, &mut read).unwrap());
        }
        bytes.chunks_exact(4).map(|word| f32::from_le_bytes(*word.first_chunk().unwrap())).collect()
    }

    #[test]
    fn matrices_are_turned_parted_and_put_in_order() {
        let matrix = || Matrix::of(0, &tensor(&[3, 2]));
        let one = |matrix: Matrix| {
            let shape = vec![matrix.rows, matrix.cols];
            made(&Made::new("x".into(), shape, matrix))
        };
        assert_eq!(one(matrix()), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(one(matrix().transposed()), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
        assert_eq!(one(matrix().part(1..3)), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(one(matrix().ordered(vec![2, 0, 1])), [4.0, 5.0, 0.0, 1.0, 2.0, 3.0]);
        assert_eq!(one(matrix().ordered(vec![2, 0, 1]).transposed()), [4.0, 0.0, 2.0, 5.0, 1.0, 3.0]);
        assert_eq!(one(matrix().ordered(vec![2, 0, 1]).part(1..2)), [0.0, 1.0]);
        assert_eq!(one(matrix().transposed().part(1..2).times(0.5)), [0.5, 1.5, 2.5]);
    }

    #[test]
    fn blocks_lie_in_zeros() {
        let block = |rows: Range<u64>| Matrix::of(0, &tensor(&[2, 1])).part(rows);
        let blocks = vec![(0, 0, block(0..2)), (2, 1, block(1..2))];
        let all = Made { name: "x".into(), dtype: Dtype::F32, shape: vec![3, 2], blocks, number: None };
        assert_eq!(made(&all), [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn what_a_dtype_cannot_hold_is_refused() {
        let matrix = Matrix::of(0, &tensor(&[2, 1])).times(1e6);
        let all = Made::new("x".into(), vec![2, 1], matrix).to(Some(Float::F16));
        let mut read = |_, _: Range<u64>| Ok([0.0f32, 1.0].iter().flat_map(|it| it.to_le_bytes()).collect());
        let error = all.make(&(0..2), &mut read).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overflow);
    }
}
