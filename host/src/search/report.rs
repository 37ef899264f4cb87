//! What a search found: every trial, the winner beside what it is compared with, and what must be said of it.

use mwa::markdown;
use mwa::report::Report;
use mwa::search::{Trial, called};
use serde::Serialize;

use super::entry::Entry;

/// The result of a search.
#[derive(Clone, Debug, Serialize)]
pub struct SearchReport {
    /// Who proposed weights.
    pub method: String,
    /// What it did and why, where the method chose by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the parts of the model are called that have weights of their own, in the order of trials' weights.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Where random numbers began.
    pub seed: u64,
    /// The most trials.
    pub budget: usize,
    /// `min` or `max`.
    pub goal: String,
    /// Who scored.
    pub evaluator: String,
    /// Who scored in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout: Option<String>,
    /// The file with the trials.
    pub journal: String,
    /// The number of the trial that won, from 1 on.
    pub winner: usize,
    /// Its score.
    pub score: f64,
    /// The standard error of that, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// All trials, in order.
    pub trials: Vec<Tried>,
    /// The winner and what it is compared with.
    pub compared: Vec<Compared>,
    /// What must be said of the winner.
    pub doubts: Vec<String>,
    /// Of two checkpoints, whether they lie in one basin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basin: Option<String>,
    /// Of two or three checkpoints, a table of the scores and a picture.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The merge of the winner.
    pub merge: Report,
}

impl SearchReport {
    /// How the weights were found, for the card: who scored, the scores beside each other, and what must be said of them.
    pub(super) fn section(&self) -> String {
        let failed = self.trials.iter().filter(|trial| trial.failed.is_some()).count();
        let failed = if failed > 0 { format!(", of which {failed} failed") } else { String::new() };
        let better = if self.goal == "min" { "lower" } else { "higher" };
        let mut text = format!(
            "\n## How the weights were found\n\nBy the scores of {} trials{failed}: `mwa search`, method {}, seed {}. Each was merged and \
             scored by {} ({better} is better).\n\n",
            self.trials.len(),
            self.method,
            self.seed,
            markdown(&self.evaluator)
        );
        if let Some(holdout) = &self.holdout {
            text += &format!("The holdout was scored by {}.\n\n", markdown(holdout));
        }
        let (head, rule) = if self.holdout.is_some() { (" holdout |", "---|") } else { ("", "") };
        text += &format!("| merge | score |{head} trial | weights by |\n|---|---|{rule}---|---|\n");
        let number = |score: Option<f64>| score.map_or_else(|| "–".into(), |score| format!("{score:.6}"));
        for row in &self.compared {
            let by = self.trials.get(row.trial - 1).map_or("", |trial| &trial.by);
            let held =
                self.holdout.as_ref().map(|_| format!(" {} |", number(row.holdout))).unwrap_or_default();
            text += &format!(
                "| {} | {} |{held} {} | {} |\n",
                called(&row.name),
                number(row.score),
                row.trial,
                markdown(by)
            );
        }
        let doubts = self.doubts.iter().map(|doubt| format!("\nCareful: {}.\n", markdown(doubt)));
        text + &doubts.collect::<String>()
    }
}

/// A trial.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// Its number, from 1 on.
    pub number: usize,
    /// Where its weights come from.
    pub by: String,
    /// One per checkpoint, oldest first; those of one group after the other, where there are groups.
    pub weights: Vec<f64>,
    /// Where random numbers began.
    pub seed: u64,
    /// Its score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The standard error of that, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// Why it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// How long the evaluator took, in seconds.
    pub seconds: f64,
    /// How long the merge took, in seconds.
    pub merge_seconds: f64,
    /// BLAKE3 of the merged files.
    pub blake3: Vec<String>,
}

impl Tried {
    pub(super) fn new(number: usize, trial: &Trial, seed: u64) -> Self {
        Self {
            number,
            by: trial.by.clone(),
            weights: trial.weights.clone(),
            seed,
            score: None,
            standard_error: None,
            failed: None,
            seconds: 0.0,
            merge_seconds: 0.0,
            blake3: Vec::new(),
        }
    }

    /// With what came of it.
    pub(super) fn known(self, entry: &Entry) -> Self {
        let Entry { score, score_error, failed, seconds, merge_seconds, blake3, .. } = entry.clone();
        Self { score, standard_error: score_error, failed, seconds, merge_seconds, blake3, ..self }
    }
}

/// The winner, or what it is compared with.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// `last`, `best single`, `uniform`, `metric` or `winner`.
    pub name: String,
    /// The number of its trial, from 1 on.
    pub trial: usize,
    /// Its score in the search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Its score on other data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout: Option<f64>,
    /// The standard error of that, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout_error: Option<f64>,
    /// Why it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout_failed: Option<String>,
}

impl Compared {
    pub(super) fn new(name: &str, number: usize, trial: &Trial) -> Self {
        Self {
            name: name.into(),
            trial: number + 1,
            score: trial.score(),
            holdout: None,
            holdout_error: None,
            holdout_failed: None,
        }
    }

    pub(super) fn hold_out(&mut self, entry: &Entry) {
        (self.holdout, self.holdout_error) = (entry.score, entry.score_error);
        self.holdout_failed.clone_from(&entry.failed);
    }
}
