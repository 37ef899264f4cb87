//! One metric with a value per checkpoint, and where each value comes from.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::goal::Goal;

/// A metric of several checkpoints, as read from a run's logs or from a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name, as the trainer or the user's table calls it.
    pub name: String,
    /// Whether lower or higher is better.
    pub goal: Goal,
    /// What each checkpoint is called in messages, in the order they were asked for.
    pub checkpoints: Vec<String>,
    /// What was found for each checkpoint, in the same order.
    pub readings: Vec<Outcome>,
    /// What the user should know: how the metric was chosen, smoothed or flagged.
    pub notes: Vec<String>,
    /// The metrics that it is made of, where it is of several.
    pub parts: Vec<Part>,
}

/// One of several metrics: a value per checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Whether lower or higher is better.
    pub goal: Goal,
    /// One per checkpoint, in the order they were asked for; NaN where it is not known.
    pub values: Vec<f64>,
}

/// What was found for one checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A finite value.
    Read(Reading),
    /// No value; the facts.
    Missing(String),
    /// The checkpoint must not be averaged: the run had diverged, or its value is not finite; the reason.
    Bad(String),
}

/// A value and its source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Finite.
    pub value: f64,
    /// Where the value comes from.
    pub source: Source,
}

/// Where a checkpoint's value comes from. All steps are counted from 1, both ends included.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A record of exactly the checkpoint's step.
    Exact {
        /// That step.
        step: u64,
    },
    /// The mean over a window centred on the checkpoint.
    Smoothed {
        /// The first step in the window.
        from: u64,
        /// The last step in the window.
        to: u64,
    },
    /// The one training record that covers the checkpoint.
    Covering {
        /// The first step that the record covers.
        from: u64,
        /// The last step that the record covers.
        to: u64,
    },
    /// On the line between the middles of two training records.
    Interpolated {
        /// The step of the record before.
        before: u64,
        /// The step of the record after.
        after: u64,
    },
    /// After the last training record: what it says, flagged.
    Stale {
        /// The step of the last record.
        last: u64,
        /// How many steps the checkpoint lies after it.
        by: u64,
    },
    /// Before the first training record: what it says, flagged.
    BeforeFirst {
        /// How many steps the checkpoint lies before the first step that the record covers.
        by: u64,
    },
    /// A record near the checkpoint's step, flagged.
    Nearest {
        /// The step of the record.
        step: u64,
        /// How many steps lie between.
        by: u64,
    },
    /// The user's own table.
    Table {
        /// The line of a text file, or the number of the entry in JSON, from 1.
        row: usize,
    },
    /// The step itself is the metric.
    Step,
    /// Several metrics in one.
    Combined {
        /// The checkpoint's place in the [`Metric::parts`].
        place: usize,
    },
}

impl Source {
    /// Whether the value is of a log of the training, whose records are means over the steps between two.
    pub(crate) fn is_of_training(self) -> bool {
        matches!(
            self,
            Self::Smoothed { .. }
                | Self::Covering { .. }
                | Self::Interpolated { .. }
                | Self::Stale { .. }
                | Self::BeforeFirst { .. }
        )
    }
}

/// Which metric to read, and how.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricOptions {
    /// The metric's name; none takes `eval_loss`, else the step.
    pub name: Option<String>,
    /// Which way it gets better; none infers it from the name.
    pub goal: Option<Goal>,
    /// The window to smooth training metrics over, in steps; 0 interpolates, none takes the default.
    pub smooth: Option<f64>,
    /// How many steps an evaluation may lie away from its checkpoint.
    pub tolerance: u64,
    /// Fail rather than take a value that does not cover the checkpoint's step.
    pub strict: bool,
}

/// What to do where all have diverged.
pub(crate) const TRAIN_AGAIN: &str =
    "train again with a lower learning rate, or start from earlier checkpoints";

impl Metric {
    /// The value of every checkpoint, or an error that names each one that is bad or has none.
    pub fn values(&self) -> Result<Vec<f64>> {
        let mut values = Vec::with_capacity(self.readings.len());
        let (mut bad, mut missing) = (Reasons::default(), Reasons::default());
        for (checkpoint, outcome) in self.checkpoints.iter().zip(&self.readings) {
            match outcome {
                Outcome::Read(reading) => values.push(reading.value),
                Outcome::Missing(facts) => missing.push(checkpoint, facts),
                Outcome::Bad(reason) => bad.push(checkpoint, reason),
            }
        }
        let (count, name) = (self.readings.len(), &self.name);
        if values.len() == count && count > 0 {
            return Ok(values);
        }
        let mut parts = Vec::new();
        if bad.count > 0 {
            parts.push(format!("{} of {count} checkpoints must not be averaged: {}", bad.count, bad.text));
        }
        if missing.count > 0 {
            parts.push(format!("{} of {count} checkpoints have no {name}: {}", missing.count, missing.text));
        }
        if count == 0 {
            parts.push("no checkpoint is left".to_string());
        }
        let error = Error::new(ErrorKind::Metric, parts.join("; "));
        Err(match (bad.count, missing.count) {
            (bad, _) if bad == count => error.help(TRAIN_AGAIN),
            (_, 0) => error.help("leave them out with --drop-bad"),
            _ => error.help(
                "choose a metric that every checkpoint has (--metric), or only checkpoints that have this one (--steps A..B, --last N)",
            ),
        })
    }

