//! Logs of other programs: which metrics are found where, and which of them count.

use snapbox::{assert_data_eq, str};

use crate::adapter;
use crate::place::Place;

const EVENTS: &[u8] = include_bytes!("data/logs/events.out.tfevents.1");
const WANDB: &[u8] = include_bytes!("data/logs/run.wandb");

/// A run of two checkpoints without a log.
fn bare() -> Place {
    let place = Place::new();
    for step in [5_u8, 10] {
        place.checkpoint(&format!("run/checkpoint-{step}"), &adapter::lora(f32::from(step)));
    }
    place
}

#[test]
fn metrics_are_found_in_the_logs_of_a_run() {
    let place = bare();
    place.write("run/runs/Nov27_host/events.out.tfevents.1", EVENTS);
    place.write("run/wandb/offline-run-1/run-1.wandb", WANDB);
    place.write("run/mlruns/0/abc/metrics/eval_f1", "17 0.5 5\n18 0.75 10\n");
    place.write("run/checkpoint-10/eval_results.json", r#"{"eval_bleu": 20.5, "epoch": 1.0}"#);
    let results = |step: u8, acc: &str| {
        format!(
            r#"{{"results": {{"arc": {{"acc,none": {acc}, "acc_stderr,none": "N/A"}}}}, "higher_is_better": {{"arc": {{"acc": true}}}},
            "config": {{"model_args": "pretrained=base,peft=other/place/run/checkpoint-{step}"}}}}"#
        )
    };
    place.write("run/evals/a/results_2026-01-01.json", results(5, "0.25"));
    place.write("run/evals/b/results_2026-01-02.json", results(10, "0.5"));
    assert_data_eq!(
        place.mwa("inspect run").out,
        str![[r#"
run
  2 checkpoints, checkpoint-5 to checkpoint-10, steps 5 to 10
    LORA, rank 2, alpha 4, 14 parameters in 2 tensors (2 F32), 271 B each
    of example/tiny
    in q, v
  LORA: may be averaged
  metrics, how many of the 2 checkpoints have one, and how well it tells them apart:
    arc/acc,none     2  range 0.25000, noise 0.17678: 1.4
    eval_bleu        1
    eval_f1          2  range 0.25000, noise 0.17678: 1.4
    eval_loss        2
    loss             2
    loss/average     2
  run/runs/Nov27_host/events.out.tfevents.1 (TensorBoard): eval_loss, loss, loss/average
  run/wandb/offline-run-1/run-1.wandb (W&B): eval_loss
  run/mlruns/0/abc/metrics/eval_f1 (MLflow): eval_f1
  run/evals/a/results_2026-01-01.json and 1 more (lm-eval): arc/acc,none
  run/checkpoint-10/eval_results.json (results of a checkpoint): eval_bleu

"#]]
    );
    // W&B's second value is another than TensorBoard's NaN, and says so
    assert_data_eq!(
        place.mwa("inspect run").err,
        str![[r#"
note: eval_loss at step 10 is NaN in run/runs/Nov27_host/events.out.tfevents.1, but 0.25 in run/wandb/offline-run-1/run-1.wandb: the first is used (--metrics-from names one log)

"#]]
    );
    let best = place.mwa("weights run --metric arc/acc,none").out;
    assert!(
        best.contains("best") && best.contains("by arc/acc,none"),
        "scores of checkpoints are evaluations: {best}"
    );
    assert_data_eq!(
        place.mwa("weights run --metric arc/acc,none --select all").out,
        str![[r#"
chosen: all 2 checkpoints, as selected
checkpoint     step  arc/acc,none  from        weight
checkpoint-5      5       0.25000  at step 5   0.1667  ████▊
checkpoint-10    10       0.50000  at step 10  0.8333  ████████████████████████
weights: linear, penalty 0.8, by arc/acc,none (higher is better)

"#]]
    );
    assert_data_eq!(
        place.mwa("weights run --metrics-from run/wandb --metric eval_loss --select all").out,
        str![[r#"
chosen: all 2 checkpoints, as selected
checkpoint     step  eval_loss  from        weight
checkpoint-5      5    0.50000  at step 5   0.1667  ████▊
checkpoint-10    10    0.25000  at step 10  0.8333  ████████████████████████
weights: linear, penalty 0.8, by eval_loss (lower is better)

"#]]
    );
}

#[test]
fn a_run_of_mlflow_s_database_is_named_where_it_holds_several() {
    const DATABASE: &[u8] = include_bytes!("../../../core/src/logs/data/mlflow.db");
    let place = Place::new();
    for step in [10_u8, 20, 30] {
        place.checkpoint(&format!("run/checkpoint-{step}"), &adapter::lora(f32::from(step)));
    }
    place.write("mlflow.db", DATABASE);
    assert_data_eq!(
        place.fails("weights run --metrics-from mlflow.db"),
        str![[r#"
error: mlflow.db: holds 2 runs, which are not told apart: lora, wide
help: name one of them: --metrics-from mlflow.db#lora

"#]]
    );
    assert_data_eq!(
        place.mwa("weights run --metrics-from mlflow.db#lora --select all").out,
        str![[r#"
chosen: all 3 checkpoints, as selected
checkpoint     step  eval_loss  from        weight
checkpoint-10    10     2.5000  at step 10  0.1152  ████▊
checkpoint-20    20    0.12500  at step 20  0.5758  ████████████████████████
checkpoint-30    30     1.5000  at step 30  0.3091  ████████████▉
weights: linear, penalty 0.8, by eval_loss (lower is better)

"#]]
    );
    let error = place.fails("weights run --metrics-from mlflow.db#late");
    assert!(error.contains("has no run `late` that logged anything"), "{error}");
    // in the run's folder it is found, and what a program still writes is refused
    place.write("run/mlflow.db", DATABASE);
    let listed = place.mwa("inspect mlflow.db");
    assert!(listed.out.contains("MLflow"), "{}{}", listed.out, listed.err);
    place.write("mlflow.db-wal", "some pages");
    assert_data_eq!(
        place.fails("weights run --metrics-from mlflow.db#lora"),
        str![[r#"
error: mlflow.db: is not all of the database: mlflow.db-wal lies beside it
help: end what writes to it, or copy it whole: sqlite3 mlflow.db '.backup copy.db'

"#]]
    );
}

#[test]
fn a_log_can_be_named_wherever_it_lies() {
    let place = bare();
    place.log("run/checkpoint-5", &[r#"{"step": 5, "eval_loss": 3.0}"#]);
    place
        .log("run/checkpoint-10", &[r#"{"step": 5, "eval_loss": 3.0}"#, r#"{"step": 10, "eval_loss": 2.0}"#]);
    place.write(
        "printed.txt",
        "step 5: train loss 1.0, val loss 0.5\nstep 10: train loss 0.9, val loss 0.75\n",
    );
    place.write("nothing.txt", "hello\n");
    assert_data_eq!(
        place.mwa("weights run --metrics-from printed.txt --metric val_loss --select all").out,
        str![[r#"
chosen: all 2 checkpoints, as selected
checkpoint     step  val_loss  from        weight
checkpoint-5      5   0.50000  at step 5   0.8333  ████████████████████████
checkpoint-10    10   0.75000  at step 10  0.1667  ████▊
weights: linear, penalty 0.8, by val_loss (lower is better)

"#]]
    );
    assert_data_eq!(
        place.fails("weights run --metrics-from nothing.txt"),
        str![[r#"
error: nothing.txt: is no log that is read here
help: what is read: a Trainer's state, JSON Lines, speechbrain's CKPT.yaml, timm's table, wenet's YAML, Lightning's table, TensorBoard, W&B, MLflow, a toolkit's log, Keras' table, lm-eval, OpenCompass, results of a checkpoint; a table goes to --metrics-file

"#]]
    );
    // a table by checkpoints is no log, and its rows are of no steps but these
    place.write("table.csv", "checkpoint,val_loss\ncheckpoint-5,0.5\ncheckpoint-10,0.75\n");
    let err = place.fails("weights run --metrics-from table.csv --metric val_loss");
    assert!(err.contains("table.csv: is no log") && err.contains("a table goes to --metrics-file"), "{err}");
    assert_data_eq!(
        place.fails("weights run --metrics-from absent"),
        str![[r#"
error: absent: does not exist
help: give a log, or a folder with logs, to --metrics-from

"#]]
    );
    place.checkpoint("other/checkpoint-5", &adapter::lora(1.0));
    assert_data_eq!(
        place.fails_with(2, "weights run other --metrics-from printed.txt"),
        str![[r#"
error: printed.txt: is one log, but the checkpoints are of 2 runs
help: name checkpoints of one run, or leave out --metrics-from

"#]]
    );
    let mut damaged = EVENTS.to_vec();
    damaged[40] ^= 1;
    place.write("events.out.tfevents.2", damaged);
    assert_data_eq!(
        place.fails("weights run --metrics-from events.out.tfevents.2 --metric eval_loss"),
        str![[r#"
error: events.out.tfevents.2: is damaged: the checksum of the record at byte 0 is another
help: copy the file again, or move it out of the run

"#]]
    );
}

#[test]
fn lightning_and_keras_count_from_zero() {
    let place = Place::new();
    let file = |x: f32| adapter::safetensors(&adapter::lora(x));
    for (epoch, step) in [(0, 4), (1, 8)] {
        let name = format!(
            "lightning_logs/version_0/checkpoints/epoch={epoch}-step={step}-val_loss=0.3.safetensors"
        );
        place.write(&name, file(1.0 + epoch as f32));
    }
    place.write("lightning_logs/version_0/metrics.csv", "epoch,step,val_loss\n0,3,0.5\n1,7,0.25\n");
    assert_data_eq!(
        place.mwa("weights lightning_logs/version_0/checkpoints --metric val_loss --select all").out,
        str![[r#"
chosen: all 2 checkpoints, as selected
checkpoint                               step  val_loss  from       weight
epoch=0-step=4-val_loss=0.3.safetensors     4   0.50000  at step 4  0.1667  ████▊
epoch=1-step=8-val_loss=0.3.safetensors     8   0.25000  at step 8  0.8333  ████████████████████████
weights: linear, penalty 0.8, by val_loss (lower is better)

"#]]
    );
    for epoch in [1_u8, 2] {
        place.write(&format!("keras/model_epoch_{epoch}.safetensors"), file(f32::from(epoch)));
    }
    place.write("keras/training.log", "epoch,loss,val_loss\n0,1.0,0.5\n1,0.5,0.25\n");
    assert_data_eq!(
        place.mwa("weights keras --metric val_loss --select all").out,
        str![[r#"
chosen: all 2 checkpoints, as selected
checkpoint                 step  val_loss  from       weight
model_epoch_1.safetensors     1   0.50000  at step 1  0.1667  ████▊
model_epoch_2.safetensors     2   0.25000  at step 2  0.8333  ████████████████████████
weights: linear, penalty 0.8, by val_loss (lower is better)

"#]]
    );
}

#[test]
fn gguf_numbers_are_merged_and_codes_are_not() {
    let place = Place::new();
    let file: &[u8] = include_bytes!("data/plain.gguf");
    place.write("a.gguf", file);
    place.write("b.gguf", file);
    assert_data_eq!(
        place.mwa("merge a.gguf b.gguf -o out --scheme uniform --metric step").err,
        str![[r#"
note: a.gguf and b.gguf hold the same weights, byte for byte

"#]]
    );
    // the first tensor's type: F32 becomes Q8_0
    let at = file.windows(12).position(|it| it == b"lora_a\x02\0\0\0\x18\0").unwrap() + 6 + 4 + 16;
    let mut codes = file.to_vec();
    codes[at] = 8;
    codes[at - 16] = 32;
    place.write("codes.gguf", codes);
    assert_data_eq!(
        place.fails("merge a.gguf codes.gguf -o out2 --scheme uniform"),
        str![[r#"
error: codes.gguf: tensor `blk.0.ffn_down.weight.lora_a` is Q8_0: its numbers are codes, which cannot be averaged
help: merge the checkpoints before they are quantised, or files of F32, F16 or BF16

"#]]
    );
    assert_data_eq!(
        place.mwa("inspect a.gguf codes.gguf").out,
        str![[r#"
a.gguf
  a.gguf
    a GGUF LoRA, 288 parameters in 4 tensors (4 F32), 1.6 kB
  a GGUF LoRA: may be averaged with others of its run, and converted (mwa convert)
codes.gguf
  a GGUF LoRA for llama (1 Q8_0, 3 F32)
  it is quantised, so it cannot be merged: merge the checkpoints before they are quantised

"#]]
    );
}
