//! `mwa search`: evaluators good and bad, the journal, kills, what is said of the winner.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;
use snapbox::{assert_data_eq, str};

use crate::adapter;
use crate::place::{Place, Ran};

/// A bowl over three weights, whose lowest point is 0.2, 0.3, 0.5.
const BOWL: &str =
    "echo $MWA_WEIGHTS | awk -F, '{printf \"%.12f\\n\", ($1-0.2)^2 + 2*($2-0.3)^2 + 3*($3-0.5)^2}'";

/// A place with a run and a program `score` that is a shell script.
fn place(score: &str) -> Place {
    let place = Place::with_run();
    script(&place, "score", score);
    place
}

fn script(place: &Place, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    place.write(name, format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Search in the whole run with the program `score`.
fn command(place: &Place, arguments: &str) -> Command {
    let mut command = place.command("search run --select all --seed 42");
    command.args(arguments.split_whitespace());
    if !arguments.contains("--goal ") {
        command.args(["--goal", "min"]);
    }
    if !arguments.contains("-o ") {
        command.args(["-o", "best"]);
    }
    if !arguments.contains("--evaluate") {
        command.args(["--evaluate", "./score {path}"]);
    }
    command
}

fn search(place: &Place, arguments: &str) -> Ran {
    Ran::of(&mut command(place, arguments))
}

/// The report of a search that must succeed.
fn report(place: &Place, arguments: &str) -> Value {
    let ran = search(place, &format!("{arguments} --json"));
    assert_eq!(ran.code, Some(0), "{arguments}: {}{}", ran.out, ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

fn fails(place: &Place, code: i32, arguments: &str) -> String {
    let before = place.tree();
    let ran = search(place, arguments);
    assert_eq!(ran.code, Some(code), "{arguments}: {}{}", ran.out, ran.err);
    place.assert_unchanged(&before);
    ran.err
}

fn trials(report: &Value) -> &Vec<Value> {
    report["trials"].as_array().unwrap()
}

/// What does not depend on time.
fn essence(report: &Value) -> String {
    let mut report = report.clone();
    for row in report["trials"].as_array_mut().unwrap() {
        row["seconds"] = Value::Null;
        row["merge_seconds"] = Value::Null;
    }
    report["merge"]["inputs"] = Value::Null; // paths
    report.to_string()
}

#[test]
fn the_winner_is_a_merge_that_verifies() {
    let place = place(BOWL);
    let ran = search(&place, "--method lcsc --budget 60");
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("merged the winner into best"), "{}", ran.out);
    let verified = place.mwa("verify best");
    assert_eq!(verified.code, Some(0), "{}", verified.out);
    let report: Value = serde_json::from_slice(&place.read("best/mwa-report.json")).unwrap();
    let scheme = report["weighting"]["scheme"].as_str().unwrap();
    assert_eq!(scheme, "search by lcsc: evolution, the best of 60 trials");
    let weight = |at: usize| report["inputs"][at]["weight"].as_f64().unwrap();
    assert!((weight(0) - 0.2).abs() < 0.1 && (weight(2) - 0.5).abs() < 0.1, "{}", report["inputs"]);
    // as a merge with these weights
    let weights = [weight(0), weight(1), weight(2)].map(|weight| weight.to_string()).join(",");
    assert_eq!(place.mwa(&format!("merge run --select all --weights={weights} -o again")).code, Some(0));
    assert_eq!(place.read("best/adapter_model.safetensors"), place.read("again/adapter_model.safetensors"));
}

/// Node proposes the same to the bit: tests/web/node.test.mjs reads the same file.
#[test]
fn the_sample_run_is_searched_alike_in_every_language() {
    let place = place(
        "echo $MWA_WEIGHTS | awk -F, '{s = 0; for (i = 1; i <= NF; i++) s += i * ($i - i / 55)^2; printf \"%.17g\\n\", s}'",
    );
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let ran = Ran::of(
        place
            .command(&format!(
                "search {root}/examples/sample-run --select all --seed 42 --method lcsc --budget 40"
            ))
            .args(["--goal", "min", "-o", "best", "--json", "--evaluate", "./score {path}"]),
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    let weights = Value::from_iter(trials(&found).iter().map(|trial| trial["weights"].clone()));
    let golden = format!("{root}/tests/web/search.json");
    if std::env::var_os("MWA_REMAKE").is_some() {
        fs::write(&golden, format!("{weights}\n")).unwrap();
    }
    let expected: Value = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    assert_eq!(weights, expected, "MWA_REMAKE=1 writes it anew");
}

/// Parts of the model with weights of their own: A and B of `q` and `v`, of which the score knows.
#[test]
fn groups_have_weights_of_their_own() {
    let place = place(
        "echo $MWA_WEIGHTS >> seen; echo $MWA_WEIGHTS | awk -F, '{printf \"%.12f\\n\", ($1-0.2)^2 + ($2-0.3)^2 + ($4-0.6)^2 + ($5-0.1)^2}'",
    );
    for (step, x) in [(10, 0.25), (20, 0.5), (30, 0.75)] {
        let q = adapter::lora(x);
        let v = q.iter().map(|it| adapter::Tensor { name: it.name.replace(".q.", ".v."), ..it.clone() });
        place.checkpoint(&format!("run/checkpoint-{step}"), &q.iter().cloned().chain(v).collect::<Vec<_>>());
    }
    let text = fails(&place, 2, "--groups q,odd");
    assert!(text.contains("groups `q,odd`: `odd` fits no module"), "{text}");
    let text = fails(&place, 2, "--groups q --method greedy");
    assert!(text.contains("method greedy finds weights for the model as a whole"), "{text}");
    let one = report(&place, "--groups q --method lcsc --budget 60 -o one");
    assert_eq!(one["groups"].to_string(), r#"["q","others"]"#);
    assert!(one["score"].as_f64().unwrap() < 0.1, "{}", one["score"]);
    for trial in trials(&one) {
        assert_eq!(trial["weights"].as_array().unwrap().len(), 6);
    }
    // a merge by groups that verifies
    let verified = place.mwa("verify one");
    assert_eq!(verified.code, Some(0), "{}", verified.out);
    let report_of = &one["merge"];
    assert_eq!(report_of["groups"][0]["modules"], "q");
    let weights =
        trials(&one)[usize::try_from(one["winner"].as_u64().unwrap()).unwrap() - 1]["weights"].clone();
    assert_eq!(
        report_of["groups"][0]["weights"],
        Value::from_iter(weights.as_array().unwrap()[..3].to_vec())
    );
    assert_eq!(report_of["inputs"][0]["weight"], weights[3]);
    // and which was scored: nothing of it depends on workers, or on having been resumed
    let winner = trials(&one).iter().find(|trial| trial["number"] == one["winner"]).unwrap();
    assert_eq!(winner["blake3"][0], report_of["outputs"][0]["blake3"]);
    let many = report(&place, "--groups q --method lcsc --budget 60 --workers 4 -o many");
    assert_eq!(essence(&one).replace("one.search", "many.search"), essence(&many));
    let seen = place.read("seen").len();
    let again = report(&place, "--groups q --method lcsc --budget 60 -o many --force --resume");
    assert_eq!((essence(&again), place.read("seen").len()), (essence(&many), seen));
    let text = fails(&place, 2, "--groups v --method lcsc --budget 60 -o many --force --resume");
    assert!(
        text.contains(
            "belongs to another search: its groups was [\"q\",\"others\"], and is [\"v\",\"others\"] now"
        ),
        "{text}"
    );
}

#[test]
fn every_method_searches_and_workers_change_nothing() {
    for method in ["auto", "sweep", "greedy", "lcsc", "cma", "quadratic"] {
        let place = place(BOWL);
        let one = report(&place, &format!("--method {method} --budget 22 -o one"));
        let many = report(&place, &format!("--method {method} --budget 22 --workers 5 -o many"));
        assert_eq!(essence(&one).replace("one.search", "many.search"), essence(&many), "{method}");
        assert_eq!(place.read("one/adapter_model.safetensors"), place.read("many/adapter_model.safetensors"));
        assert!(trials(&one).len() <= 22, "{method}");
    }
    let place = place(BOWL);
    let line = report(&place, "--last 2 --method line");
    assert!(line["score"].as_f64().unwrap() < 1.0);
    assert!(trials(&line).len() < 20);
    assert!(line["basin"].as_str().unwrap().ends_with("they lie in one basin"), "{line}");
    let plane = report(&place, "--method plane -o plane");
    assert_eq!(plane["files"].to_string(), r#"["plane.search.csv","plane.search.svg"]"#);
    assert_eq!(
        String::from_utf8(place.read("plane.search.csv")).unwrap().lines().count(),
        trials(&plane).len() + 1
    );
    assert!(String::from_utf8(place.read("plane.search.svg")).unwrap().contains(">checkpoint-20</text>"));
}

/// Candidates are merged several at a time: each has the bytes of a merge by itself.
#[test]
fn every_candidate_is_the_merge_with_its_weights() {
    let place = place("cat $1/adapter_model.safetensors > seen-$MWA_NUMBER; echo $MWA_NUMBER");
    for (method, budget) in [("sweep", 24), ("greedy", 9), ("lcsc", 30)] {
        let found = report(&place, &format!("--method {method} --budget {budget} -o {method}"));
        for trial in trials(&found) {
            let numbers = trial["weights"].as_array().unwrap().iter().map(ToString::to_string);
            let weights = numbers.collect::<Vec<_>>().join(",");
            let seen = format!("seen-{}", trial["number"]);
            let again = place.mwa(&format!("merge run --select all --weights={weights} -o again --force"));
            assert_eq!(again.code, Some(0), "{}", again.err);
            assert!(place.read("again/adapter_model.safetensors") == place.read(&seen), "{method} {trial}");
        }
    }
}

#[test]
fn an_output_inside_a_checkpoint_is_refused_before_anything_is_scored() {
    let place = place("echo x >> seen; echo 1");
    let err = fails(&place, 1, "--method sweep --budget 3 -o run/checkpoint-30/best");
    assert!(err.contains("lies in the checkpoint run/checkpoint-30"), "{err}");
}

/// A GPU, where there is one, makes several candidates' sums of what is staged once: of many batches, of mixed dtypes, and of numbers
/// that weights beyond the checkpoints lead beyond F16; where there is none, that is told before anything is scored.
#[test]
fn a_gpu_that_is_named_merges_every_candidate() {
    // the less of the second checkpoint, the better
    let place =
        place("cksum < $1/adapter_model.safetensors > seen-$MWA_NUMBER; echo $MWA_WEIGHTS | cut -d, -f2");
    for (at, x) in [0.25, 0.5, 0.75_f32].into_iter().enumerate() {
        let sign = if at % 2 == 0 { 1.0 } else { -1.0 };
        let long: Vec<_> = (0..1_300_001_u32).map(|i| (i % 977) as f32 / 8.0 * sign - x).collect();
        let mixed: Vec<_> = (0..70_000_u32).map(|i| (i % 89) as f32 * x).collect();
        let mut tensors = adapter::lora(x);
        tensors.push(adapter::f32s("base_model.model.long.lora_A.weight", &[1, long.len()], &long));
        let mut mixed = adapter::f32s("base_model.model.long.lora_B.weight", &[mixed.len(), 1], &mixed);
        if at == 1 {
            // the upper halves of f32s are BF16
            mixed.dtype = "BF16";
            mixed.data = mixed.data.chunks_exact(4).flat_map(|word| [word[2], word[3]]).collect();
        }
        tensors.push(mixed);
        // 0x7b00 is 57,344 in F16
        let edge = [0x00, if at % 2 == 0 { 0x7b } else { 0xfb }].repeat(4);
        let shape = vec![2, 2];
        let name = "base_model.model.edge.lora_A.weight".to_owned();
        tensors.push(adapter::Tensor { name, dtype: "F16", shape, data: edge.clone() });
        let name = "base_model.model.edge.lora_B.weight".to_owned();
        tensors.push(adapter::Tensor { name, dtype: "F16", shape: vec![2, 2], data: edge });
        place.checkpoint(&format!("run/checkpoint-{}", (at + 1) * 10), &tensors);
    }
    let how = "--method lcsc --budget 40 --workers 2 --allow-cross-run --json";
    let ran = search(&place, &format!("{how} --device gpu"));
    if ran.code != Some(0) {
        assert!(ran.err.contains("error: gpu: ") && !place.path("seen-1").exists(), "{}", ran.err);
        return;
    }
    let of = |text: &str| essence(&serde_json::from_str(text).unwrap());
    let seen = || -> Vec<_> {
        let read = |number| fs::read(place.path(&format!("seen-{number}"))).ok();
        (1..=40).map(read).collect()
    };
    let by_gpu = seen();
    for number in 1..=40 {
        let _ = fs::remove_file(place.path(&format!("seen-{number}")));
    }
    let by_cpu = search(&place, &format!("{how} --device cpu --force"));
    assert_eq!(by_cpu.code, Some(0), "{}", by_cpu.err);
    assert!(ran.out.contains("cannot be merged"), "some overflow: {}", ran.out);
    assert!(of(&ran.out) == of(&by_cpu.out), "{}\n{}", of(&ran.out), of(&by_cpu.out));
    assert!(by_gpu.iter().flatten().count() > 4 && by_gpu == seen());
}

#[test]
fn a_candidate_is_what_a_merge_writes_and_may_be_written_into() {
    // the number of its bytes is the score; what is beside them must be there too
    let place = place(
        "test -s $1/adapter_config.json || exit 1
         echo junk > $1/adapter_config.json; rm $1/adapter_model.safetensors; mkdir $1/more; touch $1/more/x
         echo $MWA_CANDIDATE $MWA_NUMBER $1 >> seen
         echo 1",
    );
    let before = place.read("run/checkpoint-10/adapter_model.safetensors");
    let found = report(&place, "--method sweep --budget 12 --workers 2");
    assert!(trials(&found).iter().all(|row| row["score"] == 1.0));
    assert_eq!(place.read("run/checkpoint-10/adapter_model.safetensors"), before);
    let seen = String::from_utf8(place.read("seen")).unwrap();
    let seen: Vec<Vec<_>> = seen.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(seen.len(), trials(&found).len());
    for line in &seen {
        assert_eq!(line[0], line[2]);
        assert!(line[0].ends_with(&format!("/candidate-{}", line[1])), "{line:?}");
        assert!(!std::path::Path::new(line[0]).exists(), "candidates are removed");
    }
    assert_eq!(place.mwa("verify best").code, Some(0));
}

#[test]
fn bad_candidates_are_recorded_and_never_fatal() {
    let place = place(
        "case $MWA_NUMBER in
           2) echo 1; exit 3;;
           3) echo lost >&2; kill -9 $$;;
           4) sleep 60;;
           5) echo nan;;
           6) echo all good;;
           7) echo '{\"loss\": 1}';;
           *) sleep 30 & echo $MWA_WEIGHTS | awk -F, '{print ($1-0.2)^2}';;
         esac",
    );
    let found = report(&place, "--method lcsc --budget 12 --timeout 1 --workers 4");
    let failed = |at: usize| trials(&found)[at]["failed"].as_str().unwrap_or("none");
    assert_eq!(failed(0), "none");
    assert_eq!(failed(1), "exit code 3");
    // a shell that stays tells of it by a number
    assert!(
        failed(2).starts_with("it was ended: signal: 9") || failed(2).starts_with("exit code 137"),
        "{}",
        failed(2)
    );
    assert_eq!(failed(3), "not scored within 1 s (--timeout)");
    assert_eq!(failed(4), "its score is NaN");
    assert_eq!(failed(5), "it printed no number");
    assert_eq!(failed(6), "its JSON has no `score`");
    assert_eq!(found["doubts"][0], "6 of 12 trials failed");
    assert_eq!(place.mwa("verify best").code, Some(0));
}

