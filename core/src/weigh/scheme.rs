//! Turn metrics, or the order of the checkpoints, into weights that sum to one.
//!
//! For metrics m₁…mₙ with a goal, badness is gᵢ = |mᵢ − m_best| / max(|m_worst − m_best|, 0.005·max|m|): 0 for the best, 1 for
//! the worst, less for all where they differ by less than half a percent of their size, 0 where all are equal. One penalty
//! p says how hard a worse checkpoint is punished; p = 0 is the plain mean.
//!
//! Without the half percent (NOISE), losses of 0.19334, 0.19333 and 0.19330 would weigh 0.12, 0.25 and 0.62, as if they told
//! one checkpoint from another. Of 45 real runs scored with weights from `eval_loss` on their last ten, best ten or best five
//! checkpoints, none differs so little, so none is touched; from one percent on some lose (token accuracy as the metric, last
//! ten: −0.14 points). The noise between successive checkpoints is no measure here: at a constant rate neighbours do differ, and
//! weights by that difference help. The step, as a metric, is exact and has no such floor.
//!
//! Formulas, ranges and needs stand in [`Scheme::ALL`], one row per scheme; the caller's own weights are [`Weights::explicit`].
//!
//! The idea is Metrics-Weighted Averaging (Yu & Choi, arXiv 2504.18580): weights from a logged metric and one penalty
//! factor. The paper's exact expression for the penalty is not known to us; these shapes are ours, named as they are.
//!
//! All in f64 with `libm`, sums in the order of the inputs; rounded to f32 once, at the end.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::goal::Goal;
use crate::text::span::Span;
use crate::text::spelling;
use crate::weigh::decay::{Averaging, Course};
use crate::weigh::robust::Rule;

/// A way to weights: a row of the module's table. Faces know a scheme by its name, so that a new one is a row here and
/// nothing elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Scheme {
    /// The name in options and reports.
    pub name: &'static str,
    /// uᵢ, the weight before normalising, as people write it.
    pub formula: &'static str,
    /// Which penalties fit; `None` for a scheme that has none.
    pub penalty: Option<Span>,
    /// What it looks at.
    pub needs: Needs,
    /// uᵢ of each input.
    weigh: Formula,
}

/// What a scheme looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A metric of each checkpoint.
    Metric,
    /// The order of the checkpoints of one run, and most often their steps.
    Steps,
    /// The tensors themselves, so that only a merge knows the weights.
    Tensors,
    /// Nothing.
    Nothing,
}

impl Needs {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metric => "a metric",
            Self::Steps => "steps",
            Self::Tensors => "the tensors",
            Self::Nothing => "–",
        }
    }
}

/// What a scheme is given.
pub(crate) struct Given<'a> {
    /// One per input.
    metrics: &'a [f64],
    goal: Goal,
    penalty: f64,
    /// The least span of badness.
    floor: f64,
    averaging: Averaging,
    course: &'a Course,
}

