//! Every situation through every face that merges whole runs on this machine: the same files, report and notes, or the same refusal.

use std::process::ExitCode;
use std::{env, fs};

use conformance::harness::{conclude, is_required};
use conformance::situations::{Situation, differences, digest, folder, golden, situations};
use libtest_mimic::{Completion, Failed, Trial};
use mwa_host::{MergeOptions, Options};
use serde_json::{Map, Value};

/// The faces by the device that they ask for; that of the sandbox is the component.
const FACES: [(&str, &str); 4] = [("cpu", "cpu"), ("gpu", "gpu"), ("component", "wasm"), ("module", MODULE)];

/// The core module, driven by a host that knows its ABI alone.
const MODULE: &str = "mwa.module.wasm";

fn main() -> ExitCode {
    if env::var_os("MWA_REMAKE").is_some() {
        remake();
    }
    let mut trials = Vec::new();
    for situation in situations() {
        for (face, device) in FACES {
            let name = format!("{}::{face}", situation.situation);
            let situation = situation.clone();
            trials.push(Trial::ignorable_test(name, move || answers_alike(&situation, face, device)));
        }
        if situation.oracle.is_some() {
            let name = format!("{}::oracle", situation.situation);
            trials.push(Trial::test(name, move || is_the_oracles(&situation)));
        }
    }
    conclude(trials)
}

/// Merge on a device, into the folder `out` beside the run.
fn merge(situation: &Situation, device: &str) -> (tempfile::TempDir, mwa::Result<()>) {
    let place = tempfile::tempdir().unwrap();
    situation.lay_out(place.path());
    let mut options = situation.options.clone();
    // the base and the rules lie among the files
    for name in ["base", "weights_file"] {
        if let Some(Value::String(path)) = options.get_mut(name) {
            *path = place.path().join(&*path).display().to_string();
        }
    }
    if device == MODULE {
        let paths: Vec<_> =
            situation.paths.iter().map(|path| place.path().join(path).display().to_string()).collect();
        let made = conformance::wasm::merge_run(MODULE, &paths, &options, &place.path().join("out"));
        return (place, made);
    }
    options.insert("device".into(), device.into());
    let made = mwa::Options::parse(&Value::from(options).to_string()).and_then(|options| {
        let paths = situation.paths.iter().map(|path| place.path().join(path)).collect();
        let (which, how) = (Options::new(paths, &options)?, MergeOptions::new(&options)?);
        mwa_host::merge(&which, &how, &place.path().join("out"), &())
    });
    (place, made.map(drop))
}

fn answers_alike(situation: &Situation, face: &str, device: &str) -> Result<Completion, Failed> {
    let (place, made) = merge(situation, device);
    if let Err(error) = &made
        && error.kind() == mwa::ErrorKind::Device
    {
        let required = is_required(&env::var("MWA_REQUIRE").unwrap_or_default(), face);
        return if required {
            Err(error.to_string().into())
        } else {
            Ok(Completion::ignored_with(error.to_string()))
        };
    }
    let found = Situation::outcome(place.path(), made)?;
    let differ = differences(&golden()[&situation.situation], &found);
    if differ.is_empty() { Ok(Completion::Completed) } else { Err(differ.join("\n").into()) }
}

/// The tensors are those of an oracle that shares no code with the product.
fn is_the_oracles(situation: &Situation) -> Result<(), Failed> {
    let (place, made) = merge(situation, "cpu");
    made.map_err(|error| Failed::from(error.to_string()))?;
    let files = fs::read_dir(place.path().join("out")).unwrap().map(|entry| entry.unwrap().path());
    let weights = files.filter(|path| path.extension().is_some_and(|it| it == "safetensors"));
    let found = digest(&weights.map(|path| fs::read(path).unwrap()).collect::<Vec<_>>());
    let expected = situation.oracle.as_deref().unwrap_or_default();
    if found == expected {
        Ok(())
    } else {
        Err(format!("the tensors' digest is {found}, the oracle's {expected}").into())
    }
}

/// Write what native answers into golden.json, to be read before it is committed.
fn remake() {
    let mut all = Map::new();
    for situation in situations() {
        let (place, made) = merge(&situation, "cpu");
        all.insert(situation.situation.clone(), Situation::outcome(place.path(), made).unwrap());
    }
    let text = serde_json::to_string_pretty(&all).unwrap() + "\n";
    fs::write(folder().join("golden.json"), text).unwrap();
}
