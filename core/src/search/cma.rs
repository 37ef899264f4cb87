//! CMA-ES (Hansen, *The CMA Evolution Strategy: A Tutorial*, arXiv 1604.00772), with positive weights of recombination.
//!
//! Genes are the weights of all checkpoints but the newest, which takes what is left to 1, in each part of the model. It begins at the metric's weights, or
//! the mean, with σ = ⅙. A step is y = C^½z with the symmetric root, which no sign of an eigenvector changes, and so C^−½ of
//! the mean step is the mean of z. The last trial is the mean of the distribution: the best of many noisy scores is too good by
//! chance, and the mean is not.

use alloc::vec;
use alloc::vec::Vec;

use super::ground::Ground;
use super::proposal::{Proposal, Proposer, anchored_each, bounded, genes_of};
use super::random::Random;
use crate::linalg::eigen::eigen;
use crate::linalg::matrix::Matrix;

/// The deviation of each gene in the beginning.
const SIGMA: f64 = 1.0 / 6.0;
/// A distribution narrower than this is a point.
const NARROW: f64 = 1e-9;

/// A distribution of genes.
pub(super) struct Cma {
    random: Random,
    /// How many checkpoints there are.
    count: usize,
    mean: Vec<f64>,
    sigma: f64,
    /// C, `[n, n]` by rows.
    covariance: Vec<f64>,
    path: Vec<f64>,
    sigma_path: Vec<f64>,
    generation: f64,
    /// z and y of those who were proposed last.
    young: Vec<[Vec<f64>; 2]>,
    is_over: bool,
}

impl Cma {
    pub(super) fn new(ground: &Ground, seed: u64) -> Self {
        let count = ground.count();
        let mean = genes_of(&ground.own().map_or_else(|| ground.uniform(), <[f64]>::to_vec), count);
        let n = mean.len();
        let mut covariance = vec![0.0; n * n];
        (0..n).for_each(|i| covariance[i * n + i] = 1.0);
        Self {
            random: Random::new(seed),
            count,
            mean,
            sigma: SIGMA,
            covariance,
            path: vec![0.0; n],
            sigma_path: vec![0.0; n],
            generation: 0.0,
            young: Vec::new(),
            is_over: false,
        }
    }

    /// C^½; none where it cannot be had.
    fn root(&self) -> Option<Vec<f64>> {
        let n = self.mean.len();
        let mut matrix = Matrix::zero(n, n).ok()?;
        for i in 0..n {
            (0..n).for_each(|j| matrix.set(i, j, self.covariance[i * n + j]));
        }
        let found = eigen(matrix).ok()?;
        let mut root = vec![0.0; n * n];
        for (k, value) in found.values.iter().enumerate() {
            let value = libm::sqrt(value.max(0.0));
            for i in 0..n {
                for j in 0..n {
                    root[i * n + j] += value * found.vectors.at(k, i) * found.vectors.at(k, j);
                }
            }
        }
        Some(root)
    }

