//! Who scores a candidate, and who watches.

use std::path::Path;

use mwa::search::Score;

use super::report::Tried;

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
}

/// Hears how far a search is, and may stop it. `()` hears nothing.
pub trait Watch: Sync {
    /// So much was tried: the rows of all trials of before and now, the place of the best, and how many there can be.
    fn told(&self, tried: &[Tried], best: Option<usize>, budget: usize) {
        let _ = (tried, best, budget);
    }
    /// Something to know about this machine.
    fn note(&self, note: &str) {
        let _ = note;
    }
    /// Whether to stop as soon as possible. What was scored stays in the journal.
    fn stopped(&self) -> bool {
        false
    }
}

impl Watch for () {}
