//! Runs in memory: what is found in them, left out of them and said of them, by a store that has all and by one that must
//! be asked again.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::dtype::Dtype;
use crate::files::memory::Memory;
use crate::files::{Kind, Stop};
use crate::format::safetensors::{Header, Safetensors};
use crate::logs::kind::LogKind;

const READERS: Readers = Readers { formats: &[&Safetensors], logs: LogKind::ALL };
const CONFIG: &str =
    r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q"], "task_type": "CAUSAL_LM"}"#;

/// A file with one tensor, and metadata.
fn file(name: &str, values: &[f32], metadata: &[(&str, &str)]) -> Vec<u8> {
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let tensor = (name.to_owned(), Dtype::F32, [values.len() as u64].into());
    let head = Header::layout([tensor], metadata.into()).unwrap();
    let data = values.iter().flat_map(|value| value.to_le_bytes());
    head.to_bytes().into_iter().chain(data).collect()
}

/// Add a checkpoint of an adapter.
fn checkpoint(files: &mut Memory, path: &str) {
    files.write(&format!("{path}/adapter_model.safetensors"), file("q.lora_A.weight", &[1.0, 2.0], &[]));
    files.write(&format!("{path}/adapter_config.json"), CONFIG);
}

/// Add a checkpoint's own log, with a loss of 1/step for each ten steps.
fn log(files: &mut Memory, path: &str, step: u64) {
    let records = (1..=step / 10).map(|i| format!(r#"{{"step": {}, "loss": {}}}"#, i * 10, 1.0 / i as f64));
    let records: Vec<_> = records.collect();
    let text = format!(r#"{{"global_step": {step}, "log_history": [{}]}}"#, records.join(","));
    files.write(&format!("{path}/trainer_state.json"), text);
}

/// A run of three checkpoints.
fn run() -> Memory {
    let mut files = Memory::default();
    for step in [10, 20, 100] {
        checkpoint(&mut files, &format!("run/checkpoint-{step}"));
        log(&mut files, &format!("run/checkpoint-{step}"), step);
    }
    files
}

/// Open by a store that has all, and again by one that must be asked again: both find the same.
fn open(files: &Memory, paths: &[&str]) -> Result<Run> {
    open_adapter(files, paths, None)
}

fn open_adapter(files: &Memory, paths: &[&str], adapter: Option<&str>) -> Result<Run> {
    let paths: Vec<_> = paths.iter().map(|path| path.to_string()).collect();
    let options = OpenOptions { adapter: adapter.map(str::to_owned), ..OpenOptions::default() };
    let at_once = match Run::open(files, &READERS, &paths, &options) {
        Ok(run) => Ok(run),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Later) => panic!("this store has all"),
    };
    let asked = Memory {
        files: files.files.clone(),
        refused: files.refused.clone(),
        odd: files.odd.clone(),
        asks_again: true,
        ..Memory::default()
    };
    let mut rounds = 0;
    let at_last = loop {
        match Run::open(&asked, &READERS, &paths, &options) {
            Ok(run) => break Ok(run),
            Err(Stop::Failed(error)) => break Err(error),
            Err(Stop::Later) => rounds += 1,
        }
        // heads, configs, logs: not one round for each checkpoint
        assert!(rounds < 8, "everything is asked for before the first answer is awaited");
    };
    assert_eq!(told(&at_once), told(&at_last));
    at_once
}

/// The newest three, weighed by their training loss.
fn by_loss() -> WeighOptions {
    let mut options = WeighOptions::default();
    options.choose.select.last = Some(3);
    options.choose.metric.name = Some("loss".to_owned());
    options
}

/// All that a run tells.
fn told(run: &Result<Run>) -> String {
    match run {
        Err(error) => format!("error: {error}\nhelp: {}", error.advice().unwrap_or_default()),
        Ok(run) => {
            let named = run.checkpoints.iter().map(|it| format!("{} {:?}\n", it.name, it.step));
            named.chain(run.notes.iter().map(|note| format!("note: {note}\n"))).collect()
        }
    }
}

#[test]
fn checkpoints_of_a_run_come_by_step() {
    let run = open(&run(), &["run"]);
    assert_eq!(
        told(&run),
        "run/checkpoint-10 Some(10)\nrun/checkpoint-20 Some(20)\nrun/checkpoint-100 Some(100)\n"
    );
    let run = run.unwrap();
    assert!(run.searched);
    let weighed = run.weigh(&by_loss()).unwrap();
    assert_eq!(weighed.indexes, [0, 1, 2]);
    assert_eq!(weighed.weighting.metric.as_deref(), Some("loss"));
    assert!(weighed.weights.values()[2] > weighed.weights.values()[0]);
}

#[test]
fn weighing_again_needs_no_file() {
    let run = open(&run(), &["run"]).unwrap();
    let only = WeighOptions {
        checkpoints: Some(["run/checkpoint-20".to_owned()].into()),
        ..WeighOptions::default()
    };
    assert_eq!(run.weigh(&only).unwrap().indexes, [1]);
    let odd = WeighOptions { checkpoints: Some(["x".to_owned()].into()), ..WeighOptions::default() };
    let refused = run.weigh(&odd).unwrap_err();
    assert_eq!(refused.detail(), "there is no checkpoint `x`");
    let help = "name checkpoints as they were found, with the path of their run, such as run/checkpoint-10";
    assert_eq!(refused.advice(), Some(help));
    let without = WeighOptions { excluded: [2].into(), ..WeighOptions::default() };
    assert_eq!(run.weigh(&without).unwrap().indexes, [0, 1]);
    let table = UserTable {
        name: "scores.csv".into(),
        text: "checkpoint,score\ncheckpoint-10,1\ncheckpoint-20,3\ncheckpoint-100,2\n".into(),
    };
    let by_table = WeighOptions { table: Some(table), ..WeighOptions::default() };
    let error = run.weigh(&by_table).unwrap_err();
    assert_eq!((error.kind(), error.at_file()), (ErrorKind::Metric, Some("scores.csv")));
}

#[test]
fn a_checkpoint_without_the_log_that_others_have_is_left_out() {
    let mut files = run();
    checkpoint(&mut files, "run/checkpoint-200");
    let found = open(&files, &["run"]).unwrap();
    assert_eq!(found.checkpoints.len(), 3);
    assert_eq!(
        found.notes,
        ["run/checkpoint-200 is left out: it has no trainer_state.json, so its save was interrupted"]
    );
    assert_eq!(found.broken[0].0, "run/checkpoint-200");
    assert_eq!(
        told(&open(&files, &["run/checkpoint-10", "run/checkpoint-200"])),
        "error: run/checkpoint-200: has no trainer_state.json, though its neighbours have: its save was interrupted\n\
         help: leave it out"
    );
}

#[test]
fn bad_content_is_left_out_but_a_failing_disk_is_an_error() {
    let mut files = run();
    files.write("run/checkpoint-20/adapter_model.safetensors", *b"short");
    let found = open(&files, &["run"]).unwrap();
    assert_eq!(found.checkpoints.len(), 2);
    assert!(found.notes[0].contains("is only 5 bytes long"), "{:?}", found.notes);
    for refused in [
        "run/checkpoint-20",
        "run/checkpoint-20/adapter_model.safetensors",
        "run/checkpoint-20/adapter_config.json",
        "run/checkpoint-20/trainer_state.json",
    ] {
        let files = Memory { refused: [refused.to_owned()].into(), ..run() };
        let opened = open(&files, &["run"]);
        let error = opened.expect_err(refused);
        assert_eq!((error.kind(), error.at_file()), (ErrorKind::Io, Some(refused)));
    }
}

#[test]
fn a_link_to_nowhere_is_an_error() {
    let mut files = run();
    files.odd.push(("run/checkpoint-1000".into(), Kind::Missing));
    assert_eq!(
        told(&open(&files, &["run"])),
        "error: run/checkpoint-1000: is a link to something that is not there\nhelp: mount or download what it leads to, or remove \
         the link"
    );
}

#[test]
fn pipes_are_refused_wherever_they_lie() {
    for path in ["adapter_model.safetensors", "adapter_config.json", "trainer_state.json"] {
        let path = format!("run/checkpoint-20/{path}");
        let mut files = run();
        files.files.retain(|(known, _)| *known != path);
        files.odd.push((path.clone(), Kind::Other));
        let error = match open(&files, &["run/checkpoint-20"]) {
            Err(error) => error,
            Ok(run) => run.weigh(&WeighOptions::default()).expect_err(&path),
        };
        assert_eq!(error.to_string(), format!("{path}: is neither a file nor a folder"));
    }
    let mut files = Memory::default();
    files.write("c/model.safetensors.index.json", r#"{"weight_map": {"w": "pipe"}}"#);
    files.odd.push(("c/pipe".into(), Kind::Other));
    assert_eq!(open(&files, &["c"]).unwrap_err().to_string(), "c/pipe: is neither a file nor a folder");
}

#[test]
fn one_place_counts_once() {
    let found = open(&run(), &["run", "run/checkpoint-20"]).unwrap();
    assert_eq!((found.checkpoints.len(), found.searched), (3, false));
    assert_eq!(found.notes, ["run/checkpoint-20 is named twice; it counts once"]);
}

#[test]
fn what_lies_beside_is_told() {
    let mut files = run();
    checkpoint(&mut files, "run");
    checkpoint(&mut files, "run/checkpoint-20-merged");
    checkpoint(&mut files, "run/checkpoint-10/second");
    assert_eq!(
        open(&files, &["run"]).unwrap().notes,
        [
            "run: the model saved in the run folder itself is left out; it usually repeats one of the checkpoints",
            "run: left out, not named like checkpoints: checkpoint-20-merged",
            "other adapters in the checkpoints are left out: second (choose one with --adapter)",
        ]
    );
    let second = open_adapter(&files, &["run/checkpoint-10"], Some("second")).unwrap();
    assert_eq!(second.checkpoints[0].folder.as_deref(), Some("run/checkpoint-10/second"));
    for (adapter, expected) in [
        ("third", "run/checkpoint-10: has no weights in a folder `third`; folders with weights: second"),
        ("../second", "`../second` is not a folder inside the checkpoints"),
    ] {
        let error = open_adapter(&files, &["run/checkpoint-10"], Some(adapter)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_folder_of_runs_is_no_run() {
    let mut files = Memory::default();
    checkpoint(&mut files, "all/first/checkpoint-1");
    assert_eq!(
        told(&open(&files, &["all"])),
        "error: all: is not a run, but holds runs\nhelp: name one of them: all/first"
    );
    assert_eq!(told(&open(&files, &["none"])).lines().next(), Some("error: none: does not exist"));
    assert_eq!(told(&open(&files, &[])).lines().next(), Some("error: no checkpoint was named"));
}

#[test]
fn relora_is_refused() {
    let mut files = run();
    files.write("run/checkpoint-20/relora/x", "");
    assert!(open(&files, &["run"]).unwrap_err().detail().contains("ReLoRA"));
}

#[test]
fn a_deepspeed_state_makes_no_run_of_a_checkpoint() {
    let mut files = run();
    files.write("run/checkpoint-20/global_step20/mp_rank_00_model_states.pt", "");
    assert_eq!(open(&files, &["run/checkpoint-20"]).unwrap().checkpoints.len(), 1);
}

#[test]
fn shards_are_opened_by_their_index() {
    let mut files = Memory::default();
    files.write("c/one.safetensors", file("a", &[1.0], &[]));
    files.write("c/two.safetensors", file("b", &[2.0, 3.0], &[]));
    files.write(
        "c/model.safetensors.index.json",
        r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#,
    );
    let names: Vec<_> =
        open(&files, &["c"]).unwrap().checkpoints[0].files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(names, ["c/one.safetensors", "c/two.safetensors"]);
    files.files.retain(|(path, _)| path != "c/two.safetensors");
    assert_eq!(
        told(&open(&files, &["c"])),
        "error: c/model.safetensors.index.json: names the shard two.safetensors, which is missing\n\
         help: download or copy the rest of the checkpoint"
    );
}

#[test]
fn steps_come_from_one_source() {
    // kohya: epochs in the names, the last file without a number, and true steps in all of them
    let mut files = Memory::default();
    for (name, step) in [("style-000004", "190"), ("style-000008", "380"), ("style", "760")] {
        files.write(&format!("{name}.safetensors"), file("w", &[1.0], &[("ss_steps", step)]));
    }
    let named = ["style-000004.safetensors", "style-000008.safetensors", "style.safetensors"];
    let steps = |files: &Memory| {
        let run = open(files, &named).unwrap();
        run.checkpoints.iter().map(|it| it.step).collect::<Vec<_>>()
    };
    assert_eq!(steps(&files), [Some(190), Some(380), Some(760)]);
    // one of them does not say: the names count, and what has no number has no step
    files.write("style-000004.safetensors", file("w", &[1.0], &[]));
    assert_eq!(steps(&files), [Some(4), Some(8), None]);
}

#[test]
fn what_files_hold_counts_before_their_names_unless_their_log_counts_epochs() {
    let mut files = Memory::default();
    for (epoch, step) in [(9, "900"), (10, "1000")] {
        files.write(&format!("exp/{epoch}.safetensors"), file("w", &[1.0], &[("ss_steps", step)]));
    }
    let steps = |files: &Memory| {
        open(files, &["exp"]).unwrap().checkpoints.iter().map(|it| it.step.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(steps(&files), [900, 1000]);
    files.write("exp/9.yaml", "epoch: 9\ncv_loss: 0.5\n");
    assert_eq!(steps(&files), [9, 10]);
}

#[test]
fn a_run_without_a_log_says_where_none_was_found() {
    let mut files = Memory::default();
    checkpoint(&mut files, "checkpoint-10");
    checkpoint(&mut files, "checkpoint-20");
    let error = open(&files, &["checkpoint-10", "checkpoint-20"]).unwrap().weigh(&by_loss()).unwrap_err();
    assert_eq!((error.kind(), error.at_file()), (ErrorKind::Metric, Some(".")));
    assert_eq!(error.detail(), "there is no metric `loss`: this run logged no metrics");
    assert_eq!(error.advice(), Some("use --metric step, or give your own with --metrics-file"));
}

#[test]
fn what_is_chosen_keeps_what_was_said_of_it() {
    let mut files = run();
    for step in [10, 20, 100] {
        let path = format!("run/checkpoint-{step}/second");
        checkpoint(&mut files, &path);
    }
    let run = open_adapter(&files, &["run"], Some("second")).unwrap();
    let weighed = run.weigh(&WeighOptions::default()).unwrap();
    let (selected, advice, notes) = (weighed.selected.clone(), weighed.advice.clone(), weighed.notes.clone());
    assert!(!advice.is_empty() && !notes.is_empty(), "three are few, and nothing was evaluated");
    let chosen = run.chosen(weighed);
    assert_eq!((chosen.selected, chosen.advice, chosen.notes), (Some(selected), advice, notes));
    assert_eq!(chosen.adapter.as_deref(), Some("second"));
    assert_eq!(chosen.inputs[0].files[0].name, "adapter_model.safetensors");
    assert_eq!(chosen.rows[0].files[0].name, "adapter_model.safetensors");
}

#[test]
fn loose_files_keep_the_name_that_they_share() {
    let mut files = Memory::default();
    for path in ["a/w.safetensors", "b/w.safetensors", "b/x.safetensors"] {
        files.write(path, file("w", &[1.0], &[]));
    }
    let name = |paths: &[&str]| {
        let run = open(&files, paths).unwrap();
        let mut options = WeighOptions::default();
        options.choose.rule = crate::weigh::choose::WeightRule::Explicit([1.0, 1.0].into());
        run.chosen(run.weigh(&options).unwrap()).inputs[0].files[0].name.clone()
    };
    assert_eq!(name(&["a/w.safetensors", "b/w.safetensors"]), "w.safetensors");
    assert_eq!(name(&["a/w.safetensors", "b/x.safetensors"]), "merged.safetensors");
}

#[test]
fn files_of_a_trainer_tell_their_losses_and_the_way_back_to_their_own_kind() {
    let state = include_bytes!("../../tests/data/torch/icefall-epoch-3.pt");
    let mut files = Memory::default();
    for epoch in [3, 4] {
        files.write(&format!("exp/epoch-{epoch}.pt"), state.to_vec());
    }
    let paths = ["exp".to_owned()];
    let Ok(run) = Run::open(&files, &Readers::ALL, &paths, &OpenOptions::default()) else {
        panic!("this store has all, and all can be read")
    };
    let chosen = run.chosen(run.weigh(&WeighOptions::default()).unwrap());
    assert_eq!(chosen.weighting.metric.as_deref(), Some("eval_loss"));
    let way = chosen.notes.last().map(String::as_str);
    let expected = "the weights are written as merged.safetensors; mwa merge with --format pt makes a file like epoch-4.pt of them";
    assert_eq!(way, Some(expected));
}

#[test]
fn a_renamed_checkpoint_has_the_step_of_its_own_log() {
    let mut files = Memory::default();
    for (name, step) in [("epoch1", 100), ("epoch2", 200), ("best", 300)] {
        checkpoint(&mut files, name);
        log(&mut files, name, step);
    }
    let run = open(&files, &["epoch1", "epoch2", "best"]).unwrap();
    assert_eq!(
        run.checkpoints.iter().map(|it| it.step).collect::<Vec<_>>(),
        [Some(100), Some(200), Some(300)]
    );
    let weighed = run.weigh(&by_loss()).unwrap();
    assert_eq!(weighed.weighting.metric.as_deref(), Some("loss"));
}

#[test]
fn logs_of_lines_are_read_where_there_are_no_states() {
    let mut files = Memory::default();
    for step in [10, 20] {
        checkpoint(&mut files, &format!("run/checkpoint-{step}"));
    }
    files.write("run/logging.jsonl", "{\"step\": 10, \"loss\": 2.0}\n{\"step\": 20, \"loss\": 1.0}\n");
    let run = open(&files, &["run"]).unwrap();
    assert_eq!(run.weigh(&by_loss()).unwrap().weighting.metric.as_deref(), Some("loss"));
    log(&mut files, "run/checkpoint-10", 10);
    log(&mut files, "run/checkpoint-20", 20);
    files.write("run/logging.jsonl", "not read");
    let run = open(&files, &["run"]).unwrap();
    assert_eq!(run.weigh(&by_loss()).unwrap().weighting.metric.as_deref(), Some("loss"));
}

#[test]
fn a_damaged_log_is_an_error_where_it_is_needed() {
    let mut files = run();
    files.write("run/checkpoint-20/trainer_state.json", "{\"global_st");
    let run = open(&files, &["run"]).unwrap();
    let error = run.weigh(&WeighOptions::default()).unwrap_err();
    assert_eq!(error.at_file(), Some("run/checkpoint-20/trainer_state.json"));
    assert!(error.advice().unwrap().contains("its save may have been cut short"));
    let mut uniform = WeighOptions::default();
    uniform.choose.rule = crate::weigh::choose::WeightRule::Explicit([1.0, 1.0, 2.0].into());
    assert_eq!(run.weigh(&uniform).unwrap().weights.values(), [0.25, 0.25, 0.5]);
}

#[test]
fn samples_tell_runs_apart() {
    let mut files = run();
    let run = open(&files, &["run"]).unwrap();
    let samples = run.sample(&files).unwrap();
    assert_eq!(samples[0].cosine(&samples[1]), Some(1.0));
    files.asks_again = true;
    assert!(matches!(run.sample(&files), Err(Stop::Later)));
    assert_eq!(run.sample(&files).unwrap()[1].cosine(&samples[2]), Some(1.0));
}

/// Add a checkpoint of a full model.
fn model(files: &mut Memory, path: &str) {
    files.write(&format!("{path}/model.safetensors"), file("q.weight", &[1.0, 2.0], &[]));
}

#[test]
fn two_runs_of_full_models_in_one_folder_are_refused() {
    let mut files = Memory::default();
    for step in [100, 200, 300] {
        model(&mut files, &format!("run/checkpoint-{step}"));
        log(&mut files, &format!("run/checkpoint-{step}"), step);
    }
    assert!(open(&files, &["run"]).unwrap().weigh(&WeighOptions::default()).is_ok());
    // what is left of another, longer run
    let records: Vec<_> =
        (1..=40).map(|i| format!(r#"{{"step": {}, "loss": {}}}"#, i * 10, 3.0 / i as f64)).collect();
    let other = format!(r#"{{"global_step": 400, "log_history": [{}]}}"#, records.join(","));
    model(&mut files, "run/checkpoint-400");
    files.write("run/checkpoint-400/trainer_state.json", other);
    let run = open(&files, &["run"]).unwrap();
    let mut all = WeighOptions::default();
    all.choose.select.last = Some(4);
    let error = run.weigh(&all).unwrap_err();
    assert_eq!((error.kind(), error.at_file()), (ErrorKind::CrossRun, Some("run/checkpoint-400")));
    assert_eq!(
        error.detail(),
        "is not of the same run as run/checkpoint-300: their logs share no value (loss at step 10 is 3 in its log, 1 in \
         the other)"
    );
    all.choose.allow_cross_run = true;
    assert_eq!(run.weigh(&all).unwrap().indexes.len(), 4);
    let mut one = WeighOptions::default();
    one.choose.select.steps = Some((100, 300));
    assert_eq!(run.weigh(&one).unwrap().indexes.len(), 3);
}

/// Names of a checkpoint's files and of their tensors.
fn listed(run: &Run, at: usize) -> Vec<(String, Vec<String>)> {
    let names = |file: &checkpoint::File| file.header.tensors().iter().map(|it| it.name.clone()).collect();
    run.checkpoints[at].files.iter().map(|file| (file.name().to_owned(), names(file))).collect()
}

#[test]
fn what_was_trained_beside_the_weights_is_taken_too() {
    let mut files = run();
    for step in [10, 20, 100] {
        let path = format!("run/checkpoint-{step}");
        for name in ["optimizer.pt", "rng_state.pth", "training_args.bin", "scheduler.bin"] {
            files.write(&format!("{path}/{name}"), "");
        }
        // the same name in two places is two tensors
        for inner in ["2_Dense", "3_Dense"] {
            files.write(&format!("{path}/{inner}/model.safetensors"), file("linear.weight", &[1.0], &[]));
        }
        files.write(&format!("{path}/value_head.safetensors"), file("v_head.weight", &[1.0], &[]));
        files.write(&format!("{path}/ema.safetensors"), file("q.lora_A.weight", &[1.0, 2.0], &[]));
        files.write(&format!("{path}/global_step{step}/mp_rank_00_model_states.pt"), "");
    }
    let found = open(&files, &["run"]).unwrap();
    assert_eq!(
        listed(&found, 0),
        [
            ("adapter_model.safetensors".to_owned(), vec!["q.lora_A.weight".to_owned()]),
            ("2_Dense/model.safetensors".to_owned(), vec!["2_Dense/linear.weight".to_owned()]),
            ("3_Dense/model.safetensors".to_owned(), vec!["3_Dense/linear.weight".to_owned()]),
            ("value_head.safetensors".to_owned(), vec!["v_head.weight".to_owned()]),
        ]
    );
    assert_eq!(
        found.notes,
        [
            "ema.safetensors is left out: adapter_model.safetensors holds tensors of the same names and is taken; to merge \
          ema.safetensors, name these files themselves"
        ]
    );
    assert!(found.weigh(&by_loss()).is_ok());
    // one that lacks what others have would lose it
    files.files.retain(|(path, _)| path != "run/checkpoint-20/value_head.safetensors");
    let error = open(&files, &["run"]).unwrap().weigh(&by_loss()).unwrap_err();
    assert_eq!((error.kind(), error.at_file()), (ErrorKind::Names, Some("run/checkpoint-20")));
    // and what is damaged makes a damaged checkpoint
    files.write("run/checkpoint-20/value_head.safetensors", "");
    assert!(open(&files, &["run"]).unwrap().notes[0].starts_with("run/checkpoint-20 is left out: "));
}

#[test]
fn a_lora_is_taken_with_the_model_beside_it() {
    let mut files = Memory::default();
    for step in [1, 2] {
        let path = format!("run/checkpoint-{step}");
        files.write(
            &format!("{path}/pytorch_lora_weights.safetensors"),
            file("unet.a.lora_A.weight", &[1.0], &[]),
        );
        model(&mut files, &path);
    }
    let run = open(&files, &["run"]).unwrap();
    let names: Vec<_> = run.checkpoints[0].files.iter().map(checkpoint::File::name).collect();
    assert_eq!(names, ["pytorch_lora_weights.safetensors", "model.safetensors"]);
}

#[test]
fn weights_in_a_folder_of_each_checkpoint_are_found() {
    let mut files = Memory::default();
    for step in [100, 200] {
        model(&mut files, &format!("run/global_step_{step}/actor/huggingface"));
        log(&mut files, &format!("run/global_step_{step}"), step);
    }
    let found = open(&files, &["run"]).unwrap();
    assert_eq!(
        told(&Ok(found)),
        "run/global_step_100/actor/huggingface Some(100)\nrun/global_step_200/actor/huggingface Some(200)\n"
    );
    let named = ["run/global_step_100/actor/huggingface", "run/global_step_200/actor/huggingface"];
    let run = open(&files, &named).unwrap();
    assert_eq!([run.checkpoints[0].label(), run.checkpoints[0].run()], ["global_step_100", "run"]);
    assert_eq!(run.weigh(&by_loss()).unwrap().weighting.metric.as_deref(), Some("loss"));
    // of several, one must be chosen
    model(&mut files, "run/global_step_100/critic/huggingface");
    assert_eq!(
        told(&open(&files, &["run"])),
        "error: run/global_step_100: holds weights in several folders: actor/huggingface, critic/huggingface\n\
         help: choose one of them, for example --adapter actor/huggingface"
    );
    let run = open_adapter(&files, &["run"], Some("actor/huggingface")).unwrap();
    assert_eq!(run.checkpoints[0].folder.as_deref(), Some("run/global_step_100/actor/huggingface"));
}

#[test]
fn files_of_epochs_are_a_run() {
    let mut files = Memory::default();
    for epoch in [9, 10] {
        files.write(&format!("exp/{epoch}.safetensors"), file("w", &[1.0], &[]));
        files.write(
            &format!("exp/{epoch}.yaml"),
            format!(
                "epoch: {epoch}\nloss_dict:\n  loss: {}\nlr: 0.1\ntag: epoch_{epoch}\n",
                1.0 / f64::from(epoch)
            ),
        );
    }
    files.write("exp/final.safetensors", file("w", &[1.0], &[]));
    files.write("exp/train.yaml", "batch: 3\n");
    let run = open(&files, &["exp"]).unwrap();
    assert_eq!(
        told(&Ok(run)),
        "exp/9.safetensors Some(9)\nexp/10.safetensors Some(10)\n\
         note: exp: left out, not named like checkpoints: final.safetensors\n"
    );
    let run = open(&files, &["exp"]).unwrap();
    let weighed = run.weigh(&WeighOptions::default()).unwrap();
    assert_eq!(weighed.weighting.metric.as_deref(), Some("eval_loss"));
    files.write("exp/step_500.safetensors", file("w", &[1.0], &[]));
    assert_eq!(
        told(&open(&files, &["exp"])),
        "error: exp: holds checkpoints that are named in two ways, as step_500.safetensors and 9.safetensors\n\
         help: name those of one kind: mwa merge exp/step_500.safetensors … -o OUT"
    );
}

#[test]
fn a_set_of_shards_is_one_checkpoint_and_must_be_whole() {
    let mut files = Memory::default();
    for (k, name) in [(1, "a"), (2, "b")] {
        files.write(&format!("c/model-0000{k}-of-00002.safetensors"), file(name, &[1.0], &[]));
    }
    assert_eq!(open(&files, &["c"]).unwrap().checkpoints[0].files.len(), 2);
    files.files.pop();
    assert_eq!(
        told(&open(&files, &["c"])),
        "error: c/model-00001-of-00002.safetensors: is one of 2 shards, of which model-00002-of-00002.safetensors is not there\n\
         help: download or copy the rest of the checkpoint"
    );
}

#[test]
fn a_missing_file_stops_the_merge_that_may_want_it() {
    let mut files = run();
    for lost in ["adapter_config.json", "adapter_model.safetensors"] {
        let mut files = run();
        files.files.retain(|(path, _)| *path != format!("run/checkpoint-20/{lost}"));
        let run = open(&files, &["run"]).unwrap();
        assert_eq!((run.checkpoints.len(), run.broken.len(), run.notes.len()), (2, 1, 1));
        let error = run.weigh(&by_loss()).unwrap_err();
        assert_eq!(error.at_file(), Some("run/checkpoint-20"));
        assert!(error.advice().unwrap().ends_with("or give --drop-bad, or --last 1"), "{:?}", error.advice());
        let mut wanted = by_loss();
        wanted.choose.select.last = Some(2);
        assert!(run.weigh(&wanted).is_err());
        wanted.choose.drop_bad = true;
        assert_eq!(run.weigh(&wanted).unwrap().indexes, [0, 1]);
        let mut newest = by_loss();
        newest.choose.select.last = Some(1);
        assert_eq!(run.weigh(&newest).unwrap().indexes, [1]);
        let ticked = WeighOptions { checkpoints: Some(["run/checkpoint-10".to_owned()].into()), ..by_loss() };
        assert_eq!(run.weigh(&ticked).unwrap().indexes, [0]);
    }
    files.files.retain(|(path, _)| path != "run/checkpoint-20/adapter_model.safetensors");
    // a link to a file that is gone is no reason to take another file
    files.write("run/checkpoint-20/model.safetensors", file("w", &[1.0], &[]));
    files.odd.push(("run/checkpoint-20/adapter_model.safetensors".into(), Kind::Missing));
    assert_eq!(
        told(&open(&files, &["run"])).lines().next(),
        Some("error: run/checkpoint-20/adapter_model.safetensors: is a link to something that is not there")
    );
}

#[test]
fn containers_of_others_are_called_what_they_are() {
    let mut files = Memory::default();
    for (name, bytes, expected) in [
        ("w.h5", &b"\x89HDF\r\n\x1a\n\0\0\0\0"[..], "an HDF5 file, as Keras writes"),
        ("flax_model.msgpack", &b"\x81\xa6params"[..], "a Flax file (MessagePack)"),
        ("w.nemo", &b"./model_config.yaml"[..], "a NeMo archive (tar)"),
    ] {
        files.write(name, bytes);
        let expected = format!("error: {name}: is {expected}, which is not read here");
        assert_eq!(told(&open(&files, &[name])).lines().next(), Some(&*expected));
        files.write(&format!("run/{name}"), bytes);
    }
    assert_eq!(
        told(&open(&files, &["run"])).lines().next(),
        Some("error: run: holds flax_model.msgpack, a Flax file (MessagePack), which is not read here")
    );
}
