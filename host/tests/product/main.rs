//! Merges in product space by the `mwa` binary: what they are, what they say, and what is wrong with their inputs.
//!
//! | input | test |
//! |---|---|
//! | two runs mixed by accident | `two_runs_are_refused_in_factor_space_and_merged_in_product_space` |
//! | other ranks, alphas, scalings, modules | `adapters_may_differ_in_rank_scale_and_modules` |
//! | products that are all zero | `adapters_that_do_nothing_are_refused` |
//! | flat factors, NaN, ranks that do not fit shapes or config | `broken_factors_are_named` |
//! | alpha missing, patterns that match nothing or cannot be read | `configs_that_do_not_say_the_scale_are_refused` |
//! | DoRA, `PiSSA`, no config | `what_is_no_plain_product_is_refused` |

#[allow(dead_code, reason = "shared with the tests of the command line")]
#[path = "../cli/adapter.rs"]
mod adapter;
#[allow(dead_code, reason = "shared with the tests of the command line")]
#[path = "../cli/place.rs"]
mod place;

use std::fs;

use adapter::{A, B, Tensor, f32s};
use place::Place;
use serde_json::Value;
use snapbox::{assert_data_eq, str};

const VA: &str = "base_model.model.v.lora_A.weight";
const VB: &str = "base_model.model.v.lora_B.weight";

/// Numbers in −1…1 that look random.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 32768.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Factors of module `q`, A `[rank, 6]` and B `[5, rank]`, of another run for every seed.
fn pair(rank: usize, seed: u32) -> Vec<Tensor> {
    vec![f32s(A, &[rank, 6], &noise(rank * 6, seed)), f32s(B, &[5, rank], &noise(rank * 5, seed + 100))]
}

/// Two adapters, `one` and `two`, of two runs.
fn two_runs() -> Place {
    let place = Place::new();
    place.checkpoint("one", &pair(2, 1));
    place.checkpoint("two", &pair(2, 6));
    place
}

/// B·A of module `q` in a safetensors file.
fn product(file: &[u8], rank: usize) -> Vec<f64> {
    let (a, b) = (adapter::values(file, A), adapter::values(file, B));
    assert_eq!((a.len(), b.len()), (rank * 6, rank * 5));
    let element =
        |o: usize, i: usize| (0..rank).map(|k| f64::from(b[o * rank + k]) * f64::from(a[k * 6 + i])).sum();
    (0..30).map(|at| element(at / 6, at % 6)).collect()
}

fn json(place: &Place, name: &str) -> Value {
    serde_json::from_slice(&place.read(name)).unwrap()
}

fn assert_close(ours: &[f64], wanted: &[f64]) {
    assert!(ours.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{ours:?} against {wanted:?}");
}

#[test]
fn two_runs_are_refused_in_factor_space_and_merged_in_product_space() {
    let place = two_runs();
    assert_data_eq!(
        place.fails("merge one two -o out --weights 1,3"),
        str![[r#"
error: two: is not of the same run as one: the mean cosine of their A factors is 0.03, near 1 within a run
help: merge adapters of several runs with --space product, which averages what they do; --allow-cross-run averages the factors anyway

"#]]
    );
    place.merges("one two --weights 1,3 --space product --rank full");
    let [one, two] =
        ["one", "two"].map(|name| product(&place.read(&format!("{name}/adapter_model.safetensors")), 2));
    // alpha 4 at rank 2 is a scale of 2; the output's scale is 1
    let wanted: Vec<_> = one.iter().zip(&two).map(|(a, b)| 2.0 * (0.25 * a + 0.75 * b)).collect();
    assert_close(&product(&place.read("out/adapter_model.safetensors"), 4), &wanted);
    let config = json(&place, "out/adapter_config.json");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&4.into(), &4.into()));
}

#[test]
fn the_residual_is_printed_and_reported_by_module() {
    let place = two_runs();
    let out = place.merges("one two --weights 1,1 --allow-cross-run").out;
    assert!(
        out.contains("averaging factors changes what the adapters do by") && out.contains("which is much"),
        "{out}"
    );
    let report = json(&place, "out/mwa-report.json");
    let [one, two, merged] = ["one", "two", "out"]
        .map(|name| product(&place.read(&format!("{name}/adapter_model.safetensors")), 2));
    let mean: Vec<_> = one.iter().zip(&two).map(|(a, b)| (a + b) / 2.0).collect();
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut mean.iter().zip(&merged).map(|(a, b)| a - b));
    let wanted = error / norm(&mut mean.iter().copied());
    let told = report["residual"]["modules"][0]["relative"].as_f64().unwrap();
    assert!((told - wanted).abs() < 1e-5, "{told} against {wanted}");
    assert_eq!(report["residual"]["modules"][0]["module"], "q");
    assert_eq!(report["residual"]["overall"].as_f64().unwrap(), told);
    assert_eq!(report["residual"]["method"], "exact", "it is small");
    let card = String::from_utf8(place.read("out/README.md")).unwrap();
    assert!(card.contains("off from the exact average"), "{card}");
}

