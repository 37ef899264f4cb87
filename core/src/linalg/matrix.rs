//! Dense matrices in f64, small or a block of something tall, with one multiplication whose bits never depend on SIMD.
//!
//! Rows are padded with zeros to a multiple of [`WIDTH`] elements, so that every loop runs over whole vectors. Lanes hold
//! different results, never parts of one, so each result is a plain sum in the order of its index on any machine.

use alloc::vec::Vec;

use crate::error::Result;
use crate::room::zeros;

/// Elements per step of the inner loops: one vector of 512 bits, or several narrower ones.
pub(crate) const WIDTH: usize = 8;
/// Rows per tile: as many sums in flight as hide the latency of an addition.
const TILE: usize = 4;

/// A matrix by rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Invariant: `columns` rounded up to a multiple of [`WIDTH`], or of one that is larger.
    pub(crate) stride: usize,
    /// Invariant: `rows · stride` elements; those past `columns` of a row are zero.
    pub(crate) values: Vec<f64>,
}

impl Matrix {
    /// All zeros.
    ///
    /// # Errors
    /// Those of [`zeros`]: ranks and the number of inputs come from outside.
    #[inline(always)]
    pub(crate) fn zero(rows: usize, columns: usize) -> Result<Self> {
        Self::padded(rows, columns, WIDTH)
    }

    /// All zeros, with rows padded to a multiple of `lanes`.
    #[inline(always)]
    pub(crate) fn padded(rows: usize, columns: usize, lanes: usize) -> Result<Self> {
        let stride = columns.next_multiple_of(lanes);
        Ok(Self { rows, columns, stride, values: zeros(rows.saturating_mul(stride))? })
    }

    #[inline(always)]
    pub(crate) fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.stride + column]
    }

    #[inline(always)]
    pub(crate) fn set(&mut self, row: usize, column: usize, value: f64) {
        self.values[row * self.stride + column] = value;
    }

    /// One row with its padding.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.stride..(row + 1) * self.stride]
    }

    #[inline(always)]
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.stride..(row + 1) * self.stride]
    }

    #[inline(always)]
    pub(crate) fn transposed(&self) -> Result<Self> {
        let mut other = Self::zero(self.columns, self.rows)?;
        for row in 0..self.rows {
            for (column, value) in self.row(row)[..self.columns].iter().enumerate() {
                other.values[column * other.stride + row] = *value;
            }
        }
        Ok(other)
    }

    /// `self · other`; each element is summed in the order of the inner index.
    #[inline(always)]
    pub(crate) fn times(&self, other: &Self) -> Result<Self> {
        let mut result = Self::zero(self.rows, other.columns)?;
        multiply(&self.values, self.stride, other, &mut result.values);
        Ok(result)
    }
}

/// Y = X·T, each element summed in the order of the inner index.
///
/// Shapes: `x` is `[n, stride]` with at least `t.rows` columns in use, `t` is `[t.rows, c]`, `y` is `[n, t.stride]`.
#[cfg_attr(target_family = "wasm", inline)]
#[cfg_attr(not(target_family = "wasm"), inline(always))]
pub(crate) fn multiply(x: &[f64], stride: usize, t: &Matrix, y: &mut [f64]) {
    if t.stride == 0 || stride == 0 {
        return y.fill(0.0);
    }
    assert!(stride >= t.rows && x.len() / stride * t.stride == y.len(), "shapes fit");
    for (x, y) in x.chunks(TILE * stride).zip(y.chunks_mut(TILE * t.stride)) {
        let rows = y.len() / t.stride;
        for start in (0..t.stride).step_by(WIDTH) {
            let mut sums = [[0.0; WIDTH]; TILE];
            if rows == TILE {
                let (x0, rest) = x.split_at(stride);
                let (x1, rest) = rest.split_at(stride);
                let (x2, x3) = rest.split_at(stride);
                let points = x0.iter().zip(x1).zip(x2).zip(x3);
                for ((((a, b), c), d), t) in points.zip(t.values.chunks_exact(t.stride)) {
                    let t: &[f64; WIDTH] = t[start..].first_chunk().expect("rows are padded");
                    add(&mut sums[0], *a, t);
                    add(&mut sums[1], *b, t);
                    add(&mut sums[2], *c, t);
                    add(&mut sums[3], *d, t);
                }
            } else {
                for (x, sums) in x.chunks_exact(stride).zip(&mut sums) {
                    for (value, t) in x.iter().zip(t.values.chunks_exact(t.stride)) {
                        add(sums, *value, t[start..].first_chunk().expect("rows are padded"));
                    }
                }
            }
            for (y, sums) in y.chunks_exact_mut(t.stride).zip(&sums) {
                y[start..start + WIDTH].copy_from_slice(sums);
            }
        }
    }
}

#[inline(always)]
fn add(sums: &mut [f64; WIDTH], factor: f64, values: &[f64; WIDTH]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Values in −1…1 that look random.
    pub(crate) fn noise(n: usize, seed: u64) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    pub(crate) fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
        let mut matrix = Matrix::zero(rows, columns).unwrap();
        for (row, values) in noise(rows * columns, seed).chunks(columns.max(1)).enumerate() {
            matrix.row_mut(row)[..columns].copy_from_slice(values);
        }
        matrix
    }

    #[test]
    fn products_have_the_bits_of_the_plain_triple_loop() {
        for (rows, inner, columns) in [(1, 1, 1), (4, 8, 8), (5, 3, 9), (7, 17, 20), (64, 33, 16), (3, 5, 0)]
        {
            let (a, b) = (random(rows, inner, 1), random(inner, columns, 2));
            let product = a.times(&b).unwrap();
            for i in 0..rows {
                for j in 0..columns {
                    let plain = (0..inner).fold(0.0, |sum, k| sum + a.at(i, k) * b.at(k, j));
                    assert_eq!(product.at(i, j).to_bits(), plain.to_bits(), "{rows}×{inner}×{columns}");
                }
            }
        }
    }
}
