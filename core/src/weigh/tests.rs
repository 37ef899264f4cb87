//! Which checkpoints are taken, with which weight, and what is said of it: small runs, one situation each.

use alloc::borrow::{Cow, ToOwned as _};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::history::History;
use crate::logs::trainer::TrainerState;
use crate::weigh::choose::{Choice, ChooseOptions, Listed, Metrics, Selection, WeightRule, choose};
use crate::weigh::explicit::note_of_sum;
use crate::weigh::runs::{choose_each, runs};
use crate::weigh::scheme::Scheme;
use crate::weigh::window::Pick;

/// What runs logged, by their names, and the user's table.
#[derive(Default)]
struct Logs {
    runs: Vec<(&'static str, String)>,
    table: Option<&'static str>,
}

impl Logs {
    /// One run, `run`, with these records.
    fn of(records: &[String]) -> Self {
        Self::default().and("run", records, "")
    }

    fn and(mut self, run: &'static str, records: &[String], more: &str) -> Self {
        let text = format!(r#"{{"global_step": 9000, {more} "log_history": [{}]}}"#, records.join(", "));
        self.runs.push((run, text));
        self
    }
}

impl Metrics for Logs {
    fn table_name(&self) -> Option<String> {
        self.table.map(|_| "scores.csv".into())
    }

    fn table(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Borrowed(self.table.unwrap()))
    }

    fn log(&self, run: &str) -> Result<Cow<'_, History>> {
        let known = self.runs.iter().find(|(name, _)| *name == run);
        let (_, text) =
            known.ok_or_else(|| Error::new(ErrorKind::Io, "cannot be read").file(run.to_owned()))?;
        Ok(Cow::Owned(History::new([TrainerState::parse(text)?])))
    }
}

/// A record of an evaluation.
fn scored(step: u64, name: &str, value: f64) -> String {
    format!(r#"{{"step": {step}, "{name}": {value}}}"#)
}

fn losses(values: &[(u64, f64)]) -> Vec<String> {
    values.iter().map(|(step, loss)| scored(*step, "eval_loss", *loss)).collect()
}

/// Checkpoints of the run `run`.
fn at(steps: &[u64]) -> Vec<Listed<'static>> {
    const NAMES: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
    let listed = |(name, step): (&&'static str, &u64)| Listed {
        name,
        label: name,
        run: "run",
        step: Some(*step),
        number: None,
        is_bad: false,
    };
    NAMES.iter().zip(steps).map(listed).collect()
}

fn named(name: &str) -> ChooseOptions {
    let mut options = ChooseOptions::default();
    options.metric.name = Some(name.into());
    options
}

fn all() -> Selection {
    Selection { pick: Some(Pick::All), ..Selection::default() }
}

fn explicit(weights: &[f64]) -> ChooseOptions {
    ChooseOptions { rule: WeightRule::Explicit(weights.into()), ..ChooseOptions::default() }
}

fn scheme(name: &str, penalty: f64) -> ChooseOptions {
    let rule = WeightRule::Scheme { scheme: name.parse().unwrap(), penalty };
    ChooseOptions { rule, ..ChooseOptions::default() }
}

/// What a failure says, with its place and what to do.
fn failure(choice: Result<Choice>) -> (ErrorKind, Option<String>, String, String) {
    let error = choice.unwrap_err();
    let advice = error.advice().unwrap_or_default().to_owned();
    (error.kind(), error.at_file().map(String::from), error.detail().to_owned(), advice)
}

#[test]
fn own_weights_belong_to_the_checkpoints_in_the_order_in_which_they_are_found() {
    let logs = Logs::of(&[]);
    let choice = choose(&at(&[20, 10, 30]), true, &logs, &explicit(&[0.5, 0.3, 0.2])).unwrap();
    assert_eq!((choice.indexes, choice.weights.values()), (vec![1, 0, 2], &[0.3, 0.5, 0.2][..]));
    assert_eq!(choice.weighting.describe(), "explicit");
    assert_eq!((choice.notes.len(), choice.advice.len()), (0, 1), "three are few");
    assert_eq!(choice.readings, [None; 3]);
    // of a bad one the weight goes too
    let mut found = at(&[20, 10, 30]);
    found[0].is_bad = true;
    let choice = choose(&found, true, &logs, &explicit(&[2.0, 3.0, 1.0])).unwrap();
    assert_eq!((choice.indexes, choice.weights.values()), (vec![1, 2], &[0.75, 0.25][..]));
    assert_eq!(choice.notes, ["the weights sum to 6; they are divided by that, so that they sum to 1"]);
    let (kind, _, detail, help) = failure(choose(&found, true, &logs, &explicit(&[1.0; 2])));
    assert_eq!(
        (kind, &*detail),
        (ErrorKind::Weights, "there are 2 weights for 3 checkpoints: one, two, three")
    );
    assert_eq!(help, "give one weight per checkpoint, in this order");
    found.iter_mut().for_each(|it| it.is_bad = true);
    let (kind, _, detail, _) = failure(choose(&found, true, &logs, &ChooseOptions::default()));
    assert_eq!((kind, &*detail), (ErrorKind::Input, "no good checkpoint is left"));
}