    /// Leave the bad checkpoints out; returns the index and the reason of each.
    pub fn drop_bad(&mut self) -> Vec<(usize, String)> {
        let mut dropped = Vec::new();
        for index in (0..self.readings.len()).rev() {
            if matches!(self.readings[index], Outcome::Bad(_))
                && let Outcome::Bad(reason) = self.readings.remove(index)
            {
                self.checkpoints.remove(index);
                dropped.push((index, reason));
            }
        }
        dropped.reverse();
        dropped
    }

    /// Note the values that are flagged; an error when the user wants none.
    pub(crate) fn flag(mut self, strict: bool) -> Result<Self> {
        let flagged =
            self.checkpoints.iter().zip(&self.readings).filter_map(|(checkpoint, outcome)| match outcome {
                Outcome::Read(Reading { source, .. }) if source.is_flagged() => {
                    Some(format!("{checkpoint}: {source}"))
                }
                _ => None,
            });
        let flagged: Vec<String> = flagged.collect();
        if flagged.is_empty() {
            return Ok(self);
        }
        let facts = format!("{} is not logged right at {}", self.name, flagged.join("; "));
        if strict {
            let help =
                "log at the steps at which checkpoints are saved, or allow this without --strict-metrics";
            return Err(Error::new(ErrorKind::Metric, facts).help(help));
        }
        self.notes.push(facts);
        Ok(self)
    }
}

/// Checkpoints with the reason of each, one that several have in a row said once: "a, b (why)".
#[derive(Default)]
struct Reasons<'a> {
    count: usize,
    text: String,
    last: &'a str,
}

impl<'a> Reasons<'a> {
    fn push(&mut self, checkpoint: &str, reason: &'a str) {
        let is_same = self.count > 0 && self.last == reason;
        if is_same {
            self.text.truncate(self.text.len() - " ()".len() - reason.len());
        }
        if self.count > 0 {
            self.text += ", ";
        }
        self.text += &format!("{checkpoint} ({reason})");
        (self.count, self.last) = (self.count + 1, reason);
    }
}

/// What to do where a goal cannot be told.
pub(crate) const SAY_GOAL: &str = "say so with --goal min or --goal max";

impl MetricOptions {
    /// The goal for a metric, as the user said or as its name gives away.
    pub(crate) fn goal_of(&self, name: &str) -> Result<Goal> {
        self.goal.or_else(|| Goal::infer(name)).ok_or_else(|| {
            let detail =
                format!("whether a lower or a higher `{name}` is better cannot be told from its name");
            Error::new(ErrorKind::Metric, detail).help(SAY_GOAL)
        })
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.smooth {
            Some(window) if !(window.is_finite() && window >= 0.0) => {
                let detail =
                    format!("the smoothing window is {window} steps, but must be finite and not negative");
                Err(Error::new(ErrorKind::Usage, detail))
            }
            _ => Ok(()),
        }
    }
}

impl Source {
    /// Whether the value does not cover the checkpoint's own step.
    #[must_use]
    pub fn is_flagged(&self) -> bool {
        matches!(self, Self::Stale { .. } | Self::BeforeFirst { .. } | Self::Nearest { .. })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact { step } => write!(f, "at step {step}"),
            Self::Smoothed { from, to } => write!(f, "mean of steps {from}–{to}"),
            Self::Covering { from, to } if from == to => write!(f, "log of step {to}"),
            Self::Covering { from, to } => write!(f, "log of steps {from}–{to}"),
            Self::Interpolated { before, after } => {
                write!(f, "between the logs of steps {before} and {after}")
            }
            Self::Stale { last, by } => write!(f, "logged {} before, at step {last}", steps(*by)),
            Self::BeforeFirst { by } => write!(f, "{} before the first log", steps(*by)),
            Self::Nearest { step, by } => write!(f, "at step {step}, {} away", steps(*by)),
            Self::Table { row } => write!(f, "table, row {row}"),
            Self::Step => f.write_str("the step itself"),
            Self::Combined { .. } => f.write_str("several metrics"),
        }
    }
}