/// To unnormalised weights.
type Formula = fn(&Given<'_>) -> Result<Vec<f64>>;

impl Scheme {
    /// Every scheme; the first is the default.
    pub const ALL: [Self; 11] = [
        Self {
            name: "linear",
            formula: "1 − p·gᵢ; at p = 1 the worst gets nothing",
            penalty: Some(Span::Between(0.0, 1.0)),
            needs: Needs::Metric,
            weigh: |it| {
                Ok(badness(it.metrics, it.goal, it.floor).iter().map(|g| 1.0 - it.penalty * g).collect())
            },
        },
        Self {
            name: "power",
            formula: "(m_best / mᵢ)^p for a loss, (mᵢ / m_best)^p for a score; all m > 0",
            penalty: Some(Span::From(0.0)),
            needs: Needs::Metric,
            weigh: |it| power(it.metrics, it.goal, it.penalty),
        },
        Self {
            name: "exponential",
            formula: "exp(−p·gᵢ)",
            penalty: Some(Span::From(0.0)),
            needs: Needs::Metric,
            weigh: |it| {
                let badness = badness(it.metrics, it.goal, it.floor);
                Ok(badness.iter().map(|g| libm::exp(-it.penalty * g)).collect())
            },
        },
        Self {
            name: "rank",
            formula: "(1 − p)^rank, the best has rank 0, ties share their mean rank",
            penalty: Some(Span::Below(0.0, 1.0)),
            needs: Needs::Metric,
            weigh: |it| {
                let ranks = ranks(it.metrics, it.goal);
                Ok(ranks.iter().map(|&rank| libm::pow(1.0 - it.penalty, rank)).collect())
            },
        },
        Self {
            name: "decay",
            formula: "what a decay of the learning rate over these checkpoints would leave of their updates",
            penalty: None,
            needs: Needs::Steps,
            weigh: |it| it.averaging.decay(it.course),
        },
        Self {
            name: "ema",
            formula: "a moving average from the oldest on: d of what there was, 1 − d of the next",
            penalty: None,
            needs: Needs::Steps,
            weigh: |it| it.averaging.ema(it.course),
        },
        Self::UNIFORM,
        Self::robust("flag", "the mean of what the R directions keep that most inputs have in common"),
        Self::robust("krum", "1 for the input whose K−F−2 nearest are nearest, else 0"),
        Self::robust("multi-krum", "1 for the K−F−2 inputs whose K−F−2 nearest are nearest, else 0"),
        Self::robust("geometric-median", "1 / distance from the point whose distances have the least sum"),
    ];

    /// The names of [`Self::ALL`].
    pub const NAMES: [&str; Self::ALL.len()] = {
        let mut names = [""; Self::ALL.len()];
        let mut row = 0;
        while row < names.len() {
            names[row] = Self::ALL[row].name;
            row += 1;
        }
        names
    };

    /// Every input the same.
    pub const UNIFORM: Self = Self {
        name: "uniform",
        formula: "1",
        penalty: None,
        needs: Needs::Nothing,
        weigh: |it| Ok(vec![1.0; it.metrics.len()]),
    };

    /// One whose weights come of the tensors ([`crate::weigh::robust`]), so that no metric gives them.
    const fn robust(name: &'static str, formula: &'static str) -> Self {
        Self {
            name,
            formula,
            penalty: None,
            needs: Needs::Tensors,
            weigh: |_| {
                Err(bad("the tensors decide the weights of this scheme, not a metric").help(
                    "merge checkpoints with it, or use linear, power, exponential, rank or uniform here",
                ))
            },
        }
    }

    /// Whether the tensors decide, so that only a merge knows the weights.
    #[must_use]
    pub fn reads_tensors(self) -> bool {
        Rule::named(self.name).is_some()
    }

    /// Whether weights depend on a metric at all.
    #[must_use]
    pub const fn reads_metric(self) -> bool {
        matches!(self.needs, Needs::Metric)
    }

    fn check(self, penalty: f64) -> Result<()> {
        match self.penalty {
            Some(span) if !span.contains(penalty) => {
                Err(bad(format!("penalty {penalty} is out of range for the {self} scheme"))
                    .help(format!("it must be {span}")))
            }
            _ => Ok(()),
        }
    }
}

impl Default for Scheme {
    fn default() -> Self {
        Self::ALL[0]
    }
}

impl PartialEq for Scheme {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for Scheme {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name == name).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("there is no weighting scheme `{name}`"))
                .help(format!("use {}", spelling::one_of(&Self::NAMES)))
        })
    }
}

impl<'de> serde::Deserialize<'de> for Scheme {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> core::result::Result<Self, D::Error> {
        alloc::string::String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Metrics that differ by less than this share of their size, best to worst, are not blown up to badness 1.
pub(crate) const NOISE: f64 = 0.005;

/// One weight per input.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Invariant: non-empty, finite, sum = 1 within rounding, but for [`Self::scalars`].
    values: Vec<f64>,
}

impl Weights {
    /// Weights from metrics; `penalty` is ignored by a scheme that has none.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when there is no metric, one is not finite, the penalty is out of the scheme's range, the
    /// power scheme meets a metric that is not positive, or the scheme needs steps, which are not known here.
    pub fn new(metrics: &[f64], goal: Goal, scheme: Scheme, penalty: f64) -> Result<Self> {
        Self::scaled(metrics, goal, scheme, penalty, floor(metrics))
    }

    /// Weights from values of a metric with this name; the step, which is exact, has no floor.
    ///
    /// # Errors
    /// Those of [`Weights::new`].
    pub(crate) fn named(
        name: &str,
        values: &[f64],
        goal: Goal,
        scheme: Scheme,
        penalty: f64,
    ) -> Result<Self> {
        let floor = if name == "step" { 0.0 } else { floor(values) };
        Self::scaled(values, goal, scheme, penalty, floor)
    }

    fn scaled(metrics: &[f64], goal: Goal, scheme: Scheme, penalty: f64, floor: f64) -> Result<Self> {
        if let Some((i, m)) = metrics.iter().enumerate().find(|(_, m)| !m.is_finite()) {
            return Err(bad(format!("metric {} of {} is {m}", i + 1, metrics.len()))
                .help("leave that checkpoint out"));
        }
        scheme.check(penalty)?;
        let course = &Course { count: metrics.len(), ..Course::default() };
        let averaging = Averaging::default();
        Self::normalise((scheme.weigh)(&Given { metrics, goal, penalty, floor, averaging, course })?)
    }