#[test]
fn weights_that_sum_to_one_are_not_mentioned() {
    assert_eq!(note_of_sum(&[0.1; 10]), None);
    assert_eq!(note_of_sum(&[0.5, 0.5000005]), None);
    for weights in [[0.5, 0.499], [0.5, 0.501]] {
        assert!(note_of_sum(&weights).is_some(), "{weights:?}");
    }
}

#[test]
fn checkpoints_come_oldest_first_where_all_steps_are_known() {
    let logs = Logs { table: Some("checkpoint,f1\none,0.5\ntwo,0.6\nthree,0.7\n"), ..Logs::default() };
    let mut found = at(&[30, 10, 20]);
    let of = |found: &[Listed<'_>]| {
        choose(found, true, &logs, &ChooseOptions { select: all(), ..ChooseOptions::default() }).unwrap()
    };
    let choice = of(&found);
    assert_eq!(choice.indexes, [1, 2, 0]);
    let rows = choice.inputs(&found);
    let row = |i: usize| (&*rows[i].name, &*rows[i].path, rows[i].step, rows[i].metric);
    assert_eq!(row(0), ("two", "two", Some(10), Some(0.6)));
    assert_eq!(rows.iter().map(|row| row.weight).collect::<Vec<_>>(), choice.weights.values());
    assert_eq!(rows[0].source.as_deref(), Some("table, row 3"));
    found[0].step = None;
    assert_eq!(of(&found).indexes, [0, 1, 2]);
}

#[test]
fn a_selection_by_steps_keeps_both_ends_and_names_the_range_where_nothing_is_left() {
    let logs = Logs::of(&losses(&[(10, 1.0), (20, 0.9), (30, 0.8), (40, 0.7)]));
    let by = |from, to| ChooseOptions {
        select: Selection { steps: Some((from, to)), ..Selection::default() },
        ..ChooseOptions::default()
    };
    let mut found = at(&[10, 20, 30, 40]);
    assert_eq!(choose(&found, true, &logs, &by(20, 30)).unwrap().indexes, [1, 2]);
    let (kind, _, detail, help) = failure(choose(&found, true, &logs, &by(41, 50)));
    let expected = "--steps selects none of the 4 checkpoints found, which lie between steps 10 and 40";
    assert_eq!((kind, &*detail, &*help), (ErrorKind::Input, expected, "widen --steps, or leave it out"));
    found.iter_mut().for_each(|it| it.step = None);
    let (.., detail, _) = failure(choose(&found, true, &logs, &by(41, 50)));
    assert_eq!(detail, "--steps selects none of the 4 checkpoints found, which have no step in their names");
}

#[test]
fn every_kth_is_counted_from_the_newest() {
    let logs = Logs::of(&losses(&[(10, 1.0), (20, 0.9), (30, 0.8), (40, 0.7), (50, 0.6)]));
    for (every, indexes) in [(1, vec![0, 1, 2, 3, 4]), (2, vec![0, 2, 4]), (3, vec![1, 4]), (9, vec![4])] {
        let select = Selection { every: Some(every), ..Selection::default() };
        let options = ChooseOptions { select, ..ChooseOptions::default() };
        assert_eq!(choose(&at(&[10, 20, 30, 40, 50]), true, &logs, &options).unwrap().indexes, indexes);
    }
}

#[test]
fn two_ways_to_say_how_many_contradict_each_other() {
    let logs = Logs::of(&losses(&[(10, 1.0), (20, 0.9)]));
    let of = |pick, last, top| {
        let select = Selection { pick: Some(pick), last, top, ..Selection::default() };
        choose(&at(&[10, 20]), true, &logs, &ChooseOptions { select, ..ChooseOptions::default() })
    };
    let (kind, _, detail, help) = failure(of(Pick::Best, Some(2), None));
    assert_eq!(detail, "--select best and --last both say how many checkpoints are taken");
    assert_eq!((kind, &*help), (ErrorKind::Usage, "leave one of them out"));
    assert!(of(Pick::All, Some(2), None).is_ok() && of(Pick::All, None, Some(1)).is_ok());
}

