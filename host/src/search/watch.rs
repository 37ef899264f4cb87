//! Who watches a search.

use super::report::Tried;

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
