//! What toolkits print while they train: the lines of a validation, by epoch or by step.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value};

use crate::logs::series::{Log, Point};
use crate::logs::trainer::TrainerState;
use crate::text::json;

/// A row of what is printed: what stands before the number that counts, what behind it, and what the metrics begin behind.
struct Line {
    before: &'static str,
    after: &'static str,
    from: &'static str,
    /// What the names of metrics get in front.
    section: &'static str,
}

const fn line(before: &'static str, after: &'static str, from: &'static str, section: &'static str) -> Line {
    Line { before, after, from, section }
}

/// Of epochs: icefall, espnet, wenet (of before and of now).
const EPOCHS: [Line; 3] = [
    line("Epoch ", ", validation: ", ", validation: ", "eval_"),
    line("", "epoch results: ", "[valid] ", "eval_"),
    line("Epoch ", " ", " CV info ", "eval_"),
];
/// Of steps: nanoGPT, torchtune, mlx-lm.
const STEPS: [Line; 4] = [
    line("step ", ": train loss ", ": ", ""),
    line("Step ", " | ", " | ", ""),
    line("Iter ", ": Val loss ", ": ", ""),
    line("Iter ", ": Train loss ", ": ", ""),
];

/// The validations of a log that counts epochs.
pub(super) fn epochs(text: &str) -> Vec<TrainerState> {
    let fairseq = |text: &str| {
        let (_, json) = text.split_once("| INFO | valid | ")?;
        let row = json::parse::<Map<String, Value>>(json.trim()).ok()?;
        let step = row.get("epoch").and_then(json::step)?;
        let cells = row.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix("valid_")?;
            Some((format!("eval_{name}"), json::number(value)?))
        });
        Some((step, cells.collect()))
    };
    read(text, &EPOCHS, fairseq)
}

/// The lines of a log that counts steps.
pub(super) fn steps(text: &str) -> Vec<TrainerState> {
    read(text, &STEPS, |_| None)
}

type Cells = (u64, Vec<(String, f64)>);

fn read(text: &str, rows: &[Line], other: impl Fn(&str) -> Option<Cells>) -> Vec<TrainerState> {
    let mut points = Vec::new();
    for text in text.lines() {
        let found = rows.iter().find_map(|row| row.read(text)).or_else(|| other(text));
        let Some((step, cells)) = found else { continue };
        points.extend(cells.into_iter().map(|(metric, value)| Point { metric, step, value }));
    }
    // the last validation of an epoch counts
    points.reverse();
    let log = Log::new(points);
    log.end().map(|_| TrainerState { log, ..TrainerState::default() }).into_iter().collect()
}

impl Line {
    fn read(&self, text: &str) -> Option<Cells> {
        let (step, rest) = self.counted(text)?;
        let at = rest.find(self.from)?;
        let mut told = &rest[at + self.from.len()..];
        // another section begins
        told = told.split(", [").next().unwrap_or(told);
        let cells = pairs(told).map(|(name, value)| (format!("{}{name}", self.section), value));
        let cells: Vec<_> = cells.collect();
        (!cells.is_empty()).then_some((step, cells))
    }

    /// The number that counts, and the text from behind it on.
    fn counted<'a>(&self, text: &'a str) -> Option<(u64, &'a str)> {
        let digit = |letter: char| letter.is_ascii_digit();
        if self.before.is_empty() {
            let at = text.find(self.after)?;
            let digits = text[..at].len() - text[..at].trim_end_matches(digit).len();
            return Some((text[at - digits..at].parse().ok()?, &text[at..]));
        }
        let start = text.find(self.before)? + self.before.len();
        let rest = text[start..].trim_start_matches(digit);
        let number = text[start..text.len() - rest.len()].parse().ok()?;
        rest.starts_with(self.after).then_some((number, rest))
    }
}

