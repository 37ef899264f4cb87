//! Safetensors files that are damaged, empty, something else, or merely odd.

use snapbox::{assert_data_eq, str};

use crate::adapter::{self, A, B};
use crate::place::Place;

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
    assert_eq!(ran.code, Some(1));
    assert_data_eq!(
        ran.out,
        str![[r#"
card.md
  a text file
  a log of icefall, espnet, wenet, fairseq, nanoGPT, torchtune or mlx-lm goes to --metrics-from
metrics.csv
  a table with the columns step, loss
  metrics are read from it: --metrics-file

"#]]
    );
    assert_data_eq!(
        ran.err,
        str![[r#"
error: lfs.safetensors: is a git-lfs pointer, not a safetensors file
help: fetch the file itself: `git lfs pull`
error: page.safetensors: is an HTML page, not a safetensors file
help: the download failed: fetch the file itself, not the page that shows it
error: empty.safetensors: is empty; a safetensors file has at least 8
help: copy or download the file again
error: lora.gguf: is cut short in its head
help: copy or download the file again
error: optimizer.pt: is training state, not weights
help: give the checkpoint folder that it lies in
error: last.ckpt: is a PyTorch file that is cut short or damaged: its end is missing
help: copy or download the file again
error: adapters.npz: is a NumPy archive, as old versions of MLX write
help: convert it first: mlx.core.save_safetensors("NAME.safetensors", dict(mlx.core.load("NAME.npz")))
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
error: long.safetensors: is not a safetensors file, or its start is damaged: it declares a header of 1099511627776 bytes, and the limit is 100000000
help: give a file with weights, or copy or download this one again

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
        place.fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-10: tensor `base_model.model.q.lora_A.weight` is [0], but a LoRA factor has two dimensions or more (and one more tensor like it)
help: a flat or empty factor is one shard of a ZeRO-3 or FSDP run: save again inside deepspeed.zero.GatheredParameters or FSDP.summon_full_params

"#]]
    );
    for step in [10, 20, 30] {
        place.checkpoint(&format!("run/checkpoint-{step}"), &[]);
    }
    assert_data_eq!(
        place.fails("merge run --select all -o out"),
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
        place.fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-10: tensor `base_model.model.q.lora_A.weight` has no other half: `base_model.model.q.lora_B.weight` is missing
help: PEFT would load this file with a warning and leave the module untrained; save it again

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
