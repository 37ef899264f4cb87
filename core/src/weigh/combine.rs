//! Several metrics in one: the order that each gives, one order of them all, and how much they disagree.
//!
//! Ranks count from 0 for the best; ties share the mean of their places. Of the ranks rᵐᵢ that metrics m give to checkpoints i,
//!
//! * `borda` is Σₘ rᵐᵢ, and `mean-rank` that sum over the number of metrics;
//! * `kemeny` is the order with the fewest pairs that some metric puts the other way round, each counted once a metric; of
//!   several such orders the first by the places of the checkpoints. Found by dynamic programming over subsets: 2^K·K² steps;
//! * `z-score` is the mean over the metrics of (mᵢ − mean) / σ, a higher value being worse. It alone keeps sizes.
//!
//! Borda and Kemeny as in "What are the best systems?" (Colombo et al., arXiv 2202.03799). All in f64, in the order of the
//! metrics and of the checkpoints.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::logs::goal::Goal;
use crate::logs::metric::Part;
use crate::text::words::words;
use crate::weigh::scheme::ranks;

words! {
    /// How several metrics become one.
    Combine {
        /// The sum of the ranks.
        #[default]
        Borda = "borda",
        /// The order that disagrees the least with all.
        Kemeny = "kemeny",
        /// The mean of the ranks.
        MeanRank = "mean-rank",
        /// The mean of the values, each metric scaled by its own mean and deviation.
        ZScore = "z-score",
    }
}

/// Kemeny's order of more takes too long.
const MOST: usize = 16;

/// How several metrics order the inputs of a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// `borda`, `kemeny`, `mean-rank` or `z-score`.
    pub combine: String,
    /// The metrics.
    pub metrics: Vec<Ranked>,
    /// The rank of each input in the combined order, 0 for the best; ties share the mean of their places.
    pub ranks: Vec<f64>,
    /// Of so many comparisons, each of two inputs by one metric …
    pub comparisons: usize,
    /// … the combined order goes against so many.
    pub disagreements: usize,
}

/// A metric of a [`Ranking`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// Its name.
    pub name: String,
    /// `min` or `max`.
    pub goal: String,
    /// The value of each input.
    pub values: Vec<f64>,
    /// The rank of each input.
    pub ranks: Vec<f64>,
}

impl Combine {
    /// One value per checkpoint of which the parts have these values, the lower the better.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an order of too many.
    pub(crate) fn values(self, parts: &[Part]) -> Result<Vec<f64>> {
        let orders: Vec<_> = parts.iter().map(|part| ranks(&part.values, part.goal)).collect();
        let count = parts.first().map_or(0, |part| part.values.len());
        let sums = || (0..count).map(|i| orders.iter().map(|ranks| ranks[i]).sum::<f64>());
        #[expect(clippy::cast_precision_loss, reason = "a few metrics, and at most 16 places")]
        Ok(match self {
            Self::Borda => sums().collect(),
            Self::MeanRank => sums().map(|sum| sum / parts.len() as f64).collect(),
            Self::Kemeny => {
                let mut places = vec![0.0; count];
                kemeny(&orders, count)?
                    .into_iter()
                    .enumerate()
                    .for_each(|(place, i)| places[i] = place as f64);
                places
            }
            Self::ZScore => {
                let scores: Vec<_> = parts.iter().map(scores).collect();
                (0..count)
                    .map(|i| scores.iter().map(|scores| scores[i]).sum::<f64>() / parts.len() as f64)
                    .collect()
            }
        })
    }

    /// What is told of the order that `combined` gives, and of Kemeny's where that is another.
    pub(crate) fn ranking(self, parts: Vec<Part>, combined: &[f64]) -> (Ranking, Option<Vec<usize>>) {
        let orders: Vec<_> = parts.iter().map(|part| ranks(&part.values, part.goal)).collect();
        let ranks = ranks(combined, Goal::Min);
        let disagreements = against(&ranks, &orders);
        let best = match self {
            Self::Kemeny => None,
            _ if ranks.len() > QUICK => None,
            _ => kemeny(&orders, ranks.len()).ok(),
        };
        let best = best.filter(|best| {
            let mut places = vec![0.0; ranks.len()];
            #[expect(clippy::cast_precision_loss, reason = "at most 16 places")]
            best.iter().enumerate().for_each(|(place, i)| places[*i] = place as f64);
            against(&places, &orders) < disagreements
        });
        let pairs = ranks.len() * ranks.len().saturating_sub(1) / 2;
        let metrics = parts.into_iter().zip(&orders).map(|(part, ranks)| Ranked {
            name: part.name,
            goal: format!("{}", part.goal),
            values: part.values,
            ranks: ranks.clone(),
        });
        let ranking = Ranking {
            combine: self.name().into(),
            comparisons: pairs * orders.len(),
            metrics: metrics.collect(),
            ranks,
            disagreements,
        };
        (ranking, best)
    }
}

