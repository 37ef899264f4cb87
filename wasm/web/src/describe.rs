//! Tell JavaScript what was found and how it is weighed, as JSON.

use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use mwa::{Error, ErrorKind, Goal, Index, Metric, Options, Outcome, Result, Run};
use serde_json::{Value, json};

use crate::found::{Found, table, weighing as wanted};

/// Checkpoints, metrics, notes.
pub(crate) fn run(Found { run, samples }: &Found) -> String {
    let checkpoints = run.checkpoints.iter().enumerate().map(|(index, checkpoint)| {
        let bytes: u64 = checkpoint.files.iter().map(|file| file.len).sum();
        let parameters: u64 = checkpoint.tensors().map(|tensor| tensor.shape.iter().product::<u64>()).sum();
        let mut dtypes: Vec<String> = checkpoint.tensors().map(|tensor| tensor.dtype.to_string()).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        let config = checkpoint.config.as_ref();
        let before = index.checked_sub(1).map(|before| &samples[before]);
        let cosine = before.and_then(|before| before.cosine(&samples[index]));
        json!({
            "name": checkpoint.name,
            "label": checkpoint.label(),
            "run": checkpoint.run(),
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
    let broken = run.broken.iter().map(|(name, error)| {
        json!({ "name": name, "kind": error.kind().name(), "message": error.to_string(), "help": error.advice() })
    });
    json!({
        "checkpoints": checkpoints.collect::<Vec<_>>(),
        "broken": broken.collect::<Vec<_>>(),
        "metrics": metrics(run),
        "notes": run.notes,
    })
    .to_string()
}

/// The metrics of all runs, and of how many checkpoints each is known.
fn metrics(run: &Run) -> Vec<Value> {
    let mut names: Vec<&str> = Vec::new();
    let mut counts: Vec<usize> = Vec::new();
    for (root, history) in run.histories() {
        let Ok(history) = history else { continue };
        let of_run = run.checkpoints.iter().filter(|checkpoint| checkpoint.run() == root);
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
pub(crate) fn curves(run: &Run, metric: &str) -> String {
    let read = run.histories().filter_map(|(root, history)| Some((root, history.as_ref().ok()?)));
    Value::from_iter(read.map(|(root, history)| json!({ "run": root, "points": history.curve(metric) })))
        .to_string()
}

/// What the metric says of every checkpoint found.
pub(crate) fn readings(run: &Run, options: &Options) -> Result<String> {
    let metric = run.metric(table(options).as_ref(), &options.metric(), options.combine)?;
    let Metric { name, goal: better, readings, notes, .. } = metric;
    let reading = |(checkpoint, outcome): (&mwa::Checkpoint, Outcome)| match outcome {
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
    let readings: Vec<_> = run.checkpoints.iter().zip(readings).map(reading).collect();
    Ok(json!({ "metric": name, "goal": goal(better), "readings": readings, "notes": notes }).to_string())
}

/// The chosen checkpoints and their weights.
pub(crate) fn weighing(run: &Run, options: &Options) -> Result<String> {
    let weighed = run.weigh(&wanted(options, &[])?)?;
    if weighed.robust.is_some() {
        let detail = "the tensors decide the weights of this scheme, and weigh() reads none";
        return Err(Error::new(ErrorKind::Usage, detail).help("merge with it: the report tells the weights"));
    }
    Ok(json!({
        "inputs": weighed.inputs,
        "weighting": weighed.weighting,
        "description": weighed.weighting.describe(),
        "ranking": weighed.ranking,
        "groups": weighed.groups,
        "selected": weighed.selected,
        "advice": weighed.advice,
        "notes": weighed.notes,
    })
    .to_string())
}
