//! The best approximations of a sum of outer products, from Gram matrices alone: no m×n matrix is ever formed.
//!
//! D = Σⱼ cⱼ·bⱼaⱼᵀ, with the aⱼ the stacked rows of all A, the bⱼ the stacked columns of all B. From AAᵀ = LLᵀ, A = L·Q
//! with orthonormal rows Q, so DᵀD = Qᵀ·H·Q with the small H = Lᵀ(CBᵀBC)L; its eigenvectors yₖ and eigenvalues σₖ² give
//! the singular triples of D. The best rank-R approximation (Eckart, Young 1936), singular values split evenly:
//!
//! aₖ′ = √σₖ · yₖᵀL⁻¹A      bₖ′ = (BC·L·yₖ) / √σₖ      k < R
//!
//! Why squaring does no harm: pairs are first scaled to |aⱼ| = |cⱼbⱼ|, which changes no product but makes the Gram
//! matrices as well conditioned as the data allows; L⁻¹ is applied to the rows it came from, so Σₖ bₖ′aₖ′ᵀ = D·(projection)
//! holds to rounding whatever the condition; only directions below 10⁻⁸ of the largest get lost, and that is an error
//! below 10⁻⁷ in D. All in f64, in a fixed order.

use alloc::vec::Vec;

use super::cholesky::{Cholesky, cholesky};
use super::eigen::{Eigen, eigen};
use super::matrix::Matrix;
use crate::error::Result;

/// An energy below this share of the largest is rounding noise.
const NOISE: f64 = 16.0 * f64::EPSILON;

/// D, decomposed.
pub(crate) struct LowRank {
    /// What scales aⱼ, and bⱼ, so that they have one length.
    balance: Vec<(f64, f64)>,
    cholesky: Cholesky,
    eigen: Eigen,
}

impl LowRank {
    /// Decompose D from AAᵀ, BᵀB, both `[P, P]`, and the P numbers cⱼ.
    #[inline(always)]
    pub(crate) fn new(mut gram_a: Matrix, mut gram_b: Matrix, scales: &[f64]) -> Result<Self> {
        let balance: Vec<(f64, f64)> = scales
            .iter()
            .enumerate()
            .map(|(j, &c)| {
                let (a, b) = (gram_a.at(j, j), c * c * gram_b.at(j, j));
                if a > 0.0 && b > 0.0 {
                    let e = libm::sqrt(libm::sqrt(b / a));
                    (e, c / e)
                } else {
                    (0.0, 0.0)
                }
            })
            .collect();
        for (p, (a, b)) in balance.iter().enumerate() {
            gram_a.row_mut(p).iter_mut().zip(&balance).for_each(|(g, (e, _))| *g *= a * e);
            gram_b.row_mut(p).iter_mut().zip(&balance).for_each(|(g, (_, e))| *g *= b * e);
        }
        let cholesky = cholesky(gram_a)?;
        let h = cholesky.factor.transposed()?.times(&gram_b.times(&cholesky.factor)?)?;
        let mut eigen = eigen(h)?;
        let least = eigen.values.first().map_or(0.0, |largest| NOISE * largest);
        eigen.values.iter_mut().filter(|value| **value <= least).for_each(|value| *value = 0.0);
        Ok(Self { balance, cholesky, eigen })
    }

    /// The squares of the singular values of D, descending; as many as there are independent rows.
    pub(crate) fn energies(&self) -> &[f64] {
        &self.eigen.values
    }

    /// What makes the best factors of rank R from the stacks: A′ = (first)ᵀ·A, B′ = B·(second), both `[P, R]`. Rank beyond
    /// that of D is filled with zeros.
    #[inline(always)]
    pub(crate) fn maps(&self, rank: usize) -> Result<(Matrix, Matrix)> {
        let count = rank.min(self.eigen.values.iter().take_while(|energy| **energy > 0.0).count());
        let stacked = self.balance.len();
        let (mut for_a, mut for_b) = (Matrix::zero(stacked, rank)?, Matrix::zero(stacked, rank)?);
        let solved = self.cholesky.solve(&self.eigen.vectors, count)?;
        let images = self.cholesky.factor.times(&self.eigen.vectors.transposed()?)?;
        for k in 0..count {
            let root = libm::sqrt(libm::sqrt(self.eigen.values[k]));
            for (j, (a, b)) in self.balance.iter().enumerate() {
                for_a.set(j, k, root * solved.at(k, j) * a);
                for_b.set(j, k, images.at(j, k) / root * b);
            }
        }
        Ok((for_a, for_b))
    }
}

