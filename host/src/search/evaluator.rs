//! Who scores a candidate.

use std::path::Path;

use mwa::search::Score;

/// Merged weights that wait for a score.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its number, from 1 on.
    pub number: usize,
    /// Its folder, as `mwa merge` writes them. Whatever is written into it is removed with it.
    pub path: &'a Path,
    /// One per checkpoint, oldest first.
    pub weights: &'a [f64],
}

/// Scores candidates, several at a time if there are several workers.
pub trait Evaluator: Sync {
    /// How the journal calls it: another name is another evaluator, whose scores are not these.
    fn name(&self) -> String;

    /// The score of a candidate. `worker` is a number below that of the workers, and no other thread has the same at that time.
    /// Returns soon after `stopped` becomes true.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn score(
        &self,
        worker: usize,
        candidate: Candidate<'_>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Score, String>;

    /// Let go of what is held between candidates: nothing more is asked for a while.
    fn rest(&self) {}
}

/// Who scores candidates.
#[derive(Clone, Copy)]
pub struct Evaluators<'a> {
    /// Scores each.
    pub search: &'a dyn Evaluator,
    /// Scores the winner and what it is compared with, in the end, on other data.
    pub holdout: Option<&'a dyn Evaluator>,
}
