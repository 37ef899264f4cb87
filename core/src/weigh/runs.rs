//! Runs of runs: each selected and weighed by itself, then averaged with a share of its own; one flat sum.
//!
//! The weight of checkpoint c of run r is v_r·u_{c|r}: the mean over seeds of means over checkpoints ("Free Lunch: Robust
//! Cross-Lingual Transfer via Model Checkpoint Averaging", arXiv 2305.16834), here with any weights in both. A flat mean of all
//! checkpoints is the same only where every run has as many.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::TextMap;
use crate::logs::goal::Goal;
use crate::merge::report::{Weighting, distinct};
use crate::text::escape::shell_word;
use crate::weigh::advice::Advice;
use crate::weigh::choose::{Choice, ChooseOptions, Listed, Metrics, choose};
use crate::weigh::explicit::wrong_count_of;
use crate::weigh::scheme::Weights;
use crate::weigh::window::Selected;

/// A run: its name, and the places of its checkpoints among those found.
pub(crate) type Places<'a> = (&'a str, Vec<usize>);

/// The runs that these checkpoints belong to, in their order.
pub(crate) fn runs<'a>(found: &[Listed<'a>]) -> Vec<Places<'a>> {
    let mut runs: Vec<Places<'a>> = Vec::new();
    for (at, listed) in found.iter().enumerate() {
        match runs.iter_mut().find(|(run, _)| *run == listed.run) {
            Some((_, places)) => places.push(at),
            None => runs.push((listed.run, Vec::from([at]))),
        }
    }
    runs
}

