//! What evaluations of checkpoints write: lm-eval-harness, OpenCompass, and a Trainer's own results.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::logs::series::{Log, Point};
use crate::logs::table::evaluated;
use crate::logs::trainer::TrainerState;
use crate::text::json;

/// The points of a checkpoint whose step is not known here.
fn state(of: Option<String>, cells: Vec<(String, f64)>, generation: usize) -> Option<TrainerState> {
    let points = cells.into_iter().map(|(metric, value)| Point { metric, step: 0, value });
    let log = Log::new(points.collect());
    log.end()?;
    Some(TrainerState { of, log, generation, ..TrainerState::default() })
}

/// `results_….json` of lm-eval-harness and lighteval: of the checkpoint that it names.
pub(super) fn results(text: &str) -> Vec<TrainerState> {
    let Ok(file) = json::parse::<Map<String, Value>>(text) else { return Vec::new() };
    let Some(Value::Object(results)) = file.get("results") else { return Vec::new() };
    let mut row = evaluated(&file, results);
    let of = row.remove("checkpoint").and_then(|name| Some(name.as_str()?.to_string()));
    // the newest of several counts
    let date = file.get("date").and_then(json::number).and_then(json::whole).unwrap_or(0);
    let cells = row.iter().filter_map(|(name, value)| Some((name.clone(), json::number(value)?)));
    let state = of.and_then(|of| state(Some(of), cells.collect(), usize::try_from(date).unwrap_or(0)));
    let mut goals = Vec::new();
    if let Some(Value::Object(tasks)) = file.get("higher_is_better") {
        for (task, metrics) in tasks {
            for (metric, is_better) in metrics.as_object().into_iter().flatten() {
                goals.extend(is_better.as_bool().map(|is_max| (format!("{task}/{metric}"), is_max)));
            }
        }
    }
    state.map(|state| TrainerState { goals, ..state }).into_iter().collect()
}

/// `summary_….csv` of OpenCompass: a column for each model, whose name says which checkpoint it is.
pub(super) fn summary(text: &str) -> Vec<TrainerState> {
    const FACTS: [&str; 4] = ["dataset", "version", "metric", "mode"];
    let mut lines = text.lines();
    let header: Vec<_> = lines.next().unwrap_or_default().trim_start_matches('\u{feff}').split(',').collect();
    let Some(models) = header.strip_prefix(&FACTS[..]) else { return Vec::new() };
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    let of_model = |(at, model): (usize, &&str)| {
        let cells = rows.iter().filter_map(|row| {
            // commas in the names of data sets are not quoted: what is behind them is counted from the end
            let from_end = models.len() - at;
            let value = json::float(row.get(row.len().checked_sub(from_end)?)?.trim())?;
            let first = row.len().checked_sub(models.len() + FACTS.len() - 1)?;
            let metric = row.get(first + 1)?;
            Some((format!("{}/{metric}", row[..first].join(",")), value))
        });
        state(Some((*model).to_string()), cells.collect(), 0)
    };
    models.iter().enumerate().filter_map(of_model).collect()
}

/// `eval_results.json` and `all_results.json` in a checkpoint's folder: of that checkpoint.
pub(super) fn own(text: &str) -> Result<Vec<TrainerState>> {
    let Ok(file) = json::parse::<Map<String, Value>>(text) else { return Ok(Vec::new()) };
    // what was measured while it was trained is not the checkpoint's
    let cells = file.iter().filter(|(name, _)| !name.starts_with("train_") && *name != "epoch");
    let cells = cells.filter_map(|(name, value)| Some((name.clone(), json::number(value)?))).collect();
    Ok(state(None, cells, 0).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(states: &[TrainerState]) -> Vec<(Option<&str>, &str, f64)> {
        let all = states.iter().flat_map(|state| {
            state.log.iter().map(|(name, series)| (state.of.as_deref(), name, series[0].1))
        });
        all.collect()
    }

    #[test]
    fn results_of_the_harness_name_their_checkpoint_and_the_way_to_go() {
        let states = results(include_str!("data/results_lm_eval.json"));
        let [state] = states.as_slice() else { panic!("{states:?}") };
        assert_eq!(state.of.as_deref(), Some("out/checkpoint-50"));
        assert!(state.goals.contains(&("tiny_mc/acc".to_string(), true)), "{:?}", state.goals);
        let names: Vec<_> = state.log.iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"tiny_mc/acc,none"), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("stderr")), "{names:?}");
    }

    #[test]
    fn a_summary_has_a_column_for_each_model() {
        let text = "dataset,version,metric,mode,lora-50,lora-100\nmmlu,abc,accuracy,gen,51.5,52.0\nlong, with comma,\
                    d,score,ppl,-,7.5\n";
        let states = summary(text);
        let expected = [
            (Some("lora-50"), "mmlu/accuracy", 51.5),
            (Some("lora-100"), "long, with comma/score", 7.5),
            (Some("lora-100"), "mmlu/accuracy", 52.0),
        ];
        assert_eq!(points(&states), expected);
        assert_eq!(points(&summary("epoch,loss\n1,2\n")), []);
    }

    #[test]
    fn results_of_the_training_are_not_the_checkpoints() {
        let states = own(r#"{"epoch": 1.0, "eval_loss": 2.5, "eval_f1": NaN, "train_loss": 3.0}"#).unwrap();
        let found = points(&states);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], (None, "eval_loss", 2.5));
        assert!(found[0].2.is_nan());
        assert!(own("[]").unwrap().is_empty() && own("no json").unwrap().is_empty());
    }
}
