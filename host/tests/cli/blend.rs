//! Methods beyond the mean.
//!
//! The checkpoints here are points on a line: all numbers of B are x, those of A a fixed number and x.

use std::fs;

use crate::adapter::{self, B, f32s};
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

const POINTS: [f32; 5] = [0.25, 0.5, 0.375, 0.3125, -4.0];

#[test]
fn the_median_is_told_reported_and_verified() {
    let place = with_points(&POINTS);
    let ran = place.merges("run --select all --method median");
    assert!(ran.out.contains("weights: none, method median"), "{}", ran.out);
    assert!(!ran.out.contains("averaging factors"), "{}", ran.out);
    // nothing weighs, and nothing looks as if it did
    assert!(ran.out.contains("\ncheckpoint-5     5   alike\n") && !ran.out.contains('█'), "{}", ran.out);
    assert_eq!(place.merged(B), [0.3125; 8]);
    let report: serde_json::Value = serde_json::from_slice(&place.read("out/mwa-report.json")).unwrap();
    assert_eq!(report["weighting"], serde_json::json!({ "scheme": "uniform", "method": "median" }));
    let card = String::from_utf8(place.read("out/README.md")).unwrap();
    assert!(card.contains("The median, element by element, of 5 checkpoints, made with mwa"), "{card}");
    assert!(card.contains("| checkpoint-5 | 5 | – | alike |\n"), "{card}");
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}", verified.out);
    place.edit("out/mwa-report.json", "\"median\"", "\"mean\"");
    assert_eq!(place.mwa("verify out").code, Some(1), "the method counts");
}

#[test]
fn the_trimmed_mean_leaves_out_the_extremes() {
    let place = with_points(&POINTS);
    let ran = place.merges("run --select all --method trimmed-mean --threads 2");
    assert!(ran.out.contains("weights: none, method trimmed-mean, 1 outlier"), "{}", ran.out);
    assert_eq!(place.merged(B), [0.3125; 8]);
    assert_eq!(place.mwa("verify out").code, Some(0));
    let ran = place.mwa("weights run --select all --method trimmed-mean --outliers 2");
    assert!(ran.out.contains("method trimmed-mean, 2 outliers"), "{}{}", ran.out, ran.err);
    let ran = place.mwa("merge run --last 4 --method median -o even");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let even = adapter::values(&place.read("even/adapter_model.safetensors"), B);
    assert_eq!(even, [0.343_75; 8]);
}

/// A GPU, where there is one, finds the middle values by itself, and gives the CPU's bytes; of more inputs than it takes it says so.
#[test]
fn a_gpu_that_is_named_finds_the_middle_values() {
    let place = with_points(&POINTS);
    let merged = |how: &str, out: &str| {
        let ran = place.mwa(&format!("merge run --select all {how} --verbose --timings -o {out}"));
        (ran, place.path(&format!("{out}/adapter_model.safetensors")))
    };
    for (number, method) in ["median", "trimmed-mean", "trimmed-mean --outliers 0"].into_iter().enumerate() {
        let (ran, by_gpu) = merged(&format!("--method {method} --device gpu"), &format!("by-gpu-{number}"));
        if ran.code != Some(0) {
            assert!(ran.err.contains("error: gpu: ") && !by_gpu.exists(), "{}", ran.err);
            eprintln!("ignored: {}", ran.err);
            return;
        }
        assert!(
            ran.err.contains(" computes; it was ready after ") && !ran.err.contains("note: method"),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("copy, sum and read back on a device"), "{}", ran.err);
        let (_, by_cpu) = merged(&format!("--method {method} --device cpu"), &format!("by-cpu-{number}"));
        assert!(fs::read(by_gpu).unwrap() == fs::read(by_cpu).unwrap(), "{method}");
    }
    let many: Vec<_> = (0..65_u8).map(f32::from).collect();
    let place = with_points(&many);
    let ran = place.mwa("merge run --select all --method median --device gpu --verbose -o out");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let note = "note: method median of 65 inputs is computed on the CPU; a GPU takes up to 64\n";
    assert!(ran.err.contains(note), "{}", ran.err);
    assert_eq!(place.merged(B), [32.0; 8]);
}

