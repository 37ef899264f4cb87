//! A report given to `verify`: nothing is written or waited for, and only the merge that is there is called good.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mwa::Report;
use mwa_host::{DeviceChoice, Machine, MergeOptions, Options, REPORT, WeightRule};

use super::files::{CONFIG, adapter};

/// A run and the merge made of it, and what the merge's own report says of its files.
fn lay_out(folder: &Path) -> Vec<(String, String)> {
    for step in [10, 20] {
        let checkpoint = folder.join(format!("run/checkpoint-{step}"));
        fs::create_dir_all(&checkpoint).expect("the temporary folder can be written");
        fs::write(checkpoint.join("adapter_config.json"), CONFIG).expect("it can be written");
        fs::write(checkpoint.join("adapter_model.safetensors"), adapter(step)).expect("it can be written");
    }
    let mut options = Options { inputs: vec![folder.join("run")], ..Options::default() };
    options.choose.rule = WeightRule::Explicit(vec![1.0, 2.0]);
    options.choose.select.last = Some(2);
    let how = MergeOptions { machine: machine(), ..MergeOptions::default() };
    outputs(&mwa_host::merge(&options, &how, &folder.join("out"), &()).expect("it is a run"))
}

fn machine() -> Machine {
    Machine { threads: Some(1), memory: None, device: DeviceChoice::Cpu }
}

fn outputs(report: &Report) -> Vec<(String, String)> {
    report.outputs.iter().map(|file| (file.name.clone(), file.blake3.clone())).collect()
}

/// All files.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.clone(), fs::read(path).expect("it can be read"));
            }
        }
    }
    found
}

pub(crate) fn check(bytes: &[u8]) {
    let place = tempfile::tempdir().expect("the temporary folder can be written");
    let written = lay_out(place.path());
    let merged = place.path().join("out");
    fs::write(merged.join(REPORT), bytes).expect("it can be written");
    let before = files(place.path());
    let verified = mwa_host::verify(&merged, machine(), &());
    assert!(files(place.path()) == before, "verify changed a file");
    if verified.is_ok_and(|verified| verified.is_good()) {
        let report: Report = serde_json::from_slice(bytes).expect("it was read");
        // reports of before have no BLAKE3
        let is_same = |((name, hash), (written, known)): (&(String, String), &(String, String))| {
            name == written && (hash.is_empty() || hash == known)
        };
        let outputs = outputs(&report);
        let are_same = outputs.len() == written.len() && outputs.iter().zip(&written).all(is_same);
        assert!(are_same, "called good, but of other files: {outputs:?}, {written:?}");
    }
    if let Ok(report) = serde_json::from_slice::<Report>(bytes) {
        let again: Report = serde_json::from_str(&report.to_json()).expect("what is written can be read");
        assert_eq!(again, report);
    }
}
