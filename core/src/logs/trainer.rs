//! Parse what trainers log: `trainer_state.json`, and logs with one JSON object a line.
//!
//! Every key is optional (older transformers lack some). A log becomes one series per metric, step → value.
//! Within one file the first value of a (metric, step) counts: a later one is an evaluation after the
//! training. Where the training loss goes back to an earlier step, the run was resumed or restarted: values
//! from that step on belong to another branch.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::logs::metric::is_evaluation;
use crate::logs::series::{Log, Point, Series, value_at};
use crate::text::json;

/// The keys under which trainers write the step of a record: Trainer, LLaMA-Factory, ms-swift,
/// Megatron-swift.
pub(crate) const STEP_KEYS: [&str; 5] =
    ["step", "current_steps", "global_step/max_steps", "global_step", "iteration"];

/// What one log file says: where the run stood, and the value of each metric at each logged step.
#[derive(Clone, Debug, Default)]
pub struct TrainerState {
    /// The step at which the file was written, in optimizer steps; for a checkpoint, its own step.
    pub global_step: Option<u64>,
    /// The planned length of the run, in steps.
    pub max_steps: Option<u64>,
    /// The steps between two training records, as configured; not used when logging by epoch.
    pub logging_steps: Option<u64>,
    /// The steps between two checkpoints, as configured; not used when saving by epoch.
    pub save_steps: Option<u64>,
    pub(crate) log: Log,
    /// The evaluation by which the run tells its best checkpoint, where its value there shows which it is.
    pub(crate) criterion: Option<String>,
    /// The path of the checkpoint that this was measured of, where no step says it.
    pub(crate) of: Option<String>,
    /// Metrics that were measured of the checkpoints themselves, whatever their names.
    pub(crate) measured: Vec<String>,
    /// Metrics of which the file says whether more is better.
    pub(crate) goals: Vec<(String, bool)>,
    /// Counts the restarts inside an appended log: the highest is the newest.
    pub(crate) generation: usize,
    pub(crate) notes: Vec<String>,
}

impl TrainerState {
    /// Parse a `trainer_state.json`, bare `NaN` and `Infinity` included.
    ///
    /// ```
    /// let text = r#"{"global_step": 20, "log_history": [{"step": 10, "loss": 1.5, "grad_norm": NaN}]}"#;
    /// assert_eq!(mwa::TrainerState::parse(text)?.global_step, Some(20));
    /// # Ok::<(), mwa::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        let map: Map<String, Value> = json::parse(text).map_err(|error| {
            Error::new(ErrorKind::Metric, format!("is not the JSON object that a trainer writes: {error}"))
        })?;
        Ok(Self::from_map(&map))
    }

    /// Parse a log of one JSON object a line, such as `trainer_log.jsonl` (LLaMA-Factory) and `logging.jsonl`
    /// (ms-swift).
    ///
    /// Such a log is appended to when a run is resumed or restarted, so it gives one state per branch, and
    /// one more for the summary at its end where that holds a history. A last line that was cut off is left
    /// out.
    pub fn parse_lines(text: &str) -> Result<Vec<Self>> {
        let mut log = Branch::default();
        let mut states = Vec::new();
        let mut summaries = Vec::new();
        let mut lines = json::without_mark(text)
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .peekable();
        while let Some((index, line)) = lines.next() {
            let record: Map<String, Value> = match json::parse(line) {
                Ok(record) => record,
                Err(error) if error.is_eof() && lines.peek().is_none() && index > 0 => break,
                Err(error) => {
                    let detail = format!("line {} is not a JSON object: {error}", index + 1);
                    return Err(Error::new(ErrorKind::Metric, detail));
                }
            };
            if record.contains_key("log_history") {
                summaries.push(Self::from_map(&record));
            } else {
                states.extend(log.add(&record));
            }
        }
        if !log.points.is_empty() {
            states.push(log.finish());
        }
        states.append(&mut summaries);
        if states.is_empty() {
            let detail = format!("holds no record with a step ({}) and a number", STEP_KEYS.join(", "));
            return Err(Error::new(ErrorKind::Metric, detail));
        }
        Ok(states)
    }

    /// The last step that the log knows of.
    pub(crate) fn end(&self) -> u64 {
        self.log.end().max(self.global_step).unwrap_or(0)
    }

    fn from_map(map: &Map<String, Value>) -> Self {
        let mut log = Branch::default();
        for record in map.get("log_history").and_then(Value::as_array).into_iter().flatten() {
            if let Value::Object(record) = record
                && let Some(abandoned) = log.add(record)
            {
                let (old, new) = (abandoned.end(), log.train());
                log.state.notes.push(format!(
                    "one log goes back from step {old} to step {new}: the run was resumed or restarted, its later \
                     records are used"
                ));
            }
        }
        let step = |key| map.get(key).and_then(json::step);
        let state = log.finish();
        let criterion = criterion(map, &state.log);
        Self {
            criterion,
            global_step: step("global_step"),
            max_steps: step("max_steps"),
            logging_steps: step("logging_steps"),
            save_steps: step("save_steps"),
            ..state
        }
    }
}

