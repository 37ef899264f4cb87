//! The method that is taken unless one is named, by how many checkpoints there are and how many trials are paid for, and why.
//!
//! On a real run (`docs/search.md`) weights by the metric were as good as many trials of any search, and no search from the plain mean
//! beat one from there. So formulas come first, and evolution goes on from the best of them.

use alloc::format;
use alloc::vec::Vec;

use super::evolution::Evolution;
use super::ground::Ground;
use super::line::Line;
use super::proposal::{Begun, Proposal, Proposer};
use super::sweep::Sweep;
use crate::error::Result;

/// So many trials of formulas.
const FORMULAS: usize = 20;
/// Evolution needs at least so many trials after them to be more than luck: two rounds.
const ROUNDS: usize = 20;
/// So many of the best formulas are parents.
const BEST: usize = 5;

pub(super) fn begin(ground: &Ground, budget: usize, seed: u64) -> Result<Begun> {
    let count = ground.count();
    let genes = ground.genes();
    if genes == 1 {
        let reason = "line: the weights of two checkpoints are one number".into();
        return Ok(Begun { reason: Some(reason), ..Begun::plain(Line::new(count)?) });
    }
    if budget < FORMULAS + ROUNDS {
        let reason = format!(
            "sweep: a budget of {budget} is too small to search {genes} weights, so formulas are tried (evolution follows from {} on)",
            FORMULAS + ROUNDS
        );
        return Ok(Begun { reason: Some(reason), ..Begun::plain(Sweep::new(ground)) });
    }
    let reason = format!(
        "sweep, then evolution: {FORMULAS} formulas, and the rest of the {budget} trials search {genes} weights from the best of them"
    );
    let mut formulas = ground.formulas();
    formulas.truncate(FORMULAS - ground.references().len());
    let proposer = Auto { formulas, seed, ground: ground.clone(), evolution: None, are_out: false };
    Ok(Begun { reason: Some(reason), ..Begun::plain(proposer) })
}

/// A sweep, then evolution.
struct Auto {
    formulas: Vec<Proposal>,
    are_out: bool,
    ground: Ground,
    seed: u64,
    evolution: Option<Evolution>,
}

impl Proposer for Auto {
    fn next(&mut self, told: &[f64], left: usize) -> Vec<Proposal> {
        if let Some(evolution) = &mut self.evolution {
            return evolution.next(told, left);
        }
        if !self.are_out {
            self.are_out = true;
            return self.formulas.clone();
        }
        let mut order: Vec<_> = (0..self.formulas.len()).filter(|&at| told[at].is_finite()).collect();
        order.sort_by(|&a, &b| told[a].total_cmp(&told[b]).then(a.cmp(&b)));
        let best = order.into_iter().take(BEST).map(|at| self.formulas[at].clone()).collect();
        self.evolution.insert(Evolution::new(&self.ground, self.seed, best)).next(&[], left)
    }
}
