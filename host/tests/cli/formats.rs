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

/// Run something that must succeed.
fn does(place: &Place, arguments: &str) -> String {
    let ran = place.mwa(arguments);
    assert_eq!(ran.code, Some(0), "{arguments}: {}{}", ran.out, ran.err);
    ran.err
}

/// What each file of weights in a folder holds.
fn held(place: &Place, folder: &str) -> Vec<(String, Vec<String>)> {
    let mut held = Vec::new();
    for entry in std::fs::read_dir(place.path(folder)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".safetensors") {
            let bytes = place.read(&format!("{folder}/{name}"));
            let header = mwa::safetensors::Header::parse(&bytes, bytes.len() as u64).unwrap();
            held.push((name, header.tensors().iter().map(|tensor| tensor.name.clone()).collect()));
        }
    }
    held.sort();
    held
}

/// Two models of 4 kB, in two files each.
fn to_part() -> Place {
    let place = Place::new();
    for (model, x) in [("a", 1.0), ("b", 3.0)] {
        let files = [
            [("a.weight", 300_u16, x), ("a.bias", 100, -x)],
            [("b.weight", 500, 2.0 * x), ("c.weight", 100, 5.0 * x)],
        ];
        for (number, tensors) in files.iter().enumerate() {
            let tensors = tensors.map(|(name, len, x)| {
                let values: Vec<f32> = (0..len).map(|i| f32::from(i) * x).collect();
                adapter::f32s(name, &[len.into()], &values)
            });
            let name = format!("{model}/model-0000{}-of-00002.safetensors", number + 1);
            place.write(&name, adapter::safetensors(&tensors));
        }
        place.write(&format!("{model}/config.json"), "{}");
    }
    place
}

#[test]
fn a_model_is_parted_by_size_as_hugging_face_does() {
    let place = to_part();
    place.merges("a b --scheme uniform");
    does(&place, "merge a b --scheme uniform --shard-size 1.7KB -o parted");
    let name = |number: usize| format!("model-0000{number}-of-00003.safetensors");
    // what is larger stands before that in the making: huggingface_hub 2.4 makes the same of these sizes
    let files = [(1, vec!["b.weight"]), (2, vec!["a.bias", "a.weight"]), (3, vec!["c.weight"])];
    let expected =
        files.map(|(number, tensors)| (name(number), tensors.into_iter().map(String::from).collect()));
    assert_eq!(held(&place, "parted"), expected);
    // as transformers loads them: by the index
    let index: serde_json::Value =
        serde_json::from_slice(&place.read("parted/model.safetensors.index.json")).unwrap();
    assert_eq!(index["metadata"]["total_size"], 4000);
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), 4);
    for (tensor, file) in map {
        let parted = place.read(&format!("parted/{}", file.as_str().unwrap()));
        let whole = if tensor.starts_with('a') { 1 } else { 2 };
        let whole = place.read(&format!("out/model-0000{whole}-of-00002.safetensors"));
        assert_eq!(adapter::values(&parted, tensor), adapter::values(&whole, tensor), "{tensor}");
    }
    let report: serde_json::Value = serde_json::from_slice(&place.read("parted/mwa-report.json")).unwrap();
    assert_eq!(report["shard_size"], 1700);
    does(&place, "verify parted");
    // what fits is one file, and needs no index
    does(&place, "merge a b --scheme uniform --shard-size 5GB -o one");
    let all = ["a.bias", "a.weight", "b.weight", "c.weight"].map(String::from).to_vec();
    assert_eq!(held(&place, "one"), [("model.safetensors".to_owned(), all.clone())]);
    assert!(!place.path("one/model.safetensors.index.json").exists());
    does(&place, "verify one");
    // a copy is parted too, and files of other sizes are the same model
    let said = does(&place, "merge parted --shard-size 2KB -o again");
    assert!(!said.contains("copied"), "{said}");
    assert_eq!(held(&place, "again").len(), 2);
    does(&place, "verify again");
    does(&place, "merge parted one --scheme uniform -o mean");
    assert_eq!(held(&place, "mean").len(), 1);
    // shares of the work are something else
    for share in ["1/2", "0/2"] {
        does(&place, &format!("merge a b --scheme uniform --shard-size 1.7KB --shard {share} -o shared"));
    }
    does(&place, "finish shared");
    for (name, _) in held(&place, "parted") {
        assert_eq!(place.read(&format!("shared/{name}")), place.read(&format!("parted/{name}")));
    }
    does(&place, "verify shared");
    // without merging
    does(&place, "convert a -o converted --shard-size 1.7KB");
    assert_eq!(held(&place, "converted"), expected);
    assert_eq!(
        place.read("converted/model.safetensors.index.json"),
        place.read("parted/model.safetensors.index.json")
    );
    does(&place, "merge converted -o whole --shard-size 1MiB");
    assert_eq!(held(&place, "whole"), [("model.safetensors".to_owned(), all)]);
}

#[test]
fn what_no_program_loads_in_parts_is_not_parted() {
    let place = Place::new();
    for (name, x) in [("style-1", 1.0), ("style-2", 3.0)] {
        let factor = |name: &str, shape: [usize; 2]| adapter::f32s(name, &shape, &[x; 800]);
        let factors = [
            factor("lora_unet_q.lora_down.weight", [4, 200]),
            factor("lora_unet_q.lora_up.weight", [200, 4]),
        ];
        place.write(&format!("{name}.safetensors"), adapter::safetensors(&factors));
    }
    assert_data_eq!(
        place.fails_with(
            2,
            "merge style-1.safetensors style-2.safetensors -o out --scheme uniform --shard-size 4KB"
        ),
        str![[r#"
error: merged.safetensors: would be 2 files, but programs load an adapter from one file
help: leave out --shard-size, or give one from 6400 bytes on

"#]]
    );
    does(&place, "merge style-1.safetensors style-2.safetensors -o out --scheme uniform --shard-size 5GB");
    let place = to_part();
    assert_data_eq!(
        place.fails_with(2, "merge a b -o pt --format pt --shard-size 1KB"),
        str![[r#"
error: options format and shard_size contradict each other: pt is written whole
help: leave out --shard-size, or --format

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "convert a -o a.gguf --format gguf --shard-size 1KB"),
        str![[r#"
error: option shard-size says nothing to the format gguf
help: leave out --shard-size, or use --format safetensors

"#]]
    );
    assert_data_eq!(
        place.fails("convert a -o a.safetensors --shard-size 2KB"),
        str![[r#"
error: a.safetensors: cannot be one file: what is written is model-00001-of-00003.safetensors, model-00002-of-00003.safetensors, model-00003-of-00003.safetensors, model.safetensors.index.json
help: name a folder

"#]]
    );
    for size in ["0", "5", "5XB", "5G", "-1GB", "GB", "1e30TB", "NaNGB"] {
        for command in ["merge a b -o no", "convert a -o no"] {
            let ran = place.mwa(&format!("{command} --shard-size={size}"));
            assert_eq!(ran.code, Some(2), "{size}");
            assert!(
                ran.err.contains("a size from 1KB on and its unit, such as 5GB or 500MiB"),
                "{size}: {}",
                ran.err
            );
        }
    }
    assert!(!place.path("no").exists());
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
