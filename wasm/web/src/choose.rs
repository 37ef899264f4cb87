//! Which checkpoints are merged, and with which weight: selection, metric, weights.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use mwa::report::{self, Weighting};
use mwa::{
    Error, ErrorKind, Goal, Metric, MetricOptions, Outcome, Reading, Result, Scheme, Table, Wanted, Weights,
};
use serde::Deserialize;

use crate::files::parent;
use crate::run::{Found, Sample};

/// How many of a run's checkpoints are taken unless the user selects.
const LAST: usize = 10;
/// The penalty unless the caller gives one.
const PENALTY: f64 = 0.8;
/// Below this mean cosine two checkpoints are of different runs.
const OTHER_RUN: f64 = 0.2;
/// Below this they have drifted so far apart that their average deserves a warning.
const FAR: f64 = 0.5;

/// What JavaScript asks for; the parts of the selection apply in the order of the fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Options {
    /// Exactly these, by name.
    checkpoints: Option<Vec<String>>,
    steps: Option<(u64, u64)>,
    every: Option<usize>,
    last: Option<usize>,
    top: Option<usize>,
    metric: Option<String>,
    goal: Option<String>,
    smooth: Option<f64>,
    tolerance: u64,
    strict_metrics: bool,
    /// A table of metrics, instead of the run's own logs.
    table: Option<String>,
    scheme: Option<String>,
    penalty: Option<f64>,
    weights: Option<Vec<f64>>,
    drop_bad: bool,
    pub(crate) allow_cross_run: bool,
    pub(crate) allow_non_finite: bool,
    pub(crate) rewrite: bool,
    pub(crate) dtype: Option<String>,
}

/// The checkpoints of a merge by index, oldest first, with their weights.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) indexes: Vec<usize>,
    /// One per checkpoint, where the weights come from a metric.
    pub(crate) readings: Vec<Option<Reading>>,
    pub(crate) weights: Weights,
    pub(crate) weighting: Weighting,
    pub(crate) notes: Vec<String>,
}

/// A checkpoint on its way.
struct Candidate {
    index: usize,
    reading: Option<Reading>,
    explicit: Option<f64>,
}

impl Options {
    pub(crate) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|error| Error::new(ErrorKind::Usage, format!("the options are not understood: {error}")))
    }

    fn metric(&self) -> Result<MetricOptions> {
        let goal = self.goal.as_deref().map(str::parse).transpose()?;
        let (name, smooth, tolerance, strict) =
            (self.metric.clone(), self.smooth, self.tolerance, self.strict_metrics);
        Ok(MetricOptions { name, goal, smooth, tolerance, strict })
    }
}

