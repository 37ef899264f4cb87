//! When a merge will hardly help, or its weights say little: one sentence each, with what to do.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::logs::goal::Goal;
use crate::logs::metric::{Reading, Source};
use crate::weigh::schedule::Schedule;
use crate::weigh::scheme::{NOISE, floor};
use crate::weigh::separate::Separation;
use crate::weigh::window::share;

/// Merges of runs with fewer checkpoints than this were not measured.
const FEW: usize = 5;
/// A residual above this share says that the checkpoints lie too far apart: ten neighbours of the 45 runs measured stay below
/// 4 %, all 20 of a run, which is worse than its last checkpoint, lie between 8 and 17 %.
const FAR: f64 = 0.07;
/// Below this share of its peak, a learning rate at the end of a window had fallen.
const LOWERED: f64 = 0.9;

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

    /// A decay is put upon one that the learning rate had gone through by itself.
    pub(crate) fn on_decay(schedule: Option<Schedule>) -> Option<Self> {
        let schedule = schedule.filter(|schedule| schedule.share < LOWERED)?;
        let text = format!(
            "the learning rate had already fallen to {} of its peak between steps {} and {}, and this decay comes on top of that: \
             --correct-for-lr takes off what was done already",
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

    /// The metric does not tell the checkpoints apart; `readings` in the order of the steps, and what was logged from the first
    /// to the last of them where they are means over windows of that: neighbours share what they are made of.
    ///
    /// See [`Separation`] for what is judged. The step itself is not.
    pub(crate) fn on_metric(name: &str, readings: &[Option<Reading>], logged: &[f64]) -> Option<Self> {
        let is_measured =
            |source| matches!(source, Source::Exact { .. } | Source::Nearest { .. } | Source::Table { .. });
        let is_mean = |source| {
            matches!(source, Source::Smoothed { .. } | Source::Covering { .. } | Source::Interpolated { .. })
        };
        let of = |is: &dyn Fn(Source) -> bool| {
            let value = |reading: &Option<Reading>| reading.filter(|it| is(it.source)).map(|it| it.value);
            readings.iter().map(value).collect::<Option<Vec<_>>>()
        };
        if of(&is_mean).is_some_and(|values| values.len() > 1) {
            return Self::on_log(name, readings.len(), logged);
        }
        let values = of(&is_measured)?;
        let found = Separation::of(&values)?;
        if found.range < floor(&values) {
            let text = format!(
                "{name} differs by less than {} % over these {} checkpoints, so they weigh almost the same: to tell them apart \
                 evaluate with a metric that differs more, or on more examples",
                NOISE * 100.0,
                values.len()
            );
            return Some(Self::new("metric", found.range, text));
        }
        if found.separates != Some(false) {
            return None;
        }
        let text = format!(
            "{name} hardly tells these {} checkpoints apart (they differ by {} at most, neighbours by {}), so its weights will \
             hardly be better than --scheme uniform: evaluate on more examples, or with a metric that differs more",
            values.len(),
            short(found.range),
            short(found.noise * core::f64::consts::SQRT_2),
        );
        Some(Self::new("metric", found.range, text))
    }

    /// Some run is far worse than another: the best of its checkpoints by `name` is behind the other's worst, by more than the
    /// checkpoints of either differ and than a twentieth of the values. Each run is told with its best value and its worst.
    pub(crate) fn on_runs(name: &str, goal: Goal, runs: &[(&str, [f64; 2])]) -> Option<Self> {
        let sign = if goal == Goal::Min { 1.0 } else { -1.0 };
        let (mut better, mut worse) = (runs.first()?, runs.first()?);
        for run in runs {
            let best = |of: &(&str, [f64; 2])| sign * of.1[0];
            better = if best(run) < best(better) { run } else { better };
            worse = if best(run) > best(worse) { run } else { worse };
        }
        let ((better, [best, worst]), (worse, [other, last])) = (better, worse);
        let gap = sign * (other - worst);
        let near = f64::max((worst - best).abs(), (last - other).abs());
        if !(gap.is_finite() && gap > near && gap > 10.0 * floor(&[*worst, *other])) {
            return None;
        }
        let text = format!(
            "by {name} {worse} is far worse than {better} (its best checkpoint than the worst of {better}), so a merge of both will \
             hardly be better than one of {better} alone"
        );
        Some(Self::new("metric", gap, text))
    }

    /// What was logged of a training metric, record by record, shows no trend over `count` checkpoints.
    fn on_log(name: &str, count: usize, logged: &[f64]) -> Option<Self> {
        let found = Separation::of(logged).filter(|found| found.separates == Some(false))?;
        let text = format!(
            "the log of {name} is noise over these {count} checkpoints (its {} records differ by {} at most, neighbours by {}), so \
             its weights will hardly be better than --scheme uniform: weigh by an evaluation, or by --metric step",
            found.values,
            short(found.range),
            short(found.noise * core::f64::consts::SQRT_2),
        );
        Some(Self::new("metric", found.range, text))
    }

    /// An accuracy of so many questions hardly tells the checkpoints apart: they differ by less than two standard errors of a
    /// difference, √(2·a(1 − a)/n) each; `values` are shares between 0 and 1.
    pub(crate) fn on_questions(name: &str, values: &[f64], questions: usize) -> Option<Self> {
        let found = Separation::of(values)?;
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 checkpoints or questions")]
        let (mean, questions) = (values.iter().sum::<f64>() / values.len() as f64, questions as f64);
        let error = libm::sqrt(2.0 * mean * (1.0 - mean) / questions);
        if found.range >= 2.0 * error {
            return None;
        }
        let text = format!(
            "{name} on {questions} questions is uncertain by {} (one standard error), and these {} checkpoints differ by {} at most, \
             less than twice the error of a difference, {}: ask more questions, or weigh by a loss",
            short(error / core::f64::consts::SQRT_2),
            values.len(),
            short(found.range),
            short(error),
        );
        Some(Self::new("metric", found.range, text))
    }

    /// Averaged factors are far from the average of their products; `is_one_run`: all of the inputs are of one run, `is_beyond`:
    /// some weigh less than nothing.
    pub(crate) fn on_residual(overall: f64, is_one_run: bool, is_beyond: bool) -> Option<Self> {
        if overall.is_nan() || overall <= FAR {
            return None;
        }
        let what = if is_beyond {
            "do not fit together with weights below 0, which lead beyond them: give none below 0, or average products (--space product)"
        } else if is_one_run {
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

    /// Merged products lose much of what the adapters do, for the output's rank is too small for it.
    pub(crate) fn on_rank(overall: f64) -> Option<Self> {
        if overall.is_nan() || overall <= FAR {
            return None;
        }
        let text = format!(
            "the rank is too small for what the adapters do together, of which {:.0} % is lost: --rank full keeps all of it, and \
             --rank auto what counts",
            overall * 100.0
        );
        Some(Self::new("residual", overall, text))
    }

    /// Checkpoints of one run were merged as if they were different tasks, with the method of this name.
    pub(crate) fn on_one_task(method: &str, count: usize) -> Self {
        let text = format!(
            "these {count} checkpoints are of one run, and so of one task: {method}, which is for models of different tasks, is worse there \
             than their mean (leave out --method)"
        );
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 checkpoints")]
        Self::new("checkpoints", count as f64, text)
    }
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
            assert_eq!(Advice::on_residual(close, true, false), None, "{close}");
        }
        let far = Advice::on_residual(0.0821, true, false).unwrap();
        assert_eq!((far.about.as_str(), far.value), ("residual", 0.0821));
        assert!(far.text.contains("by 8.2 %, so the checkpoints lie too far apart"), "{}", far.text);
        let other = Advice::on_residual(0.0821, false, false).unwrap();
        assert!(other.text.contains("so the checkpoints are of different runs"), "{}", other.text);
        let beyond = Advice::on_residual(0.0821, true, true).unwrap();
        assert!(
            beyond.text.contains("weights below 0") && !beyond.text.contains("--last"),
            "{}",
            beyond.text
        );
    }

    #[test]
    fn an_accuracy_is_only_as_good_as_its_questions() {
        // 0.35 of 2,000: a standard error of 0.0107, of a difference 0.0151
        let told = Advice::on_questions("eval_accuracy", &[0.34, 0.36, 0.35], 2000).unwrap();
        assert!(
            told.text.starts_with(
                "eval_accuracy on 2000 questions is uncertain by 0.011 (one standard error), and these 3 checkpoints differ by 0.020 \
                 at most, less than twice the error of a difference, 0.015:"
            ),
            "{}",
            told.text
        );
        assert_eq!(Advice::on_questions("eval_accuracy", &[0.33, 0.37, 0.35], 2000), None);
        assert_eq!(Advice::on_questions("eval_accuracy", &[0.35; 3], 2000), None, "that is said elsewhere");
    }

    #[test]
    fn a_run_that_is_far_worse_than_another_is_told() {
        let on = |goal, a: [f64; 2], b: [f64; 2]| Advice::on_runs("m", goal, &[("a", a), ("b", b)]);
        let told = on(Goal::Min, [2.0, 2.1], [0.8, 0.9]).unwrap();
        assert!(told.text.starts_with("by m a is far worse than b (its best"), "{}", told.text);
        assert_eq!((told.about.as_str(), told.value), ("metric", 1.1));
        let told = on(Goal::Max, [0.6, 0.5], [-0.2, -0.3]).unwrap();
        assert!(told.text.starts_with("by m b is far worse than a (its best"), "{}", told.text);
        // ranges that touch, that lie near each other for what they span, or for what the values are
        for (a, b) in [([0.85, 2.0], [0.8, 0.9]), ([1.2, 1.4], [0.8, 1.1]), ([1.04, 1.04], [1.0, 1.0])] {
            assert_eq!(on(Goal::Min, a, b), None, "{a:?} {b:?}");
        }
        assert_eq!(on(Goal::Min, [1.0; 2], [f64::INFINITY; 2]), None);
    }

    #[test]
    fn means_over_windows_are_judged_by_the_log() {
        let smoothed = Source::Smoothed { from: 1, to: 9 };
        let readings: Vec<_> =
            [0.8, 0.79, 0.81].iter().map(|&value| Some(Reading { value, source: smoothed })).collect();
        let white = [0.81, 0.79, 0.80, 0.82, 0.78, 0.80, 0.81, 0.79, 0.80, 0.80];
        let told = Advice::on_metric("loss", &readings, &white).unwrap();
        assert!(told.text.starts_with(
            "the log of loss is noise over these 3 checkpoints (its 10 records differ by 0.040"
        ));
        let falling: Vec<f64> = (0..10).map(|i| 1.0 - f64::from(i) / 20.0).collect();
        assert_eq!(Advice::on_metric("loss", &readings, &falling), None);
        assert_eq!(Advice::on_metric("loss", &readings, &[]), None);
    }
}
