//! Unite the logs of one run, and tell its branches apart.
//!
//! The state in an early checkpoint may hold no metric at all, and the record that covers a checkpoint may
//! only be in a later file, so all logs of a run are united by (metric, step); the file that reaches furthest
//! wins. Logs that give different values for one (metric, step) are of different branches: the run was
//! resumed or restarted. Each checkpoint is read from the branch its own state belongs to.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::diverged;
use crate::logs::diverged::Record;
use crate::logs::goal::Goal;
use crate::logs::metric::{is_evaluation, list_steps};
use crate::logs::series::{Log, Series, median_gap, value_at};
use crate::logs::trainer::{TrainerState, is_timing};

/// Logs count as equal up to this share: ms-swift rounds what it writes to eight decimals.
const RELATIVE: f64 = 1e-6;
/// See [`RELATIVE`].
const ABSOLUTE: f64 = 1e-8;

/// Everything that was logged in one run.
#[derive(Clone, Debug)]
pub struct History {
    /// Invariant: not empty.
    branches: Vec<Branch>,
    save_steps: Option<u64>,
    /// Metrics that were measured of the checkpoints themselves, whatever their names.
    measured: Vec<String>,
    /// Metrics of which the logs say whether more is better.
    goals: Vec<(String, bool)>,
    /// The evaluation by which the run tells its best checkpoint.
    pub(crate) criterion: Option<String>,
    notes: Vec<String>,
}

/// Metrics whose values no two runs share by chance, as they do those of a schedule.
const TELLING: [&str; 4] = ["loss", "eval_loss", "grad_norm", "train_loss"];

/// Two checkpoints of two runs in one folder.
#[derive(Clone, Debug)]
pub(crate) struct Strangers {
    /// Their places among the steps asked for.
    pub(crate) pair: (usize, usize),
    /// A metric that both runs logged.
    pub(crate) metric: &'static str,
    /// The first step at which they did.
    pub(crate) step: u64,
    /// Its value in the first and in the second run.
    pub(crate) values: (f64, f64),
}

/// One course of the run, without contradiction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Branch {
    pub(crate) log: Log,
    pub(crate) records: Vec<Record>,
    /// The steps of the checkpoints whose states belong here, rising.
    saved: Vec<u64>,
    end: u64,
    generation: usize,
    conflict: Option<Conflict>,
}

/// Where a branch first contradicts one that reaches further.
#[derive(Clone, Debug)]
struct Conflict {
    step: u64,
    metric: String,
    here: f64,
    there: f64,
    other_end: u64,
}

impl History {
    /// Unite the logs of one run: the states of all its checkpoints, of its root, and other logs.
    #[must_use]
    pub fn new(states: impl IntoIterator<Item = TrainerState>) -> Self {
        let mut states: Vec<TrainerState> = states.into_iter().collect();
        states.sort_by_cached_key(|state| Reverse(state.end()));
        let save_steps = states.iter().find_map(|state| state.save_steps);
        let criterion = states.iter().find_map(|state| state.criterion.clone());
        let measured = states.iter().flat_map(|state| state.measured.clone()).collect();
        let goals = states.iter().flat_map(|state| state.goals.clone()).collect();
        let mut notes: Vec<String> = Vec::new();
        let mut branches: Vec<Branch> = Vec::new();
        for state in states {
            for note in &state.notes {
                if !notes.contains(note) {
                    notes.push(note.clone());
                }
            }
            let (mut latest, mut is_known) = (None::<Conflict>, false);
            for branch in &mut branches {
                match branch.conflict(&state) {
                    None => {
                        branch.unite(&state);
                        is_known = true;
                    }
                    Some(conflict) if latest.as_ref().is_none_or(|latest| latest.step <= conflict.step) => {
                        latest = Some(conflict);
                    }
                    Some(_) => {}
                }
            }
            if !is_known {
                branches.push(Branch { conflict: latest, ..Branch::new(state) });
            }
        }
        if branches.is_empty() {
            branches.push(Branch::default());
        }
        for branch in &mut branches {
            branch.records = diverged::records(&branch.log);
        }
        Self { branches, save_steps, measured, goals, criterion, notes }
    }

