//! Which way a metric gets better.

use alloc::format;
use core::fmt;
use core::str::FromStr;

use crate::error::{Error, ErrorKind};

/// Whether a lower or a higher value is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Lower is better, as for a loss.
    Min,
    /// Higher is better, as for an accuracy.
    Max,
}

/// Words that name a quantity to lower.
const MIN: [&str; 14] = [
    "loss",
    "perplexity",
    "ppl",
    "wer",
    "cer",
    "ter",
    "rmse",
    "mse",
    "mae",
    "nll",
    "error",
    "errors",
    "crossentropy",
    "brier",
];

/// Words that name a quantity to raise.
const MAX: [&str; 21] = [
    "accuracy",
    "accuracies",
    "acc",
    "f1",
    "reward",
    "rewards",
    "margin",
    "margins",
    "precision",
    "recall",
    "auc",
    "auroc",
    "mcc",
    "correlation",
    "pearson",
    "spearman",
    "spearmanr",
    "meteor",
    "chrf",
    "ndcg",
    "mrr",
];

/// Words that turn a name into something else: `reward_std`, `rewards/rejected`, `loss_scale`.
const NEITHER: [&str; 13] = [
    "std", "stddev", "var", "variance", "rejected", "scale", "ratio", "zero", "runtime", "time", "second",
    "length", "count",
];

impl Goal {
    /// The goal that a metric's name gives away: its last telling word decides (`eval_accuracy_loss` is a
    /// loss).
    ///
    /// The trainers' own `greater_is_better` is only in `training_args.bin`, a pickle, so the name is all
    /// there is.
    ///
    /// ```
    /// use mwa::Goal;
    /// assert_eq!(Goal::infer("eval_loss"), Some(Goal::Min));
    /// assert_eq!(Goal::infer("rewards/margins"), Some(Goal::Max));
    /// assert_eq!(Goal::infer("entropy"), None);
    /// ```
    #[must_use]
    pub fn infer(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let words = || name.split(|letter: char| !letter.is_ascii_alphanumeric());
        if name == "step" || name.contains("exact_match") {
            return Some(Self::Max);
        }
        if words().any(|word| NEITHER.contains(&word)) {
            return None;
        }
        words().rev().find_map(|word| {
            if MIN.contains(&word) || word.ends_with("loss") {
                Some(Self::Min)
            } else if MAX.contains(&word) || word.starts_with("rouge") || word.starts_with("bleu") {
                Some(Self::Max)
            } else {
                None
            }
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Min => "min",
            Self::Max => "max",
        })
    }
}

impl FromStr for Goal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "min" => Ok(Self::Min),
            "max" => Ok(Self::Max),
            _ => {
                Err(Error::new(ErrorKind::Usage, format!("the goal is `{text}`, but can only be min or max")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_the_goal_away() {
        for name in
            ["loss", "eval_loss", "eval/loss", "eval_wikitext_loss", "ppl", "eval_WER", "rmse", "valloss"]
        {
            assert_eq!(Goal::infer(name), Some(Goal::Min), "{name}");
        }
        for name in ["step", "eval_accuracy", "eval_f1", "rougeL", "eval_bleu4", "reward", "rewards/margins"]
        {
            assert_eq!(Goal::infer(name), Some(Goal::Max), "{name}");
        }
        for name in ["mean_token_accuracy", "rewards/accuracies", "eval_exact_match", "rewards/format/mean"] {
            assert_eq!(Goal::infer(name), Some(Goal::Max), "{name}");
        }
    }

    #[test]
    fn the_last_telling_word_decides() {
        assert_eq!(Goal::infer("reward_loss"), Some(Goal::Min));
        assert_eq!(Goal::infer("error_accuracy"), Some(Goal::Max));
        assert_eq!(Goal::infer("train_loss_step"), Some(Goal::Min));
    }

    #[test]
    fn other_names_do_not() {
        for name in [
            "entropy",
            "kl",
            "reward_std",
            "rewards/rejected",
            "logps/chosen",
            "loss_scale",
            "eval_runtime",
            "",
            "score",
        ] {
            assert_eq!(Goal::infer(name), None, "{name}");
        }
    }

    #[test]
    fn goals_are_written_as_they_are_read() {
        for goal in [Goal::Min, Goal::Max] {
            assert_eq!(alloc::string::ToString::to_string(&goal).parse::<Goal>().unwrap(), goal);
        }
        assert_eq!("mode".parse::<Goal>().unwrap_err().kind(), ErrorKind::Usage);
    }
}
