//! `mwa merge --shard` and `mwa finish`: the bytes of one process, whatever the shards, their order and their deaths.

use core::time::Duration;
use std::fs;

use serde_json::Value;
use snapbox::{assert_data_eq, str};

use crate::adapter::{self, f32s};
use crate::place::Place;

/// A model in two files, large enough to be cut, in three checkpoints.
fn models() -> Place {
    let place = Place::new();
    for step in [10_u16, 20, 30] {
        let folder = format!("run/checkpoint-{step}");
        let values = |seed: u16, count: usize| -> Vec<f32> {
            (0..count)
                .map(|i| f32::from(u16::try_from(i * 7 % 1999).unwrap()) / 99.0 + f32::from(seed * step))
                .collect()
        };
        let first = [
            f32s("model.a.weight", &[300, 1000], &values(1, 300_000)),
            f32s("model.a.bias", &[3], &values(2, 3)),
        ];
        let second = [f32s("model.b.weight", &[500, 301], &values(3, 150_500))];
        place.write(&format!("{folder}/model-00001-of-00002.safetensors"), adapter::safetensors(&first));
        place.write(&format!("{folder}/model-00002-of-00002.safetensors"), adapter::safetensors(&second));
        let map = r#"{"weight_map": {"model.a.weight": "model-00001-of-00002.safetensors", "model.a.bias": "model-00001-of-00002.safetensors", "model.b.weight": "model-00002-of-00002.safetensors"}}"#;
        place.write(&format!("{folder}/model.safetensors.index.json"), map);
        place.write(&format!("{folder}/config.json"), "{}");
        place.log(&folder, &[format!(r#"{{"step": {step}, "eval_loss": 1.{step}}}"#)]);
    }
    place
}

/// Run something that must succeed.
fn does(place: &Place, arguments: &str) -> String {
    let ran = place.mwa(arguments);
    assert_eq!(ran.code, Some(0), "{arguments}: {}{}", ran.out, ran.err);
    ran.out
}

/// The names and bytes of the files in a folder.
fn files(place: &Place, folder: &str) -> Vec<(String, Vec<u8>)> {
    let names = fs::read_dir(place.path(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), place.read(&format!("{folder}/{name}")))).collect()
}

fn assert_same(place: &Place) {
    let (whole, sharded) = (files(place, "whole"), files(place, "out"));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&whole), names(&sharded));
    for ((name, whole), (_, sharded)) in whole.iter().zip(&sharded) {
        assert!(whole == sharded, "{name} differs");
    }
    assert!(!place.path(".out.mwa-shards").exists());
    does(place, "verify out");
}

#[test]
fn shards_in_any_order_make_the_same_files_and_report() {
    let place = models();
    for (options, of) in [
        ("--select all", 3),
        ("--select all --dtype bf16 --sha256 --plot", 1),
        ("--scheme geometric-median --select all", 7),
    ] {
        does(&place, &format!("merge run {options} -o whole"));
        for number in (0..of).rev() {
            let told = does(
                &place,
                &format!("merge run {options} -o out --shard {number}/{of} --threads {}", number + 1),
            );
            let rest = match number {
                0 => "all are: mwa finish out".into(),
                1 => "1 is missing".into(),
                more => format!("{more} are missing"),
            };
            assert_eq!(told, format!("shard {number}/{of} of out is done; {rest}\n"));
            assert!(!place.path("out").exists(), "nothing is seen before the end");
        }
        let again = does(&place, &format!("merge run {options} -o out --shard 0/{of}"));
        assert_eq!(again, format!("shard 0/{of} of out was done before; all are: mwa finish out\n"));
        does(&place, "finish out");
        assert_same(&place);
        fs::remove_dir_all(place.path("out")).unwrap();
        fs::remove_dir_all(place.path("whole")).unwrap();
    }
}