    /// Add the metrics of another log of the run that this one lacks; of those that both have, the first value that differs:
    /// metric, step, the value here and there.
    pub(crate) fn supplement(&mut self, other: &Self) -> Option<(String, u64, f64, f64)> {
        let mut differs = None;
        for there in &other.branches {
            for here in &mut self.branches {
                for (name, series) in there.log.iter().filter(|(name, _)| !is_timing(name)) {
                    let known = here.log.get(name).unwrap_or_default();
                    let first = series.iter().find_map(|(step, value)| {
                        let here = value_at(known, *step)?;
                        (!is_near(here, *value)).then(|| (name.to_string(), *step, here, *value))
                    });
                    differs = differs.or(first);
                }
                here.log.supplement(&there.log);
            }
        }
        for branch in &mut self.branches {
            branch.records = diverged::records(&branch.log);
        }
        self.goals.extend_from_slice(&other.goals);
        self.measured.extend_from_slice(&other.measured);
        differs
    }

    /// Whether a metric is of the weights themselves, not a mean over steps.
    pub(crate) fn is_evaluation(&self, name: &str) -> bool {
        is_evaluation(name) || self.measured.iter().any(|measured| measured == name)
    }

    /// Which way a metric gets better, where a log says so.
    pub(crate) fn goal(&self, name: &str) -> Option<Goal> {
        let plain = name.split_once(',').map_or(name, |(name, _)| name);
        let (_, is_max) = self.goals.iter().find(|(known, _)| known == plain)?;
        Some(if *is_max { Goal::Max } else { Goal::Min })
    }

    /// Why the checkpoint at `step` is bad, if the log says that the run had diverged by then.
    #[must_use]
    pub fn diverged(&self, step: u64) -> Option<String> {
        diverged::diverged(&self.branches[self.pick(&[step], step)].records, step)
    }

    /// Step and value of each record of a metric, on the branch that most of the run's checkpoints belong to; empty if
    /// nothing of that name is logged.
    #[must_use]
    pub fn curve(&self, metric: &str) -> Vec<(u64, f64)> {
        let branch =
            self.branches.iter().max_by_key(|branch| (branch.saved.len(), branch.generation, branch.end));
        let series = branch.and_then(|branch| branch.log.get(metric));
        series.unwrap_or_default().to_vec()
    }

    /// Step and learning rate of each record that has one, on the branch of the last of these checkpoints.
    pub(crate) fn learning_rate(&self, steps: &[u64]) -> Option<&Series> {
        let log = &self.branches[self.pick(steps, *steps.last()?)].log;
        log.get("learning_rate").or_else(|| log.get("lr"))
    }

    /// How often ReLoRA had merged the adapter into the base model when each of these checkpoints was saved.
    pub(crate) fn restarts(&self, steps: &[u64]) -> Vec<u64> {
        let count = |step: &u64| {
            let log = &self.branches[self.pick(steps, *step)].log;
            let series = log.get("num_lora_restarts").unwrap_or_default();
            let last = series[..series.partition_point(|(at, _)| at <= step)].last();
            last.and_then(|(_, count)| crate::text::json::whole(*count)).unwrap_or(0)
        };
        steps.iter().map(count).collect()
    }

    /// Check that no ReLoRA restart lies between the checkpoints: after one, adapters refer to another base
    /// model.
    pub fn check_restarts(&self, steps: &[u64]) -> Result<()> {
        let groups = grouped(&self.restarts(steps), steps);
        if groups.len() < 2 {
            return Ok(());
        }
        let groups: Vec<String> =
            groups.iter().map(|(count, steps)| format!("{count} at {}", list_steps(steps))).collect();
        let detail = format!(
            "the checkpoints refer to different base models, as ReLoRA merged the adapter between them: \
             num_lora_restarts is {}",
            groups.join(", ")
        );
        Err(Error::new(ErrorKind::Config, detail)
            .help("average only checkpoints with the same num_lora_restarts"))
    }