    /// Learn from the costs of those proposed last.
    #[expect(clippy::cast_precision_loss, reason = "populations are small")]
    fn learn(&mut self, told: &[f64]) {
        let n = self.mean.len() as f64;
        let mut order: Vec<_> = (0..told.len()).filter(|&at| told[at].is_finite()).collect();
        order.sort_by(|&a, &b| told[a].total_cmp(&told[b]).then(a.cmp(&b)));
        let parents = (told.len() / 2).max(1);
        order.truncate(parents);
        if order.is_empty() {
            self.sigma /= 2.0; // nothing can be scored out there
            return;
        }
        let half = libm::log((told.len() as f64 + 1.0) / 2.0);
        let mut shares: Vec<_> = (1..=order.len()).map(|rank| half - libm::log(rank as f64)).collect();
        let sum = shares.iter().fold(0.0, |sum, share| sum + share);
        // one child alone has no rank to speak of
        shares.iter_mut().for_each(|share| *share = if sum > 0.0 { *share / sum } else { 1.0 });
        let effective = 1.0 / shares.iter().fold(0.0, |sum, share| sum + share * share);
        let of = |which: usize, gene: usize, young: &[[Vec<f64>; 2]]| {
            order.iter().zip(&shares).fold(0.0, |sum, (&at, share)| sum + share * young[at][which][gene])
        };
        let genes = self.mean.len();
        let z: Vec<_> = (0..genes).map(|gene| of(0, gene, &self.young)).collect();
        let y: Vec<_> = (0..genes).map(|gene| of(1, gene, &self.young)).collect();

        let c_path = (4.0 + effective / n) / (n + 4.0 + 2.0 * effective / n);
        let c_sigma = (effective + 2.0) / (n + effective + 5.0);
        let c_one = 2.0 / ((n + 1.3) * (n + 1.3) + effective);
        let c_mu = f64::min(
            1.0 - c_one,
            2.0 * (effective - 2.0 + 1.0 / effective) / ((n + 2.0) * (n + 2.0) + effective),
        );
        let damping = 1.0 + 2.0 * f64::max(0.0, libm::sqrt((effective - 1.0) / (n + 1.0)) - 1.0) + c_sigma;
        let usual = libm::sqrt(n) * (1.0 - 1.0 / (4.0 * n) + 1.0 / (21.0 * n * n));

        let step = libm::sqrt(c_sigma * (2.0 - c_sigma) * effective);
        for (path, z) in self.sigma_path.iter_mut().zip(&z) {
            *path = (1.0 - c_sigma) * *path + step * z;
        }
        let length = libm::sqrt(self.sigma_path.iter().fold(0.0, |sum, x| sum + x * x));
        self.generation += 1.0;
        let settled = libm::sqrt(1.0 - libm::pow(1.0 - c_sigma, 2.0 * self.generation));
        let is_held = length / settled < (1.4 + 2.0 / (n + 1.0)) * usual;
        let step = if is_held { libm::sqrt(c_path * (2.0 - c_path) * effective) } else { 0.0 };
        for (path, y) in self.path.iter_mut().zip(&y) {
            *path = (1.0 - c_path) * *path + step * y;
        }
        let lost = if is_held { 0.0 } else { c_one * c_path * (2.0 - c_path) };
        for i in 0..genes {
            for j in 0..genes {
                let old = (1.0 - c_one - c_mu + lost) * self.covariance[i * genes + j];
                let spread = order
                    .iter()
                    .zip(&shares)
                    .fold(0.0, |sum, (&at, share)| sum + share * self.young[at][1][i] * self.young[at][1][j]);
                self.covariance[i * genes + j] = old + c_one * self.path[i] * self.path[j] + c_mu * spread;
            }
        }
        for (mean, y) in self.mean.iter_mut().zip(&y) {
            *mean = bounded(*mean + self.sigma * y);
        }
        self.sigma *= libm::exp(f64::min(1.0, c_sigma / damping * (length / usual - 1.0)));
    }
}

impl Proposer for Cma {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a few"
    )]
    fn next(&mut self, told: &[f64], left: usize) -> Vec<Proposal> {
        if self.is_over {
            return Vec::new();
        }
        if !self.young.is_empty() {
            self.learn(told);
            self.young = Vec::new();
        }
        let usual = 4 + libm::floor(3.0 * libm::log(self.mean.len() as f64)) as usize;
        // a last generation with one parent would have that for its mean
        let children = if left - 1 < usual + 4 { left - 1 } else { usual };
        let is_narrow = self.sigma.is_nan() || self.sigma <= NARROW;
        let root = if children == 0 || is_narrow { None } else { self.root() };
        let Some(root) = root else {
            self.is_over = true;
            return vec![Proposal::new("cma mean", anchored_each(&self.mean, self.count))];
        };
        let n = self.mean.len();
        let mut proposals = Vec::new();
        for _ in 0..children {
            let z: Vec<_> = (0..n).map(|_| self.random.normal()).collect();
            let y: Vec<_> =
                root.chunks(n).map(|row| row.iter().zip(&z).fold(0.0, |sum, (c, z)| sum + c * z)).collect();
            let genes: Vec<_> =
                self.mean.iter().zip(&y).map(|(mean, y)| bounded(mean + self.sigma * y)).collect();
            proposals.push(Proposal::new("cma", anchored_each(&genes, self.count)));
            self.young.push([z, y]);
        }
        proposals
    }
}
