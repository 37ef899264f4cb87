//! Runs as people have reported them: each comes out right, or is refused with the true reason and a way that works.
//!
//! What lies in `hunt/` is described in its README.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use snapbox::{assert_data_eq, str};

use crate::adapter;
use crate::place::{Place, Ran};

/// A place with what lies in a folder of `hunt/`.
fn hunt(name: &str) -> Place {
    fn copy(place: &Place, from: &Path, to: &str) {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let to = if to.is_empty() { name } else { format!("{to}/{name}") };
            if entry.path().is_dir() {
                copy(place, &entry.path(), &to);
            } else {
                place.write(&to, fs::read(entry.path()).unwrap());
            }
        }
    }
    let place = Place::new();
    copy(&place, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/hunt").join(name), "");
    place
}

/// A merge that must succeed and verify.
fn merges(place: &Place, arguments: &str) -> Ran {
    let _ = fs::remove_dir_all(place.path("out"));
    let ran = place.merges(arguments);
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    ran
}

fn report(place: &Place) -> Value {
    serde_json::from_slice(&place.read("out/mwa-report.json")).unwrap()
}

fn weights(place: &Place) -> Vec<f64> {
    report(place)["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| input["weight"].as_f64().unwrap())
        .collect()
}

fn steps(place: &Place) -> Vec<u64> {
    report(place)["inputs"].as_array().unwrap().iter().map(|input| input["step"].as_u64().unwrap()).collect()
}

/// The F32 tensors of a file.
fn tensors(file: &[u8]) -> BTreeMap<String, Vec<f32>> {
    let (len, rest) = file.split_first_chunk().unwrap();
    let header = &rest[..usize::try_from(u64::from_le_bytes(*len)).unwrap()];
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).unwrap();
    let floats = header.into_iter().filter(|(_, entry)| entry["dtype"] == "F32");
    floats.map(|(name, _)| (name.clone(), adapter::values(file, &name))).collect()
}

/// Check that a file of the output is the weighted average of the inputs' files, tensor by tensor.
fn assert_average(place: &Place, merged: &str, inputs: &[String]) {
    let weights = weights(place);
    let inputs: Vec<_> = inputs.iter().map(|input| tensors(&place.read(input))).collect();
    assert_eq!(weights.len(), inputs.len());
    let merged = tensors(&place.read(&format!("out/{merged}")));
    assert!(merged.keys().eq(inputs[0].keys()) && !merged.is_empty());
    for (name, values) in merged {
        for (i, value) in values.iter().enumerate() {
            let sum: f64 = inputs.iter().zip(&weights).map(|(input, w)| w * f64::from(input[&name][i])).sum();
            assert!((f64::from(*value) - sum).abs() < 1e-6, "{name}[{i}] is {value} instead of {sum}");
        }
    }
}

/// The same file of the three checkpoints of a run.
fn three(file: &str) -> Vec<String> {
    [100, 200, 300].map(|step| format!("run/checkpoint-{step}/{file}")).into()
}

/// The first number of a tensor of a merged file.
fn first(place: &Place, file: &str, tensor: &str) -> f32 {
    adapter::values(&place.read(&format!("out/{file}")), tensor)[0]
}

#[expect(clippy::cast_possible_truncation, reason = "rounded once, to the dtype of the tensors")]
fn mean(values: [f32; 3]) -> f32 {
    ((f64::from(values[0]) + f64::from(values[1]) + f64::from(values[2])) / 3.0) as f32
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() < 1e-6
}

#[test]
fn an_adapter_in_a_folder_of_each_checkpoint_is_taken() {
    let place = hunt("adapter-in-subfolder");
    let a = "base_model.model.layers.0.q_proj.lora_A.weight";
    let expected = mean([-0.587_242_66, -0.609_023_03, -0.607_372_16]);
    merges(&place, "run --scheme uniform --select all");
    assert!(near(first(&place, "adapter_model.safetensors", a), expected));
    assert!(place.path("out/adapter_config.json").is_file());
    assert_eq!(steps(&place), [100, 200, 300]);
    // named themselves, they have the steps and logs of the folders around them, and are told apart
    let named = [100, 200, 300].map(|step| format!("run/checkpoint-{step}/adapter_model")).join(" ");
    let ran = merges(&place, &format!("{named} --metric loss --penalty 0"));
    assert!(near(first(&place, "adapter_model.safetensors", a), expected));
    assert!(ran.out.contains("checkpoint-100/adapter_model   100"), "{}", ran.out);
}

