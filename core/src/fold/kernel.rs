//! Rows of a weight with what an adapter adds: W + γ·(B·A), and DoRA's magnitudes, rounded once.
//!
//! out\[i, j\] = round( f\[i\]·g\[j\] · ( w\[i, j\] + γ·Σₖ l\[i, k\]·r\[k, j\] ) ), summed in the order of k, in f32, or in f64 where the weight or a
//! factor is F64; f and g are 1 but for DoRA. Lanes hold different columns, so SIMD of any width gives the same bits.

use alloc::vec::Vec;
use core::ops::{Add, Mul};

use crate::dtype::Float;
use crate::error::Result;
use crate::kernel::element::{Bf16, Element, F8E4M3, F8E5M2, F16, F32, for_dtype, narrow_f64, round};
use crate::room::resize;

/// Columns per step of the inner loop: one vector of 512 bits of f32, or several narrower ones.
const LANES: usize = 16;
/// Rows per tile: as many sums in flight as hide the latency of an addition.
const TILE: usize = 4;
/// Partial sums of a row's squares.
const SUMS: usize = 8;

/// What one row or one column is divided by.
#[derive(Clone, Debug)]
pub(super) enum Magnitude {
    /// There are none.
    None,
    /// Of each of these rows, which are whole: its norm becomes this.
    Rows(Vec<f64>),
    /// What each column is multiplied by.
    Columns(Vec<f64>),
}

/// Rows of one weight, and what is done with them: buffers that are used again.
#[derive(Debug)]
pub struct Work {
    pub(super) float: Float,
    pub(super) cols: usize,
    pub(super) rank: usize,
    pub(super) scale: f64,
    /// The bytes of the rows, and of what they become.
    pub(super) base: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) magnitude: Magnitude,
    /// If the rows are only measured: the sum of squares of each column so far.
    pub(super) sums: Option<Vec<f64>>,
    pub(super) single: Numbers<f32>,
    pub(super) double: Numbers<f64>,
    pub(super) is_double: bool,
    /// Bytes of factors.
    pub(super) buffer: Vec<u8>,
    /// How many results are not finite.
    pub(super) non_finite: u64,
}

/// Factors as numbers.
#[derive(Debug, Default)]
pub(super) struct Numbers<T> {
    /// `[rows, rank]`.
    left: Vec<T>,
    /// `[columns / LANES, rank, LANES]`, zeros behind the last column.
    right: Vec<T>,
    /// A tile of rows, padded to whole lanes.
    tile: Vec<T>,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            float: Float::F32,
            cols: 0,
            rank: 0,
            scale: 0.0,
            base: Vec::new(),
            out: Vec::new(),
            magnitude: Magnitude::None,
            sums: None,
            single: Numbers::default(),
            double: Numbers::default(),
            is_double: false,
            buffer: Vec::new(),
            non_finite: 0,
        }
    }
}

impl Work {
    /// Do it. The loops are inlined into whatever calls this, so that a host may compile them for wider instructions.
    #[cfg_attr(target_family = "wasm", inline)]
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    pub fn run(&mut self) -> Result<()> {
        let Self { float, cols, rank, scale, base, out, magnitude, sums, .. } = self;
        let task = Task { float: *float, cols: *cols, rank: *rank, base, magnitude };
        let sums = sums.as_mut().map(Vec::as_mut_slice);
        self.non_finite = if self.is_double {
            task.run(&mut self.double, *scale, out, sums)?
        } else {
            task.run(&mut self.single, round(*scale), out, sums)?
        };
        Ok(())
    }

    /// Put a number of the left factor in its place.
    pub(super) fn set_left(&mut self, row: usize, k: usize, value: f64) {
        let at = row * self.rank + k;
        if self.is_double {
            self.double.left[at] = value;
        } else {
            self.single.left[at] = round(value);
        }
    }

    /// The same of the right one.
    pub(super) fn set_right(&mut self, k: usize, col: usize, value: f64) {
        let at = (col / LANES * self.rank + k) * LANES + col % LANES;
        if self.is_double {
            self.double.right[at] = value;
        } else {
            self.single.right[at] = round(value);
        }
    }

    /// Make room for the factors of so many rows.
    pub(super) fn shape(&mut self, rows: usize, cols: usize, rank: usize) -> Result<()> {
        (self.cols, self.rank) = (cols, rank);
        let stride = cols.next_multiple_of(LANES);
        if self.is_double {
            self.double.shape(rows, stride, rank)
        } else {
            self.single.shape(rows, stride, rank)
        }
    }
}

impl<T: Real> Numbers<T> {
    fn shape(&mut self, rows: usize, stride: usize, rank: usize) -> Result<()> {
        resize(&mut self.left, rows.saturating_mul(rank))?;
        self.right.clear();
        resize(&mut self.right, stride.saturating_mul(rank))?;
        resize(&mut self.tile, stride.saturating_mul(TILE))
    }
}

