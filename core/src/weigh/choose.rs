//! Which checkpoints are merged, and with which weight: selection, metric, weights.

use alloc::borrow::{Cow, ToOwned as _};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::goal::Goal;
use crate::logs::history::History;
use crate::logs::metric::{
    Metric, MetricOptions, Outcome, Part, Reading, SAY_GOAL, Source, TRAIN_AGAIN, is_evaluation,
};
use crate::logs::read::{EVALUATION, read_metric};
use crate::logs::table::{Table, Wanted};
use crate::merge::report;
use crate::merge::report::Weighting;
use crate::method::blend::Blend;
use crate::text::index::Index;
use crate::weigh::advice::Advice;
use crate::weigh::combine::{Combine, Ranking, named};
use crate::weigh::decay::{Averaging, Course, shares};
use crate::weigh::explicit::{note_of_sum, wrong_count};
use crate::weigh::robust::Robust;
use crate::weigh::schedule::Schedule;
use crate::weigh::scheme::{Needs, Scheme, Weights};
use crate::weigh::window::{MOST, Pick, Reasons, Selected, half};

/// The penalty unless the caller gives one.
pub const PENALTY: f64 = 0.8;

/// A checkpoint that was found.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// How messages and reports call it.
    pub name: &'a str,
    /// The last part of the name, for tables.
    pub label: &'a str,
    /// The run that it belongs to, as [`Metrics::log`] knows it.
    pub run: &'a str,
    /// Training step, if known.
    pub step: Option<u64>,
    /// The number in its name, which may count epochs.
    pub number: Option<u64>,
    /// It is left out, because its tensors were found to be bad.
    pub is_bad: bool,
}

/// Which checkpoints, and how they are weighed.
#[derive(Clone, Debug, Default)]
pub struct ChooseOptions {
    /// Which of the checkpoints found.
    pub select: Selection,
    /// Which metric, and how it is read.
    pub metric: MetricOptions,
    /// How several metrics become one.
    pub combine: Option<Combine>,
    /// How many questions an accuracy is the share of.
    pub questions: Option<usize>,
    /// From metric to weight.
    pub rule: WeightRule,
    /// What becomes of the values of an element.
    pub blend: Blend,
    /// What the schemes decay and ema are told beside.
    pub averaging: Averaging,
    /// Of several runs, each selected and weighed by itself, how much of each; else all alike.
    pub run_weights: Option<Vec<f64>>,
    /// Leave out checkpoints that diverged, instead of failing.
    pub drop_bad: bool,
    /// Take checkpoints together whose logs share no record.
    pub allow_cross_run: bool,
}

/// Which of the checkpoints found are taken; the parts apply in the order of the fields.
///
/// A searched run of which nothing is selected gives the best by an evaluation, else the newest, as many as
/// [`Pick::Best`] and [`Pick::Last`] say. Whatever is selected, or listed one by one, is taken as said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    /// Steps from … to, both included.
    pub steps: Option<(u64, u64)>,
    /// Every k-th, counted from the newest.
    pub every: Option<usize>,
    /// The newest N; not together with a `pick` of its own number.
    pub last: Option<usize>,
    /// The N with the best metric; not together with a `pick` of its own number.
    pub top: Option<usize>,
    /// As many of those as a rule says.
    pub pick: Option<Pick>,
}

/// From metric to weight.
#[derive(Clone, Debug)]
pub enum WeightRule {
    /// One of the schemes.
    Scheme {
        /// Which.
        scheme: Scheme,
        /// How hard a worse checkpoint is punished.
        penalty: f64,
    },
    /// One of the schemes by which the tensors decide.
    Robust {
        /// Which.
        scheme: Scheme,
        /// The same with its numbers.
        robust: Robust,
        /// Whether products are compared, as they are merged.
        is_product: bool,
    },
    /// The caller's own weights, one per checkpoint, in the order in which the checkpoints are found.
    Explicit(Vec<f64>),
}

impl Default for WeightRule {
    fn default() -> Self {
        Self::Scheme { scheme: Scheme::default(), penalty: PENALTY }
    }
}

/// Where metrics come from; asked only for what the weights need.
pub trait Metrics {
    /// The name of the user's table of metrics, if there is one.
    fn table_name(&self) -> Option<String>;
    /// The text of that table.
    ///
    /// # Errors
    /// When it cannot be read.
    fn table(&self) -> Result<Cow<'_, str>>;
    /// What a run logged.
    ///
    /// # Errors
    /// When it cannot be read.
    fn log(&self, run: &str) -> Result<Cow<'_, History>>;
}

/// The checkpoints of a merge, oldest first, with their weights.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Places among those found.
    pub indexes: Vec<usize>,
    /// One per checkpoint, where the weights come from a metric.
    pub readings: Vec<Option<Reading>>,
    /// One per checkpoint.
    pub weights: Weights,
    /// Of a scheme by steps, one per checkpoint: the share that is left of the updates since the one before.
    pub updates: Vec<f64>,
    /// How the weights were made.
    pub weighting: Weighting,
    /// How the tensors decide the weights, if they do.
    pub robust: Option<Robust>,
    /// How several metrics order them.
    pub ranking: Option<Ranking>,
    /// Which checkpoints these are, and why.
    pub selected: Selected,
    /// Why little is to be expected of them, if so.
    pub advice: Vec<Advice>,
    /// Things to say to the user, each once.
    pub notes: Vec<String>,
}