/// Kemeny's order of so many takes no time that anybody notices.
const QUICK: usize = 12;

impl Ranking {
    /// In words, a line each: the order of each metric, then the combined one; `labels` are what the inputs are called.
    #[must_use]
    pub fn describe(&self, labels: &[&str]) -> Vec<String> {
        let line = |what: String, ranks: &[f64]| format!("{what}: {}", order(labels, ranks));
        let mut lines: Vec<_> =
            self.metrics.iter().map(|it| line(format!("{} ({})", it.name, it.goal), &it.ranks)).collect();
        lines.push(line(self.combine.clone(), &self.ranks));
        let (against, all) = (self.disagreements, self.comparisons);
        lines.push(format!(
            "it goes against {against} of {all} comparisons, each of two checkpoints by one metric"
        ));
        lines
    }
}

/// "a > b = c", the best first.
fn order(labels: &[&str], ranks: &[f64]) -> String {
    let mut sorted: Vec<_> = ranks.iter().zip(labels).collect();
    sorted.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut text = String::new();
    for (i, (rank, label)) in sorted.iter().enumerate() {
        text += match i.checked_sub(1).map(|before| sorted[before].0 == *rank) {
            None => "",
            Some(true) => " = ",
            Some(false) => " > ",
        };
        text += label;
    }
    text
}

/// How often an order puts two checkpoints the other way round than one of `orders`.
fn against(ranks: &[f64], orders: &[Vec<f64>]) -> usize {
    let opposite = |order: &[f64], a: usize, b: usize| (order[a] - order[b]) * (ranks[a] - ranks[b]) < 0.0;
    let pairs = || (0..ranks.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
    orders.iter().map(|order| pairs().filter(|(a, b)| opposite(order, *a, *b)).count()).sum()
}

/// (m − mean) / σ, a higher one being worse; all zero where all are equal.
fn scores(part: &Part) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 checkpoints")]
    let count = part.values.len() as f64;
    let mean = part.values.iter().sum::<f64>() / count;
    let deviation = libm::sqrt(part.values.iter().map(|m| (m - mean) * (m - mean)).sum::<f64>() / count);
    let sign = if part.goal == Goal::Min { 1.0 } else { -1.0 };
    let score = |m: &f64| if deviation > 0.0 { sign * (m - mean) / deviation } else { 0.0 };
    part.values.iter().map(score).collect()
}

/// The places of `count` checkpoints in Kemeny's order, the best first.
fn kemeny(orders: &[Vec<f64>], count: usize) -> Result<Vec<usize>> {
    if count > MOST {
        let detail = format!("Kemeny's order is for at most {MOST} checkpoints, and these are {count}");
        return Err(
            Error::new(ErrorKind::Usage, detail).help("combine them by borda, or select fewer: --last 16")
        );
    }
    // how many metrics speak against a before b
    let cost = |a: usize, b: usize| orders.iter().filter(|ranks| ranks[b] < ranks[a]).count();
    let costs: Vec<usize> = (0..count * count).map(|i| cost(i / count, i % count)).collect();
    let members = |set: usize| (0..count).filter(move |i| set >> i & 1 == 1);
    // of all of a set that are still to come: the least cost among them
    let first = |set: usize, a: usize, least: &[usize]| {
        let others = set & !(1 << a);
        members(others).map(|b| costs[a * count + b]).sum::<usize>() + least[others]
    };
    let mut least = vec![0; 1 << count];
    for set in 1..1 << count {
        least[set] = members(set).map(|a| first(set, a, &least)).min().unwrap_or(0);
    }
    let (mut set, mut order) = ((1 << count) - 1, Vec::with_capacity(count));
    while let Some(next) = members(set).find(|a| first(set, *a, &least) == least[set]) {
        order.push(next);
        set &= !(1 << next);
    }
    Ok(order)
}

