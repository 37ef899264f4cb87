//! A parabola through the vertices of the simplex and the middles of its edges, and its lowest points.
//!
//! Near the bottom of a basin the score of Σ wᵢxᵢ is almost f(w) = wᵀQw on Σw = 1. K(K+1)/2 scores fix Q: Qᵢᵢ = f(eᵢ), and from
//! the middle of i and j, Qᵢⱼ = 2f − (Qᵢᵢ + Qⱼⱼ)/2. The lowest point is found by exact steps along pairs of weights, once among
//! weights from 0 on, once with negative ones too; both are scored, for a parabola is only a guess.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::proposal::{BOUND, Proposal, Proposer, mean_of, single};
use crate::error::{Error, ErrorKind, Result};

/// Sweeps over all pairs; each takes the error down, and this many is far more than a simplex needs.
const SWEEPS: usize = 2000;
/// A step shorter than this is none.
const SHORT: f64 = 1e-12;

/// The points that are to be scored, then what is made of them.
pub(super) struct Quadratic {
    count: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Begin,
    Points,
    End,
}

impl Quadratic {
    pub(super) fn new(count: usize, budget: usize) -> Result<Self> {
        // uniform and the metric's weights are tried besides, and two lowest points
        let needed = count * (count + 1) / 2 + 4;
        if budget < needed {
            let detail = format!(
                "method quadratic needs {needed} trials for {count} checkpoints, and the budget is {budget}"
            );
            return Err(Error::new(ErrorKind::Usage, detail).help(format!(
                "give --budget {needed}, choose fewer checkpoints, for example with --last 4, or take another method"
            )));
        }
        Ok(Self { count, state: State::Begin })
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.count;
        (0..count).flat_map(move |i| (i + 1..count).map(move |j| (i, j)))
    }

    /// Q by rows, of the costs of vertices and middles.
    fn form(&self, told: &[f64]) -> Vec<f64> {
        let n = self.count;
        let mut form = vec![0.0; n * n];
        (0..n).for_each(|i| form[i * n + i] = told[i]);
        for ((i, j), middle) in self.pairs().zip(&told[n..]) {
            let beside = 2.0 * middle - (told[i] + told[j]) / 2.0;
            form[i * n + j] = beside;
            form[j * n + i] = beside;
        }
        form
    }

    /// Weights from `least` to [`BOUND`] with the lowest wᵀQw, from the mean on; a low point if Q has several.
    fn lowest(&self, form: &[f64], least: f64) -> Vec<f64> {
        let n = self.count;
        let mut weights = mean_of(n, &(0..n).collect::<Vec<_>>());
        for _ in 0..SWEEPS {
            let mut longest = 0.0;
            for (i, j) in self.pairs() {
                let (row_i, row_j) = (&form[i * n..(i + 1) * n], &form[j * n..(j + 1) * n]);
                let slope = |row: &[f64]| row.iter().zip(&weights).fold(0.0, |sum, (q, w)| sum + q * w);
                // along eᵢ − eⱼ: f(t) = f + 2t·slope + t²·curve
                let (slope, curve) =
                    (slope(row_i) - slope(row_j), form[i * n + i] + form[j * n + j] - 2.0 * form[i * n + j]);
                let (from, to) = (
                    f64::max(least - weights[i], weights[j] - BOUND),
                    f64::min(BOUND - weights[i], weights[j] - least),
                );
                let step = if curve > 0.0 {
                    (-slope / curve).clamp(from, to)
                } else {
                    // a ridge falls to both ends
                    let at = |t: f64| 2.0 * t * slope + t * t * curve;
                    if at(from) < at(to) { from } else { to }
                };
                if step.is_finite() && step.abs() > SHORT {
                    weights[i] += step;
                    weights[j] -= step;
                    longest = f64::max(longest, step.abs());
                }
            }
            if longest < SHORT {
                break;
            }
        }
        weights
    }
}

impl Proposer for Quadratic {
    fn next(&mut self, told: &[f64], _: usize) -> Vec<Proposal> {
        match self.state {
            State::Begin => {
                self.state = State::Points;
                let vertices = (0..self.count).map(|i| Proposal::new("single", single(self.count, i)));
                let middles =
                    self.pairs().map(|(i, j)| Proposal::new("middle", mean_of(self.count, &[i, j])));
                vertices.chain(middles).collect()
            }
            State::Points => {
                self.state = State::End;
                // one that failed leaves Q unknown: the best point stays the best
                if told.iter().any(|cost| !cost.is_finite()) {
                    return Vec::new();
                }
                let form = self.form(told);
                let lowest = |least| Proposal::new("lowest", self.lowest(&form, least));
                vec![lowest(0.0), lowest(-BOUND)]
            }
            State::End => Vec::new(),
        }
    }
}