/// The one evaluation whose value at the best checkpoint is `best_metric`.
fn criterion(map: &Map<String, Value>, log: &Log) -> Option<String> {
    let best = map.get("best_metric").and_then(json::number)?;
    let named = || map.get("best_model_checkpoint")?.as_str()?.rsplit('-').next()?.parse().ok();
    let step = map.get("best_global_step").and_then(json::step).or_else(named)?;
    let is_it =
        |series: &Series| value_at(series, step).is_some_and(|value| value.to_bits() == best.to_bits());
    let mut names =
        log.iter().filter(|(name, series)| is_evaluation(name) && is_it(series)).map(|(name, _)| name);
    let only = names.next()?;
    names.next().is_none().then(|| only.into())
}

/// One branch of a run as its records come in.
#[derive(Default)]
struct Branch {
    state: TrainerState,
    points: Vec<Point>,
    /// The last record with a training loss: its step, and the loss.
    last: Option<(u64, f64)>,
}

impl Branch {
    /// Add a record; where it starts a new branch, hand back the abandoned one.
    fn add(&mut self, record: &Map<String, Value>) -> Option<TrainerState> {
        let step = STEP_KEYS.into_iter().find_map(|key| record.get(key).and_then(json::step))?;
        let abandoned = record.get("loss").and_then(json::number).and_then(|loss| {
            let train = self.train();
            let repeats = self.last == Some((step, loss));
            let restarts = step < train || step == train && train > 0 && !repeats;
            self.last = Some((step, loss));
            restarts.then(|| self.restart(step))
        });
        let is_summary = record.contains_key("train_runtime") || record.contains_key("total_flos");
        for (name, value) in record {
            // The summary's `train_loss` is the mean over the whole run: not a checkpoint's loss.
            if is_bookkeeping(name) || is_summary && name == "train_loss" {
                continue;
            }
            if let Some(value) = json::number(value) {
                self.points.push(Point { metric: name.clone(), step, value });
            }
        }
        abandoned
    }

    fn restart(&mut self, step: u64) -> TrainerState {
        let log = Log::new(self.points.clone());
        let abandoned = TrainerState { log, ..self.state.clone() };
        self.state.generation += 1;
        self.points.retain(|point| point.step < step);
        abandoned
    }

    /// The step of the last record with a training loss.
    fn train(&self) -> u64 {
        self.last.map_or(0, |(step, _)| step)
    }

    fn finish(self) -> TrainerState {
        TrainerState { log: Log::new(self.points), ..self.state }
    }
}

/// Keys that tell where the run stands, not how well it does.
fn is_bookkeeping(name: &str) -> bool {
    STEP_KEYS.contains(&name)
        || ["epoch", "total_flos", "total_steps", "max_steps", "percentage"].contains(&name)
}

