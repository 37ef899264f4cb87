//! Sweep: weights by formulas, all at once.

use alloc::vec::Vec;

use super::ground::Ground;
use super::proposal::{Proposal, Proposer};

/// Formulas that are still to be tried.
pub(super) struct Sweep {
    formulas: Vec<Proposal>,
}

impl Sweep {
    pub(super) fn new(ground: &Ground) -> Self {
        Self { formulas: ground.formulas() }
    }
}

impl Proposer for Sweep {
    fn next(&mut self, _: &[f64], _: usize) -> Vec<Proposal> {
        core::mem::take(&mut self.formulas)
    }
}
