//! Where weights come from beside one metric: schedules, several metrics, several runs, rules by module.

use snapbox::{assert_data_eq, str};

use crate::adapter;
use crate::place::Place;

#[test]
fn a_decay_shows_what_is_left_of_each_update() {
    let place = Place::with_run();
    assert_data_eq!(
        place.mwa("weights run --select all --scheme decay --curve cosine --floor 0.1").out,
        str![[r#"
chosen: all 3 checkpoints, as selected
checkpoint     step  update  weight
checkpoint-10    10  1.0000  0.1635  ██████▉
checkpoint-20    20  0.8365  0.5730  ████████████████████████
checkpoint-30    30  0.2635  0.2635  ███████████
weights: decay, curve cosine, floor 0.1, positions segments

"#]]
    );
    place.merges("run --select all --scheme ema");
    assert!(String::from_utf8(place.read("out/README.md")).unwrap().contains("| update |"));
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
}

#[test]
fn settings_of_a_scheme_are_told_where_they_are_wrong() {
    let place = Place::with_run();
    assert_data_eq!(
        place.fails_with(2, "weights run --scheme linear --curve cosine"),
        str![[r#"
error: option curve is for the decay scheme, not for linear
help: choose scheme decay too, or leave curve out

"#]]
    );
    assert_data_eq!(
        place.fails("weights run --scheme decay --curve inverse --floor 0"),
        str![[r#"
error: the inverse curve never reaches 0
help: give it a floor above 0, such as 0.1

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "weights run --scheme ema --ema-per step"),
        str![[r#"
error: how much the average keeps at each step is not said
help: give --ema-decay too, such as 0.99: what is left after 100 steps is 0.99 to their power, 0.37

"#]]
    );
    assert_data_eq!(
        place.fails("weights run --select all --scheme decay --correct-for-lr"),
        str![[r#"
error: the log does not tell the learning rate from the first of these checkpoints to the last, so no decay can be corrected for it
help: leave out --correct-for-lr, or take checkpoints that it covers

"#]]
    );
    for wrong in
        ["--curve cubic", "--floor 2", "--positions middle", "--ema-decay -1", "--weights 1,2 --curve linear"]
    {
        place.fails_with(2, &format!("weights run --scheme decay {wrong}"));
    }
}

/// The run of [`Place::with_run`] with an accuracy that orders the checkpoints otherwise.
fn with_accuracy() -> Place {
    let place = Place::with_run();
    let entry = |step: u32, loss: f64, accuracy: f64| {
        format!(r#"{{"step": {step}, "eval_loss": {loss}, "eval_accuracy": {accuracy}}}"#)
    };
    let log = [entry(10, 3.0, 0.5), entry(20, 1.0, 0.6), entry(30, 2.0, 0.7)];
    for i in 1..=3 {
        place.log(&format!("run/checkpoint-{}", i * 10), &log[..i]);
    }
    place
}

#[test]
fn several_metrics_say_how_far_they_disagree() {
    let place = with_accuracy();
    assert_data_eq!(
        place.mwa("weights run --select all --metric eval_loss,eval_accuracy:max --combine kemeny").out,
        str![[r#"
chosen: all 3 checkpoints, as selected
checkpoint     step  kemeny(eval_loss, eval_accuracy)  from             weight
checkpoint-10    10                                 2  several metrics  0.1111  ████▊
checkpoint-20    20                                 0  several metrics  0.5556  ████████████████████████
checkpoint-30    30                                 1  several metrics  0.3333  ██████████████▍
weights: linear, penalty 0.8, by kemeny(eval_loss, eval_accuracy) (lower is better)
  eval_loss (min): checkpoint-20 > checkpoint-30 > checkpoint-10
  eval_accuracy (max): checkpoint-30 > checkpoint-20 > checkpoint-10
  kemeny: checkpoint-20 > checkpoint-30 > checkpoint-10
  it goes against 1 of 6 comparisons, each of two checkpoints by one metric

"#]]
    );
    let ran = place.merges("run --select all --metric eval_loss,eval_accuracy");
    assert!(ran.out.contains("by borda(eval_loss, eval_accuracy) (lower is better)"), "{}", ran.out);
    assert_data_eq!(
        place.fails("weights run --metric eval_loss,eval_los"),
        str![[r#"
error: run: there is no metric `eval_los`; the logs hold eval_accuracy 3/3, eval_loss 3/3
help: did you mean --metric eval_loss?

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "weights run --select all --metric eval_loss --combine borda"),
        str![[r#"
error: option combine is for several metrics, and there is only eval_loss
help: name them all: --metric eval_loss,eval_accuracy

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "weights run --select all --metric eval_loss --questions 100"),
        str![[r#"
error: option questions is for an accuracy, a share of 0 to 1 of which more is better, and eval_loss is none
help: choose an accuracy by --metric, or leave out --questions

"#]]
    );
    place.fails_with(2, "weights run --metric eval_loss,eval_accuracy --combine mode");
    place.fails_with(2, "weights run --metric eval_accuracy --questions 0");
}

#[test]
fn chance_is_told_of_an_accuracy() {
    let ran = with_accuracy().mwa("weights run --select all --metric eval_accuracy --questions 20");
    assert!(ran.out.contains("eval_accuracy on 20 questions is uncertain by 0.11"), "{}", ran.out);
}

#[test]
fn inspect_says_which_metric_tells_checkpoints_apart() {
    let place = Place::new();
    let values = [0.81, 0.79, 0.80, 0.82, 0.78, 0.80];
    let entry = |i: usize| {
        format!(r#"{{"step": {}, "eval_noise": {}, "eval_loss": {}}}"#, 10 * i, values[i - 1], 7 - i)
    };
    let log: Vec<_> = (1..=6).map(entry).collect();
    for i in 1..=6 {
        place.checkpoint(&format!("run/checkpoint-{}", i * 10), &adapter::lora(0.5));
        place.log(&format!("run/checkpoint-{}", i * 10), &log[..i]);
    }
    let out = place.mwa("inspect run").out;
    assert!(out.contains("eval_loss      6  range 5, noise 0.70711: 7.1, tells them apart"), "{out}");
    assert!(out.contains("eval_noise     6  range 0.040000, noise 0.017029: 2.3, noise"), "{out}");
}

/// Two runs of one base, each with a head that points to `heads`.
fn two_runs(heads: [[f32; 4]; 2]) -> Place {
    let place = Place::with_run();
    for i in [10, 20, 30] {
        place.checkpoint(&format!("run/checkpoint-{i}"), &with_head(0.5, heads[0]));
    }
    for i in [40, 50] {
        place.checkpoint(&format!("other/checkpoint-{i}"), &with_head(0.25, heads[1]));
        place.log(&format!("other/checkpoint-{i}"), &[""; 0]);
    }
    place
}

fn with_head(x: f32, head: [f32; 4]) -> Vec<adapter::Tensor> {
    let mut tensors = adapter::lora(x);
    tensors.push(adapter::f32s("base_model.model.score.weight", &[1, 4], &head));
    tensors
}

#[test]
fn several_run_folders_are_weighed_each_by_itself() {
    let place = two_runs([[1.0, 0.0, 0.0, 0.5]; 2]);
    assert_data_eq!(
        place.mwa("weights run other --select all --scheme uniform --run-weights 3,1").out,
        str![[r#"
chosen: run: all 3 checkpoints, as selected; other: all 2 checkpoints, as selected
checkpoint           step  weight
run/checkpoint-10      10  0.2500  ████████████████████████
run/checkpoint-20      20  0.2500  ████████████████████████
run/checkpoint-30      30  0.2500  ████████████████████████
other/checkpoint-40    40  0.1250  ████████████
other/checkpoint-50    50  0.1250  ████████████
weights: uniform, run_weights 0.75, 0.25

"#]]
    );
    let ran = place.merges("run other --last 1 --scheme uniform --space product --rank full");
    assert!(ran.out.contains("run: 1 of 3 checkpoints, as selected; other: 1 of 2"), "{}", ran.out);
    assert_data_eq!(
        place.fails("weights run other --run-weights 1"),
        str![[r#"
error: there is 1 weight for 2 runs: run, other
help: give one weight per run, in this order

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "weights run --run-weights 1,2"),
        str![[r#"
error: option run_weights is for several run folders, each of which is searched
help: name the run folders themselves, or weigh the checkpoints that are named by --weights

"#]]
    );
    place.write("scores.csv", "step,f1\n10,1\n20,2\n30,3\n40,1\n50,2\n");
    place.mwa("weights run other --metrics-file scores.csv");
    place.fails_with(2, "weights run other --run-weights 1,-1");
    place.fails_with(2, "weights run other --weights 1,1,1,1,1 --run-weights 1,1");
}

#[test]
fn heads_of_several_seeds_are_refused() {
    let place = two_runs([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]);
    assert_data_eq!(
        place.fails("merge run other --last 1 --scheme uniform --space product --rank full -o out"),
        str![[r#"
error: other/checkpoint-50: tensor `base_model.model.score.weight` has nothing in common with that of run/checkpoint-30: their cosine is 0.00, near 1 where runs began with the same
help: each run began it anew by its seed, and such heads have no average: train the runs from one head, by the same seed or frozen after a first run, or merge each run by itself; --allow-cross-run averages it anyway

"#]]
    );
    place.merges("run other --last 1 --scheme uniform --space product --rank full --allow-cross-run");
}

#[test]
fn weights_may_differ_by_module() {
    let place = two_runs([[1.0, 0.0, 0.0, 0.0]; 2]);
    place.checkpoint("run/checkpoint-30", &with_head(0.75, [3.0, 0.0, 0.0, 0.0]));
    place.write("weights.json", r#"[{"modules": "score", "weights": [0.5, 0.5]}]"#);
    let ran = place.merges("run --last 2 --scheme uniform --weights-file weights.json");
    assert!(ran.out.contains("score: 0.5000 0.5000 (1 module)"), "{}", ran.out);
    place.write("weights.json", r#"[{"modules": "score", "weights": [1, 3]}]"#);
    let ran = place.mwa("merge run --last 2 --scheme uniform --weights-file weights.json -o out --force");
    assert!(ran.err.contains("rule `score`: the weights sum to 4"), "{}", ran.err);
    assert_eq!(place.merged("base_model.model.score.weight")[0], 2.5);
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    for wrong in ["nowhere", "self_atn"] {
        place.write("wrong.json", format!(r#"[{{"modules": "{wrong}", "weights": [1, 3]}}]"#));
        place.fails_with(2, "weights run --last 2 --weights-file wrong.json");
    }
    assert_data_eq!(
        place.fails_with(2, "weights run --last 2 --weights-file wrong.json"),
        str![[r#"
error: wrong.json: rule `self_atn`: fits no module
help: a module is called as q: name parts of that, such as self_attn, or use `*`

"#]]
    );
    place.write("wrong.json", r#"[{"modules": "score", "weights": [1]}]"#);
    assert_data_eq!(
        place.fails("weights run --last 2 --weights-file wrong.json"),
        str![[r#"
error: wrong.json: rule `score`: there is 1 weight for 2 checkpoints: checkpoint-20, checkpoint-30
help: give one weight per checkpoint, in this order

"#]]
    );
    place.write("wrong.json", "{}");
    assert_data_eq!(
        place.fails_with(2, "weights run --last 2 --weights-file wrong.json"),
        str![[r#"
error: wrong.json: is not a list of rules
help: write a list of rules, such as [{"modules": "self_attn", "weights": [0.2, 0.8]}]; instead of weights a rule may have a gradient, a list of such lists

"#]]
    );
    assert_data_eq!(
        place.fails("weights run --weights-file absent.json"),
        str![[r#"
error: absent.json: does not exist

"#]]
    );
    place.write("wrong.json", r#"[{"modules": "score", "gradient": [[1, 0], [0, 1]]}]"#);
    assert_data_eq!(
        place.fails_with(2, "weights run --last 2 --weights-file wrong.json"),
        str![[r#"
error: wrong.json: rule `score`: is a gradient over layers, but score is in none
help: let its pattern fit modules in numbered layers only, such as layers

"#]]
    );
}
