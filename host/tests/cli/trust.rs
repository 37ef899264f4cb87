//! What belongs to others stays theirs, and what is said of a merge is true: whatever is in the way, whoever kills it.

use core::time::Duration;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Instant;

use snapbox::{assert_data_eq, str};

use crate::place::Place;
use crate::unix::large;

/// A slow merge that has begun to write into `folder`, stopped in the middle of it.
struct Paused(Child);

impl Paused {
    fn start(place: &Place, arguments: &str, folder: &str) -> Self {
        let mut command = place.command(&format!("{arguments} --threads 1 --memory 1"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        let has_begun = || {
            let mut entries = fs::read_dir(place.path(folder)).into_iter().flatten().flatten();
            entries.any(|entry| entry.file_name().to_string_lossy().starts_with(".mwa-"))
        };
        while !has_begun() {
            assert!(start.elapsed() < Duration::from_secs(60), "the merge never began");
            sleep(Duration::from_millis(1));
        }
        let paused = Self(child);
        paused.signal("STOP");
        paused
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Let it go on to its end: its exit code and standard error.
    fn go_on(self) -> (Option<i32>, String) {
        // a killed one is there until it is waited for
        self.signal("CONT");
        let output = self.0.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn a_stopped_merge_takes_away_only_folders_that_it_made_and_that_are_empty() {
    let place = large(16);
    let paused = Paused::start(&place, "merge run -o sweep/a", "sweep");
    assert_eq!(place.mwa("merge run -o sweep/b --scheme uniform").code, Some(0));
    place.write("sweep/precious.txt", "mine");
    paused.signal("INT");
    assert_eq!(paused.go_on().0, Some(130));
    let mut left: Vec<_> =
        fs::read_dir(place.path("sweep")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["b", "precious.txt"]);
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
help: choose another output folder, or replace an earlier merge with --force

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

    place.merges("run");
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
    let names = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["out", "run"], "the earlier merge is gone");
}

#[test]
fn no_file_that_is_read_is_replaced() {
    let place = Place::with_run();
    place.merges("run");
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
    let mut names: Vec<_> =
        fs::read_dir(place.path("p")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["b", "c"]);
}

#[test]
fn an_earlier_merge_that_a_killed_one_moved_aside_is_put_back() {
    let place = Place::with_run();
    place.merges("run");
    fs::create_dir(place.path(".mwa-old-abcdef")).unwrap();
    fs::rename(place.path("out"), place.path(".mwa-old-abcdef/out")).unwrap();
    let ran = place.mwa("merge run -o out");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("is back at"), "{}", ran.err);
    assert!(ran.err.contains("error: out: exists already"), "{}", ran.err);
    assert!(place.path("out/mwa-report.json").exists() && !place.path(".mwa-old-abcdef").exists());
}
