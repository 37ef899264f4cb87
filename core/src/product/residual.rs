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
use crate::kernel::gram::{BLOCK, LANES_F32, add_gram, mirror};
use crate::kernel::matrix::Matrix;

/// Squared norms of one module, so that modules can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Residual {
    /// ‖Σ wBA − B̄Ā‖².
    pub error: f64,
    /// ‖Σ wBA‖².
    pub norm: f64,
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
        Self { error: self.error + other.error, norm: self.norm + other.norm }
    }
}

/// The residual of one module, or of one of its experts; all factors of a side have the same rank.
#[inline(always)]
pub(super) fn residual(down: &Stack<'_>, up: &Stack<'_>, weights: &[f64]) -> Residual {
    let rank = down.factors[0].rank;
    let (gram_a, gram_b) = (spread(down, weights, rank), spread(up, weights, rank));
    // the last input is the reference, its place holds the means
    let last = weights.len() - 1;
    let c: Vec<f64> = weights[..last].iter().flat_map(|w| vec![*w; rank]).chain(vec![1.0; rank]).collect();
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
        norm = norm_of_sum(down, up, weights);
    }
    Residual { error: error.max(0.0), norm: norm.max(0.0) }
}

/// Below this share of the error, the norm is a small difference of large numbers.
const CANCELLED: f64 = 1e-2;

/// ‖Σ wBA‖² straight from the factors, in f64.
#[inline(always)]
fn norm_of_sum(down: &Stack<'_>, up: &Stack<'_>, weights: &[f64]) -> f64 {
    let (gram_a, gram_b) = (down.gram(), up.gram());
    let w: Vec<f64> =
        weights.iter().zip(&down.factors).flat_map(|(w, factor)| vec![*w; factor.rank]).collect();
    let mut norm = 0.0;
    for (p, wp) in w.iter().enumerate() {
        for (q, wq) in w.iter().enumerate() {
            norm += wp * wq * gram_a.at(p, q) * gram_b.at(p, q);
        }
    }
    norm
}

/// The Gram matrix of the differences (aᵢ on the lower side, bᵢ on the upper) and, in the place of the last, the means.
#[inline(always)]
fn spread(stack: &Stack<'_>, weights: &[f64], rank: usize) -> Matrix {
    let features = weights.len() * rank;
    let stride = features.next_multiple_of(LANES_F32);
    let mut sums = Matrix { rows: features, columns: features, stride, values: vec![0.0; features * stride] };
    let mut panel = vec![0.0; BLOCK * stride];
    let mut rounded = vec![0.0f32; BLOCK * stride];
    let mut mean = vec![0.0; rank];
    for start in (0..stack.points).step_by(BLOCK) {
        let count = BLOCK.min(stack.points - start);
        stack.read(start, count, &mut panel, stride);
        for (point, rounded) in
            panel.chunks_exact_mut(stride).zip(rounded.chunks_exact_mut(stride)).take(count)
        {
            let (others, reference) = point[..features].split_at_mut(features - rank);
            mean.fill(0.0);
            for (x, w) in others.chunks_exact_mut(rank).zip(weights) {
                for ((x, reference), mean) in x.iter_mut().zip(&*reference).zip(&mut mean) {
                    *x -= reference;
                    *mean += w * *x;
                }
            }
            if stack.side == Side::Down {
                for x in others.chunks_exact_mut(rank) {
                    x.iter_mut().zip(&mean).for_each(|(x, mean)| *x -= mean);
                }
            }
            reference.iter_mut().zip(&mean).for_each(|(x, mean)| *x += mean);
            round(&point[..features], rounded);
        }
        add_gram::<f32, LANES_F32>(&rounded[..count * stride], stride, &mut sums);
    }
    mirror(&mut sums);
    sums
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "differences round to f32 once, here")]
fn round(values: &[f64], out: &mut [f32]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = *value as f32);
}
