//! The kinds of logs that are read: one row each.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::series::{Log, Point};
use crate::logs::table::Table;
use crate::logs::trainer::TrainerState;
use crate::logs::{events, mlflow, printed, scores, wandb};
use crate::text::json;

/// What the records of a log count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Optimizer steps.
    Steps,
    /// Steps, which some programs count from 0 and their checkpoints from 1.
    MaybeFromZero,
    /// Epochs, as the names of the checkpoints do.
    Epochs,
    /// Epochs, from 0 where the names of the checkpoints count from 1.
    EpochsMaybeFromZero,
    /// Nothing: each is of one checkpoint, which it names or lies in.
    Checkpoints,
}

/// A kind of log.
#[derive(Clone, Copy, Debug)]
pub struct LogKind {
    /// What messages call it.
    pub what: &'static str,
    /// The names of its files; a `*` in one stands for anything.
    pub names: &'static [&'static str],
    /// Where they lie, from the run's folder on: `*` is any folder that is no checkpoint, `@` each checkpoint's.
    pub places: &'static [&'static str],
    /// What its records count.
    pub count: Count,
    /// Whether each checkpoint has one of its own: one without, beside others with, was not saved to the end.
    pub is_in_checkpoints: bool,
    /// From the path and the bytes of a file to what they say; nothing for a file of another kind.
    pub read: fn(&str, &[u8]) -> Result<Vec<TrainerState>>,
}

impl LogKind {
    /// `trainer_state.json`, of Trainer and all that builds on it.
    pub const TRAINER_STATE: Self = Self {
        what: "a Trainer's state",
        names: &["trainer_state.json"],
        places: &["@", ""],
        is_in_checkpoints: true,
        count: Count::Steps,
        read: |_, bytes| Ok(vec![TrainerState::parse(text(bytes)?)?]),
    };

    /// One JSON object a line: `trainer_log.jsonl` (LLaMA-Factory), `logging.jsonl` (ms-swift).
    pub const LINES: Self = Self {
        what: "JSON Lines",
        names: &["trainer_log.jsonl", "logging.jsonl"],
        places: &[""],
        is_in_checkpoints: false,
        count: Count::Steps,
        read: |_, bytes| TrainerState::parse_lines(text(bytes)?),
    };

    /// `CKPT.yaml`, in each checkpoint of speechbrain.
    pub const CKPT_YAML: Self = Self {
        what: "speechbrain's CKPT.yaml",
        names: &["CKPT.yaml"],
        places: &["@", ""],
        is_in_checkpoints: true,
        count: Count::Steps,
        read: |_, bytes| Ok(yaml(text(bytes)?).into_iter().collect()),
    };

    /// `summary.csv`, of timm: a row for each epoch.
    pub const SUMMARY: Self = Self {
        what: "timm's table",
        names: &["summary.csv"],
        count: Count::Epochs,
        read: |_, bytes| {
            let text = text(bytes)?;
            let is_it = header(text).any(|column| column == "epoch");
            Ok(if is_it { vec![Table::parse(text)?.into_log()] } else { Vec::new() })
        },
        ..Self::LINES
    };

    /// `9.yaml` beside `9.pt`, of wenet.
    pub const YAML: Self = Self {
        what: "wenet's YAML",
        names: &["*.yaml"],
        count: Count::Epochs,
        read: |_, bytes| Ok(yaml(text(bytes)?).into_iter().collect()),
        ..Self::LINES
    };

    /// `metrics.csv`, of Lightning, whose steps count from 0.
    pub const LIGHTNING: Self = Self {
        what: "Lightning's table",
        names: &["metrics.csv"],
        places: &["", "lightning_logs/*", "logs/*", "csv_logs/*"],
        count: Count::MaybeFromZero,
        read: |_, bytes| {
            let text = text(bytes)?;
            let has = |name: &str| header(text).any(|column| column == name);
            Ok(if has("step") { vec![Table::parse(text)?.into_log()] } else { Vec::new() })
        },
        ..Self::LINES
    };