    /// Weights by a scheme that needs no metric, oldest first.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when there is nothing to weigh, or the scheme needs steps that are not known.
    pub(crate) fn over(course: &Course, scheme: Scheme, averaging: Averaging) -> Result<Self> {
        let metrics = &*vec![0.0; course.count];
        Self::normalise((scheme.weigh)(&Given {
            metrics,
            goal: Goal::Min,
            penalty: 0.0,
            floor: 0.0,
            averaging,
            course,
        })?)
    }

    /// The caller's own weights, normalised to sum to 1. Negative ones are allowed.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when there is none, one is not finite, or they sum to zero or less.
    pub fn explicit(values: &[f64]) -> Result<Self> {
        if let Some((i, w)) = values.iter().enumerate().find(|(_, w)| !w.is_finite()) {
            return Err(bad(format!("weight {} of {} is {w}", i + 1, values.len()))
                .help("weights are finite numbers"));
        }
        Self::normalise(values.to_vec())
    }

    /// Weights that were normalised before, as a report holds them: taken as they are, to the bit.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when there is none, one is not finite, or they do not sum to 1 within 1e-9.
    pub fn normalised(values: &[f64]) -> Result<Self> {
        let sum: f64 = values.iter().sum();
        let is_one = (sum - 1.0).abs() < 1e-9;
        if values.is_empty() || !is_one {
            return Err(bad(format!("the weights sum to {sum}, not to 1")));
        }
        Ok(Self { values: values.to_vec() })
    }

    /// What the inputs of a tensor are multiplied by, whatever the sum.
    pub(crate) fn scalars(values: Vec<f64>) -> Self {
        Self { values }
    }

    fn normalise(mut values: Vec<f64>) -> Result<Self> {
        if values.is_empty() {
            return Err(bad("there is nothing to weigh").help("give at least one checkpoint"));
        }
        let sum: f64 = values.iter().sum();
        if !(sum > 0.0 && sum.is_finite()) {
            return Err(bad(format!("the weights sum to {sum}")).help("weights must have a positive sum"));
        }
        for value in &mut values {
            *value /= sum;
        }
        Ok(Self { values })
    }

    /// The weights in f64, in the order of the inputs.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The weight that multiplies input `i`: rounded to f32 once; one too small for a normal f32 is 0.
    #[must_use]
    pub fn rounded(&self, i: usize) -> f32 {
        #[expect(clippy::cast_possible_truncation, reason = "this is the one rounding")]
        let weight = self.values[i] as f32;
        if weight.abs() < f32::MIN_POSITIVE { 0.0 } else { weight }
    }

    /// The inputs whose weight is not zero.
    pub fn used(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.values.len()).filter(|&i| self.rounded(i) != 0.0)
    }
}

fn bad(detail: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Weights, detail)
}

/// The best and the worst value.
fn extremes(metrics: &[f64], goal: Goal) -> (f64, f64) {
    let low = metrics.iter().copied().fold(f64::INFINITY, f64::min);
    let high = metrics.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match goal {
        Goal::Min => (low, high),
        Goal::Max => (high, low),
    }
}

/// The least span between the best and the worst metric that counts as a whole: [`NOISE`] of the largest in size.
pub(crate) fn floor(metrics: &[f64]) -> f64 {
    NOISE * metrics.iter().fold(0.0, |largest, m| f64::max(largest, m.abs()))
}

/// gᵢ of the module's head.
fn badness(metrics: &[f64], goal: Goal, floor: f64) -> Vec<f64> {
    let (best, worst) = extremes(metrics, goal);
    // halved, so that a span from -f64::MAX to f64::MAX does not overflow
    let span = f64::max((worst / 2.0 - best / 2.0).abs(), floor / 2.0);
    let worse = |m: f64| (m / 2.0 - best / 2.0).abs();
    metrics.iter().map(|&m| if worse(m) == 0.0 { 0.0 } else { worse(m) / span }).collect()
}

/// Best first from 0; equal metrics share the mean of their places.
pub(crate) fn ranks(metrics: &[f64], goal: Goal) -> Vec<f64> {
    let better = |a: f64, b: f64| match goal {
        Goal::Min => a < b,
        Goal::Max => a > b,
    };
    let rank = |m: f64| {
        let ahead = metrics.iter().filter(|&&other| better(other, m)).count();
        let ties = metrics.iter().filter(|&&other| other == m).count();
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 checkpoints")]
        let mean = ahead as f64 + (ties - 1) as f64 / 2.0;
        mean
    };
    metrics.iter().map(|&m| rank(m)).collect()
}