/// The smallest rank that keeps `share` of the sum of `energies`, which descend; at least 1.
pub(crate) fn rank_for(energies: &[f64], share: f64) -> usize {
    let total: f64 = energies.iter().rev().sum();
    let mut kept = 0.0;
    let enough = energies.iter().position(|energy| {
        kept += energy;
        kept >= share * total
    });
    enough.map_or(energies.len(), |at| at + 1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::matrix::tests::random;
    use alloc::vec;

    /// D by the definition, `[m, n]`, from A `[P, n]` and B `[m, P]`.
    fn dense(a: &Matrix, b: &Matrix, scales: &[f64]) -> Matrix {
        let mut scaled = a.clone();
        scales.iter().enumerate().for_each(|(j, c)| scaled.row_mut(j).iter_mut().for_each(|x| *x *= c));
        b.times(&scaled).unwrap()
    }

    fn norm(m: &Matrix) -> f64 {
        libm::sqrt(m.values.iter().map(|x| x * x).sum())
    }

    fn minus(a: &Matrix, b: &Matrix) -> Matrix {
        let mut difference = a.clone();
        difference.values.iter_mut().zip(&b.values).for_each(|(a, b)| *a -= b);
        difference
    }

    /// The approximation of rank R, its factors, and the energies.
    fn approximate(
        a: &Matrix,
        b: &Matrix,
        scales: &[f64],
        rank: usize,
    ) -> (Matrix, Matrix, Matrix, Vec<f64>) {
        let found = LowRank::new(
            a.times(&a.transposed().unwrap()).unwrap(),
            b.transposed().unwrap().times(b).unwrap(),
            scales,
        )
        .unwrap();
        let (for_a, for_b) = found.maps(rank).unwrap();
        let (a, b) = (for_a.transposed().unwrap().times(a).unwrap(), b.times(&for_b).unwrap());
        (b.times(&a).unwrap(), a, b, found.energies().to_vec())
    }

    /// Singular values squared, by the eigenvalues of the dense DᵀD or DDᵀ: an independent way, good to 1e-8 of the first.
    fn dense_energies(d: &Matrix) -> Vec<f64> {
        eigen(d.times(&d.transposed().unwrap()).unwrap()).unwrap().values
    }

    #[test]
    fn full_rank_is_exact_and_truncation_is_optimal() {
        for (m, n, stacked) in [(20, 30, 8), (40, 12, 9), (6, 50, 16), (33, 5, 4)] {
            let (a, b) = (random(stacked, n, 1), random(m, stacked, 2));
            let scales: Vec<f64> = (0..stacked).map(|j| 0.3 + 0.1 * j as f64).collect();
            let d = dense(&a, &b, &scales);
            let exact = dense_energies(&d);
            for rank in 1..=stacked + 1 {
                let (close, ..) = approximate(&a, &b, &scales, rank);
                let error = norm(&minus(&d, &close));
                let best = libm::sqrt(exact.iter().skip(rank).map(|energy| energy.max(0.0)).sum());
                assert!(error <= best + 1e-7 * norm(&d), "{m}×{n} rank {rank}: {error} against {best}");
            }
        }
    }

    #[test]
    fn singular_values_are_split_evenly_between_orthogonal_factors() {
        let (a, b) = (random(6, 30, 1), random(20, 6, 2));
        let (_, a, b, energies) = approximate(&a, &b, &[0.5; 6], 4);
        let (gram_a, gram_b) =
            (a.times(&a.transposed().unwrap()).unwrap(), b.transposed().unwrap().times(&b).unwrap());
        for (k, energy) in energies.iter().enumerate().take(4) {
            for l in 0..4 {
                let wanted = if k == l { libm::sqrt(*energy) } else { 0.0 };
                assert!((gram_a.at(k, l) - wanted).abs() < 1e-12 && (gram_b.at(k, l) - wanted).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn equal_dependent_zero_and_badly_scaled_factors_keep_their_accuracy() {
        let (r, n, m) = (4, 40, 24);
        let (a, b) = (random(r, n, 1), random(m, r, 2));
        for case in 0..5 {
            let (mut stack_a, mut stack_b) =
                (Matrix::zero(3 * r, n).unwrap(), Matrix::zero(m, 3 * r).unwrap());
            for (copy, seed) in [(0, 10), (1, 11), (2, 12)] {
                let (noise_a, noise_b) = (random(r, n, seed), random(m, r, 10 + seed));
                let apart = [0.0, 1e-4, 1e-8, 0.0, 0.1][case];
                for j in 0..r {
                    let skew = if case == 4 { libm::pow(1e4, j as f64 - 1.5) } else { 1.0 };
                    let row = copy * r + j;
                    for i in 0..n {
                        stack_a.set(row, i, (a.at(j, i) + apart * noise_a.at(j, i)) * skew);
                    }
                    for i in 0..m {
                        let value = b.at(i, j) + apart * noise_b.at(i, j);
                        stack_b.set(i, row, if case == 3 && copy == 1 { 0.0 } else { value / skew });
                    }
                }
            }
            let scales = [0.5, 0.2, 0.3].iter().flat_map(|w| vec![*w; r]).collect::<Vec<_>>();
            let d = dense(&stack_a, &stack_b, &scales);
            let exact = dense_energies(&d);
            for rank in [r, 3 * r] {
                let (close, ..) = approximate(&stack_a, &stack_b, &scales, rank);
                let error = norm(&minus(&d, &close)) / norm(&d);
                let best = libm::sqrt(exact.iter().skip(rank).map(|energy| energy.max(0.0)).sum()) / norm(&d);
                assert!(error <= best + 1e-7, "case {case}, rank {rank}: {error} against {best}");
            }
        }
    }

    #[test]
    fn nothing_gives_nothing() {
        let (close, _, _, energies) =
            approximate(&Matrix::zero(3, 10).unwrap(), &random(5, 3, 1), &[1.0; 3], 2);
        assert!(close.values.iter().all(|x| *x == 0.0) && energies.is_empty());
    }

    #[test]
    fn ranks_keep_their_share() {
        assert_eq!(rank_for(&[8.0, 1.0, 1.0, 0.0], 0.9), 2);
        assert_eq!(rank_for(&[8.0, 1.0, 1.0, 0.0], 0.91), 3);
        assert_eq!(rank_for(&[8.0, 1.0, 1.0, 0.0], 1.0), 3);
        assert_eq!(rank_for(&[0.0, 0.0], 0.9), 1);
        assert_eq!(rank_for(&[], 0.9), 1);
    }
}
