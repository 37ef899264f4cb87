//! The kinds of logs that are read: one row each.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::series::{Log, Point};
use crate::logs::table::Table;
use crate::logs::trainer::TrainerState;
use crate::text::json;

/// A kind of log.
#[derive(Clone, Copy, Debug)]
pub struct LogKind {
    /// The names of its files; a `*` at the end or in front stands for anything.
    pub names: &'static [&'static str],
    /// Whether its records are of epochs, as the names of the checkpoints are, not of steps.
    pub by_epoch: bool,
    /// Whether each checkpoint has one of its own: one without, beside others with, was not saved to the end.
    pub is_in_checkpoints: bool,
    /// From the bytes of a file to what they say.
    pub read: fn(&[u8]) -> Result<Vec<TrainerState>>,
}

impl LogKind {
    /// `trainer_state.json`, of Trainer and all that builds on it.
    pub const TRAINER_STATE: Self = Self {
        names: &["trainer_state.json"],
        is_in_checkpoints: true,
        by_epoch: false,
        read: |bytes| Ok(vec![TrainerState::parse(text(bytes)?)?]),
    };

    /// One JSON object a line: `trainer_log.jsonl` (LLaMA-Factory), `logging.jsonl` (ms-swift).
    pub const LINES: Self = Self {
        names: &["trainer_log.jsonl", "logging.jsonl"],
        is_in_checkpoints: false,
        by_epoch: false,
        read: |bytes| TrainerState::parse_lines(text(bytes)?),
    };

    /// `CKPT.yaml`, in each checkpoint of speechbrain.
    pub const CKPT_YAML: Self = Self {
        names: &["CKPT.yaml"],
        is_in_checkpoints: true,
        by_epoch: false,
        read: |bytes| Ok(yaml(text(bytes)?).into_iter().collect()),
    };

    /// `summary.csv`, of timm: a row for each epoch.
    pub const SUMMARY: Self = Self {
        names: &["summary.csv"],
        is_in_checkpoints: false,
        by_epoch: true,
        read: |bytes| Ok(vec![Table::parse(text(bytes)?)?.into_log()]),
    };

    /// `9.yaml` beside `9.pt`, of wenet.
    pub const YAML: Self = Self {
        names: &["*.yaml"],
        is_in_checkpoints: false,
        by_epoch: true,
        read: |bytes| Ok(yaml(text(bytes)?).into_iter().collect()),
    };

    /// The kinds that everybody reads. A run is read by the first of them of which it has a file.
    pub const ALL: &'static [Self] =
        &[Self::TRAINER_STATE, Self::LINES, Self::CKPT_YAML, Self::SUMMARY, Self::YAML];

    /// Whether a file of this name is such a log.
    #[must_use]
    pub fn claims(&self, name: &str) -> bool {
        self.names.iter().any(|known| match (known.strip_prefix('*'), known.strip_suffix('*')) {
            (Some(end), _) => name.ends_with(end),
            (None, Some(start)) => name.starts_with(start),
            (None, None) => name == *known,
        })
    }
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
        let events = LogKind { names: &["events.out.tfevents.*"], ..LogKind::LINES };
        assert!(events.claims("events.out.tfevents.17.host") && !events.claims("events"));
        assert!(LogKind::LINES.claims("logging.jsonl") && !LogKind::LINES.claims("logging.jsonl.bak"));
    }
}
