//! Which checkpoints are merged, and with which weight: selection, metric, weights.

use std::path::{Path, PathBuf};

use mwa::{
    Error, ErrorKind, Goal, Metric, MetricOptions, Outcome, Reading, Result, Scheme, Table, Wanted, Weights,
};

use crate::checkpoint::{Checkpoint, read_text};
use crate::report::{Input, Weighting};
use crate::run;
use crate::{Options, Selection, WeightRule};

/// How many of a run's checkpoints are taken unless the user selects.
const LAST: usize = 10;

/// The checkpoints of a merge, oldest first, with their weights.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// One per checkpoint, where the weights come from a metric.
    pub(crate) readings: Vec<Option<Reading>>,
    pub(crate) weights: Weights,
    pub(crate) weighting: Weighting,
    pub(crate) notes: Vec<String>,
}

/// A checkpoint on its way, and what is known of it.
struct Candidate {
    checkpoint: Checkpoint,
    reading: Option<Reading>,
    explicit: Option<f64>,
}

/// Find, select and weigh. Checkpoints at the paths in `excluded` are left out as bad.
pub(crate) fn choose(options: &Options, excluded: &[PathBuf]) -> Result<Choice> {
    let found = run::find(&options.inputs, options.adapter.as_deref())?;
    let mut notes = found.notes;
    let mut checkpoints = select(found.checkpoints, options.select, found.searched, &mut notes)?;
    if let WeightRule::Explicit(values) = &options.rule
        && values.len() != checkpoints.len()
    {
        let names: Vec<_> = checkpoints.iter().map(Checkpoint::label).collect();
        let detail = format!(
            "there are {} weights for {} checkpoints: {}",
            values.len(),
            names.len(),
            names.join(", ")
        );
        return Err(
            Error::new(ErrorKind::Weights, detail).help("give one weight per checkpoint, in this order")
        );
    }
    let explicit = match &options.rule {
        WeightRule::Explicit(values) => values.iter().copied().map(Some).collect(),
        WeightRule::Scheme { .. } => vec![None; checkpoints.len()],
    };
    let is_kept: Vec<_> = checkpoints.iter().map(|checkpoint| !excluded.contains(&checkpoint.path)).collect();
    let mut kept = is_kept.iter();
    checkpoints.retain(|_| *kept.next().expect("one flag per checkpoint"));
    let mut explicit: Vec<_> =
        explicit.into_iter().zip(is_kept).filter_map(|(weight, kept)| kept.then_some(weight)).collect();
    if checkpoints.is_empty() {
        return Err(Error::new(ErrorKind::Input, "no good checkpoint is left"));
    }

    let is_uniform =
        matches!(options.rule, WeightRule::Explicit(_) | WeightRule::Scheme { scheme: Scheme::Uniform, .. });
    // a file alone weighs 1, whatever its metric, and often has none
    let is_alone = checkpoints.len() == 1 && checkpoints[0].step.is_none();
    let is_asked = options.metric.name.is_some() || options.metrics_file.is_some();
    let needs_metric = (!is_uniform || options.select.top.is_some()) && (!is_alone || is_asked);
    let mut metric = if needs_metric { Some(read_metric(options, &checkpoints)?) } else { None };
    let mut readings = vec![None; checkpoints.len()];
    if let Some(metric) = &mut metric {
        notes.append(&mut metric.notes);
        if options.drop_bad {
            for (index, reason) in metric.drop_bad().into_iter().rev() {
                let dropped = checkpoints.remove(index);
                explicit.remove(index);
                notes.push(format!("{} is dropped: {reason}", dropped.name));
            }
        }
        metric.values().map_err(|error| match &options.metrics_file {
            Some(table) => error.file(table.display().to_string()),
            None => error,
        })?;
        readings = metric
            .readings
            .iter()
            .map(|outcome| if let Outcome::Read(reading) = outcome { Some(*reading) } else { None })
            .collect();
    }
    let candidates = checkpoints.into_iter().zip(readings).zip(explicit);
    let mut candidates: Vec<_> = candidates
        .map(|((checkpoint, reading), explicit)| Candidate { checkpoint, reading, explicit })
        .collect();
    if let (Some(top), Some(metric)) = (options.select.top, &metric) {
        keep_best(&mut candidates, top, metric.goal);
    }
    // oldest first where all steps are known: the newest gives the output its config, and the order fixes the last bit
    if candidates.iter().all(|candidate| candidate.checkpoint.step.is_some()) {
        candidates.sort_by_key(|candidate| candidate.checkpoint.step);
    }
    let weights = weigh(options, metric.as_ref(), &candidates)?;
    if let WeightRule::Explicit(values) = &options.rule {
        let sum: f64 = values.iter().sum();
        if (sum - 1.0).abs() > 1e-6 {
            notes.push(format!("the weights sum to {sum}; they are divided by that, so that they sum to 1"));
        }
    }
    let weighting = match options.rule {
        WeightRule::Scheme { scheme, penalty } => {
            Weighting::new(scheme, penalty, metric.as_ref().filter(|_| scheme != Scheme::Uniform))
        }
        WeightRule::Explicit(_) => {
            Weighting { scheme: "explicit".into(), penalty: None, metric: None, goal: None }
        }
    };
    let all_equal = weights.values().windows(2).all(|pair| pair[0] == pair[1]);
    if let (Some(metric), true, false) = (&metric, all_equal && candidates.len() > 1, is_uniform) {
        notes.push(if weighting.penalty == Some(0.0) {
            "penalty 0 weighs every checkpoint the same".into()
        } else {
            format!("{} is the same for every checkpoint, so all weigh the same", metric.name)
        });
    }
    let (checkpoints, readings) =
        candidates.into_iter().map(|candidate| (candidate.checkpoint, candidate.reading)).unzip();
    Ok(Choice { checkpoints, readings, weights, weighting, notes })
}

