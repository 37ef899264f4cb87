//! Checkpoints as torch distributed and DeepSpeed leave them, read in place.

use std::fs;
use std::path::Path;

use snapbox::{assert_data_eq, str};

use crate::adapter::values;
use crate::place::Place;

/// Copy a folder of the core's data.
fn copy(place: &Place, name: &str) {
    fn each(place: &Place, from: &Path, name: &str) {
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{name}/{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                each(place, &path, &name)
            } else {
                place.write(&name, fs::read(&path).unwrap())
            }
        }
    }
    each(place, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/data/training").join(name), name);
}

#[test]
fn a_run_of_dcp_checkpoints_is_inspected_merged_and_verified() {
    let place = Place::new();
    copy(&place, "dcp");
    assert_data_eq!(
        place.mwa("inspect dcp").out,
        str![[r#"
dcp
  2 checkpoints, checkpoint-10 to checkpoint-20, steps 10 to 20
    a torch distributed (DCP) checkpoint, 52 parameters in 5 tensors (1 BF16, 3 F32, 1 I64), 20.8 kB each
  a torch distributed (DCP) checkpoint: may be averaged with others of its run, and converted (mwa convert)

"#]]
    );
    let ran = place.merges("dcp --select all --scheme uniform --threads 2");
    assert!(ran.err.contains("left out: `lr_scheduler` (1), `optimizer` (3)"), "{}", ran.err);
    for tensor in ["embed.weight", "turned.weight", "scale"] {
        let of = |step: u8| values(&place.read(&format!("dcp/{step}.safetensors")), tensor);
        let mean: Vec<f32> = of(10).iter().zip(of(20)).map(|(a, b)| a * 0.5 + b * 0.5).collect();
        assert_eq!(values(&place.read("out/model.safetensors"), tensor), mean, "{tensor}");
    }
    let ran = place.mwa("verify out");
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    // without merging, as safetensors and as a file of torch's own
    let ran = place.mwa("convert dcp/checkpoint-20 -o one");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for tensor in ["embed.weight", "turned.weight"] {
        let (one, own) = (place.read("one/model.safetensors"), place.read("dcp/20.safetensors"));
        assert_eq!(values(&one, tensor), values(&own, tensor));
    }
    let ran = place.mwa("convert dcp/checkpoint-10 -o weights.pt --format pt");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ran = place.mwa("merge weights.pt -o again");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let merged = fs::read_dir(place.path("again")).unwrap().map(|entry| entry.unwrap().path());
    let merged =
        merged.into_iter().find(|path| path.extension().is_some_and(|it| it == "safetensors")).unwrap();
    let expected = values(&place.read("dcp/10.safetensors"), "turned.weight");
    assert_eq!(values(&fs::read(merged).unwrap(), "turned.weight"), expected);
}

#[test]
fn what_holds_no_weights_or_is_torn_is_said_by_inspect_too() {
    let place = Place::new();
    copy(&place, "dcp");
    fs::remove_file(place.path("dcp/checkpoint-10/.metadata")).unwrap();
    fs::remove_file(place.path("dcp/checkpoint-20/__0_0.distcp")).unwrap();
    assert_data_eq!(
        format!("{}{}", place.fails("inspect dcp/checkpoint-10"), place.fails("inspect dcp/checkpoint-20")),
        str![[r#"
error: dcp/checkpoint-10: has no .metadata, which is written last
help: its save was interrupted, or files of two saves are mixed: leave this checkpoint out, or copy it again
error: dcp/checkpoint-20/.metadata: names __0_0.distcp, which is missing: its rank did not finish
help: its save was interrupted, or files of two saves are mixed: leave this checkpoint out, or copy it again

"#]]
    );
}

#[test]
fn zero_checkpoints_are_merged_by_their_f32_weights() {
    let place = Place::new();
    for name in ["zero2", "universal"] {
        copy(&place, name);
    }
    fs::rename(place.path("zero2/expected.safetensors"), place.path("expected.safetensors")).unwrap();
    let expected = place.read("expected.safetensors");
    for input in ["zero2/global_step3", "universal"] {
        let ran = place.mwa(&format!("merge {input} -o out-{}", &input[..4]));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        for tensor in ["embed.weight", "lm_head.weight", "layers.1.norm.weight", "layers.1.q_proj.bias"] {
            let merged = place.read(&format!("out-{}/model.safetensors", &input[..4]));
            assert_eq!(values(&merged, tensor), values(&expected, tensor), "{input} {tensor}");
        }
    }
    fs::remove_file(place.path("zero2/global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt")).unwrap();
    assert_data_eq!(
        place.fails("merge zero2 -o out"),
        str![[r#"
error: zero2/global_step3/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt: is of 2 ranks, but there are files of 1
help: its save was interrupted, or files of two saves are mixed: leave this checkpoint out, or copy it again

"#]]
    );
}

#[test]
fn second_moments_of_the_ranks_weigh_as_those_in_a_file_do() {
    let place = Place::new();
    // of one model, by stage 2 and by stage 3; and as a Trainer leaves them, its weights beside them
    for (name, folder) in [("zero2", "run/checkpoint-3"), ("zero3", "run/checkpoint-4")] {
        copy(&place, name);
        fs::create_dir_all(place.path("run")).unwrap();
        fs::rename(place.path(name), place.path(folder)).unwrap();
        fs::rename(
            place.path(&format!("{folder}/squares.safetensors")),
            place.path(&format!("{name}.safetensors")),
        )
        .unwrap();
        fs::remove_file(place.path(&format!("{folder}/expected.safetensors"))).unwrap();
    }
    let merge = "merge run --select all --method ota";
    for (options, out) in [
        ("", "own"),
        ("--moments zero2.safetensors,zero3.safetensors", "given"),
        ("--threads 3 --memory 1", "cut"),
    ] {
        let ran = place.mwa(&format!("{merge} {options} -o {out}"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(
            place.read(&format!("{out}/model.safetensors")) == place.read("own/model.safetensors"),
            "{out}"
        );
    }
    let plain = place.mwa("merge run --select all -o plain");
    assert_eq!(plain.code, Some(0), "{}", plain.err);
    assert!(place.read("plain/model.safetensors") != place.read("own/model.safetensors"));
    let verified = place.mwa("verify own");
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    // a file of the ranks names its save, and another save's is none of it
    let rank = |save: &str| {
        format!("run/checkpoint-3/{save}/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt,zero3.safetensors")
    };
    let ran = place.mwa(&format!("{merge} --moments {} -o of-rank-1", rank("global_step3")));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(place.read("of-rank-1/model.safetensors") == place.read("own/model.safetensors"));
    for entry in fs::read_dir(place.path("run/checkpoint-3/global_step3")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        place.write(&format!("run/checkpoint-3/global_step2/{name}"), fs::read(&path).unwrap());
    }
    assert_data_eq!(
        place.fails(&format!("{merge} --moments {} -o of-another", rank("global_step2"))),
        str![[r#"
error: run/checkpoint-3/global_step2/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt: is none of the files of the save that is read, that of run/checkpoint-3/global_step3/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt
help: leave --moments out, or give what mwa moments takes out of the save that you mean

"#]]
    );
    let ran = place.mwa("moments run/checkpoint-3/global_step2 -o 2.safetensors");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ran = place.mwa(&format!("{merge} --moments 2.safetensors,zero3.safetensors -o of-two"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(place.read("of-two/model.safetensors") == place.read("own/model.safetensors"));
    fs::remove_dir_all(place.path("run/checkpoint-3/global_step2")).unwrap();
    // taken out they are the same, and small they tell what they lose
    let ran = place.mwa("moments run/checkpoint-4 -o taken.safetensors");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let squares = place.read("zero3.safetensors");
    for name in ["embed.weight", "lm_head.weight", "layers.1.q_proj.bias"] {
        assert_eq!(values(&place.read("taken.safetensors"), name), values(&squares, name));
    }
    let head = String::from_utf8_lossy(&place.read("taken.safetensors")[8..100]).into_owned();
    assert!(head.contains(r#""beta2":"0.999""#) && head.contains(r#""step":"3""#), "{head}");
    let ran = place.mwa("moments run/checkpoint-3 -o small.safetensors --rank1");
    assert!(ran.out.contains("4 matrices by rows and columns: "), "{}{}", ran.out, ran.err);
    // early steps are corrected by what the state counts
    let ran = place.mwa(&format!("{merge} --normalise none -o corrected"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ran = place.mwa(&format!(
        "{merge} --normalise none --moments zero2.safetensors,zero3.safetensors -o not-corrected"
    ));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(place.mwa("verify corrected").code, Some(0));
}

#[test]
fn an_adapter_is_weighed_by_the_ranks_moments_beside_its_folder() {
    let place = Place::new();
    for (name, step) in [("zero2", 3), ("zero3", 4)] {
        copy(&place, name);
        let folder = format!("run/checkpoint-{step}");
        place.write(
            &format!("{folder}/mine/adapter_model.safetensors"),
            place.read(&format!("{name}/expected.safetensors")),
        );
        place.write(
            &format!("{folder}/mine/adapter_config.json"),
            r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "tiny"}"#,
        );
        fs::rename(
            place.path(&format!("{name}/global_step3")),
            place.path(&format!("{folder}/global_step3")),
        )
        .unwrap();
    }
    let ran = place.mwa("merge run --select all --method ota --adapter mine -o out");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let text = String::from_utf8(place.read("out/mwa-report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let names: Vec<_> =
        report["inputs"][0]["files"].as_array().unwrap().iter().map(|file| file["name"].clone()).collect();
    let rank = |rank: u8| format!("../global_step3/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt");
    assert_eq!(names, ["adapter_model.safetensors".into(), rank(0), rank(1), rank(0)]);
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    // nothing else may lie there
    for (from, to) in [("adapter_model.safetensors", &*rank(1)), (&*rank(0), "../global_step3/others.pt")] {
        place.write("forged/mwa-report.json", text.replacen(&format!("{from:?}"), &format!("{to:?}"), 1));
        let told = place.fails("verify forged");
        assert!(told.contains(&format!("names `{to}`, which is not a file in the folder")), "{told}");
    }
    fs::remove_file(place.path("run/checkpoint-3/global_step3").join(&rank(1)[16..])).unwrap();
    assert_eq!(place.mwa("verify out").code, Some(1));
}

/// That each file in the zips that lie one behind the other has the checksum that it says, in its directory and beside it.
fn assert_sums(name: &str, file: &[u8]) {
    let number = |at: usize, bytes: usize| {
        file[at..at + bytes].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let sum = |bytes: &[u8]| {
        let bit = |sum: u32, _| (sum >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(sum & 1));
        !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), bit))
    };
    let ends = (0..file.len() - 4).filter(|at| file[*at..].starts_with(b"PK\x05\x06"));
    let mut checked = 0;
    for end in ends {
        // records of zip64 lie between, as torch writes them
        let directory = end - 76 - number(end + 12, 4);
        let base = directory - number(end + 16, 4);
        let mut at = directory;
        while file[at..].starts_with(b"PK\x01\x02") {
            let header = base + number(at + 42, 4);
            let data = header + 30 + number(header + 26, 2) + number(header + 28, 2);
            let behind = data + number(at + 24, 4);
            let expected = sum(&file[data..behind]) as usize;
            assert_eq!(number(at + 16, 4), expected, "{name}: in the directory, at {at}");
            if number(at + 8, 2) & 8 == 0 {
                assert_eq!(number(header + 14, 4), expected, "{name}: before the data, at {header}");
            } else {
                assert!(file[behind..].starts_with(b"PK\x07\x08"));
                assert_eq!(number(behind + 4, 4), expected, "{name}: behind the data, at {behind}");
            }
            (at, checked) =
                (at + 46 + number(at + 28, 2) + number(at + 30, 2) + number(at + 32, 2), checked + 1);
        }
    }
    assert!(checked > 5, "{name}: {checked} sums");
}

/// The names of files below a folder.
fn tree(place: &Place, folder: &str) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(place.path(&format!("{folder}/{inner}"))).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{inner}{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() { folders.push(format!("{name}/")) } else { found.push(name) }
        }
    }
    found.sort();
    found
}

/// The tensors of a safetensors file: name, dtype, bytes.
fn tensors(place: &Place, file: &str) -> Vec<(String, mwa::Dtype, Vec<u8>)> {
    let bytes = place.read(file);
    let header = mwa::safetensors::Header::parse(&bytes, bytes.len() as u64).unwrap();
    let of = |tensor: &mwa::safetensors::Tensor| {
        let [start, end] = [tensor.range.start, tensor.range.end].map(|at| usize::try_from(at).unwrap());
        (tensor.name.clone(), tensor.dtype, bytes[start..end].to_vec())
    };
    let mut all: Vec<_> = header.tensors().iter().map(of).collect();
    all.sort();
    all
}

/// What each of them becomes where it is merged with twice itself: half as much again, rounded once.
#[test]
fn a_merge_is_written_in_the_layout_that_its_checkpoints_have() {
    for (data, newest, key) in [
        ("dcp", "dcp/checkpoint-20", None),
        ("masters", "masters/iter_0000005", Some("model")),
        ("fsdp", "fsdp/checkpoint-20", None),
        ("zero2", "zero2/global_step3", Some("module")),
        ("zero3", "zero3/global_step3", None),
        ("universal", "universal", None),
    ] {
        let place = Place::new();
        copy(&place, data);
        let does = |arguments: &str| {
            let ran = place.mwa(arguments);
            assert_eq!(ran.code, Some(0), "{data}: {arguments}: {}{}", ran.out, ran.err);
            ran.err
        };
        does(&format!("convert {newest} -o plain"));
        let plain = tensors(&place, "plain/model.safetensors");
        let mut older = place.read("plain/model.safetensors");
        let header = mwa::safetensors::Header::parse(&older, older.len() as u64).unwrap();
        for tensor in header.tensors().iter().filter(|tensor| tensor.dtype != mwa::Dtype::I64) {
            let size = if tensor.dtype == mwa::Dtype::F32 { 4 } else { 2 };
            let [start, end] = [tensor.range.start, tensor.range.end].map(|at| usize::try_from(at).unwrap());
            // one more in the exponent; what is 0 stays
            for word in older[start..end].chunks_exact_mut(size).filter(|word| word.iter().any(|it| *it != 0))
            {
                let step = u16::from_le_bytes([word[size - 2], word[size - 1]]) + 0x80;
                word[size - 2..].copy_from_slice(&step.to_le_bytes());
            }
        }
        place.write("older.safetensors", older);
        let said = does(&format!("merge older.safetensors {newest} --weights 1,1 --format own -o out"));
        assert!(said.contains(&format!("written in the layout of {newest}: ")), "{said}");
        assert!(!said.contains("left out"), "{said}");
        does("verify out");
        // all files are there, as long as they were, and whole
        let own: Vec<_> = tree(&place, "out")
            .into_iter()
            .filter(|name| !["README.md", "mwa-report.json"].contains(&name.as_str()))
            .collect();
        let kept: Vec<_> =
            tree(&place, newest).into_iter().filter(|name| !name.ends_with(".safetensors")).collect();
        assert_eq!(own, kept, "{data}");
        let mut changed = 0;
        for name in &own {
            let [was, is] = [newest, "out"].map(|folder| place.read(&format!("{folder}/{name}")));
            assert_eq!(was.len(), is.len(), "{data}: {name}");
            changed += usize::from(was != is);
            if name.ends_with(".pt") || name.ends_with(".distcp") {
                assert_sums(name, &is);
            }
        }
        assert!(changed > 0);
        // what is read of it again is the merge
        does(&format!("merge older.safetensors {newest} --weights 1,1 -o merged"));
        does("convert out -o back");
        let merged = fs::read_dir(place.path("merged")).unwrap().map(|entry| entry.unwrap().file_name());
        let merged = merged.into_iter().find(|name| name.to_str().unwrap().ends_with("safetensors")).unwrap();
        let merged = tensors(&place, &format!("merged/{}", merged.to_str().unwrap()));
        let back = tensors(&place, "back/model.safetensors");
        assert!(back == merged, "{data}");
        assert!(back != plain, "{data}");
        // and so are its copies, each rounded once
        if let Some(key) = key {
            does(&format!("merge out --weights-key {key} --rewrite -o copies"));
            does("convert out --dtype bf16 -o rounded");
            let rounded = tensors(&place, "rounded/model.safetensors");
            let copies = tensors(&place, "copies/model.safetensors");
            let is_rounded = |(_, dtype, _): &&(String, mwa::Dtype, Vec<u8>)| *dtype == mwa::Dtype::BF16;
            assert!(copies.iter().any(|copy| is_rounded(&copy)), "{data}");
            for copy in copies.iter().filter(is_rounded) {
                assert!(rounded.contains(copy), "{data}: {}", copy.0);
            }
        }
        if data == "zero3" {
            // buffers are in the files of all ranks
            let (.., buffer) = merged.iter().find(|(name, ..)| name == "pos").unwrap();
            for rank in 0..2 {
                let file = place.read(&format!("out/zero_pp_rank_{rank}_mp_rank_00_model_states.pt"));
                assert!(file.windows(buffer.len()).any(|window| window == buffer), "rank {rank}");
            }
        }
    }
}

#[test]
fn names_of_one_place_must_have_one_value() {
    let place = Place::new();
    copy(&place, "zero2");
    assert_eq!(place.mwa("convert zero2/global_step3 -o plain").code, Some(0));
    let mut older = place.read("plain/model.safetensors");
    let header = mwa::safetensors::Header::parse(&older, older.len() as u64).unwrap();
    let tied = header.tensors().iter().find(|tensor| tensor.name == "lm_head.weight").unwrap();
    let [start, end] = [tied.range.start, tied.range.end].map(|at| usize::try_from(at).unwrap());
    older[start..end].chunks_exact_mut(4).for_each(|word| word[2] ^= 0x40);
    place.write("older.safetensors", older);
    let error = place.fails("merge older.safetensors zero2/global_step3 --weights 1,1 --format own -o out");
    assert!(error.contains("but they differ in the merge"), "{error}");
    assert!(!place.path("out").exists());
}

#[cfg(unix)]
#[test]
fn links_in_a_checkpoint_are_no_copies_of_what_was_there() {
    let place = Place::new();
    copy(&place, "fsdp");
    let newest = place.path("fsdp/checkpoint-20");
    assert_eq!(place.mwa("convert fsdp/checkpoint-20 -o plain").code, Some(0));
    let file =
        fs::read_dir(newest.join("pytorch_model_fsdp_0")).unwrap().next().unwrap().unwrap().file_name();
    std::os::unix::fs::symlink("pytorch_model_fsdp_0", newest.join("last")).unwrap();
    std::os::unix::fs::symlink(Path::new("pytorch_model_fsdp_0").join(file), newest.join("copy.bin"))
        .unwrap();
    std::os::unix::fs::symlink("/nowhere/x", newest.join("wandb")).unwrap();
    let ran = place
        .mwa("merge plain/model.safetensors fsdp/checkpoint-20 --weights 1,1 --format own -o out --verbose");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for name in ["last", "copy.bin", "wandb"] {
        assert!(
            ran.err.contains(&format!("fsdp/checkpoint-20/{name} is left out: it is a link")),
            "{}",
            ran.err
        );
        assert!(place.path(&format!("out/{name}")).symlink_metadata().is_err(), "{name}");
    }
}

#[test]
fn what_has_no_such_layout_is_not_written_in_it() {
    let place = Place::with_run();
    assert_data_eq!(
        place.fails("merge run --format own -o out"),
        str![[r#"
error: run/checkpoint-30: is no checkpoint of torch distributed or DeepSpeed, and --format own is for those
help: leave out --format own, and safetensors are written; --format pt is for files of torch.save()

"#]]
    );
    copy(&place, "dcp");
    assert_data_eq!(
        place.fails_with(2, "merge dcp --format own --dtype f32 -o out"),
        str![[r#"
error: --format own keeps the dtypes that weights have in the checkpoint
help: leave out --dtype

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "merge dcp --format own --model flux -o out"),
        str![[r#"
error: --format own needs to know of no model
help: leave out --base and --model

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "merge dcp --format own --shard-size 5GB -o out"),
        str![[r#"
error: options format and shard_size contradict each other: own is written whole
help: leave out --shard-size, or --format

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "merge dcp --format own --shard 0/2 -o out"),
        str![[r#"
error: --format own writes a merge as a whole
help: leave out --shard

"#]]
    );
}
