//! Merges whose system calls fail, one after the other, and merges that are killed. Whatever happens: there is no output,
//! or the earlier one, or a whole one; the exit code says which; inputs are as they were; the next merge tidies up.
//!
//! The faults come from `shim.c`, which is preloaded. Each call of a merge is struck once with one kind of fault, another
//! kind for another call; `FAULTS=100000 cargo test --test faults` (or `cargo xtask faults`) goes on until so many were
//! injected, with all kinds. A failure names the variables that repeat it.
#![cfg(target_os = "linux")]

#[path = "../cli/adapter.rs"]
#[allow(dead_code, reason = "the tests of the command line use the rest")]
mod adapter;
mod memory;
#[path = "../cli/place.rs"]
#[allow(dead_code, reason = "the tests of the command line use the rest")]
mod place;

use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Instant;

use place::Place;
use rustix::process::{Pid, Signal, kill_process};

/// What is merged: checkpoints by name, of which none may be left out.
const NAMED: &str = "run/checkpoint-10 run/checkpoint-20 run/checkpoint-30 --weights 1,2,3";

/// What can go wrong with a call: errors by number, or fewer bytes than asked for.
const FAULTS: [&str; 10] = [
    "5",  // EIO
    "28", // ENOSPC
    "4",  // EINTR
    "short", "13",  // EACCES
    "24",  // EMFILE
    "116", // ESTALE
    "30",  // EROFS
    "122", // EDQUOT
    "12",  // ENOMEM
];

/// How many merges are killed at random moments, unless more are wanted; a thousand are killed at each of their calls.
const KILLS: usize = 100;

/// Signals by number, and the exit code of a merge that they stop; none for the one that cannot be caught.
const SIGNALS: [(&str, Option<i32>); 4] =
    [("kill:9", None), ("kill:15", Some(143)), ("kill:2", Some(130)), ("kill:1", Some(129))];

/// The files of a folder by name; none if there is no folder.
type Files = Option<BTreeMap<String, Vec<u8>>>;

