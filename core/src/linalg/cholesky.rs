//! Cholesky factors of positive semidefinite matrices, with the largest pivot first.
//!
//! PᵀGP = L·Lᵀ up to a remainder of the order of the tolerance (Higham, *Accuracy and Stability*, §10.3). Rank-deficient
//! matrices stop early, so equal and dependent factors need no special case.

use alloc::vec;
use alloc::vec::Vec;

use super::matrix::Matrix;
use crate::error::Result;

/// A pivot below this share of the first is rounding noise.
const TOLERANCE: f64 = 4.0 * f64::EPSILON;

/// G ≈ LLᵀ.
pub(crate) struct Cholesky {
    /// `[n, rank]`, rows in the order of G: row `pivots[k]` is zero after column k.
    pub(crate) factor: Matrix,
    /// The rows taken as pivots, largest first.
    pub(crate) pivots: Vec<usize>,
}

/// Factor the symmetric, finite, positive semidefinite matrix `g`.
#[inline(always)]
pub(crate) fn cholesky(mut g: Matrix) -> Result<Cholesky> {
    let n = g.rows;
    // row k is column k of L
    let mut columns = Matrix::zero(n, n)?;
    let mut pivots = Vec::new();
    let mut is_done = vec![false; n];
    let mut least = 0.0;
    for k in 0..n {
        let free = (0..n).filter(|&j| !is_done[j]);
        let Some(pivot) = free.reduce(|best, j| if g.at(j, j) > g.at(best, best) { j } else { best }) else {
            break;
        };
        let value = g.at(pivot, pivot);
        if k == 0 {
            least = TOLERANCE * value;
        }
        if value <= least || value <= 0.0 {
            break;
        }
        let root = libm::sqrt(value);
        let column = columns.row_mut(k);
        column.iter_mut().zip(g.row(pivot)).for_each(|(l, g)| *l = g / root);
        pivots.iter().for_each(|&done: &usize| column[done] = 0.0);
        column[pivot] = root;
        is_done[pivot] = true;
        pivots.push(pivot);
        for j in (0..n).filter(|&j| !is_done[j]) {
            let factor = column[j];
            g.row_mut(j).iter_mut().zip(&*column).for_each(|(g, l)| *g -= factor * l);
        }
    }
    columns.rows = pivots.len();
    columns.values.truncate(pivots.len() * columns.stride);
    Ok(Cholesky { factor: columns.transposed()?, pivots })
}

impl Cholesky {
    /// The rows t with t·L = y at the pivots, for each row y of `ys`; t is zero off the pivots.
    #[inline(always)]
    pub(crate) fn solve(&self, ys: &Matrix, count: usize) -> Result<Matrix> {
        let mut result = Matrix::zero(count, self.factor.rows)?;
        let mut rest = Vec::new();
        for row in 0..count {
            rest.clear();
            rest.extend_from_slice(ys.row(row));
            for (k, &pivot) in self.pivots.iter().enumerate().rev() {
                let value = rest[k] / self.factor.at(pivot, k);
                result.set(row, pivot, value);
                rest.iter_mut().zip(self.factor.row(pivot)).for_each(|(y, l)| *y -= value * l);
            }
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::matrix::tests::random;

    #[test]
    fn rebuilds_and_finds_the_rank() {
        for (n, rank) in [(1, 1), (5, 2), (16, 16), (40, 13), (4, 0)] {
            let half = random(n, rank, 3);
            let g = half.times(&half.transposed().unwrap()).unwrap();
            let found = cholesky(g.clone()).unwrap();
            assert_eq!(found.pivots.len(), rank);
            let again = found.factor.times(&found.factor.transposed().unwrap()).unwrap();
            for (a, b) in g.values.iter().zip(&again.values) {
                assert!((a - b).abs() < 1e-13 * n as f64, "{a} against {b}");
            }
        }
    }

    #[test]
    fn solves_on_the_pivots() {
        let half = random(12, 5, 4);
        let found = cholesky(half.times(&half.transposed().unwrap()).unwrap()).unwrap();
        let wanted = random(3, 5, 9);
        let t = found.solve(&wanted, 3).unwrap();
        let again = t.times(&found.factor).unwrap();
        for (a, b) in wanted.values.iter().zip(&again.values) {
            assert!((a - b).abs() < 1e-11, "{a} against {b}");
        }
    }
}
