//! Weights that the tensors decide.
//!
//! The checkpoints here are points on a line: two that are x and y lie √14·|x − y| apart, as six numbers of A and eight of B differ.

use crate::adapter::{self, A, B, f32s};
use crate::place::Place;

/// `run/checkpoint-{1..}` at these points, with a log that says nothing.
fn with_points(points: &[f32]) -> Place {
    let place = Place::new();
    for (i, x) in points.iter().enumerate() {
        let folder = format!("run/checkpoint-{}", i + 1);
        place.checkpoint(&folder, &adapter::lora(*x));
        place.log(&folder, &[""; 0]);
    }
    place
}

/// The last column of the table.
fn weights(place: &Place, options: &str) -> Vec<f64> {
    let ran = place.mwa(&format!("weights run --select all {options} --json"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["outputs"].as_array().unwrap().len(), 0);
    report["inputs"].as_array().unwrap().iter().map(|input| input["weight"].as_f64().unwrap()).collect()
}

const POINTS: [f32; 5] = [0.25, 0.5, 0.375, 0.3125, -4.0];

#[test]
fn krum_takes_the_checkpoint_among_its_neighbours() {
    let place = with_points(&POINTS);
    let ran = place.merges("run --select all --scheme krum");
    // the nearest two of the fourth are 1/16 away: √(14/256) each
    assert!(ran.out.contains("checkpoint-4     4   0.23385  nearest 2  1.0000"), "{}", ran.out);
    assert!(ran.out.contains("weights: krum, 1 outlier, by distance"), "{}", ran.out);
    assert_eq!(place.merged(B), [0.3125; 8]);
    assert_eq!(weights(&place, "--scheme krum"), [0.0, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(weights(&place, "--scheme multi-krum"), [0.5, 0.0, 0.0, 0.5, 0.0]);
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}", verified.out);
}

#[test]
fn the_median_is_where_most_are() {
    let place = with_points(&POINTS);
    place.merges("run --select all --scheme geometric-median");
    // of points on a line it is the middle one
    for value in place.merged(B) {
        assert!((value - 0.3125).abs() < 1e-4, "{value}");
    }
    let uniform = POINTS.iter().sum::<f32>() / 5.0;
    assert!((uniform - 0.3125).abs() > 0.5, "the plain mean is elsewhere");
    assert_eq!(place.mwa("verify out").code, Some(0));
}

#[test]
fn the_flag_and_products_go_across_ranks() {
    let place = Place::new();
    for (name, rank, x) in [("a", 1, 1.0), ("b", 2, 0.5), ("c", 1, 1.5)] {
        let rows: Vec<f32> = [1.0, -2.0, 3.0].repeat(rank);
        let tensors = [f32s(A, &[rank, 3], &rows), f32s(B, &[4, rank], &vec![x; 4 * rank])];
        place.checkpoint(name, &tensors);
        let alpha = 4 * rank;
        let config = adapter::CONFIG.replace("\"r\": 2", &format!("\"r\": {rank}"));
        let config = config.replace("\"lora_alpha\": 4", &format!("\"lora_alpha\": {alpha}"));
        place.write(&format!("{name}/adapter_config.json"), config);
    }
    // all do 4·(1, −2, 3) times 1, 1 and 1.5: the flag keeps that direction whole; a longer one needs less weight for as much of it
    let ran = place.mwa("weights a b c --scheme flag --space product");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("c              –         1.00000  by 1 direction  0.2500"), "{}", ran.out);
    let median = place.mwa("weights a b c --scheme geometric-median --space product");
    assert!(median.out.contains("by distance"), "{}{}", median.out, median.err);
}

#[test]
fn what_cannot_be_is_said_before_anything_is_read() {
    let place = with_points(&POINTS[..4]);
    assert_eq!(
        place.fails("merge run --select all --scheme krum -o out"),
        "error: krum with 1 outlier needs 5 inputs, but there are 4\n\
         help: take more, expect fewer (--outliers 0), or use --scheme geometric-median\n"
    );
    assert_eq!(
        place.fails_with(2, "merge run --outliers 1 -o out"),
        "error: option outliers says nothing to the scheme linear\n\
         help: leave it out, or use the scheme krum or multi-krum\n"
    );
    assert_eq!(
        place.fails("weights run --select all --scheme flag --subspace 9"),
        "error: a subspace of 9 dimensions needs as many inputs, but there are 4\n\
         help: take more inputs, or a smaller --subspace\n"
    );
    assert!(
        place
            .fails_with(2, "merge run --scheme krum --weights 1,1,1,1 -o out")
            .contains("cannot be used with")
    );
    for name in ["m1", "m2", "m3"] {
        place.write(&format!("{name}.safetensors"), adapter::safetensors(&[f32s("w", &[2], &[1.0, 2.0])]));
    }
    assert!(
        place
            .fails("merge m1.safetensors m2.safetensors m3.safetensors --scheme flag -o out")
            .contains("the scheme flag compares what LoRA modules do, and there are none")
    );
}

#[test]
fn a_bad_checkpoint_is_named_or_dropped() {
    let place = with_points(&POINTS);
    let mut bad = adapter::lora(0.25);
    bad[1] = f32s(B, &[4, 2], &[0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0]);
    place.checkpoint("run/checkpoint-3", &bad);
    assert_eq!(
        place.fails("merge run --select all --scheme geometric-median -o out"),
        "error: run/checkpoint-3: tensor `base_model.model.q.lora_B.weight` holds NaN, at element 2\n\
         help: the run has diverged there: leave that checkpoint out (--drop-bad does)\n"
    );
    let ran = place.merges("run --select all --scheme geometric-median --drop-bad");
    assert!(ran.err.contains("run/checkpoint-3 is dropped"), "{}", ran.err);
}
