//! A grid over the plane through three checkpoints, and beyond them: to look at, rather than to find the best.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::proposal::{Proposal, Proposer};
use crate::error::{Error, ErrorKind, Result};

/// From where to where the weights of the second and third checkpoint go.
const FROM: f64 = -0.5;
const TO: f64 = 1.5;
/// A grid with fewer points on a side shows nothing.
const LEAST: usize = 3;

/// The points of a grid.
pub(super) struct Plane {
    side: usize,
}

impl Plane {
    pub(super) fn new(count: usize, budget: usize) -> Result<Self> {
        if count != 3 {
            let detail = format!("method plane looks at three checkpoints, and {count} are chosen");
            return Err(Error::new(ErrorKind::Usage, detail)
                .help("choose three, for example with --last 3, or take another method"));
        }
        // besides what every search begins with
        let left = budget.saturating_sub(3);
        let side = (1..).take_while(|side| side * side <= left).last().unwrap_or(0);
        if side < LEAST {
            let needed = LEAST * LEAST + 3;
            let detail = format!("method plane needs {needed} trials, and the budget is {budget}");
            return Err(Error::new(ErrorKind::Usage, detail).help(format!("give --budget {needed} or more")));
        }
        Ok(Self { side })
    }
}

impl Proposer for Plane {
    #[expect(clippy::cast_precision_loss, reason = "a few points on a side")]
    fn next(&mut self, _: &[f64], _: usize) -> Vec<Proposal> {
        let side = core::mem::take(&mut self.side);
        let place = |at: usize| FROM + (TO - FROM) * at as f64 / (side - 1) as f64;
        let points = (0..side * side).map(|at| (place(at % side), place(at / side)));
        points.map(|(a, b)| Proposal::new(format!("plane {a:.2} {b:.2}"), vec![1.0 - a - b, a, b])).collect()
    }
}