/// What does not change from row to row.
struct Task<'a> {
    float: Float,
    cols: usize,
    rank: usize,
    base: &'a [u8],
    magnitude: &'a Magnitude,
}

impl Task<'_> {
    #[inline(always)]
    fn run<T: Real>(
        &self,
        numbers: &mut Numbers<T>,
        scale: T,
        out: &mut [u8],
        mut sums: Option<&mut [f64]>,
    ) -> Result<u64> {
        let (size, stride) = (self.float.bytes(), self.cols.next_multiple_of(LANES));
        let row = self.cols * size;
        let Numbers { left, right, tile } = numbers;
        let mut non_finite = 0;
        if row == 0 {
            return Ok(0);
        }
        for (number, base) in self.base.chunks(TILE * row).enumerate() {
            let (first, rows) = (number * TILE, base.len() / row);
            for (values, bytes) in tile.chunks_exact_mut(stride).zip(base.chunks_exact(row)) {
                T::widen(self.float, bytes, &mut values[..self.cols]);
            }
            let left = &left[first * self.rank..(first + rows) * self.rank];
            if rows == TILE {
                add::<TILE, T>(left, right, &mut tile[..TILE * stride], scale, self.rank);
            } else {
                for (left, values) in left.chunks_exact(self.rank).zip(tile.chunks_exact_mut(stride)) {
                    add::<1, T>(left, right, values, scale, self.rank);
                }
            }
            if let Some(sums) = &mut sums {
                for values in tile.chunks_exact(stride).take(rows) {
                    for (sum, value) in sums.iter_mut().zip(values) {
                        let value: f64 = value.double();
                        *sum += value * value;
                    }
                }
                continue;
            }
            let out = &mut out[first * row..first * row + rows * row];
            for ((i, values), out) in tile.chunks_exact_mut(stride).enumerate().zip(out.chunks_exact_mut(row))
            {
                let values = &mut values[..self.cols];
                match self.magnitude {
                    Magnitude::None => {}
                    Magnitude::Rows(wanted) => {
                        let factor = T::of(wanted[first + i] / norm(values));
                        values.iter_mut().for_each(|value| *value = factor * *value);
                    }
                    Magnitude::Columns(factors) => {
                        for (value, factor) in values.iter_mut().zip(factors) {
                            *value = T::of(*factor) * *value;
                        }
                    }
                }
                non_finite += T::narrow(self.float, values, out);
            }
        }
        Ok(non_finite)
    }
}

/// ‖v‖, its squares summed in f64: lanes one after the other.
#[inline(always)]
fn norm<T: Real>(values: &[T]) -> f64 {
    let mut sums = [0.0; SUMS];
    for values in values.chunks(SUMS) {
        for (sum, value) in sums.iter_mut().zip(values) {
            let value = value.double();
            *sum += value * value;
        }
    }
    libm::sqrt(sums.iter().fold(0.0, |all, sum| all + sum))
}

/// Add γ·l·r to N rows.
#[inline(always)]
fn add<const N: usize, T: Real>(left: &[T], right: &[T], values: &mut [T], scale: T, rank: usize) {
    let stride = values.len() / N;
    for (start, panel) in (0..stride).step_by(LANES).zip(right.chunks_exact(rank * LANES)) {
        let mut sums = [[T::default(); LANES]; N];
        for (k, r) in panel.as_chunks::<LANES>().0.iter().enumerate() {
            for (t, sums) in sums.iter_mut().enumerate() {
                let l = left[t * rank + k];
                for (sum, r) in sums.iter_mut().zip(r) {
                    *sum = *sum + l * *r;
                }
            }
        }
        for (t, sums) in sums.iter().enumerate() {
            let values = &mut values[t * stride + start..t * stride + start + LANES];
            for (value, sum) in values.iter_mut().zip(sums) {
                *value = *value + scale * *sum;
            }
        }
    }
}

/// The numbers that are computed with.
pub(super) trait Real: Copy + Default + Add<Output = Self> + Mul<Output = Self> {
    fn of(value: f64) -> Self;
    fn double(self) -> f64;
    fn widen(float: Float, bytes: &[u8], values: &mut [Self]);
    /// Round; how many results are not finite.
    fn narrow(float: Float, values: &[Self], out: &mut [u8]) -> u64;
}

impl Real for f32 {
    #[inline(always)]
    fn of(value: f64) -> Self {
        round(value)
    }

    #[inline(always)]
    fn double(self) -> f64 {
        self.into()
    }

    #[inline(always)]
    fn widen(float: Float, bytes: &[u8], values: &mut [Self]) {
        #[inline(always)]
        fn all<E: Element>(bytes: &[u8], values: &mut [f32]) {
            for (value, word) in values.iter_mut().zip(E::split(bytes)) {
                *value = E::widen(E::read(word.as_ref()));
            }
        }
        for_dtype!(float, E => all::<E>(bytes, values));
    }