#[test]
fn what_another_method_has_no_use_for_is_refused() {
    let place = with_points(&POINTS);
    for (options, code, message) in [
        (
            "--method median --penalty 0.5",
            2,
            "error: options method and penalty contradict each other: median takes all checkpoints alike; leave one of them out",
        ),
        (
            "--method median --outliers 1",
            2,
            "error: option outliers says nothing to the method median\nhelp: leave it out, or use --method trimmed-mean\n",
        ),
        (
            "--select all --method trimmed-mean --outliers 3",
            1,
            "error: trimmed-mean with 3 outliers on each side needs 7 inputs, but there are 5\n\
             help: take more, expect fewer (--outliers 2), or use --method median\n",
        ),
        (
            "--method median --space product",
            2,
            "error: method median takes values element by element, but product space merges what modules do\n\
             help: leave --space product out for checkpoints of one run; of several runs, --scheme geometric-median --space product \
             lets no bad one decide\n",
        ),
    ] {
        let told = place.fails_with(code, &format!("merge run {options} -o out"));
        assert!(told.contains(message), "{options}: {told}");
    }
    let factors = [f32s(adapter::A, &[2, 3], &[1.0, 1.0, 0.0, -1.0, -1.0, 0.0]), f32s(B, &[4, 2], &[1.0; 8])];
    place.checkpoint("other/checkpoint-1", &factors);
    let told =
        place.fails("merge run/checkpoint-1 other/checkpoint-1 --method median --allow-cross-run -o out");
    assert!(told.contains("is not of the same run as run/checkpoint-1"), "{told}");
    assert!(
        told.contains(
            "help: method median takes values element by element, and factors of several runs have none"
        ),
        "{told}"
    );
}

#[test]
fn a_bad_checkpoint_is_named_even_where_the_middle_is_good() {
    let place = with_points(&POINTS);
    let mut bad = adapter::lora(0.25);
    bad[1] = f32s(B, &[4, 2], &[0.0, 0.0, f32::INFINITY, 0.0, 0.0, 0.0, 0.0, 0.0]);
    place.checkpoint("run/checkpoint-3", &bad);
    assert_eq!(
        place.fails("merge run --select all --method median -o out"),
        "error: run/checkpoint-3: tensor `base_model.model.q.lora_B.weight` holds inf, at element 2\n\
         help: the run has diverged there: leave that checkpoint out (--drop-bad does)\n"
    );
    let ran = place.merges("run --select all --method median --drop-bad");
    assert!(ran.err.contains("run/checkpoint-3 is dropped"), "{}", ran.err);
    let models: Vec<_> = [1.0_f32, 2.0, 9.0]
        .iter()
        .enumerate()
        .map(|(i, x)| {
            place.write(&format!("m{i}.safetensors"), adapter::safetensors(&[f32s("w", &[2], &[*x, -x])]));
            format!("m{i}.safetensors")
        })
        .collect();
    let ran = place.mwa(&format!("merge {} --method median --allow-cross-run -o whole", models.join(" ")));
    assert_eq!(ran.code, Some(0), "whole models have elements in common: {}", ran.err);
    assert_eq!(adapter::values(&place.read("whole/merged.safetensors"), "w"), [2.0, -2.0]);
}

/// A base and two models that were trained from it, as files.
fn with_tasks() -> Place {
    let place = Place::new();
    let models: [(&str, [f32; 4]); 3] =
        [("base", [1.0, 1.0, 1.0, -1.0]), ("one", [5.0, 2.0, 1.0, -1.0]), ("two", [0.0, 3.0, 1.0, 2.0])];
    for (name, values) in models {
        place.write(&format!("{name}.safetensors"), adapter::safetensors(&[f32s("w", &[4], &values)]));
    }
    place
}

