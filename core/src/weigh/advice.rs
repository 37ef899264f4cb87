//! When a merge will hardly help, or its weights say little: one sentence each, with what to do.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::logs::metric::{Reading, Source};
use crate::weigh::schedule::Schedule;
use crate::weigh::scheme::{NOISE, floor};
use crate::weigh::window::share;

/// Merges of runs with fewer checkpoints than this were not measured.
const FEW: usize = 5;
/// A residual above this share says that the checkpoints lie too far apart: ten neighbours of the 45 runs measured stay below
/// 4 %, all 20 of a run, which is worse than its last checkpoint, lie between 8 and 17 %.
const FAR: f64 = 0.07;
/// So many values at least are needed to tell a trend from noise.
const LEAST: f64 = 4.0;

/// A reason to expect little of a merge, or of its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// What it is about: `schedule`, `checkpoints`, `metric` or `residual`.
    pub about: String,
    /// The number behind it: the learning rate at the end as a share of its peak, the checkpoints of the run, the range of
    /// the metric, or the residual.
    pub value: f64,
    /// The sentence: what is the matter, and what to do.
    pub text: String,
}

impl Advice {
    fn new(about: &str, value: f64, text: String) -> Self {
        Self { about: about.into(), value, text }
    }

    /// The learning rate had decayed over these checkpoints.
    pub(crate) fn on_schedule(schedule: Option<Schedule>) -> Option<Self> {
        let schedule = schedule.filter(|schedule| schedule.is_small())?;
        let text = format!(
            "the learning rate fell to {} of its peak between steps {} and {}, so this merge will hardly be better than the \
             last checkpoint: compare the two, and to gain by merging save checkpoints at a constant rate, before it decays \
             (lr_scheduler_type=\"constant_with_warmup\")",
            share(schedule.share),
            schedule.from,
            schedule.to
        );
        Some(Self::new("schedule", schedule.share, text))
    }

    /// The run has few checkpoints; `found` in a searched run.
    pub(crate) fn on_checkpoints(found: usize) -> Option<Self> {
        if found >= FEW {
            return None;
        }
        let has = match found {
            1 => "only one checkpoint".into(),
            _ => format!("only {found} checkpoints"),
        };
        let text = format!(
            "the run has {has}, too few to gain much by merging: save more often (save_steps=0.05 saves twenty in a run, if no \
             save_total_limit deletes them)"
        );
        #[expect(clippy::cast_precision_loss, reason = "fewer than five")]
        Some(Self::new("checkpoints", found as f64, text))
    }

    /// The metric does not tell the checkpoints apart; `readings` in the order of the steps.
    ///
    /// The noise of one value is estimated from successive differences, σ² = Σ(mᵢ₊₁ − mᵢ)² / 2(K − 1), into which a trend
    /// hardly enters. The metric is said not to tell K ≥ 4 checkpoints apart if two tests agree at 5 %: the range is no more
    /// than noise would give (studentised range), and von Neumann's ratio Σ(mᵢ₊₁ − mᵢ)² / Σ(mᵢ − m̄)² shows no trend. Means
    /// over a window and the step itself are not judged: neighbours share what they are made of.
    pub(crate) fn on_metric(name: &str, readings: &[Option<Reading>]) -> Option<Self> {
        let is_measured =
            |source| matches!(source, Source::Exact { .. } | Source::Nearest { .. } | Source::Table { .. });
        let value =
            |reading: &Option<Reading>| reading.filter(|it| is_measured(it.source)).map(|it| it.value);
        let values = readings.iter().map(value).collect::<Option<Vec<_>>>()?;
        let spread = Spread::of(&values)?;
        if spread.range < floor(&values) {
            let text = format!(
                "{name} differs by less than {} % over these {} checkpoints, so they weigh almost the same: to tell them apart \
                 evaluate with a metric that differs more, or on more examples",
                NOISE * 100.0,
                values.len()
            );
            return Some(Self::new("metric", spread.range, text));
        }
        if !spread.is_noise() {
            return None;
        }
        let text = format!(
            "{name} hardly tells these {} checkpoints apart (they differ by {} at most, neighbours by {}), so its weights will \
             hardly be better than --scheme uniform: evaluate on more examples, or with a metric that differs more",
            values.len(),
            short(spread.range),
            short(spread.step),
        );
        Some(Self::new("metric", spread.range, text))
    }

    /// Averaged factors are far from the average of their products; `is_one_run`: all of the inputs are of one run.
    pub(crate) fn on_residual(overall: f64, is_one_run: bool) -> Option<Self> {
        if overall.is_nan() || overall <= FAR {
            return None;
        }
        let what = if is_one_run {
            "lie too far apart to be averaged well: take fewer of them (--last 5), or average products (--space product)"
        } else {
            "are of different runs, whose factors do not fit together: average products (--space product)"
        };
        let text = format!(
            "the result is off from the average of what the adapters do by {:.1} %, so the checkpoints {what}",
            overall * 100.0
        );
        Some(Self::new("residual", overall, text))
    }
}

