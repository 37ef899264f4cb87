//! Tests of reading, on snippets of real logs.

use super::*;
use crate::logs::trainer::TrainerState;

fn history(states: &[&str]) -> History {
    History::new(states.iter().map(|text| TrainerState::parse(text).unwrap()))
}

fn named(name: &str) -> MetricOptions {
    MetricOptions { name: Some(name.to_string()), ..MetricOptions::default() }
}

fn found(metric: &Metric) -> Vec<(f64, String)> {
    let reading = |outcome: &Outcome| match outcome {
        Outcome::Read(reading) => (reading.value, reading.source.to_string()),
        Outcome::Missing(text) => (f64::INFINITY, format!("missing: {text}")),
        Outcome::Bad(text) => (f64::NAN, format!("bad: {text}")),
    };
    metric.readings.iter().map(reading).collect()
}

/// transformers 5, one tensor set to NaN after step 6.
const NAN: &str = r#"{"global_step": 12, "save_steps": 3, "log_history": [
    {"grad_norm": 0.17013494670391083, "loss": 4.148506800333659, "step": 3}, {"eval_loss": 4.155494689941406, "step": 3},
    {"grad_norm": 0.22646820545196533, "loss": 4.157363255818685, "step": 6}, {"eval_loss": 4.149109840393066, "step": 6},
    {"grad_norm": NaN, "loss": 2.7796150843302407, "step": 9}, {"eval_loss": NaN, "step": 9},
    {"grad_norm": NaN, "loss": 0.0, "step": 12}, {"eval_loss": NaN, "step": 12}]}"#;

#[test]
fn a_diverged_run_keeps_only_its_good_checkpoints() {
    for name in ["loss", "eval_loss", "step"] {
        let mut metric = read_metric(&history(&[NAN]), &[3, 6, 9, 12], &named(name)).unwrap();
        let found = found(&metric);
        assert!(found[2].1.starts_with("bad: diverged: grad_norm is NaN in the log of step 9"), "{found:?}");
        assert!(found[3].1.starts_with("bad: diverged: grad_norm is NaN in the log of step 12"), "{found:?}");
        assert!(
            metric
                .values()
                .unwrap_err()
                .detail()
                .starts_with("2 of 4 checkpoints must not be averaged: step 9")
        );
        assert_eq!(metric.drop_bad().len(), 2);
        assert_eq!(metric.values().unwrap().len(), 2);
    }
}

#[test]
fn the_diluted_loss_of_a_diverged_run_enters_no_window() {
    let metric = read_metric(&history(&[NAN]), &[3, 6], &named("loss")).unwrap();
    let found = found(&metric);
    assert_eq!(found[1], (4.157363255818685, "log of steps 4–6".to_string()));
    assert!((found[0].0 - (4.148506800333659 + 4.157363255818685) / 2.0).abs() < 1e-12);
}

#[test]
fn without_a_name_the_evaluation_of_the_good_checkpoints_is_taken() {
    let metric = read_metric(&history(&[NAN]), &[3, 6, 9, 12], &MetricOptions::default()).unwrap();
    assert_eq!((metric.name.as_str(), metric.goal), ("eval_loss", Goal::Min));
    assert_eq!(found(&metric)[0], (4.155494689941406, "at step 3".to_string()));
}

/// Saved every 7 steps, logged and evaluated every 10: the early states are empty, the last steps never
/// logged.
const GAPS: [&str; 3] = [
    r#"{"global_step": 7, "logging_steps": 10, "save_steps": 7, "log_history": []}"#,
    r#"{"global_step": 14, "log_history": [{"grad_norm": 0.19, "loss": 4.158140563964844, "step": 10},
        {"eval_loss": 4.146890163421631, "eval_runtime": 0.0129, "step": 10}]}"#,
    r#"{"global_step": 25, "log_history": [{"grad_norm": 0.19, "loss": 4.158140563964844, "step": 10},
        {"eval_loss": 4.146890163421631, "eval_runtime": 0.0129, "step": 10},
        {"grad_norm": 0.18, "loss": 4.160313415527344, "step": 20}, {"eval_loss": 4.142831802368164, "step": 20},
        {"eval_loss": 4.1427154541015625, "step": 25},
        {"step": 25, "total_flos": 155059200.0, "train_loss": 4.159751358032227, "train_runtime": 0.4458}]}"#,
];