/// Names and numbers, written `loss=0.2, acc=0.9`, `loss:0.2 lr:1e-5`, `cv_loss 0.2` or `train loss 1.2, val loss 1.4`.
fn pairs(text: &str) -> impl Iterator<Item = (String, f64)> + '_ {
    let mut words = Vec::new();
    let mut found = Vec::new();
    for word in text.split([' ', ',', '=', ':', ';', '[', ']']).filter(|word| !word.is_empty()) {
        match json::float(word.trim_end_matches('.')) {
            Some(value) if !words.is_empty() => {
                let name = core::mem::take(&mut words).join("_").to_ascii_lowercase();
                let name = name.strip_prefix("cv_").unwrap_or(&name);
                let name = match name.strip_prefix("train_") {
                    Some("loss") => "loss",
                    _ => name,
                };
                found.push((String::from(name), value));
            }
            Some(_) => {}
            // what is counted over, and units behind numbers
            None if ["over", "frames", "utterances", "samples", "it/sec", "took", "s"].contains(&word) => {
                words.clear()
            }
            None => words.push(word),
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(states: &[TrainerState]) -> Vec<(&str, u64, f64)> {
        let all = states.iter().flat_map(|state| state.log.iter());
        all.flat_map(|(name, series)| series.iter().map(move |(step, value)| (name, *step, *value))).collect()
    }

    #[test]
    fn validations_of_epochs_are_read() {
        let icefall = "2024-01-01 10:00:00,123 INFO [train.py:918] Epoch 3, batch 50, loss[loss=1.5, over 9.00 frames.]\n\
                       2024-01-01 10:00:01,123 INFO [train.py:953] Epoch 3, validation: loss=0.31, over 999.00 frames. \n\
                       2024-01-01 10:00:02,123 INFO [train.py:953] Epoch 3, validation: loss=0.21, ctc_loss=0.4, over 999.00 \
                       frames. \n";
        assert_eq!(points(&epochs(icefall)), [("eval_ctc_loss", 3, 0.4), ("eval_loss", 3, 0.21)]);
        let espnet = "[host] 2024-01-01 10:00:00,123 (trainer:338) INFO: 3epoch results: [train] iter_time=1e-4, loss=9.5, \
                      [valid] loss=5.25, acc=0.911, time=2 minutes, [att_plot] time=3\n";
        let found = epochs(espnet);
        assert!(points(&found).starts_with(&[("eval_acc", 3, 0.911), ("eval_loss", 3, 5.25)]), "{found:?}");
        let wenet = "INFO Epoch 4 CV info cv_loss 6.125\nINFO Epoch 5 Step 900 CV info lr 0.001 cv_loss 6.0 rank 0 acc 0.5\n";
        let found = epochs(wenet);
        assert!(points(&found).contains(&("eval_loss", 4, 6.125)), "{found:?}");
        assert!(points(&found).contains(&("eval_loss", 5, 6.0)), "{found:?}");
        let fairseq = "2024 | INFO | valid | {\"epoch\": 3, \"valid_loss\": \"3.21\", \"valid_num_updates\": \"600\"}\n";
        assert_eq!(points(&epochs(fairseq)), [("eval_loss", 3, 3.21), ("eval_num_updates", 3, 600.0)]);
    }

    #[test]
    fn lines_of_steps_are_read() {
        let text = "step 2000: train loss 1.2, val loss 1.4\nIter 100: Val loss 2.5, Val took 1.2s\nIter 100: Train loss 2.25, \
                    Learning Rate 1e-5, It/sec 3.1\nStep 12 | loss:1.234 lr:2e-5 tokens_per_second_per_gpu:900\n";
        let found = steps(text);
        let found = points(&found);
        for wanted in [
            ("loss", 2000, 1.2),
            ("val_loss", 2000, 1.4),
            ("val_loss", 100, 2.5),
            ("loss", 100, 2.25),
            ("loss", 12, 1.234),
            ("lr", 12, 2e-5),
        ] {
            assert!(found.contains(&wanted), "{wanted:?} {found:?}");
        }
        assert!(steps("step one: train loss x\nEpoch 3\n").is_empty());
    }
}