/// Whether a value depends on the machine and the hour: such values tell no branch from another.
pub(crate) fn is_timing(name: &str) -> bool {
    ["time", "per_second", "speed", "memory", "throughput"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_state_with_nan_and_without_most_keys() {
        let text = r#"{"best_metric": -Infinity, "global_step": 12, "logging_steps": 3, "save_steps": 3, "log_history": [
            {"epoch": 0.18, "grad_norm": NaN, "learning_rate": 0.0033, "loss": 2.7796150843302407, "step": 9},
            {"epoch": 0.18, "eval_loss": NaN, "eval_runtime": 0.007, "step": 9},
            {"loss": "0.5", "note": "text", "list": [1], "step": 12},
            {"epoch": 0.5, "step": 12, "total_flos": 155059200.0, "train_loss": 4.1, "train_runtime": 0.4}
        ]}"#;
        let state = TrainerState::parse(text).unwrap();
        assert_eq!((state.global_step, state.logging_steps, state.save_steps), (Some(12), Some(3), Some(3)));
        assert_eq!(state.log.get("loss"), Some(&[(9, 2.7796150843302407), (12, 0.5)][..]));
        for name in ["grad_norm", "eval_loss"] {
            assert!(state.log.get(name).unwrap()[0].1.is_nan(), "{name}");
        }
        for absent in ["step", "epoch", "note", "list", "total_flos", "train_loss"] {
            assert!(state.log.get(absent).is_none(), "{absent}");
        }
        assert_eq!(state.end(), 12);
    }

    #[test]
    fn everything_is_optional_but_the_object() {
        assert_eq!(TrainerState::parse("{}").unwrap().end(), 0);
        assert_eq!(TrainerState::parse(r#"{"log_history": null, "global_step": null}"#).unwrap().end(), 0);
        for text in ["", "[]", "{", "\"x\""] {
            assert_eq!(TrainerState::parse(text).unwrap_err().kind(), ErrorKind::Metric, "{text}");
        }
    }

    #[test]
    fn the_first_of_two_evaluations_counts() {
        let text = r#"{"log_history": [{"step": 25, "eval_loss": 4.1}, {"step": 25, "eval_loss": 9.0}]}"#;
        assert_eq!(TrainerState::parse(text).unwrap().log.get("eval_loss"), Some(&[(25, 4.1)][..]));
    }

    #[test]
    fn reads_llama_factory_lines_and_their_restart() {
        let text = concat!(
            "{\"current_steps\": 10, \"total_steps\": 50, \"loss\": 1.5, \"lr\": 0.001, \"elapsed_time\": \"0:00:10\"}\n",
            "{\"current_steps\": 20, \"total_steps\": 50, \"loss\": 1.4}\n",
            "{\"current_steps\": 20, \"total_steps\": 50, \"eval_loss\": 1.3}\r\n",
            "{\"current_steps\": 30, \"total_steps\": 50, \"loss\": 1.2}\n",
            "\n",
            "{\"current_steps\": 20, \"total_steps\": 50, \"loss\": 1.0}\n",
            "{\"current_steps\": 30, \"total_steps\": 50, \"lo",
        );
        let states = TrainerState::parse_lines(text).unwrap();
        assert_eq!(states.len(), 2);
        assert_eq!(states[0].log.get("loss"), Some(&[(10, 1.5), (20, 1.4), (30, 1.2)][..]));
        assert_eq!(states[1].log.get("loss"), Some(&[(10, 1.5), (20, 1.0)][..]));
        assert!(states[1].generation > states[0].generation);
        assert_eq!(states[0].global_step, None);
    }

    #[test]
    fn reads_ms_swift_lines_and_their_summary() {
        let text = concat!(
            "{\"loss\": 1.5, \"grad_norm\": 0.7, \"memory(GiB)\": 3.2, \"global_step/max_steps\": \"5/100\"}\n",
            "{\"eval_loss\": 1.4, \"global_step/max_steps\": \"5/100\", \"percentage\": \"5.00%\"}\n",
            "{\"last_model_checkpoint\": \"o/checkpoint-10\", \"best_metric\": NaN, \"global_step\": 10, ",
            "\"log_history\": [{\"loss\": 1.5, \"step\": 5}, {\"loss\": 1.25, \"step\": 10}], \"memory\": 3.2}\n",
        );
        let states = TrainerState::parse_lines(text).unwrap();
        assert_eq!(states.len(), 2);
        assert_eq!(states[0].log.get("loss"), Some(&[(5, 1.5)][..]));
        assert_eq!(states[0].log.get("eval_loss"), Some(&[(5, 1.4)][..]));
        assert_eq!(states[1].global_step, Some(10));
        assert_eq!(states[1].log.get("loss"), Some(&[(5, 1.5), (10, 1.25)][..]));
    }

    #[test]
    fn a_broken_line_is_named() {
        let error =
            TrainerState::parse_lines("{\"step\": 1, \"loss\": 1}\n{oops}\n{\"step\": 2}").unwrap_err();
        assert!(error.detail().starts_with("line 2 is not a JSON object"), "{error}");
        assert!(
            TrainerState::parse_lines("{\"hello\": 1}")
                .unwrap_err()
                .detail()
                .contains("no record with a step")
        );
    }

    #[test]
    fn a_state_that_goes_back_keeps_the_later_records() {
        let text = r#"{"global_step": 30, "log_history": [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0},
            {"step": 30, "loss": 1.0}, {"step": 20, "loss": 2.5}, {"step": 30, "loss": 1.5}]}"#;
        let state = TrainerState::parse(text).unwrap();
        assert_eq!(state.log.get("loss"), Some(&[(10, 3.0), (20, 2.5), (30, 1.5)][..]));
        assert_eq!(state.notes.len(), 1);
        assert!(state.notes[0].contains("from step 30 to step 20"), "{}", state.notes[0]);
    }
}
