//! Signals, limits and permissions, as Unix has them.

use core::time::Duration;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Instant;

use snapbox::{assert_data_eq, str};

use crate::adapter::{self, A, B};
use crate::place::{Place, Ran};

/// `mwa` after a shell command in the same process, such as `umask` or `ulimit`.
fn after(place: &Place, shell: &str, arguments: &str) -> Ran {
    let mwa = env!("CARGO_BIN_EXE_mwa");
    let script = format!("{shell}; exec {mwa} {arguments}");
    Ran::of(Command::new("sh").args(["-c", &script]).current_dir(place.path("")))
}

#[test]
fn the_umask_is_honoured() {
    for (umask, file, folder) in [("022", 0o644, 0o755), ("077", 0o600, 0o700), ("002", 0o664, 0o775)] {
        let place = Place::with_run();
        // a private input does not make the output private
        let input = place.path("run/checkpoint-10/adapter_model.safetensors");
        fs::set_permissions(input, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(after(&place, &format!("umask {umask}"), "merge run -o out").code, Some(0));
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(place.path("out")), folder, "umask {umask}");
        for entry in fs::read_dir(place.path("out")).unwrap() {
            assert_eq!(mode(entry.unwrap().path()), file, "umask {umask}");
        }
    }
}

#[test]
fn a_file_size_limit_is_an_error_message() {
    let place = large(2);
    let before = place.tree();
    let ran = after(&place, "ulimit -f 8", "merge run -o out");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_data_eq!(
        ran.err,
        str![[r#"
error: out/adapter_model.safetensors: cannot write it: File too large (os error 27)
help: raise the limit on file sizes (ulimit -f), or write to another file system

"#]]
    );
    place.assert_unchanged(&before);
}

#[test]
fn an_unreadable_input_is_named() {
    let place = Place::with_run();
    let file = place.path("run/checkpoint-20/adapter_model.safetensors");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&file).is_ok() {
        eprintln!("ignored: root may read everything");
        return;
    }
    assert_data_eq!(
        place.mwa("merge run/checkpoint-10 run/checkpoint-20 -o out").err,
        str![[r#"
error: run/checkpoint-20/adapter_model.safetensors: cannot open it: Permission denied (os error 13)
help: check the permissions of the file and of its folder

"#]]
    );
}

// elsewhere a process may not limit its address space
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_bounded_whatever_the_size() {
    // 2 × 64 MiB of input and as much output, in an address space that holds the program and little more
    let place = large(32);
    let ran = after(&place, "ulimit -v 131072", "merge run -o out --threads 2 --memory 8M");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn files_stay_below_the_limit_whatever_the_threads_and_checkpoints() {
    let place = Place::new();
    for step in 1..=60u8 {
        place.checkpoint(&format!("run/checkpoint-{step}"), &adapter::lora(1.0 + f32::from(step) / 64.0));
    }
    for space in ["factors", "product"] {
        let merge = format!("merge run --scheme uniform --last 60 --threads 16 --space {space}");
        let free = place.mwa(&format!("{merge} -o free"));
        assert_eq!(free.code, Some(0), "{}", free.err);
        // the limit can be raised, and then not
        for limit in ["-Sn 32", "-n 32", "-n 16"] {
            let ran = after(&place, &format!("ulimit {limit}"), &format!("{merge} -o out --force"));
            assert_eq!(ran.code, Some(0), "{space} within {limit}: {}", ran.err);
            assert!(
                place.read("out/adapter_model.safetensors") == place.read("free/adapter_model.safetensors")
            );
        }
        fs::remove_dir_all(place.path("free")).unwrap();
    }
}

#[test]
fn a_pipe_is_no_input() {
    let place = Place::new();
    assert!(Command::new("mkfifo").arg(place.path("pipe.safetensors")).status().unwrap().success());
    let ran = place.mwa("inspect pipe.safetensors");
    assert_data_eq!(
        ran.err,
        str![[r#"
error: pipe.safetensors: is neither a file nor a folder

"#]]
    );
}

#[test]
fn symbolic_links_to_a_checkpoint_count_once() {
    let place = Place::with_run();
    symlink("checkpoint-20", place.path("run/best")).unwrap();
    symlink("checkpoint-30", place.path("run/checkpoint-40")).unwrap();
    assert_data_eq!(
        place.mwa("weights run").err,
        str![[r#"
note: run: left out, not named like checkpoints: best
note: run/checkpoint-40 is the same checkpoint as run/checkpoint-30; it counts once

"#]]
    );
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    if crate::trust::signals_are_ignored() {
        return;
    }
    let place = large(32);
    let before = place.tree();
    // small jobs on one thread, so that there is time to interrupt
    let mut child = place
        .command("merge run -o deep/out --threads 1 --memory 1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    // once the folder above the output is there, the work has begun
    while !place.path("deep").exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "the merge never began");
        sleep(Duration::from_millis(1));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(130), None));
    place.assert_unchanged(&before);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::with_run();
    let ran = after(&place, "set -e", "weights run | head -n 1");
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.err, "");
}

/// A run of two checkpoints with factors of so many MiB.
pub(crate) fn large(size: usize) -> Place {
    let place = Place::new();
    let values = vec![1.0; size << 18];
    for step in [1, 2] {
        let tensors = [
            adapter::f32s(A, &[2, values.len() / 2], &values),
            adapter::f32s(B, &[values.len() / 2, 2], &values),
        ];
        place.checkpoint(&format!("run/checkpoint-{step}"), &tensors);
    }
    place
}
