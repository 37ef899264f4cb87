//! What is known of the checkpoints before anything is scored: how many, what their metric says, what a merge would weigh.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::proposal::{Proposal, anchored, mean_of, single};
use crate::logs::goal::Goal;
use crate::weigh::scheme::{Scheme, Weights};

/// Where the weights of the newest checkpoint alone come from.
pub const LAST: &str = "last";
/// Where those of the plain mean come from.
pub const UNIFORM: &str = "uniform";
/// Where those come from that a merge takes without a search.
pub const METRIC: &str = "metric";

/// Penalties that a sweep tries of each scheme; the first row's come first of all. Penalty 0 is the plain mean.
const PENALTIES: [(&str, &[f64]); 4] = [
    ("linear", &[0.2, 0.4, 0.6, 0.8, 1.0]),
    ("exponential", &[0.5, 1.0, 2.0, 4.0]),
    ("rank", &[0.1, 0.2, 0.4]),
    ("power", &[0.5, 1.0, 2.0, 4.0]),
];
/// Decays of moving averages per checkpoint.
pub(super) const DECAYS: [f64; 5] = [0.5, 0.7, 0.8, 0.9, 0.95];
/// The plain means of so many numbers of newest checkpoints are tried.
const WINDOWS: usize = 5;

/// The checkpoints of a search, oldest first.
#[derive(Clone, Debug)]
pub struct Ground {
    count: usize,
    /// How many parts of the model have weights of their own.
    parts: usize,
    own: Option<Vec<f64>>,
    metric: Option<(Vec<f64>, bool, Goal)>,
}

impl Ground {
    /// So many checkpoints, of which nothing is known.
    #[must_use]
    pub fn bare(count: usize) -> Self {
        Self { count, parts: 1, own: None, metric: None }
    }

    /// Checkpoints with the weights that they would get, and the metric behind them: its name, one value per checkpoint, and
    /// which way it gets better.
    #[must_use]
    pub fn new(own: &Weights, metric: Option<(&str, &[f64], Goal)>) -> Self {
        let metric = metric.filter(|(_, values, _)| values.len() == own.values().len());
        Self {
            count: own.values().len(),
            parts: 1,
            own: Some(own.values().to_vec()),
            metric: metric.map(|(name, values, goal)| (values.to_vec(), name == "step", goal)),
        }
    }

    /// The same, where so many parts of the model have weights of their own. Then vectors hold those of one part after the
    /// other, and what is known of the checkpoints holds for each.
    #[must_use]
    pub fn with_parts(self, parts: usize) -> Self {
        let own = self.own.as_ref().map(|own| own.repeat(parts));
        Self { parts, own, ..self }
    }

    /// How many checkpoints there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many parts of the model have weights of their own.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// How many weights a trial has that are free.
    pub(super) fn genes(&self) -> usize {
        (self.count - 1) * self.parts
    }

    /// The same weights in all parts.
    pub(super) fn spread(&self, weights: &[f64]) -> Vec<f64> {
        weights.repeat(self.parts)
    }

    /// Whether all weight is on one checkpoint.
    #[must_use]
    pub fn is_single(&self, weights: &[f64]) -> bool {
        let (first, _) = weights.split_at(self.count);
        first.contains(&1.0) && weights.chunks(self.count).all(|part| part == first)
    }

    /// The weights that a merge would take, if they are known.
    #[must_use]
    pub fn own(&self) -> Option<&[f64]> {
        self.own.as_deref()
    }

    /// All weight on the newest.
    #[must_use]
    pub fn last(&self) -> Vec<f64> {
        self.spread(&single(self.count, self.count - 1))
    }

    /// The plain mean; the newest has what is left to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 checkpoints")]
    pub fn uniform(&self) -> Vec<f64> {
        self.spread(&anchored(&vec![1.0 / self.count as f64; self.count - 1]))
    }

    /// What a result is compared with.
    pub(super) fn references(&self) -> Vec<Proposal> {
        let own = self.own.iter().map(|own| Proposal::new(METRIC, own.clone()));
        [Proposal::new(LAST, self.last()), Proposal::new(UNIFORM, self.uniform())]
            .into_iter()
            .chain(own)
            .collect()
    }

    /// Weights by formulas, the most telling first: the usual scheme, plain means of the newest, moving averages, the other
    /// schemes.
    pub(super) fn formulas(&self) -> Vec<Proposal> {
        let (first, others) = PENALTIES.split_at(1);
        let mut all = self.schemes(first);
        for window in 1..=WINDOWS {
            let newest = (self.count * window + WINDOWS.div_ceil(2)) / (WINDOWS + 1);
            if (2..self.count).contains(&newest) {
                let members: Vec<_> = (self.count - newest..self.count).collect();
                all.push(Proposal::new(format!("last {newest}"), mean_of(self.count, &members)));
            }
        }
        all.extend(
            DECAYS.map(|decay| Proposal::new(format!("ema {decay}"), moving_average(self.count, decay))),
        );
        all.extend(self.schemes(others));
        all.iter_mut().for_each(|formula| formula.weights = self.spread(&formula.weights));
        all
    }

    fn schemes(&self, rows: &[(&str, &[f64])]) -> Vec<Proposal> {
        let Some((values, is_step, goal)) = &self.metric else { return Vec::new() };
        let metric = if *is_step { "step" } else { "" };
        let mut all = Vec::new();
        for (name, penalties) in rows {
            for penalty in *penalties {
                // a scheme that does not suit the metric, such as powers of a negative one, is left out
                let scheme = name.parse::<Scheme>().ok();
                let weights =
                    scheme.and_then(|scheme| Weights::named(metric, values, *goal, scheme, *penalty).ok());
                let by = || format!("{name} {penalty}");
                all.extend(weights.map(|weights| Proposal::new(by(), weights.values().to_vec())));
            }
        }
        all
    }
}

/// Weights that fall by `decay` from each checkpoint to the one before.
pub(super) fn moving_average(count: usize, decay: f64) -> Vec<f64> {
    let mut weights = vec![1.0; count];
    for at in (0..count - 1).rev() {
        weights[at] = weights[at + 1] * decay;
    }
    let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
    weights.iter().map(|weight| weight / sum).collect()
}