/// The metrics that a text with commas names, each with the goal behind its colon. A name may have commas itself
/// (`acc,none`): what is known as a whole is one.
pub(crate) fn named(text: &str, is_known: &dyn Fn(&str) -> bool) -> Vec<(String, Option<Goal>)> {
    let with_goal = |name: &str| {
        let goal = name.rsplit_once(':').and_then(|(name, goal)| Some((name, goal.parse().ok()?)));
        match goal {
            Some((plain, goal)) if !is_known(name) => (String::from(plain.trim()), Some(goal)),
            _ => (String::from(name.trim()), None),
        }
    };
    let pieces: Vec<_> = text.split(',').collect();
    let (mut names, mut at) = (Vec::new(), 0);
    while at < pieces.len() {
        let joined = |end: usize| with_goal(&pieces[at..end].join(","));
        let end = (at + 1..=pieces.len()).rev().find(|end| is_known(&joined(*end).0)).unwrap_or(at + 1);
        names.push(joined(end));
        at = end;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, goal: Goal, values: &[f64]) -> Part {
        Part { name: name.into(), goal, values: values.into() }
    }

    /// Of scores.py, which prints the numbers below.
    fn three() -> Vec<Part> {
        [
            part("a", Goal::Max, &[0.80, 0.82, 0.79, 0.81]),
            part("b", Goal::Max, &[0.61, 0.60, 0.65, 0.60]),
            part("c", Goal::Min, &[1.10, 1.05, 1.30, 1.20]),
        ]
        .into()
    }

    #[test]
    fn borda_and_kemeny_agree_with_the_oracle() {
        let orders: Vec<_> = three().iter().map(|part| ranks(&part.values, part.goal)).collect();
        assert_eq!(orders, [[2.0, 0.0, 3.0, 1.0], [1.0, 2.5, 0.0, 2.5], [1.0, 0.0, 3.0, 2.0]]);
        assert_eq!(Combine::Borda.values(&three()).unwrap(), [4.0, 2.5, 6.0, 5.5]);
        assert_eq!(Combine::MeanRank.values(&three()).unwrap(), [4.0 / 3.0, 2.5 / 3.0, 2.0, 5.5 / 3.0]);
        let places = Combine::Kemeny.values(&three()).unwrap();
        assert_eq!(places, [1.0, 0.0, 3.0, 2.0]);
        let (ranking, other) = Combine::Kemeny.ranking(three(), &places);
        assert_eq!((ranking.disagreements, ranking.comparisons, other), (5, 18, None));
        assert_eq!(
            ranking.describe(&["w", "x", "y", "z"]),
            [
                "a (max): x > z > w > y",
                "b (max): y > w > x = z",
                "c (min): x > w > z > y",
                "kemeny: x > w > z > y",
                "it goes against 5 of 18 comparisons, each of two checkpoints by one metric",
            ]
        );
    }

    #[test]
    fn kemeny_is_the_best_of_all_orders_and_of_equals_the_first() {
        // Condorcet's circle: six orders, three of which cost 4; the first of them by places is 0 1 2
        let circle = [
            part("a", Goal::Min, &[0.0, 1.0, 2.0]),
            part("b", Goal::Min, &[2.0, 0.0, 1.0]),
            part("c", Goal::Min, &[1.0, 2.0, 0.0]),
        ];
        assert_eq!(Combine::Kemeny.values(&circle).unwrap(), [0.0, 1.0, 2.0]);
        // where Borda is not the best: three metrics for 0 before 1, two that put 1 far ahead
        let part = |values: [f64; 4]| part("m", Goal::Min, &values);
        let split = [
            part([0.0, 1.0, 2.0, 3.0]),
            part([0.0, 1.0, 2.0, 3.0]),
            part([0.0, 1.0, 2.0, 3.0]),
            part([3.0, 0.0, 1.0, 2.0]),
            part([3.0, 0.0, 1.0, 2.0]),
        ];
        let borda = Combine::Borda.values(&split).unwrap();
        assert_eq!(borda, [6.0, 3.0, 8.0, 13.0]);
        let (ranking, other) = Combine::Borda.ranking(split.into(), &borda);
        assert_eq!((ranking.disagreements, other), (7, Some([0, 1, 2, 3].into())));
    }

    #[test]
    fn scores_keep_sizes() {
        let parts = [part("a", Goal::Min, &[1.0, 2.0, 3.0]), part("b", Goal::Max, &[5.0, 5.0, 5.0])];
        let values = Combine::ZScore.values(&parts).unwrap();
        let deviation = libm::sqrt(2.0 / 3.0);
        assert_eq!(values, [-1.0 / deviation / 2.0, 0.0, 1.0 / deviation / 2.0]);
    }

    #[test]
    fn kemeny_is_refused_for_too_many() {
        let values: Vec<f64> = (0..17).map(f64::from).collect();
        let error = Combine::Kemeny.values(&[part("a", Goal::Min, &values)]).unwrap_err();
        assert_eq!(error.detail(), "Kemeny's order is for at most 16 checkpoints, and these are 17");
        assert_eq!(Combine::Kemeny.values(&[part("a", Goal::Max, &values[..16])]).unwrap()[15], 0.0);
    }

    #[test]
    fn names_may_have_commas_and_colons_of_their_own() {
        let known = |name: &str| ["acc,none", "f1", "eval:min"].contains(&name);
        let read = |text: &str| named(text, &known);
        let plain = |name: &str| (String::from(name), None);
        assert_eq!(read("acc,none"), [plain("acc,none")]);
        assert_eq!(
            read("f1, acc,none:max,x:min"),
            [plain("f1"), (String::from("acc,none"), Some(Goal::Max)), (String::from("x"), Some(Goal::Min)),]
        );
        assert_eq!(read("eval:min"), [plain("eval:min")]);
    }
}
