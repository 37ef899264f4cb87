//! What proposers share: what they propose, how they are asked, and the vectors that many of them make.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// Weights to try, and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) by: String,
    pub(super) weights: Vec<f64>,
}

impl Proposal {
    pub(super) fn new(by: impl Into<String>, weights: Vec<f64>) -> Self {
        Self { by: by.into(), weights }
    }
}

/// Who proposes.
pub(super) trait Proposer {
    /// Weights to try next, none when there is nothing left to try. `told` has one cost for each proposal of before: the score,
    /// or its negative where higher is better, so that lower costs are better; infinite where there is none. At most `left`
    /// new weights will be tried; what is proposed beyond is not, and nothing is asked any more.
    fn next(&mut self, told: &[f64], left: usize) -> Vec<Proposal>;

    /// Weights that may come after those of now, the likeliest first, at most so many: hosts merge them in the same pass.
    fn ahead(&self, most: usize) -> Vec<Vec<f64>> {
        let _ = most;
        Vec::new()
    }
}

/// A proposer at its beginning, and why it was chosen if it chose itself.
pub(super) struct Begun {
    pub(super) proposer: Box<dyn Proposer>,
    pub(super) reason: Option<String>,
}

impl Begun {
    pub(super) fn plain(proposer: impl Proposer + 'static) -> Self {
        Self { proposer: Box::new(proposer), reason: None }
    }
}

/// All weight on one of `count`.
pub(super) fn single(count: usize, at: usize) -> Vec<f64> {
    let mut weights = vec![0.0; count];
    weights[at] = 1.0;
    weights
}

/// The plain mean of those at these places.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 checkpoints")]
pub(super) fn mean_of(count: usize, members: &[usize]) -> Vec<f64> {
    let mut weights = vec![0.0; count];
    members.iter().for_each(|&at| weights[at] = 1.0 / members.len() as f64);
    weights
}

/// Weights of free genes, one for each checkpoint but the newest, which takes what is left to 1: the sum is 1 without a
/// division, and weights may be negative.
pub(super) fn anchored(genes: &[f64]) -> Vec<f64> {
    let sum = genes.iter().fold(0.0, |sum, gene| sum + gene);
    genes.iter().copied().chain([1.0 - sum]).collect()
}

/// The same of several parts of the model, each with genes for so many checkpoints.
pub(super) fn anchored_each(genes: &[f64], count: usize) -> Vec<f64> {
    genes.chunks(count - 1).flat_map(anchored).collect()
}

/// The genes of such weights.
pub(super) fn genes_of(weights: &[f64], count: usize) -> Vec<f64> {
    weights.chunks(count).flat_map(|part| part[..count - 1].iter().copied()).collect()
}

/// Genes stay within −2 … 2.
pub(super) const BOUND: f64 = 2.0;

/// A gene within its bounds.
pub(super) fn bounded(gene: f64) -> f64 {
    gene.clamp(-BOUND, BOUND)
}