#[test]
fn gaps_are_covered_smoothed_or_flagged() {
    let metric = read_metric(&history(&GAPS), &[7, 14, 21, 25], &named("loss")).unwrap();
    let found = found(&metric);
    // W = max(2·10, 7/2) = 20: [−3, 17] shares 10 and 7 steps, [4, 24] 6 and 10.
    assert!((found[0].0 - (10.0 * 4.158140563964844 + 7.0 * 4.160313415527344) / 17.0).abs() < 1e-12);
    assert!((found[1].0 - (6.0 * 4.158140563964844 + 10.0 * 4.160313415527344) / 16.0).abs() < 1e-12);
    assert_eq!(found[0].1, "mean of steps 1–17");
    assert_eq!(found[3], (4.160313415527344, "logged 5 steps before, at step 20".to_string()));
    assert_eq!(
        metric.notes[0],
        "loss is averaged over 20 steps around each checkpoint, as the log has an entry every 10"
    );
    assert!(
        metric.notes[1].starts_with("loss is not logged right at step 21: logged 1 step before,"),
        "{:?}",
        metric.notes
    );
}

#[test]
fn without_a_name_an_evaluation_of_some_gives_way_to_the_step() {
    let metric = read_metric(&history(&GAPS), &[7, 14, 21, 25], &MetricOptions::default()).unwrap();
    assert_eq!((metric.name.as_str(), metric.values().unwrap()[3]), ("step", 25.0));
    assert_eq!(
        metric.notes,
        [
            "eval_loss is not used, as not every checkpoint has one (eval_loss 1/4), so the step is the metric: later counts as \
          better"
        ]
    );
}

#[test]
fn strict_takes_no_stale_value_and_no_step_instead() {
    let strict = MetricOptions { strict: true, ..named("loss") };
    let error = read_metric(&history(&GAPS), &[7, 14, 21, 25], &strict).unwrap_err();
    assert!(
        error.detail().contains("step 21: logged 1 step before") && error.detail().contains("step 25"),
        "{error}"
    );
    assert!(read_metric(&history(&GAPS), &[7, 14], &strict).is_ok());
    let unnamed = MetricOptions { strict: true, ..MetricOptions::default() };
    let error = read_metric(&history(&GAPS), &[7, 14], &unnamed).unwrap_err();
    assert_eq!(error.detail(), "eval_loss is not logged for every checkpoint: eval_loss 0/2");
}

#[test]
fn evaluations_count_at_their_step_only_unless_allowed() {
    let metric = read_metric(&history(&GAPS), &[7, 14, 21, 25], &named("eval_loss")).unwrap();
    let error = metric.values().unwrap_err();
    assert!(
        error
            .detail()
            .starts_with("3 of 4 checkpoints have no eval_loss: step 7, step 14 (the nearest is at step 10)"),
        "{error}"
    );
    let options = MetricOptions { tolerance: 4, ..named("eval_loss") };
    let metric = read_metric(&history(&GAPS), &[7, 14, 21, 25], &options).unwrap();
    assert_eq!(found(&metric)[1], (4.146890163421631, "at step 10, 4 steps away".to_string()));
    assert_eq!(metric.values().unwrap().len(), 4);
    assert_eq!(metric.notes.len(), 1);
}

#[test]
fn an_unknown_name_lists_what_there_is() {
    let error = read_metric(&history(&GAPS), &[10, 14], &named("eval_los")).unwrap_err();
    assert_eq!(
        error.detail(),
        "there is no metric `eval_los`; the logs hold eval_loss 1/2, loss 2/2, grad_norm 2/2"
    );
    assert_eq!(error.advice(), Some("did you mean --metric eval_loss?"));
    let error = read_metric(&history(&GAPS), &[10], &named("train_loss")).unwrap_err();
    assert!(error.advice().unwrap().starts_with("train_loss is the mean over the whole run"));
    let error = read_metric(&history(&[]), &[10], &named("loss")).unwrap_err();
    assert!(error.detail().ends_with("this run logged no metrics"), "{error}");
}

#[test]
fn coverage_counts_checkpoints_per_metric() {
    let history = history(&GAPS);
    assert_eq!(history.coverage(&[7, 14, 21, 25]), [("eval_loss", 1), ("loss", 2), ("grad_norm", 2)]);
}

