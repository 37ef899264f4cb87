//! Tell JavaScript what was found and how it is weighed, as JSON.

use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use mwa::{Goal, Index, Metric, Outcome, Result};
use serde_json::{Value, json};

use crate::choose::{Choice, Options, choose, metric_of_all};
use crate::files::{Files, parent};
use crate::run::Found;

/// Checkpoints, metrics, notes.
pub(crate) fn run(files: &Files, found: &Found) -> String {
    let checkpoints = found.checkpoints.iter().enumerate().map(|(index, checkpoint)| {
        let bytes: u64 = checkpoint.files.iter().map(|file| files.size(file.number)).sum();
        let parameters: u64 = checkpoint.tensors().map(|tensor| tensor.shape.iter().product::<u64>()).sum();
        let mut dtypes: Vec<String> = checkpoint.tensors().map(|tensor| tensor.dtype.to_string()).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        let config = checkpoint.config.as_ref();
        let before = index.checked_sub(1).map(|before| &found.samples[before]);
        let cosine = before.and_then(|before| before.cosine(&found.samples[index]));
        json!({
            "name": checkpoint.name,
            "label": checkpoint.label(),
            "run": parent(&checkpoint.name),
            "step": checkpoint.step,
            "bytes": bytes,
            "tensors": checkpoint.tensors().count(),
            "parameters": parameters,
            "dtypes": dtypes,
            "method": config.map(|config| config.peft_type()),
            "rank": config.and_then(|config| config.r()),
            "baseModel": config.and_then(|config| config.base_model()),
            "cosineToPrevious": cosine,
        })
    });
    let broken = found.broken.iter().map(|(name, error)| {
        json!({ "name": name, "kind": error.kind().name(), "message": error.to_string(), "help": error.advice() })
    });
    json!({
        "checkpoints": checkpoints.collect::<Vec<_>>(),
        "broken": broken.collect::<Vec<_>>(),
        "metrics": metrics(found),
        "notes": found.notes,
    })
    .to_string()
}

/// The metrics of all runs, and of how many checkpoints each is known.
fn metrics(found: &Found) -> Vec<Value> {
    let mut names: Vec<&str> = Vec::new();
    let mut counts: Vec<usize> = Vec::new();
    for (root, history) in &found.histories {
        let of_run = found.checkpoints.iter().filter(|checkpoint| parent(&checkpoint.name) == root);
        let steps: Vec<u64> = of_run.filter_map(|checkpoint| checkpoint.step).collect();
        for (name, count) in history.coverage(&steps) {
            names.push(name);
            counts.push(count);
        }
    }
    let index = Index::new(names.iter().copied());
    let mut covered = vec![0; names.len()];
    for (name, count) in names.iter().zip(counts) {
        covered[index.place(name).expect("it is among them")] += count;
    }
    let metric = |name: &str, covered: usize| json!({ "name": name, "goal": Goal::infer(name).map(goal), "covered": covered });
    let once = (0..names.len()).filter(|i| index.is_first(names[*i], *i));
    once.map(|i| metric(names[i], covered[i])).collect()
}

fn goal(goal: Goal) -> &'static str {
    if goal == Goal::Min { "min" } else { "max" }
}

/// Step and value of each record of a metric, by run; null where the value is not finite.
pub(crate) fn curves(found: &Found, metric: &str) -> String {
    let curve =
        |(root, history): &(String, mwa::History)| json!({ "run": root, "points": history.curve(metric) });
    Value::from_iter(found.histories.iter().map(curve)).to_string()
}

/// What the metric says of every checkpoint found.
pub(crate) fn readings(found: &Found, options: &Options) -> Result<String> {
    let Metric { name, goal: better, readings, notes, .. } = metric_of_all(found, options)?;
    let reading = |(checkpoint, outcome): (&crate::checkpoint::Checkpoint, Outcome)| match outcome {
        Outcome::Read(reading) => json!({
            "checkpoint": checkpoint.name,
            "state": if reading.source.is_flagged() { "flagged" } else { "read" },
            "value": reading.value,
            "source": reading.source.to_string(),
        }),
        Outcome::Missing(facts) => {
            json!({ "checkpoint": checkpoint.name, "state": "missing", "source": facts })
        }
        Outcome::Bad(reason) => json!({ "checkpoint": checkpoint.name, "state": "bad", "source": reason }),
    };
    let readings: Vec<_> = found.checkpoints.iter().zip(readings).map(reading).collect();
    Ok(json!({ "metric": name, "goal": goal(better), "readings": readings, "notes": notes }).to_string())
}

/// The chosen checkpoints and their weights.
pub(crate) fn weighing(found: &Found, options: &Options) -> Result<String> {
    let Choice { choice, inputs } = choose(found, options, &[])?;
    Ok(json!({
        "inputs": inputs,
        "weighting": choice.weighting,
        "description": choice.weighting.describe(),
        "selected": choice.selected,
        "advice": choice.advice,
        "notes": choice.notes,
    })
    .to_string())
}