#[test]
fn the_best_are_the_highest_or_the_lowest_by_what_is_measured() {
    let scores = |name: &str| -> Vec<_> {
        [(10, 0.4), (20, 0.9), (30, 0.9), (40, 0.1)].map(|(step, value)| scored(step, name, value)).into()
    };
    let top = |name: &str, top| {
        let select = Selection { top: Some(top), ..Selection::default() };
        let options = ChooseOptions { select, ..named(name) };
        choose(&at(&[10, 20, 30, 40]), true, &Logs::of(&scores(name)), &options).unwrap()
    };
    assert_eq!(top("eval_f1", 1).indexes, [2], "of equals the newer");
    assert_eq!(top("eval_f1", 3).indexes, [0, 1, 2]);
    assert_eq!(top("eval_loss", 2).indexes, [0, 3]);
    assert_eq!(top("eval_loss", 2).selected.line, "the best 2 of 4 checkpoints by eval_loss, as selected");
    // the metric ranks, though the weights are all alike
    let select = Selection { top: Some(2), ..Selection::default() };
    let options = ChooseOptions { select, ..scheme("uniform", 0.0) };
    let choice = choose(&at(&[10, 20, 30, 40]), true, &Logs::of(&scores("eval_loss")), &options).unwrap();
    assert_eq!((choice.indexes, choice.weights.values()), (vec![0, 3], &[0.5, 0.5][..]));
    assert_eq!((choice.weighting.describe().as_str(), choice.notes.len()), ("uniform", 0));
}

#[test]
fn an_evaluation_of_half_of_the_checkpoints_chooses_among_them() {
    let steps = [10, 20, 30, 40];
    let of = |records: &[(u64, f64)], strict| {
        let mut options = ChooseOptions::default();
        options.metric.strict = strict;
        choose(&at(&steps), true, &Logs::of(&losses(records)), &options).unwrap()
    };
    let half = of(&[(10, 1.0), (30, 0.5)], false);
    assert_eq!(half.indexes, [0, 2]);
    assert_eq!(half.notes[0], "2 of 4 checkpoints have no eval_loss: they are left out");
    assert!(half.selected.line.starts_with("the best 2 of 4 checkpoints by eval_loss"));
    let complete = of(&[(10, 1.0), (20, 0.9), (30, 0.8), (40, 0.7)], true);
    assert_eq!((&complete.indexes, &complete.notes), (&vec![2, 3], &vec![]));
    assert!(complete.selected.line.starts_with("the best 2 of 4"));
    // fewer than half, or a gap where none is allowed, and the newest are taken
    let gap = [(20, 0.9), (30, 0.8), (40, 0.7)];
    assert!(of(&gap, false).selected.line.starts_with("the best 2 of 4"));
    assert!(of(&gap, true).selected.line.starts_with("the last 2 of 4"));
    let few = of(&[(10, 1.0)], false);
    assert_eq!(few.indexes, [2, 3]);
    assert_eq!(few.weighting.metric.as_deref(), Some("step"));
    let select = Selection { last: Some(4), ..Selection::default() };
    let mut options = ChooseOptions { select, ..ChooseOptions::default() };
    options.metric.strict = true;
    let gap = Logs::of(&losses(&[(10, 1.0), (20, 0.9), (30, 0.8)]));
    let (kind, file, detail, _) = failure(choose(&at(&steps), true, &gap, &options));
    assert_eq!((kind, file.as_deref()), (ErrorKind::Metric, Some("run")));
    assert_eq!(detail, "eval_loss is not logged for every checkpoint: eval_loss 3/4");
}

#[test]
fn an_evaluation_that_was_asked_for_is_taken_however_few_have_it() {
    let logs = Logs::of(&[
        scored(10, "eval_f1", 0.4),
        scored(20, "eval_f1", 0.8),
        scored(30, "loss", 0.5),
        scored(60, "loss", 0.5),
    ]);
    let found = at(&[10, 20, 30, 40, 50, 60]);
    let choice = choose(&found, true, &logs, &named("eval_f1")).unwrap();
    assert_eq!((choice.indexes, choice.weighting.goal.as_deref()), (vec![0, 1], Some("max")));
    assert_eq!(choice.notes[0], "4 of 6 checkpoints have no eval_f1: they are left out");
    // where only one has it, nothing is left to choose
    let one = Logs::of(&[scored(10, "eval_f1", 0.4)]);
    let (kind, _, detail, _) = failure(choose(&found, true, &one, &named("eval_f1")));
    assert_eq!(kind, ErrorKind::Metric);
    assert!(
        detail.starts_with("5 of 6 checkpoints have no eval_f1: two, three, four, five, six ("),
        "{detail}"
    );
    // nor may any be left out where a gap is an error
    let mut strict = named("eval_f1");
    strict.metric.strict = true;
    let (.., detail, _) = failure(choose(&found, true, &logs, &strict));
    assert!(detail.starts_with("4 of 6 checkpoints have no eval_f1: three, four, five, six ("), "{detail}");
    // the step and training losses do not choose
    for name in ["step", "loss"] {
        let choice = choose(&found, true, &logs, &named(name)).unwrap();
        assert_eq!(choice.indexes, [3, 4, 5]);
        assert!(
            choice.selected.line.contains(&format!("{name} is not an evaluation")),
            "{}",
            choice.selected.line
        );
    }
}