#[test]
fn tasks_are_merged_over_their_base() {
    let place = with_tasks();
    let values = |out: &str| adapter::values(&place.read(&format!("{out}/merged.safetensors")), "w");
    let ran =
        place.merges("one.safetensors two.safetensors --base base.safetensors --method ties --density 0.5");
    assert!(ran.out.contains("weights: none, method ties, density 0.5"), "{}", ran.out);
    assert!(ran.out.contains("(base)") && ran.out.contains("merged 2 checkpoints"), "{}", ran.out);
    // the two largest each: 4 and 1, 2 and 3
    assert_eq!(values("out"), [5.0, 2.5, 1.0, 2.0]);
    let report: serde_json::Value = serde_json::from_slice(&place.read("out/mwa-report.json")).unwrap();
    assert_eq!(report["inputs"][0]["role"], "base");
    assert_eq!(report["inputs"][0]["path"], "../base.safetensors");
    assert_eq!(report["weighting"]["density"], 0.5);
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    for (options, expected) in [
        ("--method ties --density 0.5 --density-per tensor --threads 3 --memory 1", [5.0, 2.5, 1.0, 2.0]),
        ("--method ties --density 1 --scale 0.5", [3.0, 1.75, 1.0, 0.5]),
        ("--method magnitude-mask --density 0.25 --scale 1", [5.0, 1.0, 1.0, 2.0]),
        ("--method consensus --scale 1", [1.0, 4.0, 1.0, -1.0]),
        ("--method consensus --scale 1 --agree 1 --lambda 0.3 --threads 3 --memory 1", [4.0, 4.0, 1.0, 2.0]),
        ("--method consensus --agree 3", [1.0, 1.0, 1.0, -1.0]),
        // none asked to agree, it is what it is of
        ("--method consensus --agree 0", [2.5, 2.5, 1.0, 0.5]),
        ("--method task-arithmetic", [2.5, 2.5, 1.0, 0.5]),
        ("--method task-arithmetic --scale 1", [4.0, 4.0, 1.0, 2.0]),
        ("--method task-arithmetic --scale 1 --weights 1,3", [1.5, 4.5, 1.0, 3.5]),
    ] {
        let ran = place.mwa(&format!(
            "merge one.safetensors two.safetensors --base base.safetensors {options} -o again --force"
        ));
        assert_eq!(ran.code, Some(0), "{options}: {}", ran.err);
        assert_eq!(values("again"), expected, "{options}");
        let verified = place.mwa("verify again");
        assert_eq!(verified.code, Some(0), "{options}: {}{}", verified.out, verified.err);
    }
}

#[test]
fn a_base_that_does_not_fit_is_refused() {
    let place = with_tasks();
    place.write("long.safetensors", adapter::safetensors(&[f32s("w", &[5], &[0.0; 5])]));
    place.write("other.safetensors", adapter::safetensors(&[f32s("v", &[4], &[0.0; 4])]));
    place.checkpoint("run/checkpoint-1", &adapter::lora(0.25));
    place.checkpoint("run/checkpoint-2", &adapter::lora(0.5));
    for (options, code, facts) in [
        (
            "one.safetensors two.safetensors --method ties",
            2,
            &["method ties is of what tasks changed of a base model", "--base"][..],
        ),
        (
            "one.safetensors two.safetensors --method ties --base long.safetensors",
            1,
            &["tensor `w`", "[4]", "[5]", "long.safetensors"],
        ),
        (
            "one.safetensors two.safetensors --method ties --base other.safetensors",
            1,
            &["other.safetensors", "w", "v"],
        ),
        ("one.safetensors two.safetensors --method ties --base nowhere", 1, &["nowhere: does not exist"]),
        (
            "run/checkpoint-2 --method ties --base base.safetensors",
            1,
            &[
                "run/checkpoint-2: is an adapter, but the base base.safetensors is a whole model",
                "earlier one of their run",
            ],
        ),
        (
            "one.safetensors two.safetensors --scheme uniform --base nowhere",
            2,
            &["method mean and a base do not go together", "task-arithmetic"],
        ),
        (
            "one.safetensors two.safetensors --scheme uniform --model flux",
            2,
            &["no format is asked for", "--format kohya"],
        ),
        (
            "one.safetensors two.safetensors --method median --density 0.5",
            2,
            &["option density says nothing to the method median", "--method magnitude-mask, ties or ffg"],
        ),
        (
            "one.safetensors two.safetensors --method ties --agree 1 --base base.safetensors",
            2,
            &["option agree says nothing to the method ties", "--method consensus"],
        ),
        (
            "one.safetensors two.safetensors --method consensus --mask-lambda -1 --base base.safetensors",
            2,
            &["it must be a number, 0 or larger"],
        ),
        (
            "one.safetensors two.safetensors --method consensus --density 0.2 --base base.safetensors",
            2,
            &["option density says nothing to the method consensus"],
        ),
        (
            "one.safetensors two.safetensors --method consensus",
            2,
            &["method consensus is of what tasks changed", "--base"],
        ),
        (
            "one.safetensors two.safetensors --method consensus --base base.safetensors --weights 1,2",
            2,
            &["options method and weights contradict each other: consensus takes all checkpoints alike"],
        ),
        (
            "one.safetensors two.safetensors --method ties --density 0 --base base.safetensors",
            2,
            &["it must be a number, above 0"],
        ),
        (
            "one.safetensors two.safetensors --method task-arithmetic --scheme geometric-median --base base.safetensors",
            2,
            &["method task-arithmetic does not go together with weights that the tensors decide"],
        ),
    ] {
        let told = place.fails_with(code, &format!("merge {options} -o out"));
        for fact in facts {
            assert!(told.contains(fact), "{options}: {told}");
        }
    }
    // an earlier checkpoint of the run is a base
    let ran = place.merges("run/checkpoint-2 --method task-arithmetic --scale 2 --base run/checkpoint-1");
    assert_eq!(place.merged(B), [0.75; 8], "{}", ran.out);
}

