//! Inputs that are damaged, unfinished, foreign or oddly named.

use std::fs;

use snapbox::{assert_data_eq, str};

use crate::adapter::{self, A, B};
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
checkpoint       step  step  from             weight
checkpoint-500    500   500  the step itself  0.1667  ████▊
checkpoint-1000  1000  1000  the step itself  0.8333  ████████████████████████
weights: linear, penalty 0.8, on step (max)

"#]]
    );
}

#[test]
fn one_checkpoint_under_two_names_counts_once() {
    let place = Place::with_run();
    let ran = place.merges("run run/checkpoint-30 run/../run/checkpoint-30");
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
        place.merges("run").err,
        str![[r#"
note: run: the model saved in the run folder itself is left out; it usually repeats one of the checkpoints
note: run: left out, not named as checkpoints: checkpoint-20-merged, tmp-checkpoint-40

"#]]
    );
    // named outright it is taken, and its twin is noticed
    fs::remove_dir_all(place.path("out")).unwrap();
    place.checkpoint("best", &adapter::lora(0.75));
    assert_data_eq!(
        place.merges("run/checkpoint-30 best --scheme uniform").err,
        str![[r#"
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
        place.merges("run").err,
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

#[test]
fn files_that_are_not_safetensors_are_called_what_they_are() {
    let place = Place::new();
    place.write("lfs.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n");
    place.write("page.safetensors", "<!DOCTYPE html><html><body>Not found</body></html>");
    place.write("empty.safetensors", "");
    place.write("card.md", "# A model card\n\nWith some text.\n");
    place.write("lora.gguf", b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0");
    place.write("optimizer.pt", "");
    place.write("last.ckpt", "PK\x03\x04");
    place.write("adapters.npz", "PK\x03\x04");
    place.write("metrics.csv", "step,loss\n");
    let ran = place.mwa("inspect lfs.safetensors page.safetensors empty.safetensors card.md lora.gguf optimizer.pt last.ckpt adapters.npz metrics.csv absent");
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert_data_eq!(
        ran.err,
        str![[r#"
error: lfs.safetensors: is a git-lfs pointer, not a safetensors file
help: fetch the file itself: `git lfs pull`
error: page.safetensors: is an HTML page, not a safetensors file
help: the download failed: fetch the file itself, not the page that shows it
error: empty.safetensors: is empty; a safetensors file has at least 8
help: copy or download the file again
error: card.md: is a text file, not a safetensors file
help: give a file with weights
error: lora.gguf: is a GGUF file, not a safetensors file
help: merge the adapters before converting them to GGUF
error: optimizer.pt: is training state, not weights
help: give the checkpoint folder that it lies in
error: last.ckpt: is a Lightning checkpoint, which holds its weights among the trainer's state
help: save its weights alone first: torch.save(torch.load(CKPT, map_location="cpu")["state_dict"], "NAME.bin")
error: adapters.npz: is a NumPy archive, as old versions of MLX write
help: convert it first: mlx.core.save_safetensors("NAME.safetensors", dict(mlx.core.load("NAME.npz")))
error: metrics.csv: is not a checkpoint
help: give the run folder, a checkpoint folder or a .safetensors file; a table of metrics goes to --metrics-file
error: absent: does not exist
help: give a path on this machine: a run folder, a checkpoint folder or a file with weights

"#]]
    );
}

#[test]
fn damaged_headers_are_refused() {
    let place = Place::new();
    let entry =
        |start: usize| format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":[{start},{}]}}"#, start + 4);
    let file = |header: String, data: &[u8]| adapter::with_header(&header, data);
    place.write("twice.safetensors", file(format!(r#"{{"a":{0},"a":{0}}}"#, entry(0)), &[0; 4]));
    place.write("overlap.safetensors", file(format!(r#"{{"a":{},"b":{}}}"#, entry(0), entry(2)), &[0; 6]));
    place.write("hole.safetensors", file(format!(r#"{{"a":{},"b":{}}}"#, entry(0), entry(8)), &[0; 12]));
    place.write("long.safetensors", [&u64::to_le_bytes(1 << 40)[..], &[0xff; 64]].concat());
    let huge = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#;
    place.write("huge.safetensors", file(huge.into(), &[0; 4]));
    place.write("deep.safetensors", file("[".repeat(100_000), &[]));
    for (name, expected) in [
        (
            "twice",
            str![[r#"
error: twice.safetensors: has a damaged header: the key `a` occurs twice at line 1 column 57
help: copy or download the file again

"#]],
        ),
        (
            "overlap",
            str![[r#"
error: overlap.safetensors: tensor `b` overlaps the tensor before it: it starts at byte 2 of the data, expected 4
help: the file is damaged: copy or download it again, or save it again

"#]],
        ),
        (
            "hole",
            str![[r#"
error: hole.safetensors: tensor `b` leaves a hole before it: it starts at byte 8 of the data, expected 4
help: the file is damaged: copy or download it again, or save it again

"#]],
        ),
        (
            "long",
            str![[r#"
error: long.safetensors: declares a header of 1099511627776 bytes; the limit is 100000000
help: this is not a safetensors file, or its start is damaged

"#]],
        ),
        (
            "huge",
            str![[r#"
error: huge.safetensors: tensor `a` has an impossible size: shape [4294967296, 4294967296] of F32
help: the file is damaged: copy or download it again, or save it again

"#]],
        ),
        (
            "deep",
            str![[r#"
error: deep.safetensors: has a damaged header: invalid type: sequence, expected an object of tensors at line 1 column 0
help: copy or download the file again

"#]],
        ),
    ] {
        assert_data_eq!(place.fails(&format!("merge {name}.safetensors -o out")), expected);
    }
}

#[test]
fn unaligned_data_and_null_metadata_are_fine() {
    let place = Place::new();
    let header = r#"{"__metadata__":null,"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}"#;
    for (name, x) in [("a", 1.0f32), ("b", 2.0)] {
        let data = [&[7][..], &x.to_le_bytes(), &x.to_le_bytes()].concat();
        place.write(&format!("{name}.safetensors"), adapter::with_header(header, &data));
    }
    place.merges("a.safetensors b.safetensors --weights 0.5,0.5");
    assert_eq!(adapter::values(&place.read("out/merged.safetensors"), "w"), [1.5, 1.5]);
}

#[test]
fn adapters_without_elements_are_refused() {
    let place = Place::with_run();
    for step in [10, 20, 30] {
        let folder = format!("run/checkpoint-{step}");
        place.checkpoint(&folder, &[adapter::f32s(A, &[0], &[]), adapter::f32s(B, &[0], &[])]);
    }
    assert_data_eq!(
        place.fails("merge run -o out"),
        str![[r#"
error: run/checkpoint-10: tensor `base_model.model.q.lora_A.weight` is [0], but a LoRA factor has two dimensions or more (and one more tensor like it)
help: a flat or empty factor is one shard of a ZeRO-3 or FSDP run: save again inside deepspeed.zero.GatheredParameters or FSDP.summon_full_params

"#]]
    );
    for step in [10, 20, 30] {
        place.checkpoint(&format!("run/checkpoint-{step}"), &[]);
    }
    assert_data_eq!(
        place.fails("merge run -o out"),
        str![[r#"
error: run/checkpoint-10: holds no tensors
help: DeepSpeed ZeRO-3 leaves such a file when stage3_gather_16bit_weights_on_model_save is false: set it to true, or gather the weights from the checkpoint's global_step folder with zero_to_fp32.py

"#]]
    );
}

#[test]
fn half_a_pair_is_refused() {
    let place = Place::with_run();
    for step in [10, 20, 30] {
        place.checkpoint(&format!("run/checkpoint-{step}"), &adapter::lora(0.5)[..1]);
    }
    assert_data_eq!(
        place.fails("merge run -o out"),
        str![[r#"
error: run/checkpoint-10: tensor `base_model.model.q.lora_A.weight` has no other half: `base_model.model.q.lora_B.weight` is missing
help: PEFT would load this file with a warning and leave the module untrained; save it again

"#]]
    );
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
error: fsdp: is a sharded FSDP checkpoint without an adapter file
help: gather it first: accelerate merge-weights CHECKPOINT/pytorch_model_fsdp_0 OUT; or train with FULL_STATE_DICT
error: zero: is a DeepSpeed ZeRO checkpoint without an adapter file
help: gather it first: python CHECKPOINT/zero_to_fp32.py CHECKPOINT OUT --safe_serialization; or train with stage3_gather_16bit_weights_on_model_save
error: dcp: is a torch distributed (DCP) checkpoint
help: convert it first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch CHECKPOINT OUT.bin
error: megatron: is a Megatron checkpoint
help: export it to Hugging Face format with Megatron's own converter first
error: nemo: is a NeMo checkpoint
help: export it to Hugging Face format first, with NeMo's own exporter
error: litgpt: is a LitGPT checkpoint
help: convert it first: litgpt convert_from_litgpt CHECKPOINT OUT
error: mlx: is an MLX run; its adapters are single files
help: give the files themselves: mwa merge DIR/0*_adapters.safetensors -o OUT --metrics-file LOSSES.csv
error: lightning: holds Lightning checkpoints: epoch=0-step=4.ckpt
help: save its weights alone first: torch.save(torch.load(CKPT, map_location="cpu")["state_dict"], "NAME.bin")
error: kohya: holds .safetensors files, but none with the name of a checkpoint's weights: cat-000001.safetensors, cat-000002.safetensors
help: name the files that belong together: mwa merge kohya/cat-000001.safetensors kohya/cat-000002.safetensors … -o OUT
error: sweep: holds folders with weights, but none is named as a checkpoint: a, b
help: name the folders that belong together: mwa merge sweep/a sweep/b … -o OUT
error: nothing: holds no weights (looked for adapter_model.safetensors, adapter_model.safetensors.index.json, adapter_model.bin, model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json, pytorch_lora_weights.safetensors)
help: give a run folder with checkpoint-N folders, a checkpoint folder, or .safetensors files

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
error: all: is not a run itself, but holds runs
help: name one of them: all/first

"#]]
    );
}

#[test]
fn safetensors_win_over_a_newer_bin() {
    let place = Place::with_run();
    std::thread::sleep(core::time::Duration::from_millis(20));
    place.write("run/checkpoint-10/adapter_model.bin", BIN);
    assert_data_eq!(
        place.merges("run").err,
        str![[r#"
note: run/checkpoint-10: adapter_model.bin is newer than adapter_model.safetensors, which is used all the same, as PEFT does

"#]]
    );
}

const BIN: &[u8] = include_bytes!("data/adapter_model.bin");

#[test]
fn bin_files_become_safetensors() {
    let place = Place::new();
    for step in [1, 2] {
        place.write(&format!("run/checkpoint-{step}/adapter_model.bin"), BIN);
        place.write(&format!("run/checkpoint-{step}/adapter_config.json"), adapter::CONFIG);
    }
    place.write("legacy.bin", include_bytes!("data/legacy.bin"));
    assert_data_eq!(
        place.merges("run --metric step").err,
        str![[r#"
note: run/checkpoint-1 and run/checkpoint-2 hold the same weights, byte for byte

"#]]
    );
    assert!(place.path("out/adapter_model.safetensors").is_file());
    assert_data_eq!(
        place.mwa("inspect run out legacy.bin").out,
        str![[r#"
run
  checkpoint-1: LORA, rank 4, step 1, 4 tensors (4 F32), 512 parameters, 4.7 kB
  checkpoint-2: LORA, rank 4, step 2, 4 tensors (4 F32), 512 parameters, 4.7 kB
  LORA: may be averaged
out
  out: LORA, rank 4, 4 tensors (4 F32), 512 parameters, 2.6 kB
  LORA: may be averaged
legacy.bin
  legacy.bin: no adapter config, rank 2, 5 tensors (1 BF16, 4 F32), 22 parameters, 879 B

"#]]
    );
}

#[test]
fn a_pickle_with_foreign_globals_is_never_executed() {
    let place = Place::new();
    place.write("foreign.bin", include_bytes!("data/foreign.bin"));
    assert_data_eq!(
        place.fails("merge foreign.bin -o out"),
        str![[r#"
error: foreign.bin: is not a pickle of plain tensors: invalid PyTorch file format: Expected a dictionary at the root of the PyTorch file, found os.system
help: pickles are never executed; save the tensors alone, best as safetensors

"#]]
    );
    let mut cut = BIN.to_vec();
    cut.truncate(cut.len() / 2);
    place.write("cut.bin", cut);
    assert_data_eq!(
        place.fails("merge cut.bin -o out"),
        str![[r#"
error: cut.bin: is not a pickle of plain tensors: zip archive error: invalid Zip archive: Could not find EOCD
help: pickles are never executed; save the tensors alone, best as safetensors

"#]]
    );
}

#[test]
fn shards_merge_shard_by_shard() {
    let place = sharded();
    place.merges("a b --scheme uniform");
    assert_eq!(adapter::values(&place.read("out/model-00001-of-00002.safetensors"), "one"), [2.0; 3]);
    assert_eq!(adapter::values(&place.read("out/model-00002-of-00002.safetensors"), "two"), [20.0; 2]);
    let index: serde_json::Value =
        serde_json::from_slice(&place.read("out/model.safetensors.index.json")).unwrap();
    assert_eq!(index["metadata"]["total_size"], 20);
    assert_eq!(index["weight_map"]["two"], "model-00002-of-00002.safetensors");
    assert_eq!(place.read("out/config.json"), b"{}");
}

#[test]
fn a_shard_index_cannot_lead_outside_or_lie() {
    for (from, to, expected) in [
        (
            "model-00002-of-00002.safetensors",
            "../secret.safetensors",
            str![[r#"
error: b/model.safetensors.index.json: names the shard `../secret.safetensors`, which is not a plain file name
help: shards lie beside their index

"#]],
        ),
        (
            "model-00002-of-00002.safetensors",
            "/etc/passwd",
            str![[r#"
error: b/model.safetensors.index.json: names the shard `/etc/passwd`, which is not a plain file name
help: shards lie beside their index

"#]],
        ),
        (
            "\"two\": \"model-00002-of-00002.safetensors\"",
            "\"two\": \"model-00001-of-00002.safetensors\"",
            str![[r#"
error: b/model.safetensors.index.json: tensor `two` is listed in the index, but model-00001-of-00002.safetensors does not hold it
help: download the checkpoint again

"#]],
        ),
        (
            "\"two\"",
            "\"three\"",
            str![[r#"
error: b/model.safetensors.index.json: tensor `two` is in model-00002-of-00002.safetensors, but not in the index
help: index and shards are of two checkpoints: download it again

"#]],
        ),
        (
            "model-00002-of-00002",
            "model-00003-of-00002",
            str![[r#"
error: b/model.safetensors.index.json: names the shard model-00003-of-00002.safetensors, which is missing
help: download the rest of the checkpoint

"#]],
        ),
        (
            "{",
            "",
            str![[r#"
error: b/model.safetensors.index.json: is not a shard index: invalid type: string "metadata", expected an object with a weight_map from tensors to files at line 1 column 10

"#]],
        ),
    ] {
        let place = sharded();
        place.edit("b/model.safetensors.index.json", from, to);
        assert_data_eq!(place.fails("merge a b --scheme uniform -o out"), expected);
    }
}

/// Two full models in two shards each.
fn sharded() -> Place {
    let place = Place::new();
    for (model, x) in [("a", 1.0), ("b", 3.0)] {
        place.write(
            &format!("{model}/model.safetensors.index.json"),
            r#"{"metadata": {}, "weight_map": {"one": "model-00001-of-00002.safetensors", "two": "model-00002-of-00002.safetensors"}}"#,
        );
        let shard = |tensor| adapter::safetensors(&[tensor]);
        place.write(
            &format!("{model}/model-00001-of-00002.safetensors"),
            shard(adapter::f32s("one", &[3], &[x; 3])),
        );
        place.write(
            &format!("{model}/model-00002-of-00002.safetensors"),
            shard(adapter::f32s("two", &[2], &[x * 10.0; 2])),
        );
        place.write(&format!("{model}/config.json"), "{}");
    }
    place
}

#[test]
fn an_adapter_inside_can_be_chosen() {
    let place = Place::with_run();
    for (step, x) in [(10, 1.0), (20, 2.0), (30, 3.0)] {
        place.checkpoint(&format!("run/checkpoint-{step}/second"), &adapter::lora(x));
    }
    assert_data_eq!(
        place.mwa("weights run").err,
        str![[r#"
note: other adapters inside the checkpoints are left alone: second (choose one with --adapter)

"#]]
    );
    place.merges("run --adapter second --scheme uniform");
    assert_eq!(place.merged(B)[0], 2.0);
    assert_eq!(place.mwa("verify out").code, Some(0));
    assert_data_eq!(
        place.fails_with(2, "merge run --adapter ../checkpoint-10 -o out2"),
        str![[r#"
error: `../checkpoint-10` is no adapter's name
help: --adapter takes the name of a folder inside the checkpoints

"#]]
    );
    assert_data_eq!(
        place.fails("merge run --adapter third -o out2"),
        str![[r#"
error: run/checkpoint-10: has no adapter `third`; adapters inside: second
help: give --adapter one of these names, or leave it out

"#]]
    );
}

#[test]
fn odd_tensor_names_pass_through() {
    let names = ["with/slash", "with \\ and \" and \n", "ünï🦀", &"long".repeat(2000)];
    let place = Place::new();
    for (file, x) in [("a b.safetensors", 1.0), ("ç.safetensors", 3.0)] {
        let tensors: Vec<_> = names.iter().map(|name| adapter::f32s(name, &[1], &[x])).collect();
        place.write(file, adapter::safetensors(&tensors));
    }
    let mut command = place.command("merge -o out --weights 0.5,0.5 ç.safetensors");
    let ran = crate::place::Ran::of(command.arg("a b.safetensors"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let merged = place.read("out/merged.safetensors");
    for name in names {
        assert_eq!(adapter::values(&merged, name), [2.0], "{name}");
    }
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
note: only run/checkpoint-20 has weight: its files are copied as they are

"#]]
    );
    assert_eq!(place.read("out/adapter_model.safetensors"), input);
    fs::remove_dir_all(place.path("out")).unwrap();
    assert_data_eq!(
        place.merges("run --weights 0,1,0").err,
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
