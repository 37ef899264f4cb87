//! Weights that were tried: where they come from, and what came of them.

use alloc::string::String;
use alloc::vec::Vec;

use crate::logs::goal::Goal;

/// Weights that were tried, or are to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Where they come from: `last`, `uniform`, `linear 0.4`, `evolution`, ….
    pub by: String,
    /// One per checkpoint, oldest first; they sum to 1 within rounding, and may be negative.
    pub weights: Vec<f64>,
    pub(super) outcome: Outcome,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    Open,
    Failed,
    Scored(f64),
}

impl Trial {
    /// Its score, if it has one.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        if let Outcome::Scored(score) = self.outcome { Some(score) } else { None }
    }

    /// Whether it was tried in vain.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }

    pub(super) fn cost(&self, goal: Goal) -> f64 {
        match (self.score(), goal) {
            (None, _) => f64::INFINITY,
            (Some(score), Goal::Min) => score,
            (Some(score), Goal::Max) => -score,
        }
    }
}

/// Whether two vectors weigh alike: rounded to f32, as they multiply checkpoints.
#[must_use]
pub fn is_same(a: &[f64], b: &[f64]) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "as weights are rounded in a merge")]
    let is_equal = |(a, b): (&f64, &f64)| *a as f32 == *b as f32;
    a.len() == b.len() && a.iter().zip(b).all(is_equal)
}
