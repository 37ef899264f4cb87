//! Merges in little memory: what they take is bounded whatever the size, and where that is not to be had, an error says so.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::adapter;
use crate::place::Place;
use crate::shim;

/// Most memory of a merge, the program's own code included: what a container of 32 MB has.
const MOST: usize = 32 << 10;

/// A run of adapters of `rank` with so many bytes each, all zeros: they take no room on the disk.
fn sparse(count: usize, rank: usize, bytes: u64) -> Place {
    let place = Place::new();
    let columns = bytes / 8 / rank as u64;
    let length = columns * rank as u64 * 4;
    let header = format!(
        r#"{{"{}":{{"dtype":"F32","shape":[{rank},{columns}],"data_offsets":[0,{length}]}},"{}":{{"dtype":"F32","shape":[{columns},{rank}],"data_offsets":[{length},{}]}}}}"#,
        adapter::A,
        adapter::B,
        2 * length
    );
    for step in 1..=count {
        let folder = format!("run/checkpoint-{step}");
        place.write(
            &format!("{folder}/adapter_config.json"),
            adapter::CONFIG.replace(r#""r": 2"#, &format!(r#""r": {rank}"#)),
        );
        let head = adapter::with_header(&header, &[]);
        let mut file = File::create(place.path(&format!("{folder}/adapter_model.safetensors"))).unwrap();
        file.write_all(&head).unwrap();
        file.set_len(head.len() as u64 + 2 * length).unwrap();
    }
    place
}

/// The most memory that `mwa` used at a time, in kB; it must succeed.
fn peak(place: &Place, shim: &PathBuf, arguments: &str) -> usize {
    let log = place.path("log");
    let mut command = place.command(arguments);
    let output = command.env("LD_PRELOAD", shim).env("FAULT_LOG", &log).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read_to_string(log).unwrap();
    log.lines().find_map(|line| line.strip_prefix("peak ")).unwrap().parse().unwrap()
}

/// Merge all that is there, and see that it takes little memory.
fn takes_little(place: &Place, shim: &PathBuf, residual: &str) {
    let merge = format!(
        "merge run -o out -q --force --scheme uniform --select all --device cpu --threads 2 --memory 8M {residual}"
    );
    let peak = peak(place, shim, &merge);
    println!("{residual}: {peak} kB");
    assert!(peak <= MOST, "{residual}: {peak} kB");
}

#[test]
fn many_bytes_take_little_memory() {
    let place = sparse(10, 2, 64 << 20);
    let Some(shim) = shim(&place) else { return };
    takes_little(&place, &shim, "");
}

#[test]
fn many_checkpoints_take_little_memory() {
    let place = sparse(400, 8, 240 << 10);
    let Some(shim) = shim(&place) else { return };
    for residual in ["--residual off", "--residual sketch"] {
        takes_little(&place, &shim, residual);
    }
}

/// `mwa` in an address space of so many kB.
fn within(place: &Place, limit: usize, arguments: &str) -> std::process::Output {
    let script = format!("ulimit -c 0; ulimit -v {limit}; exec {} {arguments}", env!("CARGO_BIN_EXE_mwa"));
    Command::new("sh").args(["-c", &script]).current_dir(place.path("")).output().unwrap()
}

#[test]
fn memory_that_cannot_be_had_is_an_error_that_leaves_nothing() {
    let place = sparse(3, 2, 8 << 20);
    let before = place.tree();
    let merge = "merge run -o p/out -q --scheme uniform --device cpu --threads 2 --residual off";
    let wanted: usize = std::env::var("FAULTS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let step = if wanted > 0 { 32 } else { 512 };
    let (mut told, mut done) = (Vec::new(), 0);
    for limit in (8 << 10..40 << 10).step_by(step) {
        let output = within(&place, limit, merge);
        let said = String::from_utf8_lossy(&output.stderr);
        match (output.status.code(), output.status.signal()) {
            (Some(0), _) => {
                std::fs::remove_dir_all(place.path("p")).unwrap();
                done += 1;
            }
            (Some(1), _) if said.contains("error: memory ran out") => told.push(said.into_owned()),
            // the program could not even be loaded, or the C library ended it: ours to do nothing about
            (Some(127), _) | (None, Some(11)) if told.is_empty() && done == 0 => {}
            // or C's or Rust's own ended it
            (None, Some(6))
                if ["Fatal glibc error", "failed to allocate an alternative stack"]
                    .iter()
                    .any(|it| said.contains(it)) =>
            {
                let _ = std::fs::remove_dir_all(place.path("p"));
            }
            _ => panic!("within {limit} kB: {}: {said}", output.status),
        }
        place.assert_unchanged(&before);
    }
    assert!(done > 0 && !told.is_empty(), "{done} were done, {} were told", told.len());
    println!("{done} were done, {} were told that memory ran out", told.len());
    // what it says that it needs is enough
    let needs = |said: &String| said.split_once("needs about ")?.1.split(' ').next()?.parse::<usize>().ok();
    let needs = told.iter().find_map(needs).expect("one of them says so");
    assert!(within(&place, needs << 10, merge).status.success(), "not even {needs} MB are enough");
}