fn steps(count: u64) -> String {
    if count == 1 { "1 step".to_string() } else { format!("{count} steps") }
}

/// Whether a metric is measured on a checkpoint's own weights, not over the training steps before it.
pub(crate) fn is_evaluation(name: &str) -> bool {
    let first = name.split(|letter: char| !letter.is_ascii_alphanumeric()).next().unwrap_or_default();
    name.len() > first.len()
        && ["eval", "test", "val", "valid", "validation", "dev", "predict"].contains(&first)
}

/// "step 7, 14".
pub(crate) fn list_steps(steps: &[u64]) -> String {
    let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
    format!("step {}", steps.join(", "))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn metric(readings: Vec<Outcome>) -> Metric {
        let checkpoints = (1..=readings.len()).map(|step| format!("step {step}")).collect();
        Metric {
            name: "eval_loss".to_string(),
            goal: Goal::Min,
            checkpoints,
            readings,
            notes: vec![],
            parts: vec![],
        }
    }

    fn read(value: f64, source: Source) -> Outcome {
        Outcome::Read(Reading { value, source })
    }

    #[test]
    fn values_are_all_or_an_error_that_names_each() {
        let good = read(1.5, Source::Step);
        assert_eq!(metric(vec![good.clone(), good.clone()]).values().unwrap(), [1.5, 1.5]);
        let mut mixed = metric(vec![
            Outcome::Bad("diverged".to_string()),
            good,
            Outcome::Missing("never evaluated".to_string()),
        ]);
        let error = mixed.values().unwrap_err();
        assert_eq!(
            error.to_string(),
            "1 of 3 checkpoints must not be averaged: step 1 (diverged); 1 of 3 checkpoints have no eval_loss: step 3 \
             (never evaluated)"
        );
        assert_eq!(mixed.drop_bad(), [(0, "diverged".to_string())]);
        assert_eq!(mixed.checkpoints, ["step 2", "step 3"]);
        assert!(mixed.values().unwrap_err().to_string().starts_with("1 of 2 checkpoints have no eval_loss"));
    }

    #[test]
    fn only_bad_checkpoints_can_be_dropped() {
        let bad = Outcome::Bad("diverged".to_string());
        let mut some = metric(vec![bad.clone(), read(1.0, Source::Step)]);
        assert_eq!(some.values().unwrap_err().advice(), Some("leave them out with --drop-bad"));
        some.drop_bad();
        assert_eq!(some.values().unwrap(), [1.0]);
        let mut all = metric(vec![bad.clone(), bad]);
        assert!(all.values().unwrap_err().advice().unwrap().starts_with("train again"));
        assert_eq!(all.drop_bad().len(), 2);
        assert_eq!(all.values().unwrap_err().detail(), "no checkpoint is left");
    }

    #[test]
    fn strict_refuses_flagged_values() {
        let stale = metric(vec![read(1.0, Source::Stale { last: 20, by: 5 })]);
        let note = "eval_loss is not logged right at step 1: logged 5 steps before, at step 20";
        assert_eq!(stale.clone().flag(false).unwrap().notes, [note]);
        assert_eq!(stale.flag(true).unwrap_err().detail(), note);
        assert!(
            metric(vec![read(1.0, Source::Covering { from: 1, to: 9 })]).flag(true).unwrap().notes.is_empty()
        );
    }

    #[test]
    fn sources_are_short() {
        assert_eq!(Source::Exact { step: 550 }.to_string(), "at step 550");
        assert_eq!(Source::Smoothed { from: 525, to: 575 }.to_string(), "mean of steps 525–575");
        assert_eq!(Source::Nearest { step: 549, by: 1 }.to_string(), "at step 549, 1 step away");
    }

    #[test]
    fn an_unknown_direction_must_be_told() {
        let mut options = MetricOptions::default();
        assert_eq!(options.goal_of("loss").unwrap(), Goal::Min);
        let error = options.goal_of("entropy").unwrap_err();
        assert_eq!(
            (error.kind(), error.advice().unwrap()),
            (ErrorKind::Metric, "say so with --goal min or --goal max")
        );
        options.goal = Some(Goal::Max);
        assert_eq!(options.goal_of("loss").unwrap(), Goal::Max);
    }

    #[test]
    fn a_window_is_finite_and_not_negative() {
        for window in [-1.0, f64::NAN, f64::INFINITY] {
            let options = MetricOptions { smooth: Some(window), ..MetricOptions::default() };
            assert_eq!(options.check().unwrap_err().kind(), ErrorKind::Usage);
        }
    }
}