#[test]
fn modules_are_shared_out_too() {
    let place = Place::new();
    for (step, x) in [(10, 0.25), (20, 0.5), (30, 0.75)] {
        let factors = |module: usize| {
            let named = |side: &str| format!("base_model.model.layers.{module}.q.lora_{side}.weight");
            [
                f32s(&named("A"), &[2, 3], &[1.0, x, 2.0, -1.0, 0.5, x]),
                f32s(&named("B"), &[4, 2], &[x, 1.0, -x, 0.5, x, 2.0, 1.0, x]),
            ]
        };
        let folder = format!("run/checkpoint-{step}");
        place.checkpoint(&folder, &(0..5).flat_map(factors).collect::<Vec<_>>());
        place.log(&folder, &[format!(r#"{{"step": {step}, "eval_loss": {x}}}"#)]);
    }
    for options in ["--residual exact", "--space product", "--space product --rank auto --energy 0.9"] {
        does(&place, &format!("merge run --select all {options} -o whole"));
        for number in 0..3 {
            does(&place, &format!("merge run --select all {options} -o out --shard {number}/3"));
        }
        does(&place, "finish out");
        assert_same(&place);
        fs::remove_dir_all(place.path("out")).unwrap();
        fs::remove_dir_all(place.path("whole")).unwrap();
    }
}

#[test]
fn killed_shards_are_done_again() {
    let place = models();
    does(&place, "merge run --select all -o whole");
    for wait in [0, 2, 5, 10, 20, 40] {
        let mut shard = place.command("merge run --select all -o out --shard 1/2").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let _ = shard.kill();
        shard.wait().unwrap();
        assert!(!place.path("out").exists());
    }
    does(&place, "merge run --select all -o out --shard 0/2");
    let mut finish = place.command("finish out --complete").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(15));
    let _ = finish.kill();
    finish.wait().unwrap();
    if !place.path("out").exists() {
        does(&place, "finish out --complete");
    }
    // killed after the very last step but one, the folder of the shards is left; nothing else
    let _ = fs::remove_dir_all(place.path(".out.mwa-shards"));
    assert_same(&place);
}

/// Killed after the merge had its place and before its shards were cleared away.
#[test]
#[cfg(unix)]
fn a_merge_that_is_there_is_finished_once_more() {
    let place = models();
    does(&place, "merge run --select all -o whole");
    for number in 0..2 {
        does(&place, &format!("merge run --select all -o out --shard {number}/2"));
    }
    let (claim, kept) = (place.path(".out.mwa-shards"), place.path("kept"));
    fs::create_dir(&kept).unwrap();
    for entry in fs::read_dir(&claim).unwrap() {
        let entry = entry.unwrap();
        fs::hard_link(entry.path(), kept.join(entry.file_name())).unwrap();
    }
    does(&place, "finish out");
    fs::rename(&kept, &claim).unwrap();
    let told = does(&place, "finish out --json");
    assert_eq!(told.trim(), String::from_utf8(place.read("out/mwa-report.json")).unwrap().trim());
    assert_same(&place);
    // another merge that was put there meanwhile is not taken for it
    does(&place, "merge run --select all -o out --force --shard 0/1");
    fs::remove_dir_all(place.path("out")).unwrap();
    does(&place, "merge run --last 1 -o out");
    does(&place, "finish out");
    assert_same(&place);
}

#[test]
fn two_at_once_do_one_merge() {
    let place = models();
    does(&place, "merge run --select all -o whole");
    let both = [0, 1, 0].map(|number| {
        place.command(&format!("merge run --select all -o out --shard {number}/2 --quiet")).spawn().unwrap()
    });
    for mut shard in both {
        assert!(shard.wait().unwrap().success());
    }
    does(&place, "finish out");
    assert_same(&place);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let place = models();
    assert_data_eq!(
        place.fails("finish out"),
        str![[r#"
error: out: no shards of a merge into it are here
help: first run mwa merge … --shard I/N for each of N shards, with this as their output

"#]]
    );
    does(&place, "merge run --select all -o out --shard 1/3");
    assert_data_eq!(
        place.fails("finish out"),
        str![[r#"
error: out: 2 of 3 shards are not done: 0/3, 2/3
help: run these with --shard, the options as before; or do all that is missing here: mwa finish out --complete

"#]]
    );
    let refused = |arguments: &str| place.fails(arguments);
    let differs = |options: &str| refused(&format!("merge run {options} -o out --shard 0/3"));
    let told = differs("--steps 10..20 --select all --plot");
    assert!(
        told.contains("merged with no --plot and no --steps, and this is with --plot and --steps 10,20"),
        "{told}"
    );
    let told = differs("");
    assert!(told.contains("merged with --select all, and this is with no --select"), "{told}");
    let told = refused("merge run/checkpoint-10 run/checkpoint-20 --select all -o out --shard 0/3");
    assert!(told.contains("its shards merge run, not run/checkpoint-10 run/checkpoint-20"), "{told}");
    assert_data_eq!(
        refused("merge run --select all -o out --shard 0/2"),
        str![[r#"
error: out: it is merged in 3 shards, not in 2
help: finish that with the mwa and the options that it was begun with, or give it up to begin anew: mwa finish out --abort

"#]]
    );
    assert_data_eq!(
        refused("merge run --select all --dtype bf16 -o out --shard 0/3"),
        str![[r#"
error: out: its shards are merged with no --dtype, and this is with --dtype bf16
help: finish that with the mwa and the options that it was begun with, or give it up to begin anew: mwa finish out --abort

"#]]
    );
    let file = place.path("run/checkpoint-20/model-00002-of-00002.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes).unwrap();
    let later = fs::File::options().write(true).open(&file).unwrap();
    later.set_modified(std::time::SystemTime::now() + Duration::from_secs(90)).unwrap();
    assert_data_eq!(
        refused("merge run --select all -o out --shard 0/3"),
        str![[r#"
error: out: its shards were begun when run/checkpoint-20/model-00002-of-00002.safetensors was another file
help: finish that with the mwa and the options that it was begun with, or give it up to begin anew: mwa finish out --abort

"#]]
    );
    does(&place, "finish out --abort");
    assert!(!place.path(".out.mwa-shards").exists());
}

/// A job that is put in line again after it has succeeded.
#[test]
fn what_is_finished_or_given_up_already_is_well() {
    let place = models();
    let told = does(&place, "finish out --abort");
    assert_eq!(told, "nothing to remove: no shards of a merge into out are here\n");
    does(&place, "merge run --select all -o out --shard 0/2");
    assert_eq!(does(&place, "finish out --abort"), "the shards of out are removed\n");
    assert_eq!(does(&place, "finish out --abort --json").trim(), "{\n  \"given_up\": false\n}");
    does(&place, "merge run --select all -o whole");
    does(&place, "merge run --select all -o out --shard 0/1");
    does(&place, "finish out");
    let before = place.tree();
    let again = place.mwa("finish out");
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert!(again.err.contains("note: out is merged already"), "{}", again.err);
    let report = String::from_utf8(place.read("out/mwa-report.json")).unwrap();
    assert_eq!(does(&place, "finish out --complete --json").trim(), report.trim());
    does(&place, "finish out --abort");
    place.assert_unchanged(&before);
    assert_same(&place);
    // what is no merge is not taken for one
    place.write("notes/notes.txt", "x");
    assert!(place.fails("finish notes").contains("no shards of a merge into it are here"));
}

#[test]
fn of_several_that_finish_at_once_all_end_well() {
    let place = models();
    does(&place, "merge run --select all -o whole");
    for wait in [0, 3, 10, 30] {
        does(&place, "merge run --select all -o out --shard 0/2");
        does(&place, "merge run --select all -o out --shard 1/2");
        let all = [0, 1, 2].map(|_| {
            std::thread::sleep(Duration::from_millis(wait));
            let mut finish = place.command("finish out --complete --quiet");
            finish.stderr(std::process::Stdio::piped()).spawn().unwrap()
        });
        for finish in all {
            let ran = finish.wait_with_output().unwrap();
            assert!(ran.status.success(), "{wait}: {}", String::from_utf8_lossy(&ran.stderr));
        }
        assert_same(&place);
        fs::remove_dir_all(place.path("out")).unwrap();
    }
}

/// Another merge took the place that shards are under way for: what is advised works.
#[test]
fn a_merge_in_the_way_of_shards_has_ways_out() {
    let place = models();
    does(&place, "merge run --select all -o whole");
    does(&place, "merge run --select all -o out --shard 0/2");
    does(&place, "merge run --last 1 -o out");
    let help = "help: move out away and do the same again, or keep it and give the shards up: mwa finish out --abort";
    for refused in ["merge run --select all -o out --shard 1/2", "finish out", "finish out --complete"] {
        let told = place.fails(refused);
        assert!(told.contains("error: out: exists already") && told.contains(help), "{told}");
    }
    fs::rename(place.path("out"), place.path("kept")).unwrap();
    does(&place, "merge run --select all -o out --shard 1/2");
    fs::rename(place.path("kept"), place.path("out")).unwrap();
    assert!(place.fails("finish out").contains(help));
    fs::rename(place.path("out"), place.path("kept")).unwrap();
    does(&place, "finish out");
    assert_same(&place);
    does(&place, "merge run --select all -o out --force --shard 0/1");
    does(&place, "finish out --abort");
    assert_same(&place);
}

#[test]
fn the_last_line_of_a_shard_s_progress_is_its_end() {
    let place = models();
    for shard in ["0/3", "1/3", "2/3"] {
        let ran =
            place.mwa(&format!("merge run --select all -o out --progress json --quiet --shard {shard}"));
        let last: Value = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
        assert!(last["bytes"].as_u64().unwrap() > 0 && last["bytes"] == last["total"], "{}", ran.err);
    }
}

#[test]
fn what_was_tampered_with_is_noticed() {
    let place = models();
    for number in 0..2 {
        does(&place, &format!("merge run --select all -o out --shard {number}/2"));
    }
    let data = place.read(".out.mwa-shards/0.data");
    let mut torn = data.clone();
    torn[500_000] ^= 1;
    place.write(".out.mwa-shards/0.data", torn);
    let fails = || {
        let ran = place.mwa("finish out");
        assert_eq!(ran.code, Some(1), "{}", ran.out);
        assert!(!place.path("out").exists());
        ran.err
    };
    let told = fails();
    assert!(told.contains("model-00001-of-00002.safetensors is not what its shards wrote"), "{told}");
    place.write(".out.mwa-shards/0.data", &data[..data.len() / 2]);
    let told = fails();
    assert!(
        told.contains(".out.mwa-shards/0.data: is not whole") && told.contains("mwa finish out --abort"),
        "{told}"
    );
    place.write(".out.mwa-shards/0.data", data);
    place.edit(".out.mwa-shards/shard-1.json", "\"tallied\":", "\"tallied\":1");
    let told = fails();
    assert!(told.contains("shard"), "{told}");
    place.write(".out.mwa-shards/shard-1.json", "{");
    let told = fails();
    assert!(told.contains("is not what a shard of this merge has found"), "{told}");
    fs::remove_file(place.path(".out.mwa-shards/shard-1.json")).unwrap();
    let report: Value = serde_json::from_str(&does(&place, "finish out --complete --json")).unwrap();
    assert_eq!(report["outputs"].as_array().unwrap().len(), 2);
    does(&place, "verify out");
}

#[test]
fn options_that_shards_cannot_have_are_refused_with_the_way_out() {
    let place = models();
    let fails = |options: &str| place.fails_with(2, &format!("merge run -o out {options}"));
    assert!(fails("--shard 0/2 --drop-bad").contains("name the checkpoints without the one"));
    assert!(fails("--shard 0/2 --format pt").contains("then use mwa convert"));
    assert!(fails("--shard 0/2 --device gpu").contains("shards are computed on CPUs"));
    let far = place.fails_with(2, "merge run -o s3://bucket/out --shard 0/2");
    assert!(far.contains("s3://bucket/out: lies in a store") && far.contains("leave out --shard"), "{far}");
    assert!(fails("--shard 2/2").contains("the shards of 2 are 0/2 to 1/2"));
    // what is read is not what is replaced
    place.merges("run");
    place.write("out/scores.csv", "step,f1\n10,1\n20,2\n");
    let named = "merge run -o out --force --metrics-file out/scores.csv --metric f1 --goal max";
    let plain = place.fails(named);
    assert_eq!(place.fails(&format!("{named} --shard 0/2")), plain);
    assert!(plain.contains("out/scores.csv") && place.path("out/scores.csv").is_file(), "{plain}");
}
