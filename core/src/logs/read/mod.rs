//! Read one metric for each checkpoint from the logs of its run.
//!
//! Training metrics are means over the steps between two records, so they are read as `smooth.rs` says.
//! Evaluations are of the weights themselves: only the record at exactly the checkpoint's step counts, or the
//! nearest within the tolerance that the user allows. Evaluation and training loss are never mixed. A
//! checkpoint of a diverged run is bad whatever the metric.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::diverged::diverged;
use crate::logs::goal::Goal;
use crate::logs::history::{Branch, History};
use crate::logs::metric::{Metric, MetricOptions, Outcome, Reading, Source};
use crate::logs::series::Series;
use crate::logs::smooth::{Intervals, covers};
use crate::logs::trainer::is_timing;
use crate::text::spelling::closest;

/// The metric that is taken, where it is logged, when the user names none.
pub(crate) const EVALUATION: &str = "eval_loss";

/// How many metrics a message lists.
const LISTED: usize = 12;

/// Read one metric for the checkpoints at `steps`, in optimizer steps.
///
/// Without a name: `eval_loss` if every checkpoint that has not diverged has one, else the step itself. Training loss is
/// taken only by name: on 45 real runs its weights were no better than a plain mean, those of the step were.
///
/// Evaluations are read at exactly the checkpoint's step. A training record at step tᵢ is the mean over the steps
/// since the one before (transformers `trainer.py`, `_maybe_log_save_evaluate`), so it is smoothed: for
/// checkpoint s, Σᵢ oᵢ·vᵢ / Σᵢ oᵢ with oᵢ the steps that (tᵢ₋₁, tᵢ] and [s − W/2, s + W/2] share, and
/// W = max(2 · logging interval, save spacing / 2) unless `options.smooth` says otherwise.
///
/// ```
/// use mwa::{History, MetricOptions, TrainerState};
/// let text = r#"{"global_step": 20, "log_history": [{"step": 10, "loss": 1.5}, {"step": 20, "loss": 1.25}]}"#;
/// let history = History::new([TrainerState::parse(text)?]);
/// let options = MetricOptions { name: Some("loss".into()), smooth: Some(10.0), ..MetricOptions::default() };
/// let metric = mwa::read_metric(&history, &[10, 20], &options)?;
/// assert_eq!((metric.name.as_str(), metric.values()?), ("loss", vec![1.375, 1.25]));
/// # Ok::<(), mwa::Error>(())
/// ```
pub fn read_metric(history: &History, steps: &[u64], options: &MetricOptions) -> Result<Metric> {
    options.check()?;
    if steps.is_empty() {
        return Err(Error::new(ErrorKind::Metric, "no checkpoints were given to read a metric for"));
    }
    history.check_restarts(steps)?;
    let (branches, notes) = history.branches_of(steps);
    let mut reader =
        Reader { history, steps, branches, save_spacing: history.save_spacing(steps), options, notes };
    let name = match &options.name {
        Some(name) => reader.known(name)?,
        None => reader.choose()?,
    };
    let goal = match history.goal(&name).filter(|_| options.goal.is_none()) {
        Some(goal) => goal,
        None => options.goal_of(&name)?,
    };
    let readings = reader.outcomes(&name);
    reader.note_smoothing(&name, &readings);
    let checkpoints = steps.iter().map(|step| format!("step {step}")).collect();
    Metric { name, goal, checkpoints, readings, notes: reader.notes, parts: Vec::new() }.flag(options.strict)
}

impl History {
    /// The metrics of the run, those with a known goal first, each with how many of the checkpoints it
    /// covers.
    #[must_use]
    pub fn coverage(&self, steps: &[u64]) -> Vec<(&str, usize)> {
        let (branches, _) = self.branches_of(steps);
        let covered = |name: &str| {
            let each = steps.iter().zip(&branches);
            let is_evaluation = self.is_evaluation(name);
            each.filter(|(step, branch)| self.branch(**branch).covers(name, is_evaluation, **step, 0)).count()
        };
        self.comparable().into_iter().map(|name| (name, covered(name))).collect()
    }