/// Select and weigh; `excluded` are left out as bad.
pub(crate) fn choose(found: &Found, options: &Options, excluded: &[usize]) -> Result<Choice> {
    let mut indexes = select(found, options)?;
    if let Some(values) = &options.weights
        && values.len() != indexes.len()
    {
        let names: Vec<_> = indexes.iter().map(|&index| found.checkpoints[index].label()).collect();
        let (have, want) = (values.len(), names.len());
        let detail = format!("there are {have} weights for {want} checkpoints: {}", names.join(", "));
        return Err(
            Error::new(ErrorKind::Weights, detail).help("give one weight per checkpoint, in this order")
        );
    }
    let scheme: Scheme = options.scheme.as_deref().map_or(Ok(Scheme::default()), str::parse)?;
    let mut explicit: Vec<_> =
        (0..indexes.len()).map(|i| options.weights.as_ref().map(|values| values[i])).collect();
    let kept: Vec<_> = indexes.iter().map(|index| !excluded.contains(index)).collect();
    retain(&mut indexes, &kept);
    retain(&mut explicit, &kept);
    if indexes.is_empty() {
        return Err(Error::new(ErrorKind::Input, "no good checkpoint is left"));
    }

    let mut notes = found.notes.clone();
    let is_uniform = options.weights.is_some() || scheme == Scheme::Uniform;
    let is_alone = indexes.len() == 1 && found.checkpoints[indexes[0]].step.is_none();
    let is_asked = options.metric.is_some() || options.table.is_some();
    let needs_metric = (!is_uniform || options.top.is_some()) && (!is_alone || is_asked);
    let mut metric = if needs_metric { Some(read_metric(found, &indexes, options)?) } else { None };
    let mut readings = vec![None; indexes.len()];
    if let Some(metric) = &mut metric {
        notes.append(&mut metric.notes);
        if options.drop_bad {
            for (index, reason) in metric.drop_bad().into_iter().rev() {
                let dropped = indexes.remove(index);
                explicit.remove(index);
                notes.push(format!("{} is dropped: {reason}", found.checkpoints[dropped].name));
            }
        }
        metric.values()?;
        let value =
            |outcome: &Outcome| if let Outcome::Read(reading) = outcome { Some(*reading) } else { None };
        readings = metric.readings.iter().map(value).collect();
    }
    let candidates = indexes.into_iter().zip(readings).zip(explicit);
    let mut candidates: Vec<_> =
        candidates.map(|((index, reading), explicit)| Candidate { index, reading, explicit }).collect();
    if let (Some(top), Some(metric)) = (options.top, &metric) {
        keep_best(&mut candidates, top, metric.goal);
    }
    // oldest first where all steps are known: the newest gives the output its config, and the order fixes the last bit
    let step = |candidate: &Candidate| found.checkpoints[candidate.index].step;
    if candidates.iter().all(|candidate| step(candidate).is_some()) {
        candidates.sort_by_key(step);
    }
    let penalty = options.penalty.unwrap_or(PENALTY);
    let weights = weigh(options, scheme, penalty, metric.as_ref(), &candidates)?;
    if let Some(values) = &options.weights {
        let sum: f64 = values.iter().sum();
        if f64::abs(sum - 1.0) > 1e-6 {
            notes.push(format!("the weights sum to {sum}; they are divided by that, so that they sum to 1"));
        }
    }
    let weighting = match options.weights {
        None => Weighting::new(scheme, penalty, metric.as_ref().filter(|_| scheme != Scheme::Uniform)),
        Some(_) => Weighting { scheme: "explicit".into(), penalty: None, metric: None, goal: None },
    };
    let all_equal = weights.values().windows(2).all(|pair| pair[0] == pair[1]);
    if let (Some(metric), true, false) = (&metric, all_equal && candidates.len() > 1, is_uniform) {
        notes.push(if weighting.penalty == Some(0.0) {
            "penalty 0 weighs every checkpoint the same".into()
        } else {
            format!("{} is the same for every checkpoint, so all weigh the same", metric.name)
        });
    }
    let (indexes, readings) =
        candidates.into_iter().map(|candidate| (candidate.index, candidate.reading)).unzip();
    Ok(Choice { indexes, readings, weights, weighting, notes })
}

fn retain<T>(items: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    items.retain(|_| *kept.next().expect("one flag per item"));
}

fn select(found: &Found, options: &Options) -> Result<Vec<usize>> {
    let all = &found.checkpoints;
    let mut indexes: Vec<usize> = (0..all.len()).collect();
    if let Some(names) = &options.checkpoints {
        if let Some(odd) = names.iter().find(|name| !all.iter().any(|checkpoint| checkpoint.name == **name)) {
            return Err(Error::new(ErrorKind::Usage, format!("there is no checkpoint `{odd}`")));
        }
        indexes.retain(|&index| names.contains(&all[index].name));
    }
    if let Some((first, last)) = options.steps {
        indexes.retain(|&index| all[index].step.is_some_and(|step| (first..=last).contains(&step)));
    }
    if let Some(every) = options.every {
        // counted from the newest, which is always kept
        let offset = indexes.len().saturating_sub(1) % every.max(1);
        let mut place = 0..;
        indexes.retain(|_| place.next().is_some_and(|i: usize| i % every.max(1) == offset));
    }
    let is_free = options.checkpoints.is_none()
        && options.steps.is_none()
        && options.every.is_none()
        && options.top.is_none();
    let last = options.last.or((found.searched && is_free).then_some(LAST));
    if let Some(last) = last {
        indexes.drain(..indexes.len().saturating_sub(last));
    }
    if indexes.is_empty() {
        let detail = format!("none of the {} checkpoints found is selected", all.len());
        return Err(Error::new(ErrorKind::Input, detail).help("select at least one"));
    }
    Ok(indexes)
}

/// The metric of each checkpoint, from the user's table or from the logs of their runs.
pub(crate) fn read_metric(found: &Found, indexes: &[usize], options: &Options) -> Result<Metric> {
    let labels: Vec<_> = indexes.iter().map(|&index| found.checkpoints[index].label().to_owned()).collect();
    let how = options.metric()?;
    let mut metric = if let Some(table) = &options.table {
        let wanted = labels
            .iter()
            .zip(indexes)
            .map(|(name, &index)| Wanted { name, step: found.checkpoints[index].step });
        Table::parse(table)?.read(&wanted.collect::<Vec<_>>(), &how)?
    } else {
        read_logs(found, indexes, how)?
    };
    metric.checkpoints = labels;
    Ok(metric)
}