#[test]
fn the_residual_can_be_left_out() {
    let place = two_runs();
    let ran = place.merges("one two --weights 1,1 --allow-cross-run --residual off");
    assert!(!ran.out.contains("averaging factors"), "{}", ran.out);
    assert_eq!(json(&place, "out/mwa-report.json").get("residual"), None);
    assert_eq!(place.mwa("verify out").code, Some(0));
}

#[test]
fn a_sketch_of_the_residual_tells_its_standard_error_and_does_not_depend_on_memory() {
    let place = two_runs();
    let merge = "one two --weights 1,1 --allow-cross-run --residual sketch";
    place.merges(merge);
    let told = json(&place, "out/mwa-report.json")["residual"].clone();
    assert_eq!(told["method"], "sketch");
    assert!(told["standard_error"].is_number() && told["modules"][0]["standard_error"].is_number(), "{told}");
    fs::remove_dir_all(place.path("out")).unwrap();
    place.merges(&format!("{merge} --memory 1 --threads 1"));
    assert_eq!(json(&place, "out/mwa-report.json")["residual"], told);
}

#[test]
fn a_frozen_factor_makes_the_average_of_factors_exact() {
    let place = Place::new();
    place.checkpoint("one", &pair(2, 1));
    place.checkpoint("two", &[pair(2, 1)[0].clone(), pair(2, 6)[1].clone()]);
    let err = place.merges("one two --weights 1,1").err;
    assert!(err.contains("so the average of factors is exact"), "{err}");
    assert_eq!(json(&place, "out/mwa-report.json")["residual"]["overall"], 0.0);
}

#[test]
fn every_rank_verifies_and_does_not_depend_on_threads() {
    for options in ["", "--rank 1", "--rank full", "--rank auto", "--energy 0.5"] {
        let place = two_runs();
        place.merges(&format!("one two --weights 1,3 --space product {options} --threads 1"));
        let alone = place.read("out/adapter_model.safetensors");
        place.mwa(&format!("merge one two -o again --weights 1,3 --space product {options} --threads 3"));
        assert!(alone == place.read("again/adapter_model.safetensors"), "{options}");
        assert_eq!(place.mwa("verify out").code, Some(0), "{options}");
    }
}

#[test]
fn values_that_become_zero_are_told_in_both_spaces() {
    let place = Place::new();
    for (name, tiny) in [("one", 1e-9), ("two", 1.5e-9)] {
        let head = f32s("base_model.model.head.weight", &[2, 1], &[tiny, 1.0]);
        place.checkpoint(name, &[pair(2, 1), vec![head]].concat());
    }
    let wanted = "1 of 24 values became zero in the output dtype";
    for space in ["factors", "product"] {
        let options = format!("one two --weights 1,1 --dtype f16 --space {space}");
        let ran = place.merges(&options);
        assert!(ran.err.contains(wanted), "{space}: {}", ran.err);
        let notes = json(&place, "out/mwa-report.json")["notes"].to_string();
        assert!(notes.contains(wanted), "{space}: {notes}");
        std::fs::remove_dir_all(place.path("out")).unwrap();
    }
}

#[test]
fn auto_ranks_go_into_the_patterns() {
    let place = Place::new();
    for (name, seed) in [("one", 1), ("two", 6)] {
        let narrow = [f32s(VA, &[2, 6], &noise(12, 7)), f32s(VB, &[5, 2], &noise(10, seed + 50))];
        let wide = pair(2, seed);
        place.checkpoint(name, &[wide.as_slice(), &narrow].concat());
    }
    place.merges("one two --weights 1,1 --space product --energy 1");
    // v has one A, so its sum has rank 2; q has two
    let config = json(&place, "out/adapter_config.json");
    assert_eq!(config["r"], 4);
    assert_eq!(config["rank_pattern"], serde_json::json!({ "v": 2 }));
    assert_eq!(config["alpha_pattern"], serde_json::json!({ "v": 2 }));
    assert_eq!(adapter::values(&place.read("out/adapter_model.safetensors"), VA).len(), 12);
}