    /// The first two of some checkpoints whose logs were never one: every value of a metric that both have differs, so that
    /// nothing was resumed. With them, the metric and its two values at the first step that both logged.
    pub(crate) fn strangers(&self, steps: &[u64]) -> Option<Strangers> {
        let picked: Vec<_> = steps.iter().map(|step| self.pick(steps, *step)).collect();
        let mut pairs = (1..picked.len()).map(|i| (i - 1, i)).filter(|(a, b)| picked[*a] != picked[*b]);
        pairs.find_map(|(a, b)| {
            let (one, other) = (&self.branches[picked[a]].log, &self.branches[picked[b]].log);
            let (metric, at, here, there) = TELLING.iter().find_map(|metric| {
                let (one, other) = (one.get(metric)?, other.get(metric)?);
                let mut both = one.iter().filter_map(|(at, here)| Some((*at, *here, value_at(other, *at)?)));
                let first = both.next()?;
                let is_other = |(_, here, there): (u64, f64, f64)| !is_same(here, there);
                (is_other(first) && both.all(is_other)).then_some((*metric, first.0, first.1, first.2))
            })?;
            Some(Strangers { pair: (a, b), metric, step: at, values: (here, there) })
        })
    }

    /// The index of the branch to read each checkpoint from, and what to tell the user about it.
    pub(crate) fn branches_of(&self, steps: &[u64]) -> (Vec<usize>, Vec<String>) {
        let picked: Vec<usize> = steps.iter().map(|step| self.pick(steps, *step)).collect();
        let mut notes = self.notes.clone();
        notes.extend(self.branches.iter().filter_map(|branch| branch.conflict.as_ref()).map(Conflict::text));
        if let Some(last) = notes.last_mut().filter(|_| self.branches.len() > 1) {
            let mut link = "; ";
            for (i, branch) in self.branches.iter().enumerate() {
                let here = steps.iter().zip(&picked).filter(|(_, picked)| **picked == i);
                let here: Vec<u64> = here.map(|(step, _)| *step).collect();
                if here.is_empty() {
                    continue;
                }
                let (steps, end) = (list_steps(&here), branch.end);
                *last += &format!("{link}{steps} read from the log that ends at step {end}");
                link = ", ";
            }
        }
        (picked, notes)
    }

    pub(crate) fn branch(&self, index: usize) -> &Branch {
        &self.branches[index]
    }

    /// The usual distance between two checkpoints of the run, in steps; 0 when there is only one.
    pub(crate) fn save_spacing(&self, steps: &[u64]) -> u64 {
        let mut all = steps.to_vec();
        self.branches.iter().for_each(|branch| all.extend(&branch.saved));
        all.sort_unstable();
        all.dedup();
        median_gap(&all).or(self.save_steps).unwrap_or(0)
    }

    /// The names of all metrics, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.branches.iter().for_each(|branch| names.extend(branch.log.iter().map(|(name, _)| name)));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The branch that the checkpoint at `step` belongs to: the one that holds its own state, else one that
    /// reaches it; among those, the one with the most of the checkpoints, then the newest, then the longest.
    fn pick(&self, steps: &[u64], step: u64) -> usize {
        let rank = |branch: &Branch| {
            let count = steps.iter().filter(|step| branch.has(**step)).count();
            (branch.has(step), branch.end >= step, count, branch.generation)
        };
        // max_by_key takes the last of equals, and the longest branch is the first.
        let ranked = self.branches.iter().enumerate().rev().max_by_key(|(_, branch)| rank(branch));
        ranked.map_or(0, |(index, _)| index)
    }
}

