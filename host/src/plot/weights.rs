//! The picture of a choice: the metric over the steps, which checkpoints were taken, their weights, and the learning rate.

use mwa::report::{Input, labels};
use mwa::{Outcome, Run, UserTable, WeighOptions, Weighed};

use super::chart::{Axis, BESIDE, Panel, short, trimmed};
use super::svg::Svg;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 64.0 + BESIDE;
const RIGHT: f64 = WIDTH - 20.0 - BESIDE;
/// Top and bottom of each panel; the last has the steps under it.
const METRIC: (f64, f64) = (34.0, 204.0);
const WEIGHTS: (f64, f64) = (244.0, 324.0);
const RATE: (f64, f64) = (364.0, 414.0);
const BELOW: f64 = 48.0;
/// The widest bar.
const BAR: f64 = 26.0;

/// The name of the learning rate in logs.
const LEARNING_RATE: &str = "learning_rate";

/// Draw it.
pub(crate) fn picture(run: &Run, options: &WeighOptions, weighed: &Weighed) -> String {
    let chosen = &weighed.inputs;
    let step = |step: Option<u64>| step.map(number);
    let has_steps = run.checkpoints.iter().all(|checkpoint| checkpoint.step.is_some());
    // where steps are not known, they are counted
    let place =
        |at: usize| step(run.checkpoints[at].step).filter(|_| has_steps).unwrap_or(number(at as u64 + 1));
    let (name, is_measured) = shown(run, options.table.as_ref(), weighed);
    let curves = if options.table.is_none() && has_steps { curves_of(run, &name) } else { Vec::new() };
    let rates = if has_steps { curves_of(run, LEARNING_RATE) } else { Vec::new() };

    let marks = if is_measured { marks(run, options, weighed) } else { Vec::new() };
    let steps = (0..run.checkpoints.len()).map(place);
    let all = curves.iter().chain(&rates).flatten().map(|point| point.0);
    let x = Axis::new(steps.chain(all), (LEFT, RIGHT));
    let values = curves.iter().flatten().map(|point| point.1).chain(marks.iter().map(|mark| mark.1));
    let has_metric = !curves.is_empty() || !marks.is_empty();
    let has_rate = !rates.is_empty();
    // what is not there leaves no gap
    let top = if has_metric { 0.0 } else { METRIC.1 + 6.0 };
    let bottom = if has_rate { RATE.1 } else { WEIGHTS.1 };
    let mut svg = Svg::new(WIDTH, bottom - top + BELOW);

    let labels = labels(chosen);
    let of = |at: usize| weighed.indexes.iter().position(|index| *index == at);
    if has_metric {
        let y = Axis::new(trimmed(values.collect()), (METRIC.1, METRIC.0));
        let panel = Panel::new(&mut svg, &name, x, y, 4.0);
        curves.iter().for_each(|points| panel.curve(&mut svg, "curve", points));
        for &(at, value) in &marks {
            let (class, radius) = if of(at).is_some() { ("chosen", 5.0) } else { ("mark", 3.5) };
            let checkpoint = of(at).map_or(run.checkpoints[at].label(), |row| labels[row]);
            svg.dot(class, panel.at((place(at), value)), radius, &format!("{checkpoint}: {}", short(value)));
        }
    }
    let weights = || chosen.iter().map(|input| input.weight);
    let y = Axis::new([0.0].into_iter().chain(weights().map(f64::abs)), (WEIGHTS.1 - top, WEIGHTS.0 - top));
    let instead = weighed.weighting.instead_of_weights();
    let taken = instead.map(|how| format!("taken {how}"));
    let panel = Panel::new(&mut svg, taken.as_deref().unwrap_or("weight"), x, y, 2.0);
    let slots = number(run.checkpoints.len().max(8) as u64);
    let width = ((RIGHT - LEFT) / slots * 0.4).clamp(2.0, BAR);
    for (row, &at) in weighed.indexes.iter().enumerate() {
        let Input { weight, .. } = chosen[row];
        // checkpoints of several runs may have one step
        let beside = weighed.indexes[..row].iter().filter(|other| place(**other) == place(at)).count();
        let aside = number(beside as u64) * width;
        let class = if weight < 0.0 { "minus" } else { "bar" };
        let title = match &taken {
            Some(taken) => format!("{}: {taken}", labels[row]),
            None => format!("{}: weight {weight:.4}", labels[row]),
        };
        panel.bar(&mut svg, class, (place(at), weight.abs()), (width, aside), &title);
    }
    let last = if has_rate {
        let y = rates.iter().flatten().map(|point| point.1).chain([0.0]);
        let panel = Panel::new(&mut svg, "learning rate", x, Axis::new(y, (RATE.1 - top, RATE.0 - top)), 2.0);
        rates.iter().for_each(|points| panel.curve(&mut svg, "rate", points));
        panel
    } else {
        panel
    };
    last.numbers(&mut svg, if has_steps { "step" } else { "checkpoint" }, 8.0);
    svg.finish(&format!("{}; {}", weighed.selected.line, weighed.weighting.describe()))
}

/// The metric that is drawn, and whether the checkpoints were measured by it: for weights by step or none, what was logged instead.
fn shown(run: &Run, table: Option<&UserTable>, weighed: &Weighed) -> (String, bool) {
    match &weighed.weighting.metric {
        Some(name) if name != "step" => (name.clone(), true),
        _ if table.is_some() => (String::new(), false),
        _ => {
            let logged = ["eval_loss", "loss"].into_iter().find(|name| !curves_of(run, name).is_empty());
            (logged.unwrap_or_default().into(), false)
        }
    }
}

/// The values of a metric over the steps, by run.
fn curves_of(run: &Run, metric: &str) -> Vec<Vec<(f64, f64)>> {
    let read = run.histories().filter_map(|(_, history)| history.as_ref().ok());
    let curve = read.map(|history| {
        history.curve(metric).into_iter().map(|(step, value)| (number(step), value)).collect()
    });
    curve.filter(|points: &Vec<_>| !points.is_empty()).collect()
}

/// Which checkpoints have which value of the metric: all that have one, or else those that were chosen.
fn marks(run: &Run, options: &WeighOptions, weighed: &Weighed) -> Vec<(usize, f64)> {
    if let Ok(metric) = run.metric(options.table.as_ref(), &options.choose.metric, options.choose.combine) {
        let value = |outcome: &Outcome| if let Outcome::Read(it) = outcome { Some(it.value) } else { None };
        let read = metric.readings.iter().enumerate().filter_map(|(at, outcome)| Some((at, value(outcome)?)));
        if Some(&metric.name) == weighed.weighting.metric.as_ref() {
            return read.collect();
        }
    }
    let rows = weighed.indexes.iter().zip(&weighed.readings);
    rows.filter_map(|(at, reading)| Some((*at, reading.as_ref()?.value))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "steps are far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}
