//! What belongs to others stays theirs, and what is said of a merge is true: whatever is in the way, whoever kills it.

use core::time::Duration;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Instant;

use snapbox::{assert_data_eq, str};

use crate::place::Place;
use crate::unix::large;

/// A slow merge that has begun to write into `folder`, stopped in the middle of it.
struct Paused(Option<Child>);

impl Drop for Paused {
    fn drop(&mut self) {
        // a test that fails leaves no stopped process behind
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Paused {
    fn start(place: &Place, arguments: &str, folder: &str) -> Self {
        let before = making(place, folder);
        let mut command = place.command(&format!("{arguments} --threads 1 --memory 1"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Self::of(child, place, folder, &before)
    }

    /// A merge that was just started.
    fn of(child: Child, place: &Place, folder: &str, before: &[OsString]) -> Self {
        let paused = Self(Some(child));
        let start = Instant::now();
        // it locks its folder before it makes files there: else another merge may rightly take it for litter
        let is_begun = |name: &OsString| {
            let inside = fs::read_dir(place.path(folder).join(name));
            !before.contains(name) && inside.is_ok_and(|mut inside| inside.next().is_some())
        };
        while !making(place, folder).iter().any(is_begun) {
            assert!(start.elapsed() < Duration::from_secs(60), "the merge never began");
            sleep(Duration::from_millis(1));
        }
        paused.signal("STOP");
        paused
    }

    fn signal(&self, name: &str) {
        let id = self.0.as_ref().expect("it is taken by its end alone").id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(sent.unwrap().success());
    }

    /// Let it go on to its end: its exit code and standard error.
    fn go_on(mut self) -> (Option<i32>, String) {
        // a killed one is there until it is waited for
        self.signal("CONT");
        let child = self.0.take().expect("it is taken by its end alone");
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

/// What lies in a folder, sorted.
fn names(place: &Place, folder: &str) -> Vec<OsString> {
    let names = fs::read_dir(place.path(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// The folders that merges into `folder` work in.
fn making(place: &Place, folder: &str) -> Vec<OsString> {
    let entries = fs::read_dir(place.path(folder)).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".mwa-")).collect()
}

/// Whether whoever runs the tests wants signals ignored, as shells do for work in the background; then `mwa` ignores them.
pub(crate) fn signals_are_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0").trim();
    let is_ignored = u64::from_str_radix(mask, 16).unwrap() & 0b100_0000_0000_0011 != 0;
    if is_ignored {
        eprintln!("ignored: so are signals here");
    }
    is_ignored
}

#[test]
fn a_stopped_merge_takes_away_only_folders_that_it_made_and_that_are_empty() {
    if signals_are_ignored() {
        return;
    }
    let place = large(16);
    let paused = Paused::start(&place, "merge run -o sweep/a", "sweep");
    assert_eq!(place.mwa("merge run -o sweep/b --scheme uniform").code, Some(0));
    place.write("sweep/precious.txt", "mine");
    paused.signal("INT");
    assert_eq!(paused.go_on().0, Some(130));
    assert_eq!(names(&place, "sweep"), ["b", "precious.txt"]);
}

#[test]
fn what_appears_at_the_output_while_the_merge_runs_is_not_replaced() {
    let place = large(16);
    let paused = Paused::start(&place, "merge run -o p/out", "p");
    place.write("p/out/thesis.txt", "precious");
    let (code, err) = paused.go_on();
    assert_eq!(code, Some(1));
    assert_data_eq!(
        err,
        str![[r#"
error: p/out: exists already
help: choose another output folder

"#]]
    );
    assert_eq!(place.read("p/out/thesis.txt"), b"precious");
    assert_eq!(fs::read_dir(place.path("p")).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn force_does_not_replace_what_is_put_into_the_earlier_merge_meanwhile() {
    let place = large(16);
    assert_eq!(place.mwa("merge run -o p/out --scheme uniform").code, Some(0));
    let before = place.read("p/out/mwa-report.json");
    let paused = Paused::start(&place, "merge run -o p/out --force", "p");
    place.write("p/out/thesis.txt", "precious");
    assert_eq!(paused.go_on().0, Some(1));
    assert_eq!(place.read("p/out/thesis.txt"), b"precious");
    assert_eq!(place.read("p/out/mwa-report.json"), before);
}

#[test]
fn force_replaces_what_an_earlier_merge_wrote_and_nothing_else() {
    let place = Place::with_run();
    place.write("run/checkpoint-30/tokenizer.json", "{}");
    place.write("out/mwa-report.json", "{}");
    place.write("out/thesis.txt", "precious");
    assert_data_eq!(
        place.fails("merge run -o out --force"),
        str![[r#"
error: out: is not an earlier merge (its mwa-report.json is not the report of a merge); it is not replaced, even with --force
help: choose another output folder, or remove this one yourself

"#]]
    );
    fs::remove_dir_all(place.path("out")).unwrap();

    place.merges("run --select all");
    place.write("out/thesis.txt", "precious");
    place.write("out/.git/HEAD", "x");
    assert_data_eq!(
        place.fails("merge run -o out --force"),
        str![[r#"
error: out: holds what the earlier merge did not write: .git, thesis.txt; it is not replaced, even with --force
help: move that elsewhere, or choose another output folder

"#]]
    );
    fs::remove_file(place.path("out/thesis.txt")).unwrap();
    fs::remove_dir_all(place.path("out/.git")).unwrap();
    assert_eq!(place.mwa("merge run -o out --force --scheme uniform").code, Some(0));
    assert_eq!(names(&place, ""), ["out", "run"], "the earlier merge is gone");
}

#[test]
fn no_file_that_is_read_is_replaced() {
    let place = Place::with_run();
    place.merges("run --select all");
    place.write("out/scores.csv", "step,f1\n10,1\n20,2\n30,3\n");
    let named = "merge run/checkpoint-10 run/checkpoint-20 run/checkpoint-30 -o out --force";
    assert_data_eq!(
        place.fails(&format!("{named} --metrics-file out/scores.csv --metric f1 --goal max")),
        str![[r#"
error: out: would overwrite the input out/scores.csv
help: choose an output folder outside the inputs

"#]]
    );
    fs::remove_file(place.path("out/scores.csv")).unwrap();
    // even what the earlier merge wrote, where a checkpoint has it by a link
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        let link = place.path(&format!("run/checkpoint-20/{file}"));
        fs::rename(&link, place.path("kept")).unwrap();
        symlink(format!("../../out/{file}"), &link).unwrap();
        let expected = format!(
            "error: out: would overwrite the input run/checkpoint-20/{file}\n\
             help: choose an output folder outside the inputs\n"
        );
        assert_eq!(place.fails("merge run -o out --force"), expected);
        fs::rename(place.path("kept"), &link).unwrap();
    }
    assert_eq!(place.mwa("merge run -o out --force").code, Some(0));
}

#[test]
fn what_a_killed_merge_leaves_is_removed_by_the_next() {
    let place = large(16);
    let killed = Paused::start(&place, "merge run -o p/a", "p");
    killed.signal("KILL");
    assert_eq!(killed.go_on().0, None);
    let living = Paused::start(&place, "merge run -o p/b", "p");
    assert_eq!(fs::read_dir(place.path("p")).unwrap().count(), 1, "only the living one's folder is there");
    let ran = place.mwa("merge run -o p/c");
    assert_eq!((ran.code, ran.err.contains("killed")), (Some(0), false), "{}", ran.err);
    assert_eq!(living.go_on().0, Some(0));
    assert_eq!(names(&place, "p"), ["b", "c"]);
}

#[test]
fn an_earlier_merge_that_a_killed_one_moved_aside_is_put_back() {
    let place = Place::with_run();
    place.merges("run --select all");
    fs::create_dir(place.path(".mwa-old-abcdef")).unwrap();
    fs::rename(place.path("out"), place.path(".mwa-old-abcdef/out")).unwrap();
    let ran = place.mwa("merge run -o out");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("is back at"), "{}", ran.err);
    assert!(ran.err.contains("error: out: exists already"), "{}", ran.err);
    assert!(place.path("out/mwa-report.json").exists() && !place.path(".mwa-old-abcdef").exists());
}

#[test]
fn signals_end_a_merge_with_their_own_exit_code_and_leave_nothing() {
    if signals_are_ignored() {
        return;
    }
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let place = large(16);
        let before = place.tree();
        let paused = Paused::start(&place, "merge run -o p/out", "p");
        paused.signal(signal);
        assert_eq!(paused.go_on().0, Some(code), "SIG{signal}");
        place.assert_unchanged(&before);
    }
}

#[test]
fn a_merge_goes_on_where_its_caller_has_had_the_signal_ignored() {
    let place = large(16);
    let script = format!(
        "trap '' HUP; exec {} merge run -o p/out -q --threads 1 --memory 1",
        env!("CARGO_BIN_EXE_mwa")
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(place.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
    let paused = Paused::of(command.spawn().unwrap(), &place, "p", &[]);
    paused.signal("HUP");
    assert_eq!(paused.go_on(), (Some(0), String::new()));
}

#[test]
fn a_full_standard_output_is_an_error() {
    if !std::path::Path::new("/dev/full").exists() {
        eprintln!("ignored: this system has no /dev/full");
        return;
    }
    let place = Place::with_run();
    place.merges("run --select all");
    for arguments in [
        "weights run",
        "weights run --json",
        "inspect run",
        "verify out",
        "completions bash",
        "man",
        "--help",
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let ran = place.command(arguments).stdout(full).output().unwrap();
        assert_eq!(ran.status.code(), Some(1), "{arguments}");
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(said.contains("error: standard output: cannot write it: No space left"), "{said}");
    }
    // what was asked for is done, which is said
    for (arguments, output) in [
        ("merge run -o again", "again"),
        ("merge run -o twice --json", "twice"),
        ("convert run/checkpoint-30 -o plain", "plain"),
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let ran = place.command(arguments).stdout(full).output().unwrap();
        assert_eq!(ran.status.code(), Some(1), "{arguments}");
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(said.contains("error: standard output: cannot write it: No space left"), "{said}");
        assert!(said.contains(&format!("help: {output} is written and whole: only what was")), "{said}");
        assert!(place.path(output).exists(), "{arguments}");
    }
    assert_eq!(place.mwa("verify twice").code, Some(0));
}

#[test]
fn verify_checks_what_lies_beside_the_weights_and_names_what_the_merge_did_not_write() {
    let place = Place::with_run();
    place.write("run/checkpoint-30/tokenizer.json", "{}");
    place.merges("run --select all");
    place.write("out/README.md", "my own words");
    place.write("out/.git/HEAD", "x");
    place.write("out/notes.txt", "x");
    let ran = place.mwa("verify out");
    assert_data_eq!(
        ran.out,
        str![[r#"
same     out/adapter_model.safetensors
same     2 files beside the weights
beside   out/notes.txt
same     3 input files
verified: merging again gives the same bytes

"#]]
    );
    assert_eq!(ran.code, Some(0));
    place.write("out/adapter_model.bin", "other weights");
    place.write("out/inner/adapter_model.safetensors", "other weights");
    let ran = place.mwa("verify out");
    assert_data_eq!(
        ran.out,
        str![[r#"
same     out/adapter_model.safetensors
same     2 files beside the weights
foreign  out/adapter_model.bin
foreign  out/inner/adapter_model.safetensors
beside   out/notes.txt
same     3 input files
differs: merging again gives the same bytes, but files are here that the merge did not write, and that may be loaded with them

"#]]
    );
    assert_eq!(ran.code, Some(1));
    fs::remove_file(place.path("out/adapter_model.bin")).unwrap();
    fs::remove_dir_all(place.path("out/inner")).unwrap();
    // a config says what the weights do
    place.edit("out/adapter_config.json", "\"lora_alpha\": 4", "\"lora_alpha\": 400");
    fs::remove_file(place.path("out/tokenizer.json")).unwrap();
    let ran = place.mwa("verify out");
    assert_data_eq!(
        ran.out,
        str![[r#"
same     out/adapter_model.safetensors
changed  out/adapter_config.json
missing  out/tokenizer.json
beside   out/notes.txt
same     3 input files
differs: merging again gives what the report says, but that is not what is here

"#]]
    );
    assert_eq!(ran.code, Some(1));
}

#[test]
fn verify_reads_no_file_that_a_report_names_elsewhere() {
    for name in ["/dev/zero", "../x", "orig/../../x", ".."] {
        let place = Place::with_run();
        place.merges("run --select all");
        place.write("out/orig/adapter_model.safetensors", place.read("out/adapter_model.safetensors"));
        let report = String::from_utf8(place.read("out/mwa-report.json")).unwrap();
        let (inputs, outputs) = report.split_once("\"outputs\"").unwrap();
        let outputs = outputs.replacen("adapter_model.safetensors", name, 1);
        place.write("out/mwa-report.json", format!("{inputs}\"outputs\"{outputs}"));
        let expected = format!(
            "error: out/mwa-report.json: names `{name}`, which is not a file in the folder\n\
             help: the report was damaged or edited: merge again\n"
        );
        assert_eq!(place.fails("verify out"), expected);
    }
    // nor is a copy elsewhere in the folder taken for what is loaded
    let place = Place::with_run();
    place.merges("run --select all");
    place.write("out/orig/adapter_model.safetensors", place.read("out/adapter_model.safetensors"));
    place.edit(
        "out/mwa-report.json",
        "\"outputs\": [\n    {\n      \"name\": \"adapter",
        "\"outputs\": [\n    {\n      \"name\": \"orig/adapter",
    );
    let ran = place.mwa("verify out");
    assert_eq!(ran.code, Some(1), "{}", ran.out);
    assert!(ran.out.contains("foreign  out/adapter_model.safetensors"), "{}", ran.out);
    // a link may lead to what is nobody's business
    let place = Place::with_run();
    place.merges("run --select all");
    fs::rename(place.path("out/adapter_model.safetensors"), place.path("elsewhere")).unwrap();
    symlink("../elsewhere", place.path("out/adapter_model.safetensors")).unwrap();
    let said = place.fails("verify out");
    let expected = "error: out/adapter_model.safetensors: is a link out of the folder, to ";
    assert!(said.starts_with(expected), "{said}");
    // a pipe is not waited for
    let place = Place::with_run();
    place.merges("run --select all");
    fs::remove_file(place.path("out/adapter_model.safetensors")).unwrap();
    let pipe = place.path("out/adapter_model.safetensors");
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    assert!(place.mwa("verify out").out.starts_with("changed  out/adapter_model.safetensors"));
}

#[test]
fn verify_blames_what_is_at_fault() {
    let place = Place::with_run();
    place.merges("run --select all");
    let ran = place.command("verify out").env("TMPDIR", "/nowhere").output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(
        said.starts_with("error: /nowhere: cannot make a temporary folder there, to merge again in: "),
        "{said}"
    );
    assert!(said.ends_with("help: say by TMPDIR where there is room for the merge\n"), "{said}");
    place.edit("run/checkpoint-20/adapter_config.json", "\"r\": 2", "\"r\": 4");
    let said = place.fails("verify out");
    assert!(said.contains("run/checkpoint-20") && !said.contains("the report was damaged"), "{said}");
}

#[test]
fn a_companion_that_is_a_link_out_of_the_checkpoint_is_left_out_and_named() {
    let place = Place::with_run();
    place.write("secret", "not yours");
    symlink("../../secret", place.path("run/checkpoint-30/tokenizer.json")).unwrap();
    place.write("run/checkpoint-30/inner/vocab.txt", "mine");
    symlink("inner/vocab.txt", place.path("run/checkpoint-30/vocab.txt")).unwrap();
    let ran = place.merges("run --select all");
    assert!(
        ran.err.contains("run/checkpoint-30/tokenizer.json is left out: it is a link out of"),
        "{}",
        ran.err
    );
    assert!(!place.path("out/tokenizer.json").exists());
    assert_eq!(place.read("out/vocab.txt"), b"mine");

    // as a download cache has it
    let place = Place::with_run();
    place.write("cache/blobs/abc", "{}");
    fs::create_dir_all(place.path("cache/snapshots")).unwrap();
    fs::rename(place.path("run/checkpoint-30"), place.path("cache/snapshots/123")).unwrap();
    symlink("../../blobs/abc", place.path("cache/snapshots/123/tokenizer.json")).unwrap();
    place.merges("run/checkpoint-20 cache/snapshots/123 --weights 1,2");
    assert_eq!(place.read("out/tokenizer.json"), b"{}");
}

#[test]
fn names_never_reach_a_terminal_or_a_card_raw() {
    let evil = "\x1b]0;title\x07\x1b[2J\u{202e}\n\u{9b}31m";
    let place = Place::new();
    for step in [1, 2] {
        place.checkpoint(&format!("r{evil}/checkpoint-{step}"), &crate::adapter::lora(step as f32));
        place.log(
            &format!("r{evil}/checkpoint-{step}"),
            &[format!(r#"{{"step": {step}, "eval_m\u001b[2J\u000a\u202e": 0.{step}}}"#)],
        );
    }
    let run = format!("r{evil}");
    let metric = "eval_m\x1b[2J\n\u{202e}";
    let all: [&[&str]; 6] = [
        &["weights", &run, "--metric", metric, "--goal", "max"],
        &["weights", &run, "--metric", "other"],
        &["inspect", &run],
        &["inspect", &format!("{run}/none")],
        &["merge", &run, "-o", "out", "--metric", metric, "--goal", "max"],
        &["verify", "out"],
    ];
    for arguments in all {
        assert_is_readable(&place, arguments);
    }
    let card = String::from_utf8(place.read("out/README.md")).unwrap();
    assert!(!card.contains(['\x1b', '\u{202e}']) && card.contains("eval_m"), "{card}");
    // programs get names as they are
    let json = place.command("").args(["inspect", &run, "--json"]).output().unwrap().stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json[0]["path"], run);
}

/// Whatever `mwa` says of this, colours are all that a terminal does with it.
fn assert_is_readable(place: &Place, arguments: &[&str]) {
    let ran = place.command("").args(arguments).env("CLICOLOR_FORCE", "1").output().unwrap();
    let shown = [ran.stdout, ran.stderr].concat();
    let shown = String::from_utf8(shown).unwrap();
    assert!(!shown.is_empty());
    let mut plain = shown.clone();
    for colour in ["0", "1", "2", "31", "32", "36"] {
        plain = plain.replace(&format!("\x1b[{colour}m"), "");
    }
    let is_hidden = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!plain.contains(is_hidden), "{arguments:?}: {plain:?}");
    let is_torn = |line: &str| line.starts_with("31m") || line.starts_with('\u{9b}');
    assert!(!plain.lines().any(is_torn), "{plain:?}");
}

#[test]
fn names_within_files_never_reach_a_terminal_raw() {
    let evil = "x\u{1b}]0;title\u{7}\u{1b}[2J\u{202e}\n\u{9b}31m";
    let json = serde_json::to_string(evil).unwrap();
    let merge: &[&str] = &["merge", "run", "-o", "out", "--select", "all"];
    // a tensor: in one checkpoint only; of an unknown dtype; not a number
    for value in [f32::NAN, 1.0] {
        let place = Place::with_run();
        let tensor = crate::adapter::f32s(evil, &[1], &[value]);
        let mut tensors = crate::adapter::lora(0.5);
        tensors.push(tensor);
        place.checkpoint("run/checkpoint-20", &tensors);
        assert_is_readable(&place, merge);
        assert_is_readable(&place, &["inspect", "run/checkpoint-20"]);
        for step in [10, 30] {
            place.checkpoint(&format!("run/checkpoint-{step}"), &tensors);
        }
        assert_is_readable(&place, merge);
    }
    for (dtype, shape) in [(json.as_str(), "[1]"), ("\"F32\"", "[9]")] {
        let place = Place::with_run();
        let head = format!(r#"{{{json}: {{"dtype": {dtype}, "shape": {shape}, "data_offsets": [0, 4]}}}}"#);
        let file = crate::adapter::with_header(&head, &[0; 4]);
        place.write("run/checkpoint-20/adapter_model.safetensors", file);
        assert_is_readable(&place, merge);
        assert_is_readable(&place, &["inspect", "run/checkpoint-20"]);
    }
    // a config's values
    for (from, to) in [
        ("\"LORA\"", json.clone()),
        ("\"example/tiny\"", json.clone()),
        ("\"q\"", json.clone()),
        ("\"r\": 2", format!("\"rank_pattern\": {{{json}: 3}}, \"r\": 2")),
        ("\"r\": 2", format!("\"r\": {json}")),
    ] {
        let place = Place::with_run();
        place.edit("run/checkpoint-20/adapter_config.json", from, &to);
        assert_is_readable(&place, merge);
        assert_is_readable(&place, &["inspect", "run/checkpoint-20"]);
    }
    // an index
    let place = Place::with_run();
    let index = format!(r#"{{"weight_map": {{{json}: {json}}}}}"#);
    place.write("run/checkpoint-20/adapter_model.safetensors.index.json", index);
    fs::remove_file(place.path("run/checkpoint-20/adapter_model.safetensors")).unwrap();
    assert_is_readable(&place, merge);
    // a table's columns
    let place = Place::with_run();
    place.write("scores.csv", format!("step,\"{evil}\"\n10,1\n20,2\n30,3\n"));
    assert_is_readable(&place, &["weights", "run", "--metrics-file", "scores.csv", "--metric", "other"]);
    // a report's names
    for (from, to) in [
        ("adapter_model.safetensors", evil),
        ("../run/checkpoint-20", evil),
        ("\"space\": \"factors\"", "\"space\": \"SPACE\""),
    ] {
        let place = Place::with_run();
        place.merges("run --select all");
        let quoted = serde_json::to_string(to).unwrap();
        let to = if from.starts_with('"') {
            to.replace("\"SPACE\"", &json)
        } else {
            quoted[1..quoted.len() - 1].to_owned()
        };
        place.edit("out/mwa-report.json", from, &to);
        assert_is_readable(&place, &["verify", "out"]);
    }
}