/// A checkpoint on its way.
struct Candidate {
    index: usize,
    reading: Option<Reading>,
    explicit: Option<f64>,
}

/// What is read of the metric, and which checkpoints are left by it.
struct Measured {
    metric: Metric,
    indexes: Vec<usize>,
}

/// Select and weigh. `searched`: all come from searching run folders, so that it may be chosen among them.
///
/// # Errors
/// [`ErrorKind::Input`] when none is selected or left, [`ErrorKind::Usage`] for a selection that contradicts itself,
/// [`ErrorKind::Weights`] when the weights do not fit, and those of reading the metric.
pub fn choose(
    found: &[Listed<'_>],
    searched: bool,
    metrics: &dyn Metrics,
    options: &ChooseOptions,
) -> Result<Choice> {
    let select = options.select;
    let is_explicit = matches!(options.rule, WeightRule::Explicit(_));
    let narrowed = narrow(found, select, searched, is_explicit)?;
    let explicit = explicit(found, &narrowed, &options.rule)?;
    let needs = match &options.rule {
        WeightRule::Scheme { scheme, .. } => scheme.needs,
        WeightRule::Robust { .. } | WeightRule::Explicit(_) => Needs::Nothing,
    };
    let is_uniform = needs != Needs::Metric;
    let kept = narrowed.into_iter().zip(explicit).filter(|(index, _)| !found[*index].is_bad);
    let (mut indexes, mut explicit): (Vec<_>, Vec<_>) = kept.unzip();
    if indexes.is_empty() {
        return Err(Error::new(ErrorKind::Input, "no good checkpoint is left").help(TRAIN_AGAIN));
    }

    let mut notes = Vec::new();
    // one weight each was said of the caller's own: all are meant
    let is_usual = searched && select.is_free() && !is_explicit && indexes.len() > 1;
    if is_usual {
        notes.extend(leave_other_bases(found, &mut indexes, metrics));
    }
    let schedule = schedule(found, &indexes, metrics, MOST.min(half(indexes.len())));
    let mut measured = None;
    // a schedule is over neighbours
    if is_usual
        && needs != Needs::Steps
        && let Some(evaluated) = evaluated(found, &indexes, metrics, &options.metric, options.combine)?
    {
        let (all, left) = (indexes.len(), indexes.len() - evaluated.indexes.len());
        if left > 0 {
            let name = &evaluated.metric.name;
            notes.push(format!("{left} of {all} checkpoints have no {name}: they are left out"));
        }
        indexes = evaluated.indexes;
        measured = Some(evaluated.metric);
    }
    // whatever left some out had no weights of the caller's own
    explicit.truncate(indexes.len());
    let pick = match select.pick {
        None if is_usual && measured.is_some() => Some(Pick::Best),
        None if is_usual => Some(Pick::Last),
        pick => pick.filter(|pick| *pick != Pick::All),
    };
    // among so many the rule chooses
    let mut count = indexes.len();
    if pick == Some(Pick::Last) {
        let is_newest =
            newest(found, &indexes, searched, |count, newer| newer < Pick::Last.of(count, schedule));
        keep(&mut indexes, &is_newest);
        keep(&mut explicit, &is_newest);
    }

    // a file alone weighs 1, whatever its metric, and often has none
    let is_alone = indexes.len() == 1 && found[indexes[0]].step.is_none();
    let table = metrics.table_name();
    let is_asked = options.metric.name.is_some() || table.is_some();
    let is_ranked = select.top.is_some() || pick == Some(Pick::Best);
    // a scheme by steps shows the metric that is asked for
    let is_shown = needs == Needs::Steps && options.metric.name.is_some();
    if measured.is_none() && (!is_uniform || is_ranked || is_shown) && (!is_alone || is_asked) {
        measured = Some(metric_of(found, &indexes, metrics, &options.metric, options.combine)?);
    }
    // a scheme that asks for no metric must not average what has diverged either
    let mut unasked = None;
    if measured.is_none() && matches!(options.rule, WeightRule::Scheme { .. }) && !is_alone {
        let read = metric_of(found, &indexes, metrics, &options.metric, options.combine).ok();
        let is_bad = |metric: &Metric| metric.readings.iter().any(|it| matches!(it, Outcome::Bad(_)));
        unasked = read.filter(is_bad);
    }
    let read = measured.as_mut().or(unasked.as_mut()).filter(|_| options.drop_bad);
    let dropped = read.map_or_else(Vec::new, Metric::drop_bad);
    let why = |found: &Listed<'_>, reason: &str| format!("{} is dropped: {reason}", found.name);
    let is_narrowed = pick == Some(Pick::Last) || select.last.is_some();
    if !dropped.is_empty() && is_narrowed && !is_explicit {
        // others take their places
        let mut rest = found.to_vec();
        dropped.iter().for_each(|(index, _)| rest[indexes[*index]].is_bad = true);
        let choice = choose(&rest, searched, metrics, options)?;
        let told = dropped.iter().map(|(index, reason)| why(&found[indexes[*index]], reason));
        return Ok(Choice { notes: told.chain(choice.notes).collect(), ..choice });
    }
    if let Some(metric) = &mut measured {
        notes.append(&mut metric.notes);
    }
    for (index, reason) in dropped.iter().rev() {
        explicit.remove(*index);
        notes.push(why(&found[indexes.remove(*index)], reason));
    }
    if let Some(metric) = measured.as_ref().or(unasked.as_ref()) {
        metric.values().map_err(|error| match table {
            Some(table) => error.file(table),
            None => error,
        })?;
    }
    let reading =
        |outcome: &Outcome| if let Outcome::Read(reading) = outcome { Some(*reading) } else { None };
    let readings = match &measured {
        Some(metric) => metric.readings.iter().map(reading).collect(),
        None => vec![None; indexes.len()],
    };
    let metric = measured;
    idle(options, metric.as_ref())?;
    let candidates = indexes.into_iter().zip(readings).zip(explicit);
    let mut candidates: Vec<_> =
        candidates.map(|((index, reading), explicit)| Candidate { index, reading, explicit }).collect();
    let mut top = select.top;
    if pick == Some(Pick::Best) {
        count = candidates.len();
        top = Some(Pick::Best.of(count, schedule));
    }
    if let (Some(top), Some(metric)) = (top, &metric) {
        keep_best(&mut candidates, top, metric.goal);
    }
    // oldest first where all steps are known: the newest gives the output its config, and the order fixes the last bit
    let step = |candidate: &Candidate| found[candidate.index].step;
    if candidates.iter().all(|candidate| step(candidate).is_some()) {
        candidates.sort_by_key(step);
    }
    let mut ranking = None;
    if let Some(metric) = metric.as_ref().filter(|metric| !metric.parts.is_empty()) {
        let combine = options.combine.unwrap_or_default();
        let mut readings: Vec<_> = candidates.iter_mut().filter_map(|it| it.reading.as_mut()).collect();
        let parts = combine_again(&metric.parts, combine, &mut readings)?;
        let values: Vec<_> = readings.iter().map(|reading| reading.value).collect();
        let (made, other) = combine.ranking(parts, &values);
        ranking = Some(made);
        notes.extend(other.map(|order| {
            let labels: Vec<_> = order.iter().map(|at| found[candidates[*at].index].label).collect();
            format!(
                "--combine kemeny, which disagrees the least with all metrics, puts them otherwise: {}",
                labels.join(" > ")
            )
        }));
    }
    let course = course(found, &candidates, metrics, options)?;
    let weights = weigh(options, metric.as_ref(), &candidates, &course)?;
    let updates = if needs == Needs::Steps { shares(weights.values()) } else { Vec::new() };
    if let WeightRule::Explicit(values) = &options.rule {
        notes.extend(note_of_sum(values));
    }
    let weighting = match options.rule {
        WeightRule::Scheme { scheme, penalty } => {
            let read = metric.as_ref().filter(|_| scheme.reads_metric());
            let settings = options.averaging.settings(scheme.name).into();
            let weighting = Weighting::new(scheme, penalty, read);
            // one that is shown is named, but has no goal
            let shown = metric.as_ref().filter(|_| is_shown).map(|metric| metric.name.clone());
            Weighting { settings, metric: weighting.metric.or(shown), ..weighting }
        }
        WeightRule::Robust { scheme, robust, .. } => Weighting::robust(scheme, robust),
        WeightRule::Explicit(_) => Weighting::explicit(),
    };
    let weighting = options.blend.tell(weighting);
    if let WeightRule::Scheme { scheme, penalty } = options.rule
        && !scheme.reads_metric()
        && ![0.0, PENALTY].contains(&penalty)
    {
        notes.push(format!("{} has no penalty: {penalty} is not used", scheme.name));
    }
    if let (Some(metric), Some(goal)) = (&metric, options.metric.goal)
        && let Some(usual) = Goal::infer(&metric.name).filter(|usual| *usual != goal)
    {
        notes.push(format!(
            "of {} {usual} is the goal by its name, and goal {goal} prefers what is worst by it: leave the goal out if that was not meant",
            metric.name
        ));
    }
    let equal = metric.as_ref().filter(|_| !is_uniform);
    notes.extend(equal.and_then(|metric| note_of_equal(&weights, &weighting, metric)));
    let (indexes, readings): (Vec<_>, Vec<_>) =
        candidates.into_iter().map(|candidate| (candidate.index, candidate.reading)).unzip();

    let name = metric.as_ref().map(|metric| metric.name.as_str());
    let selected = match pick {
        Some(pick) => {
            let why_last = match &options.metric.name {
                _ if select.pick.is_some() => None,
                _ if needs == Needs::Steps => Some(format!("{} goes by steps", weighting.scheme)),
                Some(name) => Some(format!("{name} is not an evaluation")),
                None => Some("no evaluation to choose by".into()),
            };
            let (metric, why_last) = if pick == Pick::Best { (name, None) } else { (None, why_last) };
            let runs = if searched { runs(found, &indexes) } else { 1 };
            let why = Reasons { count, schedule, metric, why_last, runs };
            Selected::ruled(pick, indexes.len(), found.len(), why)
        }
        None => Selected::given(indexes.len(), found.len(), searched, select.top.and(name)),
    };
    let mut advice = Vec::new();
    if indexes.len() > 1 {
        let window = window(found, &indexes, metrics);
        advice.extend(Advice::on_schedule(window));
        if weighting.scheme == "decay" && !options.averaging.correct_for_lr {
            advice.extend(Advice::on_decay(schedule_of(found, &indexes, metrics)));
        }
        if let (Some(name), false) = (name, is_uniform) {
            let steps = steps_of_one_run(found, &indexes).unwrap_or_default();
            let log = metrics.log(found[indexes[0]].run).ok().filter(|_| metrics.table_name().is_none());
            let logged = log.map_or_else(Vec::new, |log| log.logged(name, &steps));
            advice.extend(Advice::on_metric(name, &readings, &logged));
        }
    }
    if let Some(questions) = options.questions {
        advice.extend(on_questions(questions, metric.as_ref(), ranking.as_ref(), &readings)?);
    }
    if searched && select.is_free() {
        advice.extend(Advice::on_checkpoints(found.len()));
    }
    let robust = match options.rule {
        WeightRule::Robust { robust, .. } => Some(robust),
        _ => None,
    };
    Ok(Choice { indexes, readings, weights, updates, weighting, robust, ranking, selected, advice, notes })
}

/// Refuse what says nothing to the metric that is read.
fn idle(options: &ChooseOptions, metric: Option<&Metric>) -> Result<()> {
    let refuse = |detail: String, help: &'static str| Err(Error::new(ErrorKind::Usage, detail).help(help));
    let only =
        || metric.map_or_else(|| "none is read".into(), |metric| format!("there is only {}", metric.name));
    if options.combine.is_some() && metric.is_none_or(|metric| metric.parts.is_empty()) {
        let detail = format!("option combine is for several metrics, and {}", only());
        return refuse(detail, "name them all: --metric eval_loss,eval_accuracy");
    }
    // several metrics are combined, whatever each of them is
    let is_smoothed = |metric: &Metric| {
        !metric.parts.is_empty()
            || metric.readings.iter().any(|it| matches!(it, Outcome::Read(it) if it.source.is_of_training()))
            // what is wrong with all of them is told elsewhere
            || !metric.readings.iter().any(|it| matches!(it, Outcome::Read(_)))
    };
    if options.metric.smooth.is_some() && !metric.is_some_and(is_smoothed) {
        let what = metric.map_or_else(|| "none is read".into(), |metric| format!("{} is none", metric.name));
        let detail = format!("option smooth is for metrics that were logged while training, and {what}");
        return refuse(detail, "leave out --smooth, or name such a metric: --metric loss");
    }
    Ok(())
}

/// What chance does to accuracies of so many questions; all that are read are judged which may be accuracies.
fn on_questions(
    questions: usize,
    metric: Option<&Metric>,
    ranking: Option<&Ranking>,
    readings: &[Option<Reading>],
) -> Result<Vec<Advice>> {
    let Some(metric) = metric else {
        let error =
            Error::new(ErrorKind::Usage, "option questions is for an accuracy, and no metric is read");
        return Err(error.help("name it, such as --metric eval_accuracy, or leave out --questions"));
    };
    let of_one = || readings.iter().flatten().map(|reading| reading.value).collect::<Vec<_>>();
    let all: Vec<(&str, &str, Vec<f64>)> = match ranking {
        Some(ranking) => ranking.metrics.iter().map(|it| (&*it.name, &*it.goal, it.values.clone())).collect(),
        None => Vec::from([(&*metric.name, if metric.goal == Goal::Max { "max" } else { "min" }, of_one())]),
    };
    let is_share = |values: &[f64]| values.iter().all(|value| (0.0..=1.0).contains(value));
    let mut shares = all.iter().filter(|(_, goal, values)| *goal == "max" && is_share(values)).peekable();
    if shares.peek().is_none() {
        let detail = format!(
            "option questions is for an accuracy, a share of 0 to 1 of which more is better, and {} is none",
            all[0].0
        );
        return Err(Error::new(ErrorKind::Usage, detail)
            .help("choose an accuracy by --metric, or leave out --questions"));
    }
    Ok(shares.filter_map(|(name, _, values)| Advice::on_questions(name, values, questions)).collect())
}

/// The checkpoints that an evaluation tells apart, if there is one for at least half of them: the one that was asked for, or
/// [`EVALUATION`].
fn evaluated(
    found: &[Listed<'_>],
    indexes: &[usize],
    metrics: &dyn Metrics,
    options: &MetricOptions,
    combine: Option<Combine>,
) -> Result<Option<Measured>> {
    let is_table = metrics.table_name().is_some();
    let log = indexes.first().and_then(|&first| metrics.log(found[first].run).ok());
    let is_measured =
        |name: &str| log.as_ref().map_or_else(|| is_evaluation(name), |log| log.is_evaluation(name));
    let mut metric = match &options.name {
        Some(name) if name == "step" || !(is_table || is_measured(name)) => return Ok(None),
        None if !is_table => {
            let options = MetricOptions { name: Some(EVALUATION.into()), ..options.clone() };
            // what fails here fails again where it matters, unless no such evaluation was logged
            match metric_of(found, indexes, metrics, &options, None) {
                Ok(mut metric) => {
                    metric.notes.extend(other_criterion(found, indexes, metrics));
                    metric
                }
                Err(_) => return Ok(None),
            }
        }
        _ => metric_of(found, indexes, metrics, options, combine)?,
    };
    let read = metric.readings.iter().filter(|outcome| matches!(outcome, Outcome::Read(_))).count();
    let is_asked = options.name.is_some() || is_table;
    if !is_asked && (read < half(indexes.len()) || options.strict && read < indexes.len()) {
        return Ok(None);
    }
    let mut indexes = indexes.to_vec();
    if read > 1 && !options.strict {
        let is_there: Vec<_> =
            metric.readings.iter().map(|outcome| !matches!(outcome, Outcome::Missing(_))).collect();
        keep(&mut indexes, &is_there);
        keep(&mut metric.checkpoints, &is_there);
        keep(&mut metric.readings, &is_there);
    }
    Ok(Some(Measured { metric, indexes }))
}

/// What to say where the run itself told its best checkpoint by another evaluation.
fn other_criterion(found: &[Listed<'_>], indexes: &[usize], metrics: &dyn Metrics) -> Option<String> {
    let log = metrics.log(found[*indexes.first()?].run).ok()?;
    let own = log.criterion.as_ref().filter(|own| *own != EVALUATION)?;
    Some(format!(
        "{EVALUATION} is the metric; the run itself chose its best checkpoint by {own} (--metric {own} takes that)"
    ))
}

fn keep<T>(all: &mut Vec<T>, is_kept: &[bool]) {
    let mut place = 0..;
    all.retain(|_| place.next().is_some_and(|i: usize| is_kept[i]));
}

/// Of a run that ReLoRA restarted, keep the checkpoints since the last restart, and say so: only they refer to one base model.
fn leave_other_bases(
    found: &[Listed<'_>],
    indexes: &mut Vec<usize>,
    metrics: &dyn Metrics,
) -> Option<String> {
    let steps = steps_of_one_run(found, indexes)?;
    let restarts = metrics.log(found[indexes[0]].run).ok()?.restarts(&steps);
    let newest = *restarts.last()?;
    let is_newest: Vec<_> = restarts.iter().map(|count| *count == newest).collect();
    let all = indexes.len();
    keep(indexes, &is_newest);
    let left = all - indexes.len();
    (left > 0).then(|| format!("{left} of {all} checkpoints are left out: they refer to the base model before the last ReLoRA restart"))
}

/// The steps of these checkpoints, if all are of one run.
fn steps_of_one_run(found: &[Listed<'_>], indexes: &[usize]) -> Option<Vec<u64>> {
    let first = found[*indexes.first()?].run;
    indexes.iter().map(|&index| found[index].step.filter(|_| found[index].run == first)).collect()
}

/// The learning rate over the newest `count` of some checkpoints, which must be of one run.
fn schedule(
    found: &[Listed<'_>],
    indexes: &[usize],
    metrics: &dyn Metrics,
    count: usize,
) -> Option<Schedule> {
    let mut steps = steps_of_one_run(found, indexes)?;
    steps.sort_unstable();
    let log = metrics.log(found[indexes[0]].run).ok()?;
    Schedule::read(&log, &steps[steps.len().saturating_sub(count)..])
}

/// The learning rate over all of these checkpoints, which must be of one run.
fn schedule_of(found: &[Listed<'_>], indexes: &[usize], metrics: &dyn Metrics) -> Option<Schedule> {
    schedule(found, indexes, metrics, indexes.len())
}

/// The learning rate over the chosen checkpoints, and over those between and before them from which a rule would choose.
fn window(found: &[Listed<'_>], chosen: &[usize], metrics: &dyn Metrics) -> Option<Schedule> {
    let steps = steps_of_one_run(found, chosen)?;
    let (first, last) = (*steps.iter().min()?, *steps.iter().max()?);
    let run = found[chosen[0]].run;
    let is_before =
        |index: &usize| found[*index].run == run && found[*index].step.is_some_and(|step| step <= last);
    let before: Vec<_> = (0..found.len()).filter(is_before).collect();
    let since = before.iter().filter(|&&index| found[index].step.is_some_and(|step| step >= first)).count();
    schedule(found, &before, metrics, since.max(MOST.min(half(before.len()))))
}

/// The metric of some of the checkpoints, from the user's table or from the logs of their runs; of several names, all in one.
///
/// # Errors
/// [`ErrorKind::Metric`] when a checkpoint has no step for the log, and those of reading table or log.
pub(crate) fn metric_of(
    found: &[Listed<'_>],
    indexes: &[usize],
    metrics: &dyn Metrics,
    options: &MetricOptions,
    combine: Option<Combine>,
) -> Result<Metric> {
    let listed: Vec<_> = indexes.iter().map(|&index| found[index]).collect();
    let table = match metrics.table_name() {
        Some(name) => {
            Some((Table::parse(&metrics.table()?).map_err(|error| error.file(name.clone()))?, name))
        }
        None => None,
    };
    let read = |options: &MetricOptions| match &table {
        Some((table, name)) => {
            let wanted: Vec<_> =
                listed.iter().map(|it| Wanted { name: it.label, step: it.step, number: it.number }).collect();
            table.read(&wanted, options).map_err(|error| error.file(name.clone()))
        }
        None => from_logs(&listed, metrics, options.clone()),
    };
    let is_logged = |name: &str| {
        let log = listed.first().and_then(|first| metrics.log(first.run).ok());
        name == "step" || log.is_some_and(|log| log.names().contains(&name))
    };
    let is_known = |name: &str| table.as_ref().map_or_else(|| is_logged(name), |(table, _)| table.has(name));
    let names = options.name.as_deref().map_or_else(Vec::new, |names| named(names, &is_known));
    let mut metric = match names.as_slice() {
        [] => read(options)?,
        [(name, goal)] => {
            read(&MetricOptions { name: Some(name.clone()), goal: goal.or(options.goal), ..options.clone() })?
        }
        several => {
            // one goal for all would turn those around whose names tell theirs
            if options.goal.is_some() {
                let detail = "option goal is for one metric, and there are several";
                return Err(Error::new(ErrorKind::Usage, detail)
                    .help("say it of those whose names do not tell it, as NAME:min or NAME:max"));
            }
            let each = several.iter().map(|(name, goal)| {
                let own = MetricOptions { name: Some(name.clone()), goal: *goal, ..options.clone() };
                read(&own).map_err(|error| match error.advice() {
                    Some(SAY_GOAL) => {
                        error.help_instead(format!("say so of that one: {name}:min or {name}:max"))
                    }
                    _ => error,
                })
            });
            in_one(each.collect::<Result<Vec<_>>>()?, combine.unwrap_or_default())?
        }
    };
    metric.checkpoints = labels(found, indexes).into_iter().map(str::to_owned).collect();
    Ok(metric)
}

/// Several metrics of the same checkpoints in one: a checkpoint is bad or lacks it if it is or does by any.
fn in_one(metrics: Vec<Metric>, combine: Combine) -> Result<Metric> {
    let names: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    if let Some(twice) = (1..names.len()).find(|i| names[..*i].contains(&names[*i])) {
        let error = Error::new(ErrorKind::Usage, format!("the metric {} is named twice", names[twice]));
        return Err(error.help("name each once"));
    }
    let name = format!("{}({})", combine.name(), names.join(", "));
    let count = metrics[0].readings.len();
    let mut readings = Vec::with_capacity(count);
    for place in 0..count {
        let of = |metric: &Metric| metric.readings[place].clone();
        let bad = metrics.iter().map(of).find(|outcome| matches!(outcome, Outcome::Bad(_)));
        let missing = metrics.iter().find_map(|metric| match of(metric) {
            Outcome::Missing(facts) => Some(Outcome::Missing(format!("{}: {facts}", metric.name))),
            _ => None,
        });
        let whole = Outcome::Read(Reading { value: 0.0, source: Source::Combined { place } });
        readings.push(bad.or(missing).unwrap_or(whole));
    }
    let value =
        |outcome: &Outcome| if let Outcome::Read(reading) = outcome { reading.value } else { f64::NAN };
    let mut notes: Vec<String> = Vec::new();
    let (mut parts, mut checkpoints) = (Vec::new(), Vec::new());
    for metric in metrics {
        metric.notes.into_iter().for_each(|note| {
            if !notes.contains(&note) {
                notes.push(note)
            }
        });
        let values = metric.readings.iter().map(value).collect();
        parts.push(Part { name: metric.name, goal: metric.goal, values });
        checkpoints = metric.checkpoints;
    }
    let mut metric = Metric { name, goal: Goal::Min, checkpoints, readings, notes, parts };
    let mut whole: Vec<_> = metric.readings.iter_mut().filter_map(read_of).collect();
    combine_again(&metric.parts, combine, &mut whole)?;
    Ok(metric)
}

fn read_of(outcome: &mut Outcome) -> Option<&mut Reading> {
    if let Outcome::Read(reading) = outcome { Some(reading) } else { None }
}

/// Give these readings of several metrics in one the values that they have among each other; the parts, of them alone.
fn combine_again(parts: &[Part], combine: Combine, readings: &mut [&mut Reading]) -> Result<Vec<Part>> {
    let place =
        |reading: &&mut Reading| if let Source::Combined { place } = reading.source { place } else { 0 };
    let places: Vec<_> = readings.iter().map(place).collect();
    let part =
        |part: &Part| Part { values: places.iter().map(|at| part.values[*at]).collect(), ..part.clone() };
    let parts: Vec<_> = parts.iter().map(part).collect();
    let values = combine.values(&parts)?;
    readings.iter_mut().zip(values).for_each(|(reading, value)| reading.value = value);
    Ok(parts)
}

fn from_logs(listed: &[Listed<'_>], metrics: &dyn Metrics, mut options: MetricOptions) -> Result<Metric> {
    let mut steps = Vec::new();
    for checkpoint in listed {
        steps.push(checkpoint.step.ok_or_else(|| {
            Error::new(ErrorKind::Metric, "has no step, in its name or its log, so no logged metric belongs to it")
                .file(checkpoint.name)
                .help("give a table of metrics with a column `checkpoint` (--metrics-file), or weigh without a metric: --scheme uniform or --weights")
        })?);
    }
    // each run has its own log; the metric that the first one gives is asked of all
    let mut runs: Vec<(&str, Vec<usize>)> = Vec::new();
    for (i, checkpoint) in listed.iter().enumerate() {
        match runs.iter_mut().find(|(known, _)| *known == checkpoint.run) {
            Some((_, members)) => members.push(i),
            None => runs.push((checkpoint.run, vec![i])),
        }
    }
    let mut whole: Option<Metric> = None;
    let mut readings = vec![Outcome::Missing(String::new()); listed.len()];
    for (run, members) in runs {
        let steps: Vec<_> = members.iter().map(|&i| steps[i]).collect();
        let metric =
            read_metric(&*metrics.log(run)?, &steps, &options).map_err(|error| error.file(run.to_owned()))?;
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

/// Places of those that the user's selection leaves, before any metric is looked at.
/// Of several runs that were searched, each gives its own newest.
fn narrow(found: &[Listed<'_>], select: Selection, searched: bool, is_explicit: bool) -> Result<Vec<usize>> {
    if let (Some(pick), Some(other)) = (
        select.pick.filter(|pick| *pick != Pick::All),
        select.last.map(|_| "--last").or(select.top.map(|_| "--top")),
    ) {
        let detail = format!("--select {} and {other} both say how many checkpoints are taken", pick.name());
        return Err(Error::new(ErrorKind::Usage, detail).help("leave one of them out"));
    }
    // own weights are of bad ones too
    let mut indexes: Vec<usize> = (0..found.len()).filter(|at| is_explicit || !found[*at].is_bad).collect();
    if indexes.is_empty() {
        return Ok(indexes);
    }
    if let Some((first, last)) = select.steps {
        indexes.retain(|&index| found[index].step.is_some_and(|step| (first..=last).contains(&step)));
    }
    if let Some(every) = select.every {
        // counted from the newest, which is always kept
        let is_kept = newest(found, &indexes, searched, |_, newer| newer % every.max(1) == 0);
        keep(&mut indexes, &is_kept);
    }
    if let Some(last) = select.last {
        let is_kept = newest(found, &indexes, searched, |_, newer| newer < last);
        keep(&mut indexes, &is_kept);
    }
    if indexes.is_empty() {
        let steps = || found.iter().filter_map(|checkpoint| checkpoint.step);
        let range = match (steps().min(), steps().max()) {
            (Some(first), Some(last)) => format!("lie between steps {first} and {last}"),
            _ => "have no step in their names".into(),
        };
        let detail = format!("--steps selects none of the {} checkpoints found, which {range}", found.len());
        return Err(Error::new(ErrorKind::Input, detail).help("widen --steps, or leave it out"));
    }
    Ok(indexes)
}

/// What `is_kept` says of each, given how many there are and how many of them are newer: `by_run`, of its own run.
fn newest(
    found: &[Listed<'_>],
    indexes: &[usize],
    by_run: bool,
    is_kept: impl Fn(usize, usize) -> bool,
) -> Vec<bool> {
    let is_one_run = |a: usize, b: usize| !by_run || found[a].run == found[b].run;
    let count = |among: &[usize], index| among.iter().filter(|&&other| is_one_run(index, other)).count();
    let each = indexes.iter().enumerate();
    each.map(|(i, &index)| is_kept(count(indexes, index), count(&indexes[i + 1..], index))).collect()
}

/// How many runs these are of.
fn runs(found: &[Listed<'_>], indexes: &[usize]) -> usize {
    let mut runs: Vec<_> = indexes.iter().map(|&index| found[index].run).collect();
    runs.sort_unstable();
    runs.dedup();
    runs.len()
}

/// What tells checkpoints apart: the last parts of their names, or with more of them where those are the same.
fn labels<'a>(found: &[Listed<'a>], indexes: &[usize]) -> Vec<&'a str> {
    let labels: Vec<_> = indexes.iter().map(|&index| found[index].label).collect();
    if runs(found, indexes) > 1 || Index::new(labels.iter().copied()).repeated().is_some() {
        return report::distinct(&indexes.iter().map(|&index| found[index].name).collect::<Vec<_>>());
    }
    labels
}

/// The caller's weight of each of those selected, if there are any.
fn explicit(found: &[Listed<'_>], selected: &[usize], rule: &WeightRule) -> Result<Vec<Option<f64>>> {
    let WeightRule::Explicit(values) = rule else { return Ok(vec![None; selected.len()]) };
    if values.len() != selected.len() {
        return Err(wrong_count(values.len(), labels(found, selected).into_iter()));
    }
    Ok(values.iter().copied().map(Some).collect())
}

/// What to say of a scheme that weighs all checkpoints alike, though it need not.
pub(crate) fn note_of_equal(weights: &Weights, weighting: &Weighting, metric: &Metric) -> Option<String> {
    let is_equal = weights.values().windows(2).all(|pair| pair[0] == pair[1]);
    if !is_equal || weights.values().len() < 2 || weighting.metric.is_none() {
        return None;
    }
    Some(if weighting.penalty == Some(0.0) {
        "penalty 0 weighs every checkpoint the same".into()
    } else {
        format!("{} is the same for every checkpoint, so all weigh the same", metric.name)
    })
}

/// Keep the `top` candidates with the best metric, the newer of equals, in their order.
fn keep_best(candidates: &mut Vec<Candidate>, top: usize, goal: Goal) {
    let mut order: Vec<usize> = (0..candidates.len()).rev().collect();
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
    options: &ChooseOptions,
    metric: Option<&Metric>,
    candidates: &[Candidate],
    course: &Course,
) -> Result<Weights> {
    match (&options.rule, metric) {
        (WeightRule::Explicit(_), _) => {
            let values: Vec<_> = candidates.iter().filter_map(|candidate| candidate.explicit).collect();
            Weights::explicit(&values)
        }
        (WeightRule::Scheme { scheme, .. }, _) if scheme.needs == Needs::Steps => {
            Weights::over(course, *scheme, options.averaging)
        }
        (WeightRule::Scheme { scheme, penalty }, Some(metric)) => {
            let readings = candidates.iter().filter_map(|candidate| candidate.reading);
            let values: Vec<_> = readings.map(|reading| reading.value).collect();
            Weights::named(&metric.name, &values, metric.goal, *scheme, *penalty).map_err(|error| {
                Error::new(error.kind(), format!("metric {}: {}", metric.name, error.detail()))
                    .help(error.advice().unwrap_or_default().to_owned())
            })
        }
        (WeightRule::Scheme { .. } | WeightRule::Robust { .. }, _) => {
            Weights::over(course, Scheme::UNIFORM, options.averaging)
        }
    }
}

/// The order of the candidates, their steps where they are of one run and rise, and the learning rate where that is asked for.
fn course(
    found: &[Listed<'_>],
    candidates: &[Candidate],
    metrics: &dyn Metrics,
    options: &ChooseOptions,
) -> Result<Course> {
    let indexes: Vec<_> = candidates.iter().map(|candidate| candidate.index).collect();
    let steps =
        steps_of_one_run(found, &indexes).filter(|steps| steps.windows(2).all(|pair| pair[0] < pair[1]));
    let mut rates = None;
    if options.averaging.correct_for_lr && indexes.len() > 1 {
        let Some(steps) = &steps else {
            let detail =
                "a decay is corrected for the learning rate of one run, of which every step is known";
            return Err(Error::new(ErrorKind::Metric, detail).help("leave out --correct-for-lr"));
        };
        rates = Some(options.averaging.rates(&*metrics.log(found[indexes[0]].run)?, steps)?);
    }
    Ok(Course { count: candidates.len(), steps, rates })
}

impl Selection {
    /// Whether it says nothing.
    pub(crate) const fn is_free(&self) -> bool {
        self.steps.is_none()
            && self.every.is_none()
            && self.last.is_none()
            && self.top.is_none()
            && self.pick.is_none()
    }
}

impl Choice {
    /// The rows of the report, without files; `found` as [`choose`] was given it.
    pub fn inputs(&self, found: &[Listed<'_>]) -> Vec<report::Input> {
        let chosen = self.indexes.iter().map(|&index| found[index]);
        let rows = chosen.zip(&self.readings).zip(self.weights.values());
        let row = |((checkpoint, reading), &weight): ((Listed<'_>, &Option<Reading>), &f64)| report::Input {
            step: checkpoint.step,
            metric: reading.map(|reading| reading.value),
            source: reading.map(|reading| reading.source.to_string()),
            weight,
            ..report::Input::named(checkpoint.name.to_owned(), checkpoint.name.to_owned())
        };
        let mut rows: Vec<_> = rows.map(row).collect();
        rows.iter_mut().zip(&self.updates).for_each(|(row, update)| row.update = Some(*update));
        rows
    }
}
