//! The first hour of somebody new: nothing says what is not so, and whoever types a letter wrong is told the right one.

use std::fs;
use std::process::Command;

use snapbox::{assert_data_eq, str};

use crate::adapter::{self, safetensors};
use crate::place::{Place, Ran};

/// Two runs whose adapters differ, with steps 10, 20 and 30 of the first and 5 and 10 of the second.
fn two_runs() -> Place {
    let place = Place::with_run();
    for (step, x) in [(5, 1.0), (10, 1.25)] {
        let folder = format!("other/checkpoint-{step}");
        place.checkpoint(&folder, &adapter::lora(x));
        place.log(&folder, &[format!(r#"{{"step": {step}, "eval_loss": {x}}}"#)]);
    }
    place
}

#[test]
fn a_model_s_config_says_the_dtype_that_is_written() {
    let place = Place::new();
    let config =
        r#"{"model_type": "llama", "torch_dtype": "float32", "vision_config": {"dtype": "float32"}}"#;
    for (step, x) in [(1, 1.0), (2, 2.0)] {
        let folder = format!("run/checkpoint-{step}");
        place.write(&format!("{folder}/model.safetensors"), safetensors(&adapter::lora(x)));
        place.write(&format!("{folder}/config.json"), config);
        place.log(&folder, &[""; 0]);
    }
    place.merges("run --metric step --select all --dtype bf16");
    let written = String::from_utf8(place.read("out/config.json")).unwrap();
    assert_eq!(written, config.replace("float32", "bfloat16"));
    // the report has the hash of what is there
    assert_eq!(place.mwa("verify out").code, Some(0));
    fs::remove_dir_all(place.path("out")).unwrap();
    place.merges("run --metric step --select all");
    assert_eq!(place.read("out/config.json"), config.as_bytes());
}

#[test]
fn of_several_runs_each_gives_its_own_newest_and_names_tell_them_apart() {
    let place = two_runs();
    for runs in ["run other", "other run"] {
        let Ran { code, out, err } = place.mwa(&format!("weights {runs} --metric step --last 1"));
        assert_eq!(code, Some(0), "{err}");
        let names =
            ["other/checkpoint-5 ", "other/checkpoint-10 ", "run/checkpoint-20 ", "run/checkpoint-30 "];
        assert_eq!(names.map(|name| out.contains(name)), [false, true, false, true], "{runs}: {out}");
    }
    assert_data_eq!(
        place.mwa("weights run other --metric step --steps 10..10").out,
        str![[r#"
chosen: run: 1 of 3 checkpoints, as selected; other: 1 of 2 checkpoints, as selected
checkpoint           step  step  from             weight
run/checkpoint-10      10    10  the step itself  0.5000  ████████████████████████
other/checkpoint-10    10    10  the step itself  0.5000  ████████████████████████
weights: linear, penalty 0.8, by step (higher is better), run_weights 0.5, 0.5

"#]]
    );
    assert_data_eq!(
        place.fails("merge run other --steps 10..10 --weights 1 -o out"),
        str![[r#"
error: there is 1 weight for 2 checkpoints: run/checkpoint-10, other/checkpoint-10
help: give one weight per checkpoint, in this order

"#]]
    );
}

#[test]
fn a_merge_in_a_run_folder_is_none_of_its_checkpoints() {
    let place = Place::with_run();
    assert_eq!(place.mwa("merge run -o run/merged").code, Some(0));
    place.write("base/model.safetensors", safetensors(&[adapter::f32s("q.weight", &[4, 4], &[0.5; 16])]));
    for command in ["convert run -o out", "apply run --base base -o out", "moments run -o out.safetensors"] {
        assert_data_eq!(
            place.fails(command),
            str![[r#"
error: run: holds checkpoints, and one checkpoint is wanted
help: give one of them, such as run/checkpoint-30, or what mwa merge makes of all

"#]]
        );
    }
    assert_eq!(place.mwa("convert run/merged -o out").code, Some(0));
    // what a trainer saved in the end is taken, and named
    place.checkpoint("run/final", &adapter::lora(0.5));
    assert_data_eq!(
        place.mwa("convert run -o last").err,
        str![[r#"
note: the weights in final are taken, and none of the checkpoints beside it in run

"#]]
    );
}

#[test]
fn a_run_that_is_far_worse_is_told_with_what_to_do() {
    let place = two_runs();
    for (step, loss) in [(5, 40.0), (10, 39.0)] {
        place.log(
            &format!("other/checkpoint-{step}"),
            &[format!(r#"{{"step": {step}, "eval_loss": {loss}}}"#)],
        );
    }
    let told = "by eval_loss other is far worse than run (its best checkpoint than the worst of run), so a merge of both will \
                hardly be better than one of run alone";
    for command in ["weights run other", "merge run other --space product -o out"] {
        let ran = place.mwa(&format!("{command} --select all"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.out.contains(&format!("advice: {told}\n")), "{command}: {}", ran.out);
    }
    let report: serde_json::Value = serde_json::from_slice(&place.read("out/mwa-report.json")).unwrap();
    assert_eq!(report["advice"][0]["text"], told);
    let card = String::from_utf8(place.read("out/README.md")).unwrap();
    assert!(card.contains("What to expect: by eval_loss other"), "{card}");
    assert!(!place.mwa("weights run --select all").out.contains("far worse"));
}

#[test]
fn what_was_probably_meant_is_said_of_paths_options_and_values() {
    let place = Place::with_run();
    assert_data_eq!(
        place.fails("weights rum"),
        str![[r#"
error: rum: does not exist
help: did you mean run?

"#]]
    );
    assert_data_eq!(
        place.fails("merge run/checkpiont-20 -o out"),
        str![[r#"
error: run/checkpiont-20: does not exist
help: did you mean run/checkpoint-20?

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "weights run --penlty 1"),
        str![[r#"
error: unexpected argument '--penlty' found

  tip: a similar argument exists: '--penalty'

Usage: mwa weights --penalty <P> <RUN|CHECKPOINT|FILE>...

For more information, try '--help'.

"#]]
    );
    assert_data_eq!(
        place.fails_with(2, "weights run --last -1"),
        str![[r#"
error: invalid value '-1' for '--last <N>': it must be a whole number from 1 on

For more information, try '--help'.

"#]]
    );
    assert_data_eq!(
        place.fails("verify nosuch"),
        str![[r#"
error: nosuch: does not exist
help: verify takes a folder that mwa wrote, with its report

"#]]
    );
}

#[test]
fn notes_come_after_the_result_each_once_and_three_lines_at_most() {
    let place = Place::with_run();
    place.checkpoint("run", &adapter::lora(0.75));
    place.checkpoint("run/checkpoint-20-merged", &adapter::lora(0.75));
    let many = "weights run run/checkpoint-30 run/checkpoint-20 --scheme uniform --penalty 0.5 --select all";
    assert_data_eq!(
        place.mwa(many).err,
        str![[r#"
note: run: the model saved in the run folder itself is left out; it usually repeats one of the checkpoints
note: run: left out, not named like checkpoints: checkpoint-20-merged
note: there are 3 more notes; --verbose shows them

"#]]
    );
    assert_data_eq!(
        place.mwa(&format!("{many} --verbose")).err,
        str![[r#"
note: run: the model saved in the run folder itself is left out; it usually repeats one of the checkpoints
note: run: left out, not named like checkpoints: checkpoint-20-merged
note: run/checkpoint-30 is named twice; it counts once
note: run/checkpoint-20 is named twice; it counts once
note: uniform has no penalty: 0.5 is not used

"#]]
    );
    let both = Ran::of(
        Command::new("sh")
            .args(["-c", &format!("{} {many} 2>&1", env!("CARGO_BIN_EXE_mwa"))])
            .current_dir(place.path("")),
    );
    let at = |text: &str| both.out.find(text).unwrap_or_else(|| panic!("{text}: {}", both.out));
    assert!(at("weights: uniform") < at("note: "));
    // twice the whole run is one note
    assert_data_eq!(
        Place::with_run().mwa("weights run run --select all").err,
        str![[r#"
note: 3 checkpoints are named twice, from run/checkpoint-10 to run/checkpoint-30; each counts once

"#]]
    );
}

#[test]
fn a_finished_adapter_is_told_from_a_run() {
    let place = Place::new();
    place.checkpoint("finished", &adapter::lora(1.0));
    assert_data_eq!(
        place.merges("finished").err,
        str![[r#"
note: finished is one checkpoint: there is nothing to average, and its files are copied as they are; to merge, choose several

"#]]
    );
}

#[test]
fn files_named_alone_bring_the_config_beside_them() {
    let place = Place::with_run();
    let file = |step| format!("run/checkpoint-{step}/adapter_model.safetensors");
    place.merges(&format!("{} {} --weights 1,1", file(10), file(20)));
    assert_eq!(place.read("out/adapter_config.json"), place.read("run/checkpoint-20/adapter_config.json"));
}

#[test]
fn pictures_show_the_choice_and_stand_in_the_card() {
    let place = Place::with_run();
    let ran = place.mwa("weights run --plot weights.svg");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let picture = String::from_utf8(place.read("weights.svg")).unwrap();
    assert!(picture.starts_with("<svg ") && picture.len() < 8000, "{picture}");
    assert_eq!(picture.matches("class=\"bar\"").count(), 2);
    assert!(picture.contains("<title>checkpoint-20: weight 0.8333</title>"), "{picture}");
    assert!(picture.contains("prefers-color-scheme: dark") && !picture.contains("http://www.w3.org/1999"));

    place.merges("run --plot");
    assert_eq!(String::from_utf8(place.read("out/mwa-weights.svg")).unwrap(), picture);
    let card = String::from_utf8(place.read("out/README.md")).unwrap();
    assert!(card.contains("](mwa-weights.svg)"), "{card}");
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}", verified.out);
    // a merge without a picture replaces one with it
    assert_eq!(place.mwa("merge run -o out --force").code, Some(0));
    assert!(!place.path("out/mwa-weights.svg").exists());

    assert_data_eq!(
        place.fails_with(2, "weights run --plot run/checkpoint-10/adapter_model.safetensors"),
        str![[r#"
error: run/checkpoint-10/adapter_model.safetensors: is not the name of an SVG file
help: give --plot a name that ends in .svg

"#]]
    );
}

#[test]
fn manual_pages_are_one_for_each_command() {
    let place = Place::new();
    assert_eq!(place.mwa("man --output pages").code, Some(0));
    let mut names: Vec<_> = fs::read_dir(place.path("pages"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.contains(&"mwa.1".to_owned()) && names.contains(&"mwa-merge.1".to_owned()), "{names:?}");
    assert_eq!(place.mwa("man merge").out.as_bytes(), place.read("pages/mwa-merge.1"));
    assert!(place.mwa("man merge").out.contains("\\-\\-penalty"));
    assert!(
        place
            .fails_with(2, "man murge")
            .contains("pages are there for merge, finish, search, weights, inspect, convert")
    );
}

#[cfg(unix)]
#[test]
fn drivers_call_nothing_an_error_in_a_merge_that_succeeds() {
    let place = Place::with_run();
    let mut command = place.command("merge run -o out --device gpu");
    let ran = Ran::of(command.env_remove("XDG_RUNTIME_DIR"));
    if ran.code != Some(0) {
        assert!(ran.err.starts_with("error: gpu: "), "{}", ran.err);
        eprintln!("ignored: {}", ran.err);
        return;
    }
    assert!(!ran.err.contains("error:"), "{}", ran.err);
}

/// Whatever compares all checkpoints with each other drops none of several runs in silence.
#[test]
fn of_several_runs_none_is_dropped_in_silence() {
    let place = two_runs();
    for (how, out) in [("--method median", "a"), ("--scheme krum", "b")] {
        let err = place.fails_with(2, &format!("merge run other {how} -o {out}"));
        assert!(err.contains("there are 2 runs") && err.contains("--select all"), "{err}");
        // what it advises takes them all
        let ran = place.mwa(&format!("merge run other {how} --select all -o {out}"));
        assert_eq!(ran.code, Some(0), "{how}: {}", ran.err);
        assert!(
            ran.out.contains("other/checkpoint-5") && ran.out.contains("run/checkpoint-30"),
            "{}",
            ran.out
        );
    }
}

/// Of several metrics each has its own goal; one for all would turn those around whose names tell theirs.
#[test]
fn the_goal_of_one_metric_turns_no_other_around() {
    let place = Place::with_run();
    for (step, loss, score) in [(10, 3.0, 3.0), (20, 1.0, 2.0), (30, 2.0, 1.0)] {
        let line = format!(r#"{{"step": {step}, "eval_loss": {loss}, "entropy": {score}}}"#);
        place.log(&format!("run/checkpoint-{step}"), &[line]);
    }
    let err = place.fails("weights run --metric eval_loss,entropy");
    assert!(err.contains("say so of that one: entropy:min or entropy:max"), "{err}");
    let err = place.fails_with(2, "weights run --metric eval_loss,entropy --goal max");
    assert!(err.contains("option goal is for one metric"), "{err}");
}

/// Advice that a command gives, it takes.
#[test]
fn an_output_that_exists_is_told_without_an_option_that_is_not_there() {
    let place = Place::with_run();
    place.write("there/mine.txt", "mine");
    let err = place.fails("convert run/checkpoint-10 --format mlx -o there");
    assert!(err.contains("choose another output folder") && !err.contains("--force"), "{err}");
    let err = place.fails("convert run/checkpoint-10 --format mlx -o run/checkpoint-10/mlx");
    assert!(err.contains("lies in the checkpoint run/checkpoint-10"), "{err}");
    // a run where one checkpoint is wanted is told as what it is
    let err = place.fails("convert run --format mlx -o mlx");
    assert!(
        err.contains("holds checkpoints, and one checkpoint is wanted") && err.contains("run/checkpoint-"),
        "{err}"
    );
}

/// A folder that is named after a step and holds weights is somebody's checkpoint, whether it is read or not.
#[test]
fn nothing_is_written_into_checkpoints_that_nobody_named() {
    let place = Place::with_run();
    place.checkpoint("other/checkpoint-5", &adapter::lora(1.0));
    for arguments in [
        "weights run --plot other/checkpoint-5/weights.svg",
        "merge run -o other/checkpoint-5/merged",
        "convert run/checkpoint-10 --format mlx -o other/checkpoint-5/deep/mlx",
        "aggregate run/checkpoint-10 run/checkpoint-20 -o other/checkpoint-5/next",
    ] {
        let err = place.fails(arguments);
        assert!(err.contains("lies in the checkpoint other/checkpoint-5"), "{arguments}: {err}");
    }
    // beside them is fine, and so is a folder that is only named like one
    place.write("step_3/notes.txt", "mine");
    assert_eq!(place.mwa("merge run -o other/merged").code, Some(0));
    assert_eq!(place.mwa("merge run -o step_3/merged").code, Some(0));
}

#[test]
fn a_picture_is_drawn_over_pictures_of_mwa_alone_and_it_is_said_where() {
    let place = Place::with_run();
    place.write("mine.svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"><text>mine</text></svg>");
    let err = place.fails("weights run --plot mine.svg");
    assert!(err.contains("mine.svg: exists already, and is no picture of mwa"), "{err}");
    for _ in 0..2 {
        let ran = place.mwa("weights run --plot w.svg");
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.out.ends_with("drawn in w.svg\n"), "{}", ran.out);
    }
    let json = place.mwa("weights run --plot w.svg --json").out;
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
}

/// What is given and says nothing is refused, like any other contradiction.
#[test]
fn options_that_say_nothing_where_they_are_given_are_refused() {
    let place = Place::with_run();
    for (arguments, says) in [
        ("weights run --combine borda", "option combine is for several metrics, and there is only eval_loss"),
        (
            "weights run --scheme uniform --select all --combine borda",
            "option combine is for several metrics, and none is read",
        ),
        (
            "weights run --smooth 4",
            "option smooth is for metrics that were logged while training, and eval_loss is none",
        ),
        ("merge run --weights-key model_avg -o out", "and none here holds `model_avg`"),
        (
            "weights run --scheme krum --select all --penalty 0.8",
            "option penalty says nothing to the scheme krum",
        ),
        ("convert run/checkpoint-10 --key model -o out", "option key says nothing to the format safetensors"),
        ("convert run/checkpoint-10 --base run -o out", "option base says nothing to the format safetensors"),
        (
            "convert run/checkpoint-10 --format peft --model sdxl -o out",
            "option model says nothing to the format peft",
        ),
        (
            "aggregate run/checkpoint-10 run/checkpoint-20 --period 2 -o out",
            "--period says nothing to the rule fedavg",
        ),
    ] {
        let err = place.fails_with(2, arguments);
        assert!(
            err.contains(says) && err.contains("leave") | err.contains("name them"),
            "{arguments}: {err}"
        );
    }
}

/// Whatever mwa itself writes or reads elsewhere, it knows again.
#[test]
fn inspect_says_what_folders_are_that_hold_no_checkpoint() {
    let place = Place::with_run();
    place.write("gguf/a.gguf", include_bytes!("data/plain.gguf"));
    place.write("gguf/b.gguf", include_bytes!("data/plain.gguf"));
    for part in ["unet/diffusion_pytorch_model", "text_encoder/model"] {
        place.write(&format!("image/{part}.safetensors"), safetensors(&adapter::lora(1.0)));
    }
    for (step, x) in [(1, 1.0), (2, 2.0), (3, 3.0)] {
        place.write(&format!("m{step}/model.safetensors"), safetensors(&adapter::lora(x)));
    }
    for arguments in ["masks m2 m3 --base m1 -o kept", "aggregate m2 m3 --base m1 --partial -o sum"] {
        let ran = place.mwa(arguments);
        assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
    }
    for (folder, says) in [
        ("gguf", "a folder of GGUF files: a.gguf and 1 more"),
        ("image", "an image model of several parts"),
        ("kept", "what mwa masks keeps of several models"),
        ("sum", "an exact sum of clients"),
    ] {
        let ran = place.mwa(&format!("inspect {folder}"));
        assert_eq!(ran.code, Some(0), "{folder}: {}", ran.err);
        assert!(ran.out.contains(says), "{folder}: {}", ran.out);
    }
    for (folder, says) in [
        ("gguf", "mwa merge gguf/a.gguf gguf/b.gguf -o OUT"),
        ("image", "mwa merge image/text_encoder OTHER/text_encoder -o OUT"),
        ("kept", "mwa masks apply FOLDER --task NAME -o OUT"),
        ("sum", "mwa aggregate SUM -o OUT"),
    ] {
        let err = place.fails(&format!("merge {folder} -o out"));
        assert!(err.contains(says), "{folder}: {err}");
    }
}

#[test]
fn a_merge_named_as_a_checkpoint_of_its_run_is_no_part_of_it() {
    let place = Place::with_run();
    let before = place.mwa("weights run").out;
    assert_eq!(place.mwa("merge run -o run/checkpoint-40").code, Some(0));
    let after = place.mwa("weights run");
    assert_eq!((after.out, after.err.contains("checkpoint-40")), (before, false));
}

#[test]
fn epochs_of_kohya_belong_together_though_their_run_has_no_name() {
    let place = Place::with_run();
    for (epoch, step) in [(2, 10), (4, 20), (6, 30)] {
        let adapter = place.read(&format!("run/checkpoint-{step}/adapter_model.safetensors"));
        place.write(&format!("kohya/last-{epoch:06}.safetensors"), &adapter);
        place.write("kohya/last.safetensors", &adapter);
    }
    let ran = place.mwa("merge kohya --select all -o out");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.out.contains("last-000002.safetensors") && ran.out.contains("merged 3 checkpoints"),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("left out, not named like checkpoints: last.safetensors"), "{}", ran.err);
}

#[test]
fn commands_that_are_offered_can_be_typed() {
    let place = Place::with_run();
    for (name, step) in [("it's one", 10), ("two", 20)] {
        let adapter = place.read(&format!("run/checkpoint-{step}/adapter_model.safetensors"));
        place.write(&format!("some of mine/{name}/adapter_model.safetensors"), &adapter);
    }
    let told = Command::new(env!("CARGO_BIN_EXE_mwa"))
        .args(["merge", "some of mine", "-o", "out"])
        .current_dir(place.path("."))
        .output()
        .unwrap();
    let told = String::from_utf8(told.stderr).unwrap();
    let line = r"mwa merge 'some of mine/it'\''s one' 'some of mine/two' -o OUT";
    assert!(told.contains(line), "{told}");
}

#[test]
fn what_the_log_says_diverged_is_no_part_of_any_mean() {
    let place = Place::with_run();
    let losses = ["0.9", "0.8", "NaN"].iter().zip([10, 20, 30]);
    let log: Vec<_> =
        losses.map(|(loss, step)| format!(r#"{{"step": {step}, "eval_loss": {loss}}}"#)).collect();
    place.log("run/checkpoint-30", &log);
    for options in ["", "--scheme uniform", "--scheme ema --last 2", "--last 2"] {
        let told = place.fails(&format!("merge run -o out {options}"));
        assert!(told.contains("checkpoints must not be averaged: checkpoint-30"), "{options}: {told}");
        let told = place.mwa(&format!("weights run --drop-bad {options}"));
        assert_eq!(told.code, Some(0), "{options}: {}", told.err);
        let has = |step: &str| told.out.contains(&format!("checkpoint-{step} "));
        assert_eq!((has("20"), has("30")), (true, false), "{options}: {}", told.out);
        assert!(!options.contains("--last") || has("10"), "another takes its place: {}", told.out);
    }
}