#[test]
fn counters_are_the_newest_and_the_rest_is_averaged() {
    let place = hunt("batchnorm-counter");
    let ran = merges(&place, "run --scheme uniform --select all");
    assert_data_eq!(
        ran.err,
        str![[r#"
note: `bn.num_batches_tracked` is not averaged but taken from run/checkpoint-300, as counters and packed state are

"#]]
    );
    assert_average(&place, "model.safetensors", &three("model.safetensors"));
    let merged = place.read("out/model.safetensors");
    let (len, rest) = merged.split_first_chunk().unwrap();
    let data = &rest[usize::try_from(u64::from_le_bytes(*len)).unwrap()..];
    assert_eq!(data[..8], 300_i64.to_le_bytes());
}

#[test]
fn a_diffusion_model_is_taken_before_its_running_average() {
    let place = hunt("diffusers-unet");
    let ran = merges(&place, "run --scheme uniform --select all");
    assert_data_eq!(
        ran.err,
        str![[r#"
note: the weights in unet are taken; unet_ema is left out (choose it with --adapter unet_ema)

"#]]
    );
    let file = "diffusion_pytorch_model.safetensors";
    assert_average(&place, file, &three(&format!("unet/{file}")));
    assert!(place.path("out/config.json").is_file());
    merges(&place, "run/checkpoint-100/unet run/checkpoint-200/unet run/checkpoint-300/unet --metric step");
    assert_eq!(steps(&place), [100, 200, 300]);
    assert_average(&place, file, &three(&format!("unet/{file}")));
    merges(&place, "run --adapter unet_ema --scheme uniform --select all");
    assert_average(&place, file, &three(&format!("unet_ema/{file}")));
}

#[test]
fn a_folder_of_epoch_files_is_a_run() {
    let place = hunt("folder-of-pickles");
    let name = "layer.0.w";
    merges(&place, "exp --select all --scheme uniform");
    assert!(near(
        first(&place, "merged.safetensors", name),
        mean([-0.384_561_9, -0.383_638_38, -0.376_236_98])
    ));
    // what the toolkit wrote beside the files is the metric
    merges(&place, "exp --select all");
    assert_eq!(report(&place)["weighting"]["metric"], "eval_loss");
    assert_eq!(steps(&place), [9, 10, 11]);
    let named = "exp/9.pt exp/10.pt exp/11.pt";
    merges(&place, &format!("{named} --metric step --penalty 1"));
    assert_eq!(weights(&place), [0.0, 1.0 / 3.0, 2.0 / 3.0]);
    merges(&place, &format!("{named} --metrics-file scores.csv --penalty 1 --goal min"));
    assert_eq!(report(&place)["inputs"][2]["metric"], 7.0);
}

/// What FP8 codes and their one scale are worth.
fn worth(file: &[u8]) -> Vec<f64> {
    let (len, rest) = file.split_first_chunk().unwrap();
    let len = usize::try_from(u64::from_le_bytes(*len)).unwrap();
    let header: BTreeMap<String, Value> = serde_json::from_slice(&rest[..len]).unwrap();
    let ends = &header["layer.weight"]["data_offsets"];
    let at = |i: usize| len + usize::try_from(ends[i].as_u64().unwrap()).unwrap();
    let scale = adapter::values(file, "layer.weight_scale")[0];
    rest[at(0)..at(1)].iter().map(|code| mwa::Float::F8E4M3.value(&[*code]) * f64::from(scale)).collect()
}

#[test]
fn fp8_weights_are_averaged_by_what_they_are_worth() {
    let place = hunt("fp8-weight-scale");
    let ran = merges(&place, "run --scheme uniform --select all");
    let note = "note: 1 quantised weight was averaged by what codes and scales are worth, and rounded once to codes of new scales";
    assert!(ran.err.contains(note), "{}", ran.err);
    let inputs: Vec<_> = three("model.safetensors").iter().map(|file| worth(&place.read(file))).collect();
    let merged = worth(&place.read("out/model.safetensors"));
    let (mut off, mut norm) = (0.0, 0.0);
    for (i, value) in merged.iter().enumerate() {
        let mean = inputs.iter().map(|input| input[i]).sum::<f64>() / 3.0;
        assert!((value - mean).abs() <= mean.abs() / 16.0 + 1e-4, "{value} instead of {mean}");
        (off, norm) = (off + (value - mean).powi(2), norm + mean.powi(2));
    }
    let told = report(&place)["quantised"]["overall"].as_f64().unwrap();
    assert!((told - (off / norm).sqrt()).abs() < 1e-6, "{told}");
    let fails = |place: &Place, arguments: &str| place.fails(arguments);
    assert_data_eq!(
        fails(&place, "merge run --scheme uniform --dtype bf16 -o other"),
        str![[r#"
error: tensor `layer.weight` holds codes of scales, which are rounded to codes of its own dtype again
help: leave out --dtype: all that is quantised stays so, and all else keeps its dtype

"#]]
    );
    assert_data_eq!(
        fails(&place, "merge run --scheme geometric-median -o other"),
        str![[r#"
error: tensor `layer.weight` holds codes of scales, and distances between codes say nothing of the weights
help: weigh by a metric, uniformly or by hand, and without clipping: see --scheme and --weights

"#]]
    );
}

#[test]
fn folders_of_global_steps_are_checkpoints() {
    let place = hunt("global-step-folders");
    let files =
        [100, 200, 300].map(|step| format!("run/global_step_{step}/actor/huggingface/model.safetensors"));
    merges(&place, "run --scheme uniform --select all");
    assert_average(&place, "model.safetensors", &files);
    let named = [100, 200, 300].map(|step| format!("run/global_step_{step}/actor/huggingface")).join(" ");
    merges(&place, &format!("{named} --metrics-file scores.csv"));
    assert_eq!(steps(&place), [100, 200, 300]);
    assert_eq!(report(&place)["inputs"][2]["metric"], 0.5);
    assert_average(&place, "model.safetensors", &files);
}

#[test]
fn quantised_models_are_refused() {
    assert_data_eq!(
        hunt("int4-quantised").fails("merge run -o out"),
        str![[r#"
error: tensor `layer.qweight` is a part of quantised weights, GPTQ's or AWQ's: neither codes nor scales can be averaged by themselves
help: merge the checkpoints before they are quantised, or dequantise them first

"#]]
    );
}

#[test]
fn the_last_file_has_a_step_like_the_others() {
    let place = hunt("last-file-without-number");
    let files =
        ["style-000004", "style-000008", "style-000012", "style"].map(|name| format!("{name}.safetensors"));
    merges(&place, &files.join(" "));
    assert_eq!(steps(&place), [190, 380, 570, 760]);
    for (weight, expected) in weights(&place).iter().zip([0.0833, 0.1944, 0.3056, 0.4167]) {
        assert!((weight - expected).abs() < 1e-4, "{weight}");
    }
    assert_average(&place, "merged.safetensors", &files);
}

#[test]
fn what_a_longer_run_left_is_not_merged_with_the_next() {
    assert_data_eq!(
        hunt("leftover-full-models").fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-400: is not of the same run as run/checkpoint-300: their logs share no value (loss at step 50 is 0.95 in its log, 2.95 in the other)
help: a second run was trained into the folder of a first: name the checkpoints of one of them; --allow-cross-run averages them anyway

"#]]
    );
}

#[test]
fn one_set_of_weights_is_taken_from_training_states() {
    let place = hunt("pickle-training-state");
    let ran = merges(&place, "epoch-1.pt epoch-2.pt epoch-3.pt --scheme uniform");
    assert!(ran.err.contains("`model_avg`") && ran.err.contains("--weights-key"), "{}", ran.err);
    let merged = place.read("out/merged.safetensors");
    assert!(tensors(&merged).keys().eq(["layer.0.w", "layer.1.w"]));
}

#[test]
fn a_ckpt_is_read_by_its_content() {
    let place = hunt("plain-ckpt");
    assert_data_eq!(
        place.fails("merge save -o out"),
        str![[r#"
error: save: holds folders with weights, but none is named as a checkpoint: CKPT+2024-01-01+00, CKPT+2024-01-02+00, CKPT+2024-01-03+00
help: name the folders that belong together: mwa merge save/CKPT+2024-01-01+00 save/CKPT+2024-01-02+00 … -o OUT --scheme uniform

"#]]
    );
    let folders: Vec<_> = ["01", "02", "03"].map(|day| format!("save/CKPT+2024-01-{day}+00")).into();
    let files: Vec<_> = folders.iter().map(|folder| format!("{folder}/model.ckpt")).collect();
    merges(&place, &format!("{} --scheme uniform", files.join(" ")));
    assert!(tensors(&place.read("out/model.safetensors")).keys().eq(["layer.0.w", "layer.1.w"]));
    // the folders say how good they are
    merges(&place, &format!("{} --metric eval_WER", folders.join(" ")));
    assert_eq!(steps(&place), [1, 2, 3]);
    assert_eq!(report(&place)["inputs"][2]["metric"], 10.0);
}

#[test]
fn several_evaluations_are_named() {
    let place = hunt("several-evaluations");
    let ran = merges(&place, "run --select all");
    assert_data_eq!(
        ran.err,
        str![[r#"
note: evaluations are logged as eval_quora_loss 3/3, eval_stsb_loss 3/3 (choose one with --metric), so the step is the metric: later counts as better

"#]]
    );
    merges(&place, "run --select all --metric eval_quora_loss");
    assert_eq!(report(&place)["inputs"][0]["metric"], 0.6);
}

#[test]
fn shards_need_no_index() {
    let place = hunt("shards-without-index");
    merges(&place, "run --select all");
    for shard in ["adapter_model-00001-of-00002.safetensors", "adapter_model-00002-of-00002.safetensors"] {
        assert_average(&place, shard, &three(shard));
    }
    assert!(place.path("out/adapter_model.safetensors.index.json").is_file());
    assert_eq!(steps(&place), [100, 200, 300]);
    fs::remove_file(place.path("run/checkpoint-200/adapter_model-00002-of-00002.safetensors")).unwrap();
    assert_data_eq!(
        place.fails("merge run -o out2"),
        str![[r#"
error: run/checkpoint-200/adapter_model-00001-of-00002.safetensors: is one of 2 shards, of which adapter_model-00002-of-00002.safetensors is not there
help: download or copy the rest of the checkpoint; or merge without run/checkpoint-200: move the folder out of the run, or give --drop-bad, or --last 1

"#]]
    );
}

#[test]
fn trained_layers_in_folders_beside_the_model_are_merged() {
    let place = hunt("side-weights-dense");
    merges(&place, "run --select all");
    assert!(weights(&place)[0] < weights(&place)[2], "not all alike");
    for file in ["model.safetensors", "2_Dense/model.safetensors"] {
        assert_average(&place, file, &three(file));
    }
    for file in ["modules.json", "config.json", "1_Pooling/config.json", "2_Dense/config.json"] {
        assert_eq!(place.read(&format!("out/{file}")), place.read(&format!("run/checkpoint-300/{file}")));
    }
    // an earlier merge is replaced as a whole, and one that was changed is found out
    assert_eq!(place.mwa("merge run --scheme uniform -o out --force").code, Some(0));
    assert_eq!(place.mwa("verify out").code, Some(0));
    place.write("out/2_Dense/model.safetensors", "changed");
    assert_eq!(place.mwa("verify out").code, Some(1));
    place.write("out/2_Dense/other.safetensors", "strange");
    assert!(place.fails("merge run -o out --force").contains("2_Dense/other.safetensors"));
    fs::remove_file(place.path("run/checkpoint-200/2_Dense/model.safetensors")).unwrap();
    assert_data_eq!(
        place.fails("merge run --select all -o out2"),
        str![[r#"
error: run/checkpoint-200: has no 2_Dense/model.safetensors, though run/checkpoint-100 has: a part of the weights would be lost
help: restore it, leave that checkpoint out, or move the file out of the others if it is not of the model

"#]]
    );
}

#[test]
fn trained_weights_beside_an_adapter_are_merged() {
    let place = hunt("side-weights-non-lora");
    merges(&place, "run --scheme uniform --select all");
    assert_average(&place, "adapter_model.safetensors", &three("adapter_model.safetensors"));
    let side = place.read("out/non_lora_trainables.safetensors");
    assert_eq!(adapter::values(&side, "base_model.model.mm_projector.0.weight"), [1.0; 4]);
    assert!(!place.path("out/adapter_model.safetensors.index.json").exists());
    // as in the toolkit's own file, and back
    assert_eq!(place.mwa("merge run --scheme uniform --select all -o pt --format pt").code, Some(0));
    let own = place.mwa("convert pt -o again");
    assert_eq!(own.code, Some(0), "{}", own.err);
    assert_eq!(place.read("again/non_lora_trainables.safetensors"), side);
    assert_eq!(place.mwa("verify pt").code, Some(0));
    // what cannot hold it says so
    let peft = place.mwa("merge run --scheme uniform --select all -o peft --format peft");
    assert_eq!(peft.code, Some(0), "{}", peft.err);
    assert!(
        peft.err.contains("non_lora_trainables.safetensors, beside the weights, is left out"),
        "{}",
        peft.err
    );
}

#[test]
fn renamed_checkpoints_have_the_steps_of_their_states() {
    let place = hunt("step-in-trainer-state");
    merges(&place, "epoch1 epoch2 epoch3-best --metric loss");
    assert_eq!(steps(&place), [100, 200, 300]);
    assert_average(
        &place,
        "adapter_model.safetensors",
        &["epoch1", "epoch2", "epoch3-best"].map(|name| format!("{name}/adapter_model.safetensors")),
    );
}

#[test]
fn a_panel_s_table_is_read_as_exported() {
    let place = hunt("table-wandb-export");
    merges(&place, "run --metrics-file table.csv --select all");
    let report = report(&place);
    assert_eq!(report["weighting"]["metric"], "eval/loss");
    assert_eq!(report["weighting"]["goal"], "min");
    let values: Vec<_> =
        report["inputs"].as_array().unwrap().iter().map(|it| it["metric"].as_f64()).collect();
    assert_eq!(values, [Some(1.9), Some(1.7), Some(1.5)]);
}

#[test]
fn an_adapter_and_the_model_beside_it_are_both_merged() {
    let place = hunt("two-weight-files");
    merges(&place, "run --scheme uniform --select all");
    for file in ["pytorch_lora_weights.safetensors", "model.safetensors"] {
        assert_average(&place, file, &three(file));
    }
}