/// How values differ, over all and from one to the next.
#[derive(Debug)]
struct Spread {
    count: f64,
    range: f64,
    /// σ̂·√2, the root mean square of successive differences.
    step: f64,
    /// Von Neumann's.
    ratio: f64,
}

impl Spread {
    /// None if all values are the same, which is said elsewhere, or differ beyond f64.
    fn of(values: &[f64]) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 checkpoints")]
        let count = values.len() as f64;
        let mean = values.iter().map(|value| value / count).sum::<f64>();
        let squares = |differences: &mut dyn Iterator<Item = f64>| differences.map(|it| it * it).sum::<f64>();
        let successive = squares(&mut values.windows(2).map(|pair| pair[1] - pair[0]));
        let about_mean = squares(&mut values.iter().map(|value| value - mean));
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let spread = Self {
            count,
            range: high - low,
            step: libm::sqrt(successive / (count - 1.0)),
            ratio: successive / about_mean,
        };
        let is_sound = spread.range > 0.0 && spread.range.is_finite() && spread.ratio.is_finite();
        is_sound.then_some(spread)
    }

    fn is_noise(&self) -> bool {
        if self.count < LEAST {
            return false;
        }
        let noise = self.step / core::f64::consts::SQRT_2;
        // 5 % point of von Neumann's ratio: its mean is 2, its variance 4(K − 2)/(K² − 1)
        let ratio = 2.0 - 1.645 * 2.0 * libm::sqrt((self.count - 2.0) / (self.count * self.count - 1.0));
        self.range < noise * studentised_range(self.count) && self.ratio > ratio
    }
}

/// 95 % point of range/σ̂ of K values that are noise, σ̂ from successive differences (simulated, 200,000 each); between the
/// rows on a line.
fn studentised_range(count: f64) -> f64 {
    const POINTS: [(f64, f64); 7] =
        [(4.0, 3.52), (5.0, 3.85), (7.0, 4.20), (10.0, 4.47), (20.0, 4.96), (30.0, 5.24), (50.0, 5.58)];
    let after = POINTS.iter().position(|(at, _)| *at >= count).unwrap_or(POINTS.len() - 1).max(1);
    let ((a, low), (b, high)) = (POINTS[after - 1], POINTS[after]);
    low + (high - low) * ((count - a) / (b - a)).clamp(0.0, 1.0)
}

/// Two significant digits of a positive number.
fn short(value: f64) -> String {
    if !(1e-4..1e6).contains(&value) {
        return format!("{value:.1e}");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 5")]
    let decimals = (1.0 - libm::floor(libm::log10(value))).clamp(0.0, 5.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_residual_from_seven_percent_on_is_told_with_what_helps() {
        for close in [0.0, FAR, f64::NAN] {
            assert_eq!(Advice::on_residual(close, true), None, "{close}");
        }
        let far = Advice::on_residual(0.0821, true).unwrap();
        assert_eq!((far.about.as_str(), far.value), ("residual", 0.0821));
        assert!(far.text.contains("by 8.2 %, so the checkpoints lie too far apart"), "{}", far.text);
        let other = Advice::on_residual(0.0821, false).unwrap();
        assert!(other.text.contains("so the checkpoints are of different runs"), "{}", other.text);
    }

    #[test]
    fn values_that_are_all_the_same_have_no_spread() {
        assert!(Spread::of(&[0.5; 6]).is_none() && Spread::of(&[0.5]).is_none());
        assert!(Spread::of(&[f64::MAX, -f64::MAX, f64::MAX]).is_none());
        let spread = Spread::of(&[1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.count, spread.range, spread.ratio), (3.0, 2.0, 2.5));
        assert_eq!(spread.step, libm::sqrt(2.5));
    }

    #[test]
    fn noise_is_what_has_neither_range_nor_trend() {
        // σ̂ = 1; at ten values the points are 4.47 and 1.0647
        let ten = |range, ratio| Spread { count: 10.0, range, step: core::f64::consts::SQRT_2, ratio };
        assert!(ten(4.4, 1.066).is_noise());
        assert!(!ten(4.5, 1.066).is_noise() && !ten(4.4, 1.063).is_noise());
        // at four they are 3.52 and 0.7988; fewer say nothing
        let few = |count| Spread { count, range: 3.5, step: core::f64::consts::SQRT_2, ratio: 0.81 };
        assert!(few(4.0).is_noise() && !few(3.0).is_noise());
    }

    #[test]
    fn the_studentised_range_lies_on_lines_between_its_points() {
        for (count, point) in
            [(3.0, 3.52), (4.0, 3.52), (5.0, 3.85), (6.0, 4.025), (15.0, 4.715), (40.0, 5.41), (80.0, 5.58)]
        {
            assert!(
                (studentised_range(count) - point).abs() < 1e-12,
                "{count}: {}",
                studentised_range(count)
            );
        }
    }
}