    /// What was logged of a metric over checkpoints at these steps, for a look at its noise: an evaluation at them, of a metric
    /// of the training each record after the first up to the last. Nothing that is not finite.
    pub(crate) fn logged(&self, name: &str, steps: &[u64]) -> Vec<f64> {
        let (Some(first), Some(last)) = (steps.iter().min(), steps.iter().max()) else { return Vec::new() };
        let (branches, _) = self.branches_of(steps);
        let values: Vec<f64> = if self.is_evaluation(name) {
            let at = |(step, branch): (&u64, &usize)| {
                nearest(self.branch(*branch).log.get(name)?, *step, 0).map(|(_, value)| value)
            };
            steps.iter().zip(&branches).filter_map(at).collect()
        } else {
            let at = steps.iter().position(|step| step == last).unwrap_or(0);
            let series = self.branch(branches[at]).log.get(name).unwrap_or_default();
            series.iter().filter(|(step, _)| first < step && step <= last).map(|(_, value)| *value).collect()
        };
        values.into_iter().filter(|value| value.is_finite()).collect()
    }

    /// The names of the metrics that say something of the model, those with a known goal first.
    fn comparable(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.names().into_iter().filter(|name| !is_timing(name)).collect();
        names.sort_unstable_by_key(|name| (Goal::infer(name).is_none(), !self.is_evaluation(name), *name));
        names
    }
}

impl Branch {
    /// Whether the log says something of the metric at this very step, or of an evaluation within the
    /// tolerance.
    fn covers(&self, name: &str, is_evaluation: bool, step: u64, tolerance: u64) -> bool {
        match self.log.get(name) {
            None => false,
            Some(series) if is_evaluation => nearest(series, step, tolerance).is_some(),
            Some(series) => covers(series, step),
        }
    }
}

struct Reader<'a> {
    history: &'a History,
    steps: &'a [u64],
    /// The branch of each step.
    branches: Vec<usize>,
    /// The usual distance between two checkpoints, in steps.
    save_spacing: u64,
    options: &'a MetricOptions,
    notes: Vec<String>,
}

