//! Weights in other files than one `.safetensors`: pickles and shards.

use snapbox::{assert_data_eq, str};

use crate::adapter;
use crate::place::Place;

#[test]
fn safetensors_win_over_a_bin_beside_them() {
    let place = Place::with_run();
    place.write("run/checkpoint-10/adapter_model.bin", BIN);
    assert_data_eq!(
        place.merges("run --select all").err,
        str![[r#"
note: adapter_model.bin is left out: adapter_model.safetensors is taken before it

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
        place.merges("run --select all --metric step").err,
        str![[r#"
note: one factor of each module is the same in all inputs, so the average of factors is exact
note: run/checkpoint-1 and run/checkpoint-2 hold the same weights, byte for byte

"#]]
    );
    assert!(place.path("out/adapter_model.safetensors").is_file());
    assert_data_eq!(
        place.mwa("inspect run out legacy.bin").out,
        str![[r#"
run
  2 checkpoints, checkpoint-1 to checkpoint-2, steps 1 to 2
    LORA, rank 4, alpha 4, 512 parameters in 4 tensors (4 F32), 4.7 kB each
    of example/tiny
    in q, v
  LORA: may be averaged
out
  out
    LORA, rank 4, alpha 4, 512 parameters in 4 tensors (4 F32), 2.6 kB
    of example/tiny
    in q, v
  LORA: may be averaged
legacy.bin
  legacy.bin
    a PEFT LoRA, rank 2, 22 parameters in 5 tensors (1 BF16, 4 F32), 879 B
  a PEFT LoRA: may be averaged with others of its run, and converted (mwa convert)

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
error: foreign.bin: holds an object (`system`), not a dictionary of tensors
help: pickles are never executed; save the tensors alone, best as safetensors

"#]]
    );
    let mut cut = BIN.to_vec();
    cut.truncate(cut.len() / 2);
    place.write("cut.bin", cut);
    assert_data_eq!(
        place.fails("merge cut.bin -o out"),
        str![[r#"
error: cut.bin: is a PyTorch file that is cut short or damaged: its end is missing
help: copy or download the file again

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
help: download or copy the rest of the checkpoint

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

#[cfg(unix)]
#[test]
fn a_shard_is_no_link_out_of_its_checkpoint_but_to_what_was_downloaded_with_it() {
    use std::os::unix::fs::symlink;
    let shard = "b/model-00002-of-00002.safetensors";
    let place = sharded();
    std::fs::rename(place.path(shard), place.path("secret.safetensors")).unwrap();
    symlink("../secret.safetensors", place.path(shard)).unwrap();
    assert_data_eq!(
        place.fails("merge a b --scheme uniform -o out"),
        str![[r#"
error: b/model.safetensors.index.json: names the shard model-00002-of-00002.safetensors, which is a link out of the checkpoint
help: put the file itself there

"#]]
    );
    // as a download cache has it
    let place = sharded();
    place.write("hub/blobs/abc", place.read(shard));
    std::fs::remove_file(place.path(shard)).unwrap();
    std::fs::create_dir(place.path("hub/snapshots")).unwrap();
    std::fs::rename(place.path("b"), place.path("hub/snapshots/123")).unwrap();
    symlink("../../blobs/abc", place.path("hub/snapshots/123/model-00002-of-00002.safetensors")).unwrap();
    place.merges("a hub/snapshots/123 --scheme uniform");
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