#[test]
fn a_run_that_judged_itself_by_another_evaluation_is_told_so() {
    let records: Vec<_> = [(10, 0.5, 0.9), (20, 0.4, 0.8)]
        .map(|(step, loss, f1)| format!(r#"{{"step": {step}, "eval_loss": {loss}, "eval_f1": {f1}}}"#))
        .into();
    let by = |best: f64| {
        let more = format!(r#""best_metric": {best}, "best_model_checkpoint": "run/checkpoint-10", "#);
        let logs = Logs::default().and("run", &records, &more);
        choose(&at(&[10, 20]), true, &logs, &ChooseOptions::default()).unwrap().notes
    };
    assert_eq!(
        by(0.9),
        [
            "eval_loss is the metric; the run itself chose its best checkpoint by eval_f1 (--metric eval_f1 takes that)"
        ]
    );
    assert_eq!(by(0.5), Vec::<String>::new(), "it is eval_loss that it went by");
}

#[test]
fn each_run_has_its_own_log() {
    let mut found = at(&[10, 20, 10, 20]);
    found[2].run = "other";
    found[3].run = "other";
    let select = ChooseOptions { select: all(), ..ChooseOptions::default() };
    let bad = |name: &'static str| {
        Logs::of(&losses(&[(10, 0.9), (20, 0.7)])).and(name, &losses(&[(10, 0.5), (20, 0.6)]), "")
    };
    let choice = choose(&found, true, &bad("other"), &select).unwrap();
    let values: Vec<_> = choice.readings.iter().map(|reading| reading.unwrap().value).collect();
    assert_eq!((choice.indexes, values), (vec![0, 2, 1, 3], vec![0.9, 0.5, 0.7, 0.6]));
    // what the first gives is asked of all, and the others' notes are kept
    let mixed = Logs::of(&[]).and("other", &losses(&[(10, 0.5), (20, 0.6)]), "");
    let choice = choose(&found, true, &mixed, &select).unwrap();
    assert_eq!(choice.weighting.metric.as_deref(), Some("step"));
    let (.., file, detail, _) = {
        let logs = Logs::of(&losses(&[(10, 0.9), (20, 0.7)])).and("other", &[scored(10, "loss", 1.0)], "");
        let (kind, file, detail, help) = failure(choose(&found, true, &logs, &select));
        (kind, file, detail, help)
    };
    assert_eq!(file.as_deref(), Some("other"));
    assert!(detail.starts_with("there is no metric `eval_loss`"), "{detail}");
    let (kind, file, ..) = failure(choose(&found, true, &bad("third"), &select));
    assert_eq!((kind, file.as_deref()), (ErrorKind::Io, Some("other")));
}

#[test]
fn of_diverged_checkpoints_it_is_said_or_they_are_left_out() {
    let records = [
        scored(10, "loss", 1.0),
        scored(20, "loss", 0.9),
        r#"{"step": 30, "loss": 0.0, "grad_norm": NaN}"#.into(),
        scored(10, "eval_loss", 1.0),
        scored(20, "eval_loss", 0.8),
        scored(30, "eval_loss", 0.5),
    ];
    let found = at(&[10, 20, 30]);
    let mut options = ChooseOptions { select: all(), ..named("eval_loss") };
    let (kind, _, detail, help) = failure(choose(&found, true, &Logs::of(&records), &options));
    assert_eq!((kind, &*help), (ErrorKind::Metric, "leave them out with --drop-bad"));
    assert!(detail.starts_with("1 of 3 checkpoints must not be averaged: three (diverged: "), "{detail}");
    options.drop_bad = true;
    let choice = choose(&found, true, &Logs::of(&records), &options).unwrap();
    assert_eq!(choice.indexes, [0, 1]);
    assert!(choice.notes[0].starts_with("three is dropped: diverged: "), "{:?}", choice.notes);
}

#[test]
fn a_table_is_named_where_it_does_not_fit() {
    let found = at(&[10, 20]);
    for table in ["checkpoint,f1\none,0.5\n", "f1\n0.5\n"] {
        let logs = Logs { table: Some(table), ..Logs::default() };
        let select = ChooseOptions { select: all(), ..ChooseOptions::default() };
        assert_eq!(failure(choose(&found, true, &logs, &select)).1.as_deref(), Some("scores.csv"), "{table}");
    }
    // a table that has all is not told of as if some were missing
    let logs = Logs { table: Some("checkpoint,f1\none,0.5\ntwo,0.7\n"), ..Logs::default() };
    let choice = choose(&found, true, &logs, &ChooseOptions::default()).unwrap();
    assert_eq!((choice.notes, choice.weighting.metric.as_deref()), (vec![], Some("f1")));
}

#[test]
fn what_has_no_step_is_not_in_the_log() {
    let mut found = at(&[10, 20]);
    found[1].step = None;
    let logs = Logs::of(&losses(&[(10, 0.5), (20, 0.4)]));
    let (kind, file, detail, help) = failure(choose(&found, false, &logs, &ChooseOptions::default()));
    assert_eq!((kind, file.as_deref()), (ErrorKind::Metric, Some("two")));
    assert_eq!(detail, "has no step, in its name or its log, so no logged metric belongs to it");
    assert!(help.contains("--metrics-file"), "{help}");
    // one alone weighs 1 without, unless a metric is asked for
    let alone = &found[1..];
    let choice = choose(alone, false, &logs, &ChooseOptions::default()).unwrap();
    assert_eq!((choice.weights.values(), choice.weighting.metric), (&[1.0][..], None));
    assert_eq!(failure(choose(alone, false, &logs, &named("eval_loss"))).0, ErrorKind::Metric);
    let table = Logs { table: Some("checkpoint,f1\nother,0.5\n"), ..Logs::default() };
    assert_eq!(failure(choose(alone, false, &table, &ChooseOptions::default())).0, ErrorKind::Metric);
    // and one alone with a step has its metric looked up
    let choice = choose(&found[..1], false, &logs, &ChooseOptions::default()).unwrap();
    assert_eq!(choice.weighting.metric.as_deref(), Some("eval_loss"));
}

#[test]
fn weights_that_are_all_alike_though_they_need_not_are_explained() {
    let (same, other) = (losses(&[(10, 0.5), (20, 0.5)]), losses(&[(10, 0.5), (20, 0.4)]));
    let notes = |records: &[String], found: &[Listed<'_>], options: ChooseOptions| {
        let options = ChooseOptions { select: all(), ..options };
        choose(found, true, &Logs::of(records), &options).unwrap().notes
    };
    let two = at(&[10, 20]);
    let equal = "eval_loss is the same for every checkpoint, so all weigh the same";
    assert_eq!(notes(&same, &two, ChooseOptions::default()), [equal]);
    assert_eq!(notes(&other, &two, scheme("linear", 0.0)), ["penalty 0 weighs every checkpoint the same"]);
    for (records, found, options) in [
        (&other, &two[..], ChooseOptions::default()),
        (&same, &two[..1], ChooseOptions::default()),
        (&same, &two[..], scheme("uniform", 0.0)),
    ] {
        assert_eq!(notes(records, found, options), Vec::<String>::new());
    }
}

#[test]
fn weights_that_cannot_be_made_of_the_metric_name_it() {
    let logs = Logs::of(&[scored(10, "eval_f1", -0.5), scored(20, "eval_f1", 0.5)]);
    let options = ChooseOptions { select: all(), ..named("eval_f1") };
    let power = ChooseOptions { rule: scheme("power", 2.0).rule, ..options };
    let (kind, _, detail, help) = failure(choose(&at(&[10, 20]), true, &logs, &power));
    assert_eq!(kind, ErrorKind::Weights);
    assert!(detail.starts_with("metric eval_f1: ") && !help.is_empty(), "{detail}: {help}");
    assert!(Scheme::default().reads_metric() && !Scheme::UNIFORM.reads_metric());
}

/// Records of a learning rate every ten steps.
fn rates(rate: impl Fn(u64) -> f64) -> Vec<String> {
    (1..=8).map(|i| scored(10 * i, "learning_rate", rate(10 * i))).collect()
}

#[test]
fn advice_on_the_schedule_looks_at_the_chosen_and_those_between_and_before_them() {
    let steps = [10, 20, 30, 40, 50, 60, 70, 80];
    let about = |found: &[Listed<'_>], select: Selection, rate: fn(u64) -> f64| -> Vec<String> {
        let options = ChooseOptions { select, ..scheme("uniform", 0.0) };
        let choice = choose(found, true, &Logs::of(&rates(rate)), &options).unwrap();
        choice.advice.into_iter().map(|advice| advice.about).collect()
    };
    let found = at(&steps);
    let falls = |step: u64| if step < 60 { 1e-3 } else { 1e-4 };
    let last = |last| Selection { last: Some(last), ..Selection::default() };
    // of the last two alone the rate did not fall, but of the half from which a rule would have chosen
    assert_eq!(about(&found, last(2), falls), ["schedule"]);
    assert_eq!(about(&found, last(1), falls), Vec::<String>::new(), "one alone is no merge");
    // what comes after them does not count, nor what lies too far before
    let between = |from, to| Selection { steps: Some((from, to)), ..Selection::default() };
    assert_eq!(about(&found, between(10, 50), falls), Vec::<String>::new());
    assert_eq!(about(&found, last(2), |step| if step < 30 { 1e-3 } else { 1e-4 }), Vec::<String>::new());
    assert_eq!(about(&found, between(20, 80), |step| if step < 30 { 1e-3 } else { 1e-4 }), ["schedule"]);
    // nothing is known where they are of two runs, or have no step
    let mut mixed = at(&steps);
    mixed[7].run = "other";
    assert_eq!(about(&mixed, last(2), falls), Vec::<String>::new());
    mixed[7].run = "run";
    mixed[7].step = None;
    assert_eq!(about(&mixed, last(2), falls), Vec::<String>::new());
}

#[test]
fn advice_on_the_number_of_checkpoints_is_for_runs_that_were_searched() {
    let logs = Logs::of(&losses(&[(10, 0.5), (20, 0.4), (30, 0.3)]));
    let found = at(&[10, 20, 30]);
    let about = |searched, select| {
        let options = ChooseOptions { select, ..ChooseOptions::default() };
        choose(&found, searched, &logs, &options).unwrap().advice.len()
    };
    assert_eq!(about(true, Selection::default()), 1);
    assert_eq!(about(false, Selection::default()), 0);
    let selections = [
        Selection { steps: Some((0, 99)), ..Selection::default() },
        Selection { every: Some(1), ..Selection::default() },
        Selection { last: Some(3), ..Selection::default() },
        Selection { top: Some(3), ..Selection::default() },
        all(),
    ];
    for select in selections {
        assert_eq!(about(true, select), 0, "{select:?}");
    }
}

#[test]
fn only_since_the_last_restart_of_relora_there_is_one_base_model() {
    let restarted = |step: u64, count: u32| {
        format!(r#"{{"step": {step}, "num_lora_restarts": {count}, "eval_loss": 0.{step}}}"#)
    };
    let logs = Logs::of(&[restarted(10, 0), restarted(20, 1), restarted(30, 1)]);
    let choice = choose(&at(&[10, 20, 30]), true, &logs, &ChooseOptions::default()).unwrap();
    assert_eq!(choice.indexes, [1, 2]);
    assert_eq!(
        choice.notes[0],
        "1 of 3 checkpoints are left out: they refer to the base model before the last ReLoRA restart"
    );
    // whoever chose them is told instead
    let (_, _, detail, _) = failure(choose(
        &at(&[10, 20, 30]),
        true,
        &logs,
        &ChooseOptions { select: all(), ..named("eval_loss") },
    ));
    assert!(detail.starts_with("the checkpoints refer to different base models"), "{detail}");
    let never = Logs::of(&[restarted(10, 0), restarted(20, 0)]);
    assert_eq!(
        choose(&at(&[10, 20]), true, &never, &ChooseOptions::default()).unwrap().notes,
        Vec::<String>::new()
    );
}

#[test]
fn a_decay_is_over_the_newest_and_says_what_is_left_of_each_update() {
    let steps = [100, 200, 300, 400, 500, 600, 700, 800];
    let mut records = losses(&steps.map(|step| (step, 1.0)));
    records.extend(steps.map(|step| scored(step, "learning_rate", 1e-3)));
    let logs = Logs::of(&records);
    let decay = || scheme("decay", 0.8);
    let choice = choose(&at(&steps), true, &logs, &decay()).unwrap();
    assert_eq!(choice.selected.rule, "last", "a schedule is over neighbours, whatever was evaluated");
    let sixths: Vec<_> =
        choice.weights.values().iter().map(|weight| libm::round(weight * 6e9) / 1e9).collect();
    assert_eq!(sixths, [1.0, 2.0, 2.0, 1.0]);
    assert_eq!(choice.weighting.describe(), "decay, curve linear, floor 0, positions segments");
    let rows = choice.inputs(&at(&steps));
    let updates: Vec<_> = rows.iter().map(|row| libm::round(row.update.unwrap() * 6.0)).collect();
    assert_eq!(updates, [6.0, 5.0, 3.0, 1.0]);
    assert!(choice.advice.is_empty() && choice.readings.iter().all(Option::is_none));
    // a metric that is asked for is shown, and weighs nothing
    let mut shown = decay();
    shown.metric.name = Some("eval_loss".into());
    let choice = choose(&at(&steps), true, &logs, &shown).unwrap();
    assert_eq!(
        (choice.weighting.metric.as_deref(), choice.weighting.goal.as_deref()),
        (Some("eval_loss"), None)
    );
    assert_eq!(choice.inputs(&at(&steps))[0].metric, Some(1.0));
}

#[test]
fn a_decay_upon_a_decay_is_warned_of_and_can_be_corrected() {
    let steps = [100, 200, 300, 400, 500];
    let rates = steps
        .map(|step| scored(step, "learning_rate", 1.2 - f64::from(u32::try_from(step).unwrap()) / 500.0));
    let logs = Logs::of(&rates);
    let mut options = ChooseOptions { select: all(), ..scheme("decay", 0.8) };
    options.averaging.curve = Some(crate::weigh::decay::Curve::OneMinusSqrt);
    options.averaging.positions = Some(crate::weigh::decay::Positions::Megatron);
    let advised = |options: &ChooseOptions| {
        let choice = choose(&at(&steps), true, &logs, options).unwrap();
        choice.advice.iter().filter(|advice| advice.text.contains("--correct-for-lr")).count()
    };
    assert_eq!(advised(&options), 1);
    options.averaging.correct_for_lr = true;
    assert_eq!(advised(&options), 0);
    let choice = choose(&at(&steps), true, &logs, &options).unwrap();
    // methods' example: the rate fell from 1 to 0.2
    let expected = [0.3090169944, 0.0784088923, 0.0490657864, 0.0356442819, 0.527864045];
    for (weight, expected) in choice.weights.values().iter().zip(expected) {
        assert!((weight - expected).abs() < 1e-10, "{:?}", choice.weights);
    }
    let (kind, _, detail, help) = failure(choose(&at(&steps), true, &Logs::of(&[]), &options));
    assert_eq!(kind, ErrorKind::Metric);
    assert!(
        detail.starts_with("the log does not tell the learning rate") && help.contains("--correct-for-lr")
    );
}

#[test]
fn schemes_by_steps_say_what_they_lack() {
    let mut found = at(&[10, 20, 20]);
    let logs = Logs::of(&[]);
    let decay = ChooseOptions { select: all(), ..scheme("decay", 0.8) };
    let (kind, _, detail, help) = failure(choose(&found, true, &logs, &decay));
    assert_eq!(kind, ErrorKind::Weights);
    assert_eq!(
        detail,
        "positions of segments needs the step of every checkpoint, all of one run and each once"
    );
    assert!(help.ends_with("--positions megatron"), "{help}");
    // the order of the steps is enough for an average per checkpoint
    found[2].step = Some(15);
    let ema = ChooseOptions { select: all(), ..scheme("ema", 0.8) };
    let choice = choose(&found, true, &logs, &ema).unwrap();
    assert_eq!(choice.indexes, [0, 2, 1]);
    assert!((choice.weights.values()[2] - 0.3).abs() < 1e-15);
}

/// Two runs: three checkpoints and two.
fn of_two_runs() -> Vec<Listed<'static>> {
    let mut found = at(&[10, 20, 30, 10, 20]);
    found[3..].iter_mut().for_each(|listed| listed.run = "other");
    found
}

#[test]
fn runs_of_runs_are_one_flat_sum() {
    let logs = Logs::of(&[]).and("other", &[], "");
    let found = of_two_runs();
    let nested = |shares: Option<&[f64]>, options: &ChooseOptions| {
        choose_each(&found, &runs(&found), shares, &logs, options)
    };
    let uniform = ChooseOptions { select: all(), ..scheme("uniform", 0.0) };
    let choice = nested(None, &uniform).unwrap();
    assert_eq!(choice.indexes, [0, 3, 1, 4, 2], "oldest first");
    let expected = [1.0 / 6.0, 0.25, 1.0 / 6.0, 0.25, 1.0 / 6.0];
    assert!(
        choice.weights.values().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15),
        "{:?}",
        choice.weights
    );
    assert_eq!(choice.weighting.describe(), "uniform, run_weights 0.5, 0.5");
    let choice = nested(Some(&[3.0, 1.0]), &ChooseOptions { select: all(), ..scheme("ema", 0.0) }).unwrap();
    let expected = [0.75 * 0.49, 0.25 * 0.7, 0.75 * 0.21, 0.25 * 0.3, 0.75 * 0.3];
    assert!(
        choice.weights.values().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15),
        "{:?}",
        choice.weights
    );
    assert_eq!(choice.updates.len(), 5);
    // the selection is each run's own
    let newest = ChooseOptions {
        select: Selection { last: Some(1), ..Selection::default() },
        ..scheme("uniform", 0.0)
    };
    let choice = nested(None, &newest).unwrap();
    assert_eq!((choice.indexes, choice.selected.taken, choice.selected.found), (vec![4, 2], 2, 5));
    assert_eq!(
        choice.selected.line,
        "run: 1 of 3 checkpoints, as selected; other: 1 of 2 checkpoints, as selected"
    );
    let (kind, _, detail, _) = failure(nested(Some(&[1.0]), &uniform));
    assert_eq!((kind, &*detail), (ErrorKind::Weights, "there is 1 weight for 2 runs: run, other"));
    let mut bad = found.clone();
    bad[3..].iter_mut().for_each(|listed| listed.is_bad = true);
    let (_, file, detail, _) = failure(choose_each(&bad, &runs(&bad), None, &logs, &uniform));
    assert_eq!((file.as_deref(), &*detail), (Some("other"), "no good checkpoint is left"));
}