impl Branch {
    fn new(state: TrainerState) -> Self {
        let saved = state.global_step.into_iter().collect();
        Self { saved, end: state.end(), generation: state.generation, log: state.log, ..Self::default() }
    }

    /// Whether the state of the checkpoint at `step` belongs here.
    fn has(&self, step: u64) -> bool {
        self.saved.binary_search(&step).is_ok()
    }

    /// Add what a state knows beyond this branch, which reaches at least as far.
    fn unite(&mut self, state: &TrainerState) {
        if let Some(step) = state.global_step
            && let Err(at) = self.saved.binary_search(&step)
        {
            self.saved.insert(at, step);
        }
        self.generation = self.generation.max(state.generation);
        self.log.unite(&state.log);
    }

    /// The first step at which a state says something else.
    fn conflict(&self, state: &TrainerState) -> Option<Conflict> {
        let mut first: Option<Conflict> = None;
        for (metric, series) in state.log.iter().filter(|(name, _)| !is_timing(name)) {
            let Some(known) = self.log.get(metric) else { continue };
            if let Some((step, here, there)) = first_difference(series, known)
                && first.as_ref().is_none_or(|first| step < first.step)
            {
                first = Some(Conflict { step, metric: metric.to_string(), here, there, other_end: self.end });
            }
        }
        first
    }
}

impl Conflict {
    fn text(&self) -> String {
        format!(
            "the logs disagree from step {} on ({} is {} in one and {} in the one that ends at step {}): the run was \
             resumed or restarted",
            self.step, self.metric, self.here, self.there, self.other_end
        )
    }
}

fn first_difference(series: &Series, known: &Series) -> Option<(u64, f64, f64)> {
    series.iter().find_map(|(step, here)| {
        let there = value_at(known, *step).filter(|there| !is_same(*here, *there))?;
        Some((*step, *here, there))
    })
}

/// The steps of each key, keys rising.
fn grouped(keys: &[u64], steps: &[u64]) -> Vec<(u64, Vec<u64>)> {
    let mut distinct = keys.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let mut groups: Vec<_> = distinct.into_iter().map(|key| (key, Vec::new())).collect();
    for (key, step) in keys.iter().zip(steps) {
        let at = groups.partition_point(|(other, _)| other < key);
        groups[at].1.push(*step);
    }
    groups
}

/// Whether two programs may have written one value: transformers 4 rounds to four decimals, TensorBoard keeps an f32.
fn is_near(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-4 * a.abs().max(b.abs()).max(1.0)
}

