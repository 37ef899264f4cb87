//! How far the average of factors is from the average of products, exactly and without forming either.
//!
//! Σ wᵢBᵢAᵢ − B̄Ā = Σᵢ wᵢ(Bᵢ − B₀)(Aᵢ − Ā)        Σw = 1, B̄ = ΣwB, Ā = ΣwA, any reference input 0
//!
//! because the aᵢ = Aᵢ − Ā sum to zero under the weights. All is differences, so nothing cancels however close the inputs
//! are, and a frozen factor gives exactly 0. With bᵢ = Bᵢ − B₀ and the means as one more row, both norms come out of two
//! Gram matrices: ‖Σⱼ cⱼbⱼaⱼᵀ‖² = Σ_pq c_p c_q ⟨b_p, b_q⟩⟨a_p, a_q⟩. A scale γ common to all inputs cancels in the ratio.
//! Means and differences are taken in f64 and rounded once to f32; products sum in f32 over blocks, blocks in f64.

use alloc::vec;
use alloc::vec::Vec;

use super::panel::{Side, Stack};
use crate::error::Result;
use crate::linalg::gram::{BLOCK, LANES_F32, add_gram, mirror};
use crate::linalg::matrix::Matrix;
use crate::room::zeros;

/// Squared norms of one module, so that modules can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Residual {
    /// ‖Σ wBA − B̄Ā‖².
    pub error: f64,
    /// ‖Σ wBA‖².
    pub norm: f64,
    /// Where they are estimates: the variance of the error, the covariance of both, and the variance of the norm.
    pub noise: [f64; 3],
}

impl Residual {
    /// The relative error ‖Σ wBA − B̄Ā‖ / ‖Σ wBA‖; 0 if there is neither.
    #[must_use]
    pub fn relative(self) -> f64 {
        if self.error == 0.0 { 0.0 } else { libm::sqrt(self.error / self.norm) }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let noise = core::array::from_fn(|i| self.noise[i] + other.noise[i]);
        Self { error: self.error + other.error, norm: self.norm + other.norm, noise }
    }

    /// With both norms times `factor`.
    #[must_use]
    pub(super) fn times(self, factor: f64) -> Self {
        let noise = self.noise.map(|noise| factor * factor * noise);
        Self { error: factor * self.error, norm: factor * self.norm, noise }
    }

    /// The standard error of [`Self::relative`]; 0 of what is exact.
    #[must_use]
    pub fn standard_error(self) -> f64 {
        if self.error == 0.0 {
            return 0.0;
        }
        let [error, both, norm] = self.noise;
        // of ½ ln(error / norm), to the first order
        let variance = error / self.error / self.error - 2.0 * both / self.error / self.norm
            + norm / self.norm / self.norm;
        0.5 * self.relative() * libm::sqrt(variance.max(0.0))
    }
}

/// The residual from the finished Gram matrices of both sides; `norm` gives ‖Σ wBA‖² some other way, when asked.
#[inline(always)]
pub(super) fn residual(
    (gram_a, gram_b): (&Matrix, &Matrix),
    weights: &[f64],
    norm_of_sum: impl FnOnce() -> Result<f64>,
) -> Result<Residual> {
    let rank = gram_a.rows / weights.len();
    // the last input is the reference, its place holds the means
    let last = weights.len() - 1;
    let mut c = per_row(&weights[..last], rank);
    c.resize(gram_a.rows, 1.0);
    let (mut error, mut across, mut mean) = (0.0, 0.0, 0.0);
    let differences = last * rank;
    for (p, cp) in c.iter().enumerate() {
        for (q, cq) in c.iter().enumerate() {
            let product = cp * cq * gram_a.at(p, q) * gram_b.at(p, q);
            match (p < differences, q < differences) {
                (true, true) => error += product,
                (false, false) => mean += product,
                _ => across += product,
            }
        }
    }
    let mut norm = error + across + mean;
    if norm < CANCELLED * error {
        norm = norm_of_sum()?;
    }
    Ok(Residual { error: error.max(0.0), norm: norm.max(0.0), noise: [0.0; 3] })
}

/// Below this share of the error, the norm is a small difference of large numbers.
const CANCELLED: f64 = 1e-2;

/// Σ_pq w_p w_q ⟨b_p, b_q⟩⟨a_p, a_q⟩ of the factors as they are.
pub(super) fn norm_of_sum(gram_a: &Matrix, gram_b: &Matrix, weights: &[f64]) -> f64 {
    let rank = gram_a.rows / weights.len();
    let w = per_row(weights, rank);
    let row = |p: usize| w.iter().enumerate().map(move |(q, wq)| wq * gram_a.at(p, q) * gram_b.at(p, q));
    w.iter().enumerate().map(|(p, wp)| wp * row(p).sum::<f64>()).sum()
}

/// The weight of each stacked row.
fn per_row(weights: &[f64], rank: usize) -> Vec<f64> {
    let mut rows = Vec::with_capacity(weights.len() * rank);
    weights.iter().for_each(|weight| rows.resize(rows.len() + rank, *weight));
    rows
}

/// The Gram matrix of the differences (aᵢ on the lower side, bᵢ on the upper) and, in the place of the last, the means.
pub(super) struct Spread<'a> {
    weights: &'a [f64],
    sums: Matrix,
    panel: Vec<f64>,
    rounded: Vec<f32>,
    mean: Vec<f64>,
}

impl<'a> Spread<'a> {
    pub(super) fn new(weights: &'a [f64], rank: usize) -> Result<Self> {
        let features = weights.len() * rank;
        let sums = Matrix::padded(features, features, LANES_F32)?;
        let panel = zeros(BLOCK * sums.stride)?;
        let rounded = zeros(BLOCK * sums.stride)?;
        Ok(Self { weights, sums, panel, rounded, mean: vec![0.0; rank] })
    }

    /// Take the next points, a multiple of [`BLOCK`] but for the last.
    #[cfg_attr(target_family = "wasm", inline)]
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    pub(super) fn add(&mut self, stack: &Stack<'_>) {
        let (stride, features, rank) = (self.sums.stride, self.sums.rows, self.mean.len());
        for start in (0..stack.points).step_by(BLOCK) {
            let count = BLOCK.min(stack.points - start);
            stack.read(start, count, &mut self.panel, stride);
            let points = self.panel.chunks_exact_mut(stride).zip(self.rounded.chunks_exact_mut(stride));
            for (point, rounded) in points.take(count) {
                let (others, reference) = point[..features].split_at_mut(features - rank);
                self.mean.fill(0.0);
                for (x, w) in others.chunks_exact_mut(rank).zip(self.weights) {
                    for ((x, reference), mean) in x.iter_mut().zip(&*reference).zip(&mut self.mean) {
                        *x -= reference;
                        *mean += w * *x;
                    }
                }
                if stack.side == Side::Down {
                    for x in others.chunks_exact_mut(rank) {
                        x.iter_mut().zip(&self.mean).for_each(|(x, mean)| *x -= mean);
                    }
                }
                reference.iter_mut().zip(&self.mean).for_each(|(x, mean)| *x += mean);
                round(&point[..features], rounded);
            }
            add_gram::<f32, LANES_F32>(&self.rounded[..count * stride], stride, &mut self.sums);
        }
    }

    #[inline(always)]
    pub(super) fn finish(mut self) -> Matrix {
        mirror(&mut self.sums);
        self.sums
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "differences round to f32 once, here")]
fn round(values: &[f64], out: &mut [f32]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = *value as f32);
}
