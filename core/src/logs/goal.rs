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
const MIN: &str = "loss perplexity ppl wer cer ter per der eer ser mer rmse mse mae mape smape rmsle nll bpc bpb bpd err \
                   error errors xent crossentropy brier ece fid kid fvd fad lpips hd95 hausdorff mindcf ade fde epe nme";

/// Words that name a quantity to raise.
const MAX: &str = "accuracy accuracies acc acc1 acc5 top1 top5 f1 fscore reward rewards margin margins precision recall \
                   auc auroc auprc mcc matthews kappa correlation pearson pearsonr spearman spearmanr kendalltau r2 \
                   meteor chrf cider comet bleurt bertscore ndcg mrr map map50 map75 ap ap50 ap75 dice jaccard iou miou \
                   pq psnr ssim pesq stoi snr sdr em pass success win winrate sensitivity specificity";

/// Words that turn a name into something else: `reward_std`, `rewards/rejected`, `loss_scale`.
const NEITHER: &str =
    "std stddev stderr var variance rejected scale ratio zero runtime time second length count";

/// Whether a word is one of a list.
fn is_in(list: &str, word: &str) -> bool {
    list.split(' ').any(|listed| listed == word)
}

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
        if words().any(|word| is_in(NEITHER, word)) {
            return None;
        }
        words().rev().find_map(|word| {
            if is_in(MIN, word) || word.ends_with("loss") {
                Some(Self::Min)
            } else if is_in(MAX, word)
                || ["rouge", "bleu"].iter().any(|of| word.starts_with(of))
                || word.ends_with("bleu")
            {
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
            _ => Err(Error::new(ErrorKind::Usage, format!("the goal must be min or max, not `{text}`"))),
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
        for name in ["eer", "test_FID", "bpc", "val/cer", "hd95"] {
            assert_eq!(Goal::infer(name), Some(Goal::Min), "{name}");
        }
        for name in [
            "dice",
            "mIoU",
            "metrics/mAP50-95(B)",
            "eval_top1",
            "sacrebleu",
            "acc_norm,none",
            "pass@1",
            "psnr",
        ] {
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