#[test]
fn without_any_log_the_step_counts() {
    let metric = read_metric(&history(&GAPS[..1]), &[7, 14], &MetricOptions::default()).unwrap();
    assert_eq!(
        (metric.name.as_str(), metric.goal, metric.values().unwrap()),
        ("step", Goal::Max, alloc::vec![7.0, 14.0])
    );
    assert_eq!(metric.notes.len(), 1);
}

#[test]
fn dpo_margins_are_training_metrics_to_raise() {
    let dpo = r#"{"global_step": 6, "log_history": [
        {"grad_norm": 0.99, "loss": 0.6786, "rewards/margins": 0.029444217681884766, "rewards/rejected": -0.029, "step": 3},
        {"grad_norm": 1.0, "loss": 0.6457, "rewards/margins": 0.09713977326949437, "rewards/rejected": -0.094, "step": 6}]}"#;
    let metric = read_metric(&history(&[dpo]), &[3, 6], &named("rewards/margins")).unwrap();
    assert_eq!(metric.goal, Goal::Max);
    assert_eq!(metric.values().unwrap()[1], 0.09713977326949437);
    let error = read_metric(&history(&[dpo]), &[3, 6], &named("rewards/rejected")).unwrap_err();
    assert_eq!(error.advice(), Some("say so with --goal min or --goal max"));
}

#[test]
fn a_negative_loss_and_ties_are_values_like_others() {
    let grpo = r#"{"global_step": 30, "log_history": [
        {"grad_norm": 0.2, "loss": -0.0012, "reward": 0.5, "step": 10}, {"grad_norm": 0.0, "loss": 0.0, "reward": 0.5, "step": 20},
        {"grad_norm": 0.1, "loss": -0.0012, "reward": 0.5, "step": 30}]}"#;
    let metric =
        read_metric(&history(&[grpo]), &[10, 20, 30], &MetricOptions { smooth: Some(0.0), ..named("loss") })
            .unwrap();
    assert_eq!(metric.values().unwrap(), [-0.0006, -0.0006, -0.0012]);
    let metric = read_metric(&history(&[grpo]), &[10, 20, 30], &named("reward")).unwrap();
    assert_eq!(metric.values().unwrap(), [0.5; 3]);
}

#[test]
fn an_evaluation_that_is_always_nan_is_no_divergence() {
    let text = r#"{"global_step": 20, "log_history": [{"grad_norm": 1.0, "loss": 2.0, "step": 10}, {"eval_loss": NaN, "step": 10},
        {"grad_norm": 1.0, "loss": 1.0, "step": 20}, {"eval_loss": NaN, "step": 20}]}"#;
    let metric = read_metric(&history(&[text]), &[10, 20], &MetricOptions::default()).unwrap();
    assert_eq!((metric.name.as_str(), metric.values().unwrap().len()), ("step", 2));
    let told =
        "eval_loss is not used, as it is NaN or infinite at every checkpoint, so the step is the metric";
    assert!(metric.notes[0].starts_with(told), "{}", metric.notes[0]);
    let metric = read_metric(&history(&[text]), &[10, 20], &named("eval_loss")).unwrap();
    assert_eq!(found(&metric)[0].1, "bad: eval_loss is NaN at step 10");
}

#[test]
fn each_branch_of_a_resumed_run_has_its_own_values() {
    let old = r#"{"global_step": 40, "log_history": [{"loss": 3.0, "step": 10}, {"loss": 2.0, "step": 20},
        {"loss": 1.5, "step": 30}, {"loss": 1.25, "step": 40}]}"#;
    let new = r#"{"global_step": 30, "log_history": [{"loss": 3.0, "step": 10}, {"loss": 2.0, "step": 20}, {"loss": 9.0, "step": 30}]}"#;
    let options = MetricOptions { smooth: Some(2.0), ..named("loss") };
    let metric = read_metric(&history(&[old, new]), &[30, 40], &options).unwrap();
    assert_eq!(metric.values().unwrap(), [9.0, 1.25]);
    assert!(metric.notes[0].contains("the run was resumed or restarted"), "{:?}", metric.notes);
}

#[test]
fn bad_questions_are_errors() {
    assert_eq!(
        read_metric(&history(&GAPS), &[], &MetricOptions::default()).unwrap_err().kind(),
        ErrorKind::Metric
    );
    let options = MetricOptions { smooth: Some(-1.0), ..MetricOptions::default() };
    assert_eq!(read_metric(&history(&GAPS), &[7], &options).unwrap_err().kind(), ErrorKind::Usage);
}