fn select(
    mut checkpoints: Vec<Checkpoint>,
    select: Selection,
    searched: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<Checkpoint>> {
    let found = checkpoints.len();
    let steps: Vec<_> = checkpoints.iter().filter_map(|checkpoint| checkpoint.step).collect();
    if let Some((first, last)) = select.steps {
        checkpoints.retain(|checkpoint| checkpoint.step.is_some_and(|step| (first..=last).contains(&step)));
    }
    if let Some(every) = select.every {
        // counted from the newest, which is always kept
        let offset = checkpoints.len().saturating_sub(1) % every.max(1);
        let mut index = 0..;
        checkpoints.retain(|_| index.next().is_some_and(|i: usize| i % every.max(1) == offset));
    }
    let is_free = select.steps.is_none() && select.every.is_none() && select.top.is_none();
    let last = select.last.or((searched && is_free).then_some(LAST));
    if select.last.is_none() && last.is_some_and(|last| last < checkpoints.len()) {
        notes.push(format!("the newest {LAST} of {found} checkpoints are taken; --last takes more or fewer"));
    }
    if let Some(last) = last {
        checkpoints.drain(..checkpoints.len().saturating_sub(last));
    }
    if checkpoints.is_empty() {
        let range = match (steps.iter().min(), steps.iter().max()) {
            (Some(first), Some(last)) => format!("lie between steps {first} and {last}"),
            _ => "have no step in their names".into(),
        };
        let detail = format!("--steps selects none of the {found} checkpoints found, which {range}");
        return Err(Error::new(ErrorKind::Input, detail).help("widen --steps, or leave it out"));
    }
    Ok(checkpoints)
}

/// The metric of each checkpoint, from the user's table or from the logs of their runs.
fn read_metric(options: &Options, checkpoints: &[Checkpoint]) -> Result<Metric> {
    let mut metric = if let Some(path) = &options.metrics_file {
        let labels: Vec<_> = checkpoints.iter().map(Checkpoint::label).collect();
        let wanted = labels
            .iter()
            .zip(checkpoints)
            .map(|(label, checkpoint)| Wanted { name: label, step: checkpoint.step });
        let wanted: Vec<_> = wanted.collect();
        let table =
            Table::parse(&read_text(path)?).map_err(|error| error.file(path.display().to_string()))?;
        table.read(&wanted, &options.metric).map_err(|error| error.file(path.display().to_string()))?
    } else {
        read_logs(&options.metric, checkpoints)?
    };
    metric.checkpoints = checkpoints.iter().map(Checkpoint::label).collect();
    Ok(metric)
}

fn read_logs(options: &MetricOptions, checkpoints: &[Checkpoint]) -> Result<Metric> {
    let mut steps = Vec::new();
    for checkpoint in checkpoints {
        steps.push(checkpoint.step.ok_or_else(|| {
            Error::new(ErrorKind::Metric, "has no step in its name, so no logged metric belongs to it")
                .file(&*checkpoint.name)
                .help("give --metrics-file with a column `checkpoint`, or weigh without a metric: --scheme uniform or --weights")
        })?);
    }
    // each run has its own log; the metric that the first one gives is asked of all
    let mut roots: Vec<(&Path, Vec<usize>)> = Vec::new();
    for (i, checkpoint) in checkpoints.iter().enumerate() {
        let root = checkpoint.path.parent().filter(|root| *root != Path::new("")).unwrap_or(Path::new("."));
        match roots.iter_mut().find(|(known, _)| *known == root) {
            Some((_, members)) => members.push(i),
            None => roots.push((root, vec![i])),
        }
    }
    let mut options = options.clone();
    let mut whole: Option<Metric> = None;
    let mut readings = vec![Outcome::Missing(String::new()); checkpoints.len()];
    for (root, members) in roots {
        let steps: Vec<_> = members.iter().map(|&i| steps[i]).collect();
        let metric = mwa::read_metric(&run::history(root)?, &steps, &options)
            .map_err(|error| error.file(root.display().to_string()))?;
        for (i, outcome) in members.into_iter().zip(&metric.readings) {
            readings[i] = outcome.clone();
        }
        options.name = Some(metric.name.clone());
        match &mut whole {
            Some(whole) => whole.notes.extend(metric.notes),
            None => whole = Some(metric),
        }
    }
    let whole = whole.expect("choose() has at least one checkpoint");
    Ok(Metric { readings, ..whole })
}

/// Keep the `top` candidates with the best metric, in their order.
fn keep_best(candidates: &mut Vec<Candidate>, top: usize, goal: Goal) {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let value = |i: &usize| candidates[*i].reading.map_or(f64::NAN, |reading| reading.value);
    order.sort_by(|a, b| match goal {
        Goal::Min => value(a).total_cmp(&value(b)),
        Goal::Max => value(b).total_cmp(&value(a)),
    });
    order.truncate(top);
    let mut index = 0..;
    candidates.retain(|_| index.next().is_some_and(|i| order.contains(&i)));
}

fn weigh(options: &Options, metric: Option<&Metric>, candidates: &[Candidate]) -> Result<Weights> {
    match (&options.rule, metric) {
        (WeightRule::Explicit(_), _) => {
            let values: Vec<_> = candidates.iter().filter_map(|candidate| candidate.explicit).collect();
            Weights::explicit(&values)
        }
        (WeightRule::Scheme { scheme, penalty }, Some(metric)) => {
            let values: Vec<_> = candidates
                .iter()
                .filter_map(|candidate| candidate.reading)
                .map(|reading| reading.value)
                .collect();
            Weights::new(&values, metric.goal, *scheme, *penalty).map_err(|error| {
                Error::new(error.kind(), format!("metric {}: {}", metric.name, error.detail()))
                    .help(error.advice().unwrap_or_default().to_owned())
            })
        }
        (WeightRule::Scheme { penalty, .. }, None) => {
            Weights::new(&vec![0.0; candidates.len()], Goal::Min, Scheme::Uniform, *penalty)
        }
    }
}

impl Choice {
    /// The rows of the report, without files.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = Input> + '_ {
        self.checkpoints.iter().zip(&self.readings).zip(self.weights.values()).map(
            |((checkpoint, reading), &weight)| Input {
                name: checkpoint.name.clone(),
                path: checkpoint.name.clone(),
                step: checkpoint.step,
                metric: reading.map(|reading| reading.value),
                source: reading.map(|reading| reading.source.to_string()),
                weight,
                files: Vec::new(),
            },
        )
    }
}
