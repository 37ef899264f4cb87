//! Metrics that are missing, wrong or of the wrong kind, and what becomes of them.

use snapbox::{assert_data_eq, str};

use crate::adapter;
use crate::place::Place;

/// `run/checkpoint-{10,20,30}`, whose last state has this log.
fn logged(entries: &[impl AsRef<str>]) -> Place {
    let place = Place::with_run();
    for step in [10, 20, 30] {
        place.log(&format!("run/checkpoint-{step}"), &[""; 0]);
    }
    place.log("run/checkpoint-30", entries);
    place
}

/// The same, of one metric that was logged at each checkpoint.
fn measured(metric: &str, values: [f64; 3]) -> Place {
    let entry = |(step, value)| format!(r#"{{"step": {step}, "{metric}": {value:?}}}"#);
    let entries = [10, 20, 30].into_iter().zip(values).map(entry).collect::<Vec<_>>();
    logged(&entries)
}

#[test]
fn bare_nan_in_the_log_is_a_bad_value_not_a_parse_error() {
    let place = measured("eval_loss", [2.0, f64::NAN, 1.0]);
    assert_data_eq!(
        place.fails("merge run --select all -o out"),
        str![[r#"
error: 1 of 3 checkpoints must not be averaged: checkpoint-20 (eval_loss is NaN at step 20)
help: leave them out with --drop-bad

"#]]
    );
    assert_data_eq!(
        place.merges("run --select all --drop-bad").err,
        str![[r#"
note: run/checkpoint-20 is dropped: eval_loss is NaN at step 20

"#]]
    );
}

#[test]
fn a_diverged_checkpoint_with_loss_zero_never_wins() {
    let place = logged(&[
        r#"{"step": 10, "loss": 2.0, "grad_norm": 1.0}"#,
        r#"{"step": 20, "loss": 1.0, "grad_norm": 1.0}"#,
        r#"{"step": 30, "loss": 0.0, "grad_norm": NaN}"#,
    ]);
    assert_data_eq!(
        place.fails("merge run --select all --metric loss -o out"),
        str![[r#"
error: 1 of 3 checkpoints must not be averaged: checkpoint-30 (diverged: grad_norm is NaN in the log of step 30)
help: leave them out with --drop-bad

"#]]
    );
    let ran = place.merges("run --select all --metric loss --drop-bad");
    assert_data_eq!(
        ran.err,
        str![[r#"
note: loss is averaged over 20 steps around each checkpoint, as the log has an entry every 10
note: run/checkpoint-30 is dropped: diverged: grad_norm is NaN in the log of step 30

"#]]
    );
    assert!(!ran.out.contains("checkpoint-30"), "{}", ran.out);
}

#[test]
fn equal_metrics_give_equal_weights() {
    let place = measured("eval_loss", [1.5, 1.5, 1.5]);
    let ran = place.mwa("weights run --select all");
    assert_data_eq!(
        ran.err,
        str![[r#"
note: eval_loss is the same for every checkpoint, so all weigh the same

"#]]
    );
    assert_eq!(ran.out.matches("0.3333").count(), 3, "{}", ran.out);
}

#[test]
fn the_power_scheme_refuses_a_negative_metric() {
    let place = measured("reward", [-1.5, 0.5, 1.5]);
    assert_data_eq!(
        place.fails("merge run --select all --metric reward --scheme power -o out"),
        str![[r#"
error: metric reward: the power scheme needs positive metrics, but metric 1 of 3 is -0.5
help: use --scheme linear, exponential or rank

"#]]
    );
    place.merges("run --select all --metric reward --scheme linear");
}

#[test]
fn without_any_metric_the_step_weighs_and_says_so() {
    let place = logged(&[""; 0]);
    let ran = place.mwa("weights run --select all");
    assert_data_eq!(
        ran.err,
        str![[r#"
note: no log is there, so the step is the metric: later counts as better

"#]]
    );
    assert_data_eq!(
        place.fails("merge run --select all --metric eval_loss -o out"),
        str![[r#"
error: run: there is no metric `eval_loss`: this run logged no metrics
help: use --metric step, or give your own with --metrics-file

"#]]
    );
}

#[test]
fn strict_metrics_refuses_a_value_that_was_not_logged_right_there() {
    let place = logged(&[r#"{"step": 5, "loss": 2.0}"#, r#"{"step": 15, "loss": 1.0}"#]);
    assert_data_eq!(
        place.mwa("weights run --select all --metric loss").err,
        str![[r#"
note: loss is averaged over 20 steps around each checkpoint, as the log has an entry every 10
note: loss is not logged right at step 20: logged 5 steps before, at step 15; step 30: logged 15 steps before, at step 15

"#]]
    );
    assert_data_eq!(
        place.fails("merge run --select all --metric loss --strict-metrics -o out"),
        str![[r#"
error: run: loss is not logged right at step 20: logged 5 steps before, at step 15; step 30: logged 15 steps before, at step 15
help: log at the steps at which checkpoints are saved, or allow this without --strict-metrics

"#]]
    );
}

#[test]
fn a_metric_that_some_checkpoints_lack_is_never_mixed_with_another() {
    let place = logged(&[
        r#"{"step": 10, "loss": 2.0, "eval_loss": 1.0}"#,
        r#"{"step": 20, "loss": 1.5}"#,
        r#"{"step": 30, "loss": 1.0}"#,
    ]);
    assert_data_eq!(
        place.fails("merge run --select all --metric eval_loss -o out"),
        str![[r#"
error: 2 of 3 checkpoints have no eval_loss: checkpoint-20, checkpoint-30 (the nearest is at step 10)
help: choose a metric that every checkpoint has (--metric), or only checkpoints that have this one (--steps A..B, --last N)

"#]]
    );
    assert_data_eq!(
        place.mwa("weights run --select all").err,
        str![[r#"
note: eval_loss is not used, as not every checkpoint has one (eval_loss 1/3), so the step is the metric: later counts as better

"#]]
    );
}

#[test]
fn a_misspelt_metric_lists_the_logged_ones() {
    let place = Place::with_run();
    assert_data_eq!(
        place.fails("merge run --select all --metric eval_los -o out"),
        str![[r#"
error: run: there is no metric `eval_los`; the logs hold eval_loss 3/3
help: did you mean --metric eval_loss?

"#]]
    );
}

#[test]
fn a_metric_without_a_known_direction_needs_a_goal() {
    let place = measured("sparkle", [2.0, 1.5, 1.0]);
    assert_data_eq!(
        place.fails("weights run --select all --metric sparkle"),
        str![[r#"
error: run: whether a lower or a higher `sparkle` is better cannot be told from its name
help: say so with --goal min or --goal max

"#]]
    );
    assert_eq!(place.mwa("weights run --select all --metric sparkle --goal max").code, Some(0));
}

#[test]
fn a_resumed_run_reads_the_latest_branch_and_says_so() {
    let place = Place::with_run();
    place.log(
        "run/checkpoint-30",
        &[
            r#"{"step": 10, "eval_loss": 3}"#,
            r#"{"step": 20, "eval_loss": 1.25}"#,
            r#"{"step": 30, "eval_loss": 2}"#,
        ],
    );
    let ran = place.mwa("weights run --select all");
    assert_data_eq!(
        ran.err,
        str![[r#"
note: the logs disagree from step 20 on (eval_loss is 1 in one and 1.25 in the one that ends at step 30): the run was resumed or restarted; step 10, 30 read from the log that ends at step 30, step 20 read from the log that ends at step 20

"#]]
    );
    assert_data_eq!(
        ran.out,
        str![[r#"
chosen: all 3 checkpoints, as selected
checkpoint     step  eval_loss  from        weight
checkpoint-10    10          3  at step 10  0.1111  ████▊
checkpoint-20    20          1  at step 20  0.5556  ████████████████████████
checkpoint-30    30          2  at step 30  0.3333  ██████████████▍
weights: linear, penalty 0.8, by eval_loss (lower is better)

"#]]
    );
}

#[test]
fn a_damaged_log_is_named() {
    let place = Place::with_run();
    place.write("run/checkpoint-20/trainer_state.json", "{\"log_history\": [{\"step\": 10,");
    assert_data_eq!(
        place.fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-20/trainer_state.json: is not the JSON object that a trainer writes: EOF while parsing a value at line 1 column 29
help: its save may have been cut short: move that checkpoint out of the run, or restore the file

"#]]
    );
}

#[test]
fn weights_must_match_and_are_made_to_sum_to_one() {
    let place = Place::with_run();
    assert_data_eq!(
        place.fails("merge run --select all -o out --weights 1,2"),
        str![[r#"
error: there are 2 weights for 3 checkpoints: checkpoint-10, checkpoint-20, checkpoint-30
help: give one weight per checkpoint, in this order

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "merge run --select all -o out --weights 1,nan,2"),
        str![[r#"
error: invalid value '1,nan,2' for '--weights <W,W,…>': it must be a list of numbers

For more information, try '--help'.

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "merge run --select all -o out --weights 1,-2,1"),
        str![[r#"
error: the weights sum to 0
help: weights must have a positive sum

"#]]
    );
    assert_data_eq!(
        place.merges("run --select all --weights 1,1,2").err,
        str![[r#"
note: the weights sum to 4; they are divided by that, so that they sum to 1

"#]]
    );
    assert_eq!(place.merged(adapter::B)[0], 0.25 * 0.25 + 0.5 * 0.25 + 0.75 * 0.5);
}

#[test]
fn a_penalty_out_of_range_is_wrong_usage() {
    let place = Place::with_run();
    assert_data_eq!(
        place.fails_with(2, "merge run --select all -o out --penalty 1.5"),
        str![[r#"
error: penalty 1.5 is out of range for the linear scheme
help: it must be between 0 and 1

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "merge run --select all -o out --penalty nan"),
        str![[r#"
error: invalid value 'nan' for '--penalty <P>': it must be a number

For more information, try '--help'.

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "weights run --select all --scheme exponential --penalty -1"),
        str![[r#"
error: penalty -1 is out of range for the exponential scheme
help: it must be 0 or larger

"#]]
    );
}

#[test]
fn a_table_of_metrics_is_read_by_checkpoint_or_step() {
    let place = Place::with_run();
    place.write(
        "scores.csv",
        "checkpoint,accuracy\ncheckpoint-10,0.5\ncheckpoint-20,0.6\ncheckpoint-30,0.9\n",
    );
    assert_data_eq!(
        place.mwa("weights run --select all --metrics-file scores.csv").out,
        str![[r#"
chosen: all 3 checkpoints, as selected
checkpoint     step  accuracy  from          weight
checkpoint-10    10   0.50000  table, row 2  0.1250  ████▊
checkpoint-20    20   0.60000  table, row 3  0.2500  █████████▋
checkpoint-30    30   0.90000  table, row 4  0.6250  ████████████████████████
weights: linear, penalty 0.8, by accuracy (higher is better)

"#]]
    );
    place.write(
        "scores.jsonl",
        "{\"step\": 10, \"f1\": 0.5}\n{\"step\": 20, \"f1\": 0.25}\n{\"step\": 30, \"f1\": 1}\n",
    );
    assert_data_eq!(
        place.mwa("weights run --select all --metrics-file scores.jsonl --metric f1").out,
        str![[r#"
chosen: all 3 checkpoints, as selected
checkpoint     step       f1  from          weight
checkpoint-10    10  0.50000  table, row 1  0.2800  ███████████▎
checkpoint-20    20  0.25000  table, row 2  0.1200  ████▊
checkpoint-30    30        1  table, row 3  0.6000  ████████████████████████
weights: linear, penalty 0.8, by f1 (higher is better)

"#]]
    );
}

#[test]
fn faults_of_a_table_are_named() {
    let place = Place::with_run();
    assert_data_eq!(
        place.fails("weights run --select all --metrics-file absent.csv"),
        str![[r#"
error: absent.csv: does not exist

"#]]
    );
    place.write("short.csv", "checkpoint,accuracy\ncheckpoint-10,0.5\n");
    assert_data_eq!(
        place.fails("weights run --select all --metrics-file short.csv"),
        str![[r#"
error: short.csv: 2 of 3 checkpoints have no accuracy: checkpoint-20, checkpoint-30 (no row of the table is about it)
help: choose a metric that every checkpoint has (--metric), or only checkpoints that have this one (--steps A..B, --last N)

"#]]
    );
    place.write("word.csv", "step,accuracy\n10,0.5\n20,high\n30,0.5\n");
    assert_data_eq!(
        place.fails("weights run --select all --metrics-file word.csv"),
        str![[r#"
error: word.csv: line 3: accuracy is `high`, which is not a number

"#]]
    );
    place.write("keyless.csv", "name,accuracy\na,0.5\n");
    assert_data_eq!(
        place.fails("weights run --select all --metrics-file keyless.csv"),
        str![[r#"
error: keyless.csv: the table does not say which checkpoints its rows are about: its columns are name, accuracy
help: name one of the columns `checkpoint` (such as checkpoint-50), `step` or `epoch`

"#]]
    );
    place.write("two.csv", "step,f1,accuracy\n10,1,0.5\n20,1,0.6\n30,1,0.5\n");
    assert_data_eq!(
        place.fails("weights run --select all --metrics-file two.csv"),
        str![[r#"
error: two.csv: the table holds several metrics: accuracy 3/3, f1 3/3
help: choose one of these with --metric

"#]]
    );
}

#[test]
fn lightning_counts_steps_from_zero() {
    let place = Place::with_run();
    place.write("metrics.csv", "epoch,step,train_loss,val_loss\n0,9,,3.0\n1,19,,1.0\n2,29,,2.0\n");
    assert_data_eq!(
        place.mwa("weights run --select all --metrics-file metrics.csv --metric val_loss").out,
        str![[r#"
chosen: all 3 checkpoints, as selected
checkpoint     step  val_loss  from          weight
checkpoint-10    10         3  table, row 2  0.1111  ████▊
checkpoint-20    20         1  table, row 3  0.5556  ████████████████████████
checkpoint-30    30         2  table, row 4  0.3333  ██████████████▍
weights: linear, penalty 0.8, by val_loss (lower is better)

"#]]
    );
}