fn is_same(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= RELATIVE * a.abs().max(b.abs()) + ABSOLUTE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::series::Point;

    fn state(global_step: u64, loss: &[(u64, f64)]) -> TrainerState {
        let point = |(step, value): &(u64, f64)| Point { metric: "loss".into(), step: *step, value: *value };
        let log = Log::new(loss.iter().map(point).collect());
        TrainerState { global_step: Some(global_step), log, ..TrainerState::default() }
    }

    fn loss(history: &History, branch: usize, step: u64) -> Option<f64> {
        value_at(history.branch(branch).log.get("loss")?, step)
    }

    const OLD: [(u64, f64); 4] = [(10, 3.0), (20, 2.0), (30, 1.5), (40, 1.25)];
    const NEW: [(u64, f64); 3] = [(10, 3.0), (20, 2.0), (30, 1.75)];

    #[test]
    fn one_run_is_one_branch_whatever_the_order() {
        let states = [state(10, &OLD[..1]), state(7, &[]), state(40, &OLD), state(20, &OLD[..2])];
        let history = History::new(states.clone());
        assert_eq!(history.branches.len(), 1);
        assert_eq!(history.branches[0].log.get("loss").map(<[_]>::len), Some(4));
        assert_eq!(history.branches_of(&[7, 10]), (alloc::vec![0, 0], alloc::vec![]));
        assert_eq!(history.branches, History::new(states.into_iter().rev()).branches);
        assert_eq!(history.save_spacing(&[20]), 10);
    }

    #[test]
    fn rounding_and_nan_do_not_branch() {
        let a = state(20, &[(10, 1.234_567_891_234), (20, f64::NAN)]);
        let b = state(20, &[(10, 1.234_567_89), (20, f64::NAN)]);
        assert_eq!(History::new([a, b]).branches.len(), 1);
    }

    #[test]
    fn each_checkpoint_is_read_from_its_own_branch() {
        // Resumed at 20: checkpoint 30 was written anew, checkpoint 40 is left of the first attempt.
        let history =
            History::new([state(10, &OLD[..1]), state(20, &OLD[..2]), state(30, &NEW), state(40, &OLD)]);
        assert_eq!(history.branches.len(), 2);
        let (picked, notes) = history.branches_of(&[20, 30, 40]);
        assert_eq!(loss(&history, picked[1], 30), Some(1.75));
        assert_eq!(loss(&history, picked[2], 30), Some(1.5));
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains("disagree from step 30 on (loss is 1.75 in one and 1.5"), "{}", notes[0]);
        assert!(notes[0].contains("30 read from the log that ends at step 30"), "{}", notes[0]);
    }

    #[test]
    fn two_runs_in_one_folder_are_told_from_a_resumed_one() {
        // the second run repeats no value of the first; what was resumed shares its beginning
        let second = [(10, 3.5), (20, 2.5), (30, 2.0)];
        let two = History::new([state(30, &second), state(40, &OLD)]);
        let found = two.strangers(&[30, 40]).unwrap();
        assert_eq!((found.pair, found.metric, found.step, found.values), ((0, 1), "loss", 10, (3.5, 3.0)));
        assert!(two.strangers(&[40]).is_none());
        let resumed = History::new([state(30, &NEW), state(40, &OLD)]);
        assert!(resumed.strangers(&[30, 40]).is_none());
    }

    #[test]
    fn a_shared_checkpoint_goes_with_the_majority() {
        let history = History::new([state(20, &OLD[..2]), state(30, &NEW), state(40, &OLD)]);
        let (picked, _) = history.branches_of(&[20, 30]);
        assert_eq!(loss(&history, picked[0], 30), Some(1.75));
    }

    #[test]
    fn of_an_appended_log_the_newest_branch_that_reaches_the_step_counts() {
        let lines = "{\"step\": 10, \"loss\": 3.0}\n{\"step\": 20, \"loss\": 2.0}\n{\"step\": 30, \"loss\": 1.0}\n\
                     {\"step\": 10, \"loss\": 3.5}\n{\"step\": 20, \"loss\": 2.5}\n";
        let history = History::new(TrainerState::parse_lines(lines).unwrap());
        let (picked, notes) = history.branches_of(&[20, 30]);
        assert_eq!(loss(&history, picked[0], 20), Some(2.5));
        assert_eq!(loss(&history, picked[1], 20), Some(2.0));
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn relora_restarts_between_checkpoints_are_an_error() {
        let text = r#"{"global_step": 30, "log_history": [{"step": 10, "loss": 1, "num_lora_restarts": 0},
            {"step": 20, "loss": 1, "num_lora_restarts": 1}, {"step": 30, "loss": 1, "num_lora_restarts": 1}]}"#;
        let history = History::new([TrainerState::parse(text).unwrap()]);
        assert!(history.check_restarts(&[20, 30]).is_ok());
        let error = history.check_restarts(&[10, 20, 30]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.detail().ends_with("num_lora_restarts is 0 at step 10, 1 at step 20, 30"), "{error}");
    }

    #[test]
    fn no_logs_are_an_empty_history() {
        let history = History::new([]);
        assert_eq!(history.diverged(5), None);
        assert!(history.names().is_empty());
    }

    impl PartialEq for Branch {
        fn eq(&self, other: &Self) -> bool {
            self.log == other.log && self.saved == other.saved && self.records == other.records
        }
    }
}
