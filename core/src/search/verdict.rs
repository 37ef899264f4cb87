//! What must be said of a winner: how far it leads, whether that is more than luck, and what its weights do.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::ground::{LAST, METRIC, UNIFORM};
use super::state::Search;
use super::trial::Trial;
use crate::logs::goal::Goal;

/// A lead below so many standard errors is within noise: the best of 100 scores that differ by chance alone lies about three
/// above their mean, σ·√(2 ln N).
const SIGMAS: f64 = 3.0;

/// A winner's score beside another's.
#[derive(Clone, Copy, Debug)]
pub struct Lead<'a> {
    /// How the other is called.
    pub over: &'a str,
    /// The winner's score.
    pub winner: f64,
    /// The other's.
    pub other: f64,
    /// The standard error of one score, if it is known.
    pub error: Option<f64>,
    /// Which way scores get better.
    pub goal: Goal,
}

impl Lead<'_> {
    /// How much better the winner is.
    #[must_use]
    pub fn size(&self) -> f64 {
        match self.goal {
            Goal::Min => self.other - self.winner,
            Goal::Max => self.winner - self.other,
        }
    }

    /// What to say of it, if it is little; `trials` were the winner's rivals, none where it was scored on data that chose
    /// nothing.
    #[must_use]
    pub fn doubt(&self, trials: Option<usize>) -> Option<String> {
        let (size, over) = (self.size(), self.over);
        let winner = short(self.winner);
        let other = short(self.other);
        if size <= 0.0 {
            let same = if size == 0.0 { "as good as" } else { "worse than" };
            return Some(format!("the winner is {same} {over} ({winner} against {other})"));
        }
        let error = self.error.filter(|error| size < SIGMAS * error)?;
        let lead = format!(
            "the winner leads {over} by {}, which is within noise: one score is known to ±{} (one standard error)",
            short(size),
            short(error)
        );
        Some(match trials {
            Some(trials) => format!(
                "{lead}, and the best of {trials} is too good by about {} by chance alone; score more problems, or both on \
                 other data with --holdout",
                short(error * luck(trials))
            ),
            None => lead,
        })
    }
}

/// √(2 ln N): by how many standard errors the best of N equals is too good.
#[expect(clippy::cast_precision_loss, reason = "a few trials")]
fn luck(trials: usize) -> f64 {
    libm::sqrt(2.0 * libm::log(trials.max(1) as f64))
}