    /// TensorBoard's event files.
    pub const EVENTS: Self = Self {
        what: "TensorBoard",
        names: &["events.out.tfevents.*"],
        places: &[
            "",
            "runs",
            "runs/*",
            "logs",
            "logs/*",
            "logs/*/*",
            "tensorboard",
            "tensorboard/*",
            "tb",
            "lightning_logs/*",
        ],
        count: Count::MaybeFromZero,
        read: |_, bytes| events::read(bytes),
        ..Self::LINES
    };

    /// A W&B run that was never uploaded.
    pub const WANDB: Self = Self {
        what: "W&B",
        names: &["*.wandb"],
        places: &["", "wandb/*"],
        count: Count::MaybeFromZero,
        read: |_, bytes| wandb::read(bytes),
        ..Self::LINES
    };

    /// MLflow's folder of files: one for each metric, named as it.
    pub const MLFLOW: Self = Self {
        what: "MLflow",
        names: &["*"],
        places: &["metrics", "metrics/*", "mlruns/*/*/metrics", "mlruns/*/*/metrics/*"],
        read: |path, bytes| Ok(mlflow::file(path, bytes).into_iter().collect()),
        ..Self::LINES
    };

    /// MLflow's database, of one run or with the name of one behind `#`.
    pub const MLFLOW_DATABASE: Self = Self {
        names: &["mlflow.db", "*.db"],
        places: &["", "mlruns"],
        read: mlflow::database,
        ..Self::MLFLOW
    };

    /// What icefall, espnet, wenet and fairseq print.
    pub const PRINTED_EPOCHS: Self = Self {
        what: "a toolkit's log",
        names: &["*.log", "log-train*"],
        places: &["", "log", "logs"],
        count: Count::Epochs,
        read: |_, bytes| Ok(printed::epochs(&String::from_utf8_lossy(bytes))),
        ..Self::LINES
    };

    /// What nanoGPT, torchtune and mlx-lm print.
    pub const PRINTED_STEPS: Self = Self {
        names: &["*.log", "log*.txt", "train*.txt"],
        count: Count::Steps,
        read: |_, bytes| Ok(printed::steps(&String::from_utf8_lossy(bytes))),
        ..Self::PRINTED_EPOCHS
    };

    /// Keras' `CSVLogger`, which counts epochs from 0; its checkpoints count from 1.
    pub const KERAS: Self = Self {
        what: "Keras' table",
        names: &["*.csv", "training.log", "history.log"],
        places: &["", "logs"],
        count: Count::EpochsMaybeFromZero,
        read: |_, bytes| {
            let text = text(bytes)?;
            let columns: Vec<_> = header(text).collect();
            let is_it = columns.first() == Some(&"epoch")
                && columns.iter().any(|name| name.contains("loss"))
                && !columns.contains(&"step");
            Ok(if is_it { vec![Table::parse(text)?.into_log()] } else { Vec::new() })
        },
        ..Self::LINES
    };

    /// What lm-eval-harness and lighteval write of a checkpoint.
    pub const RESULTS: Self = Self {
        what: "lm-eval",
        names: &["results_*", "results.json"],
        places: &["", "*", "*/*", "*/*/*", "@", "@/*", "@/*/*"],
        count: Count::Checkpoints,
        read: |_, bytes| Ok(scores::results(text(bytes)?)),
        ..Self::LINES
    };

    /// What OpenCompass writes of some models.
    pub const OPENCOMPASS: Self = Self {
        what: "OpenCompass",
        names: &["summary_*"],
        places: &["", "summary", "*/summary", "*/*/summary"],
        count: Count::Checkpoints,
        read: |path, bytes| {
            Ok(if path.ends_with(".csv") { scores::summary(text(bytes)?) } else { Vec::new() })
        },
        ..Self::LINES
    };

    /// What a Trainer measures of one checkpoint, in its folder.
    pub const OWN_RESULTS: Self = Self {
        what: "results of a checkpoint",
        names: &["eval_results.json", "all_results.json"],
        places: &["@"],
        count: Count::Checkpoints,
        read: |_, bytes| scores::own(text(bytes)?),
        ..Self::LINES
    };