impl Reader<'_> {
    /// The metric with this name, or an error that lists what there is.
    fn known(&self, name: &str) -> Result<String> {
        if name == "step" || self.history.names().contains(&name) {
            return Ok(name.to_string());
        }
        let shown = self.history.comparable();
        let listed: Vec<String> = shown.iter().take(LISTED).map(|name| self.coverage(name)).collect();
        let rest = shown.len().saturating_sub(LISTED);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        let error = if shown.is_empty() {
            Error::new(ErrorKind::Metric, format!("there is no metric `{name}`: this run logged no metrics"))
        } else {
            let detail = format!("there is no metric `{name}`; the logs hold {}{more}", listed.join(", "));
            Error::new(ErrorKind::Metric, detail)
        };
        Err(match closest(name, shown.iter().copied()) {
            Some("loss") if name == "train_loss" => {
                error.help("train_loss is the mean over the whole run: the checkpoints' own is --metric loss")
            }
            Some(near) => error.help(format!("did you mean --metric {near}?")),
            None if shown.is_empty() => error.help("use --metric step, or give your own with --metrics-file"),
            None => error.help("choose one of these, or --metric step, or give your own with --metrics-file"),
        })
    }

    /// The metric to take when the user named none.
    fn choose(&mut self) -> Result<String> {
        let names = self.history.names();
        let mut partly = None;
        if names.contains(&EVALUATION) {
            if self.is_complete(EVALUATION) {
                return Ok(EVALUATION.to_string());
            }
            let coverage = self.coverage(EVALUATION);
            if self.options.strict {
                let detail = format!("{EVALUATION} is not logged for every checkpoint: {coverage}");
                return Err(Error::new(ErrorKind::Metric, detail)
                    .help("name a metric with --metric, for example step"));
            }
            let is_bad = |outcome: &Outcome| matches!(outcome, Outcome::Bad(_));
            let why = if self.outcomes(EVALUATION).iter().all(is_bad) {
                "it is NaN or infinite at every checkpoint".to_string()
            } else {
                format!("not every checkpoint has one ({coverage})")
            };
            partly = Some(format!("{EVALUATION} is not used, as {why}"));
        }
        let others = self.history.comparable();
        let mut others =
            others.into_iter().filter(|name| self.history.is_evaluation(name) && *name != EVALUATION);
        let listed: Vec<String> = others.by_ref().take(LISTED).map(|name| self.coverage(name)).collect();
        let more = match others.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let why = match (partly, listed.as_slice()) {
            (Some(why), []) => why,
            (None, []) if names.is_empty() => "no log is there".into(),
            (None, []) => format!("no {EVALUATION} is logged"),
            (partly, _) => {
                self.notes.extend(partly);
                format!("evaluations are logged as {}{more} (choose one with --metric)", listed.join(", "))
            }
        };
        self.notes.push(format!("{why}, so the step is the metric: later counts as better"));
        Ok("step".to_string())
    }

    /// Whether the log has a value for every checkpoint. A bad one counts, as long as some are good: turning to
    /// another metric would hide that a checkpoint is bad.
    fn is_complete(&self, name: &str) -> bool {
        let outcomes = self.outcomes(name);
        outcomes.iter().any(|outcome| matches!(outcome, Outcome::Read(_)))
            && !outcomes.iter().any(|outcome| matches!(outcome, Outcome::Missing(_)))
    }

    /// "eval_loss 4/10".
    fn coverage(&self, name: &str) -> String {
        let is_evaluation = self.history.is_evaluation(name);
        let covers = |(step, branch): &(u64, &Branch)| {
            branch.covers(name, is_evaluation, *step, self.options.tolerance)
        };
        let covered = self.each().filter(covers);
        format!("{name} {}/{}", covered.count(), self.steps.len())
    }

    fn outcomes(&self, name: &str) -> Vec<Outcome> {
        let mut intervals: Vec<Option<Intervals>> = Vec::new();
        intervals.resize_with(self.branches.iter().max().map_or(0, |last| last + 1), || None);
        let outcome = |((step, branch), index): ((u64, &Branch), &usize)| {
            if let Some(reason) = diverged(&branch.records, step) {
                return Outcome::Bad(reason);
            }
            if name == "step" {
                return Outcome::Read(Reading { value: step as f64, source: Source::Step });
            }
            let Some(series) = branch.log.get(name) else {
                return Outcome::Missing("its log has none".to_string());
            };
            if self.history.is_evaluation(name) {
                return self.evaluation(name, series, step);
            }
            let new = || Intervals::new(series, &branch.records);
            self.training(name, intervals[*index].get_or_insert_with(new), step)
        };
        self.each().zip(&self.branches).map(outcome).collect()
    }

    fn evaluation(&self, name: &str, series: &Series, step: u64) -> Outcome {
        match nearest(series, step, self.options.tolerance) {
            Some((at, value)) if !value.is_finite() => {
                Outcome::Bad(format!("{name} is {value} at step {at}"))
            }
            Some((at, value)) => {
                let by = at.abs_diff(step);
                let source = if by == 0 { Source::Exact { step } } else { Source::Nearest { step: at, by } };
                Outcome::Read(Reading { value, source })
            }
            None => match nearest(series, step, u64::MAX) {
                Some((at, _)) => Outcome::Missing(format!("the nearest is at step {at}")),
                None => Outcome::Missing("none is logged".to_string()),
            },
        }
    }

    fn training(&self, name: &str, intervals: &Intervals, step: u64) -> Outcome {
        if let Some((at, value)) = intervals.not_finite(step) {
            return Outcome::Bad(format!("{name} is {value} in the log of step {at}"));
        }
        match intervals.read(step, self.window(intervals)) {
            Some(reading) if reading.value.is_finite() => Outcome::Read(reading),
            Some(_) => Outcome::Bad(format!("{name} is too large to average")),
            None => Outcome::Missing("none is logged before the run diverged".to_string()),
        }
    }

    /// The width of the smoothing window, in steps.
    fn window(&self, intervals: &Intervals) -> f64 {
        let logging = 2.0 * intervals.spacing() as f64;
        let saving = self.save_spacing as f64 / 2.0;
        self.options.smooth.unwrap_or(logging.max(saving))
    }

    fn note_smoothing(&mut self, name: &str, readings: &[Outcome]) {
        let is_smoothed = |outcome: &Outcome| {
            matches!(outcome, Outcome::Read(Reading { source: Source::Smoothed { .. }, .. }))
        };
        let Some(at) = readings.iter().position(is_smoothed) else { return };
        let branch = self.history.branch(self.branches[at]);
        if let Some(series) = branch.log.get(name) {
            let intervals = Intervals::new(series, &branch.records);
            let (window, spacing) = (self.window(&intervals), intervals.spacing());
            self.notes.push(format!(
                "{name} is averaged over {window} steps around each checkpoint, as the log has an entry every {spacing}"
            ));
        }
    }

    /// The steps, each with its branch.
    fn each(&self) -> impl Iterator<Item = (u64, &Branch)> {
        self.steps.iter().zip(&self.branches).map(|(step, index)| (*step, self.history.branch(*index)))
    }
}

/// The value nearest to a step, the earlier of two.
fn nearest(series: &Series, step: u64, tolerance: u64) -> Option<(u64, f64)> {
    let after = series.partition_point(|(at, _)| *at < step);
    let around = &series[after.saturating_sub(1)..series.len().min(after + 1)];
    let near = around.iter().min_by_key(|(at, _)| at.abs_diff(step));
    near.copied().filter(|(at, _)| at.abs_diff(step) <= tolerance)
}

#[cfg(test)]
mod tests;