fn power(metrics: &[f64], goal: Goal, penalty: f64) -> Result<Vec<f64>> {
    if let Some((i, m)) = metrics.iter().enumerate().find(|(_, m)| **m <= 0.0) {
        let (nth, count) = (i + 1, metrics.len());
        return Err(bad(format!(
            "the power scheme needs positive metrics, but metric {nth} of {count} is {m}"
        ))
        .help("use --scheme linear, exponential or rank"));
    }
    let (best, _) = extremes(metrics, goal);
    let ratio = |m: f64| match goal {
        Goal::Min => best / m,
        Goal::Max => m / best,
    };
    Ok(metrics.iter().map(|&m| libm::pow(ratio(m), penalty)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weigh(metrics: &[f64], scheme: &str, penalty: f64) -> Vec<f64> {
        Weights::new(metrics, Goal::Min, scheme.parse().unwrap(), penalty).unwrap().values().to_vec()
    }

    #[test]
    fn no_penalty_is_the_plain_mean_in_every_scheme() {
        let needing = |scheme: &Scheme| !scheme.reads_tensors() && scheme.needs != Needs::Steps;
        for scheme in Scheme::ALL.into_iter().filter(needing) {
            assert_eq!(weigh(&[3.0, 1.0, 2.0, 5.0], scheme.name, 0.0), [0.25; 4], "{scheme}");
        }
        for scheme in ["flag", "krum", "multi-krum", "geometric-median"] {
            let error = Weights::new(&[1.0, 2.0], Goal::Min, scheme.parse().unwrap(), 0.0).unwrap_err();
            assert_eq!(error.detail(), "the tensors decide the weights of this scheme, not a metric");
        }
    }

    #[test]
    fn linear_gives_the_worst_nothing_at_penalty_one() {
        assert_eq!(weigh(&[1.0, 2.0, 3.0], "linear", 1.0), [2.0 / 3.0, 1.0 / 3.0, 0.0]);
    }

    #[test]
    fn equal_metrics_weigh_the_same() {
        assert_eq!(weigh(&[0.5; 4], "linear", 1.0), [0.25; 4]);
        assert_eq!(weigh(&[0.5; 4], "rank", 0.9), [0.25; 4]);
    }

    #[test]
    fn differences_below_half_a_percent_are_not_blown_up() {
        // three evaluations at the end of a real run; without the floor 0.12, 0.25, 0.62
        let rounded = |weights: Vec<f64>| weights.iter().map(|w| libm::round(w * 1e4)).collect::<Vec<_>>();
        assert_eq!(rounded(weigh(&[0.19334, 0.19333, 0.19330], "linear", 0.8)), [3286.0, 3315.0, 3399.0]);
        assert_eq!(rounded(weigh(&[-1.0, -1.001], "linear", 1.0)), [4445.0, 5555.0]);
        // half a percent and more is scaled as a whole
        assert_eq!(weigh(&[1.0, 0.99], "linear", 1.0), [0.0, 1.0]);
    }

    #[test]
    fn steps_have_no_floor() {
        let weights = |scheme| {
            Weights::named(
                "step",
                &[1e6, 1e6 + 1.0, 1e6 + 2.0],
                Goal::Max,
                Scheme::from_str(scheme).unwrap(),
                1.0,
            )
            .unwrap()
        };
        assert_eq!(weights("linear").values(), [0.0, 1.0 / 3.0, 2.0 / 3.0]);
        assert!(weights("power").values()[0] > 0.333);
    }

    #[test]
    fn ties_share_their_mean_rank() {
        assert_eq!(ranks(&[0.2, 0.1, 0.2, 0.9], Goal::Min), [1.5, 0.0, 1.5, 3.0]);
        assert_eq!(ranks(&[0.2, 0.1, 0.2, 0.9], Goal::Max), [1.5, 3.0, 1.5, 0.0]);
    }

    #[test]
    fn what_cannot_be_weighed_is_an_error() {
        let fails = |metrics: &[f64], scheme: &str, penalty| {
            Weights::new(metrics, Goal::Min, scheme.parse().unwrap(), penalty).is_err()
        };
        assert!(fails(&[1.0], "linear", 1.1));
        assert!(fails(&[1.0], "linear", f64::NAN));
        assert!(fails(&[1.0], "rank", 1.0));
        assert!(fails(&[1.0, -1.0], "power", 1.0));
        assert!(fails(&[1.0, f64::NAN], "linear", 0.5));
        assert!(fails(&[], "linear", 0.5));
        assert!(Weights::explicit(&[1.0, -1.0]).is_err());
        assert!(Weights::explicit(&[f64::INFINITY]).is_err());
    }

    #[test]
    fn a_penalty_out_of_range_names_the_range() {
        for (scheme, penalty, range) in [
            ("linear", 1.1, "between 0 and 1"),
            ("rank", 1.0, "at least 0 and below 1"),
            ("power", -0.5, "0 or larger"),
            ("exponential", f64::INFINITY, "0 or larger"),
        ] {
            let error = Weights::new(&[1.0], Goal::Min, scheme.parse().unwrap(), penalty).unwrap_err();
            assert_eq!(error.advice(), Some(&*format!("it must be {range}")), "{scheme}");
        }
    }

    #[test]
    fn an_unknown_scheme_is_answered_with_all_there_are() {
        let error = "lineal".parse::<Scheme>().unwrap_err();
        assert_eq!(
            error.advice(),
            Some(
                "use linear, power, exponential, rank, decay, ema, uniform, flag, krum, multi-krum or geometric-median"
            )
        );
    }

    #[test]
    fn a_weight_below_every_normal_f32_is_zero() {
        let weights = Weights::explicit(&[1.0, 1e-40]).unwrap();
        assert_eq!(weights.used().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn schemes_are_told_apart_and_written_by_their_names() {
        for (i, scheme) in Scheme::ALL.into_iter().enumerate() {
            assert_eq!(Scheme::ALL.iter().position(|other| *other == scheme), Some(i));
            assert_eq!((format!("{scheme}"), Scheme::NAMES[i]), (scheme.name.into(), scheme.name));
            let read: Scheme = serde_json::from_str(&format!("\"{scheme}\"")).unwrap();
            assert_eq!(read, scheme);
        }
        assert!(serde_json::from_str::<Scheme>("\"softmax\"").is_err());
    }

    #[test]
    fn each_formula_gives_what_it_says() {
        let ratio = |metrics: &[f64], goal, scheme: &str, penalty: f64| {
            let weights = Weights::new(metrics, goal, scheme.parse().unwrap(), penalty).unwrap();
            weights.values()[1] / weights.values()[0]
        };
        let is_close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} against {b}");
        is_close(ratio(&[1.0, 2.0], Goal::Min, "linear", 0.75), 0.25);
        is_close(ratio(&[1.0, 2.0, 3.0], Goal::Min, "linear", 0.8), 0.6);
        is_close(ratio(&[1.0, 2.0], Goal::Min, "exponential", 2.0), libm::exp(-2.0));
        is_close(ratio(&[1.0, 2.0], Goal::Max, "exponential", 2.0), libm::exp(2.0));
        is_close(ratio(&[1.0, 2.0], Goal::Min, "power", 3.0), 1.0 / 8.0);
        is_close(ratio(&[1.0, 4.0], Goal::Max, "power", 0.5), 2.0);
        is_close(ratio(&[1.0, 2.0, 3.0], Goal::Min, "rank", 0.5), 0.5);
        is_close(ratio(&[1.0, 2.0, 3.0], Goal::Max, "rank", 0.25), 1.0 / 0.75);
        let error = Weights::new(&[1.0, 0.0], Goal::Max, "power".parse().unwrap(), 1.0).unwrap_err();
        assert_eq!(error.detail(), "the power scheme needs positive metrics, but metric 2 of 2 is 0");
    }

    #[test]
    fn weights_of_a_report_are_taken_as_they_are_if_they_sum_to_one() {
        assert_eq!(Weights::normalised(&[0.5, 0.5 + 1e-10]).unwrap().values(), [0.5, 0.5 + 1e-10]);
        for wrong in [&[][..], &[0.5, 0.4], &[0.5, 0.6], &[f64::NAN], &[0.5, 0.5 - 1e-8]] {
            assert_eq!(Weights::normalised(wrong).unwrap_err().kind(), ErrorKind::Weights, "{wrong:?}");
        }
    }

    #[test]
    fn what_has_weight_is_what_is_used() {
        let weights = Weights::explicit(&[1.0, 0.0, 1e-60, 1.0]).unwrap();
        assert_eq!(weights.used().collect::<Vec<_>>(), [0, 3]);
        let least = Weights { values: vec![f64::from(f32::MIN_POSITIVE), 1.0] };
        assert_eq!(least.rounded(0), f32::MIN_POSITIVE);
    }
}