#[test]
fn a_table_must_tell_the_checkpoints_of_two_runs_apart() {
    let logs = Logs { table: Some("checkpoint,f1\none,0.5\n"), ..Logs::default() };
    let mut found = of_two_runs();
    found[3].label = "one";
    let (kind, file, detail, _) =
        failure(choose_each(&found, &runs(&found), None, &logs, &ChooseOptions::default()));
    assert_eq!((kind, file.as_deref()), (ErrorKind::Usage, Some("four")));
    assert!(detail.starts_with("is called as one of another run, one"), "{detail}");
}

#[test]
fn several_metrics_are_one_that_is_ranked_again_among_the_chosen() {
    let steps = [10, 20, 30, 40];
    let mut records = losses(&[(10, 1.10), (20, 1.05), (30, 1.30), (40, 1.20)]);
    for (step, (a, b)) in steps.iter().zip([(0.80, 0.61), (0.82, 0.60), (0.79, 0.65), (0.81, 0.60)]) {
        records.push(scored(*step, "eval_accuracy", a));
        records.push(scored(*step, "eval_odd", b));
    }
    let logs = Logs::of(&records);
    let mut options = named("eval_accuracy,eval_odd:max,eval_loss");
    options.select = all();
    let choice = choose(&at(&steps), true, &logs, &options).unwrap();
    // as scores.py of the project's oracles prints them: Borda 4, 2.5, 6, 5.5
    let values: Vec<_> = choice.readings.iter().map(|reading| reading.unwrap().value).collect();
    assert_eq!(values, [4.0, 2.5, 6.0, 5.5]);
    let ranking = choice.ranking.unwrap();
    assert_eq!(
        (ranking.disagreements, ranking.comparisons, &*ranking.ranks),
        (5, 18, &[1.0, 0.0, 3.0, 2.0][..])
    );
    assert_eq!(
        choice.weighting.describe(),
        "linear, penalty 0.8, by borda(eval_accuracy, eval_odd, eval_loss) (lower is better)"
    );
    options.select = Selection { top: Some(2), ..Selection::default() };
    let choice = choose(&at(&steps), true, &logs, &options).unwrap();
    assert_eq!(choice.indexes, [0, 1]);
    let values: Vec<_> = choice.readings.iter().map(|reading| reading.unwrap().value).collect();
    assert_eq!(values, [2.0, 1.0], "the two among themselves: ranks 1 0, 0 1, 1 0");
    options.combine = Some(crate::weigh::combine::Combine::ZScore);
    assert!(
        choose(&at(&steps), true, &logs, &options).unwrap().weighting.metric.unwrap().starts_with("z-score(")
    );
    options.metric.name = Some("eval_loss".into());
    let (kind, _, detail, _) = failure(choose(&at(&steps), true, &logs, &options));
    assert_eq!(
        (kind, &*detail),
        (ErrorKind::Usage, "option combine is for several metrics, and there is only eval_loss")
    );
    options.metric.name = None;
    options.select = Selection::default();
    let (kind, ..) = failure(choose(&at(&steps), true, &logs, &options));
    assert_eq!(kind, ErrorKind::Usage, "nor is there more where none is named");
    let (kind, _, detail, _) = failure(choose(&at(&steps), true, &logs, &named("eval_loss,eval_loss")));
    assert_eq!((kind, &*detail), (ErrorKind::Usage, "the metric eval_loss is named twice"));
    // a checkpoint that lacks one of them lacks all
    records.retain(|record| !record.contains("0.82"));
    let mut options = named("eval_accuracy,eval_loss");
    options.select = Selection { last: Some(4), ..Selection::default() };
    let (kind, _, detail, _) = failure(choose(&at(&steps), true, &Logs::of(&records), &options));
    assert_eq!(kind, ErrorKind::Metric);
    assert!(detail.contains("two (eval_accuracy: the nearest is at step 10)"), "{detail}");
}

