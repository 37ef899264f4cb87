//! Gram matrices XᵀX of tall panels: what the inner products of stacked factor rows come from.
//!
//! g\[p, q\] = Σ over blocks of 64 points ( Σᵢ x\[i, p\]·x\[i, q\] )
//!
//! Shapes: points `[n, stride]` → `[features, features]`. Within a block products and sums are in the type of the points
//! (f32 or f64), in the order of the points; blocks are added in f64. Lanes hold different (p, q), so SIMD of any width
//! gives the same bits.

use core::ops::{Add, Mul};

use super::matrix::{Matrix, WIDTH};

/// Points per block: with 64 features of f64 it fills a first-level cache.
pub(crate) const BLOCK: usize = 64;
/// Features of the first index per tile.
const TILE: usize = 4;
/// Features of the second index per tile, for f64 and for f32: one vector of 512 bits, or several narrower ones.
pub(crate) const LANES_F64: usize = WIDTH;
pub(crate) const LANES_F32: usize = 2 * WIDTH;

/// The obvious loop: never optimised, never removed.
#[cfg(test)]
fn reference<T: Real>(block: &[T], stride: usize, sums: &mut Matrix) {
    for p in 0..sums.columns {
        for q in 0..sums.columns {
            let mut sum = T::default();
            for point in block.chunks_exact(stride) {
                sum = sum + point[p] * point[q];
            }
            let total: f64 = sums.at(p, q) + sum.into();
            sums.set(p, q, total);
        }
    }
}

/// f32 or f64.
pub(crate) trait Real: Copy + Default + Add<Output = Self> + Mul<Output = Self> + Into<f64> {}
impl Real for f32 {}
impl Real for f64 {}

/// Add the Gram matrix of one block of points to the upper triangle of `sums`, by tiles that stay in registers.
///
/// `stride` is a multiple of `LANES` and so is the stride of `sums`; elements below the diagonal may be added to as well,
/// [`mirror`] sets them. Always inlined, so that a caller may compile it for a wider instruction set.
#[inline(always)]
pub(crate) fn add_gram<T: Real, const LANES: usize>(block: &[T], stride: usize, sums: &mut Matrix) {
    assert!(stride.is_multiple_of(LANES) && stride == sums.stride && sums.rows == sums.columns, "shapes fit");
    for p in (0..sums.rows).step_by(TILE) {
        for q in (p / LANES * LANES..stride).step_by(LANES) {
            // one name each: without link-time optimisation LLVM vectorises across the rows of an array, by gathers
            let [mut first, mut second, mut third, mut fourth] = [[T::default(); LANES]; TILE];
            for point in block.chunks_exact(stride) {
                let left: [T; TILE] = *point[p..].first_chunk().expect("the stride is a multiple of TILE");
                let right: [T; LANES] = *point[q..].first_chunk().expect("the stride is a multiple of LANES");
                add(&mut first, left[0], right);
                add(&mut second, left[1], right);
                add(&mut third, left[2], right);
                add(&mut fourth, left[3], right);
            }
            let tile = [first, second, third, fourth];
            for (i, row) in tile.into_iter().enumerate().take(sums.rows - p) {
                let more: [f64; LANES] = row.map(Into::into);
                for (sum, more) in sums.row_mut(p + i)[q..q + LANES].iter_mut().zip(more) {
                    *sum += more;
                }
            }
        }
    }
}

#[inline(always)]
fn add<T: Real, const LANES: usize>(sums: &mut [T; LANES], factor: T, values: [T; LANES]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = *sum + factor * value;
    }
}

/// Copy the upper triangle to the lower.
#[inline(always)]
pub(crate) fn mirror(sums: &mut Matrix) {
    for row in 1..sums.rows {
        for column in 0..row {
            let value = sums.at(column, row);
            sums.set(row, column, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::matrix::tests::noise;
    use alloc::vec::Vec;

    fn check<T: Real, const LANES: usize>(narrow: fn(f64) -> T) {
        for features in [1usize, 3, 4, 8, 15, 16, 17, 40] {
            let mut fast = Matrix::padded(features, features, LANES).unwrap();
            let stride = fast.stride;
            let mut slow = fast.clone();
            for n in [BLOCK, 1, 7, 0] {
                let points: Vec<T> = noise(n * stride, n as u64)
                    .into_iter()
                    .enumerate()
                    .map(|(i, x)| narrow(if i % stride < features { x } else { 0.0 }))
                    .collect();
                add_gram::<T, LANES>(&points, stride, &mut fast);
                reference(&points, stride, &mut slow);
            }
            mirror(&mut fast);
            assert_eq!(fast, slow, "{features} features");
        }
    }

    #[test]
    fn fast_equals_reference() {
        check::<f64, LANES_F64>(|x| x);
        #[expect(clippy::cast_possible_truncation, reason = "test values need not be exact")]
        check::<f32, LANES_F32>(|x| x as f32);
    }
}
