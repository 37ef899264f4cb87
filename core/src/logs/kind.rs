//! The kinds of logs that are read: one row each.

use alloc::borrow::ToOwned as _;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::trainer::TrainerState;

/// A kind of log.
#[derive(Clone, Copy, Debug)]
pub struct LogKind {
    /// The names of its files; a `*` at the end stands for anything.
    pub names: &'static [&'static str],
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
        read: |bytes| Ok(vec![TrainerState::parse(text(bytes)?)?]),
    };

    /// One JSON object a line: `trainer_log.jsonl` (LLaMA-Factory), `logging.jsonl` (ms-swift).
    pub const LINES: Self = Self {
        names: &["trainer_log.jsonl", "logging.jsonl"],
        is_in_checkpoints: false,
        read: |bytes| TrainerState::parse_lines(text(bytes)?),
    };

    /// The kinds that everybody reads. A run is read by the first of them of which it has a file.
    pub const ALL: &'static [Self] = &[Self::TRAINER_STATE, Self::LINES];

    /// Whether a file of this name is such a log.
    #[must_use]
    pub fn claims(&self, name: &str) -> bool {
        self.names.iter().any(|known| match known.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *known,
        })
    }
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