#[test]
fn an_evaluator_that_never_scores_ends_the_search_and_leaves_nothing() {
    let place = place("echo out of order >&2; exit 7");
    let text = fails(&place, 1, "");
    assert_data_eq!(
        text,
        str![[r#"
error: no score came of the first 5 candidates: exit code 7: out of order
help: run the evaluator by hand on a checkpoint's folder, and search when it prints a score

"#]]
    );
    let text = fails(&place, 1, "--evaluate ./scroe");
    assert!(text.contains("exit code 127: "), "{text}");
}

#[test]
fn a_server_stays_loaded() {
    let place = place("");
    script(
        &place,
        "server",
        "echo start >> starts
         while read line; do
           id=${line#*'\"id\":'}; id=${id%%,*}; path=${line#*'\"path\":\"'}; path=${path%%'\"'*}
           weights=${line#*'\"weights\":['}; weights=${weights%%]*}
           test -s $path/adapter_model.safetensors || exit 1
           echo warming up
           echo \"{\\\"id\\\": $id, \\\"score\\\": $(echo $weights | awk -F, '{printf \"%.12f\", ($1-0.2)^2 + 2*($2-0.3)^2 + 3*($3-0.5)^2}')}\"
         done
         echo end >> starts",
    );
    let by_server = report(&place, "--method lcsc --budget 30 --workers 2 --evaluate-server ./server -o one");
    let starts = || String::from_utf8(place.read("starts")).unwrap();
    assert_eq!(starts(), "start\nstart\nend\nend\n");
    script(&place, "score", BOWL);
    // one that scores on other data is tried before the search, and started again once the search needs its own no more
    let held = "--budget 30 --evaluate-server ./server --holdout-server";
    let held = report(&place, &format!("--method lcsc {held} ./server -o held"));
    assert_eq!(starts(), format!("start\nstart\nend\nend\n{}", "start\nend\n".repeat(3)));
    assert_eq!((&held["holdout"], &held["winner"]), (&Value::from("./server"), &by_server["winner"]));
    for row in held["compared"].as_array().unwrap() {
        assert_eq!(row["holdout"], row["score"]);
    }
    let by_command = report(&place, "--method lcsc --budget 30 -o two");
    assert_eq!(by_server["winner"], by_command["winner"]);
    assert_eq!(place.read("one/adapter_model.safetensors"), place.read("two/adapter_model.safetensors"));
}

#[test]
fn what_is_said_wrong_is_refused_before_anything_is_scored() {
    let place = place("touch scored; echo 1");
    let refused = |code, arguments: &str, text: &str| {
        let error = fails(&place, code, arguments);
        assert!(error.contains(text), "{arguments}: {error}");
    };
    let without = |arguments: &str| {
        let before = place.tree();
        let ran = place.mwa(arguments);
        place.assert_unchanged(&before);
        (ran.code, ran.err)
    };
    let (code, text) = without("search run -o best --evaluate ./score");
    assert_eq!(code, Some(2));
    assert_data_eq!(
        text,
        str![[r#"
error: nothing says whether lower or higher scores are better
help: give --goal min, as for a loss, or --goal max, as for an accuracy

"#]]
    );
    let (code, text) = without("search run -o best --goal min");
    assert_eq!(code, Some(2));
    assert!(text.contains("nothing says how candidates are scored"), "{text}");
    refused(2, "--evaluate-server x --evaluate y", "both say who scores");
    refused(2, "--holdout-server x --holdout y", "--holdout and --holdout-server both say who scores");
    refused(2, "--last 1", "there is nothing to search: one checkpoint weighs 1, always");
    refused(2, "--method line", "method line searches between two checkpoints, and 3 are chosen");
    refused(2, "--method quadratic --budget 9", "method quadratic needs 10 trials for 3 checkpoints");
    refused(2, "--method grid", "invalid value 'grid'");
    refused(2, "--budget 0", "invalid value '0'");
    refused(2, "--timeout 0", "it must be a number, above 0");
    refused(2, "--weights 1,2,3", "unexpected argument '--weights'");
    refused(2, "--scheme krum", "scheme krum weighs by the tensors of a merge");
    refused(2, "--device wasm", "the sandbox merges once; it does not search");
    refused(1, "--metric eval_los", "eval_los");
    refused(1, "-o run", "exists already");
    place.checkpoint("other/checkpoint-40", &adapter::lora(f32::NAN));
    let (code, text) = without(
        "search run/checkpoint-10 other/checkpoint-40 -o best --goal min --evaluate ./score --scheme uniform",
    );
    assert_eq!((code, text.contains("NaN")), (Some(1), true), "{text}");
}

#[test]
fn the_metric_s_goal_is_another_than_the_score_s() {
    let place = place("echo 1");
    for (step, quality) in [(10, 1.0), (20, 2.0), (30, 3.0)] {
        place.log(
            &format!("run/checkpoint-{step}"),
            &[format!(r#"{{"step": {step}, "quality": {quality}}}"#)],
        );
    }
    assert!(fails(&place, 1, "--metric quality").contains("quality"));
    let found = report(&place, "--metric quality --metric-goal max --method sweep --budget 3");
    let metric = &trials(&found)[2];
    assert_eq!(metric["by"], "metric");
    assert!(metric["weights"][2].as_f64() > metric["weights"][0].as_f64());
}

#[test]
fn a_bad_checkpoint_is_dropped_if_that_is_wanted() {
    let place = place("echo 1");
    place.checkpoint("run/checkpoint-40", &adapter::lora(f32::INFINITY));
    place.log("run/checkpoint-40", &[r#"{"step": 40, "eval_loss": 1.5}"#]);
    assert!(fails(&place, 1, "").contains("checkpoint-40"));
    let found = report(&place, "--drop-bad --method sweep --budget 4");
    assert_eq!(found["merge"]["inputs"].as_array().unwrap().len(), 3);
    let notes = found["merge"]["notes"].to_string();
    assert!(notes.contains("checkpoint-40 is dropped"), "{notes}");
}

#[test]
fn a_journal_is_gone_on_with_or_refused() {
    let place = place(&format!("echo . >> scored; {BOWL}"));
    let count = || String::from_utf8(place.read("scored")).unwrap().lines().count();
    let first = report(&place, "--method lcsc --budget 12");
    assert_eq!(count(), 12);
    fs::remove_dir_all(place.path("best")).unwrap();
    let text = fails(&place, 1, "--method lcsc --budget 12");
    assert!(text.contains("best.search.jsonl: holds the trials of an earlier search"), "{text}");
    // the same again scores nothing, more goes on, and another method knows what was scored
    let again = report(&place, "--method lcsc --budget 12 --resume");
    assert_eq!((essence(&first), count()), (essence(&again), 12));
    fs::remove_dir_all(place.path("best")).unwrap();
    report(&place, "--method lcsc --budget 20 --resume");
    assert_eq!(count(), 20);
    fs::remove_dir_all(place.path("best")).unwrap();
    report(&place, "--method sweep --budget 4 --resume");
    assert_eq!(count(), 21, "the last, the mean and the metric's weights were known");
    // scores of another evaluator, goal or recipe are not these
    fs::remove_dir_all(place.path("best")).unwrap();
    for (arguments, what) in [
        ("--resume --goal max", "goal"),
        ("--resume --evaluate ./other", "evaluator"),
        ("--resume --dtype bf16", "dtype"),
        ("--resume --last 2", "other checkpoints"),
    ] {
        let mut command = command(&place, arguments);
        let before = place.tree();
        let ran = Ran::of(&mut command);
        assert_eq!(ran.code, Some(2), "{arguments}: {}", ran.err);
        assert!(ran.err.contains("belongs to") && ran.err.contains(what), "{arguments}: {}", ran.err);
        place.assert_unchanged(&before);
    }
    // half a line is what a kill leaves; a damaged one is an error
    let journal = String::from_utf8(place.read("best.search.jsonl")).unwrap();
    place.write("best.search.jsonl", format!("{journal}{{\"weights\": [0.1, 0."));
    report(&place, "--method lcsc --budget 20 --resume");
    assert_eq!(count(), 21);
    assert_eq!(String::from_utf8(place.read("best.search.jsonl")).unwrap(), journal);
    fs::remove_dir_all(place.path("best")).unwrap();
    place.write("best.search.jsonl", journal.replacen("\"weights\"", "\"wights\"", 1));
    let text = fails(&place, 1, "--method lcsc --resume");
    assert!(text.contains("best.search.jsonl: line 2 is not a trial of mwa search: "), "{text}");
    report(&place, "--method lcsc --budget 12 --force");
    assert_eq!(count(), 33);
}

#[test]
fn two_searches_do_not_write_to_one_journal() {
    let place = place("echo $$ > began; sleep 20; echo 1");
    let mut first = command(&place, "--budget 4").spawn().unwrap();
    while !place.path("began").exists() {
        std::thread::sleep(core::time::Duration::from_millis(10));
    }
    let ran = search(&place, "--budget 4 --resume");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("is in use: another search is writing to it"), "{}", ran.err);
    // a polite stop ends the evaluator too
    let id = first.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(first.wait().unwrap().code(), Some(143));
    let evaluator = String::from_utf8(place.read("began")).unwrap();
    // nobody may have fetched what is left of it
    let is_alive = || {
        let stat = Command::new("ps").args(["-o", "stat=", "-p", evaluator.trim()]).output().unwrap().stdout;
        !matches!(stat.first(), None | Some(b'Z'))
    };
    let is_gone = (0..100).any(|_| {
        std::thread::sleep(core::time::Duration::from_millis(20));
        !is_alive()
    });
    assert!(is_gone, "its evaluator is ended too");
    assert!(!place.path("best").exists());
}

/// Kill -9 at a hundred random moments, fewer on a busy machine; `MWA_KILLS` says how often, however long that takes.
#[test]
fn a_killed_search_goes_on_where_it_was() {
    let wanted: Option<u32> = std::env::var("MWA_KILLS").ok().and_then(|text| text.parse().ok());
    let (begin, kills) = (std::time::Instant::now(), wanted.unwrap_or(100));
    let is_late = || wanted.is_none() && begin.elapsed() > core::time::Duration::from_secs(60);
    let expected = place(BOWL);
    let whole = report(&expected, "--method lcsc --budget 40 -o best");
    let place = place(&format!("{BOWL}; echo $MWA_WEIGHTS >> scored"));
    let mut seed = 1u64;
    let mut killed = 0;
    while killed < kills && !(killed >= 20 && is_late()) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child =
            command(&place, "--method lcsc --budget 40 --workers 2 --resume --quiet").spawn().unwrap();
        std::thread::sleep(core::time::Duration::from_micros(seed >> 33 & 0x3_ffff));
        child.kill().unwrap();
        child.wait().unwrap();
        if place.path("best").exists() {
            // it was done before, if not yet at its end: the next one begins anew
            let journal = journal(&place);
            assert_eq!(journal.len(), 40);
            compare(&expected, &place);
            fs::remove_dir_all(place.path("best")).unwrap();
            fs::remove_file(place.path("best.search.jsonl")).unwrap();
        }
        killed += 1;
    }
    let found = report(&place, "--method lcsc --budget 40 --workers 2 --resume");
    assert_eq!(found["winner"], whole["winner"]);
    compare(&expected, &place);
    let entries = journal(&place);
    let weights: BTreeSet<_> = entries.iter().map(|entry| entry["weights"].to_string()).collect();
    assert_eq!((weights.len(), entries.len()), (40, 40), "nothing is in the journal twice");
}

#[test]
fn the_card_tells_who_scored_what_came_of_it_and_what_to_mind() {
    let place = place(BOWL);
    script(&place, "other", "echo $MWA_WEIGHTS | awk -F, '{print ($1-1/3)^2 + ($2-1/3)^2}'");
    let ran = search(&place, "--method lcsc --budget 30 --holdout ./other");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let card = String::from_utf8(place.read("best/README.md")).unwrap();
    for line in [
        "| checkpoint | step | eval_loss | weight |",
        "By the scores of 30 trials: `mwa search`, method lcsc, seed 42. Each was merged and scored by ./score {path} (lower is better).",
        "The holdout was scored by ./other.",
        "| merge | score | holdout | trial | weights by |",
    ] {
        assert!(card.contains(&format!("{line}\n")), "{line}: {card}");
    }
    for row in
        ["| the last checkpoint | ", "| the best single checkpoint | ", "| the plain mean | ", "| winner | "]
    {
        assert!(card.contains(row), "{row}: {card}");
    }
    // all that the terminal says
    let careful: Vec<_> = ran.out.lines().filter_map(|line| line.strip_prefix("careful: ")).collect();
    assert!(!careful.is_empty(), "{}", ran.out);
    for line in careful {
        assert!(card.contains(&format!("\nCareful: {line}.\n")), "{line}: {card}");
    }
    assert!(ran.out.contains("  eval_loss  "), "{}", ran.out);
    assert!(!ran.out.contains("by eval_loss"), "it weighs nothing here: {}", ran.out);
    assert_eq!(place.mwa("verify best").code, Some(0));
}

fn journal(place: &Place) -> Vec<Value> {
    let text = String::from_utf8(place.read("best.search.jsonl")).unwrap();
    text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn compare(expected: &Place, place: &Place) {
    let file = "best/adapter_model.safetensors";
    assert_eq!(expected.read(file), place.read(file));
}

#[test]
fn the_holdout_has_the_last_word() {
    // on other data the mean is best
    let place = place(BOWL);
    script(
        &place,
        "other",
        "echo $MWA_WEIGHTS >> held; echo $MWA_WEIGHTS | awk -F, '{print ($1-1/3)^2 + ($2-1/3)^2}'",
    );
    let ran = search(&place, "--method lcsc --budget 30 --holdout ./other --json");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    let names: Vec<_> =
        found["compared"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["last", "best single", "uniform", "metric", "winner"]);
    assert!(found["compared"].as_array().unwrap().iter().all(|row| row["holdout"].is_number()));
    let doubts = found["doubts"].to_string();
    assert!(doubts.contains("on the holdout, the winner is worse than the plain mean"), "{doubts}");
    let held = String::from_utf8(place.read("held")).unwrap().lines().count();
    assert_eq!(held, 4, "the last is the best single, scored once");
    fs::remove_dir_all(place.path("best")).unwrap();
    report(&place, "--method lcsc --budget 30 --holdout ./other --resume");
    assert_eq!(String::from_utf8(place.read("held")).unwrap().lines().count(), 4, "nor is it scored again");
    // what was scored on other data is no trial of the search
    let ran = search(&place, "--method lcsc --budget 30 --holdout ./other --resume --force");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("30 trials of before are known"), "{}", ran.err);
    // and what is in the way is told with the way on
    let text = fails(&place, 1, "--method lcsc --budget 30");
    assert!(text.contains("by --resume --force, begin anew by --force"), "{text}");
}

#[test]
fn a_holdout_that_cannot_score_is_told_before_anything_is_searched() {
    let place = place("touch scored; echo 1");
    let text = fails(&place, 1, "--holdout false");
    assert!(text.contains("the holdout gives no score of the first candidate: exit code 1"), "{text}");
}

#[test]
fn scores_that_say_nothing_are_called_so() {
    let place = place("echo 85");
    let text = fails(&place, 2, "--goal max --questions 100");
    assert!(
        text.contains("--questions 100 is for scores that are shares between 0 and 1, and one is 85"),
        "{text}"
    );
    let ran = search(&place, "--goal max --budget 4");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.out.contains("careful: all 4 scores are the same, 85: does the evaluator look at"),
        "{}",
        ran.out
    );
    assert_eq!(ran.out.matches("careful:").count(), 1, "{}", ran.out);
}

#[test]
fn a_lead_within_noise_is_said() {
    let place = place("echo $MWA_WEIGHTS | awk -F, '{print 0.35 + 0.01*$3}'");
    let ran = search(&place, "--goal max --method sweep --questions 2000");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("careful: the winner leads the plain mean by 0.0066"), "{}", ran.out);
    assert!(ran.out.contains("within noise: one score is known to ±0.01"), "{}", ran.out);
}