    #[inline(always)]
    fn narrow(float: Float, values: &[Self], out: &mut [u8]) -> u64 {
        #[inline(always)]
        fn all<E: Element>(values: &[f32], out: &mut [u8]) -> u64 {
            let mut non_finite = 0u32;
            for (value, word) in values.iter().zip(out.chunks_exact_mut(E::BYTES)) {
                non_finite += u32::from(value.to_bits() & 0x7fff_ffff >= E::OVERFLOWS);
                E::write(E::narrow(*value), word);
            }
            non_finite.into()
        }
        for_dtype!(float, E => all::<E>(values, out))
    }
}

impl Real for f64 {
    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn double(self) -> f64 {
        self
    }

    #[inline(always)]
    fn widen(float: Float, bytes: &[u8], values: &mut [Self]) {
        for (value, word) in values.iter_mut().zip(bytes.chunks_exact(float.bytes())) {
            *value = float.value(word);
        }
    }

    #[inline(always)]
    fn narrow(float: Float, values: &[Self], out: &mut [u8]) -> u64 {
        let mut non_finite = 0;
        for (value, word) in values.iter().zip(out.chunks_exact_mut(float.bytes())) {
            word.copy_from_slice(&narrow_f64(float, *value)[..float.bytes()]);
            non_finite += u64::from(!float.value(word).is_finite());
        }
        non_finite
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// The obvious loop.
    fn reference(w: &[f32], l: &[f32], r: &[f32], scale: f32, cols: usize, rank: usize) -> Vec<f32> {
        let mut out = w.to_vec();
        for (i, row) in out.chunks_exact_mut(cols).enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                let mut sum = 0.0;
                for k in 0..rank {
                    sum += l[i * rank + k] * r[k * cols + j];
                }
                *value += scale * sum;
            }
        }
        out
    }

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u16::try_from(state >> 16).unwrap()) / 65536.0 - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    fn work(float: Float, w: &[f32], l: &[f32], r: &[f32], cols: usize, rank: usize) -> Work {
        let rows = w.len() / cols;
        let mut work = Work { float, scale: 0.75, ..Work::default() };
        work.shape(rows, cols, rank).unwrap();
        (0..rows * rank).for_each(|at| work.set_left(at / rank, at % rank, l[at].into()));
        (0..rank * cols).for_each(|at| work.set_right(at / cols, at % cols, r[at].into()));
        for value in w {
            let mut word = [0; 8];
            crate::kernel::element::narrow(float, *value, &mut word[..float.bytes()]);
            work.base.extend_from_slice(&word[..float.bytes()]);
        }
        work.out = vec![0; work.base.len()];
        work
    }

    #[test]
    fn tiles_and_lanes_have_the_bits_of_the_plain_loop() {
        for (rows, cols, rank) in [(1, 1, 1), (4, 16, 8), (5, 17, 3), (9, 40, 5), (3, 15, 2)] {
            let (w, l, r) = (noise(rows * cols, 1), noise(rows * rank, 2), noise(rank * cols, 3));
            let mut work = work(Float::F32, &w, &l, &r, cols, rank);
            work.run().unwrap();
            let wanted = reference(&w, &l, &r, 0.75, cols, rank);
            let found: Vec<f32> =
                work.out.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
            assert_eq!(found, wanted, "{rows} {cols} {rank}");
            assert_eq!(work.non_finite, 0);
        }
    }

    #[test]
    fn what_a_dtype_cannot_hold_is_counted() {
        let mut work = work(Float::F16, &[65504.0, 1.0], &[1.0], &[200.0, 1.0], 2, 1);
        work.run().unwrap();
        assert_eq!(work.non_finite, 1);
        assert!((Float::F16.value(&work.out[2..]) - 1.75).abs() < 1e-12);
    }

    #[test]
    fn rows_and_columns_get_the_norms_that_dora_wants() {
        let (rows, cols, rank) = (6, 20, 2);
        let (w, l, r) = (noise(rows * cols, 4), noise(rows * rank, 5), noise(rank * cols, 6));
        let plain = reference(&w, &l, &r, 0.75, cols, rank);
        let of = |work: &Work| -> Vec<f64> {
            work.out.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word).into()).collect()
        };
        let mut by_rows = work(Float::F32, &w, &l, &r, cols, rank);
        by_rows.magnitude = Magnitude::Rows(vec![2.0; rows]);
        by_rows.run().unwrap();
        for row in of(&by_rows).chunks_exact(cols) {
            assert!((row.iter().map(|x| x * x).sum::<f64>() - 4.0).abs() < 1e-5);
        }
        let mut measured = work(Float::F32, &w, &l, &r, cols, rank);
        measured.sums = Some(vec![0.0; cols]);
        measured.run().unwrap();
        for (j, sum) in measured.sums.unwrap().iter().enumerate() {
            let wanted: f64 = (0..rows).map(|i| f64::from(plain[i * cols + j])).map(|x| x * x).sum();
            assert!((sum - wanted).abs() < 1e-12 * wanted);
        }
    }
}