/// Select and weigh each run by itself; `shares` are the weights of the runs, which are divided by their sum.
///
/// # Errors
/// [`ErrorKind::Weights`] when there is not one share per run, [`ErrorKind::Usage`] for a table in which checkpoints of two
/// runs are called alike, and those of [`choose`], with the run.
pub(crate) fn choose_each(
    found: &[Listed<'_>],
    runs: &[Places<'_>],
    shares: Option<&[f64]>,
    metrics: &dyn Metrics,
    options: &ChooseOptions,
) -> Result<Choice> {
    // what tells them apart is enough in sentences, which models carry along
    let called = distinct(&runs.iter().map(|(run, _)| *run).collect::<Vec<_>>());
    let even = alloc::vec![1.0; runs.len()];
    let shares = shares.unwrap_or(&even);
    if shares.len() != runs.len() {
        return Err(wrong_count_of("run", shares.len(), called.into_iter()));
    }
    let shares = Weights::explicit(shares)?;
    if metrics.table_name().is_some() {
        one_name_each(found)?;
    }
    let mut choices = Vec::new();
    for (run, places) in runs {
        let of_run: Vec<_> = places.iter().map(|&at| found[at]).collect();
        let choice = choose(&of_run, true, metrics, options);
        choices
            .push(choice.map_err(|error| if error.at_file().is_some() { error } else { error.file(*run) })?);
    }
    let described = |share: &f64| format!("{}", libm::round(share * 1e4) / 1e4);
    let shared = shares.values().iter().map(described).collect::<Vec<_>>().join(", ");
    let weighting = joined(choices.iter().map(|choice| &choice.weighting), shared);
    let far = far_worse(&called, &choices, &weighting);
    let mut whole = Choice {
        indexes: Vec::new(),
        readings: Vec::new(),
        weights: shares.clone(),
        updates: Vec::new(),
        weighting,
        robust: None,
        ranking: None,
        selected: selected(&called, &choices),
        advice: far.into_iter().collect(),
        notes: Vec::new(),
    };
    let (mut rows, mut updates) = (Vec::new(), Vec::new());
    for ((((_, places), run), choice), share) in runs.iter().zip(called).zip(choices).zip(shares.values()) {
        let weights = choice.weights.values().iter().map(|weight| share * weight);
        let of_run = choice.indexes.iter().map(|&at| places[at]).zip(choice.readings).zip(weights);
        rows.extend(of_run.map(|((index, reading), weight)| (index, reading, weight)));
        updates.extend(choice.updates);
        whole.advice.extend(choice.advice.into_iter().map(|mut advice| {
            advice.text = format!("{run}: {}", advice.text);
            advice
        }));
        let told = |note: String| if note.contains(run) { note } else { format!("{run}: {note}") };
        whole.notes.extend(choice.notes.into_iter().map(told));
        whole.notes.extend(choice.ranking.map(|_| {
            format!(
                "how several metrics order the checkpoints is told of one run at a time: mwa weights {}",
                shell_word(run)
            )
        }));
    }
    // oldest first where all steps are known, as of one run; of equals in the order of the runs
    let mut order: Vec<_> = (0..rows.len()).collect();
    if rows.iter().all(|(index, ..)| found[*index].step.is_some()) {
        order.sort_by_key(|&at| found[rows[at].0].step);
    }
    whole.indexes = order.iter().map(|&at| rows[at].0).collect();
    whole.readings = order.iter().map(|&at| rows[at].1).collect();
    whole.updates = order.iter().filter_map(|&at| updates.get(at).copied()).collect();
    whole.weights = Weights::explicit(&order.iter().map(|&at| rows[at].2).collect::<Vec<_>>())?;
    Ok(whole)
}

/// What to say where one metric weighs all runs, and shows one of them far behind another.
fn far_worse(runs: &[&str], choices: &[Choice], weighting: &Weighting) -> Option<Advice> {
    let goal = if weighting.goal.as_deref()? == "min" { Goal::Min } else { Goal::Max };
    let name = weighting.metric.as_deref().filter(|name| *name != "step")?;
    let mut all = Vec::new();
    for (run, choice) in runs.iter().zip(choices) {
        let mut span: Option<[f64; 2]> = None;
        for reading in &choice.readings {
            let value = reading.as_ref()?.value;
            let [low, high] = span.unwrap_or([value; 2]);
            span = Some([low.min(value), high.max(value)]);
        }
        // of several metrics the names are joined, and no run has that
        let [low, high] = span.filter(|_| choice.weighting.metric.as_deref() == Some(name))?;
        all.push((*run, if goal == Goal::Min { [low, high] } else { [high, low] }));
    }
    Advice::on_runs(name, goal, &all)
}

/// A table names checkpoints as their folders are called.
fn one_name_each(found: &[Listed<'_>]) -> Result<()> {
    let twice = |b: &usize| found[..*b].iter().any(|a| a.label == found[*b].label && a.run != found[*b].run);
    let Some(b) = (0..found.len()).find(twice) else { return Ok(()) };
    let detail = format!(
        "is called as one of another run, {}, and a table of metrics tells them apart by that",
        found[b].label
    );
    Err(Error::new(ErrorKind::Usage, detail)
        .file(found[b].name)
        .help("weigh each run by itself (mwa weights), and then all of their checkpoints by --weights"))
}

/// How all were weighed; the metric of each run where they differ.
fn joined<'a>(each: impl Iterator<Item = &'a Weighting> + Clone, shares: String) -> Weighting {
    let first = each.clone().next().cloned().unwrap_or_else(Weighting::explicit);
    let mut metrics: Vec<_> = each.clone().filter_map(|it| it.metric.clone()).collect();
    metrics.dedup();
    let is_same = each.clone().all(|it| it.goal == first.goal);
    let mut settings = first.settings.clone().into_pairs();
    settings.push((RUN_WEIGHTS.into(), shares));
    Weighting {
        metric: (!metrics.is_empty()).then(|| metrics.join(", ")),
        goal: first.goal.clone().filter(|_| is_same),
        settings: TextMap::from(settings),
        ..first
    }
}

/// As the option is called.
const RUN_WEIGHTS: &str = "run_weights";

fn selected(runs: &[&str], choices: &[Choice]) -> Selected {
    let each = || choices.iter().map(|choice| &choice.selected);
    let rule = each().next().map_or("", |it| &it.rule);
    let is_same = each().all(|it| it.rule == rule);
    let lines = runs.iter().zip(each()).map(|(run, it)| format!("{run}: {}", it.line));
    Selected {
        rule: if is_same { rule.into() } else { "given".into() },
        taken: each().map(|it| it.taken).sum(),
        found: each().map(|it| it.found).sum(),
        line: lines.collect::<Vec<_>>().join("; "),
    }
}