/// What is preloaded; none where there is no C compiler.
fn shim(place: &Place) -> Option<PathBuf> {
    let shim = place.path("shim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
    let compiled = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(&shim)
        .arg(source)
        .arg("-ldl")
        .status();
    match compiled {
        Ok(status) => assert!(status.success(), "the shim does not compile"),
        Err(error) => {
            eprintln!("ignored: no C compiler: {error}");
            return None;
        }
    }
    Some(shim)
}

/// A run, and the merges that are tried on it.
struct Lane {
    place: Place,
    shim: PathBuf,
    /// More words of the command.
    arguments: &'static str,
    /// What is at the output before: an earlier merge, or nothing.
    before: Files,
    /// What is there after a merge that nothing disturbs.
    after: Files,
    /// How many system calls that takes.
    calls: usize,
}

impl Lane {
    /// None where there is no C compiler.
    fn new(earlier: bool, arguments: &'static str) -> Option<Self> {
        let place = Place::with_run();
        for step in [10, 20, 30] {
            place.write(&format!("run/checkpoint-{step}/tokenizer.json"), "{}");
        }
        let shim = shim(&place)?;
        let mut lane = Self { place, shim, arguments, before: None, after: None, calls: 0 };
        if earlier {
            let other = NAMED.replace("1,2,3", "3,2,1");
            assert_eq!(lane.place.mwa(&format!("merge {other} -o p/out -q")).code, Some(0));
            lane.before = lane.files("p/out");
        }
        let output = lane.merge(0, "5", false);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lane.after = lane.files("p/out");
        lane.calls = lane.counted();
        lane.restore();
        Some(lane)
    }

    /// A merge whose call number `at` is struck, or with `ever` each from that one on.
    fn merge(&self, at: usize, fault: &str, ever: bool) -> Output {
        let _ = fs::remove_file(self.place.path("log"));
        let mut command = self
            .place
            .command(&format!("merge {NAMED} -o p/out --device cpu --threads 1 {}", self.arguments));
        command.env("LD_PRELOAD", &self.shim).env("FAULT_AT", at.to_string()).env("FAULT", fault);
        command.env("FAULT_LOG", self.place.path("log")).stdin(Stdio::null());
        if ever {
            command.env("FAULT_EVER", "1");
        }
        command.output().unwrap()
    }

    fn files(&self, folder: &str) -> Files {
        let entries = fs::read_dir(self.place.path(folder)).ok()?.map(Result::unwrap);
        Some(
            entries
                .map(|entry| {
                    (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap_or_default())
                })
                .collect(),
        )
    }

    /// As [`Self::merge`], of a verification of what is at the output.
    fn verify(&self, at: usize, fault: &str) -> Output {
        let _ = fs::remove_file(self.place.path("log"));
        let mut command = self.place.command("verify p/out --device cpu --threads 1");
        command.env("LD_PRELOAD", &self.shim).env("FAULT_AT", at.to_string()).env("FAULT", fault);
        command.env("FAULT_LOG", self.place.path("log")).env("TMPDIR", self.place.path("tmp"));
        command.output().unwrap()
    }

    /// How many calls were counted.
    fn counted(&self) -> usize {
        let log = String::from_utf8(self.place.read("log")).unwrap();
        log.lines().find_map(|line| line.strip_prefix("calls ")).unwrap().parse().unwrap()
    }

    /// Make it as it was before a merge.
    fn restore(&self) {
        let _ = fs::remove_dir_all(self.place.path("p"));
        for (name, bytes) in self.before.iter().flatten() {
            self.place.write(&format!("p/out/{name}"), bytes);
        }
    }

    fn leftovers(&self) -> Vec<String> {
        let names = self.files("p").into_iter().flatten().map(|(name, _)| name);
        names.filter(|name| name.starts_with(".mwa-")).collect()
    }

    /// What is wrong with how a merge ended and with what it left, if anything; makes all as it was.
    ///
    /// `code_of_signal` is the exit code of a merge that the signal stopped; with `ever` nothing could be cleared away.
    fn judge(&self, output: &Output, code_of_signal: Option<i32>, ever: bool) -> Result<(), String> {
        let log = fs::read_to_string(self.place.path("log")).unwrap_or_default();
        let struck = log.lines().find_map(|line| line.strip_prefix("struck ")).unwrap_or("nothing");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let there = self.files("p/out");
        let wrong =
            |what: &str| Err(format!("{what}, after `{struck}` was struck: {}: {said}", output.status));
        let code = output.status.code();
        let is_before = there == self.before;
        let is_after = there == self.after;
        match code {
            Some(0) if !is_after => return wrong("exit 0, but the output is not the merge"),
            Some(1) if !is_before => return wrong("exit 1, but what was there before is not there"),
            Some(1) if !said.contains("error: ") => return wrong("exit 1 without a word"),
            Some(0 | 1) => {}
            Some(_) if code == code_of_signal && is_before => {}
            None if output.status.signal() == Some(9) && (is_before || is_after) => {}
            // before it was listened for
            None if output.status.signal().map(|signal| 128 + signal) == code_of_signal && is_before => {}
            _ => return wrong("neither done nor failed nor stopped"),
        }
        let is_undisturbed = !ever
            && !matches!(
                struck,
                "unlink" | "unlinkat" | "rmdir" | "readdir" | "open" | "openat" | "flock" | "close" | "statx"
            );
        let left = self.leftovers();
        let is_told = said.contains("the rest is at");
        if code.is_some() && !is_told && is_undisturbed && !left.is_empty() {
            return wrong(&format!("{left:?} is left"));
        }
        if !left.is_empty() {
            let next = self.place.mwa(&format!("merge {NAMED} -o p/next -q --device cpu --threads 1"));
            if next.code != Some(0) || !self.leftovers().is_empty() || self.files("p/out") != there {
                return wrong(&format!("the next merge did not tidy up {left:?}: {}", next.err));
            }
        }
        if !is_before || !left.is_empty() {
            self.restore();
        } else if self.before.is_none() {
            if code.is_some() && is_undisturbed && self.place.path("p").exists() {
                return wrong("the folder above the output is left");
            }
            let _ = fs::remove_dir_all(self.place.path("p"));
        }
        Ok(())
    }

    /// Strike each call in turn, `rounds` kinds of fault each, and tell all that goes wrong.
    fn strike_all(&self, rounds: usize, faults: &[(&str, Option<i32>)], ever: bool) -> usize {
        let before = self.place.tree();
        let mut wrong = Vec::new();
        for at in 1..=self.calls {
            for round in 0..rounds {
                let (fault, code) = faults[(at + round) % faults.len()];
                let output = self.merge(at, fault, ever);
                if let Err(what) = self.judge(&output, code, ever) {
                    wrong.push(format!("FAULT_AT={at} FAULT={fault}: {what}"));
                    self.restore();
                }
            }
        }
        let run = self.place.path("run");
        let after = self.place.tree();
        for (path, content) in before.iter().filter(|(path, _)| path.starts_with(&run)) {
            assert!(after.get(path) == Some(content), "{} was touched", path.display());
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), self.calls * rounds, wrong.join("\n"));
        println!("{} faults at {} calls", self.calls * rounds, self.calls);
        self.calls * rounds
    }
}

