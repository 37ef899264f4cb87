//! Golden section along the line through two checkpoints: (1 − λ)·older + λ·newer, λ from −½ to 1½.
//!
//! Each step needs one more score and narrows the interval by 0.618; it ends at a hundredth. For a loss with one valley on the
//! line that is the valley; for others, a valley.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::proposal::{Proposal, Proposer};
use crate::error::{Error, ErrorKind, Result};

const FROM: f64 = -0.5;
const TO: f64 = 1.5;
/// Narrower intervals are not searched.
const NARROW: f64 = 0.01;

/// An interval and the costs of two places within.
pub(super) struct Line {
    low: f64,
    high: f64,
    /// Places, lower first, and their costs, if they are known.
    inner: [(f64, Option<f64>); 2],
    is_begun: bool,
}

impl Line {
    pub(super) fn new(count: usize) -> Result<Self> {
        if count != 2 {
            let detail = format!("method line searches between two checkpoints, and {count} are chosen");
            return Err(Error::new(ErrorKind::Usage, detail)
                .help("choose two, for example with --last 2, or take another method"));
        }
        let (low, high) = (FROM, TO);
        Ok(Self { low, high, inner: [(lower(low, high), None), (upper(low, high), None)], is_begun: false })
    }
}

/// The share of an interval that a step leaves: (√5 − 1)/2.
fn share() -> f64 {
    (libm::sqrt(5.0) - 1.0) / 2.0
}

fn lower(low: f64, high: f64) -> f64 {
    high - share() * (high - low)
}

fn upper(low: f64, high: f64) -> f64 {
    low + share() * (high - low)
}

impl Proposer for Line {
    fn next(&mut self, told: &[f64], _: usize) -> Vec<Proposal> {
        let begins = !core::mem::replace(&mut self.is_begun, true);
        // the first of three was the older checkpoint
        let told = if told.len() == 3 { &told[1..] } else { told };
        let unknown = self.inner.iter_mut().filter(|(_, cost)| cost.is_none());
        unknown.zip(told).for_each(|((_, cost), told)| *cost = Some(*told));
        if let [(first, Some(a)), (second, Some(b))] = self.inner {
            if a < b {
                self.high = second;
                self.inner = [(lower(self.low, self.high), None), (first, Some(a))];
            } else {
                self.low = first;
                self.inner = [(second, Some(b)), (upper(self.low, self.high), None)];
            }
        }
        if self.high - self.low < NARROW {
            return Vec::new();
        }
        let unknown = self.inner.iter().filter(|(_, cost)| cost.is_none());
        let unknown =
            unknown.map(|&(place, _)| Proposal::new(format!("line {place:.3}"), vec![1.0 - place, place]));
        // so that both ends are known; the newer is already
        let older = begins.then(|| Proposal::new("older", vec![1.0, 0.0]));
        older.into_iter().chain(unknown).collect()
    }
}
