//! Folders of checkpoints: what is taken, what is left out, what is unfinished or foreign.

use std::fs;

use snapbox::{assert_data_eq, str};

use crate::adapter::{self, B};
use crate::place::Place;

#[test]
fn checkpoints_are_in_numeric_order() {
    let place = Place::new();
    for step in [500, 1000, 50] {
        place.checkpoint(&format!("run/checkpoint-{step}"), &adapter::lora(step as f32 / 1e4));
        place.log(&format!("run/checkpoint-{step}"), &[""; 0]);
    }
    assert_data_eq!(
        place.mwa("weights run --metric step --last 2").out,
        str![[r#"
chosen: 2 of 3 checkpoints, as selected
checkpoint       step  step  from             weight
checkpoint-500    500   500  the step itself  0.1667  ████▊
checkpoint-1000  1000  1000  the step itself  0.8333  ████████████████████████
weights: linear, penalty 0.8, by step (higher is better)

"#]]
    );
}

#[test]
fn one_checkpoint_under_two_names_counts_once() {
    let place = Place::with_run();
    let ran = place.merges("run --select all run/checkpoint-30 run/../run/checkpoint-30");
    assert_data_eq!(
        ran.err,
        str![[r#"
note: run/checkpoint-30 is named twice; it counts once
note: run/../run/checkpoint-30 is the same checkpoint as run/checkpoint-30; it counts once

"#]]
    );
    assert_eq!(ran.out.matches("checkpoint-30").count(), 1);
}

#[test]
fn the_model_in_the_run_s_root_is_left_out() {
    let place = Place::with_run();
    place.checkpoint("run", &adapter::lora(0.75));
    place.checkpoint("run/checkpoint-20-merged", &adapter::lora(0.75));
    place.checkpoint("run/tmp-checkpoint-40", &adapter::lora(0.75));
    assert_data_eq!(
        place.merges("run --select all").err,
        str![[r#"
note: run: the model saved in the run folder itself is left out; it usually repeats one of the checkpoints
note: run: left out, not named like checkpoints: checkpoint-20-merged, tmp-checkpoint-40

"#]]
    );
    // named outright it is taken, and its twin is noticed
    fs::remove_dir_all(place.path("out")).unwrap();
    place.checkpoint("best", &adapter::lora(0.75));
    assert_data_eq!(
        place.merges("run/checkpoint-30 best --scheme uniform").err,
        str![[r#"
note: one factor of each module is the same in all inputs, so the average of factors is exact
note: run/checkpoint-30 and best hold the same weights, byte for byte

"#]]
    );
}

#[test]
fn an_unfinished_checkpoint_is_skipped_in_a_run_and_an_error_by_name() {
    let place = Place::with_run();
    place.checkpoint("run/checkpoint-40", &adapter::lora(1.0));
    let whole = place.read("run/checkpoint-10/adapter_model.safetensors");
    place.write("run/checkpoint-10/adapter_model.safetensors", &whole[..whole.len() - 3]);
    assert_data_eq!(
        place.merges("run --select all").err,
        str![[r#"
note: run/checkpoint-10 is left out: run/checkpoint-10/adapter_model.safetensors: is cut short: its header describes 271 bytes, the file has 268
note: run/checkpoint-40 is left out: it has no trainer_state.json, so its save was interrupted

"#]]
    );
    assert_data_eq!(
        place.fails("merge run/checkpoint-20 run/checkpoint-40 -o out2"),
        str![[r#"
error: run/checkpoint-40: has no trainer_state.json, though its neighbours have: its save was interrupted
help: leave it out

"#]]
    );
    assert_data_eq!(
        place.fails("merge run/checkpoint-10 run/checkpoint-20 -o out2"),
        str![[r#"
error: run/checkpoint-10/adapter_model.safetensors: is cut short: its header describes 271 bytes, the file has 268
help: copy or download the file again

"#]]
    );
}

/// It is never left out unasked, and every way out that is told works.
#[test]
fn a_checkpoint_that_lacks_its_weights_stops_what_may_want_it_and_nothing_else() {
    let place = Place::with_run();
    fs::remove_file(place.path("run/checkpoint-20/adapter_model.safetensors")).unwrap();
    let stopped = str![[r#"
error: run/checkpoint-20: holds no weights, only adapter_config.json, trainer_state.json
help: copy or download its weights again; or merge without run/checkpoint-20: move the folder out of the run, or give --drop-bad, or --last 1

"#]];
    for arguments in
        ["merge run -o out", "merge run --last 2 -o out", "weights run", "weights run --select all"]
    {
        assert_data_eq!(place.fails(arguments), stopped.clone());
    }
    let note = "note: run/checkpoint-20 is left out: it holds no weights, only adapter_config.json, trainer_state.json";
    for (arguments, taken) in [
        ("weights run --last 1", "checkpoint-30"),
        ("weights run --steps 21..1000", "checkpoint-30"),
        ("weights run --steps ..10", "checkpoint-10"),
        ("weights run --drop-bad --select all", "checkpoint-10"),
        ("inspect run", "2 checkpoints"),
    ] {
        let ran = place.mwa(arguments);
        assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
        assert!(ran.err.contains(note) && ran.out.contains(taken), "{arguments}: {}{}", ran.out, ran.err);
    }
    place.merges("run --select all --drop-bad");
    // the newest; and one that has a part of its weights
    fs::rename(
        place.path("run/checkpoint-30/adapter_model.safetensors"),
        place.path("run/checkpoint-30/adapter_model-00001-of-00002.safetensors"),
    )
    .unwrap();
    fs::rename(place.path("run/checkpoint-20"), place.path("checkpoint-20")).unwrap();
    assert_data_eq!(
        place.fails("weights run"),
        str![[r#"
error: run/checkpoint-30/adapter_model-00001-of-00002.safetensors: is one of 2 shards, of which adapter_model-00002-of-00002.safetensors is not there
help: download or copy the rest of the checkpoint; or merge without run/checkpoint-30: move the folder out of the run, or give --drop-bad, or --steps ..10

"#]]
    );
    assert_eq!(place.mwa("weights run --steps ..10").code, Some(0));
}

#[test]
fn a_shard_by_itself_is_no_model() {
    let place = Place::new();
    let tensor = |name: &str| adapter::safetensors(&[adapter::f32s(name, &[2], &[1.0, 2.0])]);
    let map = |[a, b]: [&str; 2]| format!(r#"{{"weight_map": {{"a": "{a}", "b": "{b}"}}}}"#);
    let named = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let other = ["first.safetensors", "second.safetensors"];
    for (run, [a, b]) in [("run", named), ("odd", other)] {
        for step in [1, 2] {
            let folder = format!("{run}/checkpoint-{step}");
            place.write(&format!("{folder}/{a}"), tensor("a"));
            place.write(&format!("{folder}/{b}"), tensor("b"));
            place.write(&format!("{folder}/model.safetensors.index.json"), map([a, b]));
        }
        // what is said helps
        assert_eq!(
            place.mwa(&format!("merge {run}/checkpoint-1 {run}/checkpoint-2 -o {run}-out")).code,
            Some(0)
        );
    }
    let both =
        "run/checkpoint-1/model-00001-of-00002.safetensors run/checkpoint-2/model-00001-of-00002.safetensors";
    for command in ["merge", "weights", "inspect", "convert"] {
        let paths =
            if ["merge", "weights"].contains(&command) { both } else { both.split(' ').next().unwrap() };
        let out = if ["merge", "convert"].contains(&command) { " -o out" } else { "" };
        assert_data_eq!(
            place.fails(&format!("{command} {paths}{out}")),
            str![[r#"
error: run/checkpoint-1/model-00001-of-00002.safetensors: is one of 2 shards of a model, and no model by itself
help: give the folder that it lies in

"#]]
        );
    }
    assert_data_eq!(
        place.fails("merge odd/checkpoint-1/second.safetensors odd/checkpoint-2/second.safetensors -o out"),
        str![[r#"
error: odd/checkpoint-1/second.safetensors: is one of several shards of a model, and no model by itself
help: give the folder that it lies in

"#]]
    );
    fs::remove_file(place.path("run/checkpoint-1/model-00002-of-00002.safetensors")).unwrap();
    fs::remove_file(place.path("run/checkpoint-1/model.safetensors.index.json")).unwrap();
    assert_data_eq!(
        place.fails(&format!("merge {both} -o out")),
        str![[r#"
error: run/checkpoint-1/model-00001-of-00002.safetensors: is one of 2 shards, of which model-00002-of-00002.safetensors is not there
help: download or copy the rest of the checkpoint

"#]]
    );
    for number in 1..=2 {
        place.write(&format!("my-0000{number}-of-00002.safetensors"), tensor("a"));
    }
    assert_data_eq!(
        place.fails("inspect my-00002-of-00002.safetensors"),
        str![[r#"
error: my-00002-of-00002.safetensors: is one of 2 shards of a model, and no model by itself
help: name the shards as transformers does (model-00001-of-00002.safetensors), and give the folder that they lie in

"#]]
    );
    // a model of one shard is whole, and so is what only looks like one
    for whole in ["model-00001-of-00001.safetensors", "epoch-1-of-3.safetensors"] {
        place.write(whole, tensor("a"));
        assert_eq!(place.mwa(&format!("inspect {whole}")).code, Some(0), "{whole}");
    }
}

#[test]
fn checkpoints_of_other_frameworks_are_recognised() {
    let place = Place::new();
    for file in [
        "fsdp/pytorch_model_fsdp_0/.metadata",
        "zero/zero_to_fp32.py",
        "dcp/.metadata",
        "megatron/latest_checkpointed_iteration.txt",
        "nemo/weights/x",
        "nemo/context/x",
        "litgpt/lit_model.pth.lora",
        "mlx/0000100_adapters.safetensors",
        "lightning/epoch=0-step=4.ckpt",
        "kohya/cat-000001.safetensors",
        "kohya/cat-000002.safetensors",
        "sweep/a/adapter_model.safetensors",
        "sweep/b/adapter_model.safetensors",
        "nothing/notes.txt",
    ] {
        place.write(file, "");
    }
    let names = [
        "fsdp",
        "zero",
        "dcp",
        "megatron",
        "nemo",
        "litgpt",
        "mlx",
        "lightning",
        "kohya",
        "sweep",
        "nothing",
    ];
    let texts: String = names.iter().map(|name| place.fails(&format!("merge {name} -o out"))).collect();
    assert_data_eq!(
        texts,
        str![[r#"
error: fsdp: has a folder of sharded FSDP weights (pytorch_model_fsdp_…) without its *.distcp files
help: copy the rest of the checkpoint
error: zero: is a DeepSpeed ZeRO checkpoint without the folder of its states (global_step…)
help: copy the rest of the checkpoint
error: dcp: is a torch distributed (DCP) checkpoint without its *.distcp files
help: copy the rest of the checkpoint
error: megatron: is a Megatron checkpoint
help: export it to Hugging Face format with Megatron's own converter first
error: nemo: is a NeMo checkpoint
help: export it to Hugging Face format first, with NeMo's own exporter
error: litgpt: is a LitGPT checkpoint
help: convert it first: litgpt convert_from_litgpt CHECKPOINT OUT
error: mlx/0000100_adapters.safetensors: is empty; a safetensors file has at least 8
help: copy or download the file again
error: lightning/epoch=0-step=4.ckpt: is empty or damaged, or was written by something other than torch.save()
help: copy or download the file again, or give it the ending of what it is
error: kohya/cat-000001.safetensors: is empty; a safetensors file has at least 8
help: copy or download the file again
error: sweep: holds folders with weights, but none is named as a checkpoint: a, b
help: name the folders that belong together: mwa merge sweep/a sweep/b -o OUT --scheme uniform
error: nothing: holds no weights, and no folders named checkpoint-N
help: give a run folder with checkpoint-N folders, a checkpoint folder, or files with weights

"#]]
    );
}

#[test]
fn a_folder_of_runs_asks_for_one() {
    let place = Place::with_run();
    fs::create_dir(place.path("all")).unwrap();
    fs::rename(place.path("run"), place.path("all/first")).unwrap();
    assert_data_eq!(
        place.fails("merge all -o out"),
        str![[r#"
error: all: is not a run, but holds runs
help: name one of them: all/first

"#]]
    );
}

#[test]
fn an_adapter_inside_can_be_chosen() {
    let place = Place::with_run();
    for (step, x) in [(10, 1.0), (20, 2.0), (30, 3.0)] {
        place.checkpoint(&format!("run/checkpoint-{step}/second"), &adapter::lora(x));
    }
    assert_data_eq!(
        place.mwa("weights run --select all").err,
        str![[r#"
note: other adapters in the checkpoints are left out: second (choose one with --adapter)

"#]]
    );
    place.merges("run --select all --adapter second --scheme uniform");
    assert_eq!(place.merged(B)[0], 2.0);
    assert_eq!(place.mwa("verify out").code, Some(0));
    assert_data_eq!(
        place.fails_with(2, "merge run --select all --adapter ../checkpoint-10 -o out2"),
        str![[r#"
error: `../checkpoint-10` is not a folder inside the checkpoints
help: give the name of a folder inside each checkpoint, such as adapter_model, as --adapter

"#]]
    );
    assert_data_eq!(
        place.fails("merge run --select all --adapter third -o out2"),
        str![[r#"
error: run/checkpoint-10: has no weights in a folder `third`; folders with weights: second
help: choose one of these with --adapter, or leave it out

"#]]
    );
}

#[test]
fn a_checkpoint_without_config_is_an_error() {
    let place = Place::with_run();
    fs::remove_file(place.path("run/checkpoint-20/adapter_config.json")).unwrap();
    assert_data_eq!(
        place.fails("merge run/checkpoint-10 run/checkpoint-20 -o out"),
        str![[r#"
error: run/checkpoint-20: has adapter weights but no adapter_config.json
help: copy adapter_config.json from another checkpoint of the run

"#]]
    );
    place.write("run/checkpoint-20/adapter_config.json", "{\"peft_type\": ");
    assert_data_eq!(
        place.fails("merge run/checkpoint-10 run/checkpoint-20 -o out"),
        str![[r#"
error: run/checkpoint-20/adapter_config.json: is not JSON: EOF while parsing a value at line 1 column 14
help: the file is cut short: copy it again, or copy the config of a sibling checkpoint

"#]]
    );
}

#[test]
fn one_checkpoint_is_copied_byte_for_byte() {
    let place = Place::with_run();
    let input = place.read("run/checkpoint-20/adapter_model.safetensors");
    assert_data_eq!(
        place.merges("run/checkpoint-20").err,
        str![[r#"
note: run/checkpoint-20 is one checkpoint: there is nothing to average, and its files are copied as they are; to merge, choose several

"#]]
    );
    assert_eq!(place.read("out/adapter_model.safetensors"), input);
    fs::remove_dir_all(place.path("out")).unwrap();
    assert_data_eq!(
        place.merges("run --select all --weights 0,1,0").err,
        str![[r#"
note: only run/checkpoint-20 has weight: its files are copied as they are

"#]]
    );
    assert_eq!(place.read("out/adapter_model.safetensors"), input);
    fs::remove_dir_all(place.path("out")).unwrap();
    // a file alone needs no metric
    place.merges("run/checkpoint-20/adapter_model.safetensors");
    assert_eq!(place.read("out/adapter_model.safetensors"), input);
}