/// Four significant digits.
pub(super) fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 12")]
    let decimals = (3.0 - libm::floor(libm::log10(value.abs()))).clamp(0.0, 12.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// How the best checkpoint by itself is called.
pub const SINGLE: &str = "best single";
/// How the winner is called.
pub const WINNER: &str = "winner";

/// What a name in [`Search::compared`] means, in a sentence.
#[must_use]
pub fn called(name: &str) -> &str {
    match name {
        LAST => "the last checkpoint",
        SINGLE => "the best single checkpoint",
        UNIFORM => "the plain mean",
        METRIC => "the metric's own weights",
        other => other,
    }
}

impl Search {
    /// The winner and what it is compared with, by the numbers of their trials: [`LAST`], [`SINGLE`], [`UNIFORM`], [`METRIC`] and
    /// [`WINNER`], as far as they were tried.
    #[must_use]
    pub fn compared(&self) -> Vec<(&'static str, usize)> {
        let ground = self.ground();
        let singles = (0..self.trials().len()).filter(|&at| ground.is_single(&self.trial(at).weights));
        let cost = |at: usize| self.trial(at).cost(self.goal());
        let scored = singles.filter(|&at| self.trial(at).score().is_some());
        let single = scored.reduce(|best, other| if cost(other) < cost(best) { other } else { best });
        let rows = [
            (LAST, self.find(&ground.last())),
            (SINGLE, single),
            (UNIFORM, self.find(&ground.uniform())),
            (METRIC, ground.own().and_then(|own| self.find(own))),
            (WINNER, self.winner()),
        ];
        rows.into_iter().filter_map(|(name, number)| Some((name, number?))).collect()
    }

    /// What must be said of the best so far: `error` is the standard error of its score, if it is known, `is_held_out` whether
    /// it will be scored on other data.
    #[must_use]
    pub fn doubts(&self, error: Option<f64>, is_held_out: bool, labels: &[&str]) -> Vec<String> {
        let Some(winner) = self.best() else { return Vec::new() };
        let mut doubts = Vec::new();
        let failed = self.trials().iter().filter(|trial| trial.has_failed()).count();
        if failed > 0 {
            doubts.push(format!("{failed} of {} trials failed", self.trials().len()));
        }
        let scored = self.trials().len() - failed;
        let mut scores = self.trials().iter().filter_map(Trial::score);
        if let (2.., Some(first)) = (scored, scores.next())
            && scores.all(|score| score == first)
        {
            doubts.push(format!(
                "all {scored} scores are the same, {}: does the evaluator look at the candidate, whose folder {{path}} is?",
                short(first)
            ));
            return doubts;
        }
        let uniform = self.find(&self.ground().uniform()).map(|at| self.trial(at));
        if let (Some(winner), Some(other)) = (winner.score(), uniform.and_then(Trial::score))
            && self.find(&self.ground().uniform()) != self.winner()
        {
            let lead = Lead { over: "the plain mean", winner, other, error, goal: self.goal() };
            doubts.extend(lead.doubt(Some(scored)));
            if error.is_none() && !is_held_out {
                doubts.push(format!(
                    "whether a lead of {} is more than noise cannot be said: give --questions N if the score is the share of N \
                     right answers, let the evaluator print {{\"score\": …, \"error\": its standard error}}, or give --holdout",
                    short(lead.size())
                ));
            }
        } else if winner.by == UNIFORM {
            doubts.push(format!("none of {scored} trials is better than the plain mean"));
        }
        doubts.extend(negative(&winner.weights, labels));
        doubts
    }
}

/// What to say of negative weights.
#[must_use]
pub fn negative(weights: &[f64], labels: &[&str]) -> Option<String> {
    let below = weights.iter().zip(labels).filter(|(weight, _)| **weight < -0.00005);
    let below: Vec<_> = below.map(|(weight, label)| format!("{label} {weight:.4}")).collect();
    (!below.is_empty()).then(|| {
        format!(
            "negative weights ({}): the result lies beyond the checkpoints, not between them; of LoRA factors that widens the \
             distance from the average of the products (--space product has none)",
            below.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(winner: f64, other: f64, error: Option<f64>, goal: Goal) -> Option<String> {
        Lead { over: "the plain mean", winner, other, error, goal }.doubt(Some(100))
    }

    #[test]
    fn a_lead_is_more_than_three_standard_errors() {
        assert_eq!(lead(0.39, 0.35, Some(0.01), Goal::Max), None);
        assert_eq!(lead(0.31, 0.35, Some(0.01), Goal::Min), None);
        assert_eq!(lead(0.36, 0.35, None, Goal::Max), None, "nobody knows");
        assert_eq!(
            lead(0.375, 0.35, Some(0.0107), Goal::Max).unwrap(),
            "the winner leads the plain mean by 0.025, which is within noise: one score is known to ±0.0107 (one standard \
             error), and the best of 100 is too good by about 0.03247 by chance alone; score more problems, or both on other \
             data with --holdout"
        );
        assert_eq!(
            lead(0.3, 0.35, None, Goal::Max).unwrap(),
            "the winner is worse than the plain mean (0.3 against 0.35)"
        );
        assert_eq!(
            lead(0.35, 0.35, None, Goal::Min).unwrap(),
            "the winner is as good as the plain mean (0.35 against 0.35)"
        );
    }

    #[test]
    fn negative_weights_are_named() {
        let text = negative(&[-0.25, 1.25, 0.0, -1e-9], &["a", "b", "c", "d"]).unwrap();
        assert!(text.starts_with("negative weights (a -0.2500): "), "{text}");
        assert_eq!(negative(&[0.5, 0.5], &["a", "b"]), None);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (12345.6, "12346"), (0.5, "0.5"), (-0.001_234_56, "-0.001235"), (100.0, "100")]
        {
            assert_eq!(short(value), text);
        }
    }
}