    /// The kinds that everybody reads, the best first: of a metric that several have, the first counts.
    pub const ALL: &'static [Self] = &[
        Self::TRAINER_STATE,
        Self::LINES,
        Self::CKPT_YAML,
        Self::SUMMARY,
        Self::YAML,
        Self::LIGHTNING,
        Self::EVENTS,
        Self::WANDB,
        Self::MLFLOW,
        Self::MLFLOW_DATABASE,
        Self::PRINTED_EPOCHS,
        Self::PRINTED_STEPS,
        Self::KERAS,
        Self::RESULTS,
        Self::OPENCOMPASS,
        Self::OWN_RESULTS,
    ];

    /// Whether each folder of such logs is of another run.
    pub(crate) fn is_of_one_run(&self) -> bool {
        [Self::MLFLOW.what, Self::WANDB.what].contains(&self.what)
    }

    /// Whether a file of this name is such a log.
    #[must_use]
    pub fn claims(&self, name: &str) -> bool {
        self.names.iter().any(|known| match known.split_once('*') {
            Some((start, end)) => name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
            None => name == *known,
        })
    }
}

/// The columns of a table.
fn header(text: &str) -> impl Iterator<Item = &str> {
    let line = text.lines().next().unwrap_or_default().trim_start_matches('\u{feff}');
    line.split([',', ';', '\t']).map(|cell| cell.trim().trim_matches('"'))
}

/// What a toolkit says of one epoch's checkpoint in `key: number` lines, sections or not: its validation. None for other YAML.
fn yaml(text: &str) -> Option<TrainerState> {
    let pairs = || {
        text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim()))
    };
    let whole =
        |wanted: &str| pairs().find(|(key, _)| *key == wanted).and_then(|(_, value)| value.parse().ok());
    // `step_1000`, where that names the checkpoint
    let tag =
        pairs().find(|(key, _)| *key == "tag").and_then(|(_, tag)| tag.strip_prefix("step_")?.parse().ok());
    let step: u64 = tag.or_else(|| whole("epoch"))?;
    let is_metric = |key: &str| !["epoch", "step", "lr", "unixtime", "rank", "tag"].contains(&key);
    let points = pairs().filter(|(key, _)| is_metric(key)).filter_map(|(key, value)| {
        let metric = format!("eval_{}", key.strip_prefix("cv_").unwrap_or(key));
        Some(Point { metric, step, value: json::float(value)? })
    });
    let points: Vec<_> = points.collect();
    let log = Log::new(points);
    (log.end().is_some()).then(|| TrainerState { global_step: Some(step), log, ..TrainerState::default() })
}

fn text(bytes: &[u8]) -> Result<&str> {
    core::str::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::Input, "is not text in UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_or_begin_alike() {
        assert!(LogKind::EVENTS.claims("events.out.tfevents.17.host") && !LogKind::EVENTS.claims("events"));
        assert!(LogKind::LINES.claims("logging.jsonl") && !LogKind::LINES.claims("logging.jsonl.bak"));
        for name in ["log.txt", "log-2026.txt", "train.txt"] {
            assert!(LogKind::PRINTED_STEPS.claims(name), "{name}");
        }
        assert!(!LogKind::PRINTED_STEPS.claims("catalog.txt") && !LogKind::PRINTED_STEPS.claims("log.txt.1"));
    }

    #[test]
    fn tables_of_others_are_left_alone() {
        let read = |kind: LogKind, text: &str| (kind.read)("x.csv", text.as_bytes()).unwrap().len();
        assert_eq!(read(LogKind::KERAS, "epoch,loss,val_loss\n0,1,2\n"), 1);
        assert_eq!(read(LogKind::KERAS, "name,loss\na,1\n"), 0);
        assert_eq!(read(LogKind::LIGHTNING, "epoch,step,val_loss\n0,3,2\n"), 1);
        assert_eq!(read(LogKind::LIGHTNING, "a,b\n1,2\n"), 0);
    }
}