#[test]
fn angles_decide_what_becomes_of_each_tensor() {
    let place = with_tasks();
    let values = |out: &str| adapter::values(&place.read(&format!("{out}/merged.safetensors")), "w");
    let is_near =
        |values: &[f32], expected: [f32; 4]| values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
    // 4,1,0,0 and −1,2,0,3 from the base: cosine −2/√238, so that nothing is common to them
    let ran = place.merges("one.safetensors two.safetensors --base base.safetensors --method model-stock");
    assert!(ran.out.contains("weights: none, method model-stock"), "{}", ran.out);
    assert!(
        ran.err.contains("on average the result is 0.0000 of the way from the base to the mean"),
        "{}",
        ran.err
    );
    assert_eq!(values("out"), [1.0, 1.0, 1.0, -1.0]);
    assert_eq!(place.mwa("verify out").code, Some(0));
    let card = String::from_utf8(place.read("out/README.md")).unwrap();
    assert!(card.contains("The model-stock, tensor by tensor, of 2 checkpoints"), "{card}");
    // by numpy; of two with equal weights both means on the sphere are one
    let sphere = [3.094_948_4, 3.316_033_7, 1.0, 1.389_728_8];
    for (options, expected) in [
        ("--method slerp --weights 1,1", [3.174_993_3, 3.174_993_3, 1.269_997_3, 0.634_998_7]),
        ("--base base.safetensors --method slerp --weights 1,0", [5.0, 2.0, 1.0, -1.0]),
        ("--base base.safetensors --method multi-slerp", sphere),
        ("--base base.safetensors --method karcher --weights 1,1 --threads 3 --memory 1", sphere),
    ] {
        let ran = place.mwa(&format!(
            "merge one.safetensors two.safetensors {options} --allow-cross-run -o again --force"
        ));
        assert_eq!(ran.code, Some(0), "{options}: {}", ran.err);
        assert!(is_near(&values("again"), expected), "{options}: {:?}", values("again"));
        let verified = place.mwa("verify again");
        assert_eq!(verified.code, Some(0), "{options}: {}{}", verified.out, verified.err);
        let report: serde_json::Value = serde_json::from_slice(&place.read("again/mwa-report.json")).unwrap();
        assert_eq!(report["groups"][0]["modules"], "w", "{options}");
    }
    place.checkpoint("run/checkpoint-1", &adapter::lora(0.25));
    place.checkpoint("run/checkpoint-2", &adapter::lora(0.5));
    for (options, code, fact) in [
        (
            "one.safetensors two.safetensors --method model-stock",
            2,
            "method model-stock is of what tasks changed of a base",
        ),
        (
            "one.safetensors two.safetensors base.safetensors --method slerp --scheme uniform",
            1,
            "between two checkpoints, but there are 3",
        ),
        (
            "one.safetensors --method model-stock --base base.safetensors",
            1,
            "compares two checkpoints or more",
        ),
        (
            "one.safetensors two.safetensors --method slerp --scale 2 --base base.safetensors",
            2,
            "option scale says nothing to the method slerp",
        ),
        (
            "one.safetensors two.safetensors --method model-stock --weights 1,2 --base base.safetensors",
            2,
            "takes all checkpoints alike",
        ),
        (
            "run --method karcher --space product --base run/checkpoint-1 --select all",
            2,
            "leave one of --base and --space product out",
        ),
    ] {
        let told = place.fails_with(code, &format!("merge {options} -o no"));
        assert!(told.contains(fact), "{options}: {told}");
    }
}