#[test]
fn adapters_may_differ_in_rank_scale_and_modules() {
    let place = two_runs();
    place.checkpoint(
        "two",
        &[pair(3, 6), vec![f32s(VA, &[3, 6], &noise(18, 7)), f32s(VB, &[5, 3], &noise(15, 8))]].concat(),
    );
    place.edit("two/adapter_config.json", "\"r\": 2", "\"r\": 3");
    place.edit("two/adapter_config.json", "\"use_rslora\": false", "\"use_rslora\": true");
    place.edit("one/adapter_config.json", "[\"q\", \"v\"]", "[\"q\"]");
    assert_data_eq!(
        place.fails("merge one two -o out --weights 1,1"),
        str![[r#"
error: two: r is 3, but 2 in one; target_modules is ["q","v"], but ["q"] in one; use_rslora is true, but false in one
help: factors average only at one rank and scale, in the same modules; product space merges others (--space product)

"#]]
    );
    assert_data_eq!(
        place.fails("merge one two -o out --weights 1,1 --space product --strict"),
        str![[r#"
error: one does not adapt v, which others do: there it counts as no change
help: --strict forbids this; merge adapters of the same modules

"#]]
    );
    let ran = place.merges("one two --weights 1,1 --space product --rank full");
    assert_data_eq!(
        ran.err,
        str![[r#"
note: the weights sum to 2; they are divided by that, so that they sum to 1
note: one does not adapt v, which others do: there it counts as no change

"#]]
    );
    let one = product(&place.read("one/adapter_model.safetensors"), 2);
    let two = product(&place.read("two/adapter_model.safetensors"), 3);
    let wanted: Vec<_> = one.iter().zip(&two).map(|(a, b)| 0.5 * (2.0 * a + 4.0 / 3f64.sqrt() * b)).collect();
    assert_close(&product(&place.read("out/adapter_model.safetensors"), 5), &wanted);
    let config = json(&place, "out/adapter_config.json");
    assert_eq!(config["target_modules"], serde_json::json!(["q", "v"]));
    assert_eq!(config["use_rslora"], false);
}

#[test]
fn everything_that_is_no_factor_is_averaged_as_it_is() {
    let place = Place::new();
    for (name, seed, x) in [("one", 1, 1.0), ("two", 6, 3.0)] {
        let bias = f32s("base_model.model.q.lora_B.bias", &[5], &[x; 5]);
        let head = f32s("base_model.model.head.weight", &[2, 2], &[x; 4]);
        place.checkpoint(name, &[pair(2, seed), vec![bias, head]].concat());
        place.edit(&format!("{name}/adapter_config.json"), "\"r\": 2", "\"r\": 2, \"lora_bias\": true");
    }
    place.merges("one two --weights 1,1 --space product");
    assert_eq!(place.merged("base_model.model.head.weight"), [2.0; 4]);
    // the bias is scaled as B is, and the output's scale is 1
    assert_eq!(place.merged("base_model.model.q.lora_B.bias"), [4.0; 5]);
}

#[test]
fn adapters_that_do_nothing_are_refused() {
    let place = Place::new();
    for (name, seed) in [("one", 1), ("two", 6)] {
        place.checkpoint(name, &[pair(2, seed)[0].clone(), f32s(B, &[5, 2], &[0.0; 10])]);
    }
    assert_data_eq!(
        place.fails("merge one two -o out --weights 1,1 --space product"),
        str![[r#"
error: there is nothing to merge: the products B·A of all inputs are zero
help: B starts at zero, so they were saved before any training, or by a process that held no weights

"#]]
    );
}

#[test]
fn broken_factors_are_named() {
    let fails = |change: &dyn Fn(&Place)| {
        let place = two_runs();
        change(&place);
        place.fails("merge one two -o out --weights 1,1 --space product")
    };
    let mut nan = pair(2, 6);
    nan[1].data[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_data_eq!(
        fails(&|place| place.checkpoint("two", &nan)),
        str![[r#"
error: two: tensor `base_model.model.q.lora_B.weight` holds NaN, at element 2
help: the run has diverged there: leave that checkpoint out (--drop-bad does)

"#]]
    );
    let flat = [f32s(A, &[12], &noise(12, 2)), pair(2, 6)[1].clone()];
    assert_data_eq!(
        fails(&|place| place.checkpoint("two", &flat)),
        str![[r#"
error: two: tensor `base_model.model.q.lora_A.weight` is [12], but a LoRA factor has two dimensions or more
help: a flat or empty factor is one shard of a ZeRO-3 or FSDP run: save again inside deepspeed.zero.GatheredParameters or FSDP.summon_full_params

"#]]
    );
    let torn = [pair(2, 6)[0].clone(), pair(3, 6)[1].clone()];
    assert_data_eq!(
        fails(&|place| place.checkpoint("two", &torn)),
        str![[r#"
error: two: tensor `base_model.model.q.lora_B.weight` is [5, 3], which does not fit `base_model.model.q.lora_A.weight` of [2, 6]: the ranks differ
help: the file is damaged; save it again

"#]]
    );
    assert_data_eq!(
        fails(&|place| place.edit("two/adapter_config.json", "\"r\": 2", "\"r\": 8")),
        str![[r#"
error: two: tensor `base_model.model.q.lora_A.weight` is [2, 6], so its rank is 2, but the config says 8
help: the adapter_config.json belongs to another adapter, or r and rank_pattern were edited

"#]]
    );
}

#[test]
fn a_checkpoint_with_nan_can_be_dropped() {
    let place = two_runs();
    let mut nan = pair(2, 6);
    nan[1].data[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    place.checkpoint("three", &nan);
    let ran = place.merges("one two three --scheme uniform --space product --drop-bad");
    assert!(ran.err.contains("three is dropped"), "{}", ran.err);
}

#[test]
fn configs_that_do_not_say_the_scale_are_refused() {
    let fails = |from: &str, to: &str| {
        let place = two_runs();
        place.edit("two/adapter_config.json", from, to);
        place.fails("merge one two -o out --weights 1,1 --space product")
    };
    assert_data_eq!(
        fails("\"lora_alpha\": 4,", ""),
        str![[r#"
error: two: has no lora_alpha, so nothing says how its factors are scaled
help: PEFT would take 8; write the alpha of the training into adapter_config.json

"#]]
    );
    assert_data_eq!(
        fails("\"r\": 2", "\"r\": 2, \"alpha_pattern\": {\"qq\": 8}"),
        str![[r#"
error: two: has `qq` in alpha_pattern, which matches no module of the adapter; did you mean `q`?
help: if the training ignored it too, take it out of adapter_config.json

"#]]
    );
    assert_data_eq!(
        fails("\"r\": 2", "\"r\": 2, \"alpha_pattern\": {\"(?=q)q\": 8}"),
        str![[r#"
error: two: has the key `(?=q)q` in alpha_pattern, which cannot be read as a pattern: it looks around, or sets flags
help: name the modules in full instead

"#]]
    );
}

#[test]
fn what_is_no_plain_product_is_refused() {
    let fails = |from: &str, to: &str| {
        let place = two_runs();
        for name in ["one", "two"] {
            place.edit(&format!("{name}/adapter_config.json"), from, to);
        }
        place.fails("merge one two -o out --weights 1,1 --space product")
    };
    assert_data_eq!(
        fails("\"r\": 2", "\"r\": 2, \"use_dora\": true"),
        str![[r#"
error: one: is DoRA, which is not a plain product of two factors
help: product space cannot merge it; average its parameters instead (factor space)

"#]]
    );
    assert_data_eq!(
        fails("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\""),
        str![[r#"
error: one: has init_lora_weights pissa, which changes the base model by rank and scale; the merge would have others
help: convert the adapters to plain LoRA first (path_initial_model_for_weight_conversion), or merge in factor space

"#]]
    );
    let place = two_runs();
    for name in ["one", "two"] {
        place.write(&format!("{name}.safetensors"), place.read(&format!("{name}/adapter_model.safetensors")));
    }
    assert_data_eq!(
        place.fails("merge one.safetensors two.safetensors -o out --weights 1,1 --space product"),
        str![[r#"
error: one.safetensors: has no adapter_config.json, so nothing says how its factors are scaled
help: product space merges PEFT adapters: name folders with their adapter_config.json, or make such of others by mwa convert --format peft

"#]]
    );
}

#[test]
fn dora_of_two_runs_is_refused_whatever_is_allowed() {
    let place = two_runs();
    for name in ["one", "two"] {
        place.edit(&format!("{name}/adapter_config.json"), "\"r\": 2", "\"r\": 2, \"use_dora\": true");
    }
    assert_data_eq!(
        place.fails("merge one two -o out --weights 1,1 --allow-cross-run"),
        str![[r#"
error: two: is not of the same run as one: the mean cosine of their A factors is 0.03, near 1 within a run
help: DoRA's magnitudes belong to the directions of their own run: merge checkpoints of one run

"#]]
    );
}

#[test]
fn a_rank_above_all_ranks_together_is_refused() {
    let ran = two_runs().mwa("merge one two -o out --weights 1,1 --space product --rank 5");
    assert_eq!(ran.code, Some(2));
    assert_data_eq!(
        ran.err,
        str![[r#"
error: rank 5 is more than the inputs' ranks together, 4
help: ask for less, or for the full rank

"#]]
    );
}

#[test]
fn options_that_contradict_each_other_are_wrong_usage() {
    let place = two_runs();
    for (options, fact) in [
        ("--rank 4", "give --space product too"),
        ("--strict", "give --space product too"),
        ("--space product --rank 4 --energy 0.9", "energy finds ranks by itself"),
        ("--space product --rank 0", "it must be a whole number from 1 on, auto or full"),
        ("--space product --rank auto --energy 1.5", "it must be a number, above 0 and at most 1"),
        ("--space sums", "invalid value"),
    ] {
        let err = place.fails_with(2, &format!("merge one two -o out --weights 1,1 {options}"));
        assert!(err.contains(fact), "{options}: {err}");
    }
}