/// How many kinds of fault each call gets: as many as it takes to inject as many as `FAULTS` says.
fn rounds(lane: &Lane, kinds: usize) -> usize {
    let wanted: usize = std::env::var("FAULTS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    (wanted / 6 / lane.calls).clamp(1, kinds)
}

fn errors() -> Vec<(&'static str, Option<i32>)> {
    FAULTS.iter().map(|fault| (*fault, None)).collect()
}

#[test]
fn a_call_that_fails_leaves_no_output_or_a_whole_one() {
    let Some(lane) = Lane::new(false, "") else { return };
    lane.strike_all(rounds(&lane, FAULTS.len()), &errors(), false);
}

#[test]
fn a_call_that_fails_leaves_the_earlier_merge_or_the_new_one() {
    let Some(lane) = Lane::new(true, "--force") else { return };
    lane.strike_all(rounds(&lane, FAULTS.len()), &errors(), false);
}

#[test]
fn a_disk_that_goes_away_for_good_leaves_one_of_the_two() {
    let Some(lane) = Lane::new(true, "--force") else { return };
    let faults = [("5", None), ("28", None), ("13", None)];
    lane.strike_all(rounds(&lane, faults.len()), &faults, true);
}

#[test]
fn a_verification_whose_call_fails_says_so_and_blames_nothing_that_is_whole() {
    let Some(lane) = Lane::new(true, "--force") else { return };
    fs::create_dir(lane.place.path("tmp")).unwrap();
    assert!(lane.verify(0, "5").status.success());
    let (calls, before) = (lane.counted(), lane.place.tree());
    let rounds = rounds(&lane, FAULTS.len());
    let mut wrong = Vec::new();
    for at in 1..=calls {
        for round in 0..rounds {
            let fault = FAULTS[(at + round) % FAULTS.len()];
            let output = lane.verify(at, fault);
            let [said, out] = [&output.stderr, &output.stdout].map(|text| String::from_utf8_lossy(text));
            let is_right = match output.status.code() {
                Some(0) => out.contains("verified: "),
                Some(1) => {
                    let blames = ["changed  ", "missing  ", "foreign  ", "differs: "];
                    said.contains("error: ")
                        && !said.contains("the report was damaged")
                        && !blames.iter().any(|word| out.contains(word))
                }
                _ => false,
            };
            if !is_right {
                let log = fs::read_to_string(lane.place.path("log")).unwrap_or_default();
                wrong.push(format!("FAULT_AT={at} FAULT={fault}: {log}{}: {said}{out}", output.status));
            }
            let _ = fs::remove_dir_all(lane.place.path("tmp"));
            fs::create_dir(lane.place.path("tmp")).unwrap();
        }
    }
    let _ = fs::remove_file(lane.place.path("log"));
    let (mut before, after) = (before, lane.place.tree());
    before.remove(&lane.place.path("log"));
    assert!(before == after, "a file was changed");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), calls * rounds, wrong.join("\n"));
    println!("{} faults at {calls} calls", calls * rounds);
}

#[test]
fn a_signal_before_any_call_leaves_no_output_or_a_whole_one() {
    let Some(lane) = Lane::new(false, "") else { return };
    lane.strike_all(rounds(&lane, SIGNALS.len()), &SIGNALS, false);
}

#[test]
fn a_signal_before_any_call_leaves_the_earlier_merge_or_the_new_one() {
    let Some(lane) = Lane::new(true, "--force") else { return };
    lane.strike_all(rounds(&lane, SIGNALS.len()), &SIGNALS, false);
}

#[test]
fn a_merge_killed_at_any_moment_leaves_the_earlier_one_or_the_new_one() {
    let Some(mut lane) = Lane::new(true, "--force --memory 1") else { return };
    // a few times longer, so that there is time to be killed in
    let values: Vec<f32> = (0..1 << 17).map(|i| (i % 89) as f32).collect();
    for step in [10, 20, 30] {
        let tensors = [
            adapter::f32s(adapter::A, &[2, values.len() / 2], &values),
            adapter::f32s(adapter::B, &[values.len() / 2, 2], &values),
        ];
        lane.place.checkpoint(&format!("run/checkpoint-{step}"), &tensors);
    }
    let start = Instant::now();
    assert!(lane.merge(0, "5", false).status.success());
    let time = start.elapsed();
    lane.after = lane.files("p/out");
    lane.restore();
    let wanted: usize = std::env::var("FAULTS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let kills = (wanted / 6).max(KILLS);
    for kill in 0..kills {
        let (signal, code) = [
            (Signal::KILL, None),
            (Signal::TERM, Some(143)),
            (Signal::INT, Some(130)),
            (Signal::HUP, Some(129)),
        ][kill % 4];
        let mut command = lane
            .place
            .command(&format!("merge {NAMED} -o p/out --device cpu --threads 1 {}", lane.arguments));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // spread over the time that a merge takes, and somewhat beyond
        sleep(time.mul_f64(1.1 * (kill * 37 % kills) as f64 / kills as f64).max(Duration::from_millis(1)));
        // nobody has waited for it, so that the number is still its own
        let _ = kill_process(Pid::from_child(&child), signal);
        let output = child.wait_with_output().unwrap();
        let _ = fs::remove_file(lane.place.path("log"));
        lane.judge(&output, code, false).unwrap_or_else(|what| panic!("kill {kill} of {kills}: {what}"));
    }
    println!("{kills} kills");
}