#[test]
fn questions_are_of_an_accuracy() {
    let steps = [10, 20, 30];
    let records: Vec<_> =
        steps.iter().zip([0.34, 0.35, 0.36]).map(|(step, a)| scored(*step, "eval_accuracy", a)).collect();
    let logs = Logs::of(&records);
    let mut options = ChooseOptions { select: all(), questions: Some(2000), ..named("eval_accuracy") };
    let told = |options: &ChooseOptions| {
        let choice = choose(&at(&steps), true, &logs, options).unwrap();
        choice.advice.iter().filter(|advice| advice.text.contains("on 2000 questions")).count()
    };
    assert_eq!(told(&options), 1);
    options.questions = None;
    assert_eq!(told(&options), 0);
    options.questions = Some(2000);
    options.metric.goal = Some(crate::logs::goal::Goal::Min);
    let (kind, _, detail, _) = failure(choose(&at(&steps), true, &logs, &options));
    assert_eq!(kind, ErrorKind::Usage);
    assert!(detail.ends_with("and eval_accuracy is none"), "{detail}");
    let none = ChooseOptions { select: all(), questions: Some(10), ..scheme("uniform", 0.0) };
    assert!(failure(choose(&at(&steps), true, &logs, &none)).2.ends_with("no metric is read"));
}