fn read_logs(found: &Found, indexes: &[usize], mut options: MetricOptions) -> Result<Metric> {
    let mut steps = Vec::new();
    for &index in indexes {
        let checkpoint = &found.checkpoints[index];
        steps.push(checkpoint.step.ok_or_else(|| {
            Error::new(ErrorKind::Metric, "has no step in its name, so no logged metric belongs to it")
                .file(&*checkpoint.name)
                .help("give a table of metrics with a column `checkpoint`, or weigh without a metric: uniform, or weights of your own")
        })?);
    }
    // each run has its own log; the metric that the first one gives is asked of all
    let mut roots: Vec<(&str, Vec<usize>)> = Vec::new();
    for (i, &index) in indexes.iter().enumerate() {
        let root = parent(&found.checkpoints[index].name);
        match roots.iter_mut().find(|(known, _)| *known == root) {
            Some((_, members)) => members.push(i),
            None => roots.push((root, vec![i])),
        }
    }
    let mut whole: Option<Metric> = None;
    let mut readings = vec![Outcome::Missing(String::new()); indexes.len()];
    for (root, members) in roots {
        let steps: Vec<_> = members.iter().map(|&i| steps[i]).collect();
        let metric =
            mwa::read_metric(&found.histories[root], &steps, &options).map_err(|error| error.file(root))?;
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

fn weigh(
    options: &Options,
    scheme: Scheme,
    penalty: f64,
    metric: Option<&Metric>,
    candidates: &[Candidate],
) -> Result<Weights> {
    if options.weights.is_some() {
        let values: Vec<_> = candidates.iter().filter_map(|candidate| candidate.explicit).collect();
        return Weights::explicit(&values);
    }
    let Some(metric) = metric else {
        return Weights::new(&vec![0.0; candidates.len()], Goal::Min, Scheme::Uniform, penalty);
    };
    let readings = candidates.iter().filter_map(|candidate| candidate.reading);
    let values: Vec<_> = readings.map(|reading| reading.value).collect();
    Weights::new(&values, metric.goal, scheme, penalty).map_err(|error| {
        Error::new(error.kind(), format!("metric {}: {}", metric.name, error.detail()))
            .help(error.advice().unwrap_or_default().to_owned())
    })
}

/// Compare each chosen checkpoint with the one before it; notes for the far ones, an error for another run's.
pub(crate) fn same_run(found: &Found, indexes: &[usize], allow: bool) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for pair in indexes.windows(2) {
        let Some(cosine) = mean_cosine(&found.samples[pair[0]], &found.samples[pair[1]]) else { continue };
        let (a, b) = (&found.checkpoints[pair[0]].name, &found.checkpoints[pair[1]].name);
        if cosine >= FAR {
            continue;
        }
        if cosine >= OTHER_RUN || allow {
            notes.push(format!(
                "{a} and {b} point in different directions (mean cosine of their A factors {cosine:.2}); \
                 an average of factors is then a poor average of what they do"
            ));
        } else {
            return Err(Error::new(
                ErrorKind::CrossRun,
                format!("is not of the same run as {a}: the mean cosine of their A factors is {cosine:.2}, near 1 within a run"),
            )
            .file(&**b)
            .help("merge checkpoints of one run, or allow to average across runs all the same"));
        }
    }
    Ok(notes)
}

/// Mean over the tensors that both have; `None` if there is none or all are zero.
pub(crate) fn mean_cosine(a: &Sample, b: &Sample) -> Option<f64> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let both = a.iter().filter_map(|(name, x)| Some((x, b.get(name)?)));
    let cosines = both.map(|(x, y)| dot(x, y) / libm::sqrt(dot(x, x) * dot(y, y)));
    let (sum, count) = cosines
        .filter(|cosine| cosine.is_finite())
        .fold((0.0, 0u32), |(sum, n), cosine| (sum + cosine, n + 1));
    (count > 0).then(|| sum / f64::from(count))
}

impl Choice {
    /// The rows of the report, without files.
    pub(crate) fn inputs<'a>(&'a self, found: &'a Found) -> impl Iterator<Item = report::Input> + 'a {
        self.indexes.iter().zip(&self.readings).zip(self.weights.values()).map(
            |((&index, reading), &weight)| {
                let checkpoint = &found.checkpoints[index];
                report::Input {
                    name: checkpoint.name.clone(),
                    path: checkpoint.name.clone(),
                    step: checkpoint.step,
                    metric: reading.map(|reading| reading.value),
                    source: reading.map(|reading| reading.source.to_string()),
                    weight,
                    files: Vec::new(),
                }
            },
        )
    }
}
